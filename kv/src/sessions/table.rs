//! The sessions of a group, and the order in which they expire.
//!
//! The table is a persistent map, so that an image of it costs one reference count, even with a
//! million sessions. The order of expiry is kept lazily: the heap has one record for each session,
//! of a use that may be outdated. A command costs nothing there; an eviction takes the record of
//! the oldest use, and puts back what turns out to have been used since. A record never names a
//! later use than the session's last, so a record that is up to date when it comes out is the
//! oldest of all.
//!
//! Invariants:
//! - Each session has exactly one record in the heap, with a use not after its last.
//! - Last uses differ, being log indexes; no id is above its session's last use.
//! - The heap has at most `2 * sessions + SLACK` records; the others belong to sessions that were
//!   closed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::window::Window;
use crate::machine::RestoreError;
use crate::mutants;
use crate::outcome::{SessionId, SessionOwner};

/// Sessions by id.
pub(super) type SessionMap = OrdMap<SessionId, Arc<Session>>;

/// One client's session.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    last: u64,
    last_use: u64,
    owner: Option<SessionOwner>,
    window: Window,
}

impl Session {
    /// A session read from an image; `None` if the answers are not those above the floor.
    pub(super) fn from_parts(
        last: u64,
        last_use: u64,
        floor: u64,
        owner: Option<SessionOwner>,
        answers: Vec<u8>,
    ) -> Option<Self> {
        let window = Window::from_encoded(answers, last.checked_sub(floor)?)?;
        Some(Self {
            last,
            last_use,
            owner,
            window,
        })
    }

    /// Whose it is, if it was registered with an owner.
    pub(super) fn owner(&self) -> Option<SessionOwner> {
        self.owner
    }

    /// The last sequence number that was taken; zero before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The log index of its last command.
    pub(super) fn last_use(&self) -> u64 {
        self.last_use
    }

    /// Up to which sequence number the answers are gone.
    pub(super) fn floor(&self) -> u64 {
        self.last - self.window.count()
    }

    pub(super) fn kept(&self) -> u64 {
        self.window.count()
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.window.len_bytes()
    }

    pub(super) fn encoded_answers(&self) -> &[u8] {
        self.window.encoded()
    }

    /// The kept answer to a command, unless it was acknowledged.
    pub(super) fn answer(&self, sequence: u64) -> Option<Bytes> {
        assert!(sequence <= self.last);
        self.window.get(sequence.checked_sub(self.floor() + 1)?)
    }

    /// Frees the answers up to `floor`. An older floor than the last one changes nothing.
    pub(super) fn acknowledge(&mut self, floor: u64) {
        assert!(floor <= self.last);
        self.window.drop_front(floor.saturating_sub(self.floor()));
    }

    /// Takes the next sequence number and keeps its answer.
    pub(super) fn record(&mut self, answer: &[u8]) {
        self.last += 1;
        self.window.push(answer);
    }
}

/// When a session was used, as far as the heap knows.
type Record = Reverse<(u64, SessionId)>;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Table {
    sessions: SessionMap,
    expiry: BinaryHeap<Record>,
}

impl Table {
    /// A table read from an image; fails if two sessions claim the same last use.
    pub(super) fn new(sessions: SessionMap) -> Result<Self, RestoreError> {
        let mut records: Vec<Record> = records(&sessions).collect();
        records.sort_unstable();
        if records.windows(2).any(|pair| pair[0].0.0 == pair[1].0.0) {
            return Err(RestoreError::Malformed {
                what: "two sessions were used at one index",
            });
        }
        Ok(Self {
            sessions,
            expiry: BinaryHeap::from(records),
        })
    }

    pub(super) fn sessions(&self) -> &SessionMap {
        &self.sessions
    }

