//! JSON schemas in Gemma's syntax of values: keys bare, strings between `<|"|>`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::grammar::{Grammar, any_of, quoted};
use super::schema;
use crate::ChatError;
use crate::syntax::GEMMA_QUOTE;

/// Writes rules for the values of one tool's arguments.
pub(super) struct GemmaRules<'a, 'g> {
    grammar: &'a mut Grammar<'g>,
    root: &'a Value,
    at: &'a str,
    /// Rules of the definitions that were referred to.
    defined: HashMap<String, String>,
    any: Option<String>,
}

/// Keywords of strings that this syntax's grammar does not hold.
const UNHELD: [&str; 3] = ["format", "minLength", "maxLength"];

type Rule = Result<String, ChatError>;

impl<'a, 'g> GemmaRules<'a, 'g> {
    pub fn new(grammar: &'a mut Grammar<'g>, root: &'a Value, at: &'a str) -> Self {
        Self { grammar, root, at, defined: HashMap::new(), any: None }
    }

    /// An expression for values of a schema.
    ///
    /// # Errors
    /// A keyword that cannot be held in this syntax.
    pub fn value(&mut self, schema: &Value) -> Rule {
        let Some(fields) = schema.as_object() else { return Ok(self.any()) };
        if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
            return self.reference(target);
        }
        if let Some(values) = fields.get("enum").and_then(Value::as_array) {
            let texts: Vec<_> = values.iter().map(|value| self.fixed(value)).collect();
            return Ok(any_of(&texts));
        }
        if let Some(value) = fields.get("const") {
            return Ok(self.fixed(value));
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = fields.get(key).and_then(Value::as_array) {
                let options: Result<Vec<_>, _> =
                    options.iter().map(|option| self.value(option)).collect();
                return Ok(any_of(&options?));
            }
        }
        if fields.contains_key("allOf") {
            return Err(self.unheld("allOf"));
        }
        match fields.get("type") {
            Some(Value::String(name)) => self.of_type(name, fields),
            Some(Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                let options: Result<Vec<_>, _> =
                    names.map(|name| self.of_type(name, fields)).collect();
                Ok(any_of(&options?))
            }
            _ if fields.contains_key("properties") => self.object(fields),
            _ => Ok(self.any()),
        }
    }

    fn unheld(&self, keyword: &str) -> ChatError {
        let what = format!("the keyword {keyword:?} is not supported in this model's call syntax");
        ChatError::constraint(self.at, what)
    }

    fn reference(&mut self, target: &str) -> Rule {
        if let Some(name) = self.defined.get(target) {
            return Ok(name.clone());
        }
        let pointer = target.strip_prefix('#').unwrap_or_default();
        let Some(schema) = self.root.pointer(pointer) else {
            let what = format!("\"$ref\" to {target:?}, which is not there");
            return Err(ChatError::constraint(self.at, what));
        };
        let name = self.grammar.name();
        self.defined.insert(target.to_owned(), name.clone());
        let expression = self.value(schema)?;
        self.grammar.define(&name, "", &expression);
        Ok(name)
    }

    fn of_type(&mut self, name: &str, fields: &Map<String, Value>) -> Rule {
        match name {
            "string" => self.text(fields),
            "array" => self.array(fields),
            "object" => self.object(fields),
            // Numbers and words are those of JSON.
            name => {
                let mut own = fields.clone();
                own.insert("type".into(), Value::String(name.to_owned()));
                Ok(self.grammar.json(&schema::part(self.root, &Value::Object(own))))
            }
        }
    }

    fn text(&mut self, fields: &Map<String, Value>) -> Rule {
        if let Some(keyword) = UNHELD.iter().find(|keyword| fields.contains_key(**keyword)) {
            return Err(self.unheld(keyword));
        }
        let quote = self.grammar.literal(GEMMA_QUOTE);
        if let Some(pattern) = fields.get("pattern").and_then(Value::as_str) {
            let regex = anchored(pattern).ok_or_else(|| self.unheld("pattern"))?;
            return Ok(format!("{quote} {regex} {quote}"));
        }
        let rest = self.grammar.text_until(GEMMA_QUOTE);
        Ok(format!("{quote} {rest}"))
    }

    fn array(&mut self, fields: &Map<String, Value>) -> Rule {
        if let Some(keyword) =
            ["prefixItems", "additionalItems"].iter().find(|key| fields.contains_key(**key))
        {
            return Err(self.unheld(keyword));
        }
        let item = match fields.get("items") {
            Some(items) => self.value(items)?,
            None => self.any(),
        };
        let item = self.grammar.rule(&item);
        let bound = |key: &str| fields.get(key).and_then(Value::as_u64);
        let (min, max) = (bound("minItems").unwrap_or(0), bound("maxItems"));
        let more = match max {
            Some(0) => return Ok("\"[]\"".to_owned()),
            Some(max) => format!("(\",\" {item}){{{},{}}}", min.saturating_sub(1), max - 1),
            None if min > 1 => format!("(\",\" {item}){{{},}}", min - 1),
            None => format!("(\",\" {item})*"),
        };
        let items = format!("{item} {more}");
        Ok(match min {
            0 => format!("\"[\" ({items})? \"]\""),
            _ => format!("\"[\" {items} \"]\""),
        })
    }

    /// An object with the properties of its schema in their order.
    pub fn object(&mut self, fields: &Map<String, Value>) -> Rule {
        let unheld = ["patternProperties", "minProperties", "maxProperties"];
        if let Some(keyword) = unheld.iter().find(|keyword| fields.contains_key(**keyword)) {
            return Err(self.unheld(keyword));
        }
        let properties = fields.get("properties").and_then(Value::as_object);
        let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
            return match fields.get("additionalProperties") {
                Some(Value::Bool(false)) => Ok("\"{}\"".to_owned()),
                Some(schema @ Value::Object(_)) => {
                    let value = self.value(schema)?;
                    Ok(self.members(&value))
                }
                _ => {
                    let any = self.any();
                    Ok(self.members(&any))
                }
            };
        };
        let required: Vec<&str> = match fields.get("required").and_then(Value::as_array) {
            Some(names) => names.iter().filter_map(Value::as_str).collect(),
            None => Vec::new(),
        };
        // From the last to the first: what may follow at the begin, and behind another member.
        let (mut first, mut later) = ("\"\"".to_owned(), "\"\"".to_owned());
        for (key, schema) in properties.iter().rev() {
            if key.contains(['{', '}', '[', ']', ':', ',', '"', '<']) {
                return Err(self.unheld("properties"));
            }
            let value = self.value(schema)?;
            let member = self.grammar.rule(&format!("{} {value}", quoted(&format!("{key}:"))));
            let (here, behind) = (format!("{member} {later}"), format!("\",\" {member} {later}"));
            let is_required = required.contains(&key.as_str());
            first =
                self.grammar.rule(&if is_required { here } else { format!("{here} | {first}") });
            later = self.grammar.rule(&if is_required {
                behind
            } else {
                format!("{behind} | {later}")
            });
        }
        Ok(format!("\"{{\" {first} \"}}\""))
    }

    /// An object with any keys.
    fn members(&mut self, value: &str) -> String {
        let member = self.grammar.rule(&format!("/[a-zA-Z_][a-zA-Z0-9_]{{0,40}}/ \":\" {value}"));
        format!("\"{{\" ({member} (\",\" {member})*)? \"}}\"")
    }

    fn any(&mut self) -> String {
        if let Some(name) = &self.any {
            return name.clone();
        }
        let name = self.grammar.name();
        self.any = Some(name.clone());
        let quote = self.grammar.literal(GEMMA_QUOTE);
        let text = self.grammar.text_until(GEMMA_QUOTE);
        let scalar = serde_json::json!({"type": ["number", "boolean", "null"]});
        let scalar = self.grammar.json(&scalar);
        let object = self.members(&name);
        let array = format!("\"[\" ({name} (\",\" {name})*)? \"]\"");
        let expression = format!("{quote} {text} | {scalar} | {array} | {object}");
        self.grammar.define(&name, "", &expression);
        name
    }

    /// One value.
    fn fixed(&self, value: &Value) -> String {
        self.grammar.literal(&written(value))
    }
}

/// A value as the syntax writes it.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{GEMMA_QUOTE}{text}{GEMMA_QUOTE}"),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(","))
        }
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("{key}:{}", written(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// A pattern that speaks of the whole string, as a regular expression; `None` for any other.
pub(super) fn anchored(pattern: &str) -> Option<String> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let is_escaped = inner.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
    // A line of alternatives would be anchored in parts only.
    let is_plain = !is_escaped && !inner.contains('|');
    is_plain.then(|| format!("/{}/", llguidance::regex_to_lark(inner, "dw")))
}
