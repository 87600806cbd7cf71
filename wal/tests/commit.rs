//! Calls that return when what they wrote is durable: alone, beside others, and when the log fails.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use quorate_wal::*;

#[test]
fn a_commit_is_durable_when_it_returns() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    for index in 1..=50 {
        let lsn = log.commit(appended(1, index..=index, 1, 3000)).unwrap();
        assert!(log.durable() >= lsn);
        // What a power cut would leave now.
        let (copy, recovered) = open(&disk.inner.deep_clone());
        assert_eq!(recovered.groups[&GroupId(1)].last_index, index);
        drop(copy);
    }
    threads.stop(true);
}

#[test]
fn of_many_threads_that_commit_none_is_forgotten() {
    const THREADS: u64 = 16;
    const EACH: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    std::thread::scope(|scope| {
        for group in 1..=THREADS {
            let log = &log;
            scope.spawn(move || {
                for index in 1..=EACH {
                    let lsn = log.commit(appended(group, index..=index, 1, 100)).unwrap();
                    assert!(log.durable() >= lsn);
                }
            });
        }
    });
    assert_eq!(log.stats().entries, THREADS * EACH);
    threads.stop(true);
}

#[test]
fn a_refused_commit_and_one_of_unknown_outcome_are_told_apart() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    log.commit(appended(1, 1..=1, 1, 10)).unwrap();
    let refused = log.commit(appended(1, 9..=9, 1, 10)).unwrap_err();
    assert!(
        matches!(&refused, CommitError::Refused(SubmitError::Invalid { .. })),
        "{refused}"
    );
    disk.faults.fail_sync.store(true, Ordering::SeqCst);
    let calls: Vec<_> = (2..10)
        .map(|term| {
            let log = Arc::clone(&log);
            in_time(move || log.commit(appended(1, 2..=2, term, 10)))
        })
        .collect();
    for call in calls {
        let error = done(&call).unwrap_err();
        let is_right = match &error {
            CommitError::Unknown { .. } => true,
            CommitError::Refused(refused) => matches!(refused, SubmitError::Failed { .. }),
            _ => false,
        };
        assert!(is_right && !error.is_retryable(), "{error}");
    }
    drop(threads);
}

#[test]
fn closing_the_log_lets_everybody_go() {
    let disk = FaultyDisk::default();
    disk.faults.full.store(true, Ordering::SeqCst);
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new(DIR), options()).unwrap();
    let mut batch = WriteBatch::new();
    batch.set_state(GroupId(1), GroupState::default());
    let refused = log.commit(batch).unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    disk.faults.full.store(false, Ordering::SeqCst);
    log.prepare().unwrap();
    // Nobody prepares, so that this one waits for a segment in the end.
    let writes = Arc::clone(&log);
    let call = in_time(move || {
        for index in 1.. {
            if let Err(error) = writes.commit(appended(1, index..=index, 1, 3000)) {
                return error;
            }
        }
        unreachable!("the segment is full at some time")
    });
    wait_until("two batches are written", || log.stats().batches >= 2);
    log.close();
    let error = done(&call);
    assert!(!error.is_retryable(), "{error}");
}
