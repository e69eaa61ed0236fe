//! JSON schemas: what can be held, and where something cannot.

use std::collections::{HashMap, HashSet, VecDeque};

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

/// Names of types.
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// Keywords that narrow what is valid and that a syntax of calls, or llguidance, may not be able to hold.
/// Without them there is still the shape: types, properties, required ones, fixed values.
const NARROWING: [&str; 19] = [
    "oneOf",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "allOf",
    "prefixItems",
    "additionalItems",
    "$ref",
];

/// Checks that a schema is one and uses nothing that cannot be held.
///
/// # Errors
/// [`ChatError::Schema`] and [`ChatError::Constraint`] with the keyword and its place.
pub(super) fn check(schema: &Value, at: &str) -> Result<(), ChatError> {
    match weakened(schema, at, &[]).1.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A schema without what cannot be held and without the keywords `more`, and what was left out, in order.
/// Everything that satisfies the schema satisfies the weaker one.
pub(super) fn weakened(schema: &Value, at: &str, more: &[&str]) -> (Value, Vec<ChatError>) {
    let mut schema = schema.clone();
    let mut unheld = Vec::new();
    let endless = endless(&schema);
    weaken(&mut schema, at, 0, &LeftOut { more, endless: &endless }, &mut unheld);
    (schema, unheld)
}

/// Those of the [`NARROWING`] keywords that a schema has.
pub(super) fn narrowing(schema: &Value) -> Vec<&'static str> {
    let has = |keyword: &&str| place_of(schema, keyword, "").is_some();
    NARROWING.into_iter().filter(has).collect()
}

/// What is left out of a schema apart from what is never held.
struct LeftOut<'a> {
    /// Keywords.
    more: &'a [&'a str],
    /// Targets of references.
    endless: &'a [String],
}

fn weaken(
    schema: &mut Value,
    at: &str,
    depth: usize,
    more: &LeftOut<'_>,
    unheld: &mut Vec<ChatError>,
) {
    if depth > MAX_DEPTH {
        unheld.push(ChatError::constraint(at, "the schema is nested too deeply"));
        *schema = json!(true);
        return;
    }
    let fields = match schema {
        Value::Bool(_) => return,
        Value::Object(fields) => fields,
        _ => {
            unheld.push(ChatError::schema(at, "expected a schema: an object or a boolean"));
            *schema = json!(true);
            return;
        }
    };
    let mut keys: VecDeque<String> = fields.keys().cloned().collect();
    while let Some(key) = keys.pop_front() {
        let place = format!("{at}.{key}");
        // A keyword may have gone with another.
        let Some(value) = fields.get_mut(&key) else { continue };
        if let Some(error) = fault(&key, value, &place, more) {
            unheld.push(error);
            leave_out(fields, &key);
            if key == "oneOf" {
                keys.push_back("anyOf".to_owned());
            }
            continue;
        }
        match (key.as_str(), value) {
            (key, Value::Object(members)) if HOLDS_SCHEMAS.contains(&key) => {
                for (name, member) in members {
                    weaken(member, &format!("{place}.{name}"), depth + 1, more, unheld);
                }
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(members)) => {
                for (i, member) in members.iter_mut().enumerate() {
                    weaken(member, &format!("{place}[{i}]"), depth + 1, more, unheld);
                }
            }
            ("items" | "additionalItems" | "additionalProperties", value) => {
                weaken(value, &place, depth + 1, more, unheld);
            }
            _ => {}
        }
    }
}

/// Takes a keyword out of a schema, and what would mean more without it.
fn leave_out(fields: &mut Map<String, Value>, keyword: &str) {
    let value = fields.shift_remove(keyword);
    match keyword {
        "properties" | "patternProperties" => drop(fields.shift_remove("additionalProperties")),
        "prefixItems" => drop(fields.shift_remove("items")),
        "items" => drop(fields.shift_remove("additionalItems")),
        // One of them is at least any of them.
        "oneOf" if value.as_ref().is_some_and(Value::is_array) => {
            fields.entry("anyOf").or_insert(value.unwrap_or_default());
        }
        _ => {}
    }
}

