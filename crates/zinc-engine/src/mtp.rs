//! The head of multi-token prediction: a further block that, from a token and the trunk's hidden
//! state of the token before it, predicts the token after it.
//!
//! Row `j` of a sequence joins token `j` with the trunk's hidden state of token `j - 1` (after the
//! final norm), so there is no row for token 0; row `j` lies at position `j - 1` of the head's own
//! cache. Beyond what the trunk has computed the head goes on with its own hidden states: the row of
//! a drafted token takes the one that the row before it gave.

use std::ops::Range;
use std::sync::Arc;

use crate::EngineError;
use crate::engine::check_ids;
use crate::lane::Lane;
use crate::options::EngineOptions;
use crate::runner::{Block, LoadedModel};
use crate::sampler::{self, Logits};
use crate::step::OutRows;

/// The trunk's tensor that the head reads, and the head's own that takes its place in drafts.
pub const HIDDEN_TENSOR: &str = "final_norm";

/// The head of one sequence, beside its trunk, with a cache of its own.
pub struct MtpHead {
    loaded: Arc<LoadedModel>,
    lane: Lane,
    /// Rows in the cache.
    n_rows: usize,
}

/// Rows that the head computed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MtpRows {
    /// Logits, row after row: of the token after each row's.
    pub logits: Vec<f32>,
    /// Hidden states, row after row.
    pub hidden: Vec<f32>,
}

/// Tokens that the head drafted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The drafted tokens, each the one of largest logit.
    pub tokens: Vec<u32>,
    /// The rows that they were taken from.
    pub rows: MtpRows,
}

impl MtpHead {
    /// Compiles the head's plans and allocates its cache for one sequence. `loaded` must hold the
    /// head: [`LoadedModel::load_with_mtp`].
    ///
    /// # Errors
    /// [`EngineError::NoMtpHead`]; an option outside its range, or what the device lacks.
    pub fn new(loaded: Arc<LoadedModel>, options: &EngineOptions) -> Result<MtpHead, EngineError> {
        let taps = vec![HIDDEN_TENSOR.to_owned()];
        let lane = Lane::new(&loaded, options, Block::Mtp, true, taps)?;
        Ok(MtpHead { loaded, lane, n_rows: 0 })
    }

    /// Rows computed so far: the head has seen the tokens `1 ..= n_rows` of its sequence.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Forgets all but the first `n` rows.
    ///
    /// # Errors
    /// The device failed.
    pub fn truncate(&mut self, n: usize) -> Result<(), EngineError> {
        // One row of the rope table: no model with a head has two.
        self.n_rows = self.lane.keep(n, 0)?;
        Ok(())
    }

    /// Computes the rows of `tokens`, which follow the rows so far; `hidden` has the hidden state of
    /// the token before each.
    ///
    /// # Errors
    /// A token id that the model lacks, hidden states of other tokens than these, more rows than the
    /// context has room for, or a failed device.
    pub fn eval(&mut self, tokens: &[u32], hidden: &[f32]) -> Result<MtpRows, EngineError> {
        let mut rows = MtpRows::default();
        let logits = 0..tokens.len();
        self.compute(tokens, hidden, logits, |values| {
            rows.logits.extend_from_slice(&values[0]);
            rows.hidden.extend_from_slice(&values[1]);
        })?;
        Ok(rows)
    }

    /// Computes the rows of `tokens` for the cache only.
    ///
    /// # Errors
    /// As [`MtpHead::eval`].
    pub fn prefill(&mut self, tokens: &[u32], hidden: &[f32]) -> Result<(), EngineError> {
        self.compute(tokens, hidden, tokens.len()..tokens.len(), |_| ())
    }

    /// Drafts the `n` tokens that follow `token`, whose predecessor has the hidden state `hidden`.
    /// The rows so far must end before `token`, and they stay as they are: rows of drafted tokens
    /// rest on guesses, and are computed anew from the trunk's hidden states once it has verified
    /// them.
    ///
    /// # Errors
    /// As [`MtpHead::eval`]; logits that are not finite.
    pub fn draft(&mut self, token: u32, hidden: &[f32], n: usize) -> Result<Draft, EngineError> {
        let n_before = self.n_rows;
        let draft = self.draft_on(token, hidden, n);
        self.truncate(n_before)?;
        draft
    }

    fn draft_on(&mut self, token: u32, hidden: &[f32], n: usize) -> Result<Draft, EngineError> {
        let mut draft = Draft::default();
        let mut token = token;
        let mut hidden = hidden.to_vec();
        while draft.tokens.len() < n {
            let rows = self.eval(&[token], &hidden)?;
            token = sampler::greedy(Logits::All(&rows.logits))?;
            draft.tokens.push(token);
            draft.rows.logits.extend_from_slice(&rows.logits);
            draft.rows.hidden.extend_from_slice(&rows.hidden);
            hidden = rows.hidden;
        }
        Ok(draft)
    }

    /// Computes rows and shows those of `wanted`, as indices into `tokens`, to `look`: logits and
    /// hidden states.
    fn compute(
        &mut self,
        tokens: &[u32],
        hidden: &[f32],
        wanted: Range<usize>,
        mut look: impl FnMut(&[Vec<f32>]),
    ) -> Result<(), EngineError> {
        let model = self.loaded.model();
        let config = model.config();
        check_ids(tokens, config.n_vocab)?;
        let d_model = config.d_model as usize;
        let n_expected = tokens.len() * d_model;
        if hidden.len() != n_expected {
            let (n_tokens, n_values) = (tokens.len(), hidden.len());
            return Err(EngineError::HiddenStates { n_tokens, n_values, n_expected });
        }
        let n_before = self.n_rows;
        let n_rows = n_before + tokens.len();
        let n_ctx = self.lane.n_ctx();
        if n_rows > n_ctx as usize {
            let (n_prompt, n_ctx_train) = (n_rows, config.n_ctx_train);
            return Err(EngineError::PromptTooLong { n_prompt, n_ctx, n_ctx_train });
        }
        let mut begin = 0;
        while begin < tokens.len() {
            let end = self.lane.step_end(begin, tokens.len(), wanted.start);
            let hidden = &hidden[begin * d_model..end * d_model];
            let out_rows = OutRows::From(wanted.start.clamp(begin, end) - begin);
            look(&self.lane.step(&tokens[begin..end], hidden, out_rows)?.values);
            begin = end;
            self.n_rows = n_before + end;
        }
        Ok(())
    }
}
