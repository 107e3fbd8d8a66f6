#!/bin/bash
# up.sh BERTH: runs the example application: nginx before a small web program and PostgreSQL.
#
#   you ──▶ 127.0.0.1:8088 ─▶ shop-front (nginx) ─▶ shop-web (Python) ─▶ shop-db (PostgreSQL)
#                                                                          └─ volume shop-data
# User-defined networks come with a later release; until then the three sit on the default bridge
# and find each other through `--add-host`.
set -euo pipefail
berth=$1
here=$(cd "$(dirname "$0")" && pwd)
port=${SHOP_PORT:-8088}
image=berth-example/base:latest

running() { [ "$("$berth" inspect --format '{{.State.Running}}' "$1" 2>/dev/null)" = true ]; }
address() { "$berth" inspect --format '{{.NetworkSettings.Networks.bridge.IPAddress}}' "$1"; }
fresh() { running "$1" && return 1; "$berth" rm -f "$1" >/dev/null 2>&1 || true; }

if fresh shop-db; then
  "$berth" run -d --name shop-db --restart unless-stopped --memory 512m \
    -v shop-data:/var/lib/shop -v "$here/db.sh:/db.sh:ro" "$image" sh /db.sh >/dev/null
  "$berth" rm -f shop-web >/dev/null 2>&1 || true
fi
if fresh shop-web; then
  "$berth" run -d --name shop-web --restart unless-stopped --memory 128m --cpus 0.5 --read-only \
    --add-host "db:$(address shop-db)" -v "$here/web.py:/web.py:ro" -u nobody "$image" python3 /web.py >/dev/null
  "$berth" rm -f shop-front >/dev/null 2>&1 || true
fi
if fresh shop-front; then
  "$berth" run -d --name shop-front --restart unless-stopped --memory 64m -p "127.0.0.1:$port:80" \
    --add-host "web:$(address shop-web)" -v "$here/nginx.conf:/etc/nginx/nginx.conf:ro" "$image" nginx >/dev/null
fi

for _ in $(seq 300); do
  curl -fs "http://127.0.0.1:$port/" >/dev/null && break
  sleep 0.1
done
curl -fs "http://127.0.0.1:$port/" >/dev/null || {
  echo "error: the application does not answer on http://127.0.0.1:$port/; what its parts said last:" >&2
  for part in shop-front shop-web shop-db; do echo "--- $part" >&2; "$berth" logs --tail 5 "$part" >&2 || true; done
  exit 1
}
"$berth" ps
cat <<EOF

The example application answers at http://127.0.0.1:$port/
Stop it with: sudo make down
EOF
