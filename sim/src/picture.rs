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

/// Shortly before the first call or trouble: until then a run elects leaders.
fn beginning(story: &Story, until_ns: u64) -> u64 {
    let calls = story.calls.first().map(|call| call.called_ns);
    let strikes = story.strikes.first().map(|strike| strike.at_ns);
    let first_ns = calls.into_iter().chain(strikes).min().unwrap_or(0);
    first_ns.saturating_sub(until_ns.saturating_sub(first_ns) / 20)
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
        picture.from_ns = beginning(story, report.virtual_ns);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::judge::{ClientId, Op, check_linearizable};
    use crate::phases::{Failure, run};
    use crate::workload::KvWorkload;

    fn get(key: &'static [u8]) -> Op {
        Op::Get { key: key.into() }
    }

    /// So many reads of nothing, by three clients, and before them a read of what nobody wrote.
    fn history(reads: u64, key: &'static [u8], value: &'static [u8]) -> History {
        let history = History::new();
        let wrong = history.invoke(ClientId(7), get(key), 1_000_000);
        history.complete(wrong, Response::Value(Some(value.into())), 2_000_000);
        for number in 0..reads {
            let at_ns = 3_000_000 + number * 1_000_000;
            let id = history.invoke(ClientId(number % 3), get(b"other"), at_ns);
            history.complete(id, Response::Value(None), at_ns + 600_000);
        }
        history
    }

    fn drawn(history: &History) -> String {
        let operations = history.operations();
        let verdict = check_linearizable(&operations, 1_000_000);
        Picture::of_history(&operations, &verdict).to_html()
    }

    /// The numbers of an attribute, of all elements of a kind.
    fn numbers(html: &str, element: &str, attribute: &str) -> Vec<f64> {
        let (begins, is) = (format!("<{element} "), format!(" {attribute}=\""));
        let elements = html.split(&begins).skip(1);
        let values = elements.filter_map(|rest| {
            let inside = rest.split('>').next()?;
            let value = inside.split(&is).nth(1)?;
            value.split('"').next()?.parse().ok()
        });
        values.collect()
    }

    /// Whether every element that begins ends, in its turn, and nothing else does.
    fn is_well_formed(html: &str) -> bool {
        let mut open = Vec::new();
        for rest in html.split('<').skip(1) {
            let Some((tag, _)) = rest.split_once('>') else {
                return false;
            };
            let name = tag
                .split([' ', '/'])
                .find(|it| !it.is_empty())
                .unwrap_or("");
            let ends_alone = tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name);
            if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !ends_alone {
                open.push(name);
            }
        }
        open.is_empty()
    }

    #[test]
    fn what_is_wrong_is_marked_and_named() {
        let html = drawn(&history(10, b"k", b"v"));
        assert!(is_well_formed(&html), "{html}");
        assert_eq!(html.matches("class=\"answered blamed\"").count(), 1);
        assert_eq!(html.matches("class=\"wrong\"").count(), 1);
        assert!(html.contains("not linearizable: on key"), "{html}");
        for lane in ["client 0", "client 1", "client 2", "client 7"] {
            assert!(html.contains(&format!(">{lane}</text>")), "{lane}");
        }
        let right = History::new();
        let html = drawn(&right);
        assert!(is_well_formed(&html) && !html.contains("class=\"wrong\""));
    }

    #[test]
    fn whatever_is_called_the_page_stays_a_page() {
        let html = drawn(&history(3, b"<script>\"'&", b"</svg>\x00\x1b"));
        assert!(is_well_formed(&html), "{html}");
        assert!(!html.contains("<script") && html.matches("</svg>").count() == 3);
        let mut report = run::<KvWorkload>(1, Config::plain(1), false);
        report.failure = Some(Failure {
            at_ns: 7,
            what: "<b>\u{1b}[31m &amp; \"it\"".repeat(10_000),
        });
        let html = Picture::of_run("<i>", &report).to_html();
        assert!(is_well_formed(&html) && !html.contains('\u{1b}'));
        assert!(
            !html.contains("<b>") && html.len() < 100_000,
            "{}",
            html.len()
        );
    }

    #[test]
    fn a_bounded_number_of_calls_is_drawn_the_suspected_one_among_them() {
        let calls = CALLS_MAX as u64 + 500;
        let html = drawn(&history(calls, b"k", b"v"));
        let bars = html.matches("<g><title>").count();
        assert_eq!(bars, CALLS_MAX);
        assert!(html.contains("501 earlier calls are not drawn"));
        assert!(html.contains("blamed\" x="));
    }

    #[test]
    fn everything_of_a_run_is_drawn_where_it_is_seen() {
        for seed in 0..20 {
            let report = run::<KvWorkload>(seed, Config::draw(seed), true);
            let html = Picture::of_run("it", &report).to_html();
            assert!(is_well_formed(&html), "seed {seed}");
            let plot = html.split("class=\"plot\"").nth(1).expect("a plot");
            let bars = plot.split("<g>").skip(1).collect::<Vec<_>>().join("<g>");
            let width: f64 = plot
                .split('"')
                .nth(1)
                .and_then(|it| it.parse().ok())
                .expect("a width");
            let (x, widths) = (numbers(&bars, "rect", "x"), numbers(&bars, "rect", "width"));
            let story = report.story.expect("it was kept");
            let calls = story.calls.len().min(CALLS_MAX);
            assert!(
                x.len() >= calls && x.len() == widths.len(),
                "seed {seed}: {} bars of {calls} calls",
                x.len()
            );
            for (x, bar) in x.iter().zip(&widths) {
                // A bar is made wide enough to be seen, also at the end.
                assert!(
                    *x >= 0.0 && x + bar <= width + 2.0,
                    "seed {seed}: {x} {bar}"
                );
                assert!(*bar >= 2.0, "seed {seed}");
            }
            let ticks = numbers(plot, "line", "x1");
            assert!(
                (3..400).contains(&ticks.len()),
                "seed {seed}: {}",
                ticks.len()
            );
            for name in ["clerk c0", "node n1"] {
                assert!(html.contains(&format!(">{name}</text>")), "seed {seed}");
            }
            for phase in ["boot", "quorum", "heal", "power"] {
                assert!(plot.contains(&format!(">{phase}</text>")), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_picture_that_cannot_be_written_says_where() {
        let path = Path::new("no/such/directory/picture.html");
        let error = write(path, &history(1, b"k", b"v"), &Verdict::Linearizable).unwrap_err();
        assert_eq!(error.path, path);
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture.html");
        write(&path, &history(1, b"k", b"v"), &Verdict::Linearizable).unwrap();
        let html = std::fs::read_to_string(&path).unwrap();
        assert!(html.starts_with("<!DOCTYPE html>"));
    }
}
