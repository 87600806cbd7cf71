//! The exact judge.

use bytes::Bytes;
use quorate_sim::judge::{ClientId, History, Op, Operation, Response, Verdict, check_linearizable};

use crate::brute;
use crate::random::{Random, Recipe, history};
use crate::scripts::{ABSENT, Script, append, delete, get, put, swap, value};

const STEPS_MAX: u64 = 10_000_000;

fn judge(script: &Script) -> bool {
    judge_operations(&script.operations())
}

fn judge_operations(operations: &[Operation]) -> bool {
    let verdict = check_linearizable(operations, STEPS_MAX);
    assert!(!matches!(verdict, Verdict::Undecided { .. }), "{verdict}");
    verdict.is_linearizable()
}

#[test]
fn a_read_that_overlaps_a_write_may_see_it_or_not_but_the_next_one_not_less() {
    for (first, second, right) in [
        ("old", "old", true),
        ("old", "new", true),
        ("new", "new", true),
        ("new", "old", false),
    ] {
        let script = Script::default();
        script.done(1, put("old"), Response::Done);
        let write = script.call(1, put("new"));
        script.done(2, get(), value(first));
        script.done(3, get(), value(second));
        script.answer(write, Response::Done);
        assert_eq!(judge(&script), right, "{first} then {second}");
    }
}

#[test]
fn a_stale_read_is_found_and_explained() {
    let script = Script::default();
    let old = script.done(1, put("old"), Response::Done);
    let new = script.done(1, put("new"), Response::Done);
    let stale = script.done(2, get(), value("old"));
    let verdict = check_linearizable(&script.operations(), STEPS_MAX);
    let Verdict::NotLinearizable(explanation) = &verdict else {
        panic!("{verdict}")
    };
    assert_eq!(explanation.longest, [old, new]);
    assert_eq!(explanation.blocked, stale);
    assert!(verdict.to_string().contains("op2"), "{verdict}");
}

#[test]
fn a_lost_update_is_found() {
    let script = Script::default();
    script.done(1, put("0"), Response::Done);
    let first = script.call(1, swap(Some("0"), "1"));
    let second = script.call(2, swap(Some("0"), "2"));
    script.answer(first, Response::Done);
    script.answer(second, Response::Done);
    assert!(!judge(&script), "both swaps cannot have seen 0");
}

#[test]
fn a_conflict_must_be_one() {
    let script = Script::default();
    script.done(1, put("0"), Response::Done);
    script.done(
        1,
        swap(Some("0"), "1"),
        Response::Conflict(Some(Bytes::from_static(b"0"))),
    );
    assert!(!judge(&script), "it had what it expected");
}

#[test]
fn a_doubled_and_a_reordered_append_are_found() {
    for (seen, right) in [
        ("ab", true),
        ("aab", false),
        ("ba", false),
        ("b", false),
        ("a", false),
    ] {
        let script = Script::default();
        script.done(1, append("a"), Response::Done);
        script.done(2, append("b"), Response::Done);
        script.done(3, get(), value(seen));
        assert_eq!(judge(&script), right, "{seen}");
    }
    let script = Script::default();
    script.done(1, append("a"), Response::Length(1));
    script.done(1, append("b"), Response::Length(3));
    assert!(!judge(&script), "one byte cannot make two");
}

#[test]
fn an_unknown_write_may_come_at_any_later_time_or_never_but_only_once() {
    for (reads, right) in [
        (&["a", "a"][..], true),
        (&["a", "ab"], true),
        (&["ab", "ab"], true),
        (&["ab", "a"], false),
        (&["ab", "abb"], false),
    ] {
        let script = Script::default();
        script.done(1, put("a"), Response::Done);
        let lost = script.call(2, append("b"));
        script.answer(lost, Response::Unknown);
        for read in reads {
            script.done(3, get(), value(read));
        }
        assert_eq!(judge(&script), right, "{reads:?}");
    }
}

#[test]
fn an_unknown_write_does_not_come_before_its_call() {
    let script = Script::default();
    script.done(1, get(), value("a"));
    script.call(2, put("a"));
    assert!(!judge(&script));
}

#[test]
fn a_refused_write_never_comes() {
    let script = Script::default();
    script.done(1, put("a"), Response::Refused);
    assert!(judge(&script));
    script.done(2, get(), ABSENT);
    assert!(judge(&script));
    script.done(2, get(), value("a"));
    assert!(!judge(&script));
}

