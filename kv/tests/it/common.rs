//! What the tests of this crate share.

use std::io;

use bytes::Bytes;
use quorate_kv::{
    Answer, Command, CommandBuffer, Image, Map, Outcome, SessionId, Sessions, StateMachine,
};

/// A seeded generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Prints the seed, so that a failing run can be repeated.
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From zero, below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        let len = self.below(len_max + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A replica that counts its log indexes itself.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) sessions: Sessions<Map>,
    pub(crate) index: u64,
}

impl Replica {
    pub(crate) fn apply(&mut self, command: &Bytes) -> Outcome {
        self.index += 1;
        self.sessions.apply(self.index, command)
    }

    pub(crate) fn register(&mut self, sessions_max: u32) -> SessionId {
        match self.apply(&Command::register(sessions_max)) {
            Outcome::Registered(session) => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.sessions.view().get(key)
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        image_bytes(&self.sessions.image())
    }

    /// The same replica after its image went through a snapshot.
    pub(crate) fn restored(&self) -> Self {
        let image = self.image();
        let sessions = Sessions::restore(&mut &image[..]).expect("its own image");
        Self {
            sessions,
            index: self.index,
        }
    }
}

pub(crate) fn append(key: &[u8], suffix: &[u8]) -> CommandBuffer {
    CommandBuffer::append(key, suffix).expect("within limits")
}

/// The outcome of an append that made the value this long.
pub(crate) fn length(length: u64) -> Outcome {
    Outcome::Applied(Answer::Length(length).encode())
}

pub(crate) fn image_bytes(image: &impl Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image
        .write_to(&mut bytes)
        .expect("a vector takes every write");
    bytes
}

/// Applies one operation to a bare map.
pub(crate) fn run(map: &mut Map, buffer: Result<CommandBuffer, quorate_kv::TooLarge>) -> Answer {
    let command = buffer.expect("within limits").seal_plain();
    Answer::decode(&map.apply(1, &Command::operation(&command))).expect("an answer")
}

/// Gives out its bytes one at a time, as a slow pipe would.
pub(crate) struct Trickle<'a>(pub(crate) &'a [u8]);

impl io::Read for Trickle<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let len = target.len().min(1);
        io::Read::read(&mut self.0, &mut target[..len])
    }
}
