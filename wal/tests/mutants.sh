#!/usr/bin/env bash
# Disables the rules of the log one at a time, in a copy of the tree, and expects the named tests to
# fail: a rule that no test misses is not proven.
#
#     wal/tests/mutants.sh            all of them
#     wal/tests/mutants.sh 'epoch|CRC' those whose name matches this
#
# Each mutant is a name, a file, a substitution in Perl that must change that file, and a filter for
# the tests of the binary `crash` that must notice it. Prints a table; exits with 1 if one survives.
set -euo pipefail

only=${1:-}
root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -C "$root" --exclude=./target --exclude=./.git --exclude='*/target' -cf - . | tar -C "$copy" -xf -
cd "$copy"
export CARGO_TARGET_DIR="$copy/target"
# Figures are wanted, not debugging.
export CARGO_PROFILE_DEV_DEBUG=0
survivors=0

# Runs the tests that a filter names; succeeds if they do.
passes() {
    timeout 300 cargo test -q -p quorate-wal --test crash -- "$1" >"$copy/output" 2>&1
}

mutant() {
    local name=$1 file=$2 change=$3 tests=$4 verdict
    [[ $name =~ $only ]] || return 0
    cp "wal/src/$file" "$copy/original"
    perl -0pi -e "$change" "wal/src/$file"
    if cmp -s "wal/src/$file" "$copy/original"; then
        verdict="NOT APPLIED"
    elif ! cargo test -q -p quorate-wal --test crash --no-run >"$copy/output" 2>&1; then
        verdict="DOES NOT COMPILE"
    elif passes "$tests"; then
        verdict="SURVIVED"
    else
        verdict=killed
    fi
    [[ $verdict == killed ]] || survivors=$((survivors + 1))
    printf '| %-58s | %-20s | %-75s | %s |\n' "$name" "$file" "$tests" "$verdict"
    cp "$copy/original" "wal/src/$file"
}

passes "" || { cat "$copy/output"; echo "the tests fail without any mutant"; exit 2; }
printf '| %-58s | %-20s | %-75s | %s |\n' "rule that is disabled" "file" "test that notices" "verdict"

mutant "look ahead for a batch that proves a loss" log/replay.rs \
    's/ahead\.batch\.is_some\(\) \|\| is_sealed/is_sealed/' \
    lies::a_lost_write_is_named_where_anything_later_survived
mutant "batches have the epoch of their segment" log/replay.rs \
    's/\.is_none_or\(\|segment\| segment\.epoch == batch\.epoch\)/.is_none_or(|segment| segment.epoch >= batch.epoch)/' \
    stale::a_batch_of_an_earlier_epoch_ends_the_log
mutant "batches are bound to their segment" format.rs \
    's/crc_bound\(&\[self\.segment\.0, self\.offset\], &bytes\)/crc_bound(&[self.offset], &bytes)/; s/crc_bound\(&\[segment\.0, offset\], &bytes/crc_bound(&[offset], &bytes/; s/crc_bound\(&\[segment\.0, offset\], desc\)/crc_bound(&[offset, u64::from(segment.0 == 0)], desc)/; s/found == segment\n            && found_offset/found.0 > 0\n            && found_offset/' \
    stale::a_batch_of_another_segment_ends_the_log
mutant "the next segment names the batches before it" log/replay.rs \
    's/\(reading\.offset, reading\.chain\) != \(end, chain\)/(reading.offset, chain) != (end, chain)/' \
    proofs::another_batch_in_place_of_a_sealed_one_is_named
mutant "the CRC of a batch header" format.rs \
    's/if crc != crc_bound\(&\[segment\.0, offset\], &bytes\[\.\.BATCH_CRC_OFFSET\]\)/if crc == 0 \&\& crc != crc_bound(\&[segment.0, offset], \&bytes[..BATCH_CRC_OFFSET])/' \
    rot::each_flipped_bit_of_a_covered_log_is_named_or_harmless
mutant "the CRC of the descriptors" log/scan.rs \
    's/desc_crc\(segment, offset, &desc\) == header\.desc_crc/(desc_crc(segment, offset, \&desc) | 1) != 0/' \
    rot::each_flipped_bit_of_a_covered_log_is_named_or_harmless
mutant "the CRCs of the payloads of the tail" log/replay.rs \
    's/if !bad\.is_empty\(\)/if bad.len() == usize::MAX/' \
    torn::a_batch_that_lost_any_subset_of_its_blocks_is_cut_whole
mutant "the tail is synced before it is read" log/recover.rs \
    's/file\.sync_data\(\)\.map_err\(\|error\| failed\("sync", error\)\)\?;//' \
    recovery::what_recovery_returned_from_the_cache_is_there_after_the_next_power_cut
mutant "the tail is read without the cache" log/recover.rs \
    's/file\.drop_cache\(\)/file.len().map(drop)/' \
    recovery::what_only_the_cache_holds_after_a_failed_sync_is_not_returned
