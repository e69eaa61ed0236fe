//! Tables and values that several APIs share.

use serde_json::{Map, Value, json};
use zinc_chat::{ResponseFormat, ToolChoice};
use zinc_engine::sampler::TokenLogprobs;
use zinc_token::Tokenizer;

use crate::ApiError;
use crate::conversation::{Ask, Thinking};
use crate::run::Totals;
use crate::schema::{
    Body, Field, Kind, Neutral, Object, Tagged, accepted, refused, required, used,
};

/// An object of any form.
pub const ANY_OBJECT: Kind = Kind::Map(&Kind::Any);

/// The model's name.
pub const MODEL: &[Field] =
    &[used("model", Kind::Text, "The model; absent is the server's first.")];

/// Bookkeeping of OpenAI's clients.
pub const BOOKKEEPING: &[Field] = &[
    accepted("user", Kind::Text),
    accepted("metadata", ANY_OBJECT),
    accepted("store", Kind::Flag),
    accepted("service_tier", Kind::Text),
    accepted("safety_identifier", Kind::Text),
    accepted("prompt_cache_key", Kind::Text),
    accepted("prompt_cache_retention", Kind::Text),
];

/// Options of a stream.
pub const STREAM_OPTIONS: Object = Object {
    name: "StreamOptions",
    groups: &[&[
        used("include_usage", Kind::Flag, "One more event with the tokens of the request."),
        accepted("include_obfuscation", Kind::Flag),
        refused("continuous_usage_stats", &[Neutral::Flag(false)], "usage comes at the end"),
    ]],
};

/// Whether and how to stream.
pub const STREAM: &[Field] = &[
    used("stream", Kind::Flag, "Server-sent events instead of one response."),
    used("stream_options", Kind::Object(&STREAM_OPTIONS), "What else the stream tells."),
];

/// Whether a tool's schema is held to the letter.
pub const STRICT: Field = used(
    "strict",
    Kind::Flag,
    "True: calls satisfy the schema, and one with a keyword that cannot be held is refused. Else such a \
     keyword is left to the model, the rest of the schema is held, and the log tells what is left out.",
);

/// Why images and the like are refused.
pub const TEXT_ONLY: &str = "zinc's models read text only";

/// A part of type `text`.
pub const TEXT_PART: Object = Object {
    name: "TextPart",
    groups: &[&[
        required("type", Kind::Text, "text"),
        required("text", Kind::Text, "The text."),
        accepted("cache_control", ANY_OBJECT),
        accepted("prompt_cache_breakpoint", ANY_OBJECT),
    ]],
};

/// Constraints on the text of an answer, by vLLM's and llama.cpp's names.
pub const CONSTRAINTS: &[Field] = &[
    used("guided_json", Kind::AnyOf(&[ANY_OBJECT, Kind::Text]), "A JSON schema (vLLM)."),
    used("guided_regex", Kind::Text, "A regular expression (vLLM)."),
    used("guided_choice", Kind::List(&Kind::Text, 1, 1024), "One of these texts (vLLM)."),
    used("guided_grammar", Kind::Text, "A grammar: GBNF, or Lark if it has a rule start (vLLM)."),
    used("structured_outputs", Kind::Object(&STRUCTURED), "The same in one object (vLLM)."),
    used("grammar", Kind::Text, "A grammar in GBNF (llama.cpp)."),
    used("json_schema", ANY_OBJECT, "A JSON schema (llama.cpp)."),
    refused("guided_decoding_backend", &[], "there is one"),
    refused("guided_whitespace_pattern", &[], "blanks follow the schema"),
    refused("grammar_lazy", &[Neutral::Flag(false)], "a grammar holds from the start"),
    refused("grammar_triggers", &[Neutral::EmptyList], "a grammar holds from the start"),
];

