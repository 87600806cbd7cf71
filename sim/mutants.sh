#!/usr/bin/env bash
# Builds known bugs into the code, one at a time, and expects the simulator to find each.
#
#     sim/mutants.sh                all of them
#     sim/mutants.sh 'LEASE|VOTE'   those whose name matches this
#     sim/mutants.sh --ci           a few that are found quickly, for every change
#
# The bugs are listed in `mutants.rs` of `raft`, `wal`, `kv` and `engine`, each with where it was seen before.
# Seeds are played from 1 on until one fails that passes without the bug, SEEDS_MAX at most (5,000 unless told).
# Prints a table; exits with 1 if a bug survives, with 2 if there is none of that name.
set -euo pipefail

cd "$(dirname "$0")/.."
seeds_max=${SEEDS_MAX:-5000}
binary=${CARGO_TARGET_DIR:-target}/mutants/quorate-sim
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
survivors=0

# A run that takes longer than this does not end.
run_seconds_max=20

# Found within some dozen seeds, in each of the four crates.
in_ci='^(ACKNOWLEDGES_UNSYNCED|BELIEVES_FLIPPED_BITS|READS_BEFORE_OWN_COMMIT|RETRY_EXECUTES|SKIPS_SYNC)$'

names() {
    grep -hoP '^    \K[A-Z][A-Z_]+(?=;$)' {raft,wal,kv,engine}/src/mutants.rs | sort -u
}

build() {
    env "$@" cargo build -q --profile mutants -p quorate-sim --features mutants
}

# Plays seeds of a binary; prints the failures, the lowest seed first. Status 124: some run does not end.
play() {
    local sim=$1 first=$2 count=$3
    timeout $((run_seconds_max + count)) "$sim" --start "$first" --seeds "$count" 2>/dev/null |
        sed -nE 's/^seed ([0-9]+)[^ ]* failed at [^:]*: (.*)$/\1 \2/p'
}

# Plays seeds from one on until one fails; prints it and what failed.
find_failure() {
    local first=$1 count=16 found status
    while ((first <= seeds_max)); do
        count=$((count > seeds_max - first + 1 ? seeds_max - first + 1 : count))
        status=0
        found=$(play "$binary" "$first" "$count") || status=$?
        if ((status == 124 && count == 1)); then
            echo "$first a run that does not end"
            return
        elif ((status == 124)); then
            # One by one.
            count=1
            continue
        elif [[ -n $found ]]; then
            head -n 1 <<<"$found"
            return
        fi
        first=$((first + count))
        count=$((count == 1 ? 1 : count < 256 ? count * 2 : count))
    done
}

mutant() {
    local name=$1 began=$SECONDS found seed what
    build "QUORATE_MUTANT_$name=1"
    local built=$SECONDS
    found=$(find_failure 1)
    # What fails without the bug as well says nothing of it.
    while [[ -n $found && -n $(play "$scratch/sound" "${found%% *}" 1) ]]; do
        found=$(find_failure $((${found%% *} + 1)))
    done
    if [[ -z $found ]]; then
        seed="-" what="SURVIVED $seeds_max seeds"
        survivors=$((survivors + 1))
    else
        seed=${found%% *} what=${found#* }
    fi
    printf '| `%s` | %s | %s | %s | %s |\n' "$name" "$seed" "$((SECONDS - built))" "$((built - began))" "${what:0:160}"
}

if [[ ${1:-} == --ci ]]; then
    only=$in_ci
else
    only=${1:-.}
fi
chosen=$(names | grep -E -- "$only") || {
    echo "no bug is called $only; there are:" >&2
    names >&2
    exit 2
}
build
cp "$binary" "$scratch/sound"
echo '| bug | seeds | seconds | seconds to build | found by |'
echo '| --- | --- | --- | --- | --- |'
for name in $chosen; do
    mutant "$name"
done
((survivors == 0)) || { echo "$survivors bugs were not found" >&2; exit 1; }
