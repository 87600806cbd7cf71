//! The end: everybody up, everybody caught up, and what each replica then holds.

use std::time::{Duration, Instant};

use quorate::transport::Consistency;
use quorate::{Bytes, Cluster, Db, Error, GroupId, LogIndex, NodeId, OpenError};

use crate::check::{Entries, Replica};

/// How long the replicas of a group may take to come to the same index.
const SETTLE_MAX: Duration = Duration::from_mins(1);

/// How long to wait before looking again.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why the cluster did not come to rest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    #[error("node {} cannot be opened: {source}", node.0)]
    Restart { node: NodeId, source: OpenError },
    #[error("group {} cannot be read on node {}: {source}", group.0, node.0)]
    Read {
        group: GroupId,
        node: NodeId,
        source: Error,
    },
    #[error("group {}: the replicas are still apart after {} s: {applied:?}", group.0, SETTLE_MAX.as_secs())]
    Apart {
        group: GroupId,
        applied: Vec<(NodeId, LogIndex)>,
    },
}

/// Opens whatever node is down. Returns all of them.
pub(crate) fn restart_all(cluster: &Cluster) -> Result<Vec<Db>, SettleError> {
    for node in cluster.nodes() {
        cluster
            .restart(node)
            .map_err(|source| SettleError::Restart { node, source })?;
    }
    Ok(cluster
        .nodes()
        .into_iter()
        .filter_map(|node| cluster.db(node))
        .collect())
}

/// What each node holds of a group, all at the same index, which includes all that was ever
/// acknowledged.
pub(crate) fn read_replicas(nodes: &[Db], group: GroupId) -> Result<Vec<Replica>, SettleError> {
    // A linearizable read on each node waits until the node has applied all that was acknowledged
    // before.
    for db in nodes {
        view(db, group, Consistency::Linearizable)?;
    }
    let ends_at = Instant::now() + SETTLE_MAX;
    loop {
        if let Some(replicas) = try_read_replicas(nodes, group)? {
            return Ok(replicas);
        }
        if Instant::now() >= ends_at {
            let applied = nodes
                .iter()
                .map(|db| (db.node(), applied(db, group)))
                .collect();
            return Err(SettleError::Apart { group, applied });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Reads all replicas, and `None` if they were not at one index all the while.
fn try_read_replicas(nodes: &[Db], group: GroupId) -> Result<Option<Vec<Replica>>, SettleError> {
    let at = nodes
        .first()
        .map_or(LogIndex::default(), |db| applied(db, group));
    let are_all_there = || nodes.iter().all(|db| applied(db, group) == at);
    if !are_all_there() {
        return Ok(None);
    }
    let mut replicas = Vec::with_capacity(nodes.len());
    for db in nodes {
        let node = db.node();
        let digest = db.digest(group).map_err(|source| SettleError::Read {
            group,
            node,
            source,
        })?;
        replicas.push(Replica {
            node,
            digest,
            entries: view(db, group, Consistency::Stale)?,
        });
    }
    let is_one_index = replicas.iter().all(|replica| replica.digest.applied == at);
    Ok((is_one_index && are_all_there()).then_some(replicas))
}

fn view(db: &Db, group: GroupId, consistency: Consistency) -> Result<Entries, SettleError> {
    let view = db.view(group, consistency);
    let view = view.map_err(|source| SettleError::Read {
        group,
        node: db.node(),
        source,
    })?;
    Ok(view
        .iter()
        .map(|(key, value)| (Bytes::copy_from_slice(key), value))
        .collect())
}

fn applied(db: &Db, group: GroupId) -> LogIndex {
    db.status()[group.0 as usize].applied
}
