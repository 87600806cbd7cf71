//! Whose a directory is: a small file that is written once, when the node is first opened, and checked at every open.
//! Its layout is in `docs/format.md`.
//!
//! Invariant: where there is an identity, a log was durable before it. So an identity without a log says that the log is
//! lost, with the votes in it, and never that the node is new.

use std::path::{Path, PathBuf};

use quorate_raft::NodeId;
use quorate_wal::{Disk, Lsn, inspect, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::OpenError;

/// The file's name in the node's directory.
pub(crate) const FILE_NAME: &str = "IDENTITY";

const MAGIC: [u8; 8] = *b"QRTIDENT";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;

/// More than any identity needs; a larger file is damaged.
const BYTES_MAX: u64 = 64 << 10;

/// What a directory was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) node: u64,
    pub(crate) groups: u32,
    /// Ascending.
    pub(crate) members: Vec<u64>,
}

impl Identity {
    /// Whether a directory has this identity; if not, it is fresh. An error if it has another one, or data of which nobody
    /// says whose they are.
    pub(crate) fn is_claimed(&self, disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
        let names = disk.list(dir).map_err(|source| OpenError::Io {
            path: dir.to_path_buf(),
            source,
        })?;
        if names.iter().any(|name| name == FILE_NAME) {
            self.compare(dir, &read(disk, &dir.join(FILE_NAME))?)?;
            return Ok(true);
        }
        // Snapshots come after the identity.
        let has_snapshots = names.iter().any(|name| name == SNAPSHOT_DIR);
        let is_fresh = !has_snapshots && is_unwritten(disk, &dir.join(LOG_DIR))?;
        if is_fresh {
            return Ok(false);
        }
        Err(OpenError::Foreign {
            path: dir.to_path_buf(),
        })
    }

    /// Writes the identity into a directory whose log is durable: see [`OpenError::LogMissing`].
    pub(crate) fn claim(&self, disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(FILE_NAME);
        // The name of the log, also where an earlier opening ended before it was durable.
        let named = disk.sync_dir(dir);
        let written = named.and_then(|()| write_atomically(disk, &path, &self.encode()));
        written.map_err(|source| OpenError::Io { path, source })
    }

    fn compare(&self, dir: &Path, found: &Self) -> Result<(), OpenError> {
        let path = dir.to_path_buf();
        if found.cluster_id != self.cluster_id {
            return Err(OpenError::WrongCluster {
                path,
                found: found.cluster_id,
                expected: self.cluster_id,
            });
        }
        if found.node != self.node {
            return Err(OpenError::WrongNode {
                path,
                found: NodeId(found.node),
                expected: NodeId(self.node),
            });
        }
        if found.groups != self.groups || found.members != self.members {
            return Err(OpenError::WrongShape {
                path,
                found: found.shape(),
                expected: self.shape(),
            });
        }
        Ok(())
    }

    fn shape(&self) -> String {
        format!("{} groups on the nodes {:?}", self.groups, self.members)
    }

    fn encode(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(self).expect("numbers in vectors always encode");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// The log's folder in a node's directory.
pub(crate) const LOG_DIR: &str = "wal";

/// The snapshots' folder in a node's directory.
pub(crate) const SNAPSHOT_DIR: &str = "snap";

/// Whether nothing was ever written to a log: there is none, or an opening ended before it wrote the identity.
fn is_unwritten(disk: &dyn Disk, log_dir: &Path) -> Result<bool, OpenError> {
    match inspect(disk, log_dir) {
        Ok(found) => {
            let is_empty = found.groups.is_empty() && found.last_lsn == Lsn(0);
            Ok(is_empty && found.damage.is_empty())
        }
        Err(quorate_wal::OpenError::NoLog { .. }) => Ok(true),
        Err(error @ quorate_wal::OpenError::Io { .. }) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Identity, OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_path_buf(),
        source,
    };
    let file = disk.open(path).map_err(io)?;
    let len = file.len().map_err(io)?.min(BYTES_MAX);
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).map_err(io)?;
    decode(path, &bytes)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Identity, OpenError> {
    let damaged = |what: &str| OpenError::Damaged {
        path: PathBuf::from(path),
        what: what.to_owned(),
    };
    let (header, body) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| damaged("the identity file is too short"))?;
    if header[..8] != MAGIC {
        return Err(damaged("this is no identity file"));
    }
    if header[10..12] != [0, 0] {
        return Err(damaged("reserved bytes of the identity file are set"));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(OpenError::Version {
            path: PathBuf::from(path),
            found: version,
            supported: VERSION,
        });
    }
    let crc = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if crc != crc32fast::hash(body) {
        return Err(damaged("the identity file's checksum does not fit"));
    }
    postcard::from_bytes(body).map_err(|error| damaged(&format!("the identity file: {error}")))
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_wal::{GroupId, GroupState, Log, LogOptions, MemoryDisk, WriteBatch};

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: 7,
            node: 2,
            groups: 4,
            members: vec![1, 2, 3],
        }
    }

    /// An empty directory.
    fn fresh() -> (MemoryDisk, &'static Path) {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/n"));
        disk.create_dir_all(dir).expect("memory");
        (disk, dir)
    }

    #[test]
    fn a_directory_is_claimed_once() {
        let (disk, dir) = fresh();
        assert!(!identity().is_claimed(&disk, dir).expect("fresh"));
        identity().claim(&disk, dir).expect("memory");
        assert!(identity().is_claimed(&disk, dir).expect("the same"));
        let other = Identity {
            node: 3,
            ..identity()
        };
        assert!(matches!(
            other.is_claimed(&disk, dir),
            Err(OpenError::WrongNode { .. })
        ));
        let other = Identity {
            cluster_id: 8,
            ..identity()
        };
        assert!(matches!(
            other.is_claimed(&disk, dir),
            Err(OpenError::WrongCluster { found: 7, .. })
        ));
        let other = Identity {
            groups: 5,
            ..identity()
        };
        assert!(matches!(
            other.is_claimed(&disk, dir),
            Err(OpenError::WrongShape { .. })
        ));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let good = identity().encode();
        let path = Path::new("/n/IDENTITY");
        assert_eq!(decode(path, &good).expect("good"), identity());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(path, &bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(decode(path, &good[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn data_without_an_identity_is_not_claimed() {
        let (disk, dir) = fresh();
        let log_dir = dir.join(LOG_DIR);
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let is_claimed = || identity().is_claimed(disk.as_ref(), dir);
        let open = || Log::open(Arc::clone(&disk), &log_dir, LogOptions::default());
        drop(open().expect("memory"));
        assert!(!is_claimed().expect("an opening that ended early"));
        let (log, _) = open().expect("memory");
        let mut batch = WriteBatch::new();
        batch.set_state(GroupId(0), GroupState::default());
        log.submit(batch).expect("it takes writes");
        log.drive().expect("memory");
        drop(log);
        assert!(matches!(is_claimed(), Err(OpenError::Foreign { .. })));

        let (disk, dir) = fresh();
        disk.create_dir_all(&dir.join(SNAPSHOT_DIR))
            .expect("memory");
        let found = identity().is_claimed(&disk, dir);
        assert!(matches!(found, Err(OpenError::Foreign { .. })));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = identity().encode();
        bytes[8] = 9;
        let error = decode(Path::new("/n/IDENTITY"), &bytes)
            .expect_err("newer")
            .to_string();
        assert!(
            error.contains("version 9") && error.contains("up to 1"),
            "{error}"
        );
    }
}
