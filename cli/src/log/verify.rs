//! `quorate verify`: whether a log is sound.

use quorate_wal::{Problem, Verification};

use crate::arguments::VerifyArguments;
use crate::text;

use super::table::{count, size};
use super::{Answer, IN_USE, Unknown, json, place, told, with_progress};

pub(super) fn run(arguments: &VerifyArguments) -> Result<Answer, Unknown> {
    let place = place(&arguments.dir);
    let snapshots = place.snapshots.as_deref();
    let verification =
        with_progress(|disk, progress| quorate_wal::verify(disk, &place.log, snapshots, progress))?;
    Ok(Answer {
        is_sound: verification.is_sound(),
        text: if arguments.json {
            json::verification(&verification)
        } else {
            format!(
                "log in {}\n{}",
                text::path(&place.log),
                describe(&verification)
            )
        },
    })
}

/// So many groups are named in one line.
const GROUPS_NAMED_MAX: usize = 8;

/// What was checked and found.
pub(super) fn describe(it: &Verification) -> String {
    let mut lines = Vec::new();
    if it.in_use {
        lines.push(format!("{IN_USE}\n"));
    }
    let snapshots = match it.snapshots {
        Some(snapshots) => count(snapshots, "snapshot", "snapshots"),
        None => "no snapshots (name the directory of the node to have them checked)".to_owned(),
    };
    lines.push(format!(
        "checked {}: {}, {}, {}, {snapshots}\n",
        size(it.checked_bytes),
        count(it.segments, "segment", "segments"),
        count(it.batches, "batch", "batches"),
        count(it.entries, "entry", "entries"),
    ));
    for problem in &it.problems {
        lines.push(describe_problem(problem));
    }
    let more = it.problems_total - it.problems.len() as u64;
    if more > 0 {
        lines.push(format!("and {more} more like these\n"));
    }
    for note in &it.notes {
        lines.push(format!("note: {}\n", told(note)));
    }
    if it.is_sound() {
        lines.push("sound\n".to_owned());
    } else {
        let opens = if it.opens { "opens" } else { "does not open" };
        let problems = count(it.problems_total, "PROBLEM", "PROBLEMS");
        let but = unrestorable(it);
        lines.push(format!("{problems}; the log {opens} as it is{but}\n"));
    }
    lines.concat()
}

/// What the log alone does not say: whether the node can serve from it.
pub(super) fn unrestorable(it: &Verification) -> String {
    let groups = it.unrestorable();
    let named = groups.iter().take(GROUPS_NAMED_MAX);
    let named: Vec<_> = named.map(|group| format!("group {}", group.0)).collect();
    let more = match groups.len().saturating_sub(GROUPS_NAMED_MAX) {
        _ if groups.is_empty() => return String::new(),
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        ", but the snapshot of {}{more} is damaged or gone: the node cannot serve that state without \
         a copy from a peer",
        named.join(", ")
    )
}

fn describe_problem(it: &Problem) -> String {
    format!(
        "PROBLEM: {}\n  cost: {}\n  remedy: {}\n",
        told(&it.damage),
        it.cost,
        it.remedy()
    )
}
