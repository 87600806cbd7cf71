//! The tables: one or more for each load, medians over the rounds, every ratio within its round.

mod sections;

use std::fmt::Write;

use crate::bench::Plan;
use crate::book::{Book, Case};
use crate::job::{Load, Subject};
use crate::targets::{Target, targets};

use sections::{Cell, Column, SECTIONS, Section, Table};

/// How it was measured.
const HOW: &str = "\"of\": the median over the rounds of the ratio within a round; throughput as \
    a share, latency and time as a multiple. The subjects of a case run in turn, each in a \
    process of its own. Payloads are random bytes. raft-engine 0.4.2 has its default options, \
    LZ4 of batches from 8 KiB included (\"no LZ4\" is without), but for what makes it use files \
    again: appends with files of 64 MiB and a purge threshold of 256 MiB, tried every 100 ms; \
    disk beside live data with files of 8 MiB and a threshold of twice what lives (at least 32 \
    MiB), tried every 250 ms.";

/// The machine, and how much is measured on it.
pub(crate) fn how(root: &std::path::Path, plan: &Plan, is_quick: bool) -> String {
    let mut out = String::new();
    if is_quick || cfg!(debug_assertions) {
        out += "**A quick run, or a debug build: it shows that everything runs, and its figures \
                mean nothing.** ";
    }
    let text = format!(
        "{} Medians of {} rounds of {} ms ({} of the loads that take long).",
        machine(root),
        plan.rounds,
        plan.slice_ms,
        plan.long_rounds
    );
    out + &text
}

/// The whole report in markdown.
pub(crate) fn markdown(book: &Book, how: &str) -> String {
    let mut out = String::from("# The log, measured\n\n");
    put(&mut out, &format!("{how}\n\n{HOW}\n\n"));
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
fn machine(root: &std::path::Path) -> String {
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
