//! `/v1/messages` and `/v1/messages/count_tokens`: Anthropic's API.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use zinc_chat::{Delta, ToolChoice};

use super::common::{self, ANY_OBJECT, MODEL, STRICT, TEXT_ONLY, TEXT_PART};
use crate::app::App;
use crate::conversation::{self, Ask, End, Part, Piece, Talk, away};
use crate::input::Input;
use crate::models::Instance;
use crate::reply::{self, Script, push_event};
use crate::run::{Totals, Visit};
use crate::sampling::Sampling;
use crate::schema::{
    Body, Field, Kind, Neutral, Object, Tagged, accepted, refused, required, used,
};
use crate::{ApiError, Dialect, ids};

const TYPE: &[Field] =
    &[required("type", Kind::Text, "The form."), accepted("cache_control", ANY_OBJECT)];
const TEXT_BLOCK: Object = Object {
    name: "TextBlock",
    groups: &[
        TYPE,
        &[
            required("text", Kind::Text, "The text."),
            refused("citations", &[Neutral::EmptyList], "zinc cites nothing"),
        ],
    ],
};
const THINKING_BLOCK: Object = Object {
    name: "ThinkingBlock",
    groups: &[
        TYPE,
        &[
            required("thinking", Kind::Text, "What was thought before."),
            accepted("signature", Kind::Text),
        ],
    ],
};
const TOOL_USE: Object = Object {
    name: "ToolUseBlock",
    groups: &[
        TYPE,
        &[
            required("id", Kind::Text, "Names the call."),
            required("name", Kind::Text, "The tool."),
            required("input", ANY_OBJECT, "Its arguments."),
            accepted("caller", ANY_OBJECT),
        ],
    ],
};
const INNER_TEXTS: Kind = Kind::List(
    &Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[("text", &TEXT_BLOCK)],
        refused: &[("image", TEXT_ONLY), ("document", TEXT_ONLY), ("search_result", TEXT_ONLY)],
    }),
    0,
    usize::MAX,
);
const TOOL_RESULT: Object = Object {
    name: "ToolResultBlock",
    groups: &[
        TYPE,
        &[
            required("tool_use_id", Kind::Text, "The call it answers."),
            used("content", Kind::AnyOf(&[Kind::Text, INNER_TEXTS]), "What the tool said."),
            used("is_error", Kind::Flag, "Whether the tool failed; the model is told."),
        ],
    ],
};
const HOSTED: &str = "zinc runs no tools itself";
const BLOCKS: Kind = Kind::List(
    &Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[
            ("text", &TEXT_BLOCK),
            ("thinking", &THINKING_BLOCK),
            ("tool_use", &TOOL_USE),
            ("tool_result", &TOOL_RESULT),
        ],
        refused: &[
            ("image", TEXT_ONLY),
            ("document", TEXT_ONLY),
            ("search_result", TEXT_ONLY),
            ("redacted_thinking", "only who wrote it can read it"),
            ("server_tool_use", HOSTED),
            ("web_search_tool_result", HOSTED),
        ],
    }),
    0,
    usize::MAX,
);
const MESSAGE: Object = Object {
    name: "MessageParam",
    groups: &[&[
        required("role", Kind::Choice(&["user", "assistant"]), "Who speaks."),
        required("content", Kind::AnyOf(&[Kind::Text, BLOCKS]), "What is said."),
    ]],
};
const SYSTEM: Kind = Kind::AnyOf(&[
    Kind::Text,
    Kind::List(
        &Kind::Tagged(&Tagged {
            key: "type",
            default: None,
            forms: &[("text", &TEXT_PART)],
            refused: &[],
        }),
        0,
        usize::MAX,
    ),
]);
const TOOL: Object = Object {
    name: "ToolParam",
    groups: &[&[
        used("type", Kind::Choice(&["custom"]), "custom"),
        required("name", Kind::Text, "What the model calls it."),
        used("description", Kind::Text, "What it is for."),
        required("input_schema", ANY_OBJECT, "JSON schema of its arguments."),
        accepted("cache_control", ANY_OBJECT),
        STRICT,
        accepted("eager_input_streaming", Kind::Flag),
        refused("defer_loading", &[Neutral::Flag(false)], "tools are shown at once"),
    ]],
};
const CHOICE: Object = Object {
    name: "ToolChoiceParam",
    groups: &[&[
        required(
            "type",
            Kind::Choice(&["auto", "any", "tool", "none"]),
            "Whether tools are called.",
        ),
        used("name", Kind::Text, "The tool, with type tool."),
        used("disable_parallel_tool_use", Kind::Flag, "At most one call."),
    ]],
};
const THINKING: Object = Object {
    name: "ThinkingParam",
    groups: &[&[
        required("type", Kind::Choice(&["enabled", "disabled", "adaptive"]), "Whether to think."),
        used(
            "budget_tokens",
            Kind::Int(1, u32::MAX as i64),
            "Most tokens of it; then it is closed.",
        ),
        accepted("display", Kind::Choice(&["summarized"])),
    ]],
};
const OUTPUT: Object = Object {
    name: "OutputConfig",
    groups: &[&[
        used("format", Kind::Tagged(&TEXT_FORMAT_NAMELESS), "The form of the answer."),
        used(
            "effort",
            Kind::Choice(&["low", "medium", "high", "xhigh", "max"]),
            "How much to think.",
        ),
    ]],
};
/// Anthropic's schemas have no name.
const TEXT_FORMAT_NAMELESS: Tagged = Tagged {
    key: "type",
    default: None,
    forms: &[("json_schema", &NAMELESS_SCHEMA)],
    refused: &[],
};
const NAMELESS_SCHEMA: Object = Object {
    name: "JsonOutputFormat",
    groups: &[&[
        required("type", Kind::Text, "json_schema"),
        required("schema", ANY_OBJECT, "The schema."),
        accepted("name", Kind::Text),
    ]],
};

