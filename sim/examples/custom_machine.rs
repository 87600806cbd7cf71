//! Your own state machine under the simulator: a bank whose money must neither grow nor shrink.
//!
//! ```sh
//! cargo run --release -p quorate-sim --example custom_machine -- --seeds 500
//! cargo run --release -p quorate-sim --example custom_machine -- --seeds 500 --broken
//! ```
//!
//! The first plays five hundred clusters, in which disks, networks, clocks and processes fail, and exits with 0. With
//! `--broken` the machine has a mistake: the seeds that fail are named, and the program exits with 1. Then
//!
//! ```sh
//! cargo run --release -p quorate-sim --example custom_machine -- --broken --shrink SEED --picture failure.html
//! ```
//!
//! makes one of them small and draws it. `--panics` is a mistake of another kind.
//!
//! To put a machine of your own here you need `quorate` with its feature `simulation`, and `quorate-sim`, and four steps:
//!
//! 1. The machine: implement [`StateMachine`]. That is the code that you run in production; the simulator wants nothing more of it.
//! 2. Commands and queries: how they are written as bytes, and the answers read.
//! 3. The workload: implement [`Workload`]: what is called, drawn from the given stream of choices and nothing else, and which
//!    answers are right. The simulator judges the cluster; only you know what your machine may answer.
//! 4. `main`: hand the arguments to [`tool::main`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::process::ExitCode;

use quorate::simulation::{CommandBuffer, Image, RestoreError, StateMachine};
use quorate::{Bytes, Consistency, Error};
use quorate_sim::config::Config;
use quorate_sim::seed::Rng;
use quorate_sim::tool;
use quorate_sim::workload::{Call, CallKind, Ticket, Workload};

// Step 1: the machine.

/// Accounts of a branch, and what is on each of them at first.
const ACCOUNTS: usize = 4;
const PAID_IN: u64 = 100;

/// Branches with accounts, between which money is moved. `MISTAKE` is one of the constants below.
#[derive(Default)]
pub(crate) struct Bank<const MISTAKE: u8> {
    branches: BTreeMap<u8, Branch>,
}

/// Nothing is wrong.
pub(crate) const SOUND: u8 = 0;
/// Who pays to himself grows rich.
pub(crate) const BROKEN: u8 = 1;
/// It panics when there is not enough money.
pub(crate) const PANICS: u8 = 2;

#[derive(Clone, Copy)]
pub(crate) struct Branch {
    /// Transfers that took place.
    transfers: u64,
    balances: [u64; ACCOUNTS],
}

impl Default for Branch {
    fn default() -> Self {
        Self {
            transfers: 0,
            balances: [PAID_IN; ACCOUNTS],
        }
    }
}

impl<const MISTAKE: u8> Bank<MISTAKE> {
    fn transfer(&mut self, order: Order) -> Reply {
        let branch = self.branches.entry(order.branch).or_default();
        let [from, to] = [order.from, order.to].map(usize::from);
        let amount = u64::from(order.amount);
        let payer = branch.balances[from];
        if payer < amount {
            assert!(MISTAKE != PANICS, "account {from} has no {amount}");
            return Reply::new(Kind::Refused, *branch);
        }
        let payee = branch.balances[to];
        branch.balances[from] = payer - amount;
        branch.balances[to] = if MISTAKE == BROKEN {
            payee + amount
        } else {
            branch.balances[to] + amount
        };
        branch.transfers += 1;
        Reply::new(Kind::Done, *branch)
    }
}

impl<const MISTAKE: u8> StateMachine for Bank<MISTAKE> {
    /// A copy: there are a few branches. Where a copy is expensive, keep the state in a persistent map.
    type View = BTreeMap<u8, Branch>;
    type Image = BankImage;

    /// Bytes that are no order are answered, not refused by a panic: they come from a client.
    fn apply(&mut self, _index: u64, command: &Bytes) -> Bytes {
        match Order::decode(command) {
            Some(order) => self.transfer(order).encode(),
            None => Reply::new(Kind::Malformed, Branch::default()).encode(),
        }
    }

    fn view(&self) -> Self::View {
        self.branches.clone()
    }

    fn query(view: &Self::View, query: &Bytes) -> Bytes {
        let branch = query.first().and_then(|branch| view.get(branch));
        Reply::new(Kind::Done, branch.copied().unwrap_or_default()).encode()
    }

    fn image(&self) -> BankImage {
        BankImage(self.branches.clone())
    }

