//! Guides: what holds an answer to a grammar, to its tools, and to its thinking budget.
//!
//! llguidance turns grammars into masks over the vocabulary. A guide is a short program of phases around
//! it: reasoning, which is free but counted; text, which is free until a call begins; and grammar.

mod calls;
mod gbnf;
mod gemma;
mod grammar;
mod phases;
mod schema;
mod vocab;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::json;
use zinc_engine::Steer;
use zinc_token::{EncodeOptions, Tokenizer};

use crate::syntax::Syntax;
use crate::{
    ChatError, ChatFormat, ChatPrompt, GuideSpec, ResponseFormat, Thinking, Tool, ToolChoice,
};

use calls::{CallRules, Trigger, place};
use grammar::{Grammar, any_of, quoted};
use phases::{Guide, Plan, Thought, Watched};
use vocab::VocabTables;

/// Name of the user's own grammar.
const OWN: &str = "own";

/// Makes guides for one vocabulary.
pub struct GuideFactory {
    tables: Arc<VocabTables>,
    /// What is not held of tools and was told, as clients send the same tools with each request.
    told: Mutex<HashSet<String>>,
}

/// Most things that are told of tools: names come from outside, and memory is finite.
const N_TOLD_MAX: usize = 4096;

/// The grammar of the text of an answer.
struct AnswerRules {
    expression: String,
    /// A grammar of the user's, which the expression refers to.
    own: Option<GrammarWithLexer>,
}

