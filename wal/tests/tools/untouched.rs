//! What cannot be looked at, and that nothing that is looked at is changed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_wal::*;

use crate::common::*;
use crate::*;

#[test]
fn what_is_no_log_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let looked = inspect(&RealDisk, path).unwrap_err();
        let checked = verify(&RealDisk, path, None, &mut |_| ()).unwrap_err();
        let planned = plan_repair(&RealDisk, path, None, &options(), &mut |_| ()).unwrap_err();
        assert_eq!(looked.to_string(), checked.to_string());
        assert_eq!(looked.to_string(), planned.to_string());
        assert!(matches!(looked, OpenError::NoLog { .. }), "{looked}");
        looked.to_string()
    };
    assert!(refused(&dir.path().join("gone")).contains("does not exist"));
    assert!(refused(dir.path()).contains("is empty"));
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(refused(&file).contains("is not a directory"));
    assert!(refused(dir.path()).contains("holds no log"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn another_version_and_another_log_are_refused_by_name() {
    let disk = sample();
    let (segment, bytes) = first(&disk, SegmentState::Indexed);
    let newer = disk.deep_clone();
    let mut header = bytes[..BLOCK].to_vec();
    header[8..10].copy_from_slice(&9_u16.to_le_bytes());
    seal_header(&mut header, segment.id);
    write(&newer, &segment.file, 0, &header);
    for error in [
        inspect(&newer, Path::new(DIR)).unwrap_err(),
        verify(&newer, Path::new(DIR), None, &mut |_| ()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("format version 9") && text.contains("up to 1"),
            "{text}"
        );
    }
    let other = disk.deep_clone();
    let mut header = bytes[..BLOCK].to_vec();
    header[24..32].copy_from_slice(&5_u64.to_le_bytes());
    seal_header(&mut header, segment.id);
    write(&other, &segment.file, 0, &header);
    let error = verify(&other, Path::new(DIR), None, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Identity { path, found: 5, expected: 0 } if *path == segment.file),
        "{error}"
    );
    let found = looked(&other);
    let foreign = found
        .segments
        .iter()
        .find(|it| it.state == SegmentState::Foreign);
    assert_eq!(foreign.map(|it| it.id), Some(segment.id));
}

fn seal_header(header: &mut [u8], segment: SegmentId) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.0.to_le_bytes());
    hasher.update(&header[..BLOCK - 4]);
    header[BLOCK - 4..].copy_from_slice(&hasher.finalize().to_le_bytes());
}

#[test]
fn an_error_while_reading_is_no_answer() {
    let disk = FaultyDisk {
        inner: sample(),
        ..FaultyDisk::default()
    };
    disk.faults.fail_read.store(true, Ordering::SeqCst);
    let error = verify(&disk, Path::new(DIR), None, &mut |_| ()).unwrap_err();
    assert!(
        matches!(error, OpenError::Io { action: "read", .. }),
        "{error}"
    );
    assert!(inspect(&disk, Path::new(DIR)).is_err());
}

#[test]
fn a_log_in_use_is_said_to_be_in_use() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    commit(&log, appended(1, 1..=3, 1, 50));
    let check = |disk: &dyn Disk, dir: &Path, in_use: bool| {
        assert_eq!(inspect(disk, dir).unwrap().in_use, in_use);
        let verification = verify(disk, dir, None, &mut |_| ()).unwrap();
        assert_eq!(verification.in_use, in_use);
        assert!(verification.is_sound());
    };
    check(&disk, Path::new(DIR), true);
    drop(log);
    check(&disk, Path::new(DIR), false);

    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    commit(&log, appended(1, 1..=3, 1, 50));
    check(&RealDisk, dir.path(), true);
    commit(&log, appended(1, 4..=4, 1, 50));
    drop(log);
    check(&RealDisk, dir.path(), false);
    // A copy without the lock file is looked at like any other, and none is made.
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    check(&RealDisk, dir.path(), false);
    assert!(!dir.path().join("LOCK").exists());
}

