//! Turns what the world shows into plain events, and tells them to the rules, the books and the marks, in this order.

use quorate::simulation::{LogStatus, Observation, SimNode, Stand, StateMachine};
use quorate::transport::{Frame, SnapshotAckStatus};
use quorate::{GroupId, LogIndex, NodeId, Role, Term};

use super::Step;
use super::books::{Books, Event, Place, Rule};
use super::commits::Commits;
use super::directories::Directories;
use super::elections::Elections;
use super::logs::Logs;
use super::offices::Offices;
use super::promises::Promises;
use super::reads::Reads;
use super::sessions::SessionRule;
use super::snapshots::SnapshotRule;
use crate::clock::Clock;
use crate::config::Config;
use crate::marks::{Mark, Marks};
use crate::node::{NodeSlot, Sent};

/// Follows a run.
pub struct Observer {
    /// Clients in nodes come behind so many clerks.
    clerks: usize,
    books: Books,
    marks: Marks,
    rules: Vec<Box<dyn Rule>>,
    /// By node and group, in this life.
    seen: Vec<Vec<Option<Seen>>>,
    /// Nodes whose logs were seen to have failed.
    has_failed: Vec<bool>,
    /// Steps so far.
    observed: u64,
}

/// What the books and the rules keep at most: entries of logs, answers, calls. Each takes some 40 bytes, so that this is 8 MB.
/// A run that needs more does not let go of its logs.
pub const HELD_MAX: usize = 200_000;

/// At one of so many steps it is looked at.
const HELD_LOOKED_AT_EVERY: u64 = 1_024;

/// How a replica was last seen.
#[derive(Clone, Debug)]
struct Seen {
    stand: Stand,
    observation: Observation,
    /// What it believes that its peers hold, by their place.
    matched: Vec<LogIndex>,
}

impl Observer {
    /// The observer of a run, with all rules.
    pub fn new(config: &Config) -> Self {
        // Where timeouts differ, by the longest of them.
        let timeouts = (0..config.nodes).map(|node| config.options_of(node, 0).election_timeout);
        let longest = timeouts.max().unwrap_or(config.options.election_timeout);
        let timeout_ns = longest.as_nanos() as u64;
        Self {
            clerks: config.clerks,
            books: Books::new(config.nodes, config.groups),
            marks: Marks::new(),
            rules: vec![
                Box::<Elections>::default(),
                Box::new(Offices::new(timeout_ns, config.has_lease_reads)),
                Box::<Logs>::default(),
                Box::<Commits>::default(),
                Box::<Promises>::default(),
                Box::<SnapshotRule>::default(),
                Box::<Reads>::default(),
                Box::<SessionRule>::default(),
                Box::<Directories>::default(),
            ],
            seen: vec![vec![None; config.groups as usize]; config.nodes],
            has_failed: vec![false; config.nodes],
            observed: 0,
        }
    }

    /// What was seen.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// How many things the books and the rules keep.
    pub fn held(&self) -> usize {
        self.books.held() + self.rules.iter().map(|rule| rule.held()).sum::<usize>()
    }

    /// What rare things happened.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// To count what only the world sees.
    pub fn marks_mut(&mut self) -> &mut Marks {
        &mut self.marks
    }

