//! What must hold for one replica at any time, and from one time to the next. Tests and simulations
//! ask after each step.

use thiserror::Error;

use crate::ids::{LogIndex, NodeId, Term};
use crate::output::Role;
use crate::raft::Raft;

/// An invariant that does not hold: a bug.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{node}: {rule} ({detail})")]
pub struct Violation {
    /// Whose state is wrong.
    pub node: NodeId,
    /// What should hold.
    pub rule: &'static str,
    /// What was found.
    pub detail: String,
}

/// What is remembered of a replica to compare it with later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    id: NodeId,
    term: Term,
    vote: Option<NodeId>,
    role: Role,
    leader: Option<NodeId>,
    commit: LogIndex,
    commit_term: Option<Term>,
    applied: LogIndex,
    last: LogIndex,
    last_term: Option<Term>,
    snapshot: LogIndex,
    first: LogIndex,
}

impl Observation {
    /// What is to be remembered of `raft` as it is now.
    pub fn of(raft: &Raft) -> Self {
        Self {
            id: raft.id(),
            term: raft.term(),
            vote: raft.hard_state().vote,
            role: raft.role(),
            leader: raft.leader(),
            commit: raft.commit(),
            commit_term: raft.term_at(raft.commit()),
            applied: raft.applied(),
            last: raft.last_index(),
            last_term: raft.term_at(raft.last_index()),
            snapshot: raft.snapshot().index,
            first: raft.first_index(),
        }
    }
}

/// What must hold for a replica by itself.
pub fn check_basic(raft: &Raft) -> Result<(), Violation> {
    let now = Observation::of(raft);
    let check = Checker { node: now.id };
    check.that(
        now.first <= now.snapshot.next(),
        "the log begins no later than behind the snapshot",
        || format!("first {}, snapshot {}", now.first, now.snapshot),
    )?;
    check.that(
        now.snapshot <= now.applied,
        "a snapshot covers only what is applied",
        || format!("snapshot {}, applied {}", now.snapshot, now.applied),
    )?;
    check.that(
        now.applied <= now.commit,
        "only committed entries are applied",
        || format!("applied {}, commit {}", now.applied, now.commit),
    )?;
    check.that(
        now.commit <= now.last,
        "only entries of the log are committed",
        || format!("commit {}, last {}", now.commit, now.last),
    )?;
    check.that(
        raft.durable_index() <= now.last,
        "only entries of the log are durable",
        || format!("durable {}, last {}", raft.durable_index(), now.last),
    )?;
    check.that(
        now.last_term.is_some_and(|term| term <= now.term),
        "no entry is of a later term",
        || format!("last entry of {:?}, term {}", now.last_term, now.term),
    )?;
    check.that(
        (now.role == Role::Leader) == (now.leader == Some(now.id)),
        "a leader knows that it leads",
        || format!("role {:?}, leader {:?}", now.role, now.leader),
    )?;
    let has_voted_itself = now.vote == Some(now.id);
    let stands = matches!(now.role, Role::Candidate | Role::Leader);
    check.that(
        !stands || has_voted_itself,
        "who stands for election votes for itself",
        || format!("role {:?}, vote {:?}", now.role, now.vote),
    )?;
    for peer in raft.peers() {
        let is_sound = peer.match_index < peer.next_index && peer.match_index <= now.last;
        check.that(
            is_sound,
            "a peer matches before what is sent next, and no more than the log",
            || format!("{peer:?}, last {}", now.last),
        )?;
    }
    Ok(())
}

/// What must hold between an earlier observation of a replica and a later one without a restart
/// between.
pub fn check_delta(before: &Observation, now: &Observation) -> Result<(), Violation> {
    let check = Checker { node: now.id };
    let both = || format!("before {before:?}, now {now:?}");
    check.that(before.id == now.id, "a replica stays who it is", both)?;
    check.that(now.term >= before.term, "the term never goes back", both)?;
    check.that(
        now.commit >= before.commit,
        "the commit index never goes back",
        both,
    )?;
    check.that(
        now.applied >= before.applied,
        "what is applied stays applied",
        both,
    )?;
    check.that(
        now.snapshot >= before.snapshot,
        "a snapshot is never replaced by an older one",
        both,
    )?;
    check.that(
        now.first >= before.first,
        "the log's begin never goes back",
        both,
    )?;
    let is_same_commit = now.commit != before.commit || now.commit_term == before.commit_term;
    check.that(is_same_commit, "a committed entry never changes", both)?;
    if now.term == before.term {
        let keeps_vote = before.vote.is_none() || now.vote == before.vote;
        check.that(keeps_vote, "a vote stands for its term", both)?;
        let one_leader =
            before.leader.is_none() || now.leader.is_none() || now.leader == before.leader;
        check.that(one_leader, "a term has one leader", both)?;
        let led = before.role == Role::Leader && now.role == Role::Leader;
        check.that(
            !led || now.last >= before.last,
            "a leader never cuts its log",
            both,
        )?;
    }
    Ok(())
}

struct Checker {
    node: NodeId,
}

impl Checker {
    fn that(
        &self,
        holds: bool,
        rule: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        if holds {
            Ok(())
        } else {
            Err(Violation {
                node: self.node,
                rule,
                detail: detail(),
            })
        }
    }
}
