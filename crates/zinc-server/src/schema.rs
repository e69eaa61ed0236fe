//! Request bodies as tables: every field a body may have, what it may hold, and what becomes of it.
//!
//! One table serves three purposes, so that they cannot disagree: it checks bodies, it refuses what
//! would change a result that zinc cannot give, and it is the OpenAPI document.

mod document;
mod read;

use serde_json::{Map, Value};

pub use document::Components;
pub use read::{Body, int};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// Has to be there.
    Required,
    /// Does what the API says.
    Used,
    /// Bookkeeping of clients: accepted, and without any effect on the result.
    Accepted,
    /// Would change the result in a way that zinc does not support: refused, unless it is null or
    /// one of these values, which ask for what zinc does anyway.
    Refused(&'static [Neutral]),
}

/// A value with which a field that is not supported changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Neutral {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Int(i64),
    /// A text.
    Text(&'static str),
    /// An empty list.
    EmptyList,
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number in this range, ends included.
    Int(i64, i64),
    /// A number in this range, ends included.
    Number(f64, f64),
    /// A text.
    Text,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list of so many values, ends included.
    List(&'static Kind, usize, usize),
    /// An object with exactly these fields.
    Object(&'static Object),
    /// An object with any keys whose values are of this kind.
    Map(&'static Kind),
    /// An object of which a text field names the form.
    Tagged(&'static Tagged),
    /// Any of these, told apart by their JSON types.
    AnyOf(&'static [Kind]),
    /// Any value.
    Any,
}

/// A field of an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it may hold. Null stands for absence.
    pub kind: Kind,
    /// What becomes of it.
    pub role: Role,
    /// One sentence for the reference.
    pub doc: &'static str,
}

/// An object with known fields.
#[derive(Debug, PartialEq)]
pub struct Object {
    /// Its name in the OpenAPI document.
    pub name: &'static str,
    /// Its fields, in groups that objects share.
    pub groups: &'static [&'static [Field]],
}

/// An object whose form is named by one of its fields.
#[derive(Debug, PartialEq)]
pub struct Tagged {
    /// The field that names the form.
    pub key: &'static str,
    /// The form where the field is absent.
    pub default: Option<&'static str>,
    /// The forms.
    pub forms: &'static [(&'static str, &'static Object)],
    /// Forms that the API has and zinc has not, with the reason.
    pub refused: &'static [(&'static str, &'static str)],
}

/// A field that zinc uses.
pub const fn used(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, role: Role::Used, doc }
}

/// A field that has to be there.
pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, role: Role::Required, doc }
}

/// A field without effect.
pub const fn accepted(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, role: Role::Accepted, doc: "Accepted; has no effect." }
}

/// A field that is refused unless its value changes nothing.
pub const fn refused(name: &'static str, neutral: &'static [Neutral], doc: &'static str) -> Field {
    Field { name, kind: Kind::Any, role: Role::Refused(neutral), doc }
}

/// What is wrong with a body.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{param}: {what}")]
pub struct Problem {
    /// Path of the field, such as `messages[2].role`.
    pub param: String,
    /// What is wrong with it, and what would be right.
    pub what: String,
    /// Whether the field is one that zinc knows and does not support, or one that it does not know.
    pub is_unsupported: bool,
}

impl Problem {
    fn new(param: &str, what: impl Into<String>) -> Problem {
        let param = if param.is_empty() { "body" } else { param };
        Problem { param: param.to_owned(), what: what.into(), is_unsupported: false }
    }

    fn unsupported(param: &str, what: impl Into<String>) -> Problem {
        Problem { is_unsupported: true, ..Problem::new(param, what) }
    }
}

impl Object {
    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// Checks a body and gives it for reading.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check<'a>(&self, value: &'a Value) -> Result<Body<'a>, Problem> {
        match value {
            Value::Object(map) => {
                self.check_map(map, "")?;
                Ok(Body::new(map, String::new()))
            }
            _ => Err(Problem::new("", "expected a JSON object")),
        }
    }

    fn check_map(&self, map: &Map<String, Value>, path: &str) -> Result<(), Problem> {
        for (key, value) in map {
            let at = join(path, key);
            let Some(field) = self.fields().find(|field| field.name == key) else {
                let what = "unknown field; zinc refuses what it would ignore, leave it out";
                return Err(Problem::unsupported(&at, what));
            };
            field.check(value, &at)?;
        }
        let is_there = |field: &Field| map.get(field.name).is_some_and(|value| !value.is_null());
        let mut missing = self.fields().filter(|f| f.role == Role::Required && !is_there(f));
        match missing.next() {
            Some(field) => {
                let what = format!("required; expected {}", field.kind.words());
                Err(Problem::new(&join(path, field.name), what))
            }
            None => Ok(()),
        }
    }
}

impl Field {
    fn check(&self, value: &Value, at: &str) -> Result<(), Problem> {
        if value.is_null() {
            return Ok(());
        }
        match self.role {
            Role::Refused(neutral) if neutral.iter().any(|neutral| neutral.is(value)) => Ok(()),
            Role::Refused(_) => {
                Err(Problem::unsupported(at, format!("not supported: {}", self.doc)))
            }
            _ => self.kind.check(value, at),
        }
    }
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match *self {
            Neutral::Flag(flag) => value.as_bool() == Some(flag),
            Neutral::Int(number) => read::int(value) == Some(number),
            Neutral::Text(text) => value.as_str() == Some(text),
            Neutral::EmptyList => value.as_array().is_some_and(Vec::is_empty),
        }
    }
}