    /// Makes a session, then lets the longest unused ones expire until `sessions_max` are left.
    pub(super) fn register(
        &mut self,
        index: u64,
        sessions_max: u32,
        owner: Option<SessionOwner>,
    ) -> SessionId {
        assert!(sessions_max > 0);
        let id = SessionId(index);
        let session = Session {
            last_use: index,
            owner,
            ..Session::default()
        };
        let before = self.sessions.insert(id, Arc::new(session));
        assert!(before.is_none(), "each index is applied once");
        self.expiry.push(Reverse((index, id)));
        while self.sessions.len() > sessions_max as usize {
            self.expire_oldest();
        }
        self.drop_outdated_records();
        assert!(
            self.sessions.contains_key(&id),
            "the newest session is never the oldest of two"
        );
        id
    }

    /// Ends a session; false if there is none.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        let existed = self.sessions.remove(&id).is_some();
        if existed {
            self.drop_outdated_records();
        }
        existed
    }

    /// The session, marked as used at `index`.
    pub(super) fn touch(&mut self, id: SessionId, index: u64) -> Option<&mut Session> {
        let session = Arc::make_mut(self.sessions.get_mut(&id)?);
        assert!(index > session.last_use);
        session.last_use = index;
        Some(session)
    }

    fn expire_oldest(&mut self) {
        while let Some(Reverse((used, id))) = self.expiry.pop() {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            assert!(used <= session.last_use);
            if used == session.last_use || mutants::EXPIRY_DEPENDS_ON_REPLICA {
                self.sessions.remove(&id);
                return;
            }
            self.expiry.push(Reverse((session.last_use, id)));
        }
        unreachable!("each session has a record");
    }

    /// Rebuilds the heap once more than half of it is of sessions that are gone: constant cost for
    /// each that went.
    fn drop_outdated_records(&mut self) {
        const SLACK: usize = 64;
        if self.expiry.len() > 2 * self.sessions.len() + SLACK {
            self.expiry = records(&self.sessions).collect();
        }
        assert!(self.expiry.len() >= self.sessions.len());
    }
}

fn records(sessions: &SessionMap) -> impl Iterator<Item = Record> {
    sessions
        .iter()
        .map(|(id, session)| Reverse((session.last_use, *id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_sessions_leave_no_growing_trace() {
        let mut table = Table::default();
        for index in 1..10_000 {
            let id = table.register(index, 1000, None);
            assert!(table.close(id));
            assert!(!table.close(id));
            assert!(table.expiry.len() <= 66);
        }
        assert!(table.sessions.is_empty());

        let ids: Vec<_> = (10_000..11_000)
            .map(|index| table.register(index, 1000, None))
            .collect();
        for id in ids {
            assert!(table.close(id));
        }
        assert!(
            table.expiry.len() <= 64,
            "also when no session is made after it"
        );

        for index in 11_000..12_000 {
            table.register(index, 1000, None);
        }
        for index in 12_000..13_000 {
            let id = table.register(index, 2000, None);
            assert!(table.close(id));
        }
        table.register(13_000, 1, None);
        assert!(
            table.expiry.len() <= 66,
            "also when those before the closed ones expire"
        );
    }

    #[test]
    fn the_longest_unused_expires_first_whatever_happened_in_between() {
        let mut table = Table::default();
        let ids: Vec<_> = (1..=4)
            .map(|index| table.register(index, 4, None))
            .collect();
        for (index, id) in [(5, ids[0]), (6, ids[2]), (7, ids[0])] {
            assert!(table.touch(id, index).is_some());
        }
        table.close(ids[1]);
        // Left, by last use: ids[3] at 4, ids[2] at 6, ids[0] at 7.
        let mut order = Vec::new();
        for (index, sessions_max) in [(8, 3), (9, 3), (10, 3)] {
            table.register(index, sessions_max, None);
            let gone = ids
                .iter()
                .filter(|id| !table.sessions.contains_key(*id))
                .count();
            order.push(gone);
        }
        assert_eq!(order, [2, 3, 4]);
        assert!(table.touch(ids[0], 11).is_none());
    }
}
