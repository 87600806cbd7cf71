//! Opening a log again, from caches and from the disk, by its footers and by what stands before
//! them. Each open is by a process of its own.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use quorate_benches::{
    Failure, Place, StoredLog, drop_file_caches, memory, read_file_caches, sync_files,
};

use crate::bench::Bench;
use crate::job::{Job, Load, Metric, Report, Stored, Subject};
use crate::peer::PeerStored;

const ENTRY_BYTES: usize = 128;
const PER_APPEND: u64 = 64;

/// The default of both.
const THREADS: usize = 4;

const MIB: f64 = (1 << 20) as f64;

/// How the log is found.
#[derive(Clone, Copy)]
enum Caches {
    Warm,
    Cold,
}

/// What is opened, under which name.
struct Case<'a> {
    stored: &'a [Stored],
    name: String,
    caches: Caches,
    threads: usize,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let sizes = bench.plan.reopen_bytes.clone();
    let largest = sizes.iter().copied().max().unwrap_or_default();
    for bytes in sizes {
        run_size(bench, bytes, bytes == largest)?;
    }
    Ok(())
}

fn run_size(bench: &mut Bench, bytes: u64, is_largest: bool) -> Result<(), Failure> {
    let place = Place::at(bench.root.clone())?;
    let folders = (place.folder()?, place.folder()?);
    let stored = |subject, dir: &Path| Stored {
        subject,
        dir: dir.to_owned(),
        bytes,
        entry_bytes: ENTRY_BYTES,
        per_append: PER_APPEND,
    };
    let both = [
        stored(Subject::Quorate, folders.0.path()),
        stored(Subject::RaftEngine, folders.1.path()),
    ];
    let mib = bytes >> 20;
    for stored in &both {
        bench.prepare("writing a log to open", &Job::Write(stored.clone()))?;
    }
    let case = |name: &str, caches, threads| Case {
        stored: &both,
        name: format!("{mib} MiB, {name}"),
        caches,
        threads,
    };
    if is_largest {
        for (name, caches) in [
            ("as left, warm", Caches::Warm),
            ("as left, cold", Caches::Cold),
        ] {
            open_rounds(bench, &case(name, caches, THREADS), bytes)?;
        }
    }
    let dir = both[0].dir.clone();
    bench.prepare("sealing the log", &Job::Seal { dir: dir.clone() })?;
    for (name, caches) in [
        ("sealed, warm", Caches::Warm),
        ("sealed, cold", Caches::Cold),
    ] {
        open_rounds(bench, &case(name, caches, THREADS), bytes)?;
    }
    if is_largest {
        bench.prepare("spoiling the footers", &Job::SpoilFooters { dir })?;
        for (name, threads) in [("scan by 1 thread", 1), ("scan by 4 threads", THREADS)] {
            let mut scanned = case(name, Caches::Warm, threads);
            let probed = [
                stored(Subject::Probe, folders.0.path()),
                both[0].clone(),
                both[1].clone(),
            ];
            // The probe reads as one thread does.
            scanned.stored = if threads == 1 { &probed } else { &both };
            open_rounds(bench, &scanned, bytes)?;
        }
    }
    Ok(())
}

fn open_rounds(bench: &mut Bench, case: &Case<'_>, bytes: u64) -> Result<(), Failure> {
    for round in 0..bench.plan.rounds {
        for at in 0..case.stored.len() {
            let stored = &case.stored[(at + round) % case.stored.len()];
            match case.caches {
                Caches::Warm => drop(read_file_caches(&stored.dir)?),
                Caches::Cold => drop_file_caches(&stored.dir)?,
            }
            let job = Job::Open {
                stored: stored.clone(),
                threads: case.threads,
            };
            let x = (bytes >> 20) as f64;
            bench.once(Load::Reopen, &case.name, x, stored.subject, &job)?;
        }
    }
    bench.sum_up(Load::Reopen, &case.name);
    Ok(())
}

/// Writes a log.
pub(crate) fn write(stored: &Stored) -> Result<Report, Failure> {
    match stored.subject {
        Subject::RaftEngine => PeerStored::write(&stored.dir, stored.shape())?,
        _ => StoredLog::write(&stored.dir, stored.shape())?,
    }
    sync_files(&stored.dir)?;
    Ok(Report::default())
}

pub(crate) fn seal(dir: &Path) -> Result<Report, Failure> {
    StoredLog::seal(dir)?;
    Ok(Report::default())
}

pub(crate) fn spoil(dir: &Path) -> Result<Report, Failure> {
    if StoredLog::spoil_footers(dir)? == 0 {
        return Err("no segment has a footer: there is nothing to compare".into());
    }
    Ok(Report::default())
}

/// Opens a log, once in the life of a process.
pub(crate) fn open(stored: &Stored, threads: usize) -> Result<Report, Failure> {
    let shape = stored.shape();
    let mut report = Report::default();
    let before = memory::resident_bytes();
    let began = Instant::now();
    let (took, found, after) = match stored.subject {
        Subject::RaftEngine => {
            let opened = PeerStored::open(&stored.dir, shape, threads)?;
            (began.elapsed(), opened.entries(), memory::resident_bytes())
        }
        Subject::Quorate => {
            let (log, recovered) = StoredLog::open(&stored.dir, threads)?;
            let took = began.elapsed();
            let after = memory::resident_bytes();
            let scanned = recovered.report.scanned_bytes as f64 / MIB;
            report.put(Metric::ScannedMib, scanned);
            (took, log.stats().entries, after)
        }
        _ => {
            read_and_sum(&stored.dir)?;
            (began.elapsed(), shape.entries(), None)
        }
    };
    if found != shape.entries() {
        return Err(format!("{found} entries were found, not {}", shape.entries()).into());
    }
    report.put(Metric::OpenMs, took.as_secs_f64() * 1e3);
    if threads == 1 {
        let bytes_per_s = shape.bytes() as f64 / took.as_secs_f64();
        report.put(Metric::GbPerSThread, bytes_per_s / 1e9);
    }
    if let Some(((all, own), (all_after, own_after))) = before.zip(after) {
        let grown = own_after.saturating_sub(own) as f64;
        report.put(Metric::GrownMib, grown / MIB);
        report.put(
            Metric::ResidentMib,
            all_after.saturating_sub(all) as f64 / MIB,
        );
        report.put(Metric::BytesPerEntry, grown / found as f64);
    }
    let peak = memory::peak_bytes().map(|bytes| bytes as f64 / MIB);
    report.put_some(Metric::PeakMib, peak);
    Ok(report)
}

/// The least that a scan must do: reads all files, and computes a CRC-32 of them.
fn read_and_sum(dir: &Path) -> Result<u32, Failure> {
    let mut buffer = vec![0; 256 << 10];
    let mut sum = crc32fast::Hasher::new();
    for entry in std::fs::read_dir(dir)? {
        let mut file = File::open(entry?.path())?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sum.update(&buffer[..read]);
        }
    }
    Ok(std::hint::black_box(sum.finalize()))
}
