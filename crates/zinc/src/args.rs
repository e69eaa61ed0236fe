//! Groups of flags that several commands share.

use std::num::NonZeroUsize;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use zinc_catalog::Sampling;
use zinc_engine::sampler::SamplerError;
use zinc_engine::stop::{N_STOP_STRINGS_MAX, STOP_STRING_BYTES_MAX, StopError, StopStrings};
use zinc_engine::{EngineError, EngineOptions, KV_TYPES, Model, SamplingParams, Speculation};
use zinc_quant::GgmlType;

use crate::report::UsageError;

/// Which model.
#[derive(Debug, Default, Args)]
pub struct ModelArgs {
    /// Model: a name of `zinc model list`, hf:OWNER/REPO[:QUANT], a URL, or a GGUF file (the first part
    /// of a split model stands for all). Default: the active model, else the built-in one
    #[arg(short, long, value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    pub model: Option<String>,
    /// Download a model that is not here without asking
    #[arg(long)]
    pub yes: bool,
    /// What the flags mean, once it was looked up.
    #[arg(skip)]
    pub(crate) found: std::cell::OnceCell<crate::model::Chosen>,
}

/// Where to compute.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// Device to compute on: cuda0 (an NVIDIA card), cpu, reference (slow; the definition of the
    /// operations). Default: the fastest that passes its self-test
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub device: Option<String>,
    /// Use a card even if another zinc process uses it
    #[arg(long)]
    pub share: bool,
    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// How many threads.
#[derive(Clone, Debug, Args)]
pub struct ThreadArgs {
    /// Threads that the cpu device uses. Default: one per physical core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

impl ThreadArgs {
    /// Threads for work of the command's own: those asked for, or one per processor.
    pub fn count(&self) -> NonZeroUsize {
        let asked = self.threads.and_then(|n| NonZeroUsize::new(n as usize));
        asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Sizes that the engine is built for.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Context length: prompt and answer together. Default: what the model was trained for, at
    /// most 8192
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    #[command(flatten)]
    pub step: StepArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Memory for what is kept of earlier texts.
#[derive(Debug, Clone, Copy, Args)]
pub struct CacheArgs {
    /// Memory of the device for all caches. Default: what the answers computed at the same time take
    /// at their full length
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub cache_size: Option<u32>,
    /// Memory of the host for what these caches have no room for
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub host_cache: u32,
}

impl CacheArgs {
    /// `options` with these sizes.
    pub fn apply(&self, options: EngineOptions) -> EngineOptions {
        let bytes = |mib: u32| u64::from(mib) << 20;
        EngineOptions {
            cache_bytes: self.cache_size.map(bytes),
            host_cache_bytes: bytes(self.host_cache),
            ..options
        }
    }
}

/// Whether tokens are drafted ahead.
#[derive(Debug, Args)]
pub struct SpeculateArgs {
    /// Draft tokens ahead and verify them in one step, while that pays: off, lookup (what followed the
    /// last words where they stood before), mtp (the model's own head for it), or auto (mtp where the
    /// model has one, else lookup; off for models with experts). It changes no answer
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = parse_speculation)]
    pub speculate: Speculation,
}

/// The way of drafting called `name`.
///
/// # Errors
/// There is none of that name.
pub fn parse_speculation(name: &str) -> Result<Speculation, String> {
    match name {
        "auto" => Ok(Speculation::Auto),
        "off" => Ok(Speculation::Off),
        "lookup" => Ok(Speculation::Lookup),
        "mtp" => Ok(Speculation::Mtp),
        _ => Err("expected auto, off, lookup or mtp".into()),
    }
}

/// Sizes of a step and type of the cache.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Most prompt tokens computed in one step; more is faster and takes more memory
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub chunk: u32,
    /// Element type of the key/value cache: f32, f16, bf16, f8_e4m3, q8_0, q4_0; f8_e4m3
    /// takes half of f16's memory, and values beyond 448 become 448
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = parse_kv_type)]
    pub kv: GgmlType,
}

