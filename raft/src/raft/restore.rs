//! A replica from what its disk holds.

use std::collections::VecDeque;

use super::election::Preference;
use super::{NUMBER_MAX, Raft, Standing};
use crate::durability::Durability;
use crate::error::RestoreError;
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::Log;
use crate::message::{Config, HardState, SnapshotMeta};
use crate::mutants;
use crate::options::Options;
use crate::output::Soft;
use crate::quorum::Quorum;
use crate::rejection::Counters;
use crate::rng::SplitMix64;
use crate::terms::TermRuns;

/// What a replica starts from: what its disk holds, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Who it is.
    pub id: NodeId,
    /// The members of its group.
    pub config: Config,
    /// The durable term, vote and commit index.
    pub hard_state: HardState,
    /// The latest snapshot; index 0 means none. The state machine must have been restored from it.
    pub snapshot: SnapshotMeta,
    /// The first entry of the log: the one behind the snapshot, or an earlier one.
    pub first_index: LogIndex,
    /// The last entry of the log; one before the first if there is none.
    pub last_index: LogIndex,
    /// The first index and the term of each run of entries with the same term, ascending. The first
    /// run may begin at the entry before `first_index`. If it does not, and that entry is not the
    /// snapshot's either, then the first entry itself only serves as the known end of what is gone.
    pub terms: Vec<(LogIndex, Term)>,
}

impl Raft {
    /// A replica that starts from `restored`. What is committed but not in the snapshot comes out
    /// of the first outputs, to be applied again.
    ///
    /// One that was part of a group before neither votes nor stands for the first election timeout,
    /// or for the longer one that it promised before: it cannot know whether a lease rests on it.
    pub fn new(options: Options, restored: Restored, now_ns: u64) -> Result<Self, RestoreError> {
        options.validate()?;
        let Restored {
            id,
            config,
            hard_state,
            snapshot,
            first_index,
            last_index,
            terms,
        } = restored;
        let quorum = Quorum::new(config).ok_or(RestoreError::BadConfig)?;
        check_bounds(&hard_state, &snapshot, first_index, last_index)?;
        let terms = restore_terms(&snapshot, first_index, last_index, &terms)?;
        if terms.last_term() > hard_state.term {
            return Err(RestoreError::TermBehindLog {
                term: hard_state.term,
                entry: terms.last_term(),
            });
        }
        let commit = hard_state.commit.max(snapshot.index);
        let is_bound = hard_state.term > Term::ZERO && !quorum.is_only(id);
        let bound_ns = if is_bound {
            options.election_timeout_ns.max(options.restart_wait_ns)
        } else {
            0
        };
        let seed = options.seed ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut raft = Self {
            id,
            quorum,
            rng: SplitMix64::new(seed),
            now_ns,
            can_lead: true,
            promise_ns: Some(options.election_timeout_ns),
            preference: Preference::default(),
            lost_until: LogIndex::ZERO,
            claim: None,
            term: hard_state.term,
            vote: hard_state
                .vote
                .filter(|_| !mutants::FORGETS_VOTE_AT_RESTART),
            standing: Standing::Follower,
            leader: None,
            election_deadline_ns: 0,
            leader_heard_until_ns: now_ns.saturating_add(bound_ns),
            durability: Durability::new(terms.last(), hard_state.term),
            log: Log::new(terms),
            applied: if mutants::SKIPS_REPLAY {
                commit
            } else {
                snapshot.index
            },
            snapshot,
            commit,
            hard_handed: hard_state,
            must_flush_commit: false,
            install: None,
            outbox: Vec::new(),
            reads_ready: VecDeque::new(),
            reads_failed: Vec::new(),
            soft_told: Soft {
                term: hard_state.term,
                ..Soft::default()
            },
            is_apply_blocked: false,
            counters: Counters::default(),
            last_rejection: None,
            options,
        };
        raft.draw_election_deadline();
        Ok(raft)
    }
}

fn check_bounds(
    hard_state: &HardState,
    snapshot: &SnapshotMeta,
    first_index: LogIndex,
    last_index: LogIndex,
) -> Result<(), RestoreError> {
    let numbers = [
        hard_state.term.0,
        hard_state.commit.0,
        snapshot.index.0,
        first_index.0,
        last_index.0,
    ];
    if numbers.iter().any(|&number| number > NUMBER_MAX) {
        return Err(RestoreError::OutOfRange);
    }
    if first_index > snapshot.index.next() || first_index == LogIndex::ZERO {
        return Err(RestoreError::Gap {
            snapshot: snapshot.index,
            first: first_index,
        });
    }
    if last_index < snapshot.index {
        return Err(RestoreError::LogEndsBeforeSnapshot {
            snapshot: snapshot.index,
            last: last_index,
        });
    }
    if hard_state.commit > last_index {
        return Err(RestoreError::CommitBeyondLog {
            commit: hard_state.commit,
            last: last_index,
        });
    }
    Ok(())
}

/// The runs of a log that ends at `last_index`, from the earliest entry whose term is known.
fn restore_terms(
    snapshot: &SnapshotMeta,
    first_index: LogIndex,
    last_index: LogIndex,
    terms: &[(LogIndex, Term)],
) -> Result<TermRuns, RestoreError> {
    let before_first = first_index.previous();
    let begun = terms.partition_point(|&(index, _)| index <= before_first);
    let (anchor, term, rest) = if begun > 0 {
        (before_first, terms[begun - 1].1, &terms[begun..])
    } else if before_first == snapshot.index {
        // Nothing says yet what the first entry's term is, unless there is none.
        if last_index > before_first && terms.first().is_none_or(|run| run.0 != first_index) {
            return Err(RestoreError::BadTerms { index: first_index });
        }
        (before_first, snapshot.term, terms)
    } else {
        match terms.first() {
            Some(&(index, term)) if index == first_index => (index, term, &terms[1..]),
            _ => return Err(RestoreError::BadTerms { index: first_index }),
        }
    };
    let mut runs = TermRuns::new(anchor, term);
    for &(index, term) in rest {
        if index <= runs.last() || index > last_index || term < runs.last_term() {
            return Err(RestoreError::BadTerms { index });
        }
        runs.extend_to(index.previous());
        runs.push(term);
    }
    runs.extend_to(last_index);
    // Every entry has a leader's term; only what is before the first has none.
    if runs.term_at(anchor.next()) == Some(Term::ZERO) {
        return Err(RestoreError::BadTerms {
            index: anchor.next(),
        });
    }
    if runs
        .term_at(snapshot.index)
        .is_some_and(|term| term != snapshot.term)
    {
        return Err(RestoreError::BadTerms {
            index: snapshot.index,
        });
    }
    Ok(runs)
}
