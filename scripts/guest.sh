#!/bin/bash
# What tests need to boot a Linux of their own, where this machine's is not enough: other cgroup
# layouts. qemu comes from the distribution; the kernel, Debian bookworm's (6.1: it still has every
# version 1 controller), is unpacked into $cache/guest and not installed. A second run is instant.
#
#   $cache/guest/vmlinuz
#   $cache/guest/modules/NN-NAME.ko   in the order in which they load
#   $cache/guest/systemd/             systemd, its libraries and their loader, for guests that start it
#   $cache/guest/accelerator          kvm where a guest boots with it, else tcg (nested KVM may hang)
. "$(dirname "$0")/lib.sh"
need_root scripts/guest.sh
[ "$(uname -m)" = x86_64 ] || die "tests boot guests on x86_64 only"
packages mmdebstrap ca-certificates qemu-system-x86 kmod

modules="overlay erofs loop null_blk bfq veth bridge nf_tables nft_chain_nat nft_masq nft_nat nft_ct nft_fib_inet nft_reject_inet cls_cgroup unix_diag tcp_diag udp_diag raw_diag af_packet_diag netlink_diag nf_conntrack_netlink"
stamp="v3 $modules"
[ "$(cat "$cache/guest/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

say "fetching a kernel for test guests into $cache/guest (40 MB, once)"
work=$cache/guest.new
rm -rf "$work"; mkdir -p "$work/modules"
mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' --variant=extract \
  --include=linux-image-cloud-amd64,systemd bookworm "$work/root" "$(mirror)"
version=$(basename "$work"/root/lib/modules/*)
cp "$work/root/boot/vmlinuz-$version" "$work/vmlinuz"
depmod -b "$work/root" "$version"
number=10
# shellcheck disable=SC2086 # a list of words
modprobe -d "$work/root" -S "$version" --show-depends -a $modules | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
  while read -r file; do
    cp "$file" "$work/modules/$number-$(basename "$file")"
    number=$((number + 1))
  done
libraries=$work/root/lib/x86_64-linux-gnu
loader=$libraries/ld-linux-x86-64.so.2
mkdir "$work/systemd"
cp "$work/root/lib/systemd/systemd" "$loader" "$work/systemd"
"$loader" --library-path "$libraries:$libraries/systemd:$work/root/usr/lib/x86_64-linux-gnu:$work/root/usr/lib/x86_64-linux-gnu/systemd" \
  --list "$work/systemd/systemd" | awk '$2 == "=>" && $3 !~ /ld-linux/ { print $3 }' | xargs cp -Lt "$work/systemd"
rm -rf "$work/root"
# Whether /dev/kvm works shows only in a kernel that boots: it panics for want of a root, and ends.
accelerator=tcg
boot=(qemu-system-x86_64 -accel kvm -cpu max -m 256M -nodefaults -no-reboot -display none
  -kernel "$work/vmlinuz" -append "console=ttyS0 panic=-1 reboot=t" -serial "file:$work/console")
if [ -w /dev/kvm ] && timeout --signal KILL 10 "${boot[@]}" 2>/dev/null; then accelerator=kvm; fi
rm -f "$work/console"
echo "$accelerator" > "$work/accelerator"
echo "$stamp" > "$work/stamp"
rm -rf "$cache/guest"
mv "$work" "$cache/guest"
