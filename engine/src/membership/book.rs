//! What a node durably knows of its peers, and what follows from it: whom it deals with, and when the cluster is founded.
//!
//! Pure: nothing is written here. Whoever changes a book writes it before anybody else hears of the change.
//!
//! For each node id one incarnation's promises count, and none is forgotten. Nobody promises anything before the cluster is
//! founded, which happens in three stages, so that all founders count the same incarnations:
//! 1. *Complete*: this node has met every founder. The book may still change: nothing was promised.
//! 2. *Closed*: every founder is complete with the same digest. From here on the incarnations in the book stand for good.
//! 3. *Founded*: every founder is closed with the same digest, or one founded peer says so.
//!
//! Without the middle stage a statement could be out of date when it is counted, and two founders could count different
//! directories of a third one.

use std::collections::{BTreeMap, BTreeSet};

use quorate_raft::NodeId;
use serde::{Deserialize, Serialize};

use super::card::{FEATURES, HISTORY_MAX, NodeCard, NodeLimits, Start};
use super::refused::{OlderBy, Refused};
use crate::mutants;
use crate::transport::Founding;

/// By how much the number of a node's start may be above the last one that was accepted. A directory that is opened once a
/// second comes to this after twelve days in which no peer met it. Without a bound one card with the last number of all
/// would be the last card of its node for ever.
pub(super) const LIFE_JUMP_MAX: u64 = 1 << 20;

/// What a node durably knows of itself and its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(super) own: Own,
    /// The other founders, by id.
    peers: BTreeMap<u64, Standing>,
    is_closed: bool,
    is_founded: bool,
    /// The feature version that all members were found to know. Never goes back: what it brings may be in the log.
    agreed_features: u32,
    /// What peers said last of their own books. Forgotten with the process: they say it again.
    #[serde(skip)]
    said: BTreeMap<u64, Founding>,
    /// Peers whose present start does not sync its log. Forgotten with the process: they show a card before they say anything.
    #[serde(skip)]
    unsynced: BTreeSet<u64>,
}

/// What a node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) node: u64,
    pub(super) cluster_id: u64,
    pub(super) groups: u32,
    pub(super) incarnation: u64,
    pub(super) start: Start,
    /// The starts before, oldest first.
    pub(super) history: Vec<Start>,
    /// What this start announces, zero before the first one.
    pub(super) election_timeout_ms: u64,
    /// The longest election timeout of all starts on which a lease of others may still rest: after a restart this node waits
    /// for it. Falls to what this start announces when `node::promise` says that it may.
    pub(super) promised_ms: u64,
}

/// What is known of a founder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    /// It was never met.
    Expected,
    Met(Known),
    /// The operator said that it will not come.
    Retired,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    incarnation: u64,
    start: Start,
    limits: NodeLimits,
    /// The newest feature version that it knows.
    features_max: u32,
    /// How far its log was durable, by starts that sync it: what others write may be gone after a power loss. Grows in memory,
    /// and is written along with the rest.
    lsn: u64,
}

/// How far a node is with founding, and what keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundingStatus {
    /// Whether the cluster is founded, as far as this node knows: only then does it take part.
    pub is_founded: bool,
    /// Founders that this node never met.
    pub missing: Vec<NodeId>,
    /// Founders that were met, and have not yet said that they met the same founders.
    pub undecided: Vec<NodeId>,
    /// Nodes that refuse this one, and why.
    pub refused_by: Vec<(NodeId, Refused)>,
    /// Why this node could not write down whom it met or how far founding is, the last time that it had to. Until it can, it
    /// does not go on with founding, and refuses peers that were started again. `None` once a write succeeds.
    pub unwritten: Option<String>,
}

