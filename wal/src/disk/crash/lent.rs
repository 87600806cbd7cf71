//! Bytes of files that somebody holds.
//!
//! On a real disk they are a map of the file: whoever writes it anew while they are held changes them under their holder.
//! Here they are copies, so that nobody is harmed, and the writing is noted instead: a harder test than poison, since it
//! shows also where nobody looks at the bytes again.

use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;

/// What was lent of one file.
#[derive(Debug, Default)]
pub(super) struct Lent(Vec<Held>);

#[derive(Debug)]
struct Held {
    range: Range<u64>,
    /// The life of the process that lent it. A later one does not know of it, as it knows nothing of earlier maps.
    life: u64,
    loan: Weak<[u8]>,
}

/// Bytes as their holders own them.
struct Loan(Arc<[u8]>);

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Lent {
    /// Lends bytes that stand there.
    pub(super) fn lend(&mut self, life: u64, offset: u64, bytes: Vec<u8>) -> Bytes {
        self.forget_returned();
        let range = offset..offset + bytes.len() as u64;
        let loan = Arc::<[u8]>::from(bytes);
        self.0.push(Held {
            range,
            life,
            loan: Arc::downgrade(&loan),
        });
        Bytes::from_owner(Loan(loan))
    }

    /// Whether anything is held that was lent in this life.
    pub(super) fn is_held(&mut self, life: u64) -> bool {
        self.forget_returned();
        self.0.iter().any(|held| held.life == life)
    }

    /// Whether anything of a range is held.
    pub(super) fn is_held_in(&mut self, range: &Range<u64>) -> bool {
        self.forget_returned();
        let mut held = self.0.iter().map(|held| &held.range);
        held.any(|held| held.start < range.end && range.start < held.end)
    }

    fn forget_returned(&mut self) {
        self.0.retain(|held| held.loan.strong_count() > 0);
    }
}
