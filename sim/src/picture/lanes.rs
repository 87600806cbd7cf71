//! What is drawn beneath each other: lanes of bars, each from one moment to another.
//!
//! Invariant: bars of one row of a lane of calls do not overlap, unless more than [`ROWS_MAX`] are under way at once; then the
//! last row holds the rest.

use std::collections::BTreeMap;

use quorate::GroupId;

use super::{Call, Suspicion};
use crate::story::{Happening, Outcome, Strike, What};
use crate::world::End;

/// Rows of a lane of calls.
const ROWS_MAX: usize = 8;

/// A moment, and what happened at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at_ns: u64,
    pub(super) text: String,
}

/// A lane.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) bars: Vec<Bar>,
}

/// A bar of a lane.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) row: usize,
    pub(super) from_ns: u64,
    /// The same moment, if it is one.
    pub(super) until_ns: u64,
    pub(super) tone: Tone,
    /// What stands in it, if there is room.
    pub(super) label: String,
    /// What is shown when it is pointed at.
    pub(super) title: String,
    pub(super) suspicion: Option<Suspicion>,
}

/// How a bar looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Answered,
    Failed,
    Unknown,
    Up,
    Paused,
    Leads,
    Aside,
    Fault,
    Ended,
}

impl Tone {
    /// All, with their class in the page and what they mean.
    pub(super) const ALL: [(Self, &'static str, &'static str); 9] = [
        (Self::Answered, "answered", "call, answered"),
        (Self::Failed, "failed", "call that failed and had no effect"),
        (
            Self::Unknown,
            "unknown",
            "call that may have had an effect, or has no answer",
        ),
        (Self::Up, "up", "process runs"),
        (Self::Paused, "paused", "process stands still"),
        (Self::Leads, "leads", "leads a group in a term"),
        (
            Self::Aside,
            "aside",
            "replica that lost entries stands aside",
        ),
        (Self::Fault, "fault", "fault"),
        (Self::Ended, "ended", "process ends, or cannot be started"),
    ];

    pub(super) fn class(self) -> &'static str {
        let found = Self::ALL.iter().find(|(tone, ..)| *tone == self);
        found.map_or("", |(_, class, _)| class)
    }
}

/// A lane for each caller.
pub(super) fn of_calls(calls: &[Call], until_ns: u64) -> Vec<Lane> {
    let mut callers: BTreeMap<(usize, &str), Vec<Bar>> = BTreeMap::new();
    for call in calls {
        // With its length before it, so that the tenth does not come second.
        let caller = (call.lane.len(), call.lane.as_str());
        callers
            .entry(caller)
            .or_default()
            .push(bar_of(call, until_ns));
    }
    let lanes = callers
        .into_iter()
        .map(|((_, name), bars)| packed(name, bars));
    lanes.collect()
}

fn bar_of(call: &Call, until_ns: u64) -> Bar {
    let (until_ns, tone, answer) = match &call.answer {
        Some((at_ns, Outcome::Answered, text)) => (*at_ns, Tone::Answered, text.as_str()),
        Some((at_ns, Outcome::Failed, text)) => (*at_ns, Tone::Failed, text.as_str()),
        Some((at_ns, Outcome::Unknown, text)) => (*at_ns, Tone::Unknown, text.as_str()),
        None => (until_ns, Tone::Unknown, "no answer"),
    };
    let (from_ns, until_ns) = (call.called_ns, until_ns.max(call.called_ns));
    let (from_ms, until_ms) = (from_ns as f64 / 1e6, until_ns as f64 / 1e6);
    let what = &call.what;
    Bar {
        row: 0,
        from_ns,
        until_ns,
        tone,
        label: what.clone(),
        title: format!("{what}\n{from_ms:.3} to {until_ms:.3} ms\n{answer}"),
        suspicion: call.suspicion,
    }
}

/// A lane for the links between nodes, if anything was wrong with them.
pub(super) fn of_strikes(strikes: &[Strike]) -> Option<Lane> {
    let strikes = strikes.iter().filter(|strike| strike.is_of_network());
    let bars: Vec<Bar> = strikes.map(|strike| bar_of_strike(strike, 0)).collect();
    (!bars.is_empty()).then(|| packed("network", bars))
}

