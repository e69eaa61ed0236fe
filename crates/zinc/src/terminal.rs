//! Text from a model on a terminal.

use std::io::{self, IsTerminal, Write};

use terminal_size::{Height, Width, terminal_size_of};

use crate::env;
use crate::markdown::{Markdown, WIDTH_MIN, Wrap};

/// Where text goes, and what may be done to it there.
#[derive(Clone, Copy)]
pub struct Screen {
    /// Stdout is read by a person.
    pub stdout: bool,
    /// Stderr is read by a person.
    pub stderr: bool,
    /// Styles may be used on stderr.
    style: bool,
    /// Styles may be used on stdout.
    style_out: bool,
}

impl Screen {
    /// Looks where stdout and stderr go.
    pub fn look() -> Self {
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let may = !env::no_color() && !env::is_dumb_terminal();
        Self { stdout, stderr, style: stderr && may, style_out: stdout && may }
    }

    /// Writes the model's text to stdout at once. On a terminal, control characters that would
    /// steer it are left out.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn text(&self, text: &str) -> anyhow::Result<()> {
        match self.stdout {
            true => crate::output::text(&harmless(text)),
            false => crate::output::text(text),
        }
    }

    /// Renders Markdown on stdout, if that can show styles, as wide as it is now.
    pub fn markdown(&self) -> Option<Markdown> {
        self.style_out.then(|| Markdown::new(width()))
    }

    /// Writes the model's text to stdout at once, as Markdown if `markdown` is given.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn render(&self, text: &str, markdown: &mut Option<Markdown>) -> anyhow::Result<()> {
        match markdown {
            Some(markdown) => crate::output::text(&markdown.push(&harmless(text))),
            None => self.text(text),
        }
    }

    /// Writes text of minor interest to stderr, dimmed.
    pub fn dim(&self, text: &str) {
        let text = if self.stderr { harmless(text) } else { text.to_owned() };
        let mut stderr = io::stderr().lock();
        // A closed stderr is no reason to stop.
        let _ = match self.style {
            true => write!(stderr, "\x1b[2m{text}\x1b[0m"),
            false => write!(stderr, "{text}"),
        };
        let _ = stderr.flush();
    }
}

/// What a model thinks before it answers: on stderr, dimmed, and on a terminal wrapped between words.
pub struct Thinking {
    screen: Screen,
    wrap: Option<Wrap>,
    /// Something was written that is not ended.
    is_open: bool,
}

impl Thinking {
    /// Nothing yet.
    pub fn new(screen: Screen) -> Thinking {
        let width = columns(screen.style, terminal_size_of(io::stderr()));
        let wrap = width.filter(|width| *width >= WIDTH_MIN).map(Wrap::new);
        Thinking { screen, wrap, is_open: false }
    }

    /// Writes more of it; a word is held back until its end is known.
    pub fn push(&mut self, text: &str) {
        self.is_open = true;
        let Some(wrap) = &mut self.wrap else {
            return self.screen.dim(text);
        };
        let mut out = String::new();
        for (idx, line) in harmless(text).split('\n').enumerate() {
            if idx > 0 {
                wrap.end(&mut out);
                out.push('\n');
            }
            wrap.push(line, &mut out);
        }
        self.screen.dim(&out);
    }

    /// Writes what is held back and `gap`, if there was anything.
    pub fn end(&mut self, gap: &str) {
        if std::mem::take(&mut self.is_open) {
            let mut out = String::new();
            if let Some(wrap) = &mut self.wrap {
                wrap.end(&mut out);
            }
            self.screen.dim(&(out + gap));
        }
    }
}

/// Columns of the terminal that stdout is; `None` if it is none.
pub fn width() -> Option<usize> {
    columns(io::stdout().is_terminal(), terminal_size_of(io::stdout()))
}

fn columns(is_terminal: bool, size: Option<(Width, Height)>) -> Option<usize> {
    size.filter(|_| is_terminal).map(|(width, _)| width.0.into())
}

fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(super::harmless("a\u{1b}[2J\tb\r\n\u{7}\u{9b}c"), "a[2J\tb\nc");
    }
}
