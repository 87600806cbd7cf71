//! Nodes whose disks are full, stuck or broken, driven by hand: who leads, and how soon, in virtual time.
#![cfg(feature = "simulation")]

mod bench;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use quorate::transport::{Frame, Origin, ReplySink, RequestId};
use quorate::{GroupId, LogHealth, NodeId, Role};
use quorate_wal::testing::{DiskError, Effect, Fault, OpKind};

use bench::{
    Bench, GROUP, MS, TIMEOUT, TWO_TIMEOUTS, fill_with_equal_logs, is_append, is_timeout_now,
    options,
};

#[test]
fn a_leader_whose_disk_is_full_hands_over_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, term) = bench.reign();
        let full_ns = bench.fill(old);
        let took_ns = bench.hand_over_from(old) - full_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        let reign = bench.reign();
        assert_eq!(reign.1, term + 1, "one hand-over, and no election");
        // It does not come back, nor go on.
        bench.wait(10 * TIMEOUT);
        assert_eq!(bench.reign(), reign);
        assert_eq!(bench.health(old), LogHealth::Full);
        // With space it is a member like any other.
        bench.members[old].disk.set_capacity(None);
        bench.until("it is healthy", |bench| {
            bench.health(old) == LogHealth::Healthy
        });
        bench.put();
        bench.until("it has all", |bench| {
            bench.node(old).view(GROUP).applied == bench.node(reign.0).view(GROUP).applied
        });
    }
}

#[test]
fn a_leader_that_is_out_of_file_handles_hands_over_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, term) = bench.reign();
        let none_ns = bench.exhaust(old);
        let took_ns = bench.hand_over_from(old) - none_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        let reign = bench.reign();
        assert_eq!(reign.1, term + 1, "one hand-over, and no election");
        bench.wait(10 * TIMEOUT);
        assert_eq!(bench.reign(), reign);
        assert_eq!(bench.health(old), LogHealth::OutOfHandles);
        // With handles it is a member like any other.
        bench.members[old].disk.heal();
        bench.until("it is healthy", |bench| {
            bench.health(old) == LogHealth::Healthy
        });
        bench.put();
        bench.until("it has all", |bench| {
            bench.node(old).view(GROUP).applied == bench.node(reign.0).view(GROUP).applied
        });
    }
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, term) = bench.reign();
        bench.members[old].is_stuck = true;
        let struck_ns = bench.now_ns;
        let mut acknowledged_ns = None;
        // Five seconds of it, with a write every 10 ms.
        while bench.now_ns < struck_ns + 5_000 * MS {
            let call = bench.begin_put(100);
            bench.answer_to(call).expect("the others are a majority");
            let is_elsewhere = bench.leader().is_some_and(|leader| leader != old);
            if is_elsewhere && acknowledged_ns.is_none() {
                acknowledged_ns = Some(bench.now_ns);
            }
            bench.wait(10 * MS);
        }
        let took_ns = acknowledged_ns.expect("another leads") - struck_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        assert!(took_ns > TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
        assert_eq!(bench.health(old), LogHealth::Stalled);
        assert_eq!(bench.reign().1, term + 1, "one hand-over, and no election");
        bench.members[old].is_stuck = false;
        bench.wait(4 * TIMEOUT);
        assert_eq!(bench.health(old), LogHealth::Healthy);
        assert_eq!(bench.reign().1, term + 1, "nobody takes it back");
    }
}

