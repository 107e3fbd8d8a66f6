#!/bin/bash
# `sudo make down`: stops the example application and the daemon; images and volumes stay.
. "$(dirname "$0")/lib.sh"
need_root make down
berth=${BERTH_BIN:-/usr/local/bin/berth}
pidfile=/run/berth.pid
[ -S /run/berth.sock ] || { say "no daemon is running"; exit 0; }
for part in shop-front shop-web shop-db; do
  "$berth" rm -f "$part" >/dev/null 2>&1 && say "stopped $part" || true
done
if [ -s "$pidfile" ]; then
  pid=$(cat "$pidfile")
  kill -TERM "$pid" && say "stopping the daemon ($pid)"
  for _ in $(seq 200); do [ -d "/proc/$pid" ] || break; sleep 0.05; done
fi
say "images and volumes are kept under /var/lib/berth; remove that folder to forget everything"
