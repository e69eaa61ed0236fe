use serde_json::json;

use super::*;

const PART: Object = Object {
    name: "Part",
    groups: &[&[required("type", Kind::Text, ""), required("text", Kind::Text, "")]],
};
const PARTS: Tagged = Tagged {
    key: "type",
    default: None,
    forms: &[("text", &PART)],
    refused: &[("image_url", "zinc reads text only")],
};
const BODY: Object = Object {
    name: "Test",
    groups: &[
        &[required(
            "prompt",
            Kind::AnyOf(&[Kind::Text, Kind::List(&Kind::Tagged(&PARTS), 1, 3)]),
            "",
        )],
        &[
            used("n", Kind::Int(1, 8), ""),
            used("top_p", Kind::Number(0.0, 1.0), ""),
            used("mode", Kind::Choice(&["a", "b"]), ""),
            used("bias", Kind::Map(&Kind::Number(-100.0, 100.0)), ""),
            accepted("user", Kind::Text),
            refused("suffix", &[Neutral::Text("")], "zinc fills no gaps"),
        ],
    ],
};

fn problem(body: Value) -> String {
    BODY.check(&body).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn good_bodies_pass() {
    for body in [
        json!({"prompt": "x"}),
        json!({"prompt": "x", "n": 3, "top_p": 1, "mode": "b", "bias": {"5": -1.5}, "user": "u"}),
        json!({"prompt": [{"type": "text", "text": ""}], "n": null, "suffix": ""}),
        json!({"prompt": "x", "n": 2.0, "suffix": null}),
    ] {
        BODY.check(&body).map(|_| ()).unwrap();
    }
}

#[test]
fn every_problem_names_its_field() {
    let cases = [
        (json!([]), "body: expected a JSON object"),
        (json!({}), "prompt: required; expected a string, or a list of 1 to 3, each an object"),
        (json!({"prompt": 3}), "prompt: expected a string, or a list of 1 to 3, each an object"),
        (json!({"prompt": "x", "n": 9}), "n: 9 is not allowed; expected an integer from 1 to 8"),
        (
            json!({"prompt": "x", "n": 1.5}),
            "n: 1.5 is not allowed; expected an integer from 1 to 8",
        ),
        (json!({"prompt": "x", "n": "1"}), "n: expected an integer from 1 to 8"),
        (json!({"prompt": "x", "mode": "c"}), "mode: \"c\" is not allowed; expected one of a, b"),
        (json!({"prompt": "x", "bias": {"7": true}}), "bias.7: expected a number from -100 to 100"),
        (json!({"prompt": "x", "suffix": "y"}), "suffix: not supported: zinc fills no gaps"),
        (
            json!({"prompt": [{"type": "image_url"}]}),
            "prompt[0].type: image_url is not supported: zinc reads text only",
        ),
        (json!({"prompt": [{"type": "x"}]}), "prompt[0].type: \"x\" is unknown; expected text"),
        (json!({"prompt": [{"type": "text"}]}), "prompt[0].text: required; expected a string"),
        (
            json!({"prompt": "x", "best": 1}),
            "best: unknown field; zinc refuses what it would ignore, leave it out",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(problem(body), expected);
    }
}

#[test]
fn reads_what_was_checked() {
    let body = json!({"prompt": "x", "n": 3.0, "top_p": 0.5, "user": null});
    let body = BODY.check(&body).unwrap();
    assert_eq!(
        (body.text("prompt"), body.int("n"), body.number("top_p")),
        (Some("x"), Some(3), Some(0.5))
    );
    assert_eq!((body.text("user"), body.flag("absent")), (None, None));
    assert_eq!(body.texts("prompt"), ["x"]);
}

#[test]
fn the_document_says_what_the_check_does() {
    let mut components = Components::default();
    let reference = components.reference(&BODY);
    assert_eq!(reference, json!({"$ref": "#/components/schemas/Test"}));
    let schemas = components.into_map();
    let test = &schemas["Test"];
    assert_eq!(test["required"], json!(["prompt"]));
    assert_eq!(test["additionalProperties"], json!(false));
    assert_eq!(test["properties"]["suffix"]["enum"], json!(["", null]));
    let part = &test["properties"]["prompt"]["anyOf"][1]["items"]["anyOf"][0];
    assert_eq!(part["properties"]["type"], json!({"const": "text"}));
    assert_eq!(part["required"], json!(["type", "text"]));
}
