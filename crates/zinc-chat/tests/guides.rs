//! What guides let through satisfies what was asked for.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

mod support;

use serde_json::{Value, json};
use support::draw::{Draw, Ended};
use support::schemas::{check_json, schemas};
use support::syntaxes::{TEMPLATES, call, format_of};
use support::{builtin, marked_tokenizer, parse, small_tokenizer, tokenizer};
use zinc_chat::{
    AnswerParser, ChatError, ChatFormat, ChatInput, ChatPrompt, GuideFactory, GuideSpec,
    ResponseFormat, ToolChoice, Tools,
};
use zinc_engine::{Allowed, Steer};
use zinc_token::{EncodeOptions, Tokenizer};

fn json_spec(schema: &Value) -> GuideSpec {
    let response_format = ResponseFormat::JsonSchema(schema.clone());
    GuideSpec { response_format, ..GuideSpec::default() }
}

#[test]
fn every_sample_of_a_hundred_schemas_is_valid() {
    let schemas = schemas();
    assert!(schemas.len() >= 100);
    let (model, other) = (builtin(), tokenizer("qwen2"));
    let tokenizers = [("builtin", Some(model.tokenizer())), ("qwen2", other.as_ref())];
    for (name, tokenizer) in tokenizers {
        let Some(tokenizer) = tokenizer else { continue };
        let factory = GuideFactory::new(tokenizer).unwrap();
        // A large vocabulary takes long to draw from.
        let every = if name == "builtin" { 1 } else { 6 };
        for (i, schema) in schemas.iter().enumerate().step_by(every) {
            for seed in 0..2 {
                let format = ResponseFormat::JsonSchema(schema.clone());
                let mut guide = factory.plain_guide(tokenizer, &format).unwrap().unwrap();
                let mut draw = Draw::new((i * 2 + seed) as u64);
                let (text, ended) = draw.answer(guide.as_mut(), tokenizer, 4000);
                assert_eq!(ended, Ended::Complete, "{name} {schema}: {text}");
                check_json(schema, &text);
            }
        }
    }
}

fn plain(tokenizer: &Tokenizer, format: &ResponseFormat) -> Result<Box<dyn Steer>, ChatError> {
    let factory = GuideFactory::new(tokenizer).unwrap();
    factory.plain_guide(tokenizer, format).map(|guide| guide.expect("something is held"))
}

#[test]
fn texts_of_other_forms() {
    let tokenizer = small_tokenizer();
    let check = |format: ResponseFormat, is_right: &dyn Fn(&str) -> bool| {
        for seed in 0..5 {
            let mut guide = plain(&tokenizer, &format).unwrap();
            let (text, ended) = Draw::new(seed).answer(guide.as_mut(), &tokenizer, 500);
            assert!(ended == Ended::Complete && is_right(&text), "{format:?}: {text:?}");
        }
    };
    let choice = ResponseFormat::Choice(vec!["yes".into(), "no".into(), "yes/no \"\n".into()]);
    check(choice, &|text| ["yes", "no", "yes/no \"\n"].contains(&text));
    let is_ab =
        |text: &str| text.trim_matches('a').trim_matches('b').is_empty() && text.contains('b');
    check(ResponseFormat::Regex("a{0,9}b{1,9}".into()), &is_ab);
    check(ResponseFormat::Lark("start: \"a\"~0..9 \"b\"~1..9".into()), &is_ab);
    check(ResponseFormat::Gbnf("root ::= \"a\"{0,9} bs\nbs ::= [b]{1,9}".into()), &is_ab);
    check(ResponseFormat::Choice(vec!["{}".into()]), &|text| text == "{}");
}

