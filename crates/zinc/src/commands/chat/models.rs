//! Models inside a conversation: another one, a new one, and how full this one's context is.

use zinc_catalog::Reference;

use super::Chat;
use crate::args::ModelArgs;
use crate::builtin;
use crate::library::Library;
use crate::output::human_bytes;
use crate::report::{self, printable};
use crate::session::Session;

/// Characters of the bar that shows how full the context is.
const BAR: usize = 30;

impl Chat<'_> {
    /// Goes on with the model called `name`; the conversation stays. Without a name, shows which models
    /// there are.
    pub(super) fn switch_model(&mut self, name: &str) -> anyhow::Result<()> {
        if name.is_empty() {
            return self.list_models();
        }
        let wanted = ModelArgs::named(Some(name.to_owned()));
        let chosen = wanted.choose()?;
        // What is wrong with the file shows before the old model is given up.
        wanted.open()?;
        let sampling = self.args.sampling.params(&chosen.sampling())?;
        let old = ModelArgs::named(self.model_flag());
        // Two models may not fit side by side.
        self.session = None;
        match self.load(&wanted) {
            Ok(session) => {
                self.session = Some(session);
                self.sampling = sampling;
                self.model.clone_from(&chosen.name);
                self.last = None;
                let line = self.session()?.memory_line();
                report::note(format!("{} · {line}", printable(&self.model)));
                Ok(())
            }
            Err(error) => {
                self.session = Some(self.load(&old)?);
                Err(error.context(format!("still talking to {}", printable(&self.model))))
            }
        }
    }

    /// What `-m` would have to say for the model in use; none for the built-in one.
    fn model_flag(&self) -> Option<String> {
        Some(self.model.clone()).filter(|name| name != builtin::NAME)
    }

    fn load(&self, model: &ModelArgs) -> anyhow::Result<Session> {
        let mut session =
            Session::open(model, &self.args.device, &self.args.engine, &self.args.speculate)?;
        session.use_template(model, &self.args.chat)?;
        match session.format.is_some() {
            true => Ok(session),
            false => {
                let what = format!("{} has no chat template", printable(&model.name()));
                Err(report::with_hint(what, "choose another: /model"))
            }
        }
    }

    fn list_models(&self) -> anyhow::Result<()> {
        let library = Library::open()?;
        let records = library.records()?;
        report::note(format!("in use: {}", printable(&self.model)));
        if builtin::file().is_some() {
            report::note(format!("  {}  built in", builtin::ID));
        }
        for record in &records {
            report::note(format!("  {}  {}", printable(&record.name), human_bytes(record.size())));
        }
        report::note("/model NAME goes on with one of them, /pull NAME fetches another;");
        report::note("zinc model list --all shows the catalog.");
        Ok(())
    }

    /// Downloads a model.
    pub(super) fn pull(&self, name: &str) -> anyhow::Result<()> {
        if name.is_empty() {
            return Err(report::with_hint(
                "no model is named",
                "/pull qwen3-4b, /pull hf:OWNER/REPO",
            ));
        }
        let library = Library::open()?;
        let plan = library.plan(&Reference::parse(name)?)?;
        let record = library.pull(&plan)?;
        let name = printable(&record.name);
        report::note(format!("{name} is here; /model {name} goes on with it"));
        Ok(())
    }

    /// Shows how full the context is.
    pub(super) fn context(&mut self) -> anyhow::Result<()> {
        let usage =
            self.last.as_ref().map(|answer| answer.usage.n_prompt + answer.usage.n_generated);
        let (n_used, n_messages) = (usage.unwrap_or(0), self.messages.len());
        let n_ctx = self.session()?.engine.n_ctx() as usize;
        let filled = (n_used * BAR).div_ceil(n_ctx.max(1)).min(BAR);
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
        let percent = n_used as f64 / n_ctx.max(1) as f64 * 100.0;
        report::note(format!(
            "{bar} {n_used} of {n_ctx} tokens ({percent:.0} %) in {n_messages} messages"
        ));
        Ok(())
    }
}