impl Book {
    /// Of a directory that is being made, or that comes from a version without books.
    pub(crate) fn new(
        node: u64,
        cluster_id: u64,
        groups: u32,
        incarnation: u64,
        members: &[u64],
    ) -> Self {
        let others = members.iter().filter(|&&member| member != node);
        let mut book = Self {
            own: Own {
                node,
                cluster_id,
                groups,
                incarnation,
                start: Start::default(),
                history: Vec::new(),
                election_timeout_ms: 0,
                promised_ms: 0,
            },
            peers: others.map(|&other| (other, Standing::Expected)).collect(),
            is_closed: false,
            is_founded: false,
            agreed_features: FEATURES.0,
            said: BTreeMap::new(),
            unsynced: BTreeSet::new(),
        };
        book.settle();
        book
    }

    /// At another stage, however it was reached.
    #[cfg(test)]
    pub(super) fn at_stage(
        mut self,
        (is_closed, is_founded): (bool, bool),
        agreed_features: u32,
    ) -> Self {
        (self.is_closed, self.is_founded) = (is_closed, is_founded);
        self.agreed_features = agreed_features;
        self
    }

    /// All founders, ascending.
    pub(crate) fn members(&self) -> Vec<u64> {
        let mut members: Vec<u64> = self.peers.keys().copied().collect();
        members.push(self.own.node);
        members.sort_unstable();
        members
    }

    /// Begins another start of this node.
    pub(crate) fn begin(&mut self, nonce: u64, election_timeout_ms: u64) {
        let own = &mut self.own;
        if own.start.life > 0 {
            own.history.push(own.start);
            let surplus = own.history.len().saturating_sub(HISTORY_MAX);
            own.history.drain(..surplus);
        }
        own.start = Start {
            life: own.start.life + 1,
            nonce,
        };
        own.election_timeout_ms = election_timeout_ms;
        own.promised_ms = own.promised_ms.max(election_timeout_ms);
        self.agree_on_features();
    }

    /// Takes the operator's word that a founder will not come. `false`: it is no other founder, or the book is closed, and others
    /// may have founded the cluster with it.
    pub(crate) fn retire(&mut self, node: u64) -> bool {
        match self.peers.get_mut(&node) {
            Some(Standing::Retired) => true,
            Some(standing) if !self.is_closed => {
                *standing = Standing::Retired;
                self.said.remove(&node);
                self.settle();
                true
            }
            _ => false,
        }
    }

    /// Founders that are not retired, this node included.
    pub(crate) fn active(&self) -> usize {
        1 + self
            .peers
            .values()
            .filter(|it| **it != Standing::Retired)
            .count()
    }

    pub(crate) fn is_founded(&self) -> bool {
        self.is_founded
    }

    /// Whether the founders stand for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether the start that this card shows is the one that was recorded last of its node.
    pub(crate) fn stands(&self, card: &NodeCard) -> bool {
        matches!(
            self.peers.get(&card.node.0),
            Some(Standing::Met(known)) if (known.incarnation, known.start) == card.identity()
        )
    }

