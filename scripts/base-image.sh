#!/bin/bash
# base-image.sh BERTH: makes the example's base image from the distribution's own packages, and
# obtains it as a user would: import, a real registry on loopback, push, pull.
. "$(dirname "$0")/lib.sh"
berth=$1
tar=$cache/example-base.tar
port=${BERTH_REGISTRY_PORT:-5055}
mkdir -p "$cache"
if [ ! -f "$tar" ]; then
  say "making the base image from Debian packages (about a minute, once)"
  mmdebstrap --quiet --variant=minbase --include=nginx-light,python3-minimal,python3-psycopg2,postgresql-15 \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/usr/share/doc/* "$1"/usr/share/man/*' \
    bookworm "$cache/example-base.new.tar" "$(mirror)"
  mv "$cache/example-base.new.tar" "$tar"
fi

registry=$cache/registry
mkdir -p "$registry"
cat > "$registry/config.yml" <<EOF
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $registry/data } }
http: { addr: 127.0.0.1:$port }
EOF
docker-registry serve "$registry/config.yml" >"$registry/log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
for _ in $(seq 100); do curl -fs "http://127.0.0.1:$port/v2/" >/dev/null && break; sleep 0.1; done
curl -fs "http://127.0.0.1:$port/v2/" >/dev/null || die "the registry does not answer on 127.0.0.1:$port: $(tail -n 1 "$registry/log")"

name=127.0.0.1:$port/berth-example/base:1
say "importing, pushing to a registry on loopback, pulling back"
"$berth" import "$tar" berth-example/staging:1 >/dev/null
"$berth" save -o "$registry/staging.tar" berth-example/staging:1
skopeo --insecure-policy copy -q --dest-tls-verify=false "docker-archive:$registry/staging.tar" "docker://$name"
rm -f "$registry/staging.tar"
"$berth" rmi berth-example/staging:1 >/dev/null
"$berth" pull "$name" >&2
"$berth" tag "$name" berth-example/base:latest
