//! What ends an answer by itself: tokens that stand for its end, and how long nothing may.

use zinc_token::Vocab;

use crate::request::Request;
use crate::sampler::{N_STOP_TOKENS_MAX, SamplerError};

/// The tokens that end one answer, and the tokens it has at least.
#[derive(Debug)]
pub(crate) struct Ends {
    /// End-of-generation tokens, unless they are ignored, and those that were asked for.
    ids: Vec<u32>,
    n_least: usize,
}

impl Ends {
    /// What `request` says.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, too many of them, or fewer tokens at most than at least.
    pub fn new(request: &Request, vocab: &Vocab) -> Result<Ends, SamplerError> {
        let refuse = |field, value: String, allowed: String| {
            Err(SamplerError::Param { field, value, allowed })
        };
        let (asked, n_vocab) = (&request.stop_token_ids, vocab.n_tokens());
        if asked.len() > N_STOP_TOKENS_MAX {
            let allowed = format!("at most {N_STOP_TOKENS_MAX}");
            return refuse("stop_token_ids", format!("{} tokens", asked.len()), allowed);
        }
        if let Some(id) = asked.iter().find(|id| **id as usize >= n_vocab) {
            return refuse("stop_token_ids", id.to_string(), format!("ids below {n_vocab}"));
        }
        if let Some(n_most) = request.max_tokens.filter(|n| *n < request.min_tokens) {
            let (value, allowed) = (request.min_tokens, format!("up to max_tokens, {n_most}"));
            return refuse("min_tokens", value.to_string(), allowed);
        }
        let own = match request.ignore_eos {
            true => &[][..],
            false => vocab.end_of_generation(),
        };
        let ids = [own, asked.as_slice()].concat();
        Ok(Ends { ids, n_least: request.min_tokens as usize })
    }

    /// Whether the answer ends with this token, which is no part of it.
    pub fn is_end(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Whether an answer of `n_generated` tokens may not end yet.
    pub fn is_held(&self, n_generated: usize) -> bool {
        n_generated < self.n_least
    }

    /// The tokens that may not follow `n_generated` tokens.
    pub fn banned(&self, n_generated: usize) -> &[u32] {
        if self.is_held(n_generated) { &self.ids } else { &[] }
    }
}
