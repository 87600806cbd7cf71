//! Rules that follow events, shown scripts of them.

use quorate::simulation::{
    Body, Command, Deed, Entry, EntryKind, Message, Outcome, Round, SessionId, Stand,
};
use quorate::transport::{Consistency, Reply, ReplyBody, Request, RequestBody, RequestId};
use quorate::{Bytes, LogIndex, NodeId, Role, Term};
use quorate_sim::clock::Clock;
use quorate_sim::config::Config;
use quorate_sim::judge::{
    Books, Bounds, Commits, Elections, Event, Logs, Offices, Promises, Reads, Rule, SessionRule,
    SnapshotRule,
};

use super::{GROUP, at, says, stand};

/// A cluster of three of which only a script is seen.
struct Script<R> {
    books: Books,
    rule: R,
    stands: [Stand; 3],
}

impl<R: Rule> Script<R> {
    fn new(rule: R) -> Self {
        let mut script = Self {
            books: Books::new(3, 1),
            rule,
            stands: [Stand::default(); 3],
        };
        for node in 1..=3 {
            let stand = stand(Role::Follower, 0, 0);
            script.stands[node - 1] = stand;
            script.open(node as u64, stand, &[0]).expect("an empty log");
        }
        script
    }

    fn tell(&mut self, event: &Event<'_>) -> Result<(), String> {
        self.rule.judge(&self.books, event)?;
        self.books.note(event);
        Ok(())
    }

    fn open(&mut self, node: u64, stand: Stand, terms: &[u64]) -> Result<(), String> {
        self.stands[node as usize - 1] = stand;
        let terms: Vec<Term> = terms.iter().copied().map(Term).collect();
        self.tell(&Event::Opened {
            at: at(node),
            stand: &stand,
            terms: &terms,
        })
    }

    fn end(&mut self, node: u64) {
        let node = NodeId(node);
        self.tell(&Event::Ended { node }).expect("nothing to say");
    }

    fn moved(&mut self, node: u64, now: Stand) -> Result<(), String> {
        self.moved_at(node, now, 0)
    }

    fn moved_at(&mut self, node: u64, now: Stand, now_ns: u64) -> Result<(), String> {
        self.books.now_ns = now_ns;
        let before = std::mem::replace(&mut self.stands[node as usize - 1], now);
        self.tell(&Event::Moved {
            at: at(node),
            before: &before,
            now: &now,
            clock: &Clock::new(0, 1_000),
            is_pass: true,
        })
    }

    fn did(&mut self, node: u64, deed: &Deed) -> Result<(), String> {
        self.tell(&Event::Did { at: at(node), deed })
    }

    fn wrote(&mut self, node: u64, entries: &[(u64, u64)]) -> Result<(), String> {
        let entries = entries
            .iter()
            .map(|&(index, term)| entry(index, term, b"x"));
        self.did(node, &Deed::Wrote(entries.collect()))
    }

    fn sent(&mut self, from: u64, to: u64, term: u64, body: Body) -> Result<(), String> {
        let message = Message {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            body,
        };
        self.tell(&Event::Sent {
            at: at(from),
            message: &message,
        })
    }

    fn elect(&mut self, node: u64, voter: u64, term: u64) {
        let granted = |granted| Body::VoteReply { granted };
        self.sent(voter, node, term, Body::PreVoteReply { granted: true })
            .expect("it is willing");
        self.sent(voter, node, term, granted(true))
            .expect("it votes");
    }
}

/// With so much durable, committed and applied.
fn with(mut stand: Stand, durable: u64, commit: u64, applied: u64) -> Stand {
    stand.durable = LogIndex(durable);
    stand.commit = LogIndex(commit);
    stand.applied = LogIndex(applied);
    stand
}

fn entry(index: u64, term: u64, data: &'static [u8]) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        data: Bytes::from_static(data),
    }
}

fn applied(entry: Entry, outcome: Outcome) -> Deed {
    Deed::Applied { entry, outcome }
}

fn accepted(match_index: u64) -> Body {
    Body::AppendAccepted {
        match_index: LogIndex(match_index),
        round: any_round(),
    }
}

/// Rounds mean nothing to the rules.
fn any_round() -> Round {
    Round(1)
}

#[test]
fn two_leaders_of_a_term_are_found() {
    let mut script = Script::new(Elections::default());
    script.elect(1, 2, 4);
    script.elect(3, 2, 5);
    script.moved(1, stand(Role::Leader, 4, 0)).expect("elected");
    script.moved(3, stand(Role::Leader, 5, 0)).expect("elected");
    script.end(1);
    says(
        script.moved(3, stand(Role::Leader, 4, 0)),
        "invariant 1, election safety",
    );
    let minority = script.moved(2, stand(Role::Leader, 6, 0));
    says(minority, "invariant 1, a majority elects");
}

