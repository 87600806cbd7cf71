//! A disk without space: it passes, and costs nothing that was acknowledged.

use std::path::Path;
use std::sync::Arc;

use quorate_wal::testing::CrashDisk;
use quorate_wal::{Log, LogStatus};

use crate::common::{DIR, appended, commit};
use crate::world::options;

/// Space comes back while the segment that is written to is hardly used, so that nothing is due to
/// be filled in step with it, and nothing is written because entries are refused.
#[test]
fn a_large_segment_is_filled_at_once_when_space_returns() {
    const SEGMENT_BYTES: u64 = 1 << 20;
    let disk = CrashDisk::new();
    let mut options = options();
    options.segment_bytes_min = SEGMENT_BYTES;
    options.segment_bytes_max = SEGMENT_BYTES;
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
    commit(&log, appended(1, 1..=1, 1, 100));
    disk.set_capacity(Some(disk.used_bytes()));
    assert!(!log.prepare().unwrap().segment_ready);
    assert_eq!(log.status(), LogStatus::Full);
    disk.set_capacity(None);
    assert!(log.prepare().unwrap().segment_ready);
    assert_eq!(log.status(), LogStatus::Healthy);
    commit(&log, appended(1, 2..=2, 1, 100));
}
