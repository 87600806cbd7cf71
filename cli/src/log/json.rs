//! What the commands find, for programs. Names and meaning are those of the types in `quorate_wal`; paths are text, ranges are
//! pairs of first and last.

use quorate_wal::{
    BatchInspection, Cost, Damage, GroupInspection, Inspection, Note, Problem, RepairPlan,
    RepairStep, SegmentInspection, SlotState, SnapshotRef, Verification,
};
use serde_json::{Value, json};

use super::inspect::{name, verdict};

pub(super) fn inspection(it: &Inspection) -> String {
    let slots = it.manifest.iter().map(|slot| {
        let (state, generation, is_newest) = match slot.state {
            SlotState::Whole {
                generation,
                is_newest,
                ..
            } => ("whole", Some(generation), is_newest),
            SlotState::Torn => ("torn", None, false),
            _ => ("blank", None, false),
        };
        json!({ "file": name(&slot.file), "state": state, "generation": generation, "is_newest": is_newest })
    });
    text(&json!({
        "dir": it.dir.display().to_string(),
        "in_use": it.in_use,
        "identity": it.identity,
        "manifest": slots.collect::<Vec<_>>(),
        "segments": it.segments.iter().map(segment).collect::<Vec<_>>(),
        "groups": it.groups.iter().map(group).collect::<Vec<_>>(),
        "last_lsn": it.last_lsn.0,
        "torn_tail_bytes": it.torn_tail_bytes,
        "disk_bytes": it.disk_bytes,
        "live_bytes": it.live_bytes,
        "damage": it.damage.iter().map(damage).collect::<Vec<_>>(),
        "strays": it.strays,
    }))
}

pub(super) fn batches(batches: &[BatchInspection]) -> String {
    let batch = |it: &BatchInspection| {
        json!({
            "offset": it.offset,
            "bytes": it.bytes,
            "lsn": it.lsn.0,
            "durable_lsn": it.durable_lsn.0,
            "submissions": it.submissions,
            "records": it.records,
            "entries": it.entries,
            "payload_bytes": it.payload_bytes,
            "verdict": verdict(it.verdict),
        })
    };
    text(&json!({ "batches": batches.iter().map(batch).collect::<Vec<_>>() }))
}

pub(super) fn verification(it: &Verification) -> String {
    text(&verified(it))
}

pub(super) fn plan(it: &RepairPlan) -> String {
    let losses = it.losses.iter().map(
        |loss| json!({ "group": loss.group.0, "indexes": loss.indexes, "snapshot": loss.snapshot }),
    );
    text(&json!({
        "verification": verified(&it.verification),
        "steps": it.steps.iter().map(step).collect::<Vec<_>>(),
        "losses": losses.collect::<Vec<_>>(),
        "states_lost": it.states_lost,
    }))
}

fn verified(it: &Verification) -> Value {
    json!({
        "is_sound": it.is_sound(),
        "in_use": it.in_use,
        "opens": it.opens,
        "unrestorable_groups": it.unrestorable().iter().map(|group| group.0).collect::<Vec<_>>(),
        "segments": it.segments,
        "batches": it.batches,
        "entries": it.entries,
        "snapshots": it.snapshots,
        "checked_bytes": it.checked_bytes,
        "problems": it.problems.iter().map(problem).collect::<Vec<_>>(),
        "problems_total": it.problems_total,
        "notes": it.notes.iter().map(note).collect::<Vec<_>>(),
    })
}

fn segment(it: &SegmentInspection) -> Value {
    let holders = it.holders.iter().map(
        |share| json!({ "group": share.group.0, "entries": share.entries, "bytes": share.bytes }),
    );
    json!({
        "id": it.id.0,
        "file": name(&it.file),
        "bytes": it.bytes,
        "state": it.state.to_string(),
        "epoch": it.epoch,
        "previous": it.previous.0,
        "first_lsn": it.first_lsn.0,
        "last_lsn": it.last_lsn.0,
        "batches": it.batches,
        "used_bytes": it.used_bytes,
        "live_entries": it.live_entries,
        "live_bytes": it.live_bytes,
        "groups": it.groups,
        "holders": holders.collect::<Vec<_>>(),
    })
}

fn group(it: &GroupInspection) -> Value {
    let snapshot = |it: &SnapshotRef| json!({ "index": it.index, "term": it.term, "id": it.id, "bytes": it.bytes, "crc": it.crc });
    let segments = it.segments.iter().map(|share| {
        json!({ "segment": share.segment.0, "entries": share.entries, "bytes": share.bytes })
    });
    json!({
        "group": it.group.0,
        "born": it.born.0,
        "term": it.state.term,
        "vote": it.state.vote,
        "commit": it.state.commit,
        "first_index": it.first_index,
        "last_index": it.last_index,
        "previous_term": it.previous_term,
        "terms": it.terms,
        "snapshot": it.snapshot.as_ref().map(snapshot),
        "bytes": it.bytes,
        "segments": segments.collect::<Vec<_>>(),
        "lost": it.lost,
    })
}

fn problem(it: &Problem) -> Value {
    let cost = match it.cost {
        Cost::Nothing => "nothing",
        Cost::Entries => "entries",
        Cost::States => "states",
        Cost::Snapshot => "snapshot",
        _ => "other",
    };
    json!({ "damage": damage(&it.damage), "cost": cost, "remedy": it.remedy() })
}

fn damage(it: &Damage) -> Value {
    json!({
        "file": it.file.display().to_string(),
        "offset": it.offset,
        "group": it.group.map(|group| group.0),
        "indexes": it.indexes,
        "kind": it.kind.to_string(),
    })
}

fn note(it: &Note) -> Value {
    let (kind, file) = match it {
        Note::TornTail { file, .. } => ("torn_tail", file),
        Note::TornManifest { file } => ("torn_manifest", file),
        Note::Superseded { damage } => ("superseded", &damage.file),
        Note::NoIndex { file } => ("no_index", file),
        Note::NotInService { file, .. } => ("not_in_service", file),
        Note::UnusedSnapshot { file } => ("unused_snapshot", file),
        Note::Stray { file } => ("stray", file),
        _ => return json!({ "kind": "other", "text": it.to_string() }),
    };
    json!({ "kind": kind, "file": file.display().to_string(), "text": it.to_string() })
}

fn step(it: &RepairStep) -> Value {
    let (kind, file) = match it {
        RepairStep::Cut { file, .. } => ("cut", file),
        RepairStep::Delete { file, .. } => ("delete", file),
        RepairStep::Rename { file, .. } => ("rename", file),
        RepairStep::WriteManifest { file } => ("write_manifest", file),
        RepairStep::MakeIndex { file } => ("make_index", file),
        _ => return json!({ "kind": "other", "text": it.to_string() }),
    };
    json!({ "kind": kind, "file": file.display().to_string(), "text": it.to_string() })
}

fn text(value: &Value) -> String {
    crate::text::json(&format!("{value:#}\n"))
}
