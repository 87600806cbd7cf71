//! How much disk a log takes beside what lives in it, and what reclaiming space costs those who
//! append meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_benches::{
    Budget, DrivenLog, Failure, Numbers, Payloads, Place, Writer, run_writers_traced,
};
use quorate_wal::{Durability, Entry, GroupId, LogOptions, WriteBatch};

use crate::bench::Bench;
use crate::job::{Job, Load, Metric, Report, Space, Subject};
use crate::peer::{PeerLog, PeerWriter, Reclaim};
use crate::trace::{Span, quantile_us, split, watch};

pub(crate) const THOUSAND: &str = "1,000 groups, synced";
pub(crate) const THOUSAND_UNSYNCED: &str = "1,000 groups, unsynced";
pub(crate) const HOT: &str = "1 hot group beside 4,095 that sleep";

const ENTRY_BYTES: usize = 1 << 10;
const KEPT: u64 = 64;

/// A group compacts when it has so many entries more than it keeps.
const COMPACT_EVERY: u64 = 32;

/// Entries of a group that sleeps.
const SLEEPING_ENTRIES: u64 = 8;

/// Files that are small beside what lives: those of the peer, and segments of one of ours.
const SMALL_BYTES: u64 = 8 << 20;

/// How often the disk, and what was moved, is looked at.
const LOOK_AT_DISK: Duration = Duration::from_millis(100);
const LOOK_AT_MOVES: Duration = Duration::from_millis(20);

/// The disk is at rest when it did not change for so many looks; nobody waits longer than so many.
const REST_LOOKS: usize = 5;
const REST_LOOKS_MAX: usize = 50;

const MIB: f64 = (1 << 20) as f64;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Failure> {
    const RIVALS: [Subject; 3] = [
        Subject::Quorate,
        Subject::SmallSegments,
        Subject::RaftEngine,
    ];
    for case in [THOUSAND, THOUSAND_UNSYNCED, HOT] {
        let (root, run_ms) = (bench.root.clone(), bench.plan.space_ms);
        let is_hot = case == HOT;
        let job = |subject| {
            Job::Space(Space {
                root: root.clone(),
                subject,
                groups: if is_hot { 1 } else { 1_000 },
                writers: if is_hot { 1 } else { 16 },
                entries_per_call: if is_hot { 16 } else { 1 },
                kept: KEPT,
                sleeping: if is_hot { 4_095 } else { 0 },
                entry_bytes: ENTRY_BYTES,
                synced: case != THOUSAND_UNSYNCED,
                run_ms,
            })
        };
        bench.rivals(Load::Space, case, 1.0, &RIVALS, job)?;
    }
    Ok(())
}

/// One thread of an engine.
trait Appender: Send {
    fn append(&mut self, group: u64, from: u64, entries: u64) -> Result<(), Failure>;
    /// Drops what stands before the index; returns when that is on its way.
    fn compact(&mut self, group: u64, first_index: u64) -> Result<(), Failure>;
    /// Appends one entry to each of the groups, in one call.
    fn append_to_all(&mut self, groups: &[u64], index: u64) -> Result<(), Failure>;
}

struct LogAppender {
    log: Arc<DrivenLog>,
    payloads: Payloads,
}

struct SpaceWriter {
    appender: Box<dyn Appender>,
    groups: Vec<Group>,
    numbers: Numbers,
    space: Space,
    live: Arc<AtomicU64>,
}

/// First index, and one behind the last.
struct Group {
    id: u64,
    first: u64,
    end: u64,
}

/// What is going on in an engine, looked at from outside.
struct Engine {
    appender: Box<dyn Fn(u64) -> Box<dyn Appender>>,
    /// Bytes that were moved so far, if the engine says so.
    moved: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// When it purged, if it has to be told to.
    purges: Box<dyn Fn() -> Option<Vec<Span>>>,
}

/// The worker's side: all of it, on a fresh log.
pub(crate) fn work(space: &Space) -> Result<Report, Failure> {
    let dir = Place::at(space.root.clone())?.folder()?;
    let engine = match space.subject {
        Subject::RaftEngine => Engine::peer(dir.path(), space)?,
        _ => Engine::log(dir.path(), space)?,
    };
    let live = Arc::new(AtomicU64::new(0));
    let mut writers = writers(space, &engine, &live);
    fill(space, &engine, &mut writers, &live)?;
    let is_over = AtomicBool::new(false);
    let budget = Budget::Time(Duration::from_millis(space.run_ms));
    let (is_over, dir) = (&is_over, dir.path());
    let (ran, series) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample_disk(dir, &live, is_over));
        let ran = watch(
            LOOK_AT_MOVES,
            || (engine.moved)().unwrap_or_default(),
            || run_writers_traced(budget, &mut writers),
        );
        is_over.store(true, Ordering::Relaxed);
        (ran, sampler.join().expect("a sampler returns its errors"))
    });
    let (calls, moves) = ran;
    let (elapsed, calls) = calls?;
    let spans = (engine.purges)().unwrap_or(moves);
    let mut report = Report {
        series: series?,
        ..Report::default()
    };
    let entries = calls.len() as u64 * space.entries_per_call;
    report.put(Metric::EntriesPerS, entries as f64 / elapsed.as_secs_f64());
    put_latencies(&mut report, &split(&calls, &spans));
    report.put_some(
        Metric::MovedMib,
        (engine.moved)().map(|bytes| bytes as f64 / MIB),
    );
    put_ratios(&mut report, elapsed);
    let live_bytes = live.load(Ordering::Relaxed) * ENTRY_BYTES as u64;
    put_share_of_bound(&mut report, space.subject, live_bytes);
    Ok(report)
}