    /// What each other founder that counts announced last; `None` of one that was never met.
    pub(crate) fn announced(&self) -> impl Iterator<Item = Option<NodeLimits>> + '_ {
        let counted = self.peers.values().filter(|it| **it != Standing::Retired);
        counted.map(|standing| match standing {
            Standing::Met(known) => Some(known.limits),
            Standing::Expected | Standing::Retired => None,
        })
    }

    /// The longest election timeout on which a lease may rest that counts this node.
    pub(crate) fn promised_ms(&self) -> u64 {
        self.own.promised_ms
    }

    /// The same if it is longer than what this start announces.
    pub(crate) fn longer_promise_ms(&self) -> Option<u64> {
        Some(self.own.promised_ms).filter(|&it| it > self.own.election_timeout_ms)
    }

    /// No lease rests on more than this start announces.
    pub(crate) fn forget_longer_promise(&mut self) {
        self.own.promised_ms = self.own.election_timeout_ms;
    }

    /// Whether to deal with the node that shows this card: if so, whether the card has news, which must be
    /// [recorded](Self::record) and written first.
    pub(crate) fn judge(&self, card: &NodeCard) -> Result<bool, Refused> {
        let (node, own) = (card.node, &self.own);
        if card.cluster_id != own.cluster_id {
            return Err(Refused::WrongCluster {
                ours: own.cluster_id,
                theirs: card.cluster_id,
            });
        }
        if card.groups != own.groups {
            return Err(Refused::WrongGroups {
                ours: own.groups,
                theirs: card.groups,
            });
        }
        let standing = self.peers.get(&node.0).ok_or(Refused::Unknown { node })?;
        let known = match standing {
            Standing::Met(known) => Some(known),
            Standing::Retired if mutants::ACCEPTS_RETIRED => None,
            Standing::Retired => return Err(Refused::Retired { node }),
            Standing::Expected => None,
        };
        if card.incarnation == 0 {
            return Err(Refused::OtherDirectory {
                node,
                known: known.map_or(0, |known| known.incarnation),
                shown: 0,
            });
        }
        // It must read what this node writes, and this node what it writes.
        let needed = self.agreed_features.max(FEATURES.0);
        if card.features.1 < needed {
            return Err(Refused::Features {
                node,
                theirs: card.features.1,
                agreed: needed,
            });
        }
        if card.features.0 > FEATURES.1 {
            return Err(Refused::Features {
                node: NodeId(own.node),
                theirs: FEATURES.1,
                agreed: card.features.0,
            });
        }
        // Another directory begins to count anew.
        let same = known.filter(|known| known.incarnation == card.incarnation);
        let life = same.map_or(0, |known| known.start.life);
        if card.start.life.saturating_sub(life) > LIFE_JUMP_MAX && !mutants::IGNORES_LIFE {
            return Err(Refused::LifeJump {
                node,
                known: life,
                shown: card.start.life,
            });
        }
        let Some(known) = known else { return Ok(true) };
        // Before the book is closed nobody has promised anything, whatever became of this founder.
        if self.is_closed {
            judge_known(card, known)?;
        }
        Ok(known.incarnation != card.incarnation
            || known.start != card.start
            || known.limits != card.limits
            || known.features_max != card.features.1)
    }

    /// Takes in a card that was judged well. Returns whether the book goes on to another stage by it.
    pub(crate) fn record(&mut self, card: &NodeCard) -> bool {
        let lsn = match self.peers.get(&card.node.0) {
            Some(Standing::Met(known)) if known.incarnation == card.incarnation => known.lsn,
            _ => {
                self.said.remove(&card.node.0);
                0
            }
        };
        // A log that does not sync may be shorter than it was, and then counts from there. That it is longer promises nothing.
        let lsn = if card.syncs {
            lsn.max(card.durable_lsn)
        } else {
            lsn.min(card.durable_lsn)
        };
        let known = Known {
            incarnation: card.incarnation,
            start: card.start,
            limits: card.limits,
            features_max: card.features.1,
            lsn,
        };
        if let Some(standing) = self.peers.get_mut(&card.node.0) {
            *standing = Standing::Met(known);
        }
        self.note_syncs(card);
        let goes_on = self.settle();
        self.agree_on_features();
        goes_on
    }

    /// Notes whether the start of an admitted card syncs its log. That is not durable and needs not be.
    pub(super) fn note_syncs(&mut self, card: &NodeCard) {
        if card.syncs {
            self.unsynced.remove(&card.node.0);
        } else {
            self.unsynced.insert(card.node.0);
        }
    }

    /// The newest feature version that every member that counts has announced once: what it brings may be written.
    pub(crate) fn agreed_features(&self) -> u32 {
        self.agreed_features
    }

    /// Goes on to what all members know by now. A member that was never met knows nothing new.
    fn agree_on_features(&mut self) {
        let counted = self.peers.values().filter(|it| **it != Standing::Retired);
        let known = counted.map(|standing| match standing {
            Standing::Met(known) => known.features_max,
            Standing::Expected | Standing::Retired => FEATURES.0,
        });
        let all = known.min().unwrap_or(FEATURES.1).min(FEATURES.1);
        // Before the book is closed, another directory may come under an id.
        if self.is_closed || self.peers.is_empty() {
            self.agreed_features = self.agreed_features.max(all);
        }
    }

    /// Takes in what a peer says of its book and its log. That is not durable and needs not be: it is said again. What
    /// follows from it comes with [`settle`](Self::settle).
    pub(crate) fn hear(&mut self, node: u64, said: Founding, lsn: u64) {
        let Some(Standing::Met(known)) = self.peers.get_mut(&node) else {
            return;
        };
        if !self.unsynced.contains(&node) {
            known.lsn = known.lsn.max(lsn);
        }
        if !self.is_founded {
            self.said.insert(node, said);
        }
    }

    /// Takes over what was heard since this book was copied from the one that is in its place still.
    pub(super) fn take_heard(&mut self, before: &Self) {
        for (node, standing) in &mut self.peers {
            let (Standing::Met(known), Some(Standing::Met(old))) =
                (standing, before.peers.get(node))
            else {
                continue;
            };
            if known.incarnation != old.incarnation {
                continue;
            }
            if let Some(said) = before.said.get(node) {
                self.said.insert(*node, *said);
            }
            // A new start has said itself how long the log is.
            if known.start == old.start {
                known.lsn = known.lsn.max(old.lsn);
                if before.unsynced.contains(node) {
                    self.unsynced.insert(*node);
                } else {
                    self.unsynced.remove(node);
                }
            }
        }
    }

    /// What this node says of its book.
    pub(crate) fn founding(&self) -> Founding {
        let digest = self.digest();
        Founding {
            is_complete: digest.is_some(),
            is_closed: self.is_closed,
            digest: digest.unwrap_or(0),
            is_founded: self.is_founded,
        }
    }

    pub(crate) fn status(&self) -> FoundingStatus {
        let mut status = FoundingStatus {
            is_founded: self.is_founded,
            ..FoundingStatus::default()
        };
        if self.is_founded {
            return status;
        }
        let digest = self.digest();
        for (&node, standing) in &self.peers {
            match standing {
                Standing::Expected => status.missing.push(NodeId(node)),
                Standing::Met(_) if !self.agrees(node, digest, |said| said.is_closed) => {
                    status.undecided.push(NodeId(node));
                }
                Standing::Met(_) | Standing::Retired => {}
            }
        }
        status
    }

    /// Goes through the stages as far as what was heard allows. Returns whether it got anywhere: then the book must be
    /// written before anybody hears of it.
    pub(super) fn settle(&mut self) -> bool {
        let before = (self.is_closed, self.is_founded);
        if mutants::FOUNDS_BY_MAJORITY {
            let met = self
                .peers
                .values()
                .filter(|it| matches!(it, Standing::Met(_)));
            self.is_founded |= met.count() + 1 > self.peers.len().div_ceil(2);
            self.is_closed |= self.is_founded;
        }
        if let (digest @ Some(_), false) = (self.digest(), self.is_founded) {
            let is_told = self
                .active_peers()
                .any(|node| self.agrees(node, digest, |said| said.is_founded));
            let all = |stage: fn(&Founding) -> bool| {
                self.active_peers()
                    .all(|node| self.agrees(node, digest, stage))
            };
            let is_closed = self.is_closed || is_told || all(|said| said.is_complete);
            let is_founded = is_closed && (is_told || all(|said| said.is_closed));
            (self.is_closed, self.is_founded) = (is_closed, is_founded);
        }
        self.agree_on_features();
        before != (self.is_closed, self.is_founded)
    }

    pub(super) fn active_peers(&self) -> impl Iterator<Item = u64> + '_ {
        let active = self
            .peers
            .iter()
            .filter(|(_, it)| **it != Standing::Retired);
        active.map(|(node, _)| *node)
    }

    fn agrees(&self, node: u64, digest: Option<u64>, stage: impl Fn(&Founding) -> bool) -> bool {
        let said = self.said.get(&node);
        said.is_some_and(|said| Some(said.digest) == digest && stage(said))
    }

    /// Over the founders and their incarnations; `None` before all were met.
    fn digest(&self) -> Option<u64> {
        let own = (self.own.node, Some(self.own.incarnation));
        let mut founders = vec![own];
        for (&node, standing) in &self.peers {
            founders.push(match standing {
                Standing::Expected => return None,
                Standing::Met(known) => (node, Some(known.incarnation)),
                Standing::Retired => (node, None),
            });
        }
        founders.sort_unstable();
        let digest = founders
            .iter()
            .fold(self.own.cluster_id, |digest, (node, incarnation)| {
                mix(mix(digest ^ node).wrapping_add(incarnation.unwrap_or(0)))
            });
        // Zero says that there is none.
        Some(digest.max(1))
    }
}

