//! Conversations in OpenAI's wire form, checked, and brought to the form that templates read.

use serde_json::{Map, Value, json};
use zinc_token::template::DateTime;

use crate::ChatError;
use crate::answer::json::{Dialect, JsonScan, Step};

/// A conversation to be rendered.
#[derive(Clone, Debug)]
pub struct ChatInput {
    /// Messages in OpenAI's wire form: objects with `role`, `content` (a text, null, or text parts),
    /// and where they apply `name`, `reasoning_content` (also read as `reasoning`), `tool_calls`,
    /// `tool_call_id`.
    pub messages: Vec<Value>,
    /// Tools to show to the model.
    pub tools: Tools,
    /// The template's switch for thinking, if anything is to be said about it. Off, a constrained answer
    /// begins at once, whether the template has a switch or not.
    pub thinking: Option<bool>,
    /// How much to think, in the template's own words (`low`, `medium`, `high`).
    pub reasoning_effort: Option<String>,
    /// Further variables of the template.
    pub template_kwargs: Map<String, Value>,
    /// The last message, the assistant's, goes on instead of a new one beginning.
    pub continue_final_message: bool,
    /// The rendered text ends with the opening of the assistant's answer. Not with
    /// `continue_final_message`.
    pub add_generation_prompt: bool,
    /// What the template takes for the current time; absent is now, in UTC.
    pub now: Option<DateTime>,
}

impl ChatInput {
    /// A conversation to be answered.
    pub fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            tools: Tools::default(),
            thinking: None,
            reasoning_effort: None,
            template_kwargs: Map::new(),
            continue_final_message: false,
            add_generation_prompt: true,
            now: None,
        }
    }
}

/// A tool on offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// What the model calls it.
    pub name: String,
    /// JSON schema of its arguments, an object's.
    pub parameters: Value,
    /// Its schema is to be held exactly, or the request refused. Otherwise keywords that a guide cannot
    /// hold are left to the model, and the rest of the schema is held.
    pub is_strict: bool,
    /// The definition as the template sees it.
    wire: Value,
}

/// The tools of a conversation; names are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools(Vec<Tool>);

impl Tools {
    /// Reads OpenAI's form: a list of `{"type": "function", "function": {"name", "description",
    /// "parameters"}}`.
    ///
    /// # Errors
    /// [`ChatError::Tool`] with the field that is missing, of a wrong type, or a repeated name.
    pub fn from_json(list: &[Value]) -> Result<Self, ChatError> {
        let mut tools: Vec<Tool> = Vec::with_capacity(list.len());
        for (i, wire) in list.iter().enumerate() {
            let tool = Tool::from_json(wire, i)?;
            if tools.iter().any(|other| other.name == tool.name) {
                let what = format!("there are two tools called {:?}", tool.name);
                return Err(ChatError::tool(format!("tools[{i}].function.name"), what));
            }
            tools.push(tool);
        }
        Ok(Self(tools))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Tool> {
        self.0.iter()
    }

    /// The tool of that name.
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.0.iter().find(|tool| tool.name == name)
    }

    /// The definitions as templates see them; `None` if there are none.
    pub(crate) fn wire(&self) -> Option<Value> {
        let list = || self.0.iter().map(|tool| tool.wire.clone()).collect();
        (!self.is_empty()).then(list)
    }
}

impl Tool {
    fn from_json(wire: &Value, i: usize) -> Result<Self, ChatError> {
        let at = |field: &str| format!("tools[{i}]{field}");
        match wire.get("type").map(|kind| kind.as_str()) {
            None | Some(Some("function")) => {}
            Some(_) => {
                let what = "only tools of type \"function\" are supported";
                return Err(ChatError::tool(at(".type"), what));
            }
        }
        let Some(function) = wire.get("function").and_then(Value::as_object) else {
            let what = "expected an object with name, description and parameters";
            return Err(ChatError::tool(at(".function"), what));
        };
        let name = function.get("name").and_then(Value::as_str).filter(|name| is_name(name));
        let Some(name) = name else {
            let what = "expected a name of 1 to 128 letters, digits, '_', '-' and '.'";
            return Err(ChatError::tool(at(".function.name"), what));
        };
        let parameters = match function.get("parameters") {
            None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
            Some(schema @ Value::Object(_)) => schema.clone(),
            Some(_) => {
                let what = "expected a JSON schema, an object";
                return Err(ChatError::tool(at(".function.parameters"), what));
            }
        };
        let is_strict = match function.get("strict") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(is_strict)) => *is_strict,
            Some(_) => {
                return Err(ChatError::tool(at(".function.strict"), "expected true or false"));
            }
        };
        let mut wire = wire.clone();
        wire["type"] = json!("function");
        wire["function"]["parameters"] = parameters.clone();
        Ok(Self { name: name.to_owned(), parameters, is_strict, wire })
    }

    /// The tool with another schema of its arguments, which the template does not see.
    pub(crate) fn with_parameters(&self, parameters: Value) -> Self {
        Self { parameters, ..self.clone() }
    }
}

