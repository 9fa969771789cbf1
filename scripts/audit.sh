#!/usr/bin/env bash
# Checks what of others is in the extension, by deny.toml: licences, banned and doubled crates, where they come from,
# and known vulnerabilities. cargo-deny is built once, in .cache/cargo-deny, which takes some minutes.
#
# The advisories are a git repository. Where it cannot be reached, and no clone of it is given (ADVISORIES=folder), they
# are not checked, which is said and counted as skipped; all the rest needs no network once the crates are there. That a
# crate with an advisory is found is tried with a database of one, made up.
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

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# advisories CLONE: by this database alone, without network.
advisories() {
    # cargo-deny looks in a folder for a clone of this name, which has a hash of the database's address.
    rm -rf "$work/databases"
    mkdir "$work/databases"
    ln -s "$(realpath "$1")" "$work/databases/advisory-db-3157b0e258782691"
    sed "s#^\[advisories\]#[advisories]\ndb-path = \"$work/databases\"#" deny.toml >"$work/deny.toml"
    cargo-deny --offline --config "$work/deny.toml" check advisories >"$log" 2>&1
}

# made_up PATCHED: a database that knows of one advisory, for `bytes`, which is used, and says which versions are good.
made_up() {
    rm -rf "$work/made-up"
    mkdir -p "$work/made-up/crates/bytes"
    printf '%s\n' '```toml' '[advisory]' 'id = "RUSTSEC-2026-9999"' 'package = "bytes"' 'date = "2026-01-01"' '[versions]' \
        "patched = [\"$1\"]" '```' '' '# Made up' '' 'To try the search.' >"$work/made-up/crates/bytes/RUSTSEC-2026-9999.md"
    git -C "$work/made-up" init --quiet && git -C "$work/made-up" add . &&
        git -C "$work/made-up" -c user.name=audit -c user.email=audit@localhost commit --quiet --message 'One advisory'
}
if made_up '>= 999.0.0' && ! advisories "$work/made-up" && grep -q RUSTSEC-2026-9999 "$log" &&
    made_up '>= 0.0.1' && advisories "$work/made-up"; then
    passed=$((passed + 1))
    say "ok    an advisory is found, and one that does not apply is not"
else
    failed=$((failed + 1))
    say "FAIL  an advisory that was made up is not told from one that does not apply"
    cat "$log"
fi

if [ -n "${ADVISORIES:-}" ]; then advisories "$ADVISORIES"; else cargo-deny check advisories >"$log" 2>&1; fi
status=$?
if [ "$status" = 0 ]; then
    passed=$((passed + 1))
    say "ok    advisories"
elif [ -z "${ADVISORIES:-}" ] && grep -q 'failed to fetch advisory database\|failed to load advisory database\|failed to open advisory database' "$log"; then
    skipped=$((skipped + 1))
    say "skip  advisories: https://github.com/RustSec/advisory-db cannot be reached"
    say "      (git clone it elsewhere and set ADVISORIES to the clone): NOT checked for known vulnerabilities"
else
    failed=$((failed + 1))
    say "FAIL  advisories"
    cat "$log"
fi
say "audit: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
