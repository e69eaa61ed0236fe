//! Keeps text of messages from becoming control tokens: where it spells one, as in a question about
//! `<|im_end|>`, it stays text, whatever the template does with it.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};
use zinc_token::{EncodeOptions, Part, Tokenizer, Vocab};

use crate::ChatError;
use crate::prompt::with_bos;

/// The texts of a vocabulary's control tokens, and a search for them in linear time.
pub(crate) struct ControlTokens {
    texts: Vec<String>,
    search: AhoCorasick,
}

impl ControlTokens {
    pub(crate) fn of(vocab: &Vocab) -> Result<Self, ChatError> {
        let text = |id: u32| {
            String::from_utf8(vocab.piece(id).to_vec()).ok().filter(|text| !text.is_empty())
        };
        let ids = (0..vocab.n_tokens() as u32).filter(|id| vocab.is_special(*id));
        let texts: Vec<_> = ids.filter_map(text).collect();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .map_err(|error| ChatError::ControlTokens(error.to_string()))?;
        Ok(Self { texts, search })
    }
}

/// While a template runs, a private-use character stands for each control token that a message spells.
pub(crate) struct Shield<'a> {
    control: &'a ControlTokens,
    /// Spelled by some text, as indices of `control.texts`; the n-th has the n-th placeholder.
    spelled: Vec<usize>,
    /// First placeholder; none of them occurs in a text.
    base: u32,
}

/// First characters of the two planes for private use, and how many each has. The last one of a plane
/// is left for [`Shield::mark`].
const PRIVATE_PLANES: [u32; 2] = [0xF_0000, 0x10_0000];
const N_PRIVATE: u32 = 0xFFFD;

impl<'a> Shield<'a> {
    /// A shield for all texts of `values`, keys of objects included.
    pub(crate) fn new(control: &'a ControlTokens, values: &[&Value]) -> Result<Self, ChatError> {
        let mut spelled = BTreeSet::new();
        let mut is_used = [false; 2];
        for value in values {
            each_text(value, &mut |text| {
                let found = control.search.find_iter(text);
                spelled.extend(found.map(|found| found.pattern().as_usize()));
                for (used, base) in is_used.iter_mut().zip(PRIVATE_PLANES) {
                    let plane = base..=base + N_PRIVATE;
                    *used = *used || text.chars().any(|c| plane.contains(&(c as u32)));
                }
            });
        }
        let free = is_used.iter().zip(PRIVATE_PLANES).find(|(used, _)| !**used);
        let base = free.map(|(_, base)| base).filter(|_| spelled.len() < N_PRIVATE as usize);
        let base = base.ok_or(ChatError::NoPlaceholders)?;
        Ok(Self { control, spelled: spelled.into_iter().collect(), base })
    }

    /// A character that no text has, nor any placeholder.
    pub(crate) fn mark(&self) -> char {
        char::from_u32(self.base + N_PRIVATE).unwrap_or('\u{FFFD}')
    }

    /// `value` with placeholders for the control tokens that its texts spell.
    pub(crate) fn hide(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.hide_text(text)),
            Value::Array(items) => items.iter().map(|item| self.hide(item)).collect(),
            Value::Object(fields) => {
                let field = |(key, value): (&String, _)| (self.hide_text(key), self.hide(value));
                Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    fn hide_text(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        self.control.search.replace_all_with(text, &mut hidden, |found, original, out| {
            let nth = self.spelled.binary_search(&found.pattern().as_usize()).ok();
            match nth.and_then(|nth| char::from_u32(self.base + nth as u32)) {
                Some(placeholder) => out.push(placeholder),
                None => out.push_str(original),
            }
            true
        });
        hidden
    }

    /// The text that placeholders stand for.
    pub(crate) fn reveal(&self, text: &str) -> String {
        let original = |c: char| {
            let nth = (c as u32).checked_sub(self.base)?;
            Some(self.control.texts[*self.spelled.get(nth as usize)?].as_str())
        };
        let mut revealed = String::with_capacity(text.len());
        for c in text.chars() {
            match original(c) {
                Some(text) => revealed.push_str(text),
                None => revealed.push(c),
            }
        }
        revealed
    }

    /// Tokens of the rendered text: the template's control tokens as such, all else as text.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, rendered: &str) -> Vec<u32> {
        let ids = match self.spelled.is_empty() {
            true => tokenizer
                .encode(rendered, EncodeOptions { add_special: false, parse_special: true }),
            false => self.encode_parts(tokenizer, rendered),
        };
        with_bos(tokenizer, ids)
    }

    fn encode_parts(&self, tokenizer: &Tokenizer, rendered: &str) -> Vec<u32> {
        let options = EncodeOptions { add_special: false, parse_special: false };
        let mut ids = Vec::new();
        tokenizer.partition(rendered, true, |part| match part {
            Part::Token(id) => ids.push(id),
            Part::Text(text) => ids.extend(tokenizer.encode(&self.reveal(text), options)),
        });
        ids
    }
}

/// Calls `look` with every text in `value`.
fn each_text(value: &Value, look: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, look)),
        Value::Object(fields) => {
            for (key, value) in fields {
                look(key);
                each_text(value, look);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
