#!/usr/bin/env bash
# Keeps the page of php/demo/page (a chat, and an echo on /echo) up until it is interrupted; a server that is killed,
# as a button of the page does, is started again.
#   LISTEN         where (default ws://127.0.0.1:8080; port 0 takes a free one)
#   LIFELINE_DEMO  1: visitors may block and kill the server. The default where only this machine can visit
set -euo pipefail
. "$(dirname "$0")/common.sh"
use_php
extensions=()
"$PHP" -n -r 'exit(extension_loaded("pcntl") ? 0 : 1);' || extensions+=(-d extension=pcntl)

listen=${LISTEN:-ws://127.0.0.1:8080}
case $listen in
    ws://127.* | ws://localhost:* | 'ws://[::1]:'*) export LIFELINE_DEMO=${LIFELINE_DEMO:-1} ;;
    *) export LIFELINE_DEMO=${LIFELINE_DEMO:-0} ;;
esac

# What outlives the server: sessions, what was said, where it listened.
state=$(mktemp -d)
server='' stopping=''
stop() {
    stopping=1
    [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true
}
trap stop INT TERM
trap 'rm -rf "$state"' EXIT

while true; do
    began=$SECONDS
    "$PHP" -n "${extensions[@]}" -d extension="$MODULE" "$ROOT/php/demo/page/server.php" "$listen" "$state" &
    server=$!
    status=0
    # Without what bash has to say of one that was killed.
    { wait "$server"; } 2>/dev/null || status=$?
    # A signal of ours ends the wait, not yet the server.
    [ -z "$stopping" ] || { wait "$server" || true; exit 0; }
    [ "$status" = 137 ] || { [ $((SECONDS - began)) -ge 5 ] && [ "$status" != 0 ]; } || exit "$status"
    [ ! -s "$state/address" ] || listen=$(cat "$state/address")
    say "serve: the server has ended with $status; it is started again"
    # Long enough to be seen.
    sleep 2
    [ -z "$stopping" ] || exit 0
done
