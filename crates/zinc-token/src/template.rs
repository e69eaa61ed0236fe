//! Chat templates: the model's own Jinja template rendered as Hugging Face transformers renders it (its sandbox,
//! `trim_blocks`, `lstrip_blocks`, loop controls, its `tojson`, `raise_exception` and `strftime_now`).
//!
//! minijinja parses and runs the templates. Values print, compare and behave as Python's do, because templates
//! rely on it; `rewrite` says how minijinja is taught that. A template comes from a file that someone else made,
//! so everything it does is bounded by [`TemplateLimits`].

mod args;
mod attrs;
mod bridge;
mod budget;
mod chars;
mod checks;
mod datetime;
mod engine;
mod escape;
mod filters;
mod guard;
mod json;
mod methods;
mod ops;
mod print;
mod printf;
mod rewrite;
mod value;

use serde_json::Map;

pub use datetime::DateTime;

/// What a template may consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateLimits {
    /// Largest source in bytes.
    pub max_source_bytes: u64,
    /// Most steps of one rendering: bytecode instructions, and in our own functions about one per element or per
    /// 64 bytes touched.
    pub max_steps: u64,
    /// Most bytes of values that one rendering may build, live or not.
    pub max_value_bytes: u64,
    /// Largest output in bytes.
    pub max_output_bytes: u64,
}

impl Default for TemplateLimits {
    /// A hundred times what the largest known templates need for a long conversation; a hostile template ends
    /// within seconds.
    fn default() -> Self {
        Self {
            max_source_bytes: 1 << 20,
            max_steps: 10_000_000,
            max_value_bytes: 256 << 20,
            max_output_bytes: 32 << 20,
        }
    }
}

/// Why a template was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is not a template.
    #[error("chat template{}: {message}", at_line(line))]
    Syntax {
        /// What was expected and found.
        message: String,
        /// Line of the template, from one.
        line: Option<u32>,
    },
    /// An operation failed while rendering.
    #[error("chat template{}: {message}", at_line(line))]
    Runtime {
        /// What failed.
        message: String,
        /// Line of the template, from one.
        line: Option<u32>,
    },
    /// The template called `raise_exception`: it does not take this conversation.
    #[error("the chat template refuses this conversation: {message}")]
    Raised {
        /// The template's own words.
        message: String,
        /// Line of the template, from one.
        line: Option<u32>,
    },
    /// The template wants more than [`TemplateLimits`] allow.
    #[error("chat template{}: more than {limit} {what}", at_line(line))]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
        /// Line of the template, from one.
        line: Option<u32>,
    },
    /// The input file has no usable conversation.
    #[error("template input: {0}")]
    Input(String),
}

fn at_line(line: &Option<u32>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

impl TemplateError {
    fn runtime(message: impl Into<String>) -> Self {
        Self::Runtime { message: message.into(), line: None }
    }

    fn limit(what: &'static str, limit: u64) -> Self {
        Self::Limit { what, limit, line: None }
    }

    /// The same error at a line, unless it knows its own.
    fn at(mut self, at: Option<usize>) -> Self {
        match &mut self {
            Self::Syntax { line, .. }
            | Self::Runtime { line, .. }
            | Self::Raised { line, .. }
            | Self::Limit { line, .. } => {
                *line = line.or(at.map(|at| at as u32));
            }
            Self::Input(_) => {}
        }
        self
    }

    /// Our error inside one of minijinja's, or its own words.
    fn from_engine(err: minijinja::Error, is_syntax: bool) -> Self {
        let line = err.line();
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&err);
        while let Some(inner) = source {
            if let Some(ours) = inner.downcast_ref::<Self>() {
                return ours.clone().at(line);
            }
            source = inner.source();
        }
        // minijinja has no kind of its own for its two recursion limits.
        if err.detail().is_some_and(|detail| detail.contains("recursion limit")) {
            let limit = if is_syntax { engine::MAX_NESTING } else { engine::MAX_FRAMES };
            return Self::limit("levels of nested blocks, parentheses and calls", limit as u64)
                .at(line);
        }
        let kind = err.kind();
        let message = err
            .detail()
            .map_or_else(|| kind.to_string(), |detail| detail.chars().take(500).collect());
        let line = line.map(|line| line as u32);
        if is_syntax { Self::Syntax { message, line } } else { Self::Runtime { message, line } }
    }
}

/// What one rendering is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateInput {
    /// The conversation: a list of objects with `role` and `content`.
    pub messages: serde_json::Value,
    /// The tools on offer as a list of JSON schemas; absent is `none` to the template.
    pub tools: Option<serde_json::Value>,
    /// Whether the output ends with the opening of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Text of the special tokens that the tokenizer names.
    pub bos_token: Option<String>,
    /// See `bos_token`.
    pub eos_token: Option<String>,
    /// See `bos_token`.
    pub pad_token: Option<String>,
    /// See `bos_token`.
    pub unk_token: Option<String>,
    /// What `strftime_now` reads; absent is the current time in UTC.
    pub now: Option<DateTime>,
    /// Further variables, such as `enable_thinking`.
    pub extra: Map<String, serde_json::Value>,
}

