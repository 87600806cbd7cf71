//! A call's answer to come: blocking and awaitable at once, bound to no runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::handoff::slot::Slot;
use crate::runtime::threads;

/// The answer to a call that is on its way.
///
/// Wait for it with [`wait`](Self::wait), or `.await` it in any executor. Dropping it does not
/// take the call back: a write still takes effect, once.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = quorate::Cluster::in_memory(3)?;
/// let clerk = cluster.clerk();
/// let writes: Vec<_> = (0..100).map(|i| clerk.put_async(format!("k{i}"), "v")).collect();
/// for write in writes {
///     write.wait()?;
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a call that nobody waits for reports no error"]
pub struct Pending<T> {
    state: Waiting<T>,
}

enum Waiting<T> {
    Ready(Option<Result<T, Error>>),
    Slot {
        slot: Arc<Slot<Answer>>,
        finish: Option<Finish<T>>,
    },
}

type Finish<T> = Box<dyn FnOnce(Answer) -> Result<T, Error> + Send>;

/// What a client hands to a waiting call: raw bytes, which the caller's own thread decodes.
pub(crate) type Answer = Result<bytes::Bytes, Error>;

impl<T> Pending<T> {
    /// Blocks until the answer is there. Ends at the latest when the call's own timeout does.
    ///
    /// Called by a waker, on a thread of the node, it does not block: unless the answer is there it fails with
    /// [`Error::OwnThread`], and what was asked for takes effect nevertheless.
    pub fn wait(self) -> Result<T, Error> {
        match self.state {
            Waiting::Ready(result) => result.unwrap_or(Err(Error::Closed)),
            Waiting::Slot { slot, finish } => {
                if !threads::may_wait() && !slot.is_filled() {
                    return Err(Error::OwnThread);
                }
                let answer = slot.wait(None).unwrap_or(Err(Error::Closed));
                finish.map_or(Err(Error::Closed), |finish| finish(answer))
            }
        }
    }

    /// Blocks until the answer is there, or gives itself back when `timeout` has passed.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Result<T, Error>, Self> {
        match &mut self.state {
            Waiting::Ready(result) => Ok(result.take().unwrap_or(Err(Error::Closed))),
            Waiting::Slot { slot, finish } => match slot.wait(Some(Instant::now() + timeout)) {
                Some(answer) => Ok(finish
                    .take()
                    .map_or(Err(Error::Closed), |finish| finish(answer))),
                None => Err(self),
            },
        }
    }

    /// Whether [`wait`](Self::wait) would return at once.
    pub fn is_ready(&self) -> bool {
        match &self.state {
            Waiting::Ready(_) => true,
            Waiting::Slot { slot, .. } => slot.is_filled(),
        }
    }

    pub(crate) fn ready(result: Result<T, Error>) -> Self {
        Self {
            state: Waiting::Ready(Some(result)),
        }
    }

    /// A pending answer and the end through which it is given; `finish` runs on the waiter's thread.
    pub(crate) fn new(
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> (Self, Completer) {
        let slot = Arc::new(Slot::default());
        let completer = Completer {
            slot: Some(Arc::clone(&slot)),
        };
        (
            Self {
                state: Waiting::Slot {
                    slot,
                    finish: Some(Box::new(finish)),
                },
            },
            completer,
        )
    }
}

impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            Waiting::Ready(result) => Poll::Ready(result.take().unwrap_or(Err(Error::Closed))),
            Waiting::Slot { slot, finish } => match slot.poll(context.waker()) {
                None => Poll::Pending,
                Some(answer) => Poll::Ready(
                    finish
                        .take()
                        .map_or(Err(Error::Closed), |finish| finish(answer)),
                ),
            },
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("ready", &self.is_ready())
            .finish()
    }
}

/// The giving end. Dropped without an answer, it answers [`Error::Closed`], so that no caller hangs.
#[derive(Debug)]
pub(crate) struct Completer {
    slot: Option<Arc<Slot<Answer>>>,
}

impl Completer {
    pub(crate) fn complete(mut self, answer: Answer) {
        if let Some(slot) = self.slot.take() {
            slot.fill(answer);
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.fill(Err(Error::Closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_answer_given_from_another_thread_wakes_the_waiter() {
        let (pending, completer) = Pending::new(|answer| answer);
        let giver = std::thread::spawn(move || completer.complete(Ok(Bytes::from_static(b"yes"))));
        assert_eq!(pending.wait(), Ok(Bytes::from_static(b"yes")));
        giver.join().expect("the giver does not panic");
    }

    #[test]
    fn a_dropped_completer_ends_the_call() {
        let (pending, completer) = Pending::new(|answer| answer);
        drop(completer);
        assert_eq!(pending.wait(), Err(Error::Closed));
    }

    #[test]
    fn wait_timeout_gives_the_call_back() {
        let (pending, completer) = Pending::new(|answer| answer);
        let pending = pending
            .wait_timeout(Duration::from_millis(1))
            .expect_err("nobody answered yet");
        completer.complete(Ok(Bytes::new()));
        assert_eq!(
            pending.wait_timeout(Duration::ZERO).expect("answered"),
            Ok(Bytes::new())
        );
    }

    #[test]
    fn a_future_is_woken() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        let (mut pending, completer) = Pending::new(|answer| answer);
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        completer.complete(Ok(Bytes::from_static(b"v")));
        assert!(flag.0.load(Ordering::SeqCst));
        let polled = Pin::new(&mut pending).poll(&mut context);
        assert_eq!(polled, Poll::Ready(Ok(Bytes::from_static(b"v"))));
    }

    /// A waker that panicked ended the worker that gave the answer, and with it all groups of that worker.
    #[test]
    fn a_waker_that_panics_is_no_matter_of_the_giver_s() {
        struct Bomb;
        impl Wake for Bomb {
            fn wake(self: Arc<Self>) {
                panic!("a waker's own panic, which the test expects");
            }
        }
        let waker = Waker::from(Arc::new(Bomb));
        let mut context = Context::from_waker(&waker);
        let (mut pending, completer) = Pending::new(|answer| answer);
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        completer.complete(Ok(Bytes::from_static(b"v")));
        assert_eq!(pending.wait(), Ok(Bytes::from_static(b"v")));
    }
}
