//! The course's `GenericTest`: clients put, append and get for a while, under everything that a scenario asks for.

use quorate_sim::judge::Op;
use quorate_sim::seed::Rng;
use quorate_sim::workload::Ticket;

use super::clerks::{Clerks, append, check_client_appends, get, put, text_of, token};
use super::stage::Stage;
use super::{ELECTION_MS, MS};

/// How often clients run, and for how long each time.
const ITERATIONS: usize = 3;
const ITERATION_MS: u64 = 5_000;

/// How long a client rests between two calls, at most. Over virtual time a call takes a millisecond or two, and without a rest
/// the record of a scenario would be a hundred times what it needs to be: this is about the pace that the course demands at
/// least, a call in 33.3 ms.
const REST_MS_MAX: u64 = 50;

/// How long clients that call nothing new may take to get their last answers.
const FINISH_MS: u64 = 10_000;

/// The log may have so many times the bytes at which a snapshot is due.
pub(crate) const LOG_FACTOR: u64 = 8;

/// What a scenario is like: the flags are those of the course, and independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Generic {
    pub(crate) clients: usize,
    pub(crate) nodes: usize,
    pub(crate) is_unreliable: bool,
    pub(crate) crashes: bool,
    pub(crate) is_partitioned: bool,
    pub(crate) has_random_keys: bool,
    /// The course's `maxraftstate`.
    pub(crate) log_bytes_max: Option<u64>,
}

impl Generic {
    pub(crate) fn new(clients: usize, nodes: usize) -> Self {
        Self {
            clients,
            nodes,
            ..Self::default()
        }
    }

    pub(crate) fn unreliable(mut self) -> Self {
        self.is_unreliable = true;
        self
    }

    pub(crate) fn crashes(mut self) -> Self {
        self.crashes = true;
        self
    }

    pub(crate) fn partitions(mut self) -> Self {
        self.is_partitioned = true;
        self
    }

    pub(crate) fn random_keys(mut self) -> Self {
        self.has_random_keys = true;
        self
    }

    pub(crate) fn snapshots(mut self, log_bytes_max: u64) -> Self {
        self.log_bytes_max = Some(log_bytes_max);
        self
    }

    /// Plays it over virtual time.
    pub(crate) fn play(self, seed: u64) {
        let clerks = Clerks::new(seed, self.nodes, self.clients + 1, self.log_bytes_max);
        self.play_with(clerks, ITERATIONS);
    }

    /// Plays it so many times with clerks, one more than there are clients.
    pub(crate) fn play_with<S: Stage>(self, mut clerks: Clerks<S>, iterations: usize) {
        if self.is_unreliable {
            clerks.set_unreliable();
        }
        let mut largest = 0;
        for _ in 0..iterations {
            self.iterate(&mut clerks);
            largest = largest.max(self.check_sizes(&clerks));
        }
        clerks.judge();
        println!("{} calls, {largest} bytes of log", clerks.recorded());
    }

    fn iterate<S: Stage>(self, clerks: &mut Clerks<S>) {
        let mut clients: Vec<Client> = (0..self.clients)
            .map(|place| Client::new(place, self, clerks.rng.fork()))
            .collect();
        if !self.has_random_keys {
            for client in &clients {
                clerks.put(client.place, &client.place.to_string(), "");
            }
        }
        let recorded = clerks.recorded();
        let end_ns = clerks.world.now_ns() + ITERATION_MS * MS;
        while clerks.world.now_ns() < end_ns {
            if self.is_partitioned {
                self.partition(clerks);
            }
            let lasts_ms = ELECTION_MS + clerks.rng.below(200);
            let until_ns = end_ns.min(clerks.world.now_ns() + lasts_ms * MS);
            run(clerks, &mut clients, until_ns);
        }
        if self.is_partitioned {
            clerks.heal();
            let until_ns = clerks.world.now_ns() + ELECTION_MS * MS;
            run(clerks, &mut clients, until_ns);
        }
        if self.crashes {
            // Clients go on calling, so that there always is something on its way. Those of the course have stopped.
            clerks.world.crash_all();
            let until_ns = clerks.world.now_ns() + ELECTION_MS * MS;
            run(clerks, &mut clients, until_ns);
            clerks.world.start_all();
        }
        finish(clerks, &mut clients);
        if self.has_random_keys {
            return;
        }
        for client in &clients {
            let value = clerks.get(self.clients, &client.place.to_string());
            check_client_appends(client.place, &value, client.appended);
        }
        clerks.judge_appends_since(recorded);
    }

