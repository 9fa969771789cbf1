#!/usr/bin/env bash
# Measures lifeline beside its peers and writes bench/RESULTS.md.
#   scripts/bench.sh [arguments of bench/bench.py]
#   QUICK=1   short runs, to see that it works
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
use_php
have node && have npm || fail "needs node and npm; run scripts/setup.sh test"

cd "$ROOT"
"$CARGO" build --locked --release -p lifeline-load
"$CARGO" build --locked --release -p lifeline-store --example appends
# Always of the sources that are here; a module of another build is named by LIFELINE_SO.
[ -n "${LIFELINE_SO:-}" ] || scripts/build.sh
# node-gyp-build finds the prebuilt bufferutil; nothing needs to run at installation.
if ! cmp -s bench/package-lock.json bench/node_modules/.lock; then
    (cd bench && npm ci --silent --no-audit --no-fund --ignore-scripts) || fail "npm ci failed in bench"
    cp bench/package-lock.json bench/node_modules/.lock
fi
exec env LIFELINE_SO="${LIFELINE_SO:-$MODULE}" LIFELINE_LOAD="$TARGET_DIR/release/lifeline-load" LIFELINE_APPENDS="$TARGET_DIR/release/examples/appends" PHP="$PHP" \
    python3 bench/bench.py "$@"
