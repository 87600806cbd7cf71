//! A disk that fails while the log runs: no false acknowledgement, and a full disk passes.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use quorate_wal::*;

struct Notify(std::sync::mpsc::Sender<()>);

impl Observer for Notify {
    fn log_moved(&self) {
        // The receiver may be gone at the end of a test.
        let _ = self.0.send(());
    }
}

#[test]
fn a_failed_sync_or_write_ends_the_log_for_good() {
    for fault in ["sync", "write"] {
        let disk = FaultyDisk::default();
        let (log, _) = open(&disk);
        commit(&log, appended(1, 1..=2, 1, 10));
        let flag = if fault == "sync" {
            &disk.faults.fail_sync
        } else {
            &disk.faults.fail_write
        };
        let lsn = log.submit(appended(1, 3..=3, 1, 10)).unwrap();
        flag.store(true, Ordering::SeqCst);
        assert!(matches!(log.drive(), Err(LogError::Failed { .. })));
        flag.store(false, Ordering::SeqCst);
        let syncs = disk.faults.syncs.load(Ordering::SeqCst);
        assert!(
            matches!(log.drive(), Err(LogError::Failed { .. })),
            "it is not tried again"
        );
        assert!(matches!(log.prepare(), Err(LogError::Failed { .. })));
        assert_eq!(disk.faults.syncs.load(Ordering::SeqCst), syncs);
        assert!(log.durable() < lsn);
        let LogStatus::Failed { reason } = log.status() else {
            panic!("{:?}", log.status())
        };
        assert!(reason.contains(fault), "{reason}");
        let error = log.submit(appended(1, 4..=4, 1, 10)).unwrap_err();
        assert!(
            matches!(error, SubmitError::Failed { .. }) && !error.is_retryable(),
            "{error}"
        );
        assert_eq!(
            log.read(GroupId(1), 1, 3, 1000).unwrap().len(),
            2,
            "what was durable is served"
        );
        assert!(matches!(
            log.read(GroupId(1), 3, 4, 0),
            Err(ReadError::NotWritten { .. })
        ));
    }
}

#[test]
fn a_failed_sync_ends_the_threads_and_tells_the_observers() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    let (sender, receiver) = std::sync::mpsc::channel();
    log.add_observer(Arc::new(Notify(sender)));
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    disk.faults.fail_sync.store(true, Ordering::SeqCst);
    log.submit(appended(1, 1..=1, 1, 10)).unwrap();
    while !matches!(log.status(), LogStatus::Failed { .. }) {
        receiver.recv_timeout(DEADLINE).unwrap();
    }
    threads.stop(true);
    assert_eq!(log.durable(), Lsn(0));
}

struct Panics;

impl Observer for Panics {
    fn log_moved(&self) {
        panic!("on purpose");
    }
}

/// A thread that panics writes nothing any more. Whoever waited for it waited for ever.
#[test]
fn a_panic_of_the_log_thread_ends_the_log_and_tells_the_observers() {
    let (log, _) = open(&MemoryDisk::new());
    let (sender, receiver) = std::sync::mpsc::channel();
    log.add_observer(Arc::new(Panics));
    log.add_observer(Arc::new(Notify(sender)));
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    log.submit(appended(1, 1..=1, 1, 10)).unwrap();
    while !matches!(log.status(), LogStatus::Failed { .. }) {
        let told = receiver.recv_timeout(DEADLINE);
        told.expect("it is told that the log failed");
    }
    let refused = log.submit(appended(1, 2..=2, 1, 10));
    assert!(matches!(refused, Err(SubmitError::Failed { .. })));
    threads.stop(true);
}

