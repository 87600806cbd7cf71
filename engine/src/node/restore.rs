//! Reading a machine back from a snapshot file, and telling a rotten file from one that cannot be read now.

use std::fmt;

use quorate_kv::{RestoreError, Sessions, StateMachine};
use quorate_wal::{GroupId, SnapshotError, SnapshotRef, Snapshots};

/// Why no machine came out of a snapshot. The text names the file, and the place in it where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unrestored {
    pub(crate) reason: String,
    /// The file is damaged or gone: only another one helps. If not, the system refused, or a newer build wrote it.
    pub(crate) is_rotten: bool,
}

impl fmt::Display for Unrestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<SnapshotError> for Unrestored {
    fn from(error: SnapshotError) -> Self {
        Self {
            is_rotten: is_rotten(&error),
            reason: error.to_string(),
        }
    }
}

/// Whether an error says that a snapshot file is not what was written, or is not there.
pub(crate) fn is_rotten(error: &SnapshotError) -> bool {
    matches!(
        error,
        SnapshotError::Corrupt { .. } | SnapshotError::Missing { .. }
    )
}

/// Reads the machine of a group back from a snapshot file.
pub(crate) fn restore<M: StateMachine>(
    snapshots: &Snapshots,
    group: GroupId,
    file: &SnapshotRef,
) -> Result<Sessions<M>, Unrestored> {
    let mut reader = snapshots.open_reader(group, file)?;
    let in_file = |what: String| format!("{}: {what}", snapshots.path(group, file).display());
    let sessions = Sessions::restore(&mut reader).map_err(|error| match error {
        RestoreError::Io(error) => match error.downcast::<SnapshotError>() {
            Ok(error) => error.into(),
            Err(error) => Unrestored {
                reason: in_file(error.to_string()),
                is_rotten: false,
            },
        },
        error => Unrestored {
            is_rotten: matches!(
                error,
                RestoreError::Truncated | RestoreError::Malformed { .. }
            ),
            reason: in_file(error.to_string()),
        },
    })?;
    let last = sessions.last_index();
    if last > file.index {
        let index = file.index;
        let what =
            format!("it holds the command at {last}, behind the index {index} that it stands for");
        return Err(Unrestored {
            reason: in_file(what),
            is_rotten: true,
        });
    }
    Ok(sessions)
}
