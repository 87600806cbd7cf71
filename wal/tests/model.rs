//! Random work on several groups beside a model in memory, with reopens and crashes. The seed is in
//! every message; set `QUORATE_SEED` to run one again.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;

use common::*;
use quorate_wal::*;

/// What one group should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    state: GroupState,
    snapshot: Option<SnapshotRef>,
    first_index: u64,
    previous_term: u64,
    entries: Vec<Entry>,
}

type Models = BTreeMap<GroupId, Model>;

impl Default for Model {
    fn default() -> Self {
        Self {
            state: GroupState::default(),
            snapshot: None,
            first_index: 1,
            previous_term: 0,
            entries: Vec::new(),
        }
    }
}

impl Model {
    fn last_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64 - 1
    }

    fn compact(&mut self, first_index: u64) {
        while self.first_index < first_index {
            self.previous_term = self.entries.remove(0).term;
            self.first_index += 1;
        }
    }

    fn recovered(&self) -> RecoveredGroup {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|last| last.1 != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        RecoveredGroup {
            state: self.state,
            first_index: self.first_index,
            last_index: self.last_index(),
            previous_term: self.previous_term,
            terms,
            snapshot: self.snapshot.clone(),
            lost: Vec::new(),
        }
    }
}

/// Adds one random change to a batch and to the model.
fn change(random: &mut Random, batch: &mut WriteBatch, models: &mut Models) {
    let group = GroupId(random.below(5) + 1);
    if random.below(60) == 0 {
        models.remove(&group);
        batch.remove(group);
        return;
    }
    let model = models.entry(group).or_default();
    let last = model.last_index();
    match random.below(10) {
        0 => {
            let state = GroupState {
                term: random.below(9),
                vote: random.below(3),
                commit: random.below(last + 1),
            };
            model.state = state;
            batch.set_state(group, state);
        }
        1 | 2 => {
            let first_index = model.first_index + random.below(last + 2 - model.first_index);
            model.compact(first_index);
            batch.compact(group, first_index);
        }
        3 => {
            let snapshot = SnapshotRef {
                index: last + random.below(4),
                term: random.below(9),
                id: random.next(),
                bytes: random.below(1000),
                crc: random.next() as u32,
                context: vec![7; random.below(30) as usize].into(),
            };
            model.snapshot = Some(snapshot.clone());
            match random.below(8) {
                0 => {
                    model.entries.clear();
                    model.first_index = snapshot.index + 1;
                    model.previous_term = snapshot.term;
                    batch.install(group, snapshot, None);
                }
                1 => {
                    model.compact(last + 1);
                    batch.install(group, snapshot, Some(last + 1));
                }
                _ => batch.set_snapshot(group, snapshot),
            }
        }
        _ => append(random, group, model, batch),
    }
}

/// Appends at the end, or in conflict with what is there.
fn append(random: &mut Random, group: GroupId, model: &mut Model, batch: &mut WriteBatch) {
    let kept = match random.below(5) {
        0 => random.below(model.entries.len() as u64 + 1),
        _ => model.entries.len() as u64,
    };
    model.entries.truncate(kept as usize);
    let first = model.last_index() + 1;
    let term = random.below(4);
    let len = [10, 100, 900, 2049, 6000][random.below(5) as usize];
    let last = first + random.below(6);
    let new = entries(group.0, first..=last, term, random.below(len) as usize);
    model.entries.extend(new.iter().cloned());
    batch.append(group, new);
}

fn check(log: &Log, models: &Models, random: &mut Random, what: &str) {
    for (&group, model) in models {
        assert_eq!(
            log.bounds(group),
            Some((model.first_index, model.last_index())),
            "{what}"
        );
        if model.entries.is_empty() {
            continue;
        }
        let from = model.first_index + random.below(model.entries.len() as u64);
        let read = log.read(group, from, model.last_index() + 1, usize::MAX);
        let read = read.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            read,
            model.entries[(from - model.first_index) as usize..],
            "{what}"
        );
    }
}

fn run(seed: u64, steps: Range<u64>) {
    let mut random = Random::new(seed);
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let mut models = Models::new();
    for step in steps {
        let what = format!("QUORATE_SEED={seed} step {step}");
        for _ in 0..=random.below(3) {
            let mut batch = WriteBatch::new();
            for _ in 0..=random.below(4) {
                change(&mut random, &mut batch, &mut models);
            }
            log.submit(batch)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        settle(&log);
        if random.below(3) == 0 {
            log.prepare().unwrap();
        }
        check(&log, &models, &mut random, &what);
        if random.below(12) == 0 {
            if random.below(2) == 0 {
                // A crash: what was submitted and not driven is gone.
                log.submit(appended(99, 1..=1, 1, 10)).unwrap();
            }
            drop(log);
            let recovered;
            (log, recovered) = open(&disk);
            let expected = models
                .iter()
                .map(|(&group, model)| (group, model.recovered()))
                .collect();
            assert_eq!(recovered.groups, expected, "{what}");
            check(&log, &models, &mut random, &what);
        }
    }
    let live: usize = models.values().map(|model| model.entries.len()).sum();
    assert_eq!(log.stats().entries, live as u64, "QUORATE_SEED={seed}");
    rest(&log);
    let stats = log.stats();
    let files = segments(&disk).len() as u64;
    assert!(
        (stats.segments..=stats.segments + 1).contains(&files),
        "QUORATE_SEED={seed}: {files} files, {stats:?}"
    );
    assert!(
        stats.disk_bytes <= 2 * (stats.live_bytes + SEGMENT_BYTES_MAX) + reserve_bytes(&disk),
        "QUORATE_SEED={seed}: {stats:?}"
    );
}

#[test]
fn the_log_does_what_a_model_does() {
    match std::env::var("QUORATE_SEED") {
        Ok(seed) => run(seed.parse().expect("a number"), 0..400),
        Err(_) => (1..=25).for_each(|seed| run(seed, 0..400)),
    }
}
