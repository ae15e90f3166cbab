#!/usr/bin/env bash
# Finds a `bitcoind` for the tests and prints its path, alone, on standard output; everything else goes to standard
# error. In this order: $BITCOIND, `bitcoind` on PATH, the cache, a build.
#
#     export BITCOIND="$(tests/bitcoind.sh)"
#
# The build takes Bitcoin Core's sources from where cargo can get them: the package libbitcoinkernel-sys carries the
# whole tree, daemon included. It makes a node without wallet, ZMQ and IPC, in under five minutes on two cores, and
# caches it outside the checkout, in ${XDG_CACHE_HOME:-~/.cache}/btcr2-agent/bitcoind-<version>/. As root on a
# Debian-like system it installs the build tools it misses; elsewhere it says which.
#
#     --cached   do not build: fail where neither a node nor a cached one is found
set -euo pipefail

# The version of libbitcoinkernel-sys and the SHA-256 of its package file (as in the registry's index).
VERSION=0.4.1
PACKAGE_SHA256=345d18a1ce19a1becfcaaa066e3a60e9c7813ef5c23ea8c20704ca4ba1a46339

say() { printf 'bitcoind.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
runs() { "$1" -version >/dev/null 2>&1; }

if [ -n "${BITCOIND:-}" ]; then
    found=$(command -v "$BITCOIND") && runs "$found" || die "BITCOIND is set to '$BITCOIND', which does not run"
    printf '%s\n' "$found"
    exit 0
fi
if found=$(command -v bitcoind) && runs "$found"; then
    printf '%s\n' "$found"
    exit 0
fi
cache="${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/btcr2-agent/bitcoind-$VERSION"
if [ -x "$cache/bitcoind" ] && runs "$cache/bitcoind"; then
    printf '%s\n' "$cache/bitcoind"
    exit 0
fi
[ "${1:-}" != --cached ] || die "no bitcoind: none in BITCOIND, on PATH or in the cache; run tests/bitcoind.sh to build one"

# What the build needs. Boost is used for its headers only.
missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v c++ >/dev/null || missing+=(g++)
# Ninja keeps all cores busy to the end; make does not.
if ! command -v ninja >/dev/null; then
    if can_install || ! command -v make >/dev/null; then missing+=(ninja-build); fi
fi
[ -e /usr/include/boost/version.hpp ] || [ -n "${BOOST_ROOT:-}" ] || [ "$(uname)" != Linux ] || missing+=(libboost-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
if [ ${#missing[@]} -gt 0 ]; then
    if can_install; then
        say "installing ${missing[*]}"
        { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >&2
    else
        die "to build a node, install: ${missing[*]} (or set BITCOIND to a bitcoind you have)"
    fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/fetch/src" "$cache"
: >"$work/fetch/src/lib.rs"
cat >"$work/fetch/Cargo.toml" <<TOML
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
libbitcoinkernel-sys = "=$VERSION"
[workspace]
TOML
say "fetching the sources (libbitcoinkernel-sys $VERSION)"
(cd "$work/fetch" && cargo vendor -q --versioned-dirs "$work/vendor" >/dev/null)
package="$work/vendor/libbitcoinkernel-sys-$VERSION"
grep -q "\"package\":\"$PACKAGE_SHA256\"" "$package/.cargo-checksum.json" \
    || die "the package libbitcoinkernel-sys $VERSION is not the one this script knows"

started=$(date +%s)
if command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
# Nearly all the time goes into reading the same headers and expanding the same templates for each of 270 files.
# Compiled in bundles that is done once for sixteen of them. Two files of Bitcoin Core can not share one: both name a `CacheSizes`.
cat >"$work/bundles.cmake" <<'CMAKE'
cmake_language(DEFER CALL set_source_files_properties "${CMAKE_SOURCE_DIR}/src/node/chainstate.cpp" DIRECTORY src
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
CMAKE
# Optimised little: less hardly builds faster, and mines four times slower; more takes half as long again.
build() {
    rm -rf "$work/build"
    cmake -B "$work/build" -S "$package/bitcoin" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
        -DAPPEND_CXXFLAGS=-w -DBUILD_DAEMON=ON -DBUILD_CLI=OFF -DBUILD_TX=OFF -DBUILD_UTIL=OFF -DBUILD_BITCOIN_BIN=OFF \
        -DBUILD_TESTS=OFF -DBUILD_BENCH=OFF -DBUILD_GUI=OFF -DBUILD_FUZZ_BINARY=OFF -DBUILD_KERNEL_LIB=OFF \
        -DENABLE_WALLET=OFF -DENABLE_IPC=OFF -DENABLE_EXTERNAL_SIGNER=OFF -DWITH_ZMQ=OFF -DWITH_USDT=OFF \
        -DWITH_EMBEDDED_ASMAP=OFF -DWITH_CCACHE=OFF -DINSTALL_MAN=OFF "$@" &&
        cmake --build "$work/build" -j "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" --target bitcoind
}
bundled=(-DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=16 "-DCMAKE_PROJECT_BitcoinCore_INCLUDE=$work/bundles.cmake")
say "building bitcoind into $cache (some minutes, once)"
if ! build "${bundled[@]}" >"$work/log" 2>&1; then
    grep -m 5 'error' "$work/log" >&2 || true
    say "not in bundles with this compiler; now file by file, which takes longer"
    build >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; die "the build failed"; }
fi
strip "$work/build/bin/bitcoind" 2>/dev/null || true
# Renamed into place, so that a build that was cut off, or another one beside it, is never taken for a node.
cp "$work/build/bin/bitcoind" "$cache/.bitcoind.$$"
mv "$cache/.bitcoind.$$" "$cache/bitcoind"
runs "$cache/bitcoind" || die "the node that was built does not run"
say "built in $(($(date +%s) - started)) s: $("$cache/bitcoind" -version | head -n 1)"
printf '%s\n' "$cache/bitcoind"