impl GuideFactory {
    /// Builds the tables of a vocabulary, once.
    ///
    /// # Errors
    /// [`ChatError::Vocabulary`].
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let tables = Arc::new(VocabTables::new(tokenizer)?);
        Ok(Self { tables, told: Mutex::default() })
    }

    /// What holds the answer to `prompt` to `spec`; `None` if nothing has to. `tokenizer` is the one that
    /// the factory was made for.
    ///
    /// # Errors
    /// [`ChatError::Constraint`] with the field that cannot be held, or that contradicts another;
    /// [`ChatError::Schema`] with the field that is no schema; [`ChatError::NoTools`].
    pub fn guide(
        &self,
        tokenizer: &Tokenizer,
        format: &ChatFormat,
        prompt: &ChatPrompt,
        spec: &GuideSpec,
    ) -> Result<Option<Box<dyn Steer>>, ChatError> {
        let thinking = format.thinking_marks().filter(|_| !prompt.closes_thinking);
        let thought = thinking.as_ref().map(|thinking| Thought {
            open: thinking.open.clone(),
            close: thinking.close.clone(),
            closing_ids: tokenizer.encode(
                &thinking.close_text,
                EncodeOptions { add_special: false, parse_special: true },
            ),
            budget: spec.thinking_budget,
            is_open: prompt.opens_thinking,
        });
        let plan = self.plan(tokenizer, format, prompt, thinking.as_ref(), spec)?;
        let has_budget = thought.as_ref().is_some_and(|thought| thought.budget.is_some());
        if matches!(plan, Plan::Free) && !has_budget {
            return Ok(None);
        }
        Ok(Some(Box::new(Guide::new(Arc::clone(&self.tables), plan, thought))))
    }

    /// What holds the text of a completion, which has no conversation, to `response_format`.
    ///
    /// # Errors
    /// As [`GuideFactory::guide`].
    pub fn plain_guide(
        &self,
        tokenizer: &Tokenizer,
        response_format: &ResponseFormat,
    ) -> Result<Option<Box<dyn Steer>>, ChatError> {
        let mut grammar = Grammar::new(tokenizer);
        let Some(rules) = answer_rules(&mut grammar, response_format)? else {
            return Ok(None);
        };
        let matcher = self.answer_matcher(&grammar, &rules.expression, &rules, response_format)?;
        let plan = Plan::Whole { matcher: Box::new(matcher), with_opening: None };
        Ok(Some(Box::new(Guide::new(Arc::clone(&self.tables), plan, None))))
    }

    fn plan(
        &self,
        tokenizer: &Tokenizer,
        format: &ChatFormat,
        prompt: &ChatPrompt,
        thinking: Option<&Thinking>,
        spec: &GuideSpec,
    ) -> Result<Plan, ChatError> {
        let chosen = chosen_tools(format, spec)?;
        let must_call = matches!(spec.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        let is_text = spec.response_format == ResponseFormat::Text;
        if must_call && !is_text {
            let what =
                "an answer that must call a tool has no text of its own; leave out one of the two";
            return Err(ChatError::constraint("response_format", what));
        }
        match (chosen, is_text) {
            (None, true) => Ok(Plan::Free),
            (Some((syntax, tools)), true) if !must_call => {
                self.watch(tokenizer, syntax, prompt.opens_call, &tools, spec)
            }
            (chosen, _) => self.whole(tokenizer, format, prompt, chosen, thinking, spec),
        }
    }

    /// Free text in which calls are held to their tools.
    fn watch(
        &self,
        tokenizer: &Tokenizer,
        syntax: &Syntax,
        opens_call: bool,
        tools: &[&Tool],
        spec: &GuideSpec,
    ) -> Result<Plan, ChatError> {
        if !can_hold(syntax) {
            return Ok(Plan::Free);
        }
        let parallel = spec.parallel_tool_calls;
        let build = |held: &[Tool]| {
            let mut grammar = Grammar::new(tokenizer);
            let triggers =
                CallRules::new(&mut grammar, held, parallel).triggers(syntax, opens_call)?;
            let watched = |trigger: Trigger| {
                let matcher = self.compile(&grammar, &trigger.rest, None)?;
                Ok(Watched { text: trigger.text, at_start: trigger.at_start, matcher })
            };
            triggers.into_iter().map(watched).collect::<Result<Vec<_>, ChatError>>()
        };
        let triggers = self.with_tools(tools, build)?;
        Ok(Plan::Watch { triggers, parallel })
    }

    /// An answer that is grammar from its first character: calls, or text of a form, or either.
    fn whole(
        &self,
        tokenizer: &Tokenizer,
        format: &ChatFormat,
        prompt: &ChatPrompt,
        chosen: Option<(&Syntax, Vec<&Tool>)>,
        thinking: Option<&Thinking>,
        spec: &GuideSpec,
    ) -> Result<Plan, ChatError> {
        let (syntax, tools) = match chosen {
            Some((syntax, tools)) => (Some(syntax), tools),
            None => (None, Vec::new()),
        };
        self.with_tools(&tools, |held| {
            let mut grammar = Grammar::new(tokenizer);
            let mut options = Vec::new();
            if let (Some(syntax), false) = (syntax, held.is_empty()) {
                let parallel = spec.parallel_tool_calls;
                options.push(
                    CallRules::new(&mut grammar, held, parallel)
                        .whole(syntax, prompt.opens_call)?,
                );
            }
            let rules = answer_rules(&mut grammar, &spec.response_format)?;
            if let Some(rules) = &rules {
                options.push(match format.syntax() {
                    Some(Syntax::Calls(calls)) if prompt.opens_call => {
                        format!("{} {}", grammar.literal(&calls.text_open), rules.expression)
                    }
                    Some(Syntax::Harmony) => {
                        let start = grammar.literal("<|start|>assistant");
                        let head = grammar.literal("<|channel|>final<|message|>");
                        format!("({start})? {head} {}", rules.expression)
                    }
                    _ => rules.expression.clone(),
                });
            }
            let rules = rules.unwrap_or(AnswerRules { expression: String::new(), own: None });
            let answer = grammar.rule(&any_of(&options));
            let behind = format!("{} {answer}", Grammar::blanks());
            let compile = |expression: &str| {
                let matcher =
                    self.answer_matcher(&grammar, expression, &rules, &spec.response_format)?;
                Ok::<_, ChatError>(Box::new(matcher))
            };
            Ok(match thinking {
                None => Plan::Whole { matcher: compile(&answer)?, with_opening: None },
                Some(thinking) => {
                    let open = grammar.literal(&thinking.open);
                    let with_opening = compile(&format!("{open} | {answer}"))?;
                    Plan::Whole { matcher: compile(&behind)?, with_opening: Some(with_opening) }
                }
            })
        })
    }

    /// Builds with every tool's schema held exactly; where that fails, tools that are not strict are held to
    /// what can be held of it.
    fn with_tools<T>(
        &self,
        tools: &[&Tool],
        build: impl Fn(&[Tool]) -> Result<T, ChatError>,
    ) -> Result<T, ChatError> {
        let mut held = Vec::with_capacity(tools.len());
        for tool in tools {
            held.push(self.without(tool, &[])?);
        }
        let error = match build(&held) {
            Ok(built) => return Ok(built),
            Err(error) => error,
        };
        // If it is no matter of schemas, there is nothing to find.
        let Some(first) = held.first() else { return Err(error) };
        if build(&[first.with_parameters(json!({"type": "object"}))]).is_err() {
            return Err(error);
        }
        let mut has_changed = false;
        for one in &mut held {
            match build(std::slice::from_ref(one)) {
                Ok(_) => continue,
                Err(ChatError::Constraint { at, what }) if one.is_strict => {
                    let is_placed = at.starts_with(&place(one));
                    return Err(match is_placed {
                        true => ChatError::constraint(at, what),
                        false => schema::refused(&one.parameters, &place(one), &what),
                    });
                }
                Err(error) if one.is_strict => return Err(error),
                Err(_) => *one = self.narrowed_less(one, &build)?,
            }
            has_changed = true;
        }
        if has_changed { build(&held) } else { Err(error) }
    }

    /// A tool whose schema is the given one's without what cannot be held and without the keywords `more`.
    ///
    /// # Errors
    /// The tool is strict and something is left out.
    fn without(&self, tool: &Tool, more: &[&str]) -> Result<Tool, ChatError> {
        let (parameters, unheld) = schema::weakened(&tool.parameters, &place(tool), more);
        for error in unheld {
            if tool.is_strict {
                return Err(error);
            }
            self.tell(tool, error.place().unwrap_or_default());
        }
        Ok(tool.with_parameters(parameters))
    }

    /// A tool that cannot be built as it is, without the one keyword that is in the way; else without all
    /// that narrow its schema; else any object.
    fn narrowed_less<T>(
        &self,
        tool: &Tool,
        build: impl Fn(&[Tool]) -> Result<T, ChatError>,
    ) -> Result<Tool, ChatError> {
        let narrowing = schema::narrowing(&tool.parameters);
        let one_by_one = narrowing.iter().map(std::slice::from_ref);
        for keywords in one_by_one.chain([&narrowing[..]]) {
            let (parameters, _) = schema::weakened(&tool.parameters, "", keywords);
            if build(&[tool.with_parameters(parameters)]).is_ok() {
                return self.without(tool, keywords);
            }
        }
        self.tell(tool, &place(tool));
        Ok(tool.with_parameters(json!({"type": "object"})))
    }

    /// Tells whoever runs this, once, what is not held of a tool.
    fn tell(&self, tool: &Tool, left_out: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < N_TOLD_MAX && told.insert(left_out.to_owned()) {
            tracing::warn!(tool = tool.name, left_out, "a tool's schema is held in part");
        }
    }

    /// A matcher whose errors are those of the response format.
    fn answer_matcher(
        &self,
        grammar: &Grammar<'_>,
        expression: &str,
        rules: &AnswerRules,
        response_format: &ResponseFormat,
    ) -> Result<Matcher, ChatError> {
        self.compile(grammar, expression, rules.own.clone()).map_err(|error| {
            match (response_format, error) {
                (ResponseFormat::JsonSchema(schema), ChatError::Constraint { what, .. }) => {
                    schema::refused(schema, SCHEMA_AT, &what)
                }
                (ResponseFormat::Text, error) => error,
                (_, ChatError::Constraint { what, .. }) => {
                    ChatError::constraint(place_of(response_format), what)
                }
                (_, error) => error,
            }
        })
    }

    fn compile(
        &self,
        grammar: &Grammar<'_>,
        expression: &str,
        own: Option<GrammarWithLexer>,
    ) -> Result<Matcher, ChatError> {
        let mut all = TopLevelGrammar::from_lark(grammar.finish(expression));
        all.grammars.extend(own);
        let refused = |what: &str| ChatError::constraint("the constraint on the answer", what);
        let n_bytes = serde_json::to_string(&all).map_or(usize::MAX, |text| text.len());
        if n_bytes > GRAMMAR_BYTES_MAX {
            let what = format!("it has {n_bytes} bytes as a grammar, at most {GRAMMAR_BYTES_MAX}");
            return Err(refused(&what));
        }
        let compiled = deep(|| {
            let matcher = self.tables.matcher(all)?;
            // That nothing can be said is found out now, not in the middle of an answer.
            match matcher.clone().compute_mask_or_eos() {
                Ok(_) => Ok(matcher),
                Err(error) => match error.to_string() {
                    stuck if stuck.contains("NoExtension") => Err("no text satisfies it".into()),
                    other => Err(other),
                },
            }
        });
        compiled.and_then(|result| result).map_err(|error| refused(&schema::first_line(&error)))
    }
}

