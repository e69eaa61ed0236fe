//! How a model writes tool calls, as data: the parser reads by it, the guides write by it.

mod mark;

pub(crate) use mark::{Found, Mark, MarkPiece};

/// The syntax of a model's tool calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Syntax {
    /// Calls between marks in the text.
    Calls(Box<CallSyntax>),
    /// GPT-OSS: messages with channels and recipients.
    Harmony,
}

/// Calls between marks: `section_open (open CALL close)* section_close`, where any mark may be empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CallSyntax {
    /// What it is called.
    pub name: &'static str,
    /// Before the first call.
    pub section_open: Mark,
    /// Behind the last one.
    pub section_close: Mark,
    /// The calls are the items of a JSON list.
    pub list: bool,
    /// Before each call.
    pub open: Mark,
    /// What a call is made of.
    pub form: Form,
    /// Behind each call.
    pub close: Mark,
    /// Other marks that may stand where `open` does.
    pub other_opens: Vec<Mark>,
    /// An answer may have several.
    pub parallel: bool,
    /// Blanks that the template writes between two calls.
    pub between: String,
    /// For templates whose prompts end with `open`, whatever the answer is to be: what opens a text there.
    /// Empty for all others.
    pub text_open: String,
}

/// What a call is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// `{"name": NAME, "arguments": {...}}`, with these keys.
    Object {
        /// Key of the name.
        name: String,
        /// Key of the arguments.
        arguments: String,
    },
    /// `{"NAME": {...}}`.
    Keyed,
    /// NAME, a mark, the arguments as JSON.
    Named {
        /// Between name and arguments.
        mid: Mark,
    },
    /// NAME, a mark, and each argument between marks of its own.
    Params(Params),
    /// `NAME{key:<|"|>text<|"|>,other:1}`.
    Gemma,
    /// `NAME(key='text', other=1)`.
    Python,
}

/// Marks of arguments that stand between tags.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Params {
    /// Behind the tool's name.
    pub mid: Mark,
    /// Before a key.
    pub open: Mark,
    /// Between key and value.
    pub key_end: Mark,
    /// The same for values that are JSON rather than text, where the syntax tells.
    pub key_end_json: Option<Mark>,
    /// Behind a value.
    pub value_end: Mark,
    /// One line break at both ends of a value belongs to the tags.
    pub lines: bool,
}

impl Syntax {
    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Calls(calls) => calls.name,
            Self::Harmony => "harmony",
        }
    }

    /// Texts that the parser looks for.
    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::Calls(calls) => calls.marks().iter().flat_map(|mark| mark.texts()).collect(),
            Self::Harmony => {
                let tokens =
                    ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>"];
                tokens.map(str::to_owned).to_vec()
            }
        }
    }
}

impl CallSyntax {
    fn marks(&self) -> Vec<Mark> {
        let mut marks = vec![
            self.section_open.clone(),
            self.section_close.clone(),
            self.open.clone(),
            self.close.clone(),
        ];
        marks.extend(self.other_opens.clone());
        match &self.form {
            Form::Named { mid } => marks.push(mid.clone()),
            Form::Params(params) => {
                let Params { mid, open, key_end, key_end_json, value_end, .. } = params.clone();
                marks.extend([mid, open, key_end, value_end]);
                marks.extend(key_end_json);
            }
            Form::Gemma => marks.push(Mark::new(GEMMA_QUOTE)),
            Form::Object { .. } | Form::Keyed | Form::Python => {}
        }
        marks
    }

    /// Whether the prompt of an answer ends with the opening mark.
    pub(crate) fn is_opened_by(&self, prompt: &str) -> bool {
        !self.text_open.is_empty() && prompt.ends_with(self.open.first_text())
    }

    /// Whether no mark tells a call from text: then only the begin of the answer can.
    pub(crate) fn is_bare(&self) -> bool {
        self.section_open.is_empty() && self.open.is_empty()
    }
}

/// Gemma's quotation mark, one token.
pub(crate) const GEMMA_QUOTE: &str = "<|\"|>";
