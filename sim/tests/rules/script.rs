//! A cluster of which only a script is seen, and what scripts are written with.

use quorate::simulation::{Body, Deed, Entry, EntryKind, Message, Outcome, Round, Stand};
use quorate::transport::{Reply, ReplyBody, RequestId};
use quorate::{Bytes, LogIndex, NodeId, Role, Term};
use quorate_sim::clock::Clock;
use quorate_sim::judge::{Books, Event, Rule};

use super::{at, stand};

/// A cluster of three of which only a script is seen.
pub(crate) struct Script<R> {
    pub(crate) books: Books,
    rule: R,
    pub(crate) stands: [Stand; 3],
}

impl<R: Rule> Script<R> {
    pub(crate) fn new(rule: R) -> Self {
        let mut script = Self {
            books: Books::new(3, 1),
            rule,
            stands: [Stand::default(); 3],
        };
        for node in 1..=3 {
            let stand = stand(Role::Follower, 0, 0);
            script.stands[node - 1] = stand;
            script.open(node as u64, stand, &[0]).expect("an empty log");
        }
        script
    }

    pub(crate) fn tell(&mut self, event: &Event<'_>) -> Result<(), String> {
        self.rule.judge(&self.books, event)?;
        self.books.note(event);
        Ok(())
    }

    pub(crate) fn open(&mut self, node: u64, stand: Stand, terms: &[u64]) -> Result<(), String> {
        self.stands[node as usize - 1] = stand;
        let terms: Vec<Term> = terms.iter().copied().map(Term).collect();
        self.tell(&Event::Opened {
            at: at(node),
            stand: &stand,
            terms: &terms,
        })
    }

    pub(crate) fn end(&mut self, node: u64) {
        let node = NodeId(node);
        self.tell(&Event::Ended { node }).expect("nothing to say");
    }

    pub(crate) fn moved(&mut self, node: u64, now: Stand) -> Result<(), String> {
        self.moved_at(node, now, 0)
    }

    pub(crate) fn moved_at(&mut self, node: u64, now: Stand, now_ns: u64) -> Result<(), String> {
        self.stepped_at(node, now, now_ns, true)
    }

    /// A pass of the worker, or a step of the log, at the end of which a node stands so.
    pub(crate) fn stepped_at(
        &mut self,
        node: u64,
        now: Stand,
        now_ns: u64,
        is_pass: bool,
    ) -> Result<(), String> {
        self.books.now_ns = now_ns;
        let before = std::mem::replace(&mut self.stands[node as usize - 1], now);
        self.tell(&Event::Moved {
            at: at(node),
            before: &before,
            now: &now,
            clock: &Clock::new(0, 1_000),
            is_pass,
        })
    }

    pub(crate) fn did(&mut self, node: u64, deed: &Deed) -> Result<(), String> {
        self.tell(&Event::Did { at: at(node), deed })
    }

    pub(crate) fn wrote(&mut self, node: u64, entries: &[(u64, u64)]) -> Result<(), String> {
        let entries = entries
            .iter()
            .map(|&(index, term)| entry(index, term, b"x"));
        self.did(node, &Deed::Wrote(entries.collect()))
    }

    pub(crate) fn sent(&mut self, from: u64, to: u64, term: u64, body: Body) -> Result<(), String> {
        let message = Message {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            body,
        };
        self.tell(&Event::Sent {
            at: at(from),
            message: &message,
        })
    }

    pub(crate) fn elect(&mut self, node: u64, voter: u64, term: u64) {
        let granted = |granted| Body::VoteReply { granted };
        self.sent(voter, node, term, Body::PreVoteReply { granted: true })
            .expect("it is willing");
        self.sent(voter, node, term, granted(true))
            .expect("it votes");
    }
}

/// With so much durable, committed and applied.
pub(crate) fn with(mut stand: Stand, durable: u64, commit: u64, applied: u64) -> Stand {
    stand.durable = LogIndex(durable);
    stand.commit = LogIndex(commit);
    stand.applied = LogIndex(applied);
    stand
}

pub(crate) fn entry(index: u64, term: u64, data: &'static [u8]) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        data: Bytes::from_static(data),
    }
}

pub(crate) fn applied(entry: Entry, outcome: Outcome) -> Deed {
    Deed::Applied { entry, outcome }
}

pub(crate) fn accepted(match_index: u64) -> Body {
    Body::AppendAccepted {
        match_index: LogIndex(match_index),
        round: any_round(),
    }
}

/// Rounds mean nothing to the rules.
pub(crate) fn any_round() -> Round {
    Round(1)
}

/// All three know that entry 1, of term 1, is committed.
pub(crate) fn one_committed<R: Rule>(rule: R) -> Script<R> {
    let mut script = Script::new(rule);
    for node in 1..=3 {
        script.wrote(node, &[(1, 1)]).expect("the first entry");
        let stand = with(stand(Role::Follower, 1, 1), 1, 1, 0);
        script.moved(node, stand).expect("it is committed");
    }
    script
}

pub(crate) fn outcome_reply(id: RequestId) -> Reply {
    Reply {
        id,
        result: Ok(ReplyBody::Outcome(Outcome::Applied(Bytes::new()))),
    }
}
