//! The models of this machine and how new ones come: what the commands know of the catalog.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use zinc_catalog::{
    Catalog, CatalogError, Home, Http, Hub, Patience, Plan, Puller, Record, Reference, Store,
};

use crate::output::human_bytes;
use crate::pull_progress::PullProgress;
use crate::{interrupt, report};

/// Everything about models with names.
pub struct Library {
    /// Who pulls, and with it the store and the catalog.
    pub puller: Puller,
    runtime: tokio::runtime::Runtime,
}

impl Library {
    /// Opens this user's, as the environment says.
    ///
    /// # Errors
    /// There is no home directory, the catalog is damaged, or the HTTP client cannot start.
    pub fn open() -> anyhow::Result<Library> {
        let home = Home::from_env()?;
        let catalog = Catalog::load(&home.catalog_file())
            .context("the catalog cannot be used; hint: zinc model update --reset")?;
        Library::with(home, catalog)
    }

    /// As [`Library::open`], with the catalog of the program: for who replaces a damaged one.
    ///
    /// # Errors
    /// As there.
    pub fn open_without_catalog() -> anyhow::Result<Library> {
        Library::with(Home::from_env()?, Catalog::built_in()?)
    }

    fn with(home: Home, catalog: Catalog) -> anyhow::Result<Library> {
        let catalog = Arc::new(catalog);
        let puller = Puller {
            store: Store::new(home),
            catalog,
            hub: Hub::from_env()?,
            http: Http::new(Patience::default())?,
            repin: false,
        };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build();
        Ok(Library { puller, runtime: runtime.context("cannot start threads")? })
    }

    /// The models of this machine.
    pub fn store(&self) -> &Store {
        &self.puller.store
    }

    /// The models known by name.
    pub fn catalog(&self) -> &Catalog {
        &self.puller.catalog
    }

    /// All records; damaged ones are told and left out.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn records(&self) -> anyhow::Result<Vec<Record>> {
        let mut tell = |error: CatalogError| {
            report::note(report::render(&error.into()).replacen("error:", "warning:", 1));
        };
        Ok(self.store().records(&mut tell)?)
    }

    /// Runs `work` to its end.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The model on this machine that `text` names.
    ///
    /// # Errors
    /// There is none.
    pub fn installed(&self, text: &str) -> anyhow::Result<Record> {
        if let Some(record) = self.records()?.into_iter().find(|record| record.name == text) {
            return Ok(record);
        }
        let reference = Reference::parse(text)?;
        match self.store().find_reference(&reference)? {
            Some(record) => Ok(record),
            None => Err(match reference {
                Reference::Name { id, .. } if self.catalog().find(&id).is_none() => {
                    self.puller.unknown(&id).into()
                }
                _ => CatalogError::NotInstalled { name: text.to_owned() }.into(),
            }),
        }
    }

    /// The file (of a split model: the first) of what `text` names: a file, a model of this machine, of
    /// another program's cache, or one that is pulled now, after asking unless `yes` is given.
    ///
    /// # Errors
    /// There is no such model, it may not be pulled, or pulling it failed.
    pub fn locate(&self, text: &str, yes: bool) -> anyhow::Result<PathBuf> {
        let by_name = self.records()?.into_iter().find(|record| record.name == text);
        if let Some(record) = by_name {
            return self.first_path(&record);
        }
        let reference = Reference::parse(text)?;
        match &reference {
            Reference::File(path) => return Ok(path.clone()),
            Reference::Ollama(name) => return Ok(self.store().home().ollama_model(name)?.0),
            _ => {}
        }
        if let Some(record) = self.store().find_reference(&reference)? {
            return self.first_path(&record);
        }
        let local = self.puller.local(&reference)?.and_then(|plan| plan.files.into_iter().next());
        if let Some((_, path)) = local.and_then(|file| file.elsewhere) {
            return Ok(path);
        }
        let record = self.pull_on_demand(text, &reference, yes)?;
        self.first_path(&record)
    }

    /// Where a model's (first) file is, after a look at all of them.
    ///
    /// # Errors
    /// A file is gone or has another length.
    pub fn first_path(&self, record: &Record) -> anyhow::Result<PathBuf> {
        Ok(self.store().paths(record)?.swap_remove(0))
    }

    fn pull_on_demand(
        &self,
        text: &str,
        reference: &Reference,
        yes: bool,
    ) -> anyhow::Result<Record> {
        if let Reference::Name { id, quant } = reference {
            let entry = self.catalog().find(id).ok_or_else(|| self.puller.unknown(id))?;
            entry.quant(quant.as_deref())?;
        }
        let may_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
        if !yes && !may_ask {
            let what = format!("{} is not on this machine", report::printable(text));
            let name = report::printable(text);
            let hint = format!("zinc model pull {name} fetches it, and so does --yes");
            return Err(report::with_hint(what, hint));
        }
        let plan = self.plan(reference)?;
        if !yes && !ask(&question(&plan))? {
            let what = format!("{} is not on this machine", plan.name);
            return Err(report::with_hint(what, format!("zinc model pull {}", plan.name)));
        }
        self.pull(&plan)
    }

    /// Finds out what a pull takes.
    ///
    /// # Errors
    /// As [`Puller::plan`].
    pub fn plan(&self, reference: &Reference) -> anyhow::Result<Plan> {
        Ok(self.wait(self.puller.plan(reference))?)
    }

    /// Pulls, with progress; Ctrl-C ends it, and the next pull goes on from there.
    ///
    /// # Errors
    /// As [`Puller::pull`]; or it was stopped.
    pub fn pull(&self, plan: &Plan) -> anyhow::Result<Record> {
        interrupt::install()?;
        interrupt::clear();
        let progress = PullProgress::new(plan);
        let listener = progress.listener();
        let pulled = self.wait(async {
            tokio::select! {
                pulled = self.puller.pull(plan, listener) => Some(pulled),
                () = interrupted() => None,
            }
        });
        progress.finish();
        match pulled {
            Some(pulled) => Ok(pulled?),
            None => {
                let what = format!("pulling {} was stopped", plan.name);
                Err(report::with_hint(
                    what,
                    "what came is kept; the same command goes on from there",
                ))
            }
        }
    }
}

async fn interrupted() {
    while !interrupt::requested() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a pull takes, as a question.
pub fn question(plan: &Plan) -> String {
    let size = match plan.to_download() {
        Some(n_bytes) => human_bytes(n_bytes),
        None => "a file of unknown size".to_owned(),
    };
    let license = plan
        .license
        .as_ref()
        .map_or_else(String::new, |name| format!(", licence {}", report::printable(name)));
    format!("{} is not on this machine. Download {size}{license}?", report::printable(&plan.name))
}

/// Asks a yes-or-no question on the terminal; Enter is yes.
///
/// # Errors
/// The terminal cannot be read.
pub fn ask(question: &str) -> anyhow::Result<bool> {
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{question} [Y/n] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let n = io::stdin().lock().read_line(&mut answer).context("cannot read from the terminal")?;
    Ok(n > 0 && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}
