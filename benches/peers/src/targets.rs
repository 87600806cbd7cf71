//! What the log must reach, and whether it did. Those that it missed stay in the report.

use std::fmt;

use crate::append::{DEPTH, ENTRY_BYTES, name};
use crate::book::{Book, Case};
use crate::job::{Load, Metric, Subject};
use crate::reads::{FORWARD, PER_APPEND, forward_name, random_name};
use crate::space::{HOT, THOUSAND, THOUSAND_UNSYNCED};

/// One of them, measured.
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) bound: Bound,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};
use Subject::{Pipelined, Probe, Quorate, RaftEngine};

impl Target {
    pub(crate) fn is_reached(&self) -> bool {
        match self.bound {
            AtLeast(least) => self.measured >= least,
            AtMost(most) => self.measured <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtLeast(least) => write!(f, "≥ {least}"),
            AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// All of which something was measured.
pub(crate) fn targets(book: &Book) -> Vec<Target> {
    let mut list = List {
        book,
        targets: Vec::new(),
    };
    list.appends();
    list.sustained();
    list.batches();
    list.fills();
    list.rotations();
    list.reopens();
    list.reads();
    list.space();
    list.targets
}

struct List<'a> {
    book: &'a Book,
    targets: Vec<Target>,
}

impl List<'_> {
    fn appends(&mut self) {
        for entry_bytes in ENTRY_BYTES {
            let case = name(1, 1, entry_bytes);
            self.add(
                Load::Append,
                &case,
                "p50 as a multiple of raw writes",
                AtMost(1.1),
                |case| case.ratio(Metric::P50Us, Quorate, Probe),
            );
        }
        for entry_bytes in ENTRY_BYTES {
            for writers in [16, 64] {
                let case = name(writers, 1, entry_bytes);
                let what = "throughput as a share of bare group commit";
                self.add(Load::Append, &case, what, AtLeast(1.0), |case| {
                    rate(case, Quorate, Probe)
                });
            }
        }
        for (entry_bytes, least) in [(128, 1.25), (16 << 10, 1.8)] {
            for writers in [16, 64] {
                let case = name(writers, 1, entry_bytes);
                self.beside_peer(Load::Append, &case, least);
            }
        }
    }

    fn sustained(&mut self) {
        for writers in [16, 64] {
            let case = name(writers, 1, 16 << 10);
            let what = "for longer, throughput as a share of bare group commit";
            self.add(Load::Sustained, &case, what, AtLeast(1.0), |case| {
                rate(case, Quorate, Probe)
            });
            let what = "for longer, throughput as a share of raft-engine's";
            self.add(Load::Sustained, &case, what, AtLeast(1.8), |case| {
                rate(case, Quorate, RaftEngine)
            });
        }
    }

    fn batches(&mut self) {
        let case = name(16, DEPTH, 128);
        self.beside_peer(Load::Batches, &case, 1.6);
        let what = "single entries 64 deep as a share of batches";
        self.add(Load::Batches, &case, what, AtLeast(0.8), |case| {
            rate(case, Pipelined, Quorate)
        });
    }

    fn fills(&mut self) {
        for writers in [1, 16] {
            let case = name(writers, DEPTH, 128);
            let what = "without syncs, throughput as a share of raft-engine's";
            self.add(Load::Fill, &case, what, AtLeast(1.5), |case| {
                rate(case, Quorate, RaftEngine)
            });
        }
    }

    fn rotations(&mut self) {
        let cases: Vec<&Case> = self.book.of(Load::Rotate).collect();
        for case in cases {
            let what = "p99 near a change of segments as a multiple of p99 otherwise";
            self.add(Load::Rotate, &case.name, what, AtMost(1.5), |case| {
                case.ratio_of((Quorate, Metric::P99NearUs), (Quorate, Metric::P99AwayUs))
            });
            let what = "the worst call as a multiple of the median";
            self.add(Load::Rotate, &case.name, what, AtMost(10.0), |case| {
                Some(case.worst(Quorate, Metric::MaxUs)? / case.median(Quorate, Metric::P50Us)?)
            });
        }
    }

    /// Of the largest log.
    fn reopens(&mut self) {
        let sealed = |case: &&Case| case.name.contains("sealed");
        let largest = self.book.of(Load::Reopen).filter(sealed).map(|case| case.x);
        let largest = largest.fold(0.0, f64::max);
        for caches in ["warm", "cold"] {
            let case = format!("{largest} MiB, sealed, {caches}");
            let what = "time to open as a share of raft-engine's";
            self.add(Load::Reopen, &case, what, AtMost(0.1), |case| {
                case.ratio(Metric::OpenMs, Quorate, RaftEngine)
            });
            let what = "bytes of memory by entry";
            self.add(Load::Reopen, &case, what, AtMost(10.0), |case| {
                case.median(Quorate, Metric::BytesPerEntry)
            });
        }
        let case = format!("{largest} MiB, scan by 1 thread");
        let what = "GB of payload a second, without footers";
        self.add(Load::Reopen, &case, what, AtLeast(1.0), |case| {
            case.median(Quorate, Metric::GbPerSThread)
        });
    }

    fn reads(&mut self) {
        self.beside_peer(Load::Reads, &random_name(32), 4.0);
        for entries in FORWARD {
            self.beside_peer(Load::Reads, &forward_name(entries, 32), 1.5);
        }
        let rates = PER_APPEND.map(|per_append| {
            let case = self.book.case(Load::Reads, &random_name(per_append))?;
            case.median(Quorate, Metric::EntriesPerS)
        });
        if let [Some(a), Some(b), Some(c)] = rates {
            self.targets.push(Target {
                what: "random reads: slowest as a share of fastest, however appended".to_owned(),
                measured: a.min(b).min(c) / a.max(b).max(c),
                bound: AtLeast(0.9),
            });
        }
    }

    fn space(&mut self) {
        for case in [THOUSAND, THOUSAND_UNSYNCED, HOT] {
            let what = "disk as a share of twice what lives and two segments, at most";
            self.add(Load::Space, case, what, AtMost(1.0), |case| {
                case.median(Quorate, Metric::DiskOverBoundMax)
            });
            let what = "the same at rest";
            self.add(Load::Space, case, what, AtMost(1.0), |case| {
                case.median(Quorate, Metric::DiskOverBoundEnd)
            });
            let what = "p99 while moving as a multiple of p99 otherwise";
            self.add(Load::Space, case, what, AtMost(1.2), |case| {
                let quiet = case.median(Quorate, Metric::P99QuietUs)?;
                Some(case.median(Quorate, Metric::P99MovingUs)? / quiet)
            });
        }
    }

    fn beside_peer(&mut self, load: Load, case: &str, least: f64) {
        let what = "throughput as a share of raft-engine's";
        self.add(load, case, what, AtLeast(least), |case| {
            rate(case, Quorate, RaftEngine)
        });
    }

    fn add(
        &mut self,
        load: Load,
        case: &str,
        what: &str,
        bound: Bound,
        measured: impl FnOnce(&Case) -> Option<f64>,
    ) {
        if let Some(measured) = self.book.case(load, case).and_then(measured) {
            self.targets.push(Target {
                what: format!("{case}: {what}"),
                measured,
                bound,
            });
        }
    }
}

fn rate(case: &Case, of: Subject, to: Subject) -> Option<f64> {
    case.ratio(Metric::EntriesPerS, of, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Report;

    #[test]
    fn a_target_that_is_missed_is_named_so() {
        let mut book = Book::default();
        for (subject, value) in [(Quorate, 124.0), (RaftEngine, 100.0), (Probe, 124.0)] {
            let mut report = Report::default();
            report.put(Metric::EntriesPerS, value);
            book.add(Load::Append, &name(16, 1, 128), 16.0, subject, report);
        }
        let reached: Vec<bool> = targets(&book).iter().map(Target::is_reached).collect();
        assert_eq!(reached, [true, false]);
    }
}
