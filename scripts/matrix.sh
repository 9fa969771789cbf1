#!/usr/bin/env bash
# Builds and runs the phpt tests with PHP 8.2 (Debian 12, bookworm) and 8.4 (Debian 13, trixie).
#   scripts/matrix.sh [8.2] [8.4]
# The system's PHP is taken where it is one of them; the other is unpacked in .cache/php-X.Y.
set -uo pipefail
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/beside.sh"
use_cargo

declare -A suites=([8.2]=bookworm [8.4]=trixie)
[ $# -gt 0 ] || set -- 8.2 8.4

# unpack VERSION: makes $home/bin/php and $home/bin/php-config.
unpack() {
    local version=$1 suite=${suites[$1]} home=$CACHE/php-$1 root api loader theirs ours multiarch libraries
    root=$home/root
    [ ! -f "$home/.stamp" ] || return 0
    say "matrix: unpacking PHP $version of Debian $suite in .cache/php-$version"
    rm -rf "$home"
    mkdir -p "$home/bin" "$root"
    beside_init "$home/apt" "$suite"
    beside_unpack_all "$root" "php$version-cli"
    beside_unpack "$root" "php$version-dev"

    multiarch=$(gcc -print-multiarch)
    api=$(basename "$(find "$root/usr/include/php" -mindepth 1 -maxdepth 1 -name '20*' | head -n 1)")
    libraries=$root/usr/lib/$multiarch:$root/lib/$multiarch:$root/usr/lib:$root/lib
    # A module built here needs a C library at least as new as this system's; so of the two the newer
    # one is used, with its own loader.
    theirs=$(find "$root" -name 'libc.so.6' -printf '%h\n' | head -n 1)
    theirs=$(strings -a "$theirs/libc.so.6" | sed -n 's/^GNU C Library .* release version \([0-9.]*[0-9]\).*/\1/p')
    ours=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
    if version_at_least "$ours" "$theirs"; then
        find "$root" -regextype posix-extended -regex '.*/(libc|libm|libdl|libpthread|librt|libresolv|ld-linux.*)\.so\.[0-9]+' -delete
        loader=""
    else
        loader=$(find "$root" -name 'ld-linux*.so.*' | head -n 1)
    fi
    # PHP_BINARY must be this script, for tests that start PHP again.
    if [ -n "$loader" ]; then
        printf '#!/bin/sh\nexec %s --argv0 "$0" --library-path %s %s -d extension_dir=%s "$@"\n' \
            "$loader" "$libraries" "$root/usr/bin/php$version" "$root/usr/lib/php/$api" >"$home/bin/php"
    else
        printf '#!/bin/bash\nexec -a "$0" env LD_LIBRARY_PATH=%s %s -d extension_dir=%s "$@"\n' \
            "$libraries" "$root/usr/bin/php$version" "$root/usr/lib/php/$api" >"$home/bin/php"
    fi
    sed "s#/usr\b#$root/usr#g" "$root/usr/bin/php-config$version" >"$home/bin/php-config"
    chmod +x "$home/bin/php" "$home/bin/php-config"
    "$home/bin/php" -n -r 'echo PHP_VERSION, PHP_EOL;' || fail "the unpacked PHP $version does not run"
    touch "$home/.stamp"
}

total_passed=0 total_failed=0
base=$TARGET_DIR
for version in "$@"; do
    [ -n "${suites[$version]:-}" ] || fail "unknown version '$version'; ${!suites[*]}"
    say "== PHP $version"
    if [ "$(php -n -r 'echo PHP_MAJOR_VERSION, ".", PHP_MINOR_VERSION;' 2>/dev/null)" = "$version" ]; then
        export PHP=php PHP_CONFIG=php-config CARGO_TARGET_DIR=$base
    else
        unpack "$version"
        export PHP=$CACHE/php-$version/bin/php PHP_CONFIG=$CACHE/php-$version/bin/php-config
        export CARGO_TARGET_DIR=$base/php-$version
    fi
    export MODULE=$ROOT/modules/php-$version/lifeline.so
    log=$CACHE/logs/matrix-$version.log
    mkdir -p "$CACHE/logs"
    if "$ROOT/scripts/build.sh" && "$ROOT/scripts/phpt.sh" 2>&1 | tee "$log"; then
        total_passed=$((total_passed + 1))
    else
        total_failed=$((total_failed + 1))
        say "FAIL  PHP $version, see .cache/logs/matrix-$version.log"
    fi
done
say "matrix: $total_passed passed, $total_failed failed"
[ $total_failed = 0 ]
