//! Opening a log again, by the index behind its segments and without it.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::{Place, StoredLog, StoredShape};

const BYTES: [u64; 2] = [16 << 20, 256 << 20];

fn log_reopen(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    for bytes in BYTES {
        let dir = place.folder().expect("a folder is made");
        let shape = StoredShape::of_bytes(bytes, 128, 64);
        StoredLog::write(dir.path(), shape).expect("the log is written");
        StoredLog::seal(dir.path()).expect("the log is sealed");
        let mut group = criterion.benchmark_group("log_reopen");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(4))
            .throughput(Throughput::Bytes(shape.bytes()));
        for (name, threads) in [("by_footers", 4), ("scan_1_thread", 1)] {
            if name == "scan_1_thread" {
                StoredLog::spoil_footers(dir.path()).expect("the files are written to");
            }
            group.bench_function(BenchmarkId::new(name, bytes >> 20), |bencher| {
                bencher.iter_with_large_drop(|| {
                    StoredLog::open(dir.path(), threads).expect("the log opens")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, log_reopen);
criterion_main!(benches);
