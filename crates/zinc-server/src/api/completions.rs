//! `/v1/completions`: texts continued as they are.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use zinc_chat::{ResponseFormat, with_bos};
use zinc_engine::FinishReason;
use zinc_engine::sampler::TokenLogprobs;
use zinc_token::{DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer};

use super::common::{
    self, BOOKKEEPING, CONSTRAINTS, FINGERPRINT, MODEL, RESPONSE_FORMAT, STREAM, finite,
};
use crate::app::App;
use crate::conversation::{away, refusal};
use crate::input::Input;
use crate::models::Instance;
use crate::reply::{self, DONE, Script, push_data};
use crate::run::{Order, Run, Visit};
use crate::sampling::{COMMON, MORE, N, Sampling, TOP_LOGPROBS, max_tokens};
use crate::schema::{Body, Field, Kind, Neutral, Object, refused, used};
use crate::worker::{Update, What};
use crate::{ApiError, Dialect, ids};

/// Most prompts of one request.
const N_PROMPTS_MAX: usize = 1024;
/// Tokens of an answer where nothing is said, as in OpenAI's API.
const DEFAULT_MAX_TOKENS: u32 = 16;

const IDS: Kind = Kind::List(&Kind::Int(0, u32::MAX as i64), 1, usize::MAX);

/// A text or its tokens, or several.
pub const PROMPTS: Kind = Kind::AnyOf(&[
    Kind::Text,
    IDS,
    Kind::List(&Kind::Text, 1, N_PROMPTS_MAX),
    Kind::List(&IDS, 1, N_PROMPTS_MAX),
]);

const FIELDS: &[Field] = &[
    Field {
        role: crate::schema::Role::Required,
        ..used("prompt", PROMPTS, "A text or its tokens, or a list of either.")
    },
    used(
        "max_tokens",
        Kind::Int(-1, u32::MAX as i64),
        "Most tokens of an answer; default 16, -1 is no limit.",
    ),
    used("n_predict", Kind::Int(-1, u32::MAX as i64), "The same, by llama.cpp's name."),
    used("logprobs", TOP_LOGPROBS, "Log-probabilities of the tokens and of so many alternatives."),
    used("echo", Kind::Flag, "The answer begins with the prompt."),
    used("best_of", Kind::Int(1, 128), "As large as n, or absent: every answer is returned."),
    used(
        "add_special_tokens",
        Kind::Flag,
        "A text begins with the model's beginning-of-sequence token; default true.",
    ),
    used("response_format", Kind::Tagged(&RESPONSE_FORMAT), "The form of the answer (vLLM)."),
    refused("suffix", &[Neutral::Text("")], "zinc continues texts, it fills no gaps"),
];

/// The body.
pub const BODY: Object = Object {
    name: "CompletionRequest",
    groups: &[MODEL, FIELDS, N, COMMON, MORE, CONSTRAINTS, STREAM, BOOKKEEPING],
};

/// A text to continue.
struct Prompt {
    text: Option<String>,
    ids: Vec<u32>,
}

/// Continues texts.
///
/// # Errors
/// See [`ApiError`].
pub async fn handle(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let mut sampling = Sampling::read(&body, &visit.lease.known().defaults)?;
    if body.int("best_of").is_some_and(|best_of| best_of != sampling.n as i64) {
        let what = "zinc does not rank answers: best_of must be n";
        return Err(ApiError::unsupported("best_of", what));
    }
    sampling.params.logprobs = body.count("logprobs");
    let echo = body.flag("echo").unwrap_or(false);
    let stream = body.flag("stream") == Some(true);
    let options = body.object("stream_options");
    let include_usage = options.and_then(|options| options.flag("include_usage")) == Some(true);
    let json = input.json;
    let n = sampling.n;
    let own = sampling.clone();
    let work = move || {
        let orders = orders(&json, &visit.lease, &own, echo);
        (visit, orders)
    };
    let (visit, orders) = away(work).await?;
    let (prompts, orders): (Vec<Prompt>, Vec<Order>) = orders?.into_iter().unzip();
    let head = Head {
        id: ids::new("cmpl-"),
        created: ids::unix_seconds(),
        model: visit.lease.known().id.clone(),
    };
    let run = visit.start(orders, &sampling).await?;
    let choice = |i: usize| Choice::new(&prompts[i / n], &run, echo, sampling.params.logprobs);
    let choices = (0..prompts.len() * n).map(choice).collect();
    let answers = Answers { run, head, choices };
    match stream {
        false => answers.whole().await,
        true => {
            Ok(reply::events(Stream { answers, include_usage, out: String::new(), is_over: false }))
        }
    }
}

