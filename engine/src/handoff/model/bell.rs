//! A client's calls and the timer.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::super::bell::{Bell, Watched};
use super::super::slot::Slot;
use super::super::sync::{Bug, Mutex};
use super::{PREEMPTIONS, holds_and_finds};

struct Client {
    watched: Watched,
    /// Calls outstanding, and how often the timer looked at each.
    calls: Mutex<Vec<(Arc<Slot<()>>, u32)>>,
}

impl Client {
    fn call(&self, bell: &Bell<Arc<Client>>) -> Arc<Slot<()>> {
        let slot = Arc::new(Slot::default());
        self.calls.lock().push((Arc::clone(&slot), 0));
        if self.watched.needs_ring() {
            bell.ring();
        }
        slot
    }

    /// A call is over its deadline at the second look at it.
    fn tick(&self) -> bool {
        self.watched.look(|| {
            let mut calls = self.calls.lock();
            for (_, looks) in &mut *calls {
                *looks += 1;
            }
            let is_due = |looks: u32| looks >= 2;
            let due: Vec<_> = calls.extract_if(.., |(_, looks)| is_due(*looks)).collect();
            let is_busy = !calls.is_empty();
            drop(calls);
            for (slot, _) in due {
                let nobody = slot.fill(());
                assert!(nobody.is_none());
            }
            is_busy
        })
    }
}

fn calls_end_at_their_deadline() {
    let bell = Arc::new(Bell::<Arc<Client>>::new());
    let client = Arc::new(Client {
        watched: Watched::default(),
        calls: Mutex::new(Vec::new()),
    });
    let theirs = Arc::clone(&bell);
    let timer = thread::spawn(move || {
        while let Some(clients) = theirs.wait(Duration::ZERO, |_| true) {
            let mut is_busy = false;
            for client in clients {
                is_busy |= Client::tick(&client);
            }
            theirs.looked(is_busy);
        }
    });
    bell.add(Arc::clone(&client));
    for _ in 0..2 {
        let slot = client.call(&bell);
        // Would sleep for ever if the timer did not look.
        assert_eq!(slot.wait(None), Some(()));
    }
    bell.stop();
    timer.join().expect("the timer ends");
}

#[test]
fn a_call_is_looked_after_whatever_the_timer_was_doing() {
    holds_and_finds(
        PREEMPTIONS,
        calls_end_at_their_deadline,
        &[Bug::WakeLostWhileBusy, Bug::UntimedBehindTick],
    );
}
