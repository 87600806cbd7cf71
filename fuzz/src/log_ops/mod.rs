//! Any program of log operations, beside a model in memory, on a disk that loses power, fails and fills up.
//!
//! The input: options (u8), then the program, as `arbitrary` reads it: every input is one. In the options, bit 0 leaves out the
//! syncs, bit 1 keeps nothing in memory for readers.

mod model;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, OpKind, Survivors};
use quorate_wal::{
    Drove, Durability, GroupId, Log, LogOptions, LogStatus, Lsn, OpenError, Recovered,
    RecoveredGroup, SubmitError, WriteBatch,
};

use crate::Depth;
use crate::content::options;
use crate::files::{BLOCK_BYTES, DIR};
use model::{Change, Changer, Groups};

/// One step.
#[derive(Debug)]
enum Step {
    /// Several changes that become durable together.
    Submit(Vec<(u8, Change)>),
    /// Writes one batch.
    Drive,
    /// Does what is to be done off the commit path.
    Prepare,
    /// Has the last batch covered.
    Cover,
    /// The process ends and another one opens the log.
    Reopen,
    /// The power goes off, and again while the log is opened, after so many changes.
    Crash {
        survivors: Choice,
        again: Option<u8>,
    },
    /// After so many changes the disk takes no more.
    StopAfter(u8),
    /// The next sync fails.
    FailSync,
    /// The disk has so many blocks left.
    Full(u8),
    /// It has space again.
    Space,
}

/// Which of the changes that were not synced survive.
#[derive(Clone, Copy, Debug, Arbitrary)]
enum Choice {
    None,
    All,
    Prefix(u8),
    Mask(u64),
    Random { seed: u16, torn: bool },
}

/// A log, and what it should hold.
struct Pair {
    disk: CrashDisk,
    options: LogOptions,
    /// None only while it is opened again: the old one holds the lock of the directory.
    log: Option<Arc<Log>>,
    /// Each state that the log was in since all of it was durable, or will be in when everything in line is written, with the
    /// lsn with which it was.
    states: VecDeque<(Lsn, Groups)>,
    /// The position of the state that is durable.
    durable: usize,
    changer: Changer,
    /// Whether the disk failed, or was told to.
    may_fail: bool,
    /// Whether space is short.
    is_short: bool,
    /// Whether it was since the log was opened.
    may_be_full: bool,
}

const GROUPS: u64 = 3;
const STEPS_MAX: usize = 120;
/// Changes of one submission at most.
const CHANGES_MAX: u8 = 4;
/// Changes of the disk that are still made, at most.
const STOP_AFTER_MAX: u8 = 24;
/// Steps off the commit path until one more changes nothing, at most.
const SETTLE_MAX: usize = 40;

/// Runs the program. After each write the log holds what the model says, entry by entry; after each crash it holds what was
/// acknowledged, and of what was in line a part, in order and each submission whole.
pub fn log_ops(bytes: &[u8]) -> Depth {
    let (flags, program) = bytes.split_first().unwrap_or((&0, &[]));
    let mut program = Unstructured::new(program);
    let mut pair = Pair::new(*flags);
    let mut taken = Taken(Vec::new());
    let mut wrote = false;
    for _ in 0..STEPS_MAX {
        if program.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut program) else {
            break;
        };
        taken.0.push(step);
        wrote |= pair.take(taken.0.last().expect("it was just pushed"));
    }
    pair.reopen();
    pair.settle();
    if wrote {
        Depth::Accepted
    } else {
        Depth::Refused
    }
}

/// The steps of a program, which are shown if it fails.
struct Taken(Vec<Step>);

impl Drop for Taken {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for step in &self.0 {
                eprintln!("{step:?}");
            }
        }
    }
}

impl<'a> Arbitrary<'a> for Step {
    /// Mostly work, so that there is something to lose.
    fn arbitrary(program: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(program)? % 24 {
            0..=7 => {
                let count = 1 + usize::from(u8::arbitrary(program)? % CHANGES_MAX);
                let changes = (0..count).map(|_| Arbitrary::arbitrary(program));
                Self::Submit(changes.collect::<Result<_, _>>()?)
            }
            8..=13 => Self::Drive,
            14..=16 => Self::Prepare,
            17 => Self::Cover,
            18 => Self::Reopen,
            19 => Self::Crash {
                survivors: Arbitrary::arbitrary(program)?,
                again: Arbitrary::arbitrary(program)?,
            },
            20 => Self::StopAfter(u8::arbitrary(program)? % STOP_AFTER_MAX),
            21 => Self::FailSync,
            22 => Self::Full(Arbitrary::arbitrary(program)?),
            _ => Self::Space,
        })
    }
}

