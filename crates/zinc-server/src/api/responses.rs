//! `/v1/responses`: OpenAI's newer API. Nothing is stored, so a conversation is sent whole each time.

mod tables;
mod writer;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::common;
use crate::app::App;
use crate::conversation::{self, Ask, Part, Talk};
use crate::input::Input;
use crate::models::Instance;
use crate::reply::{self, Script};
use crate::run::Visit;
use crate::sampling::Sampling;
use crate::schema::Body;
use crate::{ApiError, Dialect};

pub use tables::BODY;
use writer::Writer;

/// Answers a conversation.
///
/// # Errors
/// See [`ApiError`].
pub async fn handle(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = BODY.check(&input.json)?;
    let visit = Visit::begin(&app, input.caller, body.text("model")).await?;
    let ask = read(&body, &visit.lease)?;
    let writer = Writer::new(&body, &visit.lease.known().id, &ask);
    let (talk, _) = conversation::start(visit, ask)
        .await
        .map_err(|error| error.in_words_of(&[("prompt", "input")]))?;
    let mut script = Answer { talk, writer, is_over: false };
    if body.flag("stream") == Some(true) {
        script.writer.begin();
        return Ok(reply::events(script));
    }
    while !script.is_over {
        script.step().await?;
        script.writer.take_events();
    }
    Ok(reply::json(script.writer.response()))
}

fn read(body: &Body<'_>, instance: &Instance) -> Result<Ask, ApiError> {
    let defaults = &instance.known().defaults;
    let mut sampling = Sampling::read(body, defaults)?;
    let includes = body.texts("include");
    let wants_logprobs = includes.iter().any(|what| what == "message.output_text.logprobs");
    sampling.params.logprobs = match (wants_logprobs, body.count("top_logprobs")) {
        (true, n) => Some(n.unwrap_or(0)),
        (false, Some(n)) if n > 0 => {
            let what = "needs message.output_text.logprobs in include";
            return Err(ApiError::field("top_logprobs", what));
        }
        _ => None,
    };
    let mut ask = Ask::new(messages(body)?, sampling);
    ask.max_tokens = body.count("max_output_tokens").or(defaults.max_tokens);
    ask.tools = body.objects("tools").map(|tool| wire_tool(&tool)).collect();
    ask.parallel_tool_calls = body.flag("parallel_tool_calls").unwrap_or(true);
    common::read_tool_choice(body, &mut ask)?;
    if let Some(text) = body.object("text") {
        ask.format = common::response_format(&text, "format")?;
    }
    let effort = body.object("reasoning").and_then(|reasoning| reasoning.text("effort"));
    ask.thinking = common::thinking(effort, "reasoning.effort");
    ask.template_kwargs = common::template_kwargs(body)?;
    Ok(ask)
}

fn wire_tool(tool: &Body<'_>) -> Value {
    let mut function = json!({"name": tool.text("name")});
    if let Some(description) = tool.text("description") {
        function["description"] = json!(description);
    }
    if let Some(parameters) = tool.get("parameters") {
        function["parameters"] = parameters.clone();
    }
    // OpenAI's default is true, and it brings the schema to what it can hold; here absence asks for that.
    if let Some(strict) = tool.flag("strict") {
        function["strict"] = json!(strict);
    }
    json!({"type": "function", "function": function})
}