/// Recursion as deep as the request is long, and names that are listed again and again.
#[test]
fn long_chains_and_repeated_names_end_nothing() {
    const N: usize = 4000;
    let tokenizer = small_tokenizer();
    let mut chain = json!({"$ref": "#/$defs/d0", "$defs": {}});
    let mut optional = chain.clone();
    let mut rules = String::from("root ::= r0\n");
    let mut lark = String::from("start: r0\n");
    for i in 0..N {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        optional["$defs"][format!("d{i}")] = json!({"type": "object", "properties": {"a": next}});
        chain["$defs"][format!("d{i}")] = next;
        rules.push_str(&format!("r{i} ::= r{}\n", i + 1));
        lark.push_str(&format!("r{i}: r{}\n", i + 1));
    }
    for schema in [&mut chain, &mut optional] {
        schema["$defs"][format!("d{N}")] = json!({"type": "null"});
    }
    rules.push_str(&format!("r{N} ::= \"x\"\n"));
    lark.push_str(&format!("r{N}: \"x\"\n"));
    let mut again = json!({"type": "null"});
    for _ in 0..60 {
        again = json!({"type": "object", "properties": {"a": again}, "required": ["a", "a", "a"]});
    }
    let again = json!({"$ref": "#/$defs/x", "$defs": {"x": again}});
    // Taken or refused, in time and without an end of the process.
    for format in [
        ResponseFormat::JsonSchema(chain),
        ResponseFormat::JsonSchema(optional),
        ResponseFormat::JsonSchema(again),
        ResponseFormat::Gbnf(rules),
        ResponseFormat::Lark(lark),
    ] {
        let _ = plain(&tokenizer, &format);
    }
    let large =
        json!({"enum": (0..N).map(|i| "x".repeat(300) + &i.to_string()).collect::<Vec<_>>()});
    let error = plain(&tokenizer, &ResponseFormat::JsonSchema(large)).err().unwrap().to_string();
    assert!(error.contains("at most 1048576"), "{error}");
}

