# Shared by the scripts here: say, die, need_root, packages. Sourced, never run.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${BERTH_CACHE:-/var/cache/berth}

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "this needs root: run it as \`sudo $*\`"; }

# packages NAME …: installs what is missing from the distribution's own packages.
packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] && return 0
  command -v apt-get >/dev/null || die "please install: ${missing[*]} (no apt-get here to do it)"
  say "installing from the distribution: ${missing[*]}"
  apt-get update -qq || true
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The first Debian mirror this machine is set up with.
mirror() {
  local found
  found=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
  [ -n "$found" ] || found=$(awk '/^deb / { for (i = 2; i <= NF; i++) if ($i ~ /^http/) { print $i; exit } }' /etc/apt/sources.list 2>/dev/null || true)
  [ -n "$found" ] || found=http://deb.debian.org/debian
  printf '%s\n' "$found"
}

# The Rust toolchain, or a sentence that says how to get one.
need_rust() {
  if ! command -v cargo >/dev/null; then
    # sudo drops the caller's PATH; look where rustup puts it.
    local home
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
      [ -x "$home/.cargo/bin/cargo" ] && PATH=$home/.cargo/bin:$PATH && export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} && return 0
    done
    die "no Rust toolchain: install Rust 1.95 or newer with rustup, then run this again"
  fi
}