    /// Looks at the nodes after a step.
    pub fn observe<M: StateMachine>(
        &mut self,
        now_ns: u64,
        nodes: &[NodeSlot<M>],
        step: Step<'_>,
    ) -> Result<(), String> {
        self.books.now_ns = now_ns;
        self.observed += 1;
        if self.observed.is_multiple_of(HELD_LOOKED_AT_EVERY) {
            let held = self.held();
            if held > HELD_MAX {
                return Err(format!(
                    "the books have grown beyond their bound: {held} of {HELD_MAX} entries, answers and calls are kept"
                ));
            }
        }
        match step {
            Step::Opened { node } => self.opened(nodes, node),
            Step::Copied { node } => self.tell(&Event::Copied {
                node: nodes[node].id,
            }),
            Step::Exchanged { node, directory } => self.tell(&Event::Exchanged {
                node: nodes[node].id,
                directory,
            }),
            Step::Met {
                node,
                other,
                refusal,
            } => self.tell(&Event::Met {
                node: nodes[node].id,
                other: nodes[other].id,
                refusal,
            }),
            Step::Harmed { node } => {
                let slot = &nodes[node];
                self.tell(&Event::Harmed {
                    node: slot.id,
                    harm: slot.harm,
                    by: slot.struck_by,
                })
            }
            Step::Killed { node } => {
                self.seen[node].fill(None);
                self.has_failed[node] = false;
                let id = nodes[node].id;
                if self.books.is_misplaced(id) {
                    // Its replicas ended when its own directory was taken away.
                    return Ok(());
                }
                self.tell(&Event::Ended { node: id })
            }
            Step::Moved { node, .. } if self.books.is_misplaced(nodes[node].id) => {
                self.misplaced_moved(nodes, node)
            }
            Step::Moved { node, worker } => self.moved(nodes, node, worker),
            Step::ReadsLocally { read, group, seen } => {
                self.tell(&Event::ReadLocally { read, group, seen })
            }
            Step::Sends { node, sent } if self.books.is_misplaced(nodes[node].id) => {
                self.misplaced_sent(nodes[node].id, sent)
            }
            Step::Sends { node, sent } => self.sent(nodes, node, sent),
            Step::Asks { clerk, request } => self.tell(&Event::Asked { clerk, request }),
            Step::Hears { node, from } => {
                let slot = &nodes[node];
                self.tell(&Event::Heard {
                    node: slot.id,
                    from: nodes[from].id,
                    shown_ns: slot.clock.at(now_ns),
                })
            }
        }
    }

    fn tell(&mut self, event: &Event<'_>) -> Result<(), String> {
        for rule in &mut self.rules {
            rule.judge(&self.books, event)?;
        }
        self.marks.note(&self.books, event);
        self.books.note(event);
        Ok(())
    }

    fn opened<M: StateMachine>(
        &mut self,
        nodes: &[NodeSlot<M>],
        node: usize,
    ) -> Result<(), String> {
        let slot = &nodes[node];
        self.has_failed[node] = false;
        self.seen[node].fill(None);
        let Some(process) = &slot.process else {
            return Ok(());
        };
        for group in process.groups() {
            let at = Place {
                node: slot.id,
                group,
            };
            let stand = process.stand(group);
            let indexes = (stand.first.previous().0..=stand.last.0).map(LogIndex);
            let terms = indexes.map(|index| process.term_at(group, index));
            let terms: Option<Vec<Term>> = terms.collect();
            let Some(terms) = terms else {
                return Err(format!("{} of group {} has gaps", slot.id, group.0));
            };
            if self.books.is_misplaced(slot.id) {
                let (stand, terms) = (&stand, &terms[..]);
                self.tell(&Event::MisplacedOpened { at, stand, terms })?;
                continue;
            }
            self.tell(&Event::Opened {
                at,
                stand: &stand,
                terms: &terms,
            })?;
            self.look(process, &slot.clock, at, false)?;
        }
        Ok(())
    }

    fn moved<M: StateMachine>(
        &mut self,
        nodes: &[NodeSlot<M>],
        node: usize,
        worker: Option<usize>,
    ) -> Result<(), String> {
        let slot = &nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        if !self.has_failed[node] && matches!(process.log().status(), LogStatus::Failed { .. }) {
            self.has_failed[node] = true;
            self.tell(&Event::LogFailed { node: slot.id })?;
        }
        for (group, deed) in &slot.deeds {
            let at = Place {
                node: slot.id,
                group: *group,
            };
            self.tell(&Event::Did { at, deed })?;
        }
        for group in process.groups() {
            let at = Place {
                node: slot.id,
                group,
            };
            let is_pass = worker == Some(process.worker_of(group));
            self.look(process, &slot.clock, at, is_pass)?;
        }
        Ok(())
    }

