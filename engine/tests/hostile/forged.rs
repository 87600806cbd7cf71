//! Single forged messages, each of which once stopped a group for good.

use bytes::Bytes;
use quorate::simulation::{Command, CommandBuffer, SessionId};
use quorate::transport::{Frame, Refusal, RequestBody};
use quorate::{GroupId, LogIndex, Term};
use quorate_raft::{Body, Entry, EntryKind, Round};

use crate::bench::{Bench, GROUP, options};

/// "knows no leader in term 9223372036854775807", on all nodes, through restarts.
#[test]
fn a_term_from_nowhere_makes_no_group_leaderless() {
    let mut bench = Bench::led_by_first(options);
    let term = bench.node(1).role(GROUP).1;
    for to in 1..=3 {
        for from in (1..=3).filter(|&from| from != to) {
            let reply = Body::HeartbeatReply { round: Round(0) };
            bench.forge_message(from, to, u64::MAX / 2, reply);
            bench.forge_message(from, to, term.0 + (1 << 32) + 1, Body::TimeoutNow);
        }
    }
    bench.rounds(10);
    for id in 1..=3 {
        assert_eq!(bench.node(id).role(GROUP).1, term);
        assert_eq!(bench.rejected(id).term_jumps, 4);
        assert!(bench.trouble(id).contains("is the latest known here"));
    }
    bench.assert_healthy();
    for id in 1..=3 {
        bench.stop(id);
        bench.start(id);
    }
    bench.assert_healthy();
}

/// A change of configuration halted the replica for good, also after a restart.
#[test]
fn a_kind_of_entry_that_this_version_does_not_accept_is_never_stored() {
    let mut bench = Bench::led_by_first(options);
    bench.assert_healthy();
    let view = bench.node(2).view(GROUP);
    let append = Body::Append {
        prev_index: view.last_index,
        prev_term: view.term,
        commit: LogIndex(view.last_index.0 + 1),
        round: Round(0),
        entries: vec![Entry {
            index: LogIndex(view.last_index.0 + 1),
            term: view.term,
            kind: EntryKind::Config,
            data: Bytes::from_static(b"{1}"),
        }],
    };
    bench.forge_message(1, 2, view.term.0, append);
    bench.rounds(10);
    assert_eq!(bench.rejected(2).entry_kinds, 1);
    let after = bench.node(2).view(GROUP);
    assert!(!after.is_halted);
    assert_eq!(after.last_index, view.last_index);
    bench.assert_healthy();
}

/// A follower that was made to commit forged entries contradicted its real leader from then on: it stood still for ever,
/// and nobody was told.
#[test]
fn a_replica_that_contradicts_its_leader_says_so() {
    let mut bench = Bench::led_by_first(options);
    bench.assert_healthy();
    let view = bench.node(2).view(GROUP);
    let forged = CommandBuffer::put(b"evil", b"1")
        .expect("small")
        .seal_plain();
    let append = Body::Append {
        prev_index: view.last_index,
        prev_term: view.term,
        commit: LogIndex(view.last_index.0 + 1),
        round: Round(0),
        entries: vec![Entry {
            index: LogIndex(view.last_index.0 + 1),
            term: Term(view.term.0 + 1),
            kind: EntryKind::Command,
            data: forged,
        }],
    };
    // It must not lead itself: then the others would take what it has.
    bench.loses = |frame| {
        matches!(frame, Frame::Raft(messages) if messages.iter().any(|it| {
            let asks = matches!(it.message.body, Body::PreVote { .. } | Body::Vote { .. });
            asks && it.message.from.0 == 2
        }))
    };
    bench.forge_message(3, 2, view.term.0 + 1, append);
    bench.until("it is caught", |bench| {
        if bench.trouble(2).contains("contradicts") {
            return true;
        }
        if bench.client.outstanding() < 4 {
            bench.issue("k", b"v");
        }
        bench.round();
        false
    });
    assert!(bench.rejected(2).violations > 0);
}

/// One proposal of any clerk overflowed in the leader, and ended its worker: no session is needed for it.
#[test]
fn commands_with_extreme_numbers_are_refused_by_name() {
    let mut bench = Bench::led_by_first(options);
    let session = SessionId(123_456_789);
    let put = || CommandBuffer::put(b"k", b"v").expect("small");
    let mut zero_session = put().seal(session, 5, 0).to_vec();
    zero_session[8..16].fill(0);
    let mut high_floor = put().seal(session, 5, 0).to_vec();
    high_floor[24..32].fill(0xff);
    let refused: [Bytes; 7] = [
        put().seal(session, u64::MAX, 0),
        put().seal(session, u64::MAX, u64::MAX - 1),
        Command::skip(session, u64::MAX, 7),
        zero_session.into(),
        high_floor.into(),
        Bytes::new(),
        Bytes::from_static(&[1; 31]),
    ];
    for (id, command) in (0..).zip(&refused) {
        let command = command.clone();
        bench.ask(1, id, GROUP, RequestBody::Propose { command });
    }
    let taken = [
        put().seal(session, u64::MAX - 1, 0),
        put().seal(SessionId(u64::MAX), 1, 0),
        Command::acknowledge(session, u64::MAX),
        Command::acknowledge(SessionId(u64::MAX), u64::MAX),
        Command::close(SessionId(u64::MAX)),
        Command::skip(SessionId(u64::MAX), 1 << 63, (1 << 63) - 1),
    ];
    for (id, command) in (100..).zip(&taken) {
        let command = command.clone();
        bench.ask(1, id, GROUP, RequestBody::Propose { command });
    }
    for group in [2, 1 << 32, u64::MAX] {
        bench.ask(1, 200, GroupId(group), RequestBody::ReadIndex);
    }
    bench.rounds(50);
    let told = std::mem::take(&mut *bench.members[0].told.replies.lock());
    let (mut not_understood, mut strange_groups, mut answered) = (0, 0, 0);
    for reply in &told {
        match reply.result {
            Err(Refusal::NotUnderstood) => not_understood += 1,
            Err(Refusal::NoSuchGroup) => strange_groups += 1,
            _ => answered += 1,
        }
    }
    assert_eq!(
        (not_understood, strange_groups, answered),
        (7, 3, 6),
        "{told:?}"
    );
    let rejected = bench.rejected(1);
    assert_eq!((rejected.commands, rejected.no_such_group), (7, 3));
    bench.assert_healthy();
}
