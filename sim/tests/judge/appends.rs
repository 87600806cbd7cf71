//! The judge for unique appends.

use quorate_sim::judge::{
    AppendViolation, AppendsSeen, ClientOrder, Op, OpId, Response, check_appends,
};

use crate::brute;
use crate::random::{Random, Recipe, history};
use crate::scripts::{ABSENT, Script, append, get, put, value};

fn judge(script: &Script) -> Result<AppendsSeen, AppendViolation> {
    check_appends(&script.operations(), ClientOrder::Free)
}

/// Two answered appends, then a read.
fn two_then(seen: Response) -> Result<AppendsSeen, AppendViolation> {
    let script = Script::default();
    script.done(1, append("<1>"), Response::Done);
    script.done(2, append("<2>"), Response::Done);
    script.done(3, get(), seen);
    judge(&script)
}

const FIRST: OpId = OpId(0);
const SECOND: OpId = OpId(1);
const READ: OpId = OpId(2);

#[test]
fn a_right_history_is_counted() {
    assert_eq!(
        two_then(value("<1><2>")),
        Ok(AppendsSeen {
            keys: 1,
            reads: 1,
            appends: 2
        })
    );
}

#[test]
fn each_way_to_be_wrong_has_its_name() {
    assert_eq!(
        two_then(value("<1><2><1>")),
        Err(AppendViolation::Duplicated {
            append: FIRST,
            read: READ
        })
    );
    assert_eq!(
        two_then(value("<2><1>")),
        Err(AppendViolation::Reordered {
            first: FIRST,
            second: SECOND
        })
    );
    assert_eq!(
        two_then(value("<1>")),
        Err(AppendViolation::Lost {
            append: SECOND,
            by: READ
        })
    );
    assert_eq!(
        two_then(value("<2>")),
        Err(AppendViolation::Lost {
            append: FIRST,
            by: SECOND
        })
    );
    assert_eq!(
        two_then(ABSENT),
        Err(AppendViolation::Lost {
            append: SECOND,
            by: READ
        })
    );
    assert_eq!(
        two_then(value("<1><3>")),
        Err(AppendViolation::Foreign {
            read: READ,
            offset: 3
        })
    );
    assert_eq!(
        two_then(value("<1><2")),
        Err(AppendViolation::Foreign {
            read: READ,
            offset: 3
        })
    );
}

#[test]
fn a_stale_read_is_one_that_shows_less_than_was_shown() {
    let script = Script::default();
    script.done(1, append("<1>"), Response::Done);
    script.call(2, append("<2>"));
    let more = script.done(3, get(), value("<1><2>"));
    let less = script.done(4, get(), value("<1>"));
    assert_eq!(
        judge(&script),
        Err(AppendViolation::StaleRead {
            read: less,
            missing: more
        })
    );

    let script = Script::default();
    let append = script.done(1, append("<1>"), Response::Done);
    let less = script.done(2, get(), ABSENT);
    script.done(2, get(), value("<1>"));
    assert_eq!(
        judge(&script),
        Err(AppendViolation::StaleRead {
            read: less,
            missing: append
        })
    );
}

#[test]
fn values_must_be_cut_between_tokens_and_begin_each_other() {
    let script = Script::default();
    script.call(1, append("<1>"));
    script.call(2, append("<2>"));
    let longest = script.done(3, get(), value("<1><2>"));
    let torn = script.done(3, get(), value("<1><"));
    assert_eq!(
        judge(&script),
        Err(AppendViolation::Diverged {
            read: torn,
            longest
        })
    );

    let script = Script::default();
    script.call(1, append("<1>"));
    script.call(2, append("<2>"));
    let longest = script.done(3, get(), value("<1><2>"));
    let other = script.done(4, get(), value("<2>"));
    assert_eq!(
        judge(&script),
        Err(AppendViolation::Diverged {
            read: other,
            longest
        })
    );
}

#[test]
fn a_read_does_not_see_the_future_and_nothing_refused() {
    let script = Script::default();
    let read = script.done(1, get(), value("<1>"));
    let later = script.call(2, append("<1>"));
    assert_eq!(
        judge(&script),
        Err(AppendViolation::FutureRead {
            read,
            append: later
        })
    );

    let script = Script::default();
    let refused = script.done(1, append("<1>"), Response::Refused);
    script.done(2, get(), value("<1>"));
    assert_eq!(
        judge(&script),
        Err(AppendViolation::RefusedTookEffect(refused))
    );
}

#[test]
fn a_refused_append_is_missed_by_nobody() {
    let script = Script::default();
    script.done(1, append("<1>"), Response::Refused);
    script.done(1, append("<2>"), Response::Done);
    script.done(2, get(), value("<2>"));
    let operations = script.operations();
    for order in [ClientOrder::Free, ClientOrder::Kept] {
        let seen = AppendsSeen {
            keys: 1,
            reads: 1,
            appends: 1,
        };
        assert_eq!(check_appends(&operations, order), Ok(seen));
    }
}

