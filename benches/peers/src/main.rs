//! Measures the log beside raw probes and beside raft-engine, on the same work in the same run.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- --out docs
//! ```
//!
//! The subjects of a case take turns, round by round, each in a process of its own. Figures are
//! comparable within one run alone; so each is given as a ratio as well.

#![deny(unsafe_code)]

mod append;
mod bench;
mod blocks;
mod book;
mod job;
mod map_file;
mod peer;
mod plot;
mod reads;
mod reopen;
mod report;
mod rotate;
mod space;
mod store;
mod targets;
mod trace;
mod worker;
mod written;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use quorate_benches::{Failure, Place};

use bench::{Bench, Plan};
use book::Book;
use job::Load;

/// Measures a load.
type Run = fn(&mut Bench) -> Result<(), Failure>;

/// Measures the log of Quorate beside raw probes and raft-engine on this machine.
///
/// The report goes to standard output, progress to standard error. The files go below `--dir`, else
/// below the folder that `QUORATE_BENCH_DIR` names, else beside this program; they take up to 6 GiB
/// while it runs.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many rounds; of the loads that take long at most three.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Little of everything: shows that it runs, and nothing else.
    #[arg(long, conflicts_with_all = ["rounds", "reopen_mib"])]
    quick: bool,
    /// Only these loads.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Load>,
    /// How large the largest log is that is opened again.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..=16_384))]
    reopen_mib: u64,
    /// Where the files go while it runs: a folder on the disk that is to be measured.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the report and every figure of every round into this folder, and the plots into `img`
    /// below it.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures nothing: makes the report of the figures in this file, as `--out` wrote it. Given more than once, loads come
    /// from the last file that has them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rounds", "quick", "only", "reopen_mib", "dir"])]
    from: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let mut raw = std::env::args().skip(1);
    let ended = match (raw.next(), raw.next()) {
        (Some(worker), Some(job)) if worker == worker::WORKER => worker::serve(&job),
        _ => run(&Arguments::parse()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.from.is_empty() {
        return run_loads(arguments);
    }
    let (book, how) = read_all(&arguments.from)?;
    hand_over(&book, &how, arguments.out.as_deref())
}

fn run_loads(arguments: &Arguments) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        eprintln!("peers: this is a debug build, run it with --release: the figures mean nothing");
    }
    let place = match &arguments.dir {
        Some(dir) => Place::at(dir.clone())?,
        None => Place::from_environment()?,
    };
    let plan = if arguments.quick {
        Plan::quick()
    } else {
        Plan::full(arguments.rounds.into(), arguments.reopen_mib << 20)
    };
    eprintln!("files below {}", place.root().display());
    let how = report::how(place.root(), &plan, arguments.quick);
    let mut bench = Bench::new(place.root().to_owned(), plan);
    let ran = measure(&mut bench, &arguments.only);
    bench.end();
    // What was measured before a failure is worth a look.
    hand_over(&bench.book, &how, arguments.out.as_deref())?;
    ran
}

fn measure(bench: &mut Bench, only: &[Load]) -> Result<(), Failure> {
    let loads: [(Load, Run); 10] = [
        (Load::Append, append::run_single),
        (Load::Sustained, append::run_sustained),
        (Load::Batches, append::run_batches),
        (Load::Fill, append::run_fill),
        (Load::Rotate, rotate::run),
        (Load::Reopen, reopen::run),
        (Load::Reads, reads::run),
        (Load::Space, space::run),
        (Load::Map, blocks::run),
        (Load::Depth, blocks::run_depth),
    ];
    for (load, run) in loads {
        if only.is_empty() || only.contains(&load) {
            run(bench).map_err(|error| format!("{load:?}: {error}"))?;
        }
    }
    Ok(())
}

/// The figures of several files as those of one run, and how each was measured.
fn read_all(paths: &[PathBuf]) -> Result<(Book, String), Failure> {
    let mut whole = Book::default();
    let mut hows = Vec::new();
    for path in paths {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        let (book, how) = store::read(&text).map_err(|error| format!("{name}: {error}"))?;
        let loads: Vec<String> = book.loads().iter().map(|it| format!("{it:?}")).collect();
        hows.push(match hows.len() {
            0 => how,
            _ => format!("Of another run, {}: {how}", loads.join(", ")),
        });
        whole.take_over(book);
    }
    Ok((whole, hows.join("\n\n")))
}

/// Prints the report, and writes what is asked for.
fn hand_over(book: &Book, how: &str, out: Option<&Path>) -> Result<(), Failure> {
    let text = report::markdown(book, how);
    print!("{text}");
    let Some(out) = out else {
        return Ok(());
    };
    std::fs::create_dir_all(out)?;
    for (name, text) in [
        ("log-figures.md", text),
        ("log-figures.jsonl", store::write(book, how)?),
    ] {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    for path in plot::draw(book, &out.join("img"))? {
        eprintln!("drew {}", path.display());
    }
    Ok(())
}
