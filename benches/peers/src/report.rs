//! The tables: one or more for each load, medians over the rounds, every ratio within its round.

use std::fmt::Write;

use crate::bench::Plan;
use crate::book::{Book, Case};
use crate::job::{Load, Metric, Subject};
use crate::targets::{Target, targets};

use Metric::{
    BytesPerEntry, Changes, DeviceWritten, DiskOverLiveEnd, DiskOverLiveMax, EntriesPerS,
    GbPerSThread, GrownMib, LogWritten, MaxUs, MovedMib, MovingShare, OpenMs, P50Us, P99AwayUs,
    P99MovingUs, P99NearUs, P99QuietUs, P99Us, P999Us, PeakMib, ResidentMib, ScannedMib, SyncsPerS,
};
use Subject::{MapWrite, Pipelined, Probe, Quorate, RaftEngine};

/// A part of the report.
struct Section {
    load: Load,
    title: &'static str,
    what: &'static str,
    tables: &'static [Table],
}

/// A row is a case, or a subject of a case.
enum Table {
    Cases(&'static [Column]),
    Subjects(&'static [Column]),
}

struct Column {
    title: &'static str,
    cell: Cell,
    digits: usize,
}

/// What stands in a cell.
enum Cell {
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

const SECTIONS: [Section; 8] = [
    Section {
        load: Load::Append,
        title: "Synced appends, one entry a call",
        what: "Each call returns when its entry is durable; \"handing over\" leaves the writing to the thread of the log. Probe: for 1 writer `pwrite` and `fdatasync` of as many blocks, else a bare group commit.",
        tables: &[THROUGHPUT, LATENCY, WRITTEN],
    },
    Section {
        load: Load::Batches,
        title: "Synced appends of batches",
        what: "64 entries a call; \"64 deep\" is single entries of which each writer keeps 64 on their way (raft-engine has no such mode).",
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
        what: "A call returns when the operating system has its bytes. Probe: the same writes without a format.",
        tables: &[THROUGHPUT, LATENCY, WRITTEN],
    },
    Section {
        load: Load::Rotate,
        title: "A change of segments",
        what: "\"near\": calls under way within 50 ms of a change of segments (raft-engine: of files). The probe has none.",
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
        what: "Entries of 128 B in batches of 64, 16 groups; each open by a fresh process. \"memory\" is what the open left resident that is not pages of files, \"resident\" is all. Probe of a scan: reading the files and a CRC-32 of them.",
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
        what: "128 B, warm, one thread, from sealed segments of a log that was opened again. Probe: `pread` of as many bytes and a CRC-32. p50 is of one call.",
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
        what: "Entries of 1 KiB; an appending group keeps 64 to 96 of them. \"most\": in the second half of the run; \"at rest\": after it. \"moving\": calls under way while Quorate moved entries, or raft-engine purged.",
        tables: &[Table::Subjects(&[
            column("disk / live, most", Cell::Own(DiskOverLiveMax), 2),
            column("at rest", Cell::Own(DiskOverLiveEnd), 2),
            column("entries /s", Cell::Own(EntriesPerS), 0),
            column("moved MiB", Cell::Own(MovedMib), 1),
            column("p99 moving µs", Cell::Own(P99MovingUs), 1),
            column("p99 otherwise µs", Cell::Own(P99QuietUs), 1),
            column("share moving", Cell::Own(MovingShare), 2),
        ])],
    },
    Section {
        load: Load::Map,
        title: "Writes through a shared map",
        what: "The same blocks by `pwrite` and `fdatasync` (probe) and by stores to a shared map and `msync`, no log.",
        tables: &[Table::Cases(&[
            column("map /s", Cell::Of(MapWrite, EntriesPerS), 0),
            column("probe /s", Cell::Of(Probe, EntriesPerS), 0),
            column("of probe", Cell::Ratio(EntriesPerS, MapWrite, Probe), 2),
            column("map p50 µs", Cell::Of(MapWrite, P50Us), 1),
            column("probe p50 µs", Cell::Of(Probe, P50Us), 1),
            column("map p99 µs", Cell::Of(MapWrite, P99Us), 1),
            column("probe p99 µs", Cell::Of(Probe, P99Us), 1),
        ])],
    },
];

/// The whole report in markdown.
pub(crate) fn markdown(book: &Book, plan: &Plan, machine: &str, is_quick: bool) -> String {
    let mut out = String::from("# The log, measured\n\n");
    if is_quick || cfg!(debug_assertions) {
        out += "**A quick run, or a debug build: it shows that everything runs, and its figures mean nothing.**\n\n";
    }
    put(
        &mut out,
        &format!(
            "{machine}\n\nMedians of {} rounds of {} ms ({} of the loads that take long). ",
            plan.rounds, plan.slice_ms, plan.long_rounds
        ),
    );
    out += "\"of\": the median over the rounds of the ratio within a round; throughput as a share, latency and time as a multiple. ";
    out += "The subjects of a case run in turn, each in a process of its own. Payloads are random bytes. ";
    out += "raft-engine 0.4.2 has its default options, LZ4 of batches from 8 KiB included (\"no LZ4\" is without), but for what makes it use files again: ";
    out += "appends with files of 64 MiB and a purge threshold of 256 MiB, tried every 100 ms; ";
    out += "disk beside live data with files of 8 MiB and a threshold of twice what lives (at least 32 MiB), tried every 250 ms.\n\n";
    put_targets(&mut out, &targets(book));
    for section in &SECTIONS {
        put_section(&mut out, book, section);
    }
    out
}

fn put_targets(out: &mut String, targets: &[Target]) {
    if targets.is_empty() {
        return;
    }
    *out +=
        "## What it must reach\n\n| what | measured | must be | |\n| --- | ---: | ---: | --- |\n";
    for target in targets {
        let line = format!(
            "| {} | {:.3} | {} | {} |\n",
            target.what,
            target.measured,
            target.bound,
            if target.is_reached() { "PASS" } else { "MISS" }
        );
        put(out, &line);
    }
    *out += "\n";
}

fn put_section(out: &mut String, book: &Book, section: &Section) {
    if book.of(section.load).next().is_none() {
        return;
    }
    put(
        out,
        &format!("## {}\n\n{}\n\n", section.title, section.what),
    );
    for table in section.tables {
        put_table(out, book, section.load, table);
    }
}

fn put_table(out: &mut String, book: &Book, load: Load, table: &Table) {
    let (head, columns) = match table {
        Table::Cases(columns) => ("| case |", columns),
        Table::Subjects(columns) => ("| case | who |", columns),
    };
    *out += head;
    for column in *columns {
        put(out, &format!(" {} |", column.title));
    }
    *out += "\n|";
    *out += &" --- |".repeat(head.matches('|').count() - 1);
    *out += &" ---: |".repeat(columns.len());
    *out += "\n";
    for case in book.of(load) {
        match table {
            Table::Cases(columns) => {
                put_row(out, case, &format!("| {} |", case.name), None, columns);
            }
            Table::Subjects(columns) => {
                for subject in case.subjects() {
                    let head = format!("| {} | {} |", case.name, subject.name());
                    put_row(out, case, &head, Some(subject), columns);
                }
            }
        }
    }
    *out += "\n";
}

/// A row of which at least one cell is not empty.
fn put_row(out: &mut String, case: &Case, head: &str, own: Option<Subject>, columns: &[Column]) {
    let figures: Vec<Option<f64>> = columns
        .iter()
        .map(|column| figure(case, own, &column.cell))
        .collect();
    if figures.iter().all(Option::is_none) {
        return;
    }
    *out += head;
    for (figure, column) in figures.iter().zip(columns) {
        match figure {
            Some(figure) => put(out, &format!(" {figure:.*} |", column.digits)),
            None => *out += " – |",
        }
    }
    *out += "\n";
}

fn figure(case: &Case, own: Option<Subject>, cell: &Cell) -> Option<f64> {
    match *cell {
        Cell::Of(subject, metric) => case.median(subject, metric),
        Cell::Ratio(metric, of, to) => case.ratio(metric, of, to),
        Cell::Own(metric) => case.median(own?, metric),
        Cell::OwnWorst(metric) => case.worst(own?, metric),
    }
}

fn put(out: &mut String, text: &str) {
    out.write_str(text).expect("a string takes every write");
}

/// What this machine is.
pub(crate) fn machine(root: &std::path::Path) -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory_kib: u64 = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    format!(
        "{model}, {processors} processors, {} GiB; Linux {}; {}.",
        memory_kib >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        file_system(root)
    )
}

/// The line of the mount that a folder is in.
fn file_system(root: &std::path::Path) -> String {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(str::to_owned);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        root.starts_with(&path)
            .then(|| (path.len(), format!("{kind} ({options})")))
    };
    let found = mounts.lines().filter_map(of).max_by_key(|it| it.0);
    found.map_or("unknown file system".to_owned(), |it| it.1)
}
