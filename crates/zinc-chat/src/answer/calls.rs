//! Tells calls from text, for syntaxes that put marks around calls.

use crate::Tools;
use crate::syntax::{CallSyntax, Form, Found, GEMMA_QUOTE, Mark};

use super::Deltas;
use super::json::{Bad, Dialect, JsonScan, QUOTE, Step};
use super::object::{ObjectEvent, ObjectReader};
use super::params::{ParamReader, ParamStep};
use super::python;

/// The state of one answer's text.
pub(super) struct CallParser {
    syntax: CallSyntax,
    tools: Tools,
    state: State,
    /// Text that is not understood yet.
    held: String,
    /// Text of an attempt at a call that may turn out to be none.
    raw: String,
    /// Something other than blanks was passed on.
    has_text: bool,
    /// Inside a section.
    in_section: bool,
    n_calls: usize,
    /// Place of the call that has been told, until its closing mark.
    started: Option<usize>,
    /// Its arguments are not complete.
    is_open: bool,
    broke_off: bool,
}

enum State {
    /// Behind an opening mark that the prompt ends with: a call begins, or a text with a mark of its own.
    Opened,
    Text,
    /// The section has begun.
    Section,
    /// A call must begin.
    Open,
    Object(Box<ObjectReader>),
    Name,
    Mid {
        name: String,
    },
    /// Arguments must begin.
    Begin {
        name: String,
        dialect: Dialect,
    },
    /// Arguments as they are.
    Arguments {
        scan: JsonScan,
        is_gemma: bool,
    },
    Params(Box<ParamReader>),
    Python {
        name: String,
    },
    /// The arguments are complete; the closing mark follows.
    Close,
    /// Between calls.
    After,
}

/// What a step came to.
enum Next {
    /// Another step may follow at once.
    Go,
    /// More text is needed.
    Wait,
    /// This is no call.
    Fail,
}

impl CallParser {
    /// A parser of an answer that begins with text, or, if `is_opened`, behind the mark that opens a call.
    pub fn new(syntax: CallSyntax, tools: Tools, is_opened: bool) -> Self {
        Self {
            syntax,
            tools,
            state: if is_opened { State::Opened } else { State::Text },
            held: String::new(),
            raw: String::new(),
            has_text: false,
            in_section: false,
            n_calls: 0,
            started: None,
            is_open: false,
            broke_off: false,
        }
    }

    /// Takes more text; at the end, nothing stays held back.
    pub fn push(&mut self, text: &str, at_end: bool, out: &mut Deltas) {
        self.held.push_str(text);
        loop {
            match self.step(at_end, out) {
                Next::Go => {}
                Next::Wait if at_end && !self.is_at_rest() => self.fail(out),
                Next::Wait => return,
                Next::Fail => self.fail(out),
            }
        }
    }

    /// Ends an answer that was cut off. Arguments stay as far as they came; a call whose tool is known
    /// begins, if it had not; marks and names before that are no text.
    pub fn cut(&mut self, out: &mut Deltas) {
        if matches!(self.state, State::Text | State::Close | State::After) {
            // What may close the last call closes it.
            let closes = match self.state {
                State::Close => self.syntax.close.at(self.held.trim_start()),
                State::After => self.syntax.section_close.at(self.held.trim_start()),
                _ => Found::No,
            };
            if let (Found::No, Some((at, ..))) = (closes, self.first_opener())
                && is_markup(&self.held[at..])
            {
                self.held.truncate(at);
                self.held.truncate(self.held.trim_end().len());
                self.broke_off = true;
            }
            return self.push("", true, out);
        }
        let is_complete = self.started.is_some() && !self.is_open;
        let name = match &self.state {
            State::Mid { name } | State::Begin { name, .. } | State::Python { name } => {
                Some(name.clone())
            }
            State::Params(reader) => Some(reader.name().to_owned()),
            State::Object(reader) => reader.name().and_then(|name| self.tool(name)),
            _ => None,
        };
        if let (None, Some(name)) = (self.started, &name) {
            self.start(name, out);
        }
        if self.started.is_none() && self.syntax.is_bare() && self.n_calls == 0 {
            // No mark tells it from an answer that is JSON.
            return self.push("", true, out);
        }
        if let (Some(index), true) = (self.started, self.is_open) {
            let rest = match &self.state {
                State::Arguments { scan, .. } => scan.rest(),
                State::Params(reader) => reader.rest(&self.held),
                State::Object(reader) => reader.rest(),
                _ => String::new(),
            };
            out.arguments(index, &rest);
        }
        self.broke_off = !is_complete;
        self.held.clear();
        self.raw.clear();
        self.state = State::Text;
    }

