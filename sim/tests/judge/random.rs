//! Random histories: made right, with effects between call and answer, and then sometimes bent.

use quorate_sim::judge::{Op, OpId, Operation, Response};

use crate::brute;
use crate::scripts::Script;

/// A seeded generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Prints the seed, so that a failing run can be repeated.
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    /// From zero, below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// An operation on its way.
struct Flight {
    client: u64,
    id: OpId,
    op: Op,
    answer: Option<Response>,
}

/// What a history is made of.
pub(crate) struct Recipe {
    pub(crate) operations: usize,
    pub(crate) clients: u64,
    /// One in so many answers is lost, before or after the effect. Zero: none.
    pub(crate) lost_one_in: u64,
    /// One in so many answers is bent. Zero: none, so that the history is right.
    pub(crate) bent_one_in: u64,
}

/// Runs random clients against one plain value. `next` makes the operation with the given number;
/// `bend` changes an answer.
pub(crate) fn history(
    random: &mut Random,
    recipe: &Recipe,
    mut next: impl FnMut(&mut Random, usize) -> Op,
    mut bend: impl FnMut(&mut Random, &Response) -> Response,
) -> Vec<Operation> {
    let script = Script::default();
    let mut state = None;
    let mut flights: Vec<Flight> = Vec::new();
    let mut called = 0;
    while called < recipe.operations || !flights.is_empty() {
        let client = random.below(recipe.clients);
        let Some(at) = flights.iter().position(|flight| flight.client == client) else {
            if called < recipe.operations {
                let op = next(random, called);
                called += 1;
                let id = script.call(client, op.clone());
                flights.push(Flight {
                    client,
                    id,
                    op,
                    answer: None,
                });
            }
            continue;
        };
        let lost = recipe.lost_one_in > 0 && random.below(recipe.lost_one_in) == 0;
        match (flights[at].answer.take(), lost) {
            (None, false) => {
                let answer = brute::execute(&flights[at].op, &mut state);
                flights[at].answer = Some(answer);
            }
            (Some(answer), false) => {
                let is_bent = recipe.bent_one_in > 0 && random.below(recipe.bent_one_in) == 0;
                let answer = if is_bent {
                    bend(random, &answer)
                } else {
                    answer
                };
                script.answer(flights[at].id, answer);
                flights.swap_remove(at);
            }
            // Lost before the effect, or after it: the client cannot tell.
            (_, true) => {
                script.answer(flights[at].id, Response::Unknown);
                flights.swap_remove(at);
            }
        }
    }
    script.operations()
}
