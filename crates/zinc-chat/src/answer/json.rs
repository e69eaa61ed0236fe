//! Reads JSON character by character and passes on only what can still be completed to valid JSON.

/// One who gives up: the character cannot continue the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad;

/// Where the scan stands after a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The value goes on.
    More,
    /// The value ended with this character.
    Done,
    /// The value ended before this character, which is not part of it.
    DoneBefore,
}

/// How strings and keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As JSON has it.
    Json,
    /// Strings between [`QUOTE`]s without escapes, keys bare.
    Gemma,
}

/// Stands for Gemma's quotation mark, which is a token of several characters.
pub(crate) const QUOTE: char = '\u{10FFFF}';

/// Deepest nesting, as in serde_json, so that what passes here can be read there.
const MAX_DEPTH: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// Behind `[`.
    ValueOrEnd,
    /// Behind `{`.
    KeyOrEnd,
    /// Behind a comma in an object.
    Key,
    BareKey,
    Colon,
    CommaOrEnd,
    Text,
    Escape,
    /// Digits of `\u` read, and their value; `high` is the surrogate before, or 0.
    Hex {
        n: u8,
        value: u16,
        high: u16,
    },
    /// The escape of a low surrogate must follow: its backslash, its `u`.
    LowBackslash {
        high: u16,
    },
    LowU {
        high: u16,
    },
    Number,
    Word {
        word: &'static str,
        n: usize,
    },
    Done,
}

/// A scan of one value.
#[derive(Clone, Debug)]
pub(crate) struct JsonScan {
    dialect: Dialect,
    stack: Vec<char>,
    state: State,
    is_key: bool,
    /// JSON that cannot be completed yet: commas, keys, numbers, words, escapes.
    pending: String,
    /// The characters it came from.
    source: String,
    /// What was passed on ends inside a string.
    open_text: bool,
    /// Digits of the current number.
    number: String,
}

