//! The same blocks written by call and through a shared map, so that the choice between the two
//! stays measured.

use std::path::PathBuf;

use quorate_benches::probe::RawAppend;
use quorate_benches::{Failure, Place, Writer, run_writers};
use quorate_wal::Durability;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::job::{Job, Load, Report, Slice, Subject};
use crate::map_file::MapFile;
use crate::worker::Work;

const BYTES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 1 << 20];

pub(crate) fn run(bench: &mut Bench) -> Result<(), Failure> {
    const RIVALS: [Subject; 2] = [Subject::Probe, Subject::MapWrite];
    for bytes in BYTES {
        let root = bench.root.clone();
        let slice = Slice::Millis(bench.plan.slice_ms);
        let case = format!("{} KiB a sync", bytes >> 10);
        let job = |subject| Job::Blocks {
            root: root.clone(),
            subject,
            bytes,
            slice,
        };
        bench.rivals(Load::Map, &case, bytes as f64, &RIVALS, job)?;
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

/// The worker's side.
pub(crate) fn work(
    root: PathBuf,
    subject: Subject,
    bytes: usize,
    slice: Slice,
) -> Result<Box<dyn Work>, Failure> {
    let place = Place::at(root)?;
    if subject == Subject::MapWrite {
        let dir = place.folder()?;
        let mut writer = MapWriter {
            file: MapFile::create(&dir.path().join("map"))?,
            blocks: vec![0xA5; bytes],
            offset: 0,
            _dir: dir,
        };
        let mut run = move |slice: Slice| {
            let mut report = Report::default();
            let sample = run_writers(slice.budget(), std::slice::from_mut(&mut writer))?;
            report.put_sample(&sample, 1);
            Ok(report)
        };
        run(slice.warm_up())?;
        return Ok(Box::new(move || run(slice)));
    }
    let mut raw = RawAppend::open(&place, bytes, Durability::PowerLoss)?;
    raw.run(slice.warm_up().budget())?;
    Ok(Box::new(move || {
        let mut report = Report::default();
        report.put_sample(&raw.run(slice.budget())?, 1);
        Ok(report)
    }))
}