    fn restore(source: &mut dyn Read) -> Result<Self, RestoreError> {
        let mut branches = BTreeMap::new();
        let mut count = [0; 1];
        source.read_exact(&mut count)?;
        for _ in 0..count[0] {
            let mut bytes = [0; 1 + REPLY_BYTES];
            source.read_exact(&mut bytes)?;
            let reply = Reply::decode(&bytes[1..]).ok_or(RestoreError::Malformed {
                what: "a branch is none",
            })?;
            branches.insert(bytes[0], reply.branch);
        }
        Ok(Self { branches })
    }
}

/// The state on its way into a snapshot. The branches are written in their order, so that equal banks write equal bytes.
pub(crate) struct BankImage(BTreeMap<u8, Branch>);

impl Image for BankImage {
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let count = u8::try_from(self.0.len()).expect("a run has three branches");
        out.write_all(&[count])?;
        for (number, branch) in &self.0 {
            out.write_all(&[*number])?;
            out.write_all(&Reply::new(Kind::Done, *branch).encode())?;
        }
        Ok(())
    }
}

// Step 2: commands and answers.

/// To move money within a branch.
#[derive(Clone, Copy)]
struct Order {
    branch: u8,
    from: u8,
    to: u8,
    amount: u8,
}

impl Order {
    fn encode(self) -> [u8; 4] {
        [self.branch, self.from, self.to, self.amount]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let &[branch, from, to, amount] = bytes else {
            return None;
        };
        let is_there = |account: u8| usize::from(account) < ACCOUNTS;
        (is_there(from) && is_there(to)).then_some(Self {
            branch,
            from,
            to,
            amount,
        })
    }
}

/// What became of it, and how the branch stands now.
#[derive(Clone, Copy)]
struct Reply {
    kind: Kind,
    branch: Branch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Done,
    Refused,
    Malformed,
}

/// The kind, the transfers, and the balances.
const REPLY_BYTES: usize = 1 + 8 + 8 * ACCOUNTS;

impl Reply {
    fn new(kind: Kind, branch: Branch) -> Self {
        Self { kind, branch }
    }

    fn encode(self) -> Bytes {
        let mut bytes = vec![self.kind as u8];
        bytes.extend(self.branch.transfers.to_le_bytes());
        bytes.extend(self.branch.balances.iter().flat_map(|it| it.to_le_bytes()));
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, numbers) = bytes.split_first()?;
        let kinds = [Kind::Done, Kind::Refused, Kind::Malformed];
        let kind = kinds.into_iter().find(|it| *it as u8 == kind)?;
        let mut numbers = numbers.chunks_exact(8).map(|number| {
            let number = number.try_into().expect("a chunk of eight");
            u64::from_le_bytes(number)
        });
        let transfers = numbers.next()?;
        let balances: Vec<u64> = numbers.collect();
        let balances = balances.try_into().ok()?;
        let branch = Branch {
            transfers,
            balances,
        };
        (bytes.len() == REPLY_BYTES).then_some(Self { kind, branch })
    }
}

// Step 3: the workload.

const BRANCHES: u8 = 3;
const AMOUNT_MAX: u64 = 60;

/// Clerks that move money and look at branches, and what they may be told.
///
/// Not even the order of the calls is needed to find most mistakes; these rules hold of any of them:
/// - what is on the accounts of a branch is in all what was paid in;
/// - no two transfers are the same one of their branch, so that each took place once;
/// - nobody is told of fewer transfers than somebody was told before he called: no answer comes from the past;
/// - there are never more transfers than were called.
pub(crate) struct Transfers<const MISTAKE: u8> {
    /// By their ticket.
    calls: Vec<Asked>,
    /// The highest number of transfers that anybody was told of, by branch.
    told: [u64; BRANCHES as usize],
    /// The numbers of those that were done.
    done: [BTreeSet<u64>; BRANCHES as usize],
}

struct Asked {
    branch: u8,
    /// To move money; `None`: how the branch stands.
    order: Option<Order>,
    /// Transfers that somebody was told of before.
    told_before: u64,
    /// Whether it may have taken place: also if nobody knows.
    may_be_done: bool,
}

