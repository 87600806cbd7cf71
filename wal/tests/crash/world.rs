//! A log that runs beside a model on a disk that can crash, and the check of what a crash left.
//!
//! What must hold after every recovery:
//! - The groups are what the model was after some of the submissions, taken in order: at least all
//!   that were acknowledged, at most all that were made. Nothing is damaged, nothing is lost, and
//!   every entry is read byte by byte as it was submitted.
//! - A second recovery finds the same.
//! - What is appended then is there after the next power cut, and so is what was there before.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_wal::testing::{CrashDisk, PendingChange, Survivors};
use quorate_wal::{
    Disk, Drove, GroupId, Log, LogOptions, Lsn, OpenError, Recovered, RecoveredGroup, SubmitError,
    WriteBatch,
};

use crate::common::{BLOCK, DIR, appended};
use crate::model::{Group, Groups, Step};

/// So many pending changes are tried in every combination; of more, a sample.
const PENDING_TRIED_MAX: usize = 6;
/// So many combinations of more pending changes are tried.
const SAMPLED: u64 = 40;
/// So many times some of the blocks that survive are torn at their sectors.
const TORN: u64 = 2;

/// Segments of four blocks: a header, two blocks of batches, and the index.
pub(crate) fn options() -> LogOptions {
    let mut options = LogOptions::default();
    options.segment_bytes_min = 16 << 10;
    options.segment_bytes_max = 16 << 10;
    options.entry_bytes_max = 8 << 10;
    options.batch_bytes_max = 64 << 10;
    options.queue_bytes_max = 128 << 10;
    options.recovery_threads = 1;
    // What is read comes from the disk.
    options.recent_bytes_max = 0;
    options
}

pub(crate) fn try_open(disk: &CrashDisk) -> Result<(Arc<Log>, Recovered), OpenError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), options())
}

pub(crate) fn open(disk: &CrashDisk) -> (Arc<Log>, Recovered) {
    try_open(disk).expect("the log opens")
}

/// What the log should be after some of the submissions.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) groups: Groups,
    pub(crate) recovered: BTreeMap<GroupId, RecoveredGroup>,
}

impl Moment {
    fn new(groups: Groups) -> Self {
        let recovered = groups.iter().map(|(&id, group)| (id, group.recovered()));
        Self {
            recovered: recovered.collect(),
            groups,
        }
    }
}

/// Steps that leave a log of several segments: some sealed and indexed, some dead, one used again,
/// with entries moved, two groups, a snapshot, and the next segment ready.
pub(crate) const OLD: [Step; 22] = {
    use Step::*;
    [
        Pair, Large, Pair, Large, Prepare, Compact, Small, State, Prepare, Large, Conflict,
        Prepare, Small, Large, Compact, Prepare, Snapshot, Large, Prepare, Pair, Prepare, Small,
    ]
};

/// A log and its model.
pub(crate) struct World {
    pub(crate) disk: CrashDisk,
    pub(crate) log: Arc<Log>,
    /// What the log should be after so many submissions.
    pub(crate) moments: Vec<Moment>,
    /// The lsn of each submission.
    lsns: Vec<Lsn>,
}

/// A disk at the moment of a crash, and which moments it may show.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) disk: CrashDisk,
    pub(crate) expected: RangeInclusive<usize>,
}

