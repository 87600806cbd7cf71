//! Which tables the report has, and what stands in their columns.

use crate::job::{Load, Metric, Subject};

use Metric::{
    BytesPerEntry, Changes, DeviceWritten, DiskOverBoundEnd, DiskOverBoundMax, DiskOverLiveEnd,
    DiskOverLiveMax, EntriesPerS, GbPerSThread, GrownMib, LogWritten, MaxUs, MovedMib, MovingShare,
    OpenMs, P50Us, P99AwayUs, P99MovingUs, P99NearUs, P99QuietUs, P99Us, P999Us, PeakMib,
    ResidentMib, ScannedMib, SyncsPerS,
};
use Subject::{DirectWrite, MapWrite, Pipelined, Probe, Quorate, RaftEngine, TwoUnderWay};

/// A part of the report.
pub(super) struct Section {
    pub(super) load: Load,
    pub(super) title: &'static str,
    pub(super) what: &'static str,
    pub(super) tables: &'static [Table],
}

/// A row is a case, or a subject of a case.
pub(super) enum Table {
    Cases(&'static [Column]),
    Subjects(&'static [Column]),
}

pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) cell: Cell,
    pub(super) digits: usize,
}

/// What stands in a cell.
pub(super) enum Cell {
    Of(Subject, Metric),
    /// Of the first subject as a multiple of the second's.
    Ratio(Metric, Subject, Subject),
    /// Of the subject of the row.
    Own(Metric),
    /// The largest of all rounds.
    OwnWorst(Metric),
}

const fn column(title: &'static str, cell: Cell, digits: usize) -> Column {
    Column {
        title,
        cell,
        digits,
    }
}

const THROUGHPUT: Table = Table::Cases(&[
    column("quorate /s", Cell::Of(Quorate, EntriesPerS), 0),
    column("probe /s", Cell::Of(Probe, EntriesPerS), 0),
    column("raft-engine /s", Cell::Of(RaftEngine, EntriesPerS), 0),
    column("of probe", Cell::Ratio(EntriesPerS, Quorate, Probe), 2),
    column(
        "of raft-engine",
        Cell::Ratio(EntriesPerS, Quorate, RaftEngine),
        2,
    ),
    column(
        "two under way of raft-engine",
        Cell::Ratio(EntriesPerS, TwoUnderWay, RaftEngine),
        2,
    ),
    column("p50 µs", Cell::Of(Quorate, P50Us), 1),
    column("p50 of probe", Cell::Ratio(P50Us, Quorate, Probe), 2),
    column(
        "p50 of raft-engine",
        Cell::Ratio(P50Us, Quorate, RaftEngine),
        2,
    ),
    column("syncs /s", Cell::Of(Quorate, SyncsPerS), 0),
]);

const LATENCY: Table = Table::Subjects(&[
    column("entries /s", Cell::Own(EntriesPerS), 0),
    column("p50 µs", Cell::Own(P50Us), 1),
    column("p99 µs", Cell::Own(P99Us), 1),
    column("p99.9 µs", Cell::Own(P999Us), 1),
    column("worst µs", Cell::OwnWorst(MaxUs), 0),
]);

const WRITTEN: Table = Table::Subjects(&[
    column("written / byte, by its count", Cell::Own(LogWritten), 2),
    column("written / byte, to the device", Cell::Own(DeviceWritten), 2),
    column("peak MiB", Cell::Own(PeakMib), 0),
]);

