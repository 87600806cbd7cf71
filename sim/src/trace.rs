//! What happened, as a hash that two runs of one seed share, and as text for those who look into one.

use std::fmt;

use quorate::simulation::Body;

use crate::seed::mix;

/// The record of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    steps: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// One that keeps the hash only, or the text as well.
    pub fn new(keeps_text: bool) -> Self {
        Self {
            lines: keeps_text.then(Vec::new),
            ..Self::default()
        }
    }

    /// Notes a step: when, whose, what, and a number that tells it from others of its kind. `detail` is called only for
    /// text.
    pub fn note(
        &mut self,
        now_ns: u64,
        who: Who,
        what: &'static str,
        number: u64,
        detail: impl FnOnce() -> String,
    ) {
        self.steps += 1;
        let mut hash = mix(self.hash ^ now_ns).wrapping_add(who.number());
        for byte in what.as_bytes() {
            hash = hash.rotate_left(8) ^ u64::from(*byte);
        }
        self.hash = mix(hash ^ number.rotate_left(17));
        if let Some(lines) = &mut self.lines {
            let at_ms = now_ns as f64 / 1e6;
            lines.push(format!("{at_ms:>12.3} {who:<5} {what:<10} {}", detail()));
        }
    }

    /// The same for two runs in which the same happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many steps were noted.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The text, one line a step: milliseconds of virtual time, who, what, and more about it.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

/// Whose step it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The world's: phases and faults.
    World,
    /// A node's, by its place.
    Node(usize),
    /// A clerk's, by its place.
    Clerk(usize),
}

impl Who {
    fn number(self) -> u64 {
        match self {
            Self::World => 0,
            Self::Node(place) => 1 + 2 * place as u64,
            Self::Clerk(place) => 2 + 2 * place as u64,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::World => "world".to_owned(),
            Self::Node(place) => format!("n{}", place + 1),
            Self::Clerk(place) => format!("c{place}"),
        };
        f.pad(&text)
    }
}

/// A short name for a message.
pub(crate) fn name_of(body: &Body) -> String {
    match body {
        Body::PreVote { .. } => "pre-vote?".to_owned(),
        Body::PreVoteReply { granted } => format!("pre-vote:{granted}"),
        Body::Vote { .. } => "vote?".to_owned(),
        Body::VoteReply { granted } => format!("vote:{granted}"),
        Body::Append { entries, .. } => format!("append({})", entries.len()),
        Body::AppendAccepted { .. } => "accepted".to_owned(),
        Body::AppendRejected { .. } => "rejected".to_owned(),
        Body::Heartbeat { .. } => "beat".to_owned(),
        Body::HeartbeatReply { .. } => "beaten".to_owned(),
        Body::TimeoutNow => "timeout-now".to_owned(),
        Body::SnapshotReceived { .. } => "snapshot".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_step_counts_and_so_does_the_order() {
        let hash = |steps: &[(u64, Who, &'static str, u64)]| {
            let mut trace = Trace::new(false);
            for &(now_ns, who, what, number) in steps {
                trace.note(now_ns, who, what, number, String::new);
            }
            trace.hash()
        };
        let (first, second) = ((1, Who::Node(0), "pass", 3), (2, Who::Clerk(0), "call", 4));
        let whole = hash(&[first, second]);
        assert_eq!(whole, hash(&[first, second]));
        let others = [
            vec![second, first],
            vec![first],
            vec![(9, Who::Node(0), "pass", 3), second],
            vec![(1, Who::Node(1), "pass", 3), second],
            vec![(1, Who::Node(0), "job", 3), second],
            vec![(1, Who::Node(0), "pass", 4), second],
        ];
        for other in others {
            assert_ne!(hash(&other), whole, "{other:?}");
        }
    }

    #[test]
    fn text_is_kept_on_demand_only() {
        let mut trace = Trace::new(false);
        trace.note(1, Who::World, "boot", 0, || unreachable!("nobody reads it"));
        assert!(trace.lines().is_empty());
        let mut trace = Trace::new(true);
        trace.note(1_500_000, Who::Node(2), "pass", 0, || "more".to_owned());
        assert_eq!(trace.lines(), ["       1.500 n3    pass       more"]);
    }
}