/// Its peers said every 2.5 s how they are, and it believed that for one: it found too few that
/// were healthier.
#[test]
fn a_leader_that_is_less_patient_than_its_peers_hands_over_before_two_of_its_timeouts_are_over() {
    let mut patient = options();
    patient.election_timeout = Duration::from_nanos(10 * TIMEOUT);
    for seed in 1..=20 {
        let all = [options(), patient.clone(), patient.clone()];
        let mut bench = Bench::each_with(&all, GROUP, seed);
        let (old, term) = bench.reign();
        assert_eq!(old, 0, "it waits for the shortest time");
        let told = Arc::new(Mutex::new(0));
        let count = Arc::clone(&told);
        bench.loses = Box::new(move |from, to, frame| {
            if (from, to) == (NodeId(2), NodeId(1)) && matches!(frame, Frame::Status(_)) {
                *count.lock() += 1;
            }
            false
        });
        bench.wait(5 * TIMEOUT + seed * 130 * MS);
        let took = (5 * TIMEOUT + seed * 130 * MS) / (TIMEOUT / 2);
        let told = *told.lock();
        assert!(told <= took + 1, "seed {seed}: told {told} times");
        let full_ns = bench.fill(old);
        let took_ns = bench.hand_over_from(old) - full_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        assert_eq!(bench.reign().1, term + 1, "one hand-over, and no election");
    }
}

/// One worker reads an old entry from a disk that does not answer. It was the one that heard of the
/// peers, and told them, for all: the groups of the others were led on without writes.
#[test]
fn groups_are_handed_over_though_the_first_worker_of_the_leader_or_of_its_peers_is_kept_waiting() {
    let mut options = options();
    options.workers = 2;
    let all = [options.clone(), options.clone(), options];
    for seed in 1..=5 {
        for is_leader_blocked in [true, false] {
            let mut bench = Bench::each_with(&all, GroupId(1), seed);
            let (old, _) = bench.reign();
            for (place, member) in bench.members.iter_mut().enumerate() {
                if (place == old) == is_leader_blocked {
                    member.blocked = Some(0);
                }
            }
            bench.wait(4 * TIMEOUT);
            assert_eq!(bench.leader(), Some(old), "seed {seed}");
            let full_ns = bench.fill(old);
            let took_ns = bench.hand_over_from(old) - full_ns;
            assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        }
    }
}

/// A log whose queue is at its bound refuses writes: what it has not handed on, it can still hand on.
#[test]
fn a_leader_whose_disk_stands_still_hands_over_with_a_full_queue_as_well() {
    let mut options = options();
    options.log.queue_bytes_max = 64 << 10;
    let mut bench = Bench::with(3, 1, options);
    let (old, _) = bench.reign();
    bench.members[old].is_stuck = true;
    let struck_ns = bench.now_ns;
    for _ in 0..200 {
        bench.begin_put(3 << 10);
    }
    bench.wait(TIMEOUT / 2);
    assert_eq!(bench.leader(), Some(old));
    let took_ns = bench.hand_over_from(old) - struck_ns;
    assert!(took_ns < TWO_TIMEOUTS, "{} ms", took_ns / MS);
}

#[test]
fn a_leader_whose_sync_fails_is_replaced_before_two_election_timeouts_are_over() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let broken = Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device));
        bench.members[old].disk.inject(broken);
        let struck_ns = bench.now_ns;
        let took_ns = bench.hand_over_from(old) - struck_ns;
        // It need not wait for anything: its successor is asked at once.
        assert!(took_ns < TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
        assert_eq!(bench.health(old), LogHealth::Failed);
    }
}

/// Its successor need not have all that it has, but should have a disk.
#[test]
fn a_leader_whose_sync_fails_asks_no_sick_node_to_stand() {
    for seed in 1..=10 {
        let (old, _) = Bench::new(3, seed).reign();
        for step in [1, 2] {
            let (sick, healthy) = ((old + step) % 3, (old + 3 - step) % 3);
            let mut bench = Bench::new(3, seed);
            assert_eq!(bench.leader(), Some(old), "seed {seed}: as before");
            fill_with_equal_logs(&mut bench, sick, old);
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&asked);
            bench.loses = Box::new(move |_, to, frame| {
                if is_timeout_now(frame) {
                    log.lock().push(to);
                }
                false
            });
            let broken = Fault::new(OpKind::Sync, Effect::Fail(DiskError::Device));
            bench.members[old].disk.inject(broken);
            bench.begin_put(1);
            bench.until("one is asked", |_| !asked.lock().is_empty());
            let to = bench.members[healthy].id;
            assert_eq!(*asked.lock(), [to], "seed {seed}");
        }
    }
}

