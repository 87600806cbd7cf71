//! The checks of `examples/cluster` find what they are there to find.
//!
//! The example prints `ok` after comparing what a cluster holds with what its clerks were told.
//! That word is worth something only if the comparison can fail: each kind of difference is planted
//! here and must be reported.

use std::num::NonZeroU32;

use quorate::{Bytes, Digest, GroupId, LogIndex, NodeId};

#[path = "../examples/cluster/args.rs"]
mod args;
#[path = "../examples/cluster/check.rs"]
mod check;
#[path = "../examples/cluster/index.rs"]
mod index;
#[path = "../examples/cluster/text.rs"]
mod text;

use check::{DIFFERENCES_SHOWN_MAX, Difference, Entries, Replica, Report};
use index::{Append, CLERKS, LocalIndex, PART_POSITIONS_MAX, POSITION_BYTES, Position, key_of};

const KEY: Bytes = Bytes::from_static(b"word");

mod the_index {
    use super::*;

    #[test]
    fn what_was_appended_is_what_is_expected() {
        let (locals, entries) = built();
        let report = checked(&locals, &[&entries]);
        assert_eq!(report.differences, []);
        assert!(report.is_clean());
        assert_eq!((report.keys, report.unanswered_applied), (1, 0));
    }

    #[test]
    fn a_lost_position_is_missing() {
        let (locals, entries) = built();
        // The last one, so that nothing else moves.
        let lost = positions()[5];
        let entries = with(&entries, |value| {
            value.truncate(value.len() - POSITION_BYTES);
        });
        let report = checked(&locals, &[&entries]);
        assert_eq!(
            report.differences,
            [Difference::Missing {
                key: KEY,
                position: lost
            }]
        );
        assert!(!report.is_clean());
    }

    #[test]
    fn a_lost_position_in_the_middle_is_missing_and_moves_the_others() {
        let (locals, entries) = built();
        let lost = positions()[2];
        let entries = with(&entries, |value| drop(value.drain(place(2))));
        let report = checked(&locals, &[&entries]);
        assert!(report.differences.contains(&Difference::Missing {
            key: KEY,
            position: lost
        }));
        let moved = report
            .differences
            .iter()
            .filter(|d| matches!(d, Difference::Misplaced { .. }));
        assert_eq!(moved.count(), 3);
    }

    #[test]
    fn a_lost_key_misses_all_that_was_acknowledged() {
        let (locals, _) = built();
        let report = checked(&locals, &[&Entries::new()]);
        assert_eq!(report.differences_count, 6);
        assert!(
            report
                .differences
                .iter()
                .all(|d| matches!(d, Difference::Missing { .. }))
        );
    }

    #[test]
    fn a_position_that_is_there_twice_is_doubled() {
        let (locals, entries) = built();
        let twice = positions()[5];
        let entries = with(&entries, |value| value.extend(twice.encode()));
        let report = checked(&locals, &[&entries]);
        assert_eq!(
            report.differences,
            [Difference::Doubled {
                key: KEY,
                position: twice
            }]
        );
    }

    #[test]
    fn two_positions_of_one_clerk_that_changed_places_are_reordered() {
        let (locals, entries) = built();
        let (first, second) = (positions()[2], positions()[0]);
        assert_eq!(first.clerk, second.clerk);
        let entries = with(&entries, |value| {
            value[place(0)].copy_from_slice(&first.encode());
            value[place(2)].copy_from_slice(&second.encode());
        });
        let report = checked(&locals, &[&entries]);
        assert!(report.differences.contains(&Difference::Reordered {
            key: KEY,
            first,
            second
        }));
    }

    #[test]
    fn two_positions_of_different_clerks_that_changed_places_contradict_their_answers() {
        let (locals, entries) = built();
        let (first, second) = (positions()[0], positions()[1]);
        assert_ne!(first.clerk, second.clerk);
        let entries = with(&entries, |value| {
            value[place(0)].copy_from_slice(&second.encode());
            value[place(1)].copy_from_slice(&first.encode());
        });
        let expected =
            [(first, 20), (second, 40)].map(|(position, end_bytes)| Difference::Misplaced {
                key: KEY,
                position,
                end_bytes,
            });
        assert_eq!(checked(&locals, &[&entries]).differences, expected);
    }

