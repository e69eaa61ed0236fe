//! Small templates of each syntax.

use zinc_chat::ChatFormat;
use zinc_token::Tokenizer;

/// A template for each syntax, in the words that it is recognised by.
pub const TEMPLATES: [(&str, &str); 10] = [
    (
        "hermes",
        "{% for c in m.tool_calls %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>\n{% endfor %}",
    ),
    (
        "qwen3-coder",
        "{% for c in m.tool_calls %}<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>\n{% endfor %}",
    ),
    (
        "mistral",
        "[TOOL_CALLS][{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}{% if not loop.last %}, {% endif %}{% endfor %}]",
    ),
    (
        "mistral-args",
        "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}",
    ),
    (
        "llama3",
        "{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"parameters\": {{ c.function.arguments | tojson }}}{% endfor %}",
    ),
    (
        "deepseek-v3",
        "<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}\n```json\n{{ c.function.arguments | tojson }}\n```<｜tool▁call▁end｜>{% if not loop.last %}\n{% endif %}{% endfor %}<｜tool▁calls▁end｜>",
    ),
    (
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>",
    ),
    (
        "gemma4",
        "{% for c in m.tool_calls %}<|tool_call>call:{{ c.function.name }}{{ '{' }}{% for k, v in c.function.arguments | items %}{{ k }}:{{ '<|\"|>' ~ v ~ '<|\"|>' if v is string else v | tojson }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}<tool_call|>{% endfor %}",
    ),
    (
        "python",
        "<|tool_call_start|>[{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}='{{ v }}'{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}, {% endif %}{% endfor %}]<|tool_call_end|>",
    ),
    ("harmony", "<|channel|>analysis commentary final<|message|>"),
];

fn template(calls: &str) -> String {
    format!(
        "{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{{% for m in messages %}}<|{{{{ m.role }}}}|>{{% if m.tool_calls %}}{calls}{{% else %}}{{% if m.reasoning_content %}}<think>\n{{{{ m.reasoning_content }}}}\n</think>\n\n{{% endif %}}{{{{ m.content }}}}{{% endif %}}<|im_end|>\n{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
    )
}

/// The format of a template around calls.
pub fn format_of(tokenizer: &Tokenizer, calls: &str) -> ChatFormat {
    ChatFormat::from_templates(tokenizer, &template(calls), None).unwrap()
}

/// A call of `get_weather`, or of another name, in each syntax.
pub fn call(syntax: &str, name: &str) -> String {
    match syntax {
        "hermes" => format!(
            "<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"city\": \"Rome\", \"days\": 2}}}}\n</tool_call>"
        ),
        "qwen3-coder" => format!(
            "<tool_call>\n<function={name}>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
        ),
        "mistral" => format!(
            "[TOOL_CALLS][{{\"name\": \"{name}\", \"arguments\": {{\"city\": \"Rome\", \"days\": 2}}}}]"
        ),
        "mistral-args" => format!("[TOOL_CALLS]{name}[ARGS]{{\"city\": \"Rome\", \"days\": 2}}"),
        "llama3" => {
            format!("{{\"name\": \"{name}\", \"parameters\": {{\"city\": \"Rome\", \"days\": 2}}}}")
        }
        "deepseek-v3" => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{{\"city\": \"Rome\", \"days\": 2}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        "deepseek-v3.1" => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{{\"city\": \"Rome\", \"days\": 2}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        "gemma4" => format!("<|tool_call>call:{name}{{city:<|\"|>Rome<|\"|>,days:2}}<tool_call|>"),
        "python" => format!("<|tool_call_start|>[{name}(city='Rome', days=2)]<|tool_call_end|>"),
        _ => format!(
            "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{\"city\": \"Rome\", \"days\": 2}}<|call|>"
        ),
    }
}
