//! Choosing the next token from a row of logits.
//!
//! Every request runs the same chain in this order; a sampler that is off changes nothing.
//!
//! | # | step | acts on | off when |
//! |--:|---|---|---|
//! | 0 | constraint | removes tokens that it does not allow, and those that would end the text too early | none given |
//! | 1 | logit bias | logits of the named ids | none given |
//! | 2 | repetition, presence and frequency penalties | logits of tokens in the window | 1, 0 and 0 |
//! | 3 | DRY | logits of tokens that continue a repeat | multiplier 0 |
//! | – | *temperature 0: the largest logit, lowest id of equals, is the answer; nothing below is looked at* | | |
//! | 4 | top-n-sigma | removes tokens | 0 |
//! | 5 | top-k | removes tokens | 0 |
//! | 6 | typical-p | removes tokens | 1 |
//! | 7 | top-p | removes tokens | 1 |
//! | 8 | min-p | removes tokens | 0 |
//! | 9 | XTC | removes the top choices, in a share of the steps | probability 0 |
//! | 10 | temperature | divides the logits | 1 |
//! | 11 | draw | picks by probability | – |
//!
//! Steps 6 to 9 see the probabilities of the tokens left at that point, at temperature 1. Every
//! removing step leaves at least one token. Penalties and DRY count prompt tokens too.
//!
//! **Reproducible.** Random numbers come from [Philox](rng), keyed by the seed and the index of the
//! generated token, spliced ones included. Sums run in double precision in a defined order, and exponentials are [our
//! own](math), so equal logits and an equal seed give equal tokens on every platform.
//!
//! **Log-probabilities** are those of the model: the log-softmax of the logits as they came, before
//! step 0.

mod candidates;
mod logits;
mod math;
mod params;
mod penalties;
mod rng;

pub use params::{
    DRY_BREAKER_BYTES_MAX, DryParams, N_DRY_BREAKERS_MAX, N_TOP_LOGPROBS_MAX, SamplingParams,
    XtcParams,
};

pub use logits::{Logits, N_LARGEST};
pub(crate) use logits::{Rows, StepRows};
pub(crate) use params::check_n_top;

use crate::matcher::{Matcher, MatcherState};
use candidates::Candidates;

/// Why sampling was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A parameter is outside its range.
    #[error("sampling parameter {field} is {value}; allowed: {allowed}")]
    Param {
        /// Field of [`SamplingParams`].
        field: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// The model computed NaN or an infinity.
    #[error(
        "the model's logit of token {id} is {value}; hint: `zinc diff` finds the first tensor that is wrong on this device"
    )]
    NotFinite {
        /// Position in the row of logits.
        id: usize,
        /// The logit.
        value: f32,
    },
    /// The row of logits is not as long as the vocabulary.
    #[error("{n_logits} logits for a vocabulary of {n_vocab} tokens")]
    VocabSize {
        /// Length of the row.
        n_logits: usize,
        /// Tokens in the vocabulary.
        n_vocab: usize,
    },
    /// Logit bias left no token to choose from.
    #[error("logit_bias bans every token; hint: leave at least one without a bias of -inf")]
    AllBanned,
    /// The constraint left no token to choose from.
    #[error("the constraint on the answer allows no token of the vocabulary")]
    NothingAllowed,
}

/// What a token is chosen from; by default all of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice<'a> {
    /// The tokens that have a bit: bit `id % 32` of word `id / 32`; ids past the last word are not
    /// allowed.
    pub allowed: Option<&'a [u32]>,
    /// Tokens that are not chosen while there are others; all are below the vocabulary's size.
    pub banned: &'a [u32],
}

/// Most tokens of [`Request::stop_token_ids`](crate::Request::stop_token_ids).
pub const N_STOP_TOKENS_MAX: usize = 256;

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Log-probabilities, if the request asked for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities of one step under the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// That of the chosen token.
    pub logprob: f32,
    /// The most probable tokens, falling, the lower id of equals first.
    pub top: Vec<(u32, f32)>,
}

/// Scratch space of a sampling step; one serves any number of samplers. After the first tokens it
/// grows no more.
#[derive(Debug, Default)]
pub struct SamplerWorkspace {
    /// The row after bias and penalties.
    adjusted: Vec<f32>,
    candidates: Candidates,
    /// One zero per vocabulary entry between uses.
    counts: Vec<u32>,
    repeats: Vec<u32>,
}

