//! The main job: an inverted index of a real text, built in a durable cluster whose leaders crash
//! every two seconds.
//!
//! Several clerks append the position of each word to the word's key, many at once. Meanwhile the
//! leader crashes again and again and comes back from its files, and snapshots cut the log. At the
//! end the replicated index must be the one that the clerks built beside it: nothing lost, nothing
//! twice, each clerk's appends in order; and all replicas must be equal, byte for byte.
//!
//! ```text
//! cargo run --release --example cluster
//! cargo run --release --example cluster -- --groups 16 --seconds 60 --input /usr/share/doc
//! ```

mod args;
mod chaos;
mod check;
mod index;
mod load;
mod progress;
mod settle;
mod text;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use quorate::{Clerk, Cluster, GroupId, Options};

use args::{Args, HELP};
use check::Report;
use index::{CLERKS, LocalIndex};
use load::{Load, Loaded};
use progress::{Meter, per_second, thousands};
use text::Text;

/// Small, so that logs are cut many times in a short run.
const SNAPSHOT_LOG_BYTES: u64 = 1 << 20;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does the whole job; returns whether everything is as it must be. Files of a run that went wrong
/// are kept.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let text = Text::read(&args.input)?;
    let dir = Dir::make(args.dir.as_deref())?;
    eprintln!(
        "{} files, {} bytes of text ({} other files skipped); nodes: {}, groups: {}, {:?}, in {}",
        thousands(text.files_count()),
        thousands(text.len_bytes()),
        thousands(text.skipped),
        args.nodes,
        args.groups,
        args.transport,
        dir.path().display()
    );
    let result = build_and_verify(args, &text, dir.path());
    if !matches!(&result, Ok(report) if report.is_clean()) {
        eprintln!("the nodes' files are kept in {}", dir.keep().display());
    }
    result.map(|report| report.is_clean())
}

/// Runs the cluster and says how it went.
fn build_and_verify(args: &Args, text: &Text, dir: &Path) -> Result<Report, Box<dyn Error>> {
    let mut options = Options::default();
    options.snapshot_log_bytes = SNAPSHOT_LOG_BYTES;
    let cluster = Cluster::builder()
        .nodes(args.nodes)
        .groups(args.groups)
        .transport(args.transport)
        .dir(dir)
        .options(options)
        .start()?;
    let tally = build(&cluster, text, args.duration)?;
    let report = verify(&cluster, &tally.locals)?;
    for difference in &report.differences {
        eprintln!("difference: {difference}");
    }
    println!("{}", summary(&report, &tally));
    Ok(report)
}

/// What happened while the index was built.
struct Tally {
    locals: Vec<LocalIndex>,
    acknowledged: u64,
    unanswered: u64,
    crashes: u64,
    elections: u64,
    elapsed: Duration,
}

/// Builds the index under chaos, with a thread for each clerk, one for the chaos and one that shows
/// how it goes.
fn build(cluster: &Cluster, text: &Text, duration: Duration) -> Result<Tally, Box<dyn Error>> {
    let meter = Meter::new();
    let load = Load::new(text, duration, &meter);
    let clerks: Vec<Clerk> = (0..CLERKS).map(|_| cluster.clerk()).collect();
    let (stop_chaos, chaos_stopped) = mpsc::channel();
    let (stop_watch, watch_stopped) = mpsc::channel();
    let began = Instant::now();
    let (load, meter) = (&load, &meter);
    thread::scope(|scope| {
        let chaos = scope.spawn(move || {
            // Without the chaos the run would prove little, so the load ends with it.
            chaos::run(cluster, meter, &chaos_stopped).inspect_err(|_| load.give_up())
        });
        let watch = scope.spawn(move || progress::watch(cluster, meter, &watch_stopped));
        let writers: Vec<_> = (0..)
            .zip(&clerks)
            .map(|(number, clerk)| scope.spawn(move || load.run(number, clerk)))
            .collect();
        // All are joined before any error is looked at, so that the threads that wait for a word to
        // stop get it.
        let loaded: Vec<_> = writers.into_iter().map(join).collect();
        let elapsed = began.elapsed();
        drop(stop_chaos);
        let chaos = join(chaos);
        drop(stop_watch);
        let elections = join(watch)?;
        chaos?;
        let loaded: Vec<Loaded> = loaded.into_iter().collect::<Result<_, _>>()?;
        Ok(Tally {
            acknowledged: loaded.iter().map(|loaded| loaded.acknowledged).sum(),
            unanswered: loaded.iter().map(|loaded| loaded.unanswered).sum(),
            locals: loaded.into_iter().map(|loaded| loaded.index).collect(),
            crashes: meter.crashes(),
            elections,
            elapsed,
        })
    })
}

/// Waits until the cluster has come to rest, and compares everything with everything.
fn verify(cluster: &Cluster, locals: &[LocalIndex]) -> Result<Report, Box<dyn Error>> {
    let nodes = settle::restart_all(cluster)?;
    let mut report = Report::default();
    let mut groups = Vec::with_capacity(cluster.groups() as usize);
    for group in (0..u64::from(cluster.groups())).map(GroupId) {
        let mut replicas = settle::read_replicas(&nodes, group)?;
        check::check_replicas(group, &replicas, &mut report);
        groups.push(replicas.swap_remove(0).entries);
    }
    let groups: Vec<_> = groups.iter().collect();
    check::check_index(locals, &groups, &mut report);
    Ok(report)
}

/// The one line on standard output.
fn summary(report: &Report, tally: &Tally) -> String {
    if !report.is_clean() {
        let (count, shown) = (
            thousands(report.differences_count),
            report.differences.len(),
        );
        return format!("failed: {count} differences, the first {shown} of them on standard error");
    }
    let unanswered = match tally.unanswered {
        0 => String::new(),
        count => {
            let (count, applied) = (thousands(count), thousands(report.unanswered_applied));
            format!(" ({count} more without an answer, {applied} of them applied)")
        }
    };
    format!(
        "ok: {} keys, {} appends{unanswered}, {} leaders crashed, {} elections survived, \
         {} appends/s, replicas equal",
        thousands(report.keys),
        thousands(tally.acknowledged),
        thousands(tally.crashes),
        thousands(tally.elections),
        thousands(per_second(tally.acknowledged, tally.elapsed)),
    )
}

/// Takes a thread's result, and goes on with its panic if it panicked.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where the nodes' files are.
enum Dir {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Dir {
    /// Uses the folder asked for if it is empty, since the words of an earlier run would be taken
    /// for errors of this one.
    fn make(given: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let Some(given) = given else {
            let temporary = tempfile::Builder::new()
                .prefix("quorate-cluster-")
                .tempdir();
            return Ok(Self::Temporary(temporary.map_err(|error| {
                format!("no temporary folder: {error}; pass --dir")
            })?));
        };
        let name = given.display();
        std::fs::create_dir_all(given).map_err(|error| format!("cannot make {name}: {error}"))?;
        let mut entries =
            std::fs::read_dir(given).map_err(|error| format!("cannot read {name}: {error}"))?;
        if entries.next().is_some() {
            return Err(
                format!("{name} is not empty; pass a new or empty folder with --dir").into(),
            );
        }
        Ok(Self::Given(given.to_path_buf()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(dir) => dir,
        }
    }

    /// Keeps the files for a closer look.
    fn keep(self) -> PathBuf {
        match self {
            Self::Temporary(dir) => dir.keep(),
            Self::Given(dir) => dir,
        }
    }
}