const STRUCTURED: Object = Object {
    name: "StructuredOutputs",
    groups: &[&[
        used("json", Kind::AnyOf(&[ANY_OBJECT, Kind::Text]), "A JSON schema."),
        used("regex", Kind::Text, "A regular expression."),
        used("choice", Kind::List(&Kind::Text, 1, 1024), "One of these texts."),
        used("grammar", Kind::Text, "A grammar."),
        used("json_object", Kind::Flag, "Any JSON object."),
        refused("disable_any_whitespace", &[Neutral::Flag(false)], "blanks follow the schema"),
        refused("structural_tag", &[], "use tools"),
    ]],
};

const SCHEMA_FORMAT: &[Field] = &[
    required("name", Kind::Text, "A name for the schema; has no effect."),
    used("schema", ANY_OBJECT, "The schema."),
    accepted("description", Kind::Text),
    accepted("strict", Kind::Flag),
];
const TYPE: &[Field] = &[required("type", Kind::Text, "The form.")];
const PLAIN_FORMAT: Object = Object { name: "TextFormat", groups: &[TYPE] };
const JSON_OBJECT_FORMAT: Object = Object {
    name: "JsonObjectFormat",
    groups: &[TYPE, &[used("schema", ANY_OBJECT, "A JSON schema (llama.cpp).")]],
};
const JSON_SCHEMA: Object = Object { name: "JsonSchema", groups: &[SCHEMA_FORMAT] };
const JSON_SCHEMA_FORMAT: Object = Object {
    name: "JsonSchemaFormat",
    groups: &[TYPE, &[required("json_schema", Kind::Object(&JSON_SCHEMA), "The schema.")]],
};
const FLAT_SCHEMA_FORMAT: Object =
    Object { name: "JsonSchemaTextFormat", groups: &[TYPE, SCHEMA_FORMAT] };

/// The form of an answer in chat completions.
pub const RESPONSE_FORMAT: Tagged = Tagged {
    key: "type",
    default: None,
    forms: &[
        ("text", &PLAIN_FORMAT),
        ("json_object", &JSON_OBJECT_FORMAT),
        ("json_schema", &JSON_SCHEMA_FORMAT),
    ],
    refused: &[("grammar", "use guided_grammar"), ("structural_tag", "use tools")],
};

/// The form of an answer in responses and messages: the schema is not nested.
pub const TEXT_FORMAT: Tagged = Tagged {
    key: "type",
    default: None,
    forms: &[
        ("text", &PLAIN_FORMAT),
        ("json_object", &JSON_OBJECT_FORMAT),
        ("json_schema", &FLAT_SCHEMA_FORMAT),
    ],
    refused: &[],
};

/// The form that a field of [`RESPONSE_FORMAT`] or [`TEXT_FORMAT`] asks for.
///
/// # Errors
/// A form without its schema.
pub fn response_format(body: &Body<'_>, name: &str) -> Result<ResponseFormat, ApiError> {
    let Some(format) = body.object(name) else {
        return Ok(ResponseFormat::Text);
    };
    match format.text("type") {
        Some("json_object") => Ok(match format.get("schema") {
            Some(schema) => ResponseFormat::JsonSchema(schema.clone()),
            None => ResponseFormat::JsonObject,
        }),
        Some("json_schema") => {
            let nested = format.object("json_schema");
            let holder = nested.as_ref().unwrap_or(&format);
            match holder.get("schema") {
                Some(schema) => Ok(ResponseFormat::JsonSchema(schema.clone())),
                None => {
                    Err(holder.problem("schema", "required: there is nothing to hold to").into())
                }
            }
        }
        _ => Ok(ResponseFormat::Text),
    }
}

