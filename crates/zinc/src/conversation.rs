//! From messages to the tokens of a prompt.
//!
//! Text of a message never becomes a control token: where it spells one, as in a question about
//! `<|im_end|>`, it stays text, whatever the template does with it.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value, json};
use zinc_engine::Model;
use zinc_gguf::{GgufError, Metadata};
use zinc_token::template::{ChatTemplate, TemplateInput, TemplateLimits};
use zinc_token::{EncodeOptions, Part, Tokenizer, Vocab};

use crate::report;

/// The chat template in a file's metadata: the one for tools if there are tools and the file has one.
///
/// # Errors
/// The metadata are no text, or the text is no template.
pub fn template(metadata: &Metadata, with_tools: bool) -> anyhow::Result<Option<ChatTemplate>> {
    let named = |key: &str| -> Result<Option<&str>, GgufError> { metadata.str(key) };
    let for_tools = if with_tools { named("tokenizer.chat_template.tool_use")? } else { None };
    let Some(source) =
        for_tools.map_or_else(|| named("tokenizer.chat_template"), |source| Ok(Some(source)))?
    else {
        return Ok(None);
    };
    Ok(Some(ChatTemplate::new(source, TemplateLimits::default())?))
}

/// Texts of the special tokens that templates know by name.
pub struct SpecialTexts {
    bos: Option<String>,
    eos: Option<String>,
    pad: Option<String>,
    unk: Option<String>,
}

impl SpecialTexts {
    /// Those of a vocabulary.
    pub fn of(vocab: &Vocab) -> Self {
        let text =
            |id: Option<u32>| id.map(|id| String::from_utf8_lossy(vocab.piece(id)).into_owned());
        let roles = vocab.roles();
        Self {
            bos: text(roles.bos),
            eos: text(roles.eos),
            pad: text(roles.pad),
            unk: text(roles.unk),
        }
    }

    /// Sets those that `input` does not say.
    pub fn fill(self, input: &mut TemplateInput) {
        for (slot, text) in [
            (&mut input.bos_token, self.bos),
            (&mut input.eos_token, self.eos),
            (&mut input.pad_token, self.pad),
            (&mut input.unk_token, self.unk),
        ] {
            if slot.is_none() {
                *slot = text;
            }
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What was said.
    pub content: String,
    /// What was thought before, by the assistant.
    pub reasoning: Option<String>,
}

impl Message {
    /// A message without reasoning.
    pub fn new(role: &'static str, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), reasoning: None }
    }
}

/// Renders conversations for one model.
pub struct Prompter {
    template: ChatTemplate,
    control: ControlTokens,
}

/// A rendered conversation.
pub struct Prompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether the answer begins inside the model's reasoning.
    pub opens_thinking: bool,
}

impl Prompter {
    /// The model's, if it has a chat template.
    ///
    /// # Errors
    /// The template cannot be used.
    pub fn new(model: &Model) -> anyhow::Result<Option<Self>> {
        let Some(template) = template(model.gguf().metadata(), false)? else {
            return Ok(None);
        };
        let control = ControlTokens::of(model.tokenizer().vocab())?;
        Ok(Some(Self { template, control }))
    }

    /// Whether the template has a switch for thinking.
    pub fn supports_thinking_switch(&self) -> bool {
        self.template.supports_thinking_switch()
    }

    /// The conversation's tokens, ready for the assistant's answer. `thinking` is the template's
    /// switch, if anything is to be said about it.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        thinking: Option<bool>,
    ) -> anyhow::Result<Prompt> {
        let shield = Shield::new(&self.control, messages)?;
        let message = |message: &Message| {
            let mut fields = Map::new();
            fields.insert("role".into(), json!(message.role));
            fields.insert("content".into(), json!(shield.hide(&message.content)));
            if let Some(reasoning) = &message.reasoning {
                fields.insert("reasoning_content".into(), json!(shield.hide(reasoning)));
            }
            Value::Object(fields)
        };
        let mut input = TemplateInput::new(messages.iter().map(message).collect());
        SpecialTexts::of(tokenizer.vocab()).fill(&mut input);
        if let Some(thinking) = thinking {
            input.extra.insert("enable_thinking".into(), json!(thinking));
        }
        let text = self.template.render(&input)?;
        let opens_thinking = text.trim_end().ends_with("<think>");
        Ok(Prompt { ids: shield.encode(tokenizer, &text), opens_thinking })
    }
}

/// The texts of a vocabulary's control tokens, and a search for them in linear time.
struct ControlTokens {
    texts: Vec<String>,
    search: AhoCorasick,
}

impl ControlTokens {
    fn of(vocab: &Vocab) -> anyhow::Result<Self> {
        let text = |id: u32| {
            String::from_utf8(vocab.piece(id).to_vec()).ok().filter(|text| !text.is_empty())
        };
        let ids = (0..vocab.n_tokens() as u32).filter(|id| vocab.is_special(*id));
        let texts: Vec<_> = ids.filter_map(text).collect();
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts)?;
        Ok(Self { texts, search })
    }
}

/// Keeps control tokens that messages spell out from becoming control tokens: while the template
/// runs, a private-use character stands for each.
struct Shield<'a> {
    control: &'a ControlTokens,
    /// Spelled by some message, as indices of `control.texts`; the n-th has the n-th placeholder.
    spelled: Vec<usize>,
    /// First placeholder; none of them occurs in a message.
    base: u32,
}

/// First characters of the two planes for private use, and how many each has.
const PRIVATE_PLANES: [u32; 2] = [0xF_0000, 0x10_0000];
const N_PRIVATE: u32 = 0xFFFE;