impl Kind {
    fn check(&self, value: &Value, at: &str) -> Result<(), Problem> {
        if !self.takes_type_of(value) {
            return Err(Problem::new(at, format!("expected {}", self.words())));
        }
        let in_range = match *self {
            Kind::Int(min, max) => read::int(value).is_some_and(|n| (min..=max).contains(&n)),
            Kind::Number(min, max) => value.as_f64().is_some_and(|n| (min..=max).contains(&n)),
            Kind::Choice(choices) => value.as_str().is_some_and(|text| choices.contains(&text)),
            Kind::List(_, min, max) => {
                value.as_array().is_some_and(|list| (min..=max).contains(&list.len()))
            }
            _ => true,
        };
        if !in_range {
            let what = format!("{} is not allowed; expected {}", shown(value), self.words());
            return Err(Problem::new(at, what));
        }
        self.check_inside(value, at)
    }

    fn check_inside(&self, value: &Value, at: &str) -> Result<(), Problem> {
        match (self, value) {
            (Kind::List(item, ..), Value::Array(list)) => {
                let mut indexed = list.iter().enumerate();
                indexed.try_for_each(|(i, value)| item.check(value, &format!("{at}[{i}]")))
            }
            (Kind::Object(object), Value::Object(map)) => object.check_map(map, at),
            (Kind::Map(item), Value::Object(map)) => {
                map.iter().try_for_each(|(key, value)| item.check(value, &join(at, key)))
            }
            (Kind::Tagged(tagged), Value::Object(map)) => tagged.check(map, at),
            (Kind::AnyOf(kinds), value) => {
                let mut first = None;
                for kind in kinds.iter().filter(|kind| kind.takes_type_of(value)) {
                    match kind.check(value, at) {
                        Ok(()) => return Ok(()),
                        Err(problem) => first = first.or(Some(problem)),
                    }
                }
                Err(first.unwrap_or_else(|| Problem::new(at, format!("expected {}", self.words()))))
            }
            _ => Ok(()),
        }
    }

    fn takes_type_of(&self, value: &Value) -> bool {
        match self {
            Kind::Flag => value.is_boolean(),
            Kind::Int(..) => value.is_number(),
            Kind::Number(..) => value.is_number(),
            Kind::Text | Kind::Choice(_) => value.is_string(),
            Kind::List(..) => value.is_array(),
            Kind::Object(_) | Kind::Map(_) | Kind::Tagged(_) => value.is_object(),
            Kind::AnyOf(kinds) => kinds.iter().any(|kind| kind.takes_type_of(value)),
            Kind::Any => true,
        }
    }

    /// The kind in words, for messages.
    fn words(&self) -> String {
        match *self {
            Kind::Flag => "true or false".into(),
            Kind::Int(i64::MIN, i64::MAX) => "an integer".into(),
            Kind::Int(min, i64::MAX) => format!("an integer of at least {min}"),
            Kind::Int(min, max) => format!("an integer from {min} to {max}"),
            Kind::Number(min, max) => format!("a number from {min} to {max}"),
            Kind::Text => "a string".into(),
            Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
            Kind::List(item, min, usize::MAX) => {
                format!("a list of at least {min}, each {}", item.words())
            }
            Kind::List(item, min, max) => {
                format!("a list of {min} to {max}, each {}", item.words())
            }
            Kind::Object(_) | Kind::Map(_) | Kind::Tagged(_) => "an object".into(),
            Kind::AnyOf(kinds) => {
                let words: Vec<_> = kinds.iter().map(Kind::words).collect();
                words.join(", or ")
            }
            Kind::Any => "any value".into(),
        }
    }
}

impl Tagged {
    fn check(&self, map: &Map<String, Value>, at: &str) -> Result<(), Problem> {
        let key_at = join(at, self.key);
        let tag = match map.get(self.key) {
            Some(Value::String(tag)) => Some(tag.as_str()),
            None | Some(Value::Null) => self.default,
            Some(_) => None,
        };
        let known = || {
            let names: Vec<_> = self.forms.iter().map(|(name, _)| *name).collect();
            format!("expected {}", names.join(", "))
        };
        let Some(tag) = tag else {
            return Err(Problem::new(&key_at, known()));
        };
        if let Some((_, object)) = self.forms.iter().find(|(name, _)| *name == tag) {
            return object.check_map(map, at);
        }
        match self.refused.iter().find(|(name, _)| *name == tag) {
            Some((_, why)) => {
                Err(Problem::unsupported(&key_at, format!("{tag} is not supported: {why}")))
            }
            None => Err(Problem::new(&key_at, format!("{:?} is unknown; {}", clip(tag), known()))),
        }
    }
}

/// `path.key`, or `key` at the top.
fn join(path: &str, key: &str) -> String {
    let key = clip(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The beginning of a text from outside, for messages.
fn clip(text: &str) -> String {
    const N_CHARS_MAX: usize = 64;
    match text.char_indices().nth(N_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        other => clip(&other.to_string()),
    }
}

#[cfg(test)]
mod tests;
