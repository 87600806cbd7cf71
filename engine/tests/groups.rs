//! Many groups under one roof: leaders are spread, reads over all keys merge what the groups hold, batches keep to one
//! group, and a restart finds every key where it was.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::{DEADLINE, TRANSPORTS, eventually, quick};
use quorate::{Bytes, Clerk, Cluster, Consistency, Db, Error, GroupId, TransportKind, WriteBatch};

const GROUPS: u32 = 16;

fn start(transport: TransportKind) -> Cluster {
    let builder = Cluster::builder()
        .groups(GROUPS)
        .transport(transport)
        .options(quick());
    builder.start().expect("a cluster starts")
}

#[test]
fn leaders_are_spread_over_the_nodes() {
    let cluster = start(TransportKind::Memory);
    let mut led: BTreeMap<_, u32> = BTreeMap::new();
    for group in 0..u64::from(GROUPS) {
        *led.entry(
            cluster
                .leader_of(GroupId(group))
                .expect("every group has a leader"),
        )
        .or_default() += 1;
    }
    assert_eq!(led.len(), 3, "{led:?}");
    // Each node asks for its third of the groups at once; one that started late may have lost some.
    assert!(led.values().all(|&groups| groups >= 2), "{led:?}");
}

#[test]
fn reads_over_all_keys_merge_the_groups_in_order() {
    for transport in TRANSPORTS {
        let cluster = start(transport);
        let clerk = cluster.clerk();
        let model: BTreeMap<Vec<u8>, Vec<u8>> = (0..300_u32)
            .map(|number| {
                (
                    format!("{}/{number:03}", number % 3).into_bytes(),
                    number.to_le_bytes().to_vec(),
                )
            })
            .collect();
        let writes: Vec<_> = model
            .iter()
            .map(|(key, value)| clerk.put_async(key, value))
            .collect();
        for write in writes {
            write.wait().expect("majorities live");
        }
        let used: BTreeSet<GroupId> = model.keys().map(|key| clerk.group_of(key)).collect();
        assert_eq!(used.len(), GROUPS as usize, "300 keys reach every group");
        let dbs: Vec<Db> = cluster
            .nodes()
            .into_iter()
            .filter_map(|node| cluster.db(node))
            .collect();
        let remote = std::iter::once(&clerk);
        for clerk in dbs.iter().map(|db| -> &Clerk { db }).chain(remote) {
            assert_merges(clerk, &model);
        }
        assert!(clerk.delete("1/001").expect("majorities live"));
        assert_eq!(clerk.count(), Ok(299));
        assert_eq!(dbs[0].count(), Ok(299));
    }
}