#[test]
fn what_cannot_be_held_is_refused_with_its_place() {
    let tokenizer = small_tokenizer();
    let refused = |format: ResponseFormat| match plain(&tokenizer, &format) {
        Err(ChatError::Constraint { at, what } | ChatError::Schema { at, what }) => {
            format!("{at}: {what}")
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{format:?} was taken"),
    };
    let at = "response_format.json_schema.schema";
    for (schema, place, keyword) in [
        (json!({"type": "object", "properties": {"a": {"not": {}}}}), ".properties.a.not", "not"),
        (json!({"type": "array", "uniqueItems": true}), ".uniqueItems", "uniqueItems"),
        (json!({"anyOf": [{"type": "null"}, {"if": {}, "then": {}}]}), ".anyOf[1].if", "if"),
        (json!({"type": "string", "format": "iri"}), ".format", "iri"),
        (json!({"$defs": {"x": {"contains": {}}}}), ".$defs.x.contains", "contains"),
        (json!({"items": {"x-guidance": {}}}), ".items.x-guidance", "x-guidance"),
        (json!({"$ref": "http://example.com/x"}), ".$ref", "$ref"),
        (
            json!({"properties": {"o": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}),
            ".properties.o.oneOf",
            "oneOf",
        ),
        (json!({"type": "number", "minimum": 3, "maximum": 2}), "", "nsatisfiable"),
        (json!([]), "", "schema"),
        (json!({"items": {"type": "obj"}}), ".items.type", "array"),
        (json!({"properties": {"a": {"required": true}}}), ".properties.a.required", "names"),
        (json!({"type": "string", "minLength": -1}), ".minLength", "negative"),
        (json!({"properties": {"a": "string"}}), ".properties.a", "schema"),
        (
            json!({"properties": {"b": {"pattern": "[a-z]+"}, "a": {"type": "string", "pattern": "a("}}}),
            ".properties.a.pattern",
            "unclosed group",
        ),
        (
            json!({"type": "object", "patternProperties": {"a{3,1}": {}}}),
            ".patternProperties",
            "start must be",
        ),
        // What refers to itself and never ends.
        (json!({"$ref": "#"}), ".$ref", "refers to itself"),
        (
            json!({"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}, "required": ["x"]}),
            ".properties.x.$ref",
            "refers to itself",
        ),
        (
            json!({"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}}),
            ".properties.x.$ref",
            "refers to itself",
        ),
        (
            json!({"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}),
            ".properties.x.$ref",
            "refers to itself",
        ),
        (
            json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a"}]},
                          "b": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}},
                "$ref": "#/$defs/a"}),
            ".$defs.a.anyOf[0].$ref",
            "refers to itself",
        ),
    ] {
        let message = refused(ResponseFormat::JsonSchema(schema.clone()));
        let is_told = message.starts_with(&format!("{at}{place}: ")) && message.contains(keyword);
        assert!(is_told, "{schema}: {message}");
    }
    let regex = refused(ResponseFormat::Regex("a(".into()));
    assert!(regex.starts_with("guided_regex: ") && regex.contains("unclosed group"), "{regex}");
    for lark in ["start: x\nx: x \"a\"", "start: A\nA: /a/ & /b/"] {
        assert_eq!(refused(ResponseFormat::Lark(lark.into())), "grammar: no text satisfies it");
    }
    assert!(refused(ResponseFormat::Lark("start: x".into())).starts_with("grammar: "));
    assert!(refused(ResponseFormat::Gbnf("root = x".into())).starts_with("grammar: line 1"));
    assert!(refused(ResponseFormat::Choice(Vec::new())).starts_with("guided_choice: "));
}

#[test]
fn what_refers_to_itself_and_ends_is_held() {
    let tokenizer = small_tokenizer();
    for schema in [
        json!({"type": "object", "additionalProperties": false,
               "properties": {"next": {"$ref": "#"}, "n": {"type": "integer", "maximum": 9, "minimum": 0}}}),
        json!({"type": "array", "items": {"$ref": "#"}, "maxItems": 2}),
        json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]},
                         "b": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1, "maxItems": 2}},
               "$ref": "#/$defs/b"}),
    ] {
        let mut guide = plain(&tokenizer, &ResponseFormat::JsonSchema(schema.clone())).unwrap();
        let (text, ended) = Draw::new(5).answer(guide.as_mut(), &tokenizer, 4000);
        assert_eq!(ended, Ended::Complete, "{schema}: {text}");
        check_json(&schema, &text);
    }
}

fn tools() -> Tools {
    let weather = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14}, "precise": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 3},
        "at": {"$ref": "#/$defs/point"}},
        "required": ["city", "days"], "additionalProperties": false,
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer"},
            "y": {"type": "integer"}}, "required": ["x", "y"], "additionalProperties": false}}});
    let nothing = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let odd = json!({"type": "object", "propertyNames": {"pattern": "x"}});
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let list = [tool("get_weather", weather), tool("now", nothing), tool("odd", odd)];
    Tools::from_json(&list).unwrap()
}

fn check_calls(name: &str, text: &str, said: &support::Said, tools: &Tools) {
    assert!(!said.calls.is_empty(), "{name}: {text:?} {said:?}");
    for (tool, arguments) in &said.calls {
        let tool = tools.get(tool).unwrap();
        if tool.name != "odd" {
            let validator = jsonschema::validator_for(&tool.parameters).unwrap();
            let error = validator.validate(arguments).err();
            assert!(error.is_none(), "{name}: {text:?} {arguments} {error:?}");
        }
    }
}

fn prompt(opens_thinking: bool, closes_thinking: bool) -> ChatPrompt {
    ChatPrompt { opens_thinking, closes_thinking, ..ChatPrompt::plain(Vec::new()) }
}

