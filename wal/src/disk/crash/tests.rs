//! What the disk does to those who use it.

use super::*;

const DIR: &str = "/log";

fn disk() -> CrashDisk {
    let disk = CrashDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn write(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

/// A file with a durable name and content.
fn durable(disk: &CrashDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(&path(name)).unwrap();
    write(file.as_ref(), 0, bytes).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

fn after_cut(disk: &CrashDisk, survivors: &Survivors) -> CrashDisk {
    let disk = disk.fork();
    disk.power_cut(survivors);
    assert_eq!(disk.pending(), []);
    disk
}

#[test]
fn a_file_is_lost_with_its_name_however_well_it_was_synced() {
    let disk = disk();
    let file = disk.create(&path("a")).unwrap();
    write(file.as_ref(), 0, b"content").unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.pending().len(), 1);
    assert_eq!(
        after_cut(&disk, &Survivors::None).files(),
        [] as [PathBuf; 0]
    );
    disk.sync_dir(Path::new(DIR)).unwrap();
    let cut = after_cut(&disk, &Survivors::None);
    assert_eq!(cut.contents(&path("a")).unwrap(), b"content");
}

#[test]
fn each_subset_of_what_is_pending_can_survive() {
    let disk = disk();
    durable(&disk, "a", &[1; 4096]);
    let file = disk.open(&path("a")).unwrap();
    write(file.as_ref(), 0, &[2; 8192]).unwrap();
    let whats: Vec<_> = disk.pending().into_iter().map(|it| it.what).collect();
    let expected = [
        PendingChange::Block(0),
        PendingChange::Block(4096),
        PendingChange::Size(8192),
    ];
    assert_eq!(whats, expected);
    let found = |mask| {
        let cut = after_cut(&disk, &Survivors::of_mask(mask));
        let bytes = cut.contents(&path("a")).unwrap();
        bytes.chunks(4096).map(|block| block[0]).collect::<Vec<_>>()
    };
    assert_eq!(found(0), [1]);
    assert_eq!(found(0b011), [2]);
    assert_eq!(found(0b100), [1, 0]);
    assert_eq!(found(0b110), [1, 2]);
    assert_eq!(found(0b111), [2, 2]);
}

#[test]
fn a_renamed_file_has_its_old_name_or_its_new_one_or_both() {
    let disk = disk();
    durable(&disk, "old", b"new content");
    durable(&disk, "new", b"old content");
    disk.rename(&path("old"), &path("new")).unwrap();
    assert_eq!(disk.files(), [path("new")]);
    let found = |mask| after_cut(&disk, &Survivors::of_mask(mask));
    assert_eq!(found(0b11).files(), [path("new")]);
    assert_eq!(found(0b01).files(), [path("new"), path("old")]);
    for undone in [0b00, 0b10] {
        assert_eq!(found(undone).files(), [path("new"), path("old")]);
        let kept = found(undone).contents(&path("new")).unwrap();
        assert_eq!(kept, b"old content");
    }
    assert_eq!(found(0b01).contents(&path("new")).unwrap(), b"new content");
    assert_eq!(found(0b01).contents(&path("old")).unwrap(), b"new content");
}

#[test]
fn a_removed_file_may_come_back_and_its_handles_go_on() {
    let disk = disk();
    let file = durable(&disk, "a", b"content");
    disk.remove(&path("a")).unwrap();
    assert_eq!(file.read_bytes(0, 7).unwrap(), &b"content"[..]);
    assert_eq!(disk.used_bytes(), 4096);
    drop(file);
    assert_eq!(disk.used_bytes(), 0);
    let cut = after_cut(&disk, &Survivors::None);
    assert_eq!(cut.contents(&path("a")).unwrap(), b"content");
    assert_eq!(
        after_cut(&disk, &Survivors::All).files(),
        [] as [PathBuf; 0]
    );
}

#[test]
fn handles_and_locks_die_with_the_process_and_the_cache_stays() {
    let disk = disk();
    let file = durable(&disk, "a", &[1; 4096]);
    let lock = disk.lock(Path::new(DIR)).unwrap();
    write(file.as_ref(), 0, &[2; 4096]).unwrap();
    disk.process_crash();
    assert!(
        file.len().is_err() && file.sync_data().is_err() && write(file.as_ref(), 0, b"x").is_err()
    );
    let held = disk.lock(Path::new(DIR)).unwrap();
    drop(lock);
    let error = disk.lock(Path::new(DIR)).unwrap_err();
    assert_eq!(
        error.kind(),
        io::ErrorKind::WouldBlock,
        "the old lock releases nothing"
    );
    drop((held, file));
    assert_eq!(disk.contents(&path("a")).unwrap(), [2; 4096]);
    assert_eq!(disk.durable_contents(&path("a")).unwrap(), [1; 4096]);
    disk.open(&path("a")).unwrap().drop_cache().unwrap();
    assert_eq!(
        disk.contents(&path("a")).unwrap(),
        [2; 4096],
        "it still waits"
    );
    disk.power_cut(&Survivors::None);
    assert_eq!(disk.contents(&path("a")).unwrap(), [1; 4096]);
}

#[test]
fn a_failed_sync_loses_what_waited_and_the_next_one_succeeds() {
    let disk = disk();
    let file = durable(&disk, "a", &[1; 4096]);
    disk.inject(Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device)).times(1));
    write(file.as_ref(), 0, &[2; 4096]).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    assert_eq!(disk.contents(&path("a")).unwrap(), [2; 4096]);
    assert_eq!(disk.durable_contents(&path("a")).unwrap(), [1; 4096]);
    file.drop_cache().unwrap();
    assert_eq!(disk.contents(&path("a")).unwrap(), [1; 4096]);
}