#[test]
fn a_log_that_moves_while_it_is_looked_at_is_not_said_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options()).unwrap();
    let threads = LogThread::spawn(Arc::clone(&log), "log").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut index = 1;
            while !is_over.load(Ordering::SeqCst) {
                let mut batch = appended(1, index..=index, 1, 900);
                if index % 64 == 0 {
                    batch.compact(GroupId(1), index - 20);
                }
                match log.submit(batch) {
                    Ok(_) => index += 1,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
        });
        let mut looks = 0;
        while looks < 50 || log.stats().recycled < 20 {
            let verification = verify(&RealDisk, dir.path(), None, &mut |_| ());
            let inspection = inspect(&RealDisk, dir.path());
            looks += 1;
            is_over.fetch_or(looks == 10_000, Ordering::SeqCst);
            let verification = verification.unwrap();
            let is_right = verification.is_sound() && verification.in_use;
            is_over.fetch_or(!is_right, Ordering::SeqCst);
            assert!(is_right, "look {looks}: {verification:#?}");
            assert!(inspection.unwrap().in_use && looks < 10_000);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    threads.stop(true);
}

#[test]
fn nothing_on_disk_is_changed() {
    for (what, disk) in [("sound", sample()), ("damaged", damaged_sample())] {
        let dir = tempfile::tempdir().unwrap();
        let (log, snapshots) = (dir.path().join("wal"), dir.path().join("snap"));
        copy_out(&disk, Path::new(DIR), &log);
        copy_out(&disk, Path::new(SNAPSHOTS), &snapshots);
        let before = everything_in(dir.path());
        assert!(before.len() > 8, "{what}");
        inspect(&RealDisk, &log).unwrap();
        verify(&RealDisk, &log, Some(&snapshots), &mut |_| ()).unwrap();
        plan_repair(&RealDisk, &log, Some(&snapshots), &options(), &mut |_| ()).unwrap();
        for segment in inspect(&RealDisk, &log).unwrap().segments {
            list_batches(&RealDisk, &log, segment.id).unwrap();
        }
        assert_eq!(everything_in(dir.path()), before, "{what}");
    }
}

fn damaged_sample() -> MemoryDisk {
    let disk = sample();
    let (segment, _) = first(&disk, SegmentState::Indexed);
    flip(&disk, &segment.file, 2 * BLOCK + 70);
    flip(&disk, &segment.file, segment.used_bytes as usize + 3);
    let (segment, _) = first(&disk, SegmentState::Active);
    flip(
        &disk,
        &segment.file,
        segment.used_bytes as usize - BLOCK + 3,
    );
    disk
}

fn copy_out(disk: &MemoryDisk, from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in disk.list(from).unwrap() {
        match disk.open(&from.join(&name)) {
            Ok(_) => std::fs::write(to.join(&name), read(disk, &from.join(&name))).unwrap(),
            Err(_) => copy_out(disk, &from.join(&name), &to.join(&name)),
        }
    }
}

/// Every path below a directory with its content and when it was changed last.
fn everything_in(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
        if path.is_dir() {
            found.extend(everything_in(&path));
            found.insert(path, (Vec::new(), changed));
        } else {
            found.insert(path.clone(), (std::fs::read(&path).unwrap(), changed));
        }
    }
    found
}

/// A disk that can only be read, and counts who tries to do more.
#[derive(Debug, Default)]
struct ReadOnlyDisk {
    inner: MemoryDisk,
    tried: AtomicU64,
}

impl ReadOnlyDisk {
    fn refuse<T>(&self) -> io::Result<T> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl Disk for ReadOnlyDisk {
    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.refuse()
    }
    fn open(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.refuse()
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path)
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.refuse()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }
    fn lock(&self, _: &Path) -> io::Result<DirLock> {
        self.refuse()
    }
    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        self.inner.is_locked(dir)
    }
}

#[test]
fn a_directory_that_can_only_be_read_is_looked_at_like_any_other() {
    let memory = damaged_sample();
    let disk = ReadOnlyDisk {
        inner: memory.clone(),
        tried: AtomicU64::new(0),
    };
    assert_eq!(looked(&disk), looked(&memory));
    assert_eq!(verified(&disk), verified(&memory));
    assert_eq!(planned(&disk), planned(&memory));
    assert_eq!(
        disk.tried.load(Ordering::SeqCst),
        0,
        "no change was even tried"
    );
}
