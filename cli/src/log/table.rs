//! Columns of text.

/// A table that grows row by row. Columns of numbers stand to the right.
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.heads.len());
        self.rows.push(cells.into());
    }

    /// The table as lines.
    pub(super) fn finish(self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.heads[column].len()]).max().unwrap_or(0)
        };
        let columns: Vec<(usize, bool)> = (0..self.heads.len())
            .map(|column| {
                (
                    width(column),
                    self.rows.iter().all(|row| is_number(&row[column])),
                )
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (cell, (width, is_right)) in cells.zip(&columns) {
                let gap = " ".repeat(width - cell.chars().count());
                let (before, behind) = if *is_right {
                    (&gap[..], "")
                } else {
                    ("", &gap[..])
                };
                line.push_str("  ");
                line.extend([before, cell, behind]);
            }
            line.truncate(line.trim_end().len());
            line + "\n"
        };
        let mut text = line(&mut self.heads.iter().copied());
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }
}

fn is_number(cell: &str) -> bool {
    cell == "-" || cell.starts_with(|first: char| first.is_ascii_digit())
}

/// A size as people read it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A number of things by name.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_the_unit_that_fits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn numbers_stand_to_the_right_and_text_to_the_left() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["7".to_owned(), "seven".to_owned()]);
        table.row(["4096".to_owned(), "x".to_owned()]);
        assert_eq!(table.finish(), "    ID  NAME\n     7  seven\n  4096  x\n");
    }
}