    #[test]
    fn a_position_that_nobody_appended_is_unknown() {
        let (locals, entries) = built();
        let last = positions()[5];
        let strangers = [
            Position {
                sequence: 1_000,
                ..last
            },
            Position {
                clerk: CLERKS,
                ..last
            },
            Position {
                line: last.line + 1,
                sequence: last.sequence + 1,
                ..last
            },
        ];
        for position in strangers {
            let entries = with(&entries, |value| value.extend(position.encode()));
            let report = checked(&locals, &[&entries]);
            assert_eq!(
                report.differences,
                [Difference::Unknown { key: KEY, position }]
            );
        }
    }

    #[test]
    fn a_position_with_a_changed_byte_is_unknown_and_no_longer_at_its_place() {
        let (locals, entries) = built();
        let position = Position {
            line: positions()[3].line ^ 1,
            ..positions()[3]
        };
        let entries = with(&entries, |value| {
            value[place(3)].copy_from_slice(&position.encode());
        });
        let differences = checked(&locals, &[&entries]).differences;
        assert!(differences.contains(&Difference::Unknown { key: KEY, position }));
        assert!(
            differences
                .iter()
                .any(|d| matches!(d, Difference::Misplaced { .. }))
        );
    }

    #[test]
    fn a_key_that_nobody_wrote_is_reported() {
        let (locals, mut entries) = built();
        let value = Bytes::copy_from_slice(&positions()[0].encode());
        entries.insert(Bytes::from_static(b"other"), value);
        let report = checked(&locals, &[&entries]);
        assert_eq!(report.differences_count, 1);
        assert!(matches!(report.differences[0], Difference::Unknown { .. }));
    }

    #[test]
    fn a_value_of_no_whole_positions_is_malformed() {
        let (locals, entries) = built();
        for len_bytes in [0, POSITION_BYTES - 1, 6 * POSITION_BYTES - 1] {
            let entries = with(&entries, |value| value.truncate(len_bytes));
            let report = checked(&locals, &[&entries]);
            assert_eq!(
                report.differences,
                [Difference::Malformed {
                    key: KEY,
                    len_bytes
                }]
            );
        }
    }

    #[test]
    fn a_key_in_two_groups_is_reported() {
        let (locals, entries) = built();
        let report = checked(&locals, &[&entries, &entries]);
        assert_eq!(report.differences, [Difference::InTwoGroups { key: KEY }]);
    }

    #[test]
    fn an_append_without_an_answer_may_be_there_once_or_not_at_all() {
        let (mut locals, entries) = built();
        let position = Position {
            sequence: 7,
            ..positions()[0]
        };
        locals[0].push(
            KEY.to_vec(),
            Append {
                position,
                end_bytes: None,
            },
        );
        let report = checked(&locals, &[&entries]);
        assert!(report.is_clean());
        assert_eq!(report.unanswered_applied, 0);

        let once = with(&entries, |value| value.extend(position.encode()));
        let report = checked(&locals, &[&once]);
        assert!(report.is_clean());
        assert_eq!(report.unanswered_applied, 1);

        let twice = with(&once, |value| value.extend(position.encode()));
        let report = checked(&locals, &[&twice]);
        assert_eq!(
            report.differences,
            [Difference::Doubled { key: KEY, position }]
        );
    }

    #[test]
    fn all_differences_are_counted_and_the_first_are_kept() {
        let mut local = LocalIndex::default();
        for sequence in 0..100 {
            let position = Position {
                clerk: 0,
                sequence,
                round: 0,
                file: 0,
                line: 1,
            };
            local.push(
                KEY.to_vec(),
                Append {
                    position,
                    end_bytes: end_of(sequence),
                },
            );
        }
        let report = checked(&[local], &[&Entries::new()]);
        assert_eq!(report.differences_count, 100);
        assert_eq!(report.differences.len(), DIFFERENCES_SHOWN_MAX);
    }
}

mod the_replicas {
    use super::*;

    #[test]
    fn equal_ones_are_equal() {
        let (_, entries) = built();
        assert_eq!(compared(&[replica(1, &entries), replica(2, &entries)]), []);
    }

    #[test]
    fn one_changed_byte_is_found() {
        let (_, entries) = built();
        let changed = with(&entries, |value| value[57] ^= 1);
        assert_eq!(
            compared(&[
                replica(1, &entries),
                replica(2, &entries),
                replica(3, &changed)
            ]),
            [Difference::Value {
                group: GroupId(3),
                node: NodeId(1),
                other: NodeId(3),
                key: KEY,
                at_bytes: 57
            }]
        );
    }