fn bar_of_strike(strike: &Strike, row: usize) -> Bar {
    let name = strike
        .class
        .map_or("handover".to_owned(), |class| format!("{class:?}"));
    Bar {
        row,
        from_ns: strike.at_ns,
        until_ns: if strike.lasts() {
            strike.until_ns
        } else {
            strike.at_ns
        },
        tone: Tone::Fault,
        label: format!("{}: {name} n{}", strike.number, strike.node + 1),
        title: format!("trouble {strike}"),
        suspicion: None,
    }
}

/// Bars in rows, each in the first in which there is room.
fn packed(name: &str, mut bars: Vec<Bar>) -> Lane {
    bars.sort_by_key(|bar| bar.from_ns);
    let mut ends: Vec<u64> = Vec::new();
    for bar in &mut bars {
        let free = ends.iter().position(|&end_ns| end_ns < bar.from_ns);
        let row = free.unwrap_or(ends.len()).min(ROWS_MAX - 1);
        if row == ends.len() {
            ends.push(0);
        }
        ends[row] = ends[row].max(bar.until_ns);
        bar.row = row;
    }
    Lane {
        name: name.to_owned(),
        rows: ends.len(),
        bars,
    }
}

/// A lane for each node, and the phases of the run.
pub(super) fn of_nodes(
    happenings: &[Happening],
    strikes: &[Strike],
    until_ns: u64,
) -> (Vec<Lane>, Vec<Moment>) {
    let mut nodes: BTreeMap<usize, NodeLane> = BTreeMap::new();
    let mut phases = Vec::new();
    for Happening { at_ns, node, what } in happenings {
        match (node, what) {
            (None, What::Phase(name)) => phases.push(Moment {
                at_ns: *at_ns,
                text: (*name).to_owned(),
            }),
            (None, _) => {}
            (Some(node), what) => nodes.entry(*node).or_default().take(*at_ns, what),
        }
    }
    for strike in strikes.iter().filter(|strike| !strike.is_of_network()) {
        let lane = nodes.entry(strike.node).or_default();
        lane.bars.push(bar_of_strike(strike, NodeLane::STRIKES));
    }
    let lanes = nodes
        .into_iter()
        .map(|(node, lane)| lane.end(node, until_ns));
    (lanes.collect(), phases)
}

/// A node's lane while it is drawn: whether the process runs, what struck it, and a row for each group that it led, or in which it
/// stood aside.
#[derive(Default)]
struct NodeLane {
    bars: Vec<Bar>,
    /// Where the bar is that has no end yet.
    up: Option<usize>,
    paused: Option<usize>,
    leads: BTreeMap<GroupId, usize>,
    aside: BTreeMap<GroupId, usize>,
    groups: BTreeMap<GroupId, usize>,
}

impl NodeLane {
    const PROCESS: usize = 0;
    const STRIKES: usize = 1;
    const GROUPS: usize = 2;

    fn take(&mut self, at_ns: u64, what: &What) {
        match what {
            What::Phase(_) => {}
            What::Opened => {
                self.up = Some(self.begin(Self::PROCESS, at_ns, Tone::Up, "", "runs"));
            }
            What::Unopened(reason) => self.end_process(at_ns, "unopened", reason),
            What::Killed(end) => {
                let label = match end {
                    End::Process => "killed",
                    End::Power => "power off",
                };
                self.end_process(at_ns, label, "the process ends");
            }
            What::Paused { until_ns } => {
                let bar = self.begin(Self::PROCESS, at_ns, Tone::Paused, "pause", "stands still");
                self.bars[bar].until_ns = *until_ns;
                self.paused = Some(bar);
            }
            What::GoesOn => {
                if let Some(bar) = self.paused.take() {
                    self.bars[bar].until_ns = at_ns;
                }
            }
            What::Leads { group, term } => {
                self.leads_no_more(*group, at_ns);
                let row = self.row_of(*group);
                let label = format!("g{} t{}", group.0, term.0);
                let title = format!("leads group {} in term {}", group.0, term.0);
                let bar = self.begin(row, at_ns, Tone::Leads, &label, &title);
                self.leads.insert(*group, bar);
            }
            What::Follows { group } => self.leads_no_more(*group, at_ns),
            What::Aside { group } => {
                let row = self.row_of(*group);
                let label = format!("g{} aside", group.0);
                let title = format!("stands aside in group {}", group.0);
                let bar = self.begin(row, at_ns, Tone::Aside, &label, &title);
                self.aside.insert(*group, bar);
            }
            What::Back { group } => {
                if let Some(bar) = self.aside.remove(group) {
                    self.bars[bar].until_ns = at_ns;
                }
            }
            What::PutBack => {
                let title = "what was wiped off the disk is put back";
                let bar = self.begin(Self::STRIKES, at_ns, Tone::Fault, "put back", title);
                self.bars[bar].until_ns = at_ns;
            }
        }
    }

