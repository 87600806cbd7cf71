//! Looking into a log: what is printed, exit codes, and that nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_wal::{Entry, GroupId, Log, LogOptions, RealDisk, Snapshots, WriteBatch};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::free_ports;
use crate::run::{Finished, Node, quorate};

const SOUND: Option<i32> = Some(0);
const DAMAGED: Option<i32> = Some(1);
const UNKNOWN: Option<i32> = Some(2);

/// The directory of a node, as far as its log goes: full segments with an index, one that is written to, and a snapshot.
fn sample() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    for index in 1..=200 {
        let mut batch = append(1, index, 900);
        if index % 5 == 0 {
            batch.append(GroupId(2), vec![entry(index / 5, 40)]);
        }
        log.submit(batch).unwrap();
        while log.prepare().is_ok() && log.drive().unwrap() != quorate_wal::Drove::Idle {}
    }
    let snapshots = Snapshots::open(Arc::new(RealDisk), &dir.path().join("snap")).unwrap();
    let mut writer = snapshots.create(GroupId(1), 150, 1, 1).unwrap();
    writer.write(b"what the entries made").unwrap();
    let mut batch = WriteBatch::new();
    batch.set_snapshot(GroupId(1), writer.finish().unwrap());
    batch.compact(GroupId(1), 3);
    log.submit(batch).unwrap();
    while log.prepare().is_ok() && log.drive().unwrap() != quorate_wal::Drove::Idle {}
    dir
}

fn open(node: &Path) -> (Arc<Log>, quorate_wal::Recovered) {
    let mut options = LogOptions::default();
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 256 << 10;
    Log::open(Arc::new(RealDisk), &node.join("wal"), options).unwrap()
}

fn append(group: u64, index: u64, len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.append(GroupId(group), vec![entry(index, len)]);
    batch
}

fn entry(index: u64, len: usize) -> Entry {
    let text = format!("entry {index}, ").repeat(len);
    Entry {
        index,
        term: 1 + index / 90,
        kind: 0,
        payload: quorate::Bytes::from(text).slice(..len),
    }
}

fn run(command: &[&str], dir: &Path) -> Finished {
    quorate(&[command, &[dir.to_str().unwrap()]].concat())
}

