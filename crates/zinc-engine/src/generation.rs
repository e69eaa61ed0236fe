//! A request in work: its sequence, and everything between its logits and its text.

use std::time::Instant;

use zinc_token::{DecodeOptions, StreamDecoder};

use crate::draft::{DraftSource, Drafter};
use crate::ends::Ends;
use crate::pooling::Pooled;
use crate::request::{Event, Request, Usage};
use crate::sampler::{self, Choice, Logits, Rows, Sampled, Sampler, SamplerWorkspace};
use crate::scheduler::Pending;
use crate::sequence::{FinishReason, Sequence, SequenceId, SequenceState};
use crate::steer::{Allowed, Steer, SteerError};
use crate::step::OutRows;
use crate::stop::StopStrings;
use crate::{EngineError, Model};

/// A request with its state.
pub(crate) struct Generation {
    pub sequence: Sequence,
    /// Who asked.
    pub client: u64,
    sampler: Sampler,
    steer: Option<Box<dyn Steer>>,
    stop: StopStrings,
    stop_strings: Vec<String>,
    decoder: StreamDecoder,
    ends: Ends,
    /// Tokens after which it ends: what was asked for, or what the context has room for.
    n_generated_max: usize,
    scores: Option<Scores>,
    pooled: Option<Pooled>,
    deadline: Option<Instant>,
    drafter: Option<Drafter>,
    /// Set when it cannot go on.
    error: Option<EngineError>,
    times: Times,
    n_reused: usize,
    /// Text of the current event.
    shown: String,
}