/// Without the thread that makes segments, writers would wait for one for ever.
#[test]
fn a_panic_of_the_preparer_ends_the_log_and_it_is_told_whose_thread_it_was() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    let (sender, receiver) = std::sync::mpsc::channel();
    log.add_observer(Arc::new(Notify(sender)));
    disk.faults.panic_prepare.store(true, Ordering::SeqCst);
    let (panicked, whose) = std::sync::mpsc::channel();
    let threads = LogThread::spawn_watched(Arc::clone(&log), "log", move |name| {
        let _over = panicked.send(name.to_owned());
    });
    let threads = threads.unwrap();
    // Until the first segment is full and the next one is wanted.
    for index in 1..1_000 {
        if log.submit(appended(1, index..=index, 1, 1_000)).is_err() {
            break;
        }
    }
    let name = whose.recv_timeout(Duration::from_secs(10));
    assert_eq!(name.as_deref(), Ok("log-prepare"));
    while !matches!(log.status(), LogStatus::Failed { .. }) {
        let told = receiver.recv_timeout(Duration::from_secs(10));
        told.expect("it is told that the log failed");
    }
    let refused = log.submit(appended(1, 1_000..=1_000, 1, 10));
    assert!(matches!(refused, Err(SubmitError::Failed { .. })));
    threads.stop(true);
}

/// The same where it is a caller that writes. What it took out of the line is lost, so nothing behind it may be written.
#[test]
fn a_panic_of_a_caller_that_writes_ends_the_log_for_the_others() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 10));
    let (sender, told) = std::sync::mpsc::channel();
    log.add_observer(Arc::new(Notify(sender)));
    log.submit(appended(1, 2..=2, 1, 10)).unwrap();
    disk.faults.panic_sync.store(true, Ordering::SeqCst);
    let writes = Arc::clone(&log);
    let panicked = std::thread::spawn(move || writes.drive()).join();
    assert!(panicked.is_err());
    disk.faults.panic_sync.store(false, Ordering::SeqCst);
    told.try_recv().expect("the observers are told");
    let LogStatus::Failed { reason } = log.status() else {
        panic!("{:?}", log.status());
    };
    assert!(reason.contains("panic"), "{reason}");
    assert!(matches!(log.drive(), Err(LogError::Failed { .. })));
    let refused = log.submit(appended(1, 3..=3, 1, 10));
    assert!(matches!(refused, Err(SubmitError::Failed { .. })));
    assert_eq!(log.durable(), Lsn(1));
}

/// A guard of the caller's that writes its last words while its thread unwinds has written them: the panic is not the log's.
#[test]
fn a_caller_that_writes_while_it_unwinds_does_not_fail_the_log() {
    struct LastWords(Arc<Log>);
    impl Drop for LastWords {
        fn drop(&mut self) {
            let _sooner_or_later = self.0.submit(appended(1, 2..=2, 1, 10));
            let _same = self.0.drive();
        }
    }
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=1, 1, 10));
    let last_words = LastWords(Arc::clone(&log));
    let panicked = std::thread::spawn(move || {
        let _said = last_words;
        panic!("a panic that the test wants");
    });
    assert!(panicked.join().is_err());
    assert_eq!(log.status(), LogStatus::Healthy);
    assert_eq!(log.durable(), Lsn(2));
    commit(&log, appended(1, 3..=3, 1, 10));
}

#[test]
fn a_full_disk_refuses_entries_serves_reads_and_recovers_by_itself() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=5, 1, 500));
    let (sender, told) = std::sync::mpsc::channel();
    log.add_observer(Arc::new(Notify(sender)));
    disk.faults.full.store(true, Ordering::SeqCst);
    assert!(!log.prepare().unwrap().segment_ready);
    assert_eq!(log.status(), LogStatus::Full);
    told.try_recv()
        .expect("the observers are told that it is full");
    let error = log.submit(appended(1, 6..=6, 1, 10)).unwrap_err();
    assert!(error == SubmitError::Full && error.is_retryable());
    assert_eq!(log.read(GroupId(1), 1, 6, usize::MAX).unwrap().len(), 5);
    // What gives space back is still taken.
    let mut batch = WriteBatch::new();
    batch.compact(GroupId(1), 6);
    commit(&log, batch);
    assert!(!log.prepare().unwrap().segment_ready, "still full");
    disk.faults.full.store(false, Ordering::SeqCst);
    assert_eq!(
        told.try_iter().count(),
        1,
        "the compaction was synced, nothing else changed"
    );
    assert!(log.prepare().unwrap().segment_ready);
    assert_eq!(log.status(), LogStatus::Healthy);
    told.try_recv()
        .expect("the observers are told that it is not full any more");
    commit(&log, appended(1, 6..=40, 1, 1000));
    drop(log);
    let (log, _) = open(&disk);
    assert_eq!(
        log.read(GroupId(1), 6, 41, usize::MAX).unwrap(),
        entries(1, 6..=40, 1, 1000)
    );
}

