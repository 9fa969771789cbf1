#!/usr/bin/env bash
# The browser client in js/: types, lint, build, size, tests in Node. Its tests in a browser are in tests/browser.
set -uo pipefail
. "$(dirname "$0")/common.sh"
have node && have npm || fail "no node or npm; run scripts/setup.sh test"
version_at_least "$(node -p process.versions.node)" 20.14 || fail "node $(node -v) found; 20.14 or later is needed"
cd "$ROOT/js" || exit 1

stamp=node_modules/.stamp
if ! { [ -f $stamp ] && [ "$(cat $stamp)" = "$(sha256sum <package-lock.json)" ]; }; then
    npm ci --silent || fail "npm ci failed in js"
    sha256sum <package-lock.json >$stamp
fi

passed=0 failed=0
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        say "ok    $name${output:+: $output}"
    else
        failed=$((failed + 1))
        say "FAIL  $name"
        printf '%s\n' "$output" | tail -n 60
    fi
}

check "types" node_modules/.bin/tsc -p .
check "lint" node_modules/.bin/eslint --max-warnings 0 .
check "size" node build.js
embedded() { cmp dist/lifeline-full.js ../crates/engine/client/lifeline.js || fail "run npm run embed in js, and commit what it changes"; }
check "the extension has this client" embedded
node build.js test || failed=$((failed + 1))
log=$(mktemp)
trap 'rm -f "$log"' EXIT
node --test --test-force-exit --test-reporter=tap build/test/*.mjs >"$log" 2>&1
counts=$(sed -n 's/^# \(pass\|fail\) \([0-9]*\)$/\2/p' "$log" | xargs)
read -r ran broken <<<"$counts"
[ "${broken:-1}" = 0 ] || sed -n '/^ *not ok/,/^ *\.\.\.$/p' "$log"
[ -n "${broken:-}" ] || tail -n 60 "$log"
say "js: $((passed + ${ran:-0})) passed, $((failed + ${broken:-1})) failed"
[ $((failed + ${broken:-1})) = 0 ]
