//! What a run may take: memory that does not grow with its length, and events until it is at rest.

use std::time::Duration;

use quorate::Options;
use quorate_sim::config::Config;
use quorate_sim::workload::KvWorkload;
use quorate_sim::world::World;

const MS: u64 = 1_000_000;

/// The most that judges and heap held at a time in a run of three nodes and four clerks for so long, and what the run came to.
fn held_in(seed: u64, virtual_s: u64, snapshot_log_bytes: u64) -> (usize, usize, u64) {
    let mut options = Options::default();
    options.snapshot_log_bytes = snapshot_log_bytes;
    options.trailing_entries = 64;
    options.call_timeout = Duration::from_secs(2);
    options.log.segment_bytes_min = 64 << 10;
    options.log.segment_bytes_max = 64 << 10;
    options.log.entry_bytes_max = 4 << 10;
    options.log.batch_bytes_max = 36 << 10;
    let mut config = Config::calm(seed, 3, 4, options);
    config.think_ns = 20 * MS;
    let mut world = World::<KvWorkload>::new(seed, config, false);
    world.start_nodes().expect("fresh disks");
    world.run_until(2_000 * MS).expect("an election");
    world.start_clerks();
    let (mut held, mut scheduled) = (0, 0);
    for _ in 0..virtual_s {
        world
            .run_until(world.now_ns + 1_000 * MS)
            .expect("it is sound");
        held = held.max(world.held());
        scheduled = scheduled.max(world.scheduled());
    }
    (held, scheduled, world.successes().iter().sum())
}

#[test]
fn a_run_ten_times_as_long_holds_no_more() {
    for seed in 0..2 {
        let (short_held, short_scheduled, short_calls) = held_in(seed, 12, 2 << 10);
        let (held, scheduled, calls) = held_in(seed, 120, 2 << 10);
        assert!(
            calls > 8 * short_calls,
            "seed {seed}: {calls}, {short_calls}"
        );
        // What is in the logs varies; the calls that reads are compared with come up to their bound.
        let wanted = short_held + short_held / 2 + 4_096;
        assert!(held <= wanted, "seed {seed}: {held} after {short_held}");
        let most = short_scheduled + 64;
        assert!(
            scheduled <= most,
            "seed {seed}: {scheduled}, {short_scheduled}"
        );
    }
}

#[test]
fn logs_that_nobody_lets_go_of_stay_in_the_books() {
    let (short, _, _) = held_in(1, 10, 1 << 30);
    let (long, _, _) = held_in(1, 40, 1 << 30);
    assert!(
        long > 3 * short,
        "{long} after {short}: what is counted is what grows"
    );
}

#[test]
fn a_run_that_does_not_come_to_rest_fails_and_says_so() {
    let config = Config::calm(1, 3, 2, Options::default());
    let mut world = World::<KvWorkload>::new(1, config, false);
    world.start_nodes().expect("fresh disks");
    world.run_until(2_000 * MS).expect("an election");
    world.start_clerks();
    world
        .run_until(world.now_ns + 1_000 * MS)
        .expect("nobody expects rest");
    world.expect_rest(1_000);
    let failure = world.run_until(world.now_ns + 600_000 * MS);
    let what = failure.expect_err("clerks go on for ever");
    assert!(
        what.contains("does not come to rest: 1000 events"),
        "{what}"
    );
    // From anew.
    world.stop_clerks();
    world.expect_rest(10_000);
    world
        .run_until(world.now_ns + 2_000 * MS)
        .expect("two seconds of heartbeats");
    assert!(world.events_since() > 10, "they are events as well");
}
