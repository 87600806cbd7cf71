//! What happened in a run, for those who draw it: calls, troubles, and what became of the nodes.
//!
//! It is told along with the text of a trace, and draws nothing: with it and without it a run is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quorate::{Bytes, Error, GroupId, Term};

use crate::faults::FaultClass;
use crate::workload::Ticket;
use crate::world::End;

/// What happened, each list in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Calls of clerks.
    pub calls: Vec<CallStory>,
    /// Troubles that struck.
    pub strikes: Vec<Strike>,
    /// What became of nodes, and the phases of the run.
    pub happenings: Vec<Happening>,
    /// The calls on which the run failed, the worst first: one that was answered as no machine may, and those that the
    /// workload [suspects](crate::workload::Workload::suspects).
    pub suspects: Vec<Ticket>,
    /// In which term a node leads a group.
    leading: BTreeMap<(usize, GroupId), Term>,
    /// Which replicas stand aside.
    aside: BTreeSet<(usize, GroupId)>,
    /// Where calls without an answer are.
    open: BTreeMap<Ticket, usize>,
}

/// A call.
#[derive(Clone, Debug)]
pub struct CallStory {
    /// Whose, by place.
    pub clerk: usize,
    /// Which.
    pub ticket: Ticket,
    /// What was called, in a few words.
    pub what: String,
    /// When.
    pub called_ns: u64,
    /// When it was answered, how, and the answer; `None` if it was not.
    pub answer: Option<(u64, Outcome, String)>,
}

/// What the answer to a call says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, or was read.
    Answered,
    /// It failed and had no effect.
    Failed,
    /// It may have had an effect, may have it later, or never.
    Unknown,
}

/// A trouble that struck.
#[derive(Clone, Debug)]
pub struct Strike {
    /// Its number, by which it can be left out.
    pub number: u32,
    /// The class of the fault; `None`: an operator asked for another leader.
    pub class: Option<FaultClass>,
    /// The node that it struck, by place.
    pub node: usize,
    /// When it struck.
    pub at_ns: u64,
    /// When it was over, if it lasts.
    pub until_ns: u64,
}

/// Something else that happened.
#[derive(Clone, Debug)]
pub struct Happening {
    /// When.
    pub at_ns: u64,
    /// To which node, by place; `None`: to all.
    pub node: Option<usize>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A phase of the run began.
    Phase(&'static str),
    /// A process was started.
    Opened,
    /// A process could not be started.
    Unopened(String),
    /// A process ended.
    Killed(End),
    /// What was wiped off a disk was put back.
    PutBack,
    /// A replica stands aside from here on: it lost entries.
    Aside {
        /// Of which group.
        group: GroupId,
    },
    /// A replica stands aside no more.
    Back {
        /// Of which group.
        group: GroupId,
    },
    /// A process stands still.
    Paused {
        /// Until then, if it lives so long.
        until_ns: u64,
    },
    /// A process stands still no more, before its time.
    GoesOn,
    /// A replica leads its group from here on.
    Leads {
        /// Which group.
        group: GroupId,
        /// In which term.
        term: Term,
    },
    /// A replica leads its group no more.
    Follows {
        /// Which group.
        group: GroupId,
    },
}

impl Strike {
    /// Whether it is a matter of links between nodes.
    pub fn is_of_network(&self) -> bool {
        use FaultClass::{Bridge, Clog, Isolate, OneWayCut};
        matches!(self.class, Some(OneWayCut | Isolate | Bridge | Clog))
    }

    /// Whether it lasts from one moment to another.
    pub fn lasts(&self) -> bool {
        use FaultClass::{FullDisk, SlowDisk, StuckDisk};
        self.is_of_network() || matches!(self.class, Some(SlowDisk | StuckDisk | FullDisk))
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.number)?;
        match self.class {
            Some(class) => write!(f, "{class:?}")?,
            None => f.write_str("handover")?,
        }
        write!(
            f,
            " at n{}, {:.3} ms",
            self.node + 1,
            self.at_ns as f64 / 1e6
        )?;
        if self.lasts() {
            write!(f, " to {:.3} ms", self.until_ns as f64 / 1e6)?;
        }
        Ok(())
    }
}

impl Story {
    pub(crate) fn called(&mut self, at_ns: u64, clerk: usize, ticket: Ticket, what: String) {
        self.open.insert(ticket, self.calls.len());
        self.calls.push(CallStory {
            clerk,
            ticket,
            what,
            called_ns: at_ns,
            answer: None,
        });
    }

    pub(crate) fn answered(&mut self, at_ns: u64, ticket: Ticket, answer: &Result<Bytes, Error>) {
        let Some(place) = self.open.remove(&ticket) else {
            return;
        };
        let (outcome, text) = match answer {
            Ok(answer) => (Outcome::Answered, answer.escape_ascii().to_string()),
            Err(error) => (outcome_of(error), error.to_string()),
        };
        self.calls[place].answer = Some((at_ns, outcome, text));
    }

    pub(crate) fn struck(
        &mut self,
        number: u32,
        class: Option<FaultClass>,
        node: usize,
        (at_ns, until_ns): (u64, u64),
    ) {
        self.strikes.push(Strike {
            number,
            class,
            node,
            at_ns,
            until_ns,
        });
    }

    /// The links are whole again, or the disk of a node is well again.
    pub(crate) fn relieved(&mut self, now_ns: u64, node: Option<usize>) {
        self.end(now_ns, |strike| match node {
            None => strike.is_of_network(),
            Some(node) => !strike.is_of_network() && strike.node == node,
        });
    }

    /// Everything is whole again.
    pub(crate) fn healed(&mut self, now_ns: u64) {
        self.end(now_ns, |_| true);
    }

    pub(crate) fn happens(&mut self, at_ns: u64, node: Option<usize>, what: What) {
        if let (What::Killed(_), Some(node)) = (&what, node) {
            self.leading.retain(|(leader, _), _| *leader != node);
            self.aside.retain(|(aside, _)| *aside != node);
        }
        self.happenings.push(Happening { at_ns, node, what });
    }

    /// A node leads a group in a term, or does not.
    pub(crate) fn leads(&mut self, at_ns: u64, node: usize, group: GroupId, term: Option<Term>) {
        let before = match term {
            Some(term) => self.leading.insert((node, group), term),
            None => self.leading.remove(&(node, group)),
        };
        if before != term {
            let what = match term {
                Some(term) => What::Leads { group, term },
                None => What::Follows { group },
            };
            self.happens(at_ns, Some(node), what);
        }
    }

    /// A replica stands aside, or does not.
    pub(crate) fn stands_aside(&mut self, at_ns: u64, node: usize, group: GroupId, is_aside: bool) {
        let place = (node, group);
        let is_new = if is_aside {
            self.aside.insert(place)
        } else {
            self.aside.remove(&place)
        };
        if is_new {
            let what = if is_aside {
                What::Aside { group }
            } else {
                What::Back { group }
            };
            self.happens(at_ns, Some(node), what);
        }
    }

    fn end(&mut self, now_ns: u64, is_over: impl Fn(&Strike) -> bool) {
        let lasting = self.strikes.iter_mut().filter(|it| it.lasts());
        for strike in lasting.filter(|it| is_over(it)) {
            strike.until_ns = strike.until_ns.min(now_ns).max(strike.at_ns);
        }
    }
}

fn outcome_of(error: &Error) -> Outcome {
    match error {
        Error::Timeout {
            maybe_applied: true,
            ..
        }
        | Error::SessionExpired
        | Error::MaybeApplied { .. } => Outcome::Unknown,
        _ => Outcome::Failed,
    }
}
