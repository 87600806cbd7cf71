//! Whose a directory is: a small file that is written once, when the node is first opened, and checked at every open.
//! Its layout is in `docs/format.md`.
//!
//! Invariant: where there is an identity, a log and a book of peers were durable before it. So an identity without a log
//! says that the log is lost, with the votes in it, and never that the node is new.

use std::path::{Path, PathBuf};

use quorate_raft::NodeId;
use quorate_wal::{Disk, Lsn, inspect, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::OpenError;

/// The file's name in the node's directory.
pub(crate) const FILE_NAME: &str = "IDENTITY";

const MAGIC: [u8; 8] = *b"QRTIDENT";
const VERSION: u16 = 2;
const HEADER_BYTES: usize = 16;

/// More than any identity needs; a larger file is damaged.
const BYTES_MAX: u64 = 64 << 10;

/// What a directory was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) node: u64,
    pub(crate) groups: u32,
    /// Drawn when the directory was made; never zero. Tells it from every other directory of this node.
    pub(crate) incarnation: u64,
}

/// What version 1 wrote: no incarnation, and no book of peers beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityV1 {
    cluster_id: u64,
    node: u64,
    groups: u32,
    /// Ascending.
    members: Vec<u64>,
}

/// What is found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nothing: it is fresh.
    Fresh,
    /// It was made by version 1, for this cluster.
    Old { cluster_id: u64 },
    /// It is this node's.
    Known(Identity),
}

/// Whose directory is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `None`: what the directory says, or for a fresh one what follows from the members.
    pub(crate) cluster_id: Option<u64>,
    pub(crate) node: u64,
    pub(crate) groups: u32,
    /// Ascending.
    pub(crate) members: Vec<u64>,
}

impl Wanted {
    /// Whose a directory is. An error if it is another's, or has data of which nobody says whose they are.
    pub(crate) fn find(&self, disk: &dyn Disk, dir: &Path) -> Result<Claim, OpenError> {
        let names = disk.list(dir).map_err(|source| OpenError::Io {
            path: dir.to_path_buf(),
            source,
        })?;
        if names.iter().any(|name| name == FILE_NAME) {
            return self.compare(dir, read(disk, &dir.join(FILE_NAME))?);
        }
        // Snapshots come after the identity.
        let has_snapshots = names.iter().any(|name| name == SNAPSHOT_DIR);
        let is_fresh = !has_snapshots && is_unwritten(disk, &dir.join(LOG_DIR))?;
        if is_fresh {
            return Ok(Claim::Fresh);
        }
        Err(OpenError::Foreign {
            path: dir.to_path_buf(),
        })
    }

    fn compare(&self, dir: &Path, found: Found) -> Result<Claim, OpenError> {
        let (cluster_id, node, groups) = match &found {
            Found::Old(it) => (it.cluster_id, it.node, it.groups),
            Found::Present(it) => (it.cluster_id, it.node, it.groups),
        };
        if let Some(expected) = self.cluster_id
            && cluster_id != expected
        {
            return Err(OpenError::WrongCluster {
                path: dir.to_path_buf(),
                found: cluster_id,
                expected,
            });
        }
        if node != self.node {
            return Err(OpenError::WrongNode {
                path: dir.to_path_buf(),
                found: NodeId(node),
                expected: NodeId(self.node),
            });
        }
        match found {
            Found::Old(it) => {
                self.compare_shape(dir, groups, &it.members)?;
                Ok(Claim::Old { cluster_id })
            }
            // The members are in the book, which is compared when it is read.
            Found::Present(it) => Ok(Claim::Known(it)),
        }
    }

    pub(crate) fn compare_shape(
        &self,
        dir: &Path,
        groups: u32,
        members: &[u64],
    ) -> Result<(), OpenError> {
        if groups == self.groups && members == self.members {
            return Ok(());
        }
        let shape = |groups, members: &[u64]| format!("{groups} groups on the nodes {members:?}");
        Err(OpenError::WrongShape {
            path: dir.to_path_buf(),
            found: shape(groups, members),
            expected: shape(self.groups, &self.members),
        })
    }

    /// Of a directory that is being made. The same list gives the same cluster id on every node, in whatever order it is
    /// written, and wherever the nodes are.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id.unwrap_or_else(|| {
            let mut low = crc32fast::Hasher::new();
            let mut high = crc32fast::Hasher::new_with_initial(0x5157_4F52);
            for member in &self.members {
                for hasher in [&mut low, &mut high] {
                    hasher.update(&member.to_le_bytes());
                }
            }
            let id = (u64::from(high.finalize()) << 32) | u64::from(low.finalize());
            // Zero is none.
            id.max(1)
        })
    }
}

