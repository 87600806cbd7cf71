//! The same blocks written in different ways, so that what the log chose stays measured: by call,
//! through a shared map, and past the page cache; one batch at a time, and two of half its size at once.

use std::path::PathBuf;

use quorate_benches::probe::{DirectAppend, RawAppend, TwoUnderWay};
use quorate_benches::{Budget, Failure, Place, Sample, Writer, run_writers};
use quorate_wal::Durability;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::job::{Job, Load, Report, Slice, Subject};
use crate::map_file::MapFile;
use crate::worker::Work;

const BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// What those who wait for a batch hand in together, in bytes.
const BATCH_BYTES: [usize; 5] = [8 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];

pub(crate) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let mut rivals = vec![Subject::Probe, Subject::MapWrite];
    let place = Place::at(bench.root.clone())?;
    if DirectAppend::open(&place, BYTES[0])?.is_some() {
        rivals.push(Subject::DirectWrite);
    }
    run_blocks(bench, Load::Map, &BYTES, &rivals)
}

/// Callers wait for their batch, so that two batches under way share what would be one.
pub(crate) fn run_depth(bench: &mut Bench) -> Result<(), Failure> {
    let rivals = [Subject::Probe, Subject::TwoUnderWay];
    run_blocks(bench, Load::Depth, &BATCH_BYTES, &rivals)
}

fn run_blocks(
    bench: &mut Bench,
    load: Load,
    sizes: &[usize],
    rivals: &[Subject],
) -> Result<(), Failure> {
    for &bytes in sizes {
        let root = bench.root.clone();
        let slice = Slice::Millis(bench.plan.slice_ms);
        let case = format!("{} KiB", bytes >> 10);
        let job = |subject| Job::Blocks {
            root: root.clone(),
            subject,
            bytes,
            slice,
        };
        bench.rivals(load, &case, bytes as f64, rivals, job)?;
    }
    Ok(())
}

/// Writes from front to back, again and again.
struct MapWriter {
    file: MapFile,
    blocks: Vec<u8>,
    offset: usize,
    _dir: TempDir,
}

impl Writer for MapWriter {
    fn write(&mut self) -> Result<(), Failure> {
        if self.offset + self.blocks.len() > self.file.bytes() {
            self.offset = 0;
        }
        self.file.write(self.offset, &self.blocks)?;
        self.offset += self.blocks.len();
        Ok(())
    }
}

/// Writes until a budget is used up.
type Run = Box<dyn FnMut(Budget) -> Result<Sample, Failure>>;

/// The worker's side.
pub(crate) fn work(
    root: PathBuf,
    subject: Subject,
    bytes: usize,
    slice: Slice,
) -> Result<Box<dyn Work>, Failure> {
    let place = Place::at(root)?;
    let (mut run, bytes): (Run, usize) = match subject {
        Subject::MapWrite => {
            let dir = place.folder()?;
            let mut writer = MapWriter {
                file: MapFile::create(&dir.path().join("map"))?,
                blocks: vec![0xA5; bytes],
                offset: 0,
                _dir: dir,
            };
            let run = move |budget| run_writers(budget, std::slice::from_mut(&mut writer));
            (Box::new(run), bytes)
        }
        Subject::DirectWrite => {
            let direct = DirectAppend::open(&place, bytes)?;
            let mut direct = direct.ok_or("the file system takes no writes past its cache")?;
            (Box::new(move |budget| direct.run(budget)), bytes)
        }
        Subject::TwoUnderWay => {
            let mut two = TwoUnderWay::open(&place, bytes / 2)?;
            (Box::new(move |budget| two.run(budget)), bytes / 2)
        }
        _ => {
            let mut raw = RawAppend::open(&place, bytes, Durability::PowerLoss)?;
            (Box::new(move |budget| raw.run(budget)), bytes)
        }
    };
    run(slice.warm_up().budget())?;
    Ok(Box::new(move || {
        let mut report = Report::default();
        // In KiB, so that calls of different sizes compare.
        report.put_sample(&run(slice.budget())?, bytes as u64 >> 10);
        Ok(report)
    }))
}
