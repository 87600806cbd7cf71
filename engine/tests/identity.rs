//! Who a node is: directories that were wiped, swapped, copied or put back, and clusters that begin.
//!
//! Whatever an operator does to directories, no write that was acknowledged is lost: who forgot what it promised is
//! refused by name, before it can do harm, and both sides say what to do.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{TRANSPORTS, durable, eventually, free_addresses, quick, settled};
use quorate::transport::Refused;
use quorate::transport::tcp::{CloseReason, TransportEvent};
use quorate::{
    Builder, Cluster, Db, Error, FoundingStatus, NodeId, Obstacle, OpenError, Options,
    TransportKind,
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Options of a cluster whose calls give up soon: long enough for an election, if there can be one.
fn impatient() -> Options {
    let mut options = quick();
    options.call_timeout = Duration::from_secs(3);
    options
}

/// Copies a directory of files and directories.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory is made");
    for entry in fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has one").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

fn wipe(dir: &Path) {
    fs::remove_dir_all(dir).expect("it can be removed");
}

fn founding(cluster: &Cluster, node: NodeId) -> FoundingStatus {
    cluster.db(node).expect("it runs").founding()
}

/// Waits until a node knows that another one refuses it, and why.
fn refusal(cluster: &Cluster, of: NodeId, by: NodeId) -> Refused {
    let find = || {
        let status = founding(cluster, of);
        status.refused_by.into_iter().find(|(node, _)| *node == by)
    };
    eventually("the node learns that it is refused", || find().is_some());
    find().expect("it was there").1
}

#[test]
fn a_node_that_was_wiped_is_refused_and_no_acknowledged_write_is_lost() {
    for transport in TRANSPORTS {
        let root = tempfile::tempdir().expect("a directory");
        let cluster = durable(root.path(), transport, impatient());
        let clerk = cluster.clerk();
        clerk.put("first", "1").expect("three nodes run");
        cluster.crash(THREE);
        clerk.put("precious", "money").expect("a majority runs");
        cluster.crash(ONE);
        cluster.crash(TWO);
        wipe(&root.path().join("2"));
        cluster.restart(TWO).expect("an empty directory opens");
        cluster.restart(THREE).expect("its own directory opens");

        let why = refusal(&cluster, TWO, THREE);
        assert!(
            matches!(why, Refused::OtherDirectory { node: TWO, .. }),
            "{why:?}"
        );
        assert!(
            why.to_string().contains("put its own directory back"),
            "{why}"
        );
        let status = founding(&cluster, TWO);
        assert!(!status.is_founded, "{status:?}");
        let error = clerk.put("other", "1").expect_err("nobody may lead");
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");

        cluster.restart(ONE).expect("its own directory opens");
        let value = clerk.get("precious").expect("nodes 1 and 3 are a majority");
        assert_eq!(value.as_deref(), Some(&b"money"[..]), "{transport:?}");
        clerk
            .put("after", "2")
            .expect("nodes 1 and 3 are a majority");
        assert!(!founding(&cluster, TWO).is_founded);
    }
}

#[test]
fn directories_that_were_swapped_are_refused_at_open() {
    let root = tempfile::tempdir().expect("a directory");
    let cluster = durable(root.path(), TransportKind::Memory, quick());
    cluster.clerk().put("k", "v").expect("three nodes run");
    for node in cluster.nodes() {
        cluster.crash(node);
    }
    let dir = |name: &str| root.path().join(name);
    fs::rename(dir("1"), dir("aside")).expect("it can be moved");
    fs::rename(dir("2"), dir("1")).expect("it can be moved");
    fs::rename(dir("aside"), dir("2")).expect("it can be moved");
    let error = cluster.restart(ONE).expect_err("it is that of node 2");
    assert!(
        matches!(error, OpenError::WrongNode { found: TWO, .. }),
        "{error:?}"
    );

    // The book alone, too.
    fs::copy(dir("1").join("PEERS"), dir("2").join("PEERS")).expect("it can be copied");
    fs::rename(dir("1"), dir("aside")).expect("it can be moved");
    fs::rename(dir("2"), dir("1")).expect("it can be moved");
    let error = cluster
        .restart(ONE)
        .expect_err("the book is that of node 2");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("PEERS"), "{error}");
    fs::remove_file(dir("1").join("PEERS")).expect("it can be removed");
    let error = cluster.restart(ONE).expect_err("the book is gone");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[test]
fn an_older_copy_is_refused_however_often_it_is_started() {
    for transport in TRANSPORTS {
        let root = tempfile::tempdir().expect("a directory");
        let cluster = durable(root.path(), transport, impatient());
        let clerk = cluster.clerk();
        let dir = |name: &str| root.path().join(name);
        clerk.put("k", "old").expect("three nodes run");
        cluster.crash(TWO);
        copy(&dir("2"), &dir("copy"));
        cluster.restart(TWO).expect("its own directory opens");
        // A peer that never met this start would take the copy for it: each is met, as the write needs it.
        for absent in [ONE, THREE] {
            cluster.crash(absent);
            clerk.put("k", "new").expect("two of three nodes run");
            cluster.restart(absent).expect("it opens");
        }
        cluster.crash(TWO);
        fs::rename(dir("2"), dir("newest")).expect("it can be moved");
        fs::rename(dir("copy"), dir("2")).expect("it can be moved");
        for start in 0..5 {
            cluster.restart(TWO).expect("a directory of node 2 opens");
            for by in [ONE, THREE] {
                let why = refusal(&cluster, TWO, by);
                let is_named = matches!(
                    why,
                    Refused::OlderCopy { node: TWO, .. } | Refused::SecondCopy { node: TWO, .. }
                );
                assert!(is_named, "start {start}: {why:?}");
                assert!(why.to_string().contains("directory"), "{why}");
            }
            cluster.crash(TWO);
        }
        clerk
            .put("k", "newer")
            .expect("nodes 1 and 3 are a majority");
        wipe(&dir("2"));
        fs::rename(dir("newest"), dir("2")).expect("it can be moved");
        cluster.restart(TWO).expect("its newest directory opens");
        cluster.crash(ONE);
        let value = clerk.get("k").expect("nodes 2 and 3 are a majority");
        assert_eq!(value.as_deref(), Some(&b"newer"[..]));
    }
}

/// The leader alone knew that the copy lacked a write that was acknowledged: it told the node so, or had entries refused by it.
/// Then it was gone, and the copy elected another one without the write.
#[test]
fn a_copy_that_a_peer_knew_better_loses_nothing_when_that_peer_is_gone() {
    for (transport, waits) in TRANSPORTS
        .into_iter()
        .flat_map(|it| [(it, false), (it, true)])
    {
        let root = tempfile::tempdir().expect("a directory");
        let cluster = durable(root.path(), transport, impatient());
        let clerk = cluster.clerk();
        let dir = |node: NodeId| root.path().join(node.0.to_string());
        clerk.put("k", "old").expect("three nodes run");
        settled(&cluster);
        let leader = cluster.leader().expect("one leads");
        let mut others = cluster.nodes().into_iter().filter(|node| *node != leader);
        let (absent, copied) = (others.next(), others.next());
        let (absent, copied) = absent.zip(copied).expect("there are three");
        cluster.crash(absent);
        let kept = root.path().join("copy");
        copy(&dir(copied), &kept);
        let told = || {
            let peers = cluster.db(leader).expect("it runs").stats().peers;
            let status = peers.into_iter().find(|(node, _)| *node == copied);
            status
                .and_then(|(_, status)| status)
                .map(|it| it.durable_lsn)
        };
        let before = told();
        clerk.put("k", "new").expect("two of three nodes run");
        if waits {
            eventually("the leader hears how far its log is", || told() > before);
        }
        cluster.crash(copied);
        wipe(&dir(copied));
        fs::rename(&kept, dir(copied)).expect("it can be moved");
        cluster
            .restart(copied)
            .expect("a directory of the node opens");
        let db = cluster.db(copied).expect("it runs");
        eventually("the copy is found out", || {
            let is_refused = db.founding().refused_by.iter().any(|(by, _)| *by == leader);
            // One claim of the leader may be wrong: it believes the third.
            let claims = db.stats().rejected.violations;
            is_refused || claims >= 3
        });
        cluster.crash(leader);
        cluster.restart(absent).expect("it opens");
        let read = clerk.get("k");
        let sees = read
            .as_ref()
            .ok()
            .map(|value| value.as_deref().map(<[u8]>::to_vec));
        let is_kept = sees.is_none_or(|value| value.as_deref() == Some(b"new"));
        assert!(is_kept, "{transport:?}: {read:?}");
        cluster.restart(leader).expect("it opens");
        eventually("the write is there", || {
            let value = clerk.get("k").ok().flatten();
            value.as_deref() == Some(&b"new"[..])
        });
    }
}

#[test]
fn once_a_cluster_has_begun_a_quorum_is_enough() {
    let root = tempfile::tempdir().expect("a directory");
    let cluster = durable(root.path(), TransportKind::Memory, quick());
    let clerk = cluster.clerk();
    clerk.put("k", "v").expect("three nodes run");
    for node in cluster.nodes() {
        cluster.crash(node);
    }
    cluster.restart(TWO).expect("it opens");
    cluster.restart(ONE).expect("it opens");
    let value = clerk.get("k").expect("two of three are a majority");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
}

/// Nodes over TCP, each opened by itself.
struct Nodes {
    root: tempfile::TempDir,
    addresses: [String; 3],
    heard: Arc<Mutex<Vec<(u64, TransportEvent)>>>,
}

impl Nodes {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().expect("a directory"),
            addresses: free_addresses(),
            heard: Arc::default(),
        }
    }

    fn builder(&self, id: u64) -> Builder {
        let heard = Arc::clone(&self.heard);
        let addresses = self.addresses.iter().cloned();
        Db::builder(self.root.path().join(id.to_string()))
            .node(id)
            .cluster((1..).zip(addresses))
            .options(impatient())
            .observer(move |event| {
                let mut heard = heard.lock().expect("not poisoned");
                heard.push((id, event.clone()));
            })
    }

    fn open(&self, id: u64) -> Db {
        self.builder(id).open().expect("the node opens")
    }

    /// Waits until a node has been told of something.
    fn hears(&self, what: &str, is_it: impl Fn(u64, &TransportEvent) -> bool) {
        eventually(what, || {
            let heard = self.heard.lock().expect("not poisoned");
            heard.iter().any(|(node, event)| is_it(*node, event))
        });
    }
}

