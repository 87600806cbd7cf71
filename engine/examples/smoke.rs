use quorate::*;
use std::time::*;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let t = Instant::now();
    let cluster = Cluster::in_memory(3)?;
    let clerk = cluster.clerk();
    clerk.put("k", "v")?;
    println!("first put after {:?}", t.elapsed());
    let l = cluster.leader()?;
    println!("leader {l} {:?}", t.elapsed());
    cluster.crash(l);
    let t = Instant::now();
    println!("{:?} after {:?}", clerk.get("k")?, t.elapsed());
    clerk.append("k", "!")?;
    println!("{:?} after {:?}", clerk.get("k")?, t.elapsed());
    cluster.restart(l)?;
    let t = Instant::now();
    let n = 100_000;
    let mut q = std::collections::VecDeque::new();
    for i in 0..n { if q.len() >= 1024 { let p: Pending<()> = q.pop_front().unwrap(); p.wait()?; } q.push_back(clerk.put_async(format!("key{}", i % 10000), [7u8; 128])); }
    for p in q { p.wait()?; }
    println!("1024 outstanding: {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
    let t = Instant::now();
    let n = 2_000;
    for i in 0..n { clerk.put(format!("key{}", i % 10000), [7u8; 128])?; }
    println!("1 outstanding: {:?}", t.elapsed() / n);
    let db = cluster.db(cluster.leader()?).unwrap();
    let t = Instant::now();
    for i in 0..1_000_000 { std::hint::black_box(db.get_with(format!("key{}", i % 10000), Consistency::Lease)?); }
    println!("lease: {:?}", t.elapsed() / 1_000_000);
    for d in [1, 2, 3] { println!("{:?}", cluster.db(NodeId(d)).unwrap().status()); }
    for _ in 0..6 { std::thread::sleep(Duration::from_millis(300));
    for d in [1, 2, 3] { let db = cluster.db(NodeId(d)).unwrap(); println!("{:?} {:?} {:?}", db.status()[0].applied, db.trouble(GroupId(0)), db.digest(GroupId(0))); } }
    Ok(())
}
