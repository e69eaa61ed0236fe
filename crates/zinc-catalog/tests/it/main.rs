//! Pulls from an imitation of the Hub: each ends whole and verified, or in one error with nothing lost.

#![allow(clippy::unwrap_used, missing_docs)]

mod caches;
mod fit;
mod hub;
mod pull;
mod refusals;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zinc_catalog::{
    Catalog, CatalogError, Event, Home, Http, Hub, Listener, Patience, Puller, Record, Reference,
    Step, Store,
};

use hub::FakeHub;

/// A user with a home directory and a Hub.
struct Place {
    dir: tempfile::TempDir,
    hub: FakeHub,
}

impl Place {
    async fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap(), hub: FakeHub::start().await }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn home(&self) -> Home {
        let var = |name: &str| (name == "HOME").then(|| self.dir.path().to_owned());
        Home::from_vars(&var).unwrap()
    }

    fn store(&self) -> Store {
        Store::new(self.home())
    }

    fn puller(&self, token: Option<&str>) -> Puller {
        let patience = Patience {
            attempts: 10,
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(50),
            silence: Duration::from_secs(600),
        };
        Puller {
            store: self.store(),
            catalog: Arc::new(Catalog::built_in().unwrap()),
            hub: Hub::new(&self.hub.endpoint(), token.map(str::to_owned)).unwrap(),
            http: Http::new(patience).unwrap(),
            repin: false,
        }
    }

    async fn pull(&self, text: &str) -> Result<Record, CatalogError> {
        self.pull_with(&self.puller(None), text, silent()).await
    }

    async fn pull_with(
        &self,
        puller: &Puller,
        text: &str,
        listener: Listener,
    ) -> Result<Record, CatalogError> {
        let plan = puller.plan(&Reference::parse(text).unwrap()).await?;
        puller.pull(&plan, listener).await
    }

    /// Pulls until `n` more bytes are written down to be there, then gives up.
    async fn give_up_after(&self, text: &str, n: usize) {
        let wanted = self.n_saved() + n as u64;
        self.hub.forget_clients();
        self.hub.stall_after(n);
        let saved = async {
            while self.n_saved() < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = self.pull(text) => panic!("{ended:?}"),
            () = saved => {}
        }
        assert_eq!(self.n_saved(), wanted);
        self.hub.forget_stalled();
    }

    /// Bytes that unfinished downloads say to have.
    fn n_saved(&self) -> u64 {
        hub::n_saved(self.dir.path())
    }

    /// Bytes of the model's first file.
    fn bytes(&self, record: &Record) -> Vec<u8> {
        std::fs::read(&self.store().paths(record).unwrap()[0]).unwrap()
    }
}

fn silent() -> Listener {
    Arc::new(|_| {})
}

/// A listener that remembers the steps other than bytes.
fn noting() -> (Listener, Arc<Mutex<Vec<Step>>>) {
    let notes: Arc<Mutex<Vec<Step>>> = Arc::default();
    let kept = Arc::clone(&notes);
    let listener = move |event: Event| {
        if let Event::File { step, .. } = event
            && !matches!(step, Step::Bytes { .. })
        {
            kept.lock().unwrap().push(step);
        }
    };
    (Arc::new(listener), notes)
}

/// Names of all files under `dir`.
fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => names.push(entry.file_name().to_string_lossy().into_owned()),
            }
        }
    }
    names.sort();
    names
}
