//! One node of the world: its disk and clock, which outlive it, and the process, which comes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate::simulation::{Deed, SimNode, SimSetup, StateMachine};
use quorate::transport::{ClerkInbox, Frame, Origin, Reply, ReplySink, Request, Transport};
use quorate::{GroupId, NodeId, OpenError, Options};
use quorate_wal::testing::CrashDisk;

use crate::clock::Clock;
use crate::faults::FaultClass;
use crate::seed::Rng;
use crate::wire::Wire;
use crate::world::End;

/// Where a node has its files.
pub const DIR: &str = "/node";

/// Workers that share the groups of a node at most.
pub(crate) const WORKERS_MAX: usize = 4;

/// How often a node is started from an older copy of its directory at most. Peers recognise a copy
/// for sixteen starts, see `docs/guarantees.md`.
const WRONG_LIVES_MAX: usize = 12;

/// The directories of its log and of its snapshots in there.
pub(crate) const LOG_DIR: &str = "wal";
pub(crate) const SNAPSHOT_DIR: &str = "snap";

/// How two processes judged each other's cards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Met {
    /// They deal with each other.
    Accepted,
    /// One refuses the other, or both do; they show each other their cards again from then on.
    Refused {
        /// In virtual time.
        again_ns: u64,
    },
}

/// A node of the world.
pub struct NodeSlot<M: StateMachine> {
    /// Its id, one above its place.
    pub id: NodeId,
    /// Its disk.
    pub disk: CrashDisk,
    /// Its clock.
    pub clock: Clock,
    /// The process, while it runs.
    pub process: Option<SimNode<M>>,
    /// What its replicas did in the last step, in order for each group.
    pub deeds: Vec<(GroupId, Deed)>,
    /// Its options in this life.
    pub options: Options,
    /// How often it was started. What was scheduled in an earlier life means nothing any more.
    pub life: u32,
    /// Until then it stands still.
    pub paused_until_ns: u64,
    /// It is left dead on purpose.
    pub is_abandoned: bool,
    /// What became of what was durable on its disk.
    pub harm: Harm,
    /// The places of those whose frames are on the queue of each worker.
    pub(crate) unheard: [BTreeSet<usize>; WORKERS_MAX],
    /// Processes with which this one showed cards, by place and life, and what came of it.
    pub(crate) met: BTreeMap<(usize, u32), Met>,
    /// What comes back for the client in it.
    pub(crate) desk: Arc<LocalDesk>,
    /// It stands still for so long in the middle of its next step; zero if it does not.
    pub(crate) is_to_pause_ns: u64,
    /// It ends in its next step of the log, in this way, and is started again then; with what draws the rest.
    pub(crate) is_to_end: Option<(End, u64, Rng)>,
    /// Its log failed, and it will be started again.
    pub(crate) is_replacing: bool,
    pub(crate) timers: Timers,
    pub(crate) disk_state: DiskState,
    /// What struck its disk last.
    pub(crate) struck_by: Option<FaultClass>,
    /// Its disk before something was wiped off it, and what had become of that one.
    pub(crate) before_wipe: Option<(CrashDisk, Harm)>,
    /// The copy that was made of its disk last.
    pub(crate) copied_disk: Option<CrashDisk>,
    /// Its own disk, while an operator has put another one in its place.
    pub(crate) own_disk: Option<CrashDisk>,
    /// The lives in which it runs, or ran, from that other one.
    pub(crate) wrong_lives: Range<u32>,
    outbox: Arc<Outbox>,
    /// The memory transport, where there is one.
    wire: Option<Arc<Wire>>,
}

/// What became of what was durable on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It is all there.
    None,
    /// Some of it may be gone: its node says what, or holds all of it.
    Damaged,
    /// So much is gone that its node must not run.
    Lost,
}

/// When the steps of a node are taken next; an event that does not fit is an old one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers {
    /// By worker.
    pub(crate) pass_at_ns: [Option<u64>; WORKERS_MAX],
    pub(crate) log_at_ns: Option<u64>,
    pub(crate) prepare_at_ns: Option<u64>,
    pub(crate) cover_at_ns: Option<u64>,
    pub(crate) job_at_ns: Option<u64>,
}

/// What is the matter with a disk besides what it does by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskState {
    /// Syncs take so many times as long.
    pub(crate) slowness: u64,
    /// Each sync takes so long at least.
    pub(crate) sync_min_ns: u64,
    /// No sync returns before.
    pub(crate) stuck_until_ns: u64,
    /// A fault was set that may make the log fail, or the node impossible to open.
    pub(crate) is_faulty: bool,
    /// Reads of the process that runs may go wrong.
    pub(crate) may_misread: bool,
}

/// What a node sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// To a node.
    Frame(NodeId, Frame),
    /// To a clerk, by its place.
    Reply(usize, Reply),
}

/// Takes what a node sends until the world brings it on its way.
#[derive(Default)]
struct Outbox(Mutex<Vec<Sent>>);

impl Transport for Outbox {
    fn send(&self, to: NodeId, frame: Frame) -> bool {
        self.0.lock().push(Sent::Frame(to, frame));
        true
    }

    fn stop(&self) {}
}

/// The way back to a clerk.
struct ToClerk {
    clerk: usize,
    outbox: Arc<Outbox>,
}

