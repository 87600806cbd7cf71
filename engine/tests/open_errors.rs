//! What a user can get wrong when opening a node: every mistake gets an error of its own that names what is wrong and what
//! to do, changes nothing on disk, and is over as soon as the mistake is put right, with all data still there.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::free_addresses;
use quorate::transport::tcp::TcpError;
use quorate::{
    Builder, Clerk, Cluster, Consistency, Db, Error, GROUPS_MAX, KEY_BYTES_MAX, NodeId, OpenError,
    Options, VALUE_BYTES_MAX, WriteBatch,
};
use tempfile::TempDir;

/// Names the directory that a child process is to open.
const CHILD_DIR: &str = "QUORATE_TEST_CHILD_DIR";

#[test]
fn a_second_opener_in_this_process_is_turned_away() {
    let home = Home::new();
    let db = home.builder().open().expect("the first opener");
    let error = Home::refused(home.builder());
    assert!(
        matches!(error, OpenError::Log(quorate_wal::OpenError::Locked { .. })),
        "{error:?}"
    );
    assert_says(&error, &["in use", "stop"]);
    db.put("after", "1").expect("the first opener goes on");
    db.close();
    // A handle that is left over keeps nothing locked.
    home.is_intact();
    drop(db);
}

#[test]
fn a_second_opener_in_another_process_is_turned_away() {
    let home = Home::new();
    let db = home.builder().open().expect("the first opener");
    let open_in_child = || {
        let mut child = Command::new(std::env::current_exe().expect("this program has a file"));
        child.args([
            "--ignored",
            "--exact",
            "child_opens",
            "--nocapture",
            "--test-threads=1",
        ]);
        let output = child
            .env(CHILD_DIR, &home.dir)
            .output()
            .expect("this program starts again");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = open_in_child();
    assert!(
        said.contains("refused: ") && said.contains("in use by another process"),
        "{said}"
    );
    db.put("after", "1").expect("the first opener goes on");
    drop(db);
    let said = open_in_child();
    assert!(said.contains("opened: Some(b\"v\")"), "{said}");
    home.is_intact();
}

#[test]
#[ignore = "started by a_second_opener_in_another_process_is_turned_away in a process of its own"]
fn child_opens() {
    let dir = std::env::var_os(CHILD_DIR).expect("the parent names a directory");
    match Db::open(dir) {
        Ok(db) => println!("opened: {:?}", db.get("k").expect("one node leads itself")),
        Err(error) => println!("refused: {error}"),
    }
}

#[test]
fn only_a_node_that_is_alone_may_go_on_without_what_was_damaged() {
    let home = Home::new();
    let mut accepting = Options::default();
    accepting.log.accept_damage = true;
    let [own, other] = free_addresses();
    let member = home
        .builder()
        .cluster([(1, own), (2, other)])
        .options(accepting.clone());
    let error = Home::refused(member);
    assert!(
        matches!(error, OpenError::AcceptsDamage { members: 2, .. }),
        "{error:?}"
    );
    assert_says(
        &error,
        &["accept_damage", "count on", "without that option"],
    );
    home.is_intact();
    let alone = home.builder().options(accepting).open();
    let db = alone.expect("nobody counts on it");
    assert_eq!(db.get("k").expect("readable").as_deref(), Some(&b"v"[..]));
}

/// What an option or an error holds can be named with this crate alone.
#[test]
fn what_is_matched_on_has_a_name_here() {
    let mut options = Options::default();
    options.log.durability = quorate::Durability::ProcessCrash;
    let home = Home::new();
    let db = home.builder().options(options).open().expect("it opens");
    let stats = db.stats();
    let (_, health): (quorate::LogStats, _) = (stats.log, stats.health);
    assert_eq!(health, quorate::LogHealth::Healthy);
    let error = db.put("k".repeat(KEY_BYTES_MAX + 1), "v");
    let Err(Error::TooLarge(quorate::TooLarge { limit, .. })) = error else {
        panic!("{error:?}");
    };
    assert_eq!(limit, KEY_BYTES_MAX);
    let second = Home::refused(home.builder());
    assert!(matches!(
        second,
        OpenError::Log(quorate::LogOpenError::Locked { .. })
    ));
}

#[test]
fn whose_a_directory_is_is_checked() {
    let home = Home::new();
    let error = Home::refused(home.builder().node(2));
    let (found, expected) = (NodeId(1), NodeId(2));
    assert!(
        matches!(&error, OpenError::WrongNode { found: f, expected: e, .. } if (*f, *e) == (found, expected))
    );
    assert_says(&error, &["node 1", "node 2", "open it under its own id"]);

    let error = Home::refused(home.builder().cluster_id(0xBEEF));
    assert!(
        matches!(
            error,
            OpenError::WrongCluster {
                expected: 0xBEEF,
                ..
            }
        ),
        "{error:?}"
    );
    assert_says(&error, &["0x000000000000beef", "cluster_id(0x"]);

    let error = Home::refused(home.builder().groups(3));
    assert!(matches!(error, OpenError::WrongShape { .. }), "{error:?}");
    assert_says(
        &error,
        &["1 groups", "3 groups", "pass what it was made with"],
    );
}

#[test]
fn members_and_addresses_are_checked() {
    let root = tempfile::tempdir().expect("a directory");
    let [here, there, elsewhere] = free_addresses();
    let open = |nodes: Vec<(u64, &String)>| {
        let nodes = nodes
            .into_iter()
            .map(|(node, address)| (node, address.clone()));
        Db::builder(root.path()).cluster(nodes).open()
    };
    drop(open(vec![(1, &here)]).expect("fresh"));
    drop(open(vec![(1, &there)]).expect("an address is no part of what a node is"));
    let error = open(vec![(1, &here), (2, &elsewhere)]).expect_err("another member");
    assert!(matches!(error, OpenError::WrongShape { .. }), "{error:?}");
    assert_says(&error, &["[1]", "[1, 2]"]);
}

#[test]
fn what_the_builder_is_told_is_checked() {
    let home = Home::new();
    for groups in [0, GROUPS_MAX + 1] {
        let error = Home::refused(home.builder().groups(groups));
        assert!(matches!(error, OpenError::Groups { .. }), "{error:?}");
        assert_says(&error, &[&groups.to_string(), "from 1 to 65536"]);
    }
    let twice = [(1, "127.0.0.1:1"), (2, "127.0.0.1:2"), (2, "127.0.0.1:3")];
    let error = Home::refused(home.builder().cluster(twice));
    assert!(
        matches!(error, OpenError::DuplicateNode { id: NodeId(2) }),
        "{error:?}"
    );
    assert_says(&error, &["node 2", "twice"]);

    let error = Home::refused(
        home.builder()
            .node(7)
            .cluster([(1, "127.0.0.1:1"), (2, "127.0.0.1:2")]),
    );
    assert!(
        matches!(error, OpenError::OwnIdMissing { id: NodeId(7) }),
        "{error:?}"
    );
    assert_says(&error, &["node 7", "add it"]);

    let error = Home::refused(home.builder().node(0));
    assert!(matches!(error, OpenError::Options { .. }), "{error:?}");
    assert_says(&error, &["node ids must be above zero"]);

    // It opened, and then no node let another one in.
    let error = Home::refused(home.builder().cluster_id(0));
    assert!(matches!(error, OpenError::ClusterIdZero), "{error:?}");
    assert_says(&error, &["cluster id 0", "pass a number above zero"]);

    for nodes in [0, 16] {
        let error = Cluster::in_memory(nodes).expect_err("too few or too many nodes");
        assert!(matches!(error, OpenError::Options { .. }), "{error:?}");
        assert_says(&error, &[&format!("{nodes} nodes"), "from 1 to 15"]);
    }
}

#[test]
fn options_out_of_range_are_named() {
    type Change = fn(&mut Options);
    let home = Home::new();
    let cases: [(&str, Change); 23] = [
        ("heartbeat_interval", |o| {
            o.heartbeat_interval = Duration::ZERO;
        }),
        ("election_timeout", |o| {
            o.election_timeout = o.heartbeat_interval * 2;
        }),
        ("clock_drift_percent", |o| o.clock_drift_percent = 100),
        ("workers", |o| o.workers = 0),
        ("workers", |o| o.workers = 257),
        ("outstanding_max", |o| o.outstanding_max = 0),
        ("outstanding_max", |o| o.outstanding_max = 1 << 20),
        ("sessions_max", |o| o.sessions_max = 0),
        ("queue_max", |o| o.queue_max = 0),
        ("inflight_messages_max", |o| o.inflight_messages_max = 0),
        ("byte windows", |o| o.append_bytes_max = 0),
        ("byte windows", |o| o.uncommitted_bytes_max = 0),
        ("snapshot_step_bytes", |o| o.snapshot_step_bytes = 0),
        ("snapshot_step_bytes", |o| o.snapshot_step_bytes = 1 << 30),
        ("snapshot_bytes_per_s", |o| o.snapshot_bytes_per_s = Some(0)),
        ("byte windows", |o| o.inflight_bytes_max = 0),
        ("segment sizes", |o| o.log.segment_bytes_min = 4096),
        ("segment sizes", |o| o.log.segment_bytes_max += 1),
        ("segment_bytes_max", |o| {
            o.log.segment_bytes_max = o.log.segment_bytes_min / 2;
        }),
        ("segment_bytes_max", |o| o.log.segment_bytes_max = 256 << 20),
        ("entry_bytes_max", |o| o.log.entry_bytes_max = 1023),
        ("batch_bytes_max", |o| {
            o.log.batch_bytes_max = o.log.entry_bytes_max - 1;
        }),
        ("queue_bytes_max", |o| {
            o.log.queue_bytes_max = o.log.batch_bytes_max - 1;
        }),
    ];
    for (name, change) in cases {
        let mut options = Options::default();
        change(&mut options);
        let error = Home::refused(home.builder().options(options));
        let typed = matches!(
            error,
            OpenError::Options { .. } | OpenError::Log(quorate_wal::OpenError::Options { .. })
        );
        assert!(typed, "{name}: {error:?}");
        assert_says(&error, &[name]);
    }
}

#[test]
fn a_path_that_is_no_directory_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("file");
    fs::write(&file, "mine").expect("a file");
    for path in [file.clone(), file.join("below")] {
        let error = Db::open(&path).expect_err("a file");
        let typed = matches!(
            error,
            OpenError::Log(quorate_wal::OpenError::NotADirectory { .. })
        );
        assert!(typed, "{}: {error:?}", path.display());
        assert_says(
            &error,
            &["file", "is not a directory", "directory of its own"],
        );
    }
    assert_eq!(fs::read(&file).expect("it is still there"), b"mine");
}

