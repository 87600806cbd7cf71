//! How long a leader may stay without a majority, and how long a lease keeps others away. Invariants 13 and 14 of
//! `docs/testing.md`.

use std::collections::BTreeMap;

use quorate::simulation::Stand;
use quorate::{GroupId, NodeId, Role, Term};

use super::books::{Books, Event, Place, Rule};
use crate::clock::Clock;

/// A leader that hears no majority gives its office up within this many election timeouts of its clock: it looks once in
/// each, and counts those it heard in the one before. One more, in which it must have been seen silent.
const SILENCE_TIMEOUTS: u64 = 2;

/// A leader without a majority steps down in bounded time, and no other node is elected while a lease lasts.
#[derive(Debug)]
pub struct Offices {
    election_timeout_ns: u64,
    /// Whether the clocks of the run keep to what leases ask of them.
    has_leases: bool,
    /// When a node was last handed something by another one, on its own clock.
    heard: BTreeMap<(NodeId, NodeId), u64>,
    /// Since when a leader was seen without a majority, on its own clock.
    silent: BTreeMap<(Place, Term), u64>,
    /// Of each group, who holds a lease, in which term, and until when in true time.
    leases: BTreeMap<GroupId, (NodeId, Term, u64)>,
}

impl Offices {
    /// `election_timeout_ns` as all nodes have it.
    pub fn new(election_timeout_ns: u64, has_leases: bool) -> Self {
        Self {
            election_timeout_ns,
            has_leases,
            heard: BTreeMap::new(),
            silent: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }

    fn check_silence(
        &mut self,
        books: &Books,
        at: Place,
        now: &Stand,
        shown_ns: u64,
    ) -> Result<(), String> {
        let long_ago = shown_ns.saturating_sub(SILENCE_TIMEOUTS * self.election_timeout_ns);
        let peers = (1..=books.nodes as u64).map(NodeId);
        let heard = peers.filter(|&peer| {
            let last = self.heard.get(&(at.node, peer));
            peer == at.node || last.is_some_and(|&heard_ns| heard_ns >= long_ago)
        });
        if heard.count() >= books.quorum() {
            self.silent.remove(&(at, now.term));
            return Ok(());
        }
        let since_ns = *self.silent.entry((at, now.term)).or_insert(shown_ns);
        if shown_ns - since_ns <= self.election_timeout_ns {
            return Ok(());
        }
        Err(format!(
            "invariant 14, a leader without a majority steps down: {} leads group {} in {} and has heard no majority for {} ms of its clock",
            at.node,
            at.group.0,
            now.term,
            (shown_ns - since_ns + SILENCE_TIMEOUTS * self.election_timeout_ns) / 1_000_000
        ))
    }

    fn check_lease(
        &mut self,
        books: &Books,
        at: Place,
        now: &Stand,
        clock: &Clock,
    ) -> Result<(), String> {
        let held = self.leases.get(&at.group).copied();
        let is_elected = now.role == Role::Leader;
        if let Some((holder, term, end_ns)) = held
            && is_elected
            && holder != at.node
            && now.term > term
            && books.now_ns < end_ns
        {
            return Err(format!(
                "invariant 13, a lease keeps others away: {} is elected in group {} in {} while {holder} holds a lease of {term} for another {} us",
                at.node,
                at.group.0,
                now.term,
                (end_ns - books.now_ns) / 1_000
            ));
        }
        // Whoever steps down gives its lease up, also for a later term.
        let is_holder = held.is_some_and(|(holder, ..)| holder == at.node);
        match now.lease_until_ns {
            Some(until_ns) if is_elected && books.nodes > 1 => {
                let is_newer = held.is_none_or(|(_, term, _)| term <= now.term);
                if is_newer {
                    let end_ns = clock.when(until_ns, books.now_ns);
                    self.leases.insert(at.group, (at.node, now.term, end_ns));
                }
            }
            _ if is_holder => {
                self.leases.remove(&at.group);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Rule for Offices {
    fn judge(&mut self, books: &Books, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Heard {
                node,
                from,
                shown_ns,
            } => {
                self.heard.insert((node, from), shown_ns);
            }
            Event::Moved {
                at,
                now,
                clock,
                is_pass,
                ..
            } => {
                // A leader whose worker stands still cannot notice, and answers nobody.
                if now.role == Role::Leader && is_pass {
                    self.check_silence(books, at, now, clock.at(books.now_ns))?;
                }
                if self.has_leases {
                    self.check_lease(books, at, now, clock)?;
                }
            }
            Event::Ended { node } => {
                self.heard.retain(|(receiver, _), _| *receiver != node);
                self.silent.retain(|(place, _), _| place.node != node);
                self.leases.retain(|_, (holder, ..)| *holder != node);
            }
            _ => {}
        }
        Ok(())
    }
}
