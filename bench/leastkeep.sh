#!/bin/bash
# leastkeep.sh [STOPS [MS...]]: stops of lastcall on a busy machine, with other values of
# minKeep (internal/drain/release.go), the least time for which a stop keeps a connection
# without a request. Prints a table: lost requests, and how long the stops took.
set -eu
cd "$(dirname "$0")/.."
stops=${1:-20}
shift || true
work=$(mktemp -d)
busy=()
trap 'kill "${busy[@]}" 2>/dev/null; rm -rf "$work"' EXIT
go build -o "$work/stoptest" ./stoptest
for _ in $(seq "$((2 * $(nproc)))"); do
	sh -c 'while :; do :; done' &
	busy+=($!)
done
echo "| minKeep | requests | lost | stops took, from to |"
echo "|---|---|---|---|"
for ms in ${@:-10 250 450}; do
	sed "s/minKeep = 250 \* /minKeep = $ms * /" internal/drain/release.go >"$work/release.go"
	printf '{"Replace": {"%s": "%s"}}' "$PWD/internal/drain/release.go" "$work/release.go" >"$work/overlay"
	go build -overlay "$work/overlay" -o "$work/lastcall" .
	"$work/stoptest" -url http://127.0.0.1:18473/healthz -method GET -stops "$stops" \
		-clients connect=64,reuse=64,look=0,idle=0,unused=16 -- "$work/lastcall" -listen 127.0.0.1:18473 >"$work/log" 2>&1 || true
	awk -v ms="$ms" '/exit after/ {
		t = $4; t = t ~ /ms$/ ? t / 1000 : t + 0
		min = !n++ || t < min ? t : min; max = t > max ? t : max
	} /^(Lost|LOST) / { lost = $2; all = $4 } END { printf "| %d ms | %s | %s | %.2f s to %.2f s |\n", ms, all, lost, min, max }' "$work/log"
done