impl SamplerWorkspace {
    /// Space for histories of up to `n_tokens` tokens.
    pub fn new(n_tokens: usize) -> SamplerWorkspace {
        SamplerWorkspace { repeats: Vec::with_capacity(n_tokens), ..SamplerWorkspace::default() }
    }
}

/// The sampler chain of one request.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    n_vocab: usize,
    n_sampled: u64,
    breakers: Option<Matcher>,
    breaker_state: MatcherState,
    /// Tokens accepted since the last sequence breaker.
    n_since_break: usize,
}

impl Sampler {
    /// Checks the parameters for a vocabulary of `n_vocab` tokens.
    pub fn new(params: SamplingParams, n_vocab: usize) -> Result<Sampler, SamplerError> {
        params.validate()?;
        if let Some(&(id, _)) = params.logit_bias.iter().find(|(id, _)| *id as usize >= n_vocab) {
            let (value, allowed) = (format!("for token {id}"), format!("ids below {n_vocab}"));
            return Err(SamplerError::Param { field: "logit_bias", value, allowed });
        }
        let dry_active = params.dry.multiplier > 0.0;
        let breakers = dry_active.then(|| Matcher::new(&params.dry.sequence_breakers));
        let seed = params.seed.unwrap_or_else(rng::random_seed);
        let breaker_state = MatcherState::default();
        Ok(Sampler {
            params,
            seed,
            n_vocab,
            n_sampled: 0,
            breakers,
            breaker_state,
            n_since_break: 0,
        })
    }

    /// The seed in use: the request's, or the one drawn for it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether [`Sampler::accept`] has to see every token's text: only DRY's sequence breakers do.
    pub fn reads_text(&self) -> bool {
        self.breakers.is_some()
    }

    /// Takes note of a token that joined the text, prompt or generated; `bytes` are the token's.
    pub fn accept(&mut self, bytes: &[u8]) {
        let Some(breakers) = &self.breakers else {
            return;
        };
        self.n_since_break += 1;
        for &byte in bytes {
            self.breaker_state = breakers.step(self.breaker_state, byte);
            if breakers.matched(self.breaker_state).is_some() {
                self.n_since_break = 0;
            }
        }
    }

    /// Chooses the token that follows `history` (prompt and generated tokens, all of them accepted)
    /// from the model's `logits`.
    pub fn sample(
        &mut self,
        history: &[u32],
        logits: &[f32],
        workspace: &mut SamplerWorkspace,
    ) -> Result<Sampled, SamplerError> {
        self.sample_from(Choice::default(), history, Logits::All(logits), workspace)
    }

    /// Whether it looks further than at the [`N_LARGEST`] largest logits: for log-probabilities, for
    /// what changes logits before the choice, and for choices among more of them.
    pub fn reads_all(&self) -> bool {
        let params = &self.params;
        let n_read = match (params.is_greedy(), params.top_k) {
            (true, _) => 1,
            (false, 0) => usize::MAX,
            (false, k) => k as usize,
        };
        let changes_logits = !params.logit_bias.is_empty()
            || penalties::penalties_active(params)
            || self.breakers.is_some();
        // Of all tokens the candidates are in order of id, and sums over them as well.
        let in_order_of_id = !params.is_greedy() && n_read >= self.n_vocab;
        self.gives_logprobs()
            || changes_logits
            || !params.is_greedy() && params.top_n_sigma > 0.0
            || n_read > N_LARGEST as usize
            || in_order_of_id
    }

    /// As [`Sampler::sample`], from what `choice` leaves. Logits that are not whole are enough if the
    /// choice is free and [`Sampler::reads_all`] says so.
    pub fn sample_from(
        &mut self,
        choice: Choice<'_>,
        history: &[u32],
        logits: Logits<'_>,
        workspace: &mut SamplerWorkspace,
    ) -> Result<Sampled, SamplerError> {
        let logits = match logits {
            Logits::All(logits) => logits,
            Logits::Largest { ids, values } => {
                let is_free = choice.allowed.is_none() && choice.banned.is_empty();
                let id = self.choose_of_largest(is_free, ids, values, workspace)?;
                self.n_sampled += 1;
                return Ok(Sampled { id, logprobs: None });
            }
        };
        self.check(logits)?;
        let id = self.choose(choice, history, logits, workspace)?;
        self.n_sampled += 1;
        Ok(Sampled { id, logprobs: self.logprobs(logits, id, workspace) })
    }