/// The one constraint that a body asks for, by any of its names.
///
/// # Errors
/// Two of them, or a schema that is no JSON.
pub fn constraint(body: &Body<'_>, format: ResponseFormat) -> Result<ResponseFormat, ApiError> {
    let mut found = Vec::new();
    if format != ResponseFormat::Text {
        found.push(("response_format".to_owned(), format));
    }
    let structured = body.object("structured_outputs");
    for (holder, json, regex, choice, grammar) in [
        (Some(body), "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        (structured.as_ref(), "json", "regex", "choice", "grammar"),
    ] {
        let Some(holder) = holder else { continue };
        if let Some(schema) = holder.get(json) {
            found.push((
                holder.path(json),
                ResponseFormat::JsonSchema(schema_of(holder, json, schema)?),
            ));
        }
        if let Some(pattern) = holder.text(regex) {
            found.push((holder.path(regex), ResponseFormat::Regex(pattern.into())));
        }
        if holder.get(choice).is_some() {
            found.push((holder.path(choice), ResponseFormat::Choice(holder.texts(choice))));
        }
        if let Some(text) = holder.text(grammar) {
            found.push((holder.path(grammar), grammar_of(text)));
        }
    }
    if structured.as_ref().and_then(|s| s.flag("json_object")) == Some(true) {
        found.push(("structured_outputs.json_object".into(), ResponseFormat::JsonObject));
    }
    if let Some(text) = body.text("grammar").filter(|text| !text.is_empty()) {
        found.push(("grammar".into(), ResponseFormat::Gbnf(text.into())));
    }
    if let Some(schema) = body.get("json_schema") {
        found.push(("json_schema".into(), ResponseFormat::JsonSchema(schema.clone())));
    }
    if let [(first, _), (second, _), ..] = &found[..] {
        let what = format!("an answer has one form, but {first} asks for another");
        return Err(ApiError::field(second.clone(), what));
    }
    Ok(found.pop().map_or(ResponseFormat::Text, |(_, format)| format))
}

fn schema_of(holder: &Body<'_>, name: &str, schema: &Value) -> Result<Value, ApiError> {
    match schema {
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            holder.problem(name, format!("the schema is no JSON: {error}")).into()
        }),
        schema => Ok(schema.clone()),
    }
}

/// vLLM takes both sorts; Lark names its start with a colon, GBNF its root with `::=`.
fn grammar_of(text: &str) -> ResponseFormat {
    match text.contains("::=") {
        true => ResponseFormat::Gbnf(text.into()),
        false => ResponseFormat::Lark(text.into()),
    }
}

/// How much to think.
pub const EFFORT: Kind =
    Kind::Choice(&["none", "minimal", "low", "medium", "high", "xhigh", "max"]);

/// What an effort asks for.
pub fn thinking(effort: Option<&str>, field: &'static str) -> Thinking {
    Thinking {
        switch: effort.map(|effort| effort != "none"),
        switch_field: field,
        effort: effort.map(str::to_owned),
        budget: None,
        budget_field: "thinking_budget",
    }
}

/// What a template is given by the request's own fields, or by the model.
const OWN_VARIABLES: [&str; 8] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
];

/// Further variables of the template.
///
/// # Errors
/// They name what something else sets.
pub fn template_kwargs(body: &Body<'_>) -> Result<Map<String, Value>, ApiError> {
    let Some(kwargs) = body.object("chat_template_kwargs") else { return Ok(Map::new()) };
    let mut variables = kwargs.map().clone();
    // What says nothing is let through: nothing, and that an answer is wanted.
    variables.retain(|name, value| {
        let says_nothing = value.is_null() || (name == "add_generation_prompt" && *value == true);
        !(says_nothing && OWN_VARIABLES.contains(&name.as_str()))
    });
    match OWN_VARIABLES.iter().find(|name| variables.contains_key(**name)) {
        None => Ok(variables),
        Some(name) => {
            let what = "the request's own fields, or the model, set this variable; leave it out";
            Err(ApiError::unsupported(kwargs.path(name), what))
        }
    }
}

const FUNCTION_NAME: Object =
    Object { name: "FunctionName", groups: &[&[required("name", Kind::Text, "The tool's name.")]] };
const NAMED: Object = Object {
    name: "NamedToolChoice",
    groups: &[TYPE, &[required("function", Kind::Object(&FUNCTION_NAME), "The tool to call.")]],
};
const FLAT_NAMED: Object = Object {
    name: "NamedFunctionChoice",
    groups: &[TYPE, &[required("name", Kind::Text, "The tool to call.")]],
};
const ALLOWED: &[Field] = &[
    required("mode", Kind::Choice(&["auto", "required"]), "Whether a call is needed."),
    required("tools", Kind::List(&ANY_OBJECT, 1, 1024), "The tools that may be called."),
];
const ALLOWED_TOOLS: Object = Object { name: "AllowedTools", groups: &[ALLOWED] };
const NESTED_ALLOWED: Object = Object {
    name: "AllowedToolChoice",
    groups: &[TYPE, &[required("allowed_tools", Kind::Object(&ALLOWED_TOOLS), "The tools.")]],
};
const FLAT_ALLOWED: Object = Object { name: "AllowedToolsChoice", groups: &[TYPE, ALLOWED] };
const HOSTED: &str = "zinc runs no tools itself";

