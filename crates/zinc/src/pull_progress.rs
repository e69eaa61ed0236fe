//! Progress of a pull: a bar with rate and time left for people, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use zinc_catalog::{Event, Listener, Plan, Step};

use crate::output::human_bytes;
use crate::report;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is shown of a pull.
#[derive(Clone)]
pub struct PullProgress(Arc<Mutex<Shown>>);

struct Shown {
    names: Vec<String>,
    is_terminal: bool,
    /// The file that goes on now.
    current: Option<Current>,
}

struct Current {
    index: usize,
    what: &'static str,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    /// Bytes that were there at the beginning.
    before: u64,
    done: u64,
    begin: Instant,
    last_line: Instant,
}

impl PullProgress {
    /// Begins to show the pull of `plan`.
    pub fn new(plan: &Plan) -> PullProgress {
        let name = |name: &String| report::printable(name.rsplit('/').next().unwrap_or(name));
        let names = plan.files.iter().map(|file| name(&file.name)).collect();
        let is_terminal = std::io::stderr().is_terminal();
        PullProgress(Arc::new(Mutex::new(Shown { names, is_terminal, current: None })))
    }

    /// Who is to be told.
    pub fn listener(&self) -> Listener {
        let shown = self.clone();
        Arc::new(move |event| shown.lock().event(event))
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.lock().end();
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn event(&mut self, event: Event) {
        match event {
            Event::Checking { index, done, total } => {
                if self.current.as_ref().is_none_or(|current| current.index != index) {
                    self.begin(index, "checking", 0, Some(total));
                }
                self.bytes(done);
            }
            Event::File { index, step } => self.step(index, step),
        }
    }

    fn step(&mut self, index: usize, step: Step) {
        let name = self.names.get(index).cloned().unwrap_or_default();
        match step {
            Step::Begin { done, total } => self.begin(index, "", done, total),
            Step::Bytes { done } => self.bytes(done),
            Step::Waiting => {
                self.say(&format!("{name}: another zinc downloads this file; waiting for it"));
            }
            Step::Changed => {
                self.say(&format!(
                    "{name}: changed on the server since it was begun; from the start"
                ));
            }
            Step::NoRanges => {
                self.say(&format!("{name}: the server sends it only whole; from the start"));
            }
            Step::Retry { reason, wait } => {
                // A wait that nobody notices is not worth a line.
                if wait >= Duration::from_secs(2) {
                    let wait = wait.as_secs_f64().round();
                    self.say(&format!("{name}: {reason}; next attempt in {wait} s"));
                }
            }
        }
    }

    fn begin(&mut self, index: usize, what: &'static str, done: u64, total: Option<u64>) {
        self.end();
        let name = self.names.get(index).cloned().unwrap_or_default();
        let now = Instant::now();
        let bar = self.is_terminal.then(|| bar(&name, what, done, total));
        if !self.is_terminal {
            let size = total.map_or_else(|| "unknown size".into(), human_bytes);
            report::note(match (what, done) {
                ("", 0) => format!("{name}: {size}"),
                ("", done) => format!("{name}: {size}, {} of it are here", human_bytes(done)),
                (what, _) => format!("{name}: {what} {size}"),
            });
        }
        let current =
            Current { index, what, bar, total, before: done, done, begin: now, last_line: now };
        self.current = Some(current);
    }

    fn bytes(&mut self, done: u64) {
        let Some(current) = &mut self.current else {
            return;
        };
        // Connections tell in any order.
        current.done = current.done.max(done);
        if let Some(bar) = &current.bar {
            bar.set_position(current.done);
        } else if current.last_line.elapsed() >= LINE_EVERY {
            current.last_line = Instant::now();
            let line = current.line();
            let name = self.names.get(current.index).map_or("", String::as_str);
            report::note(format!("{name}: {line}"));
        }
    }

    fn say(&self, line: &str) {
        match self.current.as_ref().and_then(|current| current.bar.as_ref()) {
            Some(bar) => bar.println(line),
            None => report::note(line),
        }
    }

    fn end(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        if let Some(bar) = current.bar {
            bar.finish_and_clear();
        } else if current.total.is_none_or(|total| current.done >= total) && current.what.is_empty()
        {
            let name = self.names.get(current.index).map_or("", String::as_str);
            let seconds = current.begin.elapsed().as_secs_f64();
            report::note(format!("{name}: done in {seconds:.1} s"));
        }
    }
}

impl Current {
    /// `1.2 of 2.3 GiB (52 %), 35.1 MiB/s, 31 s left`.
    fn line(&self) -> String {
        let rate = (self.done - self.before) as f64 / self.begin.elapsed().as_secs_f64().max(1e-3);
        let rate_words = format!("{}/s", human_bytes(rate as u64));
        match self.total {
            Some(total) if rate > 0.0 => format!(
                "{} of {} ({} %), {rate_words}, {} left",
                human_bytes(self.done),
                human_bytes(total),
                (self.done as f64 / total.max(1) as f64 * 100.0) as u64,
                time_words((total.saturating_sub(self.done)) as f64 / rate),
            ),
            _ => format!("{}, {rate_words}", human_bytes(self.done)),
        }
    }
}

fn time_words(seconds: f64) -> String {
    match seconds as u64 {
        s if s < 90 => format!("{s} s"),
        s if s < 5400 => format!("{} min", s / 60),
        s => format!("{:.1} h", s as f64 / 3600.0),
    }
}

fn bar(name: &str, what: &str, done: u64, total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let bar = match total {
        Some(total) => ProgressBar::with_draw_target(Some(total), target),
        None => ProgressBar::with_draw_target(None, target),
    };
    let counts = match total {
        Some(_) => {
            "{bar:24} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
             {binary_bytes_per_sec}  {eta} left"
        }
        None => "{binary_bytes}  {binary_bytes_per_sec}",
    };
    // The template is fixed; should it ever be wrong, indicatif's own is good enough.
    if let Ok(style) = ProgressStyle::with_template(&format!("{{msg}}  {counts}")) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_message(match what {
        "" => name.to_owned(),
        what => format!("{what} {name}"),
    });
    bar.set_position(done);
    // What was there before says nothing about the rate.
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::time_words;

    #[test]
    fn times_for_people() {
        assert_eq!(time_words(31.9), "31 s");
        assert_eq!(time_words(150.0), "2 min");
        assert_eq!(time_words(9000.0), "2.5 h");
    }
}
