#!/bin/bash
# run.sh [SERIES...]: runs the test suite on each kernel (default 6.12) in a VM where both writers have to work; sums up.
#
# The VM runs what is built here, and shows the kernel's last messages if that fails. A kernel that cannot be fetched or booted is a failure, named as what it is.
set -uo pipefail
cd "$(dirname "$0")/../.."
here=scripts/kernels
logs=build/kernels
mkdir -p "$logs"
[ "$(uname -m)" = x86_64 ] || {
  echo "test:kernels boots amd64 kernels and needs an x86-64 host" >&2
  exit 1
}
[ $# -gt 0 ] || set -- 6.12

job='export EXPECT_WRITERS=kernel,user EXPECT_SWAP=1 CKPT_TEST_SLOW=1
node node_modules/mocha/bin/mocha.js --timeout 600000 --no-color || { status=$?; dmesg | grep -v probe_write | tail -n 20; exit $status; }'

count() { # WORD LOG: "  12 passing (3s)" -> 12
  awk -v word="$1" '$2 == word && $1 ~ /^[0-9]+$/ { n = $1 } END { print n + 0 }' "$2"
}

run_on() { # SERIES: leaves its line for the summary in $verdict
  local log=$logs/$1.log kernel status=0
  kernel=$($here/fetch.sh "$1") || {
    verdict="kernel $1: could not be fetched"
    return 1
  }
  echo "kernel $1: $(xargs <"$kernel/.packages")"
  VM_CONSOLE=$logs/$1.console $here/vm.sh "$kernel" "$job" | tr -d '\r' | tee "$log"
  status=${PIPESTATUS[0]}
  verdict="kernel $1: $(count passing "$log") passing, $(count failing "$log") failing, $(count pending "$log") pending"
  case $status in
    0) [ "$(count passing "$log")" -gt 0 ] ;;
    98) verdict="kernel $1: the VM did not get through (console: $logs/$1.console)" && return 1 ;;
    99) verdict="kernel $1: the VM could not be started" && return 1 ;;
    *) return 1 ;;
  esac
}

failed=0
verdicts=()
for series; do
  run_on "$series" || failed=1
  verdicts+=("$verdict")
done
echo
printf '%s\n' "${verdicts[@]}"
exit $failed
