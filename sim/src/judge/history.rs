//! What clients called and what they were answered, in the order in which it happened.
//!
//! Invariants:
//! - An operation is invoked once, and completed at most once, later.
//! - `invoked` and `completed` are positions in one sequence of all events: no two are equal, so
//!   that "before" is always decided, also at one instant of virtual time.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// One caller. It may have several operations on their way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// Names an operation of a [`History`]: the number of operations invoked before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub usize);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op{}", self.0)
    }
}

/// What was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Add to the end of a value; an absent one counts as empty.
    Append {
        /// The key.
        key: Bytes,
        /// What is added.
        suffix: Bytes,
    },
    /// Read a value.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Set a value if it is the expected one.
    CompareAndSwap {
        /// The key.
        key: Bytes,
        /// What must be there; `None`: nothing.
        expected: Option<Bytes>,
        /// The new value.
        new: Bytes,
    },
}

impl Op {
    /// The key that it concerns.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. }
            | Self::Append { key, .. }
            | Self::Get { key }
            | Self::Delete { key }
            | Self::CompareAndSwap { key, .. } => key,
        }
    }
}

impl fmt::Display for Op {
    /// In a line, for the reader: long values are cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key().escape_ascii();
        match self {
            Self::Put { value, .. } => write!(f, "put {key} {}", Brief(Some(value))),
            Self::Append { suffix, .. } => write!(f, "append {key} {}", Brief(Some(suffix))),
            Self::Get { .. } => write!(f, "get {key}"),
            Self::Delete { .. } => write!(f, "delete {key}"),
            Self::CompareAndSwap { expected, new, .. } => {
                let (expected, new) = (Brief(expected.as_deref()), Brief(Some(new)));
                write!(f, "swap {key} {expected} for {new}")
            }
        }
    }
}

/// A value in a few letters.
struct Brief<'a>(Option<&'a [u8]>);

/// More bytes of a value than these are not shown.
const BRIEF_BYTES_MAX: usize = 48;

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("nothing"),
            Some(value) if value.len() <= BRIEF_BYTES_MAX => {
                write!(f, "\"{}\"", value.escape_ascii())
            }
            Some(value) => {
                let shown = value[..BRIEF_BYTES_MAX].escape_ascii();
                write!(f, "\"{shown}...\" of {} bytes", value.len())
            }
        }
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To put, append and compare-and-swap: it took effect.
    Done,
    /// To append: it took effect, and the value is this long now.
    Length(u64),
    /// To delete: whether there was a value.
    Existed(bool),
    /// To compare-and-swap: it had no effect, because this is the value.
    Conflict(Option<Bytes>),
    /// To get: the value.
    Value(Option<Bytes>),
    /// It had no effect and never will.
    Refused,
    /// It may have had an effect, may have it later, or never.
    Unknown,
}

impl fmt::Display for Response {
    /// In a line, for the reader: long values are cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Length(length) => write!(f, "done, {length} bytes"),
            Self::Existed(true) => f.write_str("there was a value"),
            Self::Existed(false) => f.write_str("there was no value"),
            Self::Conflict(current) => write!(f, "conflict with {}", Brief(current.as_deref())),
            Self::Value(value) => write!(f, "{}", Brief(value.as_deref())),
            Self::Refused => f.write_str("refused"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// One operation of a history.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its name.
    pub id: OpId,
    /// Who called.
    pub client: ClientId,
    /// What was called.
    pub op: Op,
    /// What was answered. [`Response::Unknown`] if nothing was.
    pub response: Response,
    /// The position of its call among all events.
    pub invoked: u64,
    /// The position of its answer among all events; `None` if it may still take effect.
    pub completed: Option<u64>,
    /// When it was called, for the reader.
    pub invoked_at_ns: u64,
    /// When it was answered, for the reader.
    pub completed_at_ns: Option<u64>,
}

/// Records operations from any number of threads.
///
/// The order of the calls to `invoke` and `complete` is the order that is judged. Call `invoke`
/// before the operation is sent and `complete` after its answer has arrived: then what is recorded
/// encloses what happened, and no right history is ever found wrong. Times only help those who read
/// a verdict.
#[derive(Debug, Default)]
pub struct History {
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    operations: Vec<Operation>,
    events: u64,
}

impl History {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a call.
    pub fn invoke(&self, client: ClientId, op: Op, at_ns: u64) -> OpId {
        let mut recorded = self.lock();
        let id = OpId(recorded.operations.len());
        let invoked = recorded.next_event();
        recorded.operations.push(Operation {
            id,
            client,
            op,
            response: Response::Unknown,
            invoked,
            completed: None,
            invoked_at_ns: at_ns,
            completed_at_ns: None,
        });
        id
    }