/// Names go into grammars and into tags, so they are what OpenAI allows, and dots.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=128).contains(&name.len()) && name.chars().all(is_plain)
}

/// How a template wants its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageStyle {
    /// Arguments of calls are JSON text rather than objects.
    pub arguments_as_text: bool,
    /// The field that it reads reasoning from, if any.
    pub reasoning_field: Option<&'static str>,
    /// It knows the role `developer`; others get `system`.
    pub knows_developer: bool,
}

/// Checks messages and brings them to the form that a template reads.
pub(crate) fn normalize(messages: &[Value], style: MessageStyle) -> Result<Vec<Value>, ChatError> {
    let one = |(i, message): (usize, &Value)| message_of(message, &format!("messages[{i}]"), style);
    messages.iter().enumerate().map(one).collect()
}

fn message_of(message: &Value, at: &str, style: MessageStyle) -> Result<Value, ChatError> {
    let Some(fields) = message.as_object() else {
        return Err(ChatError::message(at, "expected an object with role and content"));
    };
    let role = match fields.get("role").and_then(Value::as_str) {
        Some("developer") if !style.knows_developer => "system",
        Some(role @ ("system" | "developer" | "user" | "assistant" | "tool")) => role,
        // OpenAI's older name.
        Some("function") => "tool",
        _ => {
            let what = "expected system, developer, user, assistant or tool";
            return Err(ChatError::message(format!("{at}.role"), what));
        }
    };
    let mut out = Map::new();
    out.insert("role".into(), json!(role));
    out.insert("content".into(), json!(content_text(fields.get("content"), at)?));
    for name in ["name", "tool_call_id"] {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => drop(out.insert(name.into(), json!(text))),
            Some(_) => {
                return Err(ChatError::message(format!("{at}.{name}"), "expected a text"));
            }
        }
    }
    if let (Some(reasoning), Some(field)) = (reasoning(fields, at)?, style.reasoning_field) {
        out.insert(field.into(), json!(reasoning));
    }
    match fields.get("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(calls)) if calls.is_empty() => {}
        Some(Value::Array(calls)) if role == "assistant" => {
            let at = format!("{at}.tool_calls");
            let call = |(i, call)| tool_call(call, &format!("{at}[{i}]"), style);
            let calls: Result<Value, _> = calls.iter().enumerate().map(call).collect();
            out.insert("tool_calls".into(), calls?);
        }
        Some(_) => {
            let what = "expected a list of calls, in a message of the assistant";
            return Err(ChatError::message(format!("{at}.tool_calls"), what));
        }
    }
    Ok(Value::Object(out))
}

/// The text of a message: parts are joined by line breaks, as servers in the field do.
fn content_text(content: Option<&Value>, at: &str) -> Result<String, ChatError> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let part = |(i, part): (usize, &'_ Value)| -> Result<String, ChatError> {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or("none");
                let field = if kind == "refusal" { "refusal" } else { "text" };
                let is_text = matches!(kind, "text" | "refusal" | "input_text" | "output_text");
                let text = part.get(field).and_then(Value::as_str).filter(|_| is_text);
                text.map(str::to_owned).ok_or_else(|| {
                    let what = format!(
                        "a part of type {kind:?} is not supported; this model reads text parts"
                    );
                    ChatError::message(format!("{at}.content[{i}]"), what)
                })
            };
            let texts: Result<Vec<_>, _> = parts.iter().enumerate().map(part).collect();
            Ok(texts?.join("\n"))
        }
        Some(_) => {
            let what = "expected a text, null or a list of text parts";
            Err(ChatError::message(format!("{at}.content"), what))
        }
    }
}

