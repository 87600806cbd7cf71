//! Requests and answers that are lost one by one, while the node answers all others.

use super::*;
use crate::client::ReadWants;
use crate::transport::Consistency;

impl Script {
    fn query(&mut self) -> Pending<Bytes> {
        let (pending, completer) = Pending::new(|answer: Answer| answer);
        let wants = ReadWants::Answer(Consistency::Linearizable, Bytes::from_static(b"query"));
        self.window.read(self.now_ns, wants, completer);
        self.complete();
        pending
    }

    /// Time passes; every 100 ms another read is asked of the node, and answered at once. What else was sent meanwhile.
    fn pass_with_reads(&mut self, tenths: u64) -> Vec<(NodeId, Request)> {
        let mut others = Vec::new();
        for _ in 0..tenths {
            self.pass(100 * MS);
            others.extend(self.sent());
            let read = self.query();
            let asked = self.sent();
            let asked = asked.last().expect("a read leaves at once");
            let answer = ReplyBody::Answer(Bytes::from_static(b"value"));
            self.reply(asked.0, asked.1.id, Ok(answer));
            assert!(read.wait().is_ok());
        }
        others
    }
}

/// It was never sent again, and after 4,096 further ones every write of the group was refused.
#[test]
fn a_write_whose_answer_was_lost_is_sent_again_though_reads_are_answered() {
    let (mut script, first) = Script::open();
    let second = script.put("second");
    let sent = script.sent();
    assert_eq!(sequences(&sent), [1, 2]);
    let done = || Ok(Outcome::Applied(Bytes::from_static(b"done")));
    script.answer(&sent[1], done());
    assert!(second.wait().is_ok());
    let again = script.pass_with_reads(9);
    assert!(again.is_empty(), "it may only be slow: {again:?}");
    let again = script.pass_with_reads(3);
    assert_eq!(sequences(&again), [1, 2], "in order, from the first on");
    assert_eq!(again[0].0, sent[0].0, "the node is well");
    // Twice as long each time: it may be a leader that has too much to do.
    assert!(script.pass_with_reads(18).is_empty());
    let again = script.pass_with_reads(4);
    script.answer(&again[0], done());
    assert!(first.wait().is_ok());
    assert!(!script.window.is_busy());
}

#[test]
fn a_read_whose_answer_was_lost_is_sent_again_though_others_are_answered() {
    let mut script = Script::new();
    let read = script.query();
    let first = script.sent();
    assert!(script.pass_with_reads(9).is_empty());
    let again = script.pass_with_reads(3);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].0, first[0].0, "the node is well");
    // Either copy may be answered.
    let answer = ReplyBody::Answer(Bytes::from_static(b"value"));
    script.reply(first[0].0, first[0].1.id, Ok(answer));
    assert!(read.wait().is_ok());
    assert!(script.pass_with_reads(30).is_empty());
    assert!(script.window.entries_of_reads() < 80, "nothing piles up");
}

#[test]
fn a_registration_whose_answer_was_lost_is_sent_again_though_reads_are_answered() {
    let mut script = Script::new();
    let put = script.put("first");
    assert_eq!(script.sent().len(), 1);
    assert!(script.pass_with_reads(9).is_empty());
    let again = script.pass_with_reads(3);
    assert_eq!(again.len(), 1);
    script.answer(&again[0], Ok(Outcome::Registered(SessionId(9))));
    let write = script.sent();
    script.answer(&write[0], Ok(Outcome::Applied(Bytes::new())));
    assert!(put.wait().is_ok());
}
