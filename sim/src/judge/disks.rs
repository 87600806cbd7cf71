//! What is really on the disks: copies of what would be left if the power went off now are recovered. Invariants 5, 7, 8, 9,
//! 11, 16, 17 and 19 of `docs/testing.md`.
//!
//! Invariants:
//! - A copy is looked at by the log's own recovery, and never by the process that is judged.
//! - Which sends are looked at follows from the seed, and from nothing that happens in the run.
//! - A disk that was struck is judged like any other one as long as nothing is missed on it. Where something is, nobody can
//!   tell any more what would be left of it: that its node says so is judged when it is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use quorate::simulation::{Body, Deed, Message, Stand, StateMachine};
use quorate::transport::{Frame, Reply, ReplyBody};
use quorate::{GroupId, LogIndex, LogOptions, NodeId, Term};
use quorate_wal::testing::{CrashDisk, Survivors};
use quorate_wal::{GroupInspection, GroupState, Inspection, Log, SegmentState, Snapshots, inspect};

use super::books::{Books, Place};
use super::{Judge, Step};
use crate::node::{DIR, Harm, LOG_DIR, NodeSlot, SNAPSHOT_DIR, Sent};
use crate::seed::{Rng, Stream};
use crate::world::Look;

/// Of so many promises in a thousand the disk is looked at, of votes more, since there are few.
const ACCEPTED_PERMILLE: u32 = 4;
const VOTE_PERMILLE: u32 = 100;
/// Of so many answers in a thousand all disks are looked at.
const ANSWER_PERMILLE: u32 = 2;
/// Of so many looks in a thousand the copy is opened twice.
const TWICE_PERMILLE: u32 = 100;

/// How often disks are looked at, in a thousand of each kind of occasion.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Accepted appends.
    pub accepted_permille: u32,
    /// Votes.
    pub vote_permille: u32,
    /// Answers to clients: the disks of all nodes.
    pub answer_permille: u32,
    /// Of all looks: those at which the copy is also opened, twice.
    pub twice_permille: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            accepted_permille: ACCEPTED_PERMILLE,
            vote_permille: VOTE_PERMILLE,
            answer_permille: ANSWER_PERMILLE,
            twice_permille: TWICE_PERMILLE,
        }
    }
}

impl Rates {
    /// At every occasion.
    pub fn all() -> Self {
        Self {
            accepted_permille: 1_000,
            vote_permille: 1_000,
            answer_permille: 1_000,
            twice_permille: 1_000,
        }
    }
}

/// Recovers copies of disks.
#[derive(Debug)]
pub struct Disks {
    rng: Rng,
    rates: Rates,
    /// What was found on the disk of a replica: later it may have more, and never less.
    floors: BTreeMap<Place, GroupState>,
}

impl Disks {
    /// The judge of a run.
    pub fn new(seed: u64, rates: Rates) -> Self {
        Self {
            rng: Rng::of(seed, Stream::Judges),
            rates,
            floors: BTreeMap::new(),
        }
    }
}

