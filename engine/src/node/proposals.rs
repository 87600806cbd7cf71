//! What a leader took into its log and did not apply yet: who waits for it, and which command of each session is next.
//!
//! A client that hears nothing sends again, all of its window. If every copy were an entry, a cluster with more to do than
//! it can would be given more to do the longer its clients wait, and copies alone would keep it there when nobody asks for
//! anything new any more (Bronson and others, "Metastable Failures in Distributed Systems", `HotOS` 2021). The same does
//! what stands in a window behind a command that found no room: it would be refused when it is applied, and take until then
//! the room that the refused one waits for. So a leader takes the next command of a session, and takes it once: a copy of
//! what is in its log already waits for that entry, and what is out of turn is refused before it costs anything.
//!
//! Exactly-once rests on the replicated sessions alone. What is left out here would have changed nothing: a copy in its
//! own log, of its own term, has the fate of the first one, since a leader drops nothing that it took; and what is out
//! of turn at the end of that log is out of turn when it is applied. Of entries of earlier terms that are not applied it
//! knows nothing; until they are, it takes whatever a session begins with. A copy of what is applied is taken as
//! well: its answer got lost, which is rare, and the sessions know it.
//!
//! Invariants:
//! - `waiting` ascends strictly by index; each stands for an entry that this replica appended as leader in its term, and is
//!   answered exactly once: when its index is applied, or when leadership ends.
//! - The commands of a turn have consecutive sequence numbers and ascending indexes of the present term, all of which wait.
//! - There are at most `2 * waiting + IDLE_TURNS_MAX` turns.

use std::collections::{BTreeMap, VecDeque};

use quorate_kv::{Position, SessionId};
use quorate_raft::{LogIndex, Term};

use super::event::Outlet;
use crate::mutants;

/// Sessions that have nothing in the log and are remembered nevertheless, besides as many as there are proposals.
const IDLE_TURNS_MAX: usize = 64;

/// A session with nothing in the log keeps room for so many indexes at most.
const IDLE_TAKEN_MAX: usize = 64;

/// Proposals of a leader, in the order of its log.
#[derive(Default)]
pub(super) struct Proposals {
    waiting: VecDeque<Proposal>,
    /// The term of all turns.
    term: Term,
    turns: BTreeMap<SessionId, Turn>,
}

/// Somebody who waits for an entry.
pub(super) struct Proposal {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) outlet: Outlet,
    session: Option<SessionId>,
}

/// What a session has in the log.
#[derive(Debug, Default)]
struct Turn {
    /// The command behind the last one of `taken`.
    next: u64,
    taken: VecDeque<LogIndex>,
    /// The last command that was refused since `next` was, and zero if `next` was not refused. What comes behind it in
    /// the same burst has no room either; what comes once more without it shows that its refusal got lost.
    refused_to: u64,
}

/// Where a command stands in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may enter the log.
    Due,
    /// It is in the log, here, and not applied yet.
    Taken(LogIndex),
    /// This one has to come first; it was not seen, or was refused and that is not known.
    OutOfTurn {
        /// Its sequence number.
        expected: u64,
    },
    /// The one that has to come first was refused just now, and so is this one.
    BehindRefused,
}

impl Turn {
    /// The first command in the log.
    fn first(&self) -> u64 {
        self.next.saturating_sub(self.taken.len() as u64)
    }

    fn is_idle(&self) -> bool {
        self.taken.is_empty()
    }
}