    #[test]
    fn a_value_that_is_the_beginning_of_the_other_is_found() {
        let (_, entries) = built();
        let shorter = with(&entries, |value| value.truncate(value.len() - 1));
        let differences = compared(&[replica(1, &entries), replica(2, &shorter)]);
        assert!(matches!(
            differences[..],
            [Difference::Value { at_bytes: 119, .. }]
        ));
    }

    #[test]
    fn a_key_on_one_of_two_is_found_on_either() {
        let (_, entries) = built();
        let group = GroupId(3);
        let only_on = |node, other| {
            [Difference::OnlyOn {
                group,
                node: NodeId(node),
                other: NodeId(other),
                key: KEY,
            }]
        };
        let (full, empty) = (replica(1, &entries), replica(2, &Entries::new()));
        assert_eq!(compared(&[full.clone(), empty.clone()]), only_on(1, 2));
        assert_eq!(compared(&[empty, full]), only_on(1, 2));
    }

    #[test]
    fn another_digest_or_index_is_found() {
        let (_, entries) = built();
        let own = replica(1, &entries);
        let mut other_digest = replica(2, &entries);
        other_digest.digest.digest += 1;
        let mut other_index = replica(3, &entries);
        other_index.digest.applied = LogIndex(8);
        let differences = compared(&[own, other_digest, other_index]);
        assert_eq!(differences.len(), 2);
        assert!(
            differences
                .iter()
                .all(|d| matches!(d, Difference::Digest { .. }))
        );
    }

    fn replica(node: u64, entries: &Entries) -> Replica {
        let digest = Digest {
            applied: LogIndex(7),
            digest: 42,
        };
        Replica {
            node: NodeId(node),
            digest,
            entries: entries.clone(),
        }
    }

    fn compared(replicas: &[Replica]) -> Vec<Difference> {
        let mut report = Report::default();
        check::check_replicas(GroupId(3), replicas, &mut report);
        assert_eq!(report.differences_count, report.differences.len() as u64);
        report.differences
    }
}

mod the_keys {
    use super::*;

    #[test]
    fn a_long_list_goes_on_under_another_key_before_it_outgrows_a_value() {
        assert_eq!(key_of("the", 0), b"the");
        assert_eq!(key_of("the", PART_POSITIONS_MAX - 1), b"the");
        assert_eq!(key_of("the", PART_POSITIONS_MAX), b"the/1");
        assert_eq!(key_of("the", 2 * PART_POSITIONS_MAX), b"the/2");
    }

    #[test]
    fn positions_come_back_as_they_were() {
        let value: Vec<u8> = positions().into_iter().flat_map(Position::encode).collect();
        assert_eq!(Position::decode_all(&value), Some(positions()));
    }
}

mod the_text {
    use std::fs;

    use super::text::{Input, Text, TextError, normalise};

    #[test]
    fn every_word_comes_once_with_its_line_however_the_text_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        // Long enough for several sections.
        let lines: Vec<String> = (1..=20_000)
            .map(|line| format!("word_{line}, and-Ünïcode"))
            .collect();
        fs::write(dir.path().join("a"), lines.join("\n")).unwrap();
        let text = Text::read(&Input::Path(dir.path().to_path_buf())).unwrap();
        assert!(text.sections().len() > 2);
        let words: Vec<(u32, &str)> = text
            .sections()
            .iter()
            .flat_map(|section| text.words(section))
            .collect();
        assert_eq!(words.len(), 3 * lines.len());
        for (line, three) in (1..).zip(words.chunks(3)) {
            let first = format!("word_{line}");
            assert_eq!(
                three,
                [(line, first.as_str()), (line, "and"), (line, "Ünïcode")]
            );
        }
    }

    #[test]
    fn what_is_no_text_is_skipped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sub/.hidden")).unwrap();
        fs::write(dir.path().join("sub/text"), "words").unwrap();
        fs::write(dir.path().join("sub/.hidden/text"), "not these").unwrap();
        fs::write(dir.path().join("binary"), "a\0b").unwrap();
        fs::write(dir.path().join("latin"), [b'a', 0xE9, b'b']).unwrap();
        fs::write(dir.path().join("empty"), "").unwrap();
        let text = Text::read(&Input::Path(dir.path().to_path_buf())).unwrap();
        assert_eq!(
            (text.files_count(), text.len_bytes(), text.skipped),
            (2, 5, 2)
        );
    }

    #[test]
    fn a_text_without_words_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signs");
        fs::write(&path, "+ - * /\n").unwrap();
        let read = |path| Text::read(&Input::Path(path));
        assert!(matches!(read(path), Err(TextError::NoWords { .. })));
        assert!(matches!(
            read(dir.path().join("none")),
            Err(TextError::Unreadable { .. })
        ));
    }

    #[test]
    fn the_own_sources_are_found() {
        let text = Text::read(&Input::OwnSources).unwrap();
        let words = text
            .sections()
            .iter()
            .flat_map(|section| text.words(section));
        assert!(
            words
                .map(|(_, word)| word)
                .any(|word| word == "the_own_sources_are_found")
        );
    }

    #[test]
    fn words_are_indexed_in_lower_case_and_not_overly_long() {
        let mut normal = "what was there".to_owned();
        normalise("ÄrgerA1_", &mut normal);
        assert_eq!(normal, "ärgera1_");
        normalise(&"é".repeat(100), &mut normal);
        assert_eq!(normal, "é".repeat(64));
    }
}

