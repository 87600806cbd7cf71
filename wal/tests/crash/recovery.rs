//! What recovery makes of what a crash left.

use quorate_wal::testing::{PendingChange, Survivors};

use crate::model::Step;
use crate::world::{World, check, open};

/// The header of a new segment reaches the disk and its first batch does not; the log is opened,
/// prepared, and opened again. The manifest that is written meanwhile must not say that the segment
/// was begun.
#[test]
fn a_segment_of_which_only_the_header_survived_is_empty_also_after_a_manifest_was_written() {
    let mut world = World::after(&[Step::Large]);
    let crashes = world.crashes_in(Step::Large);
    let header_only = |whats: &[PendingChange]| {
        whats.first() == Some(&PendingChange::Block(0)) && whats.len() > 1
    };
    let crash = crashes.iter().find(|crash| {
        let whats: Vec<_> = crash.disk.pending().iter().map(|it| it.what).collect();
        header_only(&whats)
    });
    let crash = crash.expect("a batch that begins a segment waits for its sync");
    crash.disk.power_cut(&Survivors::Prefix(1));
    let (log, recovered) = open(&crash.disk);
    assert_eq!(recovered.groups, world.moments[1].recovered);
    log.prepare().unwrap();
    drop(log);
    check(&crash.disk, &world.moments, &(1..=1), &"prepared");
}
