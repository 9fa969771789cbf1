#!/usr/bin/env bash
# Builds the extension into modules/lifeline.so.
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
use_php

cd "$ROOT"
"$CARGO" build --locked --profile "$PROFILE" -p lifeline
mkdir -p "$(dirname "$MODULE")"
# Replaced, never overwritten: a running PHP may have the old file mapped.
cp -f "$TARGET_DIR/$PROFILE_DIR/liblifeline.so" "$MODULE.new"
mv -f "$MODULE.new" "$MODULE"
"$PHP" -n -d extension="$MODULE" -r 'exit(extension_loaded("lifeline") ? 0 : 1);' ||
    fail "$PHP does not load $MODULE"
say "build: ${MODULE#"$ROOT"/} for PHP $("$PHP_CONFIG" --version) ($PROFILE)"
