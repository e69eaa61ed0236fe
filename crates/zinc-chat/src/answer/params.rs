//! Reads arguments that stand one by one between tags, and types them by the tool's schema.

use serde_json::Value;

use crate::syntax::{Found, Mark, Params};

use super::json::Bad;
use super::python;

/// What a value may be wrapped in, as in XML.
const CDATA: &str = "<![CDATA[";

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParamStep {
    /// Another step may follow at once.
    More,
    /// More text is needed.
    Wait,
    /// The closing mark is next.
    Done,
}

/// What a value's text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string, as it is.
    Text,
    /// JSON.
    Json,
    /// JSON if it is any other than a string, of a type that is allowed, else text.
    Either(Types),
}

#[derive(Debug)]
enum State {
    /// An argument or the closing mark.
    Next,
    Key,
    Value {
        kind: Kind,
        at_begin: bool,
        text: String,
        end: Mark,
    },
}

/// The state of one call's arguments.
#[derive(Debug)]
pub(super) struct ParamReader {
    name: String,
    marks: Params,
    close: Mark,
    schema: Value,
    state: State,
    n_keys: usize,
    has_begun: bool,
    /// Text taken since the last JSON was passed on.
    raw: String,
}

impl ParamReader {
    pub fn new(name: String, marks: Params, close: Mark, schema: Value) -> Self {
        Self {
            name,
            marks,
            close,
            schema,
            state: State::Next,
            n_keys: 0,
            has_begun: false,
            raw: String::new(),
        }
    }

    /// The tool's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is certain that this is a call.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Text taken that was not passed on.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// What completes the arguments, and the text that was not passed on.
    pub fn complete(&mut self) -> (String, String) {
        let value = match &self.state {
            State::Next | State::Key => String::new(),
            State::Value { kind: Kind::Text, .. } => "\"".to_owned(),
            State::Value { kind, text, .. } => typed(text, *kind),
        };
        (value + "}", std::mem::take(&mut self.raw))
    }

    /// What of a value stands in `held`, or was not passed on, when the answer was cut off: nothing of one
    /// that may be text as well as JSON.
    pub fn rest(&self, held: &str) -> String {
        let State::Value { kind, at_begin: false, text, end } = &self.state else {
            return String::new();
        };
        // What may begin the closing mark is no part of the value.
        let value = &held[..end.find(held).map_or(held.len(), |(at, _)| at)];
        let value = value.strip_suffix('\n').filter(|_| self.marks.lines).unwrap_or(value);
        match kind {
            Kind::Text => escaped(value),
            Kind::Json => format!("{text}{value}"),
            Kind::Either(_) => String::new(),
        }
    }

    /// Reads on in `held`; JSON that is certain goes to `out`.
    pub fn step(
        &mut self,
        held: &mut String,
        at_end: bool,
        out: &mut String,
    ) -> Result<ParamStep, Bad> {
        match &self.state {
            State::Next => self.next(held, at_end, out),
            State::Key => self.key(held, at_end, out),
            State::Value { .. } => self.value(held, at_end, out),
        }
    }

    fn take(&mut self, held: &mut String, n: usize) {
        self.raw.push_str(&held[..n]);
        held.drain(..n);
    }

    fn next(
        &mut self,
        held: &mut String,
        at_end: bool,
        out: &mut String,
    ) -> Result<ParamStep, Bad> {
        self.take(held, held.len() - held.trim_start().len());
        let (open, close) = (self.marks.open.at(held), self.close.at(held));
        match (open, close) {
            (Found::Yes(n), _) => {
                if !std::mem::replace(&mut self.has_begun, true) {
                    self.raw.clear();
                    out.push('{');
                }
                self.take(held, n);
                self.state = State::Key;
                Ok(ParamStep::More)
            }
            (_, Found::Yes(_)) if !self.close.is_empty() => {
                out.push_str(if self.has_begun { "}" } else { "{}" });
                self.has_begun = true;
                self.raw.clear();
                Ok(ParamStep::Done)
            }
            (Found::Partial, _) | (_, Found::Partial) if !at_end => Ok(ParamStep::Wait),
            _ => Err(Bad),
        }
    }

    fn key(&mut self, held: &mut String, at_end: bool, out: &mut String) -> Result<ParamStep, Bad> {
        let marks = [Some((&self.marks.key_end, false))]
            .into_iter()
            .chain([self.marks.key_end_json.as_ref().map(|mark| (mark, true))])
            .flatten();
        let found = marks.filter_map(|(mark, is_json)| {
            let (at, n) = mark.find(held)?;
            Some((at, n, is_json))
        });
        let found = found.min_by_key(|(at, n, _)| (*at, n.is_none()));
        let Some((at, Some(n), is_json)) = found else {
            let so_far = &held[..found.map_or(held.len(), |(at, ..)| at)];
            let is_key = so_far.len() < 256 && !so_far.contains('\n');
            return if is_key && !at_end { Ok(ParamStep::Wait) } else { Err(Bad) };
        };
        let key = held[..at].trim().to_owned();
        if key.is_empty() || key.contains(['\n', '<', '>']) {
            return Err(Bad);
        }
        let kind = match (&self.marks.key_end_json, is_json) {
            (Some(_), true) => Kind::Json,
            (Some(_), false) => Kind::Text,
            (None, _) => kind_of(&self.schema, &key),
        };
        self.take(held, at + n);
        out.push_str(if self.n_keys > 0 { ", " } else { "" });
        out.push_str(&Value::String(key).to_string());
        out.push_str(": ");
        if kind == Kind::Text {
            out.push('"');
        }
        self.n_keys += 1;
        self.raw.clear();
        let end = self.marks.value_end.clone();
        self.state = State::Value { kind, at_begin: true, text: String::new(), end };
        Ok(ParamStep::More)
    }

