#!/usr/bin/env bash
# Fuzzes targets for some time each: run.sh SECONDS [TARGET...]. Without targets: all of the log and its snapshots.
# Needs a nightly toolchain and a C++ compiler, not cargo-fuzz: it builds the targets with the flags that cargo-fuzz uses.
# New inputs go to corpus-live/, which is not committed; an input that fails goes to artifacts/, and the script fails.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?"usage: run.sh SECONDS [TARGET...]"}
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    targets=(log_recover log_recover_fixed log_ops manifest footer snapshot_read)
fi
jobs=${JOBS:-$(nproc)}

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "SKIPPED: no nightly toolchain, nothing was fuzzed (rustup toolchain install nightly)"
    exit 0
fi
if ! command -v c++ >/dev/null; then
    echo "SKIPPED: no C++ compiler for libFuzzer, nothing was fuzzed"
    exit 0
fi

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks"
echo "building with nightly and the coverage of libFuzzer: ${targets[*]}"
cargo +nightly build --release --locked --quiet --target "$host" --target-dir target/fuzzing $(printf -- '--bin %s ' "${targets[@]}")

fuzz() {
    local target=$1 log=artifacts/$1.log
    mkdir -p "corpus-live/$target" "artifacts/$target"
    local dictionary=()
    case $target in
    log_recover* | manifest | footer) dictionary=(-dict=dictionaries/log) ;;
    snapshot_read) dictionary=(-dict=dictionaries/snapshot_read) ;;
    esac
    if ! "target/fuzzing/$host/release/$target" "corpus-live/$target" "corpus/$target" "${dictionary[@]}" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 -max_len=16384 \
        -artifact_prefix="artifacts/$target/" -print_final_stats=1 >"$log" 2>&1; then
        tail -n 40 "$log" | cut -c1-600
        echo "$target: FAILED, see fuzz/$log"
        return 1
    fi
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)"
}
export -f fuzz
export seconds host

echo "fuzzing for $seconds s each, $jobs at a time"
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz {}'
