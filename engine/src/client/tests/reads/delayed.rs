//! Reads whose answers are delayed, doubled, lost and overtaken at random.

use std::collections::BTreeMap;

use super::*;

/// The truth of a script: what was acknowledged, how far each replica has come, and what is on its way.
struct World {
    script: Script,
    draw: Dice,
    /// The last write that was acknowledged to anyone.
    acknowledged: u64,
    /// What the replica here has applied.
    applied: u64,
    /// Whether the replica here can wait for anything at all.
    is_halted: bool,
    /// Answers on their way: when, from whom, to what. Many are doubled, and they overtake each other.
    flying: BTreeMap<(u64, u64), Flying>,
    flown: u64,
    /// Who waits here, and for how long at most.
    waiting: Vec<(LogIndex, RequestId, u64)>,
    open: Vec<(u64, Pending<Bytes>)>,
    answered_here: u64,
    answered_there: u64,
}

/// From whom, to what, and what it says.
type Flying = (NodeId, RequestId, Result<ReplyBody, Refusal>);

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            script: Script::with_outstanding(64),
            draw: Dice(seed),
            acknowledged: 0,
            applied: 0,
            is_halted: false,
            flying: BTreeMap::new(),
            flown: 0,
            waiting: Vec::new(),
            open: Vec::new(),
            answered_here: 0,
            answered_there: 0,
        }
    }

    fn fly(
        &mut self,
        delay_ms: u64,
        from: NodeId,
        id: RequestId,
        result: Result<ReplyBody, Refusal>,
    ) {
        self.flown += 1;
        let at_ns = self.script.now_ns + self.draw.below(delay_ms + 1) * MS;
        self.flying.insert((at_ns, self.flown), (from, id, result));
    }

    /// What a node says to a request that reaches it now. Node 1 leads; the answer holds what is acknowledged by now.
    fn ask(&mut self, (node, request): (NodeId, Request)) {
        let result = match (node, request.body) {
            (LEADER, _) if self.draw.below(20) == 0 => Err(Refusal::Busy),
            (LEADER, RequestBody::ReadIndex) => {
                Ok(ReplyBody::ReadIndex(LogIndex(self.acknowledged)))
            }
            (LEADER, RequestBody::Query { .. }) => {
                let seen = self.acknowledged.to_le_bytes();
                Ok(ReplyBody::Answer(Bytes::copy_from_slice(&seen)))
            }
            (LEADER, other @ RequestBody::Propose { .. }) => panic!("nobody writes: {other:?}"),
            _ => Err(Refusal::NotLeader {
                leader: (self.draw.below(4) > 0).then_some(LEADER),
            }),
        };
        // Longer than the client waits before it asks somebody else, at times.
        let delay_ms = if self.draw.below(3) == 0 { 2_000 } else { 20 };
        for _ in 0..[0, 1, 1, 1, 1, 2, 2, 3][self.draw.below(8) as usize] {
            self.fly(delay_ms, node, request.id, result.clone());
        }
    }

    /// The replica here waits for half a second, like a node.
    fn wait_here(&mut self, index: LogIndex, id: RequestId) {
        let until_ns = self.script.now_ns + 500 * MS;
        self.waiting.push((index, id, until_ns));
    }

    fn answer_here(&mut self) {
        let (applied, now_ns, halted) = (self.applied, self.script.now_ns, self.is_halted);
        for (index, id, until_ns) in std::mem::take(&mut self.waiting) {
            if index.0 <= applied {
                self.fly(0, HERE, id, Ok(ReplyBody::ReadIndex(index)));
            } else if halted || until_ns <= now_ns {
                self.fly(0, HERE, id, Err(Refusal::Lagging));
            } else {
                self.waiting.push((index, id, until_ns));
            }
        }
    }

    fn step(&mut self) {
        self.acknowledged += self.draw.below(3);
        match self.draw.below(200) {
            0 => self.is_halted = true,
            1..=10 => self.is_halted = false,
            _ => {}
        }
        if !self.is_halted && self.draw.below(40) > 0 {
            // It comes up in leaps, and lags for a while in between.
            let behind = self.acknowledged - self.applied;
            if self.draw.below(30) == 0 {
                self.applied += behind;
            } else {
                self.applied += self.draw.below(2).min(behind);
            }
        }
        if self.draw.below(2) == 0 {
            let wants = match self.draw.below(3) {
                0 => ReadWants::LocalIndex,
                _ => ReadWants::LocalOr(Bytes::from_static(b"query")),
            };
            let read = self.script.read(wants);
            self.open.push((self.acknowledged, read));
        }
        for sent in self.script.sent() {
            self.ask(sent);
        }
        for (index, id) in std::mem::take(&mut self.script.waits) {
            self.wait_here(index, id);
        }
        self.answer_here();
        while let Some(first) = self.flying.first_entry() {
            if first.key().0 > self.script.now_ns {
                break;
            }
            let (from, id, result) = first.remove();
            self.script.reply(from, id, result);
            self.judge();
        }
        if self.draw.below(50) == 0 {
            let node = NodeId(1 + self.draw.below(3));
            let now_ns = self.script.now_ns;
            self.script.window.disconnected(now_ns, node);
        }
        self.script.pass(5 * MS);
        self.judge();
    }

    /// Each read that is complete, of the view of this moment or of the leader's, held all that was acknowledged before it.
    fn judge(&mut self) {
        let open = std::mem::take(&mut self.open);
        for (needs, read) in open {
            if !read.is_ready() {
                self.open.push((needs, read));
                continue;
            }
            let seen = match read.wait() {
                Ok(answer) if answer == READ_HERE => {
                    self.answered_here += 1;
                    self.applied
                }
                Ok(answer) => {
                    self.answered_there += 1;
                    u64::from_le_bytes(answer[..].try_into().expect("eight bytes"))
                }
                Err(Error::Timeout { .. } | Error::Busy { .. }) => continue,
                Err(error) => panic!("{error:?}"),
            };
            assert!(
                seen >= needs,
                "a read saw {seen}, and {needs} was acknowledged before it"
            );
        }
    }
}

#[test]
fn whatever_is_delayed_doubled_or_overtaken_a_read_sees_what_was_acknowledged_before_it() {
    let (mut here, mut there) = (0, 0);
    for seed in 1..=200_u64 {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2_000 {
                world.step();
            }
        }));
        assert!(run.is_ok(), "seed {seed}");
        here += world.answered_here;
        there += world.answered_there;
    }
    assert!(
        here > 10_000 && there > 10_000,
        "both ways: {here} here, {there} there"
    );
}
