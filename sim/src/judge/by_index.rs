//! Something for each index of a log, of which the front goes when nobody can ask for it any more.
//!
//! Invariant: what is held has consecutive indexes from `first` on; so much memory is kept as the log that is still somewhere
//! takes, however long it once was.

use std::collections::VecDeque;

use quorate::LogIndex;

/// By index, from some index on.
#[derive(Clone, Debug)]
pub(super) struct ByIndex<T> {
    first: LogIndex,
    held: VecDeque<T>,
}

impl<T> ByIndex<T> {
    /// Nothing yet; the first one will have this index.
    pub(super) fn from(first: LogIndex) -> Self {
        Self {
            first,
            held: VecDeque::new(),
        }
    }

    /// The first index that is not gone.
    pub(super) fn first(&self) -> LogIndex {
        self.first
    }

    /// The index of the next one.
    pub(super) fn end(&self) -> LogIndex {
        LogIndex(self.first.0 + self.held.len() as u64)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn get(&self, index: LogIndex) -> Option<&T> {
        self.held.get(self.place(index)?)
    }

    pub(super) fn get_mut(&mut self, index: LogIndex) -> Option<&mut T> {
        let place = self.place(index)?;
        self.held.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.held.iter()
    }

    pub(super) fn push(&mut self, item: T) {
        self.held.push_back(item);
    }

    /// Begins anew, with nothing.
    pub(super) fn restart(&mut self, first: LogIndex) {
        self.first = first;
        self.held.clear();
    }

    /// Lets go of everything before this index.
    pub(super) fn let_go(&mut self, before: LogIndex) {
        let count = before.0.saturating_sub(self.first.0);
        let count = count.min(self.held.len() as u64);
        self.held.drain(..count as usize);
        self.first.0 += count;
    }

    fn place(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.first.0)?).ok()
    }
}

impl<T: Clone + Default> ByIndex<T> {
    /// Has the next one get this index: what is there and behind is cut, what is missing before is filled in. What is gone
    /// stays so.
    pub(super) fn fit(&mut self, end: LogIndex) {
        let count = self.place(end).unwrap_or(0);
        self.held.resize(count, T::default());
    }

    /// The one of this index, which is made if need be; `None` if it is gone.
    pub(super) fn slot(&mut self, index: LogIndex) -> Option<&mut T> {
        if index >= self.end() {
            self.fit(index.next());
        }
        self.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_of_is_gone_and_the_rest_keeps_its_index() {
        let mut items = ByIndex::from(LogIndex(1));
        for number in 1..=10 {
            items.push(number);
        }
        items.let_go(LogIndex(4));
        assert_eq!(
            (items.first(), items.end(), items.len()),
            (LogIndex(4), LogIndex(11), 7)
        );
        assert_eq!(items.get(LogIndex(3)), None);
        assert_eq!(items.get(LogIndex(4)), Some(&4));
        assert!(items.slot(LogIndex(3)).is_none());
        items.let_go(LogIndex(2));
        assert_eq!(items.first(), LogIndex(4), "there is no way back");
        items.fit(LogIndex(7));
        assert_eq!(items.iter().copied().collect::<Vec<_>>(), [4, 5, 6]);
        *items.slot(LogIndex(9)).expect("it is made") = 9;
        assert_eq!(
            items.iter().copied().collect::<Vec<_>>(),
            [4, 5, 6, 0, 0, 9]
        );
        items.let_go(LogIndex(100));
        assert_eq!((items.first(), items.len()), (LogIndex(10), 0));
    }
}