impl World {
    /// A log on an empty disk.
    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    /// A log on an empty disk, with other options.
    pub(crate) fn with(options: LogOptions) -> Self {
        let disk = CrashDisk::new();
        let (log, recovered) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options)
            .expect("an empty directory opens");
        assert_eq!(recovered.groups, BTreeMap::new());
        Self {
            disk,
            log,
            moments: vec![Moment::new(Groups::new())],
            lsns: Vec::new(),
        }
    }

    /// A log that has done these steps.
    pub(crate) fn after(steps: &[Step]) -> Self {
        let mut world = Self::new();
        for &step in steps {
            world.step(step);
        }
        world
    }

    /// Goes on with what a crash left.
    pub(crate) fn resume(
        crash: &Crash,
        moments: &[Moment],
        survivors: &Survivors,
        what: &dyn fmt::Display,
    ) -> Self {
        let disk = crash.disk.fork();
        disk.power_cut(survivors);
        let (log, recovered) = try_open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        let shown = shown(&log, &recovered, moments, &crash.expected, what);
        // What was shown is durable: the lsn that the log begins with covers it.
        let lsns = vec![log.durable(); shown];
        Self {
            disk,
            log,
            moments: moments[..=shown].to_vec(),
            lsns,
        }
    }

    /// Takes a step, and waits until it is durable, or until there is no space for it.
    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Prepare => drop(self.log.prepare().expect("prepares")),
            Step::Cover => drop(self.log.cover().expect("covers")),
            Step::Reopen => self.reopen(),
            Step::Fill => self.disk.set_capacity(Some(self.disk.used_bytes())),
            Step::Space => self.disk.set_capacity(None),
            _ => {}
        }
        self.submit(step);
        settle(&self.log);
    }

    /// Makes the submissions of a step. On a full disk they may be refused.
    pub(crate) fn submit(&mut self, step: Step) {
        let before = &self.moments.last().expect("there is a first moment").groups;
        for (batch, groups) in step.submissions(self.moments.len(), before) {
            match self.log.submit(batch) {
                Ok(lsn) => self.lsns.push(lsn),
                Err(error) => {
                    let is_short =
                        matches!(error, SubmitError::Full | SubmitError::NoHandles { .. });
                    assert!(is_short && error.is_retryable(), "{error}");
                    return;
                }
            }
            self.moments.push(Moment::new(groups));
        }
    }

    /// The power goes off and on again.
    fn reopen(&mut self) {
        let expected = self.expected();
        self.disk.power_cut(&Survivors::None);
        let (log, recovered) = open(&self.disk);
        let shown = shown(&log, &recovered, &self.moments, &expected, &"reopened");
        self.log = log;
        self.moments.truncate(shown + 1);
        self.lsns.truncate(shown);
    }

    /// Takes a step, and gives the disk as it is before each change that the step makes, and after
    /// the last one.
    pub(crate) fn crashes_in(&mut self, step: Step) -> Vec<Crash> {
        let forks = Arc::new(Mutex::new(Vec::new()));
        let (seen, disk, log) = (Arc::clone(&forks), self.disk.clone(), Arc::clone(&self.log));
        // When the power is off, what was acknowledged before stays so.
        let acknowledged = self.expected();
        self.disk.watch(Some(Arc::new(move |op| {
            if op.kind.is_change() {
                seen.lock().push((disk.fork(), log.durable()));
            }
        })));
        self.step(step);
        self.disk.watch(None);
        let mut forks = std::mem::take(&mut *forks.lock());
        forks.push((self.disk.fork(), self.log.durable()));
        let crash = |(disk, durable)| Crash {
            disk,
            expected: if step == Step::Reopen {
                acknowledged.clone()
            } else {
                self.acknowledged(durable)..=self.lsns.len()
            },
        };
        forks.into_iter().map(crash).collect()
    }

    /// How many submissions are durable for sure.
    fn acknowledged(&self, durable: Lsn) -> usize {
        self.lsns.partition_point(|&lsn| lsn <= durable)
    }

    /// The moment after all submissions.
    pub(crate) fn last(&self) -> usize {
        self.lsns.len()
    }

    /// The moments that a crash now may show.
    pub(crate) fn expected(&self) -> RangeInclusive<usize> {
        self.acknowledged(self.log.durable())..=self.lsns.len()
    }
}

/// Drives the log until nothing waits, preparing segments as it asks for them, or until there is no
/// space for one.
pub(crate) fn settle(log: &Log) {
    loop {
        match log.drive().expect("the log drives") {
            Drove::Idle => return,
            Drove::NeedsSegment => {
                let prepared = log.prepare().expect("prepares");
                if !prepared.segment_ready {
                    assert!(log.status().is_short());
                    return;
                }
            }
            _ => {}
        }
    }
}

/// What may be left of pending changes: everything that is possible if they are few.
pub(crate) fn survivors(disk: &CrashDisk, seed: u64) -> Vec<Survivors> {
    let pending = disk.pending().len();
    let mut all = Vec::new();
    let torn = |seed, torn_percent| Survivors::Random {
        seed,
        survive_percent: 70,
        torn_percent,
    };
    if pending <= PENDING_TRIED_MAX {
        all.extend((0..1 << pending).map(Survivors::of_mask));
    } else {
        all.extend([Survivors::None, Survivors::All]);
        all.extend((0..SAMPLED).map(|turn| torn(seed + turn, 0)));
    }
    if pending > 0 {
        all.extend((0..TORN).map(|turn| torn(seed + turn, 80)));
    }
    all
}

/// Opens what a crash left, and checks all that must hold. Says which moment it shows.
pub(crate) fn check(
    disk: &CrashDisk,
    moments: &[Moment],
    expected: &RangeInclusive<usize>,
    what: &dyn fmt::Display,
) -> usize {
    let shown = check_once(disk, moments, expected, what);
    let again = check_once(disk, moments, &(shown..=shown), what);
    assert_eq!(again, shown);
    goes_on(disk, &moments[shown], what);
    shown
}

/// Opens what a crash left, and checks that it is one of the moments, byte by byte.
pub(crate) fn check_once(
    disk: &CrashDisk,
    moments: &[Moment],
    expected: &RangeInclusive<usize>,
    what: &dyn fmt::Display,
) -> usize {
    let (log, recovered) = try_open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    shown(&log, &recovered, moments, expected, what)
}

