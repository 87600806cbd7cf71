//! What a failed write says of its effect: "none" only if no copy of it can have one any more.

use super::*;

fn in_doubt(error: &Error) -> bool {
    assert!(!error.is_retryable() || !error.maybe_applied());
    error.maybe_applied()
}

/// A script whose first write has a copy at node 1, never heard of again, and one at node 2.
fn with_two_copies() -> (Script, Pending<Bytes>, (NodeId, Request)) {
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.pass(500 * MS);
    script.pass(20 * MS);
    let again = script.sent();
    assert_eq!((sent.len(), again.len()), (1, 1));
    assert_ne!(sent[0].0, again[0].0, "another node is asked");
    (script, first, again[0].clone())
}

/// Nodes may have different limits: what one refuses, the other may have in its log.
#[test]
fn a_write_that_is_too_large_for_one_node_may_be_in_the_log_of_another() {
    let too_large = Refusal::TooLarge { limit_bytes: 10 };
    let (mut script, first, again) = with_two_copies();
    script.answer(&again, Err(too_large));
    let error = first.wait().expect_err("it is too large");
    assert!(in_doubt(&error), "{error:?}");
    assert!(
        matches!(&error, Error::MaybeApplied { after } if matches!(**after, Error::TooLarge(_))),
        "{error:?}"
    );
    // The place is taken all the same, or nothing behind it could follow.
    let skip = script.sent();
    assert!(matches!(
        Command::decode(&command(&skip[0])),
        Ok(Command::Skip(_))
    ));

    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.answer(&sent[0], Err(too_large));
    let error = first.wait().expect_err("it is too large");
    assert!(matches!(error, Error::TooLarge(_)), "{error:?}");
    assert!(!in_doubt(&error));
}

/// A hostile node, or one that is told so by its options, refuses even the shortest command.
#[test]
fn what_takes_the_place_of_a_write_is_not_sent_at_once_where_it_is_refused_as_too_large() {
    let too_large = Refusal::TooLarge { limit_bytes: 10 };
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.answer(&sent[0], Err(too_large));
    first.wait().expect_err("it is too large");
    for _ in 0..20 {
        let skip = script.sent();
        assert_eq!(skip.len(), 1);
        script.answer(&skip[0], Err(too_large));
        assert!(script.sent().is_empty(), "it waits");
        script.pass(9 * MS);
        assert!(script.sent().is_empty(), "it waits");
        script.pass(2 * MS);
    }
}

/// The node that the others wait for is asked as well, and cannot be reached: whether it or another one was asked last decided
/// what the caller was told.
#[test]
fn who_cannot_be_reached_does_not_hide_that_the_cluster_waits_for_it() {
    let waits_for = crate::transport::FewNodes::of(&[NodeId(2)]);
    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.answer(&sent[0], Err(Refusal::Unfounded { waits_for }));
    script.pass(20 * MS);
    let (node, again) = script.sent()[0].clone();
    script.window.not_sent(script.now_ns, node, again.id);
    script.pass(60_000 * MS);
    match first.wait().expect_err("nobody takes it") {
        Error::Timeout { cause, .. } => assert_eq!(cause, Obstacle::Unfounded { waits_for }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn where_everything_fails_only_what_was_never_taken_has_no_effect() {
    let (mut script, first, again) = with_two_copies();
    let second = script.put("b");
    let third = script.sent();
    assert_eq!(third.len(), 1);
    script.answer(&again, Err(Refusal::NotUnderstood));
    let error = first.wait().expect_err("not understood");
    assert!(in_doubt(&error), "the first copy is still out: {error:?}");
    let error = second.wait().expect_err("all failed");
    assert!(in_doubt(&error), "its only copy is still out: {error:?}");

    let (mut script, first) = Script::open();
    let sent = script.sent();
    script.answer(&sent[0], Err(Refusal::NotUnderstood));
    assert_eq!(first.wait(), Err(Error::Incompatible));
    assert!(!in_doubt(&Error::Incompatible));
}

#[test]
fn an_answer_of_another_kind_says_nothing_about_a_write() {
    let (mut script, first) = Script::open();
    let sent = script.sent();
    let body = ReplyBody::ReadIndex(LogIndex(5));
    script.reply(sent[0].0, sent[0].1.id, Ok(body));
    let error = first.wait().expect_err("nobody understands that");
    assert!(in_doubt(&error), "{error:?}");

    for (outcome, may_be_applied) in [
        (Outcome::Malformed, false),
        (Outcome::Unsupported, true),
        (Outcome::AlreadyAcknowledged, true),
    ] {
        let (mut script, first) = Script::open();
        let sent = script.sent();
        script.answer(&sent[0], Ok(outcome));
        let error = first.wait().expect_err("it is no good answer");
        assert_eq!(in_doubt(&error), may_be_applied, "{error:?}");
    }
}

#[test]
fn a_write_that_was_on_its_way_when_its_client_closed_is_in_doubt() {
    let (mut script, first) = Script::open();
    let _sent = script.sent();
    script.window.close(&Error::Closed);
    script.complete();
    let error = first.wait().expect_err("it is closed");
    assert_eq!(error, Error::Closed);
    assert!(in_doubt(&error));
}

#[test]
fn a_session_that_expired_leaves_in_doubt_what_was_sent_under_it() {
    assert!(in_doubt(&Error::SessionExpired));
    let (mut script, first, again) = with_two_copies();
    script.answer(&again, Ok(Outcome::SessionExpired));
    assert_eq!(first.wait(), Err(Error::SessionExpired));
}
