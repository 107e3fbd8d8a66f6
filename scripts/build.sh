#!/bin/bash
# Builds the release binary and prints its path: static musl where that target can be had, else the
# host's own target from the same tree.
. "$(dirname "$0")/lib.sh"
cd "$top"
need_rust
target_dir=${CARGO_TARGET_DIR:-$top/target}
musl=$(uname -m)-unknown-linux-musl
if [ "${BERTH_STATIC:-auto}" != no ] && command -v musl-gcc >/dev/null &&
  { rustc --print sysroot | xargs -I{} test -d "{}/lib/rustlib/$musl" ||
    timeout 60 rustup target add "$musl" >/dev/null 2>&1; }; then
  say "building berth (release, static)"
  cargo build --release --locked --package berth --target "$musl" >&2
  echo "$target_dir/$musl/release/berth"
else
  say "building berth (release, for this host: no musl toolchain here)"
  cargo build --release --locked --package berth >&2
  echo "$target_dir/release/berth"
fi
