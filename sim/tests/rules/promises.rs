//! What is promised to leaders and clients, what reads see, what takes effect, and how much may wait.

use quorate::simulation::{Body, Command, Deed, Entry, EntryKind, Outcome, SessionId};
use quorate::transport::{Consistency, Reply, ReplyBody, Request, RequestBody, RequestId};
use quorate::{Bytes, LogIndex, NodeId, Role, Term};
use quorate_sim::config::Config;
use quorate_sim::judge::{Bounds, Event, Promises, Reads, SessionRule};

use super::script::{Script, accepted, any_round, applied, entry, outcome_reply, with};
use super::{GROUP, at, says, stand};

#[test]
fn promises_of_what_is_not_durable_are_found() {
    let mut script = Script::new(Promises::default());
    script.wrote(2, &[(1, 1), (2, 1)]).expect("a log");
    script
        .moved(2, with(stand(Role::Follower, 1, 2), 1, 0, 0))
        .expect("half is durable");
    script.sent(2, 1, 1, accepted(1)).expect("that half");
    let early = script.sent(2, 1, 1, accepted(2));
    says(early, "invariant 7, durable before acknowledged");
    let believed = |index| Event::Matched {
        at: at(1),
        peer: NodeId(2),
        index: LogIndex(index),
    };
    script
        .moved(1, stand(Role::Leader, 1, 2))
        .expect("it leads");
    script.tell(&believed(1)).expect("that was promised");
    says(
        script.tell(&believed(2)),
        "invariant 9, a match is what was promised",
    );
    script
        .moved(1, stand(Role::Leader, 2, 2))
        .expect("it leads later");
    says(
        script.tell(&believed(1)),
        "invariant 9, a match is what was promised",
    );
}

#[test]
fn a_log_that_failed_and_still_promises_is_found() {
    let mut script = Script::new(Promises::default());
    script
        .moved(2, with(stand(Role::Follower, 1, 2), 1, 0, 0))
        .expect("one is durable");
    script
        .tell(&Event::LogFailed { node: NodeId(2) })
        .expect("it fails");
    // It says that more became durable since.
    script
        .moved(2, with(stand(Role::Follower, 1, 2), 2, 0, 0))
        .expect("so it says");
    says(
        script.sent(2, 1, 1, accepted(2)),
        "invariant 18, a log that failed",
    );
    let vote = script.sent(2, 1, 1, Body::VoteReply { granted: true });
    says(vote, "invariant 18, a log that failed");
}

/// Seed 14942 of scheme 10: a candidate asked again, as its first question seemed to be lost.
#[test]
fn a_vote_that_left_before_the_log_failed_may_be_repeated_and_no_other() {
    let vote = || Body::VoteReply { granted: true };
    let mut script = Script::new(Promises::default());
    script.sent(2, 1, 4, vote()).expect("its log is sound");
    script
        .tell(&Event::LogFailed { node: NodeId(2) })
        .expect("it fails");
    script.sent(2, 1, 4, vote()).expect("it was on the disk");
    says(script.sent(2, 3, 4, vote()), "invariant 18");
    says(script.sent(2, 1, 5, vote()), "invariant 18");
}

#[test]
fn an_answer_before_a_majority_has_it_is_found() {
    let mut script = Script::new(Promises::default());
    script.wrote(1, &[(1, 1)]).expect("an entry");
    script
        .moved(1, with(stand(Role::Leader, 1, 1), 1, 1, 1))
        .expect("on one disk");
    let id = RequestId(1);
    let told = Deed::Acknowledged {
        id,
        index: LogIndex(1),
    };
    script.did(1, &told).expect("not sent yet");
    let reply = outcome_reply(id);
    let early = script.tell(&Event::Replied {
        node: NodeId(1),
        clerk: 0,
        reply: &reply,
    });
    says(early, "invariant 8, on a majority of disks");
}

