#!/usr/bin/env bash
# Checks what of others is in the extension, by deny.toml: licences, banned and doubled crates, where they come from,
# and known vulnerabilities. cargo-deny is built once, in .cache/cargo-deny, which takes some minutes.
#
# The advisories are a git repository. Where it cannot be reached, and no copy of it is there (in $CARGO_HOME, or
# ADVISORIES=folder), they are not checked, which is said and counted as skipped; all the rest needs no network once
# the crates are there.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
cd "$ROOT" || exit 1

version=0.20.2
home=$CACHE/cargo-deny
log=$CACHE/logs/audit.log
mkdir -p "$CACHE/logs"
if ! "$home/bin/cargo-deny" --version 2>/dev/null | grep -qxF "cargo-deny $version"; then
    say "audit: building cargo-deny $version in .cache/cargo-deny"
    CARGO_TARGET_DIR=$home/target "$CARGO" install cargo-deny --version "$version" --locked --root "$home" --quiet \
        --no-default-features --no-track --force >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "cargo-deny did not build"
    }
    rm -rf "$home/target"
fi
PATH=$home/bin:$PATH
# Of all platforms: cargo-deny reads each crate's licence.
"$CARGO" fetch --locked --quiet || fail "the crates cannot be fetched"

passed=0 failed=0 skipped=0
for what in licenses bans sources; do
    if cargo-deny --offline check "$what" >"$log" 2>&1; then
        passed=$((passed + 1))
        say "ok    $what"
    else
        failed=$((failed + 1))
        say "FAIL  $what"
        cat "$log"
    fi
done

database=${ADVISORIES:-}
options=()
if [ -n "$database" ]; then
    # cargo-deny looks for a clone of this name in a folder of such.
    options=(--disable-fetch)
    config=$(mktemp)
    trap 'rm -f "$config"' EXIT
    sed "s#^\[advisories\]#[advisories]\ndb-path = \"$database\"#" deny.toml >"$config"
    options+=(--config "$config")
fi
if cargo-deny check "${options[@]}" advisories >"$log" 2>&1; then
    passed=$((passed + 1))
    say "ok    advisories"
elif grep -q 'failed to fetch advisory database\|failed to load advisory database\|failed to open advisory database' "$log"; then
    skipped=$((skipped + 1))
    say "skip  advisories: https://github.com/RustSec/advisory-db is not reachable from here, and there is no copy of it"
    say "      (git clone it elsewhere and set ADVISORIES to the folder that has it): NOT checked for known vulnerabilities"
else
    failed=$((failed + 1))
    say "FAIL  advisories"
    cat "$log"
fi
say "audit: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
