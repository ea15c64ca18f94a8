#!/usr/bin/env bash
# lora_command.sh TACA GOLDEN - generate with adapters: what they do to a picture, when, and refusals.
set -u
taca=$1 golden=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# adapter FILE BYTE: rank 2 for one matrix of the demo checkpoint, all bytes of its values BYTE
adapter() {
    local name=transformer.transformer_blocks.0.attn.to_q header i
    header="{\"$name.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,192],\"data_offsets\":[0,1536]},"
    header+="\"$name.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[192,2],\"data_offsets\":[1536,3072]}}"
    {
        for i in 0 8 16 24 32 40 48 56; do
            # shellcheck disable=SC2059
            printf "\\x$(printf %02x $((${#header} >> i & 255)))"
        done
        printf '%s' "$header"
        head -c 3072 /dev/zero | tr '\0' "$2"
    } >"$1"
}
# expect CODE OUT options...: generates OUT
expect() {
    local want=$1 out=$2
    shift 2
    "$taca" generate "a red cube" --size 64x64 --steps 4 --seed 1 --deterministic --no-metadata -q \
        -o "$tmp/$out" "$@" 2>"$tmp/err"
    local got=$?
    [ "$got" -eq "$want" ] && return
    echo "FAILED: exit $got, wanted $want: $*"
    cat "$tmp/err"
    failed=1
}
says() {
    grep -q -e "$1" "$tmp/err" && return
    echo "FAILED: nothing says '$1'"
    cat "$tmp/err"
    failed=1
}
same() {
    cmp -s "$tmp/$1" "$tmp/$2" && return
    echo "FAILED: $1 and $2 differ"
    failed=1
}
differ() {
    cmp -s "$tmp/$1" "$tmp/$2" || return
    echo "FAILED: $1 and $2 are the same"
    failed=1
}

adapter "$tmp/nothing.safetensors" '\0'
adapter "$tmp/some:thing.safetensors" '=' # every value is 0.046
some=$tmp/some:thing.safetensors

expect 0 base.png
expect 0 nothing.png --lora "$tmp/nothing.safetensors"
same base.png nothing.png
expect 0 some.png --lora "$some"
differ base.png some.png
expect 0 half.png --lora "$some:0.5"
differ some.png half.png
differ base.png half.png
expect 0 two.png --lora "$some:1" --lora "$tmp/nothing.safetensors:3"
same some.png two.png
expect 0 off.png --lora "$some:0"
same base.png off.png
expect 0 taca.png --taca-steps 2
expect 0 window.png --taca-steps 2 --lora "$some" --lora-window taca
differ taca.png window.png
expect 0 always.png --taca-steps 2 --lora "$some"
differ window.png always.png
expect 0 all.png --taca-steps 4 --lora "$some" --lora-window taca
expect 0 always4.png --taca-steps 4 --lora "$some"
same all.png always4.png

expect 2 x.png --lora "$some" --lora-window taca
says 'TACA window, which is off'
expect 2 x.png --lora "$some:21"
says '20'
expect 2 x.png --lora "$some" --lora "$some"
says 'some:thing is there already'
expect 1 x.png --lora "$tmp/nowhere.safetensors"
says 'nowhere'
expect 1 x.png --lora "$golden/lora/lora_sd35m_tiny_peft.safetensors"
says 'lora_A.weight: \[4, 32\] found, \[4, 192\] wanted'
expect 1 x.png --lora "$golden/lora/lora_flux_tiny_dev_comfy.safetensors"
says 'ComfyUI over FLUX names'
exit $failed
