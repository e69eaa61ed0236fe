//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};
use zinc_chat::Delta;

use super::common::{
    self, ANY_OBJECT, BOOKKEEPING, CONSTRAINTS, EFFORT, FINGERPRINT, MODEL, RESPONSE_FORMAT,
    STREAM, STRICT, TEXT_ONLY, TEXT_PART, TOOL_CHOICE,
};
use crate::app::App;
use crate::conversation::{self, Ask, End, Part, Piece, Talk};
use crate::input::Input;
use crate::models::Instance;
use crate::reply::{self, DONE, Script, push_data};
use crate::run::Visit;
use crate::sampling::{COMMON, MORE, N, Sampling, TOKENS, TOP_LOGPROBS, max_tokens};
use crate::schema::{
    Body, Field, Kind, Neutral, Object, Tagged, accepted, refused, required, used,
};
use crate::{ApiError, Dialect, ids};

const PARTS: Kind = Kind::List(
    &Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[("text", &TEXT_PART), ("refusal", &REFUSAL_PART)],
        refused: &[
            ("image_url", TEXT_ONLY),
            ("input_audio", TEXT_ONLY),
            ("file", TEXT_ONLY),
            ("video_url", TEXT_ONLY),
            ("audio_url", TEXT_ONLY),
        ],
    }),
    0,
    usize::MAX,
);
const REFUSAL_PART: Object = Object {
    name: "RefusalPart",
    groups: &[&[
        required("type", Kind::Text, "refusal"),
        required("refusal", Kind::Text, "What the model said."),
    ]],
};
const CONTENT: Kind = Kind::AnyOf(&[Kind::Text, PARTS]);
const ROLE: &[Field] = &[
    required("role", Kind::Text, "Who speaks."),
    used("name", Kind::Text, "A name for the speaker, if the template shows it."),
];
const SAYS: &[Field] = &[required("content", CONTENT, "What is said.")];
const SPEAKER: Object = Object { name: "Message", groups: &[ROLE, SAYS] };
const CALLED: Object = Object {
    name: "CalledFunction",
    groups: &[&[
        required("name", Kind::Text, "The tool."),
        used("arguments", Kind::AnyOf(&[Kind::Text, ANY_OBJECT]), "A JSON object, as text."),
    ]],
};
const CALL: Object = Object {
    name: "ToolCall",
    groups: &[&[
        used("id", Kind::Text, "Names the call."),
        used("type", Kind::Choice(&["function"]), "function"),
        required("function", Kind::Object(&CALLED), "What was called."),
        accepted("index", Kind::Int(0, i64::MAX)),
    ]],
};
const ASSISTANT: Object = Object {
    name: "AssistantMessage",
    groups: &[
        ROLE,
        &[
            used("content", CONTENT, "What was answered."),
            used("reasoning_content", Kind::Text, "What was thought before."),
            used("reasoning", Kind::Text, "The same, by another name."),
            used("tool_calls", Kind::List(&Kind::Object(&CALL), 0, 1024), "What was called."),
            accepted("annotations", Kind::Any),
            refused("refusal", &[Neutral::Text("")], "put what was said into content"),
            refused("audio", &[], TEXT_ONLY),
            refused("function_call", &[], "use tool_calls"),
        ],
    ],
};
const TOOL: Object = Object {
    name: "ToolMessage",
    groups: &[ROLE, SAYS, &[used("tool_call_id", Kind::Text, "The call it answers.")]],
};
const MESSAGE: Tagged = Tagged {
    key: "role",
    default: None,
    forms: &[
        ("system", &SPEAKER),
        ("developer", &SPEAKER),
        ("user", &SPEAKER),
        ("assistant", &ASSISTANT),
        ("tool", &TOOL),
        ("function", &TOOL),
    ],
    refused: &[],
};
const FUNCTION: Object = Object {
    name: "Function",
    groups: &[&[
        required("name", Kind::Text, "What the model calls it."),
        used("description", Kind::Text, "What it is for."),
        used("parameters", ANY_OBJECT, "JSON schema of its arguments."),
        STRICT,
    ]],
};
const FUNCTION_TOOL: Object = Object {
    name: "Tool",
    groups: &[&[
        required("type", Kind::Text, "function"),
        required("function", Kind::Object(&FUNCTION), "The tool."),
    ]],
};
const TOOLS: Kind = Kind::List(
    &Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[("function", &FUNCTION_TOOL)],
        refused: &[("custom", "zinc's tools take JSON")],
    }),
    0,
    1024,
);

