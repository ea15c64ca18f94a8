#!/usr/bin/env bash
# device_command.sh TACA - what `taca serve` and its --check-config say to names of devices, and to a
# device that is not there.
set -euo pipefail
taca=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export TACA_CUDA_MODULE=$tmp/none.so # there is no CUDA backend, whatever this build and machine have

fail() {
    echo "FAILED: $*"
    cat "$tmp/said"
    exit 1
}

# says CODE WORDS DEVICE.. - how both end, and what they say
says() {
    local code=$1 words=$2 how rc
    shift 2
    for how in "--check-config" "--port 0 --admin-listen none --log-format text"; do
        rc=0
        # shellcheck disable=SC2086 # words of its own
        "$taca" serve $how "${@/#/--device=}" > "$tmp/said" 2>&1 || rc=$?
        [ "$rc" = "$code" ] || fail "serve $how, devices $*: exit code $rc, not $code"
        grep -qF -- "$words" "$tmp/said" || fail "serve $how, devices $*: no \"$words\""
    done
}

says 78 '"gpu7x" is none of auto, cpu, cuda, cuda:N' gpu7x
says 78 '"cuda:x" is none of auto, cpu, cuda, cuda:N' cpu cuda:x
says 78 '"" is none of auto' ''
says 78 "TACA_CUDA_MODULE: $tmp/none.so: cannot open" cuda
says 78 "TACA_CUDA_MODULE: $tmp/none.so: cannot open" cpu cuda:1
for device in cpu auto; do
    "$taca" serve --check-config --device $device > "$tmp/said" 2>&1 || fail "$device is refused"
done
echo "devices: ok"
