#!/usr/bin/env bash
# run_target.sh - one fuzz target: its committed corpus first, then mutations of it for a while.
#
# usage: run_target.sh BINARY CORPUS WORK
#
# Finds new inputs go to WORK/NAME, an input that fails to WORK/crashes; the next run starts from
# both. TACA_FUZZ_SECONDS (30) sets the time.
set -uo pipefail
binary=$1 corpus=$2 work=$3
name=$(basename "$binary")
seconds=${TACA_FUZZ_SECONDS:-30}
crashes=$work/crashes
mkdir -p "$work/$name" "$crashes"

options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=2560 -max_len=4096 -print_final_stats=1
    -verbosity=1 -artifact_prefix="$crashes/$name-")
dict=${corpus%/corpus/*}/$name.dict
[ ! -f "$dict" ] || options+=(-dict="$dict")
for old in "$crashes/$name"-*; do # what failed before must be right now
    [ -f "$old" ] || continue
    "$binary" -timeout=20 -rss_limit_mb=2560 "$old" >"$work/$name.log" 2>&1 && rm -f "$old" && continue
    tail -n 40 "$work/$name.log"
    echo "$name fails as before; to rerun: $binary $old"
    exit 1
done

if "$binary" "${options[@]}" "$work/$name" "$corpus" >"$work/$name.log" 2>&1; then
    grep -E 'number_of_executed_units|peak_rss_mb|^Done' "$work/$name.log"
    exit 0
fi
tail -n 60 "$work/$name.log"
found=$(grep -o 'Test unit written to .*' "$work/$name.log" | tail -n 1)
input=${found#Test unit written to }
echo "$name failed after ${found:+its own finding: }${input:-no input of its own; see $work/$name.log}"
[ -z "$input" ] || echo "to rerun: $binary $input"
exit 1
