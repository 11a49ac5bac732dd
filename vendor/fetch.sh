#!/bin/sh
# fetch.sh: puts the tarballs that sources.txt names into vendor/.cache, checked against their SHA256.
#
# They come from the package mirrors this system is set up with, through apt folders of our own: the system's lists and settings stay as
# they are, and apt checks the signatures. Nothing is fetched when they are there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$here/.cache

fail() {
	echo "vendor: $*" >&2
	echo "vendor: or unpack libbpf 1.5 and elfutils 0.192 yourself and set LIBBPF_SRC and LIBELF_SRC to their folders." >&2
	exit 1
}

sources() { grep -v '^#' "$here/sources.txt"; }

checked() { # FILE SHA256: is it there, and is it the one?
	[ -f "$cache/$1" ] || return 1
	[ "$(sha256sum "$cache/$1" | cut -d' ' -f1)" = "$2" ]
}

missing() { sources | while read -r package _ _ sum file; do checked "$file" "$sum" || echo "$package"; done; }

debian_mirror() {
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' | awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}

private_apt() { # sets up $apt and the options that keep apt-get inside it
	command -v apt-get >/dev/null || fail "this system has no apt-get to fetch libbpf and elfutils with."
	apt=$cache/apt
	rm -rf "$apt"
	mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
	mirror=$(debian_mirror)
	# Without lists, as in a slim image, apt does not know whose its sources are.
	[ -n "$mirror" ] || { apt-get update -q >/dev/null 2>&1 && mirror=$(debian_mirror); } || true
	[ -n "$mirror" ] || fail "no Debian archive is known to this system's apt: is one in its sources, and was apt-get update run?"
	keys=/usr/share/keyrings/debian-archive-keyring.gpg
	sources | while read -r _ suite _; do echo "deb-src [signed-by=$keys] $mirror $suite main"; done | sort -u >"$apt/sources.list"
	set -- -q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache" \
		-o Dir::State::status=/dev/null -o "APT::Sandbox::User=$(id -un)" -o APT::Update::Post-Invoke-Success::=
	: >"$apt/log"
	apt-get "$@" update >>"$apt/log" 2>&1 || fail "apt-get update failed: $(tail -n 1 "$apt/log") (log: $apt/log)"
	for package in $wanted; do
		(cd "$apt" && apt-get "$@" source --download-only --tar-only "$package") >>"$apt/log" 2>&1 ||
			fail "apt-get source $package failed: $(tail -n 1 "$apt/log") (log: $apt/log)"
	done
}

take() { # PACKAGE VERSION SHA256 FILE: from the apt folder into the cache
	[ -f "$apt/$4" ] || fail "the mirror has no $4 any more; it offers: $(cd "$apt" && ls -d "$1"_* 2>/dev/null | tr '\n' ' ')"
	mv "$apt/$4" "$cache/$4"
	checked "$4" "$3" && return
	sum=$(sha256sum "$cache/$4" | cut -d' ' -f1)
	rm -f "$cache/$4"
	fail "$4 is not the file that vendor/sources.txt names: SHA256 $sum, expected $3."
}

wanted=$(missing)
[ -n "$wanted" ] || exit 0
mkdir -p "$cache"
echo "vendor: fetching the sources of" $wanted
private_apt
for package in $wanted; do
	sources | while read -r name _ version sum file; do [ "$name" != "$package" ] || take "$name" "$version" "$sum" "$file"; done
done
rm -rf "$apt"
