#!/usr/bin/env bash
# Runs the rules' and the hand-overs' own tests under Miri, which finds undefined behaviour in what they and their
# dependencies do. Miri comes with nightly toolchains only: `rustup toolchain install nightly --component miri`.
#   scripts/miri.sh [FILTER]
set -uo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT" || exit 1

have cargo && cargo +nightly miri --version >/dev/null 2>&1 ||
    fail "Miri is not installed; rustup toolchain install nightly --component miri"
# Property tests would take hours: a few cases each. They keep failures in files, which Miri's isolation forbids.
export PROPTEST_CASES=4 PROPTEST_DISABLE_FAILURE_PERSISTENCE=true CARGO_TARGET_DIR=$CACHE/miri
exec cargo +nightly miri test --locked -p lifeline-proto --lib -- "$@"
