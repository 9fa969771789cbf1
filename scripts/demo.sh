#!/usr/bin/env bash
# The demo: see scripts/demo.py.
#   DURATION   seconds (default 30)
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_php
[ -x "$PYTHON" ] || fail "no Python environment; run scripts/setup.sh demo"
export MODULE PYTHONDONTWRITEBYTECODE=1
exec "$PYTHON" "$ROOT/scripts/demo.py" "${DURATION:-30}"
