#!/bin/bash
# `sudo make layout`: renews crates/berth/layout.ld, the order of functions in the static release
# binary, by tracing one (see scripts/layout.py). Worth its minutes when much of the way to a
# container has changed: `make bench-runtime` tells when its memory has grown.
. "$(dirname "$0")/lib.sh"
need_root make layout
packages python3 busybox-static runc
need_rust
cd "$top"
musl=$(uname -m)-unknown-linux-musl
[ "$musl" = x86_64-unknown-linux-musl ] || die "the tracer knows only x86_64"
map=$(mktemp)
trap 'rm -f "$map" crates/berth/layout.ld.new' EXIT
CARGO_PROFILE_RELEASE_STRIP=none cargo rustc --release --locked --package berth --bin berth --target "$musl" -- \
  -C link-arg="-Wl,-Map,$map" >&2
scripts/layout.py --berth "${CARGO_TARGET_DIR:-$top/target}/$musl/release/berth" --map "$map" > crates/berth/layout.ld.new
mv crates/berth/layout.ld.new crates/berth/layout.ld