mod the_arguments {
    use std::time::Duration;

    use quorate::TransportKind;

    use super::args::{Args, ArgsError, HELP};
    use super::text::Input;

    #[test]
    fn are_read_in_both_forms() {
        let line = "--input a/b --transport=memory --nodes 2 --groups=16 --seconds 60 --dir=d";
        let expected = Args {
            input: Input::Path("a/b".into()),
            transport: TransportKind::Memory,
            nodes: 2,
            groups: 16,
            duration: Duration::from_mins(1),
            dir: Some("d".into()),
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        assert_eq!(parse(""), Ok(Some(Args::default())));
        assert_eq!(parse("--nodes 5 --help"), Ok(None));
        assert!(HELP.contains("--transport tcp|memory"));
    }

    #[test]
    fn that_make_no_sense_are_refused_by_name() {
        let number = |option, value: &str, limit| {
            Err(ArgsError::Number {
                option,
                value: value.to_owned(),
                limit,
            })
        };
        assert_eq!(parse("--nodes 0"), number("--nodes", "0", 15));
        assert_eq!(parse("--nodes 16"), number("--nodes", "16", 15));
        assert_eq!(parse("--groups=many"), number("--groups", "many", 65_536));
        assert_eq!(parse("--seconds -1"), number("--seconds", "-1", 86_400));
        assert_eq!(parse("--dir"), Err(ArgsError::NoValue { option: "--dir" }));
        let transport = ArgsError::Transport {
            value: "pigeon".to_owned(),
        };
        assert_eq!(parse("--transport pigeon"), Err(transport));
        for option in ["--node", "extra", "--help=yes"] {
            assert_eq!(
                parse(option),
                Err(ArgsError::Unknown {
                    option: option.to_owned()
                })
            );
        }
    }

    fn parse(line: &str) -> Result<Option<Args>, ArgsError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }
}

/// Six positions, by two clerks in turn, as they stand in the value of [`KEY`].
fn positions() -> Vec<Position> {
    (0..6)
        .map(|i| Position {
            clerk: i % 2,
            sequence: i / 2,
            round: 0,
            file: 9,
            line: 10 + i,
        })
        .collect()
}

/// What the two clerks remember of them, and what a cluster without fault holds.
fn built() -> (Vec<LocalIndex>, Entries) {
    let mut locals = vec![LocalIndex::default(), LocalIndex::default()];
    let mut value = Vec::new();
    for (i, position) in (0..).zip(positions()) {
        value.extend(position.encode());
        let append = Append {
            position,
            end_bytes: end_of(i),
        };
        locals[position.clerk as usize].push(KEY.to_vec(), append);
    }
    (locals, Entries::from([(KEY, Bytes::from(value))]))
}

fn end_of(place: u32) -> Option<NonZeroU32> {
    NonZeroU32::new((place + 1) * POSITION_BYTES as u32)
}

/// Where a position stands in a value.
fn place(position: usize) -> std::ops::Range<usize> {
    position * POSITION_BYTES..(position + 1) * POSITION_BYTES
}

/// The entries with the value of [`KEY`] changed.
fn with(entries: &Entries, change: impl FnOnce(&mut Vec<u8>)) -> Entries {
    let mut entries = entries.clone();
    let mut value = entries[&KEY].to_vec();
    change(&mut value);
    entries.insert(KEY, Bytes::from(value));
    entries
}

fn checked(locals: &[LocalIndex], groups: &[&Entries]) -> Report {
    let mut report = Report::default();
    check::check_index(locals, groups, &mut report);
    report
}