/// Largest grammar that is compiled, as JSON.
const GRAMMAR_BYTES_MAX: usize = 1 << 20;

/// Stack of the thread that compiles: llguidance follows references and rules by recursion, and a chain of
/// them takes at most a few kilobytes for each of the grammar's lines. It is address space until used.
const STACK_BYTES: usize = 512 << 20;

/// Runs `work` where deep recursion does not end the process.
fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| error.to_string())?;
        thread.join().map_err(|_| "its compiler failed".to_owned())
    })
}

/// Where the schema of an answer stands in a request.
const SCHEMA_AT: &str = "response_format.json_schema.schema";

fn place_of(response_format: &ResponseFormat) -> &'static str {
    match response_format {
        ResponseFormat::Text => "response_format",
        ResponseFormat::JsonObject => "response_format",
        ResponseFormat::JsonSchema(_) => SCHEMA_AT,
        ResponseFormat::Regex(_) => "guided_regex",
        ResponseFormat::Lark(_) | ResponseFormat::Gbnf(_) => "grammar",
        ResponseFormat::Choice(_) => "guided_choice",
    }
}

/// The tools that an answer may call, and their syntax; `None` if it may call none.
fn chosen_tools<'a>(
    format: &'a ChatFormat,
    spec: &'a GuideSpec,
) -> Result<Option<(&'a Syntax, Vec<&'a Tool>)>, ChatError> {
    let tools: Vec<&Tool> = match &spec.tool_choice {
        ToolChoice::None => return Ok(None),
        ToolChoice::Auto if spec.tools.is_empty() => return Ok(None),
        ToolChoice::Auto | ToolChoice::Required => spec.tools.iter().collect(),
        ToolChoice::Named(name) => spec.tools.get(name).into_iter().collect(),
    };
    if tools.is_empty() {
        let what = match &spec.tool_choice {
            ToolChoice::Named(name) => format!("there is no tool called {name:?}"),
            _ => "there are no tools to choose from".to_owned(),
        };
        return Err(ChatError::constraint("tool_choice", what));
    }
    let syntax = format.syntax().ok_or(ChatError::NoTools)?;
    Ok(Some((syntax, tools)))
}

