//! One process: a node, and clients that call it and write down what they see.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use quorate::{Consistency, Db, Error, Options};

use crate::record::{Recorder, now_ns, word_of};

#[derive(Args)]
pub(crate) struct MemberArguments {
    /// This node's id.
    #[arg(long)]
    node: u64,
    /// `id=host:port` of each node.
    #[arg(long, value_delimiter = ',')]
    cluster: Vec<String>,
    /// The node's directory.
    #[arg(long)]
    dir: PathBuf,
    /// Where to write down what clients see.
    #[arg(long)]
    history: PathBuf,
}

/// Keys are left behind after this long, so that values and searches stay small.
const EPOCH_NS: u64 = 2_000_000_000;

/// Keys of an epoch that are only appended to and read, and keys of any operation.
const APPEND_KEYS: u64 = 8;
const REGISTER_KEYS: u64 = 4;

/// So many epochs are read once more at the end.
const LAST_EPOCHS: u64 = 60;

const APPENDERS: u64 = 3;
const READERS: u64 = 3;
const MIXERS: u64 = 2;

/// Each client calls at most once in this time: enough to fill logs, few enough to keep and judge.
const PACE: Duration = Duration::from_millis(8);

/// Bytes that fill the log beside what is judged.
const FILLER_BYTES: usize = 32 << 10;

pub(crate) fn run(arguments: &MemberArguments) -> Result<(), String> {
    let members = arguments.cluster.iter().map(|member| {
        let (id, address) = member.split_once('=').ok_or("id=host:port is wanted")?;
        let id: u64 = id.parse().map_err(|_| "an id is a number")?;
        Ok((id, address.to_owned()))
    });
    let members: Vec<(u64, String)> = members.collect::<Result<_, &str>>()?;
    let mut options = Options::default();
    options.log.segment_bytes_max = 4 << 20;
    options.snapshot_log_bytes = 8 << 20;
    options.workers = 2;
    let db = Db::builder(&arguments.dir)
        .node(arguments.node)
        .cluster(members)
        .groups(2)
        .options(options)
        .open()
        .map_err(|error| error.to_string())?;
    let recorder = Recorder::create(&arguments.history).map_err(|error| error.to_string())?;
    let load = Load {
        db: db.clone(),
        recorder: Arc::new(recorder),
        is_over: Arc::new(AtomicBool::new(false)),
        node: arguments.node,
    };
    let threads: Vec<_> = (0..=APPENDERS + READERS + MIXERS)
        .map(|client| {
            let load = load.clone();
            std::thread::spawn(move || load.client(client))
        })
        .collect();
    say("ready");
    wait_for_word("finish");
    load.is_over.store(true, Ordering::Release);
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")?;
    }
    load.read_all(now_ns() / EPOCH_NS);
    say("finished");
    // The others may need this node for their last reads.
    wait_for_word("close");
    db.close();
    Ok(())
}

fn say(word: &str) {
    // A parent that is gone needs no words.
    let _gone = writeln!(io::stdout(), "{word}");
}

/// Returns when the parent says so, or is gone.
fn wait_for_word(word: &str) {
    for line in io::stdin().lock().lines() {
        if line.is_ok_and(|line| line == word) {
            return;
        }
    }
}

#[derive(Clone)]
struct Load {
    db: Db,
    recorder: Arc<Recorder>,
    is_over: Arc<AtomicBool>,
    node: u64,
}

impl Load {
    fn client(&self, client: u64) {
        let mut dice = now_ns() ^ (client << 48) ^ (self.node << 56);
        let mut calls = 0_u64;
        while !self.is_over.load(Ordering::Acquire) {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            calls += 1;
            let (pick, epoch) = ((dice >> 33) as usize, now_ns() / EPOCH_NS);
            // Unique for all time: the clock goes on over lives.
            let token = format!("{}.{client}.{};", self.node, now_ns());
            let append_key = format!("a{epoch}-{}", pick as u64 % APPEND_KEYS);
            let register_key = format!("r{epoch}-{}", pick as u64 % REGISTER_KEYS);
            if client < APPENDERS {
                self.append(client, &append_key, &token);
            } else if client < APPENDERS + READERS {
                let consistency = if calls.is_multiple_of(4) {
                    Consistency::Lease
                } else {
                    Consistency::Linearizable
                };
                self.get(client, &append_key, consistency);
            } else if client < APPENDERS + READERS + MIXERS {
                self.mixed(client, pick, &register_key, &token);
            } else {
                let _not_judged = self
                    .db
                    .put(format!("filler{}", pick % 64), vec![7; FILLER_BYTES]);
            }
            std::thread::sleep(PACE);
        }
    }

    fn mixed(&self, client: u64, pick: usize, key: &str, token: &str) {
        match pick / 64 % 3 {
            0 => self.record(client, &format!("put {key} {token}"), |db| {
                db.put(key, token).map(|()| "done".to_owned())
            }),
            1 => self.get(client, key, Consistency::Linearizable),
            _ => {
                let seen = self.db.get_with(key, Consistency::Stale).ok().flatten();
                let expected = word_of(seen.as_deref());
                self.record(client, &format!("cas {key} {expected} {token}"), |db| {
                    let swapped = db.compare_and_swap(key, seen.as_deref(), token)?;
                    Ok(swapped.map_or_else(
                        |conflict| format!("conflict {}", word_of(conflict.current.as_deref())),
                        |()| "done".to_owned(),
                    ))
                });
            }
        }
    }

    fn append(&self, client: u64, key: &str, token: &str) {
        self.record(client, &format!("append {key} {token}"), |db| {
            db.append(key, token)
                .map(|length| format!("length {length}"))
        });
    }

    fn get(&self, client: u64, key: &str, consistency: Consistency) {
        self.record(client, &format!("get {key}"), |db| {
            let value = db.get_with(key, consistency)?;
            Ok(format!("value {}", word_of(value.as_deref())))
        });
    }

    /// Reads every key of the last epochs once more, so that what was acknowledged last is judged.
    fn read_all(&self, last: u64) {
        for epoch in last.saturating_sub(LAST_EPOCHS)..=last {
            for key in 0..APPEND_KEYS {
                self.get(900, &format!("a{epoch}-{key}"), Consistency::Linearizable);
            }
            for key in 0..REGISTER_KEYS {
                self.get(900, &format!("r{epoch}-{key}"), Consistency::Linearizable);
            }
        }
    }

    fn record(&self, client: u64, call: &str, make: impl FnOnce(&Db) -> Result<String, Error>) {
        // Without a place to write down what is called, nothing may be called.
        let Ok(number) = self.recorder.call(client, call) else {
            return;
        };
        let answer = match make(&self.db) {
            Ok(answer) => answer,
            Err(error) if error.is_retryable() => "refused".to_owned(),
            Err(_) => "unknown".to_owned(),
        };
        let _file_is_full = self.recorder.answer(number, &answer);
    }
}