#[test]
fn a_stall_shorter_than_an_election_timeout_moves_nothing() {
    let mut bench = Bench::new(3, 1);
    let reign = bench.reign();
    for _ in 0..10 {
        bench.members[reign.0].is_stuck = true;
        let struck_ns = bench.now_ns;
        while bench.now_ns < struck_ns + TIMEOUT - 20 * MS {
            bench.put();
            bench.wait(5 * MS);
            assert_eq!(bench.reign(), reign);
            assert_eq!(bench.health(reign.0), LogHealth::Healthy);
        }
        bench.members[reign.0].is_stuck = false;
        bench.wait(20 * MS);
    }
    bench.wait(10 * TIMEOUT);
    assert_eq!(bench.reign(), reign);
}

/// Two full disks of three: no other leader could acknowledge anything either.
#[test]
fn where_no_majority_is_healthier_the_leader_stays_and_reads_go_on() {
    let mut bench = Bench::new(3, 1);
    let reign = bench.reign();
    let follower = (reign.0 + 1) % 3;
    bench.fill(follower);
    assert_eq!(bench.reign(), reign, "a follower's disk is no matter");
    bench.fill(reign.0);
    for _ in 0..20 {
        bench.wait(TIMEOUT / 2);
        assert_eq!(bench.reign(), reign);
        assert!(bench.get().is_ok());
    }
    bench.members[follower].disk.set_capacity(None);
    bench.until("a majority is healthier", |bench| {
        bench.leader().is_some_and(|leader| leader != reign.0)
    });
    bench.put();
}

/// The leader finds out a little before its followers do.
#[test]
fn where_all_disks_stand_still_alike_nothing_moves() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let reign = bench.reign();
        bench.wait(seed * 13 * MS);
        for member in &mut bench.members {
            member.is_stuck = true;
        }
        let call = bench.begin_put(1);
        for _ in 0..10 {
            bench.wait(TIMEOUT / 2);
            assert_eq!(bench.reign(), reign, "seed {seed}");
        }
        assert_eq!(bench.health(reign.0), LogHealth::Stalled);
        for member in &mut bench.members {
            member.is_stuck = false;
        }
        bench.answer_to(call).expect("it was not lost");
        assert_eq!(bench.reign(), reign, "seed {seed}");
    }
}

/// Each sync takes longer than an election timeout, everywhere. Handing over would help nobody.
#[test]
fn where_all_disks_are_slow_alike_nothing_moves() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let reign = bench.reign();
        bench.wait(seed * 13 * MS);
        for _ in 0..10 {
            bench.begin_put(1);
            for member in &mut bench.members {
                member.is_stuck = true;
            }
            bench.wait(TIMEOUT + 100 * MS);
            for member in &mut bench.members {
                member.is_stuck = false;
            }
            bench.wait(5 * MS);
            assert_eq!(bench.reign(), reign, "seed {seed}");
        }
    }
}

#[test]
fn with_two_sick_disks_of_five_a_healthy_node_leads() {
    for seed in 1..=10 {
        let mut bench = Bench::new(5, seed);
        let (old, _) = bench.reign();
        let other = (old + 1) % 5;
        bench.fill(other);
        let full_ns = bench.fill(old);
        let took_ns = bench.hand_over_from(old) - full_ns;
        assert!(took_ns < TWO_TIMEOUTS, "seed {seed}: {} ms", took_ns / MS);
        assert_ne!(bench.leader(), Some(other), "seed {seed}");
    }
}

