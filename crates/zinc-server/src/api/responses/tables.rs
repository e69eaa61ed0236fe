//! The body of `/v1/responses`.

use super::super::common::{
    ANY_OBJECT, BOOKKEEPING, EFFORT, FLAT_TOOL_CHOICE, MODEL, STRICT, TEXT_FORMAT, TEXT_ONLY,
};
use crate::sampling::{COMMON, MORE, TOKENS, TOP_LOGPROBS};
use crate::schema::{Field, Kind, Neutral, Object, Tagged, accepted, refused, required, used};

const HOSTED: &str = "zinc runs no tools itself";
const STORED: &str = "zinc stores nothing; send the whole conversation as input";

const TYPE: &[Field] = &[required("type", Kind::Text, "The form.")];
const ITEM: &[Field] = &[
    used("type", Kind::Text, "The form."),
    accepted("id", Kind::Text),
    accepted("status", Kind::Text),
];
const TEXT_PART: Object = Object {
    name: "InputText",
    groups: &[
        TYPE,
        &[
            required("text", Kind::Text, "The text."),
            accepted("annotations", Kind::Any),
            accepted("logprobs", Kind::Any),
        ],
    ],
};
const REFUSAL: Object = Object {
    name: "OutputRefusal",
    groups: &[TYPE, &[required("refusal", Kind::Text, "What the model said.")]],
};
const PARTS: Kind = Kind::List(
    &Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[
            ("input_text", &TEXT_PART),
            ("output_text", &TEXT_PART),
            ("text", &TEXT_PART),
            ("refusal", &REFUSAL),
        ],
        refused: &[
            ("input_image", TEXT_ONLY),
            ("input_file", TEXT_ONLY),
            ("input_audio", TEXT_ONLY),
        ],
    }),
    0,
    usize::MAX,
);
const CONTENT: Kind = Kind::AnyOf(&[Kind::Text, PARTS]);
const MESSAGE: Object = Object {
    name: "InputMessage",
    groups: &[
        ITEM,
        &[
            required(
                "role",
                Kind::Choice(&["user", "assistant", "system", "developer"]),
                "Who speaks.",
            ),
            required("content", CONTENT, "What is said."),
            accepted("phase", Kind::Text),
        ],
    ],
};
const CALL: Object = Object {
    name: "FunctionCallItem",
    groups: &[
        ITEM,
        &[
            required("call_id", Kind::Text, "Names the call."),
            required("name", Kind::Text, "The tool."),
            required("arguments", Kind::Text, "A JSON object, as text."),
        ],
    ],
};
const OUTPUT: Object = Object {
    name: "FunctionCallOutputItem",
    groups: &[
        ITEM,
        &[
            required("call_id", Kind::Text, "The call it answers."),
            required("output", CONTENT, "What the tool said."),
        ],
    ],
};
const THOUGHT: Object =
    Object { name: "ReasoningText", groups: &[TYPE, &[required("text", Kind::Text, "The text.")]] };
