//! What clients called and were answered, in files that outlive the process that wrote them.
//!
//! Invariant: the line of a call is in the file before the call is made, and the line of its answer
//! is written after the answer arrived. So what the files say encloses what happened.
//!
//! A line is one event, in words without blanks: `c OP CLIENT NS KIND KEY [WORD ...]` for a call,
//! `a OP NS KIND [WORD]` for its answer. Times are of the system's monotonic clock, which all
//! processes of a machine share.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use quorate_sim::judge::{ClientId, History, Op, OpId, Operation, Response};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the clock that all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The file of one life of one process.
pub(crate) struct Recorder {
    file: Mutex<(File, u64)>,
}

impl Recorder {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new((File::create_new(path)?, 0)),
        })
    }

    /// Writes a call down; its number in this file.
    pub(crate) fn call(&self, client: u64, call: &str) -> io::Result<u64> {
        let mut file = self.lock();
        file.1 += 1;
        let number = file.1;
        // One write for a line: a killed process leaves whole lines, or the beginning of the last.
        let line = format!("c {number} {client} {} {call}\n", now_ns());
        file.0.write_all(line.as_bytes()).map(|()| number)
    }

    pub(crate) fn answer(&self, number: u64, answer: &str) -> io::Result<()> {
        let line = format!("a {number} {} {answer}\n", now_ns());
        self.lock().0.write_all(line.as_bytes())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (File, u64)> {
        // A panic of another thread leaves a whole line or a part of one, which readers skip.
        self.file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One event of one file.
struct Event {
    at_ns: u64,
    /// Calls first: two that meet at one time overlap.
    is_answer: bool,
    life: usize,
    number: u64,
    words: Vec<String>,
}

/// Reads the files of all lives into one history, by time.
pub(crate) fn merge(files: &[std::path::PathBuf]) -> io::Result<Vec<Operation>> {
    let mut events = Vec::new();
    for (life, path) in files.iter().enumerate() {
        for line in BufReader::new(File::open(path)?).lines() {
            events.extend(parse(life, &line?));
        }
    }
    events.sort_by_key(|event| (event.at_ns, event.is_answer, event.life, event.number));
    let history = History::new();
    let mut open: HashMap<(usize, u64), OpId> = HashMap::new();
    for event in events {
        let key = (event.life, event.number);
        if event.is_answer {
            if let (Some(id), Some(answer)) = (open.remove(&key), answer_of(&event.words)) {
                history.complete(id, answer, event.at_ns);
            }
        } else if let Some((client, op)) = call_of(event.life, &event.words) {
            open.insert(key, history.invoke(client, op, event.at_ns));
        }
    }
    Ok(history.operations())
}

/// `None`: the beginning of a line whose process was killed.
fn parse(life: usize, line: &str) -> Option<Event> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let is_answer = words.first()? == "a";
    let time = words.get(if is_answer { 2 } else { 3 })?;
    let event = Event {
        at_ns: time.parse().ok()?,
        is_answer,
        life,
        number: words.get(1)?.parse().ok()?,
        words,
    };
    let is_whole = if is_answer {
        answer_of(&event.words).is_some()
    } else {
        call_of(life, &event.words).is_some()
    };
    is_whole.then_some(event)
}

fn call_of(life: usize, words: &[String]) -> Option<(ClientId, Op)> {
    let client: u64 = words.get(2)?.parse().ok()?;
    let word = |at: usize| words.get(at).map(|word| Bytes::from(word.clone()));
    let key = word(5)?;
    let op = match words.get(4)?.as_str() {
        "append" => Op::Append {
            key,
            suffix: word(6)?,
        },
        "put" => Op::Put {
            key,
            value: word(6)?,
        },
        "get" => Op::Get { key },
        "cas" => Op::CompareAndSwap {
            key,
            expected: value_of(words.get(6)?),
            new: word(7)?,
        },
        _ => return None,
    };
    // Each life has its own clients: a session ends with its process.
    Some((ClientId(life as u64 * 1_000 + client), op))
}

fn answer_of(words: &[String]) -> Option<Response> {
    Some(match words.get(3)?.as_str() {
        "done" => Response::Done,
        "length" => Response::Length(words.get(4)?.parse().ok()?),
        "value" => Response::Value(value_of(words.get(4)?)),
        "conflict" => Response::Conflict(value_of(words.get(4)?)),
        "refused" => Response::Refused,
        "unknown" => Response::Unknown,
        _ => return None,
    })
}

/// `-` for no value; a value ends with `.`, so that a cut line is told from a whole one.
pub(crate) fn word_of(value: Option<&[u8]>) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |value| String::from_utf8_lossy(value).into_owned(),
    )
}

fn value_of(word: &str) -> Option<Bytes> {
    (word != "-").then(|| Bytes::from(word.to_owned()))
}
