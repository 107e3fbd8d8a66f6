#!/bin/bash
# `sudo make bench`: builds berth and measures it beside docker and podman (see bench/bench.py).
. "$(dirname "$0")/lib.sh"
need_root make bench
packages python3 busybox-static
exec python3 "$top/bench/bench.py" --berth "$("$top/scripts/build.sh")" "$@"
