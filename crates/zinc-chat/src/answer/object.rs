//! Reads a call that is a JSON object: `{"name": NAME, "arguments": {...}}` in any order of keys, or
//! `{"NAME": {...}}`.

use serde_json::Value;

use super::json::{Bad, Dialect, JsonScan, Step};

/// What a character came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObjectEvent {
    /// Nothing in particular.
    More,
    /// The name is known, and the arguments begin or are there.
    Named,
}

#[derive(Debug)]
enum State {
    Begin,
    KeyOrEnd,
    Key,
    KeyText {
        scan: JsonScan,
        text: String,
    },
    Colon,
    Value,
    /// A value that is kept.
    Kept {
        scan: JsonScan,
        text: String,
    },
    /// The arguments, passed on.
    Arguments(JsonScan),
    CommaOrEnd,
}

/// Keys that models use beside those of their template.
const NAME_KEYS: [&str; 3] = ["name", "tool_name", "function"];
const ARGUMENT_KEYS: [&str; 2] = ["arguments", "parameters"];
/// Keys that a call without marks around it may begin with.
const OTHER_KEYS: [&str; 4] = ["type", "id", "tool_call_id", "function"];

/// The state of one object.
#[derive(Debug)]
pub(super) struct ObjectReader {
    name_key: String,
    arguments_key: String,
    /// The name is a key.
    is_keyed: bool,
    /// Nothing but its keys tells it from any other object.
    is_strict: bool,
    state: State,
    key: String,
    name: Option<String>,
    /// Arguments that came before the name.
    kept: Option<String>,
    is_told: bool,
    is_complete: bool,
    /// Objects that are open, as in `{"type": "function", "function": {...}}`.
    depth: u32,
    is_closed: bool,
}

impl ObjectReader {
    pub fn new(name_key: &str, arguments_key: &str, is_strict: bool) -> Self {
        Self {
            name_key: name_key.to_owned(),
            arguments_key: arguments_key.to_owned(),
            is_keyed: false,
            is_strict,
            state: State::Begin,
            key: String::new(),
            name: None,
            kept: None,
            is_told: false,
            is_complete: false,
            depth: 0,
            is_closed: false,
        }
    }

    /// For `{"NAME": {...}}`.
    pub fn keyed() -> Self {
        Self { is_keyed: true, ..Self::new("", "", false) }
    }

    /// The tool's name, once known.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether the arguments have been passed on to their end.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether the object has ended.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// What completes the arguments, and the characters of them that were not passed on.
    pub fn complete(&self) -> (String, String) {
        match &self.state {
            State::Arguments(scan) => (scan.completion(), scan.held_source().to_owned()),
            _ => (String::new(), String::new()),
        }
    }

    /// What of the arguments was not passed on when the answer was cut off.
    pub fn rest(&self) -> String {
        match &self.state {
            State::Arguments(scan) => scan.rest(),
            _ => String::new(),
        }
    }

    /// Takes a character; arguments go to `out`.
    pub fn push(&mut self, c: char, out: &mut String) -> Result<ObjectEvent, Bad> {
        let is_blank = matches!(c, ' ' | '\t' | '\n' | '\r');
        match std::mem::replace(&mut self.state, State::Begin) {
            State::Arguments(scan) => self.arguments(scan, c, out),
            State::Kept { scan, text } => self.keep(scan, text, c, out),
            State::KeyText { scan, text } => self.key_text(scan, text, c),
            same if is_blank => {
                self.state = same;
                Ok(ObjectEvent::More)
            }
            State::Begin if c == '{' => self.go(State::KeyOrEnd, 1),
            State::KeyOrEnd | State::Key if c == '"' => {
                self.key_text(JsonScan::new(Dialect::Json), String::new(), c)
            }
            State::KeyOrEnd | State::CommaOrEnd if c == '}' => self.close(out),
            State::Colon if c == ':' => self.go(State::Value, 0),
            State::CommaOrEnd if c == ',' => self.go(State::Key, 0),
            State::Value => self.value(c, out),
            _ => Err(Bad),
        }
    }

    fn go(&mut self, state: State, deeper: u32) -> Result<ObjectEvent, Bad> {
        self.state = state;
        self.depth += deeper;
        Ok(ObjectEvent::More)
    }

