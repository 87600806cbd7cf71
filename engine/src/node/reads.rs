//! The reads of a replica: who waits for its leadership to be confirmed, and who waits for an index to be applied.
//!
//! Invariants:
//! - A read is answered only from a view that includes the index at which it was confirmed.
//! - Everybody who waits for an index is answered, at the latest when the wait is over: a replica that lags, has lost
//!   entries or has halted keeps nobody. At most [`WAITING_MAX`] wait at once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_kv::StateMachine;
use quorate_raft::{LogIndex, Output, ReadError, Role};

use super::event::Outlet;
use super::ports::Ports;
use super::replica::Replica;
use crate::mutants;
#[cfg(feature = "simulation")]
use crate::simulation::Deed;
use crate::transport::{Refusal, ReplyBody};

/// So many reads of one replica may wait for an index to be applied; more are refused.
pub(super) const WAITING_MAX: usize = 1 << 16;

/// All reads of a replica that have no answer yet.
#[derive(Default)]
pub(super) struct Reads {
    /// By token: asked of the core, which bounds how many there are.
    confirming: BTreeMap<u64, Reader>,
    waiting: Waiting,
    tokens: u64,
}

/// Somebody who reads.
struct Reader {
    outlet: Outlet,
    wants: Wants,
}

/// What a read is answered with.
pub(super) enum Wants {
    /// The index at which it was confirmed.
    Index,
    /// The machine's answer to this query.
    Answer(Bytes),
    /// Nothing but that the replica has come so far: a caller in this process looks at the view itself.
    Here,
}

impl Reader {
    /// Tells a reader that it waited in vain. Somebody else may answer it.
    fn refuse<M: StateMachine>(self, ports: &Ports<M>) {
        let refusal = match self.wants {
            Wants::Here => Refusal::Lagging,
            Wants::Index | Wants::Answer(_) => Refusal::Busy,
        };
        self.outlet.answer(ports, Err(refusal));
    }
}

/// Reads that wait for an index to be applied, each until a deadline.
#[derive(Default)]
struct Waiting {
    by_index: BTreeMap<(LogIndex, u64), (u64, Reader)>,
    /// The same, by deadline.
    by_deadline: BTreeSet<(u64, LogIndex, u64)>,
}

impl Waiting {
    /// Takes a reader in, or gives it back if there are too many.
    fn insert(
        &mut self,
        index: LogIndex,
        token: u64,
        until_ns: u64,
        reader: Reader,
    ) -> Result<(), Reader> {
        if self.by_index.len() >= WAITING_MAX {
            return Err(reader);
        }
        self.by_index.insert((index, token), (until_ns, reader));
        self.by_deadline.insert((until_ns, index, token));
        Ok(())
    }

    /// The next one that waits for nothing beyond `applied`.
    fn pop_applied(&mut self, applied: LogIndex) -> Option<(LogIndex, Reader)> {
        let first = self.by_index.first_entry()?;
        let (index, token) = *first.key();
        if index > applied {
            return None;
        }
        let (until_ns, reader) = first.remove();
        self.by_deadline.remove(&(until_ns, index, token));
        Some((index, reader))
    }

    /// The next one that has waited for too long.
    fn pop_expired(&mut self, now_ns: u64) -> Option<Reader> {
        let &(until_ns, index, token) = self.by_deadline.first()?;
        if until_ns > now_ns {
            return None;
        }
        self.by_deadline.pop_first();
        let (_, reader) = self.by_index.remove(&(index, token))?;
        Some(reader)
    }

    fn take_all(&mut self) -> impl Iterator<Item = Reader> + use<> {
        self.by_deadline.clear();
        let all = std::mem::take(&mut self.by_index);
        all.into_values().map(|(_, reader)| reader)
    }

    fn deadline_ns(&self) -> u64 {
        let first = self.by_deadline.first();
        first.map_or(u64::MAX, |&(until_ns, ..)| until_ns)
    }
}

impl Reads {
    /// When somebody will have waited for too long.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.waiting.deadline_ns()
    }

    /// How many wait for an index to be applied.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.by_index.len()
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}

