//! Chat templates against what Jinja2 and Hugging Face transformers render, and against hostile ones.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

use std::path::PathBuf;

use serde_json::{Value, json};
use zinc_token::template::{ChatTemplate, DateTime, TemplateError, TemplateInput, TemplateLimits};

const NOON: DateTime = DateTime { year: 2026, month: 1, day: 15, hour: 12, minute: 0, second: 0 };

fn shared() -> PathBuf {
    std::env::var_os("ZINC_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    )
}

fn render(source: &str, input: &TemplateInput) -> Result<String, TemplateError> {
    ChatTemplate::new(source, TemplateLimits::default())?.render(input)
}

/// Renders with `variables` beside an empty conversation.
fn render_with(source: &str, variables: Value) -> Result<String, TemplateError> {
    let Value::Object(extra) = variables else { panic!("variables must be an object") };
    render(source, &TemplateInput { extra, now: Some(NOON), ..TemplateInput::new(json!([])) })
}

#[test]
fn real_templates_render_as_transformers_does() {
    let dir = shared().join("templates");
    let Ok(text) = std::fs::read_to_string(dir.join("expected.json")) else {
        eprintln!("skipped: {} is not here", dir.display());
        return;
    };
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut failures = Vec::new();
    for case in expected["cases"].as_array().unwrap() {
        let (template, name) = (case["template"].as_str().unwrap(), case["case"].as_str().unwrap());
        let source = std::fs::read_to_string(dir.join(template)).unwrap();
        let mut input = TemplateInput::from_json(expected["conversations"][name].clone()).unwrap();
        input.bos_token = Some("<BOS>".into());
        input.eos_token = Some("<EOS>".into());
        input.pad_token = Some("<PAD>".into());
        input.unk_token = Some("<UNK>".into());
        input.now = Some(NOON);
        match (render(&source, &input), case["output"].as_str()) {
            (Ok(got), Some(want)) if got == want => {}
            (Err(TemplateError::Raised { .. }), None) => {}
            (Err(_), None) => {}
            (got, want) => {
                failures.push(format!("{template} {name}:\n  want {want:?}\n  got  {got:?}"))
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn snippets_render_as_jinja_does() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/templates/jinja.json");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut failures = Vec::new();
    for case in expected["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        match (render_with(source, expected["variables"].clone()), case["output"].as_str()) {
            (Ok(got), Some(want)) if got == want => {}
            (Err(_), None) => {}
            (got, want) => failures.push(format!("{source:?}\n  want {want:?}\n  got  {got:?}")),
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// What kind of error a template must end with.
#[derive(Debug, PartialEq)]
enum Kind {
    Syntax,
    Runtime,
    Raised,
    Limit,
}

fn kind(err: &TemplateError) -> Kind {
    match err {
        TemplateError::Syntax { .. } => Kind::Syntax,
        TemplateError::Runtime { .. } | TemplateError::Input(_) => Kind::Runtime,
        TemplateError::Raised { .. } => Kind::Raised,
        TemplateError::Limit { .. } => Kind::Limit,
    }
}

/// Hostile sources end with one error, in bounded time and memory, on the stack of a test thread.
#[test]
fn hostile_templates_end_with_an_error() {
    let repeat = |part: &str, n: usize| part.repeat(n);
    let ns = "{% set ns = namespace(s='ab', l=[1]) %}{% for i in range(1000) %}";
    let cases = [
        (format!("{ns}{{% set ns.s = ns.s ~ ns.s %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = ns.s + ns.s %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = ns.s * 9 %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.l = ns.l + ns.l %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.l = [ns.l, ns.l] %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.l = {{'a': ns.l}} %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.l = (ns.l,)|map('list') %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = ns.s|replace('a', ns.s) %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = '%s%s' % (ns.s, ns.s) %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = '{{0}}{{0}}'.format(ns.s) %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s %}}{{{{ ns.s }}}}{{{{ ns.s }}}}{{% endset %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.s = ns.s|tojson|tojson %}}{{% endfor %}}"), Kind::Limit),
        (format!("{ns}{{% set ns.n = namespace(p=ns) %}}{{% endfor %}}"), Kind::Runtime),
        ("{% set ns = namespace() %}{% set ns.me = ns %}".into(), Kind::Runtime),
        ("{{ 'a' * 10**9 }}".into(), Kind::Limit),
        ("{{ ['a'] * 10**9 }}".into(), Kind::Limit),
        ("{{ [1] * 10**9 }}".into(), Kind::Limit),
        ("{{ [1] * 99999999 }}".into(), Kind::Limit),
        ("{{ 'x'.center(10**12) }}".into(), Kind::Limit),
        ("{{ 'x'.zfill(10**12) }}{{ 'x'.ljust(10**12) }}".into(), Kind::Limit),
        ("{{ 'x'|center(10**12) }}".into(), Kind::Limit),
        ("{{ 'a\nb'|indent(10**12) }}".into(), Kind::Limit),
        ("{{ [1]|tojson(indent=10**12) }}".into(), Kind::Limit),
        ("{{ 'a\tb'.expandtabs(10**12) }}".into(), Kind::Limit),
        ("{{ '%1000000000d' % 1 }}".into(), Kind::Limit),
        ("{{ '{:1000000000d}'.format(1) }}".into(), Kind::Limit),
        ("{{ '%.1000000000f' % 1.5 }}".into(), Kind::Runtime),
        ("{{ '%.99999f' % 1.5 }}".into(), Kind::Runtime),
        ("{{ [1]|batch(10**12, 0)|list }}".into(), Kind::Limit),
        ("{{ [1]|slice(10**12)|list }}".into(), Kind::Limit),
        ("{{ 9 ** 9 ** 9 }}".into(), Kind::Runtime),
        ("{{ 2 ** 10000000000000 }}".into(), Kind::Runtime),
        ("{% for i in range(10**12) %}x{% endfor %}".into(), Kind::Limit),
        (repeat("{% for i in range(99999) %}", 6) + "x" + &repeat("{% endfor %}", 6), Kind::Limit),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(), Kind::Limit),
        ("{% macro f() %}{{ f() ~ f() }}{% endmacro %}{{ f() }}".into(), Kind::Limit),
        ("{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaa') }}".into(), Kind::Limit),
        ("{% macro m() %}{{ caller() }}{% endmacro %}{% macro r() %}{% call m() %}{{ r() }}{% endcall %}{% endmacro %}{{ r() }}".into(), Kind::Limit),
        ("{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}".into(), Kind::Limit),
        ("{% set x = range(99999)|list %}{% for i in x %}{{ x|sort|list|tojson|length }}{% endfor %}".into(), Kind::Limit),
        ("{% set x = range(99999)|list %}{% for i in x %}{{ 'q' in x }}{{ x == x[:] }}{% endfor %}".into(), Kind::Limit),
        ("{% macro m() %}{% for i in range(99999) %}".to_string() + &repeat("text ", 9999) + "{% endfor %}{% endmacro %}{{ m() }}", Kind::Limit),
        ("{{ ".to_string() + &repeat("(", 5000) + &repeat(")", 5000) + " }}", Kind::Limit),
        ("{{ ".to_string() + &repeat("[", 200) + &repeat("]", 200) + " }}", Kind::Limit),
        ("{{ 1".to_string() + &repeat("+1", 100_000) + " }}", Kind::Limit),
        ("{{ ".to_string() + &repeat("not ", 100_000) + "1 }}", Kind::Limit),
        ("{{ ".to_string() + &repeat("-", 100_000) + "1 }}", Kind::Limit),
        ("{{ a".to_string() + &repeat(".a", 100_000) + " }}", Kind::Limit),
        ("{{ a".to_string() + &repeat("|e", 100_000) + " }}", Kind::Limit),
        ("{{ 1".to_string() + &repeat(" if 1 else 1", 50_000) + " }}", Kind::Limit),
        ("{% if a %}".to_string() + &repeat("{% elif a %}", 50_000) + "{% endif %}", Kind::Limit),
        (repeat("{% if a %}", 90_000) + &repeat("{% endif %}", 5000), Kind::Limit),
        (repeat("{% if 1 %}{% elif 1 %}{% elif 1 %}", 140), Kind::Limit),
        (repeat("x", (1 << 20) + 1), Kind::Limit),
        ("{{ raise_exception('no') }}".into(), Kind::Raised),
        ("{{ ''.__class__.__mro__ }}".into(), Kind::Runtime),
        ("{{ x.y }}".into(), Kind::Runtime),
        ("{% include '/etc/passwd' %}".into(), Kind::Syntax),
        ("{{ ".into(), Kind::Syntax),
        ("{{ '".into(), Kind::Syntax),
        ("{% raw %}".into(), Kind::Syntax),
    ];
    let mut failures = Vec::new();
    for (source, want) in &cases {
        let start: String = source.chars().take(120).collect();
        match render_with(source, json!({"a": {"a": 1}})) {
            Ok(text) => failures.push(format!("{start}: rendered {} bytes", text.len())),
            Err(err) if kind(&err) == *want => {}
            Err(err) => failures.push(format!("{start}: want {want:?}, got {err:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Nesting that real templates may need stays within the limits.
#[test]
fn deep_but_honest_templates_render() {
    let macros = "{% macro f(n) %}{% if n > 0 %}{% for i in [1] %}{{ f(n - 1) }}{% endfor %}{% endif %}x{% endmacro %}{{ f(30) }}";
    assert_eq!(render_with(macros, json!({})).unwrap(), "x".repeat(31));
    let blocks = "{% if true %}".repeat(100) + "x" + &"{% endif %}".repeat(100);
    assert_eq!(render_with(&blocks, json!({})).unwrap(), "x");
    let sum = "{{ 1".to_string() + &"+1".repeat(300) + " }}";
    assert_eq!(render_with(&sum, json!({})).unwrap(), "301");
    let branches =
        "{% if false %}".to_string() + &"{% elif false %}".repeat(150) + "{% else %}x{% endif %}";
    assert_eq!(render_with(&branches, json!({})).unwrap(), "x");
}

#[test]
fn errors_name_the_line() {
    let cases = [
        ("a\nb{{ 1 + }}", "chat template, line 2: "),
        ("a\n\n{% set x = none + 1 %}", "chat template, line 3: "),
        (
            "{{ raise_exception('only users') }}",
            "the chat template refuses this conversation: only users",
        ),
        (
            "\n{% for i in range(10**9) %}{% endfor %}",
            "chat template, line 2: more than 100000 elements of a range",
        ),
    ];
    for (source, want) in cases {
        let message = render_with(source, json!({})).unwrap_err().to_string();
        assert!(message.starts_with(want), "{source:?}: {message}");
    }
}

#[test]
fn input_files_are_checked() {
    let refused = [
        json!([]),
        json!({}),
        json!({"messages": "hi"}),
        json!({"messages": ["hi"]}),
        json!({"messages": [{"content": "hi"}]}),
        json!({"messages": [], "tools": "x"}),
        json!({"messages": [], "add_generation_prompt": 1}),
        json!({"messages": [], "bos_token": 1}),
    ];
    for input in refused {
        assert!(
            matches!(TemplateInput::from_json(input.clone()), Err(TemplateError::Input(_))),
            "{input}"
        );
    }
    let input = TemplateInput::from_json(
        json!({"messages": [{"role": "user", "content": "hi"}], "z": 1, "a": 2}),
    )
    .unwrap();
    assert!(input.add_generation_prompt);
    let source = "{{ messages[0].content }}{{ z }}{{ a }}{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}";
    assert_eq!(render(source, &input).unwrap(), "hi12TrueTrueFalse");
}

#[test]
fn templates_tell_what_they_support() {
    let template = |source| ChatTemplate::new(source, TemplateLimits::default()).unwrap();
    assert!(template("{% if tools %}{% endif %}").supports_tools());
    assert!(!template("{{ toolset }}").supports_tools());
    assert!(template("{% if enable_thinking is false %}{% endif %}").supports_thinking_switch());
}

/// Pieces of templates, valid and not, that random sources are made of.
const PIECES: [&str; 64] = [
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "{%- ",
    " -%}",
    "{# ",
    " #}",
    "{{- ",
    " -}}",
    "if ",
    "elif x ",
    "else ",
    "endif ",
    "for ",
    "x in ",
    "endfor ",
    "set ",
    "x = ",
    "endset ",
    "macro f(x) ",
    "endmacro ",
    "call f(1) ",
    "endcall ",
    "with ",
    "endwith ",
    "generation ",
    "endgeneration ",
    "break ",
    "continue ",
    "filter upper ",
    "endfilter ",
    "raw ",
    "endraw ",
    "x",
    "ns.y",
    "1",
    "2.5",
    "'a'",
    "\"é🙂\"",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    ".",
    "|",
    " is ",
    " not ",
    "defined",
    "length",
    " + ",
    " ~ ",
    " * ",
    "loop.index",
    "messages",
    "\n",
    "namespace()",
    "f(x)",
    "range(3)",
    "caller()",
];

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_sources_never_panic(pieces in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        let source: String = pieces.iter().map(|&piece| PIECES[piece]).collect();
        let limits = TemplateLimits { max_steps: 20_000, ..TemplateLimits::default() };
        let input = TemplateInput { now: Some(NOON), ..TemplateInput::new(json!([{"role": "user", "content": "hi"}])) };
        let _ = ChatTemplate::new(&source, limits).and_then(|template| template.render(&input));
    }

    #[test]
    fn random_bodies_never_panic(body in "[ -~\n]{0,40}", tag in 0..3usize) {
        let source = ["{{ BODY }}", "{% BODY %}x{% endif %}", "{% for x in messages %}{{ BODY }}{% endfor %}"][tag].replace("BODY", &body);
        let limits = TemplateLimits { max_steps: 20_000, ..TemplateLimits::default() };
        let input = TemplateInput::new(json!([{"role": "user", "content": "hi"}]));
        let _ = ChatTemplate::new(&source, limits).and_then(|template| template.render(&input));
    }
}
