//! Histories written by hand: one key, calls and answers in the order in which they happen.

use bytes::Bytes;
use quorate_sim::judge::{ClientId, History, Op, OpId, Operation, Response};

/// A history under construction. Time is the number of the event.
#[derive(Default)]
pub(crate) struct Script {
    history: History,
}

pub(crate) fn put(value: &str) -> Op {
    Op::Put {
        key: key(),
        value: text(value),
    }
}

pub(crate) fn append(suffix: &str) -> Op {
    Op::Append {
        key: key(),
        suffix: text(suffix),
    }
}

pub(crate) fn get() -> Op {
    Op::Get { key: key() }
}

pub(crate) fn delete() -> Op {
    Op::Delete { key: key() }
}

pub(crate) fn swap(expected: Option<&str>, new: &str) -> Op {
    Op::CompareAndSwap {
        key: key(),
        expected: expected.map(text),
        new: text(new),
    }
}

pub(crate) fn value(value: &str) -> Response {
    Response::Value(Some(text(value)))
}

pub(crate) const ABSENT: Response = Response::Value(None);

impl Script {
    /// A client calls, and waits.
    pub(crate) fn call(&self, client: u64, op: Op) -> OpId {
        self.history.invoke(ClientId(client), op, 0)
    }

    /// An answer arrives.
    pub(crate) fn answer(&self, id: OpId, response: Response) {
        self.history.complete(id, response, 0);
    }

    /// A call and its answer with nothing in between.
    pub(crate) fn done(&self, client: u64, op: Op, response: Response) -> OpId {
        let id = self.call(client, op);
        self.answer(id, response);
        id
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.history.operations()
    }
}

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
