//! What the three conversation APIs (chat completions, responses, messages) have in common: from a
//! conversation to the engine, and from the engine's text to pieces of messages.

mod spelled;

use std::collections::VecDeque;

use serde_json::{Map, Value};
use zinc_chat::{
    AnswerParser, ChatError, ChatFormat, ChatInput, ChatPrompt, Delta, GuideSpec, ResponseFormat,
    ToolChoice, Tools,
};
use zinc_engine::sampler::TokenLogprobs;
use zinc_engine::{FinishReason, Steer};

use self::spelled::Spelled;
use crate::ApiError;
use crate::models::Instance;
use crate::run::{Order, Run, Totals, Visit};
use crate::sampling::Sampling;
use crate::worker::What;

/// A conversation to be answered, whichever API it came through.
pub struct Ask {
    /// Messages in OpenAI's wire form.
    pub messages: Vec<Value>,
    /// Tools in OpenAI's wire form.
    pub tools: Vec<Value>,
    /// Whether the answer calls them.
    pub tool_choice: ToolChoice,
    /// Those of the tools that may be called; `None` is all.
    pub allowed_tools: Option<Vec<String>>,
    /// Whether one answer may call more than once.
    pub parallel_tool_calls: bool,
    /// The form of the answer's text.
    pub format: ResponseFormat,
    /// Whether and how long to think.
    pub thinking: Thinking,
    /// Further variables of the template.
    pub template_kwargs: Map<String, Value>,
    /// The last message goes on.
    pub continue_final_message: bool,
    /// The prompt ends with the opening of the answer.
    pub add_generation_prompt: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of an answer.
    pub max_tokens: Option<u32>,
}

/// What a request says about thinking.
#[derive(Debug, Clone, Default)]
pub struct Thinking {
    /// On or off.
    pub switch: Option<bool>,
    /// The field that says so, for messages.
    pub switch_field: &'static str,
    /// How much, in OpenAI's words.
    pub effort: Option<String>,
    /// Most tokens of it.
    pub budget: Option<u32>,
    /// The field that says so, for messages.
    pub budget_field: &'static str,
}

/// Tokens of thinking for an effort, where the template has no variable for it.
const EFFORT_BUDGETS: [(&str, u32); 3] = [("minimal", 256), ("low", 1024), ("medium", 4096)];

impl Ask {
    /// A conversation with nothing asked for but an answer.
    pub fn new(messages: Vec<Value>, sampling: Sampling) -> Ask {
        Ask {
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            allowed_tools: None,
            parallel_tool_calls: true,
            format: ResponseFormat::Text,
            thinking: Thinking::default(),
            template_kwargs: Map::new(),
            continue_final_message: false,
            add_generation_prompt: true,
            sampling,
            max_tokens: None,
        }
    }

    /// The conversation as the model reads it.
    ///
    /// # Errors
    /// The model has no template, or it does not take this conversation.
    pub fn prompt(&self, instance: &Instance) -> Result<(ChatPrompt, Tools), ApiError> {
        let format = instance.chat()?;
        let all = Tools::from_json(&self.tools).map_err(refusal)?;
        // Tools that may not be called are not shown: a model that sees them calls them.
        let shown = match self.tool_choice {
            ToolChoice::None => Tools::default(),
            _ => all.clone(),
        };
        let input = self.input(instance, format, shown)?;
        let prompt = format.prompt(instance.tokenizer(), &input).map_err(refusal)?;
        Ok((prompt, all))
    }