#[test]
fn a_file_in_the_place_of_a_folder_is_named_and_nothing_is_lost() {
    for folder in ["wal", "snap"] {
        let home = Home::new();
        let (place, aside) = (home.dir.join(folder), home.dir.join("aside"));
        fs::rename(&place, &aside).expect("the folder moves");
        fs::write(&place, "").expect("a file takes its place");
        let error = Home::refused(home.builder());
        assert_says(&error, &[folder]);
        fs::remove_file(&place).expect("the file goes");
        fs::rename(&aside, &place).expect("the folder comes back");
        home.is_intact();
    }
}

#[test]
fn a_folder_in_the_place_of_a_file_is_named_and_nothing_is_lost() {
    for file in ["IDENTITY", "LOCK"] {
        let home = Home::new();
        let (place, aside) = (home.dir.join(file), home.dir.join("aside"));
        fs::rename(&place, &aside).expect("the file moves");
        fs::create_dir(&place).expect("a folder takes its place");
        let error = Home::refused(home.builder());
        assert!(matches!(error, OpenError::Io { .. }), "{file}: {error:?}");
        assert_says(&error, &[home.dir.to_str().expect("the name is text")]);
        fs::remove_dir(&place).expect("the folder goes");
        fs::rename(&aside, &place).expect("the file comes back");
        home.is_intact();
    }
}

