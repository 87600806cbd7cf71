//! Is there an order of the operations that explains every answer and respects real time?
//!
//! The search of Wing and Gong (1993) with the memory of Lowe (2017): walk the calls and answers in
//! the order in which they happened; take any operation whose call comes before the first answer
//! that is still open; undo the last choice when an answer is reached whose operation was not
//! taken. A set of taken operations that was met before in the same state is not followed again.
//! Linearizability is local (Herlihy and Wing 1990): each key is judged for itself.
//!
//! An operation without an answer has no end: it may be taken at any time after its call, or never.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use bytes::Bytes;

use super::history::{OpId, Operation};
use super::register::{Register, Step};

/// What became of the search. Only [`Verdict::Linearizable`] is a success.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// There is an order that explains the history.
    Linearizable,
    /// There is none.
    NotLinearizable(Explanation),
    /// The search was given up. Not a success: record fewer operations for each key, or allow more
    /// steps.
    Undecided {
        /// The key whose operations were too many or too concurrent.
        key: Bytes,
        /// How many steps were taken for it.
        steps: u64,
    },
}

/// How far a key's history can be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The key.
    pub key: Bytes,
    /// The longest order that explains all of its answers.
    pub longest: Vec<OpId>,
    /// The first operation whose answer is not explained behind it.
    pub blocked: OpId,
}

impl Verdict {
    /// Whether the history is shown to be right.
    pub fn is_linearizable(&self) -> bool {
        *self == Self::Linearizable
    }
}

impl Verdict {
    /// Of these operations, which were judged, those that whoever looks for the mistake has to look at: the one whose answer
    /// is not explained first, then all others of its key.
    pub fn suspects(&self, operations: &[Operation]) -> Vec<OpId> {
        let (key, blocked) = match self {
            Self::Linearizable => return Vec::new(),
            Self::NotLinearizable(explanation) => (&explanation.key, Some(explanation.blocked)),
            Self::Undecided { key, .. } => (key, None),
        };
        let of_key = operations.iter().filter(|it| it.op.key() == key);
        let others = of_key.map(|it| it.id).filter(|id| Some(*id) != blocked);
        blocked.into_iter().chain(others).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => write!(f, "linearizable"),
            Self::NotLinearizable(explanation) => write!(
                f,
                "not linearizable: on key {:?}, {} operations can be explained, but not {} after them",
                explanation.key,
                explanation.longest.len(),
                explanation.blocked
            ),
            Self::Undecided { key, steps } => {
                write!(f, "undecided: gave up on key {key:?} after {steps} steps")
            }
        }
    }
}

/// Judges the operations of all keys, each with at most `steps_max` steps of the search.
///
/// Memory grows with the steps, by some tens of bytes for each. A key starts without a value. Tells
/// of the first key, in their order, that is wrong; if none is, of the first that is undecided.
pub fn check_linearizable(operations: &[Operation], steps_max: u64) -> Verdict {
    let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(operation.op.key()).or_default().push(operation);
    }
    let mut undecided = None;
    for (key, operations) in keys {
        match Search::new(&operations).run(key, steps_max) {
            Verdict::Linearizable => {}
            verdict @ Verdict::NotLinearizable(_) => return verdict,
            verdict @ Verdict::Undecided { .. } => undecided = undecided.or(Some(verdict)),
        }
    }
    undecided.unwrap_or(Verdict::Linearizable)
}

/// An operation that matters to the search.
struct Candidate {
    id: OpId,
    step: Step,
    completed: bool,
}

/// A call or an answer, linked to the ones before and after it that are still open.
struct Event {
    candidate: usize,
    is_call: bool,
    /// Where the answer stands, for a call that has one.
    answer: Option<usize>,
    previous: usize,
    next: usize,
}

/// The place before the first event; also the end of the list.
const HEAD: usize = 0;

struct Search {
    candidates: Vec<Candidate>,
    events: Vec<Event>,
    taken: Vec<u64>,
    /// Answered operations that were not taken yet.
    open: usize,
    state: Register,
    /// The calls that were taken, and the state before each.
    path: Vec<(usize, Register)>,
    seen: HashSet<(TakenSet, Register)>,
    longest: Vec<OpId>,
    blocked: Option<OpId>,
}

impl Search {
    fn new(operations: &[&Operation]) -> Self {
        let mut candidates = Vec::new();
        let mut marks = Vec::new();
        for operation in operations {
            let Some(step) = Step::new(&operation.op, &operation.response) else {
                continue;
            };
            let candidate = candidates.len();
            marks.push((operation.invoked, candidate, true));
            marks.extend(
                operation
                    .completed
                    .map(|completed| (completed, candidate, false)),
            );
            let completed = operation.completed.is_some();
            candidates.push(Candidate {
                id: operation.id,
                step,
                completed,
            });
        }
        marks.sort_unstable();
        let open = candidates
            .iter()
            .filter(|candidate| candidate.completed)
            .count();
        Self {
            taken: vec![0; candidates.len().div_ceil(64)],
            events: link(&marks, candidates.len()),
            candidates,
            open,
            state: Register::default(),
            path: Vec::new(),
            seen: HashSet::new(),
            longest: Vec::new(),
            blocked: None,
        }
    }

