//! Logs of every format. The files in `golden` were written by the versions that they are named for.
//! To write those of the present version anew, after the format was changed on purpose before its
//! release, run these tests with `UPDATE_GOLDEN=1`.

use std::io::Write;
use std::sync::LazyLock;

use quorate_wal::*;

use crate::common::*;
use crate::*;

/// A log as `fill` makes it.
static LOG: LazyLock<PathBuf> = LazyLock::new(|| golden("log", fill));

/// The directory of a log that was written once, and is written anew if that is asked for.
fn golden(name: &str, write: impl FnOnce(&Path)) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let dir = all.join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _there_is_none = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        write(&dir);
        let _not_of_a_log = fs::remove_file(dir.join("LOCK"));
    }
    dir
}

#[test]
fn a_log_of_version_1_is_read() {
    let dir = copy(&LOG);
    let verification = verify(&RealDisk, dir.path(), None, &mut |_| ()).unwrap();
    assert!(verification.is_sound(), "{verification:#?}");
    assert!(
        in_service(dir.path())
            .iter()
            .any(|it| it.state == SegmentState::Indexed)
    );
    let opened = open_real(dir.path()).unwrap();
    assert_whole(&opened);
    // And it goes on in the present version.
    commit(&opened.0, appended(1, 161..=161, 7, 10));
    drop(opened);
    let (log, _) = open_real(dir.path()).unwrap();
    assert_eq!(
        log.read(GroupId(1), 161, 162, 0).unwrap(),
        [entry(1, 161, 7, 10)]
    );
}

#[test]
fn a_torn_log_of_version_1_is_read_up_to_where_it_was_torn() {
    let torn = golden("torn", |dir| {
        fill(dir);
        let (log, _) = open_real(dir).unwrap();
        let mut batch = WriteBatch::new();
        batch.set_state(GroupId(2), state());
        commit(&log, batch);
        commit(&log, appended(2, 17..=17, 6, 9000));
        drop(log);
        let active = in_service(dir).pop().unwrap();
        let mut bytes = fs::read(&active.file).unwrap();
        let end = active.used_bytes as usize;
        bytes[end - 2 * BLOCK..end].fill(0);
        fs::write(&active.file, bytes).unwrap();
    });
    let dir = copy(&torn);
    let opened = open_real(dir.path()).unwrap();
    assert_whole(&opened);
    assert_eq!(opened.1.report.torn_tail_bytes, 3 * BLOCK as u64);
}

#[test]
fn a_snapshot_of_version_1_is_read() {
    const CONTENT: &[u8] = b"what the machine was";
    let reference = |crc| SnapshotRef {
        index: 40,
        term: 1,
        id: 9,
        bytes: CONTENT.len() as u64,
        crc,
        ..SnapshotRef::default()
    };
    let name = "0000000000000028-0000000000000001-0000000000000009.snap";
    let written = golden("snapshot", |dir| {
        let snapshots = Snapshots::open(Arc::new(RealDisk), dir).unwrap();
        let mut writer = snapshots.create(GroupId(1), 40, 1, 9).unwrap();
        writer.write_all(CONTENT).unwrap();
        writer.finish().unwrap();
        let group = dir.join("0000000000000001");
        fs::rename(group.join(name), dir.join(name)).unwrap();
        fs::remove_dir(group).unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let group = dir.path().join("0000000000000001");
    fs::create_dir(&group).unwrap();
    let bytes = fs::read(written.join(name)).unwrap();
    fs::write(group.join(name), &bytes).unwrap();
    let snapshots = Snapshots::open(Arc::new(RealDisk), dir.path()).unwrap();
    let reference = reference(crc32fast::hash(CONTENT));
    snapshots.verify(GroupId(1), &reference).unwrap();
    let mut reader = snapshots.open_reader(GroupId(1), &reference).unwrap();
    assert_eq!(reader.read_at(0, CONTENT.len()).unwrap(), CONTENT);
    // A newer one is refused.
    let header = newer(&bytes[..64], &[]);
    fs::write(group.join(name), [&header, &bytes[64..]].concat()).unwrap();
    let error = snapshots.open_reader(GroupId(1), &reference).unwrap_err();
    assert!(
        matches!(
            error,
            SnapshotError::Version {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

/// A header, whose last four bytes are its CRC, of the next major version.
fn newer(header: &[u8], bound: &[u64]) -> Vec<u8> {
    let mut header = header.to_vec();
    let end = header.len() - 4;
    header[8..10].copy_from_slice(&2_u16.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    for number in bound {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&header[..end]);
    header[end..].copy_from_slice(&hasher.finalize().to_le_bytes());
    header
}

#[test]
fn a_log_of_a_newer_version_is_refused_with_both_numbers() {
    let segments = in_service(&LOG);
    for segment in &segments {
        let name = segment.file.file_name().unwrap();
        refuse_newer(Path::new(name), BLOCK, &[segment.id.0]);
    }
    for name in ["MANIFEST-a", "MANIFEST-b"] {
        refuse_newer(Path::new(name), 64, &[]);
    }
}

fn refuse_newer(name: &Path, header_bytes: usize, bound: &[u64]) {
    let dir = copy(&LOG);
    let path = dir.path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    let header = newer(&bytes[..header_bytes], bound);
    bytes[..header_bytes].copy_from_slice(&header);
    fs::write(&path, bytes).unwrap();
    let before = files_of(dir.path());
    for error in [
        open_real(dir.path()).unwrap_err(),
        inspect(&RealDisk, dir.path()).unwrap_err(),
        verify(&RealDisk, dir.path(), None, &mut |_| ()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            matches!(&error, OpenError::Version { path: it, .. } if *it == path),
            "{text}"
        );
        assert!(
            text.contains("version 2") && text.contains("up to 1"),
            "{text}"
        );
    }
    assert_eq!(files_of(dir.path()), before, "nothing is changed");
}
