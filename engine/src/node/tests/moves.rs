//! What a shard tells those who ask for a snapshot, or for another leader.

use super::*;
use crate::error::{Error, SnapshotError, TransferError};

type Answers<T> = Arc<Mutex<Vec<Result<T, Error>>>>;

/// Where answers are kept, and a way to give one.
fn kept<T: Send + 'static>(answers: &Answers<T>) -> Told<Result<T, Error>> {
    let answers = Arc::clone(answers);
    Box::new(move |answer| answers.lock().push(answer))
}

fn snapshot(bench: &mut Bench, answers: &Answers<LogIndex>) {
    let (group, told) = (GROUP, Some(kept(answers)));
    bench.take(Event::Snapshot { group, told });
}

#[test]
fn who_asks_for_a_snapshot_hears_when_one_covers_what_was_applied_then() {
    let mut bench = Bench::new();
    let answers = Answers::default();
    bench.write("a");
    snapshot(&mut bench, &answers);
    // Behind what the save under way covers: another one follows it.
    bench.write("b");
    snapshot(&mut bench, &answers);
    let applied = bench.shard.replica(GROUP).expect("its only one").applied();
    let (first, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    assert_eq!(*answers.lock(), [Ok(LogIndex(first.index))]);
    bench.take(Event::LogMoved);
    let (second, saved) = bench.do_job().expect("a save");
    bench.take(saved);
    assert_eq!(second.index, applied.0);
    assert_eq!(answers.lock().last(), Some(&Ok(applied)));
    // There is nothing new to cover.
    snapshot(&mut bench, &answers);
    assert_eq!(
        *answers.lock(),
        [Ok(LogIndex(first.index)), Ok(applied), Ok(applied)]
    );
}

#[test]
fn who_asks_for_a_snapshot_hears_why_it_could_not_be_saved() {
    let mut bench = Bench::new();
    let answers = Answers::default();
    bench.write("a");
    snapshot(&mut bench, &answers);
    snapshot(&mut bench, &answers);
    let job = bench.jobs.0.lock().remove(0);
    let Job::Save { group, meta, .. } = job else {
        panic!("a save");
    };
    let reason = "no space".to_owned();
    let result = Err(reason.clone());
    bench.take(Event::Job(JobDone::Saved {
        group,
        meta,
        result,
    }));
    let refused = Err(Error::Snapshot(SnapshotError { reason }));
    assert_eq!(*answers.lock(), [refused.clone(), refused]);
}

#[test]
fn no_more_than_so_many_wait_for_a_snapshot() {
    let mut bench = Bench::new();
    let answers = Answers::default();
    bench.write("a");
    for _ in 0..100 {
        snapshot(&mut bench, &answers);
    }
    let outstanding = 64;
    assert_eq!(*answers.lock(), vec![Err(Error::Busy { outstanding }); 36]);
}

#[test]
fn a_node_without_others_hands_over_to_nobody_and_does_not_wait_when_it_leaves() {
    let mut bench = Bench::new();
    let answers = Answers::default();
    let (group, to) = (GROUP, None);
    let told = Some(kept(&answers));
    bench.take(Event::Transfer { group, to, told });
    assert_eq!(
        *answers.lock(),
        [Err(Error::Transfer(TransferError::NobodyThere))]
    );
    let left = Arc::new(Mutex::new(false));
    let sets = Arc::clone(&left);
    let told = Box::new(move |()| *sets.lock() = true);
    bench.take(Event::Leave { told });
    assert!(*left.lock());
    bench.write("it goes on until it is stopped");
}

/// A leader and its only peer: without the leader that one is no majority, and nothing would be served.
#[test]
fn a_leader_whose_others_are_no_majority_hands_over_to_nobody_when_it_leaves() {
    let voters = vec![NodeId(1), NodeId(2)];
    let wire = Arc::new(Wire::default());
    let mut bench = Bench::over(
        Arc::new(MemoryDisk::new()),
        u64::MAX / 4,
        voters.clone(),
        Arc::clone(&wire) as Arc<dyn Transport>,
    );
    let replica = bench.shard.replica(GROUP).expect("its only one");
    let published = Arc::clone(replica.published());
    assert!(wire.published.set(published).is_ok());
    let start = restored(NodeId(2), &Config { voters }, None).expect("nothing is restored");
    let mut peer = Raft::new(Options::default().raft(2), start, 0).expect("a fresh replica");
    for _ in 0..1_000 {
        if wire.is_leased() {
            break;
        }
        converse(&mut bench, &mut peer, &wire);
    }
    assert!(wire.is_leased(), "it leads");
    let left = Arc::new(Mutex::new(false));
    let sets = Arc::clone(&left);
    let told = Box::new(move |()| *sets.lock() = true);
    bench.take(Event::Leave { told });
    assert!(*left.lock(), "it waits for nobody");
    converse(&mut bench, &mut peer, &wire);
    assert!(wire.is_leased(), "and gave nothing up");
}
