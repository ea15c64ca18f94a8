#!/usr/bin/env bash
# tools.sh - fetches what the tests of the pages like to have: a browser (Debian's chromium), its
# driver, and a fuzzer of HTTP APIs. Without them those tests say what they skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v chromium >/dev/null || apt-get install -qy --no-install-recommends chromium >/dev/null 2>&1 ||
    echo "   chromium is not to be had: the pages will not be tried in a browser"
venv=build/tools/web
wanted="playwright==1.65.2 schemathesis==4.32.5 openapi-spec-validator==0.9.0"
[ "$(cat "$venv/taca-wanted" 2>/dev/null)" = "$wanted" ] && exit 0
echo "== fetching tools of the web tests: $wanted"
# shellcheck disable=SC2086
if python3 -m venv "$venv" && "$venv/bin/pip" -q --disable-pip-version-check --retries 0 install $wanted; then
    echo "$wanted" >"$venv/taca-wanted"
else
    rm -rf "$venv"
    echo "   they are not to be had: the web tests will be skipped"
fi
