//! What can be wrong with a conversation, a template or a constraint.

use zinc_gguf::GgufError;
use zinc_token::template::TemplateError;

/// Why a conversation or a constraint was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template cannot be used or refuses the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model file's metadata.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A message that cannot be rendered.
    #[error("{at}: {what}")]
    Message {
        /// Path of the field, such as `messages[2].content[0]`.
        at: String,
        /// What is wrong and what is expected.
        what: String,
    },
    /// A tool definition that cannot be used.
    #[error("{at}: {what}")]
    Tool {
        /// Path of the field, such as `tools[0].function.name`.
        at: String,
        /// What is wrong and what is expected.
        what: String,
    },
    /// Tools for a model whose template does not show them.
    #[error(
        "this model's chat template takes no tools; hint: leave out tools, or use another model"
    )]
    NoTools,
    /// Placeholders for control tokens ran out.
    #[error(
        "the messages spell control tokens and use private-use characters of both planes; hint: leave out one or the other"
    )]
    NoPlaceholders,
    /// The vocabulary's control tokens cannot be searched for.
    #[error("control tokens cannot be searched for: {0}")]
    ControlTokens(String),
    /// A constraint that cannot be held, or contradicts another one.
    #[error("{at}: {what}")]
    Constraint {
        /// Path of the field, such as `response_format.json_schema.schema.properties.a`.
        at: String,
        /// What is not supported or contradictory, and the next step.
        what: String,
    },
    /// A JSON schema that is none.
    #[error("{at}: {what}")]
    Schema {
        /// Path of the field, such as `response_format.json_schema.schema.properties.a.type`.
        at: String,
        /// What was expected.
        what: String,
    },
    /// The vocabulary cannot be used for constraints.
    #[error("this vocabulary cannot be constrained: {0}")]
    Vocabulary(String),
}

impl ChatError {
    pub(crate) fn message(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Message { at: at.into(), what: what.into() }
    }

    pub(crate) fn tool(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Tool { at: at.into(), what: what.into() }
    }

    pub(crate) fn constraint(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Constraint { at: at.into(), what: what.into() }
    }

    pub(crate) fn schema(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Schema { at: at.into(), what: what.into() }
    }

    /// The place in the request that is to blame, if there is one.
    pub(crate) fn place(&self) -> Option<&str> {
        match self {
            Self::Message { at, .. }
            | Self::Tool { at, .. }
            | Self::Constraint { at, .. }
            | Self::Schema { at, .. } => Some(at),
            _ => None,
        }
    }
}
