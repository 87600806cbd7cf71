//! What was measured, as lines of JSON: the first says how, each other one has the figures of one kind of one subject in one
//! case, a figure for each round. The report and the plots can be made from it again, and of several runs of different loads one.

use quorate_benches::Failure;
use serde::{Deserialize, Serialize};

use crate::book::Book;
use crate::job::{Load, Metric, Report, Subject};

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// The machine, and how much was measured.
    how: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    load: Load,
    case: String,
    /// Where the case stands on the horizontal axis of a plot.
    x: f64,
    subject: Subject,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Kind {
    Figure {
        figure: Metric,
        rounds: Vec<f64>,
    },
    /// Points over time, of the first round.
    Series {
        series: Vec<(f64, f64)>,
    },
}

/// All figures of a run.
pub(crate) fn write(book: &Book, how: &str) -> Result<String, Failure> {
    let head = Head {
        how: how.to_owned(),
    };
    let mut out = serde_json::to_string(&head)? + "\n";
    for case in book.cases() {
        let mut put = |subject, kind| {
            let line = Line {
                load: case.load,
                case: case.name.clone(),
                x: case.x,
                subject,
                kind,
            };
            out += &serde_json::to_string(&line)?;
            out += "\n";
            Ok::<_, Failure>(())
        };
        for (subject, figure, rounds) in case.figures() {
            let rounds = rounds.to_vec();
            put(subject, Kind::Figure { figure, rounds })?;
        }
        for subject in case.subjects() {
            let series = case.series(subject).to_vec();
            if !series.is_empty() {
                put(subject, Kind::Series { series })?;
            }
        }
    }
    Ok(out)
}

/// The figures of a run, and how they were measured.
pub(crate) fn read(text: &str) -> Result<(Book, String), Failure> {
    let mut lines = (1..).zip(text.lines());
    let (_, head) = lines.next().ok_or("it is empty")?;
    let head: Head = serde_json::from_str(head)
        .map_err(|error| format!("line 1 does not say how it was measured: {error}"))?;
    let mut book = Book::default();
    for (number, line) in lines {
        let line: Line =
            serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        let mut add = |report| book.add(line.load, &line.case, line.x, line.subject, report);
        match line.kind {
            Kind::Series { series } => add(Report {
                series,
                ..Report::default()
            }),
            Kind::Figure { figure, rounds } => {
                for value in rounds {
                    let mut report = Report::default();
                    report.put(figure, value);
                    add(report);
                }
            }
        }
    }
    Ok((book, head.how))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written() -> Result<(), Failure> {
        let mut book = Book::default();
        for value in [1.5, 2.5] {
            let mut report = Report::default();
            report.put(Metric::EntriesPerS, value);
            report.put(Metric::P99Us, value / 3.0);
            report.series = vec![(0.25, value)];
            book.add(
                Load::Space,
                "a case, with a comma",
                3.0,
                Subject::Quorate,
                report,
            );
        }
        let text = write(&book, "on a machine")?;
        let (again, how) = read(&text)?;
        assert_eq!(how, "on a machine");
        assert_eq!(write(&again, &how)?, text);
        let case = again.case(Load::Space, "a case, with a comma");
        let case = case.ok_or("the case is there")?;
        assert_eq!(
            case.median(Subject::Quorate, Metric::EntriesPerS),
            Some(2.0)
        );
        assert_eq!(case.series(Subject::Quorate), [(0.25, 1.5)]);
        Ok(())
    }

    #[test]
    fn a_file_that_is_none_of_this_says_where() {
        let message = |text| read(text).map(drop).unwrap_err().to_string();
        assert_eq!(message(""), "it is empty");
        assert!(message("load,case\n").starts_with("line 1 does not say how"));
        let broken = "{\"how\":\"\"}\n{\"load\":\"Append\"}\n";
        assert!(
            message(broken).starts_with("line 2: "),
            "{}",
            message(broken)
        );
    }
}
