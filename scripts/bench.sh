#!/bin/bash
# `sudo make bench`: builds berth and measures it beside docker and podman (see bench/bench.py);
# `sudo make bench-scale`: many containers (see bench/scale.py);
# `sudo make bench-runtime`: its runtime beside crun and runc (see bench/runtime.py).
. "$(dirname "$0")/lib.sh"
need_root make bench
packages python3 busybox-static
bench=bench.py
if [ "${1:-}" = scale ]; then
  shift; bench=scale.py
elif [ "${1:-}" = runtime ]; then
  shift; bench=runtime.py
  packages crun runc time
fi
exec python3 "$top/bench/$bench" --berth "$("$top/scripts/build.sh")" "$@"
