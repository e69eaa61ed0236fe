//! Schemas of every kind.

use serde_json::{Value, json};

/// Schemas of one value each.
fn leaves() -> Vec<Value> {
    vec![
        json!({"type": "string", "maxLength": 12}),
        json!({"type": "string", "minLength": 2, "maxLength": 5}),
        json!({"type": "string", "enum": ["red", "green", "blue \"dark\""]}),
        json!({"const": {"fixed": [1, null, "x"]}}),
        json!({"enum": [1, "one", null, true, [1, 2], {"a": 1}]}),
        json!({"type": "integer"}),
        json!({"type": "integer", "minimum": -5, "maximum": 17}),
        json!({"type": "integer", "exclusiveMinimum": 99, "maximum": 1001}),
        json!({"type": "number"}),
        json!({"type": "number", "minimum": 0, "maximum": 1}),
        json!({"type": "number", "exclusiveMinimum": -2.5, "exclusiveMaximum": 3.25}),
        json!({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000}),
        json!({"type": "boolean"}),
        json!({"type": "null"}),
        json!({"type": ["string", "null"], "maxLength": 8}),
        json!({"type": ["integer", "boolean"]}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
        json!({"type": "string", "pattern": "^(a|b)+c?$", "maxLength": 9}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "time"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "ipv4"}),
        json!({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]}),
        json!({"oneOf": [{"type": "integer"}, {"type": "null"}]}),
        json!({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 40}]}),
    ]
}

/// Schemas that hold others.
fn wrapped(leaf: &Value, i: usize) -> Vec<Value> {
    let closed = |properties: Value, required: Value| {
        json!({"type": "object", "properties": properties, "required": required,
            "additionalProperties": false})
    };
    let list = json!({"type": "array", "items": leaf, "minItems": i % 3, "maxItems": 3 + i % 2});
    let tree = json!({"type": "object", "properties": {"value": leaf,
        "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
        "required": ["value", "next"], "additionalProperties": false});
    vec![
        closed(json!({"a": leaf, "b é": {"type": "boolean"}}), json!(["a"])),
        closed(
            json!({"list": list, "deep": closed(json!({"x": leaf}), json!(["x"]))}),
            json!(["list", "deep"]),
        ),
        json!({"$defs": {"tree": tree}, "$ref": "#/$defs/tree"}),
        json!({"anyOf": [closed(json!({"kind": {"const": "one"}, "v": leaf}), json!(["kind", "v"])),
            json!({"type": "array", "prefixItems": [leaf, {"type": "integer"}], "items": false, "minItems": 2})]}),
    ]
}

/// More than a hundred schemas.
pub fn schemas() -> Vec<Value> {
    let mut schemas = leaves();
    for (i, leaf) in leaves().iter().enumerate() {
        schemas.extend(wrapped(leaf, i));
    }
    schemas
}

/// Whether a text is JSON that satisfies a schema; panics if not.
pub fn check_json(schema: &Value, text: &str) {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{schema}: {text:?}: {error}"));
    let validator = jsonschema::validator_for(schema).unwrap();
    if let Err(error) = validator.validate(&value) {
        panic!("{schema}: {text}: {error}");
    }
}
