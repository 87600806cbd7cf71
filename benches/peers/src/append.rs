//! Appends: single entries, batches, pipelines, with syncs and without.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_benches::probe::{GroupCommit, RawAppend, UnderWay};
use quorate_benches::{Failure, LogAppend, Place, Sample, memory};

use crate::bench::Bench;
use crate::job::{Append, Job, Load, Metric, Report, Slice, Subject};
use crate::peer::PeerAppend;
use crate::worker::Work;
use crate::written::device_bytes;

pub(crate) const WRITERS: [usize; 4] = [1, 4, 16, 64];
pub(crate) const ENTRY_BYTES: [usize; 4] = [16, 128, 1 << 10, 16 << 10];

/// Entries of a batch, and single entries that each writer keeps on their way.
pub(crate) const DEPTH: usize = 64;

/// From this size on raft-engine compresses what a call gives it.
const COMPRESSED_BYTES: usize = 8 << 10;

/// Who appends in calls of so many bytes, if so many writers wait for the same syncs.
fn rivals(call_bytes: usize, waiting: usize, ours: &[Subject]) -> Vec<Subject> {
    let mut rivals = vec![Subject::Probe];
    rivals.extend(ours);
    rivals.push(Subject::RaftEngine);
    if call_bytes >= COMPRESSED_BYTES {
        rivals.push(Subject::RaftEnginePlain);
    }
    // Of much, one batch could be written while another is synced: how fast would that be, without a log?
    if call_bytes >= COMPRESSED_BYTES && waiting > 1 {
        rivals.push(Subject::TwoUnderWay);
    }
    rivals
}

/// The name of a case.
pub(crate) fn name(writers: usize, entries: usize, entry_bytes: usize) -> String {
    let plural = if writers == 1 { "" } else { "s" };
    if entries == 1 {
        format!("{writers} writer{plural}, {entry_bytes} B")
    } else {
        format!("{writers} writer{plural}, {entries} x {entry_bytes} B")
    }
}

/// Single entries, synced.
pub(crate) fn run_single(bench: &mut Bench) -> Result<(), Failure> {
    for entry_bytes in ENTRY_BYTES {
        for writers in WRITERS {
            let slice = Slice::Millis(bench.plan.slice_ms);
            let case = name(writers, 1, entry_bytes);
            let job = job(bench, writers, 1, entry_bytes, true, slice);
            let rivals = rivals(entry_bytes, writers, &[Subject::Quorate, Subject::Handing]);
            bench.rivals(Load::Append, &case, writers as f64, &rivals, job)?;
        }
    }
    Ok(())
}

/// Large entries, for so long that it does not matter what a log gave back while others had their turn.
pub(crate) fn run_sustained(bench: &mut Bench) -> Result<(), Failure> {
    let entry_bytes = 16 << 10;
    for writers in [16, 64] {
        let slice = Slice::Millis(bench.plan.trace_ms);
        let case = name(writers, 1, entry_bytes);
        let job = job(bench, writers, 1, entry_bytes, true, slice);
        let rivals = rivals(entry_bytes, writers, &[Subject::Quorate]);
        bench.rivals(Load::Sustained, &case, writers as f64, &rivals, job)?;
    }
    Ok(())
}

/// Batches, and single entries many of which are on their way.
pub(crate) fn run_batches(bench: &mut Bench) -> Result<(), Failure> {
    for writers in [1, 16] {
        let slice = Slice::Millis(bench.plan.slice_ms);
        let case = name(writers, DEPTH, 128);
        let job = job(bench, writers, DEPTH, 128, true, slice);
        let rivals = rivals(
            DEPTH * 128,
            writers,
            &[Subject::Quorate, Subject::Pipelined],
        );
        bench.rivals(Load::Batches, &case, writers as f64, &rivals, job)?;
    }
    Ok(())
}

/// Batches without syncs.
pub(crate) fn run_fill(bench: &mut Bench) -> Result<(), Failure> {
    for writers in [1, 16] {
        let calls = bench.plan.fill_bytes / (DEPTH * 128) as u64;
        let case = name(writers, DEPTH, 128);
        let job = job(bench, writers, DEPTH, 128, false, Slice::Calls(calls));
        let rivals = rivals(DEPTH * 128, 0, &[Subject::Quorate]);
        bench.rivals(Load::Fill, &case, writers as f64, &rivals, job)?;
    }
    Ok(())
}

fn job(
    bench: &Bench,
    writers: usize,
    entries: usize,
    entry_bytes: usize,
    synced: bool,
    slice: Slice,
) -> impl Fn(Subject) -> Job + use<> {
    let root = bench.root.clone();
    move |subject| {
        Job::Append(Append {
            root: root.clone(),
            subject,
            writers,
            entries,
            entry_bytes,
            synced,
            slice,
        })
    }
}