impl<M: StateMachine> Replica<M> {
    /// Has the core confirm that this replica leads, before it answers.
    pub(super) fn read(
        &mut self,
        now_ns: u64,
        outlet: &Outlet,
        wants: Wants,
    ) -> Result<(), Refusal> {
        // A replica that halted takes no more from the core, and would never hear of the confirmation.
        if self.is_halted() && self.raft.role() == Role::Leader {
            return Err(Refusal::NotLeader { leader: None });
        }
        let token = self.reads.token();
        self.raft.read(now_ns, token).map_err(|error| match error {
            ReadError::NotLeader { leader } => Refusal::NotLeader { leader },
            _ => Refusal::Busy,
        })?;
        let outlet = outlet.clone();
        self.reads
            .confirming
            .insert(token, Reader { outlet, wants });
        Ok(())
    }

    /// Answers a caller in this process once the view includes `index`; refuses it when it has waited for as long as one may,
    /// and at once if this replica does not get there by itself.
    pub(super) fn wait_applied(
        &mut self,
        now_ns: u64,
        index: LogIndex,
        outlet: Outlet,
        ports: &Ports<M>,
    ) {
        let is_applied = self.published.applied() >= index || mutants::WAIT_APPLIED_ANSWERS_AT_ONCE;
        if self.published.has_state() && is_applied {
            outlet.answer(ports, Ok(ReplyBody::ReadIndex(index)));
            return;
        }
        let wants = Wants::Here;
        let reader = Reader { outlet, wants };
        if self.is_halted() || self.raft.is_aside() {
            reader.refuse(ports);
            return;
        }
        let token = self.reads.token();
        self.wait(now_ns, index, token, reader, ports);
    }

    fn wait(&mut self, now_ns: u64, index: LogIndex, token: u64, reader: Reader, ports: &Ports<M>) {
        let until_ns = now_ns.saturating_add(self.options.read_wait_ns);
        let waiting = &mut self.reads.waiting;
        if let Err(reader) = waiting.insert(index, token, until_ns, reader) {
            reader.refuse(ports);
        }
    }

    /// Answers the reads that the core has confirmed, and those whose index is applied by now.
    pub(super) fn answer_reads(&mut self, now_ns: u64, output: &mut Output, ports: &Ports<M>) {
        let applied = self.published.applied();
        for ready in output.reads.drain(..) {
            let Some(reader) = self.reads.confirming.remove(&ready.token) else {
                continue;
            };
            if ready.index <= applied || mutants::READS_BEFORE_APPLIED {
                self.answer_read(reader, ready.index, ports);
            } else {
                self.wait(now_ns, ready.index, ready.token, reader, ports);
            }
        }
        for token in output.reads_failed.drain(..) {
            if let Some(reader) = self.reads.confirming.remove(&token) {
                let refusal = Refusal::NotLeader {
                    leader: self.raft.leader(),
                };
                reader.outlet.answer(ports, Err(refusal));
            }
        }
        while let Some((index, reader)) = self.reads.waiting.pop_applied(applied) {
            self.answer_read(reader, index, ports);
        }
    }

    fn answer_read(&mut self, reader: Reader, index: LogIndex, ports: &Ports<M>) {
        assert!(
            self.published.applied() >= index || mutants::READS_BEFORE_APPLIED,
            "a read is answered from a view that includes its index"
        );
        #[cfg(feature = "simulation")]
        self.note(|| Deed::Read {
            id: reader.outlet.id,
            index,
            by_lease: false,
        });
        let result = match (reader.wants, self.published.load()) {
            (Wants::Index | Wants::Here, _) => Ok(ReplyBody::ReadIndex(index)),
            (Wants::Answer(query), Some(view)) => Ok(ReplyBody::Answer(M::query(&view, &query))),
            (Wants::Answer(_), None) => Err(self.not_here()),
        };
        reader.outlet.answer(ports, result);
    }

    /// Refuses those who have waited for an index for as long as one may.
    pub(super) fn expire_reads(&mut self, now_ns: u64, ports: &Ports<M>) {
        while let Some(reader) = self.reads.waiting.pop_expired(now_ns) {
            reader.refuse(ports);
        }
    }

    /// Refuses everybody who reads: this replica has halted and will not get any further.
    pub(super) fn refuse_reads(&mut self, ports: &Ports<M>) {
        let confirming = std::mem::take(&mut self.reads.confirming).into_values();
        for reader in confirming.chain(self.reads.waiting.take_all()) {
            reader.refuse(ports);
        }
    }

    /// Refuses everybody who reads: the node stops.
    pub(super) fn dismiss_reads(&mut self, ports: &Ports<M>) {
        let confirming = std::mem::take(&mut self.reads.confirming).into_values();
        for reader in confirming.chain(self.reads.waiting.take_all()) {
            reader.outlet.answer(ports, Err(Refusal::Stopping));
        }
    }
}
