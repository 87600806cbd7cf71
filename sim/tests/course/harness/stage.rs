//! Where a scenario with clerks is played: nodes, clerks and the network between them, over virtual time or on threads.

use quorate_sim::judge::{Op, Operation, Response};
use quorate_sim::workload::{Ticket, Workload, call_of};
use quorate_sim::world::{End, World};

use super::clerks::Script;
use super::raft::must;
use super::watch::{log_bytes, snapshot_bytes};
use super::{GROUP, UNRELIABLE};

/// What a scenario needs of it. A node is named by its place.
pub(crate) trait Stage {
    /// The time, from some beginning on.
    fn now_ns(&self) -> u64;

    /// Lets something happen. `false`: nothing does before `until_ns`, and that is the time now.
    fn step(&mut self, until_ns: u64) -> bool;

    /// Whether an answer came since this was asked last.
    fn take_news(&mut self) -> bool;

    /// Has a clerk make a call.
    fn call(&mut self, clerk: usize, op: Op) -> Ticket;

    /// What a call was answered, if it was.
    fn response(&self, ticket: Ticket) -> Option<Response>;

    /// All calls, in their order.
    fn operations(&self) -> Vec<Operation>;

    /// All of it must be linearizable, and every call answered. A checker that cannot decide has failed.
    fn judge(&self) -> Result<(), String>;

    /// Makes all links unreliable, as the course has it.
    fn set_unreliable(&mut self);

    /// Nodes reach each other if this says so, and not otherwise. Clerks reach all.
    fn set_reach(&mut self, reaches: impl Fn(usize, usize) -> bool);

    /// The power of all nodes goes off.
    fn crash_all(&mut self);

    /// Starts the nodes that are down.
    fn start_all(&mut self);

    /// Whoever leads.
    fn leader(&self) -> Option<usize>;

    /// Bytes of the live entries of the largest log of any node.
    fn log_bytes(&self) -> u64;

    /// Bytes of the largest snapshot file of any node.
    fn snapshot_bytes(&self) -> u64;
}

impl Stage for World<Script> {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn step(&mut self, until_ns: u64) -> bool {
        must(World::step(self, until_ns))
    }

    fn take_news(&mut self) -> bool {
        self.workload.take_news()
    }

    fn call(&mut self, clerk: usize, op: Op) -> Ticket {
        let call = call_of(&op, quorate::Consistency::Linearizable);
        let ticket = self.workload.invoke(clerk, op, self.now_ns);
        must(World::call(self, clerk, ticket, call));
        ticket
    }

    fn response(&self, ticket: Ticket) -> Option<Response> {
        self.workload.response(ticket)
    }

    fn operations(&self) -> Vec<Operation> {
        self.workload.operations()
    }

    fn judge(&self) -> Result<(), String> {
        Workload::judge(&self.workload)
    }

    fn set_unreliable(&mut self) {
        self.network.set_unreliable(Some(UNRELIABLE));
    }

    fn set_reach(&mut self, reaches: impl Fn(usize, usize) -> bool) {
        self.network.set_reach(reaches);
        for clerk in 0..self.config.clerks {
            self.network.set_clerk_reach(clerk, |_| true);
        }
    }

    fn crash_all(&mut self) {
        for node in 0..self.nodes.len() {
            must(self.kill(node, End::Power));
        }
    }

    fn start_all(&mut self) {
        must(self.start_nodes());
    }

    fn leader(&self) -> Option<usize> {
        World::leader(self, GROUP)
    }

    fn log_bytes(&self) -> u64 {
        log_bytes(&self.nodes)
    }

    fn snapshot_bytes(&self) -> u64 {
        snapshot_bytes(&self.nodes)
    }
}