fn assert_merges(clerk: &Clerk, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let pairs = |found: Vec<(Bytes, Bytes)>| -> Vec<(Vec<u8>, Vec<u8>)> {
        found
            .into_iter()
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect()
    };
    let expected = |limit, is_in: &dyn Fn(&[u8]) -> bool| -> Vec<(Vec<u8>, Vec<u8>)> {
        let within = model.iter().filter(|(key, _)| is_in(key));
        within
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    assert_eq!(clerk.count(), Ok(300));
    for limit in [0, 1, 7, 299, 300, usize::MAX] {
        let found = clerk.scan::<&str>(.., limit).expect("readable");
        assert_eq!(pairs(found), expected(limit, &|_| true), "limit {limit}");
        let found = clerk.prefix("1/", limit).expect("readable");
        assert_eq!(
            pairs(found),
            expected(limit, &|key| key.starts_with(b"1/")),
            "limit {limit}"
        );
        let found = clerk.scan("0/100".."2/050", limit).expect("readable");
        let is_in = |key: &[u8]| key >= &b"0/100"[..] && key < &b"2/050"[..];
        assert_eq!(pairs(found), expected(limit, &is_in), "limit {limit}");
    }
    assert_eq!(clerk.prefix("9", 10).map(pairs), Ok(Vec::new()));
}

#[test]
fn a_batch_keeps_to_one_group_and_is_atomic_there() {
    let cluster = start(TransportKind::Memory);
    let clerk = cluster.clerk();
    let home = clerk.group_of("a");
    let mut keys = (0_u64..1_000_000).map(|number| format!("key/{number}"));
    let near = keys
        .find(|key| clerk.group_of(key) == home)
        .expect("there are enough keys");
    let far = keys
        .find(|key| clerk.group_of(key) != home)
        .expect("there are enough keys");

    let spanning = WriteBatch::new().put("a", "1").put(&far, "1");
    let error = clerk.write_batch(spanning).expect_err("two groups");
    assert_eq!(error, Error::BatchSpansGroups);
    assert!(!error.is_retryable());
    let expecting = WriteBatch::new().put("a", "1").expect(&far, None::<&str>);
    assert_eq!(
        clerk.write_batch(expecting),
        Err(Error::BatchSpansGroups),
        "what it reads counts too"
    );
    assert_eq!(clerk.count(), Ok(0), "nothing of either is there");

    let batch = WriteBatch::new().put("a", "1").put(&near, "1");
    assert_eq!(clerk.write_batch(batch), Ok(Ok(())));
    let failing = WriteBatch::new()
        .put("a", "2")
        .expect(&near, Some("not this"))
        .delete(&near);
    let conflict = clerk
        .write_batch(failing)
        .expect("majorities live")
        .expect_err("the value is another");
    assert_eq!(
        (conflict.step, conflict.current.as_deref()),
        (1, Some(&b"1"[..]))
    );
    assert_eq!(
        clerk.get("a").expect("readable").as_deref(),
        Some(&b"1"[..])
    );
    assert_eq!(
        clerk.get(&near).expect("readable").as_deref(),
        Some(&b"1"[..])
    );
}

#[test]
fn readers_never_see_half_a_batch() {
    let cluster = start(TransportKind::Memory);
    let clerk = cluster.clerk();
    let home = clerk.group_of("a");
    let near = (0_u64..1_000_000)
        .map(|number| format!("key/{number}"))
        .find(|key| clerk.group_of(key) == home);
    let near = near.expect("there are enough keys");
    clerk
        .write_batch(WriteBatch::new().put("a", "0").put(&near, "0"))
        .expect("majorities live")
        .expect("no condition");
    let dbs: Vec<Db> = cluster
        .nodes()
        .into_iter()
        .filter_map(|node| cluster.db(node))
        .collect();
    std::thread::scope(|scope| {
        for db in &dbs {
            let near = &near;
            scope.spawn(move || {
                let began = Instant::now();
                while began.elapsed() < DEADLINE {
                    let view = db.view(home, Consistency::Stale).expect("readable");
                    assert_eq!(
                        view.get(b"a"),
                        view.get(near.as_bytes()),
                        "node {}",
                        db.node()
                    );
                    if view.get(b"a").as_deref() == Some(b"300") {
                        return;
                    }
                }
                panic!("node {} never saw the last batch", db.node());
            });
        }
        for number in 1..=300 {
            let number = number.to_string();
            let batch = WriteBatch::new().put("a", &number).put(&near, &number);
            clerk
                .write_batch(batch)
                .expect("majorities live")
                .expect("no condition");
        }
    });
    assert_eq!(
        clerk.get(&near).expect("readable").as_deref(),
        Some(&b"300"[..])
    );
}

#[test]
fn a_restart_finds_every_key_in_its_group() {
    let root = tempfile::tempdir().expect("a directory");
    let open = || {
        let builder = Cluster::builder()
            .dir(root.path())
            .groups(GROUPS)
            .options(quick());
        builder.start().expect("a cluster starts")
    };
    let keys: Vec<String> = (0..200).map(|number| format!("key/{number}")).collect();
    let cluster = open();
    let clerk = cluster.clerk();
    let groups: Vec<GroupId> = keys.iter().map(|key| clerk.group_of(key)).collect();
    for write in keys
        .iter()
        .map(|key| clerk.put_async(key, key))
        .collect::<Vec<_>>()
    {
        write.wait().expect("majorities live");
    }
    drop((clerk, cluster));

    let cluster = open();
    let clerk = cluster.clerk();
    assert_eq!(clerk.count(), Ok(200));
    let db = cluster.db(cluster.nodes()[0]).expect("it runs");
    for (key, group) in keys.iter().zip(groups) {
        assert_eq!(clerk.group_of(key), group);
        let view = db.view(group, Consistency::Linearizable).expect("readable");
        assert_eq!(
            view.get(key.as_bytes()).as_deref(),
            Some(key.as_bytes()),
            "{key} is in {group}"
        );
    }
    let error = db
        .view(GroupId(u64::from(GROUPS)), Consistency::Stale)
        .expect_err("one too far");
    assert_eq!(error, Error::NoSuchGroup { group: GroupId(16) });
}

#[test]
fn one_group_s_lost_leader_leaves_the_others_alone() {
    let cluster = start(TransportKind::Memory);
    let clerk = cluster.clerk();
    for number in 0..64 {
        clerk
            .put(format!("key/{number}"), "1")
            .expect("majorities live");
    }
    let lost = cluster.leader_of(GroupId(0)).expect("it has a leader");
    assert!(cluster.crash(lost));
    for number in 0..64 {
        assert_eq!(
            clerk.append(format!("key/{number}"), "2"),
            Ok(2),
            "within {DEADLINE:?}"
        );
    }
    cluster.restart(lost).expect("it restarts");
    let back = cluster.db(lost).expect("it runs");
    eventually("the node that came back has all groups' keys", || {
        (0..u64::from(GROUPS))
            .map(|group| {
                back.view(GroupId(group), Consistency::Stale)
                    .map_or(0, |view| view.len())
            })
            .sum::<usize>()
            == 64
    });
    assert_eq!(back.count(), Ok(64));
}
