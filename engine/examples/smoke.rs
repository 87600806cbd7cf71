use quorate::*;
use std::time::*;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let a: Vec<String> = std::env::args().collect();
    let mut b = Cluster::builder();
    if a[1] == "tcp" {
        b = b.transport(TransportKind::Tcp);
    }
    if a[2] != "mem" {
        let _ = std::fs::remove_dir_all(&a[2]);
        b = b.dir(&a[2]);
    }
    let cluster = b.start()?;
    let clerk = cluster.clerk();
    clerk.put("k", "v")?;
    let out: usize = a[3].parse()?;
    let n: u32 = a[4].parse()?;
    let t = Instant::now();
    let mut lat = vec![];
    let mut q = std::collections::VecDeque::new();
    for i in 0..n {
        if q.len() >= out {
            let (t, p): (Instant, Pending<()>) = q.pop_front().unwrap();
            p.wait()?;
            lat.push(t.elapsed());
        }
        q.push_back((
            Instant::now(),
            clerk.put_async(format!("key{}", i % 10000), [7u8; 128]),
        ));
    }
    for (_, p) in q {
        p.wait()?;
    }
    let s = t.elapsed().as_secs_f64();
    lat.sort();
    let st = cluster.db(cluster.leader()?).unwrap().stats();
    println!(
        "{:?} out {out}: {:.0}/s p50 {:?} p99 {:?} batches {} syncs {}",
        a[1..3].to_vec(),
        n as f64 / s,
        lat[lat.len() / 2],
        lat[lat.len() * 99 / 100],
        st.log.batches,
        st.log.syncs
    );
    Ok(())
}