/// What `/apply-template` takes as well: what the prompt is made of.
pub const CONVERSATION: &[Field] = &[
    required("messages", Kind::List(&Kind::Tagged(&MESSAGE), 1, usize::MAX), "The conversation."),
    used("tools", TOOLS, "Tools on offer."),
    used("reasoning_effort", EFFORT, "How much to think; none is not at all."),
    used("chat_template_kwargs", ANY_OBJECT, "Variables of the template, such as enable_thinking."),
    used("continue_final_message", Kind::Flag, "The last message, the assistant's, goes on."),
    used("add_generation_prompt", Kind::Flag, "The prompt ends with the opening of an answer."),
    refused("chat_template", &[], "the server's --config sets it"),
    refused("documents", &[Neutral::EmptyList], "put them into messages"),
];

const CHAT: &[Field] = &[
    used("max_completion_tokens", TOKENS, "Most tokens of an answer."),
    used("max_tokens", Kind::Int(-1, u32::MAX as i64), "The same, by its older name."),
    used("logprobs", Kind::Flag, "Log-probabilities of the answer's tokens."),
    used("top_logprobs", TOP_LOGPROBS, "And of so many alternatives."),
    used("response_format", Kind::Tagged(&RESPONSE_FORMAT), "The form of the answer."),
    used("tool_choice", TOOL_CHOICE, "Whether tools are called."),
    used("parallel_tool_calls", Kind::Flag, "Whether more than one at a time."),
    used("thinking_budget", TOKENS, "Most tokens of thinking; then it is closed."),
    used("thinking_token_budget", TOKENS, "The same, by vLLM's name."),
    used(
        "thinking_budget_tokens",
        Kind::Int(-1, u32::MAX as i64),
        "The same, by llama.cpp's name.",
    ),
    accepted("reasoning_format", Kind::Choice(&["auto", "deepseek"])),
    refused("include_reasoning", &[Neutral::Flag(true)], "reasoning is always told"),
    accepted("modalities", Kind::List(&Kind::Choice(&["text"]), 0, 1)),
    accepted("prediction", ANY_OBJECT),
    refused("audio", &[], TEXT_ONLY),
    refused("functions", &[Neutral::EmptyList], "use tools"),
    refused("function_call", &[], "use tool_choice"),
    refused("verbosity", &[Neutral::Text("medium")], "ask for it in a message"),
    refused("web_search_options", &[], "zinc does not search"),
    refused("prompt_logprobs", &[], "use /v1/completions with echo"),
    refused("echo", &[Neutral::Flag(false)], "use /v1/completions"),
];

/// The body.
pub const BODY: Object = Object {
    name: "ChatCompletionRequest",
    groups: &[MODEL, CONVERSATION, CHAT, N, COMMON, MORE, CONSTRAINTS, STREAM, BOOKKEEPING],
};

/// Answers a conversation.
///
/// # Errors
/// See [`ApiError`].
pub async fn handle(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let ask = read(&body, &visit.lease)?;
    let n = ask.sampling.n;
    let head = Head::new(visit.lease.known().id.clone());
    let wants_logprobs = ask.sampling.params.logprobs.is_some();
    let (talk, _) = conversation::start(visit, ask)
        .await
        .map_err(|error| error.in_words_of(&[("prompt", "messages")]))?;
    if body.flag("stream") != Some(true) {
        return whole(talk, n, &head, wants_logprobs).await;
    }
    let options = body.object("stream_options");
    let include_usage = options.and_then(|options| options.flag("include_usage")) == Some(true);
    let choices = (0..n).map(|_| Choice::default()).collect();
    let mut stream =
        Stream { talk, head, include_usage, choices, out: String::new(), is_over: false };
    for choice in 0..n {
        stream.push(choice, json!({"role": "assistant", "content": ""}), None);
    }
    Ok(reply::events(stream))
}

