//! Errors as people see them: `error: what: where`, then `hint: next step`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Separates the next step from the error in a message; library crates write their hints so, too.
const HINT: &str = "; hint: ";

/// An error with a next step.
pub fn with_hint(what: impl std::fmt::Display, hint: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{what}{HINT}{hint}")
}

/// Wrong usage that shows only after the command line is parsed; zinc ends with exit code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Wrong usage with a next step.
pub fn usage(what: impl std::fmt::Display, hint: impl std::fmt::Display) -> UsageError {
    UsageError(format!("{what}{HINT}{hint}"))
}

/// Writes a line to stderr. A closed stderr is no reason to stop.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The error in full, causes behind what they caused, hints on their own lines.
pub fn render(error: &anyhow::Error) -> String {
    let mut message = String::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let (what, hint) = match text.split_once(HINT) {
            Some((what, hint)) => (what, Some(hint)),
            None => (text.as_str(), None),
        };
        // Many errors already spell out their source.
        if message.is_empty() {
            message.push_str(what);
        } else if !message.contains(what) {
            let _ = write!(message, ": {what}");
        }
        if let Some(hint) = hint.filter(|hint| !hints.iter().any(|known| known == hint)) {
            hints.push(hint.to_owned());
        }
    }
    let hints = hints.iter().map(|hint| format!("\nhint: {hint}"));
    format!("error: {}{}", printable(&message), printable(&hints.collect::<String>()))
}

/// Whether the reader of our output went away, which is no error of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// Text from a file, without control characters that would steer the terminal.
pub fn printable(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => "\n".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn hints_stand_on_their_own_lines() {
        let error = with_hint("cannot read a.gguf", "check the path");
        assert_eq!(render(&error), "error: cannot read a.gguf\nhint: check the path");
    }

    #[test]
    fn causes_are_not_repeated() {
        let inner = std::io::Error::other("disk on fire; hint: run");
        let middle = anyhow::Error::from(inner).context("reading: disk on fire");
        let error = Err::<(), _>(middle).context("a.gguf").map_err(|e| render(&e));
        assert_eq!(error, Err("error: a.gguf: reading: disk on fire\nhint: run".to_owned()));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }
}
