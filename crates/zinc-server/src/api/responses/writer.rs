//! A response as it grows, and the events that tell of it.

use serde_json::{Map, Value, json};
use zinc_chat::Delta;

use super::super::common::short;
use crate::conversation::{Ask, End};
use crate::ids;
use crate::reply::push_event;
use crate::schema::Body;

/// An item that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Message,
    Reasoning,
    Call,
}

/// Writes a response.
pub struct Writer {
    response: Value,
    /// The item that is being written is the last of the output.
    open: Option<Open>,
    logprobs: Vec<Value>,
    events: String,
    n_events: u64,
}

impl Writer {
    /// A response to `body` of which nothing is written.
    pub fn new(body: &Body<'_>, model: &str, ask: &Ask) -> Writer {
        let sent = |name: &str, default: Value| body.get(name).cloned().unwrap_or(default);
        let response = json!({
            "id": ids::new("resp_"),
            "object": "response",
            "created_at": ids::unix_seconds(),
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": sent("instructions", Value::Null),
            "max_output_tokens": ask.max_tokens,
            "model": model,
            "output": [],
            "parallel_tool_calls": ask.parallel_tool_calls,
            "previous_response_id": null,
            "reasoning": {
                "effort": ask.thinking.effort,
                "summary": null,
            },
            "service_tier": "default",
            "store": false,
            "temperature": short(ask.sampling.params.temperature),
            "text": sent("text", json!({"format": {"type": "text"}})),
            "tool_choice": sent("tool_choice", json!("auto")),
            "tools": sent("tools", json!([])),
            "top_logprobs": ask.sampling.params.logprobs.unwrap_or(0),
            "top_p": short(ask.sampling.params.top_p),
            "truncation": "disabled",
            "usage": null,
            "user": sent("user", Value::Null),
            "metadata": sent("metadata", json!({})),
        });
        Writer { response, open: None, logprobs: Vec::new(), events: String::new(), n_events: 0 }
    }

    /// The response.
    pub fn response(&self) -> &Value {
        &self.response
    }