    fn row_of(&mut self, group: GroupId) -> usize {
        let next = Self::GROUPS + self.groups.len();
        *self.groups.entry(group).or_insert(next)
    }

    fn begin(&mut self, row: usize, at_ns: u64, tone: Tone, label: &str, title: &str) -> usize {
        self.bars.push(Bar {
            row,
            from_ns: at_ns,
            until_ns: u64::MAX,
            tone,
            label: label.to_owned(),
            title: format!("{title}\nfrom {:.3} ms", at_ns as f64 / 1e6),
            suspicion: None,
        });
        self.bars.len() - 1
    }

    fn end_process(&mut self, at_ns: u64, label: &str, title: &str) {
        let open = self.up.take().into_iter().chain(self.paused.take());
        let offices = [
            std::mem::take(&mut self.leads),
            std::mem::take(&mut self.aside),
        ];
        for bar in open.chain(offices.into_iter().flat_map(BTreeMap::into_values)) {
            self.bars[bar].until_ns = self.bars[bar].until_ns.min(at_ns);
        }
        let bar = self.begin(Self::PROCESS, at_ns, Tone::Ended, label, title);
        self.bars[bar].until_ns = at_ns;
    }

    fn leads_no_more(&mut self, group: GroupId, at_ns: u64) {
        if let Some(bar) = self.leads.remove(&group) {
            self.bars[bar].until_ns = at_ns;
        }
    }

    fn end(mut self, node: usize, until_ns: u64) -> Lane {
        for bar in &mut self.bars {
            bar.until_ns = bar.until_ns.min(until_ns.max(bar.from_ns));
        }
        Lane {
            name: format!("node n{}", node + 1),
            rows: Self::GROUPS + self.groups.len(),
            bars: self.bars,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(from_ns: u64, until_ns: u64) -> Bar {
        Bar {
            row: 0,
            from_ns,
            until_ns,
            tone: Tone::Answered,
            label: String::new(),
            title: String::new(),
            suspicion: None,
        }
    }

    #[test]
    fn calls_that_overlap_stand_in_rows_of_their_own() {
        let lane = packed(
            "c",
            vec![bar(0, 10), bar(5, 7), bar(8, 9), bar(10, 12), bar(11, 13)],
        );
        let rows: Vec<usize> = lane.bars.iter().map(|bar| bar.row).collect();
        assert_eq!(rows, [0, 1, 1, 1, 0]);
        assert_eq!(lane.rows, 2);
    }

    #[test]
    fn a_lane_has_a_bounded_number_of_rows() {
        let lane = packed("c", vec![bar(0, 10); 100]);
        assert_eq!(lane.rows, ROWS_MAX);
        assert!(lane.bars.iter().all(|bar| bar.row < ROWS_MAX));
    }

    #[test]
    fn what_a_node_did_ends_with_its_process() {
        let happened = |at_ns, what| Happening {
            at_ns,
            node: Some(0),
            what,
        };
        let (group, term) = (GroupId(3), quorate::Term(7));
        let happenings = [
            happened(1, What::Opened),
            happened(2, What::Leads { group, term }),
            happened(4, What::Paused { until_ns: 90 }),
            happened(4, What::Aside { group }),
            happened(5, What::Killed(End::Power)),
            happened(5, What::PutBack),
            happened(6, What::Opened),
            happened(7, What::Paused { until_ns: 90 }),
            happened(9, What::GoesOn),
            happened(9, What::Aside { group }),
            happened(11, What::Back { group }),
        ];
        let (lanes, _) = of_nodes(&happenings, &[], 100);
        let spans = lanes[0]
            .bars
            .iter()
            .map(|bar| (bar.tone, bar.from_ns, bar.until_ns));
        let expected = [
            (Tone::Up, 1, 5),
            (Tone::Leads, 2, 5),
            (Tone::Paused, 4, 5),
            (Tone::Aside, 4, 5),
            (Tone::Ended, 5, 5),
            (Tone::Fault, 5, 5),
            (Tone::Up, 6, 100),
            (Tone::Paused, 7, 9),
            (Tone::Aside, 9, 11),
        ];
        assert_eq!(spans.collect::<Vec<_>>(), expected);
    }
}
