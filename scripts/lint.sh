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
check "lock files name no registry" no_hosts_in_locks

say "lint: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
