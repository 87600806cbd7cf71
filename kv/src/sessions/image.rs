//! The image of sessions and machine: one file, so that neither is ever restored without the other.
//!
//! ```text
//! offset  size  field
//!      0     4  magic          "QSES"
//!      4     2  version        1, or 2 if a session has an owner
//!      6     2  reserved       0
//!      8     8  last_index     of the last command applied
//!     16     8  count          of sessions
//!     24     -  sessions, ids ascending: id u64, last u64, floor u64, last_use u64,
//!               version 2: owner u64 (0: none), answers_len u32,
//!               then for each kept answer: length u32, answer
//!      -     -  the machine's image in frames: length u32 (at most 65,536), bytes;
//!               closed by a length of 0
//! ```
//!
//! A session whose client waits for nothing costs 36 bytes (44 in version 2) and its last answer:
//! 41 bytes after a put, 49 after an append.
//!
//! The version follows from the state alone, so that equal states have equal images, and a build
//! that knows only version 1 reads them for as long as no owner is in the log.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use super::table::{Session, SessionMap, Table};
use super::{SESSION_WINDOW_MAX, Sessions};
use crate::codec::{Fields, expect_end, read_array, read_bytes};
use crate::frames::{FRAME_BYTES_MAX, FrameReader, FrameWriter};
use crate::machine::{Image, RestoreError, StateMachine};
use crate::mutants;
use crate::outcome::{SessionId, SessionOwner};

const MAGIC: [u8; 4] = *b"QSES";
const VERSION: u16 = 1;
const OWNED_VERSION: u16 = 2;
const HEADER_BYTES: usize = 24;

/// [`Sessions`] on their way into a snapshot. Shares their memory.
#[derive(Debug)]
pub struct SessionsImage<M: StateMachine> {
    last_index: u64,
    sessions: SessionMap,
    machine: M::Image,
}

impl<M: StateMachine> SessionsImage<M> {
    pub(super) fn new(last_index: u64, sessions: SessionMap, machine: M::Image) -> Self {
        Self {
            last_index,
            sessions,
            machine,
        }
    }

    /// The index of the last command that the image includes.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }
}

impl<M: StateMachine> Image for SessionsImage<M> {
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        let has_owners = self.sessions.values().any(|it| it.owner().is_some());
        let version = if has_owners { OWNED_VERSION } else { VERSION };
        header[4..6].copy_from_slice(&version.to_le_bytes());
        header[8..16].copy_from_slice(&self.last_index.to_le_bytes());
        header[16..].copy_from_slice(&(self.sessions.len() as u64).to_le_bytes());
        out.write_all(&header)?;
        for (id, session) in &self.sessions {
            assert!(is_valid(*id, session, self.last_index));
            let answers = session.encoded_answers();
            let answers_len = u32::try_from(answers.len()).map_err(io::Error::other)?;
            for field in [id.0, session.last(), session.floor(), session.last_use()] {
                out.write_all(&field.to_le_bytes())?;
            }
            if has_owners {
                let owner = session.owner().map_or(0, |owner| owner.0.get());
                out.write_all(&owner.to_le_bytes())?;
            }
            out.write_all(&answers_len.to_le_bytes())?;
            out.write_all(answers)?;
        }
        let mut frames = FrameWriter::new(out);
        self.machine.write_to(&mut frames)?;
        frames.finish()
    }
}

/// Reads an image back and checks every rule that the writer asserts.
pub(super) fn restore<M: StateMachine>(source: &mut dyn Read) -> Result<Sessions<M>, RestoreError> {
    let mut source = BufReader::with_capacity(FRAME_BYTES_MAX, source);
    let (version, last_index, count) = read_header(&mut source)?;
    let mut sessions = SessionMap::new();
    let mut previous = SessionId(0);
    for _ in 0..count {
        let (id, session) = read_session(&mut source, version)?;
        if id <= previous || !is_valid(id, &session, last_index) {
            return Err(RestoreError::Malformed {
                what: "a session breaks the rules",
            });
        }
        previous = id;
        sessions.insert(id, Arc::new(session));
    }
    let has_owners = sessions.values().any(|session| session.owner().is_some());
    if has_owners != (version == OWNED_VERSION) {
        return Err(RestoreError::Malformed {
            what: "its version is not that of its sessions",
        });
    }
    let table = Table::new(sessions)?;
    let mut frames = FrameReader::new(&mut source);
    let machine = M::restore(&mut frames)?;
    expect_end(&mut frames)?;
    expect_end(&mut source)?;
    Ok(Sessions {
        machine,
        table,
        last_index,
    })
}

/// Checked before a session is written and after it was read.
fn is_valid(id: SessionId, session: &Session, last_index: u64) -> bool {
    id.0 > 0
        && id.0 <= session.last_use()
        && session.last_use() <= last_index
        && session.kept() <= SESSION_WINDOW_MAX
        && session.last() <= session.last_use() - id.0
}

fn read_header(source: &mut dyn Read) -> Result<(u16, u64, u64), RestoreError> {
    const WHAT: RestoreError = RestoreError::Malformed {
        what: "it does not begin as sessions",
    };
    let header = read_array::<HEADER_BYTES>(source)?;
    let mut fields = Fields::new(&header);
    if fields.take(MAGIC.len()) != Some(&MAGIC) {
        return Err(WHAT);
    }
    let version = fields.u16().ok_or(WHAT)?;
    if version != VERSION && version != OWNED_VERSION {
        return Err(RestoreError::Unsupported {
            part: "session table",
            version,
        });
    }
    if fields.u16() != Some(0) {
        return Err(WHAT);
    }
    let (last_index, count) = (fields.u64().ok_or(WHAT)?, fields.u64().ok_or(WHAT)?);
    Ok((version, last_index, count))
}

fn read_session(source: &mut dyn Read, version: u16) -> Result<(SessionId, Session), RestoreError> {
    const WHAT: RestoreError = RestoreError::Malformed {
        what: "a session's answers do not add up",
    };
    let mut field = || read_array::<8>(source).map(u64::from_le_bytes);
    let id = SessionId(field()?);
    let (last, floor, last_use) = (field()?, field()?, field()?);
    let owner = if version == OWNED_VERSION {
        SessionOwner::new(field()?)
    } else {
        None
    };
    let answers_len = u32::from_le_bytes(read_array::<4>(source)?) as usize;
    let answers = read_bytes(source, answers_len)?;
    if mutants::SNAPSHOT_WITHOUT_ANSWERS {
        return Session::from_parts(floor, last_use, floor, owner, Vec::new())
            .map(|session| (id, session))
            .ok_or(WHAT);
    }
    let session = Session::from_parts(last, last_use, floor, owner, answers).ok_or(WHAT)?;
    Ok((id, session))
}
