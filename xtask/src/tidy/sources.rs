//! Caps on files and functions, words that must not stay, and the size of the repository.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Violation, functions};

/// Most lines of a source file, tests excluded.
const MAX_FILE_LINES: usize = 800;
/// Most lines of a kernel file.
const MAX_KERNEL_LINES: usize = 500;
/// Most lines of a function.
const MAX_FUNCTION_LINES: usize = 70;
/// Most bytes of all tracked files; more than two million are the PTX of the CUDA kernels.
const MAX_TOTAL_BYTES: u64 = 20 << 20;
/// Most bytes of one tracked file.
const MAX_FILE_BYTES: u64 = 7 << 20;
/// Known breaches, which may only become fewer: `path lines N` or `path::function lines N`.
const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";

pub fn check(root: &Path, files: &[String]) -> Result<Vec<Violation>> {
    let mut found = check_sizes(root, files)?;
    let mut breaches = BTreeMap::new();
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
        found.extend(unfinished(path, &text));
        if is_test(path) {
            continue;
        }
        let code = functions::measure(&text).with_context(|| format!("cannot parse {path}"))?;
        let max = if path.contains("/kernels/") { MAX_KERNEL_LINES } else { MAX_FILE_LINES };
        if code.n_lines > max {
            breaches.insert(path.clone(), (code.n_lines, max));
        }
        for function in code.functions.iter().filter(|f| f.n_lines > MAX_FUNCTION_LINES) {
            let name = format!("{path}::{}", function.name);
            breaches.insert(name, (function.n_lines, MAX_FUNCTION_LINES));
        }
    }
    let exceptions = std::fs::read_to_string(root.join(EXCEPTIONS)).unwrap_or_default();
    found.extend(ratchet(&breaches, &exceptions));
    Ok(found)
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/")
}

/// Breaches that no exception covers, and exceptions that are looser than they need to be.
fn ratchet(breaches: &BTreeMap<String, (usize, usize)>, exceptions: &str) -> Vec<Violation> {
    let mut allowed = BTreeMap::new();
    for line in exceptions.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some((name, n_lines)) = line.split_once(' ') {
            allowed.insert(name, n_lines.trim().parse::<usize>().unwrap_or(0));
        }
    }
    let mut found = Vec::new();
    for (name, (n_lines, max)) in breaches {
        if allowed.get(name.as_str()).is_none_or(|limit| n_lines > limit) {
            found.push(Violation::new(name, format!("{n_lines} lines, at most {max}: split it")));
        }
    }
    for (name, limit) in allowed {
        let actual = breaches.get(name).map_or(0, |(n_lines, _)| *n_lines);
        if actual < limit {
            let what = format!("{name} has {actual} lines now; lower or remove its exception");
            found.push(Violation::new(EXCEPTIONS, what));
        }
    }
    found
}

/// Marks of unfinished work.
fn unfinished(path: &str, text: &str) -> Vec<Violation> {
    // Spelled in two halves so that this file does not find itself.
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("dbg", "!(")];
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(idx, line)| {
            let mark = marks.iter().find(|mark| line.contains(**mark))?;
            let at = format!("{path}:{}", idx + 1);
            Some(Violation::new(at, format!("{mark}: finish it, or write an issue")))
        })
        .collect()
}

fn check_sizes(root: &Path, files: &[String]) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    let mut total = 0;
    for path in files {
        let n_bytes = std::fs::metadata(root.join(path)).with_context(|| path.clone())?.len();
        total += n_bytes;
        if n_bytes > MAX_FILE_BYTES {
            let what = format!("{n_bytes} bytes, at most {MAX_FILE_BYTES}");
            found.push(Violation::new(path, what));
        }
    }
    if total > MAX_TOTAL_BYTES {
        let what = format!("tracked files have {total} bytes, at most {MAX_TOTAL_BYTES}");
        found.push(Violation::new(".", what));
    }
    Ok(found)
}