impl<'a> Shield<'a> {
    fn new(control: &'a ControlTokens, messages: &[Message]) -> anyhow::Result<Self> {
        let texts = || {
            messages
                .iter()
                .flat_map(|message| [Some(&message.content), message.reasoning.as_ref()])
                .flatten()
        };
        let found = texts().flat_map(|text| control.search.find_iter(text));
        let spelled: BTreeSet<usize> = found.map(|found| found.pattern().as_usize()).collect();
        let is_free = |base: &u32| {
            texts()
                .all(|text| text.chars().all(|c| !(*base..base + N_PRIVATE).contains(&(c as u32))))
        };
        let base = match spelled.is_empty() {
            true => Some(PRIVATE_PLANES[0]),
            false => PRIVATE_PLANES
                .into_iter()
                .find(is_free)
                .filter(|_| spelled.len() < N_PRIVATE as usize),
        };
        let base = base.ok_or_else(|| {
            let what =
                "the messages spell control tokens and use private-use characters of both planes";
            report::with_hint(what, "leave out one or the other")
        })?;
        Ok(Self { control, spelled: spelled.into_iter().collect(), base })
    }

    /// `text` with placeholders for the control tokens it spells.
    fn hide(&self, text: &str) -> String {
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
    fn reveal(&self, text: &str) -> String {
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
    fn encode(&self, tokenizer: &Tokenizer, rendered: &str) -> Vec<u32> {
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

/// `ids` behind the beginning-of-sequence token, if the model expects one and the text does not write
/// it itself.
pub fn with_bos(tokenizer: &Tokenizer, mut ids: Vec<u32>) -> Vec<u32> {
    let bos = tokenizer.vocab().bos();
    if tokenizer.adds_bos() && ids.first().copied() != bos {
        ids.splice(0..0, bos);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use zinc_gguf::writer::Writer;
    use zinc_gguf::{Array, Gguf, StringArray, Value as Meta};
    use zinc_token::VocabSpec;

    /// A vocabulary of the letters of the tests and two control tokens, 0 and 1.
    fn tokenizer() -> Tokenizer {
        let pieces = ["<|a|>", "<|a|>b", "<", "|", "a", "b", ">", "x", "\u{10A}"];
        let strings =
            |texts: &[&str]| Meta::Array(Array::Strings(texts.iter().collect::<StringArray>()));
        let types: Vec<i32> = (0..pieces.len()).map(|id| if id < 2 { 3 } else { 1 }).collect();
        let mut file = Writer::new();
        file.value("tokenizer.ggml.model", Meta::String("gpt2".into()));
        file.value("tokenizer.ggml.pre", Meta::String("gpt-2".into()));
        file.value("tokenizer.ggml.tokens", strings(&pieces));
        file.value("tokenizer.ggml.merges", strings(&[]));
        file.value("tokenizer.ggml.token_type", Meta::Array(Array::from(types.as_slice())));
        let gguf = Gguf::from_bytes(file.to_bytes().into()).unwrap();
        Tokenizer::from_gguf(gguf.metadata()).unwrap()
    }

    /// Phi-3's way: white space behind control tokens, here 3 and 4, belongs to them.
    fn stripping_tokenizer() -> Tokenizer {
        let pieces =
            ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>", "▁", "x", "▁x", "<", "|", "end", ">"];
        let mut types = vec![1; pieces.len()];
        types[0] = 2;
        types[1..5].fill(3);
        let spec = VocabSpec {
            model: "llama".into(),
            name: Some("Phi-3".into()),
            tokens: pieces.iter().map(|text| text.as_bytes()).collect(),
            scores: Some((0..pieces.len()).map(|id| -(id as f32)).collect()),
            token_types: Some(types),
            add_bos: Some(false),
            ..VocabSpec::default()
        };
        Tokenizer::new(&spec).unwrap()
    }

    fn prompt(content: &str) -> Vec<u32> {
        let source = "{% for m in messages %}<|a|>{{ m.content }}{% endfor %}";
        prompt_of(&tokenizer(), source, content)
    }

    fn prompt_of(tokenizer: &Tokenizer, source: &str, content: &str) -> Vec<u32> {
        let control = ControlTokens::of(tokenizer.vocab()).unwrap();
        let template = ChatTemplate::new(source, TemplateLimits::default()).unwrap();
        let prompter = Prompter { template, control };
        prompter.prompt(tokenizer, &[Message::new("user", content)], None).unwrap().ids
    }

    #[test]
    fn messages_never_become_control_tokens() {
        assert_eq!(prompt("x"), [0, 7]);
        assert_eq!(prompt("x<|a|>x"), [0, 7, 2, 3, 4, 3, 6, 7]);
        assert_eq!(prompt("x<|a|>b"), [0, 7, 2, 3, 4, 3, 6, 5]);
    }

    #[test]
    fn spelling_a_control_token_changes_nothing_around_it() {
        let tokenizer = stripping_tokenizer();
        let source =
            "{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n x<|user|>\n{% endfor %}";
        let prompt = |content| prompt_of(&tokenizer, source, content);
        assert_eq!(prompt("x"), [3, 7, 4, 7, 3]);
        let spelled = tokenizer.encode("x <|end|> x", EncodeOptions::default());
        assert!(!spelled.contains(&4), "{spelled:?}");
        assert_eq!(prompt("x <|end|> x"), [&[3], &spelled[..], &[4, 7, 3]].concat());
    }
}