const THOUGHTS: Kind = Kind::List(&Kind::Object(&THOUGHT), 0, usize::MAX);
const REASONING_ITEM: Object = Object {
    name: "ReasoningItem",
    groups: &[
        ITEM,
        &[
            used("summary", THOUGHTS, "Read where there is no content."),
            used("content", THOUGHTS, "What was thought."),
            refused("encrypted_content", &[Neutral::Text("")], "only who wrote it can read it"),
        ],
    ],
};
const INPUT: Kind = Kind::AnyOf(&[
    Kind::Text,
    Kind::List(
        &Kind::Tagged(&Tagged {
            key: "type",
            default: Some("message"),
            forms: &[
                ("message", &MESSAGE),
                ("function_call", &CALL),
                ("function_call_output", &OUTPUT),
                ("reasoning", &REASONING_ITEM),
            ],
            refused: &[
                ("item_reference", STORED),
                ("computer_call", HOSTED),
                ("computer_call_output", HOSTED),
                ("file_search_call", HOSTED),
                ("web_search_call", HOSTED),
                ("image_generation_call", HOSTED),
                ("code_interpreter_call", HOSTED),
                ("local_shell_call", HOSTED),
                ("local_shell_call_output", HOSTED),
                ("mcp_call", HOSTED),
                ("custom_tool_call", "zinc's tools take JSON"),
                ("custom_tool_call_output", "zinc's tools take JSON"),
            ],
        }),
        1,
        usize::MAX,
    ),
]);
const TOOL: Object = Object {
    name: "FunctionTool",
    groups: &[
        TYPE,
        &[
            required("name", Kind::Text, "What the model calls it."),
            used("description", Kind::Text, "What it is for."),
            used("parameters", ANY_OBJECT, "JSON schema of its arguments."),
            STRICT,
        ],
    ],
};
const TOOLS: Kind = Kind::List(
    &Kind::Tagged(&Tagged {
        key: "type",
        default: None,
        forms: &[("function", &TOOL)],
        refused: &[
            ("web_search", HOSTED),
            ("web_search_preview", HOSTED),
            ("file_search", HOSTED),
            ("code_interpreter", HOSTED),
            ("image_generation", HOSTED),
            ("computer_use_preview", HOSTED),
            ("local_shell", HOSTED),
            ("shell", HOSTED),
            ("apply_patch", HOSTED),
            ("mcp", HOSTED),
            ("custom", "zinc's tools take JSON"),
        ],
    }),
    0,
    1024,
);
const TEXT: Object = Object {
    name: "ResponseText",
    groups: &[&[
        used("format", Kind::Tagged(&TEXT_FORMAT), "The form of the answer."),
        refused("verbosity", &[Neutral::Text("medium")], "ask for it in a message"),
    ]],
};
const REASONING: Object = Object {
    name: "ReasoningOptions",
    groups: &[&[
        used("effort", EFFORT, "How much to think; none is not at all."),
        Field {
            doc: "Accepted: reasoning is told whole, which is more than a summary.",
            ..accepted("summary", Kind::Choice(&["auto", "concise", "detailed", "none"]))
        },
        accepted("generate_summary", Kind::Choice(&["auto", "concise", "detailed"])),
    ]],
};
const STREAM_OPTIONS: Object = Object {
    name: "ResponseStreamOptions",
    groups: &[&[accepted("include_obfuscation", Kind::Flag)]],
};

const FIELDS: &[Field] = &[
    required("input", INPUT, "The conversation: a text, or items."),
    used("instructions", Kind::Text, "Who the model is: the first message."),
    used("max_output_tokens", TOKENS, "Most tokens of the answer."),
    used("tools", TOOLS, "Tools on offer."),
    used("tool_choice", FLAT_TOOL_CHOICE, "Whether tools are called."),
    used("parallel_tool_calls", Kind::Flag, "Whether more than one at a time."),
    used("text", Kind::Object(&TEXT), "The form of the answer."),
    used("reasoning", Kind::Object(&REASONING), "How much to think."),
    used(
        "include",
        Kind::List(
            &Kind::Choice(&["message.output_text.logprobs", "reasoning.encrypted_content"]),
            0,
            16,
        ),
        "Log-probabilities; reasoning is told in plain text anyway.",
    ),
    used("top_logprobs", TOP_LOGPROBS, "Log-probabilities of so many alternatives."),
    used("chat_template_kwargs", ANY_OBJECT, "Variables of the template."),
    used("stream", Kind::Flag, "Server-sent events instead of one response."),
    accepted("stream_options", Kind::Object(&STREAM_OPTIONS)),
    refused("previous_response_id", &[], STORED),
    refused("conversation", &[], STORED),
    refused("background", &[Neutral::Flag(false)], "an answer is given at once"),
    refused("truncation", &[Neutral::Text("disabled")], "zinc never cuts a conversation"),
    refused("max_tool_calls", &[], HOSTED),
    refused("prompt", &[], STORED),
    refused("context_management", &[Neutral::EmptyList], "zinc never cuts a conversation"),
    accepted("client_metadata", ANY_OBJECT),
];

/// The body.
pub const BODY: Object =
    Object { name: "ResponsesRequest", groups: &[MODEL, FIELDS, COMMON, MORE, BOOKKEEPING] };