/// The cache type called `name`.
///
/// # Errors
/// There is none of that name.
pub fn parse_kv_type(name: &str) -> Result<GgmlType, String> {
    KV_TYPES
        .into_iter()
        .find(|ty| ty.name() == name.to_ascii_lowercase())
        .ok_or_else(|| "the cache can be f32, f16, bf16, f8_e4m3, q8_0 or q4_0".into())
}

impl EngineArgs {
    /// Options for one sequence of `model`.
    ///
    /// # Errors
    /// A longer context than the model was trained for.
    pub fn options(&self, model: &Model) -> anyhow::Result<EngineOptions> {
        check_ctx(self.ctx, model)?;
        Ok(self.cache.apply(self.step.options(self.ctx)))
    }
}

/// Checks a context length that was asked for.
///
/// # Errors
/// It is longer than `model` was trained for.
pub fn check_ctx(ctx: Option<u32>, model: &Model) -> anyhow::Result<()> {
    let n_ctx_train = model.config().n_ctx_train;
    match ctx.filter(|n_ctx| *n_ctx > n_ctx_train) {
        Some(n_ctx) => {
            anyhow::bail!("--ctx is {n_ctx}; allowed: 1 to {n_ctx_train} for this model")
        }
        None => Ok(()),
    }
}

impl StepArgs {
    /// Options for one sequence of at most `n_ctx` tokens.
    pub fn options(&self, n_ctx: Option<u32>) -> EngineOptions {
        EngineOptions { n_ctx, chunk: self.chunk, kv_type: self.kv, ..EngineOptions::default() }
    }
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Randomness: 0 always takes the most probable token, 1 is the model's own distribution. Default:
    /// what the authors of a model of the catalog recommend, else 0.8
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Keep the K most probable tokens; 0 keeps all. Default: the authors', else 40
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep the most probable tokens that reach this probability together; 1 keeps all. Default: the
    /// authors', else 0.95
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this probable, relative to the most probable; 0 keeps all. Default:
    /// the authors', else 0.05
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Keep the tokens nearest to the expected surprise that reach this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub typical_p: f32,
    /// Keep logits within this many standard deviations of the largest; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 0.0, allow_negative_numbers = true)]
    pub top_n_sigma: f32,
    /// How often the top choices are removed (XTC); 0 never
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub xtc_probability: f32,
    /// Probability from which a token is a top choice for XTC
    #[arg(long, value_name = "P", default_value_t = 0.1, allow_negative_numbers = true)]
    pub xtc_threshold: f32,
    /// Divide the logits of tokens seen lately by this; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,
    /// Subtract this from the logits of tokens seen lately; 0 is off. Default: the authors', else 0
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtract this for each time a token was seen lately; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Tokens that the three penalties look back over; -1 is all
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    pub penalty_last_n: i64,
    /// Strength of the penalty on repeated sequences (DRY); 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub dry_multiplier: f32,
    /// Growth of the DRY penalty per repeated token
    #[arg(long, value_name = "X", default_value_t = 1.75, allow_negative_numbers = true)]
    pub dry_base: f32,
    /// Tokens that may repeat before the DRY penalty begins
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub dry_allowed_length: u32,
    /// Tokens that DRY looks back over; -1 is all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    pub dry_last_n: i64,
    /// Text that a DRY repeat never reaches across; may be given several times. Default: newline,
    /// colon, quote, asterisk
    #[arg(long, value_name = "TEXT")]
    pub dry_breaker: Vec<String>,
    /// Add BIAS to the logit of token ID; -inf bans it; may be given several times
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers, for the same answer again. Default: drawn anew
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The engine's form; `authors` stands in for flags that are not given.
    ///
    /// # Errors
    /// A value outside its range.
    pub fn params(&self, authors: &Sampling) -> Result<SamplingParams, UsageError> {
        let params = self.unchecked_params(authors);
        match params.validate() {
            Ok(()) => Ok(params),
            Err(error) => Err(UsageError(in_flags(&error).unwrap_or_else(|| error.to_string()))),
        }
    }