fn put_latencies(
    report: &mut Report,
    (moving, quiet): &(hdrhistogram::Histogram<u64>, hdrhistogram::Histogram<u64>),
) {
    let share = moving.len() as f64 / (moving.len() + quiet.len()).max(1) as f64;
    report.put(Metric::MovingShare, share);
    report.put_some(Metric::P99MovingUs, quantile_us(moving, 0.99));
    report.put_some(Metric::P99QuietUs, quantile_us(quiet, 0.99));
}

/// The largest ratio in the second half of the run, and the last one, at rest.
fn put_ratios(report: &mut Report, elapsed: Duration) {
    let half = elapsed.as_secs_f64() / 2.0;
    let steady = report.series.iter().filter(|point| point.0 >= half);
    let largest = steady.map(|point| point.1).reduce(f64::max);
    let last = report.series.last().map(|point| point.1);
    report.put_some(Metric::DiskOverLiveMax, largest);
    report.put_some(Metric::DiskOverLiveEnd, last);
}

fn writers(space: &Space, engine: &Engine, live: &Arc<AtomicU64>) -> Vec<SpaceWriter> {
    let writer = |number: u64| SpaceWriter {
        appender: (engine.appender)(number),
        groups: (number..space.groups)
            .step_by(space.writers as usize)
            .map(|id| Group {
                id,
                first: 1,
                end: 1,
            })
            .collect(),
        numbers: Numbers::new(number + 1),
        space: space.clone(),
        live: Arc::clone(live),
    };
    (0..space.writers).map(writer).collect()
}

/// Gives the sleeping groups their entries, spread over what the others append, and the others what
/// they keep.
fn fill(
    space: &Space,
    engine: &Engine,
    writers: &mut [SpaceWriter],
    live: &AtomicU64,
) -> Result<(), Failure> {
    let sleeping: Vec<u64> = (space.groups..space.groups + space.sleeping).collect();
    let mut filler = (engine.appender)(u64::MAX);
    for index in 1..=SLEEPING_ENTRIES {
        for groups in sleeping.chunks(256) {
            filler.append_to_all(groups, index)?;
            live.fetch_add(groups.len() as u64, Ordering::Relaxed);
            for writer in writers.iter_mut() {
                writer.write()?;
            }
        }
    }
    for writer in writers {
        let ids: Vec<u64> = writer.groups.iter().map(|group| group.id).collect();
        if space.groups == 1 {
            continue;
        }
        for index in 1..=space.kept {
            writer.appender.append_to_all(&ids, index)?;
        }
        for group in &mut writer.groups {
            group.end = space.kept + 1;
        }
        live.fetch_add(ids.len() as u64 * space.kept, Ordering::Relaxed);
    }
    Ok(())
}

/// Disk as a share of what a log of ours may take: twice what lives, and two segments.
fn put_share_of_bound(report: &mut Report, subject: Subject, live_bytes: u64) {
    let segment_bytes = match subject {
        Subject::Quorate => LogOptions::default().segment_bytes_max,
        Subject::SmallSegments => SMALL_BYTES,
        _ => return,
    };
    let bound = 2.0 + 2.0 * segment_bytes as f64 / live_bytes.max(1) as f64;
    let share = |metric| report.value(metric).map(|ratio| ratio / bound);
    let (most, end) = (
        share(Metric::DiskOverLiveMax),
        share(Metric::DiskOverLiveEnd),
    );
    report.put_some(Metric::DiskOverBoundMax, most);
    report.put_some(Metric::DiskOverBoundEnd, end);
}

/// Disk over live, by seconds, until it is at rest after the load is over.
fn sample_disk(
    dir: &Path,
    live: &AtomicU64,
    is_over: &AtomicBool,
) -> Result<Vec<(f64, f64)>, Failure> {
    let began = Instant::now();
    let mut series = Vec::new();
    let mut after = Vec::new();
    loop {
        std::thread::sleep(LOOK_AT_DISK);
        let live_bytes = live.load(Ordering::Relaxed) * ENTRY_BYTES as u64;
        let ratio = disk_bytes(dir)? as f64 / live_bytes.max(1) as f64;
        series.push((began.elapsed().as_secs_f64(), ratio));
        if is_over.load(Ordering::Relaxed) {
            after.push(ratio.to_bits());
        }
        let is_at_rest = after
            .last_chunk::<REST_LOOKS>()
            .is_some_and(|last| last.iter().all(|it| *it == last[0]));
        if is_at_rest || after.len() >= REST_LOOKS_MAX {
            return Ok(series);
        }
    }
}

