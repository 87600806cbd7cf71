//! Random logs: sound ones are sound, and the plan is what an open does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quorate_wal::*;

use crate::common::*;
use crate::*;

/// A file that is newer than all others, and was never in service.
const UNFINISHED: &str = "00000000000fffff.seg";

/// What one run of random changes did to a log, at a moment when the process may have died.
fn random_log(seed: u64, check: &mut dyn FnMut(&MemoryDisk)) {
    let mut random = Random::new(seed);
    let disk = MemoryDisk::new();
    for _ in 0..3 {
        let (log, recovered) = open(&disk);
        let mut ends: BTreeMap<u64, u64> = (1..=6).map(|group| (group, 0)).collect();
        ends.extend(
            recovered
                .groups
                .iter()
                .map(|(group, it)| (group.0, it.last_index)),
        );
        for _ in 0..40 {
            let group = 1 + random.below(6);
            let end = ends[&group];
            let mut batch = WriteBatch::new();
            let (first, last) = log.bounds(GroupId(group)).unwrap_or((1, 0));
            match random.below(10) {
                0 if last >= first => batch.compact(GroupId(group), last + 1 - random.below(2)),
                1 => {
                    batch.remove(GroupId(group));
                    ends.insert(group, 0);
                }
                _ => {
                    // Sometimes what is there is cut.
                    let from = (end + 1 - random.below(2)).max(first);
                    let to = from + random.below(12);
                    let term = 1 + from / 9;
                    let len = random.below(900) as usize;
                    batch.append(GroupId(group), entries(group, from..=to, term, len));
                    ends.insert(group, to);
                }
            }
            commit(&log, batch);
            if random.below(3) == 0 {
                log.prepare().unwrap();
                settle(&log);
            }
            if random.below(16) == 0 {
                check(&disk.deep_clone());
            }
        }
        drop(log);
        check(&disk.deep_clone());
    }
}

#[test]
fn no_sound_log_is_said_to_be_damaged() {
    let mut logs = 0;
    for seed in 0..20 {
        random_log(seed, &mut |disk| {
            let verification = verified(disk);
            assert!(verification.is_sound(), "seed {seed}: {verification:#?}");
            logs += 1;
        });
    }
    assert!(logs > 100);
}

#[test]
fn the_plan_is_what_an_open_does_to_the_files() {
    let (mut deleted, mut renamed, mut most_dead) = (0, 0, 0);
    for seed in 100..115 {
        let mut earlier = MemoryDisk::new();
        random_log(seed, &mut |disk| {
            bring_back_deleted(disk, &earlier);
            earlier = disk.deep_clone();
            let plan = planned(disk);
            let mut in_service = looked(disk).segments;
            in_service.retain(|it| it.used_bytes > 0);
            let oldest = in_service
                .first()
                .map_or(path(UNFINISHED), |it| it.file.clone());
            let before = disk.list(Path::new(DIR)).unwrap();
            let (_log, recovered) = open(disk);
            let after = disk.list(Path::new(DIR)).unwrap();
            let mut gone = before;
            gone.retain(|name| is_segment(name) && !after.contains(name));
            let mut expected = Vec::new();
            for step in &plan.steps {
                match step {
                    RepairStep::Delete { file, .. } => {
                        deleted += 1;
                        expected.push(file.clone());
                    }
                    RepairStep::Rename { file, to } => {
                        renamed += 1;
                        assert!(after.iter().any(|name| path(name) == *to), "{step}");
                        expected.push(file.clone());
                    }
                    RepairStep::Cut { bytes, .. } => {
                        assert_eq!(*bytes, recovered.report.torn_tail_bytes);
                    }
                    _ => {}
                }
            }
            let is_rename = |it: &&RepairStep| matches!(it, RepairStep::Rename { .. });
            assert!(
                plan.steps.iter().filter(is_rename).count() < 2,
                "{:?}",
                plan.steps
            );
            // What is dead goes first, the newest before the others, so that a crash in between leaves
            // a log that is read the same way.
            let is_dead = |path: &&PathBuf| **path < oldest;
            let dead: Vec<_> = expected.iter().filter(is_dead).collect();
            assert!(dead.iter().rev().is_sorted(), "{dead:?}");
            most_dead = most_dead.max(dead.len());
            expected.sort_unstable();
            let gone: Vec<_> = gone.iter().map(|name| path(name)).collect();
            assert_eq!(gone, expected, "seed {seed}");
        });
    }
    assert!(deleted > 10 && renamed > 10, "{deleted} {renamed}");
    assert!(most_dead > 1, "{most_dead}");
}

