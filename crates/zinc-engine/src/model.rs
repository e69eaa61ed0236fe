//! A model file with everything that is read from it once: configuration, tokenizer, chat template.

use std::path::Path;

use bytes::Bytes;
use zinc_backend::WeightSource;
use zinc_gguf::{Gguf, TensorEntry};
use zinc_models::ModelConfig;
use zinc_token::Tokenizer;

use crate::EngineError;

/// A model file, opened and understood; its weights stay in the mapped file.
pub struct Model {
    gguf: Gguf,
    graph: zinc_models::Model,
    tokenizer: Tokenizer,
}

impl Model {
    /// Opens the file at `path`, or the first of a split model's files.
    ///
    /// # Errors
    /// What is wrong with the file, its architecture or its tokenizer.
    pub fn open(path: &Path) -> Result<Model, EngineError> {
        let gguf = Gguf::open(path).map_err(|source| EngineError::Open { source })?;
        Model::from_gguf(gguf)
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Model, EngineError> {
        Model::from_gguf(Gguf::from_bytes(bytes).map_err(EngineError::InMemory)?)
    }

    fn from_gguf(gguf: Gguf) -> Result<Model, EngineError> {
        let graph = zinc_models::Model::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
        Ok(Model { gguf, graph, tokenizer })
    }

    /// Metadata and tensors of the file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The tensors of the file that `is_wanted` names, as devices take them.
    pub fn weight_sources(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<WeightSource> {
        let wanted = self.gguf.tensors().iter().filter(|entry| is_wanted(&entry.name));
        let source = |entry: &TensorEntry| WeightSource {
            name: entry.name.clone(),
            dtype: entry.ty,
            rows: entry.dims.iter().skip(1).product(),
            cols: entry.dims.first().copied().unwrap_or(1),
            data: self.gguf.data(entry),
        };
        wanted.map(source).collect()
    }

    /// The model's plan builder.
    pub fn graph(&self) -> &zinc_models::Model {
        &self.graph
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        self.graph.config()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Source of the chat template, if the file has one. Templates are untrusted.
    ///
    /// # Errors
    /// `tokenizer.chat_template` is there but is no string.
    pub fn chat_template(&self) -> Result<Option<&str>, EngineError> {
        let template = self.gguf.metadata().str("tokenizer.chat_template");
        Ok(template.map_err(zinc_models::ModelError::from)?)
    }
}
