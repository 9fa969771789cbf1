# shellcheck shell=bash
# shellcheck disable=SC2034
# Sourced by every script: where things are, which tools are used, and how to speak.
#
#   CARGO             cargo to use (default: what scripts/setup.sh found)
#   CARGO_TARGET_DIR  where cargo builds (default: target/)
#   PHP, PHP_CONFIG   PHP to build for and test with (default: those on the PATH)
#   PROFILE           cargo profile of the extension (default: release)

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
# The oldest compiler that builds the workspace; the manifest is the one place that says which.
MSRV=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1)

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The version of the compiler that a cargo runs with, empty if it does not run.
rust_version_of() {
    local rustc
    rustc=$(dirname "$1")/rustc
    [ -x "$rustc" ] || rustc=rustc
    "$1" --version >/dev/null 2>&1 || return 0
    "$rustc" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
}

# Prints the newest cargo that meets MSRV; fails if there is none.
find_cargo() {
    local candidate version best="" best_version=0
    for candidate in "${CARGO:-}" "$(command -v cargo || true)" "$HOME/.cargo/bin/cargo" /usr/bin/cargo \
        /usr/local/bin/cargo /usr/lib/rust-*/bin/cargo; do
        [ -n "$candidate" ] && [ -x "$candidate" ] || continue
        version=$(rust_version_of "$candidate")
        [ -n "$version" ] || continue
        version_at_least "$version" "$MSRV" || continue
        if [ "$version" != "$best_version" ] && version_at_least "$version" "$best_version"; then
            best=$candidate
            best_version=$version
        fi
    done
    [ -n "$best" ] && printf '%s\n' "$best"
}

# Sets CARGO and sees to it that rustc, rustfmt and clippy are its own: puts its folder first on the PATH
# where need be. Only there: with another PATH, ext-php-rs and the extension are compiled again.
use_cargo() {
    CARGO=$(find_cargo) || fail "no Rust >= $MSRV found; run scripts/setup.sh build"
    export CARGO
    [ "$(command -v rustc || true)" = "$(dirname "$CARGO")/rustc" ] || PATH=$(dirname "$CARGO"):$PATH
    export PATH
}

# Sets PHP and PHP_CONFIG to absolute paths (ext-php-rs refuses others) that belong together.
use_php() {
    local wanted=${PHP:-php} config=${PHP_CONFIG:-php-config}
    PHP=$(command -v "$wanted") || fail "no '$wanted' found; run scripts/setup.sh build"
    # As configure names it, so that cargo sees the same environment both ways.
    PHP=$(readlink -f "$PHP")
    PHP_CONFIG=$(command -v "$config") || fail "no '$config' found; run scripts/setup.sh build"
    export PHP PHP_CONFIG
    local cli dev
    cli=$("$PHP" -n -r 'echo PHP_MAJOR_VERSION, ".", PHP_MINOR_VERSION;')
    dev=$("$PHP_CONFIG" --version | cut -d. -f1,2)
    [ "$cli" = "$dev" ] || fail "$PHP is PHP $cli but $PHP_CONFIG is of PHP $dev; set PHP and PHP_CONFIG"
}

TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
case $TARGET_DIR in /*) ;; *) TARGET_DIR=$PWD/$TARGET_DIR ;; esac
export CARGO_TARGET_DIR=$TARGET_DIR
PROFILE=${PROFILE:-release}
PROFILE_DIR=$PROFILE
[ "$PROFILE" != dev ] || PROFILE_DIR=debug
MODULE=${MODULE:-$ROOT/modules/lifeline.so}
PYTHON=$CACHE/python/bin/python