    /// Whether there are no events to send.
    pub fn is_silent(&self) -> bool {
        self.events.is_empty()
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> String {
        std::mem::take(&mut self.events)
    }

    /// The events that open a stream.
    pub fn begin(&mut self) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.response.clone();
            self.event(name, json!({"response": response}));
        }
    }

    /// Writes a piece of the answer.
    pub fn take(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => {
                self.open_text(Open::Message);
                self.grow(&["content", "0", "text"], &text);
                let logprobs = std::mem::take(&mut self.logprobs);
                if let Some(Value::Array(all)) = self.at(&["content", "0", "logprobs"]) {
                    all.extend(logprobs.iter().cloned());
                }
                self.part_event(
                    "response.output_text.delta",
                    json!({"delta": text, "logprobs": logprobs}),
                );
            }
            Delta::Reasoning(text) => {
                self.open_text(Open::Reasoning);
                self.grow(&["content", "0", "text"], &text);
                self.part_event("response.reasoning_text.delta", json!({"delta": text}));
            }
            Delta::ToolCallStart { name, .. } => {
                self.close("completed");
                self.open_item(
                    Open::Call,
                    json!({
                        "id": ids::new("fc_"), "type": "function_call", "status": "in_progress",
                        "call_id": ids::new("call_"), "name": name, "arguments": "",
                    }),
                );
            }
            Delta::ToolCallArguments { json, .. } => {
                self.grow(&["arguments"], &json);
                self.item_event("response.function_call_arguments.delta", json!({"delta": json}));
            }
            Delta::ToolCallEnd { .. } => self.close("completed"),
        }
    }

    /// Keeps a token's log-probabilities for the text that it becomes part of.
    pub fn add_logprobs(&mut self, entry: Value) {
        self.logprobs.push(entry);
    }

    /// Ends the answer.
    pub fn finish(&mut self, end: End, usage: Value) {
        // A call that is still open was cut off. OpenAI has no stop strings here, so no word for them.
        let cut_by = match end {
            End::Length => Some("max_output_tokens"),
            _ if self.open == Some(Open::Call) => Some("stop"),
            _ => None,
        };
        let (status, event) = match cut_by {
            Some(_) => ("incomplete", "response.incomplete"),
            None => ("completed", "response.completed"),
        };
        self.close(status);
        self.response["status"] = json!(status);
        self.response["usage"] = usage;
        if let Some(reason) = cut_by {
            self.response["incomplete_details"] = json!({"reason": reason});
        }
        let response = self.response.clone();
        self.event(event, json!({"response": response}));
    }

    /// Ends the answer with an error.
    pub fn fail(&mut self, error: &Value) {
        self.response["status"] = json!("failed");
        self.response["error"] = json!({"code": error["code"], "message": error["message"]});
        let response = self.response.clone();
        self.event(
            "error",
            json!({
                "code": error["code"], "message": error["message"], "param": error["param"],
            }),
        );
        self.event("response.failed", json!({"response": response}));
    }

    /// An item of texts: a message, or reasoning.
    fn open_text(&mut self, open: Open) {
        if self.open == Some(open) {
            return;
        }
        self.close("completed");
        let part = match open {
            Open::Message => {
                self.open_item(
                    open,
                    json!({
                        "id": ids::new("msg_"), "type": "message", "status": "in_progress",
                        "role": "assistant", "content": [],
                    }),
                );
                json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
            }
            _ => {
                self.open_item(
                    open,
                    json!({
                        "id": ids::new("rs_"), "type": "reasoning", "status": "in_progress",
                        "summary": [], "content": [],
                    }),
                );
                json!({"type": "reasoning_text", "text": ""})
            }
        };
        self.part_event("response.content_part.added", json!({"part": part}));
        if let Some(Value::Array(content)) = self.at(&["content"]) {
            content.push(part);
        }
    }

    fn open_item(&mut self, open: Open, item: Value) {
        self.open = Some(open);
        let index = self.n_items();
        if let Some(output) = self.response["output"].as_array_mut() {
            output.push(item.clone());
        }
        self.event("response.output_item.added", json!({"output_index": index, "item": item}));
    }

    /// Ends the item that is being written.
    fn close(&mut self, status: &str) {
        let Some(open) = self.open.take() else { return };
        match open {
            // Arguments that broke off are not done.
            Open::Call if status == "incomplete" => {}
            Open::Call => {
                let arguments = self.last()["arguments"].clone();
                let name = self.last()["name"].clone();
                let done = json!({"arguments": arguments, "name": name});
                self.item_event("response.function_call_arguments.done", done);
            }
            Open::Message | Open::Reasoning => {
                let part = self.last()["content"][0].clone();
                let mut done = json!({"text": part["text"]});
                let name = match open {
                    Open::Message => {
                        done["logprobs"] = part["logprobs"].clone();
                        "response.output_text.done"
                    }
                    _ => "response.reasoning_text.done",
                };
                self.part_event(name, done);
                self.part_event("response.content_part.done", json!({"part": part}));
            }
        }
        if let Some(item) = self.at(&[]) {
            item["status"] = json!(status);
        }
        let item = self.last().clone();
        let index = self.n_items().saturating_sub(1);
        self.event("response.output_item.done", json!({"output_index": index, "item": item}));
    }

    fn n_items(&self) -> usize {
        self.response["output"].as_array().map_or(0, Vec::len)
    }

    fn last(&self) -> &Value {
        self.response["output"].as_array().and_then(|output| output.last()).unwrap_or(&Value::Null)
    }

    /// A place in the last item.
    fn at(&mut self, path: &[&str]) -> Option<&mut Value> {
        let mut place = self.response["output"].as_array_mut()?.last_mut()?;
        for key in path {
            place = match place {
                Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?)?,
                place => place.get_mut(*key)?,
            };
        }
        Some(place)
    }

    fn grow(&mut self, path: &[&str], text: &str) {
        if let Some(Value::String(so_far)) = self.at(path) {
            so_far.push_str(text);
        }
    }

    /// An event about the last item.
    fn item_event(&mut self, name: &str, fields: Value) {
        let mut event = json!({
            "item_id": self.last()["id"], "output_index": self.n_items().saturating_sub(1),
        });
        merge(&mut event, fields);
        self.event(name, event);
    }

    /// An event about the last item's only part.
    fn part_event(&mut self, name: &str, fields: Value) {
        let mut event = json!({"content_index": 0});
        merge(&mut event, fields);
        self.item_event(name, event);
    }

    fn event(&mut self, name: &str, fields: Value) {
        let mut event = json!({"type": name, "sequence_number": self.n_events});
        merge(&mut event, fields);
        self.n_events += 1;
        push_event(&mut self.events, name, &event);
    }
}

fn merge(into: &mut Value, from: Value) {
    let fields: Map<String, Value> = match from {
        Value::Object(fields) => fields,
        _ => return,
    };
    if let Value::Object(into) = into {
        into.extend(fields);
    }
}
