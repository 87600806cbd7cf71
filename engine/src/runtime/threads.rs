//! What threads of this crate are, so that whatever runs on one of them may stop a node without
//! waiting for that very thread.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// Whose a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The caller's.
    Caller,
    /// It owns shards: while it waits, their groups stand still.
    Worker,
    /// It ends calls at their deadlines: while it waits, they wait for ever.
    Timer,
    /// Any other of this crate: files, transports.
    Service,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Caller) };
}

/// Spawns a thread of this crate.
pub(crate) fn spawn(
    name: String,
    kind: Kind,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || {
        mark(kind);
        body();
    })
}

/// The process in which something was made.
///
/// After a `fork` the child has a copy of everything but the threads: whatever waits for one waits for
/// ever, and what is released there may be the parent's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn present() -> Self {
        Self(std::process::id())
    }

    /// Whether the present process is a child that was forked afterwards.
    pub(crate) fn is_another(self) -> bool {
        self.0 != std::process::id()
    }
}

/// Says what the present thread is.
pub(crate) fn mark(kind: Kind) {
    KIND.set(kind);
}

/// What the present thread is. Wakers and observers run on threads that count as the caller's: nobody
/// waits for those, so they may wait. (A thread whose locals are gone runs nothing of
/// the crate any more.)
pub(crate) fn kind() -> Kind {
    KIND.try_with(Cell::get).unwrap_or(Kind::Caller)
}

/// Whether the present thread is one that the crate waits for when it stops something.
pub(crate) fn is_own() -> bool {
    kind() != Kind::Caller
}

/// Whether the present thread may wait for an answer: not where the wait holds up, or never ends
/// without, this very thread.
pub(crate) fn may_wait() -> bool {
    !matches!(kind(), Kind::Worker | Kind::Timer)
}

/// Does something that waits for threads of this crate: here, or, on one of them, on a thread that
/// lives for as long as this takes. `None` if it was handed over.
pub(crate) fn apart<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    if !is_own() {
        return Some(work());
    }
    // Without a thread to give, the system has not much to give at all: what waits is left to
    // whoever closes next.
    let _no_thread = spawn_apart(move || drop(work()));
    None
}

/// Does something on a thread that lives for as long as this takes.
pub(crate) fn spawn_apart(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("quorate-stop".to_owned());
    thread.spawn(work).map(drop)
}

/// Calls the caller's code, whose panics are its own: the panic hook has reported them.
pub(crate) fn shielded(call: impl FnOnce()) -> Result<(), Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(call))
}