#[test]
fn a_cluster_begins_in_any_start_order_and_waits_by_name_for_the_last() {
    let orders = [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ];
    for order in orders {
        let nodes = Nodes::new();
        let last = NodeId(order[2]);
        let early = [nodes.open(order[0]), nodes.open(order[1])];
        for db in &early {
            eventually("it waits for the last one alone", || {
                db.founding().missing == [last]
            });
            let text = db.founding().to_string();
            assert!(
                text.contains(&format!("waits for node {}", last.0)),
                "{text}"
            );
        }
        if order == [3, 2, 1] {
            let error = early[0].put("k", "v").expect_err("nothing is promised yet");
            let Error::Timeout {
                cause: cause @ Obstacle::Unfounded { waits_for },
                maybe_applied: false,
                ..
            } = error
            else {
                panic!("{error:?}");
            };
            assert_eq!(waits_for.named().collect::<Vec<_>>(), [last]);
            assert!(cause.to_string().contains("waits for node 1"), "{cause}");
        }
        nodes.hears("the observer is told whom it waits for", |_, event| {
            matches!(event, TransportEvent::Founding { status } if status.missing == [last])
        });
        let late = nodes.open(order[2]);
        late.put("k", "v").expect("all have met");
        for db in early.iter().chain([&late]) {
            eventually("it has begun everywhere", || db.founding().is_founded);
        }
        nodes.hears(
            "the observer is told that it has begun",
            |_, event| matches!(event, TransportEvent::Founding { status } if status.is_founded),
        );
    }
}

