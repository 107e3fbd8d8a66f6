#!/bin/sh
# The database: made at the first start in the volume, then only served.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/shop/data
mkdir -p /var/lib/shop /run/postgresql
chown postgres /var/lib/shop /run/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
  setpriv --reuid postgres --regid postgres --clear-groups "$bin/initdb" -D "$data" --auth trust --encoding UTF8 --locale C.UTF-8 >/dev/null
  echo "host all all all trust" >> "$data/pg_hba.conf"
fi
exec setpriv --reuid postgres --regid postgres --clear-groups \
  "$bin/postgres" -D "$data" -c listen_addresses='*' -c shared_buffers=32MB
