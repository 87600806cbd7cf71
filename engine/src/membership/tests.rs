use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use quorate_wal::MemoryDisk;
use quorate_wal::testing::{CrashDisk, DiskError, Effect, Fault, Op, OpKind};

use super::*;

fn opening() -> Opening<'static> {
    Opening {
        nonce: 5,
        election_timeout_ms: 500,
        without: &[],
    }
}

fn card(incarnation: u64) -> NodeCard {
    NodeCard {
        incarnation,
        start: Start { life: 1, nonce: 9 },
        ..NodeCard::bare(NodeId(2), 7, 1)
    }
}

fn membership(disk: &Arc<dyn Disk>, book: Book) -> Membership {
    let bare = NodeCard::bare(NodeId(1), 7, 1);
    Membership::new(Arc::clone(disk), Path::new("/n"), book, bare)
}

#[test]
fn a_node_that_is_opened_again_remembers_whom_it_met_and_that_its_cluster_has_begun() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let dir = Path::new("/n");
    disk.create_dir_all(dir).expect("memory");
    let book = Book::new(1, 7, 1, 11, &[1, 2]);
    let book = create(disk.as_ref(), dir, book, &opening()).expect("memory");
    let one = membership(&disk, book);
    assert_eq!(one.waits_for().named().collect::<Vec<_>>(), [NodeId(2)]);
    one.admit(&card(22)).expect("it is expected");
    let agreeing = Founding {
        is_closed: true,
        ..one.founding()
    };
    one.note_status(NodeId(2), agreeing, 0);
    assert!(one.is_founded());

    let book = read(disk.as_ref(), dir).expect("it was written");
    let book = reopen(disk.as_ref(), dir, book, &opening()).expect("memory");
    let again = membership(&disk, book);
    assert!(again.is_founded(), "the cluster has begun");
    assert_eq!(again.card().start.life, 2);
    assert!(matches!(
        again.admit(&card(23)),
        Err(Refused::OtherDirectory { .. })
    ));
    again.admit(&card(22)).expect("it is the one that was met");
}

#[test]
fn a_card_with_news_is_durable_before_it_is_accepted_or_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let dir = Path::new("/n");
    disk.create_dir_all(dir).expect("memory");
    let book = Book::new(1, 7, 1, 11, &[1, 2]);
    let book = create(disk.as_ref(), dir, book, &opening()).expect("memory");
    let one = membership(&disk, book);
    one.admit(&card(22)).expect("it is expected");
    let written = read(disk.as_ref(), dir).expect("it was written");
    assert_eq!(written.founding(), one.founding());
    assert!(written.founding().is_complete);
    // Nothing can be written any more.
    disk.remove(&dir.join(FILE_NAME)).expect("memory");
    let lost = Membership {
        path: PathBuf::from("/gone/PEERS"),
        ..membership(&disk, written)
    };
    let next = NodeCard {
        start: Start { life: 2, nonce: 3 },
        ..card(22)
    };
    assert_eq!(lost.admit(&next), Err(Refused::NotWritten));
}

#[test]
fn who_refuses_this_node_is_known_until_it_deals_with_it() {
    let one = Membership::alone(NodeId(1));
    let why = Refused::Retired { node: NodeId(1) };
    one.note_judged(NodeId(2), Err(&why));
    assert_eq!(one.status().refused_by, [(NodeId(2), why)]);
    assert!(
        one.status()
            .to_string()
            .contains("node 2 refuses this node")
    );
    one.note_judged(NodeId(2), Ok(()));
    assert!(one.status().refused_by.is_empty());
}

/// Nodes 2 and 3 as node 1 meets them, in this life.
fn peer(node: u64, life: u64) -> NodeCard {
    let start = |life| Start {
        life,
        nonce: life * 10,
    };
    NodeCard {
        node: NodeId(node),
        incarnation: node * 11,
        start: start(life),
        history: (1..life).map(start).collect(),
        syncs: true,
        ..card(0)
    }
}

/// Node 1 of three, which has met nobody, on a disk that can be made to fail.
fn one_of_three() -> (CrashDisk, Membership) {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    disk.create_dir_all(Path::new("/n")).expect("no fault");
    let book = Book::new(1, 7, 1, 11, &[1, 2, 3]);
    let book = create(disk.as_ref(), Path::new("/n"), book, &opening()).expect("no fault");
    (crash, membership(&disk, book))
}

