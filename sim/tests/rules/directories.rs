//! Nodes that run from a directory that is not their own.

use quorate::simulation::{Body, Message};
use quorate::transport::{Refusal, Refused, Reply, ReplyBody, RequestId};
use quorate::{LogIndex, NodeId, Role, Term};
use quorate_sim::judge::{Directories, Directory, Elections, Event, Logs, Rule};

use super::script::{Script, accepted, with};
use super::{at, says, stand};

const REFUSED: &str = "invariant 20, a wrong directory is refused";
const NO_PART: &str = "invariant 20, a wrong directory takes no part";

/// Node 2 runs from a directory that is not its own.
fn misplaced<R: Rule>(rule: R, directory: Directory) -> Script<R> {
    let mut script = Script::new(rule);
    script.end(2);
    exchange(&mut script, directory);
    script
}

fn exchange<R: Rule>(script: &mut Script<R>, directory: Directory) {
    let node = NodeId(2);
    let exchanged = Event::Exchanged { node, directory };
    script.tell(&exchanged).expect("nothing is known of it");
}

fn copy<R: Rule>(script: &mut Script<R>) {
    let node = NodeId(2);
    script.tell(&Event::Copied { node }).expect("a copy");
}

fn open<R: Rule>(script: &mut Script<R>, term: u64, terms: &[u64]) -> Result<(), String> {
    let last = terms.len() as u64 - 1;
    let stand = with(stand(Role::Follower, term, last), last, 0, 0);
    let terms: Vec<Term> = terms.iter().copied().map(Term).collect();
    script.tell(&Event::MisplacedOpened {
        at: at(2),
        stand: &stand,
        terms: &terms,
    })
}

fn meet(
    script: &mut Script<Directories>,
    (node, other): (u64, u64),
    refusal: Option<&Refused>,
) -> Result<(), String> {
    script.tell(&Event::Met {
        node: NodeId(node),
        other: NodeId(other),
        refusal,
    })
}

#[test]
fn a_peer_that_deals_with_a_wrong_directory_is_found() {
    let node = NodeId(2);
    let (known, shown) = (7, 8);
    let empty = Refused::OtherDirectory { node, known, shown };
    let older = Refused::SecondCopy { node, life: 3 };
    let of_peer = Refused::SecondCopy {
        node: NodeId(1),
        life: 3,
    };
    let cases = [
        (Directory::Empty, &empty, &older),
        (Directory::Older, &older, &empty),
    ];
    for (directory, right, wrong) in cases {
        let mut script = misplaced(Directories::default(), directory);
        for pair in [(1, 2), (2, 1)] {
            meet(&mut script, pair, Some(right)).expect("it is refused");
            says(meet(&mut script, pair, None), REFUSED);
            // What passes by itself is no refusal, nor is one for another reason.
            for refusal in [&Refused::NotWritten, wrong, &of_peer] {
                says(meet(&mut script, pair, Some(refusal)), REFUSED);
            }
        }
        meet(&mut script, (1, 3), None).expect("these are right");
        exchange(&mut script, Directory::Own);
        meet(&mut script, (1, 2), None).expect("it is its own again");
    }
}

#[test]
fn a_wrong_directory_that_learns_something_is_found() {
    let mut script = misplaced(Directories::default(), Directory::Older);
    open(&mut script, 4, &[0, 4, 4]).expect("what the copy holds");
    let opened = with(stand(Role::Follower, 4, 2), 2, 0, 0);
    let mut told = |now| {
        script.tell(&Event::MisplacedMoved {
            at: at(2),
            now: &now,
        })
    };
    told(opened).expect("as it was opened");
    told(stand(Role::PreCandidate, 4, 2)).expect("it may ask whether others would vote");
    let mut voted = opened;
    voted.vote = Some(NodeId(1));
    let committed = with(opened, 2, 1, 0);
    for now in [
        stand(Role::Leader, 4, 2),
        stand(Role::Follower, 5, 2),
        stand(Role::Follower, 4, 3),
        stand(Role::Follower, 4, 1),
        voted,
        committed,
    ] {
        says(told(now), NO_PART);
    }
}

#[test]
fn a_wrong_directory_that_votes_or_acknowledges_is_found() {
    let mut script = misplaced(Directories::default(), Directory::Older);
    let mut sent = |body| {
        let message = Message {
            from: NodeId(2),
            to: NodeId(1),
            term: Term(4),
            body,
        };
        script.tell(&Event::MisplacedSent {
            at: at(2),
            message: &message,
        })
    };
    sent(Body::VoteReply { granted: false }).expect("no vote");
    sent(Body::PreVoteReply { granted: false }).expect("no vote");
    for body in [
        Body::VoteReply { granted: true },
        Body::PreVoteReply { granted: true },
        Body::TimeoutNow,
        accepted(1),
    ] {
        says(sent(body), NO_PART);
    }
}

#[test]
fn a_wrong_directory_that_answers_is_found() {
    let mut script = misplaced(Directories::default(), Directory::Older);
    let mut replied = |result| {
        let id = RequestId(1);
        script.tell(&Event::MisplacedReplied {
            node: NodeId(2),
            reply: &Reply { id, result },
        })
    };
    replied(Err(Refusal::Busy)).expect("it does nothing");
    says(replied(Ok(ReplyBody::ReadIndex(LogIndex(1)))), NO_PART);
}

#[test]
fn a_copy_that_holds_less_than_its_directory_did_is_found() {
    let mut script = Script::new(Elections::default());
    script.elect(1, 2, 4);
    script.end(2);
    copy(&mut script);
    exchange(&mut script, Directory::Older);
    says(
        open(&mut script, 3, &[0]),
        "invariant 6, terms never go back",
    );
    says(open(&mut script, 4, &[0]), "invariant 6, votes are kept");
    exchange(&mut script, Directory::Empty);
    open(&mut script, 0, &[0]).expect("nothing was promised from there");
    exchange(&mut script, Directory::Own);
    let forgotten = script.open(2, stand(Role::Follower, 3, 0), &[0]);
    says(forgotten, "invariant 6, terms never go back");

    let mut script = Script::new(Logs::default());
    script.wrote(2, &[(1, 1), (2, 1)]).expect("a log");
    let durable = with(stand(Role::Follower, 1, 2), 2, 0, 0);
    script.moved(2, durable).expect("it is durable");
    script.end(2);
    copy(&mut script);
    exchange(&mut script, Directory::Older);
    open(&mut script, 1, &[0, 1, 1]).expect("all that it had");
    says(
        open(&mut script, 1, &[0, 1]),
        "invariant 16, what was synced is there",
    );
    exchange(&mut script, Directory::Empty);
    open(&mut script, 0, &[0]).expect("nothing was there");
}
