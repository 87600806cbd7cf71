//! A node that runs until it is told to stop or is killed, and says what happens to it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use quorate::transport::tcp::{CloseReason, Lane, TransportEvent};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use quorate::{Db, GroupStatus, LogHealth, NodeId, Role, Stats};

use crate::arguments::NodeArguments;
use crate::{Failure, out, text, time};

/// What the node's threads and the reader of standard input tell the one that prints.
enum Notice {
    Transport(TransportEvent),
    StdinClosed,
    Signal,
}

/// How many notices may wait; more are dropped, since the transport must not wait for a terminal.
const NOTICES_MAX: usize = 1_024;

/// How often the groups are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often the log is looked at, which takes longer with many groups.
const LOOK_AT_LOG_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &NodeArguments) -> Result<(), Failure> {
    let (notices, inbox) = mpsc::sync_channel(NOTICES_MAX);
    let to_printer = notices.clone();
    let members = arguments
        .cluster
        .iter()
        .map(|member| (member.id, member.address.clone()));
    let mut builder = Db::builder(&arguments.dir)
        .node(arguments.id)
        .cluster(members)
        .groups(arguments.groups)
        .without_founders(arguments.without_founders.iter().copied());
    if let Some(address) = &arguments.listen {
        builder = builder.listen(address);
    }
    if let Some(address) = &arguments.advertise {
        builder = builder.advertise(address);
    }
    if let Some(id) = arguments.cluster_id {
        builder = builder.cluster_id(id);
    }
    let db = builder
        .observer(move |event| {
            // What does not fit is not printed, and nothing else is lost.
            let _dropped = to_printer.try_send(Notice::Transport(event.clone()));
        })
        .open()?;
    let own = arguments
        .cluster
        .iter()
        .find(|member| member.id == arguments.id);
    let address = own.map_or("nowhere", |member| &member.address);
    let address = arguments.listen.as_deref().unwrap_or(address);
    say(&format!(
        "{} listens on {address}, files in {}",
        db.node(),
        text::path(&arguments.dir)
    ));
    if let Some(warning) = open_to_others(&arguments.dir) {
        say(&warning);
    }
    tell_of_signals(notices.clone())?;
    if arguments.until_stdin_closes {
        tell_when_stdin_closes(notices)?;
    }
    watch(&db, &inbox);
    say("stops: hands over what it leads first");
    db.close();
    say("closed in order");
    Ok(())
}

/// Prints what changes, until standard input closes or a signal comes.
fn watch(db: &Db, inbox: &Receiver<Notice>) {
    let mut peers = BTreeMap::new();
    let mut groups: Vec<Option<String>> = vec![None; db.groups() as usize];
    let mut log = LogHealth::Healthy;
    let mut log_looked_at = Instant::now();
    loop {
        match inbox.recv_timeout(LOOK_EVERY) {
            Ok(Notice::StdinClosed | Notice::Signal) | Err(RecvTimeoutError::Disconnected) => {
                return;
            }
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
            let stats = db.stats();
            if stats.health != log {
                say_log(&stats);
                log = stats.health;
            }
        }
    }
}

fn describe(status: &GroupStatus) -> String {
    let term = status.term.0;
    match (status.role, status.leader) {
        (Role::Leader, _) => format!("leader in term {term}"),
        (Role::Follower, Some(leader)) => format!("follows {leader} in term {term}"),
        (Role::Follower, None) => format!("knows no leader in term {term}"),
        (Role::PreCandidate | Role::Candidate, _) => format!("asks for votes in term {term}"),
    }
}