#[test]
fn calls_satisfy_their_tools() {
    let tools = tools();
    for tokenizer in [small_tokenizer(), marked_tokenizer()] {
        let factory = GuideFactory::new(&tokenizer).unwrap();
        for (name, template) in TEMPLATES.into_iter().filter(|(name, _)| *name != "python") {
            let format = format_of(&tokenizer, template);
            let prompt = prompt(false, true);
            for (seed, choice) in [
                (0, ToolChoice::Required),
                (1, ToolChoice::Required),
                (2, ToolChoice::Named("get_weather".into())),
                (3, ToolChoice::Named("now".into())),
            ] {
                let spec = GuideSpec {
                    tools: tools.clone(),
                    tool_choice: choice.clone(),
                    ..GuideSpec::default()
                };
                let guide = factory.guide(&tokenizer, &format, &prompt, &spec);
                let mut guide = guide.unwrap_or_else(|error| panic!("{name}: {error}")).unwrap();
                let (text, ended) = Draw::new(seed).answer(guide.as_mut(), &tokenizer, 3000);
                assert_eq!(ended, Ended::Complete, "{name}: {text}");
                let said = parse(AnswerParser::new(&format, &prompt, &tools), &text, 3);
                check_calls(name, &text, &said, &tools);
                assert_eq!(said.content.trim(), "", "{name}: {text}");
                if let ToolChoice::Named(named) = choice {
                    assert!(said.calls.iter().all(|(name, _)| *name == named), "{name}: {text}");
                }
            }
        }
    }
}

