//! Text of a grammar in llguidance's Lark, rule by rule.

use std::fmt::Write;

use serde_json::Value;
use zinc_token::{Part, Tokenizer};

use super::schema;
use crate::syntax::{Mark, MarkPiece};

/// A grammar under construction. Expressions are texts; each rule is one expression with a name.
pub(super) struct Grammar<'a> {
    tokenizer: &'a Tokenizer,
    rules: String,
    n_rules: usize,
}

/// What an expression of a text begins or ends with.
pub(super) enum Piece {
    Text(String),
    /// A control token.
    Token(u32),
}

impl<'a> Grammar<'a> {
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, rules: String::new(), n_rules: 0 }
    }

    /// The whole grammar, which begins with this expression.
    pub fn finish(&self, start: &str) -> String {
        format!("start: {start}\n{}", self.rules)
    }

    /// A rule; returns its name.
    pub fn rule(&mut self, expression: &str) -> String {
        let name = self.name();
        self.define(&name, "", expression);
        name
    }

    /// A name for a rule that is defined later.
    pub fn name(&mut self) -> String {
        self.n_rules += 1;
        format!("z{}", self.n_rules)
    }

    pub fn define(&mut self, name: &str, attributes: &str, expression: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.rules, "{name}{attributes}: {expression}");
    }

    /// JSON that satisfies a schema.
    pub fn json(&mut self, schema: &Value) -> String {
        self.rule(&format!("%json {}", schema::prepared(schema)))
    }

    /// Cuts a text into control tokens, as the vocabulary has them, and text.
    pub fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let vocab = self.tokenizer.vocab();
        self.tokenizer.partition(text, true, |part| match part {
            Part::Token(id) if vocab.is_special(id) => pieces.push(Piece::Token(id)),
            Part::Token(id) => {
                push_text(&mut pieces, &String::from_utf8_lossy(vocab.piece(id)));
            }
            Part::Text(text) => push_text(&mut pieces, text),
        });
        pieces
    }

    /// The text of a control token.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.tokenizer.vocab().piece(id)).into_owned()
    }

    /// A fixed text, in which control tokens are those tokens.
    pub fn literal(&self, text: &str) -> String {
        let pieces = self.pieces(text);
        if pieces.is_empty() {
            return "\"\"".to_owned();
        }
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => quoted(text),
            Piece::Token(id) => format!("<[{id}]>"),
        };
        pieces.iter().map(piece).collect::<Vec<_>>().join(" ")
    }

    /// A mark as the template writes it.
    pub fn mark(&self, mark: &Mark) -> String {
        let mut parts = Vec::new();
        let mut text = String::new();
        for piece in mark.pieces() {
            let slot = match piece {
                MarkPiece::Text(fixed) | MarkPiece::Blank(fixed) => {
                    text.push_str(fixed);
                    continue;
                }
                MarkPiece::Index => "/[0-9]{1,3}/",
                MarkPiece::Id => "/[a-zA-Z0-9]{9}/",
            };
            parts.push(self.literal(&std::mem::take(&mut text)));
            parts.push(slot.to_owned());
        }
        parts.push(self.literal(&text));
        parts.join(" ")
    }

    /// Any text up to and with `end`, a text that is not empty.
    pub fn text_until(&mut self, end: &str) -> String {
        let pieces = self.pieces(end);
        let Some(Piece::Text(first)) = pieces.first() else {
            // Text never becomes a control token, so it ends before one; but it might spell one.
            let spelled = match pieces.first() {
                Some(Piece::Token(id)) => escaped(&self.token_text(*id)),
                _ => return "\"\"".to_owned(),
            };
            self.n_rules += 1;
            let name = format!("Z{}", self.n_rules);
            self.define(&name, "", &format!("/(?s:.*)/ & ~/(?s:.*){spelled}(?s:.*)/"));
            return format!("{name} {}", self.literal(end));
        };
        let rest = &end[first.len()..];
        let name = self.name();
        self.define(&name, &format!("[suffix={}]", quoted(first)), "/(?s:.*)/");
        if rest.is_empty() { name } else { format!("{name} {}", self.literal(rest)) }
    }

    /// Blanks before an answer or a call.
    pub fn blanks() -> &'static str {
        "/[ \\n]{0,4}/"
    }
}

/// A text as a regular expression.
fn escaped(text: &str) -> String {
    text.chars().map(|c| format!("\\x{{{:X}}}", c as u32)).collect()
}

fn push_text(pieces: &mut Vec<Piece>, more: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push_str(more),
        _ => pieces.push(Piece::Text(more.to_owned())),
    }
}

/// A text in quotation marks.
pub(super) fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// One of several expressions.
pub(super) fn any_of(options: &[String]) -> String {
    match options {
        [one] => one.clone(),
        several => format!("({})", several.join(" | ")),
    }
}