/// Prints what happened to a connection. `peers` holds what was said last of each: a node that stays unreachable is tried again
/// and again, and that is said once.
fn say_event(event: &TransportEvent, peers: &mut BTreeMap<(NodeId, Lane), String>) {
    let (node, lane, what) = match event {
        TransportEvent::Connected { node, lane } => (node, lane, format!("connected to {node}")),
        TransportEvent::Disconnected { node, lane, reason } => {
            (node, lane, format!("lost {node}: {reason}"))
        }
        TransportEvent::Unreachable { node, lane, reason } => {
            (node, lane, format!("cannot reach {node}: {reason}"))
        }
        TransportEvent::Rejected { address, reason } => {
            return say(&format!("rejected {address}: {}", explained(reason)));
        }
        TransportEvent::AcceptFailed { error } => {
            return say(&format!("cannot accept connections: {error}"));
        }
        TransportEvent::NodeFailed { reason } => {
            return say(&format!("stopped by itself: {reason}; start it again"));
        }
        TransportEvent::MessageRefused {
            group,
            node,
            reason,
        } => {
            return say(&format!(
                "group {}: refused what {node} sent: {reason}",
                group.0
            ));
        }
        TransportEvent::Founding { status } => {
            return say(&match status.to_string() {
                text if text.is_empty() => "founding: all nodes have met".to_owned(),
                text => format!("founding: {text}"),
            });
        }
        // Clerks come and go, and what a peer's own connection does is said from this side.
        _ => return,
    };
    let text = match lane {
        Lane::Main => what,
        Lane::Snapshot => format!("{what} (lane for snapshots)"),
    };
    if peers.get(&(*node, *lane)) != Some(&text) {
        say(&text);
        peers.insert((*node, *lane), text);
    }
}

/// A reason with what else it may come from. What is said on the wire stays as it is.
fn explained(reason: &CloseReason) -> String {
    match reason {
        CloseReason::WrongNode { .. } => {
            format!(
                "{reason}, unless a client looks for a node that is down: it tries all addresses"
            )
        }
        reason => reason.to_string(),
    }
}

fn say_log(stats: &Stats) {
    match stats.health {
        LogHealth::Healthy => say("log: takes writes again"),
        LogHealth::Stalled => say(&format!(
            "log: stalled; the oldest write has waited for {} ms, and others lead as far as they can",
            stats.oldest_unsynced.as_millis()
        )),
        LogHealth::Full => {
            say("log: the disk is full; writes are refused until there is space, reads go on");
        }
        LogHealth::OutOfHandles => {
            say("log: no file handles are left; writes are refused until there are, reads go on");
        }
        LogHealth::Failed => {
            let reason = stats.log_failure.as_deref().unwrap_or("a bug");
            say(&format!("log: failed, restart this node: {reason}"));
        }
        other => say(&format!("log: {other:?}")),
    }
}

/// What is wrong with who may look into the directory. One that was there before keeps its mode: it is the operator's.
fn open_to_others(dir: &Path) -> Option<String> {
    const ALL_OTHERS: u32 = 0o077;
    let mode = dir.metadata().ok()?.permissions().mode();
    (mode & ALL_OTHERS != 0).then(|| {
        format!(
            "other users of this machine may enter {} (mode {:o}): chmod go= it, unless that is meant",
            text::path(dir),
            mode & 0o7777
        )
    })
}

/// A line with the time. A node serves on when nobody reads what it says.
fn say(line: &str) {
    let line = format!("{} {}\n", time::now(), text::message(line));
    let _nobody_reads = out::print(&line);
}

/// Has the first SIGTERM or SIGINT stop the node in order. The second one ends the process at once.
fn tell_of_signals(notices: SyncSender<Notice>) -> io::Result<()> {
    let (mut told, tells) = UnixStream::pair()?;
    let is_second = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the flag is not set yet when the first one looks.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_second))?;
        flag::register(signal, Arc::clone(&is_second))?;
        low_level::pipe::register(signal, tells.try_clone()?)?;
    }
    let wait = move || {
        // An error ends it like a signal does.
        let _came = told.read(&mut [0]);
        let _ended_otherwise = notices.send(Notice::Signal);
    };
    let thread = std::thread::Builder::new().name("quorate-signals".to_owned());
    thread.spawn(wait).map(drop)
}

fn tell_when_stdin_closes(notices: SyncSender<Notice>) -> io::Result<()> {
    let read = move || {
        // An error ends it like the end does.
        let _end = io::copy(&mut io::stdin(), &mut io::sink());
        let _ended_otherwise = notices.send(Notice::StdinClosed);
    };
    std::thread::Builder::new()
        .name("quorate-stdin".to_owned())
        .spawn(read)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_looks_for_a_node_is_no_reason_to_check_the_list() {
        let (expected, found) = (NodeId(1), NodeId(2));
        let told = explained(&CloseReason::WrongNode { expected, found });
        assert!(
            told.contains("unless a client looks for a node that is down"),
            "{told}"
        );
        assert_eq!(
            explained(&CloseReason::NotQuorate),
            CloseReason::NotQuorate.to_string()
        );
    }
}
