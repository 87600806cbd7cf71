//! The ordered map: each answer, and its content against a model.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::common::{Random, Trickle, image_bytes, run};
use bytes::Bytes;
use quorate_kv::{
    Answer, Batch, Command, CommandBuffer, Map, MapView, Query, RestoreError, SCAN_BYTES_MAX, Scan,
    StateMachine, VALUE_BYTES_MAX,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands where answers hold an option"
)]
fn some(content: &[u8]) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(content))
}

fn ask(map: &Map, query: &Bytes) -> Answer {
    Answer::decode(&Map::query(&map.view(), query)).expect("an answer")
}

#[test]
fn each_operation_does_and_answers_what_it_says() {
    let mut map = Map::default();
    assert_eq!(
        run(&mut map, CommandBuffer::put(b"k", b"one")),
        Answer::Done
    );
    assert_eq!(
        run(&mut map, CommandBuffer::append(b"k", b"+two")),
        Answer::Length(7)
    );
    assert_eq!(
        run(&mut map, CommandBuffer::append(b"new", b"x")),
        Answer::Length(1)
    );
    assert_eq!(
        ask(&map, &Query::get(b"k")),
        Answer::Value(some(b"one+two"))
    );
    assert_eq!(ask(&map, &Query::get(b"none")), Answer::Value(None));
    assert_eq!(ask(&map, &Query::count()), Answer::Count(2));
    assert_eq!(
        run(&mut map, CommandBuffer::delete(b"k")),
        Answer::Existed(true)
    );
    assert_eq!(
        run(&mut map, CommandBuffer::delete(b"k")),
        Answer::Existed(false)
    );
    assert_eq!(run(&mut map, CommandBuffer::put(b"", b"")), Answer::Done);
    assert_eq!(ask(&map, &Query::get(b"")), Answer::Value(some(b"")));
}

#[test]
fn compare_and_swap_changes_only_what_was_expected() {
    let mut map = Map::default();
    let swap = |expected: Option<&[u8]>, new| CommandBuffer::compare_and_swap(b"k", expected, new);
    let conflict = |current| Answer::Conflict { step: 0, current };
    assert_eq!(
        run(&mut map, swap(Some(b""), b"a")),
        conflict(None),
        "absent is not empty"
    );
    assert_eq!(run(&mut map, swap(None, b"a")), Answer::Done);
    assert_eq!(run(&mut map, swap(None, b"b")), conflict(some(b"a")));
    assert_eq!(run(&mut map, swap(Some(b"x"), b"b")), conflict(some(b"a")));
    assert_eq!(map.view().get(b"k"), some(b"a"));
    assert_eq!(run(&mut map, swap(Some(b"a"), b"b")), Answer::Done);
    run(&mut map, CommandBuffer::append(b"k", b"c"));
    assert_eq!(run(&mut map, swap(Some(b"bc"), b"d")), Answer::Done);
    assert_eq!(map.view().get(b"k"), some(b"d"));
}

#[test]
fn a_batch_takes_effect_whole_or_not_at_all() {
    let mut map = Map::default();
    run(&mut map, CommandBuffer::put(b"a", b"1"));
    let before = map.view();

    let refused = Batch::new()
        .put(b"a", b"2")
        .expect(b"a", Some(b"1"))
        .expect(b"b", Some(b""));
    let conflict = Answer::Conflict {
        step: 2,
        current: None,
    };
    assert_eq!(run(&mut map, CommandBuffer::batch(refused)), conflict);
    let refused = Batch::new().delete(b"b").expect(b"a", None);
    let conflict = Answer::Conflict {
        step: 1,
        current: some(b"1"),
    };
    assert_eq!(run(&mut map, CommandBuffer::batch(refused)), conflict);
    assert!(map.view().iter().eq(before.iter()));

    let taken = Batch::new()
        .put(b"a", b"2")
        .expect(b"a", Some(b"1"))
        .append(b"a", b"3")
        .append(b"c", b"x")
        .delete(b"c")
        .append(b"c", b"y");
    assert_eq!(run(&mut map, CommandBuffer::batch(taken)), Answer::Done);
    assert_eq!(
        map.view().get(b"a"),
        some(b"23"),
        "expectations see the state before the batch"
    );
    assert_eq!(map.view().get(b"c"), some(b"y"));
    assert_eq!(
        run(&mut map, CommandBuffer::batch(Batch::new())),
        Answer::Done
    );
}