/// What is wrong with a keyword, apart from the schemas in it.
fn fault(key: &str, value: &Value, place: &str, left_out: &LeftOut<'_>) -> Option<ChatError> {
    let unsupported = |what: String| Some(ChatError::constraint(place, what));
    let malformed = |expected: &str| Some(ChatError::schema(place, format!("expected {expected}")));
    let is_list_of = |is_right: fn(&Value) -> bool| {
        value.as_array().is_some_and(|list| list.iter().all(is_right))
    };
    match key {
        // The default says nothing.
        "uniqueItems" if *value == json!(false) => None,
        key if UNSUPPORTED.contains(&key) || left_out.more.contains(&key) => {
            unsupported(format!("the keyword {key:?} is not supported; leave it out"))
        }
        "type" if !is_type(value) && !is_list_of(is_type) => {
            malformed(&format!("one or a list of {}", TYPES.join(", ")))
        }
        "required" if !is_list_of(Value::is_string) => malformed("a list of names"),
        "enum" if !value.is_array() => malformed("a list of values"),
        "pattern" | "format" | "$ref" if !value.is_string() => malformed("a text"),
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf"
            if !value.is_number() =>
        {
            malformed("a number")
        }
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
            if !value.as_f64().is_some_and(|n| n >= 0.0 && n.fract() == 0.0) =>
        {
            malformed("a whole number that is not negative")
        }
        "format" if !is_known_format(value) => unsupported(format!(
            "the keyword \"format\" with {value} is not supported; known are {}",
            FORMATS[..10].join(", ")
        )),
        "$ref" if !value.as_str().is_some_and(|target| target.starts_with('#')) => {
            unsupported(format!("\"$ref\" to {value} is not supported; refer to #/$defs/..."))
        }
        "$ref" if left_out.endless.iter().any(|target| value == target) => unsupported(format!(
            "no JSON satisfies {value}: it refers to itself, and nothing lets it end"
        )),
        key if HOLDS_SCHEMAS.contains(&key) && !value.is_object() => {
            malformed("an object of schemas")
        }
        "anyOf" | "oneOf" | "allOf" | "prefixItems" if !value.is_array() => {
            malformed("a list of schemas")
        }
        _ => None,
    }
}

fn is_type(value: &Value) -> bool {
    value.as_str().is_some_and(|name| TYPES.contains(&name))
}

fn is_known_format(value: &Value) -> bool {
    value.as_str().is_some_and(|format| FORMATS.contains(&format))
}

/// The error for a schema that llguidance refuses: its words, and the place of the first keyword that
/// they name.
pub(super) fn refused(schema: &Value, at: &str, error: &str) -> ChatError {
    let words = first_line(error);
    let named =
        ["oneOf", "multipleOf", "pattern", "minProperties", "maxProperties", "allOf", "$ref"];
    let by_keyword = || {
        let mut named = named.iter().filter(|keyword| words.contains(**keyword));
        named.find_map(|keyword| place_of(schema, keyword, at))
    };
    let is_quoted = |pattern: &str| words.ends_with(&format!(" in {pattern:?}"));
    let by_pattern = place_where(schema, at, &|key, value| match (key, value) {
        ("pattern", Value::String(pattern)) => is_quoted(pattern),
        ("patternProperties", Value::Object(members)) => members.keys().any(|key| is_quoted(key)),
        _ => false,
    });
    let place = by_pattern.or_else(by_keyword);
    ChatError::constraint(place.unwrap_or_else(|| at.to_owned()), words)
}

/// The part of llguidance's message that speaks of the cause.
pub(super) fn first_line(error: &str) -> String {
    let mut lines = error.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.next().unwrap_or("it is refused");
    // An error of a regular expression shows the expression, a mark below it, and then the reason.
    let source = lines.next().filter(|_| line.ends_with(':'));
    let reason = lines.find_map(|line| line.strip_prefix("error: "));
    let whole = match (source, reason) {
        (Some(source), Some(reason)) => format!("{line} {reason} in {source:?}"),
        _ => line.to_owned(),
    };
    whole.chars().take(300).collect()
}