/// Judges a card against what is known, when promises may have been made.
fn judge_known(card: &NodeCard, known: &Known) -> Result<(), Refused> {
    let node = card.node;
    let is_other = card.incarnation != known.incarnation;
    if is_other && mutants::ACCEPTS_WIPED_DIRECTORIES || !is_other && mutants::ACCEPTS_OLDER_COPIES
    {
        return Ok(());
    }
    if card.incarnation != known.incarnation && !mutants::IGNORES_INCARNATION {
        return Err(Refused::OtherDirectory {
            node,
            known: known.incarnation,
            shown: card.incarnation,
        });
    }
    let older = |cause| Err(Refused::OlderCopy { node, cause });
    let life = known.start.life;
    if !mutants::IGNORES_LIFE {
        if card.start.life < life {
            return older(OlderBy::Life {
                known: life,
                shown: card.start.life,
            });
        }
        if card.start.life == life && card.start != known.start {
            return Err(Refused::SecondCopy { node, life });
        }
        let reaches_back = card.history.first().is_some_and(|first| first.life <= life);
        if card.start.life > life && reaches_back && !card.history.contains(&known.start) {
            return older(OlderBy::History { life });
        }
    }
    // A card says how far the log was at its start, and it has gone on since.
    let is_start_known = card.start == known.start;
    let is_behind = card.syncs && card.durable_lsn < known.lsn && !is_start_known;
    if is_behind && !mutants::IGNORES_DURABLE_LSN {
        return older(OlderBy::Log {
            known: known.lsn,
            shown: card.durable_lsn,
        });
    }
    Ok(())
}

