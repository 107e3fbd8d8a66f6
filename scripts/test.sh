#!/bin/bash
# `sudo make test`: installs what tests need, checks the tree, runs every test, leaves nothing behind.
. "$(dirname "$0")/lib.sh"
need_root make test
cd "$top"
need_rust
packages gcc libc6-dev make python3 python3-venv mmdebstrap ca-certificates procps
scripts/tools.sh
scripts/guest.sh
export BERTH_TOOLS=$cache/tools/bin

if ! command -v cargo-nextest >/dev/null; then
  say "installing cargo-nextest"
  cargo install --locked cargo-nextest
fi
if ! "$cache/venv/bin/typos" --version >/dev/null 2>&1; then
  say "installing typos"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install -q 'typos==1.52.0'
fi
export PATH=$PATH:$cache/venv/bin

# Tests keep everything in scratch roots here, so that what an interrupted run leaves can be found.
TMPDIR=$(mktemp -d /var/tmp/berth-test.XXXXXX); export TMPDIR
chmod 711 "$TMPDIR"   # containers of other users, and mapped ones, reach their bundles in it
cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name 'berth*' 2>/dev/null | sort; }
# Bridges and firewall tables of daemons on roots of their own (`br-` and `berth-` with six digits).
links() { "$BERTH_TOOLS/ip" -brief link | grep -oE '^br-[0-9a-f]{6}\b' | sort; }
tables() { "$BERTH_TOOLS/nft" list tables inet | grep -oE 'berth-[0-9a-f]{6}\b' | sort; }
{ cgroups; links; tables; } > "$TMPDIR.before" || true

clean() {
  local status=$? pid group link table
  trap - EXIT INT TERM
  set +e   # cleaning goes on after a failure, and does not change what the tests said
  for pid in $(grep -alF "$TMPDIR" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
    [ "$pid" = $$ ] || kill -KILL "$pid" 2>/dev/null || true
  done
  for link in $(links | grep -vxFf "$TMPDIR.before"); do "$BERTH_TOOLS/ip" link delete "$link" 2>/dev/null || true; done
  for table in $(tables | grep -vxFf "$TMPDIR.before"); do "$BERTH_TOOLS/nft" delete table inet "$table" 2>/dev/null || true; done
  for group in $(cgroups | grep -vxFf "$TMPDIR.before"); do
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  awk -v dir="$TMPDIR/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do
    umount -l "$(printf '%b' "$point")" 2>/dev/null || true
  done
  rm -rf "$TMPDIR" "$TMPDIR.before"
  exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

cargo x check
cargo x test