    fn value(
        &mut self,
        held: &mut String,
        at_end: bool,
        out: &mut String,
    ) -> Result<ParamStep, Bad> {
        let State::Value { kind, at_begin, text, end: mark } = &mut self.state else {
            return Err(Bad);
        };
        let lines = self.marks.lines;
        if *at_begin {
            if CDATA.starts_with(held.as_str()) && !at_end {
                return Ok(ParamStep::Wait);
            }
            if held.starts_with('\n') && lines {
                held.drain(..1);
            } else if held.starts_with(CDATA) {
                held.drain(..CDATA.len());
                *mark = mark.behind("]]>");
            }
        }
        *at_begin = false;
        let found = mark.find(held);
        let end = match found {
            Some((at, Some(_))) => at,
            Some((at, None)) if !at_end => at,
            _ => held.len(),
        };
        let is_end = matches!(found, Some((_, Some(_))));
        // The last line break may be the tag's.
        let own = match held[..end].strip_suffix('\n') {
            Some(own) if lines && (is_end || !at_end) => own.len(),
            _ => end,
        };
        let piece = &held[..own];
        match kind {
            Kind::Text => out.push_str(&escaped(piece)),
            Kind::Json | Kind::Either(_) => text.push_str(piece),
        }
        let Some((at, Some(n))) = found else {
            held.drain(..own);
            // The value broke off.
            return if at_end { Err(Bad) } else { Ok(ParamStep::Wait) };
        };
        match kind {
            Kind::Text => out.push('"'),
            kind => out.push_str(&typed(text, *kind)),
        }
        held.drain(..at + n);
        self.state = State::Next;
        Ok(ParamStep::More)
    }
}

/// A piece of a string, without quotation marks.
fn escaped(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The JSON that a value's text means.
fn typed(text: &str, kind: Kind) -> String {
    let word = match text.trim() {
        // As Python prints them.
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        word => serde_json::from_str(word).ok().or_else(|| python::literal(word)),
    };
    let is_meant = |value: &Value| match kind {
        Kind::Either(types) => !value.is_string() && types.has(value),
        Kind::Json | Kind::Text => true,
    };
    word.filter(is_meant).unwrap_or_else(|| Value::String(text.to_owned())).to_string()
}

/// Types of JSON that a schema allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    const NAMES: [&str; 7] = ["string", "null", "boolean", "integer", "number", "array", "object"];
    const ANY: Self = Self(0x7F);
    const NONE: Self = Self(0);

    fn named(name: &str) -> Self {
        let nth = Self::NAMES.iter().position(|known| *known == name);
        match (name, nth) {
            // Integers are numbers.
            ("number", _) => Self(0b1_1000),
            (_, Some(nth)) => Self(1 << nth),
            (_, None) => Self::ANY,
        }
    }

    fn of(value: &Value) -> Self {
        Self::named(match value {
            Value::String(_) => "string",
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => return Self(1 << 4),
            Value::Number(_) => "integer",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        })
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, value: &Value) -> bool {
        self.0 & Self::of(value).0 != 0
    }
}

/// What the text of an argument means by the tool's schema.
pub(crate) fn kind_of(schema: &Value, key: &str) -> Kind {
    let property = &schema["properties"][key];
    let property = match property {
        Value::Null => &schema["additionalProperties"],
        property => property,
    };
    match allowed(schema, property, 0) {
        Types(1) => Kind::Text,
        types if types.0 & 1 == 0 => Kind::Json,
        types => Kind::Either(types),
    }
}

/// The types that a schema allows.
fn allowed(root: &Value, schema: &Value, depth: u32) -> Types {
    let Some(fields) = schema.as_object().filter(|_| depth < 16) else { return Types::ANY };
    let any_of = |types: &mut dyn Iterator<Item = Types>| types.fold(Types::NONE, Types::and);
    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
        let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or(Types::ANY, |target| allowed(root, target, depth + 1));
    }
    match fields.get("type") {
        Some(Value::String(name)) => return Types::named(name),
        Some(Value::Array(names)) => {
            return any_of(&mut names.iter().filter_map(Value::as_str).map(Types::named));
        }
        _ => {}
    }
    if let Some(values) = fields.get("enum").and_then(Value::as_array) {
        return any_of(&mut values.iter().map(Types::of));
    }
    if let Some(value) = fields.get("const") {
        return Types::of(value);
    }
    for name in ["anyOf", "oneOf"] {
        if let Some(options) = fields.get(name).and_then(Value::as_array) {
            return any_of(&mut options.iter().map(|option| allowed(root, option, depth + 1)));
        }
    }
    Types::ANY
}
