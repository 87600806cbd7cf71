//! What counts as a majority. The one place to change for joint consensus (thesis 4.3).
//!
//! Invariants:
//! - the voters ascend strictly and are 1 to [`VOTERS_MAX`];
//! - any two majorities share a voter.

use crate::ids::NodeId;
use crate::message::Config;

/// The most voters that a group may have.
pub const VOTERS_MAX: usize = 31;

/// The voters of a group and its arithmetic.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    config: Config,
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    Lost,
    Open,
}

impl Quorum {
    /// `None` if the voters are not a legal set.
    pub(crate) fn new(config: Config) -> Option<Self> {
        let voters = &config.voters;
        let is_legal = (1..=VOTERS_MAX).contains(&voters.len())
            && voters.windows(2).all(|pair| pair[0] < pair[1]);
        is_legal.then_some(Self { config })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn voters(&self) -> &[NodeId] {
        &self.config.voters
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.voters().binary_search(&node).is_ok()
    }

    /// Whether `node` alone is a majority.
    pub(crate) fn is_only(&self, node: NodeId) -> bool {
        self.voters() == [node]
    }

    /// How an election stands, given what each voter answered, if anything.
    pub(crate) fn tally(&self, vote_of: impl Fn(NodeId) -> Option<bool>) -> Tally {
        let votes = |wanted| {
            self.voters()
                .iter()
                .filter(|&&voter| vote_of(voter) == Some(wanted))
                .count()
        };
        if votes(true) >= self.majority() {
            Tally::Won
        } else if votes(false) > self.voters().len() - self.majority() {
            Tally::Lost
        } else {
            Tally::Open
        }
    }

    /// The highest value that a majority has reached, given what each voter has.
    pub(crate) fn reached(&self, value_of: impl Fn(NodeId) -> u64) -> u64 {
        let mut values = [0; VOTERS_MAX];
        let count = self.voters().len();
        for (value, &voter) in values.iter_mut().zip(self.voters()) {
            *value = value_of(voter);
        }
        let values = &mut values[..count];
        values.sort_unstable();
        values[count - self.majority()]
    }

    fn majority(&self) -> usize {
        self.voters().len() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(count: u64) -> Quorum {
        Quorum::new(Config {
            voters: (1..=count).map(NodeId).collect(),
        })
        .expect("legal")
    }

    #[test]
    fn only_sorted_distinct_voters_are_legal() {
        let legal = |voters: &[u64]| {
            Quorum::new(Config {
                voters: voters.iter().map(|&id| NodeId(id)).collect(),
            })
            .is_some()
        };
        assert!(legal(&[1]));
        assert!(legal(&[1, 2, 9]));
        assert!(!legal(&[]));
        assert!(!legal(&[2, 1]));
        assert!(!legal(&[1, 1]));
        assert!(!legal(&(0..=VOTERS_MAX as u64).collect::<Vec<_>>()));
    }

    #[test]
    fn the_value_reached_equals_the_count_of_who_has_it() {
        for count in 1..=5_u64 {
            let quorum = quorum(count);
            for pattern in 0..4_u64.pow(count as u32) {
                let value_of = |node: NodeId| pattern / 4_u64.pow(node.0 as u32 - 1) % 4;
                let has = |least: u64| {
                    (1..=count)
                        .filter(|&id| value_of(NodeId(id)) >= least)
                        .count() as u64
                };
                let expected = (0..4)
                    .rev()
                    .find(|&least| has(least) * 2 > count)
                    .expect("0 is reached");
                assert_eq!(
                    quorum.reached(value_of),
                    expected,
                    "{count} voters, pattern {pattern}"
                );
            }
        }
    }

    #[test]
    fn an_election_is_won_by_a_majority_and_lost_without_hope_of_one() {
        let five = quorum(5);
        let tally = |granted: u64, refused: u64| {
            five.tally(|node| match node.0 {
                id if id <= granted => Some(true),
                id if id <= granted + refused => Some(false),
                _ => None,
            })
        };
        assert_eq!(tally(2, 2), Tally::Open);
        assert_eq!(tally(3, 0), Tally::Won);
        assert_eq!(tally(2, 3), Tally::Lost);
        assert_eq!(tally(0, 2), Tally::Open);
        let four = quorum(4);
        assert_eq!(four.tally(|node| Some(node.0 <= 2)), Tally::Lost);
    }
}