/// What `/v1/chat/completions` and `/apply-template` read of a conversation.
///
/// # Errors
/// Values that the table cannot check.
pub fn conversation(body: &Body<'_>, sampling: Sampling) -> Result<Ask, ApiError> {
    let mut ask = Ask::new(body.list("messages").to_vec(), sampling);
    ask.tools = body.list("tools").to_vec();
    ask.thinking = common::thinking(body.text("reasoning_effort"), "reasoning_effort");
    ask.template_kwargs = common::template_kwargs(body)?;
    // The field's usual name for the switch, whatever the template calls it.
    if let Some(Value::Bool(switch)) = ask.template_kwargs.get("enable_thinking") {
        ask.thinking.switch = Some(*switch);
        ask.thinking.switch_field = "chat_template_kwargs.enable_thinking";
    }
    ask.continue_final_message = body.flag("continue_final_message").unwrap_or(false);
    let generate = body.flag("add_generation_prompt");
    if ask.continue_final_message && generate == Some(true) {
        let what = "a message cannot go on and a new one begin; leave one out";
        return Err(ApiError::field("add_generation_prompt", what));
    }
    ask.add_generation_prompt = generate.unwrap_or(!ask.continue_final_message);
    Ok(ask)
}

fn read(body: &Body<'_>, instance: &Instance) -> Result<Ask, ApiError> {
    let defaults = &instance.known().defaults;
    let mut sampling = Sampling::read(body, defaults)?;
    sampling.params.logprobs = match (body.flag("logprobs"), body.count("top_logprobs")) {
        (Some(true), n) => Some(n.unwrap_or(0)),
        (_, Some(n)) if n > 0 => {
            return Err(ApiError::field("top_logprobs", "needs logprobs to be true"));
        }
        _ => None,
    };
    let mut ask = conversation(body, sampling)?;
    ask.max_tokens = max_tokens(body, &["max_completion_tokens", "max_tokens"], defaults);
    ask.format = common::constraint(body, common::response_format(body, "response_format")?)?;
    ask.parallel_tool_calls = body.flag("parallel_tool_calls").unwrap_or(true);
    common::read_tool_choice(body, &mut ask)?;
    for name in ["thinking_budget", "thinking_token_budget", "thinking_budget_tokens"] {
        if let Some(budget) = body.int(name) {
            ask.thinking.budget = u32::try_from(budget).ok();
            ask.thinking.budget_field = name;
        }
    }
    Ok(ask)
}

/// What all objects of one response have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn new(model: String) -> Head {
        Head { id: ids::new("chatcmpl-"), created: ids::unix_seconds(), model }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

/// `finish_reason` of an end.
fn finish_reason(end: End) -> &'static str {
    match end {
        End::Turn | End::StopString => "stop",
        End::Length => "length",
        End::ToolCalls => "tool_calls",
    }
}

/// An answer as it grows.
#[derive(Default)]
struct Message {
    content: String,
    reasoning: String,
    calls: Vec<(String, String, String)>,
    logprobs: Vec<Value>,
    reason: &'static str,
}

impl Message {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => self.content.push_str(&text),
            Delta::Reasoning(text) => self.reasoning.push_str(&text),
            Delta::ToolCallStart { name, .. } => {
                self.calls.push((ids::new("call_"), name, String::new()));
            }
            Delta::ToolCallArguments { index, json } => {
                if let Some((.., arguments)) = self.calls.get_mut(index) {
                    arguments.push_str(&json);
                }
            }
            Delta::ToolCallEnd { .. } => {}
        }
    }

    fn into_json(self, index: usize, wants_logprobs: bool) -> Value {
        let content = match self.content.is_empty() && !self.calls.is_empty() {
            true => Value::Null,
            false => Value::String(self.content),
        };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.into();
        }
        if !self.calls.is_empty() {
            let call = |(id, name, arguments)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
            message["tool_calls"] = self.calls.into_iter().map(call).collect();
        }
        let logprobs = match wants_logprobs {
            true => json!({"content": self.logprobs, "refusal": null}),
            false => Value::Null,
        };
        json!({
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self.reason,
        })
    }
}

async fn whole(
    mut talk: Talk,
    n: usize,
    head: &Head,
    wants_logprobs: bool,
) -> Result<Response, ApiError> {
    let mut messages: Vec<Message> = (0..n).map(|_| Message::default()).collect();
    while let Some(piece) = talk.next().await {
        let Piece { choice, what } = piece?;
        let message = &mut messages[choice];
        match what {
            Part::Delta(delta) => message.add(delta),
            Part::Token { id, logprobs } => {
                let tokenizer = talk.visit().lease.tokenizer();
                message.logprobs.push(common::token_logprobs(tokenizer, id, &logprobs));
            }
            Part::Finished(end) => message.reason = finish_reason(end),
        }
    }
    let messages = messages.into_iter().enumerate();
    let choices = messages.map(|(i, message)| message.into_json(i, wants_logprobs)).collect();
    let mut object = head.object("chat.completion", choices);
    object["usage"] = common::usage(talk.total(), talk.n_reasoning());
    Ok(reply::json(&object))
}