#[test]
fn a_log_opens_for_reading_on_a_full_disk() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=5, 1, 500));
    drop(log);
    disk.faults.full.store(true, Ordering::SeqCst);
    let (log, _) = open(&disk);
    assert_eq!(log.status(), LogStatus::Full);
    assert_eq!(
        log.submit(appended(1, 6..=6, 1, 10)),
        Err(SubmitError::Full)
    );
    assert_eq!(log.read(GroupId(1), 1, 6, usize::MAX).unwrap().len(), 5);
    disk.faults.full.store(false, Ordering::SeqCst);
    log.prepare().unwrap();
    commit(&log, appended(1, 6..=6, 1, 10));
}

/// Opens a log on a disk without a free byte, on which there is no file for the next segment.
fn open_without_space(disk: &FaultyDisk, log: Arc<Log>) -> Arc<Log> {
    disk.faults.full.store(true, Ordering::SeqCst);
    // The segment that was ready goes into service, and is torn with its first batch.
    drop(log);
    let unused: Vec<_> = segments(&disk.inner)
        .into_iter()
        .filter(|(_, bytes)| bytes[..BLOCK].iter().all(|&byte| byte == 0))
        .collect();
    for (path, _) in unused {
        disk.inner.remove(&path).unwrap();
    }
    let (log, _) = open(disk);
    assert_eq!(log.status(), LogStatus::Full);
    log
}

#[test]
fn space_is_given_back_even_if_there_was_none_when_the_log_was_opened() {
    let disk = FaultyDisk::default();
    let (log, _) = open(&disk);
    for index in 1..=40 {
        commit(&log, appended(1, index..=index, 1, 3000));
    }
    let log = open_without_space(&disk, log);
    let segments_before = log.stats().segments;
    assert!(segments_before > 3);
    assert_eq!(
        log.submit(appended(1, 41..=41, 1, 10)),
        Err(SubmitError::Full)
    );
    let mut batch = WriteBatch::new();
    batch.compact(GroupId(1), 41);
    commit(&log, batch);
    rest(&log);
    assert!(log.stats().segments < segments_before);
    // It was deleted, and not used again: whoever read it before the log was opened may hold bytes of it. So there is space.
    assert_eq!(log.stats().recycled, 0);
    disk.faults.full.store(false, Ordering::SeqCst);
    rest(&log);
    assert_eq!(log.status(), LogStatus::Healthy);
    commit(&log, appended(1, 41..=45, 1, 1000));
    commit(&log, appended(1, 46..=60, 1, 1000));
    log.prepare().unwrap();
    assert!(reserve_bytes(&disk.inner) > 0, "there is a reserve again");
    drop(log);
    let (log, _) = open(&disk);
    let read = log.read(GroupId(1), 41, 61, usize::MAX).unwrap();
    assert_eq!(read, entries(1, 41..=60, 1, 1000));
}

#[test]
fn the_preparer_finds_returned_space_without_being_asked() {
    let disk = FaultyDisk::default();
    disk.faults.full.store(true, Ordering::SeqCst);
    let (log, _) = open(&disk);
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    disk.faults.full.store(false, Ordering::SeqCst);
    wait_until("space is found", || log.status() == LogStatus::Healthy);
    let lsn = log.submit(appended(1, 1..=1, 1, 10)).unwrap();
    threads.stop(true);
    assert_eq!(log.durable(), lsn);
}

/// What a workload was told is durable before the power went off.
#[derive(Default)]
struct Acknowledged {
    last_index: u64,
    first_index: u64,
}

/// Appends, compacts, rotates and deletes until something fails or it is done.
fn work(disk: &FaultyDisk, acknowledged: &mut Acknowledged) -> Option<()> {
    let (log, recovered) = try_open(disk).ok()?;
    let start = recovered
        .groups
        .get(&GroupId(1))
        .map_or(0, |group| group.last_index);
    assert!(
        start >= acknowledged.last_index,
        "{start} of {}",
        acknowledged.last_index
    );
    for index in start + 1..=start + 24 {
        let mut batch = appended(1, index..=index, 1, 2500);
        batch.set_state(
            GroupId(2),
            GroupState {
                term: index,
                vote: 1,
                commit: 0,
            },
        );
        let first_index = index.saturating_sub(3).max(1);
        batch.compact(GroupId(1), first_index);
        let lsn = log.submit(batch).ok()?;
        while log.durable() < lsn {
            if log.drive().ok()? == Drove::NeedsSegment {
                log.prepare().ok()?;
            }
        }
        *acknowledged = Acknowledged {
            last_index: index,
            first_index,
        };
        log.prepare().ok()?;
    }
    Some(())
}

