//! Rules of the repository that the compiler does not know.

mod arrows;
mod functions;
mod manifests;
mod sources;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// A broken rule: where, and what to do about it.
pub struct Violation {
    /// `path:line`, or a path.
    pub at: String,
    /// What is wrong and the next step.
    pub what: String,
}

impl Violation {
    pub fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into() }
    }
}

/// Runs every check; prints violations and returns whether there were none.
pub fn run(root: &Path) -> Result<bool> {
    let found = violations(root)?;
    let mut clean = found.is_empty();
    let cargo_checks: [&[&str]; 2] = [
        &["fmt", "--all", "--check"],
        &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    ];
    for arguments in cargo_checks {
        let status = Command::new(env!("CARGO")).args(arguments).current_dir(root).status();
        clean &= status.with_context(|| format!("cannot run cargo {}", arguments[0]))?.success();
    }
    // Last, so that the end of a long log says what is wrong.
    for violation in found {
        eprintln!("{}: {}", violation.at, violation.what);
    }
    if clean {
        eprintln!("tidy: clean");
    }
    Ok(clean)
}

/// The checks that need no compiler.
fn violations(root: &Path) -> Result<Vec<Violation>> {
    let files = tracked_files(root)?;
    let mut found = arrows::check(root)?;
    found.extend(manifests::check(root, &files)?);
    found.extend(sources::check(root, &files)?);
    found.extend(crate::cuda::check_fresh(root)?);
    Ok(found)
}

/// Paths that git tracks or would track, relative to the root.
fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root).output();
    let output = output.context("cannot run git ls-files")?;
    anyhow::ensure!(output.status.success(), "git ls-files failed");
    let names = String::from_utf8(output.stdout).context("a tracked path is not UTF-8")?;
    let exists = |name: &&str| !name.is_empty() && root.join(name).is_file();
    Ok(names.split('\0').filter(exists).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_is_tidy() {
        let found = violations(&crate::root()).expect("the checks run");
        let lines: Vec<_> = found.iter().map(|v| format!("{}: {}", v.at, v.what)).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}
