//! Reading of a checked body. Null and absence are the same; a value of another kind than its table
//! says is never met, because the body was checked.

use serde_json::{Map, Value};

use super::Problem;

/// An object of a checked body.
#[derive(Debug, Clone)]
pub struct Body<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// A whole number, also where it is written as `3.0`.
pub fn int(value: &Value) -> Option<i64> {
    let exact = |n: f64| (n.fract() == 0.0 && n.abs() < 9.0e15).then_some(n as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(exact))
}

impl<'a> Body<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, path: String) -> Body<'a> {
        Body { map, path }
    }

    /// The value of a field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The underlying object.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The path of a field, for messages.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A problem with a field that the table cannot express.
    pub fn problem(&self, name: &str, what: impl Into<String>) -> Problem {
        Problem { param: self.path(name), what: what.into(), is_unsupported: false }
    }

    /// A request that a field makes and zinc cannot fulfil.
    pub fn unsupported(&self, name: &str, what: impl Into<String>) -> Problem {
        Problem { is_unsupported: true, ..self.problem(name, what) }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        int(self.get(name)?)
    }

    /// A whole number that the table keeps within `u32`.
    pub fn count(&self, name: &str) -> Option<u32> {
        u32::try_from(self.int(name)?).ok()
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<f32> {
        Some(self.get(name)?.as_f64()? as f32)
    }

    /// A list; empty where there is none.
    pub fn list(&self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A list of whole numbers that the table keeps within `u32`.
    pub fn counts(&self, name: &str) -> Vec<u32> {
        let values = self.list(name).iter();
        values.filter_map(|value| u32::try_from(super::int(value)?).ok()).collect()
    }

    /// An object.
    pub fn object(&self, name: &str) -> Option<Body<'a>> {
        Some(Body { map: self.get(name)?.as_object()?, path: self.path(name) })
    }

    /// The objects of a list.
    pub fn objects(&self, name: &str) -> impl Iterator<Item = Body<'a>> + use<'a> {
        let path = self.path(name);
        let indexed = self.list(name).iter().enumerate();
        indexed.filter_map(move |(i, value)| {
            Some(Body { map: value.as_object()?, path: format!("{path}[{i}]") })
        })
    }

    /// A text, or the texts of a list.
    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    }
}
