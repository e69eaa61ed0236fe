//! A request in work: its sequence, and everything between its logits and its text.

use std::time::Instant;

use zinc_token::{DecodeOptions, StreamDecoder};

use crate::request::{Event, Request, Usage};
use crate::sampler::{Sampler, SamplerWorkspace};
use crate::sequence::{FinishReason, Sequence, SequenceId};
use crate::stop::StopStrings;
use crate::{EngineError, Model};

/// A request with its state.
pub(crate) struct Generation {
    pub sequence: Sequence,
    sampler: Sampler,
    stop: StopStrings,
    stop_strings: Vec<String>,
    decoder: StreamDecoder,
    ignore_eos: bool,
    /// Tokens after which it ends: what was asked for, or what the context has room for.
    n_generated_max: usize,
    /// Set when it cannot go on.
    error: Option<EngineError>,
    times: Times,
    n_reused: usize,
    /// Text of the current event.
    shown: String,
}

/// When things happened.
struct Times {
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Generation {
    /// Prepares a request whose prompt has been checked: fewer than `n_ctx` tokens, all in the
    /// vocabulary.
    pub fn new(
        id: SequenceId,
        request: Request,
        model: &Model,
        n_ctx: u32,
    ) -> Result<Generation, EngineError> {
        let n_prompt = request.prompt.len();
        let room = n_ctx as usize - n_prompt;
        let n_generated_max = request.max_tokens.map_or(room, |n| room.min(n as usize));
        let mut sampler = Sampler::new(request.sampling, model.config().n_vocab as usize)?;
        if sampler.reads_text() {
            request
                .prompt
                .iter()
                .for_each(|&id| sampler.accept(model.tokenizer().vocab().piece(id)));
        }
        Ok(Generation {
            sequence: Sequence::new(id, &request.prompt, n_prompt + n_generated_max),
            sampler,
            stop: StopStrings::new(&request.stop)?,
            stop_strings: request.stop,
            // The text continues the prompt, so its first blank is part of it.
            decoder: StreamDecoder::new(DecodeOptions { skip_special: true, at_text_start: false }),
            ignore_eos: request.ignore_eos,
            n_generated_max,
            error: None,
            times: Times {
                submitted: Instant::now(),
                started: None,
                first_token: None,
                last_token: None,
            },
            n_reused: 0,
            shown: String::new(),
        })
    }

    /// Begins with `n_reused` tokens found in the cache.
    pub fn start(&mut self, n_reused: usize) {
        self.sequence.start(n_reused);
        self.n_reused = n_reused;
        self.times.started = Some(Instant::now());
    }

    /// A step computed `n_tokens` more. Returns whether a token is to be chosen.
    pub fn advance(&mut self, n_tokens: usize, sink: &mut dyn FnMut(Event<'_>)) -> bool {
        let was_prompt = self.sequence.n_computed() < self.sequence.n_prompt();
        let complete = self.sequence.advance(n_tokens);
        if was_prompt {
            let n_prompt = self.sequence.n_prompt();
            let n_computed = self.sequence.n_computed().min(n_prompt);
            sink(Event::Prefill { seq: self.sequence.id(), n_computed, n_prompt });
        }
        if complete && self.n_generated_max == 0 {
            self.sequence.finish(FinishReason::Length);
            return false;
        }
        complete
    }

    /// Chooses the next token from `logits` and reports it.
    pub fn choose(
        &mut self,
        logits: &[f32],
        model: &Model,
        workspace: &mut SamplerWorkspace,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let sampled = match self.sampler.sample(self.sequence.tokens(), logits, workspace) {
            Ok(sampled) => sampled,
            Err(error) => return self.fail(error.into()),
        };
        let (tokenizer, vocab) = (model.tokenizer(), model.tokenizer().vocab());
        if !self.ignore_eos && vocab.is_end_of_generation(sampled.id) {
            return self.sequence.finish(FinishReason::StopToken(sampled.id));
        }
        let now = Instant::now();
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
        self.sequence.push(sampled.id);
        if self.sampler.reads_text() {
            self.sampler.accept(vocab.piece(sampled.id));
        }
        self.shown.clear();
        let found = self.stop.push(self.decoder.push(tokenizer, sampled.id), &mut self.shown);
        let (seq, logprobs) = (self.sequence.id(), sampled.logprobs.as_ref());
        sink(Event::Token { seq, id: sampled.id, text: &self.shown, logprobs });
        if let Some(index) = found {
            self.sequence.finish(FinishReason::StopString(self.stop_strings[index].clone()));
        } else if self.sequence.n_generated() >= self.n_generated_max {
            self.sequence.finish(FinishReason::Length);
        }
    }

    /// Ends the sequence with an error.
    pub fn fail(&mut self, error: EngineError) {
        self.error.get_or_insert(error);
        self.sequence.finish(FinishReason::Cancelled);
    }

    /// The last event of a finished sequence.
    pub fn report_end(mut self, reason: FinishReason, sink: &mut dyn FnMut(Event<'_>)) {
        let seq = self.sequence.id();
        if let Some(error) = self.error {
            return sink(Event::Failed { seq, error });
        }
        self.shown.clear();
        self.stop.push(self.decoder.finish(), &mut self.shown);
        self.stop.finish(&mut self.shown);
        let usage = self.times.usage(&self.sequence, self.n_reused);
        sink(Event::Finished { seq, reason, text: &self.shown, usage });
    }
}

impl Times {
    fn usage(&self, sequence: &Sequence, n_reused: usize) -> Usage {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        Usage {
            n_prompt: sequence.n_prompt(),
            n_reused,
            n_generated: sequence.n_generated(),
            queued: started - self.submitted,
            prefill: first_token.saturating_duration_since(started),
            decode: self.last_token.map_or_else(Default::default, |last| last - first_token),
        }
    }
}