/// The prompts and what is wanted of them.
fn orders(
    json: &Value,
    instance: &Instance,
    sampling: &Sampling,
    echo: bool,
) -> Result<Vec<(Prompt, Order)>, ApiError> {
    let body = BODY.check(json)?;
    let add_bos = body.flag("add_special_tokens").unwrap_or(true);
    let defaults = &instance.known().defaults;
    let max = match max_tokens(&body, &["max_tokens", "n_predict"], defaults) {
        None if body.get("max_tokens").or(body.get("n_predict")).is_none() => {
            Some(DEFAULT_MAX_TOKENS)
        }
        max => max,
    };
    let format = common::constraint(&body, common::response_format(&body, "response_format")?)?;
    if format != ResponseFormat::Text {
        sampling.refuse_longer()?;
    }
    let order = |prompt: Prompt| {
        let mut guides = Vec::new();
        if format != ResponseFormat::Text {
            for _ in 0..sampling.n {
                let guide = instance.guides()?.plain_guide(instance.tokenizer(), &format);
                guides.extend(guide.map_err(refusal)?);
            }
        }
        let order = Order {
            ids: prompt.ids.clone(),
            max_tokens: max,
            guides,
            prompt_logprobs: body.count("logprobs").filter(|_| echo),
            ..Order::default()
        };
        Ok((prompt, order))
    };
    read_prompts(&body, "prompt", instance.tokenizer(), add_bos).into_iter().map(order).collect()
}

fn read_prompts(body: &Body<'_>, name: &str, tokenizer: &Tokenizer, add_bos: bool) -> Vec<Prompt> {
    let texts = |text: &str| {
        let ids = if add_bos { encode(tokenizer, text) } else { plain_ids(tokenizer, text) };
        Prompt { text: Some(text.to_owned()), ids }
    };
    let ids = |list: &[Value]| {
        let ids = list.iter().filter_map(|id| u32::try_from(crate::schema::int(id)?).ok());
        Prompt { text: None, ids: ids.collect() }
    };
    match body.get(name) {
        Some(Value::String(text)) => vec![texts(text)],
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => vec![ids(list)],
        Some(Value::Array(list)) => {
            let prompt = |item: &Value| match item {
                Value::String(text) => texts(text),
                item => ids(item.as_array().map_or(&[], Vec::as_slice)),
            };
            list.iter().map(prompt).collect()
        }
        _ => Vec::new(),
    }
}

fn plain_ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false })
}

/// A text's tokens, behind the beginning-of-sequence token if the model expects one.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    with_bos(tokenizer, plain_ids(tokenizer, text))
}

/// The token ids of a field of kind [`PROMPTS`].
pub fn read_ids(body: &Body<'_>, name: &str, tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    read_prompts(body, name, tokenizer, true).into_iter().map(|prompt| prompt.ids).collect()
}

struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn object(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

/// Tokens in the form of the completions API: parallel lists.
#[derive(Default)]
struct Tokens {
    tokens: Vec<String>,
    logprobs: Vec<Option<f32>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
}

impl Tokens {
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        logprobs: Option<&TokenLogprobs>,
        offset: usize,
    ) {
        let text = |id: u32| token_text(tokenizer.vocab().piece(id));
        self.offsets.push(offset);
        self.tokens.push(text(id));
        self.logprobs.push(logprobs.map(|logprobs| finite(logprobs.logprob)));
        self.top.push(logprobs.map_or(Value::Null, |logprobs| {
            // Tokens of one spelling share an entry, the more probable one's.
            let mut top = serde_json::Map::new();
            for (id, logprob) in &logprobs.top {
                top.entry(text(*id)).or_insert_with(|| json!(finite(*logprob)));
            }
            top.entry(text(id)).or_insert_with(|| json!(finite(logprobs.logprob)));
            Value::Object(top)
        }));
    }

    /// The first `n` of them.
    fn take(&mut self, n: usize) -> Value {
        json!({
            "tokens": Vec::from_iter(self.tokens.drain(..n)),
            "token_logprobs": Vec::from_iter(self.logprobs.drain(..n)),
            "top_logprobs": Vec::from_iter(self.top.drain(..n)),
            "text_offset": Vec::from_iter(self.offsets.drain(..n)),
        })
    }
}

/// A token's text; part of a character as OpenAI writes it, so that tokens of different bytes differ.
fn token_text(piece: &[u8]) -> String {
    let bytes = || piece.iter().map(|byte| format!("\\x{byte:02x}"));
    match std::str::from_utf8(piece) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("bytes:{}", String::from_iter(bytes())),
    }
}

/// One answer.
struct Choice {
    /// Text that the next event or the response tells.
    text: String,
    tokens: Tokens,
    wants_logprobs: bool,
    /// Characters of the text so far.
    n_chars: usize,
    /// Characters of the text that are complete before the next token, and what finds them.
    offset: usize,
    decoder: StreamDecoder,
    /// No token of the answer has come.
    is_in_prompt: bool,
    /// A stop string took text away.
    is_stopped: bool,
    reason: Option<&'static str>,
}

