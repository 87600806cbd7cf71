//! What was measured, round by round.

use std::collections::BTreeMap;

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
        let series = case.series.entry(subject).or_default();
        if series.is_empty() {
            *series = report.series;
        }
    }

    pub(crate) fn of(&self, load: Load) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.load == load)
    }

    pub(crate) fn case(&self, load: Load, name: &str) -> Option<&Case> {
        self.of(load).find(|case| case.name == name)
    }

    pub(crate) fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Takes over what another book holds; of the loads that both have, only that.
    pub(crate) fn take_over(&mut self, other: Self) {
        self.cases
            .retain(|case| other.of(case.load).next().is_none());
        self.cases.extend(other.cases);
    }

    /// The loads, in the order in which they were measured.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<Load> = self.cases.iter().map(|case| case.load).collect();
        loads.dedup();
        loads
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

    /// Every figure, with its value in each round.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (Subject, Metric, &[f64])> {
        let figure = |(&(subject, metric), rounds): (&(Subject, Metric), _)| {
            let rounds: &Vec<f64> = rounds;
            (subject, metric, &rounds[..])
        };
        self.values.iter().map(figure)
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
    }

    #[test]
    fn a_load_that_was_measured_again_is_taken_over_whole() {
        let mut books = [Book::default(), Book::default()];
        for (book, load, case) in [
            (0, Load::Append, "old"),
            (0, Load::Reads, "kept"),
            (1, Load::Append, "new"),
        ] {
            let report = Report::default();
            books[book].add(load, case, 1.0, Subject::Quorate, report);
        }
        let [mut book, newer] = books;
        book.take_over(newer);
        assert!(book.case(Load::Append, "old").is_none());
        assert!(book.case(Load::Append, "new").is_some());
        assert!(book.case(Load::Reads, "kept").is_some());
        assert_eq!(book.loads(), [Load::Reads, Load::Append]);
    }
}
