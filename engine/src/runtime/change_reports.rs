//! What becomes of something, reported in the order in which it came about, whichever threads notice.
//!
//! Invariants:
//! - One thread at a time reads and tells. A change that another thread notices meanwhile is told by that one, so what is told
//!   is never older than what was told before.
//! - No lock is held while something is read or told: whoever is told may bring about the next change.

use parking_lot::Mutex;

/// The reports of something that changes.
#[derive(Debug)]
pub(super) struct ChangeReports<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// A thread is in [`ChangeReports::report`], and looks once more before it leaves if there is news.
    is_reporting: bool,
    has_news: bool,
    told: Option<T>,
}

impl<T> Default for ChangeReports<T> {
    fn default() -> Self {
        let state = State {
            is_reporting: false,
            has_news: false,
            told: None,
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl<T: PartialEq> ChangeReports<T> {
    /// Tells how things stand if that is not what was told last. If another thread is telling, it does so for this one, which
    /// returns at once. Neither `read` nor `tell` may panic.
    pub(super) fn report(&self, read: impl Fn() -> T, tell: impl Fn(&T)) {
        let mut state = self.state.lock();
        state.has_news = true;
        if state.is_reporting {
            return;
        }
        state.is_reporting = true;
        while std::mem::take(&mut state.has_news) {
            let told = state.told.take();
            drop(state);
            let present = read();
            if told.as_ref() != Some(&present) {
                tell(&present);
            }
            state = self.state.lock();
            state.told = Some(present);
        }
        state.is_reporting = false;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// The first thread had read how things stood, and told it after the second one had told what came later.
    #[test]
    fn what_was_read_earlier_is_never_told_after_what_was_read_later() {
        let (reports, stage) = (ChangeReports::default(), Cell::new(1));
        let told = RefCell::new(Vec::new());
        let tell = |stage: &u32| told.borrow_mut().push(*stage);
        let read_slowly = || {
            let read = stage.get();
            if read == 1 {
                // Between its look and its word another thread reports the next change.
                stage.set(2);
                reports.report(|| stage.get(), tell);
            }
            read
        };
        reports.report(read_slowly, tell);
        assert_eq!(*told.borrow(), [1, 2]);
    }

    #[test]
    fn whoever_is_told_may_bring_about_the_next_change() {
        let (reports, stage) = (ChangeReports::default(), Cell::new(1));
        let told = RefCell::new(Vec::new());
        let tell = |now: &u32| {
            if *now == 1 {
                stage.set(2);
                reports.report(|| stage.get(), |now| told.borrow_mut().push(*now));
            }
            told.borrow_mut().push(*now);
        };
        reports.report(|| stage.get(), tell);
        assert_eq!(*told.borrow(), [1, 2]);
        reports.report(|| stage.get(), tell);
        assert_eq!(*told.borrow(), [1, 2], "nothing is told twice");
    }
}
