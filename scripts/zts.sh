#!/usr/bin/env bash
# Builds a thread-safe debug PHP from Debian's source in .cache/php-zts, and runs the phpt tests with
# it. A debug PHP also reports every block of memory that the module leaks.
set -uo pipefail
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/beside.sh"
use_cargo

home=$CACHE/php-zts
suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-bookworm}")
if [ ! -f "$home/.stamp" ]; then
    have xz || fail "needs xz; install xz-utils"
    rm -rf "$home"
    mkdir -p "$home/source"
    beside_init "$home/apt" "$suite"
    name=php$(php -n -r 'echo PHP_MAJOR_VERSION, ".", PHP_MINOR_VERSION;')
    say "zts: fetching the source of $name"
    (cd "$home/source" && beside_apt -qq source --download-only "$name") || fail "cannot fetch the source of $name"
    tar -xJf "$home/source/$name"_*.orig.tar.xz -C "$home/source" --strip-components=1 || fail "cannot unpack the source"
    say "zts: building $name, some minutes; .cache/php-zts/build.log"
    (
        cd "$home/source" &&
            ./configure --prefix="$home" --enable-zts --enable-debug --disable-all --disable-cgi --disable-phpdbg \
                --enable-cli --enable-pcntl --enable-posix --enable-sockets --enable-tokenizer --enable-ctype &&
            make -j"$(nproc)" && make install-cli install-headers install-build install-programs
    ) >"$home/build.log" 2>&1 || {
        tail -n 20 "$home/build.log" >&2
        fail "PHP did not build; see .cache/php-zts/build.log"
    }
    touch "$home/.stamp"
fi
export PHP=$home/bin/php PHP_CONFIG=$home/bin/php-config
export CARGO_TARGET_DIR=$TARGET_DIR/php-zts MODULE=$ROOT/modules/php-zts/lifeline.so
"$ROOT/scripts/build.sh" && exec "$ROOT/scripts/phpt.sh"
