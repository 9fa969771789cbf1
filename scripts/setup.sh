#!/usr/bin/env bash
# Installs what a tier of the project needs on Debian 12 or 13; what is present is left alone.
#
#   scripts/setup.sh build   compile the extension: PHP with headers, libclang, a C compiler, Rust
#   scripts/setup.sh demo    build, and a Python environment with the peer of `make run`
#   scripts/setup.sh test    demo, and the peers and tools of `make test`
#
# Runs as root or through sudo; asks for neither when nothing is missing.
set -euo pipefail
. "$(dirname "$0")/common.sh"

tier=${1:-build}
case $tier in build | demo | test) ;; *) fail "unknown tier '$tier'; build, demo or test" ;; esac

missing=()
# need COMMAND PACKAGE: the package is wanted where the command is absent.
need() { have "$1" || [ -x "/usr/sbin/$1" ] || missing+=("$2"); }
# need_package PATTERN PACKAGE: wanted where no installed package matches.
need_package() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$1" 2>/dev/null | grep -q '^installed ' || missing+=("$2")
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "needs root for: $*"
    fi
}

updated=
apt_update() {
    [ -z "$updated" ] || return 0
    updated=1
    say "setup: refreshing package lists"
    as_root apt-get update -qq || fail "apt-get update failed; see above"
}

# Packages of servers (nginx, haproxy) must not start them: the tests run their own copies.
policy=/usr/sbin/policy-rc.d
policy_ours=
forbid_services() {
    [ ! -e $policy ] || return 0
    policy_ours=1
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
}
allow_services() { [ -z "$policy_ours" ] || as_root rm -f $policy; }
trap allow_services EXIT

apt_install() {
    [ $# -gt 0 ] || return 0
    have apt-get || fail "missing: $*. This script installs them with apt-get only (Debian 12 or 13)"
    say "setup: installing $*"
    apt_update
    forbid_services
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends --no-remove "$@" \
        >/dev/null || fail "apt-get could not install: $*"
}

need cc gcc
need make make
need which debianutils
need php php-cli
need phpize php-dev
need pkg-config pkg-config
need_package 'libc6-dev' libc6-dev
need_package 'ca-certificates' ca-certificates
# bindgen loads libclang and reads clang's own headers (stddef.h); libclang-dev brings both.
need_package 'libclang-*dev' libclang-dev

if [ "$tier" != build ]; then
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi
if [ "$tier" = test ]; then
    need node nodejs
    need npm npm
    need nginx nginx-light
    need haproxy haproxy
    need chromium chromium
    need openssl openssl
    need ip iproute2
    need ps procps
    need valgrind valgrind
    # Counts the system calls of tests/guard.
    need strace strace
    need shellcheck shellcheck
    # libFuzzer is C++, see scripts/fuzz.sh.
    need g++ g++
    # For the source of PHP, see scripts/zts.sh.
    need xz xz-utils
fi
apt_install "${missing[@]}"

php_version=$(php -n -r 'echo PHP_VERSION;')
version_at_least "$php_version" 8.2 || fail "PHP $php_version found; 8.2 or later is needed"

# Rust: the newest cargo here that meets the MSRV, else the newer of Debian's two sets, else rustup.
candidate_version() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p'
}
if ! find_cargo >/dev/null; then
    have apt-get || fail "no Rust >= $MSRV; install it with rustup (https://rustup.rs) and run this again"
    apt_update
    plain=$(candidate_version rustc)
    web=$(candidate_version rustc-web)
    if [ -n "$plain" ] && version_at_least "$plain" "$MSRV"; then
        apt_install rustc cargo
    elif [ -n "$web" ] && version_at_least "$web" "$MSRV"; then
        apt_install rustc-web cargo-web
    elif have rustup || [ -n "$(candidate_version rustup)" ]; then
        have rustup || apt_install rustup
        say "setup: rustup fetches a stable toolchain"
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy ||
            fail "rustup could not install a toolchain"
    fi
    find_cargo >/dev/null || fail "Debian's Rust is ${plain:-absent} (rustc) and ${web:-absent} (rustc-web), \
below $MSRV; install rustup (https://rustup.rs) and run this again"
fi
use_cargo
# Debian ships the linters of its Rust in packages of their own; rustup's toolchains have them.
if [ "$tier" = test ] && [ "$CARGO" = /usr/bin/cargo ]; then
    missing=()
    if dpkg-query -S "$CARGO" 2>/dev/null | grep -q '^cargo-web'; then
        have cargo-clippy || missing+=(rust-web-clippy)
        have rustfmt || missing+=(rustfmt-web)
    else
        have cargo-clippy || missing+=(rust-clippy)
        have rustfmt || missing+=(rustfmt)
    fi
    apt_install "${missing[@]}"
fi
say "setup: $("$CARGO" --version), PHP $php_version"

# fresh STAMP FILE...: true if STAMP holds the checksums of the files, that is, nothing changed.
fresh() {
    local stamp=$1
    shift
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cat "$@" | sha256sum)" ]
}
mark() {
    local stamp=$1
    shift
    cat "$@" | sha256sum >"$stamp"
}

mkdir -p "$CACHE"
if [ "$tier" != build ]; then
    requirements=$ROOT/tests/interop/requirements.txt
    if ! [ -x "$PYTHON" ] || ! fresh "$CACHE/python/.stamp" "$requirements"; then
        say "setup: Python environment in .cache/python"
        rm -rf "$CACHE/python"
        python3 -m venv "$CACHE/python"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
            fail "pip could not install $requirements"
        mark "$CACHE/python/.stamp" "$requirements"
    fi
fi
if [ "$tier" = test ]; then
    for folder in tests/interop js; do
        lock=$ROOT/$folder/package-lock.json
        if ! fresh "$ROOT/$folder/node_modules/.stamp" "$lock"; then
            say "setup: Node packages in $folder/node_modules"
            (cd "$ROOT/$folder" && npm ci --silent --no-audit --no-fund) || fail "npm ci failed in $folder"
            mark "$ROOT/$folder/node_modules/.stamp" "$lock"
        fi
    done
fi