    /// Records the answer to a call. After [`Response::Unknown`] the operation may take effect at
    /// any later time.
    ///
    /// # Panics
    ///
    /// If the operation is not of this history, has an answer already, or cannot be answered so.
    pub fn complete(&self, id: OpId, response: Response, at_ns: u64) {
        let mut recorded = self.lock();
        let event = recorded.next_event();
        let operation = &mut recorded.operations[id.0];
        assert!(
            operation.completed_at_ns.is_none(),
            "{id} was answered before"
        );
        assert!(
            fits(&operation.op, &response),
            "{response:?} is no answer to {:?}",
            operation.op
        );
        operation.completed = (response != Response::Unknown).then_some(event);
        operation.completed_at_ns = Some(at_ns);
        operation.response = response;
    }

    /// One operation, as it was recorded up to now; `None` if it is not of this history.
    pub fn operation(&self, id: OpId) -> Option<Operation> {
        self.lock().operations.get(id.0).cloned()
    }

    /// What was recorded up to now, in the order of the calls.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// A panic of another thread leaves whole operations behind: there is nothing half-written to
    /// fear.
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }
}

fn fits(op: &Op, response: &Response) -> bool {
    match response {
        Response::Done => !matches!(op, Op::Get { .. } | Op::Delete { .. }),
        Response::Length(_) => matches!(op, Op::Append { .. }),
        Response::Existed(_) => matches!(op, Op::Delete { .. }),
        Response::Conflict(_) => matches!(op, Op::CompareAndSwap { .. }),
        Response::Value(_) => matches!(op, Op::Get { .. }),
        Response::Refused | Response::Unknown => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn get() -> Op {
        Op::Get {
            key: Bytes::from_static(b"k"),
        }
    }

    #[test]
    fn order_is_that_of_the_calls_and_not_of_the_times() {
        let history = History::new();
        let first = history.invoke(ClientId(1), get(), 7);
        history.complete(first, Response::Value(None), 7);
        let second = history.invoke(ClientId(2), get(), 7);
        history.complete(second, Response::Unknown, 6);
        let third = history.invoke(ClientId(3), get(), 5);
        let operations = history.operations();
        assert!(operations[first.0].completed < Some(operations[second.0].invoked));
        assert_eq!(
            operations[second.0].completed, None,
            "unknown: it may still take effect"
        );
        assert_eq!(operations[second.0].completed_at_ns, Some(6));
        assert_eq!(operations[third.0].response, Response::Unknown);
    }

    #[test]
    fn threads_record_whole_operations() {
        let history = History::new();
        std::thread::scope(|scope| {
            for client in 0..4 {
                let history = &history;
                scope.spawn(move || {
                    for at_ns in 0..1000 {
                        let id = history.invoke(ClientId(client), get(), at_ns);
                        history.complete(id, Response::Value(None), at_ns);
                    }
                });
            }
        });
        let operations = history.operations();
        let mut events = BTreeSet::new();
        for (position, operation) in operations.iter().enumerate() {
            assert_eq!(operation.id, OpId(position));
            assert!(Some(operation.invoked) < operation.completed);
            assert!(events.insert(operation.invoked));
            assert!(events.insert(operation.completed.unwrap()));
        }
        assert_eq!(events.len(), 8000);
    }

    #[test]
    #[should_panic(expected = "was answered before")]
    fn an_operation_is_answered_once() {
        let history = History::new();
        let id = history.invoke(ClientId(1), get(), 0);
        history.complete(id, Response::Unknown, 1);
        history.complete(id, Response::Value(None), 2);
    }

    #[test]
    #[should_panic(expected = "is no answer to")]
    fn an_answer_fits_its_operation() {
        let history = History::new();
        let id = history.invoke(ClientId(1), get(), 0);
        history.complete(id, Response::Done, 1);
    }
}