    fn run(mut self, key: &Bytes, steps_max: u64) -> Verdict {
        let mut steps = 0;
        let mut at = self.events[HEAD].next;
        while self.open > 0 {
            assert!(at != HEAD, "an open operation has an answer in the list");
            if self.events[at].is_call {
                steps += 1;
                if steps > steps_max {
                    return Verdict::Undecided {
                        key: key.clone(),
                        steps: steps_max,
                    };
                }
                at = if self.take(at) {
                    self.events[HEAD].next
                } else {
                    self.events[at].next
                };
                continue;
            }
            self.note_blocked(at);
            match self.undo() {
                Some(call) => at = self.events[call].next,
                None => return Verdict::NotLinearizable(self.explanation(key)),
            }
        }
        Verdict::Linearizable
    }

    /// Takes an operation as the next one, unless its answer does not fit or this was tried before.
    fn take(&mut self, call: usize) -> bool {
        let candidate = self.events[call].candidate;
        let Candidate {
            step, completed, ..
        } = &self.candidates[candidate];
        let Some(after) = self.state.after(step) else {
            return false;
        };
        // One without an answer is never needed where it changes nothing.
        if !completed && after == self.state {
            return false;
        }
        self.taken[candidate / 64] |= 1 << (candidate % 64);
        if !self.seen.insert((TakenSet::new(&self.taken), after)) {
            self.taken[candidate / 64] &= !(1 << (candidate % 64));
            return false;
        }
        self.open -= usize::from(*completed);
        self.path.push((call, self.state));
        self.state = after;
        self.unlink(call);
        true
    }

    /// Gives back the operation that was taken last; its call.
    fn undo(&mut self) -> Option<usize> {
        let (call, before) = self.path.pop()?;
        let candidate = self.events[call].candidate;
        self.taken[candidate / 64] &= !(1 << (candidate % 64));
        self.open += usize::from(self.candidates[candidate].completed);
        self.state = before;
        self.relink(call);
        Some(call)
    }

    /// Takes a call and its answer out of the list. They remember where they were.
    fn unlink(&mut self, call: usize) {
        for at in [Some(call), self.events[call].answer].into_iter().flatten() {
            let Event { previous, next, .. } = self.events[at];
            self.events[previous].next = next;
            self.events[next].previous = previous;
        }
    }

    /// Undoes `unlink`, in the opposite order: the last one taken out is the first one put back.
    fn relink(&mut self, call: usize) {
        for at in [self.events[call].answer, Some(call)].into_iter().flatten() {
            let Event { previous, next, .. } = self.events[at];
            self.events[previous].next = at;
            self.events[next].previous = at;
        }
    }

    fn note_blocked(&mut self, answer: usize) {
        if self.blocked.is_none() || self.path.len() > self.longest.len() {
            let id_of = |event: usize| self.candidates[self.events[event].candidate].id;
            self.longest = self.path.iter().map(|(call, _)| id_of(*call)).collect();
            self.blocked = Some(id_of(answer));
        }
    }

    fn explanation(self, key: &Bytes) -> Explanation {
        let blocked = self
            .blocked
            .expect("an answer was met before the search ended");
        Explanation {
            key: key.clone(),
            longest: self.longest,
            blocked,
        }
    }
}

/// Makes the list of calls and answers, in order, behind [`HEAD`].
fn link(marks: &[(u64, usize, bool)], candidates: usize) -> Vec<Event> {
    let len = marks.len() + 1;
    let mut events = vec![Event {
        candidate: usize::MAX,
        is_call: false,
        answer: None,
        previous: len - 1,
        next: 1 % len,
    }];
    let mut calls = vec![HEAD; candidates];
    for (number, &(_, candidate, is_call)) in marks.iter().enumerate() {
        let at = number + 1;
        events.push(Event {
            candidate,
            is_call,
            answer: None,
            previous: at - 1,
            next: (at + 1) % len,
        });
        if is_call {
            calls[candidate] = at;
        } else {
            events[calls[candidate]].answer = Some(at);
        }
    }
    events
}

/// Which operations were taken: the words behind the full ones at the front, without the empty
/// ones at the end. Short, since operations are taken roughly in the order of their calls.
#[derive(PartialEq, Eq, Hash)]
struct TakenSet {
    full_words: u32,
    words: Box<[u64]>,
}

impl TakenSet {
    fn new(taken: &[u64]) -> Self {
        let full = taken.iter().take_while(|word| **word == u64::MAX).count();
        let end = taken
            .iter()
            .rposition(|word| *word != 0)
            .map_or(0, |last| last + 1);
        Self {
            full_words: full as u32,
            words: taken[full..end.max(full)].into(),
        }
    }
}