    /// Takes `id`, whatever the logits say.
    pub fn force(
        &mut self,
        id: u32,
        logits: Logits<'_>,
        workspace: &mut SamplerWorkspace,
    ) -> Result<Sampled, SamplerError> {
        let logprobs = match logits {
            Logits::All(logits) => {
                self.check(logits)?;
                self.logprobs(logits, id, workspace)
            }
            Logits::Largest { ids, values } => best_of_largest(ids, values).map(|_| None)?,
        };
        self.n_sampled += 1;
        Ok(Sampled { id, logprobs })
    }

    /// Takes a token without logits.
    pub fn force_unseen(&mut self, id: u32) -> Sampled {
        self.n_sampled += 1;
        Sampled { id, logprobs: None }
    }

    /// Whether every token comes with log-probabilities.
    pub fn gives_logprobs(&self) -> bool {
        self.params.logprobs.is_some()
    }

    fn check(&self, logits: &[f32]) -> Result<(), SamplerError> {
        if logits.len() != self.n_vocab {
            return Err(SamplerError::VocabSize { n_logits: logits.len(), n_vocab: self.n_vocab });
        }
        check_finite(logits)
    }

    fn logprobs(
        &self,
        logits: &[f32],
        id: u32,
        workspace: &mut SamplerWorkspace,
    ) -> Option<TokenLogprobs> {
        self.params.logprobs.map(|n| logprobs(logits, id, n, &mut workspace.candidates))
    }

    fn choose(
        &self,
        choice: Choice<'_>,
        history: &[u32],
        logits: &[f32],
        workspace: &mut SamplerWorkspace,
    ) -> Result<u32, SamplerError> {
        let params = &self.params;
        let SamplerWorkspace { adjusted, candidates, counts, repeats } = workspace;
        let logits = self.adjust(choice, history, logits, adjusted, counts, repeats)?;
        if params.is_greedy() {
            return argmax(logits).ok_or(SamplerError::AllBanned);
        }
        if !candidates.load(logits, params.top_n_sigma, params.top_k) {
            return Err(SamplerError::AllBanned);
        }
        Ok(self.draw(candidates))
    }

    /// Chooses from the largest logits.
    fn choose_of_largest(
        &self,
        is_free: bool,
        ids: &[f32],
        values: &[f32],
        workspace: &mut SamplerWorkspace,
    ) -> Result<u32, SamplerError> {
        let id = best_of_largest(ids, values)?;
        let (n_logits, n_vocab) = (values.len(), self.n_vocab);
        let k = if self.params.is_greedy() { 1 } else { self.params.top_k as usize };
        if !is_free || self.reads_all() || k > n_logits {
            return Err(SamplerError::VocabSize { n_logits, n_vocab });
        }
        if self.params.is_greedy() {
            return Ok(id);
        }
        workspace.candidates.load_largest(&ids[..k], &values[..k]);
        Ok(self.draw(&mut workspace.candidates))
    }

    /// Steps 6 to 11.
    fn draw(&self, candidates: &mut Candidates) -> u32 {
        let params = &self.params;
        let draws = rng::draws(self.seed, self.n_sampled);
        candidates.typical(params.typical_p);
        candidates.top_p(params.top_p);
        candidates.min_p(params.min_p);
        if draws.xtc < f64::from(params.xtc.probability) {
            candidates.exclude_top_choices(params.xtc.threshold);
        }
        candidates.pick(params.temperature, draws.pick)
    }

    /// Steps 0 to 3 on a copy of the row; the row itself if they are all off.
    fn adjust<'a>(
        &self,
        choice: Choice<'_>,
        history: &[u32],
        logits: &'a [f32],
        adjusted: &'a mut Vec<f32>,
        counts: &mut Vec<u32>,
        repeats: &mut Vec<u32>,
    ) -> Result<&'a [f32], SamplerError> {
        let params = &self.params;
        let penalties = penalties::penalties_active(params);
        let dry = self.breakers.is_some();
        let Choice { allowed, banned } = choice;
        let is_free = allowed.is_none() && banned.is_empty();
        if is_free && params.logit_bias.is_empty() && !penalties && !dry {
            return Ok(logits);
        }
        adjusted.clear();
        match allowed {
            None => adjusted.extend_from_slice(logits),
            Some(mask) => {
                if !copy_allowed(logits, mask, adjusted) {
                    return Err(SamplerError::NothingAllowed);
                }
            }
        }
        counts.resize(self.n_vocab, 0);
        for &(id, bias) in &params.logit_bias {
            let logit = &mut adjusted[id as usize];
            *logit = if bias == f32::NEG_INFINITY {
                bias
            } else {
                penalties::keep_finite(*logit, *logit + bias)
            };
        }
        if penalties {
            penalties::apply_penalties(params, history, adjusted, counts);
        }
        if dry {
            penalties::apply_dry(
                &params.dry,
                history,
                self.n_since_break,
                adjusted,
                counts,
                repeats,
            );
        }
        ban(banned, adjusted);
        Ok(adjusted)
    }
}

