//! Aligned columns.

use std::fmt;

use unicode_width::UnicodeWidthStr as _;

use crate::agent::control::text::single_line;

/// Widest cell, in characters; longer texts are cut.
const MAX_CELL_CHARS: usize = 80;

/// Side on which a column is flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table of harmless one-line cells. Rows with too few cells are filled up, further cells are
/// dropped.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    #[must_use]
    pub fn new<const N: usize>(columns: [(&str, Align); N]) -> Self {
        Self {
            columns: columns
                .into_iter()
                .map(|(head, align)| (head.to_owned(), align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let mut row: Vec<String> = cells
            .iter()
            .map(|cell| single_line(cell, MAX_CELL_CHARS))
            .collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Without the columns in which no row says anything: a table has to fit a terminal.
    #[must_use]
    pub fn without_empty_columns(self) -> Self {
        let says = |column: usize| {
            let mut cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.any(|cell| !cell.is_empty())
        };
        let kept: Vec<usize> = (0..self.columns.len())
            .filter(|column| says(*column))
            .collect();
        let pick = |row: &Vec<String>| {
            let cells = kept.iter().filter_map(|column| row.get(*column).cloned());
            cells.collect()
        };
        Self {
            columns: kept
                .iter()
                .filter_map(|column| self.columns.get(*column).cloned())
                .collect(),
            rows: self.rows.iter().map(pick).collect(),
        }
    }

    /// Whether no row was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| head.clone()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&heads).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                lines
                    .iter()
                    .filter_map(|line| line.get(column))
                    .map(|cell| cell.width())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for line in lines {
            let mut text = String::new();
            for ((cell, width), (_, align)) in line.iter().zip(&widths).zip(&self.columns) {
                let gap = " ".repeat(width.saturating_sub(cell.width()));
                if !text.is_empty() {
                    text.push_str("  ");
                }
                match align {
                    Align::Left => text.extend([cell.as_str(), &gap]),
                    Align::Right => text.extend([&gap, cell.as_str()]),
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_width_on_screen() {
        let mut table = Table::new([
            ("name", Align::Left),
            ("sat", Align::Right),
            ("x", Align::Left),
        ]);
        table.row(["日本".into(), "1,234".into(), "a".into()]);
        table.row(["é".into(), "5".into(), String::new()]);
        table.row(["a\u{1b}[31mb\nc".into(), "77".into(), "z".into()]);
        assert_eq!(
            table.to_string(),
            "name        sat  x\n\
             日本      1,234  a\n\
             é             5\n\
             a[31mb c     77  z\n"
        );
    }
}
