#!/usr/bin/env bash
# Runs the phpt tests against the built module.
#   scripts/phpt.sh [-m] [TEST...]   -m: under valgrind
#   PHPT_EXTENSIONS="/path/swoole.so"      further extensions
# PHP's own runner is used, in PHP's default configuration plus the module alone.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_php
[ -f "$MODULE" ] || fail "$MODULE is not there; run make build"
options=(-q --no-color --show-diff -g "FAIL,BORK,LEAK,XFAIL,WARN" --set-timeout 120)
memory=
while getopts m option; do
    case $option in m) memory=1 ;; *) exit 2 ;; esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- tests/phpt
cd "$ROOT" || exit 1

# Debian keeps the build files by API number, others do not.
prefix=$("$PHP_CONFIG" --prefix)/lib/php
runner=$prefix/build/run-tests.php
[ -f "$runner" ] || runner=$prefix/$("$PHP_CONFIG" --phpapi)/build/run-tests.php
[ -f "$runner" ] || fail "no run-tests.php beside $PHP_CONFIG"

if [ -n "$memory" ]; then
    # Code that PCRE makes while it runs reads past the end of strings, harmlessly.
    options+=(-m --show-mem --set-timeout 600 -d pcre.jit=0)
    PATH=$ROOT/scripts/memcheck:$PATH
    # Optimised Rust reads the payload of an enum beside its tag, and judges the tag afterwards.
    [ "$PROFILE" = dev ] || export VALGRIND_OPTS="--undef-value-errors=no ${VALGRIND_OPTS:-}"
    # Zend's allocator would hide what is freed too late or never.
    export USE_ZEND_ALLOC=0
fi
options+=(-j"$(nproc)")
# Extensions that some tests ask for (pcntl is built in on Debian's cli, sockets is shared).
loaded() { "$PHP" -n "${@:2}" -r 'exit(extension_loaded($argv[1]) ? 0 : 1);' "$1" >/dev/null; }
extensions=()
for name in posix sockets; do
    loaded "$name" && continue
    loaded "$name" -d extension="$name" 2>/dev/null && extensions+=(-d "extension=$name")
done
# More to load, for tests that want what is not on every machine.
for file in ${PHPT_EXTENSIONS:-}; do extensions+=(-d "extension=$file"); done
NO_INTERACTION=1 TEST_PHP_EXECUTABLE=$PHP TEST_PHP_SRCDIR=$ROOT \
    "$PHP" -n "$runner" -p "$PHP" -n "${extensions[@]}" -d extension="$MODULE" "${options[@]}" "$@" |
    sed -u 's/\r/\n/g' | grep -a --line-buffered -vE '^TEST [0-9]+/[0-9]+ |^ *$'
exit "${PIPESTATUS[0]}"
