//! Names that mean nothing, rights that are missing, and errors of the system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use quorate_wal::testing::*;
use quorate_wal::*;

use crate::common::*;
use crate::*;

#[test]
fn strays_are_left_alone_whatever_their_names_are() {
    let dir = sample();
    let names: [&[u8]; 5] = [
        b"notes.txt",
        b"\xff\xfe.seg",
        b"1.seg",
        b".hidden",
        b"MANIFEST-c",
    ];
    for name in names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), b"kept").unwrap();
    }
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    let opened = open_real(dir.path()).unwrap();
    assert_whole(&opened);
    rest(&opened.0);
    drop(opened);
    for name in names {
        let path = dir.path().join(OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), b"kept", "{name:?}");
    }
    assert!(dir.path().join("lost+found").is_dir());
}

#[test]
fn a_directory_with_the_name_of_a_file_of_the_log_is_refused_by_name() {
    for name in ["00000000000000ff.seg", "MANIFEST-a"] {
        let dir = sample();
        let path = dir.path().join(name);
        let _there_already = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        let before = files_of(dir.path());
        for error in [
            open_real(dir.path()).unwrap_err(),
            verify(&RealDisk, dir.path(), None, &mut |_| ()).unwrap_err(),
        ] {
            assert!(
                matches!(&error, OpenError::Io { path: named, .. } if *named == path),
                "{error}"
            );
        }
        assert_eq!(files_of(dir.path()), before, "nothing is changed");
        assert!(path.is_dir());
    }
}

#[test]
fn a_directory_that_is_missing_is_made_and_one_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    let (log, recovered) = open_real(&deep).unwrap();
    assert!(recovered.groups.is_empty());
    commit(&log, appended(1, 1..=1, 1, 10));
    drop(log);
    assert_eq!(open_real(&deep).unwrap().1.groups.len(), 1);
    // An empty one, made by hand, is as good.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(open_real(&empty).unwrap().1.groups.is_empty());
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open_real(&path).unwrap_err();
        assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn what_the_system_refuses_is_named_and_nothing_is_changed() {
    let disk = CrashDisk::new();
    let at = Path::new(DIR);
    let (log, _) = Log::open(Arc::new(disk.clone()), at, options()).unwrap();
    for index in 1..=30 {
        commit(&log, appended(1, index..=index, 1, 2000));
        log.prepare().unwrap();
    }
    drop(log);
    let cases = [
        (OpKind::List, DiskError::Denied, "Permission denied"),
        (OpKind::Open, DiskError::Denied, "Permission denied"),
        (OpKind::Open, DiskError::ReadOnly, "Read-only file system"),
        (
            OpKind::Open,
            DiskError::FilesOfProcess,
            "Too many open files",
        ),
        (
            OpKind::Open,
            DiskError::FilesOfSystem,
            "Too many open files in system",
        ),
        (OpKind::Read, DiskError::Device, "Input/output error"),
        (OpKind::Lock, DiskError::ReadOnly, "Read-only file system"),
        (OpKind::Lock, DiskError::Denied, "Permission denied"),
    ];
    for (kind, refusal, named) in cases {
        let mut refused = 0;
        for skip in 0..30 {
            let disk = disk.fork();
            let before = disk.fingerprint();
            disk.inject(Fault::new(kind, Effect::Fail(refusal)).after(skip));
            if let Err(error) = Log::open(Arc::new(disk.clone()), at, options()) {
                refused += 1;
                let text = error.to_string();
                assert!(matches!(error, OpenError::Io { .. }), "{kind:?}: {text}");
                assert!(
                    text.contains(named) && text.contains(DIR),
                    "{kind:?}: {text}"
                );
                assert!(skip > 0 || disk.fingerprint() == before, "{kind:?}: {text}");
            }
            disk.heal();
            let (log, _) = Log::open(Arc::new(disk.clone()), at, options()).unwrap();
            assert_eq!(log.bounds(GroupId(1)), Some((1, 30)), "{kind:?} {skip}");
            assert_eq!(
                log.read(GroupId(1), 30, 31, 0).unwrap(),
                [entry(1, 30, 1, 2000)]
            );
        }
        assert!(refused > 0, "{kind:?} {refusal:?}");
    }
}