fn parsed(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// Every file below a directory, with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The segment that holds an entry of group 1, and where its payload begins.
fn payload(dir: &Path, index: u64) -> (PathBuf, usize) {
    let text = format!("entry {index}, entry {index}, ");
    files(&dir.join("wal"))
        .into_iter()
        .find_map(|(path, bytes)| {
            let mut windows = bytes.windows(text.len());
            Some((path, windows.position(|it| it == text.as_bytes())?))
        })
        .unwrap()
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 4;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_sound_log_is_described_and_left_as_it_is() {
    let dir = sample();
    let before = files(dir.path());
    let inspected = run(&["inspect"], dir.path());
    assert_eq!(inspected.code, SOUND, "{inspected:?}");
    for named in [
        "indexed",
        "active",
        "the newest",
        "150 (21 B)",
        "2 groups",
        "no damage",
    ] {
        assert!(
            inspected.stdout.contains(named),
            "{named}: {}",
            inspected.stdout
        );
    }
    assert!(!inspected.stdout.contains("in use"), "{}", inspected.stdout);
    let verified = run(&["verify"], dir.path());
    assert_eq!(verified.code, SOUND, "{verified:?}");
    assert!(
        verified.stdout.ends_with("\nsound\n"),
        "{}",
        verified.stdout
    );
    assert!(
        verified.stdout.contains("1 snapshot"),
        "{}",
        verified.stdout
    );
    assert_eq!(verified.stderr, "", "no progress where no terminal is");
    let planned = run(&["repair", "--dry-run"], dir.path());
    assert_eq!(planned.code, SOUND, "{planned:?}");
    assert!(
        planned.stdout.contains("the next start opens the log"),
        "{}",
        planned.stdout
    );
    assert!(
        planned.stdout.ends_with("nothing was changed\n"),
        "{}",
        planned.stdout
    );
    // Named by the directory of the log, the snapshots are not there to be checked.
    let verified = run(&["verify"], &dir.path().join("wal"));
    assert_eq!(verified.code, SOUND, "{verified:?}");
    assert!(
        verified.stdout.contains("no snapshots"),
        "{}",
        verified.stdout
    );
    assert_eq!(files(dir.path()), before);
}

#[test]
fn programs_read_the_same() {
    let dir = sample();
    let inspected = parsed(&run(&["inspect", "--json"], dir.path()));
    assert_eq!(inspected["in_use"], false);
    assert_eq!(inspected["groups"][0]["group"], 1);
    assert_eq!(inspected["groups"][0]["first_index"], 3);
    assert_eq!(inspected["groups"][0]["last_index"], 200);
    assert_eq!(inspected["groups"][0]["snapshot"]["index"], 150);
    assert_eq!(
        inspected["groups"][0]["terms"],
        serde_json::json!([[3, 1], [90, 2], [180, 3]])
    );
    let segment = &inspected["segments"][0];
    let id = format!("{:x}", segment["id"].as_u64().unwrap());
    let listed = run(&["inspect", "--batches", &id], dir.path());
    assert_eq!(listed.code, SOUND, "{listed:?}");
    let batches = segment["batches"].as_u64().unwrap() as usize;
    assert_eq!(
        listed.stdout.lines().count(),
        1 + batches,
        "{}",
        listed.stdout
    );
    let listed = parsed(&run(&["inspect", "--json", "--batches", &id], dir.path()));
    assert_eq!(listed["batches"].as_array().unwrap().len(), batches);
    let verified = parsed(&run(&["verify", "--json"], dir.path()));
    assert_eq!(verified["is_sound"], true);
    assert_eq!(verified["snapshots"], 1);
    // A file that was being made ready, and is smaller than a node makes them.
    let unused = dir.path().join("wal").join("00000000000000ff.seg");
    std::fs::write(unused, vec![0; 4096]).unwrap();
    let planned = parsed(&run(&["repair", "--dry-run", "--json"], dir.path()));
    assert_eq!(planned["steps"][0]["kind"], "delete");
    let verified = parsed(&run(&["verify", "--json"], dir.path()));
    assert_eq!(planned["verification"], verified);
}

#[test]
fn damage_is_named_with_what_it_costs_and_what_to_do() {
    let dir = sample();
    let (file, offset) = payload(dir.path(), 7);
    flip(&file, offset);
    let verified = run(&["verify"], dir.path());
    assert_eq!(verified.code, DAMAGED, "{verified:?}");
    let named = format!(
        "damaged payload in {} at {offset}, g1, entries 7 to 7",
        file.display()
    );
    for named in [
        &named,
        "entries are lost",
        "rebuilt from its peers",
        "the log opens as it is",
    ] {
        assert!(
            verified.stdout.contains(named),
            "{named}: {}",
            verified.stdout
        );
    }
    let verified = parsed(&run(&["verify", "--json"], dir.path()));
    assert_eq!(verified["problems_total"], 1);
    let damage = &verified["problems"][0]["damage"];
    assert_eq!(damage["offset"], offset);
    assert_eq!(
        (&damage["group"], &damage["indexes"]),
        (&1.into(), &[7, 7][..].into())
    );
    let planned = run(&["repair", "--dry-run"], dir.path());
    assert_eq!(planned.code, DAMAGED, "{planned:?}");
    assert!(
        planned.stdout.contains("entries 7 to 7 of group 1"),
        "{}",
        planned.stdout
    );
    let id = file.file_name().unwrap().to_str().unwrap();
    let listed = run(&["inspect", "--batches", id], dir.path());
    assert_eq!(listed.code, DAMAGED, "{listed:?}");
    assert!(
        listed.stdout.contains("damaged payloads of 1 entry"),
        "{}",
        listed.stdout
    );
}

/// The log is whole, and the node cannot serve from it.
#[test]
fn a_damaged_snapshot_is_not_hidden_behind_a_log_that_opens() {
    let dir = sample();
    let group = dir.path().join("snap/0000000000000001");
    let file = files(&group).into_keys().next().unwrap();
    flip(&file, 70);
    let verified = run(&["verify"], dir.path());
    assert_eq!(verified.code, DAMAGED, "{verified:?}");
    let last = verified.stdout.lines().last().unwrap();
    assert!(
        last.starts_with(
            "1 PROBLEM; the log opens as it is, but the snapshot of group 1 is damaged"
        ),
        "{last}"
    );
    let planned = run(&["repair", "--dry-run"], dir.path());
    assert!(
        planned
            .stdout
            .contains("the log can be read, but the snapshot of group 1"),
        "{}",
        planned.stdout
    );
    let verified = parsed(&run(&["verify", "--json"], dir.path()));
    assert_eq!(verified["opens"], true);
    assert_eq!(verified["unrestorable_groups"], serde_json::json!([1]));
}

#[test]
fn rot_in_an_entry_that_is_not_in_the_log_any_more_pages_nobody() {
    let dir = sample();
    let (file, offset) = payload(dir.path(), 2);
    flip(&file, offset);
    let verified = run(&["verify"], dir.path());
    assert_eq!(verified.code, SOUND, "{verified:?}");
    let note = format!(
        "note: damaged payload in {} at {offset}, g1, entries 2 to 2: not in the log any more",
        file.display()
    );
    assert!(verified.stdout.contains(&note), "{}", verified.stdout);
    assert!(verified.stdout.ends_with("sound\n"), "{}", verified.stdout);
    let verified = parsed(&run(&["verify", "--json"], dir.path()));
    assert_eq!(verified["problems_total"], 0);
    let mut notes = verified["notes"].as_array().unwrap().iter();
    assert!(notes.any(|note| note["kind"] == "superseded"));
}

#[test]
fn a_damaged_slot_of_the_manifest_is_a_note() {
    for name in ["MANIFEST-a", "MANIFEST-b"] {
        let dir = sample();
        let slot = dir.path().join("wal").join(name);
        flip(&slot, 29);
        let verified = run(&["verify"], dir.path());
        assert_eq!(verified.code, SOUND, "{verified:?}");
        let note = format!("note: {} is not whole", slot.display());
        assert!(verified.stdout.contains(&note), "{}", verified.stdout);
        let inspected = run(&["inspect"], dir.path());
        assert_eq!(inspected.code, SOUND, "{inspected:?}");
        let named = format!("{name}: ");
        let mut lines = inspected.stdout.lines();
        let line = lines.find(|line| line.starts_with(&named)).unwrap();
        assert!(!line.contains("generation"), "{line}");
        open(dir.path());
    }
}

#[test]
fn a_log_that_does_not_open_is_looked_into_all_the_same() {
    let dir = sample();
    let (file, _) = payload(dir.path(), 50);
    fs::remove_file(&file).unwrap();
    let before = files(dir.path());
    let missing = format!("missing segment in {}", file.display());
    for command in [&["inspect"][..], &["verify"], &["repair", "--dry-run"]] {
        let finished = run(command, dir.path());
        assert_eq!(finished.code, DAMAGED, "{finished:?}");
        assert!(
            finished.stdout.contains(&missing),
            "{command:?}: {}",
            finished.stdout
        );
    }
    let planned = run(&["repair", "--dry-run"], dir.path());
    assert!(
        planned.stdout.contains("the next start is refused"),
        "{}",
        planned.stdout
    );
    assert!(
        planned.stdout.contains("put the file back"),
        "{}",
        planned.stdout
    );
    assert_eq!(files(dir.path()), before);
}

#[test]
fn where_no_answer_is_found_the_reason_is() {
    let dir = sample();
    let empty = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("notes.txt"), "x").unwrap();
    let newer = sample();
    let (segment, _) = payload(newer.path(), 50);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 9;
    let id = u64::from_str_radix(segment.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    let crc = crc(&[&id.to_le_bytes(), &bytes[..4092]].concat());
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, bytes).unwrap();
    let cases = [
        (dir.path().join("gone"), "does not exist"),
        (other.path().join("notes.txt"), "is not a directory"),
        (empty.path().to_owned(), "is empty"),
        (other.path().to_owned(), "holds no log"),
        (
            newer.path().to_owned(),
            "has format version 9, but this build reads up to 1",
        ),
    ];
    for (path, named) in cases {
        for command in [&["inspect"][..], &["verify"], &["repair", "--dry-run"]] {
            let finished = run(command, &path);
            assert_eq!(finished.code, UNKNOWN, "{finished:?}");
            assert!(finished.stderr.contains(named), "{finished:?}");
            assert!(finished.stderr.starts_with("quorate: "), "{finished:?}");
            assert_eq!(finished.stdout, "");
        }
    }
    let refused = run(&["repair"], dir.path());
    assert_eq!(refused.code, UNKNOWN, "{refused:?}");
    assert!(
        refused.stderr.contains("never repaired in place"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("--dry-run"), "{refused:?}");
    let refused = run(&["inspect", "--batches", "ffff"], dir.path());
    assert_eq!(refused.code, UNKNOWN, "{refused:?}");
    assert!(
        refused.stderr.contains("000000000000ffff.seg"),
        "{refused:?}"
    );
    let refused = run(&["inspect", "--batches", "xyz"], dir.path());
    assert_eq!(refused.code, UNKNOWN, "{refused:?}");
    assert!(refused.stderr.contains("hexadecimal"), "{refused:?}");
    assert_eq!(quorate(&["verify"]).code, UNKNOWN);
}

/// CRC-32 as the log uses it, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn the_log_of_a_running_node_is_looked_into_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let node_dir = dir.path().join("1");
    let port = free_ports()[0];
    let mut node = Node::start(1, &node_dir, &format!("1=127.0.0.1:{port}"));
    node.wait_for(&["leader in term"]);
    let connect = format!("127.0.0.1:{port}");
    let put = quorate(&["put", "key", "value", "--connect", &connect]);
    assert_eq!(put.code, Some(0), "{put:?}");
    for command in [&["inspect"][..], &["verify"], &["repair", "--dry-run"]] {
        let finished = run(command, &node_dir);
        assert_eq!(finished.code, SOUND, "{finished:?}");
        assert!(
            finished.stdout.contains("in use by a running process"),
            "{}",
            finished.stdout
        );
    }
    // It was not disturbed.
    let got = quorate(&["get", "key", "--connect", &connect]);
    assert_eq!(got.stdout, "value\n", "{got:?}");
    node.end_in_order();
    let verified = parsed(&run(&["verify", "--json"], &node_dir));
    assert_eq!(
        (&verified["in_use"], &verified["is_sound"]),
        (&false.into(), &true.into())
    );
    // The next segment may have been on the way, which is nothing to worry about; nothing else is noted.
    let notes = verified["notes"].as_array().unwrap();
    let is_of_next = |note: &Value| note["kind"] == "not_in_service";
    assert!(notes.iter().all(is_of_next), "{verified}");
}
