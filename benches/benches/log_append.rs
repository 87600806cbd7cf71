//! Appends through the log, each beside a raw probe of the same work.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::probe::{GroupCommit, RawAppend, UnderWay};
use quorate_benches::{AppendShape, Budget, LogAppend, Place, Sample};
use quorate_wal::Durability;

const WRITERS: [usize; 4] = [1, 4, 16, 64];
const ENTRY_BYTES: [usize; 4] = [16, 128, 1 << 10, 16 << 10];

/// Entries of a batch, and single entries that a writer keeps on their way.
const DEPTH: usize = 64;

fn single(criterion: &mut Criterion) {
    for entry_bytes in ENTRY_BYTES {
        for writers in WRITERS {
            let shape = AppendShape::single(writers, entry_bytes);
            measure(criterion, &format!("log_append/{entry_bytes}B"), shape);
        }
    }
}

fn batches(criterion: &mut Criterion) {
    for writers in [1, 16] {
        let shape = AppendShape {
            entries: DEPTH,
            ..AppendShape::single(writers, 128)
        };
        measure(criterion, "log_append/64x128B", shape);
        let unsynced = AppendShape {
            durability: Durability::ProcessCrash,
            ..shape
        };
        measure(criterion, "log_append/64x128B_unsynced", unsynced);
    }
}

fn pipelined(criterion: &mut Criterion) {
    let place = Place::from_environment().expect("a folder on a disk");
    let mut log = LogAppend::open(&place, AppendShape::single(16, 128)).expect("a log opens");
    let mut group = criterion.benchmark_group("log_append/128B_64_deep");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(4))
        .throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("quorate", 16), |bencher| {
        bencher.iter_custom(|ops| elapsed(log.run_pipelined(Budget::Ops(ops), DEPTH)));
    });
    group.finish();
}

fn measure(criterion: &mut Criterion, name: &str, shape: AppendShape) {
    let place = Place::from_environment().expect("a folder on a disk");
    let AppendShape {
        writers,
        durability,
        ..
    } = shape;
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(4))
        .throughput(Throughput::Elements(shape.entries as u64));
    let mut log = LogAppend::open(&place, shape).expect("a log opens");
    if writers == 1 {
        let batch_bytes = log.batch_bytes().expect("the log takes writes");
        let mut raw = RawAppend::open(&place, batch_bytes, durability).expect("a file opens");
        group.bench_function(BenchmarkId::new("raw", writers), |bencher| {
            bencher.iter_custom(|ops| elapsed(raw.run(Budget::Ops(ops))));
        });
    } else {
        let mut bare = GroupCommit::open(
            &place,
            writers,
            shape.call_bytes(),
            durability,
            UnderWay::One,
        )
        .expect("a file opens");
        group.bench_function(BenchmarkId::new("bare_group_commit", writers), |bencher| {
            bencher.iter_custom(|ops| elapsed(bare.run(Budget::Ops(ops))));
        });
    }
    group.bench_function(BenchmarkId::new("quorate", writers), |bencher| {
        bencher.iter_custom(|ops| elapsed(log.run(Budget::Ops(ops))));
    });
    group.finish();
}

fn elapsed(run: Result<Sample, quorate_benches::Failure>) -> Duration {
    run.expect("the disk takes writes").elapsed
}

criterion_group!(benches, single, batches, pipelined);
criterion_main!(benches);
