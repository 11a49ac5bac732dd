#!/bin/bash
# fetch.sh SERIES: puts the kernel of a series (kernels.txt) into the cache, unpacked, and prints its folder.
#
# It comes from the Debian mirrors this system is set up with, through an apt folder of our own, and apt checks the signatures. The
# newest build of the series is taken; the one that kernels.txt names has to have the hash that stands there. A kernel that is in the
# cache is not looked up again: remove its folder to have a newer one.
set -euo pipefail
shopt -s nullglob

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/ebpf-ckpt/kernels
series=${1:?usage: fetch.sh SERIES}
apt=$cache/apt

say() { echo "kernel $series: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

pins() { awk -v series="$series" '$1 == series { print $2, $3, $4 }' "$here/kernels.txt"; }

archive() { # SUFFIX: the address of Debian's archive, or of its security archive
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' |
    awk -v want="$1" '$1 == "Debian" { found = $2 ~ /-security$/ ? "-security" : ($2 ~ /-/ ? "other" : "main"); if (found == want) { print $3; exit } }'
}

# Lists the suite of the series, for amd64 only, below $apt.
update_lists() { # SUITE
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg main security
  rm -rf "$apt"
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
  # Without lists, as in a slim image, apt does not know whose its sources are.
  [ -n "$(archive main)" ] || apt-get update -q >/dev/null 2>&1 || true
  main=$(archive main) security=$(archive -security)
  [ -n "$main" ] || fail "fetch failed: no Debian archive is set up in this system's apt sources"
  echo "deb [arch=amd64 signed-by=$keys] $main $1 main" >"$apt/sources.list"
  [[ -z $security || $1 == *-backports ]] || echo "deb [arch=amd64 signed-by=$keys] $security $1-security main" >>"$apt/sources.list"
  options=(-q -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache" -o Dir::State::status=/dev/null -o "APT::Sandbox::User=$(id -un)"
    -o APT::Update::Post-Invoke-Success::=)
  apt-get "${options[@]}" update >"$apt/log" 2>&1 || fail "fetch failed: apt-get update: $(tail -n 1 "$apt/log")"
}

# The newest package called like PACKAGE but for the part of the version that follows the series.
newest() { # PACKAGE
  local pattern=${series//./\\.}
  pattern="^${1%%"$series"*}$pattern[.][0-9]+[^ ]*-cloud-amd64$"
  apt-cache "${options[@]}" pkgnames linux- | grep -E "$pattern" | sort -V | tail -n 1
}

# Downloads the newest build of what a line of kernels.txt names, checks it, and unpacks it.
get() { # PACKAGE_VERSION SHA256
  local found uri sum file
  found=$(newest "${1%_*}" || true)
  [ -n "$found" ] || fail "fetch failed: the mirror has no kernel of this series any more"
  uri=$(apt-get "${options[@]}" download --print-uris "$found" 2>>"$apt/log") || fail "fetch failed: $(tail -n 1 "$apt/log")"
  sum=${uri##*SHA256:} file=$(awk '{ print $2 }' <<<"$uri")
  if [ "${file%_amd64.deb}" != "$1" ]; then
    say "the mirror has ${file%_amd64.deb}, kernels.txt has $1: using the mirror's (SHA256 $sum)"
  elif [ "$sum" != "$2" ]; then
    fail "fetch failed: $file on the mirror has SHA256 $sum, kernels.txt says $2"
  fi
  (cd "$apt" && apt-get "${options[@]}" download "$found" </dev/null >>log 2>&1) || fail "fetch failed: $found: $(tail -n 1 "$apt/log")"
  echo "$sum  $apt/$file" | sha256sum --check --status || fail "fetch failed: $file is damaged"
  dpkg-deb -x "$apt/$file" "$cache/$series.new"
  echo "${file%_amd64.deb}" >>"$cache/$series.new/.packages"
}

fetch() {
  local lines line package sum
  mapfile -t lines < <(pins)
  [ ${#lines[@]} -gt 0 ] || fail "fetch failed: no such series in kernels.txt, which has $(awk '/^[^#]/ { print $1 }' "$here/kernels.txt" | sort -Vu | xargs)"
  say "fetching from the distribution's mirror"
  update_lists "${lines[0]%% *}"
  rm -rf "$cache/$series" "$cache/$series.new"
  mkdir -p "$cache/$series.new"
  for line in "${lines[@]}"; do
    read -r _ package sum <<<"$line"
    get "$package" "$sum"
  done
  mv "$cache/$series.new" "$cache/$series"
  rm -rf "$apt"
}

[ -e "$cache/$series/.packages" ] || fetch
echo "$cache/$series"