impl Identity {
    /// Writes the identity into a directory whose log and book are durable: see [`OpenError::LogMissing`].
    pub(crate) fn claim(&self, disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        let path = dir.join(FILE_NAME);
        // The name of the log, also where an earlier opening ended before it was durable.
        let named = disk.sync_dir(dir);
        let written = named.and_then(|()| write_atomically(disk, &path, &self.encode()));
        written.map_err(|source| OpenError::Io { path, source })
    }

    fn encode(&self) -> Vec<u8> {
        encode(VERSION, self)
    }
}

fn encode(version: u16, identity: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_allocvec(identity).expect("numbers in vectors always encode");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
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

/// What an identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Old(IdentityV1),
    Present(Identity),
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Found, OpenError> {
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

fn decode(path: &Path, bytes: &[u8]) -> Result<Found, OpenError> {
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
    if !(1..=VERSION).contains(&version) {
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
    let found = if version == 1 {
        postcard::from_bytes(body).map(Found::Old)
    } else {
        postcard::from_bytes(body).map(Found::Present)
    };
    found.map_err(|error| damaged(&format!("the identity file: {error}")))
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
            incarnation: 0xABCD,
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            cluster_id: Some(7),
            node: 2,
            groups: 4,
            members: vec![1, 2, 3],
        }
    }

    fn old() -> IdentityV1 {
        IdentityV1 {
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
        assert_eq!(wanted().find(&disk, dir).expect("fresh"), Claim::Fresh);
        identity().claim(&disk, dir).expect("memory");
        let found = wanted().find(&disk, dir).expect("the same");
        assert_eq!(found, Claim::Known(identity()));
        let any = Wanted {
            cluster_id: None,
            ..wanted()
        };
        let found = any.find(&disk, dir).expect("the directory says which");
        assert_eq!(found, Claim::Known(identity()));
        let other = Wanted {
            node: 3,
            ..wanted()
        };
        assert!(matches!(
            other.find(&disk, dir),
            Err(OpenError::WrongNode { .. })
        ));
        let other = Wanted {
            cluster_id: Some(8),
            ..wanted()
        };
        assert!(matches!(
            other.find(&disk, dir),
            Err(OpenError::WrongCluster { found: 7, .. })
        ));
    }

    #[test]
    fn a_directory_of_version_1_is_found_and_compared() {
        let (disk, dir) = fresh();
        write_atomically(&disk, &dir.join(FILE_NAME), &encode(1, &old())).expect("memory");
        let found = wanted().find(&disk, dir).expect("it is of this node");
        assert_eq!(found, Claim::Old { cluster_id: 7 });
        for other in [
            Wanted {
                groups: 5,
                ..wanted()
            },
            Wanted {
                members: vec![2, 3],
                ..wanted()
            },
        ] {
            assert!(matches!(
                other.find(&disk, dir),
                Err(OpenError::WrongShape { .. })
            ));
        }
    }

    #[test]
    fn the_default_cluster_depends_on_the_members_alone() {
        let of = |members: &[u64]| Wanted {
            cluster_id: None,
            members: members.to_vec(),
            ..wanted()
        };
        assert_eq!(of(&[1, 2, 3]).cluster_id(), of(&[1, 2, 3]).cluster_id());
        assert_ne!(of(&[1, 2, 3]).cluster_id(), of(&[1, 2, 4]).cluster_id());
        assert_eq!(wanted().cluster_id(), 7);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let path = Path::new("/n/IDENTITY");
        let good = [identity().encode(), encode(1, &old())];
        let found = good
            .each_ref()
            .map(|good| decode(path, good).expect("good"));
        assert_eq!(found, [Found::Present(identity()), Found::Old(old())]);
        for good in good {
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let passes = decode(path, &bad).is_ok_and(|it| it == found[0] || it == found[1]);
                assert!(!passes, "bit {bit}");
            }
            for len in 0..good.len() {
                assert!(decode(path, &good[..len]).is_err(), "cut to {len}");
            }
        }
    }

    #[test]
    fn data_without_an_identity_is_not_claimed() {
        let (disk, dir) = fresh();
        let log_dir = dir.join(LOG_DIR);
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let find = || wanted().find(disk.as_ref(), dir);
        let open = || Log::open(Arc::clone(&disk), &log_dir, LogOptions::default());
        drop(open().expect("memory"));
        assert_eq!(find().expect("an opening that ended early"), Claim::Fresh);
        let (log, _) = open().expect("memory");
        let mut batch = WriteBatch::new();
        batch.set_state(GroupId(0), GroupState::default());
        log.submit(batch).expect("it takes writes");
        log.drive().expect("memory");
        drop(log);
        assert!(matches!(find(), Err(OpenError::Foreign { .. })));

        let (disk, dir) = fresh();
        disk.create_dir_all(&dir.join(SNAPSHOT_DIR))
            .expect("memory");
        let found = wanted().find(&disk, dir);
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
            error.contains("version 9") && error.contains("up to 2"),
            "{error}"
        );
    }
}
