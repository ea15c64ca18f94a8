#!/usr/bin/env bash
# check_reliability.sh - every row of docs/reliability.md names tests, and each of them exists.
set -euo pipefail
cd "$(dirname "$0")/.."
doc=docs/reliability.md
bad=0
faults=$(sed '/^## Figures/q' "$doc" | grep -E '^\| ' | grep -vE '^\| (Fault|Load) \|')
rows=$(echo "$faults" | wc -l)
bare=$(echo "$faults" | grep -vE '`(test|fuzz)_[a-z0-9_]+`' || true)
if [ -n "$bare" ]; then
    echo "$doc: rows without a test:" "$bare"
    bad=1
fi
names=$(grep -oE '`(test|fuzz)_[a-z0-9_]+`' "$doc" | tr -d '`' | sort -u)
for name in $names; do
    case $name in
    test_*) grep -rqE "(TEST\($name\)|^ *def $name\()" tests && continue ;;
    fuzz_*) grep -rqE "taca_fuzz\($name " tests && continue ;;
    esac
    echo "$doc names $name, which does not exist"
    bad=1
done
if [ "$rows" -lt 40 ]; then
    echo "$doc: $rows kinds of faults, 40 are wanted"
    bad=1
fi
[ $bad = 0 ] && echo "reliability: $rows kinds of faults, $(echo "$names" | wc -w) tests that exist"
exit $bad
