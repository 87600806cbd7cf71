//! A probe for replicated writes: three threads write and sync the same bytes, each to a file of its own; an entry counts
//! when two have it.
//!
//! With one entry on its way, each disk writes one block for each entry. With many, each disk writes what has gathered
//! while its last sync ran: group commit, without a format.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use quorate_wal::Durability;
use tempfile::TempDir;

use super::file::{BLOCK_BYTES, ProbeFile};
use crate::Failure;
use crate::place::Place;
use crate::sample::{Budget, Sample, run_pipelined};

const REPLICAS: usize = 3;

/// The three threads. Dropping it ends them.
pub struct QuorumProbe {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _dir: TempDir,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    moved: Condvar,
}

/// Invariant: `done` of a replica never exceeds `issued`.
#[derive(Default)]
struct State {
    /// Entries to write.
    issued: u64,
    /// Entries that each replica has synced.
    done: [u64; REPLICAS],
    syncs: u64,
    is_stopped: bool,
    failure: Option<String>,
}

impl QuorumProbe {
    /// Makes the files and starts the threads, which write `entry_bytes` for each entry.
    pub fn open(place: &Place, entry_bytes: usize) -> Result<Self, Failure> {
        let dir = place.folder()?;
        let path = dir.path().to_owned();
        let shared = Arc::new(Shared::default());
        let mut probe = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            _dir: dir,
        };
        for replica in 0..REPLICAS {
            let file = ProbeFile::create(&path.join(replica.to_string()), Durability::PowerLoss)?;
            let shared = Arc::clone(&shared);
            let name = format!("probe-{replica}");
            let run = move || shared.replicate(replica, file, entry_bytes);
            probe
                .threads
                .push(std::thread::Builder::new().name(name).spawn(run)?);
        }
        Ok(probe)
    }

    /// Keeps so many entries on their way until the budget is used up.
    pub fn run(&mut self, outstanding: usize, budget: Budget) -> Result<Sample, Failure> {
        let before = self.shared.lock().syncs;
        let mut sample = run_pipelined(
            budget,
            outstanding,
            || self.shared.issue(),
            |ticket| self.shared.wait(ticket),
        )?;
        sample.syncs = self.shared.lock().syncs - before;
        Ok(sample)
    }
}

impl Drop for QuorumProbe {
    fn drop(&mut self) {
        self.shared.lock().is_stopped = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // It reports its errors through the state.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self) -> u64 {
        let mut state = self.lock();
        state.issued += 1;
        let ticket = state.issued;
        drop(state);
        self.work.notify_all();
        ticket
    }

    fn wait(&self, ticket: u64) -> Result<(), Failure> {
        let mut state = self.lock();
        while state.committed() < ticket {
            if let Some(failure) = &state.failure {
                return Err(failure.clone().into());
            }
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn replicate(&self, replica: usize, mut file: ProbeFile, entry_bytes: usize) {
        let mut blocks = Vec::new();
        let mut state = self.lock();
        while !state.is_stopped {
            let entries = state.issued - state.done[replica];
            if entries == 0 {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            blocks.resize(
                (entries as usize * entry_bytes).next_multiple_of(BLOCK_BYTES),
                0xA5,
            );
            let written = file.append(&blocks);
            state = self.lock();
            state.syncs += 1;
            match written {
                Ok(()) => state.done[replica] += entries,
                Err(error) => {
                    state.failure = Some(error.to_string());
                    state.is_stopped = true;
                }
            }
            self.moved.notify_one();
        }
    }
}

impl State {
    /// How many entries a majority has.
    fn committed(&self) -> u64 {
        let mut done = self.done;
        done.sort_unstable();
        done[REPLICAS / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_three_commit() {
        let state = |done| State {
            issued: 9,
            done,
            ..State::default()
        };
        assert_eq!(state([9, 0, 4]).committed(), 4);
        assert_eq!(state([0, 0, 9]).committed(), 0);
        assert_eq!(state([7, 9, 9]).committed(), 9);
    }
}
