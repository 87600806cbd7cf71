//! A judge for appends of unique tokens and reads: nearly linear, so fit for millions of
//! operations.
//!
//! When no token is appended twice, every read shows the order of all appends before it, and there
//! is nothing left to search for. A key's history is right if and only if
//! - every value read is the beginning of the longest one, cut between two tokens, and no token is
//!   in it twice;
//! - appends stand in the value in an order that real time allows;
//! - a read shows every append that was answered before it was called, none that was called after
//!   it was answered, and not less than a read that was answered before it.
//!
//! An append without an answer may be in the value or not; one that was refused may not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use bytes::Bytes;

use super::history::{ClientId, Op, OpId, Operation, Response};

/// Whether the appends of one client must stand in the order of their calls, even where the calls
/// overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOrder {
    /// Each client is one session: its answered appends take effect in the order of their calls.
    Kept,
    /// A client is any number of callers.
    Free,
}

/// What a right history showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendsSeen {
    /// Keys that were read or appended to.
    pub keys: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// Appends that were read.
    pub appends: usize,
}

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendViolation {
    /// Not a question for this judge: the operation is neither an append nor a read.
    OtherOperation(OpId),
    /// Not a question for this judge: the token of `first` is empty, or it begins the token of
    /// `second`.
    AmbiguousToken {
        /// The append with the shorter token.
        first: OpId,
        /// The append with the longer or equal token.
        second: OpId,
    },
    /// At this offset the value that was read holds nothing that was appended to this key.
    Foreign {
        /// The read.
        read: OpId,
        /// Where in its value.
        offset: usize,
    },
    /// A token is in the value twice: it was applied more than once.
    Duplicated {
        /// The append.
        append: OpId,
        /// The read that shows it.
        read: OpId,
    },
    /// Two reads disagree: neither value is the beginning of the other, cut between two tokens.
    Diverged {
        /// A read.
        read: OpId,
        /// The read with the longest value.
        longest: OpId,
    },
    /// An append that was answered is not in any value, though a later operation must stand behind
    /// it.
    Lost {
        /// The append.
        append: OpId,
        /// A read that does not show it, or an append that is shown without it.
        by: OpId,
    },
    /// A read does not show an append that was answered before the read was called.
    StaleRead {
        /// The read.
        read: OpId,
        /// The append, or the read that showed more.
        missing: OpId,
    },
    /// A read shows an append that was called only after the read was answered.
    FutureRead {
        /// The read.
        read: OpId,
        /// The append.
        append: OpId,
    },
    /// `second` was called after `first` was answered (or later by the same client), but stands
    /// before it.
    Reordered {
        /// The append that must stand before the other.
        first: OpId,
        /// The append that stands before it.
        second: OpId,
    },
    /// An append that was refused took effect.
    RefusedTookEffect(OpId),
    /// The answer to an append tells another length than the values that were read.
    WrongLength {
        /// The append.
        append: OpId,
        /// The length that it was answered.
        answered: u64,
        /// The length behind it in the values, or the least that it can be.
        shown: u64,
    },
}

impl AppendViolation {
    /// The operations that contradict each other.
    pub fn operations(&self) -> Vec<OpId> {
        match *self {
            Self::OtherOperation(id) | Self::RefusedTookEffect(id) => vec![id],
            Self::Foreign { read, .. } => vec![read],
            Self::WrongLength { append, .. } => vec![append],
            Self::AmbiguousToken { first, second } | Self::Reordered { first, second } => {
                vec![second, first]
            }
            Self::Duplicated { append, read } | Self::FutureRead { read, append } => {
                vec![read, append]
            }
            Self::Diverged { read, longest } => vec![read, longest],
            Self::Lost { append, by } => vec![append, by],
            Self::StaleRead { read, missing } => vec![read, missing],
        }
    }
}

