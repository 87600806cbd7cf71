//! Puts through a cluster of three, each beside a probe of three disks of which two must have the bytes.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::probe::QuorumProbe;
use quorate_benches::{Budget, CommittedPuts, KEY_BYTES, Place, Sample, Setup, VALUE_BYTES};

const OUTSTANDING: [usize; 3] = [1, 64, 1_024];

fn committed_puts(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    let mut group = criterion.benchmark_group("committed_puts");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(4))
        .throughput(Throughput::Elements(1));
    let mut probe = QuorumProbe::open(&place, KEY_BYTES + VALUE_BYTES).expect("files open");
    for outstanding in OUTSTANDING {
        group.bench_function(BenchmarkId::new("quorum_probe", outstanding), |bencher| {
            bencher.iter_custom(|ops| elapsed(probe.run(outstanding, Budget::Ops(ops))));
        });
    }
    drop(probe);
    for setup in Setup::ALL {
        let mut puts = CommittedPuts::start(&place, setup).expect("a cluster starts");
        for outstanding in OUTSTANDING {
            group.bench_function(BenchmarkId::new(setup.name(), outstanding), |bencher| {
                bencher.iter_custom(|ops| elapsed(puts.run(outstanding, Budget::Ops(ops))));
            });
        }
    }
    group.finish();
}

fn elapsed(run: Result<Sample, quorate_benches::Failure>) -> Duration {
    run.expect("the cluster takes writes").elapsed
}

criterion_group!(benches, committed_puts);
criterion_main!(benches);