/// A schema with a keyword that cannot be held, where that is, and the rest of it.
fn partly_held() -> Vec<(Value, &'static str, Value)> {
    let closed = |properties: Value, more: Value| {
        let mut schema = json!({"type": "object", "properties": properties,
            "required": ["a"], "additionalProperties": false});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let word = json!({"type": "string", "enum": ["x", "y"]});
    let tags =
        json!({"type": "array", "items": {"type": "string", "enum": ["p", "q"]}, "maxItems": 3});
    let mut unique = tags.clone();
    unique["uniqueItems"] = json!(true);
    let number = json!({"type": "integer", "minimum": 0, "maximum": 9});
    let depends = json!({"dependentSchemas": {"a": {"required": ["b"]}}});
    let overlapping =
        |key: &str| json!({key: [number, {"type": "number", "minimum": 0, "maximum": 9}]});
    vec![
        (
            closed(json!({"a": word, "b": tags}), depends),
            ".dependentSchemas",
            closed(json!({"a": word, "b": tags}), json!({})),
        ),
        (
            closed(json!({"a": word, "b": unique}), json!({})),
            ".properties.b.uniqueItems",
            closed(json!({"a": word, "b": tags}), json!({})),
        ),
        (
            closed(json!({"a": word, "b": {"$ref": "#/properties/b"}}), json!({})),
            ".properties.b.$ref",
            closed(json!({"a": word, "b": {}}), json!({})),
        ),
        (
            closed(json!({"a": number, "b": {"type": "obj"}}), json!({})),
            ".properties.b.type",
            closed(json!({"a": number, "b": {}}), json!({})),
        ),
        (
            closed(
                json!({"a": {"type": "array", "items": overlapping("oneOf"), "maxItems": 2}}),
                json!({}),
            ),
            "",
            closed(
                json!({"a": {"type": "array", "items": overlapping("anyOf"), "maxItems": 2}}),
                json!({}),
            ),
        ),
    ]
}

#[test]
fn what_cannot_be_held_of_a_tool_leaves_the_rest() {
    let tokenizer = marked_tokenizer();
    let prompt = prompt(false, true);
    let tool = |parameters: &Value, strict: bool| {
        let function = json!({"name": "f", "parameters": parameters, "strict": strict});
        Tools::from_json(&[json!({"type": "function", "function": function})]).unwrap()
    };
    for (name, template) in TEMPLATES.into_iter().filter(|(name, _)| *name != "python") {
        let factory = GuideFactory::new(&tokenizer).unwrap();
        let format = format_of(&tokenizer, template);
        for (schema, place, rest) in partly_held() {
            let spec = |strict| GuideSpec {
                tools: tool(&schema, strict),
                tool_choice: ToolChoice::Required,
                ..GuideSpec::default()
            };
            // Gemma's syntax has rules of its own, which hold one of several as any of them.
            if !(name == "gemma4" && place.is_empty()) {
                let refused =
                    factory.guide(&tokenizer, &format, &prompt, &spec(true)).err().unwrap();
                let expected = format!("tools.f.parameters{place}");
                assert!(refused.to_string().starts_with(&expected), "{name} {schema}: {refused}");
            }
            let guide = factory.guide(&tokenizer, &format, &prompt, &spec(false));
            let mut guide = guide.unwrap_or_else(|error| panic!("{name}: {error}")).unwrap();
            let (text, ended) = Draw::new(1).answer(guide.as_mut(), &tokenizer, 3000);
            assert_eq!(ended, Ended::Complete, "{name}: {text}");
            let tools = tool(&schema, false);
            let said = parse(AnswerParser::new(&format, &prompt, &tools), &text, 3);
            check_calls(name, &text, &said, &tool(&rest, false));
        }
    }
}

/// As Functionary 3.2 has it: every prompt ends with the mark that opens a call.
const RECIPIENTS: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% if m.content %}>>>all\n{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}>>>{{ c.function.name }}\n{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>>>>{% endif %}";

#[test]
fn a_call_that_the_prompt_opens() {
    let tokenizer = small_tokenizer();
    let factory = GuideFactory::new(&tokenizer).unwrap();
    let format = ChatFormat::from_templates(&tokenizer, RECIPIENTS, None).unwrap();
    let tools = tools();
    let mut input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"})]);
    input.tools = tools.clone();
    let prompt = format.prompt(&tokenizer, &input).unwrap();
    assert!(prompt.opens_call && prompt.text.ends_with(">>>"), "{prompt:?}");
    let choice = ResponseFormat::Choice(vec!["yes".into()]);
    let forced = GuideSpec {
        tools: tools.clone(),
        tool_choice: ToolChoice::Required,
        ..GuideSpec::default()
    };
    let text = GuideSpec { response_format: choice, ..GuideSpec::default() };
    for seed in 0..5 {
        let draw = |spec: &GuideSpec| {
            let mut guide = factory.guide(&tokenizer, &format, &prompt, spec).unwrap().unwrap();
            Draw::new(seed).answer(guide.as_mut(), &tokenizer, 3000)
        };
        let (answer, ended) = draw(&forced);
        assert_eq!(ended, Ended::Complete, "{answer}");
        let said = parse(AnswerParser::new(&format, &prompt, &tools), &answer, 3);
        check_calls("recipients", &answer, &said, &tools);
        assert_eq!(said.content.trim(), "", "{answer}");
        assert_eq!(draw(&text), ("all\nyes".to_owned(), Ended::Complete));
    }
    // Called of its own accord: the name alone begins a call, and nothing else does.
    let free =
        GuideSpec { tools: tools.clone(), parallel_tool_calls: false, ..GuideSpec::default() };
    let several = GuideSpec { parallel_tool_calls: true, ..free.clone() };
    let mut guide = factory.guide(&tokenizer, &format, &prompt, &several).unwrap().unwrap();
    feed(guide.as_mut(), &tokenizer, "now\n{}>>>all\nIt is late.>>>now\n{}>>>");
    assert!(matches!(guide.next().unwrap(), Allowed::Mask(_)), "a name or a text follows");
    for (begin, is_call) in
        [("get_weather\n", true), ("all\nget_weather\n", false), ("get_weather is", false)]
    {
        let mut guide = factory.guide(&tokenizer, &format, &prompt, &free).unwrap().unwrap();
        feed(guide.as_mut(), &tokenizer, begin);
        assert_eq!(matches!(guide.next().unwrap(), Allowed::Mask(_)), is_call, "{begin:?}");
        if is_call {
            let (rest, ended) = Draw::new(7).answer(guide.as_mut(), &tokenizer, 3000);
            assert_eq!(ended, Ended::Complete, "{rest}");
            let answer = format!("{begin}{rest}");
            let said = parse(AnswerParser::new(&format, &prompt, &tools), &answer, 3);
            check_calls("recipients", &answer, &said, &tools);
        }
    }
    let none = Tools::default();
    for n in [1, 4, 1000] {
        let said = |text: &str, tools| parse(AnswerParser::new(&format, &prompt, tools), text, n);
        for tools in [&tools, &none] {
            assert_eq!(said("all\nHello >>> you", tools).content, "Hello >>> you");
            assert_eq!(said("allow me", tools).content, "allow me");
            assert_eq!(said("", tools).content, "");
        }
        let both =
            said("all\nI look.>>>now\n{}>>>get_weather\n{\"city\": \"Rome\", \"days\": 1}", &tools);
        let rome = json!({"city": "Rome", "days": 1});
        assert_eq!(both.content, "I look.");
        assert_eq!(both.calls, [("now".to_owned(), json!({})), ("get_weather".to_owned(), rome)]);
        assert_eq!(said("now\n{}", &tools).calls.len(), 1);
    }
}

/// The model writes `text` of its own accord.
fn feed(guide: &mut dyn Steer, tokenizer: &Tokenizer, text: &str) {
    let options = EncodeOptions { add_special: false, parse_special: true };
    for id in tokenizer.encode(text, options) {
        match guide.next().unwrap() {
            Allowed::Any => {}
            Allowed::Mask(mask) => {
                assert!(mask[id as usize / 32] >> (id % 32) & 1 == 1, "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
        guide.accept(id).unwrap();
    }
}

#[test]
fn a_call_is_held_once_it_begins() {
    let tools = tools();
    for tokenizer in [small_tokenizer(), marked_tokenizer()] {
        let factory = GuideFactory::new(&tokenizer).unwrap();
        for (name, template) in TEMPLATES.into_iter().filter(|(name, _)| *name != "python") {
            let format = format_of(&tokenizer, template);
            let prompt = prompt(false, true);
            let spec = GuideSpec {
                tools: tools.clone(),
                parallel_tool_calls: false,
                ..GuideSpec::default()
            };
            let mut guide = factory.guide(&tokenizer, &format, &prompt, &spec).unwrap().unwrap();
            let is_marked = tokenizer.vocab().special_id("<tool_call>").is_some();
            if name.starts_with("deepseek") && !is_marked {
                // This vocabulary cannot tell U+2581 from a blank.
                continue;
            }
            // The model opens a call of its own accord.
            let whole = call(name, "get_weather");
            let begin = match name {
                "llama3" => "{\"name\"".to_owned(),
                "harmony" => "<|channel|>commentary to=functions.".to_owned(),
                _ => format!("Well. {}", &whole[..whole.find(['\n', '>', ']']).unwrap() + 1]),
            };
            let begin = if name == "gemma4" { "Well. <|tool_call>call:".to_owned() } else { begin };
            feed(guide.as_mut(), &tokenizer, &begin);
            let is_held = matches!(guide.next().unwrap(), Allowed::Mask(_));
            assert!(is_held, "{name}: {begin}");
            let (text, ended) = Draw::new(7).answer(guide.as_mut(), &tokenizer, 3000);
            let text = begin + &text;
            assert_eq!(ended, Ended::Complete, "{name}: {text}");
            let said = parse(AnswerParser::new(&format, &prompt, &tools), &text, 3);
            check_calls(name, &text, &said, &tools);
            assert_eq!(said.calls.len(), 1, "{name}: {text}");
        }
    }
}

#[test]
fn reasoning_ends_with_its_budget_and_grammar_follows() {
    let tokenizer = marked_tokenizer();
    let factory = GuideFactory::new(&tokenizer).unwrap();
    let format = format_of(&tokenizer, TEMPLATES[0].1);
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}},
        "required": ["n"], "additionalProperties": false});
    for budget in [0, 1, 20] {
        let spec = GuideSpec { thinking_budget: Some(budget), ..json_spec(&schema) };
        let prompt = prompt(true, false);
        let mut guide = factory.guide(&tokenizer, &format, &prompt, &spec).unwrap().unwrap();
        let mut n_thought = 0;
        while let Allowed::Mask(mask) = guide.next().unwrap() {
            let a = tokenizer.encode("a", EncodeOptions::default())[0];
            assert!(mask[a as usize / 32] >> (a % 32) & 1 == 1, "reasoning is free");
            guide.accept(a).unwrap();
            n_thought += 1;
        }
        assert_eq!(n_thought, budget);
        let (text, ended) = Draw::new(3).answer(guide.as_mut(), &tokenizer, 500);
        assert_eq!(ended, Ended::Complete, "{text}");
        let said = parse(AnswerParser::new(&format, &prompt, &Tools::default()), &text, 2);
        check_json(&schema, &said.content);
    }
    // A model that opens its reasoning itself, and one that does not.
    for (begin, reasoning) in [("<think>so</think>", "so"), ("", "")] {
        let prompt = prompt(false, false);
        let spec = json_spec(&schema);
        let mut guide = factory.guide(&tokenizer, &format, &prompt, &spec).unwrap().unwrap();
        let options = EncodeOptions { add_special: false, parse_special: true };
        for id in tokenizer.encode(begin, options) {
            guide.next().unwrap();
            guide.accept(id).unwrap();
        }
        let mut text = begin.to_owned();
        let mut draw = Draw::new(5);
        if begin.is_empty() {
            let open = tokenizer.vocab().special_id("<think>").unwrap();
            let Allowed::Mask(mask) = guide.next().unwrap() else { panic!("the answer is held") };
            assert!(mask[open as usize / 32] >> (open % 32) & 1 == 1, "reasoning may begin");
            let brace = tokenizer.encode("{", EncodeOptions::default())[0];
            guide.accept(brace).unwrap();
            text.push('{');
        }
        text += &draw.answer(guide.as_mut(), &tokenizer, 500).0;
        let said = parse(AnswerParser::new(&format, &prompt, &Tools::default()), &text, 2);
        assert_eq!(said.reasoning, reasoning);
        check_json(&schema, &said.content);
    }
    // Without anything to hold there is no guide.
    let none = factory.guide(&tokenizer, &format, &prompt(false, false), &GuideSpec::default());
    assert!(none.unwrap().is_none());
}