    fn input(
        &self,
        instance: &Instance,
        format: &ChatFormat,
        tools: Tools,
    ) -> Result<ChatInput, ApiError> {
        let thinking = &self.thinking;
        let switch = thinking.switch.or(instance.known().defaults.thinking);
        if thinking.switch.is_some() && !format.supports_thinking_switch() {
            // What the model does anyway may be asked for.
            let always_thinks = format.thinking().is_some();
            if thinking.switch != Some(always_thinks) {
                let what = "this model's chat template has no switch for thinking";
                return Err(ApiError::unsupported(thinking.switch_field, what));
            }
        }
        let mut input = ChatInput::new(self.messages.clone());
        input.tools = tools;
        input.thinking = switch.filter(|on| !on || format.supports_thinking_switch());
        input.reasoning_effort = thinking.effort.clone().filter(|effort| effort != "none");
        input.template_kwargs = self.template_kwargs.clone();
        input.continue_final_message = self.continue_final_message;
        input.add_generation_prompt = self.add_generation_prompt;
        Ok(input)
    }

    /// The most tokens of thinking: what is asked for, or what the effort stands for.
    fn thinking_budget(&self, instance: &Instance) -> Option<u32> {
        let by_effort = || {
            let effort = self.thinking.effort.as_deref()?;
            let template = instance.model().chat_template().ok().flatten()?;
            if template.contains("reasoning_effort") {
                return None;
            }
            EFFORT_BUDGETS.iter().find(|(name, _)| *name == effort).map(|(_, budget)| *budget)
        };
        self.thinking.budget.or_else(by_effort)
    }

    /// Brings the conversation to the form that the engine takes. Takes time: rendering, encoding,
    /// compiling of schemas.
    ///
    /// # Errors
    /// What the model, its template or its guides cannot do.
    pub fn prepare(&self, instance: &Instance) -> Result<Prepared, ApiError> {
        let (prompt, tools) = self.prompt(instance)?;
        let format = instance.chat()?;
        let budget = self.thinking_budget(instance).filter(|_| !prompt.closes_thinking);
        if self.thinking.budget.is_some() && format.thinking().is_none() {
            let what = "this model does not think, so there is nothing to limit";
            return Err(ApiError::unsupported(self.thinking.budget_field, what));
        }
        let callable = self.callable(&tools)?;
        let must_call = matches!(self.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        if must_call || self.format != ResponseFormat::Text {
            self.sampling.refuse_longer()?;
        }
        let spec = GuideSpec {
            response_format: self.format.clone(),
            tools: callable,
            tool_choice: self.tool_choice.clone(),
            parallel_tool_calls: self.parallel_tool_calls,
            thinking_budget: budget,
        };
        let parser = || match self.tool_choice {
            // Nothing is a call, whatever it looks like.
            ToolChoice::None => AnswerParser::new(format, &prompt, &Tools::default()),
            _ => AnswerParser::new(format, &prompt, &tools),
        };
        let parsers = (0..self.sampling.n).map(|_| parser()).collect();
        let opens_thinking = prompt.opens_thinking;
        let shown_special = format.shown_special().to_vec();
        let order = Order {
            guides: self.guides(instance, &spec, &prompt)?,
            max_tokens: self.max_tokens,
            shown_special: shown_special.clone(),
            ids: prompt.ids,
            ..Order::default()
        };
        Ok(Prepared { n_prompt: order.ids.len(), order, parsers, opens_thinking, shown_special })
    }

    /// The tools that the answer may call.
    fn callable(&self, tools: &Tools) -> Result<Tools, ApiError> {
        let unknown = |name: &str| {
            let what = format!("there is no tool called {name:?} in tools");
            ApiError::field("tool_choice", what)
        };
        if let ToolChoice::Named(name) = &self.tool_choice
            && tools.get(name).is_none()
        {
            return Err(unknown(name));
        }
        if self.tool_choice == ToolChoice::Required && tools.is_empty() {
            return Err(ApiError::field(
                "tool_choice",
                "a call is required, but there are no tools",
            ));
        }
        let Some(names) = &self.allowed_tools else {
            return Ok(tools.clone());
        };
        if let Some(name) = names.iter().find(|name| tools.get(name).is_none()) {
            return Err(unknown(name));
        }
        let is_allowed = |tool: &&Value| {
            tool["function"]["name"].as_str().is_some_and(|name| names.iter().any(|n| n == name))
        };
        let allowed: Vec<Value> = self.tools.iter().filter(is_allowed).cloned().collect();
        Tools::from_json(&allowed).map_err(refusal)
    }

    /// One guide for every answer, or none if there is nothing to hold them to.
    fn guides(
        &self,
        instance: &Instance,
        spec: &GuideSpec,
        prompt: &ChatPrompt,
    ) -> Result<Vec<Box<dyn Steer>>, ApiError> {
        if *spec == GuideSpec::default() {
            return Ok(Vec::new());
        }
        let (guides, format) = (instance.guides()?, instance.chat()?);
        let mut made = Vec::new();
        for _ in 0..self.sampling.n {
            let guide =
                guides.guide(instance.tokenizer(), format, prompt, spec).map_err(refusal)?;
            made.extend(guide);
        }
        Ok(made)
    }
}

/// A conversation that is ready for the engine.
pub struct Prepared {
    order: Order,
    parsers: Vec<AnswerParser>,
    opens_thinking: bool,
    /// Control tokens that belong to the text.
    shown_special: Vec<u32>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
}

/// What was refused, and where.
pub fn refusal(error: ChatError) -> ApiError {
    let message = error.to_string();
    match error {
        ChatError::Message { at, what }
        | ChatError::Tool { at, what }
        | ChatError::Schema { at, what } => ApiError::field(at, what),
        ChatError::Constraint { at, what } => ApiError::unsupported(at, what),
        ChatError::NoTools => ApiError::unsupported("tools", message),
        _ => ApiError::bad_request("invalid_conversation", message),
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Which answer.
    pub choice: usize,
    /// What it is.
    pub what: Part,
}

/// What a piece of an answer is.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A piece of the message.
    Delta(Delta),
    /// A token of the content, before the piece that it is part of; only if log-probabilities were asked
    /// for.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probabilities.
        logprobs: TokenLogprobs,
    },
    /// The answer is over.
    Finished(End),
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or a stop token did.
    Turn,
    /// A stop string did; the text is with the run. The last call may have no end.
    StopString,
    /// It is as long as it may be. The last call may have no end.
    Length,
    /// It calls tools, and all calls are whole.
    ToolCalls,
}

