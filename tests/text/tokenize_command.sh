#!/usr/bin/env bash
# tokenize_command.sh TACA SOURCE - the command: its forms of input and output, and its refusals.
set -u
taca=$1 demo=$2/models/demo t5=$2/models/tokenizers/t5
failed=0

# gives WANT CODE ARGS...: what is printed for ARGS, standard input passed on
gives() {
    local want=$1 code=$2 got
    shift 2
    got=$("$taca" tokenize "$@" 2>&1)
    local rc=$?
    [ "$rc" -eq "$code" ] && [[ "$got" == *"$want"* ]] && return
    echo "FAILED: tokenize $*: exit $rc \"$got\", wanted $code \"$want\""
    failed=1
}

gives "726 320 543 707 727" 0 --clip "$demo/tokenizer" "A red CUBE"
gives "726 727" 0 --clip "$demo/tokenizer" ""
gives '{"ids":[726,320,543,707,0,727,0,0],"n":6}' 0 --clip "$demo/tokenizer_2" --json --pad 8 "a red cube!"
gives '{"ids":[726,320,727],"n":5}' 0 --clip "$demo/tokenizer" --json --pad 3 "a red cube"
gives $'726 320 727\n726 321 322 727' 0 --clip "$demo/tokenizer" - < <(printf 'a\nb c\n')
gives $'726 320 321 727\n726 322 727' 0 --clip "$demo/tokenizer" -0 - < <(printf 'a\nb\0c')
gives "3 9 1202 13 3 9 1712 1" 0 --t5 "$t5" "a photo of a cat"
gives '{"ids":[3,9,1202,1],"n":8}' 0 --t5 "$t5" --json --pad 4 "a photo of a cat"
gives $'1\n1712 1' 0 --t5 "$t5" - < <(printf '\ncat')
gives "--clip DIR or --t5 DIR is missing" 2 "a red cube"
gives "one of the two" 2 --t5 "$t5" --clip "$demo/tokenizer" "a red cube"
gives "no T5 tokenizer here" 1 --t5 "$demo/vae" "a red cube"
gives "no CLIP tokenizer here" 1 --clip "$demo/vae" "a red cube"
[ "$(head -c 20000 /dev/zero | tr '\0' '!' | "$taca" tokenize --clip "$demo/tokenizer_2" - | wc -w)" -eq 20002 ] ||
    { echo "FAILED: 20000 marks are not 20002 ids"; failed=1; }
exit $failed