/// Which moment a recovery shows, without any damage and byte by byte.
fn shown(
    log: &Log,
    recovered: &Recovered,
    moments: &[Moment],
    expected: &RangeInclusive<usize>,
    what: &dyn fmt::Display,
) -> usize {
    assert_eq!(recovered.report.damage, [], "{what}");
    let read = |(&id, group): (&GroupId, &RecoveredGroup)| {
        let read = log.read(id, group.first_index, group.last_index + 1, usize::MAX);
        (id, read.unwrap_or_else(|error| panic!("{what}: {error}")))
    };
    let read: BTreeMap<_, _> = recovered.groups.iter().map(read).collect();
    let is_shown = |moment: &usize| {
        let Moment {
            groups,
            recovered: should,
        } = &moments[*moment];
        let is_read = |(id, group): (_, &Group)| read[id] == group.entries;
        *should == recovered.groups && groups.iter().all(is_read)
    };
    expected.clone().rev().find(is_shown).unwrap_or_else(|| {
        let all = &moments[expected.clone()];
        panic!(
            "{what}: {:#?} {read:#?} is none of {all:#?}",
            recovered.groups
        )
    })
}

/// Reads every entry.
pub(crate) fn check_entries(log: &Log, groups: &Groups, what: &dyn fmt::Display) {
    for (&id, group) in groups {
        let (first, end) = (group.first_index, group.last_index() + 1);
        let read = log.read(id, first, end, usize::MAX);
        let read = read.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(read, group.entries, "{what}");
    }
}

/// The log takes an entry, which is there after the next power cut with all that was there before.
fn goes_on(disk: &CrashDisk, moment: &Moment, what: &dyn fmt::Display) {
    const ANOTHER: GroupId = GroupId(77);
    let (log, _) = try_open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let batch: WriteBatch = appended(ANOTHER.0, 1..=1, 1, 30);
    log.submit(batch)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    settle(&log);
    disk.power_cut(&Survivors::None);
    drop(log);
    let (log, mut recovered) = try_open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let another = recovered.groups.remove(&ANOTHER);
    assert_eq!(another.map(|it| it.last_index), Some(1), "{what}");
    assert_eq!(recovered.groups, moment.recovered, "{what}");
    check_entries(&log, &moment.groups, what);
}

/// The disks as they are before each change that opening the log makes.
pub(crate) fn crashes_in_open(disk: &CrashDisk) -> Vec<CrashDisk> {
    let forks = Arc::new(Mutex::new(Vec::new()));
    let (seen, watched) = (Arc::clone(&forks), disk.clone());
    disk.watch(Some(Arc::new(move |op| {
        if op.kind.is_change() {
            seen.lock().push(watched.fork());
        }
    })));
    drop(try_open(disk));
    disk.watch(None);
    let mut forks = std::mem::take(&mut *forks.lock());
    forks.push(disk.fork());
    forks
}

/// The seeds to run: the one in `QUORATE_SEED`, or those that are given.
pub(crate) fn seeds(given: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("QUORATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("QUORATE_SEED is a number")],
        Err(_) => given.collect(),
    }
}

/// The crash in a step just before its batch is synced, of which nothing is durable yet.
pub(crate) fn before_sync(world: &mut World, step: Step) -> Crash {
    let waits = |crash: &Crash| {
        let pending = crash.disk.pending();
        let mut blocks = pending.iter().filter(|it| {
            let is_segment = it.path.extension().is_some_and(|it| it == "seg");
            is_segment && matches!(it.what, PendingChange::Block(_))
        });
        blocks.next().is_some() && crash.expected.clone().count() > 1
    };
    let crashes = world.crashes_in(step);
    let mut waiting = crashes.into_iter().filter(waits);
    waiting.next_back().expect("the batch waits for its sync")
}

/// The segment that a batch waits in, where the write begins, and what it wrote.
pub(crate) fn in_flight(crash: &Crash) -> (PathBuf, u64, Vec<u8>) {
    let pending = crash.disk.pending();
    let blocks = pending.iter().filter_map(|it| match it.what {
        PendingChange::Block(offset) => Some((it.path.clone(), offset)),
        _ => None,
    });
    let blocks: Vec<_> = blocks.collect();
    let (path, begin) = blocks.first().expect("it waits").clone();
    let end = blocks.last().expect("it waits").1 + BLOCK as u64;
    let live = crash.disk.contents(&path).expect("the segment is there");
    (path, begin, live[begin as usize..end as usize].to_vec())
}

/// The names in the directory of the log.
pub(crate) fn names(disk: &CrashDisk) -> Vec<String> {
    disk.list(Path::new(DIR)).expect("the directory is there")
}
