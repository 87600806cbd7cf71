//! Clerks that put, append, get, delete and swap on a few keys of the map, and the judges of their histories.

use quorate::simulation::{Answer, CommandBuffer, Map, Query};
use quorate::{Bytes, Consistency, Error};

use super::{Call, CallKind, Ticket, Workload};
use crate::config::Config;
use crate::judge::{
    ClientId, ClientOrder, History, Op, OpId, Operation, Response, check_appends,
    check_linearizable,
};
use crate::seed::Rng;

/// Keys of any operation, and keys that are only appended to and read.
const MIXED_KEYS: u64 = 4;
const APPEND_KEYS: u64 = 3;

/// How many of the values that are put are long, and how long. With what stands around it one still is an entry.
const LONG_PERMILLE: u32 = 60;
const LONG_BYTES: (u64, u64) = (500, 3_500);

/// What a key of appends begins with.
const APPEND_PREFIX: &[u8] = b"append/";

/// More than any run of these sizes takes; a search that is not over by then has failed.
const STEPS_MAX: u64 = 2_000_000;

/// The workload on the map.
pub struct KvWorkload {
    history: History,
    /// By ticket, which is the number of the operation.
    operations: Vec<OpId>,
    has_lease_reads: bool,
    clerks: u64,
}

impl Workload for KvWorkload {
    type Machine = Map;

    fn new(config: &Config) -> Self {
        Self {
            history: History::new(),
            operations: Vec::new(),
            has_lease_reads: config.has_lease_reads,
            clerks: config.clerks as u64,
        }
    }

    fn call(&mut self, clerk: usize, rng: &mut Rng, now_ns: u64) -> (Ticket, Call) {
        let number = self.operations.len() as u64;
        let op = any_operation(rng, clerk as u64, number, self.clerks);
        let consistency = if self.has_lease_reads && rng.permille(500) {
            Consistency::Lease
        } else {
            Consistency::Linearizable
        };
        let call = call_of(&op, consistency);
        (self.invoke(clerk, op, now_ns), call)
    }

    fn last_calls(&mut self, clerk: usize, now_ns: u64) -> Vec<(Ticket, Call)> {
        let keys = (0..MIXED_KEYS).map(mixed_key);
        let keys = keys.chain((0..APPEND_KEYS).map(append_key));
        let reads = keys.map(|key| {
            let op = Op::Get { key };
            let call = call_of(&op, Consistency::Linearizable);
            (self.invoke(clerk, op, now_ns), call)
        });
        reads.collect()
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
        now_ns: u64,
    ) -> Result<(), String> {
        let response = match answer {
            Ok(answer) => response_of(&answer)?,
            // Where nodes have other limits than their peers, the leader's counts.
            Err(Error::TooLarge(_)) => Response::Refused,
            Err(error) if error.is_retryable() => Response::Refused,
            Err(Error::Timeout { .. } | Error::SessionExpired | Error::MaybeApplied { .. }) => {
                Response::Unknown
            }
            Err(error) => return Err(format!("a call failed with: {error}")),
        };
        let id = self.operations[ticket.0 as usize];
        self.history.complete(id, response, now_ns);
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        let (appends, mixed) = split(self.history.operations());
        // Exact as well, and in nearly linear time however many answers were lost.
        check_appends(&appends, ClientOrder::Kept).map_err(|wrong| wrong.to_string())?;
        let verdict = check_linearizable(&mixed, STEPS_MAX);
        if verdict.is_linearizable() {
            Ok(())
        } else {
            Err(verdict.to_string())
        }
    }

    fn calls(&self) -> u64 {
        self.operations.len() as u64
    }

    fn describe(&self, ticket: Ticket, call: &Call) -> String {
        let operation = self.operations.get(ticket.0 as usize);
        let operation = operation.and_then(|id| self.history.operation(*id));
        let text = operation.map(|operation| operation.op.to_string());
        text.unwrap_or_else(|| call.key.escape_ascii().to_string())
    }