#[test]
fn a_second_vote_and_a_forgotten_one_are_found() {
    let mut script = Script::new(Elections::default());
    script.elect(1, 2, 4);
    let second = script.sent(2, 3, 4, Body::VoteReply { granted: true });
    says(second, "invariant 6, one vote a term");
    script.end(2);
    let forgotten = script.open(2, stand(Role::Follower, 4, 0), &[0]);
    says(forgotten, "invariant 6, votes are kept");
    let back = script.open(2, stand(Role::Follower, 3, 0), &[0]);
    says(back, "invariant 6, terms never go back");
}

#[test]
fn a_term_that_nobody_was_asked_about_is_found() {
    let mut script = Script::new(Elections::default());
    let mut candidate = stand(Role::Candidate, 1, 0);
    candidate.vote = Some(NodeId(1));
    says(
        script.moved(1, candidate),
        "invariant 14, no term without a majority",
    );
}

#[test]
fn a_leader_that_hears_nobody_is_found() {
    let timeout_ns = 100;
    let mut script = Script::new(Offices::new(timeout_ns, true));
    let leads = stand(Role::Leader, 1, 0);
    let heard = Event::Heard {
        node: NodeId(1),
        from: NodeId(2),
        shown_ns: 1_000,
    };
    script.tell(&heard).expect("it hears");
    for now_ns in [1_000, 1_200, 1_201, 1_301] {
        script.moved_at(1, leads, now_ns).expect("in time");
    }
    says(
        script.moved_at(1, leads, 1_302),
        "invariant 14, a leader without a majority steps down",
    );
}

#[test]
fn an_election_in_a_lease_is_found() {
    let mut script = Script::new(Offices::new(1_000, true));
    let mut leads = stand(Role::Leader, 1, 0);
    leads.lease_until_ns = Some(500);
    script.moved_at(1, leads, 10).expect("it leads");
    let early = script.moved_at(2, stand(Role::Leader, 2, 0), 499);
    says(early, "invariant 13, a lease keeps others away");
    script
        .moved_at(3, stand(Role::Leader, 2, 0), 500)
        .expect("the lease is over");
}

#[test]
fn an_election_after_the_holder_of_a_lease_stepped_down_for_a_later_term_is_none_in_a_lease() {
    let mut script = Script::new(Offices::new(1_000, true));
    let mut leads = stand(Role::Leader, 1, 0);
    leads.lease_until_ns = Some(500);
    script.moved_at(1, leads, 10).expect("it leads");
    let steps_down = script.moved_at(1, stand(Role::Follower, 2, 0), 100);
    steps_down.expect("it heard of a later term");
    let elected = script.moved_at(2, stand(Role::Leader, 2, 0), 200);
    elected.expect("nobody answers from the lease any more");
}

#[test]
fn logs_that_differ_below_an_entry_that_they_share_are_found() {
    let mut script = Script::new(Logs::default());
    script.wrote(1, &[(1, 1), (2, 2)]).expect("a log");
    script.wrote(2, &[(1, 2)]).expect("another log");
    says(script.wrote(2, &[(2, 2)]), "invariant 2, log matching");
}

/// All three know that entry 1, of term 1, is committed.
fn one_committed<R: Rule>(rule: R) -> Script<R> {
    let mut script = Script::new(rule);
    for node in 1..=3 {
        script.wrote(node, &[(1, 1)]).expect("the first entry");
        let stand = with(stand(Role::Follower, 1, 1), 1, 1, 0);
        script.moved(node, stand).expect("it is committed");
    }
    script
}

#[test]
fn a_leader_that_lacks_what_is_committed_is_found() {
    let mut script = one_committed(Logs::default());
    script.end(3);
    let lost = stand(Role::Follower, 1, 0);
    let gone = script.open(3, lost, &[0]);
    says(gone, "invariant 16, what was synced is there");
    // Were it not found there:
    script.books.note(&Event::Opened {
        at: at(3),
        stand: &lost,
        terms: &[Term(0)],
    });
    let elected = script.moved(3, stand(Role::Leader, 2, 0));
    says(elected, "invariant 3, leader completeness");
}

#[test]
fn cutting_what_is_committed_is_found() {
    let mut script = one_committed(Logs::default());
    says(
        script.wrote(1, &[(1, 2)]),
        "invariant 10, what is committed",
    );
    // Also where the replica itself does not know.
    script.wrote(2, &[(2, 1)]).expect("the second entry");
    script.wrote(3, &[(2, 1)]).expect("the second entry");
    let knows = with(stand(Role::Follower, 1, 2), 2, 2, 0);
    script.moved(2, knows).expect("it is committed");
    says(
        script.wrote(3, &[(2, 2)]),
        "invariant 10, what is committed",
    );
    let install = Deed::Installed {
        index: LogIndex(1),
        term: Term(1),
        keeps_suffix: false,
    };
    says(script.did(3, &install), "invariant 10, what is committed");
}