#[test]
fn no_append_makes_a_value_longer_than_the_limit() {
    let mut map = Map::default();
    let almost = vec![7; VALUE_BYTES_MAX - 1];
    run(&mut map, CommandBuffer::put(b"k", &almost));
    let too_large = Answer::TooLarge {
        len_bytes: VALUE_BYTES_MAX as u64 + 1,
    };
    assert_eq!(run(&mut map, CommandBuffer::append(b"k", b"12")), too_large);

    // Each append of the batch fits alone; together they do not.
    let batch = Batch::new()
        .put(b"other", b"x")
        .append(b"k", b"1")
        .append(b"k", b"2");
    assert_eq!(run(&mut map, CommandBuffer::batch(batch)), too_large);
    assert_eq!(map.view().get(b"other"), None);
    assert_eq!(
        map.view().get(b"k").map(|value| value.len()),
        Some(VALUE_BYTES_MAX - 1)
    );

    // A batch that makes room first is taken.
    let batch = Batch::new()
        .append(b"k", b"1")
        .delete(b"k")
        .append(b"k", b"22");
    assert_eq!(run(&mut map, CommandBuffer::batch(batch)), Answer::Done);
    assert_eq!(map.view().get(b"k"), some(b"22"));
    let full = Answer::Length(VALUE_BYTES_MAX as u64);
    assert_eq!(
        run(&mut map, CommandBuffer::append(b"k", &almost[1..])),
        full
    );
}

#[test]
fn large_values_share_the_command_and_small_ones_do_not_pin_it() {
    let mut map = Map::default();
    let shares = |map: &mut Map, operation: &Bytes, key: &[u8]| {
        map.apply(1, operation);
        let value = map.view().get(key).unwrap();
        operation.as_ptr_range().contains(&value.as_ptr())
    };
    let operation = |buffer: CommandBuffer| Command::operation(&buffer.seal_plain());

    let large = operation(CommandBuffer::put(b"large", &[1; 4000]).unwrap());
    assert!(shares(&mut map, &large, b"large"));
    let batch = Batch::new()
        .put(b"large", &[1; 4000])
        .put(b"small", &[2; 500]);
    let batch = operation(CommandBuffer::batch(batch).unwrap());
    assert!(shares(&mut map, &batch, b"large"));
    assert!(!shares(&mut map, &batch, b"small"));

    // Neither the small value nor a key keeps the batch's memory.
    let whole = operation(
        CommandBuffer::batch(
            Batch::new()
                .put(b"large", &[3; 4000])
                .put(b"small", &[4; 500]),
        )
        .unwrap(),
    );
    let mut map = Map::default();
    map.apply(1, &whole);
    run(&mut map, CommandBuffer::put(b"large", b""));
    assert!(whole.is_unique());
}

#[test]
fn a_map_of_an_unknown_version_stops_and_damage_does_not() {
    assert!(Map::supports(b""));
    assert!(Map::supports(b"\x01"));
    assert!(!Map::supports(b"\x02"));
    let mut map = Map::default();
    let answer = map.apply(1, &Bytes::from_static(b"\x01\x09\x00"));
    assert_eq!(Answer::decode(&answer), Ok(Answer::Malformed));
    assert_eq!(
        ask(&map, &Bytes::from_static(b"\x01\x09")),
        Answer::Malformed
    );
}

