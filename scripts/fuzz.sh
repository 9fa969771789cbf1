#!/usr/bin/env bash
# Fuzzes what reads the network and disks: libFuzzer with coverage counters, which stable Rust has, too.
#   FUZZ_SECONDS=10   for each target
#   TARGETS="frames"  only these
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

passed=0 failed=0
for target in ${TARGETS:-frames decoder deflate extensions request answer proxy server client log kept}; do
    mkdir -p "$work/$target"
    if "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -max_len=4096 -len_control=20 \
        -rss_limit_mb=512 -timeout=5 -print_final_stats=1 -verbosity=0 -artifact_prefix="$work/found/$target-" \
        "$work/$target" "$ROOT/fuzz/corpus/$target" >"$work/$target.log" 2>&1; then
        passed=$((passed + 1))
        say "$target: $(sed -n 's/^stat::number_of_executed_units: //p' "$work/$target.log") inputs in $seconds s"
    else
        failed=$((failed + 1))
        tail -n 30 "$work/$target.log"
    fi
done
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
