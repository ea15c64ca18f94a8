# shellcheck shell=bash disable=SC2034
# packages.sh - sourced by run and test: installs Debian packages that are missing, and only those.

# need_packages WHY package...
need_packages() {
    local why=$1 missing=() p
    shift
    for p in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if ! command -v apt-get >/dev/null; then
        echo "missing Debian packages to $why: ${missing[*]} (no apt-get here: install their like)" >&2
        return 1
    fi
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "to $why, as root: apt-get install ${missing[*]}" >&2; return 1; }
        root=(sudo)
    fi
    echo "== installing to $why: ${missing[*]}"
    if ! "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null 2>&1; then
        "${root[@]}" apt-get update -qq
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null
    fi
}

BUILD_PACKAGES=(gcc g++ libc6-dev cmake ninja-build pkg-config libdnnl-dev libmicrohttpd-dev libjansson-dev
    libuv1-dev libpng-dev libjpeg62-turbo-dev libutf8proc-dev libsqlite3-dev)

# build_preset NAME ON|OFF: configures when needed, with the tests or without, and builds, showing
# ninja's own progress line. Tests that are there already stay.
build_preset() {
    if ! [ -f "build/$1/build.ninja" ] || { [ "$2" = ON ] && grep -q '^BUILD_TESTING:BOOL=OFF' "build/$1/CMakeCache.txt"; }; then
        cmake --preset "$1" -DBUILD_TESTING="$2" >"/tmp/taca-configure.$$" 2>&1 || {
            cat "/tmp/taca-configure.$$" >&2
            rm -f "/tmp/taca-configure.$$"
            return 1
        }
        rm -f "/tmp/taca-configure.$$"
    fi
    cmake --build --preset "$1"
}