#[test]
fn a_scan_is_cut_at_its_limits_and_says_so() {
    let mut map = Map::default();
    for key in 0..10_u8 {
        run(
            &mut map,
            CommandBuffer::put(&[key], &vec![key; SCAN_BYTES_MAX / 4]),
        );
    }
    let scan = |scan: Scan| match ask(&map, &Query::scan(&scan)) {
        Answer::Entries { entries, more } => (
            entries.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(),
            more,
        ),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        scan(Scan::range::<&[u8]>(..)),
        (vec![0, 1, 2, 3], true),
        "cut by bytes"
    );
    assert_eq!(
        scan(Scan::range::<&[u8]>(..).reverse()),
        (vec![9, 8, 7, 6], true)
    );
    assert_eq!(scan(Scan::range([1]..[9]).limit(2)), (vec![1, 2], true));
    assert_eq!(scan(Scan::range([1]..[3]).limit(2)), (vec![1, 2], false));
    assert_eq!(scan(Scan::range([8]..)), (vec![8, 9], false));
    assert_eq!(scan(Scan::range([8]..).limit(0)), (vec![], true));
    assert_eq!(scan(Scan::prefix(&[5])), (vec![5], false));
    assert_eq!(scan(Scan::range([5]..[5])), (vec![], false));
}

#[test]
fn equals_a_model_through_random_operations_with_frozen_views_and_images() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let (mut map, mut model) = (Map::default(), Model::new());
        let mut frozen: Vec<(MapView, Model)> = Vec::new();
        for round in 0..1_500 {
            random_operation(&mut random, &mut map, &mut model);
            if round % 100 == 0 {
                frozen.push((map.view(), model.clone()));
                check_ranges(&mut random, &map.view(), &model);
                map = restored(&map);
            }
        }
        frozen.push((map.view(), model));
        for (view, model) in &frozen {
            assert_same(view, model);
        }
    }
}

fn random_key(random: &mut Random) -> Vec<u8> {
    let len = random.below(4);
    (0..len)
        .map(|_| *random.pick(&[0, 1, b'a', 0xfe, 0xff]))
        .collect()
}

fn random_operation(random: &mut Random, map: &mut Map, model: &mut Model) {
    let key = random_key(random);
    let value = random.bytes(40);
    let current = model.get(&key).cloned();
    match random.below(10) {
        0..=2 => {
            assert_eq!(run(map, CommandBuffer::put(&key, &value)), Answer::Done);
            model.insert(key, value);
        }
        3..=6 => {
            let slot = model.entry(key.clone()).or_default();
            slot.extend_from_slice(&value);
            let expected = Answer::Length(slot.len() as u64);
            assert_eq!(run(map, CommandBuffer::append(&key, &value)), expected);
        }
        7 => {
            let existed = model.remove(&key).is_some();
            assert_eq!(
                run(map, CommandBuffer::delete(&key)),
                Answer::Existed(existed)
            );
        }
        8 => {
            let right = random.below(2) == 0;
            let expected = if right {
                current.clone()
            } else {
                Some(random.bytes(2))
            };
            let answer = run(
                map,
                CommandBuffer::compare_and_swap(&key, expected.as_deref(), &value),
            );
            if expected == current {
                assert_eq!(answer, Answer::Done);
                model.insert(key, value);
            } else {
                let current = current.map(Bytes::from);
                assert_eq!(answer, Answer::Conflict { step: 0, current });
            }
        }
        _ => {
            let other = random_key(random);
            let expected = if random.below(3) == 0 {
                None
            } else {
                current.as_deref()
            };
            let batch = Batch::new()
                .expect(&key, expected)
                .delete(&key)
                .append(&other, &value);
            let answer = run(map, CommandBuffer::batch(batch));
            if expected == current.as_deref() {
                assert_eq!(answer, Answer::Done);
                model.remove(&key);
                model.entry(other).or_default().extend_from_slice(&value);
            } else {
                let current = current.map(Bytes::from);
                assert_eq!(answer, Answer::Conflict { step: 0, current });
            }
        }
    }
}

fn assert_same(view: &MapView, model: &Model) {
    assert_eq!(view.len(), model.len());
    assert_eq!(view.is_empty(), model.is_empty());
    let found: Vec<_> = view
        .iter()
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    let expected: Vec<_> = model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    assert_eq!(found, expected);
}