#[test]
fn files_that_may_not_be_written_are_named_and_nothing_is_lost() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let may = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    };
    let identity = home.dir.join("IDENTITY");
    may(&identity, 0);
    if fs::read(&identity).is_ok() {
        eprintln!("skipped: this user reads and writes whatever it likes, as root does");
        may(&identity, 0o644);
        return home.is_intact();
    }
    for path in [identity, segment(&home.dir)] {
        may(&path, 0);
        let error = Home::refused(home.builder());
        assert_says(
            &error,
            &[path.to_str().expect("the name is text"), "ermission denied"],
        );
        may(&path, 0o644);
    }
    home.is_intact();
}

#[test]
fn a_newer_identity_is_named_with_both_versions() {
    let home = Home::new();
    let path = home.dir.join("IDENTITY");
    let good = fs::read(&path).expect("it was written");
    let mut newer = good.clone();
    newer[8..10].copy_from_slice(&9_u16.to_le_bytes());
    fs::write(&path, newer).expect("writable");
    let error = Home::refused(home.builder());
    assert!(
        matches!(
            error,
            OpenError::Version {
                found: 9,
                supported: 2,
                ..
            }
        ),
        "{error:?}"
    );
    assert_says(&error, &["IDENTITY", "version 9", "up to 2", "newer build"]);
    fs::write(&path, good).expect("writable");
    home.is_intact();
}

