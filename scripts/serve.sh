#!/usr/bin/env bash
# Keeps a chat and echo server up until it is interrupted.
#   LISTEN   where (default ws://127.0.0.1:8080; port 0 takes a free one)
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_php
extensions=()
"$PHP" -n -r 'exit(extension_loaded("pcntl") ? 0 : 1);' || extensions+=(-d extension=pcntl)
exec "$PHP" -n "${extensions[@]}" -d extension="$MODULE" "$ROOT/php/examples/chat.php" "${LISTEN:-ws://127.0.0.1:8080}"
