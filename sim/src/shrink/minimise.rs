//! Making lists and numbers small while something still fails. Pure: what fails is asked of a predicate.
//!
//! Invariant: what is given back was seen to fail, or is what was given.

/// Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): a part of `items`,
/// in their order, that fails and of which no single item can be left out. `items` must fail as a whole.
///
/// Asks a number of times that is at most quadratic in the number of items, and logarithmic where one item is to blame.
pub fn smallest_part<T: Clone>(items: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    if items.is_empty() || fails(&[]) {
        return Vec::new();
    }
    let mut kept = items.to_vec();
    let mut pieces = 2;
    while kept.len() > 1 {
        let piece_len = kept.len().div_ceil(pieces);
        if let Some(piece) = kept.chunks(piece_len).find(|piece| fails(piece)) {
            kept = piece.to_vec();
            pieces = 2;
        } else if let Some(rest) = failing_rest(&kept, piece_len, &mut fails) {
            kept = rest;
            pieces = (pieces - 1).max(2);
        } else if piece_len == 1 {
            break;
        } else {
            pieces = (pieces * 2).min(kept.len());
        }
    }
    kept
}

/// What is left when one piece is taken away, and fails. Of two pieces each is what is left of the other.
fn failing_rest<T: Clone>(
    items: &[T],
    piece_len: usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Option<Vec<T>> {
    if items.len() <= 2 * piece_len {
        return None;
    }
    let mut rests = (0..items.len()).step_by(piece_len).map(|start| {
        let end = (start + piece_len).min(items.len());
        [&items[..start], &items[end..]].concat()
    });
    rests.find(|rest| fails(rest))
}

/// A small number from `low` to `high` that fails, found by halving; the smallest, if all above one that fails do. `high`
/// must fail.
pub fn smallest_number(low: u64, high: u64, mut fails: impl FnMut(u64) -> bool) -> u64 {
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low) / 2;
        if fails(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Rng, Stream};

    /// The smallest part of so many items that fails, and how often it was asked.
    fn part_of(len: u32, fails: impl Fn(&[u32]) -> bool) -> (Vec<u32>, usize) {
        let items: Vec<u32> = (0..len).collect();
        let mut asked = 0;
        let part = smallest_part(&items, |part| {
            asked += 1;
            assert!(part.is_sorted(), "the order stays");
            fails(part)
        });
        (part, asked)
    }

    #[test]
    fn what_is_to_blame_is_what_is_left() {
        for blamed in [&[0][..], &[99], &[3, 50], &[0, 99], &[7, 8, 9, 61, 62]] {
            let has_all = |part: &[u32]| blamed.iter().all(|it| part.contains(it));
            let (part, asked) = part_of(100, has_all);
            assert_eq!(part, blamed);
            assert!(asked < 160, "{blamed:?}: {asked}");
        }
        let (part, asked) = part_of(1_000, |part| part.contains(&777));
        assert_eq!(part, [777]);
        assert!(asked <= 21, "half of it is left each time: {asked}");
    }

    #[test]
    fn what_fails_without_anything_is_made_nothing() {
        assert_eq!(part_of(50, |_| true), (Vec::new(), 1));
        assert_eq!(part_of(0, |_| false), (Vec::new(), 0));
        assert_eq!(part_of(1, |part| part.len() == 1).0, [0]);
    }

    #[test]
    fn what_needs_everything_stays_and_is_asked_a_bounded_number_of_times() {
        let (part, asked) = part_of(64, |part| part.len() == 64);
        assert_eq!(part.len(), 64);
        assert!(asked < 64 * 64, "{asked}");
    }

    #[test]
    fn whatever_fails_no_single_item_of_what_is_left_can_go() {
        for seed in 0..300 {
            let mut rng = Rng::of(seed, Stream::Shape);
            let len = rng.between(1, 40) as u32;
            let causes: Vec<Vec<u32>> = (0..rng.between(1, 3))
                .map(|_| {
                    (0..rng.between(1, 4))
                        .map(|_| rng.below(len.into()) as u32)
                        .collect()
                })
                .collect();
            let fails = |part: &[u32]| {
                let mut causes = causes.iter();
                causes.any(|cause| cause.iter().all(|it| part.contains(it)))
            };
            let (part, _) = part_of(len, fails);
            assert!(fails(&part), "seed {seed}");
            for left_out in 0..part.len() {
                let mut less = part.clone();
                less.remove(left_out);
                assert!(!fails(&less), "seed {seed}: {part:?} without {left_out}");
            }
        }
    }

    #[test]
    fn numbers_are_halved_to_the_smallest() {
        for smallest in 0..=70 {
            assert_eq!(smallest_number(0, 70, |it| it >= smallest), smallest);
        }
        let mut asked = 0;
        let found = smallest_number(0, u64::MAX, |it| {
            asked += 1;
            it >= 1 << 40
        });
        assert_eq!((found, asked), (1 << 40, 64));
        assert_eq!(
            smallest_number(3, 9, |_| false),
            9,
            "nothing smaller was seen to fail"
        );
    }
}