const WHOLE: &str = "zinc never cuts a conversation";
const CLEAR_THINKING: Object = Object {
    name: "ClearThinkingEdit",
    groups: &[&[
        required("type", Kind::Text, "clear_thinking_20251015"),
        used("keep", Kind::Any, "all"),
    ]],
};
const CONTEXT: Object = Object {
    name: "ContextManagement",
    groups: &[&[used(
        "edits",
        Kind::List(
            &Kind::Tagged(&Tagged {
                key: "type",
                default: None,
                forms: &[("clear_thinking_20251015", &CLEAR_THINKING)],
                refused: &[("clear_tool_uses_20250919", WHOLE), ("compact_20260112", WHOLE)],
            }),
            0,
            16,
        ),
        "What to take out: nothing.",
    )]],
};

/// What makes the prompt, and so the number of its tokens.
const CONVERSATION: &[Field] = &[
    required("messages", Kind::List(&Kind::Object(&MESSAGE), 1, usize::MAX), "The conversation."),
    used("system", SYSTEM, "Who the model is."),
    used("tools", Kind::List(&Kind::Object(&TOOL), 0, 1024), "Tools on offer."),
    used("tool_choice", Kind::Object(&CHOICE), "Whether they are called."),
    used("thinking", Kind::Object(&THINKING), "Whether to think."),
    used("output_config", Kind::Object(&OUTPUT), "The form of the answer, and how much to think."),
    refused("mcp_servers", &[Neutral::EmptyList], HOSTED),
    used(
        "context_management",
        Kind::Object(&CONTEXT),
        "Edits that keep everything; others are refused.",
    ),
    accepted("cache_control", ANY_OBJECT),
];

/// The body of `/v1/messages`.
pub const BODY: Object = Object {
    name: "MessagesRequest",
    groups: &[
        MODEL,
        CONVERSATION,
        &[
            required("max_tokens", Kind::Int(1, u32::MAX as i64), "Most tokens of the answer."),
            used("stop_sequences", Kind::List(&Kind::Text, 0, 64), "Texts that end the answer."),
            used("temperature", Kind::Number(0.0, 100.0), "Randomness."),
            used("top_k", Kind::Int(-1, u32::MAX as i64), "Keeps that many tokens."),
            used(
                "top_p",
                Kind::Number(0.0, 1.0),
                "Keeps the most probable tokens up to this share.",
            ),
            used("stream", Kind::Flag, "Server-sent events instead of one response."),
            used(
                "seed",
                Kind::Int(i64::MIN, i64::MAX),
                "Same seed, same answer (zinc's own field).",
            ),
            accepted("metadata", ANY_OBJECT),
            accepted("service_tier", Kind::Text),
            accepted("inference_geo", Kind::Text),
            accepted("diagnostics", ANY_OBJECT),
            accepted("user_profile_id", Kind::Text),
            accepted("workspace_id", Kind::Text),
            refused("container", &[], HOSTED),
            refused("speed", &[Neutral::Text("standard")], "there is one speed"),
        ],
    ],
};

