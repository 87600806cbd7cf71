//! `quorate inspect`: what a log holds.

use std::path::Path;

use quorate_wal::{
    BatchInspection, GroupInspection, Inspection, ManifestSlot, RealDisk, SegmentInspection,
    SegmentState, SlotState, Verdict,
};

use crate::arguments::InspectArguments;
use crate::text;

use super::table::{Table, count, size};
use super::{Answer, IN_USE, Unknown, json, place, told};

/// So many groups are listed unless all are asked for.
const GROUPS_LISTED: usize = 32;

/// So many runs of terms of a group are listed.
const TERMS_LISTED: usize = 3;

/// A segment of which less lives, in percent, is said to be kept by those who have something in it.
const LIVE_PERCENT_LOW: u64 = 25;

pub(super) fn run(arguments: &InspectArguments) -> Result<Answer, Unknown> {
    let place = place(&arguments.dir);
    if let Some(segment) = arguments.batches {
        let batches = quorate_wal::list_batches(&RealDisk, &place.log, segment)?;
        let is_whole =
            |it: &BatchInspection| matches!(it.verdict, Verdict::Whole | Verdict::Ignored);
        return Ok(Answer {
            is_sound: batches.iter().all(is_whole),
            text: if arguments.json {
                json::batches(&batches)
            } else {
                list_batches(&batches)
            },
        });
    }
    let inspection = quorate_wal::inspect(&RealDisk, &place.log)?;
    Ok(Answer {
        is_sound: inspection.damage.is_empty(),
        text: if arguments.json {
            json::inspection(&inspection)
        } else {
            describe(&inspection, arguments.all)
        },
    })
}

fn describe(it: &Inspection, all: bool) -> String {
    let mut lines = vec![format!(
        "log in {}, identity {:#x}\n",
        text::path(&it.dir),
        it.identity
    )];
    if it.in_use {
        lines.push(format!("{IN_USE}\n"));
    }
    lines.extend(it.manifest.iter().map(manifest));
    lines.push(format!("\n{}", segments(&it.segments)));
    let listed = if all {
        it.groups.len()
    } else {
        it.groups.len().min(GROUPS_LISTED)
    };
    if listed > 0 {
        lines.push(format!("\n{}", groups(&it.groups[..listed])));
    }
    if listed < it.groups.len() {
        let more = it.groups.len() - listed;
        lines.push(format!("  and {more} more: --all lists them\n"));
    }
    lines.push(format!("\n{}", totals(it)));
    let oldest = oldest(it);
    let kept = it.segments.iter();
    lines.extend(kept.map(|segment| kept_by(segment, oldest == Some(segment.id.0))));
    if !it.strays.is_empty() {
        let strays: Vec<_> = it.strays.iter().map(|name| text::message(name)).collect();
        lines.push(format!("other files: {}\n", strays.join(", ")));
    }
    if it.damage.is_empty() {
        lines.push("no damage was met on the way: quorate verify reads everything\n".to_owned());
    }
    let damage = it.damage.iter();
    lines.extend(damage.map(|damage| format!("DAMAGE: {}\n", told(damage))));
    lines.concat()
}

fn manifest(slot: &ManifestSlot) -> String {
    let state = match slot.state {
        SlotState::Blank => "blank".to_owned(),
        SlotState::Torn => "not whole".to_owned(),
        SlotState::Whole {
            generation,
            is_newest,
            segments,
            active,
        } => {
            let newest = if is_newest { ", the newest" } else { "" };
            let segments = count(segments, "sealed segment", "sealed segments");
            let active = match active.0 {
                0 => "none written to".to_owned(),
                id => format!("segment {id:x} written to"),
            };
            format!("generation {generation}{newest}: {segments}, {active}")
        }
        ref other => format!("{other:?}"),
    };
    format!("{}: {state}\n", text::message(&name(&slot.file)))
}

fn segments(segments: &[SegmentInspection]) -> String {
    let mut table = Table::new(&[
        "SEGMENT", "STATE", "EPOCH", "PREVIOUS", "LSNS", "BATCHES", "FILE", "USED", "LIVE",
        "GARBAGE", "ENTRIES", "GROUPS",
    ]);
    for it in segments {
        let is_in_service = it.used_bytes > 0;
        let if_used = |text: String| if is_in_service { text } else { "-".to_owned() };
        table.row([
            format!("{:x}", it.id.0),
            it.state.to_string(),
            if it.epoch > 0 {
                it.epoch.to_string()
            } else {
                "-".to_owned()
            },
            if it.previous.0 > 0 {
                format!("{:x}", it.previous.0)
            } else {
                "-".to_owned()
            },
            if_used(format!("{}..{}", it.first_lsn.0, it.last_lsn.0)),
            if_used(it.batches.to_string()),
            size(it.bytes),
            if_used(size(it.used_bytes)),
            if_used(size(it.live_bytes)),
            if_used(size(it.used_bytes.saturating_sub(it.live_bytes))),
            if_used(it.live_entries.to_string()),
            if_used(it.groups.to_string()),
        ]);
    }
    table.finish()
}

