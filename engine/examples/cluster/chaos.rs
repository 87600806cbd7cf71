//! The trouble: one leader after the other crashes and comes back.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use quorate::{Cluster, Error, GroupId, NodeId, OpenError};

use crate::progress::Meter;

/// From a restart to the next crash.
const UP_FOR: Duration = Duration::from_secs(1);

/// From a crash to the restart; a crash every two seconds in all.
const DOWN_FOR: Duration = Duration::from_secs(1);

/// Why the trouble ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChaosError {
    #[error("group {} has no leader to crash: {source}", group.0)]
    NoLeader { group: GroupId, source: Error },
    #[error("node {} did not come back: {source}", node.0)]
    Restart { node: NodeId, source: OpenError },
}

/// Crashes the leaders of the groups in turn until the other end of `stop` is dropped; then every
/// node is up.
pub(crate) fn run(cluster: &Cluster, meter: &Meter, stop: &Receiver<()>) -> Result<(), ChaosError> {
    let mut groups = (0..u64::from(cluster.groups())).map(GroupId).cycle();
    while !is_stopped_within(stop, UP_FOR) {
        let group = groups.next().expect("a cluster has at least one group");
        let leader = cluster
            .leader_of(group)
            .map_err(|source| ChaosError::NoLeader { group, source })?;
        if cluster.crash(leader) {
            meter.count_crash();
        }
        let is_stopped = is_stopped_within(stop, DOWN_FOR);
        cluster
            .restart(leader)
            .map_err(|source| ChaosError::Restart {
                node: leader,
                source,
            })?;
        if is_stopped {
            break;
        }
    }
    Ok(())
}

fn is_stopped_within(stop: &Receiver<()>, time: Duration) -> bool {
    stop.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
}