/// Both followers have the whole log when the leader dies. Whoever asks first is elected.
#[test]
fn a_node_with_a_full_disk_is_not_elected_while_a_healthy_one_can_be() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, healthy) = ((old + 1) % 3, (old + 2) % 3);
        fill_with_equal_logs(&mut bench, sick, old);
        bench.members[old].node = None;
        bench.until("an election", |bench| bench.leader().is_some());
        assert_eq!(bench.leader(), Some(healthy), "seed {seed}");
    }
}

/// The healthy one knows that the other is sick, which itself does not know that others are better off.
#[test]
fn a_node_with_a_full_disk_that_hears_nothing_of_others_is_not_elected_either() {
    for seed in 1..=20 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, healthy) = ((old + 1) % 3, (old + 2) % 3);
        let sick_id = bench.members[sick].id;
        bench.loses =
            Box::new(move |_, to, frame| to == sick_id && matches!(frame, Frame::Status(_)));
        fill_with_equal_logs(&mut bench, sick, old);
        bench.wait(4 * TIMEOUT);
        bench.members[old].node = None;
        bench.until("an election", |bench| bench.leader().is_some());
        assert_eq!(bench.leader(), Some(healthy), "seed {seed}");
    }
}

/// The healthy node lacks what the sick one has: it cannot be elected, and the sick one may not wait for it for ever.
#[test]
fn where_no_healthy_node_has_the_log_a_sick_one_is_elected() {
    for seed in 1..=10 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, lacking) = ((old + 1) % 3, (old + 2) % 3);
        let lacks = bench.members[lacking].id;
        bench.loses = Box::new(move |_, to, frame| {
            to == lacks && matches!(frame, Frame::Raft(messages) if messages.iter().any(is_append))
        });
        fill_with_equal_logs(&mut bench, sick, old);
        bench.members[old].node = None;
        let began_ns = bench.now_ns;
        bench.until("an election", |bench| bench.leader().is_some());
        assert_eq!(bench.leader(), Some(sick), "seed {seed}");
        assert_eq!(bench.health(sick), LogHealth::Full, "seed {seed}");
        let took_ns = bench.now_ns - began_ns;
        assert!(took_ns < 12 * TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
    }
}

/// What the healthy node said last is of no use once it says no more.
#[test]
fn a_sick_node_waits_for_no_healthy_one_that_is_gone() {
    for seed in 1..=10 {
        let mut bench = Bench::new(5, seed);
        let (old, _) = bench.reign();
        let others: Vec<usize> = (1..5).map(|step| (old + step) % 5).collect();
        for &sick in &others[..3] {
            fill_with_equal_logs(&mut bench, sick, old);
        }
        bench.members[old].node = None;
        bench.members[others[3]].node = None;
        let began_ns = bench.now_ns;
        bench.until("an election", |bench| bench.leader().is_some());
        let took_ns = bench.now_ns - began_ns;
        assert!(took_ns < 5 * TIMEOUT, "seed {seed}: {} ms", took_ns / MS);
    }
}

/// The leader's requests to stand get lost for a while: it asks again, less and less often, and one after the other.
#[test]
fn a_hand_over_that_fails_is_tried_again_with_others_and_less_and_less_often() {
    let mut bench = Bench::new(3, 1);
    let (old, _) = bench.reign();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    bench.loses = Box::new(move |_, to, frame| {
        if is_timeout_now(frame) {
            log.lock().push(to);
        }
        is_timeout_now(frame)
    });
    bench.fill(old);
    let mut begins: Vec<(u64, NodeId)> = Vec::new();
    let began_ns = bench.now_ns;
    while bench.now_ns < began_ns + 32 * TIMEOUT {
        bench.round();
        let now_ns = bench.now_ns;
        let to = asked.lock().drain(..).next_back();
        let is_new =
            |&(at_ns, before): &(u64, NodeId)| now_ns - at_ns > TIMEOUT || Some(before) != to;
        if let Some(to) = to
            && begins.last().is_none_or(is_new)
        {
            begins.push((now_ns, to));
        }
        assert_eq!(bench.leader(), Some(old), "nobody was asked");
    }
    // After 0, 2, 2 + 4, 2 + 4 + 8, … timeouts.
    assert_eq!(begins.len(), 5, "{begins:?}");
    for pair in begins.windows(2) {
        assert_ne!(pair[0].1, pair[1].1, "each in turn: {begins:?}");
    }
    let gaps: Vec<u64> = begins.windows(2).map(|it| it[1].0 - it[0].0).collect();
    assert!(gaps.windows(2).all(|it| it[1] > it[0] * 3 / 2), "{gaps:?}");
    bench.loses = Box::new(|_, _, _| false);
    bench.until("it succeeds", |bench| {
        bench.leader().is_some_and(|leader| leader != old)
    });
}

