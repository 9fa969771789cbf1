#!/usr/bin/env bash
# Installs modules/lifeline.so for the PHP at hand and enables it.
#   DESTDIR   prefix for packaging; then nothing is enabled
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_php

[ -f "$MODULE" ] || fail "$MODULE is not there; run make build"
extensions=$("$PHP_CONFIG" --extension-dir)
install -D -m 644 "$MODULE" "${DESTDIR:-}$extensions/lifeline.so" ||
    fail "cannot write to ${DESTDIR:-}$extensions; run as root"
say "install: ${DESTDIR:-}$extensions/lifeline.so"
[ -z "${DESTDIR:-}" ] || exit 0

if have phpenmod && [ -d "/etc/php/$("$PHP_CONFIG" --version | cut -d. -f1,2)/mods-available" ]; then
    version=$("$PHP_CONFIG" --version | cut -d. -f1,2)
    printf '; lifeline\nextension=lifeline.so\n' >"/etc/php/$version/mods-available/lifeline.ini"
    phpenmod -v "$version" lifeline
elif scan=$("$PHP_CONFIG" --ini-dir) && [ -d "$scan" ]; then
    printf 'extension=lifeline.so\n' >"$scan/20-lifeline.ini"
else
    say "install: add 'extension=lifeline.so' to $("$PHP_CONFIG" --ini-path)/php.ini"
    exit 0
fi
"$PHP" -r 'exit(extension_loaded("lifeline") ? 0 : 1);' || fail "installed, but $PHP does not load it"
say "install: enabled"
