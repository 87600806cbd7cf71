#!/usr/bin/env bash
# Ten minutes of real processes under kills, pauses, partitions and a full disk, judged at the end.
# Partitions and the full disk need root; what cannot be had is reported as SKIPPED.
# Usage: sim/soak.sh [SECONDS] [further arguments of the soak]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
[ $# -gt 0 ] && shift
exec cargo run --release -p quorate-sim --example soak -- --seconds "$seconds" "$@"