#[test]
fn tools_schema_and_reasoning_together() {
    let tokenizer = marked_tokenizer();
    let factory = GuideFactory::new(&tokenizer).unwrap();
    let tools = tools();
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}},
        "required": ["n"], "additionalProperties": false});
    let (mut n_calls, mut n_texts) = (0, 0);
    for (name, template) in TEMPLATES.into_iter().filter(|(name, _)| *name != "python") {
        let format = format_of(&tokenizer, template);
        for seed in 0..6 {
            let prompt = prompt(name != "harmony", false);
            let spec =
                GuideSpec { tools: tools.clone(), thinking_budget: Some(3), ..json_spec(&schema) };
            let mut guide = factory.guide(&tokenizer, &format, &prompt, &spec).unwrap().unwrap();
            let (text, ended) = Draw::new(seed).answer(guide.as_mut(), &tokenizer, 3000);
            assert_eq!(ended, Ended::Complete, "{name}: {text}");
            let said = parse(AnswerParser::new(&format, &prompt, &tools), &text, 3);
            match said.calls.is_empty() {
                true => {
                    check_json(&schema, &said.content);
                    n_texts += 1;
                }
                false => {
                    check_calls(name, &text, &said, &tools);
                    n_calls += 1;
                }
            }
        }
    }
    assert!(n_calls > 0 && n_texts > 0);
}