fn groups(groups: &[GroupInspection]) -> String {
    let mut table = Table::new(&[
        "GROUP", "TERM", "VOTE", "COMMIT", "FIRST", "LAST", "LIVE", "SEGMENTS", "SNAPSHOT", "BORN",
        "TERMS", "LOST",
    ]);
    for it in groups {
        let snapshot = it.snapshot.as_ref();
        let ids: Vec<_> = it.segments.iter().map(|share| share.segment.0).collect();
        table.row([
            it.group.0.to_string(),
            it.state.term.to_string(),
            it.state.vote.to_string(),
            it.state.commit.to_string(),
            it.first_index.to_string(),
            it.last_index.to_string(),
            size(it.bytes),
            segment_range(&ids),
            snapshot.map_or("-".to_owned(), |it| {
                format!("{} ({})", it.index, size(it.bytes))
            }),
            it.born.0.to_string(),
            terms(&it.terms),
            ranges(&it.lost),
        ]);
    }
    table.finish()
}

/// First and last of the segments, and how many they are if some between are not among them.
fn segment_range(ids: &[u64]) -> String {
    match ids {
        [] => "-".to_owned(),
        [only] => format!("{only:x}"),
        [first, .., last] => format!("{first:x}..{last:x} ({})", ids.len()),
    }
}

/// The newest runs of terms: term and first index.
fn terms(terms: &[(u64, u64)]) -> String {
    let skipped = terms.len().saturating_sub(TERMS_LISTED);
    let more = (skipped > 0).then(|| format!("{skipped} more"));
    let runs = terms[skipped..]
        .iter()
        .map(|(index, term)| format!("{term} from {index}"));
    let runs: Vec<_> = more.into_iter().chain(runs).collect();
    if runs.is_empty() {
        "-".to_owned()
    } else {
        runs.join(", ")
    }
}

fn ranges(ranges: &[(u64, u64)]) -> String {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(first, last)| format!("{first}..{last}"))
        .collect();
    if ranges.is_empty() {
        "-".to_owned()
    } else {
        ranges.join(" ")
    }
}

fn totals(it: &Inspection) -> String {
    let in_service = it.segments.iter().filter(|it| it.used_bytes > 0).count() as u64;
    let entries = it.segments.iter().map(|it| it.live_entries).sum();
    let mut text = vec![format!(
        "{} in service, {}, {}, up to lsn {}\n{} on disk, {} live",
        count(in_service, "segment", "segments"),
        count(it.groups.len() as u64, "group", "groups"),
        count(entries, "entry", "entries"),
        it.last_lsn.0,
        size(it.disk_bytes),
        size(it.live_bytes),
    )];
    if it.live_bytes > 0 {
        let ratio = it.disk_bytes as f64 / it.live_bytes as f64;
        text.push(format!(" ({ratio:.1} on disk for each live byte)"));
    }
    text.push("\n".to_owned());
    if it.torn_tail_bytes > 0 {
        text.push(format!(
            "behind the end of the log are {} bytes that were never acknowledged\n",
            it.torn_tail_bytes
        ));
    }
    text.concat()
}

fn oldest(it: &Inspection) -> Option<u64> {
    let in_service = it.segments.iter().filter(|it| it.used_bytes > 0);
    in_service.map(|it| it.id.0).min()
}

/// Who keeps a segment, if that is worth knowing: it is the oldest, or mostly dead.
fn kept_by(it: &SegmentInspection, is_oldest: bool) -> String {
    let is_sealed = matches!(it.state, SegmentState::Sealed | SegmentState::Indexed);
    let percent = it.live_bytes * 100 / it.bytes.max(1);
    if !is_sealed || it.holders.is_empty() || !is_oldest && percent >= LIVE_PERCENT_LOW {
        return String::new();
    }
    let holders: Vec<_> = it
        .holders
        .iter()
        .map(|share| {
            let entries = count(share.entries, "entry", "entries");
            format!("group {} ({entries}, {})", share.group.0, size(share.bytes))
        })
        .collect();
    let more = it.groups - it.holders.len() as u64;
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let which = if is_oldest { ", the oldest," } else { "" };
    format!(
        "segment {:x}{which} is {percent}% live, kept by {}{more}\n",
        it.id.0,
        holders.join(", ")
    )
}

fn list_batches(batches: &[BatchInspection]) -> String {
    let mut table = Table::new(&[
        "OFFSET",
        "BYTES",
        "LSN",
        "DURABLE",
        "SUBMISSIONS",
        "RECORDS",
        "ENTRIES",
        "PAYLOADS",
        "VERDICT",
    ]);
    for it in batches {
        let is_whole = it.lsn.0 > 0;
        let if_read = |number: u64| {
            if is_whole {
                number.to_string()
            } else {
                "-".to_owned()
            }
        };
        table.row([
            it.offset.to_string(),
            it.bytes.to_string(),
            if_read(it.lsn.0),
            if_read(it.durable_lsn.0),
            if_read(it.submissions),
            if_read(it.records),
            if_read(it.entries),
            if_read(it.payload_bytes),
            verdict(it.verdict),
        ]);
    }
    table.finish()
}

pub(super) fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Whole => "whole".to_owned(),
        Verdict::BadPayloads(entries) => {
            format!("damaged payloads of {}", count(entries, "entry", "entries"))
        }
        Verdict::Damaged(kind) => kind.to_string(),
        Verdict::Ignored => "ignored: behind the end of the log".to_owned(),
        other => format!("{other:?}"),
    }
}

/// A path's last part, or all of it.
pub(super) fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .display()
        .to_string()
}