fn reasoning<'a>(fields: &'a Map<String, Value>, at: &str) -> Result<Option<&'a str>, ChatError> {
    for name in ["reasoning_content", "reasoning", "thinking"] {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(text)),
            Some(_) => {
                return Err(ChatError::message(format!("{at}.{name}"), "expected a text"));
            }
        }
    }
    Ok(None)
}

/// Whether a text is the begin of an object that it does not end.
fn breaks_off(text: &str) -> bool {
    let mut scan = JsonScan::new(Dialect::Json);
    let mut out = String::new();
    text.starts_with('{') && text.chars().all(|c| scan.push(c, &mut out) == Ok(Step::More))
}

/// A call's arguments as an object: of a text that broke off, the members that are whole. Templates, and
/// Anthropic's API, have no other place for them; that they are not all is told by the reason why the answer
/// ended.
pub fn whole_members(arguments: &str) -> Value {
    if let Ok(input) = serde_json::from_str(arguments) {
        return input;
    }
    let (mut depth, mut in_text, mut is_escaped) = (0, false, false);
    let mut ends = Vec::new();
    for (at, c) in arguments.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_text => is_escaped = true,
            '"' => in_text = !in_text,
            '{' | '[' if !in_text => depth += 1,
            '}' | ']' if !in_text => depth -= 1,
            ',' if !in_text && depth == 1 => ends.push(at),
            _ => {}
        }
    }
    // A number at the end may go on, and so is not whole.
    if !arguments.ends_with(|c: char| c.is_ascii_digit()) {
        ends.push(arguments.len());
    }
    let object = |end: &usize| serde_json::from_str(&format!("{}}}", &arguments[..*end])).ok();
    ends.iter().rev().find_map(object).unwrap_or_else(|| json!({}))
}

fn tool_call(call: &Value, at: &str, style: MessageStyle) -> Result<Value, ChatError> {
    let wrong = |field: &str, what: &str| ChatError::message(format!("{at}.{field}"), what);
    let Some(name) = call["function"]["name"].as_str() else {
        return Err(wrong("function.name", "expected a text"));
    };
    let empty = json!({});
    let object = match call["function"].get("arguments") {
        None | Some(Value::Null) => empty,
        Some(Value::String(text)) if text.trim().is_empty() => empty,
        // A call that was cut off comes back as it was told: the template gets what of it is whole.
        Some(Value::String(text)) if breaks_off(text.trim()) => whole_members(text.trim()),
        Some(Value::String(text)) => serde_json::from_str(text)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| wrong("function.arguments", "expected the text of a JSON object"))?,
        Some(object @ Value::Object(_)) => object.clone(),
        Some(_) => {
            return Err(wrong("function.arguments", "expected the text of a JSON object"));
        }
    };
    let arguments = if style.arguments_as_text { json!(object.to_string()) } else { object };
    let mut out = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    if let Some(id) = call.get("id").and_then(Value::as_str) {
        out["id"] = json!(id);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_broke_off_keep_their_whole_members() {
        let check = |arguments: &str, input: Value| {
            assert_eq!(whole_members(arguments), input, "{arguments}");
        };
        check("", json!({}));
        check("{", json!({}));
        check(r#"{"city": "P"#, json!({}));
        check(r#"{"city": "P\""#, json!({}));
        check(r#"{"city": "Paris""#, json!({"city": "Paris"}));
        check(r#"{"city": "Pa,ris", "n": 1"#, json!({"city": "Pa,ris"}));
        check(r#"{"n": 12 "#, json!({"n": 12}));
        check(r#"{"n": 1, "list": [1, {"a": 2}, "#, json!({"n": 1}));
        check(r#"{"list": [1, {"a": 2}]"#, json!({"list": [1, {"a": 2}]}));
        check(r#"{"a": {"b": 1}, "c""#, json!({"a": {"b": 1}}));
        check(r#"{"a": true}"#, json!({"a": true}));
    }
}
