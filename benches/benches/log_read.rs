//! Reads of old entries from a log that was opened again, by how they were appended.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::{Budget, Place, StoredLog, StoredShape};

const BYTES: u64 = 64 << 20;
const PER_APPEND: [u64; 3] = [1, 32, 1024];
const FORWARD: [u64; 2] = [64, 256];

fn log_read(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    for per_append in PER_APPEND {
        let dir = place.folder().expect("a folder is made");
        let shape = StoredShape::of_bytes(BYTES, 128, per_append);
        StoredLog::write(dir.path(), shape).expect("the log is written");
        StoredLog::seal(dir.path()).expect("the log is sealed");
        let mut log = StoredLog::reader(dir.path(), shape).expect("the log opens");
        let mut group = criterion.benchmark_group("log_read");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(3))
            .throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("random", per_append), |bencher| {
            bencher.iter_custom(|ops| {
                let sample = log.read_random(Budget::Ops(ops));
                sample.expect("the log is read").elapsed
            });
        });
        for entries in FORWARD {
            group.throughput(Throughput::Elements(entries));
            let id = BenchmarkId::new(format!("forward_{entries}"), per_append);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|ops| {
                    let sample = log.read_forward(Budget::Ops(ops), entries);
                    sample.expect("the log is read").elapsed
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, log_read);
criterion_main!(benches);