/// What the files in a folder take on the disk.
fn disk_bytes(dir: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        match entry?.metadata() {
            // `st_blocks` counts in these, whatever the file system has (stat(3type)).
            Ok(metadata) => bytes += metadata.blocks() * 512,
            // Deleted meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

impl Writer for SpaceWriter {
    fn write(&mut self) -> Result<(), Failure> {
        let at = self.numbers.below(self.groups.len() as u64) as usize;
        let group = &mut self.groups[at];
        let entries = self.space.entries_per_call;
        self.appender.append(group.id, group.end, entries)?;
        group.end += entries;
        self.live.fetch_add(entries, Ordering::Relaxed);
        let kept = self.space.kept;
        if group.end - group.first >= kept + COMPACT_EVERY {
            let first = group.end - kept;
            self.appender.compact(group.id, first)?;
            self.live.fetch_sub(first - group.first, Ordering::Relaxed);
            group.first = first;
        }
        Ok(())
    }
}

impl Engine {
    fn log(dir: &Path, space: &Space) -> Result<Self, Failure> {
        let mut options = LogOptions::default();
        if !space.synced {
            options.durability = Durability::ProcessCrash;
        }
        if space.subject == Subject::SmallSegments {
            options.segment_bytes_max = SMALL_BYTES;
        }
        let log = Arc::new(DrivenLog::open(dir, options)?);
        let looked_at = Arc::clone(&log.log);
        let payloads = Payloads::new(space.entry_bytes, 1);
        Ok(Self {
            appender: Box::new(move |number| {
                Box::new(LogAppender {
                    log: Arc::clone(&log),
                    payloads: payloads.of_thread(number),
                })
            }),
            moved: Box::new(move || Some(looked_at.stats().moved_bytes)),
            purges: Box::new(|| None),
        })
    }

    /// Files are purged when they take twice what lives, and are small beside that, so that the
    /// engine may do as well as it can.
    fn peer(dir: &Path, space: &Space) -> Result<Self, Failure> {
        let entries = space.groups * space.kept + space.sleeping * SLEEPING_ENTRIES;
        let live_bytes = entries * space.entry_bytes as u64;
        let reclaim = Reclaim {
            file_bytes: SMALL_BYTES,
            threshold_bytes: (2 * live_bytes).max(4 * SMALL_BYTES),
            every: Duration::from_millis(250),
            kept: space.kept,
        };
        let log = Arc::new(PeerLog::open(dir, reclaim, true)?);
        let purging = Arc::clone(&log);
        let (payloads, synced) = (Payloads::new(space.entry_bytes, 1), space.synced);
        Ok(Self {
            appender: Box::new(move |number| {
                Box::new(log.writer(payloads.of_thread(number), synced))
            }),
            moved: Box::new(|| None),
            purges: Box::new(move || Some(purging.purges())),
        })
    }
}

impl LogAppender {
    fn entry(&mut self, index: u64) -> Entry {
        Entry {
            index,
            term: 1,
            kind: 0,
            payload: self.payloads.draw(),
        }
    }
}

impl Appender for LogAppender {
    fn append(&mut self, group: u64, from: u64, entries: u64) -> Result<(), Failure> {
        let entries = (from..from + entries).map(|index| self.entry(index));
        let mut batch = WriteBatch::new();
        batch.append(GroupId(group), entries.collect());
        self.log.log.commit(batch)?;
        Ok(())
    }

    fn compact(&mut self, group: u64, first_index: u64) -> Result<(), Failure> {
        let mut batch = WriteBatch::new();
        batch.compact(GroupId(group), first_index);
        self.log.log.submit(batch)?;
        Ok(())
    }

    fn append_to_all(&mut self, groups: &[u64], index: u64) -> Result<(), Failure> {
        let mut batch = WriteBatch::new();
        for &group in groups {
            batch.append(GroupId(group), vec![self.entry(index)]);
        }
        self.log.log.commit(batch)?;
        Ok(())
    }
}

impl Appender for PeerWriter {
    fn append(&mut self, group: u64, from: u64, entries: u64) -> Result<(), Failure> {
        Self::append(self, group, from, entries)
    }

    fn compact(&mut self, group: u64, first_index: u64) -> Result<(), Failure> {
        self.compact_to(group, first_index);
        Ok(())
    }

    fn append_to_all(&mut self, groups: &[u64], index: u64) -> Result<(), Failure> {
        for &group in groups {
            self.add(group, index, 1)?;
        }
        self.write()
    }
}
