//! Whom a leader hands over to. Nothing else chooses one, here or in the caller.

use std::cmp::Reverse;

use super::{Raft, Standing};
use crate::ids::NodeId;
use crate::progress::PeerStatus;

impl Raft {
    /// The peer that should lead instead, if this replica leads: of those that were heard from
    /// within an election timeout, are not quarantined, and get a rank. Whoever has what is
    /// committed comes first; then the lowest rank, by which the caller says how healthy a peer is;
    /// then the longest log; then the latest word.
    pub fn successor<R: Ord>(&self, rank: impl Fn(NodeId) -> Option<R>) -> Option<PeerStatus> {
        let Standing::Leader(lead) = &self.standing else {
            return None;
        };
        let (now_ns, options) = (self.now_ns, &self.options);
        let fit = lead
            .peers
            .iter()
            .filter(|peer| peer.is_active(now_ns, options) && !peer.is_aside);
        let ranked = fit.filter_map(|peer| {
            let rank = rank(peer.id)?;
            let has_committed = peer.match_index >= self.commit;
            let merit = (
                has_committed,
                Reverse(rank),
                peer.match_index,
                peer.heard_ns,
                Reverse(peer.id),
            );
            Some((merit, peer))
        });
        let best = ranked.max_by(|(one, _), (other, _)| one.cmp(other));
        best.map(|(_, peer)| peer.status(now_ns, options))
    }
}