/// The conversation in the form of chat completions: reasoning and calls are parts of the assistant's
/// message there, and items of their own here.
fn messages(body: &Body<'_>) -> Result<Vec<Value>, ApiError> {
    let mut out: Vec<Value> = Vec::new();
    if let Some(text) = body.text("instructions") {
        out.push(json!({"role": "system", "content": text}));
    }
    if let Some(text) = body.text("input") {
        out.push(json!({"role": "user", "content": text}));
        return Ok(out);
    }
    // Whether the last message is the assistant's and still grows.
    let mut is_open = false;
    for item in body.objects("input") {
        match item.text("type").unwrap_or("message") {
            "message" => {
                let content = content_text(&item, "content");
                if is_open && item.text("role") == Some("assistant") {
                    append(out.last_mut(), "content", &content);
                    continue;
                }
                out.push(json!({"role": item.text("role"), "content": content}));
                is_open = item.text("role") == Some("assistant");
            }
            "reasoning" => {
                let text = reasoning_text(&item);
                open_message(&mut out, &mut is_open);
                append(out.last_mut(), "reasoning_content", &text);
            }
            "function_call" => {
                open_message(&mut out, &mut is_open);
                let call = json!({
                    "id": item.text("call_id"),
                    "type": "function",
                    "function": {"name": item.text("name"), "arguments": item.text("arguments")},
                });
                if let Some(message) = out.last_mut() {
                    match message.get_mut("tool_calls").and_then(Value::as_array_mut) {
                        Some(calls) => calls.push(call),
                        None => message["tool_calls"] = json!([call]),
                    }
                }
            }
            _ => {
                is_open = false;
                let content = content_text(&item, "output");
                let id = item.text("call_id");
                out.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
        }
    }
    if out.is_empty() {
        return Err(ApiError::field("input", "there is nothing to answer"));
    }
    Ok(out)
}

fn open_message(out: &mut Vec<Value>, is_open: &mut bool) {
    if !*is_open {
        out.push(json!({"role": "assistant", "content": ""}));
        *is_open = true;
    }
}

fn append(message: Option<&mut Value>, key: &str, text: &str) {
    let Some(message) = message else { return };
    match message.get_mut(key) {
        Some(Value::String(so_far)) => {
            if !so_far.is_empty() {
                so_far.push('\n');
            }
            so_far.push_str(text);
        }
        _ => message[key] = json!(text),
    }
}

/// A text, or the texts of a list of parts.
fn content_text(item: &Body<'_>, name: &str) -> String {
    if let Some(text) = item.text(name) {
        return text.to_owned();
    }
    let part = |part: Body<'_>| part.text("text").or(part.text("refusal")).map(str::to_owned);
    item.objects(name).filter_map(part).collect::<Vec<_>>().join("\n")
}

fn reasoning_text(item: &Body<'_>) -> String {
    let texts =
        |name| -> Vec<_> { item.objects(name).filter_map(|part| part.text("text")).collect() };
    let content = texts("content");
    let all = if content.is_empty() { texts("summary") } else { content };
    all.join("\n")
}

/// An answer that is being written.
struct Answer {
    talk: Talk,
    writer: Writer,
    is_over: bool,
}

impl Answer {
    async fn step(&mut self) -> Result<(), ApiError> {
        match self.talk.next().await {
            Some(Ok(piece)) => match piece.what {
                Part::Delta(delta) => self.writer.take(delta),
                Part::Token { id, logprobs } => {
                    let tokenizer = self.talk.visit().lease.tokenizer();
                    self.writer.add_logprobs(common::token_logprobs(tokenizer, id, &logprobs));
                }
                Part::Finished(end) => {
                    let usage = usage(&self.talk);
                    self.writer.finish(end, usage);
                }
            },
            Some(Err(error)) => {
                self.is_over = true;
                return Err(error);
            }
            None => self.is_over = true,
        }
        Ok(())
    }
}

fn usage(talk: &Talk) -> Value {
    let total = talk.total();
    json!({
        "input_tokens": total.n_prompt,
        "input_tokens_details": {"cached_tokens": total.n_reused},
        "output_tokens": total.n_generated,
        "output_tokens_details": {"reasoning_tokens": talk.n_reasoning()},
        "total_tokens": total.n_prompt + total.n_generated,
    })
}

impl Script for Answer {
    async fn next(&mut self) -> Option<String> {
        while (self.writer.is_silent() || self.talk.has_ready()) && !self.is_over {
            if let Err(error) = self.step().await {
                self.writer.fail(&error.envelope(Dialect::OpenAi)["error"]);
            }
        }
        Some(self.writer.take_events()).filter(|out| !out.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let body = json!({
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": "Weather?"},
                {"type": "reasoning", "id": "rs_1", "summary": [],
                 "content": [{"type": "reasoning_text", "text": "I need a tool."}]},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{\"a\":1}"},
                {"type": "function_call_output", "call_id": "c1", "output": "sun"},
                {"type": "message", "role": "assistant",
                 "content": [{"type": "output_text", "text": "Sunny.", "annotations": []}]},
                {"role": "user", "content": [{"type": "input_text", "text": "Thanks"}]},
            ],
        });
        let body = BODY.check(&body).unwrap();
        let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        assert_eq!(
            messages(&body).unwrap(),
            [
                json!({"role": "system", "content": "Be brief."}),
                json!({"role": "user", "content": "Weather?"}),
                json!({
                    "role": "assistant", "content": "", "reasoning_content": "I need a tool.",
                    "tool_calls": [call("c1", "f", "{}"), call("c2", "g", "{\"a\":1}")],
                }),
                json!({"role": "tool", "tool_call_id": "c1", "content": "sun"}),
                json!({"role": "assistant", "content": "Sunny."}),
                json!({"role": "user", "content": "Thanks"}),
            ]
        );
    }

    #[test]
    fn what_is_stored_elsewhere_is_refused() {
        for (body, param) in [
            (json!({"input": "x", "previous_response_id": "resp_1"}), "previous_response_id"),
            (json!({"input": "x", "background": true}), "background"),
            (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
            (json!({"input": "x", "tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"input": "x", "truncation": "auto"}), "truncation"),
        ] {
            let problem = BODY.check(&body).map(|_| ()).unwrap_err();
            assert!(problem.is_unsupported, "{problem}");
            assert_eq!(problem.param, param);
        }
    }
}