#[test]
fn a_newer_segment_is_named_with_both_versions() {
    let home = Home::new();
    let path = segment(&home.dir);
    let good = fs::read(&path).expect("it was written");
    let mut newer = good.clone();
    newer[8..10].copy_from_slice(&7_u16.to_le_bytes());
    // The checksum covers the segment's number, as a word, and the block before the checksum itself.
    let name = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .expect("named by number");
    let number = u64::from_str_radix(name, 16).expect("named by number");
    let mut covered = number.to_le_bytes().to_vec();
    covered.extend_from_slice(&newer[..4092]);
    newer[4092..4096].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
    fs::write(&path, newer).expect("writable");
    let error = Home::refused(home.builder());
    let typed = matches!(
        error,
        OpenError::Log(quorate_wal::OpenError::Version {
            found: 7,
            supported: 1,
            ..
        })
    );
    assert!(typed, "{error:?}");
    assert_says(&error, &[name, "version 7", "up to 1", "newer build"]);
    fs::write(&path, good).expect("writable");
    home.is_intact();
}

#[test]
fn a_damaged_identity_is_named_and_data_without_one_is_not_claimed() {
    let home = Home::new();
    let path = home.dir.join("IDENTITY");
    let good = fs::read(&path).expect("it was written");
    let flipped = {
        let mut bytes = good.clone();
        *bytes.last_mut().expect("not empty") ^= 1;
        bytes
    };
    for bad in [
        Vec::new(),
        b"garbage".repeat(100),
        good[..good.len() - 1].to_vec(),
        flipped,
    ] {
        fs::write(&path, &bad).expect("writable");
        let error = Home::refused(home.builder());
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert_says(&error, &["IDENTITY", "restore it from a copy"]);
    }
    fs::remove_file(&path).expect("writable");
    let error = Home::refused(home.builder());
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert_says(&error, &["holds data but no identity"]);
    fs::write(&path, good).expect("writable");
    home.is_intact();
}

/// A node that forgot its vote may vote a second time in one term.
#[test]
fn an_identity_whose_log_is_gone_is_not_taken_for_a_new_node() {
    let home = Home::new();
    let (log, aside) = (home.dir.join("wal"), home.dir.join("aside"));
    fs::rename(&log, &aside).expect("the log moves");
    let refuse = |what: &str| {
        let error = Home::refused(home.builder());
        assert!(matches!(error, OpenError::LogMissing { .. }), "{error:?}");
        assert_says(&error, &["wal", what, "put the log back", "vote"]);
        // Nor the next time.
        let again = Home::refused(home.builder());
        assert!(matches!(again, OpenError::LogMissing { .. }), "{again:?}");
    };
    refuse("does not exist");
    fs::create_dir(&log).expect("an empty folder takes its place");
    refuse("is empty");
    fs::write(log.join("LOCK"), "").expect("writable");
    refuse("holds no log");
    for name in ["MANIFEST-a", "0000000000000001.seg"] {
        fs::write(log.join(name), vec![0; 64 << 10]).expect("writable");
        refuse("holds no log that was ever written to");
    }
    fs::remove_dir_all(&log).expect("writable");
    fs::rename(&aside, &log).expect("the log comes back");
    home.is_intact();
}

