//! A call's answer to come: blocking and awaitable at once, bound to no runtime.
//!
//! Whoever has the answer puts it into the call's slot. That wakes a caller that blocks, at once. A
//! future has left a waker there, which is code of the program's: it is handed to the threads that
//! call such code, see [`crate::runtime::Wakers`], and never called here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::handoff::slot::Slot;
use crate::runtime::{Wakers, threads};

/// The answer to a call that is on its way.
///
/// Wait for it with [`wait`](Self::wait), or `.await` it in any executor. Dropping it does not
/// take the call back: a write still takes effect, once.
///
/// Wakers are called on threads of their own (`quorate-call`). One that blocks, panics, drops the
/// last handle or calls back into it delays no group and no other call. If 16 of them block at the same
/// time, further wakers wait until one returns; calls that block are woken as ever.
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
        place: Arc<Place>,
        finish: Option<Finish<T>>,
    },
}

/// Where the answer comes, and who calls the waker that may be left there.
#[derive(Debug)]
struct Place {
    slot: Slot<Answer>,
    wakers: Arc<Wakers>,
}

impl Place {
    fn fill(&self, answer: Answer) {
        if let Some(waker) = self.slot.fill(answer) {
            self.wakers.call(waker);
        }
    }
}

type Finish<T> = Box<dyn FnOnce(Answer) -> Result<T, Error> + Send>;

/// What a client hands to a waiting call: raw bytes, which the caller's own thread decodes.
pub(crate) type Answer = Result<bytes::Bytes, Error>;

impl<T> Pending<T> {
    /// Blocks until the answer is there. Ends at the latest when the call's own timeout does.
    ///
    /// Wakers and observers may block here as well.
    pub fn wait(mut self) -> Result<T, Error> {
        match &mut self.state {
            Waiting::Ready(result) => result.take().unwrap_or(Err(Error::Closed)),
            Waiting::Slot { place, finish } => {
                if !threads::may_wait() && !place.slot.is_filled() {
                    return Err(Error::OwnThread);
                }
                let answer = place.slot.wait(None).unwrap_or(Err(Error::Closed));
                let finish = finish.take();
                finish.map_or(Err(Error::Closed), |finish| finish(answer))
            }
        }
    }

    /// Blocks until the answer is there, or gives itself back when `timeout` has passed.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Result<T, Error>, Self> {
        match &mut self.state {
            Waiting::Ready(result) => Ok(result.take().unwrap_or(Err(Error::Closed))),
            Waiting::Slot { place, finish } => {
                match place.slot.wait(Some(Instant::now() + timeout)) {
                    Some(answer) => Ok(finish
                        .take()
                        .map_or(Err(Error::Closed), |finish| finish(answer))),
                    None => Err(self),
                }
            }
        }
    }

    /// Whether [`wait`](Self::wait) would return at once.
    pub fn is_ready(&self) -> bool {
        match &self.state {
            Waiting::Ready(_) => true,
            Waiting::Slot { place, .. } => place.slot.is_filled(),
        }
    }

    pub(crate) fn ready(result: Result<T, Error>) -> Self {
        Self {
            state: Waiting::Ready(Some(result)),
        }
    }

    /// The same as [`over`](Self::over), with nobody who replaces threads that wakers hold up.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn new(
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> (Self, Completer) {
        Self::over(&Wakers::unwatched(), finish)
    }

    /// A pending answer and the end through which it is given; `finish` runs on the waiter's thread.
    pub(crate) fn over(
        wakers: &Arc<Wakers>,
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> (Self, Completer) {
        let place = Arc::new(Place {
            slot: Slot::default(),
            wakers: Arc::clone(wakers),
        });
        let completer = Completer {
            place: Some(Arc::clone(&place)),
        };
        let state = Waiting::Slot {
            place,
            finish: Some(Box::new(finish)),
        };
        (Self { state }, completer)
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        // On the caller's own thread, and not where the answer comes.
        if let Waiting::Slot { place, .. } = &self.state {
            drop(place.slot.leave());
        }
    }
}

impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            Waiting::Ready(result) => Poll::Ready(result.take().unwrap_or(Err(Error::Closed))),
            Waiting::Slot { place, finish } => {
                if !place.slot.is_filled()
                    && let Err(reason) = place.wakers.prepare()
                {
                    return Poll::Ready(Err(Error::CannotWake { reason }));
                }
                match place.slot.poll(context.waker()) {
                    None => Poll::Pending,
                    Some(answer) => Poll::Ready(
                        finish
                            .take()
                            .map_or(Err(Error::Closed), |finish| finish(answer)),
                    ),
                }
            }
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
    place: Option<Arc<Place>>,
}

impl Completer {
    pub(crate) fn complete(mut self, answer: Answer) {
        if let Some(place) = self.place.take() {
            place.fill(answer);
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.fill(Err(Error::Closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
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

    /// Tells when it is woken, and on which thread.
    struct Bell(parking_lot::Mutex<mpsc::Sender<Option<String>>>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let name = std::thread::current().name().map(str::to_owned);
            let _over = self.0.lock().send(name);
        }
    }

    #[test]
    fn a_future_is_woken_on_a_thread_of_its_own() {
        let (told, heard) = mpsc::channel();
        let waker = Waker::from(Arc::new(Bell(parking_lot::Mutex::new(told))));
        let mut context = Context::from_waker(&waker);
        let (mut pending, completer) = Pending::new(|answer| answer);
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        completer.complete(Ok(Bytes::from_static(b"v")));
        let name = heard.recv_timeout(Duration::from_secs(10));
        assert_eq!(name, Ok(Some("quorate-call".to_owned())));
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

    /// It ran where the answer came: on a worker.
    #[test]
    fn the_waker_of_a_future_that_was_dropped_goes_with_it() {
        struct Nothing;
        impl Wake for Nothing {
            fn wake(self: Arc<Self>) {}
        }
        let nothing = Arc::new(Nothing);
        let waker = Waker::from(Arc::clone(&nothing));
        let (mut pending, completer) = Pending::new(|answer| answer);
        let polled = Pin::new(&mut pending).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&nothing), 2);
        drop(pending);
        assert_eq!(Arc::strong_count(&nothing), 1);
        completer.complete(Ok(Bytes::new()));
    }
}