/// Answers that are being computed and parsed. Dropping it cancels them.
pub struct Talk {
    run: Run,
    parsers: Vec<AnswerParser>,
    shown_special: Vec<u32>,
    /// Tokens whose place in an answer is not known yet.
    spelled: Vec<Spelled>,
    has_calls: Vec<bool>,
    /// Whether an answer's last text was reasoning.
    is_thinking: Vec<bool>,
    n_reasoning: usize,
    stop_strings: Vec<Option<String>>,
    /// Pieces of the last update that are not given out.
    ready: VecDeque<Piece>,
}

/// Prepares `ask` away from the threads that serve sockets, and starts it.
///
/// # Errors
/// What the model, its template or its guides cannot do.
pub async fn start(visit: Visit, ask: Ask) -> Result<(Talk, usize), ApiError> {
    let work = move || {
        let prepared = ask.prepare(&visit.lease);
        (visit, ask.sampling, prepared)
    };
    let (visit, sampling, prepared) = away(work).await?;
    let Prepared { order, parsers, opens_thinking, shown_special, n_prompt } = prepared?;
    let run = visit.start(vec![order], &sampling).await?;
    let n = parsers.len();
    let talk = Talk {
        run,
        parsers,
        shown_special,
        spelled: (0..n).map(|_| Spelled::default()).collect(),
        has_calls: vec![false; n],
        is_thinking: vec![opens_thinking; n],
        n_reasoning: 0,
        stop_strings: vec![None; n],
        ready: VecDeque::new(),
    };
    Ok((talk, n_prompt))
}

/// Runs what takes time on a thread that serves no sockets.
///
/// # Errors
/// It panicked.
pub async fn away<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::internal("the request stopped at an error of the server's own"))
}