/// Whether calls of this syntax can be held to their schemas.
fn can_hold(syntax: &Syntax) -> bool {
    match syntax {
        Syntax::Harmony => true,
        Syntax::Calls(calls) => calls.form != crate::syntax::Form::Python,
    }
}

/// The grammar of an answer's text; `None` for any text.
fn answer_rules(
    grammar: &mut Grammar<'_>,
    response_format: &ResponseFormat,
) -> Result<Option<AnswerRules>, ChatError> {
    let mut own = None;
    let mut own_grammar = |lark: String| {
        let mut grammar = GrammarWithLexer::from_lark(lark);
        grammar.name = Some(OWN.to_owned());
        own = Some(grammar);
        format!("@{OWN}")
    };
    let expression = match response_format {
        ResponseFormat::Text => return Ok(None),
        ResponseFormat::JsonObject => grammar.json(&json!({"type": "object"})),
        ResponseFormat::JsonSchema(schema) => {
            schema::check(schema, SCHEMA_AT)?;
            grammar.json(schema)
        }
        ResponseFormat::Regex(regex) => format!("/{}/", llguidance::regex_to_lark(regex, "")),
        ResponseFormat::Lark(lark) => own_grammar(lark.clone()),
        ResponseFormat::Gbnf(gbnf) => {
            let lark = gbnf::to_lark(gbnf);
            own_grammar(lark.map_err(|what| ChatError::constraint("grammar", what))?)
        }
        ResponseFormat::Choice(texts) if texts.is_empty() => {
            return Err(ChatError::constraint("guided_choice", "there is nothing to choose from"));
        }
        ResponseFormat::Choice(texts) => {
            any_of(&texts.iter().map(|text| quoted(text)).collect::<Vec<_>>())
        }
    };
    Ok(Some(AnswerRules { expression, own }))
}
