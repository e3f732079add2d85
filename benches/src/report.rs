//! Results: a table for people, JSON with stable keys for programs.
//!
//! Where the JSON goes to standard output the table goes to standard error, so that a pipe gets
//! nothing but JSON.

use std::fs;
use std::io::{self, Write};

use serde::Serialize;

use crate::machine::Machine;

/// Where a command writes its results as JSON.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Output {
    /// Write the results as JSON to FILE, or to standard output if no FILE or - is given
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<String>,
}

/// A table whose first column is text and whose others are numbers.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    is_markdown: bool,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(headings);
        table
    }

    /// The same, as Markdown, with the first `texts` columns to the left.
    pub fn markdown(headings: &[&str], texts: usize) -> Self {
        let mut table = Self { is_markdown: true, ..Self::new(headings) };
        let rule = |column| if column < texts { "---" } else { "---:" };
        table.row(&(0..headings.len()).map(rule).collect::<Vec<_>>());
        table
    }

    /// Adds a row.
    pub fn row<T: ToString>(&mut self, cells: &[T]) {
        self.rows.push(cells.iter().map(T::to_string).collect());
    }

    /// The table as text: Markdown, or columns aligned.
    pub fn text(&self) -> String {
        if self.is_markdown {
            let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
            return self.rows.iter().map(line).collect();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| match column {
                0 => format!("{cell:<width$}", width = widths[column]),
                _ => format!("{cell:>width$}", width = widths[column]),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

/// A command's results with what they were measured on.
#[derive(Serialize)]
struct Measured<'a, T: Serialize> {
    command: &'static str,
    arguments: Vec<String>,
    #[serde(flatten)]
    results: &'a T,
    machine: Machine,
}

impl Output {
    /// Shows `table`, and writes `results` where they are wanted as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn emit<T: Serialize>(
        &self,
        command: &'static str,
        results: &T,
        table: &Table,
    ) -> io::Result<()> {
        let arguments = std::env::args().skip(1).collect();
        let measured = Measured { command, arguments, results, machine: Machine::this() };
        let mut json = serde_json::to_string_pretty(&measured)?;
        json.push('\n');
        match self.json.as_deref() {
            None => io::stdout().write_all(table.text().as_bytes()),
            Some("-") => {
                io::stderr().write_all(table.text().as_bytes())?;
                io::stdout().write_all(json.as_bytes())
            }
            Some(path) => {
                io::stdout().write_all(table.text().as_bytes())?;
                fs::write(path, json)
                    .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
            }
        }
    }
}

/// The middle one of `values`; the mean of the two in the middle if they are even in number; 0 if
/// there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// `part / whole`, 0 if there is no whole.
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["what", "GB/s"]);
        table.row(&["a", "12.5"]);
        table.row(&["longer", "1"]);
        assert_eq!(table.text(), "what    GB/s\na       12.5\nlonger     1\n");
    }

    #[test]
    fn markdown_has_a_rule_below_its_headings() {
        let mut table = Table::markdown(&["what", "GB/s"], 1);
        table.row(&["a", "12.5"]);
        assert_eq!(table.text(), "| what | GB/s |\n| --- | ---: |\n| a | 12.5 |\n");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        assert_eq!(ratio(1.0, 0.0), 0.0);
    }
}