impl ReplySink for ToClerk {
    fn reply(&self, reply: Reply) {
        self.outbox.0.lock().push(Sent::Reply(self.clerk, reply));
    }
}

/// What came back for the client in a node, and from whom, until the world hands it over.
#[derive(Default)]
pub(crate) struct LocalDesk(Mutex<Vec<(NodeId, Reply)>>);

impl LocalDesk {
    pub(crate) fn take(&self) -> Vec<(NodeId, Reply)> {
        std::mem::take(&mut self.0.lock())
    }
}

impl ClerkInbox for LocalDesk {
    fn reply(&self, from: NodeId, reply: Reply) {
        self.0.lock().push((from, reply));
    }

    fn disconnected(&self, _node: NodeId) {}
}

/// The way back from the replicas of the client's own node.
pub(crate) struct FromHome {
    pub(crate) node: NodeId,
    pub(crate) desk: Arc<LocalDesk>,
}

impl ReplySink for FromHome {
    fn reply(&self, reply: Reply) {
        self.desk.0.lock().push((self.node, reply));
    }
}

impl<M: StateMachine> NodeSlot<M> {
    pub(crate) fn new(
        place: usize,
        clock: Clock,
        options: &Options,
        wire: Option<Arc<Wire>>,
    ) -> Self {
        Self {
            id: NodeId(place as u64 + 1),
            disk: CrashDisk::new(),
            clock,
            process: None,
            deeds: Vec::new(),
            options: options.clone(),
            life: 0,
            paused_until_ns: 0,
            is_abandoned: false,
            unheard: Default::default(),
            met: BTreeMap::new(),
            desk: Arc::default(),
            harm: Harm::None,
            is_to_pause_ns: 0,
            is_to_end: None,
            is_replacing: false,
            timers: Timers::default(),
            disk_state: DiskState::default(),
            struck_by: None,
            before_wipe: None,
            copied_disk: None,
            own_disk: None,
            wrong_lives: 0..0,
            outbox: Arc::default(),
            wire,
        }
    }

    /// Starts the process.
    pub(crate) fn open(
        &mut self,
        now_ns: u64,
        nodes: usize,
        groups: u32,
        options: Options,
        seed: u64,
    ) -> Result<(), OpenError> {
        assert!(self.process.is_none(), "one process at a time");
        let setup = SimSetup {
            dir: Path::new(DIR).to_path_buf(),
            disk: Arc::new(self.disk.clone()),
            node: self.id,
            members: (1..=nodes as u64).map(NodeId).collect(),
            groups,
            options: options.clone(),
            seed: seed ^ u64::from(self.life) << 32,
        };
        self.options = options;
        self.life += 1;
        if self.is_misplaced() {
            self.wrong_lives.end = self.life + 1;
        }
        self.met.clear();
        self.timers = Timers::default();
        self.outbox = Arc::default();
        let outbox = Arc::clone(&self.outbox);
        let shown_ns = self.clock.at(now_ns);
        self.desk = Arc::default();
        let clients = Arc::clone(&self.desk) as Arc<dyn ClerkInbox>;
        let process = match &self.wire {
            Some(wire) => SimNode::open_apart(&setup, shown_ns, clients, |inbox| {
                wire.attach(self.id, inbox)
            }),
            None => SimNode::open_apart(&setup, shown_ns, clients, |_inbox| outbox),
        };
        self.process = Some(process?);
        Ok(())
    }

    /// Ends the process, from one moment to the next. What becomes of its disk is said beforehand.
    pub(crate) fn kill(&mut self) {
        self.process = None;
        self.deeds.clear();
        self.timers = Timers::default();
        self.paused_until_ns = 0;
        self.unheard = Default::default();
        self.is_to_pause_ns = 0;
        self.is_to_end = None;
        self.is_replacing = false;
        let _dead = self.take_sent();
        self.outbox = Arc::default();
    }

    /// Whether nobody may start it.
    pub(crate) fn stays_dead(&self) -> bool {
        let is_worn = self.is_misplaced() && self.wrong_lives.len() >= WRONG_LIVES_MAX;
        self.is_abandoned || self.harm == Harm::Lost || is_worn
    }

    /// Whether it runs from another disk than its own.
    pub(crate) fn is_misplaced(&self) -> bool {
        self.own_disk.is_some()
    }

    /// The disk on which it keeps what it promises, whichever one it runs from.
    pub(crate) fn true_disk(&self) -> &CrashDisk {
        self.own_disk.as_ref().unwrap_or(&self.disk)
    }

    /// Hands a clerk's request to the process. `false`: there is none.
    pub(crate) fn ask(&self, clerk: usize, request: Request) -> bool {
        if let Some(wire) = &self.wire {
            return wire.ask(clerk, self.id, request);
        }
        let Some(process) = &self.process else {
            return false;
        };
        let sink = Arc::new(ToClerk {
            clerk,
            outbox: Arc::clone(&self.outbox),
        });
        process.deliver(Origin::Clerk(sink), Frame::Request(request));
        true
    }

    pub(crate) fn take_sent(&mut self) -> Vec<Sent> {
        match &self.wire {
            Some(wire) => wire.take(self.id),
            None => std::mem::take(&mut *self.outbox.0.lock()),
        }
    }
}
