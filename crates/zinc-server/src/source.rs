//! Where models come from that are not on this machine yet.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::KnownModel;

/// A catalog of models and a way to fetch them.
pub trait ModelSource: fmt::Debug + Send + Sync {
    /// What can be fetched. Reads files and plans memory, so it is called where that may take time.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to do.
    fn offers(&self) -> Result<Vec<Offer>, String>;

    /// Whether a model of the server fits this machine, if that can be said. Asked for with each listing,
    /// where it may take time the first time.
    fn fit(&self, _known: &KnownModel) -> Option<FitNote> {
        None
    }

    /// Fetches a model by a name in the catalog, `hf:OWNER/REPO[:QUANT]` or an address, and tells how
    /// far it is. Dropping the future pauses it: what came is kept, and the next pull goes on from
    /// there.
    fn pull(self: Arc<Self>, model: String, tell: Tell) -> Pulling;

    /// Removes a model that was pulled or imported, and its files unless they are another program's;
    /// returns how many bytes are free again, or `None` for a model that did not come from here.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to do.
    fn remove(&self, _known: &KnownModel) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

/// A fetch in work; its error is a sentence that says what is wrong and what to do.
pub type Pulling = Pin<Box<dyn Future<Output = Result<KnownModel, String>> + Send>>;

/// Who is told how far a fetch is.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: `resolve`, `download`, `wait` for another process, `retry`, `verify`.
    pub phase: &'static str,
    /// Bytes there.
    pub done: u64,
    /// Bytes in all, if that is known.
    pub total: Option<u64>,
}

/// A model that can be fetched.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Offer {
    /// What [`ModelSource::pull`] calls it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its family.
    pub family: String,
    /// Its parameters, for people: `4B`.
    pub parameters: String,
    /// Quantisation.
    pub quant: String,
    /// Bytes, about.
    pub bytes: Option<u64>,
    /// Licence.
    pub license: String,
    /// Context length it was trained for, in tokens.
    pub n_ctx: u32,
    /// Whether it can think before it answers.
    pub thinking: bool,
    /// Whether it was trained to call tools.
    pub tools: bool,
    /// Whether it is here already.
    pub installed: bool,
    /// Whether it fits this machine, if that can be said.
    pub fit: Option<FitNote>,
}

/// Whether a model fits this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitNote {
    /// It does.
    pub fits: bool,
    /// On what and how far, or what is missing and what would fit; for people.
    pub text: String,
}

impl FitNote {
    /// The note as listings have it.
    pub(crate) fn to_json(&self) -> Value {
        json!({"fits": self.fits, "text": self.text})
    }
}

impl Offer {
    /// The offer as `/v1/catalog` lists it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "catalog.model",
            "name": self.name,
            "family": self.family,
            "parameters": self.parameters,
            "quant": self.quant,
            "size": self.bytes,
            "license": self.license,
            "context": self.n_ctx,
            "thinking": self.thinking,
            "tools": self.tools,
            "installed": self.installed,
            "fit": self.fit.as_ref().map(FitNote::to_json),
        })
    }
}
