#!/usr/bin/env bash
# tools.sh - fetches the official Python client of the OpenAI API and one of AUTOMATIC1111's, which
# tests drive against the service, and the proxies that one stands behind. Without them these tests
# say that they were skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

# fetch NAME PACKAGES...: into build/tools/NAME, unless these are there already
fetch() {
    local venv=build/tools/$1 wanted
    shift
    wanted=$*
    [ "$(cat "$venv/taca-wanted" 2>/dev/null)" = "$wanted" ] && return
    echo "== fetching tools of the server tests: $wanted"
    if python3 -m venv "$venv" && "$venv/bin/pip" -q --disable-pip-version-check --retries 0 install "$@"; then
        echo "$wanted" >"$venv/taca-wanted"
    else
        rm -rf "$venv"
        echo "   it is not to be had: the test with that client will be skipped"
    fi
}
fetch openai openai==3.57.0
fetch webuiapi webuiapi==0.9.17 requests==2.34.2 pillow==13.0.0

# the programs alone, without the daemons that their packages would start
proxies=(nginx haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1)
if [ ! -x build/tools/proxies/usr/sbin/haproxy ]; then
    echo "== fetching tools of the server tests: nginx haproxy"
    mkdir -p build/tools/proxies
    (cd build/tools/proxies && apt-get download "${proxies[@]}" >/dev/null 2>&1 &&
        for p in *.deb; do dpkg -x "$p" .; done && rm -f ./*.deb) ||
        echo "   they are not to be had: the test behind proxies will be skipped"
fi