impl JsonScan {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            stack: Vec::new(),
            state: State::Value,
            is_key: false,
            pending: String::new(),
            source: String::new(),
            open_text: false,
            number: String::new(),
        }
    }

    /// What makes a valid value of everything passed on so far.
    pub(crate) fn completion(&self) -> String {
        let closing = self.stack.iter().rev().map(|open| if *open == '{' { '}' } else { ']' });
        self.open_text.then_some('"').into_iter().chain(closing).collect()
    }

    /// What was not passed on, as JSON that breaks off where the characters did.
    pub(crate) fn rest(&self) -> String {
        // The place of a number is kept until the number is complete.
        format!("{}{}", self.pending.trim_end_matches('\u{0}'), self.number)
    }

    /// The characters taken that were not passed on.
    pub(crate) fn held_source(&self) -> &str {
        &self.source
    }

    /// Takes a character; JSON that is certain goes to `out`.
    pub(crate) fn push(&mut self, c: char, out: &mut String) -> Result<Step, Bad> {
        if self.state == State::Number {
            if matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E') && self.number.len() < 400 {
                self.number.push(c);
                self.source.push(c);
                return Ok(Step::More);
            }
            self.end_number(out)?;
            if self.state == State::Done {
                return Ok(Step::DoneBefore);
            }
        }
        self.advance(c, out)?;
        self.source.push(c);
        if self.pending.is_empty() {
            self.source.clear();
        }
        Ok(if self.state == State::Done { Step::Done } else { Step::More })
    }

    fn advance(&mut self, c: char, out: &mut String) -> Result<(), Bad> {
        let is_blank = matches!(c, ' ' | '\t' | '\n' | '\r');
        match self.state {
            State::Text => self.text(c, out),
            State::Escape | State::Hex { .. } | State::LowBackslash { .. } | State::LowU { .. } => {
                self.escape(c, out)
            }
            State::Word { word, n } => self.word(word, n, c, out),
            State::BareKey => self.bare_key(c),
            State::Done => Err(Bad),
            _ if is_blank => {
                self.pending.push(c);
                Ok(())
            }
            State::Value | State::ValueOrEnd => self.value(c, out),
            State::KeyOrEnd | State::Key => self.key(c, out),
            State::Colon if c == ':' => {
                self.pending.push(c);
                self.state = State::Value;
                Ok(())
            }
            State::CommaOrEnd => match (self.stack.last(), c) {
                (Some('{'), ',') => self.next(State::Key),
                (Some('['), ',') => self.next(State::Value),
                (Some('{'), '}') | (Some('['), ']') => self.pop(c, out),
                _ => Err(Bad),
            },
            State::Colon | State::Number => Err(Bad),
        }
    }

    fn next(&mut self, state: State) -> Result<(), Bad> {
        self.pending.push(',');
        self.state = state;
        Ok(())
    }

    fn value(&mut self, c: char, out: &mut String) -> Result<(), Bad> {
        let quote = if self.dialect == Dialect::Gemma { QUOTE } else { '"' };
        match c {
            '{' | '[' => {
                if self.stack.len() >= MAX_DEPTH {
                    return Err(Bad);
                }
                self.stack.push(c);
                self.pending.push(c);
                self.state = if c == '{' { State::KeyOrEnd } else { State::ValueOrEnd };
                self.flush(out);
            }
            c if c == quote => {
                self.pending.push('"');
                self.is_key = false;
                self.open_text = true;
                self.state = State::Text;
                self.flush(out);
            }
            '-' | '0'..='9' => {
                self.number.clear();
                self.number.push(c);
                // Keeps the source until the number is complete.
                self.pending.push('\u{0}');
                self.state = State::Number;
            }
            't' => self.begin_word("true"),
            'f' => self.begin_word("false"),
            'n' => self.begin_word("null"),
            // As Python prints it, and Gemma's template with it.
            'N' if self.dialect == Dialect::Gemma => self.begin_word("None"),
            ']' if self.state == State::ValueOrEnd => return self.pop(c, out),
            _ => return Err(Bad),
        }
        Ok(())
    }

    fn begin_word(&mut self, word: &'static str) {
        self.pending.push_str(&word[..1]);
        self.state = State::Word { word, n: 1 };
    }

    fn word(&mut self, word: &'static str, n: usize, c: char, out: &mut String) -> Result<(), Bad> {
        if !word[n..].starts_with(c) {
            return Err(Bad);
        }
        self.pending.push(c);
        self.state = State::Word { word, n: n + 1 };
        if n + 1 == word.len() {
            if word == "None" {
                self.pending.truncate(self.pending.len() - word.len());
                self.pending.push_str("null");
            }
            self.end_value(out);
        }
        Ok(())
    }

    fn key(&mut self, c: char, out: &mut String) -> Result<(), Bad> {
        let quote = if self.dialect == Dialect::Gemma { QUOTE } else { '"' };
        match c {
            c if c == quote => {
                self.pending.push('"');
                self.is_key = true;
                self.state = State::Text;
                Ok(())
            }
            '}' if self.state == State::KeyOrEnd => self.pop(c, out),
            c if self.dialect == Dialect::Gemma && !"{}[]:,\"".contains(c) => {
                self.pending.push('"');
                self.state = State::BareKey;
                self.bare_key(c)
            }
            _ => Err(Bad),
        }
    }

    fn bare_key(&mut self, c: char) -> Result<(), Bad> {
        match c {
            ':' => {
                self.pending.push_str("\":");
                self.state = State::Value;
                Ok(())
            }
            QUOTE | '{' | '}' | '[' | ']' | ',' => Err(Bad),
            c => {
                self.push_text(c);
                Ok(())
            }
        }
    }

    fn text(&mut self, c: char, out: &mut String) -> Result<(), Bad> {
        let is_gemma = self.dialect == Dialect::Gemma;
        match c {
            '"' if !is_gemma => self.end_text(out),
            QUOTE if is_gemma => self.end_text(out),
            '\\' if !is_gemma => {
                self.pending.push(c);
                self.state = State::Escape;
            }
            c => {
                self.push_text(c);
                self.flush_text(out);
            }
        }
        Ok(())
    }

    /// A character of a string as JSON has it. Line breaks and the like inside a string are an error
    /// that models make and everybody understands.
    fn push_text(&mut self, c: char) {
        match c {
            '"' => self.pending.push_str("\\\""),
            '\\' => self.pending.push_str("\\\\"),
            '\n' => self.pending.push_str("\\n"),
            '\r' => self.pending.push_str("\\r"),
            '\t' => self.pending.push_str("\\t"),
            c if c < ' ' => self.pending.push_str(&format!("\\u{:04x}", c as u32)),
            c => self.pending.push(c),
        }
    }

    fn end_text(&mut self, out: &mut String) {
        self.pending.push('"');
        if self.is_key {
            self.state = State::Colon;
        } else {
            self.open_text = false;
            self.end_value(out);
        }
    }

    fn escape(&mut self, c: char, out: &mut String) -> Result<(), Bad> {
        let next = match (self.state, c) {
            (State::Escape, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => State::Text,
            (State::Escape, 'u') => State::Hex { n: 0, value: 0, high: 0 },
            (State::LowBackslash { high }, '\\') => State::LowU { high },
            (State::LowU { high }, 'u') => State::Hex { n: 0, value: 0, high },
            (State::Hex { n, value, high }, c) => {
                let digit = c.to_digit(16).ok_or(Bad)? as u16;
                let value = value << 4 | digit;
                match (n, value, high) {
                    (0..3, ..) => State::Hex { n: n + 1, value, high },
                    (_, 0xD800..=0xDBFF, 0) => State::LowBackslash { high: value },
                    (_, 0xDC00..=0xDFFF, 0) => return Err(Bad),
                    (_, 0xDC00..=0xDFFF, _) | (_, _, 0) => State::Text,
                    _ => return Err(Bad),
                }
            }
            _ => return Err(Bad),
        };
        self.pending.push(c);
        self.state = next;
        if next == State::Text {
            self.flush_text(out);
        }
        Ok(())
    }

    fn end_number(&mut self, out: &mut String) -> Result<(), Bad> {
        let number: Result<serde_json::Number, _> = serde_json::from_str(&self.number);
        if number.is_err() {
            return Err(Bad);
        }
        // The place that was kept.
        self.pending.pop();
        let number = std::mem::take(&mut self.number);
        self.pending.push_str(&number);
        self.end_value(out);
        self.source.clear();
        Ok(())
    }

    fn pop(&mut self, c: char, out: &mut String) -> Result<(), Bad> {
        self.stack.pop();
        self.pending.push(c);
        self.end_value(out);
        Ok(())
    }

    fn end_value(&mut self, out: &mut String) {
        self.state = if self.stack.is_empty() { State::Done } else { State::CommaOrEnd };
        self.flush(out);
    }

    fn flush_text(&mut self, out: &mut String) {
        if !self.is_key {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut String) {
        out.push_str(&self.pending);
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scans as far as it goes and completes.
    fn scan(text: &str, dialect: Dialect) -> (String, usize) {
        let mut scan = JsonScan::new(dialect);
        let mut out = String::new();
        let mut n = 0;
        for c in text.chars() {
            match scan.push(c, &mut out) {
                Ok(Step::More) => n += 1,
                Ok(Step::Done) => return (out, n + 1),
                Ok(Step::DoneBefore) => return (out, n),
                Err(Bad) => break,
            }
        }
        out += &scan.completion();
        (out, n)
    }

    #[test]
    fn json_passes_as_it_is() {
        for text in [
            r#"{"a": [1, -2.5e3, true, null, "x\n\u00e9\ud83d\ude00"], "b": {}}"#,
            "[]",
            r#""text""#,
        ] {
            assert_eq!(scan(text, Dialect::Json), (text.to_owned(), text.chars().count()));
        }
        assert_eq!(scan("12,", Dialect::Json), ("12".to_owned(), 2));
    }

    #[test]
    fn what_breaks_off_is_completed() {
        let check = |text: &str, want: &str| {
            assert_eq!(scan(text, Dialect::Json).0, want, "{text}");
        };
        check(r#"{"a": "xy"#, r#"{"a": "xy"}"#);
        check(r#"{"a": "x\"#, r#"{"a": "x"}"#);
        check(r#"{"a": "x\ud83d"#, r#"{"a": "x"}"#);
        check(r#"{"a": 1, "b"#, r#"{"a": 1}"#);
        check(r#"{"a": 1, "b": 2, "c": tr"#, r#"{"a": 1, "b": 2}"#);
        check(r#"{"a": 01, "#, r#"{}"#);
        check(r#"{"a": [1, 2, 1e999, "#, r#"{"a": [1, 2]}"#);
        check("{\"a\": \"x\ny\"}", r#"{"a": "x\ny"}"#);
        check(r#"{"a": {"b": [{}, [], "c"#, r#"{"a": {"b": [{}, [], "c"]}}"#);
    }

    #[test]
    fn what_is_cut_off_ends_as_it_came() {
        for text in [
            r#"{"a": "x\"#,
            r#"{"a": "x\ud83d"#,
            r#"{"a": 1, "b"#,
            r#"{"a": [1, -2."#,
            r#"{"a": 12, "b": tr"#,
            r#"{"a": 12 "#,
        ] {
            let mut scan = JsonScan::new(Dialect::Json);
            let mut out = String::new();
            for c in text.chars() {
                assert_eq!(scan.push(c, &mut out), Ok(Step::More), "{text}");
            }
            assert_eq!(out + &scan.rest(), text);
        }
    }

    #[test]
    fn gemma_becomes_json() {
        let text = "{city:\u{10FFFF}São \"P\"\u{10FFFF},n:[1,true],o:{k:\u{10FFFF}\u{10FFFF}}}";
        let json = r#"{"city":"São \"P\"","n":[1,true],"o":{"k":""}}"#;
        assert_eq!(scan(text, Dialect::Gemma).0, json);
        assert_eq!(scan("{a:\u{10FFFF}x", Dialect::Gemma).0, r#"{"a":"x"}"#);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_valid_json(text in r#"[\{\[]([\{\}\[\]",:\\u0-9aeE+.\-ntrufls \n\x{10FFFF}é]|"[a-z]*"|:|true|\\ud83d\\ude00){0,40}"#, gemma: bool) {
            let dialect = if gemma { Dialect::Gemma } else { Dialect::Json };
            let (json, _) = scan(&text, dialect);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{text} -> {json}");
        }
    }
}
