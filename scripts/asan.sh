#!/usr/bin/env bash
# Runs the crates' own tests with AddressSanitizer and its search for leaks: what unsafe code of dependencies does to
# memory, and what a test leaves behind that nobody can reach any more (a cycle of Arcs, for instance).
#   scripts/asan.sh [CARGO TEST ARGUMENTS]    such as -p lifeline-engine --lib; default: the rules, the store and the engine
# The sanitizer's runtime comes with each toolchain, its switch is nightly's: RUSTC_BOOTSTRAP opens it. The standard
# library is not instrumented. Not for lifeline-handoff: loom's threads change stacks, which the sanitizer cannot follow.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
cd "$ROOT" || exit 1

host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$CACHE/asan
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"
ours=detect_leaks=1:detect_stack_use_after_return=1
# With a target named, build scripts and macros do without. Doc tests are programs of their own, and have nothing to show.
tests() { "$CARGO" test --locked --target "$host" --quiet --no-fail-fast "$@"; }

if [ $# -gt 0 ]; then
    ASAN_OPTIONS=$ours:${ASAN_OPTIONS:-} tests "$@"
    exit
fi
failed=0
bomb=output_is_bounded_while_inflating
ASAN_OPTIONS=$ours:${ASAN_OPTIONS:-} tests --lib --tests -p lifeline-proto -p lifeline-store -p lifeline-engine -- \
    --skip "$bomb" || failed=1
# This one measures the process, to which what is freed would still belong for a while: as little of it as can be.
ASAN_OPTIONS=$ours:quarantine_size_mb=1:thread_local_quarantine_size_kb=64:${ASAN_OPTIONS:-} \
    tests -p lifeline-engine --test bomb || failed=1
exit $failed
