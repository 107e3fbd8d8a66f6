#!/bin/bash
# `sudo make up`: builds berth, starts its daemon, obtains a base image, runs the example
# application and says where it answers. A second run finds all that done and changes nothing.
. "$(dirname "$0")/lib.sh"
need_root make up
cd "$top"
need_rust
packages gcc libc6-dev make musl-tools mmdebstrap ca-certificates curl docker-registry skopeo

built=$(scripts/build.sh)
berth=${BERTH_BIN:-/usr/local/bin/berth}
if ! cmp -s "$built" "$berth"; then
  install -m 755 "$built" "$berth.new" && mv "$berth.new" "$berth"
fi

# Any command starts the daemon when none answers; `version` is the cheapest.
"$berth" version >/dev/null

base=${BERTH_EXAMPLE_BASE:-debian:bookworm-slim}
if ! "$berth" image inspect berth-example/base >/dev/null 2>&1; then
  if [ "${BERTH_OFFLINE:-no}" = no ] && timeout 20 "$berth" pull -q "$base" >/dev/null 2>&1; then
    say "a public registry answers; the example still needs its programs, which come from packages"
  fi
  scripts/base-image.sh "$berth"
fi
exec examples/shop/up.sh "$berth"
