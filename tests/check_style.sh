#!/usr/bin/env bash
# check_style.sh - what a reviewer should not have to say: format, banned calls, lengths, head comments.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
mapfile -t files < <(git ls-files -- '*.c' '*.h' '*.cu' '*.cuh' '*.cc' | grep -v '^build/')
clang-format-14 --dry-run -Werror "${files[@]}" || bad=1
complain() { # TEXT HITS
    [ -z "$2" ] && return 0
    echo "style: $1"
    # shellcheck disable=SC2001
    sed 's/^/    /' <<<"$2"
    bad=1
}
complain "banned call" "$(grep -nE '(^|[^_[:alnum:]])(strcpy|strcat|sprintf|vsprintf|strtok|gets|atoi|alloca)[[:space:]]*\(' "${files[@]}" || true)"
complain "committed // comment" "$(grep -nE '(^|[[:space:];{])//' "${files[@]}" | grep -v '://' || true)"
complain "file without a head comment" "$(for f in "${files[@]}"; do head -c 2 "$f" | grep -q '/\*' || echo "$f"; done)"
complain "file above 600 lines" "$(wc -l "${files[@]}" | awk '$1 > 600 && $2 != "total" {print $2 ": " $1}')"
# clang-format puts a function's opening line at column 0 and its closing brace alone there
complain "function above 60 lines" "$(for f in "${files[@]}"; do
    awk -v f="$f" '/^[a-z].*\) \{$/ || /^ .*\) \{$/ && !open {if (!start) start = NR; open = 1}
        /^[a-z].*\($|^[a-z].*,$/ && !open {start = NR}
        /^}/ {if (open && start && NR - start > 61) print f ":" start ": " NR - start + 1 " lines"; start = 0; open = 0}' "$f"
done)"
complain "header without a guard" "$(for f in "${files[@]}"; do case $f in *.h) grep -qE "^#ifndef TACA_|^#pragma once" "$f" || echo "$f" ;; esac; done)"
complain "trailing white space" "$(git ls-files -- '*.md' '*.sh' '*.py' '*.txt' '*.cmake' run test | xargs grep -nE '[[:space:]]+$' || true)"
[ $bad = 0 ] && echo "style: fine (${#files[@]} files)"
exit $bad
