//! Linearizable reads at a follower, from its own replica, with few and with thousands on their way: the rate must not fall
//! with their number.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::{Budget, Place, Reads};

/// Up to nearly as many as one client may have in one group.
const OUTSTANDING: [usize; 5] = [16, 64, 256, 1_024, 4_000];

fn outstanding_reads(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    let mut reads = Reads::start(&place).expect("a cluster starts");
    let mut group = criterion.benchmark_group("outstanding_reads");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::Elements(1));
    for outstanding in OUTSTANDING {
        group.bench_function(BenchmarkId::from_parameter(outstanding), |bencher| {
            bencher.iter_custom(|ops| {
                reads
                    .run_at_follower(outstanding, Budget::Ops(ops))
                    .expect("the cluster answers")
                    .elapsed
            });
        });
    }
    group.finish();
}

criterion_group!(benches, outstanding_reads);
criterion_main!(benches);