    /// Whether [`CallParser::cut`] found a call that was not complete.
    pub fn broke_off(&self) -> bool {
        self.broke_off
    }

    fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Text) && self.held.is_empty()
    }

    fn step(&mut self, at_end: bool, out: &mut Deltas) -> Next {
        match &mut self.state {
            State::Opened => self.opened(at_end),
            State::Text => self.text(at_end, out),
            State::Section => self.section(),
            State::Open => self.open(),
            State::Object(_) => self.object(out),
            State::Name => self.name(),
            State::Mid { .. } => self.mid(),
            State::Begin { .. } => self.begin(out),
            State::Arguments { .. } => self.arguments(out),
            State::Params(_) => self.params(at_end, out),
            State::Python { .. } => self.python(out),
            State::Close => self.close(at_end),
            State::After => self.after(at_end),
        }
    }

    /// Moves `n` bytes of the held text into the attempt.
    fn take(&mut self, n: usize) {
        let rest = self.held.split_off(n);
        self.raw.push_str(&self.held);
        self.held = rest;
    }

    fn skip_blanks(&mut self) {
        self.take(self.held.len() - self.held.trim_start().len());
    }

    /// Gives up an attempt: what has been told is completed, everything else is text.
    fn fail(&mut self, out: &mut Deltas) {
        let mut left = std::mem::take(&mut self.raw);
        if let Some(index) = self.started.take()
            && self.is_open
        {
            let (completion, source) = match &mut self.state {
                State::Arguments { scan, .. } => (scan.completion(), scan.held_source().to_owned()),
                State::Params(reader) => reader.complete(),
                State::Object(reader) => reader.complete(),
                _ => (String::new(), String::new()),
            };
            out.arguments(index, &completion);
            self.end(out, index);
            left.push_str(&source.replace(QUOTE, GEMMA_QUOTE));
        }
        let is_behind = matches!(self.state, State::Close | State::After);
        if !(is_behind && left.trim().is_empty()) {
            self.has_text |= !left.trim().is_empty();
            out.content(&left);
        }
        self.state = State::Text;
        self.in_section = false;
    }

    fn end(&mut self, out: &mut Deltas, index: usize) {
        self.is_open = false;
        out.end(index);
    }

    fn opened(&mut self, at_end: bool) -> Next {
        let text_open = self.syntax.text_open.as_str();
        if self.held.starts_with(text_open) {
            self.held.drain(..text_open.len());
            self.state = State::Text;
            return Next::Go;
        }
        if text_open.starts_with(self.held.as_str()) && !at_end {
            return Next::Wait;
        }
        self.state = if self.held.is_empty() { State::Text } else { self.form_state() };
        Next::Go
    }

    fn text(&mut self, at_end: bool, out: &mut Deltas) -> Next {
        let bare = self.syntax.is_bare() && !self.has_text && self.n_calls == 0;
        if bare {
            let begin = self.held.trim_start();
            if begin.is_empty() && !at_end {
                return Next::Wait;
            }
            if begin.starts_with('{') {
                self.skip_blanks();
                self.state = State::Open;
                return Next::Go;
            }
        }
        let found = self.first_opener();
        if let Some((at, Some(n), is_section)) = found {
            let before = self.held[..at].trim_end().len();
            out.content(&self.held[..before]);
            self.has_text |= before > 0;
            self.held.drain(..before);
            self.take(at - before + n);
            self.in_section = is_section;
            self.state = match is_section {
                true => State::Section,
                false => self.form_state(),
            };
            return Next::Go;
        }
        let end = match found {
            Some((at, ..)) if !at_end => at,
            _ => self.held.len(),
        };
        let end = if at_end { end } else { self.held[..end].trim_end().len() };
        out.content(&self.held[..end]);
        self.has_text |= !self.held[..end].trim().is_empty();
        self.held.drain(..end);
        Next::Wait
    }

    /// The first place where a section or a call begins or may begin: offset, length of the mark if it
    /// is whole, and whether it is a section's.
    fn first_opener(&self) -> Option<(usize, Option<usize>, bool)> {
        let syntax = &self.syntax;
        let opens = [&syntax.open].into_iter().chain(&syntax.other_opens);
        let marks = opens.map(|mark| (mark, false)).chain([(&syntax.section_open, true)]);
        let found = marks.filter(|(mark, _)| !mark.is_empty()).filter_map(|(mark, is_section)| {
            let (at, n) = mark.find(&self.held)?;
            Some((at, n, is_section))
        });
        // Of marks at the same place one that is whole counts, the longest of them.
        found.min_by_key(|(at, n, _)| (*at, std::cmp::Reverse(n.unwrap_or(0))))
    }

    fn form_state(&self) -> State {
        match &self.syntax.form {
            Form::Object { name, arguments } => {
                let reader = ObjectReader::new(name, arguments, self.syntax.is_bare());
                State::Object(Box::new(reader))
            }
            Form::Keyed => State::Object(Box::new(ObjectReader::keyed())),
            Form::Named { .. } | Form::Params(_) | Form::Gemma | Form::Python => State::Name,
        }
    }

    fn section(&mut self) -> Next {
        self.skip_blanks();
        if !self.syntax.list {
            self.state = State::Open;
            return Next::Go;
        }
        if self.held.starts_with('[') {
            self.take(1);
            self.state = State::Open;
            return Next::Go;
        }
        // One call without its list.
        match self.held.is_empty() {
            true => Next::Wait,
            false => {
                self.state = State::Open;
                Next::Go
            }
        }
    }

    fn open(&mut self) -> Next {
        self.skip_blanks();
        if self.syntax.open.is_empty() {
            if self.held.is_empty() {
                return Next::Wait;
            }
            self.state = self.form_state();
            return Next::Go;
        }
        match self.syntax.open.at(&self.held) {
            Found::Yes(n) => {
                self.take(n);
                self.state = self.form_state();
                Next::Go
            }
            Found::Partial => Next::Wait,
            Found::No => Next::Fail,
        }
    }

    /// Tells that a call begins.
    fn start(&mut self, name: &str, out: &mut Deltas) {
        let index = self.n_calls;
        self.n_calls += 1;
        self.started = Some(index);
        self.is_open = true;
        self.raw.clear();
        out.start(index, name);
    }

    /// The tool that a model means by `name`.
    fn tool(&self, name: &str) -> Option<String> {
        let name = name.trim();
        let short = name.strip_prefix("functions.").unwrap_or(name);
        let found = self.tools.get(name).or_else(|| self.tools.get(short));
        found.map(|tool| tool.name.clone())
    }

    fn object(&mut self, out: &mut Deltas) -> Next {
        let State::Object(mut reader) = std::mem::replace(&mut self.state, State::Text) else {
            return Next::Fail;
        };
        let mut json = String::new();
        let mut n = 0;
        let mut next = Next::Wait;
        let held = std::mem::take(&mut self.held);
        for c in held.chars() {
            match reader.push(c, &mut json) {
                Ok(ObjectEvent::More) => {}
                Ok(ObjectEvent::Named) => match reader.name().and_then(|name| self.tool(name)) {
                    Some(name) => self.start(&name, out),
                    None => next = Next::Fail,
                },
                Err(Bad) => next = Next::Fail,
            }
            if matches!(next, Next::Fail) {
                break;
            }
            n += c.len_utf8();
            if reader.is_closed() {
                // All of it may be there, and no call.
                next = if self.started.is_some() { Next::Go } else { Next::Fail };
                break;
            }
        }
        if self.started.is_none() {
            self.raw.push_str(&held[..n]);
        }
        self.held = held[n..].to_owned();
        if let (Some(index), true) = (self.started, self.is_open) {
            out.arguments(index, &json);
            if reader.is_complete() {
                self.end(out, index);
            }
        }
        self.state = match next {
            Next::Go => State::Close,
            Next::Wait | Next::Fail => State::Object(reader),
        };
        next
    }

    fn name(&mut self) -> Next {
        self.skip_blanks();
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let Some(end) = self.held.find(|c| !is_name(c)) else {
            return if self.held.len() > 256 { Next::Fail } else { Next::Wait };
        };
        let Some(name) = self.tool(&self.held[..end]) else {
            return Next::Fail;
        };
        self.take(end);
        self.state = State::Mid { name };
        Next::Go
    }

    /// Between the name and its arguments.
    fn mid(&mut self) -> Next {
        let State::Mid { name } = &self.state else { return Next::Fail };
        let name = name.clone();
        self.skip_blanks();
        match self.syntax.form.clone() {
            Form::Named { mid } => {
                if let Some(next) = self.take_mark(&mid) {
                    return next;
                }
                self.state = State::Begin { name, dialect: Dialect::Json };
                Next::Go
            }
            Form::Gemma => {
                self.state = State::Begin { name, dialect: Dialect::Gemma };
                Next::Go
            }
            Form::Params(params) => {
                if let Some(next) = self.take_mark(&params.mid) {
                    return next;
                }
                let schema = self.tools.get(&name).map(|tool| tool.parameters.clone());
                let close = self.syntax.close.clone();
                let reader = ParamReader::new(name, params, close, schema.unwrap_or_default());
                self.state = State::Params(Box::new(reader));
                Next::Go
            }
            Form::Python => {
                self.state = State::Python { name };
                Next::Go
            }
            Form::Object { .. } | Form::Keyed => Next::Fail,
        }
    }

    /// Takes a mark that must stand here; `None` if it did.
    fn take_mark(&mut self, mark: &Mark) -> Option<Next> {
        if mark.is_empty() {
            return None;
        }
        match mark.at(&self.held) {
            Found::Yes(n) => {
                self.take(n);
                None
            }
            Found::Partial => Some(Next::Wait),
            Found::No => Some(Next::Fail),
        }
    }

    fn begin(&mut self, out: &mut Deltas) -> Next {
        let State::Begin { name, dialect } = &self.state else { return Next::Fail };
        let (name, dialect) = (name.clone(), *dialect);
        self.skip_blanks();
        match self.held.chars().next() {
            None => Next::Wait,
            Some('{') => {
                self.start(&name, out);
                let is_gemma = dialect == Dialect::Gemma;
                self.state = State::Arguments { scan: JsonScan::new(dialect), is_gemma };
                Next::Go
            }
            Some(_) => Next::Fail,
        }
    }

    fn arguments(&mut self, out: &mut Deltas) -> Next {
        let (State::Arguments { scan, is_gemma }, Some(index)) = (&mut self.state, self.started)
        else {
            return Next::Fail;
        };
        let mut json = String::new();
        let mut n = 0;
        let mut next = Next::Wait;
        while let Some(c) = self.held[n..].chars().next() {
            let (c, len) = match *is_gemma {
                true => match gemma_char(&self.held[n..]) {
                    Some(found) => found,
                    None => break,
                },
                false => (c, c.len_utf8()),
            };
            match scan.push(c, &mut json) {
                Ok(Step::More) => n += len,
                Ok(Step::Done | Step::DoneBefore) => {
                    n += len;
                    next = Next::Go;
                    break;
                }
                Err(Bad) => {
                    next = Next::Fail;
                    break;
                }
            }
        }
        self.held.drain(..n);
        out.arguments(index, &json);
        if matches!(next, Next::Go) {
            self.end(out, index);
            self.state = State::Close;
        }
        next
    }

    fn params(&mut self, at_end: bool, out: &mut Deltas) -> Next {
        let State::Params(mut reader) = std::mem::replace(&mut self.state, State::Text) else {
            return Next::Fail;
        };
        let mut json = String::new();
        let step = reader.step(&mut self.held, at_end, &mut json);
        if reader.has_begun() && self.started.is_none() {
            self.start(reader.name(), out);
        }
        if let Some(index) = self.started {
            out.arguments(index, &json);
        }
        let next = match step {
            Ok(ParamStep::More) => Next::Go,
            Ok(ParamStep::Wait) => Next::Wait,
            Ok(ParamStep::Done) => {
                if let Some(index) = self.started {
                    self.end(out, index);
                }
                self.state = State::Close;
                return Next::Go;
            }
            Err(Bad) => {
                if self.started.is_none() {
                    self.raw.push_str(reader.raw());
                }
                Next::Fail
            }
        };
        self.state = State::Params(reader);
        next
    }

    fn python(&mut self, out: &mut Deltas) -> Next {
        let State::Python { name } = &self.state else { return Next::Fail };
        let name = name.clone();
        match python::arguments(&self.held) {
            Ok(Some((arguments, n))) => {
                self.take(n);
                self.start(&name, out);
                if let Some(index) = self.started {
                    out.arguments(index, &arguments.to_string());
                    self.end(out, index);
                }
                self.state = State::Close;
                Next::Go
            }
            Ok(None) => Next::Wait,
            Err(Bad) => Next::Fail,
        }
    }

    /// The mark behind a call; models leave it out at times.
    fn close(&mut self, at_end: bool) -> Next {
        self.skip_blanks();
        match self.syntax.close.at(&self.held) {
            _ if self.syntax.close.is_empty() => {}
            Found::Yes(n) => {
                self.take(n);
                self.raw.clear();
            }
            Found::Partial if !at_end => return Next::Wait,
            // The rest of it may be a token that ends the answer.
            Found::Partial => {
                self.held.clear();
                self.raw.clear();
            }
            Found::No => {}
        }
        self.started = None;
        self.state = State::After;
        Next::Go
    }

    fn after(&mut self, at_end: bool) -> Next {
        self.skip_blanks();
        let (list, in_section) = (self.syntax.list, self.in_section);
        if self.held.is_empty() {
            return if at_end { Next::Fail } else { Next::Wait };
        }
        if list && in_section && self.held.starts_with([',', ']']) {
            let is_next = self.held.starts_with(',');
            self.take(1);
            match is_next {
                true => self.state = State::Open,
                false => self.raw.clear(),
            }
            return Next::Go;
        }
        if in_section && !self.syntax.section_close.is_empty() {
            match self.syntax.section_close.at(&self.held) {
                Found::Yes(n) => {
                    self.take(n);
                    self.raw.clear();
                    self.in_section = false;
                    return Next::Go;
                }
                Found::Partial if !at_end => return Next::Wait,
                Found::Partial => {
                    self.held.clear();
                    self.raw.clear();
                    return Next::Fail;
                }
                Found::No => {}
            }
        }
        if self.syntax.is_bare() {
            if self.held.starts_with([';', ',']) {
                self.take(1);
                return Next::Go;
            }
            if self.held.starts_with('{') {
                self.state = State::Open;
                return Next::Go;
            }
        } else if in_section && !list {
            match self.syntax.open.at(&self.held) {
                Found::Yes(0) if !self.held.starts_with('{') => {}
                Found::Yes(_) => {
                    self.state = State::Open;
                    return Next::Go;
                }
                Found::Partial if !at_end => return Next::Wait,
                Found::Partial | Found::No => {}
            }
        }
        Next::Fail
    }
}

/// Whether the begin of a mark is enough of one: a bracket, or a word, may be text that goes on otherwise.
fn is_markup(begin: &str) -> bool {
    begin.len() >= 4 && !begin.starts_with(char::is_alphanumeric)
}

/// The next character of Gemma's syntax, its quotation mark as one; `None` if that may be incomplete.
fn gemma_char(text: &str) -> Option<(char, usize)> {
    if text.starts_with(GEMMA_QUOTE) {
        return Some((QUOTE, GEMMA_QUOTE.len()));
    }
    if GEMMA_QUOTE.starts_with(text) {
        return None;
    }
    text.chars().next().map(|c| (c, c.len_utf8()))
}
