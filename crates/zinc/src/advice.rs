//! What is missing on this machine, and what to do about it: the end of `zinc doctor`.

use std::path::Path;

use serde::Serialize;
use zinc_catalog::{Http, Patience, free_space};

use crate::library::Library;
use crate::output::human_bytes;
use crate::report::printable;

/// A model that is good for something takes at least this.
const ROOM_BYTES: u64 = 5 << 30;

/// One thing that could be better.
#[derive(Debug, Serialize)]
pub struct Advice {
    /// What is missing or wrong.
    what: String,
    /// What to do.
    next: String,
}

impl Advice {
    fn new(what: impl Into<String>, next: impl Into<String>) -> Advice {
        Advice { what: what.into(), next: next.into() }
    }

    /// For people: what, and below it what to do.
    pub fn lines(&self) -> String {
        format!("  {}:\n    {}\n", printable(&self.what), printable(&self.next))
    }
}

/// The models of this machine, for the report.
#[derive(Debug, Default, Serialize)]
pub struct ModelsReport {
    /// Where they are.
    directory: Option<String>,
    /// How many.
    n_models: usize,
    /// The one that is used without `-m`; none for the built-in one.
    active: Option<String>,
    /// Bytes free on their disk, where the system tells.
    free_bytes: Option<u64>,
}

impl ModelsReport {
    /// Looks at the directory of models.
    pub fn look() -> (ModelsReport, Vec<Advice>) {
        let library = match Library::open() {
            Ok(library) => library,
            Err(error) => {
                let what = format!("models cannot be kept ({error:#})");
                let advice = Advice::new(what.replace("; hint: ", "; "), "see above");
                return (ModelsReport::default(), vec![advice]);
            }
        };
        let directory = library.store().home().models();
        let records = library.records().unwrap_or_default();
        let report = ModelsReport {
            free_bytes: free_space(&directory),
            directory: Some(directory.display().to_string()),
            n_models: records.len(),
            active: library.store().active().ok().flatten(),
        };
        let mut advice = Vec::new();
        for record in &records {
            if let Err(error) = library.store().paths(record) {
                let text = error.to_string();
                let (what, next) = text.split_once("; hint: ").unwrap_or((&text, "pull it again"));
                advice.push(Advice::new(what, next));
            }
        }
        if records.is_empty() {
            advice.push(Advice::new(
                "no model is here but the built-in demonstration",
                "zinc model list --all shows what fits, zinc chat -m qwen3-4b gets one",
            ));
        } else if report.active.is_none() {
            let next = format!("zinc model use {} makes it the one without -m", records[0].name);
            advice.push(Advice::new("no model is active", next));
        }
        if let Some(free) = report.free_bytes.filter(|free| *free < ROOM_BYTES) {
            let what = format!("{} are free for models", human_bytes(free));
            advice.push(Advice::new(what, "zinc model prune, or ZINC_HOME on another disk"));
        }
        (report, advice)
    }

    /// Lines for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(directory) = &self.directory {
            rows.push(("directory", directory.clone()));
        }
        rows.push(("models", self.n_models.to_string()));
        rows.push((
            "without -m",
            self.active.clone().unwrap_or_else(|| crate::builtin::NAME.into()),
        ));
        if let Some(free) = self.free_bytes {
            rows.push(("free", human_bytes(free)));
        }
        rows
    }
}

fn unused_card(why: &str) -> Advice {
    let look = "look whether `nvidia-smi` finds the card here";
    let (what, next) = why.split_once("; ").unwrap_or((why, look));
    Advice::new(format!("an NVIDIA card is here, but no device: {what}"), next)
}

/// Advice about the machine: `no_cuda` is why it has no CUDA device.
pub fn of_machine(no_cuda: Option<&str>, isa: &[&str]) -> Vec<Advice> {
    let mut advice = Vec::new();
    let has_nvidia = ["/proc/driver/nvidia/version", "/dev/nvidiactl"];
    let has_nvidia = has_nvidia.iter().any(|path| Path::new(path).exists());
    if let Some(why) = no_cuda.filter(|_| has_nvidia) {
        advice.push(unused_card(why));
    }
    if cfg!(target_arch = "x86_64") && !isa.contains(&"avx2") {
        advice.push(Advice::new(
            "this processor has no AVX2",
            "small models only: qwen3-0.6b, gemma-3-270m",
        ));
    }
    if let Err(error) = Http::new(Patience::default()) {
        let text = error.to_string();
        let (what, next) = text.split_once("; hint: ").unwrap_or((&text, "see above"));
        advice.push(Advice::new(what, next));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_without_a_device_says_why_and_what_next() {
        let lines = unused_card("the driver is too old: 12.4; install 580 or newer").lines();
        let what = "an NVIDIA card is here, but no device: the driver is too old: 12.4";
        assert_eq!(lines, format!("  {what}:\n    install 580 or newer\n"));
        assert!(unused_card("it is lost").lines().contains("nvidia-smi"));
    }
}
