//! What a template's source must pass before minijinja parses it, on minijinja's own tokens.
//!
//! minijinja's parser and code generator recurse over chains that its nesting limit does not count (`a+a+a…`,
//! `not not…`, `elif`), so a hostile source could exhaust the stack. And three spellings change on the way:
//! string literals get a marker that keeps minijinja from computing with constants itself (by other rules and
//! limits than ours), `generation` blocks, which Hugging Face adds to Jinja, become `with` blocks, and a tuple
//! that is printed gets its parentheses. No line is added or removed.

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::TemplateError;
use super::budget::Res;

/// Most operators, brackets and postfixes in one tag.
const MAX_CHAIN: usize = 400;
/// Most `elif` branches open at once.
const MAX_ELIF: usize = 200;

/// The filter that marks a string literal; `rewrite` removes it again.
pub(super) const LITERAL: &str = "__literal";

/// Checks `source` and returns it respelled.
pub(super) fn check(source: &str, syntax: &SyntaxConfig) -> Res<String> {
    let mut guard = Guard::default();
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token.map_err(|err| TemplateError::from_engine(err, true))?;
        guard.token(&token, span)?;
    }
    // What the parser is about to refuse may end inside a literal.
    guard.end_literal();
    Ok(apply(source, &guard.edits))
}

/// `length` bytes at `at` give way to `text`.
struct Edit {
    at: usize,
    length: usize,
    text: &'static str,
}

#[derive(Default)]
struct Guard {
    edits: Vec<Edit>,
    /// Operators and brackets of the current tag so far.
    chain: usize,
    /// `elif` branches of each open `if`, and of all of them.
    elifs: Vec<usize>,
    n_elifs: usize,
    starts_block: bool,
    /// Where the current run of adjacent string literals begins and ends.
    literal: Option<(usize, usize)>,
    /// Where the printed expression begins, and its open brackets.
    printed: Option<(usize, usize)>,
    prints_tuple: bool,
}

impl Guard {
    fn token(&mut self, token: &Token<'_>, span: Span) -> Res<()> {
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        if matches!(token, Token::Str(_) | Token::String(_)) {
            self.literal = Some((self.literal.map_or(start, |(start, _)| start), end));
        } else {
            self.end_literal();
        }
        let limit = |what, limit: usize| {
            Err(TemplateError::Limit {
                what,
                limit: limit as u64,
                line: Some(u32::from(span.start_line)),
            })
        };
        match token {
            Token::VariableStart => self.printed = Some((end, 0)),
            Token::VariableEnd => self.end_printed(start),
            Token::BracketOpen | Token::BraceOpen | Token::ParenOpen => self.bracket(1),
            Token::BracketClose | Token::BraceClose | Token::ParenClose => self.bracket(-1),
            Token::Comma => self.prints_tuple |= matches!(self.printed, Some((_, 0))),
            Token::Ident(word) if self.starts_block => self.tag(word, span)?,
            Token::Ident("not" | "if" | "else" | "and" | "or" | "is" | "in") => self.chain += 1,
            Token::TemplateData(_) | Token::BlockEnd => self.chain = 0,
            Token::Ident(_) | Token::Str(_) | Token::String(_) => {}
            Token::Int(_) | Token::Int128(_) | Token::Float(_) => {}
            _ => self.chain += 1,
        }
        if self.chain > MAX_CHAIN {
            return limit("operators in one tag", MAX_CHAIN);
        }
        if self.n_elifs > MAX_ELIF {
            return limit("elif branches", MAX_ELIF);
        }
        self.starts_block = matches!(token, Token::BlockStart);
        Ok(())
    }

    fn bracket(&mut self, step: isize) {
        self.chain += 1;
        if let Some((_, open)) = &mut self.printed {
            *open = open.saturating_add_signed(step);
        }
    }

    /// The name of a block tag.
    fn tag(&mut self, word: &str, span: Span) -> Res<()> {
        let mut respell = |text| {
            let at = span.start_offset as usize;
            self.edits.push(Edit { at, length: span.end_offset as usize - at, text });
        };
        match word {
            "if" => self.elifs.push(0),
            "elif" => {
                if let Some(branches) = self.elifs.last_mut() {
                    *branches += 1;
                    self.n_elifs += 1;
                }
            }
            "endif" => self.n_elifs -= self.elifs.pop().unwrap_or(0),
            // Outside of training, which masks their tokens, these blocks only open a scope.
            "generation" => respell("with"),
            "endgeneration" => respell("endwith"),
            "do" | "extends" | "from" | "import" | "include" => {
                let message = format!("the tag '{word}' is not available to chat templates");
                return Err(TemplateError::Syntax {
                    message,
                    line: Some(u32::from(span.start_line)),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Marks a run of literals that has ended.
    fn end_literal(&mut self) {
        if let Some((start, end)) = self.literal.take() {
            self.edits.push(Edit { at: start, length: 0, text: "(" });
            self.edits.push(Edit { at: end, length: 0, text: "|__literal)" });
        }
    }

    fn end_printed(&mut self, end: usize) {
        self.chain = 0;
        if let (Some((start, 0)), true) = (self.printed.take(), self.prints_tuple) {
            self.edits.push(Edit { at: start, length: 0, text: " (" });
            self.edits.push(Edit { at: end, length: 0, text: ") " });
        }
        self.prints_tuple = false;
    }
}

fn apply(source: &str, edits: &[Edit]) -> String {
    let mut order: Vec<&Edit> = edits.iter().collect();
    // Edits at one place keep their order, but a tuple's opening comes before a literal's.
    order.sort_by_key(|edit| (edit.at, edit.text != " ("));
    let mut out = String::with_capacity(source.len() * 5 / 4);
    let mut copied = 0;
    for edit in order {
        out.push_str(&source[copied..edit.at]);
        out.push_str(edit.text);
        copied = edit.at + edit.length;
    }
    out.push_str(&source[copied..]);
    out
}