fn place_of(schema: &Value, keyword: &str, at: &str) -> Option<String> {
    place_where(schema, at, &|key, _| key == keyword)
}

/// The place of the first keyword that `is_it`, which is given its name and value.
fn place_where(schema: &Value, at: &str, is_it: &dyn Fn(&str, &Value) -> bool) -> Option<String> {
    match schema {
        Value::Object(fields) => {
            let own = fields.iter().find(|(key, value)| is_it(key, value));
            let inner = || {
                let mut fields = fields.iter();
                fields.find_map(|(key, value)| place_where(value, &format!("{at}.{key}"), is_it))
            };
            own.map(|(key, _)| format!("{at}.{key}")).or_else(inner)
        }
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(i, value)| place_where(value, &format!("{at}[{i}]"), is_it))
        }
        _ => None,
    }
}

/// References of a schema to schemas that no finite JSON satisfies, because they refer to themselves and
/// nothing lets them end. A grammar of them begins, and is stuck or never ends.
fn endless(root: &Value) -> Vec<String> {
    let mut targets = HashMap::new();
    collect_targets(root, root, 0, &mut targets);
    let mut left: Vec<(&str, &Value)> = targets.into_iter().collect();
    // Least fixed point: a target ends if it does with those that do. What longer chains hide shows when the
    // first mask is computed.
    for _ in 0..MAX_DEPTH {
        let names: HashSet<&str> = left.iter().map(|(name, _)| *name).collect();
        let n_before = left.len();
        left.retain(|(_, target)| !has_end(target, &names, 0));
        if left.len() == n_before {
            return left.into_iter().map(|(name, _)| name.to_owned()).collect();
        }
    }
    Vec::new()
}

fn collect_targets<'a>(
    root: &'a Value,
    schema: &'a Value,
    depth: usize,
    targets: &mut HashMap<&'a str, &'a Value>,
) {
    if depth > 2 * MAX_DEPTH {
        return;
    }
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(name)) = fields.get("$ref")
                && let Some(target) = name.strip_prefix('#').and_then(|at| root.pointer(at))
            {
                targets.insert(name, target);
            }
            fields.values().for_each(|value| collect_targets(root, value, depth + 1, targets));
        }
        Value::Array(items) => {
            items.iter().for_each(|value| collect_targets(root, value, depth + 1, targets));
        }
        _ => {}
    }
}

/// Whether JSON of a schema can be finite if that of the `endless` references cannot.
fn has_end(schema: &Value, endless: &HashSet<&str>, depth: usize) -> bool {
    let Some(fields) = schema.as_object().filter(|_| depth <= MAX_DEPTH) else { return true };
    let ends = |schema: &Value| has_end(schema, endless, depth + 1);
    let is_type = |name: &str| match fields.get("type") {
        Some(Value::String(only)) => only == name,
        _ => false,
    };
    if let Some(Value::String(target)) = fields.get("$ref")
        && endless.contains(target.as_str())
    {
        return false;
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(Value::Array(options)) = fields.get(keyword)
            && !options.is_empty()
            && !options.iter().any(ends)
        {
            return false;
        }
    }
    if let Some(Value::Array(all)) = fields.get("allOf")
        && !all.iter().all(ends)
    {
        return false;
    }
    if is_type("object") {
        let required = fields.get("required").and_then(Value::as_array);
        // A name that is listed again is looked at once.
        let names: HashSet<&str> =
            required.into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = names.into_iter().filter_map(|name| fields.get("properties")?.get(name));
        return properties.into_iter().all(ends);
    }
    let n_items = fields.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    if is_type("array") && n_items > 0 {
        let first = fields.get("prefixItems").and_then(Value::as_array);
        let n_first = first.map_or(0, Vec::len);
        let first = first.into_iter().flatten().take(n_items);
        let more = fields.get("items").filter(|_| n_items > n_first);
        return first.chain(more).all(ends);
    }
    true
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
