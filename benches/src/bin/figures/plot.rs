//! Throughput by what is on its way, as SVG.

use std::path::{Path, PathBuf};

use plotters::prelude::*;
use quorate_benches::{Failure, Setup};

use crate::suite::{Case, LOG_APPEND, PUT, Round};
use crate::table::median;

/// A line of a plot: its name, and points of (outstanding, ops per second).
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (760, 440);

/// Told apart by people who see colours differently (Okabe and Ito).
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(110, 110, 110),
];

/// Draws what was measured; says which files were written.
pub(crate) fn draw(cases: &[Case], dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    std::fs::create_dir_all(dir)?;
    let plots = [
        (
            "log_append.svg",
            "Synced appends of 128 B by writers",
            "writers",
            log_lines(cases),
        ),
        (
            "committed_puts.svg",
            "Committed puts by outstanding, 3 replicas",
            "outstanding",
            put_lines(cases),
        ),
    ];
    let mut drawn = Vec::new();
    for (file, title, axis, lines) in plots {
        if lines.iter().any(|line| !line.points.is_empty()) {
            let path = dir.join(file);
            draw_one(&path, title, axis, &lines)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            drawn.push(path);
        }
    }
    Ok(drawn)
}

fn log_lines(cases: &[Case]) -> Vec<Line> {
    let of_128: Vec<&Case> = cases
        .iter()
        .filter(|case| case.load == LOG_APPEND && case.name.starts_with("128 B"))
        .collect();
    vec![
        line("quorate", &of_128, ops_per_s),
        line("bare group commit", &of_128, probe_ops_per_s),
    ]
}

fn put_lines(cases: &[Case]) -> Vec<Line> {
    let of = |setup: Setup| -> Vec<&Case> {
        cases
            .iter()
            .filter(|case| case.load == PUT && case.name.starts_with(setup.name()))
            .collect()
    };
    let mut lines: Vec<Line> = Setup::ALL
        .into_iter()
        .map(|setup| line(setup.name(), &of(setup), ops_per_s))
        .collect();
    lines.push(line(
        "quorum probe, no format",
        &of(Setup::MemoryTransport),
        probe_ops_per_s,
    ));
    lines
}

fn line(name: &str, cases: &[&Case], figure: fn(&Round) -> Option<f64>) -> Line {
    let point = |case: &&Case| Some((case.outstanding as f64, median(case, figure)?));
    Line {
        name: name.to_owned(),
        points: cases.iter().filter_map(point).collect(),
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "a figure that every round has is passed like one that some have"
)]
fn ops_per_s(round: &Round) -> Option<f64> {
    Some(round.sample.ops_per_s())
}

fn probe_ops_per_s(round: &Round) -> Option<f64> {
    round.probe.as_ref().map(quorate_benches::Sample::ops_per_s)
}

fn draw_one(path: &Path, title: &str, axis: &str, lines: &[Line]) -> Result<(), Failure> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max) * 1.2;
    let top = points().map(|point| point.1).fold(1.0, f64::max) * 1.5;
    let bottom = points().map(|point| point.1).fold(top, f64::min) / 1.5;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d((0.9..right).log_scale(), (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("per second")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| thousands(*value))
        .light_line_style(WHITE)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS) {
        chart
            .draw_series(
                LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(4),
            )?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(COLOURS[3])
        .draw()?;
    area.present()?;
    Ok(())
}

/// 12,345 as "12 k".
fn thousands(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.1} M", value / 1e6)
    } else if value >= 1e3 {
        format!("{:.0} k", value / 1e3)
    } else {
        format!("{value:.0}")
    }
}
