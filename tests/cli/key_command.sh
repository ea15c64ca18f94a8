#!/usr/bin/env bash
# key_command.sh TACA - keys are made once, hashed right, and put into the file.
set -euo pipefail
taca=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
sum() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

said=$("$taca" key ann --limits concurrency=2,models=a)
key=$(sed -n 's/^key  //p' <<<"$said")
[[ $key =~ ^taca_[0-9a-f]{64}$ ]] || fail "a key: $said"
[ "$(sed -n 's/^line //p' <<<"$said")" = "ann:$(sum "$key"):concurrency=2,models=a" ] || fail "its line: $said"

printf '# mine' >"$work/keys" # without an end of line
first=$("$taca" key ann --file "$work/keys")
second=$("$taca" key bob --file "$work/keys" -l max-n=1)
[ "$first" != "$second" ] || fail "two keys are one"
printf '# mine\nann:%s\nbob:%s:max-n=1\n' "$(sum "$first")" "$(sum "$second")" | cmp - "$work/keys" || fail "the file"
"$taca" key new --file "$work/new" >/dev/null
[ "$(stat -c %a "$work/new")" = 600 ] || fail "a new file is its owner's alone"

[ "$(printf 'my own\n' | "$taca" key ann --stdin 2>&1 || echo $?)" = "taca key: a key is 1..512 printable ASCII characters, no space
2" ] || fail "a key with a space"
[ "$(echo hello | "$taca" key ann --stdin)" = "line ann:$(sum hello)" ] || fail "a key of one's own"

refused() { # WORD ARGUMENT...
    local word=$1 text
    shift
    text=$("$taca" key "$@" 2>&1) && fail "taken: $*"
    [[ $text == *"$word"* ]] || fail "$*: $text"
}
refused "1..32 letters" 'a b'
refused "1..32 letters" ann:x
refused "1..32 letters" "$(printf 'x%.0s' {1..33})"
refused "did you mean max-steps?" ann -l max-stepz=4
refused "not known, wanted one of concurrency, requests-per-minute" ann -l speed=4
refused "1..64" ann -l max-n=0
refused "No such file" ann --file "$work/nowhere/keys"
cmp -s "$work/keys" <(printf '# mine\nann:%s\nbob:%s:max-n=1\n' "$(sum "$first")" "$(sum "$second")") || fail "a refusal wrote"
# a key that nobody sees is no success
if [ -c /dev/full ]; then
    refused_full=$("$taca" key ann 2>&1 >/dev/full) && fail "a key was lost"
    [[ $refused_full == *"standard output: No space left"* ]] || fail "a lost key: $refused_full"
    "$taca" --help 2>/dev/null >/dev/full && fail "a lost help"
fi
echo "keys: fine"
