#!/bin/bash
# vm.sh KERNEL COMMAND: runs COMMAND (for sh) in a VM that boots the unpacked KERNEL, in the current folder; exits with its status.
#
# The VM sees this machine's root folder read-only, below a layer in its own memory, so the command finds everything that is installed
# here and can change none of it. It has 512 MiB of swap. Emulation only (TCG): it works everywhere, also inside a VM. 98: the VM did not come as far as an exit
# status; 99: what is needed to start it is not here.
#   VM_MEMORY (MiB, 4096)  VM_CPUS (2)  VM_TIMEOUT (seconds, 2400)  VM_CONSOLE (file for the kernel's messages)  VM_APPEND (kernel arguments)
set -euo pipefail
shopt -s nullglob

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:?usage: vm.sh KERNEL COMMAND} job=${2:?usage: vm.sh KERNEL COMMAND}
memory=${VM_MEMORY:-4096}
work=$(mktemp -d)
virtiofsd_pid=
trap '[ -z "$virtiofsd_pid" ] || kill "$virtiofsd_pid" 2>/dev/null || true; rm -rf "$work"' EXIT

fail() { # STATUS MESSAGE
  echo "vm: $2" >&2
  exit "$1"
}

first() { # the first of its arguments that exists
  local candidate
  for candidate; do
    [ ! -e "$candidate" ] || { echo "$candidate" && return; }
  done
  return 1
}

image=$(first "$kernel"/boot/vmlinuz-* "$kernel"/lib/modules/*/vmlinuz "$kernel"/usr/lib/modules/*/vmlinuz) || fail 99 "no kernel image below $kernel"
modules=$(first "$kernel"/lib/modules/*/kernel "$kernel"/usr/lib/modules/*/kernel) || fail 99 "no modules below $kernel"
virtiofsd=$(first /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd) || fail 99 "virtiofsd is not installed"
busybox=$(first /bin/busybox /usr/bin/busybox) || fail 99 "busybox-static is not installed"
[ "$(id -u)" = 0 ] || fail 99 "only root can share the root folder with the VM"

make_initramfs() {
  local root=$work/initramfs name file
  mkdir -p "$root"/{bin,modules,proc,sys,dev}
  cp "$busybox" "$root/bin/busybox"
  cp "$here/init.sh" "$root/init"
  chmod +x "$root/init"
  for name in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk fuse virtiofs overlay; do
    file=$(find "$modules" -name "$name.ko*" -print -quit)
    case $file in
      '') ;; # built in
      *.xz) xz -dc "$file" >"$root/modules/$name.ko" ;;
      *.zst) zstd -dcq "$file" >"$root/modules/$name.ko" ;;
      *) cp "$file" "$root/modules/$name.ko" ;;
    esac
  done
  printf '%s\n' "$job" >"$root/job"
  pwd >"$root/folder"
  printf '%s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' "$(dirname "$(command -v node)")" >"$root/path"
  (cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initramfs.gz"
}

start_virtiofsd() {
  "$virtiofsd" --socket-path="$work/socket" -o source=/ -o sandbox=chroot -o cache=always >"$work/virtiofsd.log" 2>&1 &
  virtiofsd_pid=$!
  for _ in $(seq 200); do
    [ ! -S "$work/socket" ] || return 0
    sleep 0.05
  done
  fail 99 "virtiofsd does not start: $(tail -n 1 "$work/virtiofsd.log")"
}

# One host thread for all CPUs: with one each, 3 of 18 boots of QEMU 7.2 on a busy host saw Node crash, once traced to a jump into the middle
# of an instruction of its own freshly compiled code. With one, none has so far.
boot() {
  timeout --foreground "${VM_TIMEOUT:-2400}" qemu-system-x86_64 -machine q35 -accel tcg,thread=single,tb-size=512 -cpu max,la57=off -m "$memory" \
    -smp "${VM_CPUS:-2}" -nodefaults -no-user-config -display none -no-reboot -kernel "$image" -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 panic=-1 loglevel=4 ${VM_APPEND:-}" \
    -serial "file:$work/console" -serial stdio -serial "file:$work/status" \
    -object "memory-backend-memfd,id=memory,size=${memory}M,share=on" -numa node,memdev=memory \
    -drive "file=$work/swap,format=raw,if=virtio" -chardev "socket,id=host,path=$work/socket" -device vhost-user-fs-pci,queue-size=1024,chardev=host,tag=host </dev/null
}

make_initramfs
truncate -s 512M "$work/swap"
start_virtiofsd
qemu_status=0
boot || qemu_status=$?
[ -z "${VM_CONSOLE:-}" ] || cp "$work/console" "$VM_CONSOLE" 2>/dev/null || true
status=$(tr -dc 0-9 <"$work/status" 2>/dev/null || true)
if [ -z "$status" ]; then
  tail -n 25 "$work/console" >&2 || true
  [ "$qemu_status" != 124 ] || fail 98 "the command was not through after ${VM_TIMEOUT:-2400} s"
  fail 98 "the VM ended without an exit status (QEMU: $qemu_status)"
fi
exit "$status"
