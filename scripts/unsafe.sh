#!/usr/bin/env bash
# Counts `unsafe` in each file, and how many of its blocks say why they are sound; prints it as a Markdown table.
#   scripts/unsafe.sh         the table
#   scripts/unsafe.sh check   fails where the counts are not those of scripts/unsafe.txt
#   scripts/unsafe.sh accept  writes that file anew
# That each block has its `// SAFETY:` is clippy's to see (undocumented_unsafe_blocks).
set -uo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT" || exit 1
known=scripts/unsafe.txt

# Blocks, functions, impls and extern blocks; comments and the lints' names do not count.
counts() {
    git ls-files -co --exclude-standard -- 'src/*.rs' 'crates/*.rs' 'build.rs' | while IFS= read -r file; do
        [ -f "$file" ] || continue
        sed -E 's#//.*##' "$file" | { grep -oE '\bunsafe +(\{|fn\b|impl\b|extern\b|trait\b)' || true; } |
            awk -v file="$file" '{ n[$2]++; all++ } END { if (all) print all, n["{"]+0, n["fn"]+0, n["impl"]+0 + n["extern"]+0 + n["trait"]+0, file }'
    done
}

case ${1:-table} in
    table)
        printf '| file | `unsafe` | blocks | functions | impl, extern |\n| --- | ---: | ---: | ---: | ---: |\n'
        counts | awk '{ print "| " $5 " | " $1 " | " $2 " | " $3 " | " $4 " |"; a += $1; b += $2; c += $3; d += $4 }
            END { print "| all | " a " | " b " | " c " | " d " |" }'
        ;;
    check)
        diff -u "$known" <(counts) || fail "the counts of unsafe differ from $known: is it needed? then run scripts/unsafe.sh accept"
        ;;
    accept) counts >"$known" ;;
    *) fail "unknown '$1'; check, accept or nothing" ;;
esac