/// One peer has everything but says that its disk stands still, as with another group; the other one is healthy. Both are
/// healthier than the leader, and the sicker one was asked, which does not stand while it knows of a healthier one.
#[test]
fn of_two_peers_with_equal_logs_the_healthier_one_is_asked() {
    for seed in 1..=10 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let mut others: Vec<usize> = (0..3).filter(|&it| it != old).collect();
        // Where all else is equal the ids decide: either of the two is the sick one.
        others.rotate_left(seed as usize % 2);
        let (healthy, sick) = (bench.members[others[0]].id, bench.members[others[1]].id);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::new(Mutex::new(None));
        let (log, status) = (Arc::clone(&asked), Arc::clone(&said));
        bench.loses = Box::new(move |from, to, frame| {
            if is_timeout_now(frame) {
                log.lock().push(to);
            }
            match frame {
                Frame::Status(it) if from == sick => {
                    *status.lock() = Some(*it);
                    true
                }
                _ => is_timeout_now(frame),
            }
        });
        bench.until("the sick one spoke", |_| said.lock().is_some());
        let mut status = said.lock().expect("it spoke");
        status.health = LogHealth::Stalled;
        bench.members[old].fill();
        bench.until("one is asked", |bench| {
            bench
                .node(old)
                .deliver(Origin::Node(sick), Frame::Status(status));
            bench.begin_put(3 << 10);
            !asked.lock().is_empty()
        });
        assert_eq!(*asked.lock(), [healthy], "seed {seed}");
    }
}

/// A leader with a full disk cannot write down that a peer was started again, so it refuses that peer and does not hear that
/// it is healthy. It waited for a second healthy peer for ever, although the two others are a majority without it.
#[test]
fn a_leader_whose_full_disk_keeps_a_peer_away_hands_over_all_the_same() {
    let mut bench = Bench::new(3, 1);
    let (old, _) = bench.reign();
    let (other, again) = ((old + 1) % 3, (old + 2) % 3);
    bench.members[again].node = None;
    bench.wait(4 * TIMEOUT);
    bench.fill(old);
    bench.wait(4 * TIMEOUT);
    assert_eq!(bench.leader(), Some(old), "one healthy peer is too few");
    let ends = [bench.members[old].id, bench.members[again].id];
    bench.loses = Box::new(move |from, to, _| ends.contains(&from) && ends.contains(&to));
    bench.start(again);
    bench.until("another leads", |bench| bench.leader() == Some(other));
    bench.put();
}