pub(super) const SECTIONS: [Section; 10] = [
    Section {
        load: Load::Append,
        title: "Synced appends, one entry a call",
        what: "Each call returns when its entry is durable; \"handing over\" leaves the writing \
               to the thread of the log. Probe: for 1 writer `pwrite` and `fdatasync` of as many \
               blocks, else a bare group commit. \"Two under way\" is the bare group commit with a second batch \
               written while the first is synced.",
        tables: &[THROUGHPUT, LATENCY, WRITTEN],
    },
    Section {
        load: Load::Sustained,
        title: "Synced appends of large entries, for longer",
        what: "The same for as long as a change of segments is watched. While the others have their turn, a log at rest \
               gives space back that it must fill again when it goes on: in a second that shows, here it does not.",
        tables: &[THROUGHPUT, LATENCY, WRITTEN],
    },
    Section {
        load: Load::Batches,
        title: "Synced appends of batches",
        what: "64 entries a call; \"64 deep\" is single entries of which each writer keeps 64 on \
               their way (raft-engine has no such mode).",
        tables: &[
            THROUGHPUT,
            Table::Cases(&[
                column("64 deep /s", Cell::Of(Pipelined, EntriesPerS), 0),
                column(
                    "of batches",
                    Cell::Ratio(EntriesPerS, Pipelined, Quorate),
                    2,
                ),
                column(
                    "of raft-engine's batches",
                    Cell::Ratio(EntriesPerS, Pipelined, RaftEngine),
                    2,
                ),
            ]),
            LATENCY,
            WRITTEN,
        ],
    },
    Section {
        load: Load::Fill,
        title: "Appends without syncs",
        what: "A call returns when the operating system has its bytes. Probe: the same writes \
               without a format.",
        tables: &[THROUGHPUT, LATENCY, WRITTEN],
    },
    Section {
        load: Load::Rotate,
        title: "A change of segments",
        what: "\"near\": calls under way within 50 ms of a change of segments (raft-engine: of \
               files). The probe has none.",
        tables: &[Table::Subjects(&[
            column("changes", Cell::Own(Changes), 0),
            column("p50 µs", Cell::Own(P50Us), 1),
            column("p99 near µs", Cell::Own(P99NearUs), 1),
            column("p99 away µs", Cell::Own(P99AwayUs), 1),
            column("p99 µs", Cell::Own(P99Us), 1),
            column("worst µs", Cell::OwnWorst(MaxUs), 0),
        ])],
    },
    Section {
        load: Load::Reopen,
        title: "Opening a log again",
        what: "Entries of 128 B in batches of 64, 16 groups; each open by a fresh process. \
               \"memory\" is what the open left resident that is not pages of files, \
               \"resident\" is all. Probe of a scan: reading the files and a CRC-32 of them.",
        tables: &[
            Table::Cases(&[
                column("quorate ms", Cell::Of(Quorate, OpenMs), 1),
                column("raft-engine ms", Cell::Of(RaftEngine, OpenMs), 1),
                column(
                    "of raft-engine",
                    Cell::Ratio(OpenMs, Quorate, RaftEngine),
                    3,
                ),
                column("scanned MiB", Cell::Of(Quorate, ScannedMib), 1),
                column("probe ms", Cell::Of(Probe, OpenMs), 1),
            ]),
            Table::Subjects(&[
                column("memory MiB", Cell::Own(GrownMib), 1),
                column("memory B/entry", Cell::Own(BytesPerEntry), 1),
                column("resident MiB", Cell::Own(ResidentMib), 1),
                column("peak MiB", Cell::Own(PeakMib), 0),
                column("payload GB/s by thread", Cell::Own(GbPerSThread), 2),
            ]),
        ],
    },
    Section {
        load: Load::Reads,
        title: "Reads of old entries",
        what: "128 B, warm, one thread, from sealed segments of a log that was opened again. \
               Probe: `pread` of as many bytes and a CRC-32. p50 is of one call.",
        tables: &[Table::Cases(&[
            column("quorate /s", Cell::Of(Quorate, EntriesPerS), 0),
            column("probe /s", Cell::Of(Probe, EntriesPerS), 0),
            column("raft-engine /s", Cell::Of(RaftEngine, EntriesPerS), 0),
            column("of probe", Cell::Ratio(EntriesPerS, Quorate, Probe), 2),
            column(
                "of raft-engine",
                Cell::Ratio(EntriesPerS, Quorate, RaftEngine),
                2,
            ),
            column("p50 µs", Cell::Of(Quorate, P50Us), 2),
            column("p99 µs", Cell::Of(Quorate, P99Us), 2),
        ])],
    },
    Section {
        load: Load::Space,
        title: "Disk beside live data",
        what: "Entries of 1 KiB; an appending group keeps 64 to 96 of them. \"most\": in the \
               second half of the run; \"at rest\": after it. The bound is twice what lives and \
               two segments. \"moving\": calls under way while \
               Quorate moved entries, or raft-engine purged.",
        tables: &[Table::Subjects(&[
            column("disk / live, most", Cell::Own(DiskOverLiveMax), 2),
            column("at rest", Cell::Own(DiskOverLiveEnd), 2),
            column("of its bound, most", Cell::Own(DiskOverBoundMax), 2),
            column("at rest", Cell::Own(DiskOverBoundEnd), 2),
            column("entries /s", Cell::Own(EntriesPerS), 0),
            column("moved MiB", Cell::Own(MovedMib), 1),
            column("p99 moving µs", Cell::Own(P99MovingUs), 1),
            column("p99 otherwise µs", Cell::Own(P99QuietUs), 1),
            column("share moving", Cell::Own(MovingShare), 2),
        ])],
    },
    Section {
        load: Load::Map,
        title: "Other ways to write",
        what: "The same blocks by `pwrite` and `fdatasync` (probe), by stores to a shared map \
               and `msync`, and past the page cache (`O_DIRECT`) and `fdatasync`. No log.",
        tables: &[Table::Cases(&[
            column("map KiB/s", Cell::Of(MapWrite, EntriesPerS), 0),
            column("probe KiB/s", Cell::Of(Probe, EntriesPerS), 0),
            column("of probe", Cell::Ratio(EntriesPerS, MapWrite, Probe), 2),
            column("direct KiB/s", Cell::Of(DirectWrite, EntriesPerS), 0),
            column("of probe", Cell::Ratio(EntriesPerS, DirectWrite, Probe), 2),
            column("map p50 µs", Cell::Of(MapWrite, P50Us), 1),
            column("probe p50 µs", Cell::Of(Probe, P50Us), 1),
            column("direct p50 µs", Cell::Of(DirectWrite, P50Us), 1),
            column("map p99 µs", Cell::Of(MapWrite, P99Us), 1),
            column("probe p99 µs", Cell::Of(Probe, P99Us), 1),
            column("direct p99 µs", Cell::Of(DirectWrite, P99Us), 1),
        ])],
    },
    Section {
        load: Load::Depth,
        title: "Two batches under way",
        what: "So many bytes that callers wait for: written and synced as one batch (probe), or as \
               two halves, of which one is written while the other is synced. No log.",
        tables: &[Table::Cases(&[
            column("two KiB/s", Cell::Of(TwoUnderWay, EntriesPerS), 0),
            column("one KiB/s", Cell::Of(Probe, EntriesPerS), 0),
            column(
                "two of one",
                Cell::Ratio(EntriesPerS, TwoUnderWay, Probe),
                2,
            ),
            column("two p50 µs", Cell::Of(TwoUnderWay, P50Us), 1),
            column("one p50 µs", Cell::Of(Probe, P50Us), 1),
            column("two p99 µs", Cell::Of(TwoUnderWay, P99Us), 1),
            column("one p99 µs", Cell::Of(Probe, P99Us), 1),
        ])],
    },
];