impl Proposals {
    /// Begins anew in this term, if it is another one than before.
    pub(super) fn enter(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.turns.clear();
        }
    }

    /// Where a command stands in its session. `applied` is the last command of the session that took effect, if everything
    /// before the present term is applied and there is such a session.
    pub(super) fn standing(&self, position: Position, applied: Option<u64>) -> Standing {
        if mutants::LOGS_EVERY_COPY {
            return Standing::Due;
        }
        let sequence = position.sequence;
        let turn = self.turns.get(&position.session);
        let refused_to = turn.map_or(0, |turn| turn.refused_to);
        // What is in the log behind a gap is not looked at: it comes to nothing.
        let in_turn = turn.filter(|turn| {
            !turn.is_idle()
                && applied.is_none_or(|applied| turn.first() == applied.saturating_add(1))
        });
        let next = match (in_turn, applied) {
            (Some(turn), _) => turn.next,
            (None, Some(applied)) => applied.saturating_add(1),
            (None, None) => return Standing::Due,
        };
        if sequence > next {
            return if sequence > refused_to && refused_to > 0 {
                Standing::BehindRefused
            } else {
                Standing::OutOfTurn { expected: next }
            };
        }
        let place = in_turn.and_then(|turn| sequence.checked_sub(turn.first()));
        let taken = place.and_then(|place| in_turn?.taken.get(place as usize));
        taken.map_or(Standing::Due, |&index| Standing::Taken(index))
    }

    /// A command entered the log. One behind the last of its session follows it; a lower one begins anew, unless it is a copy
    /// of what is applied.
    pub(super) fn push(
        &mut self,
        index: LogIndex,
        outlet: Outlet,
        position: Option<Position>,
        applied: Option<u64>,
    ) {
        debug_assert!(self.waiting.back().is_none_or(|last| last.index < index));
        let position =
            position.filter(|position| applied.is_none_or(|applied| position.sequence > applied));
        if let Some(position) = position {
            let turn = self.turns.entry(position.session).or_default();
            if turn.is_idle() || turn.next != position.sequence {
                turn.taken.clear();
            }
            turn.taken.push_back(index);
            turn.next = position.sequence.saturating_add(1);
            turn.refused_to = 0;
        }
        self.waiting.push_back(Proposal {
            index,
            term: self.term,
            outlet,
            session: position.map(|position| position.session),
        });
        self.sweep();
    }

    /// A command that is due, or one behind it, was refused for want of room.
    pub(super) fn refused(&mut self, position: Position) {
        let turn = self.turns.entry(position.session).or_default();
        turn.refused_to = position.sequence;
        self.sweep();
    }

    /// A copy of what is in the log: its sender is answered in place of the one of the copy before, which it gave up.
    pub(super) fn replace(&mut self, index: LogIndex, outlet: Outlet) {
        if let Ok(place) = self.waiting.binary_search_by_key(&index, |it| it.index) {
            self.waiting[place].outlet = outlet;
        }
    }

    /// The next one that waits for this index or an earlier one, which waits no longer.
    pub(super) fn pop(&mut self, index: LogIndex) -> Option<Proposal> {
        let is_due = self.waiting.front().is_some_and(|it| it.index <= index);
        is_due.then(|| self.waiting.pop_front())?
    }

    /// What [`pop`](Self::pop) gave was applied. Where it had no effect, what is in the log behind it is out of turn.
    pub(super) fn applied(&mut self, proposal: &Proposal, had_effect: bool) {
        let turn = proposal.session.and_then(|it| self.turns.get_mut(&it));
        if let Some(turn) = turn
            && turn.taken.front() == Some(&proposal.index)
        {
            turn.taken.pop_front();
            if !had_effect {
                turn.taken.clear();
            }
            if turn.is_idle() {
                turn.taken.shrink_to(IDLE_TAKEN_MAX);
            }
        }
        self.sweep();
    }

    /// Takes those that wait for an entry of another term than this one, or all of them, if leadership ended.
    pub(super) fn take_others(&mut self, led: Option<Term>) -> Vec<Proposal> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (kept, others) = waiting.partition(|it| Some(it.term) == led);
        self.waiting = kept;
        if led != Some(self.term) {
            // What the turns have taken is of a term in which this replica leads no more.
            self.turns.clear();
        }
        self.sweep();
        Vec::from(others)
    }

    /// Forgets the sessions that have nothing in the log, once they are many: each time at most as many as were added since
    /// the last.
    fn sweep(&mut self) {
        if self.turns.len() > 2 * self.waiting.len() + IDLE_TURNS_MAX {
            self.turns.retain(|_, turn| !turn.is_idle());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::{Reply, ReplySink, RequestId};

    struct Deaf;

    impl ReplySink for Deaf {
        fn reply(&self, _reply: Reply) {}
    }

    fn at(sequence: u64) -> Position {
        Position {
            session: SessionId(7),
            sequence,
            floor: 0,
        }
    }

    fn outlet(id: u64) -> Outlet {
        Outlet::sink(RequestId(id), Arc::new(Deaf))
    }

    /// A leader in term 3 with these commands at the indexes from 10 on, of a session that has had `applied`.
    fn with(sequences: &[u64], applied: Option<u64>) -> Proposals {
        let mut proposals = Proposals::default();
        proposals.enter(Term(3));
        for (index, &sequence) in (10..).zip(sequences) {
            assert_eq!(proposals.standing(at(sequence), applied), Standing::Due);
            proposals.push(LogIndex(index), outlet(index), Some(at(sequence)), applied);
        }
        proposals
    }

    #[test]
    fn a_copy_waits_for_the_entry_that_is_in_the_log_and_its_sender_is_answered() {
        let mut proposals = with(&[5, 6, 7], Some(4));
        assert_eq!(
            proposals.standing(at(6), Some(4)),
            Standing::Taken(LogIndex(11))
        );
        proposals.replace(LogIndex(11), outlet(99));
        let mut answered = Vec::new();
        for index in 10..=12 {
            let proposal = proposals.pop(LogIndex(index)).expect("it waits");
            proposals.applied(&proposal, true);
            answered.push(proposal.outlet.id.0);
            assert!(proposals.pop(LogIndex(index)).is_none(), "once");
        }
        assert_eq!(answered, [10, 99, 12]);
        assert_eq!(
            proposals.standing(at(6), Some(7)),
            Standing::Due,
            "the sessions know what is applied"
        );
        assert_eq!(proposals.standing(at(8), Some(7)), Standing::Due);
    }

    #[test]
    fn what_is_behind_a_gap_is_refused_until_the_gap_is_filled() {
        let mut proposals = with(&[5], Some(4));
        let gap = Standing::OutOfTurn { expected: 6 };
        assert_eq!(proposals.standing(at(7), Some(4)), gap);
        assert_eq!(proposals.standing(at(7), None), gap);
        proposals.push(LogIndex(11), outlet(1), Some(at(6)), Some(4));
        assert_eq!(proposals.standing(at(7), Some(4)), Standing::Due);
        // With nothing in the log it is the applied ones that count.
        let idle = with(&[], None);
        let gap = Standing::OutOfTurn { expected: 5 };
        assert_eq!(idle.standing(at(6), Some(4)), gap);
        assert_eq!(idle.standing(at(6), None), Standing::Due);
    }

    #[test]
    fn what_follows_a_refused_one_in_a_burst_is_refused_with_it_and_asked_for_when_it_comes_alone()
    {
        let mut proposals = with(&[5], Some(4));
        for sequence in [6, 7, 8] {
            if sequence > 6 {
                let standing = proposals.standing(at(sequence), Some(4));
                assert_eq!(standing, Standing::BehindRefused);
            }
            proposals.refused(at(sequence));
        }
        // The refusal of 6 got lost, and the client sends from 7 on: it would wait for ever for 6.
        let gap = Standing::OutOfTurn { expected: 6 };
        assert_eq!(proposals.standing(at(7), Some(4)), gap);
        assert_eq!(proposals.standing(at(6), Some(4)), Standing::Due);
        proposals.push(LogIndex(11), outlet(1), Some(at(6)), Some(4));
        assert_eq!(proposals.standing(at(7), Some(4)), Standing::Due);
    }

    #[test]
    fn what_began_in_the_middle_begins_anew_with_a_lower_one() {
        // Entries of earlier terms are not applied yet: the first that comes is believed.
        let mut proposals = with(&[8, 9], None);
        assert_eq!(proposals.standing(at(5), None), Standing::Due);
        proposals.push(LogIndex(12), outlet(1), Some(at(5)), None);
        assert_eq!(
            proposals.standing(at(8), None),
            Standing::OutOfTurn { expected: 6 },
            "what stands before 5 comes to nothing"
        );
        let doomed = proposals.pop(LogIndex(10)).expect("it waits");
        proposals.applied(&doomed, false);
        assert_eq!(
            proposals.standing(at(5), None),
            Standing::Taken(LogIndex(12)),
            "that the earlier one came to nothing says nothing of it"
        );
        // Once they are, what is behind a gap is known to be.
        let proposals = with(&[8, 9], None);
        assert_eq!(proposals.standing(at(5), Some(4)), Standing::Due);
        let gap = Standing::OutOfTurn { expected: 5 };
        assert_eq!(proposals.standing(at(8), Some(4)), gap);
    }

    #[test]
    fn what_came_to_nothing_takes_what_is_behind_it_along() {
        let mut proposals = with(&[5, 6, 7], Some(4));
        let full = proposals.pop(LogIndex(10)).expect("it waits");
        proposals.applied(&full, false);
        assert_eq!(proposals.standing(at(5), Some(4)), Standing::Due);
        let gap = Standing::OutOfTurn { expected: 5 };
        assert_eq!(proposals.standing(at(6), Some(4)), gap);
    }

    #[test]
    fn another_term_knows_nothing_of_the_last_one_and_answers_its_own() {
        let mut proposals = with(&[5, 6], Some(4));
        proposals.enter(Term(4));
        assert_eq!(proposals.standing(at(6), None), Standing::Due);
        proposals.push(LogIndex(20), outlet(1), Some(at(5)), None);
        let others = proposals.take_others(Some(Term(4)));
        assert_eq!(others.len(), 2);
        assert_eq!(proposals.take_others(None).len(), 1);
    }

    /// `Sessions::check` refuses the last number of all; this does not rest on that.
    #[test]
    fn no_sequence_number_overflows() {
        for applied in [None, Some(0), Some(u64::MAX - 1), Some(u64::MAX)] {
            let mut proposals = Proposals::default();
            proposals.enter(Term(3));
            for (index, sequence) in (10..).zip([1, u64::MAX, u64::MAX - 1, u64::MAX, 0, 1]) {
                let position = at(sequence);
                let _standing = proposals.standing(position, applied);
                proposals.refused(position);
                proposals.push(LogIndex(index), outlet(index), Some(position), applied);
            }
            while let Some(proposal) = proposals.pop(LogIndex(100)) {
                proposals.applied(&proposal, true);
            }
        }
    }

    #[test]
    fn sessions_that_have_nothing_in_the_log_are_few() {
        let mut proposals = Proposals::default();
        proposals.enter(Term(1));
        for number in 1..10_000 {
            let position = Position {
                session: SessionId(number),
                ..at(1)
            };
            let index = LogIndex(number);
            proposals.push(index, outlet(number), Some(position), Some(0));
            let proposal = proposals.pop(index).expect("it waits");
            proposals.applied(&proposal, true);
            proposals.refused(position);
            assert!(proposals.turns.len() <= IDLE_TURNS_MAX);
        }
    }

    /// A leader with one command of each of 1000 sessions in its log.
    fn with_many_sessions() -> Proposals {
        let mut proposals = Proposals::default();
        proposals.enter(Term(1));
        for number in 1..=1_000 {
            let position = Position {
                session: SessionId(number),
                ..at(1)
            };
            proposals.push(LogIndex(number), outlet(number), Some(position), Some(0));
        }
        assert_eq!(proposals.turns.len(), 1_000);
        proposals
    }

    #[test]
    fn sessions_are_forgotten_while_what_they_have_in_the_log_is_applied() {
        let mut proposals = with_many_sessions();
        while let Some(proposal) = proposals.pop(LogIndex(1_000)) {
            proposals.applied(&proposal, true);
            let bound = 2 * proposals.waiting.len() + IDLE_TURNS_MAX;
            assert!(proposals.turns.len() <= bound);
        }
    }

    #[test]
    fn sessions_are_forgotten_when_leadership_ends() {
        let mut proposals = with_many_sessions();
        assert_eq!(proposals.take_others(Some(Term(1))).len(), 0);
        assert_eq!(proposals.turns.len(), 1_000, "it leads on");
        assert_eq!(proposals.take_others(None).len(), 1_000);
        assert!(proposals.turns.is_empty());
        // It may also be heard of only when it leads again.
        let mut proposals = with_many_sessions();
        assert_eq!(proposals.take_others(Some(Term(2))).len(), 1_000);
        assert!(proposals.turns.is_empty());
    }

    #[test]
    fn a_session_that_had_much_in_the_log_keeps_no_room_for_it() {
        let sequences: Vec<u64> = (5..2_005).collect();
        let mut proposals = with(&sequences, Some(4));
        while let Some(proposal) = proposals.pop(LogIndex(10_000)) {
            proposals.applied(&proposal, true);
        }
        let room = proposals.turns[&at(5).session].taken.capacity();
        assert!(room <= IDLE_TAKEN_MAX, "{room}");
    }
}