#[test]
fn writes_are_lost_go_astray_or_stop_half_way_as_asked() {
    let disk = disk();
    let file = durable(&disk, "a", &[1; 3 * 4096]);
    for effect in [Effect::Lost, Effect::Misdirected(1)] {
        disk.inject(Fault::new(OpKind::Write, effect).times(1));
    }
    write(file.as_ref(), 0, &[2; 4096]).unwrap();
    write(file.as_ref(), 4096, &[3; 4096]).unwrap();
    file.sync_data().unwrap();
    let firsts = |bytes: Vec<u8>| bytes.chunks(4096).map(|it| it[0]).collect::<Vec<_>>();
    assert_eq!(firsts(disk.contents(&path("a")).unwrap()), [2, 3, 1]);
    assert_eq!(
        firsts(disk.durable_contents(&path("a")).unwrap()),
        [1, 1, 3]
    );
    let short = Effect::Short(4096, DiskError::Quota);
    disk.inject(Fault::new(OpKind::Write, short));
    let error = write(file.as_ref(), 0, &[4; 8192]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    assert_eq!(firsts(disk.contents(&path("a")).unwrap()), [4, 3, 1]);
    disk.heal();
    write(file.as_ref(), 0, &[4; 8192]).unwrap();
}

#[test]
fn reads_are_stale_or_of_another_place_as_asked() {
    let disk = disk();
    let bytes = [[1; 4096], [2; 4096]].concat();
    let file = durable(&disk, "a", &bytes);
    let read = |offset| {
        let mut buffer = [9; 4];
        file.read_at(offset, &mut buffer).map(|()| buffer)
    };
    for effect in [
        Effect::Lost,
        Effect::Misdirected(1),
        Effect::Misdirected(7),
        Effect::Fail(DiskError::Device),
    ] {
        disk.inject(Fault::new(OpKind::Read, effect).times(1));
    }
    let found: Vec<_> = (0..5).map(|_| read(0).ok()).collect();
    let own = Some([1; 4]);
    assert_eq!(found, [Some([0; 4]), Some([2; 4]), own, None, own]);
    assert!(disk.contents(&path("a")).unwrap() == bytes, "it stays");
}

#[test]
fn a_sync_that_lies_leaves_everything_pending() {
    let disk = disk();
    let file = durable(&disk, "a", b"old");
    disk.inject(Fault::new(OpKind::Sync, Effect::Lost));
    write(file.as_ref(), 0, b"new").unwrap();
    file.sync_data().unwrap();
    let cut = after_cut(&disk, &Survivors::None);
    assert_eq!(cut.contents(&path("a")).unwrap(), b"old");
}

#[test]
fn a_full_disk_takes_what_fits_and_what_is_written_over() {
    let disk = disk();
    let file = durable(&disk, "a", &[1; 4096]);
    disk.set_capacity(Some(2 * 4096 + 100));
    let error = write(file.as_ref(), 0, &[2; 3 * 4096]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.contents(&path("a")).unwrap(), [2; 2 * 4096]);
    write(file.as_ref(), 100, &[3; 4096]).unwrap();
    let other = disk.create(&path("b")).unwrap();
    assert_eq!(
        other.zero_fill_part(0, 4096).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    disk.remove(&path("a")).unwrap();
    drop(file);
    assert_eq!(other.zero_fill_part(0, 8192).unwrap(), 8192);
    assert_eq!(disk.contents(&path("b")).unwrap(), [0; 8192]);
}

#[test]
fn the_power_goes_off_after_so_many_changes() {
    let disk = disk();
    let file = durable(&disk, "a", b"old");
    disk.stop_after(1);
    disk.start_trace();
    write(file.as_ref(), 0, b"new").unwrap();
    assert!(file.sync_data().is_err() && disk.remove(&path("a")).is_err());
    assert_eq!(
        file.read_bytes(0, 3).unwrap(),
        &b"new"[..],
        "reads change nothing"
    );
    let kinds: Vec<_> = disk.trace().into_iter().map(|op| op.kind).collect();
    assert_eq!(kinds, [OpKind::Write, OpKind::Read]);
    disk.power_cut(&Survivors::None);
    disk.remove(&path("a")).unwrap();
}

#[test]
fn a_watcher_sees_the_disk_before_each_operation() {
    let disk = disk();
    let file = durable(&disk, "a", b"old");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (watched, log) = (disk.clone(), Arc::clone(&seen));
    let spy: Watcher = Arc::new(move |op| {
        let content = watched.fork().contents(&path("a"));
        log.lock().push((op.kind, op.bytes, content));
    });
    disk.watch(Some(spy));
    write(file.as_ref(), 0, b"new").unwrap();
    disk.watch(None);
    file.sync_data().unwrap();
    let expected = (OpKind::Write, 3, Some(b"old".to_vec()));
    assert_eq!(*seen.lock(), [expected]);
}

#[test]
fn rot_is_on_the_device_and_in_the_cache() {
    let disk = disk();
    let file = durable(&disk, "a", &[0; 8192]);
    assert!(disk.flip(&path("a"), 4096, 3) && disk.overwrite(&path("a"), 1, &[7]));
    assert!(!disk.flip(&path("a"), 8192, 3) && !disk.flip(&path("b"), 0, 0));
    file.drop_cache().unwrap();
    let content = disk.contents(&path("a")).unwrap();
    assert_eq!((content[0], content[1], content[4096]), (0, 7, 8));
    assert!(disk.truncate(&path("a"), 100));
    assert_eq!(file.len().unwrap(), 100);
}

#[test]
fn a_write_over_bytes_that_somebody_holds_is_noted() {
    let disk = disk();
    let mut file = disk.create(&path("a")).unwrap();
    write(&*file, 0, b"some").unwrap();
    write(&*file, 4, b"more").unwrap();
    let held = file.share(Inside(()), 0, 4).unwrap();
    let other = held.slice(1..2);
    drop(held);
    let is_free =
        |file: &mut Arc<dyn DiskFile>| Arc::get_mut(file).unwrap().forget_reads(Inside(()));
    assert!(!is_free(&mut file));
    write(&*file, 4, b"else").unwrap();
    assert_eq!(disk.trampled(), None, "beside what is held");
    // The memory of another node of the same program may hold them when this one is started again, and knows nothing of it.
    disk.process_crash();
    let mut file = disk.open(&path("a")).unwrap();
    assert!(is_free(&mut file));
    write(&*file, 1, b"anew").unwrap();
    let trampled = disk.trampled().unwrap();
    assert_eq!((trampled.offset, trampled.bytes), (1, 4));
    assert_eq!(&other[..], b"o", "here they are copies");
}