#[test]
fn a_node_that_never_started_may_be_left_out_by_the_operator_for_good() {
    let nodes = Nodes::new();
    let without = |id| nodes.builder(id).without_founders([3]).open();
    let one = without(1).expect("it opens");
    let two = without(2).expect("it opens");
    one.put("k", "v").expect("two of three are a majority");
    assert!(one.founding().is_founded && two.founding().is_founded);

    let three = nodes.open(3);
    nodes.hears("node 3 is told why it is refused", |node, event| {
        node == 3
            && matches!(
                event,
                TransportEvent::Unreachable {
                    reason: CloseReason::Identity(Refused::Retired { node: THREE }),
                    ..
                }
            )
    });
    nodes.hears("the others say whom they refuse", |node, event| {
        node != 3
            && matches!(
                event,
                TransportEvent::Rejected {
                    reason: CloseReason::Identity(Refused::Retired { node: THREE }),
                    ..
                }
            )
    });
    assert!(!three.founding().is_founded);
    drop((one, two));
    let error = nodes
        .builder(1)
        .without_founders([2])
        .open()
        .expect_err("node 2 has taken part");
    assert!(
        error
            .to_string()
            .contains("node 2 cannot be left out any more"),
        "{error}"
    );
    let error = Nodes::new()
        .builder(1)
        .without_founders([2, 3])
        .open()
        .expect_err("one of three is no majority");
    assert!(
        error.to_string().contains("a majority must be left"),
        "{error}"
    );
    // What was said once need not be said again.
    let (one, two) = (nodes.open(1), nodes.open(2));
    let value = one.get("k").expect("two of three are a majority");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    drop(two);
}