#[test]
fn a_log_whose_only_segment_is_gone_is_not_taken_for_a_new_one() {
    let home = Home::new();
    let path = segment(&home.dir);
    let aside = home.dir.join("aside");
    fs::rename(&path, &aside).expect("the segment moves");
    let error = Home::refused(home.builder());
    assert_says(&error, &["is missing", "put the file back"]);
    fs::rename(&aside, &path).expect("the segment comes back");
    home.is_intact();
}

#[test]
fn an_address_that_is_taken_is_named_and_the_directory_can_be_opened_afterwards() {
    let root = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it listens").to_string();
    let builder = || Db::builder(root.path()).cluster([(1, address.clone())]);
    let error = builder().open().expect_err("the port is taken");
    let typed = matches!(
        error,
        OpenError::Bind { .. } | OpenError::Transport(TcpError::Listen { .. })
    );
    assert!(typed, "{error:?}");
    assert_says(&error, &[&address, "free port"]);
    drop(taken);
    let db = builder()
        .open()
        .expect("the port is free, the directory unlocked");
    db.put("k", "v").expect("one node leads itself");
}

#[test]
fn a_clerk_says_of_every_address_why_it_leads_nowhere() {
    let [nobody] = free_addresses();
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = stranger.local_addr().expect("it listens").to_string();
    let error = Clerk::connect([nobody.clone(), silent.clone()]).expect_err("nobody is there");
    assert!(
        matches!(error, OpenError::Transport(TcpError::Unreachable { .. })),
        "{error:?}"
    );
    assert_says(&error, &[&nobody, &silent]);
}

#[test]
fn what_is_too_large_is_refused_by_name_and_harms_nothing() {
    let home = Home::new();
    let db = home.builder().open().expect("it opens");
    let long_key = vec![b'k'; KEY_BYTES_MAX + 1];
    let long_value = vec![b'v'; VALUE_BYTES_MAX + 1];
    let many = |mut batch: WriteBatch, count| {
        for step in 0..count {
            batch = batch.put(format!("step/{step}"), "");
        }
        batch
    };
    let half = vec![b'v'; VALUE_BYTES_MAX];
    let cases = [
        (db.put(&long_key, ""), KEY_BYTES_MAX),
        (db.append(&long_key, "").map(drop), KEY_BYTES_MAX),
        (db.delete(&long_key).map(drop), KEY_BYTES_MAX),
        (db.put("large", &long_value), VALUE_BYTES_MAX),
        (db.append("large", &long_value).map(drop), VALUE_BYTES_MAX),
        (
            db.compare_and_swap("k", Some("v"), &long_value).map(drop),
            VALUE_BYTES_MAX,
        ),
        (
            db.write_batch(WriteBatch::new().put("large", &long_value))
                .map(drop),
            VALUE_BYTES_MAX,
        ),
        (
            db.write_batch(WriteBatch::new().put("a", &half).put("b", &half))
                .map(drop),
            quorate_kv::BATCH_BYTES_MAX,
        ),
        (
            db.write_batch(many(WriteBatch::new(), quorate_kv::BATCH_STEPS_MAX + 1))
                .map(drop),
            quorate_kv::BATCH_STEPS_MAX,
        ),
    ];
    for (place, (result, limit)) in cases.into_iter().enumerate() {
        let Err(Error::TooLarge(error)) = result else {
            panic!("case {place}: {result:?}")
        };
        assert_eq!(error.limit, limit, "case {place}: {error}");
        assert!(
            error.to_string().contains(&limit.to_string()),
            "case {place}: {error}"
        );
    }
    // Nor is anybody asked for a key that cannot be there.
    let reads = [
        db.get(&long_key).map(drop),
        db.get_with(&long_key, Consistency::Stale).map(drop),
        db.prefix(&long_key, 1).map(drop),
        db.scan(long_key.clone().., 1).map(drop),
        db.scan(..long_key.clone(), 1).map(drop),
    ];
    for (place, result) in reads.into_iter().enumerate() {
        let is_refused = matches!(result, Err(Error::TooLarge(it)) if it.limit == KEY_BYTES_MAX);
        assert!(is_refused, "read {place}: {result:?}");
    }
    // A value may not grow over the limit by appends either.
    db.put("grown", &half).expect("just within the limit");
    let error = db.append("grown", "x").expect_err("one byte too many");
    assert!(
        matches!(error, Error::TooLarge(e) if e.limit == VALUE_BYTES_MAX),
        "{error:?}"
    );
    assert_eq!(
        db.get("grown").expect("readable").map(|value| value.len()),
        Some(VALUE_BYTES_MAX)
    );
    assert_eq!(
        db.count().expect("readable"),
        2,
        "nothing of what was refused is there"
    );
    drop(db);
    home.is_intact();
}

