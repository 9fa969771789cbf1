#!/usr/bin/env bash
# Removes what was built. Downloads and environments in .cache/ stay; rm -r .cache removes those.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"
# A target folder outside of the tree belongs to someone else too.
rm -rf target modules .cache/logs .cache/reports bench/node_modules
find tests -name node_modules -prune -o \( -name '*.diff' -o -name '*.exp' -o -name '*.log' -o -name '*.out' -o -name '*.mem' \) -type f -print0 |
    xargs -0r rm -f
git clean -fdxq php/ext