/// The body of `/v1/messages/count_tokens`.
pub const COUNT: Object = Object { name: "CountTokensRequest", groups: &[MODEL, CONVERSATION] };

/// Fields of the engine's errors by their names here.
const FIELDS: &[(&str, &str)] = &[("prompt", "messages"), ("stop", "stop_sequences")];

/// Answers a conversation.
///
/// # Errors
/// See [`ApiError`].
pub async fn handle(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let ask = read(&body, &visit.lease)?;
    let model = visit.lease.known().id.clone();
    let started = conversation::start(visit, ask).await;
    let (talk, n_prompt) = started.map_err(|error| error.in_words_of(FIELDS))?;
    let writer = Writer::new(model, n_prompt);
    if body.flag("stream") == Some(true) {
        let mut stream = Stream { talk, writer, out: String::new(), is_over: false };
        stream.writer.begin(&mut stream.out);
        return Ok(reply::events(stream));
    }
    whole(talk, writer).await
}

/// Tokens of a conversation's prompt.
///
/// # Errors
/// See [`ApiError`].
pub async fn count_tokens(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = COUNT.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let ask = read(&body, &visit.lease)?;
    let prompt = away(move || ask.prompt(&visit.lease)).await??;
    Ok(reply::json(&json!({"input_tokens": prompt.0.ids.len()})))
}

fn read(body: &Body<'_>, instance: &Instance) -> Result<Ask, ApiError> {
    keeps_everything(body)?;
    let defaults = &instance.known().defaults;
    let mut sampling = Sampling::read(body, defaults)?;
    sampling.stop = body.texts("stop_sequences");
    let mut messages = Vec::new();
    if let Some(system) = system_text(body) {
        messages.push(json!({"role": "system", "content": system}));
    }
    for message in body.objects("messages") {
        push_message(&message, &mut messages)?;
    }
    let mut ask = Ask::new(messages, sampling);
    // A last message of the assistant's is the beginning of the answer.
    ask.continue_final_message = ask
        .messages
        .last()
        .is_some_and(|m| m["role"] == "assistant" && m.get("tool_calls").is_none());
    ask.add_generation_prompt = !ask.continue_final_message;
    ask.max_tokens = body.count("max_tokens");
    ask.tools = body.objects("tools").map(|tool| wire_tool(&tool)).collect();
    read_choice(body, &mut ask)?;
    let output = body.object("output_config");
    if let Some(output) = &output {
        ask.format = common::response_format(output, "format")?;
        ask.thinking = common::thinking(output.text("effort"), "output_config.effort");
    }
    read_thinking(body, &mut ask)?;
    Ok(ask)
}

/// Refuses edits that take something out of the conversation.
fn keeps_everything(body: &Body<'_>) -> Result<(), ApiError> {
    let Some(context) = body.object("context_management") else { return Ok(()) };
    let keeps_all = |edit: &Body<'_>| edit.text("keep") == Some("all");
    match context.objects("edits").find(|edit| !keeps_all(edit)) {
        Some(edit) => Err(edit.unsupported("keep", format!("{WHOLE}; expected \"all\"")).into()),
        None => Ok(()),
    }
}

fn system_text(body: &Body<'_>) -> Option<String> {
    if let Some(text) = body.text("system") {
        return Some(text.to_owned());
    }
    let parts: Vec<_> = body.objects("system").filter_map(|part| part.text("text")).collect();
    (!parts.is_empty()).then(|| parts.join("\n"))
}

fn wire_tool(tool: &Body<'_>) -> Value {
    let mut function = json!({"name": tool.text("name")});
    if let Some(description) = tool.text("description") {
        function["description"] = json!(description);
    }
    function["parameters"] = tool.get("input_schema").cloned().unwrap_or_default();
    if let Some(strict) = tool.flag("strict") {
        function["strict"] = json!(strict);
    }
    json!({"type": "function", "function": function})
}

fn read_choice(body: &Body<'_>, ask: &mut Ask) -> Result<(), ApiError> {
    let Some(choice) = body.object("tool_choice") else { return Ok(()) };
    ask.parallel_tool_calls = choice.flag("disable_parallel_tool_use") != Some(true);
    ask.tool_choice = match (choice.text("type"), choice.text("name")) {
        (Some("any"), _) => ToolChoice::Required,
        (Some("none"), _) => ToolChoice::None,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_owned()),
        (Some("tool"), None) => {
            return Err(choice.problem("name", "required with type tool").into());
        }
        _ => ToolChoice::Auto,
    };
    Ok(())
}

