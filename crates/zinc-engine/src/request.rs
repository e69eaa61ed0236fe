//! What is asked of the engine and what it answers.

use std::fmt;
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::sampler::{SamplingParams, TokenLogprobs};
use crate::sequence::{FinishReason, SequenceId};
use crate::steer::Steer;

/// A text to continue.
#[derive(Default)]
pub struct Request {
    /// Token ids of the prompt, at least one, fewer than the context has room for.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; `None` is as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Strings that end the text; see [`crate::stop`].
    pub stop: Vec<String>,
    /// Tokens that end the text as end-of-generation tokens do, and are no part of it either. At most
    /// [`N_STOP_TOKENS_MAX`](crate::sampler::N_STOP_TOKENS_MAX).
    pub stop_token_ids: Vec<u32>,
    /// Least tokens to generate: before that no token is chosen that would end the text, unless the
    /// steer allows nothing else, and stop strings are text like any other. No more than `max_tokens`.
    pub min_tokens: u32,
    /// End-of-generation tokens are tokens like any other.
    pub ignore_eos: bool,
    /// Special tokens that appear in the text, such as the marks of a tool call; all others stay
    /// hidden.
    pub shown_special: Vec<u32>,
    /// What constrains the answer, if anything does.
    pub steer: Option<Box<dyn Steer>>,
    /// `Some(n)` reports the log-probability of every prompt token and the n most probable tokens in
    /// its place, as [`Event::PromptToken`]. The whole prompt is computed for it. At most
    /// [`N_TOP_LOGPROBS_MAX`](crate::sampler::N_TOP_LOGPROBS_MAX).
    pub prompt_logprobs: Option<u32>,
    /// Instead of a continuation, an embedding of the prompt: [`Event::Embedding`]. Needs an engine
    /// that was built for it: [`EngineOptions::embeddings`](crate::EngineOptions::embeddings).
    pub pooling: Option<Pooling>,
    /// When the request ends, wherever it is: [`FinishReason::TimeLimit`].
    pub deadline: Option<Instant>,
    /// Who asks. When more requests wait than can run, the clients share the engine; requests that
    /// name none are one client, 0.
    pub client: u64,
}

/// How the hidden states of a prompt's tokens, after the final norm, become one vector, which is then
/// brought to length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// That of the last token.
    Last,
    /// Their mean.
    Mean,
}

impl fmt::Debug for Request {
    /// All but what the steer holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("stop", &self.stop)
            .field("stop_token_ids", &self.stop_token_ids)
            .field("min_tokens", &self.min_tokens)
            .field("ignore_eos", &self.ignore_eos)
            .field("shown_special", &self.shown_special)
            .field("is_steered", &self.steer.is_some())
            .field("prompt_logprobs", &self.prompt_logprobs)
            .field("pooling", &self.pooling)
            .field("deadline", &self.deadline)
            .field("client", &self.client)
            .finish()
    }
}

/// What a step tells of a sequence.
#[derive(Debug)]
pub enum Event<'a> {
    /// Part of the prompt is computed. Comes again during decoding where a growing text has to be
    /// computed anew (longrope beyond its original context).
    Prefill {
        /// Whose.
        seq: SequenceId,
        /// Prompt tokens in the cache, reused ones included.
        n_computed: usize,
        /// Prompt tokens in all.
        n_prompt: usize,
    },
    /// A token of the prompt and how probable it was: comes while the prompt is computed, for every
    /// token in order, if [`Request::prompt_logprobs`] asks for it.
    PromptToken {
        /// Whose.
        seq: SequenceId,
        /// Index in the prompt.
        index: usize,
        /// Its id.
        id: u32,
        /// Log-probabilities; the first token has none, as nothing comes before it.
        logprobs: Option<&'a TokenLogprobs>,
    },
    /// The prompt's embedding, if [`Request::pooling`] asks for it.
    Embedding {
        /// Whose.
        seq: SequenceId,
        /// A vector of length 1, as wide as the model.
        values: &'a [f32],
    },
    /// A token joined the text.
    Token {
        /// Whose.
        seq: SequenceId,
        /// Its id.
        id: u32,
        /// Text that is now certain: empty while a character or a possible stop string is
        /// incomplete.
        text: &'a str,
        /// The token's own bytes, whether or not they are a whole character, hidden or held back.
        bytes: &'a [u8],
        /// Log-probabilities, if asked for.
        logprobs: Option<&'a TokenLogprobs>,
    },
    /// A sequence is over. Its last event.
    Finished {
        /// Whose.
        seq: SequenceId,
        /// Why.
        reason: FinishReason,
        /// Text that was still held back.
        text: &'a str,
        /// What it took.
        usage: Usage,
    },
    /// A sequence could not be continued; others go on. Its last event.
    Failed {
        /// Whose.
        seq: SequenceId,
        /// Why.
        error: EngineError,
    },
}

/// Tokens and time of a finished sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Prompt tokens whose keys and values were in the cache already.
    pub n_reused: usize,
    /// Tokens generated; the end-of-generation token is not one of them.
    pub n_generated: usize,
    /// From submission to the first step.
    pub queued: Duration,
    /// From the first step to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Usage {
    /// From submission to the first token.
    pub fn time_to_first_token(&self) -> Duration {
        self.queued + self.prefill
    }

    /// Prompt tokens computed per second; `None` if no time was measured.
    pub fn prefill_tokens_per_second(&self) -> Option<f64> {
        per_second(self.n_prompt - self.n_reused, self.prefill)
    }

    /// Tokens generated per second after the first one, which belongs to prefill.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        per_second(self.n_generated.saturating_sub(1), self.decode)
    }
}

fn per_second(n_tokens: usize, time: Duration) -> Option<f64> {
    (n_tokens > 0 && !time.is_zero()).then(|| n_tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let usage = Usage {
            n_prompt: 120,
            n_reused: 20,
            n_generated: 11,
            queued: Duration::from_secs(1),
            prefill: Duration::from_secs(2),
            decode: Duration::from_secs(5),
        };
        assert_eq!(usage.prefill_tokens_per_second(), Some(50.0));
        assert_eq!(usage.decode_tokens_per_second(), Some(2.0));
        assert_eq!(usage.time_to_first_token(), Duration::from_secs(3));
        assert_eq!(Usage::default().decode_tokens_per_second(), None);
    }
}
