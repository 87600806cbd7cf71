//! `quorate repair --dry-run`: what the next start would make of a log.

use quorate_wal::{GroupLoss, LogOptions, RepairPlan};

use crate::arguments::RepairArguments;
use crate::text;

use super::{Answer, EXIT_UNKNOWN, Unknown, json, place, told, verify, with_progress};

const REFUSAL: &str = "a log is never repaired in place, since that could turn one damaged part into two: say --dry-run to see \
                       what the next start does by itself, and what can be done about damage";

pub(super) fn run(arguments: &RepairArguments) -> Result<Answer, Unknown> {
    if !arguments.dry_run {
        return Err(Unknown {
            reason: REFUSAL.to_owned(),
            code: EXIT_UNKNOWN,
        });
    }
    let place = place(&arguments.dir);
    let snapshots = place.snapshots.as_deref();
    let plan = with_progress(|disk, progress| {
        quorate_wal::plan_repair(
            disk,
            &place.log,
            snapshots,
            &LogOptions::default(),
            progress,
        )
    })?;
    Ok(Answer {
        is_sound: plan.verification.is_sound(),
        text: if arguments.json {
            json::plan(&plan)
        } else {
            format!("log in {}\n{}", text::path(&place.log), describe(&plan))
        },
    })
}

fn describe(it: &RepairPlan) -> String {
    let next = if it.verification.opens {
        "the next start opens the log, and would"
    } else {
        "the next start is refused; if damage is accepted, it would"
    };
    let but = verify::unrestorable(&it.verification);
    let none = if it.steps.is_empty() {
        " change no file"
    } else {
        ""
    };
    let mut lines = vec![format!("{next}{none}")];
    if !but.is_empty() {
        lines.push(format!("  the log can be read{but}"));
    }
    lines.extend(it.steps.iter().map(|step| format!("  {}", told(step))));
    if !it.losses.is_empty() || it.states_lost {
        lines.push("it would go on without".to_owned());
    }
    lines.extend(it.losses.iter().map(describe_loss));
    if it.states_lost {
        let states = "  the latest terms and votes, perhaps: such a node must not vote again";
        lines.push(states.to_owned());
    }
    lines.push("nothing was changed".to_owned());
    format!(
        "{}\n{}\n",
        verify::describe(&it.verification),
        lines.join("\n")
    )
}

fn describe_loss(it: &GroupLoss) -> String {
    let ranges = it
        .indexes
        .iter()
        .map(|(first, last)| format!("{first} to {last}"));
    let mut parts: Vec<_> = ranges.map(|range| format!("entries {range}")).collect();
    if it.snapshot {
        parts.push("the snapshot".to_owned());
    }
    format!("  {} of group {}", parts.join(", "), it.group.0)
}
