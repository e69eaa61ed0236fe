//! One answer: drives the engine, tells reasoning from answer, and counts.

use std::time::Duration;

use serde::Serialize;
use zinc_chat::{AnswerParser, Delta};
use zinc_engine::{Engine, EngineError, Event, FinishReason, Request, Usage};

use crate::args::explain;
use crate::interrupt;
use crate::progress::{Progress, Unit};

/// A piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Of the reasoning.
    Reasoning(&'a str),
    /// Of the answer.
    Text(&'a str),
}

impl<'a> Piece<'a> {
    /// The text of a delta. No tools are offered here, so there are no calls.
    fn of(delta: &'a Delta) -> Option<Self> {
        match delta {
            Delta::Content(text) => Some(Self::Text(text)),
            Delta::Reasoning(text) => Some(Self::Reasoning(text)),
            Delta::ToolCallStart { .. }
            | Delta::ToolCallArguments { .. }
            | Delta::ToolCallEnd { .. } => None,
        }
    }
}

/// A finished answer.
#[derive(Debug)]
pub struct Answer {
    /// Generated ids.
    pub ids: Vec<u32>,
    /// The answer.
    pub text: String,
    /// What was thought before it.
    pub reasoning: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens and times.
    pub usage: Usage,
}

/// Generates an answer to `request`, handing each piece of text to `show` as soon as it is certain.
/// Ctrl-C ends it at the next step.
///
/// # Errors
/// The request is refused, the device fails, or `show` fails.
pub fn generate(
    engine: &mut Engine,
    request: Request,
    mut parser: AnswerParser,
    show: &mut dyn FnMut(Piece<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    let seq = engine.submit(request).map_err(explain)?;
    let mut progress = Progress::new("reading the prompt", Unit::Tokens);
    let mut answer = Answer {
        ids: Vec::new(),
        text: String::new(),
        reasoning: String::new(),
        reason: FinishReason::Cancelled,
        usage: Usage::default(),
    };
    let mut failure: Option<anyhow::Error> = None;
    while !engine.is_idle() {
        if interrupt::requested() || failure.is_some() {
            engine.cancel(seq);
        }
        engine.step(&mut |event| {
            let mut emit = |text: &str, at_end: bool| {
                let mut deltas = parser.push(text);
                if at_end {
                    deltas.extend(parser.finish());
                }
                for piece in deltas.iter().filter_map(Piece::of) {
                    match piece {
                        Piece::Reasoning(text) => answer.reasoning.push_str(text),
                        Piece::Text(text) => answer.text.push_str(text),
                    }
                    if failure.is_none() {
                        failure = show(piece).err();
                    }
                }
            };
            match event {
                Event::Prefill { n_computed, n_prompt, .. } => {
                    progress.update(n_computed as u64, n_prompt as u64)
                }
                Event::Token { id, text, .. } => {
                    progress.finish();
                    emit(text, false);
                    answer.ids.push(id);
                }
                Event::Finished { reason, text, usage, .. } => {
                    progress.finish();
                    emit(text, true);
                    answer.reason = reason;
                    answer.usage = usage;
                }
                Event::Failed { error, .. } => failure = Some(error.into()),
                // Not asked for.
                Event::PromptToken { .. } | Event::Embedding { .. } => {}
            }
        })?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(answer),
    }
}

/// Tokens of an answer, for programs.
#[derive(Serialize)]
pub struct Counts {
    prompt_tokens: usize,
    /// Those of the prompt that were in the cache already.
    cached_tokens: usize,
    completion_tokens: usize,
}

impl From<&Usage> for Counts {
    fn from(usage: &Usage) -> Self {
        Self {
            prompt_tokens: usage.n_prompt,
            cached_tokens: usage.n_reused,
            completion_tokens: usage.n_generated,
        }
    }
}

/// Times of an answer, for programs; seconds, and tokens per second.
#[derive(Serialize)]
pub struct Timings {
    time_to_first_token_s: Option<f64>,
    prompt_s: f64,
    prompt_tok_s: Option<f64>,
    completion_s: f64,
    completion_tok_s: Option<f64>,
}

impl From<&Usage> for Timings {
    fn from(usage: &Usage) -> Self {
        let began = usage.n_generated > 0;
        Self {
            time_to_first_token_s: began.then(|| usage.time_to_first_token().as_secs_f64()),
            prompt_s: usage.prefill.as_secs_f64(),
            prompt_tok_s: usage.prefill_tokens_per_second().filter(|_| began),
            completion_s: usage.decode.as_secs_f64(),
            completion_tok_s: usage.decode_tokens_per_second(),
        }
    }
}

/// One line about an answer, for people; `n_ctx` is the engine's context.
pub fn summary(answer: &Answer, n_ctx: u32) -> String {
    let usage = &answer.usage;
    let timings = Timings::from(usage);
    let rate =
        |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!(", {rate:.1} tok/s"));
    let mut parts = vec![format!("prompt {} tokens{}", usage.n_prompt, rate(timings.prompt_tok_s))];
    if usage.n_reused > 0 {
        parts.push(format!("{} of them cached", usage.n_reused));
    }
    if timings.time_to_first_token_s.is_some() {
        parts.push(format!("first token after {}", seconds(usage.time_to_first_token())));
    }
    parts.push(format!("generated {} tokens{}", usage.n_generated, rate(timings.completion_tok_s)));
    parts.push(match &answer.reason {
        FinishReason::Length if is_full(usage, n_ctx) => {
            format!("cut: the context of {n_ctx} tokens is full, --ctx N gives more")
        }
        reason => reason_words(reason),
    });
    parts.join(" · ")
}

/// Whether an answer took all that was left of the context.
pub fn is_full(usage: &Usage, n_ctx: u32) -> bool {
    usage.n_prompt + usage.n_generated >= n_ctx as usize
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

/// The reason in OpenAI's words, and `cancelled`.
pub fn reason_name(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::StopToken(_)
        | FinishReason::StopString(_)
        | FinishReason::Steered
        | FinishReason::Pooled => "stop",
        FinishReason::Length => "length",
        FinishReason::TimeLimit => "time_limit",
        FinishReason::Cancelled => "cancelled",
    }
}

fn reason_words(reason: &FinishReason) -> String {
    match reason {
        FinishReason::StopToken(_) => "ended by the model".into(),
        FinishReason::StopString(stop) => format!("ended by stop string {stop:?}"),
        FinishReason::Steered => "complete".into(),
        FinishReason::Pooled => "embedded".into(),
        FinishReason::Length => "ended by the token limit".into(),
        FinishReason::TimeLimit => "ended by the time limit".into(),
        FinishReason::Cancelled => "stopped by Ctrl-C".into(),
    }
}

/// The error if `error` says that the prompt does not fit.
pub fn prompt_too_long(error: &anyhow::Error) -> Option<(usize, u32)> {
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::PromptTooLong { n_prompt, n_ctx, .. }) => Some((*n_prompt, *n_ctx)),
        _ => None,
    }
}