    /// Looks at the replicas of a node that runs from another directory than its own.
    fn misplaced_moved<M: StateMachine>(
        &mut self,
        nodes: &[NodeSlot<M>],
        node: usize,
    ) -> Result<(), String> {
        let slot = &nodes[node];
        let Some(process) = &slot.process else {
            return Ok(());
        };
        for group in process.groups() {
            let at = Place {
                node: slot.id,
                group,
            };
            let now = process.stand(group);
            self.tell(&Event::MisplacedMoved { at, now: &now })?;
        }
        Ok(())
    }

    /// What a node says that runs from another directory than its own.
    fn misplaced_sent(&mut self, node: NodeId, sent: &Sent) -> Result<(), String> {
        match sent {
            Sent::Frame(_, Frame::Raft(messages)) => messages.iter().try_for_each(|message| {
                let at = Place {
                    node,
                    group: message.group,
                };
                let message = &message.message;
                self.tell(&Event::MisplacedSent { at, message })
            }),
            Sent::Reply(_, reply) | Sent::Frame(_, Frame::Reply(reply)) => {
                self.tell(&Event::MisplacedReplied { node, reply })
            }
            Sent::Frame(..) => Ok(()),
        }
    }

    /// Looks at one replica, unless nothing can have changed.
    fn look<M: StateMachine>(
        &mut self,
        process: &SimNode<M>,
        clock: &Clock,
        at: Place,
        is_pass: bool,
    ) -> Result<(), String> {
        let now = process.stand(at.group);
        let (node, place) = (at.node.0 as usize - 1, at.group.0 as usize);
        let before = self.seen[node][place].take();
        let is_same = before.as_ref().is_some_and(|seen| seen.stand == now);
        if is_same && now.role != Role::Leader {
            self.seen[node][place] = before;
            return Ok(());
        }
        let observation = process
            .check(at.group, before.as_ref().map(|seen| &seen.observation))
            .map_err(|violation| format!("group {}: {violation}", at.group.0))?;
        let (stood, mut matched) = match before {
            Some(seen) => (seen.stand, seen.matched),
            None => (now, vec![LogIndex::ZERO; self.books.nodes]),
        };
        self.tell(&Event::Moved {
            at,
            before: &stood,
            now: &now,
            clock,
            is_pass,
        })?;
        if now.role == Role::Leader {
            self.matches(process, at, &mut matched)?;
        } else {
            matched.fill(LogIndex::ZERO);
        }
        self.seen[node][place] = Some(Seen {
            stand: now,
            observation,
            matched,
        });
        Ok(())
    }

    /// What a leader believes of its peers, where that is news.
    fn matches<M: StateMachine>(
        &mut self,
        process: &SimNode<M>,
        at: Place,
        matched: &mut [LogIndex],
    ) -> Result<(), String> {
        let group: GroupId = at.group;
        for peer in process.peers(group) {
            let known = &mut matched[peer.id.0 as usize - 1];
            let is_news = std::mem::replace(known, peer.match_index) != peer.match_index;
            if is_news {
                self.tell(&Event::Matched {
                    at,
                    peer: peer.id,
                    index: peer.match_index,
                })?;
            }
        }
        Ok(())
    }

    fn sent<M: StateMachine>(
        &mut self,
        nodes: &[NodeSlot<M>],
        node: usize,
        sent: &Sent,
    ) -> Result<(), String> {
        let id = nodes[node].id;
        match sent {
            Sent::Frame(_, Frame::Raft(messages)) => {
                for message in messages {
                    let at = Place {
                        node: id,
                        group: message.group,
                    };
                    let message = &message.message;
                    self.tell(&Event::Sent { at, message })?;
                }
                Ok(())
            }
            Sent::Reply(clerk, reply) => self.tell(&Event::Replied {
                node: id,
                clerk: *clerk,
                reply,
            }),
            // The client of another node, see `world/locals.rs`.
            Sent::Frame(to, Frame::Reply(reply)) => self.tell(&Event::Replied {
                node: id,
                clerk: self.clerks + to.0 as usize - 1,
                reply,
            }),
            Sent::Frame(_, Frame::SnapshotAck(ack)) => {
                if ack.status == SnapshotAckStatus::Refused {
                    self.marks.hit(Mark::SnapshotRefused);
                }
                Ok(())
            }
            Sent::Frame(..) => Ok(()),
        }
    }
}