impl fmt::Display for AppendViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherOperation(id) => write!(f, "{id} is neither an append nor a read"),
            Self::AmbiguousToken { first, second } => {
                write!(
                    f,
                    "the token of {first} is empty or begins the token of {second}"
                )
            }
            Self::Foreign { read, offset } => {
                write!(f, "{read} shows at offset {offset} what nobody appended")
            }
            Self::Duplicated { append, read } => write!(f, "{read} shows {append} twice"),
            Self::Diverged { read, longest } => write!(f, "{read} and {longest} disagree"),
            Self::Lost { append, by } => write!(f, "{append} was answered, but {by} is without it"),
            Self::StaleRead { read, missing } => write!(f, "{read} does not show {missing}"),
            Self::FutureRead { read, append } => {
                write!(f, "{read} shows {append}, which was called after it")
            }
            Self::Reordered { first, second } => {
                write!(f, "{second} stands before {first}, which came first")
            }
            Self::RefusedTookEffect(id) => write!(f, "{id} was refused and took effect"),
            Self::WrongLength {
                append,
                answered,
                shown,
            } => {
                write!(
                    f,
                    "{append} was answered a length of {answered}, which should be {shown}"
                )
            }
        }
    }
}

/// Judges a history of appends and reads. Every token must be unique on its key, and none the
/// beginning of another. Tells of the first key, in their order, that is wrong.
pub fn check_appends(
    operations: &[Operation],
    client_order: ClientOrder,
) -> Result<AppendsSeen, AppendViolation> {
    let mut keys: BTreeMap<&Bytes, Key<'_>> = BTreeMap::new();
    for operation in operations {
        let key = keys.entry(operation.op.key()).or_default();
        match (&operation.op, &operation.response) {
            (Op::Append { suffix, .. }, _) => key.appends.push(Append::new(operation, suffix)),
            (Op::Get { .. }, Response::Value(value)) => {
                key.reads.push(Read::new(operation, value.as_ref()));
            }
            (Op::Get { .. }, _) => {}
            _ => return Err(AppendViolation::OtherOperation(operation.id)),
        }
    }
    let mut seen = AppendsSeen {
        keys: keys.len(),
        ..AppendsSeen::default()
    };
    for key in keys.values_mut() {
        seen.reads += key.reads.len();
        seen.appends += key.check(client_order)?;
    }
    Ok(seen)
}

/// The operations on one key, in the order of their calls.
#[derive(Default)]
struct Key<'a> {
    appends: Vec<Append<'a>>,
    reads: Vec<Read<'a>>,
}

struct Append<'a> {
    operation: &'a Operation,
    token: &'a [u8],
    /// Where it stands among the appends that were read: the order, and its end in the value.
    place: Option<(usize, usize)>,
}

struct Read<'a> {
    operation: &'a Operation,
    value: &'a [u8],
    /// How many appends it shows.
    shows: usize,
}

impl<'a> Append<'a> {
    fn new(operation: &'a Operation, token: &'a [u8]) -> Self {
        Self {
            operation,
            token,
            place: None,
        }
    }

    fn id(&self) -> OpId {
        self.operation.id
    }

    /// The order in which appends stand; those that no read shows stand behind all others.
    fn rank(&self) -> usize {
        self.place.map_or(usize::MAX, |(order, _)| order)
    }
}

impl<'a> Read<'a> {
    fn new(operation: &'a Operation, value: Option<&'a Bytes>) -> Self {
        Self {
            operation,
            value: value.map_or(&[], |value| value),
            shows: 0,
        }
    }
}

