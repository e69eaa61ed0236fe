//! Data on stdout, and numbers as people read them.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;
pub use zinc_backend::human_bytes;

/// Writes `value` as one line of JSON.
///
/// # Errors
/// Stdout cannot be written.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    text(&line)
}

/// Writes `text` as it is, at once.
///
/// # Errors
/// Stdout cannot be written.
pub fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Writes `bytes` as they are, at once.
///
/// # Errors
/// Stdout cannot be written.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// `751632384` as `751.6 M`.
pub fn human_count(count: u64) -> String {
    const UNITS: [&str; 5] = ["", " k", " M", " B", " T"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => count.to_string(),
        _ => format!("{value:.1}{}", UNITS[unit]),
    }
}

/// Rows of cells with columns aligned: the first to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let n_cols = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |col: usize| {
        let cells = rows.iter().filter_map(|row| row.get(col));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_cols).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (col, cell) in row.iter().enumerate() {
            let width = widths[col];
            line.push_str(&match col {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A column of a [`columns`] table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub name: &'static str,
    /// Where there is no room for all, those with the largest number are left out first; 0 stays.
    pub rank: u8,
}

/// Rows of cells under the names of their columns, all aligned to the left, and the columns that had
/// to be left out to stay within `width` characters. Columns without any cell are left out silently.
pub fn columns(
    columns: &[Column],
    rows: &[Vec<String>],
    width: Option<usize>,
) -> (String, Vec<&'static str>) {
    let cell = |row: &Vec<String>, col: usize| row.get(col).map_or(0, |cell| cell.chars().count());
    let widest = |col: usize| rows.iter().map(|row| cell(row, col)).max().unwrap_or(0);
    let mut shown: Vec<(usize, usize)> = columns
        .iter()
        .enumerate()
        .map(|(col, column)| (col, widest(col), column.name.len()))
        .filter(|(_, cells, _)| *cells > 0)
        .map(|(col, cells, name)| (col, cells.max(name)))
        .collect();
    let mut left_out = Vec::new();
    let total = |shown: &[(usize, usize)]| shown.iter().map(|(_, w)| w + 2).sum::<usize>();
    while width.is_some_and(|width| total(&shown) > width + 2) {
        let least = shown.iter().map(|(col, _)| columns[*col].rank).max().unwrap_or(0);
        if least == 0 {
            break;
        }
        let of_least = shown.iter().map(|(col, _)| columns[*col]).filter(|c| c.rank == least);
        left_out.extend(of_least.map(|column| column.name));
        shown.retain(|(col, _)| columns[*col].rank != least);
    }
    let names: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
    let line = |row: &Vec<String>| {
        let cells = shown.iter().map(|(col, width)| {
            let cell = row.get(*col).map_or("", String::as_str);
            format!("{cell:<width$}")
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let lines = std::iter::once(&names).chain(rows).map(line);
    (lines.collect(), left_out)
}

/// `name  value` lines with the values aligned.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {value}\n");
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(human_count(999), "999");
        assert_eq!(human_count(751_632_384), "751.6 M");
        assert_eq!(human_count(999_960), "1.0 M");
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(table(&[row(["a", "1"]), row(["bb", "22"])]), "a    1\nbb  22\n");
        assert_eq!(fields(&[("a", "x".into()), ("bcd", "y".into())]), "a    x\nbcd  y\n");
    }

    #[test]
    fn columns_give_way() {
        let names = [("NAME", 0), ("MUCH", 2), ("LESS", 1), ("NONE", 0)];
        let names = names.map(|(name, rank)| Column { name, rank });
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "22", "long cell", ""]), row(["b", "", "", ""])];
        let whole = "NAME  MUCH  LESS\na     22    long cell\nb\n";
        assert_eq!(columns(&names, &rows, None), (whole.into(), vec![]));
        assert_eq!(columns(&names, &rows, Some(21)), (whole.into(), vec![]));
        let less = "NAME  LESS\na     long cell\nb\n";
        assert_eq!(columns(&names, &rows, Some(20)), (less.into(), vec!["MUCH"]));
        assert_eq!(columns(&names, &rows, Some(1)).1, ["MUCH", "LESS"]);
    }
}