impl Choice {
    fn survivors(self) -> Survivors {
        match self {
            Self::None => Survivors::None,
            Self::All => Survivors::All,
            Self::Prefix(len) => Survivors::Prefix(len.into()),
            Self::Mask(mask) => Survivors::of_mask(mask),
            Self::Random { seed, torn } => Survivors::Random {
                seed: seed.into(),
                survive_percent: 50,
                torn_percent: if torn { 50 } else { 0 },
            },
        }
    }
}

impl Pair {
    fn new(flags: u8) -> Self {
        let mut options = options();
        if flags & 1 == 1 {
            options.durability = Durability::ProcessCrash;
        }
        if flags & 2 == 2 {
            options.recent_bytes_max = 0;
        }
        let mut pair = Self {
            disk: CrashDisk::new(),
            options,
            log: None,
            states: VecDeque::from([(Lsn(0), Groups::new())]),
            durable: 0,
            changer: Changer { term: 1 },
            may_fail: false,
            is_short: false,
            may_be_full: false,
        };
        pair.reopen();
        pair
    }

    /// Takes a step. Whether something was written.
    fn take(&mut self, step: &Step) -> bool {
        match *step {
            Step::Submit(ref changes) => self.submit(changes),
            Step::Drive => return self.drive(),
            Step::Prepare => drop(self.prepare()),
            Step::Cover => self.cover(),
            Step::Reopen => self.reopen(),
            Step::Crash { survivors, again } => self.crash(survivors, again),
            Step::StopAfter(changes) => {
                self.disk.stop_after(changes.into());
                self.may_fail = true;
            }
            Step::FailSync => {
                let fault = Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device));
                self.disk.inject(fault.times(1));
                self.may_fail = true;
            }
            Step::Full(blocks) => {
                let left = u64::from(blocks) * BLOCK_BYTES as u64;
                self.disk.set_capacity(Some(self.disk.used_bytes() + left));
                (self.is_short, self.may_be_full) = (true, true);
            }
            Step::Space => self.give_space(),
        }
        false
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("it was opened again")
    }

    fn submit(&mut self, changes: &[(u8, Change)]) {
        let (_, newest) = self.states.back().expect("there is a state");
        let mut groups = newest.clone();
        let mut batch = WriteBatch::new();
        let mut fits = true;
        for (group, change) in changes {
            let group = GroupId(u64::from(*group) % GROUPS);
            fits &= self.changer.apply(&mut groups, &mut batch, group, change);
        }
        match self.log().submit(batch) {
            Ok(lsn) => {
                assert!(fits, "what fits no log was taken: {changes:?}");
                self.states.push_back((lsn, groups));
            }
            Err(SubmitError::Invalid { .. }) => {
                assert!(!fits, "what fits was refused: {changes:?}");
            }
            Err(SubmitError::TooLarge { .. } | SubmitError::QueueFull) => {}
            Err(SubmitError::Full) if self.may_be_full => {}
            Err(SubmitError::Failed { .. }) if self.may_fail => {}
            Err(error) => panic!("{changes:?}: {error}"),
        }
    }

    /// Writes one batch. Whether it did.
    fn drive(&mut self) -> bool {
        match self.log().drive() {
            Ok(drove) => self.drove(drove),
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    fn cover(&mut self) {
        match self.log().cover() {
            Ok(Drove::Idle) => {}
            Ok(drove) => drop(self.drove(drove)),
            Err(error) => self.failed(&error),
        }
    }

    fn drove(&mut self, drove: Drove) -> bool {
        match drove {
            Drove::Wrote { lsn, .. } => {
                assert_eq!(self.log().durable(), lsn);
                let written = self.states.iter().rposition(|(state, _)| *state <= lsn);
                self.durable = written.expect("the first state is at lsn 0");
                self.check_entries();
                true
            }
            Drove::NeedsSegment => {
                let is_ready = self.prepare();
                assert!(is_ready || self.may_fail || self.may_be_full);
                false
            }
            _ => {
                assert_eq!(
                    self.durable + 1,
                    self.states.len(),
                    "what is in line is written"
                );
                false
            }
        }
    }

    /// Whether a segment is ready.
    fn prepare(&mut self) -> bool {
        match self.log().prepare() {
            Ok(prepared) => prepared.segment_ready,
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    fn failed(&self, error: &quorate_wal::LogError) {
        assert!(self.may_fail, "{error}");
    }

    /// Does all that is to be done, on a disk that works, and looks at everything once more.
    fn settle(&mut self) {
        self.give_space();
        for _ in 0..SETTLE_MAX {
            self.prepare();
            self.drive();
        }
        assert_eq!(self.log().status(), LogStatus::Healthy);
        self.check_entries();
        self.reopen();
    }

    /// Another process opens the log: what was acknowledged is there.
    fn reopen(&mut self) {
        self.disk.process_crash();
        self.disk.heal();
        // Without syncs, one that failed may have cost whatever was written since the last.
        let surely = match self.options.durability {
            Durability::PowerLoss => self.durable,
            _ if self.may_fail => 0,
            _ => self.durable,
        };
        self.open(surely);
        if self.options.durability == Durability::PowerLoss {
            self.forget_history();
        }
    }

    fn crash(&mut self, survivors: Choice, again: Option<u8>) {
        // Without syncs, the power takes what it likes of what was written since it was off last.
        let surely = match self.options.durability {
            Durability::PowerLoss => self.durable,
            _ => 0,
        };
        self.disk.power_cut(&survivors.survivors());
        self.disk.heal();
        if let Some(changes) = again {
            self.disk.stop_after(changes.into());
            if self.try_open().is_ok() {
                // Everything was read, and synced, before it was opened; what is found now must be found again.
                self.log = None;
            }
            self.disk.power_cut(&survivors.survivors());
            self.disk.heal();
        }
        self.open(surely);
        self.forget_history();
    }

    fn try_open(&mut self) -> Result<Recovered, OpenError> {
        self.log = None;
        let disk = Arc::new(self.disk.clone());
        let (log, recovered) = Log::open(disk, Path::new(DIR), self.options.clone())?;
        self.log = Some(log);
        Ok(recovered)
    }

    /// Opens the log. It is in one of the states from this one on.
    fn open(&mut self, surely: usize) {
        let recovered = self.try_open().or_else(|error| {
            assert!(self.may_be_full, "{error}");
            self.give_space();
            self.try_open()
        });
        let recovered = recovered.unwrap_or_else(|error| panic!("what was written opens: {error}"));
        assert_eq!(recovered.report.damage, []);
        // Two states may differ in the entries alone.
        let is_found = |(_, groups): &(Lsn, Groups)| {
            recovered_groups(groups) == recovered.groups && self.difference(groups).is_none()
        };
        let Some(found) = (surely..self.states.len())
            .rev()
            .find(|&position| is_found(&self.states[position]))
        else {
            let expected = recovered_groups(&self.states[surely].1);
            panic!(
                "{:#?} is none of the states from {expected:#?} on",
                recovered.groups
            );
        };
        self.states.truncate(found + 1);
        self.durable = found;
        // The lsns of the life before say nothing in this one.
        self.states.iter_mut().for_each(|(lsn, _)| *lsn = Lsn(0));
        self.may_fail = false;
        self.may_be_full = self.is_short || self.log().status() == LogStatus::Full;
        self.check_entries();
    }

    fn give_space(&mut self) {
        self.disk.set_capacity(None);
        self.is_short = false;
    }

    /// What is there now can only get more: all of it is durable.
    fn forget_history(&mut self) {
        self.states.drain(..self.durable);
        self.durable = 0;
    }

    fn check_entries(&self) {
        let (_, groups) = &self.states[self.durable];
        assert_eq!(self.difference(groups), None);
    }

    /// Where the entries in the log are not those of a state.
    fn difference(&self, groups: &Groups) -> Option<String> {
        groups.iter().find_map(|(&group, known)| {
            let (first, end) = (known.first_index, known.last_index() + 1);
            assert_eq!(self.log().bounds(group), Some((first, end - 1)), "{group}");
            let found = self.log().read(group, first, end, usize::MAX);
            let found = found.expect("nothing is damaged");
            let mut pairs = known.entries.iter().zip(&found);
            let other = pairs.find(|(known, found)| known != found);
            let is_equal = other.is_none() && known.entries.len() == found.len();
            (!is_equal).then(|| format!("{group}: {other:?}"))
        })
    }
}

fn recovered_groups(groups: &Groups) -> BTreeMap<GroupId, RecoveredGroup> {
    let recovered = groups.iter();
    recovered
        .map(|(&group, known)| (group, known.recovered()))
        .collect()
}
