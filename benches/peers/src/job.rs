//! What a worker process is asked to do, and what it answers.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use quorate_benches::{AppendShape, Budget, Sample, StoredShape};
use quorate_wal::Durability;
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Synced appends, one entry a call.
    Append,
    /// Synced appends of large entries, for longer.
    Sustained,
    /// Synced appends of batches, and of single entries that are many on their way.
    Batches,
    /// Appends without syncs.
    Fill,
    /// Latencies near a change of segments, and away from it.
    Rotate,
    /// Opening a log again.
    Reopen,
    /// Reads of old entries.
    Reads,
    /// Disk beside live data, and latencies while entries are moved.
    Space,
    /// Writes through a shared map, and past the page cache, beside writes by call.
    Map,
    /// Two batches under way beside one of twice the size.
    Depth,
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// The same bytes without any log.
    Probe,
    /// The log.
    Quorate,
    /// The log, each call leaving the writing to the thread of the log.
    Handing,
    /// The log, with segments as small as the peer's files.
    SmallSegments,
    /// The log, with single entries many on their way.
    Pipelined,
    /// The peer.
    RaftEngine,
    /// The peer without its compression.
    RaftEnginePlain,
    /// Stores to a shared map, and `msync`.
    MapWrite,
    /// Writes past the page cache.
    DirectWrite,
    /// The same bytes without any log, two halves at once.
    TwoUnderWay,
}

/// A figure that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Metric {
    EntriesPerS,
    SyncsPerS,
    P50Us,
    P99Us,
    P999Us,
    MaxUs,
    /// Bytes that the log says to have written, by byte that was acknowledged.
    LogWritten,
    /// Bytes that the device was given, by byte that was acknowledged.
    DeviceWritten,
    PeakMib,
    /// Near a change of segments.
    P99NearUs,
    P99AwayUs,
    Changes,
    OpenMs,
    /// By how much the memory grew that is not pages of files.
    GrownMib,
    /// By how much all resident memory grew.
    ResidentMib,
    /// The growth without pages of files, by entry.
    BytesPerEntry,
    ScannedMib,
    /// Payload bytes a second, by thread.
    GbPerSThread,
    DiskOverLiveMax,
    DiskOverLiveEnd,
    /// As a share of twice what lives and two segments.
    DiskOverBoundMax,
    DiskOverBoundEnd,
    MovedMib,
    P99MovingUs,
    P99QuietUs,
    MovingShare,
}

/// What a worker answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) values: Vec<(Metric, f64)>,
    /// Points of a line over time.
    pub(crate) series: Vec<(f64, f64)>,
}

/// How long one slice of a load runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Slice {
    Millis(u64),
    Calls(u64),
}

/// What a worker does. Paths are folders; the root is where temporary ones are made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Append(Append),
    Rotate(Append),
    Write(Stored),
    Seal {
        dir: PathBuf,
    },
    SpoilFooters {
        dir: PathBuf,
    },
    Open {
        stored: Stored,
        threads: usize,
    },
    Read {
        stored: Stored,
        reads: Reads,
        slice: Slice,
    },
    Space(Space),
    Blocks {
        root: PathBuf,
        subject: Subject,
        bytes: usize,
        slice: Slice,
    },
}

/// See [`AppendShape`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) root: PathBuf,
    pub(crate) subject: Subject,
    pub(crate) writers: usize,
    pub(crate) entries: usize,
    pub(crate) entry_bytes: usize,
    pub(crate) synced: bool,
    pub(crate) slice: Slice,
}

/// A log in a folder, see [`StoredShape`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) subject: Subject,
    pub(crate) dir: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) entry_bytes: usize,
    pub(crate) per_append: u64,
}

/// How a log is read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Reads {
    Random,
    /// So many entries at a time.
    Forward(u64),
}

/// Groups that append and compact.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Space {
    pub(crate) root: PathBuf,
    pub(crate) subject: Subject,
    /// Groups that append.
    pub(crate) groups: u64,
    pub(crate) writers: u64,
    pub(crate) entries_per_call: u64,
    /// Entries that an appending group keeps at least.
    pub(crate) kept: u64,
    /// Groups that have a few entries and append nothing more.
    pub(crate) sleeping: u64,
    pub(crate) entry_bytes: usize,
    pub(crate) synced: bool,
    pub(crate) run_ms: u64,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Quorate => "quorate",
            Self::Handing => "quorate, handing over",
            Self::SmallSegments => "quorate, segments of 8 MiB",
            Self::Pipelined => "quorate, 64 deep",
            Self::RaftEngine => "raft-engine",
            Self::RaftEnginePlain => "raft-engine, no LZ4",
            Self::MapWrite => "map and msync",
            Self::DirectWrite => "past the page cache",
            Self::TwoUnderWay => "two under way",
        }
    }
}

impl Slice {
    pub(crate) fn budget(self) -> Budget {
        match self {
            Self::Millis(millis) => Budget::Time(Duration::from_millis(millis)),
            Self::Calls(calls) => Budget::Ops(calls),
        }
    }

    /// A shorter one, to get warm.
    pub(crate) fn warm_up(self) -> Self {
        match self {
            Self::Millis(millis) => Self::Millis((millis / 4).max(1)),
            Self::Calls(calls) => Self::Calls((calls / 4).max(1)),
        }
    }
}

impl Append {
    pub(crate) fn shape(&self) -> AppendShape {
        AppendShape {
            writers: self.writers,
            entries: self.entries,
            entry_bytes: self.entry_bytes,
            durability: if self.synced {
                Durability::PowerLoss
            } else {
                Durability::ProcessCrash
            },
        }
    }
}

impl Stored {
    pub(crate) fn shape(&self) -> StoredShape {
        StoredShape::of_bytes(self.bytes, self.entry_bytes, self.per_append)
    }
}

impl Report {
    pub(crate) fn put(&mut self, metric: Metric, value: f64) {
        self.values.push((metric, value));
    }

    /// A figure that was added.
    pub(crate) fn value(&self, metric: Metric) -> Option<f64> {
        let found = self.values.iter().find(|(which, _)| *which == metric);
        found.map(|(_, value)| *value)
    }

    /// Adds a figure that not every machine has.
    pub(crate) fn put_some(&mut self, metric: Metric, value: Option<f64>) {
        if let Some(value) = value {
            self.put(metric, value);
        }
    }

    /// Adds rate and latencies of a sample, whose calls were of so many entries.
    pub(crate) fn put_sample(&mut self, sample: &Sample, entries_per_call: u64) {
        let us = |quantile| sample.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        self.put(
            Metric::EntriesPerS,
            sample.ops_per_s() * entries_per_call as f64,
        );
        self.put(Metric::P50Us, us(0.5));
        self.put(Metric::P99Us, us(0.99));
        self.put(Metric::P999Us, us(0.999));
        self.put(Metric::MaxUs, us(1.0));
        if sample.syncs > 0 {
            self.put(Metric::SyncsPerS, sample.syncs_per_s());
        }
    }
}
