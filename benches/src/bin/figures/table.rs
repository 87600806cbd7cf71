//! One markdown table.

use std::fmt::Write;

use quorate_benches::Sample;

use crate::suite::{Case, Plan, Round};

/// All cases, a line each; medians over the rounds.
pub(crate) fn markdown(cases: &[Case], plan: &Plan) -> String {
    let mut out = format!(
        "Medians of {} rounds of {} ms. \"of probe\": throughput as a share of the probe's in the same round, its p50 as a \
         multiple.\n\n",
        plan.rounds,
        plan.slice.as_millis()
    );
    out += "| load | case | ops/s | of probe | p50 µs | of probe | p99 µs | syncs/s | peak MiB |\n";
    out += "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for case in cases {
        let cell = |figure: fn(&Round) -> Option<f64>, digits: usize| match median(case, figure) {
            Some(figure) => format!("{figure:.digits$}"),
            None => "–".to_owned(),
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            case.load,
            case.name,
            cell(|round| Some(round.sample.ops_per_s()), 0),
            cell(throughput_ratio, 2),
            cell(|round| Some(quantile_us(&round.sample, 0.5)), 1),
            cell(latency_ratio, 2),
            cell(|round| Some(quantile_us(&round.sample, 0.99)), 1),
            cell(
                |round| (round.sample.syncs > 0).then(|| round.sample.syncs_per_s()),
                0
            ),
            cell(
                |round| round
                    .peak_bytes
                    .map(|bytes| bytes as f64 / f64::from(1 << 20)),
                0
            ),
        )
        .expect("a string takes every write");
    }
    out
}

/// The median over the rounds that have the figure.
pub(crate) fn median(case: &Case, figure: fn(&Round) -> Option<f64>) -> Option<f64> {
    middle(case.rounds.iter().filter_map(figure).collect())
}

fn throughput_ratio(round: &Round) -> Option<f64> {
    round
        .probe
        .as_ref()
        .map(|probe| round.sample.ops_per_s() / probe.ops_per_s())
}

fn latency_ratio(round: &Round) -> Option<f64> {
    round
        .probe
        .as_ref()
        .map(|probe| quantile_us(&round.sample, 0.5) / quantile_us(probe, 0.5))
}

fn quantile_us(sample: &Sample, quantile: f64) -> f64 {
    sample.latency_ns.value_at_quantile(quantile) as f64 / 1_000.0
}

fn middle(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() {
        0 => None,
        even if even.is_multiple_of(2) => Some(f64::midpoint(figures[half - 1], figures[half])),
        _ => Some(figures[half]),
    }
}
