//! From a conversation to the tokens of a prompt.

use serde_json::{Value, json};
use zinc_token::Tokenizer;
use zinc_token::template::TemplateInput;

use crate::format::{ChatFormat, SpecialTexts};
use crate::input::normalize;
use crate::shield::Shield;
use crate::syntax::Syntax;
use crate::{ChatError, ChatInput};

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// Its text, for people; tokens cannot be got from it where messages spell control tokens.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether the answer begins inside the model's reasoning.
    pub opens_thinking: bool,
    /// Whether no reasoning is to be expected: the prompt itself ended it, or it was switched off and the
    /// prompt does not begin it.
    pub closes_thinking: bool,
    /// Whether the prompt ends with the mark that opens a call, as it does for every answer in formats where
    /// texts have a recipient too.
    pub opens_call: bool,
}

impl ChatPrompt {
    /// A prompt of tokens that no template made: the answer is plain text.
    pub fn plain(ids: Vec<u32>) -> Self {
        Self {
            text: String::new(),
            ids,
            opens_thinking: false,
            closes_thinking: true,
            opens_call: false,
        }
    }
}

impl ChatFormat {
    /// Renders a conversation.
    ///
    /// # Errors
    /// A message of a form that is not supported, with its place; tools that the template cannot show;
    /// a conversation that the template refuses.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        input: &ChatInput,
    ) -> Result<ChatPrompt, ChatError> {
        let template = self.template_for(&input.tools)?;
        let messages = Value::Array(normalize(&input.messages, self.message_style())?);
        let tools = input.tools.wire();
        let kwargs = Value::Object(input.template_kwargs.clone());
        let mut texts = vec![&messages, &kwargs];
        texts.extend(&tools);
        let shield = Shield::new(self.control(), &texts)?;
        let mut messages = shield.hide(&messages);
        if input.continue_final_message {
            mark_end(&mut messages, shield.mark())?;
        }
        let mut render = TemplateInput::new(messages);
        render.tools = tools.map(|tools| shield.hide(&tools));
        render.add_generation_prompt = input.add_generation_prompt && !input.continue_final_message;
        render.now = input.now;
        SpecialTexts::of(tokenizer.vocab()).fill(&mut render);
        if let Some(thinking) = input.thinking {
            for name in self.thinking_switches() {
                render.extra.insert((*name).into(), json!(thinking));
            }
        }
        if let Some(effort) = &input.reasoning_effort {
            render.extra.insert("reasoning_effort".into(), json!(effort));
        }
        if let Value::Object(kwargs) = shield.hide(&kwargs) {
            render.extra.extend(kwargs);
        }
        let mut text = template.render(&render)?;
        if input.continue_final_message {
            let Some(end) = text.rfind(shield.mark()) else {
                let what = "the chat template does not show this message, so it cannot go on";
                return Err(ChatError::message(last_message(input), what));
            };
            text.truncate(end);
        }
        let (opens_thinking, closes_thinking) = self.thinking_at_end(&text, input);
        // What the template read, its own variables first.
        let own = |name: &&str| input.template_kwargs.get(*name)?.as_bool();
        let is_off =
            self.thinking_switches().iter().find_map(own).or(input.thinking) == Some(false);
        let closes_thinking = closes_thinking || (is_off && !opens_thinking);
        let opens_call = match self.syntax() {
            Some(Syntax::Calls(calls)) => render.add_generation_prompt && calls.is_opened_by(&text),
            _ => false,
        };
        let ids = shield.encode(tokenizer, &text);
        let text = shield.reveal(&text);
        Ok(ChatPrompt { text, ids, opens_thinking, closes_thinking, opens_call })
    }
}

/// Puts a mark behind the last message's text, which must be the assistant's.
fn mark_end(messages: &mut Value, mark: char) -> Result<(), ChatError> {
    let last = messages.as_array_mut().and_then(|messages| messages.last_mut());
    let last = last.filter(|last| last["role"] == "assistant" && last.get("tool_calls").is_none());
    let Some(Value::String(content)) = last.and_then(|last| last.get_mut("content")) else {
        let what = "only a text of the assistant, the last message, can go on";
        return Err(ChatError::message("continue_final_message", what));
    };
    content.push(mark);
    Ok(())
}

fn last_message(input: &ChatInput) -> String {
    format!("messages[{}]", input.messages.len().saturating_sub(1))
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
