//! Conversations to prompts and answers back to messages, for one model's own chat format.
//!
//! A [`ChatFormat`] is what a model file says about conversations: its template, and, learned by
//! rendering that template, how it writes reasoning and tool calls. It makes a [`ChatPrompt`] of a
//! [`ChatInput`]; an [`AnswerParser`] turns the text of the answer into [`Delta`]s while it streams
//! in; and a [`GuideFactory`] makes guides that hold an answer to a JSON schema, a grammar, a choice of
//! tools or a thinking budget.
//!
//! **Contract.** Text of a message never becomes a control token. Whatever a model emits, and
//! however it is cut into pieces, the deltas are the same, arguments are valid JSON, and no character
//! of an answer is lost that is not part of a call, a tag or the blanks beside one. What a guide cannot
//! hold an answer to is refused with its place, never ignored. Nothing here knows a model's name.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod error;
mod format;
mod guide;
mod input;
mod probe;
mod prompt;
mod shield;
mod spec;
mod syntax;

pub use answer::{AnswerParser, Delta};
pub use error::ChatError;
pub use format::{ChatFormat, SpecialTexts, Thinking, template_source};
pub use guide::GuideFactory;
pub use input::{ChatInput, Tool, Tools, whole_members};
pub use prompt::{ChatPrompt, with_bos};
pub use spec::{GuideSpec, ResponseFormat, ToolChoice};
