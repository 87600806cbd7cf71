//! Whether a change of segments, or files, can be felt by those who append.

use std::sync::Arc;
use std::time::Duration;

use quorate_benches::probe::{GroupCommit, UnderWay};
use quorate_benches::{Call, Failure, LogAppend, Place};

use crate::append::name;
use crate::bench::Bench;
use crate::job::{Append, Job, Load, Metric, Report, Slice, Subject};
use crate::peer::PeerAppend;
use crate::trace::{Span, quantile_us, split, watch, widen};
use crate::worker::Work;

/// A call counts as near a change if it was under way so soon before or after it.
const NEAR: Duration = Duration::from_millis(50);

/// How often it is looked whether there was a change.
const LOOK: Duration = Duration::from_millis(1);

pub(crate) fn run(bench: &mut Bench) -> Result<(), Failure> {
    const RIVALS: [Subject; 3] = [Subject::Probe, Subject::Quorate, Subject::RaftEngine];
    for (writers, entry_bytes) in [(1, 16 << 10), (16, 1 << 10)] {
        let root = bench.root.clone();
        let slice = Slice::Millis(bench.plan.trace_ms);
        let job = move |subject| {
            Job::Rotate(Append {
                root: root.clone(),
                subject,
                writers,
                entries: 1,
                entry_bytes,
                synced: true,
                slice,
            })
        };
        let case = name(writers, 1, entry_bytes);
        bench.rivals(Load::Rotate, &case, writers as f64, &RIVALS, job)?;
    }
    Ok(())
}

/// The worker's side.
pub(crate) fn work(append: Append) -> Result<Box<dyn Work>, Failure> {
    let place = Place::at(append.root.clone())?;
    let (shape, budget) = (append.shape(), append.slice.budget());
    Ok(match append.subject {
        Subject::Quorate => {
            let mut appender = LogAppend::open(&place, shape)?;
            let log = Arc::clone(appender.log());
            let look = move || {
                let stats = log.stats();
                stats.segments + (stats.recycled << 32)
            };
            Box::new(move || {
                let (calls, changes) = watch(LOOK, &look, || appender.run_traced(budget));
                Ok(report(&calls?, changes))
            })
        }
        Subject::RaftEngine => {
            let mut appender = PeerAppend::open(&place, shape, true)?;
            let look = appender.log().file_number();
            Box::new(move || {
                let (calls, changes) = watch(LOOK, &look, || appender.run_traced(budget));
                Ok(report(&calls?, changes))
            })
        }
        _ => {
            let mut probe = GroupCommit::open(
                &place,
                append.writers,
                shape.call_bytes(),
                shape.durability,
                UnderWay::One,
            )?;
            Box::new(move || {
                let mut report = Report::default();
                report.put_sample(&probe.run(budget)?, 1);
                Ok(report)
            })
        }
    })
}

fn report(calls: &[Call], changes: Vec<Span>) -> Report {
    let mut report = Report::default();
    report.put(Metric::Changes, changes.len() as f64);
    let (near, away) = split(calls, &widen(changes, NEAR));
    report.put_some(Metric::P99NearUs, quantile_us(&near, 0.99));
    report.put_some(Metric::P99AwayUs, quantile_us(&away, 0.99));
    let mut all = near;
    all += away;
    report.put_some(Metric::P50Us, quantile_us(&all, 0.5));
    report.put_some(Metric::P99Us, quantile_us(&all, 0.99));
    report.put_some(Metric::MaxUs, quantile_us(&all, 1.0));
    report
}