impl Talk {
    /// The next piece; `None` when all answers are finished. Loses nothing when dropped.
    ///
    /// # Errors
    /// No answer goes on; see [`Run::next`].
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            let update = match self.run.next().await? {
                Ok(update) => update,
                Err(error) => return Some(Err(error)),
            };
            self.take(update.choice, update.what);
        }
    }

    /// Whether [`Talk::next`] has a piece at once: pieces of one token belong together.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The client's request.
    pub fn visit(&self) -> &Visit {
        &self.run.visit
    }

    /// Tokens of the answers that are finished.
    pub fn total(&self) -> Totals {
        self.run.total()
    }

    /// Tokens of reasoning so far.
    pub fn n_reasoning(&self) -> usize {
        self.n_reasoning
    }

    /// The stop string that ended an answer.
    pub fn stop_string(&self, choice: usize) -> Option<&str> {
        self.stop_strings[choice].as_deref()
    }

    fn take(&mut self, choice: usize, what: What) {
        match what {
            What::Token { id, text, logprobs } => {
                if let Some(logprobs) = logprobs {
                    let vocab = self.run.visit.lease.tokenizer().vocab();
                    let is_shown = !vocab.is_special(id) || self.shown_special.contains(&id);
                    let piece = if is_shown { vocab.piece(id) } else { &[] };
                    self.spelled[choice].push(id, piece, logprobs);
                }
                let deltas = self.parsers[choice].push(&text);
                self.give(choice, deltas);
                self.n_reasoning += usize::from(self.is_thinking[choice]);
            }
            What::Finished { reason, text, .. } => {
                let deltas = self.parsers[choice].push(&text);
                self.give(choice, deltas);
                let is_cut = self.is_cut(&reason);
                let parser = &mut self.parsers[choice];
                let deltas = if is_cut { parser.cut() } else { parser.finish() };
                // Calls that are whole are what the answer says, whatever ended it behind them.
                let is_broken = parser.broke_off();
                self.give(choice, deltas);
                let end = match reason {
                    FinishReason::Length => End::Length,
                    _ if self.has_calls[choice] && !is_broken => End::ToolCalls,
                    FinishReason::StopString(stop) => {
                        self.stop_strings[choice] = Some(stop);
                        End::StopString
                    }
                    _ => End::Turn,
                };
                let end = Part::Finished(end);
                self.ready.push_back(Piece { choice, what: end });
            }
            What::Taken | What::PromptToken { .. } | What::Embedding(_) | What::Failed(_) => {}
        }
    }

    /// Whether an answer ended for a reason other than that the model ended it.
    fn is_cut(&self, reason: &FinishReason) -> bool {
        match reason {
            FinishReason::Length | FinishReason::StopString(_) => true,
            FinishReason::StopToken(id) => {
                let vocab = self.run.visit.lease.tokenizer().vocab();
                !vocab.is_end_of_generation(*id)
            }
            _ => false,
        }
    }

    fn give(&mut self, choice: usize, deltas: Vec<Delta>) {
        let is_call = |delta: &Delta| !matches!(delta, Delta::Content(_) | Delta::Reasoning(_));
        let ends_in_call = deltas.last().is_some_and(is_call);
        for delta in deltas {
            match &delta {
                Delta::Content(text) => {
                    for (id, logprobs) in self.spelled[choice].take(text) {
                        self.ready.push_back(Piece { choice, what: Part::Token { id, logprobs } });
                    }
                }
                Delta::Reasoning(text) => drop(self.spelled[choice].take(text)),
                _ => {}
            }
            self.is_thinking[choice] = matches!(delta, Delta::Reasoning(_));
            self.has_calls[choice] |= matches!(delta, Delta::ToolCallStart { .. });
            self.ready.push_back(Piece { choice, what: Part::Delta(delta) });
        }
        if ends_in_call {
            self.spelled[choice].pass_call();
        }
    }
}