#[test]
fn an_answered_length_must_be_that_of_the_value() {
    let with_length = |length, seen| {
        let script = Script::default();
        script.call(1, append("<other>"));
        let append = script.call(1, append("<1>"));
        script.done(2, get(), seen);
        script.answer(append, Response::Length(length));
        judge(&script)
    };
    let wrong = |answered, shown| {
        Err(AppendViolation::WrongLength {
            append: SECOND,
            answered,
            shown,
        })
    };
    assert!(with_length(3, value("<1>")).is_ok());
    assert_eq!(with_length(4, value("<1>")), wrong(4, 3));
    assert!(with_length(10, value("<other>")).is_ok());
    assert_eq!(with_length(9, value("<other>")), wrong(9, 10));
}

#[test]
fn overlapping_appends_of_a_session_keep_their_order_where_that_is_asked() {
    let script = Script::default();
    let first = script.call(1, append("<1>"));
    let second = script.call(1, append("<2>"));
    let other = script.call(2, append("<3>"));
    for id in [first, second, other] {
        script.answer(id, Response::Done);
    }
    script.done(3, get(), value("<3><2><1>"));
    let operations = script.operations();
    assert!(check_appends(&operations, ClientOrder::Free).is_ok());
    let verdict = check_appends(&operations, ClientOrder::Kept);
    assert_eq!(verdict, Err(AppendViolation::Reordered { first, second }));

    let script = Script::default();
    let first = script.call(1, append("<1>"));
    let second = script.call(1, append("<2>"));
    script.done(3, get(), value("<2>"));
    for id in [first, second] {
        script.answer(id, Response::Done);
    }
    let verdict = check_appends(&script.operations(), ClientOrder::Kept);
    assert_eq!(
        verdict,
        Err(AppendViolation::Lost {
            append: first,
            by: second
        })
    );
}

#[test]
fn histories_that_it_cannot_judge_are_no_success() {
    let script = Script::default();
    let other = script.done(1, put("x"), Response::Done);
    assert_eq!(judge(&script), Err(AppendViolation::OtherOperation(other)));

    for (first, second) in [("<1", "<11"), ("<1>", "<1>")] {
        let script = Script::default();
        let second = script.done(1, append(second), Response::Done);
        script.done(1, append("<0>"), Response::Done);
        let first = script.done(1, append(first), Response::Done);
        let verdict = judge(&script);
        assert!(
            verdict == Err(AppendViolation::AmbiguousToken { first, second })
                || verdict
                    == Err(AppendViolation::AmbiguousToken {
                        first: second,
                        second: first
                    }),
            "{verdict:?}"
        );
    }
    let script = Script::default();
    let empty = script.done(1, append(""), Response::Done);
    let verdict = judge(&script);
    assert_eq!(
        verdict,
        Err(AppendViolation::AmbiguousToken {
            first: empty,
            second: empty
        })
    );
}

fn token_or_read(random: &mut Random, number: usize) -> Op {
    if random.below(2) == 0 {
        get()
    } else {
        append(&format!("<{number}>"))
    }
}

/// Shows some other sequence of tokens.
fn bend(random: &mut Random, answer: &Response) -> Response {
    let Response::Value(_) = answer else {
        return Response::Done;
    };
    let mut tokens: Vec<u64> = Vec::new();
    for token in 0..6 {
        if random.below(2) == 0 {
            tokens.insert(random.below(tokens.len() as u64 + 1) as usize, token);
        }
    }
    if tokens.is_empty() {
        return ABSENT;
    }
    let shown: Vec<String> = tokens.iter().map(|token| format!("<{token}>")).collect();
    value(&shown.concat())
}

#[test]
fn agrees_with_brute_force_on_random_histories() {
    let mut random = Random::new(21);
    let (mut right, mut wrong) = (0, 0);
    for round in 0..12_000 {
        let recipe = Recipe {
            operations: 2 + random.below(5) as usize,
            clients: 1 + random.below(4),
            lost_one_in: 8,
            bent_one_in: 6,
        };
        let mut operations = history(&mut random, &recipe, token_or_read, bend);
        for operation in &mut operations {
            // Lengths are compared too, but only where a read shows the append; brute force knows
            // more.
            if matches!(operation.response, Response::Length(_)) {
                operation.response = Response::Done;
            }
        }
        let verdict = check_appends(&operations, ClientOrder::Free);
        let expected = brute::is_linearizable(&operations);
        assert_eq!(
            verdict.is_ok(),
            expected,
            "round {round}: {verdict:?} {operations:#?}"
        );
        if expected { right += 1 } else { wrong += 1 }
    }
    println!("{right} right, {wrong} wrong");
    assert!(
        right > 1000 && wrong > 1000,
        "{right} right, {wrong} wrong: too one-sided"
    );
}

#[test]
fn a_long_right_history_passes_with_lengths() {
    let mut random = Random::new(22);
    let recipe = Recipe {
        operations: 20_000,
        clients: 16,
        lost_one_in: 50,
        bent_one_in: 0,
    };
    let mostly_appends = |random: &mut Random, number: usize| {
        if random.below(100) == 0 {
            get()
        } else {
            append(&format!("<{number}>"))
        }
    };
    let operations = history(&mut random, &recipe, mostly_appends, bend);
    let seen = check_appends(&operations, ClientOrder::Kept);
    assert!(
        matches!(
            seen,
            Ok(AppendsSeen {
                reads: 100..,
                appends: 15_000..,
                ..
            })
        ),
        "{seen:?}"
    );
}
