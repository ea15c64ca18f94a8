#!/usr/bin/env bash
# verify_command.sh TACA GOLDEN - the command: exit codes, JSON lines, and a corrupted copy that fails.
set -u
taca=$1 golden=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# expect CODE command...: its output is in $tmp/out and $tmp/err
expect() {
    local want=$1
    shift
    "$@" >"$tmp/out" 2>"$tmp/err"
    local got=$?
    [ "$got" -eq "$want" ] && return
    echo "FAILED: exit $got, wanted $want: $*"
    tail -n 5 "$tmp/out" "$tmp/err"
    failed=1
}
says() {
    grep -q -e "$1" "$tmp/out" "$tmp/err" && return
    echo "FAILED: nothing says '$1'"
    failed=1
}

expect 0 "$taca" verify "$golden/models" "$golden/taca" "$golden/pipelines" \
    "$golden/lora"
says ' 0 failed'
grep -q FAIL "$tmp/out" && failed=1

expect 0 "$taca" verify --json "$golden/models/sd3_tiny"
says '^{"case": "sd3_tiny", "output": "out", "shape": \[2, 4, 16, 20\], "rel_l2": .*, "ok": true}$'

# a corrupted copy: the last bytes of the reference belong to its last tensor
cp "$golden"/models/sd3_tiny.* "$tmp"
size=$(stat -c %s "$tmp/sd3_tiny.io.safetensors")
header=$(od -An -tu8 -N8 "$tmp/sd3_tiny.io.safetensors")
last=$(head -c $((header + 8)) "$tmp/sd3_tiny.io.safetensors" | tail -c "$header" |
    grep -o "\"out\":{[^}]*}" | grep -o '\[[0-9]*,[0-9]*\]}' | tr -d '[]}')
end=${last#*,}
printf '\0\0\200\77' | dd of="$tmp/sd3_tiny.io.safetensors" bs=1 conv=notrunc status=none \
    seek=$((8 + header + end - 4))
[ "$(stat -c %s "$tmp/sd3_tiny.io.safetensors")" -eq "$size" ] || failed=1
expect 1 "$taca" verify "$tmp"
says '^sd3_tiny .* FAIL$'
expect 1 "$taca" verify --json "$tmp/sd3_tiny"
says '"ok": false}'

expect 1 "$taca" verify "$golden/pipelines/sd35_plain"
says 'FAIL'
expect 1 "$taca" verify "$tmp/nothing"
says 'no case nothing'
expect 1 "$taca" verify --layout bfl "$golden/models/sd3_tiny"
says 'sd3_tiny has no sd3_tiny.bfl.safetensors'
expect 0 "$taca" verify --layout orig "$golden/models/sd35m_tiny"
expect 1 "$taca" verify --weights "$tmp/nowhere" "$golden/models/sd3_tiny"
says 'no such folder'
expect 2 "$taca" verify
expect 2 "$taca" verify --dtype f64 "$golden/models"
expect 2 "$taca" verify --backend abacus "$golden/models"
expect 2 "$taca" verify --tol -1 "$golden/models"
exit $failed