/// `tool_choice` of chat completions.
pub const TOOL_CHOICE: Kind = Kind::AnyOf(&[
    Kind::Choice(&["none", "auto", "required"]),
    Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[("function", &NAMED), ("allowed_tools", &NESTED_ALLOWED)],
        refused: &[("custom", "zinc's tools take JSON")],
    }),
]);

/// `tool_choice` of responses.
pub const FLAT_TOOL_CHOICE: Kind = Kind::AnyOf(&[
    Kind::Choice(&["none", "auto", "required"]),
    Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[("function", &FLAT_NAMED), ("allowed_tools", &FLAT_ALLOWED)],
        refused: &[
            ("custom", "zinc's tools take JSON"),
            ("mcp", HOSTED),
            ("file_search", HOSTED),
            ("web_search_preview", HOSTED),
            ("code_interpreter", HOSTED),
        ],
    }),
]);

/// Puts what `tool_choice` says into `ask`.
///
/// # Errors
/// An allowed tool without a name.
pub fn read_tool_choice(body: &Body<'_>, ask: &mut Ask) -> Result<(), ApiError> {
    if let Some(word) = body.text("tool_choice") {
        ask.tool_choice = word_choice(word);
        return Ok(());
    }
    let Some(choice) = body.object("tool_choice") else {
        if ask.tools.is_empty() {
            ask.tool_choice = ToolChoice::Auto;
        }
        return Ok(());
    };
    if choice.text("type") == Some("function") {
        let nested = choice.object("function");
        let name = nested.as_ref().unwrap_or(&choice).text("name").unwrap_or_default();
        ask.tool_choice = ToolChoice::Named(name.into());
        return Ok(());
    }
    let nested = choice.object("allowed_tools");
    let allowed = nested.as_ref().unwrap_or(&choice);
    ask.tool_choice = word_choice(allowed.text("mode").unwrap_or("auto"));
    let name = |tool: Body<'_>| {
        let name = tool.object("function").and_then(|f| f.text("name")).or(tool.text("name"));
        name.map(str::to_owned).ok_or_else(|| tool.problem("name", "required; expected a string"))
    };
    ask.allowed_tools = Some(allowed.objects("tools").map(name).collect::<Result<_, _>>()?);
    Ok(())
}

fn word_choice(word: &str) -> ToolChoice {
    match word {
        "none" => ToolChoice::None,
        "required" => ToolChoice::Required,
        _ => ToolChoice::Auto,
    }
}

/// OpenAI's `usage`.
pub fn usage(total: Totals, n_reasoning: usize) -> Value {
    json!({
        "prompt_tokens": total.n_prompt,
        "completion_tokens": total.n_generated,
        "total_tokens": total.n_prompt + total.n_generated,
        "prompt_tokens_details": {"cached_tokens": total.n_reused},
        "completion_tokens_details": {"reasoning_tokens": n_reasoning},
    })
}

/// A token and its log-probabilities in the form of chat completions and responses.
pub fn token_logprobs(tokenizer: &Tokenizer, id: u32, logprobs: &TokenLogprobs) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.vocab().piece(id);
        json!({"token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes})
    };
    let mut entry = one(id, logprobs.logprob);
    entry["top_logprobs"] = logprobs.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
    entry
}

/// JSON has no infinity: a token that cannot come has the least number that clients know.
pub fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// A number as its shortest decimal, so that 0.8 stays 0.8.
pub fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Version of the program, as OpenAI's `system_fingerprint`.
pub const FINGERPRINT: &str = concat!("zinc-", env!("CARGO_PKG_VERSION"));