    fn close(&mut self, out: &mut String) -> Result<ObjectEvent, Bad> {
        self.depth -= 1;
        self.state = State::CommaOrEnd;
        if self.depth > 0 {
            return Ok(ObjectEvent::More);
        }
        self.is_closed = true;
        if self.is_told {
            return Ok(ObjectEvent::More);
        }
        // A call without arguments.
        match self.name.is_some() && !self.is_strict && self.kept.is_none() {
            true => self.tell("{}", out),
            false => Err(Bad),
        }
    }

    fn tell(&mut self, arguments: &str, out: &mut String) -> Result<ObjectEvent, Bad> {
        out.push_str(arguments);
        self.is_told = true;
        self.is_complete = true;
        Ok(ObjectEvent::Named)
    }

    fn key_text(&mut self, scan: JsonScan, text: String, c: char) -> Result<ObjectEvent, Bad> {
        let (mut scan, mut text) = (scan, text);
        let step = scan.push(c, &mut text)?;
        if step == Step::More {
            return self.go(State::KeyText { scan, text }, 0);
        }
        self.key = serde_json::from_str(&text).map_err(|_| Bad)?;
        let key = self.key.as_str();
        let is_known = self.is_name() || self.is_arguments() || OTHER_KEYS.contains(&key);
        if self.is_strict && !is_known {
            return Err(Bad);
        }
        self.go(State::Colon, 0)
    }

    fn is_name(&self) -> bool {
        self.key == self.name_key || NAME_KEYS.contains(&self.key.as_str())
    }

    fn is_arguments(&self) -> bool {
        self.key == self.arguments_key || ARGUMENT_KEYS.contains(&self.key.as_str())
    }

    fn value(&mut self, c: char, out: &mut String) -> Result<ObjectEvent, Bad> {
        if self.is_keyed && !self.is_told && c == '{' {
            self.name = Some(self.key.clone());
        }
        let begins_arguments = self.is_keyed || self.is_arguments();
        if begins_arguments && c == '{' && self.name.is_some() && !self.is_told {
            self.is_told = true;
            self.arguments(JsonScan::new(Dialect::Json), c, out)?;
            return Ok(ObjectEvent::Named);
        }
        if self.key == "function" && c == '{' && self.name.is_none() && self.depth < 4 {
            return self.go(State::KeyOrEnd, 1);
        }
        self.keep(JsonScan::new(Dialect::Json), String::new(), c, out)
    }

    fn arguments(
        &mut self,
        mut scan: JsonScan,
        c: char,
        out: &mut String,
    ) -> Result<ObjectEvent, Bad> {
        let step = scan.push(c, out);
        self.is_complete = step == Ok(Step::Done);
        self.state = match self.is_complete {
            true => State::CommaOrEnd,
            false => State::Arguments(scan),
        };
        step.map(|_| ObjectEvent::More)
    }

    fn keep(
        &mut self,
        mut scan: JsonScan,
        mut text: String,
        c: char,
        out: &mut String,
    ) -> Result<ObjectEvent, Bad> {
        let step = scan.push(c, &mut text)?;
        if step == Step::More {
            return self.go(State::Kept { scan, text }, 0);
        }
        self.state = State::CommaOrEnd;
        let event = self.kept(text, out)?;
        match step {
            // A number ends where the next character begins.
            Step::DoneBefore if event == ObjectEvent::More => self.push(c, out),
            _ => Ok(event),
        }
    }

    /// A value is there.
    fn kept(&mut self, text: String, out: &mut String) -> Result<ObjectEvent, Bad> {
        if self.is_told {
            return Ok(ObjectEvent::More);
        }
        if self.is_arguments() {
            self.kept = Some(object_text(&text)?);
        } else if self.is_name() && self.name.is_none() {
            self.name = serde_json::from_str(&text).ok();
        }
        match (&self.name, self.kept.take()) {
            (Some(_), Some(arguments)) => self.tell(&arguments, out),
            (_, kept) => {
                self.kept = kept;
                Ok(ObjectEvent::More)
            }
        }
    }
}

/// The arguments as the text of an object: as such, as a string that holds one, or as null.
fn object_text(text: &str) -> Result<String, Bad> {
    match serde_json::from_str(text) {
        Ok(Value::Object(_)) => Ok(text.to_owned()),
        Ok(Value::Null) => Ok("{}".to_owned()),
        Ok(Value::String(inner)) if inner.trim().is_empty() => Ok("{}".to_owned()),
        Ok(Value::String(inner)) => {
            let value: Value = serde_json::from_str(&inner).map_err(|_| Bad)?;
            if value.is_object() { Ok(value.to_string()) } else { Err(Bad) }
        }
        _ => Err(Bad),
    }
}
