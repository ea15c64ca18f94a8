#!/usr/bin/env bash
# check_layers.sh - who may include whom (ARCHITECTURE.md, section 1). Prints every violation.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
# forbid ROOM PATTERN [allowed files...]: no file of ROOM may include PATTERN, except those named
forbid() {
    local room=$1 pattern=$2 hits
    shift 2
    hits=$(grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($pattern)" "$room" --include='*.[ch]' --include='*.cu*' || true)
    for allowed in "$@"; do hits=$(grep -vE "^$allowed:" <<<"$hits" || true); done
    [ -z "$hits" ] && return 0
    echo "layer: $room must not include $pattern"
    # shellcheck disable=SC2001
    sed 's/^/    /' <<<"$hits"
    bad=1
}
forbid base '(kernels|engine|api|server|cli)/|(png|jpeglib|uv|microhttpd|sqlite3)\.h'
forbid base 'jansson\.h' 'base/json\.h'
forbid kernels '(engine|api|server|cli)/|(jansson|png|jpeglib|uv|microhttpd|sqlite3)\.h'
forbid engine '(api|server|cli)/|kernels/(cpu|cuda)/|(png|jpeglib|uv|microhttpd|sqlite3)\.h|pthread\.h'
forbid api '(kernels|server|cli)/|engine/(engine|core|dit|text|vae|sample|io|verify)|(uv|microhttpd|sqlite3|pthread)\.h'
forbid server '(kernels|cli)/|engine/(core|dit|text|vae|sample|io|verify)|(png|jpeglib)\.h'
forbid cli 'kernels/|(uv|microhttpd|png|jpeglib|sqlite3)\.h'
for room in base engine api server cli; do
    forbid "$room" '(dnnl|oneapi/dnnl).*|cuda.*\.h|cublas.*\.h|omp\.h'
done
forbid kernels '(dnnl|oneapi/dnnl).*|omp\.h' 'kernels/cpu/[a-z_0-9]+\.[ch]'
forbid kernels 'cuda.*\.h|cublas.*\.h|ptx\.cuh' 'kernels/cuda/[a-z_0-9/]+\.cuh?'
forbid server 'microhttpd\.h' 'server/http\.[ch]'
forbid server 'uv\.h' 'server/(loop|listener|watch|front|pool)[a-z_]*\.[ch]'
forbid server 'sqlite3\.h' 'server/disk_db\.c'
forbid api 'png\.h' 'api/png(_read)?\.c'
forbid api '(jpeglib|jerror)\.h' 'api/jpeg_(read|write)\.c'
[ $bad = 0 ] && echo "layers: fine"
exit $bad
