//! A node that runs until it is killed, and says what happens to it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use quorate::transport::tcp::{Lane, TransportEvent};
use quorate::{Db, GroupStatus, NodeId, Role};

use crate::Failure;
use crate::arguments::NodeArguments;

/// What the node's threads and the reader of standard input tell the one that prints.
enum Notice {
    Transport(TransportEvent),
    StdinClosed,
}

/// How many notices may wait; more are dropped, since the transport must not wait for a terminal.
const NOTICES_MAX: usize = 1_024;

/// How often the groups are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often the log is looked at, which takes longer with many groups.
const LOOK_AT_LOG_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &NodeArguments) -> Result<(), Failure> {
    let (notices, noticed) = mpsc::sync_channel(NOTICES_MAX);
    let to_printer = notices.clone();
    let members = arguments.cluster.iter().map(|member| (member.id, member.address.clone()));
    let db = Db::builder(&arguments.dir)
        .node(arguments.id)
        .cluster(members)
        .groups(arguments.groups)
        .observer(move |event| {
            // What does not fit is not printed, and nothing else is lost.
            let _dropped = to_printer.try_send(Notice::Transport(event.clone()));
        })
        .open()?;
    let own = arguments.cluster.iter().find(|member| member.id == arguments.id);
    let address = own.map_or("nowhere", |member| &member.address);
    say(&format!("{} listens on {address}, files in {}", db.node(), arguments.dir.display()));
    if arguments.until_stdin_closes {
        tell_when_stdin_closes(notices)?;
    }
    watch(&db, &noticed);
    db.close();
    say("closed in order");
    Ok(())
}

/// Prints what changes, until standard input closes.
fn watch(db: &Db, noticed: &Receiver<Notice>) {
    let mut peers = BTreeMap::new();
    let mut groups: Vec<Option<String>> = vec![None; db.groups() as usize];
    let mut log = format!("{:?}", quorate_log_status(db));
    let mut log_looked_at = Instant::now();
    loop {
        match noticed.recv_timeout(LOOK_EVERY) {
            Ok(Notice::StdinClosed) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Notice::Transport(event)) => say_event(&event, &mut peers),
            Err(RecvTimeoutError::Timeout) => {}
        }
        for (status, before) in db.status().iter().zip(&mut groups) {
            let now = describe(status);
            if before.as_ref() != Some(&now) {
                say(&format!("group {}: {now}", status.group.0));
                *before = Some(now);
            }
        }
        if log_looked_at.elapsed() >= LOOK_AT_LOG_EVERY {
            log_looked_at = Instant::now();
            let now = format!("{:?}", quorate_log_status(db));
            if now != log {
                say(&format!("log: {now}"));
                log = now;
            }
        }
    }
}
