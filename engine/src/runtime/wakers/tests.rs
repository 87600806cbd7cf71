use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use quorate_wal::GroupId;

use super::*;
use crate::error::Error;
use crate::pending::Pending;
use crate::runtime::{Clock, Timer};
use crate::{Db, Options};

/// How long anything may take before a test calls it hung.
const DEADLINE: Duration = Duration::from_secs(10);

/// Calls something each time that it is woken.
struct OnWake<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(call: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(OnWake(call)))
}

/// A waker that comes back when what it waits for is gone, and says that it was called.
fn stuck(release: &Arc<Mutex<Receiver<()>>>, told: &Sender<()>) -> Waker {
    let (release, told) = (Arc::clone(release), Mutex::new(told.clone()));
    waker(move || {
        let _over = told.lock().send(());
        // Whoever holds the lock waits for the end of the test; the others wait for the lock.
        let _ended = release.lock().recv();
    })
}

/// Has a waker called when a write is answered. What was written is woken as long as it is kept.
fn woken_by_a_write(db: &Db, waker: &Waker) -> Pending<()> {
    loop {
        let mut put = db.put_async("k", vec![0; 16 << 10]);
        let polled = Pin::new(&mut put).poll(&mut Context::from_waker(waker));
        if polled.is_pending() {
            return put;
        }
    }
}

/// A test whose own thread may be held up if it fails: it fails all the same.
fn bounded(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _late = done.send(());
    });
    match wait.recv_timeout(DEADLINE * 2) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn in_time<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let _late = done.send(call());
    });
    let result = wait.recv_timeout(DEADLINE);
    result.unwrap_or_else(|error| panic!("{what}: {error} after {DEADLINE:?}"))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn opened() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        call_timeout: DEADLINE * 3,
        ..Options::default()
    };
    let db = Db::builder(dir.path()).options(options).open();
    (dir, db.expect("a fresh node"))
}

#[test]
fn wakers_that_block_for_ever_delay_no_other_waker_and_no_call() {
    bounded(|| {
        let (_dir, db) = opened();
        // Dropped first when the test fails: what is stuck comes back then.
        let (_end, release) = mpsc::channel::<()>();
        let release = Arc::new(Mutex::new(release));
        let (told, heard) = mpsc::channel();
        let mut kept = Vec::new();
        for stuck_ones in 1..CALL_THREADS_MAX {
            kept.push(woken_by_a_write(&db, &stuck(&release, &told)));
            heard.recv_timeout(DEADLINE).expect("it is called");
            let theirs = db.clone();
            let put = in_time("a write that blocks", move || theirs.put("k", "v"));
            assert_eq!(put, Ok(()), "{stuck_ones} are stuck");
        }
        let (woken, wait) = mpsc::channel();
        let woken = Mutex::new(woken);
        let well = waker(move || {
            let _over = woken.lock().send(());
        });
        kept.push(woken_by_a_write(&db, &well));
        wait.recv_timeout(DEADLINE).expect("it is woken");
        assert_eq!(db.trouble(GroupId(0)), Ok(None));
        in_time("to close", move || db.close());
    });
}

#[test]
fn with_as_many_wakers_stuck_as_there_are_threads_others_wait_until_one_comes_back() {
    bounded(|| {
        let (_dir, db) = opened();
        let (end, release) = mpsc::channel::<()>();
        let release = Arc::new(Mutex::new(release));
        let (told, heard) = mpsc::channel();
        let mut kept = Vec::new();
        for _ in 0..CALL_THREADS_MAX {
            kept.push(woken_by_a_write(&db, &stuck(&release, &told)));
            heard.recv_timeout(DEADLINE).expect("it is called");
        }
        let (woken, wait) = mpsc::channel();
        let woken = Mutex::new(woken);
        let well = waker(move || {
            let _over = woken.lock().send(());
        });
        let put = woken_by_a_write(&db, &well);
        eventually("it is answered", || put.is_ready());
        let theirs = db.clone();
        let blocking = in_time("a write that blocks", move || theirs.put("k", "v"));
        assert_eq!(blocking, Ok(()));
        assert!(wait.try_recv().is_err(), "no thread is left to wake it");
        drop(end);
        wait.recv_timeout(DEADLINE).expect("it is woken in the end");
    });
}

#[test]
fn threads_that_were_added_for_stuck_wakers_leave_afterwards() {
    bounded(|| {
        let timer = Timer::start(Clock::start(), false).expect("a thread");
        let wakers = timer.wakers();
        let (end, release) = mpsc::channel::<()>();
        let release = Arc::new(Mutex::new(release));
        let (told, heard) = mpsc::channel();
        wakers.prepare().expect("a thread");
        for _ in 0..4 {
            wakers.call(stuck(&release, &told));
        }
        for _ in 0..4 {
            heard.recv_timeout(DEADLINE).expect("it is called");
        }
        drop(end);
        eventually("one is left", || wakers.calls.threads() == 1);
    });
}

