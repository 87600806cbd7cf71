//! A child that was forked has a copy of everything but the threads. In a program of its own, since it forks.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::{DEADLINE, quick};
use fork::{Fork, fork, waitpid};
use quorate::{Cluster, Db, LogOpenError, OpenError};

/// Ends the child also if the test fails.
struct Child(i32);

impl Drop for Child {
    fn drop(&mut self) {
        let mut kill = Command::new("kill");
        let _gone = kill.args(["-9", &self.0.to_string()]).status();
        let _reaped = waitpid(self.0);
    }
}

#[test]
fn a_forked_child_may_drop_its_copy_and_releases_nothing_and_its_parent_releases_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::open(dir.path()).expect("a fresh node");
    db.put("k", "v").expect("it is alone");
    let cluster = Cluster::builder().options(quick()).start();
    let cluster = cluster.expect("it starts");
    let clerk = cluster.clerk();
    clerk.put("k", "v").expect("all live");
    let (mut parent, mut child) = UnixStream::pair().expect("a pair");

    match fork().expect("a child") {
        Fork::Child => {
            drop(parent);
            db.close();
            drop((db, clerk, cluster));
            let _told = child.write_all(b"dropped");
            // With the copy of the lock's file, until the parent has looked at everything.
            let _end = child.read(&mut [0; 1]);
            std::process::exit(0);
        }
        Fork::Parent(id) => {
            let _ends = Child(id);
            drop(child);
            parent
                .set_read_timeout(Some(DEADLINE))
                .expect("it is not zero");
            let mut told = [0; 7];
            let dropped = parent.read_exact(&mut told);
            assert!(dropped.is_ok(), "the child hangs in its drop: {dropped:?}");

            db.put("k", "w").expect("the child closed nothing here");
            clerk.put("k", "w").expect("nor there");
            let refused = Db::open(dir.path()).err();
            assert!(
                matches!(refused, Some(OpenError::Log(LogOpenError::Locked { .. }))),
                "{refused:?}"
            );
            drop(db);
            let db = Db::open(dir.path()).expect("it is released, though the child has a copy");
            assert_eq!(db.get("k"), Ok(Some("w".into())));
            assert!(parent.write_all(b"!").is_ok(), "the child still lives");
        }
    }
}