/// Log-probabilities of the prompt.
struct Scores {
    n_top: u32,
    /// Prompt tokens that are reported.
    n_reported: usize,
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
        let n_generated_max = match request.pooling {
            Some(_) => 0,
            None => request.max_tokens.map_or(room, |n| room.min(n as usize)),
        };
        let n_top = request.prompt_logprobs;
        sampler::check_n_top("prompt_logprobs", n_top)?;
        let vocab = model.tokenizer().vocab();
        let unknown = request.shown_special.iter().find(|id| **id as usize >= vocab.n_tokens());
        if let Some(&id) = unknown {
            return Err(EngineError::ShownToken { id, n_vocab: vocab.n_tokens() as u32 });
        }
        let ends = Ends::new(&request, vocab)?;
        let mut sampler = Sampler::new(request.sampling, model.config().n_vocab as usize)?;
        if sampler.reads_text() {
            request.prompt.iter().for_each(|&id| sampler.accept(vocab.piece(id)));
        }
        // The text continues the prompt, so its first blank is part of it.
        let decode = DecodeOptions { skip_special: true, at_text_start: false };
        Ok(Generation {
            sequence: Sequence::new(id, &request.prompt, n_prompt + n_generated_max),
            client: request.client,
            sampler,
            steer: request.steer,
            stop: StopStrings::new(&request.stop)?,
            stop_strings: request.stop,
            decoder: StreamDecoder::new(decode).showing(request.shown_special),
            ends,
            n_generated_max,
            scores: n_top.map(|n_top| Scores { n_top, n_reported: 0 }),
            pooled: request.pooling.map(Pooled::new),
            deadline: request.deadline,
            drafter: None,
            error: None,
            times: Times::new(),
            n_reused: 0,
            shown: String::new(),
        })
    }

    /// How many of its tokens need not be computed if a cache holds them: never the last one, whose
    /// logits are wanted.
    pub fn n_reusable_max(&self) -> usize {
        if self.is_scoring() || self.is_pooled() {
            return 0;
        }
        self.sequence.tokens().len() - 1
    }

    /// Whether it wants hidden states instead of logits.
    pub fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }

    /// Begins, or goes on after it had to wait again, with `n_reused` tokens found in the cache.
    /// Whether it is the first time.
    pub fn start(&mut self, n_reused: usize) -> bool {
        self.sequence.start(n_reused);
        if let Some(pooled) = &mut self.pooled {
            pooled.reset();
        }
        if self.times.started.is_some() {
            return false;
        }
        self.n_reused = n_reused;
        self.times.started = Some(Instant::now());
        true
    }

    /// Prompt tokens after those that are computed turned out to be in the cache.
    pub fn skip_to(&mut self, n_computed: usize) {
        if self.times.first_token.is_none() {
            self.n_reused += n_computed.saturating_sub(self.sequence.n_computed());
        }
        self.sequence.restart(n_computed);
    }

    /// What the scheduler is told.
    pub fn pending(&self, is_held: bool) -> Pending {
        let n_pending = self.sequence.n_pending();
        let n_silent = match &self.scores {
            // Row `i` says how probable token `i + 1` is.
            Some(scores) if self.is_scoring() => {
                scores.n_reported.saturating_sub(1).saturating_sub(self.sequence.n_computed())
            }
            _ if self.is_pooled() => n_pending,
            _ => n_pending - 1,
        };
        let is_decoding = *self.sequence.state() == SequenceState::Decoding && n_pending == 1;
        Pending {
            is_decoding,
            is_held,
            n_computed: self.sequence.n_computed() as u32,
            n_pending: n_pending as u32,
            n_silent: n_silent as u32,
            n_draft: self.drafted().len() as u32,
        }
    }

    /// Tokens will be drafted ahead of it.
    pub fn speculate(&mut self, source: DraftSource) {
        self.drafter = Some(Drafter::new(source));
    }

    /// What drafts ahead of it.
    pub fn drafter(&mut self) -> Option<&mut Drafter> {
        self.drafter.as_mut()
    }

    /// The tokens drafted behind those that are pending.
    pub fn drafted(&self) -> &[u32] {
        self.drafter.as_ref().map_or(&[], Drafter::ids)
    }

    /// Tokens that the draft lacks.
    pub fn n_missing(&self) -> usize {
        self.drafter.as_ref().map_or(0, Drafter::n_missing)
    }

    /// Begins a draft for the next step, of no token beyond a text of `n_tokens_max` tokens; `pays` is
    /// the share of drafted tokens that must be accepted on average.
    pub fn begin_draft(&mut self, n_tokens_max: usize, pays: f32) {
        let Some(drafter) = &mut self.drafter else { return };
        let tokens = self.sequence.tokens();
        let is_ready =
            *self.sequence.state() == SequenceState::Decoding && self.sequence.n_pending() == 1;
        // The last token that is wanted need not be computed.
        let n_wanted = (self.n_generated_max - self.sequence.n_generated()).saturating_sub(1);
        let n_max = n_tokens_max.saturating_sub(tokens.len()).min(n_wanted);
        match is_ready {
            true => drafter.begin(n_max, pays),
            false => drafter.clear(),
        }
    }

    /// Looks in its own text for the tokens that the draft lacks.
    pub fn look_up(&mut self) {
        if let Some(drafter) = &mut self.drafter {
            drafter.look_up(self.sequence.tokens());
        }
    }

    /// Drafts nothing for the next step.
    pub fn draft_nothing(&mut self) {
        self.drafter.iter_mut().for_each(Drafter::clear);
    }

    fn is_scoring(&self) -> bool {
        let n_prompt = self.sequence.n_prompt();
        self.scores.as_ref().is_some_and(|scores| scores.n_reported < n_prompt)
    }

    /// Whether the rows of its next step have to be whole: hidden states, and logits that are looked at
    /// further than at the largest.
    pub fn reads_whole_rows(&self) -> bool {
        self.is_pooled()
            || self.is_scoring()
            || self.steer.is_some()
            || !self.ends.banned(self.sequence.n_generated()).is_empty()
            || self.sampler.reads_all()
    }

    /// Rows that a step of `n_tokens` returns for it, `n_rows` of them logits.
    pub fn out_rows(&self, n_tokens: u32, n_rows: u32) -> OutRows {
        let is_complete = n_tokens as usize == self.sequence.n_pending();
        match &self.pooled {
            Some(pooled) if !pooled.is_last() => OutRows::From(0),
            Some(_) if is_complete => OutRows::Last,
            _ => OutRows::From((n_tokens - n_rows) as usize),
        }
    }

    /// A step computed `n_tokens` more, which gave these rows: logits, or hidden states. Reports what
    /// became known of the prompt, and chooses the next token if all are computed. The last `n_draft`
    /// rows are of drafted tokens behind them; returns how many of those are accepted.
    pub fn advance(
        &mut self,
        n_tokens: usize,
        n_draft: usize,
        rows: Rows<'_>,
        model: &Model,
        workspace: &mut SamplerWorkspace,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> usize {
        let n_prompt = self.sequence.n_prompt();
        let was_prompt = self.sequence.n_computed() < n_prompt;
        let is_complete = self.sequence.advance(n_tokens);
        let seq = self.sequence.id();
        if was_prompt {
            let n_computed = self.sequence.n_computed().min(n_prompt);
            sink(Event::Prefill { seq, n_computed, n_prompt });
        }
        let (rows, drafted) = rows.split_at(rows.len().saturating_sub(n_draft));
        let mut n_accepted = 0;
        let result = match self.pooled {
            Some(_) => self.pool(rows.whole(), is_complete, model, sink),
            None => self
                .read_logits(rows, is_complete, model, workspace, sink)
                .and_then(|()| self.follow(drafted, &mut n_accepted, model, workspace, sink)),
        };
        if let Err(error) = result {
            self.fail(error);
        }
        n_accepted
    }

    /// Goes on along the drafted tokens with these rows of logits, as long as they are what is chosen.
    fn follow(
        &mut self,
        rows: Rows<'_>,
        n_accepted: &mut usize,
        model: &Model,
        workspace: &mut SamplerWorkspace,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let n_draft = rows.len();
        while *n_accepted < n_draft && !self.sequence.is_finished() {
            // Steering may have added several tokens.
            let n_pending = self.sequence.n_pending();
            let chosen = self.sequence.next_tokens(n_pending as u32);
            let draft = &self.drafted()[*n_accepted..n_draft];
            let n_same = chosen.iter().zip(draft).take_while(|(a, b)| a == b).count();
            *n_accepted += n_same;
            if n_same > 0 {
                self.sequence.advance(n_same);
            }
            if n_same < n_pending {
                break;
            }
            let Some(row) = rows.get(*n_accepted - 1) else { break };
            self.choose(row, model, workspace, sink)?;
        }
        if let Some(drafter) = &mut self.drafter {
            drafter.judge(n_draft, *n_accepted);
        }
        Ok(())
    }

    fn pool(
        &mut self,
        rows: &[f32],
        is_complete: bool,
        model: &Model,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let Some(pooled) = &mut self.pooled else { return Ok(()) };
        pooled.push(rows, model.config().d_model as usize);
        if is_complete {
            let seq = self.sequence.id();
            sink(Event::Embedding { seq, values: pooled.normalised()? });
            self.sequence.finish(FinishReason::Pooled);
        }
        Ok(())
    }

    fn read_logits(
        &mut self,
        rows: Rows<'_>,
        is_complete: bool,
        model: &Model,
        workspace: &mut SamplerWorkspace,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let n_vocab = model.config().n_vocab as usize;
        if self.is_scoring() {
            self.report_scores(rows.whole(), n_vocab, workspace, sink)?;
        }
        if !is_complete {
            return Ok(());
        }
        if self.n_generated_max == 0 {
            self.sequence.finish(FinishReason::Length);
            return Ok(());
        }
        let last = rows.get(rows.len().saturating_sub(1)).unwrap_or(Logits::All(&[]));
        self.choose(last, model, workspace, sink)
    }

    /// Reports prompt tokens whose probabilities these rows say.
    fn report_scores(
        &mut self,
        rows: &[f32],
        n_vocab: usize,
        workspace: &mut SamplerWorkspace,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let Some(scores) = &mut self.scores else { return Ok(()) };
        let (seq, prompt) = (self.sequence.id(), self.sequence.prompt());
        if scores.n_reported == 0 {
            sink(Event::PromptToken { seq, index: 0, id: prompt[0], logprobs: None });
            scores.n_reported = 1;
        }
        for row in rows.chunks_exact(n_vocab) {
            let index = scores.n_reported;
            // The last row is for the first generated token.
            let Some(&id) = prompt.get(index) else { break };
            let logprobs = sampler::score(row, id, scores.n_top, workspace)?;
            sink(Event::PromptToken { seq, index, id, logprobs: Some(&logprobs) });
            scores.n_reported += 1;
        }
        Ok(())
    }

    /// Chooses the next token from `logits` and reports it; tokens that are spliced in after a
    /// spliced one need no logits of their own and follow at once.
    fn choose(
        &mut self,
        logits: Logits<'_>,
        model: &Model,
        workspace: &mut SamplerWorkspace,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let mut logits = Some(logits);
        loop {
            let (sampler, history) = (&mut self.sampler, self.sequence.tokens());
            let banned = self.ends.banned(self.sequence.n_generated());
            let allowed = self.steer.as_mut().map_or(Ok(Allowed::Any), |steer| steer.next())?;
            let is_forced = matches!(allowed, Allowed::Forced(_));
            let sampled = match (allowed, logits.take()) {
                (Allowed::End, _) => {
                    self.sequence.finish(FinishReason::Steered);
                    return Ok(());
                }
                (Allowed::Forced(id), logits) => {
                    check_forced(id, model)?;
                    match logits {
                        Some(logits) => sampler.force(id, logits, workspace)?,
                        None => sampler.force_unseen(id),
                    }
                }
                (Allowed::Mask(mask), Some(logits)) => {
                    let choice = Choice { allowed: Some(mask), banned };
                    sampler.sample_from(choice, history, logits, workspace)?
                }
                (Allowed::Any, Some(logits)) => {
                    let choice = Choice { allowed: None, banned };
                    sampler.sample_from(choice, history, logits, workspace)?
                }
                (Allowed::Any | Allowed::Mask(_), None) => return Ok(()),
            };
            self.take(sampled, model, sink)?;
            if !is_forced || self.sampler.gives_logprobs() || self.sequence.is_finished() {
                return Ok(());
            }
        }
    }

    /// A token joins the text, or ends it.
    fn take(
        &mut self,
        sampled: Sampled,
        model: &Model,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let (tokenizer, vocab) = (model.tokenizer(), model.tokenizer().vocab());
        let id = sampled.id;
        if let Some(steer) = &mut self.steer {
            steer.accept(id)?;
        }
        if self.ends.is_end(id) {
            self.sequence.finish(FinishReason::StopToken(id));
            return Ok(());
        }
        let now = Instant::now();
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
        self.sequence.push(id);
        let bytes = vocab.piece(id);
        if self.sampler.reads_text() {
            self.sampler.accept(bytes);
        }
        self.shown.clear();
        let text = self.decoder.push(tokenizer, id);
        let found = match self.ends.is_held(self.sequence.n_generated()) {
            true => {
                self.shown.push_str(text);
                None
            }
            false => self.stop.push(text, &mut self.shown),
        };
        let (seq, logprobs) = (self.sequence.id(), sampled.logprobs.as_ref());
        sink(Event::Token { seq, id, text: &self.shown, bytes, logprobs });
        if let Some(index) = found {
            self.sequence.finish(FinishReason::StopString(self.stop_strings[index].clone()));
        } else if self.sequence.n_generated() >= self.n_generated_max {
            self.sequence.finish(FinishReason::Length);
        }
        Ok(())
    }

    /// Ends the sequence with an error.
    pub fn fail(&mut self, error: EngineError) {
        self.error.get_or_insert(error);
        self.sequence.finish(FinishReason::Cancelled);
    }

    /// Ends it if its time is over.
    pub fn check_deadline(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.sequence.finish(FinishReason::TimeLimit);
        }
    }

    /// Whether it has a deadline.
    pub fn has_deadline(&self) -> bool {
        self.deadline.is_some()
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

fn check_forced(id: u32, model: &Model) -> Result<(), SteerError> {
    let n_vocab = model.config().n_vocab;
    if id < n_vocab { Ok(()) } else { Err(SteerError::TokenId { id, n_vocab }) }
}

impl Times {
    fn new() -> Times {
        let submitted = Instant::now();
        Times { submitted, started: None, first_token: None, last_token: None }
    }

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
