//! What an answer may be held to.

use serde_json::Value;

use crate::Tools;

/// The form of the answer's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that satisfies this schema.
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole (Rust's `regex` syntax, no look-around).
    Regex(String),
    /// A grammar in llguidance's variant of Lark.
    Lark(String),
    /// A grammar as llama.cpp writes it.
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Whether the answer calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It calls none.
    None,
    /// As the model likes; what it calls satisfies the tool's schema.
    #[default]
    Auto,
    /// It calls at least one.
    Required,
    /// It calls this one.
    Named(String),
}

/// Everything that one answer is held to.
#[derive(Clone, Debug, PartialEq)]
pub struct GuideSpec {
    /// The form of the text.
    pub response_format: ResponseFormat,
    /// Tools on offer, as in the prompt.
    pub tools: Tools,
    /// Whether they are called.
    pub tool_choice: ToolChoice,
    /// Whether one answer may call more than once.
    pub parallel_tool_calls: bool,
    /// Most tokens of reasoning: then the closing text is forced and the answer goes on.
    pub thinking_budget: Option<u32>,
}

impl Default for GuideSpec {
    fn default() -> Self {
        Self {
            response_format: ResponseFormat::default(),
            tools: Tools::default(),
            tool_choice: ToolChoice::default(),
            parallel_tool_calls: true,
            thinking_budget: None,
        }
    }
}