/// It was counted towards a majority for ever: the leader gave the group to a node that could not
/// commit anything either.
#[test]
fn a_peer_that_was_turned_away_by_a_full_leader_and_is_gone_counts_no_more() {
    let mut bench = Bench::new(3, 1);
    let (old, _) = bench.reign();
    let (other, again) = ((old + 1) % 3, (old + 2) % 3);
    bench.members[again].node = None;
    bench.wait(4 * TIMEOUT);
    bench.fill(old);
    let ids = [old, other, again].map(|place| bench.members[place].id);
    let is_silent = Arc::new(Mutex::new(true));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (silent, log) = (Arc::clone(&is_silent), Arc::clone(&asked));
    bench.loses = Box::new(move |from, to, frame| {
        if is_timeout_now(frame) {
            log.lock().push(to);
        }
        let is_apart = [from, to] == [ids[0], ids[2]] || [from, to] == [ids[2], ids[0]];
        let is_status = from == ids[1] && matches!(frame, Frame::Status(_));
        is_apart || (is_status && *silent.lock())
    });
    bench.wait(4 * TIMEOUT);
    bench.start(again);
    bench.wait(TIMEOUT);
    assert_eq!(bench.leader(), Some(old), "nobody says that it is healthy");
    bench.members[again].node = None;
    bench.wait(8 * TIMEOUT);
    *is_silent.lock() = false;
    bench.wait(8 * TIMEOUT);
    assert_eq!(*asked.lock(), [], "one healthy peer is too few");
    assert_eq!(bench.leader(), Some(old));
    assert!(bench.get().is_ok());
}

#[test]
fn a_leader_that_is_told_to_choose_hands_over_to_no_sick_node() {
    for seed in 1..=10 {
        let mut bench = Bench::new(3, seed);
        let (old, _) = bench.reign();
        let (sick, healthy) = ((old + 1) % 3, (old + 2) % 3);
        fill_with_equal_logs(&mut bench, sick, old);
        let to = bench.members[sick].id;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        bench.loses = Box::new(move |_, to, frame| {
            if is_timeout_now(frame) {
                log.lock().push(to);
            }
            false
        });
        bench.node(old).transfer(GROUP, Some(to));
        bench.wait(2 * TIMEOUT);
        assert_eq!(bench.leader(), Some(old), "seed {seed}: nor if it is named");
        assert_eq!(*asked.lock(), [], "seed {seed}: nor is it asked");
        bench.node(old).transfer(GROUP, None);
        bench.until("another leads", |bench| {
            bench.leader().is_some_and(|leader| leader != old)
        });
        assert_eq!(bench.leader(), Some(healthy), "seed {seed}");
    }
}

/// What the leader knows of its successor may be old.
#[test]
fn a_node_that_has_become_sick_ignores_a_leader_that_hands_over_to_it() {
    let mut bench = Bench::new(3, 1);
    let reign = bench.reign();
    let sick = (reign.0 + 1) % 3;
    let sick_id = bench.members[sick].id;
    bench.loses =
        Box::new(move |from, _, frame| from == sick_id && matches!(frame, Frame::Status(_)));
    fill_with_equal_logs(&mut bench, sick, reign.0);
    bench.wait(4 * TIMEOUT);
    bench.node(reign.0).transfer(GROUP, Some(sick_id));
    bench.wait(2 * TIMEOUT);
    assert_eq!(bench.reign(), reign);
}

/// A client that waits for a reply of a node with a full disk is told so, and others are served there.
#[test]
fn a_follower_with_a_full_disk_goes_on_following_and_answering() {
    let mut bench = Bench::new(3, 1);
    let (leader, _) = bench.reign();
    let sick = (leader + 1) % 3;
    bench.fill(sick);
    bench.wait(TIMEOUT);
    let sink = Arc::clone(&bench.members[sick].outbox);
    let applied = bench.node(sick).view(GROUP).applied;
    let id = RequestId(u64::MAX);
    let own = Arc::clone(&sink) as Arc<dyn ReplySink>;
    bench.node(sick).wait_applied(GROUP, applied, id, own);
    let now_ns = bench.now_ns;
    bench.members[sick].work(now_ns);
    assert!(
        sink.replies
            .lock()
            .iter()
            .any(|it| it.id == id && it.result.is_ok())
    );
    assert_eq!(bench.node(sick).role(GROUP).0, Role::Follower);
}
