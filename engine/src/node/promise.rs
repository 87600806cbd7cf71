//! When a node may forget the longer election timeout that it once announced.
//!
//! A leader's lease rests on the election timeouts that the members announced last, so a node that comes back with a shorter
//! one waits for the longer one before it votes, and has to do so at each start for as long as a lease may rest on it. No lease
//! does any more once
//! - each other member has accepted the card of this start, and
//! - after that, the longer timeout has passed once.
//!
//! For a member that has accepted a card counts with what that says in each pass that begins later. A lease that it published
//! before rests on a round of heartbeats that it began before, so the lease is over, by its own clock, one longer timeout after
//! it accepted, less what clocks may drift: the same measure that each lease is cut by. By this node's clock it is over after
//! the whole of it. A member that starts again knows the card from its book, and has no lease of its life before.
//!
//! A start that ends early forgets nothing: the next one begins to count anew.

use std::sync::Arc;

use quorate_kv::StateMachine;

use super::ports::{Job, TransferTicket};
use super::shard::Shard;

/// How far a start is with outliving a longer promise.
#[derive(Debug, Default)]
pub(super) struct Outliving {
    /// Since when this node knows that all members have accepted its card.
    accepted_ns: Option<u64>,
    /// Held by the job that writes it down.
    ticket: TransferTicket,
}

impl Outliving {
    /// Whether the longer promise of so many milliseconds may fall now. `None`: there is none, or somebody has not accepted
    /// the card of this start.
    fn is_over(&mut self, now_ns: u64, promised_ms: Option<u64>) -> bool {
        let Some(promised_ms) = promised_ms else {
            self.accepted_ns = None;
            return false;
        };
        let since_ns = *self.accepted_ns.get_or_insert(now_ns);
        now_ns.saturating_sub(since_ns) > promised_ms.saturating_mul(1_000_000)
    }
}

impl<M: StateMachine> Shard<M> {
    /// Has the longer promise of an earlier start forgotten when it is outlived. One shard does so for the node. The book is
    /// written by a job, at most one at a time: a disk that takes it not is tried again.
    pub(super) fn outlive_promise(&mut self, now_ns: u64) {
        if self.ports.status.shard != 0 {
            return;
        }
        let promised_ms = self.ports.membership.longer_promise_ms();
        let Outliving { ticket, .. } = &self.outliving;
        let is_free = Arc::strong_count(ticket) == 1;
        if self.outliving.is_over(now_ns, promised_ms) && is_free {
            let ticket = Arc::clone(&self.outliving.ticket);
            self.ports.jobs.submit(Job::ForgetPromise { ticket });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_promise_is_outlived_once_it_has_passed_since_all_accepted_the_shorter_one() {
        let mut it = Outliving::default();
        assert!(!it.is_over(0, None));
        assert!(!it.is_over(900 * MS, Some(500)), "all have accepted now");
        assert!(!it.is_over(1_400 * MS, Some(500)));
        // One of them is started again, and has to accept it anew.
        assert!(!it.is_over(1_401 * MS, None));
        assert!(!it.is_over(1_500 * MS, Some(500)));
        assert!(!it.is_over(2_000 * MS, Some(500)));
        assert!(it.is_over(2_000 * MS + 1, Some(500)));
    }
}
