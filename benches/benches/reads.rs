//! Reads from the replicas of this process, by what they promise.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::{Budget, Place, Read, Reads};

fn reads(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    let mut reads = Reads::start(&place).expect("a cluster starts");
    let mut group = criterion.benchmark_group("reads");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3))
        .throughput(Throughput::Elements(1));
    for read in Read::ALL {
        group.bench_function(BenchmarkId::from_parameter(read.name()), |bencher| {
            bencher.iter_custom(|ops| {
                reads
                    .run(read, Budget::Ops(ops))
                    .expect("the cluster answers")
                    .elapsed
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
