//! JSON schemas: what can be held, and where something cannot.

use serde_json::{Map, Value, json};

use crate::ChatError;

/// Keywords of JSON schema that change what is valid and that no grammar here holds.
const UNSUPPORTED: [&str; 19] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    // llguidance's own switch, which can make it lenient.
    "x-guidance",
];

/// Formats of strings that are held.
const FORMATS: [&str; 11] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
];

/// Keywords whose members are schemas.
const HOLDS_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;

/// What may stand between the tokens of JSON: nothing, a blank, or a line break with its indentation.
/// Models that may write any blanks at times write nothing else.
const BLANKS: &str = r"\x20|\n[\x20\t]{0,60}";

/// Checks that a schema uses nothing that cannot be held.
///
/// # Errors
/// [`ChatError::Constraint`] with the keyword and its place.
pub(super) fn check(schema: &Value, at: &str) -> Result<(), ChatError> {
    walk(schema, at, 0)
}

fn walk(schema: &Value, at: &str, depth: usize) -> Result<(), ChatError> {
    if depth > MAX_DEPTH {
        return Err(ChatError::constraint(at, "the schema is nested too deeply"));
    }
    let fields = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(fields) => fields,
        _ => return Err(ChatError::constraint(at, "expected a schema: an object or a boolean")),
    };
    for (key, value) in fields {
        let place = format!("{at}.{key}");
        match key.as_str() {
            // The default says nothing.
            "uniqueItems" if *value == json!(false) => {}
            key if UNSUPPORTED.contains(&key) => {
                let what = format!("the keyword {key:?} is not supported; leave it out");
                return Err(ChatError::constraint(place, what));
            }
            "format" => {
                if !value.as_str().is_some_and(|format| FORMATS.contains(&format)) {
                    let what = format!(
                        "the keyword \"format\" with {value} is not supported; known are {}",
                        FORMATS[..10].join(", ")
                    );
                    return Err(ChatError::constraint(place, what));
                }
            }
            "$ref" => {
                if !value.as_str().is_some_and(|target| target.starts_with('#')) {
                    let what =
                        format!("\"$ref\" to {value} is not supported; refer to #/$defs/...");
                    return Err(ChatError::constraint(place, what));
                }
            }
            key if HOLDS_SCHEMAS.contains(&key) => {
                let Some(members) = value.as_object() else {
                    return Err(ChatError::constraint(place, "expected an object of schemas"));
                };
                for (name, member) in members {
                    walk(member, &format!("{place}.{name}"), depth + 1)?;
                }
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                let Some(members) = value.as_array() else {
                    return Err(ChatError::constraint(place, "expected a list of schemas"));
                };
                for (i, member) in members.iter().enumerate() {
                    walk(member, &format!("{place}[{i}]"), depth + 1)?;
                }
            }
            "items" if value.is_array() => {
                for (i, member) in value.as_array().into_iter().flatten().enumerate() {
                    walk(member, &format!("{place}[{i}]"), depth + 1)?;
                }
            }
            "items" | "additionalItems" | "additionalProperties" => {
                walk(value, &place, depth + 1)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The error for a schema that llguidance refuses: its words, and the place of the first keyword that
/// they name.
pub(super) fn refused(schema: &Value, at: &str, error: &str) -> ChatError {
    let words = first_line(error);
    let named =
        ["oneOf", "multipleOf", "pattern", "minProperties", "maxProperties", "allOf", "$ref"];
    let place = named
        .iter()
        .filter(|keyword| words.contains(**keyword))
        .find_map(|keyword| place_of(schema, keyword, at));
    ChatError::constraint(place.unwrap_or_else(|| at.to_owned()), words)
}

/// The part of llguidance's message that speaks of the cause.
pub(super) fn first_line(error: &str) -> String {
    let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or("it is refused");
    line.trim().chars().take(300).collect()
}

fn place_of(schema: &Value, keyword: &str, at: &str) -> Option<String> {
    match schema {
        Value::Object(fields) if fields.contains_key(keyword) => Some(format!("{at}.{keyword}")),
        Value::Object(fields) => {
            fields.iter().find_map(|(key, value)| place_of(value, keyword, &format!("{at}.{key}")))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(i, value)| place_of(value, keyword, &format!("{at}[{i}]"))),
        _ => None,
    }
}

/// A schema as llguidance is given it: with the blanks that are allowed.
pub(super) fn prepared(schema: &Value) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(false) => Map::from_iter([("enum".to_owned(), json!([]))]),
        _ => Map::new(),
    };
    fields.insert("x-guidance".into(), json!({"whitespace_pattern": BLANKS}));
    Value::Object(fields)
}

/// The schema of a tool's arguments, which are an object whatever it says.
pub(super) fn of_arguments(parameters: &Value) -> Value {
    let mut schema = parameters.clone();
    let has_type =
        ["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| schema.get(key).is_some());
    if let (false, Some(fields)) = (has_type, schema.as_object_mut()) {
        fields.insert("type".into(), json!("object"));
    }
    schema
}

/// A part of a schema that stands alone: with the definitions that it may refer to.
pub(super) fn part(root: &Value, part: &Value) -> Value {
    let mut fields = match part {
        Value::Object(fields) => fields.clone(),
        _ => return part.clone(),
    };
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = root.get(key) {
            fields.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    Value::Object(fields)
}

/// Follows references to the schema that is meant.
pub(super) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        let target = schema.get("$ref").and_then(Value::as_str);
        let Some(pointer) = target.and_then(|target| target.strip_prefix('#')) else {
            break;
        };
        match root.pointer(pointer) {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}
