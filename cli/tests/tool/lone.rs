//! A cluster of one node, which is a process.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::cluster::free_ports;
use crate::run::{Finished, Node, quorate_with_input};

pub(crate) struct Lone {
    pub(crate) node: Node,
    pub(crate) address: String,
}

impl Lone {
    /// Starts it with its files here, and waits until it leads.
    pub(crate) fn start(dir: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_ports()[0]);
        let mut node = Node::start(1, dir, &format!("1={address}"));
        node.wait_for(&["group 0: leader in term"]);
        Self { node, address }
    }

    pub(crate) fn arguments<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Vec<OsString> {
        let given = arguments.iter().map(|it| it.as_ref().to_owned());
        let mut all: Vec<OsString> = given.collect();
        // Behind the command, since what follows may be taken for keys.
        all.splice(1..1, ["--connect".into(), OsString::from(&self.address)]);
        all
    }

    pub(crate) fn call<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Finished {
        self.call_with_input(arguments, b"")
    }

    pub(crate) fn call_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        input: &[u8],
    ) -> Finished {
        quorate_with_input(&self.arguments(arguments), input)
    }

    /// What a call that must succeed prints.
    pub(crate) fn succeed<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        let finished = self.call(arguments);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.stdout
    }
}
