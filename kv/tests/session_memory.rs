//! What an idle session costs in memory. Alone in its file, so that nothing else allocates in this
//! process.
#![cfg(target_os = "linux")]

use quorate_kv::{Command, CommandBuffer, Map, Outcome, Sessions};

/// The course's test "MemPutManyClients": the memory of 100,000 clients that each wrote once.
#[test]
fn an_idle_session_costs_at_most_200_bytes() {
    const CLIENTS: u32 = 100_000;
    let mut sessions = Sessions::<Map>::default();
    let before = resident_bytes();
    for client in 0..u64::from(CLIENTS) {
        let registered = sessions.apply(2 * client + 1, &Command::register(CLIENTS));
        let Outcome::Registered(session) = registered else {
            panic!("{registered:?}")
        };
        let command = CommandBuffer::append(b"k", b"")
            .unwrap()
            .seal(session, 1, 0);
        sessions.apply(2 * client + 2, &command);
    }
    assert_eq!(sessions.session_count(), CLIENTS as usize);
    let per_session = (resident_bytes() - before) / u64::from(CLIENTS);
    println!("{per_session} bytes for each session");
    assert!(per_session <= 200, "{per_session} bytes");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("it says so");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kib * 1024
}
