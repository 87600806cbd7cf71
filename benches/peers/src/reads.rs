//! Reads of old entries from a log that was opened again, by how they were appended.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use quorate_benches::{
    Budget, Failure, Numbers, Place, Sample, StoredLog, read_file_caches, run_cheap,
};

use crate::bench::Bench;
use crate::job::{Job, Load, Metric, Reads, Report, Slice, Stored, Subject};
use crate::peer::PeerStored;
use crate::worker::Work;

pub(crate) const PER_APPEND: [u64; 3] = [1, 32, 1024];
pub(crate) const FORWARD: [u64; 2] = [64, 256];
const ENTRY_BYTES: usize = 128;

/// The name of a case of random reads.
pub(crate) fn random_name(per_append: u64) -> String {
    format!("random, appended by {per_append}")
}

/// The name of a case of reads that go forward.
pub(crate) fn forward_name(entries: u64, per_append: u64) -> String {
    format!("{entries} forward, appended by {per_append}")
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Failure> {
    const RIVALS: [Subject; 3] = [Subject::Probe, Subject::Quorate, Subject::RaftEngine];
    let place = Place::at(bench.root.clone())?;
    for per_append in PER_APPEND {
        let folders = (place.folder()?, place.folder()?);
        let bytes = bench.plan.read_bytes;
        let stored = |subject| Stored {
            subject,
            // The probe reads the files of the log.
            dir: match subject {
                Subject::RaftEngine => folders.1.path().to_owned(),
                _ => folders.0.path().to_owned(),
            },
            bytes,
            entry_bytes: ENTRY_BYTES,
            per_append,
        };
        for subject in [Subject::Quorate, Subject::RaftEngine] {
            bench.prepare("writing a log to read", &Job::Write(stored(subject)))?;
        }
        let dir = folders.0.path().to_owned();
        bench.prepare("sealing the log", &Job::Seal { dir })?;
        let slice = Slice::Millis(bench.plan.slice_ms / 2);
        let forward = FORWARD.map(|entries| {
            let name = forward_name(entries, per_append);
            (name, Reads::Forward(entries))
        });
        let random = (random_name(per_append), Reads::Random);
        for (case, reads) in std::iter::once(random).chain(forward) {
            let job = |subject| Job::Read {
                stored: stored(subject),
                reads,
                slice,
            };
            bench.rivals(Load::Reads, &case, per_append as f64, &RIVALS, job)?;
        }
    }
    Ok(())
}

/// What reads.
enum Reader {
    Log(StoredLog),
    Peer(Box<PeerStored>),
    Raw(RawReader),
}

/// `pread` of as many bytes, and a CRC-32 of them: no index, no format.
struct RawReader {
    file: File,
    bytes: u64,
    numbers: Numbers,
    offset: u64,
    buffer: Vec<u8>,
}

/// The worker's side.
pub(crate) fn work(stored: &Stored, reads: Reads, slice: Slice) -> Result<Box<dyn Work>, Failure> {
    let (dir, shape) = (&stored.dir, stored.shape());
    read_file_caches(dir)?;
    let mut reader = match stored.subject {
        Subject::Quorate => Reader::Log(StoredLog::reader(dir, shape)?),
        Subject::RaftEngine => Reader::Peer(Box::new(PeerStored::open(dir, shape, 4)?)),
        _ => Reader::Raw(RawReader::open(dir)?),
    };
    let entries = match reads {
        Reads::Random => 1,
        Reads::Forward(entries) => entries,
    };
    read(&mut reader, reads, slice.warm_up().budget())?;
    Ok(Box::new(move || {
        let sample = read(&mut reader, reads, slice.budget())?;
        let mut report = Report::default();
        report.put_sample(&sample, entries);
        // One call in 64 is timed: too few for the far end of the distribution.
        report.values.retain(|(metric, _)| *metric != Metric::MaxUs);
        Ok(report)
    }))
}

fn read(reader: &mut Reader, reads: Reads, budget: Budget) -> Result<Sample, Failure> {
    match (reader, reads) {
        (Reader::Log(log), Reads::Random) => log.read_random(budget),
        (Reader::Log(log), Reads::Forward(entries)) => log.read_forward(budget, entries),
        (Reader::Peer(peer), Reads::Random) => peer.read_random(budget),
        (Reader::Peer(peer), Reads::Forward(entries)) => peer.read_forward(budget, entries),
        (Reader::Raw(raw), reads) => raw.read(budget, reads),
    }
}

impl RawReader {
    /// Reads the largest file of the folder. Another process may open the log in it, and rename the file of its next segment.
    fn open(dir: &Path) -> Result<Self, Failure> {
        let mut largest = None;
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            match path.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                found => largest = largest.max(Some((found?.len(), path))),
            }
        }
        let (bytes, path) = largest.ok_or("there is no file to read")?;
        Ok(Self {
            file: File::open(path)?,
            bytes,
            numbers: Numbers::new(1),
            offset: 0,
            buffer: Vec::new(),
        })
    }

    fn read(&mut self, budget: Budget, reads: Reads) -> Result<Sample, Failure> {
        let entries = match reads {
            Reads::Random => 1,
            Reads::Forward(entries) => entries,
        };
        let bytes = entries * ENTRY_BYTES as u64;
        self.buffer.resize(bytes as usize, 0);
        run_cheap(budget, || {
            self.offset = match reads {
                Reads::Random => self.numbers.below(self.bytes - bytes),
                Reads::Forward(_) if self.offset + 2 * bytes > self.bytes => 0,
                Reads::Forward(_) => self.offset + bytes,
            };
            self.file.read_exact_at(&mut self.buffer, self.offset)?;
            std::hint::black_box(crc32fast::hash(&self.buffer));
            Ok(())
        })
    }
}