#[test]
fn a_read_that_misses_what_was_acknowledged_is_found() {
    let mut script = Script::new(Reads::default());
    let ask = |script: &mut Script<Reads>, id, body| {
        let request = Request {
            id: RequestId(id),
            group: GROUP,
            body,
        };
        let clerk = 0;
        let asked = Event::Asked {
            clerk,
            request: &request,
        };
        script.tell(&asked).expect("it asks");
    };
    let answer = |script: &mut Script<Reads>, node, deed: Deed, reply: Reply| {
        script.did(node, &deed).expect("not sent yet");
        script.tell(&Event::Replied {
            node: NodeId(node),
            clerk: 0,
            reply: &reply,
        })
    };
    let command = Bytes::from_static(b"x");
    ask(&mut script, 1, RequestBody::Propose { command });
    let told = Deed::Acknowledged {
        id: RequestId(1),
        index: LogIndex(7),
    };
    answer(&mut script, 1, told, outcome_reply(RequestId(1))).expect("done");
    let query = RequestBody::Query {
        consistency: Consistency::Linearizable,
        query: Bytes::new(),
    };
    ask(&mut script, 2, query);
    let stale = Deed::Read {
        id: RequestId(2),
        index: LogIndex(6),
        by_lease: true,
    };
    let reply = Reply {
        id: RequestId(2),
        result: Ok(ReplyBody::Answer(Bytes::new())),
    };
    let early = answer(&mut script, 2, stale, reply);
    says(early, "invariant 13, reads see what was acknowledged");
}

/// A command of session 1.
fn command(sequence: u64) -> Bytes {
    let command = quorate::simulation::CommandBuffer::put(b"k", b"v").expect("short");
    command.seal(SessionId(1), sequence, 0)
}

fn in_session(index: u64, data: Bytes, outcome: Outcome) -> Deed {
    let kind = EntryKind::Command;
    let (index, term) = (LogIndex(index), Term(1));
    applied(
        Entry {
            index,
            term,
            kind,
            data,
        },
        outcome,
    )
}

#[test]
fn commands_that_take_effect_twice_or_out_of_turn_are_found() {
    let done = |answer: &'static [u8]| Outcome::Applied(Bytes::from_static(answer));
    let wrong = [
        (command(1), done(b"b"), "answered twice in different ways"),
        (command(3), done(b"a"), "out of turn"),
        (command(2), Outcome::AlreadyAcknowledged, "no repetition"),
        (
            command(2),
            Outcome::OutOfOrder { expected: 9 },
            "the wrong turn",
        ),
        (
            CommandOf::other_session(),
            done(b"a"),
            "a session that never was",
        ),
    ];
    for (data, outcome, what) in wrong {
        let mut script = Script::new(SessionRule::default());
        let registered = Outcome::Registered(SessionId(1));
        let first = in_session(1, Command::register(3), registered);
        script.did(1, &first).expect("a session");
        script
            .did(1, &in_session(2, command(1), done(b"a")))
            .expect("its first");
        script
            .did(1, &in_session(3, command(1), done(b"a")))
            .expect("and again");
        let result = script.did(1, &in_session(4, data, outcome));
        let said = result.expect_err(what);
        assert!(said.starts_with("invariant 15, exactly once"), "{said}");
    }
    let mut script = Script::new(SessionRule::default());
    let registered = Outcome::Registered(SessionId(1));
    script
        .did(1, &in_session(1, Command::register(3), registered))
        .expect("a session");
    script
        .did(1, &in_session(2, command(1), Outcome::SessionExpired))
        .expect("gone");
    let back = script.did(1, &in_session(3, command(1), done(b"a")));
    says(back, "invariant 15, exactly once");
}

struct CommandOf;

impl CommandOf {
    fn other_session() -> Bytes {
        let command = quorate::simulation::CommandBuffer::put(b"k", b"v").expect("short");
        command.seal(SessionId(77), 1, 0)
    }
}

#[test]
fn more_than_a_bound_is_found() {
    let bounds = Bounds::new(&Config::plain(1));
    let large: Vec<Entry> = (1..100_000).map(|index| entry(index, 1, b"x")).collect();
    let append = Body::Append {
        prev_index: LogIndex(0),
        prev_term: Term(0),
        commit: LogIndex(0),
        round: any_round(),
        entries: large,
    };
    for checked in [
        bounds.check_queues(1 << 20, 0),
        bounds.check_queues(0, 1 << 20),
        bounds.check_inflight(1 << 30, 0),
        bounds.check_inflight(0, 1 << 20),
        bounds.check_message(&append),
        bounds.check_log(1 << 40),
    ] {
        says(checked, "invariant 19, bounds");
    }
}
