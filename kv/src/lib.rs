//! What Quorate replicates: the [`StateMachine`] trait, exactly-once [`Sessions`] around any
//! machine, and the ordered [`Map`].
//!
//! The crate is pure: it knows no log, no protocol, no threads and no clock. The caller hands it
//! committed commands in the order of their log indexes, and every replica that does so holds the
//! same state and gives the same answers.
//!
//! ```
//! use quorate_kv::{Answer, Command, CommandBuffer, Map, Outcome, Sessions};
//!
//! let mut replica = Sessions::<Map>::default();
//! let Outcome::Registered(session) = replica.apply(1, &Command::register(64)) else { panic!() };
//!
//! let put = CommandBuffer::put(b"motto", b"quorate")?.seal(session, 1, 0);
//! let first = replica.apply(2, &put);
//! let again = replica.apply(3, &put); // The client did not hear the answer and sent it again.
//! assert_eq!(first, again);
//!
//! let view = replica.view();
//! assert_eq!(view.get(b"motto").as_deref(), Some(&b"quorate"[..]));
//! # let _ = Answer::Done;
//! # Ok::<(), quorate_kv::TooLarge>(())
//! ```
//!
//! Every byte that is replicated is laid out in `docs/commands.md` and in [`Command`], and carries
//! a version.
#![forbid(unsafe_code)]

const _: () = assert!(
    usize::BITS == 64,
    "lengths and counts cross between usize and u64"
);

mod codec;
mod command;
mod digest;
mod frames;
mod machine;
mod map;
mod mutants;
mod outcome;
mod sessions;

pub use command::{
    COMMAND_BYTES_MAX, COMMAND_HEAD_BYTES, COMMAND_VERSION, Command, CommandBuffer, CommandError,
    OWNED_COMMAND_VERSION, Position, TooLarge,
};
pub use machine::{Image, RestoreError, StateMachine};
pub use map::{
    Answer, AnswerError, BATCH_BYTES_MAX, BATCH_STEPS_MAX, Batch, KEY_BYTES_MAX, Map, MapImage,
    MapView, Query, Range, SCAN_BYTES_MAX, Scan, VALUE_BYTES_MAX,
};
pub use outcome::{Outcome, SessionId, SessionOwner};
pub use sessions::{SESSION_WINDOW_BYTES_MAX, SESSION_WINDOW_MAX, Sessions, SessionsImage};
