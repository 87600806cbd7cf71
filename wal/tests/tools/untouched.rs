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
        let _over = SetsAtEnd(&is_over);
        let mut looks = 0;
        while looks < 50 || log.stats().recycled < 20 {
            looks += 1;
            assert!(looks < 10_000);
            let verification = verify(&RealDisk, dir.path(), None, &mut |_| ()).unwrap();
            let is_right = verification.is_sound() && verification.in_use;
            assert!(is_right, "look {looks}: {verification:#?}");
            let inspection = inspect(&RealDisk, dir.path()).unwrap();
            assert!(
                inspection.in_use && inspection.damage.is_empty(),
                "look {looks}: {inspection:#?}"
            );
            let plan = plan_repair(&RealDisk, dir.path(), None, &options(), &mut |_| ()).unwrap();
            assert!(plan.verification.is_sound(), "look {looks}: {plan:#?}");
        }
    });
    threads.stop(true);
}

/// A log that moves on between any two steps of a look: a segment is given back while it is opened.
#[derive(Clone, Debug)]
struct MovingDisk {
    inner: MemoryDisk,
    log: Arc<Log>,
    /// How many times the log still moves.
    moves: Arc<AtomicU64>,
    index: Arc<AtomicU64>,
}

impl MovingDisk {
    fn new(moves: u64) -> Self {
        let inner = MemoryDisk::new();
        let (log, _) = open(&inner);
        let disk = Self {
            inner,
            log,
            moves: Arc::new(AtomicU64::new(0)),
            index: Arc::new(AtomicU64::new(0)),
        };
        for _ in 0..20 {
            disk.go_on();
        }
        disk.moves.store(moves, Ordering::SeqCst);
        disk
    }

    /// Writes more than a segment, of which only the last entry is kept.
    fn go_on(&self) {
        for _ in 0..8 {
            let index = self.index.fetch_add(1, Ordering::SeqCst) + 1;
            let mut batch = appended(1, index..=index, 1, 9000);
            batch.compact(GroupId(1), index);
            commit(&self.log, batch);
            self.log.prepare().unwrap();
        }
    }

    fn look(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let is_segment = path.extension().is_some_and(|it| it == "seg");
        let left = |moves: u64| moves.checked_sub(1).filter(|_| is_segment);
        if self
            .moves
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
            .is_ok()
        {
            self.go_on();
        }
        self.inner.open(path)
    }
}

impl Disk for MovingDisk {
    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.look(path)
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.inner.lock(dir)
    }
    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        self.inner.is_locked(dir)
    }
}

/// However often the log gives back what is just looked at, as long as that ends.
#[test]
fn a_look_is_taken_again_until_it_is_of_one_moment() {
    let dir = Path::new(DIR);
    let mut taken_again = 0;
    for moves in 0..40 {
        let disk = MovingDisk::new(moves);
        let inspection = inspect(&disk, dir).unwrap();
        assert!(
            inspection.in_use && inspection.damage.is_empty(),
            "{moves}: {inspection:#?}"
        );
        let disk = MovingDisk::new(moves);
        let verification = verify(&disk, dir, None, &mut |_| ()).unwrap();
        assert!(
            verification.is_sound() && verification.in_use,
            "{moves}: {verification:#?}"
        );
        let disk = MovingDisk::new(moves);
        let plan = plan_repair(&disk, dir, None, &options(), &mut |_| ()).unwrap();
        assert!(plan.verification.is_sound(), "{moves}: {plan:#?}");
        let segments = inspection.segments.len() as u64;
        taken_again += u64::from(moves > 2 * segments);
    }
    assert!(taken_again > 10);
}

/// A log that never stands still is said to move, by name, after a bounded number of looks.
#[test]
fn a_log_that_never_stands_still_is_said_to_move() {
    let dir = Path::new(DIR);
    let disk = MovingDisk::new(u64::MAX);
    for error in [
        inspect(&disk, dir).map(drop).unwrap_err(),
        verify(&disk, dir, None, &mut |_| ()).map(drop).unwrap_err(),
        plan_repair(&disk, dir, None, &options(), &mut |_| ())
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error, OpenError::Moving { .. }), "{error}");
        assert!(error.to_string().contains("look again"), "{error}");
    }
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
