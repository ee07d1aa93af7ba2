#!/usr/bin/env bash
# Measures what a live swap costs the requests meanwhile. Serves one of two versions of a bundle and measures requests
# twice: without swaps, and with the other version swapped in every few seconds.
#
#   loadtest/swap/run.sh BUNDLE OTHER [REQUESTS] [EFFORT]
set -euo pipefail
bundle=$(realpath "$1") other=$(realpath "$2") requests=${3:-20000} effort=${4:-scored}
cd "$(dirname "$0")/../.."
raisonne=${CARGO_TARGET_DIR:-target}/release/raisonne
every=${EVERY:-3} address=127.0.0.1:${PORT:-8099}
[ -x "$raisonne" ] || cargo build --release

work=$(mktemp -d)
point() { ln -sfn "$1" "$work/next" && mv -T "$work/next" "$work/bundle"; }
point "$bundle"
RAISONNE__API__LISTEN=$address "$raisonne" serve --bundle "$work/bundle" > "$work/log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
until curl -fs "http://$address/readyz" > /dev/null; do sleep 0.2; done
measure() {
  "$raisonne" bench service --address "http://$address" --bundle "$bundle" --effort "$effort" --candidates 50 \
    --clients 2 --requests "$requests" --server "$server"
}

printf '\n-- without swaps\n'
measure
printf '\n-- a swap every %s s\n' "$every"
(
  while sleep "$every"; do
    point "$other" && kill -HUP "$server"
    sleep "$every"
    point "$bundle" && kill -HUP "$server"
  done
) &
swapping=$!
measure
kill "$swapping" 2>/dev/null || true
curl -s "http://$address/metrics" | grep '^raisonne_bundle_swaps_total'
