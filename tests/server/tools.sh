#!/usr/bin/env bash
# tools.sh - fetches the official Python client of the OpenAI API, which a test drives against the
# service. Without it that test says that it was skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=build/tools/openai
wanted="openai==3.57.0"
[ "$(cat "$venv/taca-wanted" 2>/dev/null)" = "$wanted" ] && exit 0
echo "== fetching tools of the server tests: $wanted"
# shellcheck disable=SC2086
if python3 -m venv "$venv" && "$venv/bin/pip" -q --disable-pip-version-check --retries 0 install $wanted; then
    echo "$wanted" >"$venv/taca-wanted"
else
    rm -rf "$venv"
    echo "   it is not to be had: the test with that client will be skipped"
fi