fn check_ranges(random: &mut Random, view: &MapView, model: &Model) {
    for _ in 0..100 {
        let [start, end] = [random_key(random), random_key(random)];
        assert_eq!(
            view.get(&start).as_deref(),
            model.get(&start).map(Vec::as_slice)
        );
        assert_eq!(view.contains_key(&start), model.contains_key(&start));

        let prefixed = view.prefix(&start).map(|(key, _)| key.to_vec());
        let expected = model.keys().filter(|key| key.starts_with(&start)).cloned();
        assert!(prefixed.eq(expected), "prefix {start:?}");

        let bound = |kind, key| match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(key),
            _ => Bound::Excluded(key),
        };
        let bounds = (bound(random.below(3), start), bound(random.below(3), end));
        let inside = |key: &Vec<u8>| {
            let after_start = match &bounds.0 {
                Bound::Unbounded => true,
                Bound::Included(start) => key >= start,
                Bound::Excluded(start) => key > start,
            };
            let before_end = match &bounds.1 {
                Bound::Unbounded => true,
                Bound::Included(end) => key <= end,
                Bound::Excluded(end) => key < end,
            };
            after_start && before_end
        };
        let expected: Vec<_> = model.keys().filter(|key| inside(key)).cloned().collect();
        let forward: Vec<_> = view
            .range(bounds.clone())
            .map(|(key, _)| key.to_vec())
            .collect();
        assert_eq!(forward, expected, "{bounds:?}");
        let mut backward: Vec<_> = view
            .range(bounds.clone())
            .rev()
            .map(|(key, _)| key.to_vec())
            .collect();
        backward.reverse();
        assert_eq!(backward, expected, "{bounds:?} from the end");
    }
}

fn restored(map: &Map) -> Map {
    let image = image_bytes(&map.image());
    let back = Map::restore(&mut Trickle(&image)).expect("its own image");
    assert_eq!(
        image_bytes(&back.image()),
        image,
        "equal maps have equal images"
    );
    back
}

#[test]
fn an_image_shows_the_map_as_it_was_when_it_was_taken() {
    let mut map = Map::default();
    run(&mut map, CommandBuffer::put(b"k", b"old"));
    let image = map.image();
    run(&mut map, CommandBuffer::append(b"k", b"new"));
    run(&mut map, CommandBuffer::put(b"l", b"later"));
    let back = Map::restore(&mut &image_bytes(&image)[..]).unwrap();
    assert_eq!(back.len(), 1);
    assert_eq!(back.view().get(b"k"), some(b"old"));
}

#[test]
fn an_image_that_breaks_a_rule_is_refused() {
    let entry = |key: &[u8]| {
        let mut entry = vec![key.len() as u8, 0, 0, 0, 1, 0, 0, 0];
        entry.extend_from_slice(key);
        entry.push(b'v');
        entry
    };
    let image = |version: u8, count: u8, entries: &[&[u8]]| {
        let mut image = b"QMAP".to_vec();
        image.extend_from_slice(&[version, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0]);
        image.extend(entries.iter().flat_map(|key| entry(key)));
        image
    };
    let restore = |image: &[u8]| Map::restore(&mut &image[..]).map(|map| map.len());
    assert!(matches!(restore(&image(1, 2, &[b"a", b"b"])), Ok(2)));

    let refused = |image: &[u8]| matches!(restore(image), Err(RestoreError::Malformed { .. }));
    assert!(refused(&image(1, 2, &[b"b", b"a"])), "out of order");
    assert!(refused(&image(1, 2, &[b"a", b"a"])), "twice");
    assert!(refused(&image(1, 1, &[b"a", b"b"])), "more than counted");
    let truncated = restore(&image(1, 3, &[b"a", b"b"]));
    assert!(
        matches!(truncated, Err(RestoreError::Truncated)),
        "fewer than counted"
    );
    let unknown = restore(&image(2, 0, &[]));
    assert!(matches!(
        unknown,
        Err(RestoreError::Unsupported {
            part: "map",
            version: 2
        })
    ));
    let mut long = image(1, 1, &[b"a"]);
    long[16 + 7] = 0xff;
    assert!(refused(&long), "a value over the limit");
}