    /// Two parts, whoever is in which.
    fn partition<S: Stage>(self, clerks: &mut Clerks<S>) {
        let sides: Vec<bool> = (0..self.nodes).map(|_| clerks.rng.permille(500)).collect();
        clerks.partition(|node| sides[node]);
    }

    fn check_sizes<S: Stage>(self, clerks: &Clerks<S>) -> u64 {
        let (log, snapshot) = (clerks.log_bytes(), clerks.snapshot_bytes());
        match self.log_bytes_max {
            None => assert_eq!(snapshot, 0, "snapshots were not asked for"),
            Some(bytes) => {
                // A snapshot is written when there is as much new log as the last snapshot was long, so that snapshots cost
                // no more than the log. One that is itself above the course's limit lets the log grow with it.
                let limit = LOG_FACTOR * bytes.max(snapshot / 4);
                assert!(log <= limit, "{log} bytes of log, {snapshot} of snapshot");
                assert!(snapshot > 0, "there is no snapshot");
            }
        }
        log
    }
}

/// Lets clients call until then.
fn run<S: Stage>(clerks: &mut Clerks<S>, clients: &mut [Client], until_ns: u64) {
    while clerks.world.now_ns() < until_ns {
        for client in clients.iter_mut() {
            client.take_answer(clerks);
            client.call_if_rested(clerks);
        }
        let resting = clients.iter().filter(|client| client.asked.is_none());
        let next_ns = resting.map(|client| client.rests_until_ns).min();
        let next_ns = next_ns.unwrap_or(until_ns).min(until_ns);
        while clerks.world.step(next_ns) {
            if clerks.world.take_news() {
                break;
            }
        }
    }
}

/// Lets clients get their last answers.
fn finish<S: Stage>(clerks: &mut Clerks<S>, clients: &mut [Client]) {
    let end_ns = clerks.world.now_ns() + FINISH_MS * MS;
    while clients.iter().any(|client| client.asked.is_some()) {
        assert!(
            clerks.world.step(end_ns),
            "calls are not answered though nothing is wrong"
        );
        for client in clients.iter_mut() {
            client.take_answer(clerks);
        }
    }
}

/// Makes one call after the other.
struct Client {
    place: usize,
    scenario: Generic,
    rng: Rng,
    /// How many appends and puts it has made.
    appended: usize,
    /// What its key must hold, if it is the only one to write to it.
    value: String,
    asked: Option<(Ticket, Asked)>,
    rests_until_ns: u64,
}

enum Asked {
    Write,
    Read,
}

impl Client {
    fn new(place: usize, scenario: Generic, rng: Rng) -> Self {
        Self {
            place,
            scenario,
            rng,
            appended: 0,
            value: String::new(),
            asked: None,
            rests_until_ns: 0,
        }
    }

    fn call_if_rested<S: Stage>(&mut self, clerks: &mut Clerks<S>) {
        if self.asked.is_some() || clerks.world.now_ns() < self.rests_until_ns {
            return;
        }
        let (op, asked) = self.choose();
        self.asked = Some((clerks.call(self.place, op), asked));
    }

    fn choose(&mut self) -> (Op, Asked) {
        let is_random = self.scenario.has_random_keys;
        let key = if is_random {
            self.rng.index(self.scenario.clients).to_string()
        } else {
            self.place.to_string()
        };
        let token = token(self.place, self.appended);
        if self.rng.permille(500) {
            self.appended += 1;
            self.value.push_str(&token);
            (append(&key, &token), Asked::Write)
        } else if is_random && self.rng.permille(100) {
            self.appended += 1;
            (put(&key, &token), Asked::Write)
        } else {
            (get(&key), Asked::Read)
        }
    }

    fn take_answer<S: Stage>(&mut self, clerks: &mut Clerks<S>) {
        let Some((ticket, asked)) = &self.asked else {
            return;
        };
        let Some(response) = clerks.response(*ticket) else {
            return;
        };
        if matches!(asked, Asked::Read) && !self.scenario.has_random_keys {
            assert_eq!(
                text_of(&response),
                self.value,
                "client {} alone writes this",
                self.place
            );
        }
        self.asked = None;
        let rest_ms = self.rng.below(REST_MS_MAX + 1);
        self.rests_until_ns = clerks.world.now_ns() + rest_ms * MS;
    }
}
