//! Locks, atomics and queues: the real ones, or a model checker's under the same names.

#[cfg(not(feature = "model-check"))]
pub(super) use real::*;

#[cfg(feature = "model-check")]
pub(super) use modelled::*;

/// Deliberate mistakes, each built in by one test of the model to see that the model finds it. In
/// the ordinary build nothing of them is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The flag is lowered by a store, which orders no later load behind it.
    FlagLoweredByStore,
    /// The shard looks at the log first, and lowers the flag then.
    FlagLoweredAfterLook,
    /// A shard that is attached does not look at the log (found on real threads: the deaf shard).
    AttachedWithoutLook,
    /// Whoever detaches what is gone already is not told.
    DoneSignalLost,
    /// The one who sends leaves without a look at what came while it had the right to send.
    NoLookAfterRelease,
    /// A call that meets a window that was closed in between is put into it.
    CallIntoClosedWindow,
    /// An answer is put into its slot and nobody is woken.
    AnswerWithoutWake,
    /// A waker is stored without a look whether the answer came first.
    WakerBehindAnswer,
    /// A lease is read without the word before and behind it.
    LeaseReadOnce,
    /// A lease that was published is never withdrawn.
    LeaseNeverWithdrawn,
    /// The word changes behind the lease, not in front of it.
    WordBehindLease,
    /// A wake of the timer counts only while it sleeps.
    WakeLostWhileBusy,
    /// Something is handed to threads that rest, and none is woken.
    PushWithoutWake,
    /// Something waits behind a call that does not return, and nobody is told to look.
    NobodyLooks,
    /// A client is said to be looked after until its tick ends, not until it begins.
    UntimedBehindTick,
}

#[cfg(not(feature = "model-check"))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    pub(crate) use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
    /// One that somebody only tries to take.
    pub(crate) use parking_lot::Mutex as TryMutex;
    pub(crate) use parking_lot::{Condvar, Mutex, RwLock};

    pub(crate) const fn is_built_in(_bug: super::Bug) -> bool {
        false
    }
}

#[cfg(feature = "model-check")]
#[allow(
    dead_code,
    reason = "the model has no use for some of what the real ones offer"
)]
mod modelled {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::ops::{Deref, DerefMut};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    thread_local! {
        /// The model's threads are coroutines of the test's own thread.
        static BUILT_IN: Cell<Option<super::Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn is_built_in(bug: super::Bug) -> bool {
        BUILT_IN.get() == Some(bug)
    }

    pub(crate) fn build_in(bug: Option<super::Bug>) {
        BUILT_IN.set(bug);
    }

    /// `loom`'s, with the calls of `parking_lot`'s.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("a model ends at a panic")))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("held")
        }
    }

    /// One that somebody only tries to take. The model looks at other orders of two steps only
    /// where both touch something; that a try fails behind the holder's last step, and before it
    /// releases the lock, is an order of a try and the release.
    #[derive(Debug)]
    pub(crate) struct TryMutex<T> {
        lock: loom::sync::Mutex<T>,
        steps: AtomicUsize,
    }

    pub(crate) struct TryMutexGuard<'a, T> {
        _held: loom::sync::MutexGuard<'a, T>,
        steps: &'a AtomicUsize,
    }

    impl<T> TryMutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self {
                lock: loom::sync::Mutex::new(value),
                steps: AtomicUsize::new(0),
            }
        }

        pub(crate) fn try_lock(&self) -> Option<TryMutexGuard<'_, T>> {
            self.steps.fetch_add(1, Ordering::Relaxed);
            let held = self.lock.try_lock().ok()?;
            let steps = &self.steps;
            Some(TryMutexGuard { _held: held, steps })
        }
    }

    impl<T> Drop for TryMutexGuard<'_, T> {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                self.steps.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    pub(crate) struct WaitTimeoutResult;

    impl WaitTimeoutResult {
        pub(crate) fn timed_out(&self) -> bool {
            true
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<'a, T>(&self, guard: &mut MutexGuard<'a, T>) {
            let held = guard.0.take().expect("held");
            guard.0 = Some(self.0.wait(held).expect("a model ends at a panic"));
        }

        /// Time passes: nothing but another thread's turn.
        pub(crate) fn wait_for<'a, T>(
            &self,
            _guard: &mut MutexGuard<'a, T>,
            _time: Duration,
        ) -> WaitTimeoutResult {
            WaitTimeoutResult
        }

        pub(crate) fn wait_until<'a, T>(
            &self,
            _guard: &mut MutexGuard<'a, T>,
            _until: Instant,
        ) -> WaitTimeoutResult {
            WaitTimeoutResult
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// A mutex: the model's own lock for many readers knows only the last access to it, and misses
    /// orders of others. Readers that exclude each other are fewer orders of theirs alone.
    #[derive(Debug)]
    pub(crate) struct RwLock<T>(Mutex<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn read(&self) -> MutexGuard<'_, T> {
            self.0.lock()
        }

        pub(crate) fn write(&self) -> MutexGuard<'_, T> {
            self.0.lock()
        }
    }

    /// A queue with the calls of `crossbeam`'s unbounded channel, made of the model's locks.
    struct Channel<T> {
        state: Mutex<ChannelState<T>>,
        moved: Condvar,
    }

    struct ChannelState<T> {
        waiting: VecDeque<T>,
        senders: usize,
        has_receiver: bool,
    }

    pub(crate) struct Sender<T>(Arc<Channel<T>>);

    pub(crate) struct Receiver<T>(Arc<Channel<T>>);

    #[derive(Debug)]
    pub(crate) struct Disconnected;

    #[derive(Debug)]
    pub(crate) enum RecvTimeoutError {
        Timeout,
        Disconnected,
    }

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let channel = Arc::new(Channel {
            state: Mutex::new(ChannelState {
                waiting: VecDeque::new(),
                senders: 1,
                has_receiver: true,
            }),
            moved: Condvar::new(),
        });
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, value: T) -> Result<(), Disconnected> {
            let mut state = self.0.state.lock();
            if !state.has_receiver {
                return Err(Disconnected);
            }
            state.waiting.push_back(value);
            self.0.moved.notify_one();
            Ok(())
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().senders += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            // A model that panics has ended: nothing in it may be touched any more.
            if !std::thread::panicking() {
                self.0.state.lock().senders -= 1;
                self.0.moved.notify_one();
            }
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, Disconnected> {
            let mut state = self.0.state.lock();
            loop {
                if let Some(value) = state.waiting.pop_front() {
                    return Ok(value);
                }
                if state.senders == 0 {
                    return Err(Disconnected);
                }
                self.0.moved.wait(&mut state);
            }
        }

        pub(crate) fn recv_timeout(&self, _time: Duration) -> Result<T, RecvTimeoutError> {
            self.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }

        pub(crate) fn try_recv(&self) -> Result<T, Disconnected> {
            self.0.state.lock().waiting.pop_front().ok_or(Disconnected)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            let waiting = {
                let mut state = self.0.state.lock();
                state.has_receiver = false;
                std::mem::take(&mut state.waiting)
            };
            drop(waiting);
        }
    }
}