#[test]
fn unknown_writes_that_change_nothing_cost_nothing() {
    let script = Script::default();
    script.done(1, put("a"), Response::Done);
    for client in 2..40 {
        script.call(client, put("a"));
    }
    script.done(1, get(), value("b"));
    let verdict = check_linearizable(&script.operations(), 1_000);
    assert!(
        matches!(verdict, Verdict::NotLinearizable(_)),
        "2^38 subsets, all alike: {verdict}"
    );
}

#[test]
fn keys_are_judged_one_by_one() {
    let history = History::new();
    for (key, read) in [("a", "1"), ("b", "2")] {
        let key = Bytes::from(key);
        let put = Op::Put {
            key: key.clone(),
            value: Bytes::from("1"),
        };
        let id = history.invoke(ClientId(1), put, 0);
        history.complete(id, Response::Done, 1);
        let id = history.invoke(ClientId(1), Op::Get { key }, 2);
        history.complete(id, Response::Value(Some(Bytes::from(read))), 3);
    }
    let verdict = check_linearizable(&history.operations(), STEPS_MAX);
    let Verdict::NotLinearizable(explanation) = verdict else {
        panic!("{verdict}")
    };
    assert_eq!(explanation.key, "b");
}

#[test]
fn a_search_that_was_given_up_is_no_success() {
    let script = Script::default();
    script.done(1, put("a"), Response::Done);
    script.done(1, get(), value("a"));
    assert!(check_linearizable(&script.operations(), 2).is_linearizable());
    let verdict = check_linearizable(&script.operations(), 1);
    assert!(matches!(verdict, Verdict::Undecided { steps: 1, .. }));
    assert!(!verdict.is_linearizable());
}

fn any_operation(random: &mut Random, _number: usize) -> Op {
    let texts = ["", "a", "b"];
    let text = texts[random.below(3) as usize];
    match random.below(7) {
        0 => put(text),
        1 | 2 => append(text),
        3 | 4 => get(),
        5 => delete(),
        _ => {
            let expected = [None, Some(""), Some("a"), Some("b"), Some("ab")];
            swap(expected[random.below(5) as usize], text)
        }
    }
}

fn bend(random: &mut Random, answer: &Response) -> Response {
    let texts = ["", "a", "b", "ab", "ba"];
    let other = match random.below(6) {
        5 => None,
        at => Some(Bytes::from(texts[at as usize])),
    };
    match answer {
        Response::Value(_) => Response::Value(other),
        Response::Conflict(_) => Response::Conflict(other),
        Response::Existed(existed) => Response::Existed(!existed),
        Response::Length(length) if random.below(2) == 0 => Response::Length(length + 1),
        Response::Length(_) => Response::Done,
        Response::Done | Response::Refused | Response::Unknown => Response::Refused,
    }
}

#[test]
fn agrees_with_brute_force_on_random_histories() {
    let mut random = Random::new(11);
    let (mut right, mut wrong) = (0, 0);
    for round in 0..8_000 {
        let recipe = Recipe {
            operations: 2 + random.below(5) as usize,
            clients: 1 + random.below(4),
            lost_one_in: 8,
            bent_one_in: 4,
        };
        let operations = history(&mut random, &recipe, any_operation, bend);
        let expected = brute::is_linearizable(&operations);
        assert_eq!(
            judge_operations(&operations),
            expected,
            "round {round}: {operations:#?}"
        );
        if expected { right += 1 } else { wrong += 1 }
    }
    println!("{right} right, {wrong} wrong");
    assert!(
        right > 1000 && wrong > 1000,
        "{right} right, {wrong} wrong: too one-sided"
    );
}

fn long_recipe(lost_one_in: u64) -> Recipe {
    Recipe {
        operations: 2_000,
        clients: 6,
        lost_one_in,
        bent_one_in: 0,
    }
}

#[test]
fn long_right_histories_pass_with_answers_lost() {
    let mut random = Random::new(12);
    for _ in 0..20 {
        let operations = history(&mut random, &long_recipe(100), any_operation, bend);
        assert!(judge_operations(&operations));
    }
}

#[test]
fn one_wrong_read_in_a_long_history_is_found() {
    let mut random = Random::new(13);
    for _ in 0..20 {
        let mut operations = history(&mut random, &long_recipe(0), any_operation, bend);
        let mut last_quarter = operations[1_500..].iter_mut();
        let read = last_quarter
            .find(|operation| matches!(operation.op, Op::Get { .. }))
            .expect("there are hundreds of reads");
        read.response = value("what never was");
        let id = read.id;
        let verdict = check_linearizable(&operations, STEPS_MAX);
        let Verdict::NotLinearizable(explanation) = verdict else {
            panic!("{verdict}")
        };
        assert_eq!(explanation.blocked, id);
    }
}