/// Bans tokens, unless there are no others.
fn ban(banned: &[u32], logits: &mut [f32]) {
    let is_open =
        |(id, logit): (usize, &f32)| *logit > f32::NEG_INFINITY && !banned.contains(&(id as u32));
    if !banned.is_empty() && logits.iter().enumerate().any(is_open) {
        banned.iter().for_each(|id| logits[*id as usize] = f32::NEG_INFINITY);
    }
}

/// Appends the logits to `out`, -∞ for those without a bit in `mask`; false if there are no others.
fn copy_allowed(logits: &[f32], mask: &[u32], out: &mut Vec<f32>) -> bool {
    let mut any = false;
    let words = mask.iter().copied().chain(std::iter::repeat(0));
    for (block, word) in logits.chunks(32).zip(words) {
        any |= word.trailing_zeros() < block.len() as u32;
        let bits = (0..32).map(|bit| word >> bit & 1 == 1);
        let masked = block.iter().zip(bits);
        out.extend(masked.map(|(logit, bit)| if bit { *logit } else { f32::NEG_INFINITY }));
    }
    any
}

/// The lowest id with the largest logit, without bias or penalties.
///
/// # Errors
/// [`SamplerError::NotFinite`].
pub fn greedy(logits: Logits<'_>) -> Result<u32, SamplerError> {
    match logits {
        Logits::All(logits) => {
            check_finite(logits)?;
            argmax(logits).ok_or(SamplerError::VocabSize { n_logits: 0, n_vocab: 0 })
        }
        Logits::Largest { ids, values } => best_of_largest(ids, values),
    }
}

/// The first of the largest logits; what is no number would be first.
fn best_of_largest(ids: &[f32], values: &[f32]) -> Result<u32, SamplerError> {
    match (ids.first(), values.first()) {
        (Some(id), Some(value)) if value.is_finite() => Ok(*id as u32),
        (Some(id), Some(value)) => Err(SamplerError::NotFinite { id: *id as usize, value: *value }),
        _ => Err(SamplerError::VocabSize { n_logits: 0, n_vocab: 0 }),
    }
}

fn check_finite(logits: &[f32]) -> Result<(), SamplerError> {
    match first_not_finite(logits) {
        Some(id) => Err(SamplerError::NotFinite { id, value: logits[id] }),
        None => Ok(()),
    }
}

fn first_not_finite(logits: &[f32]) -> Option<usize> {
    // A pass without an early exit vectorises; the position is only looked for when there is one.
    let all_finite = logits.iter().fold(true, |all, logit| all & logit.is_finite());
    if all_finite { None } else { logits.iter().position(|logit| !logit.is_finite()) }
}

/// The lowest id with the largest logit; `None` if all are -∞.
fn argmax(logits: &[f32]) -> Option<u32> {
    let max = math::max(logits);
    if max == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|&logit| logit == max).map(|id| id as u32)
}

/// Log-probabilities of token `id` in the place that `logits` are for, under the model's own
/// distribution, with those of the `n_top` most probable tokens.
///
/// # Errors
/// [`SamplerError::NotFinite`], or an id that the row has no logit for.
pub fn score(
    logits: &[f32],
    id: u32,
    n_top: u32,
    workspace: &mut SamplerWorkspace,
) -> Result<TokenLogprobs, SamplerError> {
    check_finite(logits)?;
    if id as usize >= logits.len() {
        return Err(SamplerError::VocabSize { n_logits: logits.len(), n_vocab: id as usize + 1 });
    }
    Ok(logprobs(logits, id, n_top, &mut workspace.candidates))
}

/// Log-softmax of the whole row at `id` and at the `n_top` largest.
fn logprobs(logits: &[f32], id: u32, n_top: u32, candidates: &mut Candidates) -> TokenLogprobs {
    let max = f64::from(math::max(logits));
    let total: f64 = logits.iter().map(|&logit| math::exp(f64::from(logit) - max)).sum();
    let ln_total = math::ln(total);
    let logprob = |logit: f32| (f64::from(logit) - max - ln_total) as f32;
    let top = candidates.largest(logits, n_top).map(|(id, logit)| (id, logprob(logit))).collect();
    TokenLogprobs { logprob: logprob(logits[id as usize]), top }
}

#[cfg(test)]
mod tests;
