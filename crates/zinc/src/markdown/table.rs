//! Tables of Markdown, with columns aligned.

use super::{BOLD, RESET};

/// Rows as lines of a terminal; rows that make no table are shown as they are.
pub(super) fn render(rows: &[String]) -> String {
    let is_table = rows.len() >= 2 && is_delimiter(&rows[1]);
    if !is_table {
        return rows.iter().map(|row| format!("{row}\n")).collect();
    }
    let to_right: Vec<bool> = cells(&rows[1]).iter().map(|cell| is_right(cell)).collect();
    let body = rows.iter().enumerate().filter(|(i, _)| *i != 1);
    let table: Vec<Vec<String>> =
        body.map(|(_, row)| cells(row).iter().map(|cell| without_marks(cell)).collect()).collect();
    let n_cols = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |col: usize| {
        table.iter().filter_map(|row| row.get(col)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..n_cols).map(|col| width(col).unwrap_or(0).max(1)).collect();
    let mut text = String::new();
    for (i, row) in table.iter().enumerate() {
        let cell = |(col, width): (usize, &usize)| {
            let cell = row.get(col).map_or("", String::as_str);
            let padded = match to_right.get(col) {
                Some(true) => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            };
            match i {
                0 => format!("{BOLD}{padded}{RESET}"),
                _ => padded,
            }
        };
        let cells: Vec<_> = widths.iter().enumerate().map(cell).collect();
        text += cells.join(" │ ").trim_end();
        text.push('\n');
        if i == 0 {
            let lines: Vec<_> = widths.iter().map(|width| "─".repeat(*width)).collect();
            text += &lines.join("─┼─");
            text.push('\n');
        }
    }
    text
}

/// The cells of a row; `\|` is no border.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim();
    let row = row.strip_prefix('|').unwrap_or(row);
    let mut cells = vec![String::new()];
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'|') => {
                chars.next();
                push(&mut cells, '|');
            }
            '|' => cells.push(String::new()),
            c => push(&mut cells, c),
        }
    }
    if cells.last().is_some_and(|cell| cell.trim().is_empty()) {
        cells.pop();
    }
    cells.into_iter().map(|cell| cell.trim().to_owned()).collect()
}

fn push(cells: &mut [String], c: char) {
    if let Some(cell) = cells.last_mut() {
        cell.push(c);
    }
}

fn is_delimiter(row: &str) -> bool {
    let cells = cells(row);
    let is_line = |cell: &String| {
        let line = cell.trim_start_matches(':').trim_end_matches(':');
        !line.is_empty() && line.chars().all(|c| c == '-')
    };
    !cells.is_empty() && cells.iter().all(is_line)
}

fn is_right(cell: &str) -> bool {
    cell.ends_with(':') && !cell.starts_with(':')
}

/// Styles would upset the widths; the words are what counts in a table.
fn without_marks(cell: &str) -> String {
    cell.replace("**", "").replace('`', "")
}
