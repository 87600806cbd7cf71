//! Every judge of every step finds what it is there for: each is shown a violation, and nothing else, and says its own
//! sentence.

mod directories;
mod disks;
mod elections;
mod logs;
mod promises;
mod replay;
mod script;

use quorate::simulation::Stand;
use quorate::{GroupId, LogIndex, NodeId, Role, Term};
use quorate_sim::judge::Place;

pub(crate) const GROUP: GroupId = GroupId(0);

pub(crate) fn at(node: u64) -> Place {
    Place {
        node: NodeId(node),
        group: GROUP,
    }
}

pub(crate) fn stand(role: Role, term: u64, last: u64) -> Stand {
    Stand {
        role,
        term: Term(term),
        first: LogIndex(1),
        last: LogIndex(last),
        ..Stand::default()
    }
}

#[track_caller]
pub(crate) fn says(result: Result<(), String>, what: &str) {
    let said = result.expect_err("the rule has something to say");
    assert!(said.starts_with(what), "{said}");
}
