//! What is asked of the engine and what it answers.

use std::time::Duration;

use crate::EngineError;
use crate::sampler::{SamplingParams, TokenLogprobs};
use crate::sequence::{FinishReason, SequenceId};

/// A text to continue.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt, at least one, fewer than the context has room for.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; `None` is as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Strings that end the text; see [`crate::stop`].
    pub stop: Vec<String>,
    /// End-of-generation tokens are tokens like any other.
    pub ignore_eos: bool,
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
    /// A token was chosen.
    Token {
        /// Whose.
        seq: SequenceId,
        /// Its id.
        id: u32,
        /// Text that is now certain: empty while a character or a possible stop string is
        /// incomplete.
        text: &'a str,
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
