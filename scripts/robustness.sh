#!/usr/bin/env bash
# Writes docs/robustness.md: runs what attacks, and puts down what it printed.
#   FULL=1                  the real sizes (hours); else the forms of `make test`
#   PARTS="abuse fuzz"      runs only these; of the others the page keeps what it has
# The parts: abuse, conformance, fuzz, unsafe, soak. A part whose script is not there is told as such.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
use_php
cd "$ROOT" || exit 1
[ -f "$MODULE" ] || fail "$MODULE is not there; run make build"

logs=$CACHE/robustness
mkdir -p "$logs"
form=() fuzz_seconds=${FUZZ_SECONDS:-10}
if [ -n "${FULL:-}" ]; then
    form=(full)
    fuzz_seconds=${FUZZ_SECONDS:-600}
fi

# part NAME COMMAND...: its output goes to a log, its status to another file.
part() {
    local name=$1
    shift
    [ -z "${PARTS:-}" ] || case " $PARTS " in *" $name "*) ;; *) return 0 ;; esac
    if [ ! -x "$1" ] && [ "$1" != env ]; then
        rm -f "$logs/$name.log"
        return 0
    fi
    say "robustness: $name"
    local begin=$SECONDS
    "$@" >"$logs/$name.log" 2>&1
    printf '%s %s %s\n' "$?" $((SECONDS - begin)) "${FULL:+full}" >"$logs/$name.status"
}

part abuse tests/abuse/run "${form[@]}"
part conformance tests/conformance/run "${form[@]}"
part fuzz env FUZZ_SECONDS="$fuzz_seconds" scripts/fuzz.sh
part unsafe scripts/unsafe.sh
part soak tests/soak/run "${form[@]}"

python3 scripts/robustness.py "$logs" "$MODULE" "$PHP" >docs/robustness.md.new || fail "the page cannot be written"
mv docs/robustness.md.new docs/robustness.md
say "robustness: docs/robustness.md"
