#!/bin/sh
# setup.sh GROUP...: puts in place what is missing: distribution packages for the groups named (build, test, kernels), and node_modules.
#
# Nothing is installed, and nobody asked, when everything is there. Packages need root, or sudo without a password; without
# either the command to run is printed.
set -eu
cd "$(dirname "$0")/.."

packages() {
	case $1 in
	build) echo clang cmake ninja-build g++ bpftool zlib1g-dev ;;
	test) echo clang-format pkg-config ;;
	kernels)
		echo qemu-system-x86 busybox-static zstd xz-utils
		# Part of QEMU until 7.2, a package of its own since.
		[ -x /usr/lib/qemu/virtiofsd ] || ! apt-cache show virtiofsd >/dev/null 2>&1 || echo virtiofsd
		;;
	*)
		echo "setup: no such group: $1 (build, test, kernels)" >&2
		exit 2
		;;
	esac
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_packages() {
	for group; do packages "$group"; done | tr ' ' '\n' | while read -r package; do installed "$package" || echo "$package"; done
}

install_packages() {
	line="apt-get install --no-install-recommends -y $*"
	as=
	if [ "$(id -u)" != 0 ]; then
		sudo -n true 2>/dev/null || {
			echo "setup: packages are missing, and this user may not install them. Run: sudo $line" >&2
			exit 1
		}
		as='sudo -n'
	fi
	echo "setup: $line"
	export DEBIAN_FRONTEND=noninteractive
	# The lists of a fresh system are empty or old.
	$as $line -q >/dev/null 2>&1 || { $as apt-get update -q && $as $line -q; } >/dev/null || {
		echo "setup: apt-get could not install: $*" >&2
		exit 1
	}
}

if command -v dpkg-query >/dev/null; then
	# shellcheck disable=SC2046
	set -- $(missing_packages "$@")
	[ $# = 0 ] || install_packages "$@"
else
	echo "setup: no Debian packages here; the build needs clang, cmake, ninja, g++, bpftool and a static zlib."
fi

if [ ! -e node_modules/.package-lock.json ] || [ ! -e node_modules/typescript ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	echo "setup: npm ci"
	# None of the dependencies needs its install script.
	npm ci --include=dev --ignore-scripts --no-audit --no-fund --loglevel=error
	touch node_modules/.package-lock.json
fi