/// The same, founded with both others in their first lives.
fn founded() -> (CrashDisk, Membership) {
    let (disk, one) = one_of_three();
    for node in [2, 3] {
        one.admit(&peer(node, 1)).expect("it is expected");
    }
    agree(&one);
    assert!(one.is_founded());
    (disk, one)
}

fn agree(one: &Membership) {
    let agreeing = Founding {
        is_closed: true,
        ..one.founding()
    };
    for node in [2, 3] {
        one.note_status(NodeId(node), agreeing, 0);
    }
}

#[test]
fn a_peer_without_syncs_is_known_as_such_by_a_node_that_was_opened_again() {
    let (disk, one) = founded();
    let unsynced = NodeCard {
        syncs: false,
        ..peer(2, 2)
    };
    one.admit(&unsynced).expect("a later life");
    drop(one);
    let dir = Path::new("/n");
    let book = read(&disk, dir).expect("it was written");
    let book = reopen(&disk, dir, book, &opening()).expect("it is sound");
    let one = Membership::new(Arc::new(disk.clone()), dir, book, card(11));
    let changes = disk.changes();
    one.admit(&unsynced).expect("it is known");
    assert_eq!(disk.changes(), changes, "that is no news");
    one.note_status(NodeId(2), one.founding(), 1_000);
    let synced = NodeCard {
        durable_lsn: 900,
        ..peer(2, 3)
    };
    assert_eq!(one.admit(&synced), Ok(()));
    one.note_status(NodeId(2), one.founding(), 1_000);
    let short = NodeCard {
        durable_lsn: 999,
        ..peer(2, 4)
    };
    let judged = one.admit(&short);
    assert!(
        matches!(judged, Err(Refused::OlderCopy { .. })),
        "{judged:?}"
    );
}

#[test]
fn only_the_start_that_was_admitted_last_stands() {
    let (_disk, one) = founded();
    assert!(one.stands(&peer(2, 1)));
    assert!(!one.stands(&peer(2, 2)), "it was not admitted yet");
    one.admit(&peer(2, 2)).expect("a later life");
    assert!(one.stands(&peer(2, 2)) && !one.stands(&peer(2, 1)));
    let copy = NodeCard {
        start: Start { life: 2, nonce: 1 },
        ..peer(2, 2)
    };
    let other = NodeCard {
        incarnation: 1,
        ..peer(2, 2)
    };
    assert!(!one.stands(&copy) && !one.stands(&other));
    assert!(!one.stands(&peer(9, 1)), "a stranger");
}

/// Closed, and stopped before it hears that the cluster is founded: the others count it in, whatever it is told.
#[test]
fn once_all_have_met_nobody_is_left_out_and_the_book_stays_as_it_is() {
    let (disk, one) = one_of_three();
    for node in [2, 3] {
        one.admit(&peer(node, 1)).expect("it is expected");
    }
    let complete = one.founding();
    for node in [2, 3] {
        one.note_status(NodeId(node), complete, 0);
    }
    assert!(one.founding().is_closed && !one.is_founded());
    drop(one);
    let dir = Path::new("/n");
    let without = Opening {
        without: &[NodeId(2)],
        ..opening()
    };
    let before = read(&disk, dir).expect("it was written");
    let refused = reopen(&disk, dir, before.clone(), &without);
    assert!(
        matches!(&refused, Err(OpenError::Options { reason }) if reason.contains("has met all")),
        "{refused:?}"
    );
    assert_eq!(read(&disk, dir).expect("as it was"), before);

    let book = reopen(&disk, dir, before, &opening()).expect("nobody is left out");
    let one = Membership::new(Arc::new(disk.clone()), dir, book, card(11));
    let founded = Founding {
        is_founded: true,
        ..one.founding()
    };
    one.note_status(NodeId(3), founded, 0);
    assert!(one.is_founded());
}

/// A disk that stands still in the next sync, until this is dropped.
struct Stuck {
    has_begun: mpsc::Receiver<()>,
    _ends: mpsc::Sender<()>,
}

impl Stuck {
    fn new(disk: &CrashDisk) -> Self {
        let (begins, has_begun) = mpsc::channel();
        let (ends, end) = mpsc::channel::<()>();
        let once = Mutex::new(Some((begins, end)));
        disk.watch(Some(Arc::new(move |op: &Op| {
            if op.kind == OpKind::Sync
                && let Some((begins, end)) = once.lock().take()
            {
                let _gone = begins.send(());
                let _dropped = end.recv();
            }
        })));
        Self {
            has_begun,
            _ends: ends,
        }
    }

