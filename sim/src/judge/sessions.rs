//! Exactly once. Invariant 15 of `docs/testing.md`.

use std::collections::{BTreeMap, VecDeque};

use quorate::simulation::{Command, Deed, Entry, EntryKind, Outcome, Position, SessionId};
use quorate::{Bytes, GroupId, LogIndex};

use super::books::{Books, Event, Rule};

/// Each command of a session takes effect once at most, in its turn; a repetition is answered as the first time; and a
/// session that is gone stays gone.
///
/// An account of its own, which shares no code with the sessions of the replicas: it follows the outcomes of the first
/// replica to apply each entry. That the others have the same is invariant 4.
#[derive(Debug, Default)]
pub struct SessionRule {
    groups: BTreeMap<GroupId, GroupAccount>,
}

#[derive(Debug, Default)]
struct GroupAccount {
    /// The last entry whose outcome was looked at.
    seen: LogIndex,
    sessions: BTreeMap<SessionId, Account>,
}

/// What a session has had.
#[derive(Debug, Default)]
struct Account {
    /// How many answers its client has for good: it does not ask for them again.
    floor: u64,
    /// The answers behind those.
    answers: VecDeque<Bytes>,
    /// It was told to be gone.
    is_gone: bool,
}

impl Rule for SessionRule {
    fn judge(&mut self, _books: &Books, event: &Event<'_>) -> Result<(), String> {
        let Event::Did {
            at,
            deed: Deed::Applied { entry, outcome },
        } = *event
        else {
            return Ok(());
        };
        let group = self.groups.entry(at.group).or_default();
        if entry.index <= group.seen {
            return Ok(());
        }
        group.seen = entry.index;
        let checked = group.check(entry, outcome);
        checked.map_err(|detail| {
            format!(
                "invariant 15, exactly once: group {} at {}: {detail}",
                at.group.0, entry.index
            )
        })
    }

    fn held(&self) -> usize {
        let sessions = self
            .groups
            .values()
            .flat_map(|group| group.sessions.values());
        sessions.map(|account| 1 + account.answers.len()).sum()
    }
}

impl Account {
    /// Lets go of the answers up to this command.
    fn let_go(&mut self, floor: u64) {
        let count = floor.saturating_sub(self.floor);
        let count = count.min(self.answers.len() as u64);
        self.answers.drain(..count as usize);
        self.floor += count;
    }
}

impl GroupAccount {
    fn check(&mut self, entry: &Entry, outcome: &Outcome) -> Result<(), String> {
        if entry.kind != EntryKind::Command {
            return Ok(());
        }
        if let Outcome::Registered(session) = outcome {
            let is_new = self.sessions.insert(*session, Account::default()).is_none();
            let is_named_well = session.0 == entry.index.0;
            if is_new && is_named_well {
                return Ok(());
            }
            return Err(format!("{session} is registered anew"));
        }
        let Ok(Command::Apply(position) | Command::Skip(position)) = Command::decode(&entry.data)
        else {
            return Ok(());
        };
        self.check_turn(position, outcome)
    }

    fn check_turn(&mut self, position: Position, outcome: &Outcome) -> Result<(), String> {
        let (session, sequence) = (position.session, position.sequence);
        let Some(account) = self.sessions.get_mut(&session) else {
            return match outcome {
                Outcome::SessionExpired => Ok(()),
                other => Err(format!("{session} was never registered, and got {other:?}")),
            };
        };
        let last = account.floor + account.answers.len() as u64;
        match outcome {
            Outcome::SessionExpired => {
                account.is_gone = true;
                account.answers.clear();
                Ok(())
            }
            _ if account.is_gone => Err(format!(
                "{session} was told to be gone, and command {sequence} got {outcome:?}"
            )),
            Outcome::Applied(answer) if sequence == last + 1 => {
                account.answers.push_back(answer.clone());
                account.let_go(position.floor);
                Ok(())
            }
            Outcome::Applied(answer) if sequence <= last => {
                let Some(place) = sequence.checked_sub(account.floor + 1) else {
                    return Err(format!(
                        "command {sequence} of {session} was answered once more when its answer was acknowledged"
                    ));
                };
                let first = &account.answers[place as usize];
                if first == answer {
                    return Ok(());
                }
                Err(format!(
                    "command {sequence} of {session} was answered with {first:?} and then with {answer:?}"
                ))
            }
            Outcome::Applied(_) => Err(format!(
                "command {sequence} of {session} took effect behind command {last}"
            )),
            Outcome::AlreadyAcknowledged if sequence > last => Err(format!(
                "command {sequence} of {session} is called a repetition, and {last} was the last"
            )),
            Outcome::OutOfOrder { expected } if *expected != last + 1 => Err(format!(
                "{session} wants command {expected}, and {last} was the last"
            )),
            _ => Ok(()),
        }
    }
}
