#!/usr/bin/env bash
# Builds known bugs into the code, one at a time, and expects the simulator to find each.
#
#     sim/mutants.sh                all of them
#     sim/mutants.sh 'LEASE|VOTE'   those whose name matches this
#     sim/mutants.sh --ci           a few that are found quickly, before a change lands
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

# What chance finds too rarely, a scripted test finds: the package, its tests, and which of them.
declare -A scripted=(
    [BELIEVES_ROTTEN_SNAPSHOT]="quorate-sim disks a_replica_whose_snapshot_rotted_is_quarantined"
    [CUT_WRITE_LOSES_TERM]="quorate simulation what_is_promised_behind_a_cut_write_is_durable"
    [ACCEPTS_RETIRED]="quorate lib membership::book::tests::a_retired_id_is_refused_and_who_took_part_is_not_retired"
    [FORGETS_BOOK]="quorate lib membership::tests::a_node_that_is_opened_again_remembers_whom_it_met_and_that_its_cluster_has_begun"
    [FOUNDS_BY_MAJORITY]="quorate lib membership::book::tests::a_majority_does_not_found_a_cluster"
    [IGNORES_DURABLE_LSN]="quorate lib membership::book::tests::a_log_that_was_durable_further_is_refused"
    [IGNORES_INCARNATION]="quorate lib membership::book::tests::another_incarnation_of_a_known_id_is_refused"
    [IGNORES_LIFE]="quorate lib membership::book::tests::an_earlier_life_is_refused"
    [VOTES_UNFOUNDED]="quorate mistakes a_node_whose_cluster_has_not_begun_neither_asks_nor_votes"
    [COMMITS_BEYOND_MATCH]="quorate-raft protocol replication::a_follower_commits_only_what_this_message_verified"
    [CONFIRMS_READS_ALONE]="quorate-raft protocol reads::no_read_is_answered_before_a_quorum_confirmed_it"
    [FIRST_BATCH_COMMITS_ALL]="quorate simulation a_batch_says_nothing_is_committed_that_only_the_next_one_holds"
    [IGNORES_LOST_ENTRIES]="quorate-sim disks entries_that_the_log_names_as_lost_set_their_replica_aside"
    [LEASE_NEVER_ENDS]="quorate simulation a_leader_that_stood_still_does_not_answer_from_a_lease_that_is_over"
    [LOGS_EVERY_COPY]="quorate simulation what_is_behind_a_refused_command_does_not_take_its_room"
    [OLD_ANSWERS_CONFIRM_READS]="quorate-raft protocol reads::an_old_reply_never_confirms_a_new_read"
    [PUBLISHED_LEASE_STAYS]="quorate lib node::tests::a_transfer_ends_the_published_lease_before_the_message_leaves_that_ends_it"
    [READS_BEFORE_APPLIED]="quorate-raft protocol reads::a_read_comes_out_only_with_the_entries_that_it_has_to_see"
    [REFUSES_SNAPSHOT_SILENTLY]="quorate simulation a_follower_that_has_all_of_a_snapshot_says_so_when_it_is_sent"
    [RESENDS_WHOLE_WINDOW]="quorate lib client::tests::a_busy_leader_is_sent_again_only_what_it_refused"
    [BELIEVES_ANY_TERM]="quorate-raft protocol hostile::a_term_that_no_counting_leads_to_is_refused_in_every_kind_of_message"
    [STORES_CONFIGURATIONS]="quorate-raft protocol hostile::entries_that_cannot_be_applied_or_stored_never_enter_the_log"
    [LEASE_IGNORES_SHORTER_PROMISE]="quorate-raft protocol leases::a_lease_is_as_long_as_the_shortest_promise_of_all_members"
    [FORGOTTEN_ENTRIES_ARE_NO_LOSS]="quorate-raft protocol aside::a_replica_that_forgot_what_its_leader_counts_on_votes_no_more_until_it_has_that_again"
    [OUTDATED_TAKES_PART]="quorate identity a_copy_that_a_peer_knew_better_loses_nothing_when_that_peer_is_gone"
    [LOST_ANSWER_IS_WAITED_FOR]="quorate lib client::tests::lost::a_write_whose_answer_was_lost_is_sent_again_though_reads_are_answered"
    [ANYBODY_SPEAKS_FOR_LOCAL_REPLICA]="quorate lib client::tests::reads::nobody_else_speaks_for_the_replica_here"
    [RESENDS_TO_SLOW_DISK]="quorate-raft protocol resends::a_follower_with_a_slow_disk_is_sent_what_it_lacks_about_once"
    [CUTS_BEHIND_TRANSFER]="quorate hostile transfers::the_log_behind_a_snapshot_that_is_on_its_way_is_kept"
    [TRANSFERS_BEGIN_ANEW]="quorate hostile transfers::a_transfer_that_was_interrupted_goes_on_where_it_stopped"
    [OWN_LIMITS_FAIL_LOG]="quorate hostile limits::an_entry_over_the_lowered_limit_of_a_follower_is_taken_and_no_other_is_accepted"
    [SICK_LEADER_STAYS]="quorate sick_disks a_leader_whose_disk_is_full_hands_over_before_two_election_timeouts_are_over"
    [ROTTEN_SNAPSHOT_IS_EMPTY]="quorate rot a_rotten_snapshot_costs_a_node_one_group_until_its_leader_sends_another"
    [WAITS_FOR_LAGGING_REPLICA]="quorate lib client::tests::reads::where_the_replica_here_cannot_serve_the_leader_answers_until_it_has_caught_up"
    [VOTES_WHILE_HEARING_LEADER]="quorate-raft protocol elections::who_hears_a_leader_votes_for_nobody_else"
)

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

# Whether the test that is made for a bug fails with it, and runs at all.
is_scripted() {
    local package tests filter target
    [[ -n ${scripted[$1]:-} ]] || return 1
    read -r package tests filter <<<"${scripted[$1]}"
    target=(--test "$tests")
    [[ $tests == lib ]] && target=(--lib)
    env "QUORATE_MUTANT_$1=1" cargo test -q -p "$package" --features mutants "${target[@]}" -- --exact "$filter" \
        >"$scratch/tests" 2>&1 && return 1
    grep -q "^test result: FAILED. 0 passed; 1 failed" "$scratch/tests"
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
    if [[ -z $found ]] && is_scripted "$name"; then
        seed="> $seeds_max" what="the test \`${scripted[$name]##* }\`"
    elif [[ -z $found ]]; then
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
