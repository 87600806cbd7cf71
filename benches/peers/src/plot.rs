//! The plots, as SVG.

use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use quorate_benches::Failure;

use crate::append::name;
use crate::book::{Book, Case};
use crate::job::{Load, Metric, Subject};
use crate::space::{HOT, THOUSAND};

/// A line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// One plot. The vertical axis is logarithmic; the horizontal one where its points are multiples of
/// each other.
struct Plot {
    file: &'static str,
    title: String,
    axes: (&'static str, &'static str),
    is_x_log: bool,
    lines: Vec<Line>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (760, 440);

/// Told apart by people who see colours differently (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(110, 110, 110),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

const SUBJECTS: [Subject; 3] = [Subject::Quorate, Subject::RaftEngine, Subject::Probe];

/// Draws what was measured; says which files were written.
pub(crate) fn draw(book: &Book, dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    std::fs::create_dir_all(dir)?;
    let plots = [
        appends(book, "log-append-128.svg", 128),
        appends(book, "log-append-16384.svg", 16 << 10),
        latencies(book),
        reopens(book),
        space(book, "log-space.svg", THOUSAND),
        space(book, "log-space-hot.svg", HOT),
    ];
    let mut drawn = Vec::new();
    for plot in plots {
        if plot.lines.iter().any(|line| line.points.len() > 1) {
            let path = dir.join(plot.file);
            plot.draw(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            drawn.push(path);
        }
    }
    Ok(drawn)
}

fn appends(book: &Book, file: &'static str, entry_bytes: usize) -> Plot {
    let ending = format!(", {entry_bytes} B");
    let cases: Vec<&Case> = book
        .of(Load::Append)
        .filter(|case| case.name.ends_with(&ending))
        .collect();
    Plot {
        file,
        title: format!("Synced appends of {entry_bytes} B by writers"),
        axes: ("writers", "entries per second"),
        is_x_log: true,
        lines: SUBJECTS
            .map(|subject| {
                line(
                    subject.name().to_owned(),
                    &cases,
                    subject,
                    Metric::EntriesPerS,
                )
            })
            .into(),
    }
}

/// How many nines a quantile has is the horizontal axis: 50 %, 99 %, 99.9 %, and all.
fn latencies(book: &Book) -> Plot {
    let mut lines = Vec::new();
    for writers in [1, 16] {
        let Some(case) = book.case(Load::Append, &name(writers, 1, 128)) else {
            continue;
        };
        for subject in SUBJECTS {
            let point = |(x, metric, _)| Some((x, case.median(subject, metric)?));
            lines.push(Line {
                name: format!("{}, {writers}", subject.name()),
                points: QUANTILES.into_iter().filter_map(point).collect(),
            });
        }
    }
    Plot {
        file: "log-latency.svg",
        title: "Latency of synced appends of 128 B by 1 and 16 writers".to_owned(),
        axes: (QUANTILE_AXIS, "µs"),
        is_x_log: false,
        lines,
    }
}

const QUANTILE_AXIS: &str = "quantile";

const QUANTILES: [(f64, Metric, &str); 4] = [
    (1.0, Metric::P50Us, "p50"),
    (2.0, Metric::P99Us, "p99"),
    (3.0, Metric::P999Us, "p99.9"),
    (4.0, Metric::MaxUs, "max"),
];

fn reopens(book: &Book) -> Plot {
    let mut lines = Vec::new();
    for caches in ["warm", "cold"] {
        let ending = format!("sealed, {caches}");
        let cases: Vec<&Case> = book
            .of(Load::Reopen)
            .filter(|case| case.name.ends_with(&ending))
            .collect();
        for subject in [Subject::Quorate, Subject::RaftEngine] {
            let name = format!("{}, {caches}", subject.name());
            lines.push(line(name, &cases, subject, Metric::OpenMs));
        }
    }
    Plot {
        file: "log-reopen.svg",
        title: "Time to open a log of 128 B entries".to_owned(),
        axes: ("MiB of payload", "ms"),
        is_x_log: true,
        lines,
    }
}

fn space(book: &Book, file: &'static str, case: &str) -> Plot {
    let found = book.case(Load::Space, case);
    let line = |subject: Subject| Line {
        name: subject.name().to_owned(),
        points: found.map_or_else(Vec::new, |case| case.series(subject).to_vec()),
    };
    Plot {
        file,
        title: format!("Disk over live data: {case}"),
        axes: ("seconds", "times"),
        is_x_log: false,
        lines: [
            Subject::Quorate,
            Subject::RaftEngine,
            Subject::SmallSegments,
        ]
        .map(line)
        .into(),
    }
}

fn line(name: String, cases: &[&Case], subject: Subject, metric: Metric) -> Line {
    let point = |case: &&Case| Some((case.x, case.median(subject, metric)?));
    Line {
        name,
        points: cases.iter().filter_map(point).collect(),
    }
}

impl Plot {
    fn draw(&self, path: &Path) -> Result<(), Failure> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let right = points().map(|point| point.0).fold(f64::MIN, f64::max);
        let left = points().map(|point| point.0).fold(right, f64::min);
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        if self.is_x_log {
            let x = (left * 0.9..right * 1.2).log_scale();
            self.draw_on(&area, x)?;
        } else {
            let x: Range<f64> = left * 0.95..right * 1.02;
            self.draw_on(&area, x)?;
        }
        area.present()?;
        Ok(())
    }

    fn draw_on<X>(&self, area: &Area<'_>, x: X) -> Result<(), Failure>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let top = points().map(|point| point.1).fold(f64::MIN, f64::max) * 1.5;
        let bottom = points().map(|point| point.1).fold(top, f64::min) / 1.5;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(x, (bottom..top).log_scale())?;
        let is_quantile = self.axes.0 == QUANTILE_AXIS;
        let x_label = move |x: &f64| {
            if is_quantile {
                quantile_label(*x)
            } else {
                format!("{x:.0}")
            }
        };
        chart
            .configure_mesh()
            .x_desc(self.axes.0)
            .y_desc(self.axes.1)
            .x_labels(if is_quantile { QUANTILES.len() } else { 10 })
            .x_label_formatter(&x_label)
            .y_label_formatter(&|value| short(*value))
            .light_line_style(WHITE)
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let size = if line.points.len() > 20 { 0 } else { 4 };
            let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(series.point_size(size))?
                .label(&line.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(COLOURS[2])
            .draw()?;
        Ok(())
    }
}

fn quantile_label(x: f64) -> String {
    let found = QUANTILES.iter().find(|it| (it.0 - x).abs() < 0.01);
    found.map_or(String::new(), |it| it.2.to_owned())
}

/// 12,345 as "12 k".
fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.1} M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0} k", value / 1e3)
    } else if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}