impl<M: StateMachine> Judge<M> for Disks {
    fn after(&mut self, look: &Look<'_, M>, step: Step<'_>) -> Result<(), String> {
        match step {
            // What is on a disk that is not its own binds nobody, and what it says from there
            // nobody may hear.
            Step::Opened { node } | Step::Sends { node, .. } if look.nodes[node].is_misplaced() => {
                Ok(())
            }
            Step::Opened { node } => {
                check_named(look, node)?;
                self.check_floors(look, node)
            }
            Step::Sends { node, sent } => match sent {
                Sent::Frame(_, Frame::Raft(messages)) => {
                    for message in messages {
                        self.check_sent(look, node, message.group, &message.message)?;
                    }
                    Ok(())
                }
                Sent::Reply(_, reply) | Sent::Frame(_, Frame::Reply(reply)) => {
                    self.check_answer(look, node, reply)
                }
                Sent::Frame(..) => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl Disks {
    fn check_sent<M: StateMachine>(
        &mut self,
        look: &Look<'_, M>,
        node: usize,
        group: GroupId,
        message: &Message,
    ) -> Result<(), String> {
        let permille = match message.body {
            Body::AppendAccepted { match_index, .. } if match_index > LogIndex::ZERO => {
                self.rates.accepted_permille
            }
            Body::Vote { .. } | Body::VoteReply { granted: true } => self.rates.vote_permille,
            _ => return Ok(()),
        };
        if !self.rng.permille(permille) {
            return Ok(());
        }
        let slot = &look.nodes[node];
        let Some(inspection) = self.recover(look, slot)? else {
            return Ok(());
        };
        let at = Place {
            node: slot.id,
            group,
        };
        let found = inspection.groups.iter().find(|it| it.group == group);
        let wrong = |detail: String| {
            Err(format!(
                "invariant 7, durable before acknowledged: {} of group {} sends {} in {}, and {detail} would be left on its disk",
                at.node,
                at.group.0,
                crate::trace::name_of(&message.body),
                message.term
            ))
        };
        let Some(found) = found else {
            return wrong("nothing".to_owned());
        };
        let state = found.state;
        match message.body {
            Body::AppendAccepted { match_index, .. } => {
                // A promise to an earlier leader may be about what was cut in the same pass.
                let is_present = look.books.replica(at).stand.term == message.term;
                let has_it =
                    !is_present || holds(found, match_index, term_of(look, at, match_index));
                if has_it && state.term >= message.term.0 {
                    return Ok(());
                }
                let terms = &found.terms;
                wrong(format!(
                    "({}, {terms:?}) in {}, instead of ({match_index}, {:?})",
                    found.last_index,
                    state.term,
                    term_of(look, at, match_index)
                ))
            }
            Body::Vote { .. } | Body::VoteReply { .. } => {
                let to = match message.body {
                    Body::Vote { .. } => at.node,
                    _ => message.to,
                };
                let is_kept = state.term > message.term.0
                    || (state.term == message.term.0 && state.vote == to.0);
                if is_kept {
                    return Ok(());
                }
                wrong(format!("a vote for n{} in {}", state.vote, state.term))
            }
            _ => Ok(()),
        }
    }

    /// What a client is told is on the disks of a majority.
    fn check_answer<M: StateMachine>(
        &mut self,
        look: &Look<'_, M>,
        node: usize,
        reply: &Reply,
    ) -> Result<(), String> {
        let is_told = matches!(reply.result, Ok(ReplyBody::Outcome(_)));
        if !is_told || !self.rng.permille(self.rates.answer_permille) {
            return Ok(());
        }
        let slot = &look.nodes[node];
        let told = slot.deeds.iter().find_map(|(group, deed)| match deed {
            Deed::Acknowledged { id, index } if *id == reply.id => Some((*group, *index)),
            _ => None,
        });
        let Some((group, index)) = told else {
            return Ok(());
        };
        let at = Place {
            node: slot.id,
            group,
        };
        let term = term_of(look, at, index);
        let mut holders = BTreeSet::new();
        for (slot, replica) in look.nodes.iter().zip(look.books.group(group).replicas()) {
            let inspection = self.recover(look, slot)?;
            let misses = inspection.is_none() || is_out(slot) || replica.stand.is_aside;
            let is_there = inspection.is_some_and(|inspection| {
                let found = inspection.groups.iter().find(|it| it.group == group);
                found.is_some_and(|found| holds(found, index, term))
            });
            // What damage took was there when it was counted. A disk that misses nothing shows what it holds.
            let was_there = slot.harm != Harm::None && misses && replica.holds(index, term);
            if is_there || was_there {
                holders.insert(slot.id);
            }
        }
        if holders.len() >= look.books.quorum() {
            return Ok(());
        }
        Err(format!(
            "invariant 8, on a majority of disks before a client hears: {} answers for ({index}, {term:?}) of group {}, which would be left on {holders:?} of {}",
            at.node, group.0, look.books.nodes
        ))
    }

    fn check_floors<M: StateMachine>(&self, look: &Look<'_, M>, node: usize) -> Result<(), String> {
        let slot = &look.nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        for group in process.groups() {
            let at = Place {
                node: slot.id,
                group,
            };
            let Some(floor) = self.floors.get(&at) else {
                continue;
            };
            let stand = process.stand(group);
            let mut floor = *floor;
            if stand.is_aside && slot.harm != Harm::None {
                // What it lost may be what it knew to be committed; its term and its vote never are.
                floor.commit = floor.commit.min(stand.commit.0);
            }
            check_floor(at, floor, &stand)?;
        }
        Ok(())
    }

    /// What would be left of a node if its power went off now; nothing, if its disk was struck and something is missed.
    fn recover<M: StateMachine>(
        &mut self,
        look: &Look<'_, M>,
        slot: &NodeSlot<M>,
    ) -> Result<Option<Inspection>, String> {
        let copy = slot.true_disk().fork();
        copy.power_cut(&Survivors::None);
        let whole = recovered(slot.id, &copy).and_then(|inspection| {
            check_files(slot.id, &copy, &inspection)?;
            Ok(inspection)
        });
        let inspection = match whole {
            Ok(inspection) => inspection,
            Err(_) if slot.harm != Harm::None => return Ok(None),
            Err(wrong) => return Err(wrong),
        };
        for group in &inspection.groups {
            let at = Place {
                node: slot.id,
                group: group.group,
            };
            check_group(look.books, at, group)?;
            self.floors.insert(at, group.state);
        }
        if self.rng.permille(self.rates.twice_permille) {
            check_twice(slot.id, &copy, &inspection, &look.config.options.log)?;
        }
        Ok(Some(inspection))
    }
}

/// A replica for which the log names lost entries says so too. The log that was just opened changed nothing in what it read.
fn check_named<M: StateMachine>(look: &Look<'_, M>, node: usize) -> Result<(), String> {
    let slot = &look.nodes[node];
    let Some(process) = slot.process.as_ref().filter(|_| slot.harm != Harm::None) else {
        return Ok(());
    };
    let inspection = inspect(&slot.disk.fork(), &Path::new(DIR).join(LOG_DIR));
    let inspection = inspection
        .map_err(|error| format!("invariant 16, a log recovers: that of {}: {error}", slot.id))?;
    inspection.groups.iter().try_for_each(|found| {
        let at = Place {
            node: slot.id,
            group: found.group,
        };
        check_aside(at, &found.lost, &process.stand(found.group))
    })
}

/// A replica stands aside that lost entries, first and last of each stretch, which no snapshot covers.
pub fn check_aside(at: Place, lost: &[(u64, u64)], stand: &Stand) -> Result<(), String> {
    let mut lost = lost.iter();
    let behind = lost.find(|lost| lost.1 > stand.snapshot.0);
    match behind.filter(|_| !stand.is_aside) {
        None => Ok(()),
        Some(lost) => Err(format!(
            "invariant 17, what is lost is named: {} of group {} goes on without {lost:?}",
            at.node, at.group.0
        )),
    }
}

/// A replica that comes back has at least the term and the commit index that were seen on its disk before.
pub fn check_floor(at: Place, floor: GroupState, stand: &Stand) -> Result<(), String> {
    if stand.term.0 >= floor.term && stand.commit.0 >= floor.commit {
        return Ok(());
    }
    Err(format!(
        "invariant 5, what was durable stays: {} of group {} comes back in {} with commit {}, and had {floor:?} on its disk",
        at.node, at.group.0, stand.term, stand.commit
    ))
}

/// Looks into the log on a copy of a disk. Nothing may be missing, unless the disk was struck.
pub fn recovered(node: NodeId, copy: &CrashDisk) -> Result<Inspection, String> {
    let inspection = inspect(copy, &Path::new(DIR).join(LOG_DIR))
        .map_err(|error| format!("invariant 16, a log recovers: that of {node}: {error}"))?;
    match inspection.damage.first() {
        None => Ok(inspection),
        Some(damage) => Err(format!(
            "invariant 17, nothing is lost on a sound disk: the log of {node} has {damage:?}"
        )),
    }
}

/// The segments follow each other, one of them is written to, and the snapshots that are named are whole.
pub fn check_files(node: NodeId, copy: &CrashDisk, inspection: &Inspection) -> Result<(), String> {
    let in_service = inspection.segments.iter().filter(|segment| {
        matches!(
            segment.state,
            SegmentState::Active | SegmentState::Sealed | SegmentState::Indexed
        )
    });
    let in_service: Vec<_> = in_service.collect();
    for pair in in_service.windows(2) {
        let follows = pair[0].id < pair[1].id && pair[0].last_lsn < pair[1].first_lsn;
        if !follows || pair[0].state == SegmentState::Active {
            return Err(format!(
                "invariant 19, segments follow each other: of {node}, {:?} is in front of {:?}",
                pair[0], pair[1]
            ));
        }
    }
    let snapshots = Snapshots::open(Arc::new(copy.clone()), &Path::new(DIR).join(SNAPSHOT_DIR));
    for group in &inspection.groups {
        let Some(file) = &group.snapshot else {
            continue;
        };
        let verified = match &snapshots {
            Ok(snapshots) => snapshots
                .verify(group.group, file)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        verified.map_err(|error| {
            format!(
                "invariant 11, a snapshot that is named is whole: that of {node}, group {}, at {}: {error}",
                group.group.0, file.index
            )
        })?;
    }
    Ok(())
}

/// What a log holds of a group has no gaps, and nothing in it contradicts what is committed.
pub fn check_group(books: &Books, at: Place, found: &GroupInspection) -> Result<(), String> {
    let wrong = |detail: String| {
        Err(format!(
            "invariant 16, a log has no gaps: {} of group {}: {detail}",
            at.node, at.group.0
        ))
    };
    let snapshot = found.snapshot.as_ref().map_or(0, |file| file.index);
    if found.first_index > snapshot + 1 {
        return wrong(format!(
            "begins at {} behind a snapshot of {snapshot}",
            found.first_index
        ));
    }
    if !found.lost.is_empty() {
        return wrong(format!("lacks {:?}", found.lost));
    }
    let ascends = found
        .terms
        .windows(2)
        .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
    let is_empty = found.first_index > found.last_index;
    let begins = found
        .terms
        .first()
        .is_none_or(|run| run.0 == found.first_index);
    if !ascends || !begins || is_empty != found.terms.is_empty() {
        return wrong(format!(
            "has the terms {:?} from {}",
            found.terms, found.first_index
        ));
    }
    if found.state.commit > found.last_index.max(snapshot) {
        return wrong(format!(
            "says that {} is committed of {}",
            found.state.commit, found.last_index
        ));
    }
    let committed = books
        .group(at.group)
        .committed(LogIndex(found.state.commit));
    let term = term_in(found, found.state.commit);
    match (committed, term) {
        (Some(committed), Some(term)) if committed.term != term => Err(format!(
            "invariant 4, one entry at each index: {} of group {} has ({}, {term}) on its disk as committed, which is of {}",
            at.node, at.group.0, found.state.commit, committed.term
        )),
        _ => Ok(()),
    }
}

/// To recover twice is to recover once.
pub fn check_twice(
    node: NodeId,
    copy: &CrashDisk,
    inspection: &Inspection,
    options: &LogOptions,
) -> Result<(), String> {
    let mut options = options.clone();
    options.identity = inspection.identity;
    options.recovery_threads = 1;
    options.inline_writes = false;
    let open = |copy: &CrashDisk| {
        let opened = Log::open(
            Arc::new(copy.clone()),
            &Path::new(DIR).join(LOG_DIR),
            options.clone(),
        );
        let (log, recovered) = opened
            .map_err(|error| format!("invariant 16, a log recovers: that of {node}: {error}"))?;
        log.close();
        Ok::<_, String>(recovered.groups)
    };
    let first = open(copy)?;
    let looked = inspection.groups.iter();
    let is_as_looked = looked.clone().count() == first.len()
        && looked.clone().all(|found| {
            first.get(&found.group).is_some_and(|group| {
                (group.last_index, group.state, &group.terms)
                    == (found.last_index, found.state, &found.terms)
            })
        });
    copy.power_cut(&Survivors::None);
    let second = open(copy)?;
    if is_as_looked && first == second {
        return Ok(());
    }
    Err(format!(
        "invariant 16, to recover twice is to recover once: {node} has {first:?}, and then {second:?}"
    ))
}

fn term_of<M: StateMachine>(look: &Look<'_, M>, at: Place, index: LogIndex) -> Option<Term> {
    look.books.replica(at).term_at(index)
}

/// Whether so much of a disk is gone that what is left of it says nothing of what was there.
fn is_out<M: StateMachine>(slot: &NodeSlot<M>) -> bool {
    slot.harm == Harm::Lost || slot.before_wipe.is_some()
}

/// Whether a log, or the snapshot in front of it, has an entry.
fn holds(found: &GroupInspection, index: LogIndex, term: Option<Term>) -> bool {
    let is_covered = found
        .snapshot
        .as_ref()
        .is_some_and(|file| file.index >= index.0);
    let found = term_in(found, index.0);
    is_covered || (found.is_some() && (term.is_none() || found == term))
}

fn term_in(found: &GroupInspection, index: u64) -> Option<Term> {
    if index > found.last_index {
        return None;
    }
    let run = found.terms.iter().rev().find(|run| run.0 <= index)?;
    Some(Term(run.1))
}