#[test]
fn a_future_that_would_wait_behind_too_many_wakers_is_told_so() {
    bounded(|| {
        let wakers = Wakers::unwatched();
        let (end, release) = mpsc::channel::<()>();
        let release = Arc::new(Mutex::new(release));
        let (told, heard) = mpsc::channel();
        wakers.prepare().expect("a thread");
        wakers.call(stuck(&release, &told));
        heard.recv_timeout(DEADLINE).expect("it is called");
        for _ in 0..WAKERS_MAX {
            wakers.call(waker(|| {}));
        }
        let (mut pending, completer) = Pending::over(&wakers, |answer| answer);
        let polled = Pin::new(&mut pending).poll(&mut Context::from_waker(&waker(|| {})));
        assert!(
            matches!(&polled, Poll::Ready(Err(Error::CannotWake { reason })) if reason.contains("65536")),
            "{polled:?}"
        );
        completer.complete(Ok(bytes::Bytes::new()));
        drop(end);
        eventually("all are called", || wakers.calls.len() == 0);
    });
}

/// What a waker panicked with may panic again when it is dropped.
#[test]
fn a_waker_that_panics_with_something_that_panics_ends_no_thread() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(
                std::thread::panicking(),
                "another panic that the test wants"
            );
        }
    }
    let wakers = Wakers::unwatched();
    wakers.prepare().expect("a thread");
    wakers.call(waker(|| std::panic::panic_any(Bomb)));
    let (woken, wait) = mpsc::channel();
    let woken = Mutex::new(woken);
    wakers.call(waker(move || {
        let _over = woken.lock().send(());
    }));
    wait.recv_timeout(DEADLINE).expect("the next one is called");
}

#[test]
fn an_observer_that_blocks_hears_later_how_many_events_it_missed() {
    bounded(|| {
        let (go, wait) = mpsc::channel::<()>();
        let (told, heard) = mpsc::channel();
        let (wait, told) = (Mutex::new(wait), Mutex::new(told));
        let relay = Events::relay(Arc::new(move |event| {
            let _over = told.lock().send(event.clone());
            let _ended = wait.lock().recv();
        }));
        let event = |number: usize| TransportEvent::NodeFailed {
            reason: number.to_string(),
        };
        relay(&event(0));
        let first = heard.recv_timeout(DEADLINE);
        assert_eq!(first, Ok(event(0)), "it is in there now");
        let all = EVENTS_MAX + 7;
        for number in 1..=all {
            relay(&event(number));
        }
        go.send(()).expect("it waits");
        assert_eq!(heard.recv_timeout(DEADLINE), Ok(event(1)));
        // There is room for one again, behind those that were missed.
        relay(&event(all + 1));
        relay(&event(all + 2));
        drop(go);
        for number in 2..=EVENTS_MAX {
            assert_eq!(heard.recv_timeout(DEADLINE), Ok(event(number)));
        }
        let missed = TransportEvent::Missed { events: 7 };
        assert_eq!(heard.recv_timeout(DEADLINE), Ok(missed));
        assert_eq!(heard.recv_timeout(DEADLINE), Ok(event(all + 1)));
        // What came when it was full again, if it was.
        let last = heard.recv_timeout(DEADLINE).expect("it is told");
        let is_counted = last == TransportEvent::Missed { events: 1 };
        assert!(is_counted || last == event(all + 2), "{last:?}");
        drop(relay);
        let end = heard.recv_timeout(DEADLINE);
        assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected), "it is gone");
    });
}

/// It ran on a thread of the transport, or on the one that opened the node.
#[test]
fn an_observer_may_close_the_node_drop_its_last_handle_and_call_it() {
    bounded(|| {
        for closes in [false, true] {
            let dir = tempfile::tempdir().expect("a directory");
            let (give, take) = mpsc::channel::<Db>();
            let take = Mutex::new(take);
            let (told, heard) = mpsc::channel();
            let told = Mutex::new(told);
            let observer = move |_event: &TransportEvent| {
                let Ok(db) = take.lock().recv_timeout(DEADLINE) else {
                    return;
                };
                let trouble = db.trouble(GroupId(0));
                let put = db.put("k", "from an observer");
                if closes {
                    db.close();
                }
                drop(db);
                let _over = told.lock().send((trouble, put));
            };
            let db = in_time("to open a node whose observer blocks", {
                let builder = Db::builder(dir.path()).observer(observer);
                move || builder.open()
            });
            give.send(db.expect("a fresh node")).expect("it waits");
            let (trouble, put) = heard.recv_timeout(DEADLINE).expect("the observer goes on");
            assert_eq!((trouble, put), (Ok(None), Ok(())));
            drop(Db::open(dir.path()).expect("the directory is free"));
        }
    });
}

#[test]
fn the_last_handle_may_be_dropped_by_a_thread_that_panics() {
    let (dir, db) = opened();
    let panicked = in_time("a panic", move || {
        std::thread::spawn(move || {
            db.put("k", "v").expect("it is alone");
            panic!("a panic that the test wants");
        })
        .join()
        .is_err()
    });
    assert!(panicked);
    let db = Db::open(dir.path()).expect("the directory is free");
    assert_eq!(db.get("k"), Ok(Some("v".into())));
}