#[test]
fn a_log_that_comes_back_with_what_nobody_wrote_is_found() {
    let mut script = one_committed(Logs::default());
    script.end(1);
    let stand = with(stand(Role::Follower, 1, 2), 2, 1, 0);
    let more = script.open(1, stand, &[0, 1, 1]);
    says(
        more,
        "invariant 16, nothing comes back that was not written",
    );
    let gap = script.open(1, stand, &[0, 1]);
    says(gap, "invariant 16, no gaps");
    let aside = Stand {
        is_aside: true,
        ..stand
    };
    let lost = script.open(1, aside, &[0, 1, 1]);
    says(lost, "invariant 17, nothing is lost on a sound disk");
}

#[test]
fn replicas_that_apply_something_else_are_found() {
    let mut script = one_committed(Commits::default());
    let outcome = || Outcome::Applied(Bytes::from_static(b"1"));
    script
        .did(1, &applied(entry(1, 1, b"x"), outcome()))
        .expect("the first");
    for (deed, what) in [
        (
            applied(entry(1, 1, b"y"), outcome()),
            "invariant 4, state machine safety",
        ),
        (
            applied(entry(1, 2, b"x"), outcome()),
            "invariant 4, state machine safety",
        ),
        (
            applied(entry(1, 1, b"x"), Outcome::SessionExpired),
            "invariant 4, state machine safety",
        ),
        (
            applied(entry(2, 1, b"x"), outcome()),
            "invariant 4, state machine safety",
        ),
    ] {
        let mut script = one_committed(Commits::default());
        script
            .did(1, &applied(entry(1, 1, b"x"), outcome()))
            .expect("the first");
        says(script.did(2, &deed), what);
    }
    script.wrote(2, &[(2, 1)]).expect("the second");
    script.wrote(3, &[(2, 2)]).expect("another second");
    let knows = with(stand(Role::Follower, 2, 2), 2, 2, 0);
    script.moved(2, knows).expect("it is committed");
    says(
        script.moved(3, knows),
        "invariant 4, one entry at each index",
    );
}

#[test]
fn commits_that_go_back_or_are_counted_wrongly_are_found() {
    let mut script = one_committed(Commits::default());
    let behind = with(stand(Role::Follower, 1, 1), 1, 0, 0);
    says(
        script.moved(1, behind),
        "invariant 5, commit never goes back",
    );
    let ahead = with(stand(Role::Follower, 1, 1), 1, 1, 2);
    says(script.moved(2, ahead), "invariant 5, applied <= commit");
    // Raft figure 8: an entry of an earlier term on a majority.
    for node in [1, 3] {
        script.wrote(node, &[(2, 1)]).expect("the second entry");
    }
    let holds = with(stand(Role::Follower, 3, 2), 2, 1, 0);
    script.moved(1, holds).expect("it has it");
    script.stands[2] = with(stand(Role::Leader, 3, 2), 2, 1, 0);
    let counted = script.moved(3, with(stand(Role::Leader, 3, 2), 2, 2, 0));
    says(counted, "invariant 5, only entries of its own term");
    script.stands[2] = with(stand(Role::Leader, 1, 2), 2, 1, 0);
    script.end(1);
    script.books.note(&Event::Opened {
        at: at(1),
        stand: &stand(Role::Follower, 1, 0),
        terms: &[Term(0)],
    });
    let alone = script.moved(3, with(stand(Role::Leader, 1, 2), 2, 2, 0));
    says(alone, "invariant 5, commit <= durable on a majority");
}

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

fn outcome_reply(id: RequestId) -> Reply {
    Reply {
        id,
        result: Ok(ReplyBody::Outcome(Outcome::Applied(Bytes::new()))),
    }
}

#[test]
fn snapshots_that_take_back_or_leave_gaps_are_found() {
    let mut script = one_committed(SnapshotRule);
    let saved = |index, term, first| Deed::Saved {
        index: LogIndex(index),
        term: Term(term),
        first_index: LogIndex(first),
    };
    for deed in [saved(1, 1, 3), saved(1, 2, 1), saved(2, 1, 1)] {
        says(script.did(1, &deed), "invariant 11, snapshots");
    }
    let old = Deed::Installed {
        index: LogIndex(0),
        term: Term(0),
        keeps_suffix: true,
    };
    says(script.did(1, &old), "invariant 11, snapshots");
    let mut gap = with(stand(Role::Follower, 1, 5), 5, 5, 5);
    gap.first = LogIndex(4);
    gap.snapshot = LogIndex(2);
    says(script.moved(1, gap), "invariant 11, snapshots");
    let mut whole = gap;
    whole.first = LogIndex(3);
    script.stands[0] = gap;
    script.moved(1, whole).expect("no gap");
    let mut back = whole;
    back.snapshot = LogIndex(1);
    back.first = LogIndex(2);
    says(script.moved(1, back), "invariant 11, snapshots");
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