    fn unchecked_params(&self, authors: &Sampling) -> SamplingParams {
        let mut params = SamplingParams {
            logit_bias: self.logit_bias.clone(),
            repetition_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty.or(authors.presence_penalty).unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: u32::try_from(self.penalty_last_n).ok(),
            top_n_sigma: self.top_n_sigma,
            top_k: self.top_k.or(authors.top_k).unwrap_or(40),
            typical_p: self.typical_p,
            top_p: self.top_p.or(authors.top_p).unwrap_or(0.95),
            min_p: self.min_p.or(authors.min_p).unwrap_or(0.05),
            temperature: self.temp.or(authors.temp).unwrap_or(0.8),
            seed: self.seed,
            ..SamplingParams::default()
        };
        params.xtc.probability = self.xtc_probability;
        params.xtc.threshold = self.xtc_threshold;
        params.dry.multiplier = self.dry_multiplier;
        params.dry.base = self.dry_base;
        params.dry.allowed_length = self.dry_allowed_length;
        params.dry.last_n = u32::try_from(self.dry_last_n).ok();
        if !self.dry_breaker.is_empty() {
            params.dry.sequence_breakers.clone_from(&self.dry_breaker);
        }
        params
    }
}

/// A refused sampling parameter by the flag that sets it.
fn in_flags(error: &SamplerError) -> Option<String> {
    let SamplerError::Param { field, value, allowed } = error else {
        return None;
    };
    let flag = match *field {
        "temperature" => "temp",
        "repetition_penalty" => "repeat-penalty",
        "dry.sequence_breakers" => "dry-breaker",
        field => &field.replace(['_', '.'], "-"),
    };
    Some(format!("--{flag} is {value}; allowed: {allowed}"))
}

/// An error of the engine in the words of the command line.
pub fn explain(error: EngineError) -> anyhow::Error {
    match &error {
        EngineError::Sampler(refused) => {
            in_flags(refused).map_or_else(|| error.into(), anyhow::Error::msg)
        }
        _ => error.into(),
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, such as 42=-1.5")?;
    let id = id.parse().map_err(|_| format!("{id:?} is no token id"))?;
    let bias: f32 = bias.parse().map_err(|_| format!("{bias:?} is no number"))?;
    Ok((id, bias))
}

/// What the model is told besides the prompt, and when it stops.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// System message: who the model is and how it answers
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Let the model think before it answers, if it can
    #[arg(long, overrides_with = "no_think")]
    pub think: bool,
    /// Have the model answer at once
    #[arg(long)]
    pub no_think: bool,
}

impl ChatArgs {
    /// What the flags say about thinking.
    pub fn thinking(&self) -> Option<bool> {
        match (self.think, self.no_think) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// When an answer ends.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Most tokens to generate. Default: until the model ends or the context is full
    #[arg(short = 'n', long = "max-tokens", value_name = "TOKENS")]
    pub max_tokens: Option<u32>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl LimitArgs {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// A stop string that cannot be used.
    pub fn check(&self) -> Result<(), UsageError> {
        let what = match StopStrings::new(&self.stop) {
            Ok(_) => return Ok(()),
            Err(StopError::Empty { .. }) => "--stop is empty; give it some text".into(),
            Err(StopError::TooLong { n_bytes, .. }) => {
                format!("--stop has {n_bytes} bytes; allowed: up to {STOP_STRING_BYTES_MAX}")
            }
            Err(StopError::TooMany { n_strings }) => {
                format!("--stop is given {n_strings} times; allowed: up to {N_STOP_STRINGS_MAX}")
            }
        };
        Err(UsageError(what))
    }
}
