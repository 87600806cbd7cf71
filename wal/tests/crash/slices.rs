//! What is done off the commit path and takes long is done in parts that are bounded by how much they do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_wal::testing::{CrashDisk, OpKind};
use quorate_wal::{Drove, GroupId, Log, LogOptions, LogStatus, WriteBatch};

use crate::common::{DIR, appended, commit, entry};

const SEGMENT_BYTES: u64 = 4 << 20;
const GROUPS: u64 = 12_000;

/// While the index of a segment with many groups is written, the log runs out of room. The next segment does
/// not wait for the index.
#[test]
fn a_log_that_waits_for_a_segment_does_not_wait_for_an_index() {
    let disk = CrashDisk::new();
    let mut options = LogOptions::default();
    options.segment_bytes_min = SEGMENT_BYTES;
    options.segment_bytes_max = SEGMENT_BYTES;
    options.recovery_threads = 1;
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    for begin in (1..=GROUPS).step_by(1000) {
        let mut batch = WriteBatch::new();
        for group in begin..begin + 1000 {
            batch.append(GroupId(group), vec![entry(group, 1, 1, 10)]);
        }
        commit(&log, batch);
    }
    // The next segment goes into service.
    commit(&log, appended(GROUPS + 1, 1..=1, 1, 3 << 20));
    assert_eq!(log.stats().segments, 2);
    let is_blocked = Arc::new(AtomicBool::new(false));
    let (was_blocked, writes) = (Arc::clone(&is_blocked), Arc::clone(&log));
    disk.watch(Some(Arc::new(move |op| {
        let is_index = op.kind == OpKind::Write && op.path.ends_with("0000000000000001.seg");
        if is_index && !was_blocked.swap(true, Ordering::SeqCst) {
            writes
                .submit(appended(GROUPS + 1, 2..=2, 1, 3 << 20))
                .unwrap();
            assert_eq!(writes.drive(), Ok(Drove::NeedsSegment));
        }
    })));
    disk.start_trace();
    assert!(log.prepare().unwrap().segment_ready);
    disk.watch(None);
    assert!(is_blocked.load(Ordering::SeqCst));
    let trace = disk.trace();
    let index: Vec<_> = (trace.iter().enumerate())
        .filter(|(_, op)| op.kind == OpKind::Write && op.path.ends_with("0000000000000001.seg"))
        .map(|(at, _)| at)
        .collect();
    let is_filling = |op: &quorate_wal::testing::Op| {
        op.kind == OpKind::ZeroFill && op.path.ends_with("0000000000000003.seg")
    };
    let filled = trace.iter().rposition(is_filling).expect("it is filled");
    assert!(index.len() >= 3, "the index has several parts: {index:?}");
    assert!(index[0] < filled && filled < index[1], "{index:?} {filled}");
    while log.drive().unwrap() != Drove::Idle {}
    assert_eq!(log.status(), LogStatus::Healthy);
    assert_eq!(log.bounds(GroupId(GROUPS + 1)), Some((1, 2)));
}

/// To give the processor away costs a time slice of whoever else is busy, each time.
#[test]
fn no_step_of_the_log_gives_the_processor_away() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/log");
    let mut files = 0;
    for file in std::fs::read_dir(src).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["yield_now", "thread::sleep"] {
            assert!(!text.contains(word), "{word} in {}", path.display());
        }
        files += 1;
    }
    assert!(files > 10);
}
