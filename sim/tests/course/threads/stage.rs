//! Clerks on threads, as a stage: calls are awaited by the one thread of the script, which each answer wakes up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use quorate::{Bytes, Clerk, Consistency, Error, Pending};
use quorate_sim::judge::{ClientId, History, Op, OpId, Operation, Response};
use quorate_sim::workload::Ticket;

use super::nodes::Nodes;
use crate::harness::UNRELIABLE;
use crate::harness::clerks::{Clerks, clerk_options, judge_all};
use crate::harness::stage::Stage;

/// Nodes and clerks on threads.
pub(crate) struct Threads {
    nodes: Nodes,
    clerks: Vec<Clerk>,
    history: History,
    responses: Vec<Option<Response>>,
    /// Calls that were not answered yet: which, and its place in the history.
    open: Vec<(Ticket, OpId, Answer)>,
    waker: Waker,
    has_news: bool,
}

/// An answer to come.
enum Answer {
    Done(Pending<()>),
    Length(Pending<u64>),
    Value(Pending<Option<Bytes>>),
}

impl Threads {
    /// The clerks of a cluster that has just been started.
    pub(crate) fn clerks(
        seed: u64,
        nodes: usize,
        clerks: usize,
        log_bytes_max: Option<u64>,
    ) -> Clerks<Self> {
        let nodes = Nodes::start(seed, nodes, clerk_options(log_bytes_max));
        let clerks = (0..clerks).map(|_| nodes.cluster().clerk()).collect();
        let threads = Self {
            nodes,
            clerks,
            history: History::new(),
            responses: Vec::new(),
            open: Vec::new(),
            waker: Waker::from(Arc::new(Unpark(std::thread::current()))),
            has_news: false,
        };
        Clerks::on(threads, seed)
    }

    /// Takes the answers that are there. Whether there were any.
    fn take_answers(&mut self) -> bool {
        let before = self.open.len();
        let mut context = Context::from_waker(&self.waker);
        let (nodes, history, responses) = (&self.nodes, &self.history, &mut self.responses);
        self.open.retain_mut(|(ticket, id, answer)| {
            let Poll::Ready(answered) = answer.poll(&mut context) else {
                return true;
            };
            let response = answered.unwrap_or_else(|error| panic!("a call failed: {error}"));
            responses[ticket.0 as usize] = Some(response.clone());
            history.complete(*id, response, nodes.now_ns());
            false
        });
        self.open.len() < before
    }
}

impl Stage for Threads {
    fn now_ns(&self) -> u64 {
        self.nodes.now_ns()
    }

    fn step(&mut self, until_ns: u64) -> bool {
        while !self.take_answers() {
            if self.now_ns() >= until_ns {
                return false;
            }
            self.nodes.rest(until_ns);
        }
        self.has_news = true;
        true
    }

    fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    fn call(&mut self, clerk: usize, op: Op) -> Ticket {
        let (name, now_ns) = (ClientId(clerk as u64), self.now_ns());
        let id = self.history.invoke(name, op.clone(), now_ns);
        let clerk = &self.clerks[clerk];
        let answer = match op {
            Op::Put { key, value } => Answer::Done(clerk.put_async(key, value)),
            Op::Append { key, suffix } => Answer::Length(clerk.append_async(key, suffix)),
            Op::Get { key } => Answer::Value(clerk.get_async(key, Consistency::Linearizable)),
            other => unreachable!("no scenario calls {other:?}"),
        };
        let ticket = Ticket(self.responses.len() as u64);
        self.responses.push(None);
        self.open.push((ticket, id, answer));
        ticket
    }

    fn response(&self, ticket: Ticket) -> Option<Response> {
        self.responses[ticket.0 as usize].clone()
    }

    fn operations(&self) -> Vec<Operation> {
        self.history.operations()
    }

    fn judge(&self) -> Result<(), String> {
        judge_all(&self.history.operations())
    }

    fn set_unreliable(&mut self) {
        self.nodes.set_unreliable(UNRELIABLE);
    }

    fn set_reach(&mut self, reaches: impl Fn(usize, usize) -> bool) {
        self.nodes.set_reach(reaches);
    }

    fn crash_all(&mut self) {
        for node in 0..self.nodes.count() {
            self.nodes.kill(node);
        }
    }

    fn start_all(&mut self) {
        for node in 0..self.nodes.count() {
            self.nodes.start_node(node);
        }
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.leader()
    }

    fn log_bytes(&self) -> u64 {
        self.nodes.log_bytes()
    }

    fn snapshot_bytes(&self) -> u64 {
        self.nodes.snapshot_bytes()
    }
}

impl Answer {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Error>> {
        match self {
            Self::Done(pending) => {
                let polled = Pin::new(pending).poll(context);
                polled.map_ok(|()| Response::Done)
            }
            Self::Length(pending) => Pin::new(pending).poll(context).map_ok(Response::Length),
            Self::Value(pending) => Pin::new(pending).poll(context).map_ok(Response::Value),
        }
    }
}

/// Wakes up the thread of the script.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
