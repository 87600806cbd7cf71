//! What stands in logs, what is committed and applied, and what snapshots replace.

use quorate::simulation::{Deed, Outcome, Stand};
use quorate::{Bytes, LogIndex, Role, Term};
use quorate_sim::judge::{Commits, Event, Logs, SnapshotRule};

use super::script::{Script, applied, entry, one_committed, with};
use super::{at, says, stand};

#[test]
fn logs_that_differ_below_an_entry_that_they_share_are_found() {
    let mut script = Script::new(Logs::default());
    script.wrote(1, &[(1, 1), (2, 2)]).expect("a log");
    script.wrote(2, &[(1, 2)]).expect("another log");
    says(script.wrote(2, &[(2, 2)]), "invariant 2, log matching");
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
