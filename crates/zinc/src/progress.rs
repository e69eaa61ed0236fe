//! Progress of work that takes a while: on stderr, only for people, and only once it has taken a while.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that ends sooner than this shows nothing.
const QUIET: Duration = Duration::from_millis(600);

/// A bar that appears when the work takes longer than [`QUIET`] and stderr is a terminal.
pub struct Progress {
    what: &'static str,
    unit: Unit,
    begin: Instant,
    enabled: bool,
    bar: Option<ProgressBar>,
}

/// What a [`Progress`] counts.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
    /// Runs of a benchmark.
    Runs,
    /// Pieces of a text.
    Chunks,
}

impl Progress {
    /// Begins the work called `what`.
    pub fn new(what: &'static str, unit: Unit) -> Self {
        let enabled = std::io::stderr().is_terminal();
        Self { what, unit, begin: Instant::now(), enabled, bar: None }
    }

    /// Tells that `done` of `total` are done.
    pub fn update(&mut self, done: u64, total: u64) {
        if !self.enabled || self.begin.elapsed() < QUIET {
            return;
        }
        let (what, unit) = (self.what, self.unit);
        let bar = self.bar.get_or_insert_with(|| new_bar(what, unit));
        bar.set_length(total);
        bar.set_position(done);
    }

    /// As [`Progress::update`], with a result so far: behind the bar for people, on a line of its own
    /// where stderr goes elsewhere.
    pub fn report(&mut self, done: u64, total: u64, result: &str) {
        if !self.enabled {
            crate::report::note(format!("[{done}/{total}] {result}"));
        }
        self.update(done, total);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {result}", self.what));
        }
    }

    /// Removes the bar from the terminal.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Something that turns while work of unknown length goes on, if stderr is a terminal.
pub struct Spinner(Option<ProgressBar>);

impl Spinner {
    /// Begins the work called `what`.
    pub fn new(what: String) -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner().with_message(what);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self(spinner)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}

fn new_bar(what: &'static str, unit: Unit) -> ProgressBar {
    let counts = match unit {
        Unit::Bytes => "{binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}",
        Unit::Tokens => "{pos}/{len} tokens",
        Unit::Runs => "{pos}/{len} runs",
        Unit::Chunks => "{pos}/{len} chunks",
    };
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // The template is fixed; should it ever be wrong, indicatif's own is good enough.
    if let Ok(style) = ProgressStyle::with_template(&format!("{{msg}} {{bar:30}} {counts}")) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
