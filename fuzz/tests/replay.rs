//! The corpora as plain tests, on stable: every input, and neighbours of each.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use quorate_fuzz::seeds::{Random, seeds};
use quorate_fuzz::{Depth, TARGETS, Target};

/// Inputs made of the committed ones, for each target.
const NEIGHBOURS: usize = 4_000;

#[test]
fn log_recover() {
    replay("log_recover");
}

#[test]
fn footer() {
    replay("footer");
}

#[test]
fn manifest() {
    replay("manifest");
}

#[test]
fn log_recover_fixed() {
    replay("log_recover_fixed");
}

#[test]
fn log_ops() {
    replay("log_ops");
}

#[test]
fn snapshot_read() {
    replay("snapshot_read");
}

#[test]
fn frame_decode() {
    replay("frame_decode");
}

#[test]
fn command_apply() {
    replay("command_apply");
}

#[test]
fn every_target_has_a_test_and_a_corpus() {
    let tests = [
        "log_recover",
        "log_recover_fixed",
        "log_ops",
        "manifest",
        "footer",
        "snapshot_read",
        "frame_decode",
        "command_apply",
    ];
    assert_eq!(TARGETS.map(|(name, _)| name), tests);
}

/// The committed seeds are those that the present code writes; see `examples/seeds.rs` if they are not.
#[test]
fn the_seeds_are_of_the_present_formats() {
    for (target, _) in TARGETS {
        for (name, bytes) in seeds(target) {
            let committed = corpus(target).into_iter().find(|(found, _)| found == name);
            let (_, committed) = committed.unwrap_or_else(|| panic!("{target}/{name} is missing"));
            assert!(
                committed == bytes,
                "{target}/{name} is old: run the example `seeds`"
            );
        }
    }
}

/// Runs every input of the corpus, and others that differ from it in a few bytes.
fn replay(name: &str) {
    let target = TARGETS
        .into_iter()
        .find(|(target, _)| *target == name)
        .expect("there is such a target");
    let mut deepest = Depth::Refused;
    let corpus = corpus(name);
    let each = NEIGHBOURS.div_ceil(corpus.len());
    for (input, bytes) in corpus {
        deepest = deepest.max(check(target, &input, &bytes));
        let mut random = Random::new(crc32fast::hash(input.as_bytes()).into());
        for neighbour in 0..each {
            let changed = change(&mut random, &bytes);
            check(target, &format!("{input}, neighbour {neighbour}"), &changed);
        }
    }
    assert_eq!(
        deepest,
        Depth::Accepted,
        "{name}: no input of the corpus is accepted, so it tests nothing"
    );
}

/// Runs one input; should the check fail, leaves the input where the fuzzer would.
fn check((name, check): Target, input: &str, bytes: &[u8]) -> Depth {
    catch_unwind(AssertUnwindSafe(|| check(bytes))).unwrap_or_else(|panic| {
        let dir = root().join("artifacts").join(name);
        let path = dir.join(format!("replay-{:08x}", crc32fast::hash(bytes)));
        let kept = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, bytes));
        eprintln!(
            "{name}: {input} fails; kept as {} ({kept:?})",
            path.display()
        );
        resume_unwind(panic)
    })
}

/// Another input that differs in a few places.
fn change(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..=random.below(3) {
        if changed.is_empty() {
            break;
        }
        let at = random.below(changed.len());
        match random.below(5) {
            0 => changed[at] ^= 1 << random.below(8),
            1 => changed[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            2 => changed.truncate(at),
            3 => changed.insert(at, random.next_u64() as u8),
            _ => drop(changed.remove(at)),
        }
    }
    changed
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = root().join("corpus").join(target);
    let files =
        std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let path = file.expect("the corpus can be listed").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(&path).expect("the corpus can be read"))
        })
        .collect();
    inputs.sort();
    inputs
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
