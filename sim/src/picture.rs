//! Draws what happened over time, as one HTML file that needs nothing else: who called what and was answered what, what
//! became of the nodes, and where it went wrong.
//!
//! [`Picture::of_run`] draws a run of the simulator, [`write`](write()) a history that was recorded elsewhere, such as one of
//! a real cluster.
//!
//! Invariants:
//! - At most [`CALLS_MAX`] calls and [`EVENTS_MAX`] other things are drawn, the last ones, and it is said how many are not;
//!   calls that are suspected are drawn before others.
//! - Whatever text is drawn is escaped: keys, values and failures are not the author of the page.

mod html;
mod lanes;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::judge::{History, Operation, Response, Verdict};
use crate::phases::Report;
use crate::story::{Outcome, Story};

use lanes::{Lane, Moment, of_calls, of_nodes, of_strikes};

/// Calls that are drawn at most.
pub const CALLS_MAX: usize = 2_000;

/// Other things that are drawn at most, of each kind: troubles, and what became of nodes.
pub const EVENTS_MAX: usize = 2_000;

/// What happened, ready to be drawn.
#[derive(Clone, Debug)]
pub struct Picture {
    title: String,
    /// What else there is to say, a line each.
    notes: Vec<String>,
    lanes: Vec<Lane>,
    /// When something began that lasts until the next one, and what.
    phases: Vec<Moment>,
    /// When it went wrong, and how.
    failure: Option<Moment>,
    /// The time that is drawn.
    from_ns: u64,
    until_ns: u64,
}

/// A picture could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the picture cannot be written to {}: {source}; give a file in a directory that is there", path.display())]
pub struct PictureError {
    /// Where.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Draws a history that was recorded, and marks what a verdict of it says to look at.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(path: &Path, history: &History, verdict: &Verdict) -> Result<(), PictureError> {
    Picture::of_history(&history.operations(), verdict).write(path)
}

/// A call to draw.
struct Call {
    lane: String,
    what: String,
    called_ns: u64,
    answer: Option<(u64, Outcome, String)>,
    /// Whether it is among those on which something fails; the first of them most of all.
    suspicion: Option<Suspicion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    Blamed,
    Related,
}

/// The first is to blame.
fn suspicions<T: Copy + Ord>(suspects: &[T]) -> BTreeMap<T, Suspicion> {
    let related = suspects.iter().map(|it| (*it, Suspicion::Related));
    let blamed = suspects.first().map(|it| (*it, Suspicion::Blamed));
    related.chain(blamed).collect()
}

impl Picture {
    /// Operations that were judged, and what the verdict says to look at.
    pub fn of_history(operations: &[Operation], verdict: &Verdict) -> Self {
        let suspects = verdict.suspects(operations);
        let ranks = suspicions(&suspects);
        // Clocks of real clusters show anything.
        let first_ns = operations
            .iter()
            .map(|it| it.invoked_at_ns)
            .min()
            .unwrap_or(0);
        let since_first = |at_ns: u64| at_ns.saturating_sub(first_ns);
        let calls = operations.iter().map(|operation| {
            let suspicion = ranks.get(&operation.id).copied();
            let outcome = match operation.response {
                Response::Refused => Outcome::Failed,
                Response::Unknown => Outcome::Unknown,
                _ => Outcome::Answered,
            };
            let answer = operation.completed_at_ns;
            Call {
                lane: format!("client {}", operation.client.0),
                what: format!("{}: {}", operation.id, operation.op),
                called_ns: since_first(operation.invoked_at_ns),
                answer: answer
                    .map(|at_ns| (since_first(at_ns), outcome, operation.response.to_string())),
                suspicion,
            }
        });
        let calls: Vec<Call> = calls.collect();
        let blamed = calls
            .iter()
            .find(|call| call.suspicion == Some(Suspicion::Blamed));
        let blamed_ns = blamed.and_then(|call| call.answer.as_ref()).map(|it| it.0);
        let failure = blamed_ns.map(|at_ns| Moment {
            at_ns,
            text: verdict.to_string(),
        });
        let ends = calls
            .iter()
            .map(|call| call.answer.as_ref().map_or(call.called_ns, |it| it.0));
        let until_ns = ends.max().unwrap_or(0);
        let mut picture = Self {
            title: format!("{} operations: {verdict}", operations.len()),
            notes: Vec::new(),
            lanes: Vec::new(),
            phases: Vec::new(),
            failure,
            from_ns: 0,
            until_ns,
        };
        picture.draw_calls(calls);
        picture
    }

    /// A run that was played with its text and story. `name` is what replays it, as in `--replay 7@4`.
    pub fn of_run(name: &str, report: &Report) -> Self {
        let nothing = Story::default();
        let story = report.story.as_ref().unwrap_or(&nothing);
        let failure = report.failure.as_ref().map(|failure| Moment {
            at_ns: failure.at_ns,
            text: failure.what.clone(),
        });
        let verdict = if failure.is_some() {
            "failed"
        } else {
            "passed"
        };
        let mut picture = Self {
            title: format!("{name} {verdict}"),
            notes: vec![format!(
                "{} steps, {} calls, trace {:016x}",
                report.steps, report.calls, report.hash
            )],
            lanes: Vec::new(),
            phases: Vec::new(),
            failure,
            from_ns: 0,
            until_ns: report.virtual_ns,
        };
        let ranks = suspicions(&story.suspects);
        let calls = story.calls.iter().map(|call| {
            let suspicion = ranks.get(&call.ticket).copied();
            Call {
                lane: format!("clerk c{}", call.clerk),
                what: format!("#{} {}", call.ticket.0, call.what),
                called_ns: call.called_ns,
                answer: call.answer.clone(),
                suspicion,
            }
        });
        picture.draw_calls(calls.collect());
        picture.draw_story(story);
        picture
    }

    /// Writes it as one HTML file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PictureError> {
        std::fs::write(path, self.to_html()).map_err(|source| PictureError {
            path: path.to_owned(),
            source,
        })
    }

    /// The whole page.
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// Draws the last calls, as many as are allowed, suspected ones before others.
    fn draw_calls(&mut self, mut calls: Vec<Call>) {
        let count = calls.len();
        if count > CALLS_MAX {
            calls.sort_by_key(|call| (call.suspicion.is_some(), call.called_ns));
            calls.drain(..count - CALLS_MAX);
            calls.sort_by_key(|call| call.called_ns);
            self.from_ns = calls.first().map_or(self.from_ns, |call| call.called_ns);
            self.left_out(count - CALLS_MAX, "earlier calls");
        }
        self.lanes.extend(of_calls(&calls, self.until_ns));
    }

    fn draw_story(&mut self, story: &Story) {
        let (strikes, happenings) = (&story.strikes, &story.happenings);
        let strikes_left_out = strikes.len().saturating_sub(EVENTS_MAX);
        let happenings_left_out = happenings.len().saturating_sub(EVENTS_MAX);
        self.left_out(strikes_left_out, "earlier troubles");
        self.left_out(happenings_left_out, "earlier changes of nodes");
        self.lanes.extend(of_strikes(&strikes[strikes_left_out..]));
        let (lanes, phases) = of_nodes(
            &happenings[happenings_left_out..],
            &strikes[strikes_left_out..],
            self.until_ns,
        );
        self.lanes.extend(lanes);
        self.phases = phases;
    }

    fn left_out(&mut self, count: usize, of_what: &str) {
        if count > 0 {
            self.notes.push(format!("{count} {of_what} are not drawn"));
        }
    }
}