    fn wait(&self) {
        let begun = self.has_begun.recv_timeout(Duration::from_secs(30));
        begun.expect("the book is written");
    }
}

/// What a call returns that must not wait for the disk; it is in a thread of `scope`, which ends with the disk's standstill.
fn at_once<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    call: impl FnOnce() -> T + Send + 'scope,
) -> T {
    let (done, result) = mpsc::channel();
    scope.spawn(move || done.send(call()));
    result
        .recv_timeout(Duration::from_secs(30))
        .expect("nobody waits for a disk that stands still")
}

#[test]
fn while_a_write_stands_still_peers_without_news_are_admitted_and_those_with_news_not_kept_waiting()
{
    let (disk, one) = founded();
    let one = &one;
    thread::scope(|scope| {
        let stuck = Stuck::new(&disk);
        let news = scope.spawn(|| one.admit(&peer(2, 2)));
        stuck.wait();
        assert_eq!(at_once(scope, || one.admit(&peer(3, 1))), Ok(()));
        assert_eq!(at_once(scope, || one.admit(&peer(2, 1))), Ok(()));
        assert_eq!(
            at_once(scope, || one.admit(&peer(2, 2))),
            Err(Refused::NotWritten),
            "it is news as long as it is not durable"
        );
        let other = at_once(scope, || one.admit(&peer(3, 2)));
        assert_eq!(other, Err(Refused::NotWritten));
        let written = read(&disk, Path::new("/n")).expect("the one before");
        assert!(written.judge(&peer(2, 2)).expect("it fits"), "no news yet");
        drop(stuck);
        assert_eq!(news.join().expect("it does not panic"), Ok(()));
    });
    assert_eq!(one.admit(&peer(2, 2)), Ok(()));
    assert_eq!(one.admit(&peer(3, 2)), Ok(()));
    let written = read(&disk, Path::new("/n")).expect("it was written");
    assert!(!written.judge(&peer(3, 2)).expect("it fits"));
}

#[test]
fn a_stage_of_founding_is_tried_again_after_a_write_that_stood_still() {
    let (disk, one) = one_of_three();
    one.admit(&peer(2, 1)).expect("it is expected");
    one.admit(&peer(3, 1)).expect("it is expected");
    let one = &one;
    thread::scope(|scope| {
        let stuck = Stuck::new(&disk);
        let news = scope.spawn(|| one.admit(&peer(2, 2)));
        stuck.wait();
        at_once(scope, || agree(one));
        assert!(!one.founding().is_closed, "it is not durable");
        drop(stuck);
        assert_eq!(news.join().expect("it does not panic"), Ok(()));
    });
    // What the other one said was taken over.
    one.note_status(NodeId(2), one.founding(), 0);
    assert!(one.founding().is_closed);
}

#[test]
fn what_a_peer_says_while_a_card_is_written_is_not_lost() {
    let (disk, one) = founded();
    let one = &one;
    thread::scope(|scope| {
        let stuck = Stuck::new(&disk);
        let news = scope.spawn(|| one.admit(&peer(2, 2)));
        stuck.wait();
        at_once(scope, || {
            one.note_status(NodeId(3), one.founding(), 5_000);
        });
        drop(stuck);
        assert_eq!(news.join().expect("it does not panic"), Ok(()));
    });
    let short = NodeCard {
        durable_lsn: 4_999,
        ..peer(3, 2)
    };
    let judged = one.admit(&short);
    assert!(
        matches!(judged, Err(Refused::OlderCopy { .. })),
        "{judged:?}"
    );
}

