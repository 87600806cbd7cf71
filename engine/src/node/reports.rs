//! What replicas refuse from their peers, told to whoever observes the node.
//!
//! Invariants:
//! - Of one group, peer and kind of reason there is one report in [`REPORT_EVERY_NS`], however often it happens.
//! - At most [`REPORTS_WAITING_MAX`] reports of a shard wait for the thread that tells. What comes on top is not told, and does
//!   not count as told: the next of its kind is.

use std::mem::Discriminant;
use std::sync::Arc;

use quorate_raft::{NodeId, Rejection, RejectionReason};

/// After a report of one group, peer and kind of reason the next one waits for so long.
pub(crate) const REPORT_EVERY_NS: u64 = 60_000_000_000;

/// Reports of a shard that wait to be told, at most: whoever observes may be slow.
pub(crate) const REPORTS_WAITING_MAX: usize = 64;

/// Peers and kinds of reasons that a replica remembers to have reported, at most: there are fewer than 16 of each.
const TOLD_MAX: usize = 256;

/// Counts reports that wait: each holds a clone until it is told.
pub(crate) type ReportTicket = Arc<()>;

/// A shard's way to whoever observes the node, if anybody does.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    tickets: Option<ReportTicket>,
}

impl Reports {
    pub(crate) fn new(is_observed: bool) -> Self {
        Self {
            tickets: is_observed.then(ReportTicket::default),
        }
    }

    fn ticket(&self) -> Option<ReportTicket> {
        let tickets = self.tickets.as_ref()?;
        (Arc::strong_count(tickets) <= REPORTS_WAITING_MAX).then(|| Arc::clone(tickets))
    }
}

/// What of one group was reported of late: the peer, the kind of reason, and when.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<(NodeId, Discriminant<RejectionReason>, u64)>);

impl Told {
    /// A ticket to report this; none if it was reported of late, if too much waits, or if nobody observes.
    pub(super) fn ticket(
        &mut self,
        now_ns: u64,
        rejection: &Rejection,
        reports: &Reports,
    ) -> Option<ReportTicket> {
        let is_late = |(.., at_ns): &(_, _, u64)| now_ns < at_ns.saturating_add(REPORT_EVERY_NS);
        self.0.retain(is_late);
        let kind = std::mem::discriminant(&rejection.reason);
        let is_this = |(from, told, _): &(NodeId, _, u64)| *from == rejection.from && *told == kind;
        if self.0.len() >= TOLD_MAX || self.0.iter().any(is_this) {
            return None;
        }
        let ticket = reports.ticket()?;
        self.0.push((rejection.from, kind, now_ns));
        Some(ticket)
    }
}