    fn suspects(&self) -> Vec<Ticket> {
        let operations = self.history.operations();
        let (appends, mixed) = split(operations);
        let ids = match check_appends(&appends, ClientOrder::Kept) {
            Err(wrong) => wrong.operations(),
            Ok(_) => check_linearizable(&mixed, STEPS_MAX).suspects(&mixed),
        };
        // The number of an operation is its ticket.
        ids.into_iter().map(|id| Ticket(id.0 as u64)).collect()
    }
}

impl KvWorkload {
    /// What was called and answered.
    pub fn history(&self) -> &History {
        &self.history
    }

    fn invoke(&mut self, clerk: usize, op: Op, now_ns: u64) -> Ticket {
        let id = self.history.invoke(ClientId(clerk as u64), op, now_ns);
        self.operations.push(id);
        Ticket(self.operations.len() as u64 - 1)
    }
}

/// Those on keys of appends, and the others.
fn split(operations: Vec<Operation>) -> (Vec<Operation>, Vec<Operation>) {
    let is_append = |operation: &Operation| operation.op.key().starts_with(APPEND_PREFIX);
    operations.into_iter().partition(is_append)
}

fn any_operation(rng: &mut Rng, clerk: u64, number: u64, clerks: u64) -> Op {
    let token = token(clerk, number);
    if rng.permille(500) {
        let key = append_key(rng.below(APPEND_KEYS));
        return if rng.permille(500) {
            Op::Get { key }
        } else {
            Op::Append { key, suffix: token }
        };
    }
    let key = mixed_key(rng.below(MIXED_KEYS));
    match rng.below(8) {
        0 | 1 => Op::Put {
            key,
            value: any_value(rng, token),
        },
        2 => Op::Append { key, suffix: token },
        3 => Op::Delete { key },
        4 => Op::CompareAndSwap {
            key,
            expected: None,
            new: token,
        },
        5 => Op::CompareAndSwap {
            key,
            // A value that may be there, so that some swaps take place.
            expected: Some(self::token(rng.below(clerks), rng.below(number + 1))),
            new: token,
        },
        _ => Op::Get { key },
    }
}

/// A token, or now and then a value so long that what comes at once is more than the log takes in one batch.
fn any_value(rng: &mut Rng, token: Bytes) -> Bytes {
    if !rng.permille(LONG_PERMILLE) {
        return token;
    }
    let len = rng.between(LONG_BYTES.0, LONG_BYTES.1) as usize;
    let mut value = token.to_vec();
    value.resize(len, b'.');
    value.into()
}

fn token(clerk: u64, number: u64) -> Bytes {
    format!("{clerk}.{number};").into()
}

fn mixed_key(number: u64) -> Bytes {
    format!("mixed/{number}").into()
}

fn append_key(number: u64) -> Bytes {
    format!("append/{number}").into()
}

/// The call that asks the map for an operation; `consistency` is that of a read.
pub fn call_of(op: &Op, consistency: Consistency) -> Call {
    let command = match op {
        Op::Put { key, value } => CommandBuffer::put(key, value),
        Op::Append { key, suffix } => CommandBuffer::append(key, suffix),
        Op::Delete { key } => CommandBuffer::delete(key),
        Op::CompareAndSwap { key, expected, new } => {
            CommandBuffer::compare_and_swap(key, expected.as_deref(), new)
        }
        Op::Get { key } => {
            return Call {
                key: key.clone(),
                kind: CallKind::Query(consistency, Query::get(key)),
            };
        }
    };
    Call {
        key: op.key().clone(),
        kind: CallKind::Write(command.expect("keys and values of a run are short")),
    }
}

/// What the map answered. An error: it never answers a call of [`call_of`] so.
pub fn response_of(answer: &Bytes) -> Result<Response, String> {
    let answer = Answer::decode(answer).map_err(|error| error.to_string())?;
    Ok(match answer {
        Answer::Done => Response::Done,
        Answer::Length(length) => Response::Length(length),
        Answer::Existed(existed) => Response::Existed(existed),
        Answer::Conflict { current, .. } => Response::Conflict(current),
        Answer::Value(value) => Response::Value(value),
        other => return Err(format!("a call was answered with {other:?}")),
    })
}