impl TemplateInput {
    /// A conversation to be answered.
    pub fn new(messages: serde_json::Value) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }

    /// Reads the form of an input file: `messages`, optional `tools`, `add_generation_prompt` (default true), the
    /// special tokens if given, and everything else as further variables.
    ///
    /// # Errors
    /// [`TemplateError::Input`] if `messages` is missing or is not a list of objects with a `role`, or if one of
    /// the named fields has another type.
    pub fn from_json(json: serde_json::Value) -> Result<Self, TemplateError> {
        use serde_json::Value;
        let Value::Object(mut fields) = json else {
            return Err(TemplateError::Input(
                "expected an object with the field 'messages'".into(),
            ));
        };
        let messages = fields.shift_remove("messages").ok_or_else(|| {
            TemplateError::Input("the field 'messages' is missing; it is a list of objects".into())
        })?;
        check_messages(&messages)?;
        let tools = match fields.shift_remove("tools") {
            None | Some(Value::Null) => None,
            Some(tools @ Value::Array(_)) => Some(tools),
            Some(_) => {
                return Err(TemplateError::Input("'tools' must be a list of JSON schemas".into()));
            }
        };
        let add_generation_prompt = match fields.shift_remove("add_generation_prompt") {
            None => true,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                return Err(TemplateError::Input(
                    "'add_generation_prompt' must be true or false".into(),
                ));
            }
        };
        let mut token = |name: &str| match fields.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TemplateError::Input(format!("'{name}' must be a string"))),
        };
        let (bos_token, eos_token) = (token("bos_token")?, token("eos_token")?);
        let (pad_token, unk_token) = (token("pad_token")?, token("unk_token")?);
        Ok(Self {
            messages,
            tools,
            add_generation_prompt,
            bos_token,
            eos_token,
            pad_token,
            unk_token,
            now: None,
            extra: fields,
        })
    }

    /// All variables by name. What transformers always passes is always defined.
    fn variables(&self) -> Map<String, serde_json::Value> {
        use serde_json::Value;
        let mut variables = Map::new();
        variables.insert("documents".into(), Value::Null);
        variables.extend(self.extra.clone());
        variables.insert("messages".into(), self.messages.clone());
        variables.insert("tools".into(), self.tools.clone().unwrap_or(Value::Null));
        variables.insert("add_generation_prompt".into(), Value::Bool(self.add_generation_prompt));
        let tokens = [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("pad_token", &self.pad_token),
            ("unk_token", &self.unk_token),
        ];
        for (name, token) in tokens {
            if let Some(token) = token {
                variables.insert(name.into(), Value::String(token.clone()));
            }
        }
        variables
    }
}

fn check_messages(messages: &serde_json::Value) -> Result<(), TemplateError> {
    let Some(list) = messages.as_array() else {
        return Err(TemplateError::Input("'messages' must be a list of objects".into()));
    };
    for (idx, message) in list.iter().enumerate() {
        if !message.get("role").is_some_and(serde_json::Value::is_string) {
            return Err(TemplateError::Input(format!(
                "messages[{idx}] must be an object with a string 'role'"
            )));
        }
    }
    Ok(())
}

/// A chat template that parses.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    /// The source as `guard` respelled it. Bytecode borrows it, so each rendering compiles again: a fraction of
    /// a millisecond.
    source: String,
    limits: TemplateLimits,
}

impl ChatTemplate {
    /// Checks and parses a template.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] with the line, or [`TemplateError::Limit`] if the source is too large or nests
    /// too deeply.
    pub fn new(source: &str, limits: TemplateLimits) -> Result<Self, TemplateError> {
        if source.len() as u64 > limits.max_source_bytes {
            return Err(TemplateError::limit("bytes of source", limits.max_source_bytes));
        }
        // Python reads templates with universal newlines.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = guard::check(&source, &engine::syntax()?)?;
        engine::compile(&source)?;
        Ok(Self { source, limits })
    }

    /// Renders the prompt of a conversation.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template refuses the conversation, [`TemplateError::Limit`] if it wants
    /// more than the limits allow, [`TemplateError::Runtime`] for every other failure.
    pub fn render(&self, input: &TemplateInput) -> Result<String, TemplateError> {
        let now = input.now.unwrap_or_else(DateTime::now_utc);
        engine::render(&self.source, &input.variables(), now, self.limits)
    }

    /// Whether the template mentions tools at all.
    pub fn supports_tools(&self) -> bool {
        self.mentions("tools")
    }

    /// Whether the template has the switch `enable_thinking`.
    pub fn supports_thinking_switch(&self) -> bool {
        self.mentions("enable_thinking")
    }

    /// Whether a word of the source is `name`.
    fn mentions(&self, name: &str) -> bool {
        self.source.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name)
    }
}