/// The deletion of a file is not synced, so it may be undone by a power cut; and a file that was
/// being made may be left over.
fn bring_back_deleted(disk: &MemoryDisk, earlier: &MemoryDisk) {
    let oldest = segments(disk).first().map(|(path, _)| path.clone());
    if earlier.list(Path::new(DIR)).is_ok() {
        for (path, bytes) in segments(earlier) {
            if oldest.as_ref().is_some_and(|oldest| path < *oldest) {
                disk.create(&path).unwrap();
                write(disk, &path, 0, &bytes);
            }
        }
    }
    let unfinished = path(UNFINISHED);
    disk.create(&unfinished).unwrap();
    // As large as a segment, or not.
    let blocks = 3 + disk.list(Path::new(DIR)).unwrap().len() % 2;
    write(disk, &unfinished, 0, &vec![0; blocks * BLOCK]);
}

/// Changes a file of a log in a way that disks and people do.
fn damage(disk: &MemoryDisk, random: &mut Random) {
    let names = disk.list(Path::new(DIR)).unwrap();
    let mut any = |of: &[String]| path(&of[random.below(of.len() as u64) as usize]);
    let files: Vec<_> = names.into_iter().filter(|name| name != "LOCK").collect();
    let (from, to) = (any(&files), any(&files));
    let (source, target) = (read(disk, &from), read(disk, &to));
    let block = |bytes: &[u8], random: &mut Random| {
        BLOCK * random.below((bytes.len() / BLOCK).max(1) as u64) as usize
    };
    let (out, into) = (block(&source, random), block(&target, random));
    match random.below(6) {
        0 => write(disk, &to, into, &[0; BLOCK]),
        1 => write(disk, &to, into, &source[out..source.len().min(out + BLOCK)]),
        2 => write(
            disk,
            &to,
            into + random.below(200) as usize,
            &[random.next() as u8; 9],
        ),
        3 => disk.remove(&to).unwrap(),
        4 => {
            disk.remove(&to).unwrap();
            disk.create(&to).unwrap();
            let bytes = into + random.below(2) as usize * 1000;
            write(disk, &to, 0, &target[..bytes.min(target.len())]);
        }
        _ => {
            disk.remove(&to).unwrap();
            disk.create(&to).unwrap();
            write(disk, &to, 0, &source);
        }
    }
}

#[test]
fn whether_a_damaged_log_opens_is_known_before() {
    let (mut opened, mut refused) = (0, 0);
    for seed in 200..215 {
        let mut random = Random::new(seed);
        random_log(seed, &mut |disk| {
            for _ in 0..4 {
                let disk = disk.deep_clone();
                for _ in 0..=random.below(3) {
                    damage(&disk, &mut random);
                }
                for segment in inspect(&disk, Path::new(DIR)).map_or(Vec::new(), |it| it.segments) {
                    list_batches(&disk, Path::new(DIR), segment.id).unwrap();
                }
                let plan = plan_repair(&disk, Path::new(DIR), None, &options(), &mut |_| ());
                let plan = match plan {
                    Ok(plan) => plan,
                    Err(error) => panic!("seed {seed}: {error}"),
                };
                let mut accepting = options();
                accepting.accept_damage = true;
                let accepted = Log::open(disk.deep_clone().as_disk(), Path::new(DIR), accepting);
                assert!(accepted.is_ok(), "seed {seed}: {plan:#?}");
                match try_open(&disk) {
                    Ok((_, recovered)) => {
                        opened += 1;
                        assert!(plan.verification.opens, "seed {seed}: {plan:#?}");
                        // What the open loses, the plan names.
                        for (group, found) in &recovered.groups {
                            let mut losses = plan.losses.iter();
                            let loss = losses.find(|it| it.group == *group);
                            let named = loss.map_or(&[][..], |it| &it.indexes);
                            for &(first, last) in &found.lost {
                                let holds = |it: &(u64, u64)| it.0 <= first && last <= it.1;
                                assert!(
                                    named.iter().any(holds),
                                    "seed {seed}: {group} {found:?} {:?} {:?}",
                                    plan.losses,
                                    recovered.report.damage
                                );
                            }
                        }
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(!plan.verification.opens, "seed {seed}: {error} {plan:#?}");
                        assert!(!plan.verification.is_sound(), "seed {seed}: {error}");
                    }
                }
            }
        });
    }
    assert!(opened > 50 && refused > 50, "{opened} {refused}");
}