#[test]
fn a_second_node_under_a_known_id_is_refused_and_nobody_else_notices() {
    let nodes = Nodes::new();
    let all = [1, 2, 3].map(|id| nodes.open(id));
    all[0].put("k", "v").expect("all have met");
    let second_dir = tempfile::tempdir().expect("a directory");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let second = Db::builder(second_dir.path())
        .node(2)
        .cluster((1..).zip(nodes.addresses.iter().cloned()))
        .listen("127.0.0.1:0")
        .options(impatient())
        .observer(move |event| told.lock().expect("not poisoned").push(event.clone()))
        .open()
        .expect("the directory is empty");
    eventually("the second node is told by both others", || {
        second.founding().refused_by.len() == 2
    });
    for (_, why) in second.founding().refused_by {
        assert!(
            matches!(why, Refused::OtherDirectory { node: TWO, .. }),
            "{why:?}"
        );
    }
    nodes.hears("the others name it", |node, event| {
        node != 2
            && matches!(
                event,
                TransportEvent::Rejected {
                    reason: CloseReason::Identity(Refused::OtherDirectory { node: TWO, .. }),
                    ..
                }
            )
    });
    all[1].put("k", "w").expect("the cluster goes on");
    assert!(!second.founding().is_founded);
}

#[test]
fn a_typo_at_the_first_start_leaves_nothing_behind() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("node");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken
        .local_addr()
        .map(|it| it.to_string())
        .map(|at| (at, taken));
    let (taken, _held) = taken.expect("it listens");
    for wrong in [
        taken.as_str(),
        "192.0.2.1:7400",
        "127.0.0.1:99999",
        "nowhere",
    ] {
        let error = Db::builder(&dir)
            .cluster([(1, wrong)])
            .open()
            .expect_err("nobody can listen there");
        assert!(matches!(error, OpenError::Transport(_)), "{error:?}");
        assert!(!dir.exists(), "after {wrong}");
    }
}

#[test]
fn where_a_node_listens_and_where_it_is_reached_are_two_things() {
    let root = tempfile::tempdir().expect("a directory");
    let [here] = free_addresses();
    let db = Db::builder(root.path())
        .cluster([(1, "192.0.2.1:7400")])
        .listen(here.as_str())
        .advertise(here.as_str())
        .open()
        .expect("it listens where it can");
    db.put("k", "v").expect("one node leads itself");
    let clerk = quorate::Clerk::connect([here]).expect("the node is there");
    let value = clerk.get("k").expect("it is reached");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
}

#[test]
fn all_addresses_may_change() {
    let mut nodes = Nodes::new();
    let all = [1, 2, 3].map(|id| nodes.open(id));
    all[0].put("k", "v").expect("all have met");
    for db in &all {
        eventually("it has begun everywhere", || db.founding().is_founded);
    }
    drop(all);
    nodes.addresses = free_addresses();
    let all = [3, 1].map(|id| nodes.open(id));
    let value = all[0].get("k").expect("two of three are a majority");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
}

/// Makes a directory into what version 1 left: an identity with the members in it, and no book.
fn age(dir: &Path, node: u8) {
    let mut body = vec![7, node, 1, 3, 1, 2, 3];
    let mut bytes = b"QRTIDENT\x01\0\0\0".to_vec();
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.append(&mut body);
    fs::write(dir.join("IDENTITY"), bytes).expect("it can be written");
    fs::remove_file(dir.join("PEERS")).expect("it can be removed");
}

#[test]
fn directories_of_version_1_begin_anew_once_all_have_met() {
    let nodes = Nodes::new();
    let open = |id| {
        nodes
            .builder(id)
            .cluster_id(7)
            .open()
            .expect("the node opens")
    };
    let all = [1, 2, 3].map(open);
    all[0].put("k", "v").expect("all have met");
    drop(all);
    for id in [1, 2, 3] {
        age(&nodes.root.path().join(id.to_string()), id);
    }
    // The directory says which cluster it is of.
    let some = [1, 2].map(|id| nodes.open(id));
    eventually("they wait for the third", || {
        some[0].founding().missing == [THREE]
    });
    let three = nodes.open(3);
    let value = three.get("k").expect("all have met");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    drop((some, three));
    let identity = fs::read(nodes.root.path().join("1").join("IDENTITY")).expect("it is there");
    assert_eq!(identity[8], 2, "it was rewritten");
    let two = [2, 3].map(|id| nodes.open(id));
    let written = two[0].put("k", "w");
    let standing = [two[0].founding(), two[1].founding()];
    written.unwrap_or_else(|error| panic!("a majority is enough: {error:?}, {standing:?}"));
}

/// It has nobody to wait for, and nothing becomes of its founding.
#[test]
fn a_lone_node_reports_once_that_it_is_founded() {
    let root = tempfile::tempdir().expect("a directory");
    let told = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&told);
    let builder = Db::builder(root.path()).observer(move |event| {
        if let TransportEvent::Founding { status } = event {
            theirs.lock().expect("no panic").push(status.is_founded);
        }
    });
    let db = builder.open().expect("it opens");
    db.put("k", "v").expect("it is alone");
    db.close();
    assert_eq!(*told.lock().expect("no panic"), [true]);
}
