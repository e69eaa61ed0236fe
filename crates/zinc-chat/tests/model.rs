//! The demonstration model under guides, at temperature 1.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

mod support;

use std::sync::Arc;

use serde_json::json;
use support::schemas::{check_json, schemas};
use support::{builtin, parse, small_tools};
use zinc_chat::{
    AnswerParser, ChatFormat, ChatInput, GuideFactory, GuideSpec, ResponseFormat, ToolChoice, Tools,
};
use zinc_engine::{
    Engine, EngineOptions, Event, FinishReason, LoadedModel, Model, Request, SamplingParams,
};

struct Chat {
    model: Arc<Model>,
    engine: Engine,
    format: ChatFormat,
    factory: GuideFactory,
}

impl Chat {
    fn new() -> Self {
        let model = Arc::new(builtin());
        let device = Arc::new(zinc_cpu::CpuDevice::new(2, zinc_cpu::Isa::best()).unwrap());
        let loaded = LoadedModel::load(Arc::clone(&model), device, &mut |_, _| {}).unwrap();
        let engine = Engine::new(Arc::new(loaded), &EngineOptions::default()).unwrap();
        let format = ChatFormat::new(&model).unwrap().unwrap();
        let factory = GuideFactory::new(model.tokenizer()).unwrap();
        Self { model, engine, format, factory }
    }

    /// What the model says, and why it ended.
    fn say(
        &mut self,
        tools: &Tools,
        thinking: bool,
        spec: &GuideSpec,
        seed: u64,
    ) -> (support::Said, FinishReason) {
        let mut input =
            ChatInput::new(vec![json!({"role": "user", "content": "Tell me about colours."})]);
        input.tools = tools.clone();
        input.thinking = Some(thinking);
        let prompt = self.format.prompt(self.model.tokenizer(), &input).unwrap();
        let steer =
            self.factory.guide(self.model.tokenizer(), &self.format, &prompt, spec).unwrap();
        // Long texts end sooner or later.
        let quote = self.model.tokenizer().encode("\"", Default::default())[0];
        let sampling = SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed: Some(seed),
            logit_bias: vec![(quote, 4.0)],
            ..SamplingParams::default()
        };
        let request = Request {
            prompt: prompt.ids.clone(),
            max_tokens: Some(400),
            sampling,
            shown_special: self.format.shown_special().to_vec(),
            steer,
            ..Request::default()
        };
        self.engine.submit(request).unwrap();
        let (mut said, mut why) = (String::new(), None);
        while !self.engine.is_idle() {
            self.engine
                .step(&mut |event| match event {
                    Event::Token { text, .. } => said.push_str(text),
                    Event::Finished { text, reason, .. } => {
                        said.push_str(text);
                        why = Some(reason);
                    }
                    Event::Failed { error, .. } => panic!("{error}"),
                    _ => {}
                })
                .unwrap();
        }
        let parser = AnswerParser::new(&self.format, &prompt, tools);
        (parse(parser, &said, usize::MAX), why.unwrap())
    }
}

#[test]
fn a_hundred_schemas_hold_at_temperature_one() {
    let mut chat = Chat::new();
    for (i, schema) in schemas().iter().enumerate() {
        let thinking = i % 10 == 0;
        let response_format = ResponseFormat::JsonSchema(schema.clone());
        let spec = GuideSpec { response_format, thinking_budget: Some(6), ..GuideSpec::default() };
        let (said, why) = chat.say(&Tools::default(), thinking, &spec, i as u64);
        // An answer that is cut is told as such, so that nobody takes it for complete.
        assert_ne!(why, FinishReason::Length, "{schema}: {said:?}");
        check_json(schema, &said.content);
    }
}

#[test]
fn the_model_calls_a_tool_when_it_must() {
    let mut chat = Chat::new();
    let tools = small_tools();
    if !chat.format.supports_tools() {
        let spec = GuideSpec { tools, tool_choice: ToolChoice::Required, ..GuideSpec::default() };
        let input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"})]);
        let prompt = chat.format.prompt(chat.model.tokenizer(), &input).unwrap();
        let guide = chat.factory.guide(chat.model.tokenizer(), &chat.format, &prompt, &spec);
        assert!(matches!(guide.err(), Some(zinc_chat::ChatError::NoTools)));
        return;
    }
    for seed in 0..4 {
        let spec = GuideSpec {
            tools: tools.clone(),
            tool_choice: ToolChoice::Required,
            parallel_tool_calls: false,
            thinking_budget: Some(6),
            ..GuideSpec::default()
        };
        let (said, why) = chat.say(&tools, seed % 2 == 0, &spec, seed);
        assert_ne!(why, FinishReason::Length, "{said:?}");
        assert_eq!(said.calls.len(), 1, "{said:?}");
        let schema = &tools.get("get_weather").unwrap().parameters;
        assert!(jsonschema::validator_for(schema).unwrap().is_valid(&said.calls[0].1), "{said:?}");
    }
}