/// What appends.
enum Appender {
    Raw(RawAppend),
    GroupCommit(GroupCommit),
    Log(LogAppend),
    Handing(LogAppend),
    Pipelined(LogAppend),
    Peer(PeerAppend),
}

struct AppendWork {
    appender: Appender,
    append: Append,
    root: PathBuf,
}

/// The worker's side.
pub(crate) fn work(append: Append) -> Result<Box<dyn Work>, Failure> {
    let place = Place::at(append.root.clone())?;
    let shape = append.shape();
    let appender = match append.subject {
        Subject::Quorate => Appender::Log(LogAppend::open(&place, shape)?),
        Subject::Handing => Appender::Handing(LogAppend::open(&place, shape)?),
        Subject::Pipelined => {
            let mut single = shape;
            single.entries = 1;
            Appender::Pipelined(LogAppend::open(&place, single)?)
        }
        Subject::RaftEngine => Appender::Peer(PeerAppend::open(&place, shape, true)?),
        Subject::RaftEnginePlain => Appender::Peer(PeerAppend::open(&place, shape, false)?),
        Subject::Probe if append.writers == 1 => {
            let batch_bytes = LogAppend::open(&place, shape)?.batch_bytes()?;
            Appender::Raw(RawAppend::open(&place, batch_bytes, shape.durability)?)
        }
        Subject::Probe | Subject::TwoUnderWay => Appender::GroupCommit(GroupCommit::open(
            &place,
            append.writers,
            shape.call_bytes(),
            shape.durability,
            if append.subject == Subject::TwoUnderWay {
                UnderWay::Two
            } else {
                UnderWay::One
            },
        )?),
        Subject::SmallSegments | Subject::MapWrite | Subject::DirectWrite => {
            return Err(format!("{} appends nothing here", append.subject.name()).into());
        }
    };
    let mut work = AppendWork {
        appender,
        root: append.root.clone(),
        append,
    };
    work.append(work.append.slice.warm_up())?;
    work.settle()?;
    Ok(Box::new(work))
}

impl AppendWork {
    fn append(&mut self, slice: Slice) -> Result<Sample, Failure> {
        let budget = slice.budget();
        match &mut self.appender {
            Appender::Raw(raw) => raw.run(budget),
            Appender::GroupCommit(group) => group.run(budget),
            Appender::Log(log) => log.run(budget),
            Appender::Handing(log) => log.run_handing(budget),
            Appender::Pipelined(log) => {
                let budget = match slice {
                    Slice::Calls(calls) => Slice::Calls(calls * DEPTH as u64).budget(),
                    Slice::Millis(_) => budget,
                };
                log.run_pipelined(budget, DEPTH)
            }
            Appender::Peer(peer) => peer.run(budget),
        }
    }

    /// What is on its way to the disk must not trouble whoever comes next.
    fn settle(&self) -> Result<(), Failure> {
        if !self.append.synced {
            rustix::fs::syncfs(std::fs::File::open(&self.root)?)?;
        }
        Ok(())
    }

    fn log_bytes(&self) -> Option<u64> {
        match &self.appender {
            Appender::Log(log) | Appender::Handing(log) | Appender::Pipelined(log) => {
                Some(Arc::clone(log.log()).stats().bytes_written)
            }
            _ => None,
        }
    }

    fn entries_per_call(&self) -> u64 {
        match self.appender {
            Appender::Pipelined(_) => 1,
            _ => self.append.entries as u64,
        }
    }
}

impl Work for AppendWork {
    fn slice(&mut self) -> Result<Report, Failure> {
        let before = device_bytes(&self.root)?;
        let log_before = self.log_bytes();
        let sample = self.append(self.append.slice)?;
        let log_after = self.log_bytes();
        self.settle()?;
        let entries = sample.ops * self.entries_per_call();
        let bytes = (entries * self.append.entry_bytes as u64).max(1);
        let after = device_bytes(&self.root)?;
        let by_byte = |(after, before): (u64, u64)| (after - before) as f64 / bytes as f64;
        let mut report = Report::default();
        report.put_sample(&sample, self.entries_per_call());
        report.put_some(Metric::LogWritten, log_after.zip(log_before).map(by_byte));
        report.put_some(Metric::DeviceWritten, after.zip(before).map(by_byte));
        let peak = memory::peak_bytes().map(|bytes| bytes as f64 / f64::from(1 << 20));
        report.put_some(Metric::PeakMib, peak);
        Ok(report)
    }
}