impl Choice {
    fn new(prompt: &Prompt, run: &Run, echo: bool, logprobs: Option<u32>) -> Choice {
        let tokenizer = run.visit.lease.tokenizer();
        let text = match (&prompt.text, echo) {
            (_, false) => String::new(),
            (Some(text), true) => text.clone(),
            (None, true) => tokenizer.decode(&prompt.ids, true),
        };
        let n_chars = text.chars().count();
        Choice {
            text,
            n_chars,
            offset: 0,
            decoder: StreamDecoder::new(DecodeOptions::default()),
            tokens: Tokens::default(),
            wants_logprobs: logprobs.is_some(),
            is_in_prompt: true,
            is_stopped: false,
            reason: None,
        }
    }

    fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
        self.n_chars += text.chars().count();
    }

    fn push_token(&mut self, tokenizer: &Tokenizer, id: u32, logprobs: Option<&TokenLogprobs>) {
        self.tokens.push(tokenizer, id, logprobs, self.offset);
        self.offset += self.decoder.push(tokenizer, id).chars().count();
    }

    /// The first token of the answer comes: its text goes on behind the prompt's.
    fn begin_answer(&mut self) {
        if std::mem::take(&mut self.is_in_prompt) {
            self.offset = self.n_chars;
            let options = DecodeOptions { skip_special: true, at_text_start: false };
            self.decoder = StreamDecoder::new(options);
        }
    }

    fn take_json(&mut self, index: usize) -> Value {
        // A token is told with the text that it begins; what a stop string took away is not.
        let n_told = match self.reason {
            Some(_) if !self.is_stopped => self.tokens.offsets.len(),
            _ => self.tokens.offsets.partition_point(|offset| *offset < self.n_chars),
        };
        let logprobs = match self.wants_logprobs && n_told > 0 {
            true => self.tokens.take(n_told),
            false => Value::Null,
        };
        json!({
            "index": index,
            "text": std::mem::take(&mut self.text),
            "logprobs": logprobs,
            "finish_reason": self.reason,
        })
    }
}

struct Answers {
    run: Run,
    head: Head,
    choices: Vec<Choice>,
}

impl Answers {
    fn take(&mut self, Update { choice, what }: Update) {
        let tokenizer = self.run.visit.lease.tokenizer();
        let choice = &mut self.choices[choice];
        match what {
            What::PromptToken { id, logprobs } => {
                choice.push_token(tokenizer, id, logprobs.as_ref());
            }
            What::Token { id, text, logprobs } => {
                choice.begin_answer();
                choice.push_text(&text);
                if choice.wants_logprobs {
                    choice.push_token(tokenizer, id, logprobs.as_ref());
                }
            }
            What::Finished { reason, text, .. } => {
                choice.push_text(&text);
                choice.is_stopped = matches!(reason, FinishReason::StopString(_));
                choice.reason = Some(match reason {
                    FinishReason::Length => "length",
                    _ => "stop",
                });
            }
            What::Taken | What::Embedding(_) | What::Failed(_) => {}
        }
    }

    async fn whole(mut self) -> Result<Response, ApiError> {
        while let Some(update) = self.run.next().await {
            self.take(update?);
        }
        let choices = self.choices.iter_mut().enumerate();
        let choices = choices.map(|(i, choice)| choice.take_json(i)).collect();
        let mut object = self.head.object(choices);
        object["usage"] = common::usage(self.run.total(), 0);
        Ok(reply::json(&object))
    }
}

struct Stream {
    answers: Answers,
    include_usage: bool,
    out: String,
    is_over: bool,
}

impl Stream {
    fn take(&mut self, update: Update) {
        let index = update.choice;
        self.answers.take(update);
        let choice = &mut self.answers.choices[index];
        // Tokens without text wait for it.
        let is_silent = choice.text.is_empty() && choice.reason.is_none();
        if is_silent {
            return;
        }
        let choice = choice.take_json(index);
        let mut object = self.answers.head.object(json!([choice]));
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        push_data(&mut self.out, &object);
    }

    fn finish(&mut self, error: Option<ApiError>) {
        self.is_over = true;
        if let Some(error) = error {
            // No end behind it: the answer is not whole.
            return push_data(&mut self.out, &error.envelope(Dialect::OpenAi));
        }
        if self.include_usage {
            let mut object = self.answers.head.object(json!([]));
            object["usage"] = common::usage(self.answers.run.total(), 0);
            push_data(&mut self.out, &object);
        }
        self.out.push_str(DONE);
    }
}

impl Script for Stream {
    async fn next(&mut self) -> Option<String> {
        while self.out.is_empty() && !self.is_over {
            match self.answers.run.next().await {
                Some(Ok(update)) => self.take(update),
                Some(Err(error)) => self.finish(Some(error)),
                None => self.finish(None),
            }
        }
        Some(std::mem::take(&mut self.out)).filter(|out| !out.is_empty())
    }
}