#[test]
fn a_crash_at_any_change_of_the_disk_loses_nothing_acknowledged() {
    let mut crashes = 0;
    for changes in 0.. {
        let disk = FaultyDisk::default();
        let mut acknowledged = Acknowledged::default();
        // Two lives end in a crash, the second while the first is repaired.
        for life in 0..2 {
            disk.faults
                .changes_left
                .store(changes + life * 3, Ordering::SeqCst);
            crashes += usize::from(work(&disk, &mut acknowledged).is_none());
        }
        disk.faults.changes_left.store(-1, Ordering::SeqCst);
        let (log, recovered) = open(&disk);
        if let Some(group) = recovered.groups.get(&GroupId(1)) {
            assert!(
                group.last_index >= acknowledged.last_index,
                "crash after {changes} changes"
            );
            assert!(group.first_index >= acknowledged.first_index);
            assert!(group.first_index <= acknowledged.last_index + 1);
            assert!(recovered.groups[&GroupId(2)].state.term >= acknowledged.last_index);
            let read = log.read(
                GroupId(1),
                group.first_index,
                group.last_index + 1,
                usize::MAX,
            );
            let expected = entries(1, group.first_index..=group.last_index, 1, 2500);
            assert_eq!(read.unwrap(), expected, "crash after {changes} changes");
        } else {
            assert_eq!(acknowledged.last_index, 0, "crash after {changes} changes");
        }
        commit(&log, appended(9, 1..=1, 1, 1));
        let files = segments(&disk);
        assert!(
            files.len() < 8,
            "crash after {changes} changes: {} files",
            files.len()
        );
        if acknowledged.last_index >= 48 {
            break;
        }
    }
    assert!(crashes > 80, "{crashes}");
}

/// Files of the real disk, from which a log shares what it reads, behind a disk of another crate.
#[derive(Debug)]
struct HandedOn;

impl Disk for HandedOn {
    fn create(&self, path: &Path) -> std::io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path)
    }
    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, dir: &Path) -> std::io::Result<DirLock> {
        RealDisk.lock(dir)
    }
}

/// A disk of another crate may lead to a file by two names, or write to it by a handle that it kept: what is read
/// from it does not change with the file.
#[test]
fn what_is_read_from_a_disk_of_another_crate_is_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.recent_bytes_max = 0;
    let (log, _) = Log::open(Arc::new(HandedOn), dir.path(), options).unwrap();
    commit(&log, appended(1, 1..=3, 1, 5000));
    let read = log.read(GroupId(1), 1, 4, usize::MAX).unwrap();
    for name in RealDisk.list(dir.path()).unwrap() {
        let path = dir.path().join(name);
        if path.extension().is_some_and(|it| it == "seg") {
            write(&RealDisk, &path, 0, &vec![0xff; 64 << 10]);
        }
    }
    assert_eq!(read, entries(1, 1..=3, 1, 5000));
}

#[test]
fn a_small_file_is_replaced_whole() {
    let path = Path::new("/node/meta");
    for changes in 0..6 {
        let disk = FaultyDisk::default();
        disk.create_dir_all(Path::new("/node")).unwrap();
        write_atomically(&disk, path, b"old").unwrap();
        disk.faults.changes_left.store(changes, Ordering::SeqCst);
        let written = write_atomically(&disk, path, b"newer");
        disk.faults.changes_left.store(-1, Ordering::SeqCst);
        let found = read(&disk, path);
        assert!(
            found == b"newer" || (written.is_err() && found == b"old"),
            "{changes}: {found:?}"
        );
        write_atomically(&disk, path, b"last").unwrap();
        assert_eq!(read(&disk, path), b"last");
    }
}