#[test]
fn a_longer_promise_is_forgotten_durably_once_all_members_have_accepted_the_present_one() {
    let (disk, one) = founded();
    drop(one);
    let dir = Path::new("/n");
    let reopened = |election_timeout_ms| {
        let start = Opening {
            election_timeout_ms,
            ..opening()
        };
        let book = read(&disk, dir).expect("it was written");
        let book = reopen(&disk, dir, book, &start).expect("it is sound");
        Membership::new(Arc::new(disk.clone()), dir, book, card(11))
    };
    assert_eq!(reopened(9_000).longer_promise_ms(), None);
    let one = reopened(300);
    one.note_judged(NodeId(2), Ok(()));
    assert_eq!(one.longer_promise_ms(), None, "node 3 may hold a lease");
    one.note_judged(NodeId(3), Ok(()));
    assert_eq!(one.longer_promise_ms(), Some(9_000));
    one.admit(&peer(3, 2)).expect("it was started again");
    assert_eq!(one.longer_promise_ms(), None, "it has not said so yet");
    one.note_judged(NodeId(3), Ok(()));
    drop(one);
    let one = reopened(300);
    assert_eq!(one.promised_ms(), 9_000, "it was not long enough");
    for node in [2, 3] {
        one.note_judged(NodeId(node), Ok(()));
    }
    one.forget_longer_promise();
    assert_eq!((one.promised_ms(), one.longer_promise_ms()), (300, None));
    assert_eq!(reopened(200).promised_ms(), 300);
}

#[test]
fn a_book_that_cannot_be_written_is_told_until_it_can() {
    let (disk, one) = one_of_three();
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    one.watch(move |change| {
        if change == Change::Written {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let is_told = || told.swap(0, Ordering::Relaxed);
    one.admit(&peer(2, 1)).expect("it is expected");
    one.admit(&peer(3, 1)).expect("it is expected");
    assert_eq!((one.status().unwritten, is_told()), (None, 0));

    disk.inject(Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device)));
    agree(&one);
    agree(&one);
    assert!(!one.founding().is_closed);
    assert_eq!(is_told(), 1, "once, however often it is tried");
    let status = one.status();
    let why = status.unwritten.clone().expect("the disk fails");
    assert!(why.contains("PEERS"), "{why}");
    let text = status.to_string();
    assert!(text.contains("cannot write its book"), "{text}");

    disk.heal();
    agree(&one);
    assert!(one.founding().is_closed);
    assert_eq!((one.status().unwritten, is_told()), (None, 1));

    disk.inject(Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device)));
    assert_eq!(one.admit(&peer(2, 2)), Err(Refused::NotWritten));
    assert_eq!((one.status().unwritten.is_some(), is_told()), (true, 1));
}

#[test]
fn a_stage_that_a_card_completes_is_told_like_any_other() {
    let (_disk, one) = one_of_three();
    let stages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&stages);
    one.watch(move |change| {
        if change == Change::Stage {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (_disk, founded) = founded();
    one.admit(&peer(2, 1)).expect("it is expected");
    one.note_status(NodeId(2), founded.founding(), 0);
    assert_eq!(stages.load(Ordering::Relaxed), 0, "node 3 was never met");
    one.admit(&peer(3, 1)).expect("it is expected");
    assert!(one.is_founded());
    assert_eq!(stages.load(Ordering::Relaxed), 1);
}

#[test]
fn a_lone_node_writes_down_what_it_may_write_from_now_on() {
    let disk = CrashDisk::new();
    let dir = Path::new("/n");
    disk.create_dir_all(dir).expect("no fault");
    let book = Book::new(1, 7, 1, 11, &[1]);
    let newest = book.agreed_features();
    let book = create(&disk, dir, book, &opening()).expect("no fault");
    let changes = disk.changes();
    let book = reopen(&disk, dir, book, &opening()).expect("no fault");
    assert_eq!(disk.changes(), changes, "there is no news");

    let old = book.of_older_features();
    record::write(&disk, &dir.join(FILE_NAME), &old).expect("no fault");
    let book = reopen(&disk, dir, old, &opening()).expect("no fault");
    assert_eq!(book.agreed_features(), newest);
    let written = read(&disk, dir).expect("it was written");
    assert_eq!(
        written.agreed_features(),
        newest,
        "an older build must find it"
    );
}

#[test]
fn who_is_left_out_must_be_another_node_of_the_list_and_a_majority_must_be_left() {
    let check = |without: &[u64]| {
        let without: Vec<NodeId> = without.iter().copied().map(NodeId).collect();
        check_without(&without, 1, &[1, 2, 3])
    };
    for good in [&[][..], &[2], &[3, 3]] {
        assert!(check(good).is_ok(), "{good:?}");
    }
    for bad in [&[9][..], &[1], &[2, 3], &[2, 9]] {
        assert!(
            matches!(check(bad), Err(OpenError::Options { .. })),
            "{bad:?}"
        );
    }
}