/// What a stream remembers of an answer.
#[derive(Default)]
struct Choice {
    /// What the next event says.
    delta: Map<String, Value>,
    logprobs: Vec<Value>,
}

struct Stream {
    talk: Talk,
    head: Head,
    include_usage: bool,
    choices: Vec<Choice>,
    out: String,
    is_over: bool,
}

impl Stream {
    /// Appends an event about one answer.
    fn push(&mut self, index: usize, delta: Value, finish_reason: Option<&str>) {
        let logprobs = std::mem::take(&mut self.choices[index].logprobs);
        let logprobs = match logprobs.is_empty() {
            true => Value::Null,
            false => json!({"content": logprobs, "refusal": null}),
        };
        let choices = json!([{
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason,
        }]);
        let mut object = self.head.object("chat.completion.chunk", choices);
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        push_data(&mut self.out, &object);
    }

    /// Appends an event with what is gathered of an answer.
    fn flush(&mut self, choice: usize) {
        let delta = std::mem::take(&mut self.choices[choice].delta);
        if !delta.is_empty() || !self.choices[choice].logprobs.is_empty() {
            self.push(choice, Value::Object(delta), None);
        }
    }

    fn take(&mut self, Piece { choice, what }: Piece) {
        match what {
            Part::Delta(delta) => self.take_delta(choice, delta),
            Part::Token { id, logprobs } => {
                let tokenizer = self.talk.visit().lease.tokenizer();
                let entry = common::token_logprobs(tokenizer, id, &logprobs);
                self.choices[choice].logprobs.push(entry);
            }
            Part::Finished(end) => {
                self.flush(choice);
                self.push(choice, json!({}), Some(finish_reason(end)));
            }
        }
        // What belongs to one token goes into one event.
        if !self.talk.has_ready() {
            self.flush(choice);
        }
    }

    /// Texts are gathered into the event of their token; calls have events of their own, as clients
    /// expect.
    fn take_delta(&mut self, choice: usize, delta: Delta) {
        let (key, text) = match delta {
            Delta::Content(text) => ("content", text),
            Delta::Reasoning(text) => ("reasoning_content", text),
            Delta::ToolCallStart { index, name } => {
                self.flush(choice);
                let call = json!({
                    "index": index, "id": ids::new("call_"), "type": "function",
                    "function": {"name": name, "arguments": ""},
                });
                return self.push(choice, json!({"tool_calls": [call]}), None);
            }
            Delta::ToolCallArguments { index, json } => {
                self.flush(choice);
                let call = json!({"index": index, "function": {"arguments": json}});
                return self.push(choice, json!({"tool_calls": [call]}), None);
            }
            Delta::ToolCallEnd { .. } => return,
        };
        match self.choices[choice].delta.get_mut(key) {
            Some(Value::String(so_far)) => so_far.push_str(&text),
            _ => drop(self.choices[choice].delta.insert(key.into(), text.into())),
        }
    }

    fn finish(&mut self, error: Option<ApiError>) {
        self.is_over = true;
        if let Some(error) = error {
            // No end behind it: the answer is not whole.
            return push_data(&mut self.out, &error.envelope(Dialect::OpenAi));
        }
        if self.include_usage {
            let mut object = self.head.object("chat.completion.chunk", json!([]));
            object["usage"] = common::usage(self.talk.total(), self.talk.n_reasoning());
            push_data(&mut self.out, &object);
        }
        self.out.push_str(DONE);
    }
}

impl Script for Stream {
    async fn next(&mut self) -> Option<String> {
        // What is to say at once goes out before anything is waited for.
        while self.out.is_empty() || self.talk.has_ready() {
            if self.is_over {
                break;
            }
            match self.talk.next().await {
                Some(Ok(piece)) => self.take(piece),
                Some(Err(error)) => self.finish(Some(error)),
                None => self.finish(None),
            }
        }
        Some(std::mem::take(&mut self.out)).filter(|out| !out.is_empty())
    }
}
