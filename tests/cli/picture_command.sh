#!/usr/bin/env bash
# picture_command.sh TACA - generate from pictures, with samplers and schedules: what changes a
# picture, what does not, and refusals.
set -u
taca=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

# expect CODE OUT options...: generates OUT
expect() {
    local want=$1 out=$2
    shift 2
    "$taca" generate --steps 4 --seed 1 --deterministic --no-metadata -q -o "$tmp/$out" "$@" \
        2>"$tmp/err"
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
same() { cmp -s "$tmp/$1" "$tmp/$2" || { echo "FAILED: $1 and $2 differ"; failed=1; }; }
differ() { cmp -s "$tmp/$1" "$tmp/$2" && { echo "FAILED: $1 and $2 are equal"; failed=1; }; }
# size OUT: width and height in its head
size() { od -An -tu1 -j16 -N8 "$tmp/$1" | tr -s ' ' | tr -d '\n'; }

expect 0 a.png "a red cube" --size 80x64
for s in euler heun dpmpp_2m euler_ancestral lcm; do
    expect 0 "$s.png" "a red cube" --size 80x64 --sampler "$s"
done
same a.png euler.png
differ a.png heun.png
differ a.png dpmpp_2m.png
differ euler_ancestral.png lcm.png
expect 0 karras.png "a red cube" --size 80x64 --schedule karras
differ a.png karras.png
expect 0 philox.png "a red cube" --size 80x64 --rng philox
differ a.png philox.png
expect 0 slg.png "a red cube" --size 80x64 --slg-layers 2,5 --slg-stop 1
differ a.png slg.png

expect 0 b.png "a blue ball" --image "$tmp/a.png"
[ "$(size b.png)" = "$(size a.png)" ] || { echo "FAILED: the size is not the image's"; failed=1; }
expect 0 c.png "a blue ball" --image "$tmp/a.png" --strength 0.6
same b.png c.png
expect 0 none.png "a blue ball" --image "$tmp/a.png" --strength 0
expect 0 other.png "green cones" --image "$tmp/a.png" --strength 0
same none.png other.png # no step has run
expect 0 masked.png "a blue ball" --image "$tmp/a.png" --mask "$tmp/b.png"
differ masked.png b.png
expect 0 two.png "a blue ball" --image "$tmp/a.png" --mask "$tmp/b.png" --count 2
same two-0.png masked.png

expect 2 x.png "a cube" --image "$tmp/a.png" --size 64x64
says "has 80 x 64 pixels, wanted 64 x 64"
expect 0 small.png "a cube" --size 64x64
expect 2 x.png "a cube" --image "$tmp/a.png" --mask "$tmp/small.png"
says "has 64 x 64 pixels, its image 80 x 64"
expect 2 x.png "a cube" --mask "$tmp/a.png"
says "needs the --image"
expect 2 x.png "a cube" --strength 0.5
says "needs an --image"
expect 2 x.png "a cube" --seed 9007199254740992
says "in -1..9007199254740991, got"
expect 2 x.png "a cube" --slg-layers 2,,5
says "must be block numbers"
expect 2 x.png "a cube" --slg-layers 63
says "must be in 0.."
head -c 300 "$tmp/a.png" >"$tmp/cut.png"
expect 1 x.png "a cube" --image "$tmp/cut.png"
says "cut.png: a broken PNG file: the file is cut short"
expect 1 x.png "a cube" --image /nowhere.png
says "/nowhere.png: No such file"

# what a picture or a file says does nothing to the terminal
expect 0 evil.png $'a \e]0;title\a cube' --size 64x64 --metadata
for how in "" --json; do
    "$taca" inspect "$tmp/evil.png" $how >"$tmp/said" || failed=1
    grep -q "title" "$tmp/said" || { echo "FAILED: the prompt is not told $how"; failed=1; }
    LC_ALL=C grep -q $'[\001-\010\016-\037]' "$tmp/said" && { echo "FAILED: a control gets out $how"; failed=1; }
done
expect 1 x.png "a cube" --image "$tmp/"$'\e[31m.png'
says "?\[31m.png: No such file"

# devices, pipes and links stay what they are
expect 0 small.png "a cube" --size 64x64
mkfifo "$tmp/pipe"
cat "$tmp/pipe" >"$tmp/piped.png" &
expect 0 pipe "a cube" --size 64x64
wait $!
same piped.png small.png
[ -p "$tmp/pipe" ] || { echo "FAILED: a file took the place of the pipe"; failed=1; }
ln -s linked.png "$tmp/link.png"
: >"$tmp/linked.png"
expect 0 link.png "a cube" --size 64x64
same linked.png small.png
[ -L "$tmp/link.png" ] || { echo "FAILED: a file took the place of the link"; failed=1; }
ln -s /dev/full "$tmp/full"
expect 1 full "a cube" --size 64x64
says "full: No space left on device"
{
    printf before
    "$taca" generate "a cube" --size 64x64 --steps 4 --seed 1 --deterministic --no-metadata -q -o /dev/stdout
    printf behind
} >"$tmp/all" 2>"$tmp/err" || { echo "FAILED: -o /dev/stdout"; cat "$tmp/err"; failed=1; }
{ printf before; cat "$tmp/small.png"; printf behind; } >"$tmp/wanted"
same all wanted
(
    ulimit -f 1 # KiB: less than the picture
    expect 1 large.png "a cube" --size 64x64
    says "large.png: File too large"
    exit "$failed"
) || failed=1
ls "$tmp"/*.part-* 2>/dev/null && { echo "FAILED: half a file stays"; failed=1; }
# what cannot be written is said before anything is made
mkdir "$tmp/folder.png"
expect 1 folder.png "a cube" --model /nowhere
says "folder.png: Is a directory"
expect 1 none/x.png "a cube" --model /nowhere
says "none/x.png: No such file"
exit $failed
