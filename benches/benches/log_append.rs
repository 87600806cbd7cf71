//! Synced appends through the log, each beside a raw probe of the same work.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::probe::{GroupCommit, RawAppend};
use quorate_benches::{Budget, LogAppend, Place, Sample};

const WRITERS: [usize; 4] = [1, 4, 16, 64];
const ENTRY_BYTES: [usize; 3] = [128, 1 << 10, 16 << 10];

fn log_append(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    for entry_bytes in ENTRY_BYTES {
        let mut group = criterion.benchmark_group(format!("log_append/{entry_bytes}B"));
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(4))
            .throughput(Throughput::Elements(1));
        for writers in WRITERS {
            let mut log = LogAppend::open(&place, writers, entry_bytes).expect("a log opens");
            if writers == 1 {
                let batch_bytes = log.batch_bytes().expect("the log takes writes");
                let mut raw = RawAppend::open(&place, batch_bytes).expect("a file opens");
                group.bench_function(BenchmarkId::new("raw", writers), |bencher| {
                    bencher.iter_custom(|ops| elapsed(raw.run(Budget::Ops(ops))));
                });
            } else {
                let mut bare =
                    GroupCommit::open(&place, writers, entry_bytes).expect("a file opens");
                group.bench_function(BenchmarkId::new("bare_group_commit", writers), |bencher| {
                    bencher.iter_custom(|ops| elapsed(bare.run(Budget::Ops(ops))));
                });
            }
            group.bench_function(BenchmarkId::new("quorate", writers), |bencher| {
                bencher.iter_custom(|ops| elapsed(log.run(Budget::Ops(ops))));
            });
        }
        group.finish();
    }
}

fn elapsed(run: Result<Sample, quorate_benches::Failure>) -> Duration {
    run.expect("the disk takes writes").elapsed
}

criterion_group!(benches, log_append);
criterion_main!(benches);
