#!/usr/bin/env bash
# Runs every part of the test suite and counts.
#   scripts/test.sh          what `make test` is: a budget of 25 minutes on 2 cores
#   scripts/test.sh full     adds what takes longer
#   PARTS="phpt interop"     only these
# Each part is a command that exits 0 or not and whose output tells how many tests ran: cargo's and
# phpt's own summaries, or a last line `N passed, N failed[, N skipped]`. A part that ran no test fails.
set -uo pipefail
. "$(dirname "$0")/common.sh"

mode=${1:-short}
case $mode in short | full) ;; *) fail "unknown mode '$mode'; full or nothing" ;; esac
cd "$ROOT" || exit 1
logs=$CACHE/logs
mkdir -p "$logs"

total_passed=0 total_failed=0 total_skipped=0
report=()
started=$SECONDS

# Prints "passed failed skipped" as found in a log.
count() {
    python3 - "$1" <<'PY'
import re
import sys

text = open(sys.argv[1], errors="replace").read()
passed = failed = skipped = 0
cargo = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", text, re.M)
for row in cargo:
    passed, failed, skipped = passed + int(row[0]), failed + int(row[1]), skipped + int(row[2])
for name, value in re.findall(r"^(?:Expected test|Tests?) (\w+)\s*:\s*(\d+)", text, re.M):
    if name in ("passed", "warned"):
        passed += int(value)
    elif name in ("failed", "leaked", "borked"):
        failed += int(value)
    elif name in ("skipped", "fail"):
        skipped += int(value)
plain = re.findall(r"^(?:\S+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", text, re.M)
if plain:
    row = plain[-1]
    passed, failed, skipped = passed + int(row[0]), failed + int(row[1]), skipped + int(row[2] or 0)
print(passed, failed, skipped)
PY
}

wanted() { [ -z "${PARTS:-}" ] || case " $PARTS " in *" $1 "*) ;; *) return 1 ;; esac; }

# tally NAME STATUS SECONDS LIMIT: adds the counts of a part that has ended.
tally() {
    local name=$1 status=$2 seconds=$3 passed failed skipped
    read -r passed failed skipped <<<"$(count "$logs/$name.log")"
    [ "$status" != 124 ] && [ "$status" != 137 ] || say "$name: not done after $4 s"
    if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    if [ "$status" = 0 ] && [ $((passed + failed)) = 0 ]; then
        say "$name: ran no test"
        failed=1
    fi
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    total_skipped=$((total_skipped + skipped))
    report+=("$(printf '%-12s %4d s  %5d passed  %3d failed  %3d skipped' "$name" "$seconds" "$passed" "$failed" "$skipped")")
}

# part NAME SECONDS COMMAND...: runs one part and adds its counts.
part() {
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    wanted "$name" || return 0
    say ""
    say "== $name"
    timeout --kill-after=20 "$limit" "$@" 2>&1 | tee "$logs/$name.log"
    tally "$name" "${PIPESTATUS[0]}" $((SECONDS - begin)) "$limit"
}

# beside NAME SECONDS COMMAND...: the same, beside what follows; `await` waits for it. One at a time.
beside=
beside() {
    wanted "$1" || return 0
    beside_name=$1 beside_limit=$2 beside_begin=$SECONDS
    shift 2
    timeout --kill-after=20 "$beside_limit" "$@" >"$logs/$beside_name.log" 2>&1 &
    beside=$!
}
await() {
    [ -n "$beside" ] || return 0
    local status
    wait "$beside"
    status=$?
    beside=
    say ""
    say "== $beside_name"
    cat "$logs/$beside_name.log"
    tally "$beside_name" "$status" $((SECONDS - beside_begin)) "$beside_limit"
}
trap '[ -z "$beside" ] || kill "$beside" 2>/dev/null' EXIT

# A step without tests of its own: done or not.
step() {
    local name=$1
    shift
    "$@" && say "$name: 1 passed, 0 failed"
}
export -f step say

scripts/setup.sh test || {
    say "0 passed, 1 failed"
    exit 1
}
use_cargo
use_php

# These three may have everything to compile first, on a machine that has other things to do.
part lint 1800 scripts/lint.sh
# The extension itself cannot be linked into a test program: Zend's symbols are PHP's.
part rust 2400 "$CARGO" test --locked --workspace --exclude lifeline --quiet --no-fail-fast
beside js 300 scripts/js.sh
# With optimisation and every assertion: 10,000 schedules of faults take about a minute.
part model 1200 scripts/model.sh
await
part build 1800 bash -c 'step build scripts/build.sh'
# After the build: arrays of options are fuzzed through PHP.
part fuzz 1200 env FUZZ_SECONDS="${FUZZ_SECONDS:-5}" scripts/fuzz.sh
if [ ! -f "$MODULE" ]; then
    report+=("the rest needs the module")
    total_failed=$((total_failed + 1))
else
    part phpt 400 scripts/phpt.sh
    # All of them under valgrind take half an hour; these touch each kind of object.
    [ "$mode" = full ] || part valgrind 300 scripts/phpt.sh -m tests/phpt/classes.phpt tests/phpt/client/echo.phpt
    part packaging 600 tests/packaging/run
    part interop 400 tests/interop/run
    # Two minutes that are mostly spent waiting, beside what computes.
    beside soak 600 tests/soak/run mixed
    part conformance 600 tests/conformance/run
    await
    part leaks 600 tests/soak/run memory leaks
    # The kinds of test that bring their own runner. Three of them wait more than they compute.
    beside browser 600 tests/browser/run
    part chaos 600 tests/chaos/run
    part workers 600 tests/workers/run
    await
    part abuse 600 tests/abuse/run
    part guard 600 tests/guard/run
    part demo 120 env DURATION=20 scripts/demo.sh
    if [ "$mode" = full ]; then
        part audit 3600 scripts/audit.sh
        part asan 7200 scripts/asan.sh
        if cargo +nightly miri --version >/dev/null 2>&1; then part miri 7200 scripts/miri.sh; fi
        part valgrind 7200 scripts/phpt.sh -m
        for name in chaos workers abuse soak; do
            [ ! -x "tests/$name/run" ] || part "$name-full" 7200 "tests/$name/run" full
        done
        part conformance-full 7200 tests/conformance/run full
        part matrix 7200 scripts/matrix.sh
        part zts 7200 scripts/zts.sh
    fi
fi

say ""
say "== summary, $((SECONDS - started)) s"
printf '%s\n' "${report[@]}"
say "$total_passed passed, $total_failed failed, $total_skipped skipped"
[ $total_failed = 0 ]
