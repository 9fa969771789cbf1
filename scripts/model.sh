#!/usr/bin/env bash
# Plays random schedules of faults against both ends of lifeline.v1, see crates/proto/tests/model.
#   MODEL_SCHEDULES=10000  so many
#   MODEL_FIRST=1          from that seed on
#   MODEL_SEED=7           only that one; MODEL_TRACE=1 tells what moves
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
export MODEL_SCHEDULES=${MODEL_SCHEDULES:-10000}
# As fast as a release, with every assertion.
cd "$ROOT"
exec "$CARGO" test --locked --profile checked -p lifeline-proto --test model -- --nocapture