mutant "a name is durable before the segment is used" log/prepare.rs \
    's/self\.disk\.sync_dir\(&self\.dir\)\?;//' \
    names::a_lost_name_costs_nothing_that_was_acknowledged
mutant "an error while reading is not the end of the log" log/scan.rs \
    's/if source\.kind\(\) == io::ErrorKind::UnexpectedEof/if source.kind() != io::ErrorKind::NotFound/' \
    errors::an_error_of_any_read_of_recovery_is_an_error_and_changes_nothing
mutant "a log that failed stays failed" log/drive.rs \
    's/map_err\(\|error\| self\.fail\(error\.to_string\(\)\)\)/map_err(|error| LogError::Failed { reason: error.to_string() })/' \
    errors::a_failed_write_or_sync_is_never_acknowledged_not_even_after_a_restart
mutant "a segment goes when a manifest does without it" log/reclaim.rs \
    's/\.filter\(\|id\| \*id <= settled && !named\.contains\(id\)\)/.filter(|id| id.0 > 0 || *id <= settled || named.contains(id))/' \
    proofs::no_segment_goes_before_a_manifest_does_without_it
mutant "only a blank file is used again" log/recover.rs \
    's/matches!\(candidate\.header, HeaderBlock::Blank\)/!matches!(candidate.header, HeaderBlock::Valid(_))/' \
    names::a_file_that_begins_with_the_header_of_the_next_segment_is_not_used_again
mutant "manifests are written in turn to two slots" manifest.rs \
    's/usize::from\(generation\.is_multiple_of\(2\)\)/usize::from(generation == 0)/' \
    proofs::a_torn_manifest_leaves_the_one_in_the_other_slot
mutant "a manifest is as new as the segments say" log/sort.rs \
    's/manifest\.generation >= sorted\.generation/manifest.generation > 0/' \
    proofs::a_manifest_that_is_older_than_a_segment_says_is_not_believed
mutant "an index belongs to one segment and its batches" footer.rs \
    's/crc_bound\(&\[segment\.0, /crc_bound(\&[/g; s/crc_bound\(&\[segment\.id\.0, /crc_bound(\&[/g; s/let belongs = take\.u32\(\)\? == MAGIC\n.*?;/let belongs = take.u32()? == MAGIC \&\& segment.0 > 0;\n    take.bytes(28)?;/s' \
    proofs::an_index_that_another_segment_left_is_not_believed
mutant "the first block of an index is written last" log/seal.rs \
    's/(let mut at = offset \+ BLOCK_BYTES;)/$1\n    segment.file.write_at(offset, \&[IoSlice::new(\&encoded.head)])?;/' \
    proofs::the_first_block_of_an_index_is_never_there_without_the_rest
mutant "a move is dropped if its entries changed meanwhile" log/drive.rs \
    's/self\.drop_stale_moves\(&mut taken\);//' \
    reclaim::entries_that_were_written_anew_are_not_moved_over
mutant "an entry belongs to the group that was made then" log/summary.rs \
    's/\.filter\(\|log\| log\.born == self\.born\)/.filter(|log| log.born >= self.born)/' \
    reclaim::entries_that_rotted_are_not_replaced
mutant "an idle log covers its last batch" log/drive.rs \
    's/self\.queue\.lock\(\)\.push_cover\(\);//' \
    proofs::rot_of_the_last_batch_is_named_once_it_was_covered
mutant "a segment without a batch was not begun" log/replay.rs \
    's/counted\.stage = Stage::Empty;/counted.stage = Stage::Durable;/' \
    recovery::a_segment_of_which_only_the_header_survived
mutant "a second batch proves the header of its segment" log/sort.rs \
    's/if holds_acknowledged\(candidate\)\?/if holds_acknowledged(candidate)? \&\& newest.is_none()/' \
    rot::each_flipped_bit
mutant "what a cut segment lost stays lost" log/replay.rs \
    's/if is_short \{/if is_short \&\& reading.sealed.is_some() {/' \
    rot::each_length_that_a_file_of_the_log_is_cut_to
mutant "on a full disk the next segment is filled at once" log/prepare.rs \
    's/let is_urgent = needed > 0 \|\| is_full;/let is_urgent = needed > 0;/' \
    full::a_large_segment_is_filled_at_once_when_space_returns
mutant "without syncs, a manifest relies on what it synced" log/seal.rs \
    's/self\.sync_written\(\)\?;//' \
    unsynced::every_power_cut_of_a_log_without_syncs
mutant "without syncs, a second batch proves nothing" log/sort.rs \
    's/second\.durable_lsn >= first\.lsn/second.lsn >= first.lsn/' \
    unsynced::every_power_cut_of_a_log_without_syncs
mutant "the reserve is not the next segment as well" log/reserve.rs \
    's/spare\.is_some_and\(\|spare\| spare\.bytes == bytes\)/spare.is_some_and(|spare| spare.bytes == 0)/' \
    names::a_file_that_a_crash_left_under_two_names_is_used_once

[[ $survivors == 0 ]] || { echo "$survivors mutants were not killed"; exit 1; }
