#!/usr/bin/env bash
# Formatting, clippy, syntax of PHP and shell. Prints one line a check and a closing count.
set -uo pipefail
. "$(dirname "$0")/common.sh"
use_cargo
use_php
cd "$ROOT" || exit 1

passed=0 failed=0 skipped=0
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        say "ok    $name"
    else
        failed=$((failed + 1))
        say "FAIL  $name"
        printf '%s\n' "$output" | tail -n 60
    fi
}
skip() {
    skipped=$((skipped + 1))
    say "skip  $1: $2"
}

php_syntax() {
    local bad=0 file
    while IFS= read -r file; do
        "$PHP" -n -l "$file" >/dev/null || bad=1
    done < <(git ls-files -co --exclude-standard '*.php')
    return $bad
}
# Scripts without a suffix count by their first line.
shell_files() {
    local file
    git ls-files -co --exclude-standard | while IFS= read -r file; do
        [ -f "$file" ] || continue
        case $file in
            *.sh) printf '%s\n' "$file" ;;
            *.*) ;;
            *) head -n 1 "$file" | grep -qE '^#!.*\b(ba)?sh$' && printf '%s\n' "$file" ;;
        esac
    done
}
shell_syntax() {
    local files
    mapfile -t files < <(shell_files)
    shellcheck -x -S warning "${files[@]}"
}
no_hosts_in_locks() { ! git ls-files -z -co --exclude-standard '*package-lock.json' | xargs -0r grep -nE '"resolved"'; }
python_syntax() {
    git ls-files -co --exclude-standard '*.py' | grep -v '/wstest\.py$' | xargs -r python3 -m py_compile
}

# The licences that deny.toml allows, without what scripts/audit.sh needs.
licences() {
    "$CARGO" metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
        python3 -c '
import json, re, sys
listed = re.search(r"^allow = \[(.*?)\]", open("deny.toml").read(), re.M | re.S)[1]
allowed = set(re.findall(r"\"(.+?)\"", listed))
def fits(text):
    """SPDX: AND binds closer than OR; an old manifest has a slash for OR."""
    text = text.strip().replace("/", " OR ")
    parts, depth, start = [], 0, 0
    for token in re.finditer(r"[()]| OR | AND ", text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0 and token[0] in (" OR ", " AND "):
            parts += [text[start:token.start()], token[0]]
            start = token.end()
    parts.append(text[start:])
    if len(parts) == 1:
        return fits(text[1:-1]) if text.startswith("(") else text in allowed
    for operator, combine in ((" OR ", any), (" AND ", all)):
        if operator in parts:
            groups = [[]]
            for part in parts:
                groups.append([]) if part == operator else groups[-1].append(part)
            return combine(fits("".join(group)) for group in groups)
bad = [(p["name"], p["license"]) for p in json.load(sys.stdin)["packages"] if not fits(p["license"] or "none")]
for name, licence in bad:
    print(f"{name}: {licence} is not among what deny.toml allows")
sys.exit(bool(bad))
'
}

if "$CARGO" fmt --version >/dev/null 2>&1; then
    check "cargo fmt" "$CARGO" fmt --all --check
else
    skip "cargo fmt" "rustfmt is not installed"
fi
if "$CARGO" clippy --version >/dev/null 2>&1; then
    check "cargo clippy" "$CARGO" clippy --locked --workspace --all-targets --quiet -- -D warnings
else
    skip "cargo clippy" "clippy is not installed"
fi
check "php -l" php_syntax
check "python" env PYTHONPYCACHEPREFIX="$CACHE/pycache" bash -c "$(declare -f python_syntax); python_syntax"
if have shellcheck; then check "shellcheck" shell_syntax; else skip "shellcheck" "not installed"; fi
check "licences" licences
check "unsafe is counted" scripts/unsafe.sh check
check "lock files name no registry" no_hosts_in_locks

say "lint: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
