#!/bin/busybox sh
# init.sh: the first process of the VM: mounts the host's root under a tmpfs, runs /job there, says its exit status on ttyS2.
#
# ttyS0 is the kernel's console, ttyS1 the output of the job. The job may write anywhere: it writes to memory.

/bin/busybox --install -s /bin
export PATH=/bin

give_up() {
	echo "vm: $*" >/dev/ttyS1
	poweroff -f
}

# Debian's packages carry no modules.dep: whatever does not load yet waits for the others.
load_modules() {
	for pass in 1 2 3 4 5 6; do
		for module in /modules/*.ko; do
			insmod "$module" 2>/dev/null && rm "$module"
		done
	done
}

mount_host() {
	mkdir -p /host /memory /root
	mount -t virtiofs -o ro host /host || give_up "cannot mount the host's root"
	mount -t tmpfs -o size=60% memory /memory
	mkdir /memory/upper /memory/work
	mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root || give_up "cannot mount the overlay"
}

mount_kernel_files() {
	for folder in proc sys dev; do mount --move /$folder /root/$folder; done
	mkdir -p /root/dev/pts /root/dev/shm
	mount -t devpts devpts /root/dev/pts
	for folder in dev/shm run tmp; do mount -t tmpfs -o mode=1777 tmpfs /root/$folder; done
	mount -t bpf bpf /root/sys/fs/bpf
	mount -t tracefs tracefs /root/sys/kernel/tracing
	mount -t securityfs securityfs /root/sys/kernel/security
	mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
	ln -s /proc/self/fd /root/dev/fd
	for n in 0 1 2; do ln -s fd/$n "/root/dev/$(echo stdin stdout stderr | cut -d' ' -f$((n + 1)))"; done
}

# A tmpfs has just covered the host's /tmp, and with it a checkout that lies there: shows that one again.
uncover() {
	case $1 in
	/tmp/* | /run/*)
		mkdir -p "/root$1" /memory/upper2 /memory/work2
		mount -t overlay -o "lowerdir=/host$1,upperdir=/memory/upper2,workdir=/memory/work2" overlay "/root$1" || give_up "cannot mount $1"
		;;
	esac
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
load_modules
for port in 1 2; do stty -F /dev/ttyS$port raw -echo; done
mount_host
mount_kernel_files
mkswap /root/dev/vda >/dev/null && swapon /root/dev/vda || give_up "cannot swap"
folder=$(cat /folder)
uncover "$folder"
cp /job /root/run/job
ifconfig lo 127.0.0.1 up

# The host's root becomes the root of the mount namespace: whoever is below it in a chroot gets no user namespaces. What this shell needs
# after that it has open, or in its own root.
exec 3>/root/dev/ttyS2 4>/root/dev/ttyS1
path=$(cat /path)
(cd /root && mount --move . / && exec chroot . /usr/bin/env -i HOME=/root TERM=dumb PATH="$path" \
	/bin/sh -c 'cd "$1" && exec sh /run/job' - "$folder") <&- >&4 2>&1 3>&-
echo $? >&3
poweroff -f
