//! When something changed while a load ran, and how long calls took then and otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate_benches::{Call, new_latencies, record};

/// From when to when.
pub(crate) type Span = (Instant, Instant);

/// Looks at a value again and again while something runs. Returns what that returned, and the spans
/// between two looks in which the value changed.
pub(crate) fn watch<T>(
    every: Duration,
    mut look: impl FnMut() -> u64 + Send,
    run: impl FnOnce() -> T,
) -> (T, Vec<Span>) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let watcher = scope.spawn(move || {
            let mut changes = Vec::new();
            let (mut then, mut value) = (Instant::now(), look());
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(every);
                let (now, seen) = (Instant::now(), look());
                if seen != value {
                    changes.push((then, now));
                }
                (then, value) = (now, seen);
            }
            changes
        });
        let ran = run();
        is_over.store(true, Ordering::Relaxed);
        (ran, watcher.join().expect("a watcher only looks"))
    })
}

/// Makes each span longer at both ends.
pub(crate) fn widen(spans: Vec<Span>, by: Duration) -> Vec<Span> {
    spans
        .into_iter()
        .map(|(from, to)| (from.checked_sub(by).unwrap_or(from), to + by))
        .collect()
}

/// Latencies of the calls that were under way in one of the spans, and of all others. The spans are
/// in order.
pub(crate) fn split(calls: &[Call], spans: &[Span]) -> (Histogram<u64>, Histogram<u64>) {
    let (mut inside, mut outside) = (new_latencies(), new_latencies());
    for call in calls {
        let end = call.began + call.latency;
        // The last span that begins before the call ends is the one that ends last.
        let before = spans.partition_point(|span| span.0 <= end);
        let is_inside = before > 0 && spans[before - 1].1 >= call.began;
        record(
            if is_inside { &mut inside } else { &mut outside },
            call.latency,
        );
    }
    (inside, outside)
}

/// A quantile in microseconds, if there is any latency.
pub(crate) fn quantile_us(latencies: &Histogram<u64>, quantile: f64) -> Option<f64> {
    (!latencies.is_empty()).then(|| latencies.value_at_quantile(quantile) as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_call_counts_as_inside_if_a_part_of_it_is() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let call = |begin, end| Call {
            began: at(begin),
            latency: Duration::from_millis(end - begin),
        };
        let spans = widen(
            vec![(at(105), at(110)), (at(300), at(301))],
            Duration::from_millis(5),
        );
        let calls = [
            call(0, 99),
            call(90, 101),
            call(102, 103),
            call(114, 200),
            call(116, 294),
            call(200, 400),
        ];
        let (inside, outside) = split(&calls, &spans);
        assert_eq!((inside.len(), outside.len()), (4, 2));
        assert_eq!(split(&calls, &[]).1.len(), 6);
    }

    #[test]
    fn a_change_is_seen_between_two_looks() {
        let looks = AtomicU64::new(0);
        let ((), changes) = watch(
            Duration::from_millis(1),
            || u64::from(looks.fetch_add(1, Ordering::Relaxed) > 2),
            || {
                while looks.load(Ordering::Relaxed) < 6 {
                    std::thread::yield_now();
                }
            },
        );
        assert_eq!(changes.len(), 1);
    }
}