fn read_thinking(body: &Body<'_>, ask: &mut Ask) -> Result<(), ApiError> {
    let Some(thinking) = body.object("thinking") else { return Ok(()) };
    ask.thinking.switch_field = "thinking";
    ask.thinking.budget_field = "thinking.budget_tokens";
    match thinking.text("type") {
        Some("enabled") => {
            let Some(budget) = thinking.count("budget_tokens") else {
                return Err(thinking.problem("budget_tokens", "required with type enabled").into());
            };
            ask.thinking.switch = Some(true);
            ask.thinking.budget = Some(budget);
        }
        Some("disabled") => ask.thinking.switch = Some(false),
        // As the model likes.
        _ => {}
    }
    Ok(())
}

/// One of Anthropic's messages as one or several of OpenAI's: results of tools are messages there.
fn push_message(message: &Body<'_>, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = message.text("role").unwrap_or("user");
    if let Some(text) = message.text("content") {
        out.push(json!({"role": role, "content": text}));
        return Ok(());
    }
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for block in message.objects("content") {
        match block.text("type") {
            Some("text") => texts.push(block.text("text").unwrap_or_default().to_owned()),
            Some("thinking") => {
                thoughts.push(block.text("thinking").unwrap_or_default().to_owned())
            }
            Some("tool_use") if role == "assistant" => calls.push(json!({
                "id": block.text("id"),
                "type": "function",
                "function": {
                    "name": block.text("name"),
                    "arguments": block.get("input").map(Value::to_string),
                },
            })),
            Some("tool_result") if role == "user" => out.push(tool_message(&block)),
            _ => {
                let what = format!("a message of the {role} has no such block");
                return Err(block.problem("type", what).into());
            }
        }
    }
    if role == "user" && texts.is_empty() && !message.list("content").is_empty() {
        return Ok(());
    }
    let mut wire = json!({"role": role, "content": texts.join("\n")});
    if !thoughts.is_empty() {
        wire["reasoning_content"] = json!(thoughts.join("\n"));
    }
    if !calls.is_empty() {
        wire["tool_calls"] = json!(calls);
    }
    out.push(wire);
    Ok(())
}

fn tool_message(block: &Body<'_>) -> Value {
    let mut text = match block.text("content") {
        Some(text) => text.to_owned(),
        None => {
            let texts: Vec<_> =
                block.objects("content").filter_map(|part| part.text("text")).collect();
            texts.join("\n")
        }
    };
    if block.flag("is_error") == Some(true) {
        text.insert_str(0, "Error: ");
    }
    json!({"role": "tool", "tool_call_id": block.text("tool_use_id"), "content": text})
}

/// A block that is being written.
enum Open {
    Text,
    Thinking,
    Tool,
}

/// The answer as events and as a whole: both are made from the same blocks.
struct Writer {
    id: String,
    model: String,
    n_prompt: usize,
    open: Option<Open>,
    /// Finished blocks, and the one that is being written.
    blocks: Vec<Value>,
    /// Arguments of the call that is being written.
    arguments: String,
}

impl Writer {
    fn new(model: String, n_prompt: usize) -> Writer {
        let (blocks, arguments) = (Vec::new(), String::new());
        Writer { id: ids::new("msg_"), model, n_prompt, open: None, blocks, arguments }
    }

