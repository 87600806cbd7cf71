//! Links as a script wants them: who reaches whom, and a network that is unreliable in a given way.

use quorate::transport::Frame;

use super::{Endpoint, Network, Quality};

/// How unreliable all links are: for scripts that want one kind of network rather than the one that a seed draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreliability {
    /// So many frames in a thousand get lost, in each direction.
    pub drop_permille: u32,
    /// Every frame takes up to so much longer, each time as likely, and frames overtake each other.
    pub delay_max_ns: u64,
    /// So many answers in a thousand take longer still.
    pub late_permille: u32,
    /// A late answer takes so much longer at least,
    pub late_min_ns: u64,
    /// and up to so much on top of that, short times being more likely than long ones.
    pub late_spread_ns: u64,
}

impl Network {
    /// Makes all links unreliable from here on, or, with `None`, sound. What is cut stays cut; what is on its way stays as it
    /// is.
    pub fn set_unreliable(&mut self, how: Option<Unreliability>) {
        self.quality = Quality::CALM;
        if let Some(how) = how {
            self.quality.drop_permille = how.drop_permille;
            self.quality.is_in_order = false;
            self.quality.scripted = Some(how);
        }
    }

    /// Cuts every link between two nodes of which one does not reach the other, and mends the rest. Those of clerks stay as
    /// they are.
    pub fn set_reach(&mut self, reaches: impl Fn(usize, usize) -> bool) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                let (from_end, to_end) = (Endpoint::Node(from), Endpoint::Node(to));
                self.set_cut(from_end, to_end, !reaches(from, to));
            }
        }
    }

    /// Lets a clerk reach these nodes and no others, both ways.
    pub fn set_clerk_reach(&mut self, clerk: usize, reaches: impl Fn(usize) -> bool) {
        for node in 0..self.nodes {
            let (node_end, clerk_end) = (Endpoint::Node(node), Endpoint::Clerk(clerk));
            self.set_cut(node_end, clerk_end, !reaches(node));
            self.set_cut(clerk_end, node_end, !reaches(node));
        }
    }

    /// What the script adds to the time that a frame takes. Draws nothing where there is no script.
    pub(super) fn scripted_delay_ns(&mut self, frame: &Frame) -> u64 {
        let Some(how) = self.quality.scripted else {
            return 0;
        };
        let delay_ns = self.rng.below(how.delay_max_ns + 1);
        if !frame.is_answer() || !self.rng.permille(how.late_permille) {
            return delay_ns;
        }
        let bound = self.rng.below(how.late_spread_ns + 1);
        delay_ns + how.late_min_ns + self.rng.below(bound + 1)
    }
}

#[cfg(test)]
mod tests {
    use quorate::GroupId;
    use quorate::transport::{Reply, ReplyBody, Request, RequestBody, RequestId};

    use super::*;
    use crate::faults::SwarmPlan;

    const MS: u64 = 1_000_000;
    const HOW: Unreliability = Unreliability {
        drop_permille: 100,
        delay_max_ns: 26 * MS,
        late_permille: 667,
        late_min_ns: 200 * MS,
        late_spread_ns: 2_000 * MS,
    };

    /// When each of a thousand frames arrives, sent all at once.
    fn arrivals(network: &mut Network, from: Endpoint, to: Endpoint, frame: &Frame) -> Vec<u64> {
        let routes = (0..1_000).map(|_| network.send(0, from, to, frame.clone()));
        let arrivals = routes.flat_map(|route| route.arrivals.into_iter().map(|it| it.0));
        arrivals.collect()
    }

    fn network() -> Network {
        Network::new(7, 3, 1, false, &SwarmPlan::none())
    }

    fn request() -> Frame {
        Frame::Request(Request {
            id: RequestId(1),
            group: GroupId(0),
            body: RequestBody::ReadIndex,
        })
    }

    fn reply() -> Frame {
        Frame::Reply(Reply {
            id: RequestId(1),
            result: Ok(ReplyBody::Answer(quorate::Bytes::new())),
        })
    }

    #[test]
    fn frames_are_lost_and_late_as_often_as_the_script_says() {
        let mut network = network();
        network.set_unreliable(Some(HOW));
        let (clerk, node) = (Endpoint::Clerk(0), Endpoint::Node(1));
        let asked = arrivals(&mut network, clerk, node, &request());
        assert!(
            (850..950).contains(&asked.len()),
            "{} of 1,000",
            asked.len()
        );
        assert!(asked.iter().all(|at_ns| *at_ns < 30 * MS), "none is late");
        assert!(!asked.is_sorted(), "they overtake each other");
        let answered = arrivals(&mut network, node, clerk, &reply());
        let late = answered.iter().filter(|at_ns| **at_ns >= 200 * MS).count();
        assert!((500..700).contains(&late), "{late} of {}", answered.len());
        assert!(answered.iter().all(|at_ns| *at_ns < 2_230 * MS));
        network.set_unreliable(None);
        let asked = arrivals(&mut network, clerk, node, &request());
        assert!(asked.len() == 1_000 && asked.is_sorted(), "sound again");
    }

    #[test]
    fn nodes_and_clerks_reach_whom_the_script_says() {
        let mut network = network();
        let (first, second, third) = (Endpoint::Node(0), Endpoint::Node(1), Endpoint::Node(2));
        let clerk = Endpoint::Clerk(0);
        network.set_reach(|from, to| (from == 2) == (to == 2));
        network.set_clerk_reach(0, |node| node == 2);
        let mut reaches = |from, to| !network.send(1, from, to, request()).arrivals.is_empty();
        assert!(reaches(first, second) && reaches(second, first));
        assert!(!reaches(first, third) && !reaches(third, second));
        assert!(reaches(clerk, third) && reaches(third, clerk));
        assert!(!reaches(clerk, first) && !reaches(first, clerk));
        network.set_reach(|_, _| true);
        assert!(!network.send(1, first, third, request()).arrivals.is_empty());
        assert!(network.send(1, clerk, first, request()).arrivals.is_empty());
    }
}
