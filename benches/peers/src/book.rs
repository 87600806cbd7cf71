//! What was measured, round by round.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::job::{Load, Metric, Report, Subject};

/// All cases, in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Book {
    cases: Vec<Case>,
}

/// One load, by all subjects.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) load: Load,
    pub(crate) name: String,
    /// Where it stands on the horizontal axis of a plot.
    pub(crate) x: f64,
    /// A figure for each round.
    values: BTreeMap<(Subject, Metric), Vec<f64>>,
    /// Of the first round.
    series: BTreeMap<Subject, Vec<(f64, f64)>>,
}

impl Book {
    /// Adds what one round gave.
    pub(crate) fn add(&mut self, load: Load, name: &str, x: f64, subject: Subject, report: Report) {
        let known = |case: &Case| case.load == load && case.name == name;
        let at = self.cases.iter().position(known).unwrap_or_else(|| {
            self.cases.push(Case {
                load,
                name: name.to_owned(),
                x,
                values: BTreeMap::new(),
                series: BTreeMap::new(),
            });
            self.cases.len() - 1
        });
        let case = &mut self.cases[at];
        for (metric, value) in report.values {
            case.values
                .entry((subject, metric))
                .or_default()
                .push(value);
        }
        case.series.entry(subject).or_insert(report.series);
    }

    pub(crate) fn of(&self, load: Load) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.load == load)
    }

    pub(crate) fn case(&self, load: Load, name: &str) -> Option<&Case> {
        self.of(load).find(|case| case.name == name)
    }

    /// Every figure of every round, a line each.
    pub(crate) fn csv(&self) -> String {
        let mut out = String::from("load,case,subject,figure,round,value\n");
        for case in &self.cases {
            for ((subject, metric), values) in &case.values {
                for (round, value) in (1..).zip(values) {
                    writeln!(
                        out,
                        "{:?},\"{}\",{},{metric:?},{round},{value}",
                        case.load,
                        case.name,
                        subject.name().replace(',', "")
                    )
                    .expect("a string takes every write");
                }
            }
        }
        out
    }
}

impl Case {
    /// The median over the rounds.
    pub(crate) fn median(&self, subject: Subject, metric: Metric) -> Option<f64> {
        middle(self.values.get(&(subject, metric))?.clone())
    }

    /// The largest of all rounds.
    pub(crate) fn worst(&self, subject: Subject, metric: Metric) -> Option<f64> {
        let values = self.values.get(&(subject, metric))?;
        values.iter().copied().reduce(f64::max)
    }

    /// The median of the ratios within each round.
    pub(crate) fn ratio(&self, metric: Metric, of: Subject, to: Subject) -> Option<f64> {
        self.ratio_of((of, metric), (to, metric))
    }

    /// The median of the ratios within each round.
    pub(crate) fn ratio_of(&self, of: (Subject, Metric), to: (Subject, Metric)) -> Option<f64> {
        let (of, to) = (self.values.get(&of)?, self.values.get(&to)?);
        middle(of.iter().zip(to).map(|(of, to)| of / to).collect())
    }

    pub(crate) fn subjects(&self) -> impl Iterator<Item = Subject> {
        self.series.keys().copied()
    }

    pub(crate) fn series(&self, subject: Subject) -> &[(f64, f64)] {
        self.series.get(&subject).map_or(&[], Vec::as_slice)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_figures_of_one_round() {
        let mut book = Book::default();
        for (ours, theirs) in [(10.0, 5.0), (30.0, 10.0), (100.0, 100.0)] {
            for (subject, value) in [(Subject::Quorate, ours), (Subject::RaftEngine, theirs)] {
                let mut report = Report::default();
                report.put(Metric::EntriesPerS, value);
                book.add(Load::Append, "case", 1.0, subject, report);
            }
        }
        let case = book.case(Load::Append, "case").expect("it was added");
        let ratio = case.ratio(Metric::EntriesPerS, Subject::Quorate, Subject::RaftEngine);
        assert_eq!(ratio, Some(2.0));
        assert_eq!(
            case.median(Subject::Quorate, Metric::EntriesPerS),
            Some(30.0)
        );
        assert_eq!(
            case.worst(Subject::Quorate, Metric::EntriesPerS),
            Some(100.0)
        );
        assert_eq!(case.median(Subject::Probe, Metric::EntriesPerS), None);
        assert_eq!(book.csv().lines().count(), 1 + 6);
    }
}
