//! The head of multi-token prediction beside an engine's sequences.
//!
//! Row `j` of the head joins token `j + 1` of a text with the trunk's hidden state of token `j`, lies at
//! position `j` of the head's cache, and predicts token `j + 2`: see [`crate::mtp`]. So the rows of a
//! sequence are numbered as the trunk's, and the head's cache needs no pages of its own: it is one more
//! cache in the same pages. What belongs to a page goes with it, into the tree of what is kept, to
//! another sequence that begins alike, to the host's memory and back.
//!
//! A row is computed in the step that computes the trunk's, as soon as the next token is chosen. One
//! row in a page is not a function of the page's own tokens: the last one knows the token after them. A
//! text that leaves another at the end of a page reads that row as it was for the other text. It may
//! draft a little worse there, and so may a text that was embedded before, whose pages have no such
//! rows; what is generated never depends on it.

use zinc_backend::StepInputs;

use super::N_SEQS_MAX;
use crate::EngineError;
use crate::cache_shape::CacheShape;
use crate::mtp::HIDDEN_TENSOR;
use crate::runner::{Block, LoadedModel, Runner, Wanted};
use crate::sampler::{self, Rows, StepRows};
use crate::step::{Share, push_rows};

/// The head with its cache.
pub(crate) struct Head {
    runner: Runner,
    pages_per_seq: u32,
    n_vocab: u32,
    d_model: usize,
    inputs: StepInputs,
}

/// Rows that the head computed.
#[derive(Clone, Copy)]
pub(crate) struct Predicted<'a> {
    rows: Rows<'a>,
    hidden: &'a [f32],
    d_model: usize,
}

impl Head {
    /// Compiles its plans and allocates its cache, for the pages of a trunk with caches of `shape`.
    ///
    /// # Errors
    /// The model was loaded without its head, or the device lacks something.
    pub fn new(loaded: &LoadedModel, shape: CacheShape) -> Result<Head, EngineError> {
        let config = loaded.model().config();
        let shape = Block::Mtp.shape(shape);
        Ok(Head {
            runner: Runner::new(loaded, shape, &Head::wanted())?,
            pages_per_seq: shape.pages_per_seq(),
            n_vocab: config.n_vocab,
            d_model: config.d_model as usize,
            inputs: StepInputs::default(),
        })
    }

    /// What its plans compute.
    pub fn wanted() -> Wanted {
        Wanted {
            block: Block::Mtp,
            out_rows: Some(N_SEQS_MAX as u32),
            taps: vec![HIDDEN_TENSOR.to_owned()],
            largest: true,
            hidden: false,
        }
    }

    /// Its part of the pages.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Adds rows to the next step, at positions from `first` on.
    pub fn push(&mut self, share: &Share<'_>, first: usize) {
        push_rows(&mut self.inputs, share, first, self.pages_per_seq);
    }

    /// Computes the rows, and gives those that were asked for in the order in which they were added.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(&mut self) -> Result<Predicted<'_>, EngineError> {
        let Head { n_vocab, d_model, .. } = *self;
        let n_rows = self.inputs.out_rows.len();
        let outputs = match self.inputs.token_ids.is_empty() {
            true => &[][..],
            false => {
                let result = self.runner.run(&self.inputs);
                self.inputs.clear();
                result?.0.values.as_slice()
            }
        };
        let rows = StepRows::new(outputs, n_vocab, n_rows).take(n_rows, false);
        let hidden = outputs.get(3).map_or(&[][..], Vec::as_slice);
        Ok(Predicted { rows, hidden, d_model })
    }
}

impl<'a> Predicted<'a> {
    /// The likeliest token of a row, if its logits are numbers, and its hidden state.
    pub fn row(&self, at: usize) -> (Option<u32>, &'a [f32]) {
        let hidden = self.hidden.chunks_exact(self.d_model).nth(at).unwrap_or(&[]);
        let largest = self.rows.get(at).and_then(|row| sampler::greedy(row).ok());
        (largest, hidden)
    }
}