    fn message(&self, content: Value, reason: Value, stop: Value, usage: Value) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        })
    }

    fn begin(&self, out: &mut String) {
        let usage = json!({
            "input_tokens": self.n_prompt, "output_tokens": 0,
            "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0,
        });
        let message = self.message(json!([]), Value::Null, Value::Null, usage);
        push_event(out, "message_start", &json!({"type": "message_start", "message": message}));
        push_event(out, "ping", &json!({"type": "ping"}));
    }

    fn take(&mut self, delta: Delta, out: &mut String) {
        match delta {
            Delta::Content(text) => {
                if !matches!(self.open, Some(Open::Text)) {
                    self.start(Open::Text, json!({"type": "text", "text": ""}), out);
                }
                self.grow("text", &text);
                self.delta(json!({"type": "text_delta", "text": text}), out);
            }
            Delta::Reasoning(text) => {
                if !matches!(self.open, Some(Open::Thinking)) {
                    let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.start(Open::Thinking, block, out);
                }
                self.grow("thinking", &text);
                self.delta(json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Delta::ToolCallStart { name, .. } => {
                let id = ids::new("toolu_");
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.start(Open::Tool, block, out);
            }
            Delta::ToolCallArguments { json, .. } => {
                self.arguments.push_str(&json);
                self.delta(json!({"type": "input_json_delta", "partial_json": json}), out);
            }
            Delta::ToolCallEnd { .. } => self.stop(out),
        }
    }

    fn start(&mut self, open: Open, block: Value, out: &mut String) {
        self.stop(out);
        let event = json!({
            "type": "content_block_start", "index": self.blocks.len(), "content_block": block,
        });
        push_event(out, "content_block_start", &event);
        self.blocks.push(block);
        self.open = Some(open);
    }

    fn grow(&mut self, key: &str, text: &str) {
        if let Some(Value::String(so_far)) = self.blocks.last_mut().and_then(|b| b.get_mut(key)) {
            so_far.push_str(text);
        }
    }

    fn delta(&self, delta: Value, out: &mut String) {
        let index = self.blocks.len().saturating_sub(1);
        let event = json!({"type": "content_block_delta", "index": index, "delta": delta});
        push_event(out, "content_block_delta", &event);
    }

    fn stop(&mut self, out: &mut String) {
        let Some(open) = self.open.take() else { return };
        if matches!(open, Open::Thinking) {
            // Clients keep signatures and send them back; there is nothing to sign here.
            self.delta(json!({"type": "signature_delta", "signature": ""}), out);
        }
        if matches!(open, Open::Tool) {
            let arguments = std::mem::take(&mut self.arguments);
            if let Some(block) = self.blocks.last_mut() {
                block["input"] = zinc_chat::whole_members(&arguments);
            }
        }
        let index = self.blocks.len() - 1;
        push_event(
            out,
            "content_block_stop",
            &json!({"type": "content_block_stop", "index": index}),
        );
    }
}

/// Why the answer ended, in Anthropic's words, and the stop string that did it.
fn stop_reason(end: End, stop: Option<&str>) -> (&'static str, Value) {
    match end {
        End::Turn => ("end_turn", Value::Null),
        End::StopString => ("stop_sequence", json!(stop)),
        End::Length => ("max_tokens", Value::Null),
        End::ToolCalls => ("tool_use", Value::Null),
    }
}

fn usage(total: Totals) -> Value {
    json!({
        "input_tokens": total.n_prompt - total.n_reused,
        "output_tokens": total.n_generated,
        "cache_read_input_tokens": total.n_reused,
        "cache_creation_input_tokens": 0,
    })
}

async fn whole(mut talk: Talk, mut writer: Writer) -> Result<Response, ApiError> {
    let mut end = End::Turn;
    let mut events = String::new();
    while let Some(piece) = talk.next().await {
        match piece?.what {
            Part::Delta(delta) => writer.take(delta, &mut events),
            Part::Token { .. } => {}
            Part::Finished(ended) => end = ended,
        }
        events.clear();
    }
    writer.stop(&mut events);
    let (reason, stop) = stop_reason(end, talk.stop_string(0));
    let content = Value::Array(std::mem::take(&mut writer.blocks));
    Ok(reply::json(&writer.message(content, json!(reason), stop, usage(talk.total()))))
}

struct Stream {
    talk: Talk,
    writer: Writer,
    out: String,
    is_over: bool,
}

impl Stream {
    fn take(&mut self, piece: Piece) {
        match piece.what {
            Part::Delta(delta) => self.writer.take(delta, &mut self.out),
            Part::Token { .. } => {}
            Part::Finished(end) => {
                self.writer.stop(&mut self.out);
                let (reason, stop) = stop_reason(end, self.talk.stop_string(0));
                let event = json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": stop},
                    "usage": usage(self.talk.total()),
                });
                push_event(&mut self.out, "message_delta", &event);
            }
        }
    }
}

impl Script for Stream {
    const HEARTBEAT: &'static str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";

    async fn next(&mut self) -> Option<String> {
        while (self.out.is_empty() || self.talk.has_ready()) && !self.is_over {
            match self.talk.next().await {
                Some(Ok(piece)) => self.take(piece),
                Some(Err(error)) => {
                    self.is_over = true;
                    push_event(&mut self.out, "error", &error.envelope(Dialect::Anthropic));
                }
                None => {
                    self.is_over = true;
                    push_event(&mut self.out, "message_stop", &json!({"type": "message_stop"}));
                }
            }
        }
        Some(std::mem::take(&mut self.out)).filter(|out| !out.is_empty())
    }
}
