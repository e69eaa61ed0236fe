//! A model ready to answer: what `run` and `chat` have in common.

use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use zinc_chat::{AnswerParser, ChatFormat, ChatInput, Tools, with_bos};
use zinc_engine::{Engine, MemoryNeed, Model, Request, SamplingParams};
use zinc_token::EncodeOptions;

use crate::args::{ChatArgs, DeviceArgs, EngineArgs, LimitArgs, ModelArgs};
use crate::generate::{Answer, Piece};
use crate::output::human_bytes;
use crate::{generate, model, report};

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

    /// The form that chat formats read, and `zinc template --input` too.
    pub fn wire(&self) -> Value {
        let mut fields = json!({ "role": self.role, "content": self.content });
        if let Some(reasoning) = &self.reasoning {
            fields["reasoning_content"] = json!(reasoning);
        }
        fields
    }
}

/// A model on a device with an engine.
pub struct Session {
    /// The model.
    pub model: Arc<Model>,
    /// Its engine.
    pub engine: Engine,
    /// How conversations are written, once [`Session::use_template`] found a chat template.
    pub format: Option<ChatFormat>,
    /// The device's name.
    pub device: String,
    /// What the model takes on the device.
    pub memory: MemoryNeed,
    /// The template's switch for thinking, if anything is to be said about it.
    pub thinking: Option<bool>,
}

impl Session {
    /// Opens and loads a model that continues texts; [`Session::use_template`] makes it answer.
    ///
    /// # Errors
    /// Whatever is wrong with the model, the device or the sizes asked for.
    pub fn open(
        model_args: &ModelArgs,
        device_args: &DeviceArgs,
        engine_args: &EngineArgs,
    ) -> anyhow::Result<Session> {
        let model = model_args.open()?;
        let device = device_args.open()?;
        let options = engine_args.options(&model)?;
        let name = device.info().name.clone();
        let (loaded, memory) = model::load(Arc::clone(&model), device, &options)?;
        let engine = Engine::new(loaded, &options)?;
        Ok(Session { model, engine, format: None, device: name, memory, thinking: None })
    }

    /// Reads the model's chat template, if it has one. `args` are the flags about the conversation.
    ///
    /// # Errors
    /// The template cannot be used, or cannot do what the flags ask for.
    pub fn use_template(&mut self, model_args: &ModelArgs, args: &ChatArgs) -> anyhow::Result<()> {
        self.format = ChatFormat::new(&self.model).context(
            "the model's chat template cannot be used; hint: zinc run --raw does without it",
        )?;
        self.set_thinking(args.thinking())?;
        if self.thinking.is_none() && model_args.model.is_none() && self.can_switch_thinking() {
            // The demonstration model is too small for its thinking to help.
            self.thinking = Some(false);
        }
        Ok(())
    }

    fn can_switch_thinking(&self) -> bool {
        self.format.as_ref().is_some_and(ChatFormat::supports_thinking_switch)
    }

    /// Sets the template's switch.
    ///
    /// # Errors
    /// The template has none.
    pub fn set_thinking(&mut self, thinking: Option<bool>) -> anyhow::Result<()> {
        if thinking.is_some() && !self.can_switch_thinking() {
            let what = "this model's chat template has no switch for thinking";
            return Err(report::with_hint(what, "leave thinking as it is"));
        }
        self.thinking = thinking;
        Ok(())
    }

    /// Answers a conversation.
    ///
    /// # Errors
    /// The template refuses the conversation, it does not fit, or the device fails.
    pub fn answer(
        &mut self,
        messages: &[Message],
        sampling: &SamplingParams,
        limits: &LimitArgs,
        show: &mut dyn FnMut(Piece<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Answer> {
        let Some(format) = &self.format else {
            let what = "this model has no chat template";
            return Err(report::with_hint(what, "let it continue a text: zinc run --raw"));
        };
        let mut input = ChatInput::new(messages.iter().map(Message::wire).collect());
        input.thinking = self.thinking;
        let prompt = format.prompt(self.model.tokenizer(), &input)?;
        let parser = AnswerParser::new(format, &prompt, &Tools::default());
        let mut request = request(prompt.ids, sampling, limits);
        request.shown_special = format.shown_special().to_vec();
        generate::generate(&mut self.engine, request, parser, show)
    }

    /// Continues a text; `parse_special` turns the text of control tokens into those tokens.
    ///
    /// # Errors
    /// The text does not fit, or the device fails.
    pub fn complete(
        &mut self,
        text: &str,
        parse_special: bool,
        sampling: &SamplingParams,
        limits: &LimitArgs,
        show: &mut dyn FnMut(Piece<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Answer> {
        let tokenizer = self.model.tokenizer();
        let ids = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special });
        let ids = with_bos(tokenizer, ids);
        generate::generate(
            &mut self.engine,
            request(ids, sampling, limits),
            AnswerParser::plain(),
            show,
        )
    }

    /// One line about the memory in use.
    pub fn memory_line(&self) -> String {
        let MemoryNeed { weights, cache, scratch, host_cache: _ } = self.memory;
        format!(
            "device {} · weights {} · cache {} ({} tokens) · scratch {}",
            self.device,
            human_bytes(weights.total()),
            human_bytes(cache.total()),
            self.engine.n_ctx(),
            human_bytes(scratch),
        )
    }
}

fn request(prompt: Vec<u32>, sampling: &SamplingParams, limits: &LimitArgs) -> Request {
    Request {
        prompt,
        max_tokens: limits.max_tokens,
        sampling: sampling.clone(),
        stop: limits.stop.clone(),
        ..Request::default()
    }
}
