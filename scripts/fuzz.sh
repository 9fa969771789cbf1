#!/usr/bin/env bash
# Fuzzes what reads the network and disks: libFuzzer with coverage counters, which stable Rust has, too.
#   FUZZ_SECONDS=10   for each target
#   TARGETS="frames"  only these; `options` are the arrays that PHP gives, and needs the module
#   JOBS=2            at a time (default: one for each core)
# Begins with fuzz/corpus, which is committed; what is new goes to .cache/fuzz. An input that breaks
# something is written to .cache/fuzz/found; play it again with `.cache/fuzz/build/HOST/release/TARGET FILE`.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_cargo

seconds=${FUZZ_SECONDS:-10}
work=$CACHE/fuzz
mkdir -p "$work/found"
export CARGO_TARGET_DIR=$work/build
# As cargo-fuzz does, without the sanitizer, which is nightly's: there is no unsafe code to watch.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts and macros do without the counters.
"$CARGO" build --locked --release --quiet --manifest-path "$ROOT/fuzz/Cargo.toml" --target "$host" ||
    fail "the fuzz targets do not build; is there a C++ compiler? run scripts/setup.sh test"

# target NAME: prints its line; its status is the outcome. 2: cannot be run.
target() {
    local name=$1
    if [ "$name" = options ]; then
        [ -f "$MODULE" ] || {
            say "skip  options: ${MODULE#"$ROOT"/} is not there; run make build"
            return 2
        }
        # From another seed each time; one that fails is told.
        FUZZ_SECONDS=$seconds "${PHP:-php}" -n -d extension="$MODULE" "$ROOT/fuzz/options.php" "$(date +%s)000" >"$work/options.log" 2>&1 || {
            tail -n 30 "$work/options.log"
            say "FAIL  options"
            return 1
        }
        sed -n "s/^options: \([0-9]* arrays\), \(.*\)/options: \1 in $seconds s, \2/p" "$work/options.log"
        return 0
    fi
    mkdir -p "$work/$name"
    "$CARGO_TARGET_DIR/$host/release/$name" -max_total_time="$seconds" -max_len=4096 -len_control=20 \
        -rss_limit_mb=512 -timeout=5 -print_final_stats=1 -verbosity=0 -artifact_prefix="$work/found/$name-" \
        "$work/$name" "$ROOT/fuzz/corpus/$name" >"$work/$name.log" 2>&1 || {
        tail -n 30 "$work/$name.log"
        say "FAIL  $name"
        return 1
    }
    say "$name: $(sed -n 's/^stat::number_of_executed_units: //p' "$work/$name.log") inputs in $seconds s"
}

passed=0 failed=0 skipped=0
# Waits for one of those that run.
ended() {
    wait -n
    case $? in 0) passed=$((passed + 1)) ;; 2) skipped=$((skipped + 1)) ;; *) failed=$((failed + 1)) ;; esac
}
jobs=${JOBS:-$(nproc)} running=0
for name in ${TARGETS:-frames decoder deflate extensions request answer proxy server client log kept worker options}; do
    if [ "$running" -ge "$jobs" ]; then
        ended
        running=$((running - 1))
    fi
    target "$name" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    ended
    running=$((running - 1))
done
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
