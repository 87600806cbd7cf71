//! Snapshots that are written beside synced appends, on the same disk: what the appends lose by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_wal::{GroupId, RealDisk, Snapshots};

use crate::place::Place;
use crate::sample::{Budget, Sample};
use crate::{AppendShape, Failure, LogAppend};

/// How the snapshots are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshotting {
    /// Not at all.
    None,
    /// All of one, and then a sync.
    AtOnce,
    /// In synced steps of so many bytes.
    Steps(u64),
    /// In synced steps of 1 MiB, at so many bytes per second, what is read back included.
    Rate(u64),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The appends.
    pub appends: Sample,
    /// Bytes of snapshots that were written meanwhile, per second.
    pub snapshot_bytes_per_s: f64,
}

/// Each snapshot is so large.
const SNAPSHOT_BYTES: u64 = 256 << 20;
/// It is handed over in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

impl Snapshotting {
    /// What is compared.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::AtOnce,
        Self::Steps(8 << 20),
        Self::Steps(1 << 20),
        Self::Steps(256 << 10),
        Self::Rate(256 << 20),
        Self::Rate(64 << 20),
    ];

    /// For a table.
    pub fn name(self) -> String {
        match self {
            Self::None => "no snapshot".to_owned(),
            Self::AtOnce => "at once".to_owned(),
            Self::Steps(bytes) => format!("steps of {} KiB", bytes >> 10),
            Self::Rate(bytes) => format!("steps of 1024 KiB, {} MiB/s", bytes >> 20),
        }
    }

    /// Appends entries of 128 B, one after the other, while snapshots of 256 MiB are written one
    /// after the other by another thread.
    pub fn run(self, place: &Place, time: Duration) -> Result<Beside, Failure> {
        let mut log = LogAppend::open(place, AppendShape::single(1, 128))?;
        let ended = Arc::new(AtomicBool::new(false));
        let written_bytes = AtomicU64::new(0);
        let appends = std::thread::scope(|scope| {
            let writer = scope.spawn(|| match self {
                Self::None => Ok(()),
                _ => self.write_until(place, &ended, &written_bytes),
            });
            // The writer ends also when the appends panic.
            let ends = SetWhenDropped(&ended);
            let appends = log.run(Budget::Time(time));
            drop(ends);
            writer.join().expect("the writer returns its errors")?;
            appends
        })?;
        let snapshot_bytes_per_s =
            written_bytes.load(Ordering::SeqCst) as f64 / appends.elapsed.as_secs_f64();
        Ok(Beside {
            appends,
            snapshot_bytes_per_s,
        })
    }

    fn write_until(
        self,
        place: &Place,
        ended: &Arc<AtomicBool>,
        written_bytes: &AtomicU64,
    ) -> Result<(), Failure> {
        let dir = place.folder()?;
        let (step_bytes, rate) = match self {
            Self::None | Self::AtOnce => (u64::MAX, None),
            Self::Steps(bytes) => (bytes, None),
            Self::Rate(rate) => (1 << 20, Some(rate)),
        };
        let snapshots = Snapshots::open(Arc::new(RealDisk), dir.path())?.with_step(step_bytes);
        let piece: Vec<u8> = (0..PIECE_BYTES)
            .map(|at| (at * 7 + at / 251) as u8)
            .collect();
        let mut id = 0;
        loop {
            id += 1;
            let mut writer = snapshots.create(GroupId(1), 1, 1, id)?;
            if let Some(rate) = rate {
                writer = writer.rest_with(keep_to(rate, Arc::clone(ended)));
            }
            while writer.bytes() < SNAPSHOT_BYTES {
                if ended.load(Ordering::SeqCst) {
                    return Ok(());
                }
                writer.write(&piece)?;
                written_bytes.fetch_add(PIECE_BYTES as u64, Ordering::SeqCst);
            }
            let saved = writer.finish()?;
            snapshots.remove(GroupId(1), &saved)?;
        }
    }
}

/// Sleeps behind each step for as long as it should have taken.
fn keep_to(bytes_per_s: u64, ended: Arc<AtomicBool>) -> impl FnMut(u64) + Send + 'static {
    let mut began = Instant::now();
    move |bytes| {
        let due = Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        if !ended.load(Ordering::SeqCst) {
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        began = Instant::now();
    }
}

/// Sets a flag when it is dropped, also while a panic passes.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
