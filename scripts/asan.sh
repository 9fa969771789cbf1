#!/usr/bin/env bash
# Runs the crates' own tests with AddressSanitizer and its search for leaks: what unsafe code of dependencies does to
# memory, and what a test leaves behind that nobody can reach any more (a cycle of Arcs, for instance).
#   scripts/asan.sh [CARGO TEST ARGUMENTS]    default: the rules, the store and the engine
# The sanitizer's runtime comes with each toolchain, its switch is nightly's: RUSTC_BOOTSTRAP opens it. The standard
# library is not instrumented. Not for lifeline-handoff: loom's threads change stacks, which the sanitizer cannot follow.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
cd "$ROOT" || exit 1

[ $# -gt 0 ] || set -- -p lifeline-proto -p lifeline-store -p lifeline-engine
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$CACHE/asan
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"
export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
# With a target named, build scripts and macros do without. Doc tests are programs of their own, and have nothing to show.
exec "$CARGO" test --locked --target "$host" --quiet --no-fail-fast --lib --tests "$@"
