//! Whether a node failed because one of its threads did, and who does something about it.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::threads;

/// What is done when the node fails. It may wait for threads of the node.
type Farewell = Box<dyn FnOnce(&Arc<str>) + Send>;

/// Why a node failed, if it did. The first reason stands.
///
/// Invariant: the farewell runs once, if both it and a reason came, in whatever order.
#[derive(Default)]
pub(crate) struct Fate {
    reason: OnceLock<Arc<str>>,
    farewell: Mutex<Option<Farewell>>,
}

impl Fate {
    /// Why the node failed.
    pub(crate) fn reason(&self) -> Option<&Arc<str>> {
        self.reason.get()
    }

    /// The node cannot go on. Returns at once; what is to be done is done on a thread of its own.
    pub(crate) fn fail(&self, reason: impl Into<Arc<str>>) {
        let _kept = self.reason.set(reason.into());
        self.part();
    }

    /// Says what to do when the node fails, or has failed already.
    pub(crate) fn bind(&self, farewell: impl FnOnce(&Arc<str>) + Send + 'static) {
        *self.farewell.lock() = Some(Box::new(farewell));
        self.part();
    }

    fn part(&self) {
        let Some(reason) = self.reason.get().cloned() else {
            return;
        };
        // The lock orders this behind a `bind` that found no reason: one of the two finds both.
        let Some(farewell) = self.farewell.lock().take() else {
            return;
        };
        // Without a thread to give, whoever closes the node stops it; its replicas show no leader
        // already.
        let _no_thread = threads::spawn_apart(move || farewell(&reason));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_farewell_is_said_once_whatever_comes_first() {
        for fails_first in [false, true] {
            let fate = Fate::default();
            let (told, heard) = mpsc::channel();
            let farewell = move |reason: &Arc<str>| {
                told.send(Arc::clone(reason)).expect("somebody listens");
            };
            if fails_first {
                fate.fail("first");
                fate.bind(farewell);
            } else {
                fate.bind(farewell);
                fate.fail("first");
            }
            fate.fail("second");
            let reason = heard.recv_timeout(Duration::from_secs(10));
            assert_eq!(reason.as_deref(), Ok("first"));
            assert_eq!(
                heard.recv_timeout(Duration::from_secs(10)),
                Err(mpsc::RecvTimeoutError::Disconnected)
            );
            assert_eq!(fate.reason().map(|it| &**it), Some("first"));
        }
    }
}