#[test]
fn the_log_s_own_entry_limit_refuses_one_write_and_no_other() {
    let home = Home::new();
    let mut options = Options::default();
    options.log.entry_bytes_max = 4096;
    let db = home.builder().options(options).open().expect("it opens");
    let before = db.put_async("before", "1");
    let large = db.put_async("large", vec![0; 8192]);
    let after = db.put_async("after", "1");
    before.wait().expect("not concerned");
    let error = large.wait().expect_err("over the limit of an entry");
    assert!(
        matches!(error, Error::TooLarge(e) if e.limit == 4096),
        "{error:?}"
    );
    after.wait().expect("not concerned");
    assert_eq!(db.get("large"), Ok(None));
    drop(db);
    home.is_intact();
}

/// At the first start: nothing is left of it that would look like a node's directory.
#[test]
fn who_is_left_out_is_checked_before_anything_is_made() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("data");
    let [one, two, three] = free_addresses();
    let builder =
        || Db::builder(&dir).cluster([(1, one.clone()), (2, two.clone()), (3, three.clone())]);
    for (without, says) in [
        (vec![9], "node 9 cannot be left out"),
        (vec![1], "node 1 cannot be left out"),
        (vec![2, 3], "a majority must be left"),
    ] {
        let error = Home::refused(builder().without_founders(without));
        assert!(matches!(error, OpenError::Options { .. }), "{error:?}");
        assert_says(&error, &[says]);
        assert!(!dir.exists(), "{error}: the directory was made");
    }
    drop(builder().without_founders([3]).open().expect("it opens"));
}

/// A directory that holds one key of a node that is not running.
struct Home {
    dir: PathBuf,
    _root: TempDir,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("data");
        let home = Self { dir, _root: root };
        home.builder()
            .open()
            .expect("fresh")
            .put("k", "v")
            .expect("one node leads itself");
        home
    }

    fn builder(&self) -> Builder {
        Db::builder(&self.dir)
    }

    /// Opens as told, which must fail, with a message of one line.
    fn refused(builder: Builder) -> OpenError {
        let error = builder.open().expect_err("this must not open");
        let text = error.to_string();
        assert!(!text.contains('\n') && text.len() < 1000, "{text}");
        error
    }

    fn is_intact(&self) {
        let db = self.builder().open().expect("nothing is wrong any more");
        assert_eq!(db.get("k").expect("readable").as_deref(), Some(&b"v"[..]));
        db.put("again", "1").expect("writable");
    }
}

/// The only segment with anything in it.
fn segment(dir: &Path) -> PathBuf {
    let names = fs::read_dir(dir.join("wal")).expect("the log is there");
    let mut used: Vec<PathBuf> = names
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .filter(|path| fs::read(path).expect("readable").starts_with(b"QRTSEG\r\n"))
        .collect();
    used.sort();
    used.pop().expect("a segment is in use")
}

fn assert_says(error: &OpenError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}