impl Key<'_> {
    /// How many appends were read.
    fn check(&mut self, client_order: ClientOrder) -> Result<usize, AppendViolation> {
        self.check_tokens()?;
        let order = self.place_appends()?;
        self.check_lengths()?;
        self.check_append_order(&order)?;
        if client_order == ClientOrder::Kept {
            self.check_client_order()?;
        }
        self.check_reads(&order)?;
        Ok(order.len())
    }

    /// In the order of their bytes, a token that begins another stands right before one that it
    /// begins.
    fn check_tokens(&self) -> Result<(), AppendViolation> {
        let mut sorted: Vec<_> = self.appends.iter().collect();
        sorted.sort_by_key(|append| append.token);
        if let Some(first) = sorted.first().filter(|append| append.token.is_empty()) {
            return Err(AppendViolation::AmbiguousToken {
                first: first.id(),
                second: first.id(),
            });
        }
        match sorted
            .windows(2)
            .find(|pair| pair[1].token.starts_with(pair[0].token))
        {
            Some(pair) => Err(AppendViolation::AmbiguousToken {
                first: pair[0].id(),
                second: pair[1].id(),
            }),
            None => Ok(()),
        }
    }

    /// Cuts the longest value into tokens and finds every other value in it. The appends in their
    /// order.
    fn place_appends(&mut self) -> Result<Vec<usize>, AppendViolation> {
        let Some(longest) = self.reads.iter().max_by_key(|read| read.value.len()) else {
            return Ok(Vec::new());
        };
        let (longest_id, value) = (longest.operation.id, longest.value);
        let by_token: HashMap<&[u8], usize> = self
            .appends
            .iter()
            .enumerate()
            .map(|(at, append)| (append.token, at))
            .collect();
        let lengths: BTreeSet<usize> = by_token.keys().map(|token| token.len()).collect();

        let mut order = Vec::new();
        let mut ends = vec![0];
        let mut offset = 0;
        while offset < value.len() {
            let mut tokens = lengths
                .iter()
                .filter_map(|len| value.get(offset..offset + len));
            let Some(&at) = tokens.find_map(|token| by_token.get(token)) else {
                return Err(AppendViolation::Foreign {
                    read: longest_id,
                    offset,
                });
            };
            let append = &mut self.appends[at];
            if append.place.is_some() {
                let append = append.id();
                return Err(AppendViolation::Duplicated {
                    append,
                    read: longest_id,
                });
            }
            offset += append.token.len();
            append.place = Some((order.len(), offset));
            order.push(at);
            ends.push(offset);
        }
        for read in &mut self.reads {
            match ends.binary_search(&read.value.len()) {
                Ok(shows) if value.starts_with(read.value) => read.shows = shows,
                _ => {
                    let read = read.operation.id;
                    return Err(AppendViolation::Diverged {
                        read,
                        longest: longest_id,
                    });
                }
            }
        }
        Ok(order)
    }

    fn check_lengths(&self) -> Result<(), AppendViolation> {
        let placed_bytes = self
            .appends
            .iter()
            .filter_map(|append| append.place)
            .map(|(_, end)| end);
        let shown_bytes = placed_bytes.max().unwrap_or(0);
        for append in &self.appends {
            let id = append.id();
            match (&append.operation.response, append.place) {
                (Response::Refused, Some(_)) => return Err(AppendViolation::RefusedTookEffect(id)),
                (Response::Length(answered), Some((_, end))) if *answered != end as u64 => {
                    let (answered, shown) = (*answered, end as u64);
                    return Err(AppendViolation::WrongLength {
                        append: id,
                        answered,
                        shown,
                    });
                }
                (Response::Length(answered), None) => {
                    let (answered, shown) = (*answered, (shown_bytes + append.token.len()) as u64);
                    if answered < shown {
                        return Err(AppendViolation::WrongLength {
                            append: id,
                            answered,
                            shown,
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// From the last append to the first: was any of those behind it answered before it was called?
    fn check_append_order(&self, order: &[usize]) -> Result<(), AppendViolation> {
        let answered = |append: &Append<'_>| append.operation.completed.unwrap_or(u64::MAX);
        let unseen = self.appends.iter().filter(|append| {
            append.place.is_none() && append.operation.response != Response::Refused
        });
        let mut earliest = unseen.min_by_key(|append| answered(append));
        for &at in order.iter().rev() {
            let append = &self.appends[at];
            if let Some(behind) = earliest
                && answered(behind) < append.operation.invoked
            {
                let (first, second) = (behind.id(), append.id());
                return Err(match behind.place {
                    Some(_) => AppendViolation::Reordered { first, second },
                    None => AppendViolation::Lost {
                        append: first,
                        by: second,
                    },
                });
            }
            if earliest.is_none_or(|earliest| answered(append) < answered(earliest)) {
                earliest = Some(append);
            }
        }
        Ok(())
    }

    /// Appends are in the order of their calls here.
    fn check_client_order(&self) -> Result<(), AppendViolation> {
        let mut last: HashMap<ClientId, &Append<'_>> = HashMap::new();
        let answered = self.appends.iter().filter(|append| {
            append.operation.completed.is_some() && append.operation.response != Response::Refused
        });
        for append in answered {
            if let Some(before) = last.insert(append.operation.client, append)
                && before.rank() > append.rank()
            {
                let (first, second) = (before.id(), append.id());
                return Err(match before.place {
                    Some(_) => AppendViolation::Reordered { first, second },
                    None => AppendViolation::Lost {
                        append: first,
                        by: second,
                    },
                });
            }
        }
        Ok(())
    }

    fn check_reads(&self, order: &[usize]) -> Result<(), AppendViolation> {
        let latest_called = self.latest_called(order);
        let bounds = self.bounds();
        for read in &self.reads {
            let completed = read.operation.completed.unwrap_or(u64::MAX);
            if read.shows > 0 {
                let append = &self.appends[latest_called[read.shows - 1]];
                if append.operation.invoked > completed {
                    let (read, append) = (read.operation.id, append.id());
                    return Err(AppendViolation::FutureRead { read, append });
                }
            }
            // What was answered before the read was called: the highest of it must be shown.
            let before = bounds.partition_point(|bound| bound.answered < read.operation.invoked);
            if let Some(bound) = before.checked_sub(1).map(|last| &bounds[last])
                && bound.shows > read.shows
            {
                let read = read.operation.id;
                return Err(match bound.shows {
                    usize::MAX => AppendViolation::Lost {
                        append: bound.by,
                        by: read,
                    },
                    _ => AppendViolation::StaleRead {
                        read,
                        missing: bound.by,
                    },
                });
            }
        }
        Ok(())
    }

    /// For each number of appends shown: the one among them that was called last.
    fn latest_called(&self, order: &[usize]) -> Vec<usize> {
        let called = |at: usize| self.appends[at].operation.invoked;
        let latest = order.iter().scan(None, |latest: &mut Option<usize>, &at| {
            *latest =
                Some(latest.map_or(at, |old| if called(old) > called(at) { old } else { at }));
            *latest
        });
        latest.collect()
    }

    /// What a read must show at least, by the time of its call.
    fn bounds(&self) -> Vec<Bound> {
        let refused = |append: &&Append<'_>| append.operation.response != Response::Refused;
        let appends = self.appends.iter().filter(refused).filter_map(|append| {
            let shows = append.rank().saturating_add(1);
            Some(Bound {
                answered: append.operation.completed?,
                shows,
                by: append.id(),
            })
        });
        let reads = self.reads.iter().filter_map(|read| {
            let by = read.operation.id;
            Some(Bound {
                answered: read.operation.completed?,
                shows: read.shows,
                by,
            })
        });
        let mut bounds: Vec<Bound> = appends.chain(reads).collect();
        bounds.sort_unstable_by_key(|bound| bound.answered);
        for at in 1..bounds.len() {
            if bounds[at - 1].shows > bounds[at].shows {
                bounds[at] = Bound {
                    answered: bounds[at].answered,
                    ..bounds[at - 1]
                };
            }
        }
        bounds
    }
}

/// From `answered` on, a read shows at least so many appends, because of this operation.
#[derive(Clone, Copy)]
struct Bound {
    answered: u64,
    shows: usize,
    by: OpId,
}
