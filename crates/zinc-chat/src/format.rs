//! What a model file says about conversations.

use serde_json::Value;
use zinc_engine::Model;
use zinc_gguf::Metadata;
use zinc_token::template::{ChatTemplate, TemplateInput, TemplateLimits};
use zinc_token::{Tokenizer, Vocab};

use crate::input::MessageStyle;
use crate::probe::Probe;
use crate::shield::ControlTokens;
use crate::syntax::Syntax;
use crate::{ChatError, ChatInput, Tools};

/// How a model writes its reasoning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// Begins it, without blanks around.
    pub open: String,
    /// Ends it, without blanks around.
    pub close: String,
    /// What the template writes to end it, blanks included.
    pub close_text: String,
}

/// Text of the special tokens that templates know by name.
#[derive(Clone, Debug, Default)]
pub struct SpecialTexts {
    bos: Option<String>,
    pub(crate) eos: Option<String>,
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

/// The chat format of a model: how conversations are written for it, and how it answers.
pub struct ChatFormat {
    template: ChatTemplate,
    tool_template: Option<ChatTemplate>,
    style: MessageStyle,
    thinking: Option<Thinking>,
    switches: Vec<&'static str>,
    syntax: Option<Syntax>,
    harmony: bool,
    shown_special: Vec<u32>,
    control: ControlTokens,
}

impl ChatFormat {
    /// The model's, if it has a chat template.
    ///
    /// # Errors
    /// A template that cannot be used.
    pub fn new(model: &Model) -> Result<Option<Self>, ChatError> {
        let Some(source) = template_source(model.gguf().metadata(), false)? else {
            return Ok(None);
        };
        let for_tools = model.gguf().metadata().str("tokenizer.chat_template.tool_use")?;
        Self::from_templates(model.tokenizer(), source, for_tools).map(Some)
    }

    /// The format of a template, and of another one for conversations with tools.
    ///
    /// # Errors
    /// A template that cannot be used.
    pub fn from_templates(
        tokenizer: &Tokenizer,
        source: &str,
        for_tools: Option<&str>,
    ) -> Result<Self, ChatError> {
        let limits = TemplateLimits::default();
        let template = ChatTemplate::new(source, limits)?;
        let tool_source = for_tools.unwrap_or(source);
        let tool_template =
            for_tools.map(|source| ChatTemplate::new(source, limits)).transpose()?;
        let probe = Probe::new(tool_template.as_ref().unwrap_or(&template), tool_source, tokenizer);
        let learned = probe.learn();
        let mut format = Self {
            template,
            tool_template,
            style: learned.style,
            thinking: learned.thinking,
            switches: learned.switches,
            harmony: learned.harmony,
            syntax: learned.syntax,
            shown_special: Vec::new(),
            control: ControlTokens::of(tokenizer.vocab())?,
        };
        format.shown_special = format.find_shown(tokenizer);
        Ok(format)
    }

    /// Control tokens that belong to the answer's text, because the parser reads them: tags of
    /// reasoning and of tool calls. For `Request::shown_special`; sorted.
    pub fn shown_special(&self) -> &[u32] {
        &self.shown_special
    }

    /// How the model writes its reasoning, if it does.
    pub fn thinking(&self) -> Option<&Thinking> {
        self.thinking.as_ref()
    }

    /// Whether the template shows tools to the model.
    pub fn supports_tools(&self) -> bool {
        self.syntax.is_some()
    }

    /// What the syntax of its tool calls is called; `None` without tools.
    pub fn tool_syntax(&self) -> Option<&'static str> {
        self.syntax.as_ref().map(Syntax::name)
    }

    /// Whether the template has a switch for thinking.
    pub fn supports_thinking_switch(&self) -> bool {
        !self.switches.is_empty()
    }

    pub(crate) fn syntax(&self) -> Option<&Syntax> {
        self.syntax.as_ref()
    }

    /// The marks around reasoning, channels included.
    pub(crate) fn thinking_marks(&self) -> Option<Thinking> {
        match self.harmony {
            true => Some(Thinking {
                open: "<|channel|>analysis<|message|>".into(),
                close: "<|end|>".into(),
                close_text: "<|end|>".into(),
            }),
            false => self.thinking.clone(),
        }
    }

    pub(crate) fn is_harmony(&self) -> bool {
        self.harmony
    }

    pub(crate) fn control(&self) -> &ControlTokens {
        &self.control
    }

    pub(crate) fn message_style(&self) -> MessageStyle {
        self.style
    }

    /// Variables of the template that switch thinking on and off.
    pub(crate) fn thinking_switches(&self) -> &[&'static str] {
        &self.switches
    }

    pub(crate) fn template_for(&self, tools: &Tools) -> Result<&ChatTemplate, ChatError> {
        if tools.is_empty() {
            return Ok(&self.template);
        }
        if self.syntax.is_none() {
            return Err(ChatError::NoTools);
        }
        Ok(self.tool_template.as_ref().unwrap_or(&self.template))
    }

    /// Whether a rendered prompt leaves the model inside its reasoning, or behind it.
    pub(crate) fn thinking_at_end(&self, text: &str, input: &ChatInput) -> (bool, bool) {
        let Some(Thinking { open, close, .. }) = &self.thinking else {
            return (false, !self.harmony);
        };
        let end = text.trim_end();
        if end.ends_with(open) || end.ends_with(close) {
            return (end.ends_with(open), end.ends_with(close));
        }
        if !input.continue_final_message {
            return (false, false);
        }
        // What has been said so far may have begun or ended the reasoning.
        let last = input.messages.last().map_or(&Value::Null, |message| &message["content"]);
        let said = last.as_str().unwrap_or_default();
        let opened = said.rfind(open.as_str());
        let closed = said.rfind(close.as_str());
        (opened.is_some() && opened > closed, opened.is_none() || opened < closed)
    }

    /// The control tokens among the texts that the parser looks for.
    fn find_shown(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut texts: Vec<String> = Vec::new();
        if let Some(thinking) = &self.thinking {
            texts.extend([thinking.open.clone(), thinking.close.clone()]);
        }
        if let Some(syntax) = &self.syntax {
            texts.extend(syntax.texts());
        }
        let mut ids = Vec::new();
        for text in &texts {
            tokenizer.partition(text, true, |part| {
                if let zinc_token::Part::Token(id) = part
                    && tokenizer.vocab().is_special(id)
                    && !tokenizer.vocab().is_end_of_generation(id)
                {
                    ids.push(id);
                }
            });
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Source of the chat template in a file's metadata: the one for tools if there are tools and the file
/// has one.
///
/// # Errors
/// The metadata are no text.
pub fn template_source(metadata: &Metadata, with_tools: bool) -> Result<Option<&str>, ChatError> {
    let for_tools =
        if with_tools { metadata.str("tokenizer.chat_template.tool_use")? } else { None };
    match for_tools {
        Some(source) => Ok(Some(source)),
        None => Ok(metadata.str("tokenizer.chat_template")?),
    }
}