impl<const MISTAKE: u8> Transfers<MISTAKE> {
    fn ask(&mut self, branch: u8, order: Option<Order>) -> (Ticket, Call) {
        self.calls.push(Asked {
            branch,
            order,
            told_before: self.told[usize::from(branch)],
            may_be_done: true,
        });
        let ticket = Ticket(self.calls.len() as u64 - 1);
        let kind = match order {
            Some(order) => CallKind::Write(CommandBuffer::new(&order.encode())),
            None => CallKind::Query(Consistency::Linearizable, vec![branch].into()),
        };
        // Each group of a cluster has a machine of its own; what has this key goes to one of them.
        let key = format!("branch/{branch}").into();
        (ticket, Call { key, kind })
    }
}

impl<const MISTAKE: u8> Workload for Transfers<MISTAKE> {
    type Machine = Bank<MISTAKE>;

    fn new(_config: &Config) -> Self {
        Self {
            calls: Vec::new(),
            told: [0; BRANCHES as usize],
            done: Default::default(),
        }
    }

    fn call(&mut self, _clerk: usize, rng: &mut Rng, _now_ns: u64) -> (Ticket, Call) {
        let branch = rng.below(u64::from(BRANCHES)) as u8;
        let order = rng.permille(700).then(|| Order {
            branch,
            from: rng.index(ACCOUNTS) as u8,
            to: rng.index(ACCOUNTS) as u8,
            amount: rng.between(1, AMOUNT_MAX) as u8,
        });
        self.ask(branch, order)
    }

    fn last_calls(&mut self, _clerk: usize, _now_ns: u64) -> Vec<(Ticket, Call)> {
        (0..BRANCHES).map(|branch| self.ask(branch, None)).collect()
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<Bytes, Error>,
        _now_ns: u64,
    ) -> Result<(), String> {
        let call = &mut self.calls[ticket.0 as usize];
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(error) => {
                // It had no effect, or nobody knows whether it had.
                call.may_be_done = !error.is_retryable();
                return Ok(());
            }
        };
        let place = usize::from(call.branch);
        let Reply { kind, branch } = Reply::decode(&bytes).ok_or("an answer is no answer")?;
        call.may_be_done = kind == Kind::Done;
        let sum: u64 = branch.balances.iter().sum();
        let paid_in = PAID_IN * ACCOUNTS as u64;
        if sum != paid_in {
            return Err(format!(
                "branch {place} has {sum} on its accounts, and {paid_in} were paid in"
            ));
        }
        let transfers = branch.transfers;
        if transfers < call.told_before {
            return Err(format!(
                "branch {place} tells of {transfers} transfers, after it told of {}",
                call.told_before
            ));
        }
        let is_done = kind == Kind::Done && call.order.is_some();
        if is_done && !self.done[place].insert(transfers) {
            return Err(format!(
                "branch {place} took two transfers for number {transfers}"
            ));
        }
        self.told[place] = self.told[place].max(transfers);
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        for (place, &told) in self.told.iter().enumerate() {
            let of_branch = self
                .calls
                .iter()
                .filter(|it| usize::from(it.branch) == place);
            let called = of_branch.filter(|it| it.order.is_some() && it.may_be_done);
            let called = called.count() as u64;
            if told > called {
                return Err(format!(
                    "branch {place} made {told} transfers, and {called} were called"
                ));
            }
        }
        Ok(())
    }

    fn calls(&self) -> u64 {
        self.calls.len() as u64
    }

    /// What is said of a call in a picture.
    fn describe(&self, ticket: Ticket, _call: &Call) -> String {
        let Asked { branch, order, .. } = &self.calls[ticket.0 as usize];
        match order {
            Some(Order {
                from, to, amount, ..
            }) => format!("branch {branch}: {amount} from {from} to {to}"),
            None => format!("branch {branch}: how does it stand?"),
        }
    }
}

// Step 4: the command line, with switches of its own.

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    let (is_broken, panics) = (
        take(&mut arguments, "--broken"),
        take(&mut arguments, "--panics"),
    );
    match (is_broken, panics) {
        (true, _) => tool::main::<Transfers<BROKEN>>(arguments),
        (_, true) => tool::main::<Transfers<PANICS>>(arguments),
        _ => tool::main::<Transfers<SOUND>>(arguments),
    }
}

/// Takes a switch out of the arguments, if it is there. It becomes part of how the program is called, so that the command
/// lines that it prints do the same again.
fn take(arguments: &mut Vec<String>, switch: &str) -> bool {
    let before = arguments.len();
    arguments.retain(|argument| argument != switch);
    let is_there = arguments.len() < before;
    if let Some(program) = arguments.first_mut().filter(|_| is_there) {
        program.push(' ');
        program.push_str(switch);
    }
    is_there
}