impl std::fmt::Display for FoundingStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            parts.push(format!(
                "waits for {}, which it never met: start each node once, or name those that will never come as left out \
                 (without_founders; with the tool: --without-founders)",
                nodes(&self.missing)
            ));
        } else if !self.undecided.is_empty() {
            parts.push(format!(
                "waits for {} to meet the same nodes: let all nodes reach each other, and leave out the same ones everywhere",
                nodes(&self.undecided)
            ));
        } else if self.is_founded {
            parts.push("founded".to_owned());
        }
        for (node, refused) in &self.refused_by {
            parts.push(format!("node {} refuses this node: {refused}", node.0));
        }
        if let Some(why) = &self.unwritten {
            parts.push(format!(
                "this node cannot write its book of peers ({why}): see to its disk; until then founding does not go on, and \
                 peers that were started again are refused"
            ));
        }
        f.write_str(&parts.join("; "))
    }
}

/// "node 2", "nodes 2 and 3".
fn nodes(ids: &[NodeId]) -> String {
    match ids {
        [] => "nobody".to_owned(),
        [one] => format!("node {}", one.0),
        [most @ .., last] => {
            let most: Vec<String> = most.iter().map(|id| id.0.to_string()).collect();
            format!("nodes {} and {}", most.join(", "), last.0)
        }
    }
}

/// `SplitMix64`'s finaliser.
const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
