#!/usr/bin/env bash
# Silences the judges of every step, one verdict at a time, in a copy of the tree, and expects a test of `sim/tests/rules` to
# fail: a verdict that no test misses is not proven.
#
#     sim/judges.sh                  all of them
#     sim/judges.sh 'invariant 1[0-9]'   those whose text matches this
#
# Prints a table; exits with 1 if nothing misses one.
set -euo pipefail

only=${1:-.}
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -C "$root" --exclude=./target --exclude=./.git --exclude='*/target' -cf - . | tar -C "$copy" -xf -
cd "$copy"
export CARGO_TARGET_DIR=${JUDGES_TARGET_DIR:-$copy/target}
export CARGO_PROFILE_DEV_DEBUG=0
survivors=0

# Where a verdict is given: an error made on the spot, or of what was checked by somebody else.
site='Err\(format!\(\s*"(?:invariant|\{rule\})[^"]*|\b\w+\.map_err\(\|\w+\|\s*\{?\s*format!\(\s*"invariant[^"]*'

cat >>sim/src/judge/mod.rs <<'RUST'

/// Nothing is said.
fn silenced(_verdict: String) -> Result<(), String> {
    Ok(())
}
RUST

verdicts() {
    perl -0ne 'while (/'"$site"'/g) { $& =~ /"([^":]*)/; print ++$n, "\t$1\n" }' "$1"
}

silence() {
    perl -0pi -e '
        sub silent {
            my ($text) = @_;
            # Its function gives something back besides.
            return $text if $text =~ /the log of/ && ($is_other = 1);
            return $text if $text =~ s/^Err\(/super::silenced(/;
            return $text =~ s/\.map_err\(/.or_else(|_| super::silenced(String::new())).map_err(/r;
        }
        s/'"$site"'/++$n == '"$2"' ? silent($&) : $&/ge;
        s/inspection\.damage\.first\(\)/None::<&u64>/ if $is_other;' "$1"
}

cargo test -q -p quorate-sim --test rules --no-run
echo '| verdict | judge | without it fails |'
echo '| --- | --- | --- |'
for file in sim/src/judge/*.rs; do
    while IFS=$'\t' read -r number verdict; do
        [[ $verdict =~ $only ]] || continue
        cp "$file" "$copy/original"
        silence "$file" "$number"
        if ! cargo test -q -p quorate-sim --test rules --no-run >"$copy/output" 2>&1; then
            failed="(DOES NOT COMPILE)"
            survivors=$((survivors + 1))
        elif cargo test -q -p quorate-sim --test rules >"$copy/output" 2>&1; then
            failed="(NOTHING)"
            survivors=$((survivors + 1))
        else
            failed=$(sed -nE 's/^    (\w+::\w+)$/`\1`/p' "$copy/output" | sort -u | paste -sd' ')
        fi
        printf '| %s | `%s` | %s |\n' "$verdict" "$(basename "$file")" "$failed"
        cp "$copy/original" "$file"
    done < <(verdicts "$file")
done
((survivors == 0)) || { echo "$survivors verdicts are missed by no test" >&2; exit 1; }
