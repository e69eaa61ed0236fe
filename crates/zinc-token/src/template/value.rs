//! The data of a rendering: Python's JSON types and what Python derives from them. All of it is immutable, as
//! in the sandbox that Hugging Face renders in. `bridge` carries these values through minijinja.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::TemplateError;
use super::bridge;
use super::budget::{Budget, Res};

/// Deepest nesting of lists and dicts: comparison, printing and destruction recurse over it.
const MAX_VALUE_DEPTH: u16 = 150;

#[derive(Clone)]
pub(super) enum Value {
    /// Missing value with the message that using it raises.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// What `safe` and `escape` return: a string that escapes what is added to it, as Python's `Markup`.
    Markup(Arc<str>),
    List(Arc<Seq>),
    Tuple(Arc<Seq>),
    Dict(Arc<Dict>),
    View(View, Arc<Dict>),
    Range(Range),
    /// A generator or iterator: its items can be taken once.
    Iter(Arc<Iter>),
    /// A method with the value it belongs to.
    Method(Arc<(Value, &'static str)>),
    /// What minijinja itself owns: macros, functions, namespaces, loops.
    Native(minijinja::Value),
}

/// The elements of a list or tuple.
pub(super) struct Seq {
    pub items: Vec<Value>,
    depth: u16,
    /// Whether `.grouper` and `.list` name the elements: the pairs of `groupby`.
    pub is_group: bool,
}

/// A dict in insertion order.
#[derive(Default)]
pub(super) struct Dict {
    pub entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: u16,
}

/// A hashable value with Python's equality: `1`, `1.0` and `True` are one key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub start: i64,
    pub stop: i64,
    pub step: i64,
}

impl Range {
    pub(super) fn len(self) -> usize {
        let (span, step) = if self.step > 0 {
            (i128::from(self.stop) - i128::from(self.start), i128::from(self.step))
        } else {
            (i128::from(self.start) - i128::from(self.stop), -i128::from(self.step))
        };
        if span <= 0 { 0 } else { usize::try_from((span + step - 1) / step).unwrap_or(usize::MAX) }
    }

    pub(super) fn get(self, idx: usize) -> Value {
        Value::Int(i128::from(self.start) + i128::from(self.step) * idx as i128)
    }
}

/// Items that are handed out once.
pub(super) struct Iter {
    pub items: Vec<Value>,
    pub taken: AtomicUsize,
    depth: u16,
}

/// The depth of a container of `values`. Namespaces and loops are refused: they can change, so a chain of them
/// could grow deeper than destruction can recurse, or close a cycle that is never freed.
fn child_depth<'v>(values: impl Iterator<Item = &'v Value>) -> Res<u16> {
    let mut depth = 1;
    for value in values {
        value.check_storable()?;
        depth = depth.max(value.depth() + 1);
    }
    if depth > MAX_VALUE_DEPTH {
        return Err(TemplateError::limit("levels of nested values", u64::from(MAX_VALUE_DEPTH)));
    }
    Ok(depth)
}

impl Dict {
    /// A dict of `entries`, where a later value of an equal key replaces the earlier one in its place.
    pub(super) fn new(
        entries: impl IntoIterator<Item = (Value, Value)>,
        budget: &Budget,
    ) -> Res<Self> {
        let mut dict = Self::default();
        for (key, value) in entries {
            budget.elements(4)?;
            let hash = Key::of(&key, budget)?;
            match dict.index.get(&hash) {
                Some(&at) => dict.entries[at].1 = value,
                None => {
                    dict.index.insert(hash, dict.entries.len());
                    dict.entries.push((key, value));
                }
            }
        }
        dict.depth = child_depth(dict.entries.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(dict)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    pub(super) fn get_str(&self, key: &Arc<str>) -> Option<&Value> {
        self.get(&Key::Str(key.clone()))
    }
}

impl Key {
    /// The key of a hashable value; an error for lists and dicts.
    pub(super) fn of(value: &Value, budget: &Budget) -> Res<Self> {
        Ok(match value {
            Value::None => Self::None,
            Value::Bool(b) => Self::Int(i128::from(*b)),
            Value::Int(i) => Self::Int(*i),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e30 => Self::Int(*x as i128),
            Value::Float(x) => Self::Float(x.to_bits()),
            Value::Str(s) | Value::Markup(s) => {
                budget.scan(s.len())?;
                Self::Str(s.clone())
            }
            Value::Tuple(seq) => {
                budget.elements(seq.items.len())?;
                Self::Tuple(
                    seq.items.iter().map(|item| Self::of(item, budget)).collect::<Res<_>>()?,
                )
            }
            other => {
                return Err(TemplateError::runtime(format!(
                    "unhashable type: '{}'",
                    other.type_name()
                )));
            }
        })
    }
}

impl Value {
    pub(super) fn undefined(message: impl Into<Arc<str>>) -> Self {
        Self::Undefined(message.into())
    }

    pub(super) fn list(items: Vec<Value>) -> Res<Self> {
        let depth = child_depth(items.iter())?;
        Ok(Self::List(Arc::new(Seq { items, depth, is_group: false })))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Res<Self> {
        let depth = child_depth(items.iter())?;
        Ok(Self::Tuple(Arc::new(Seq { items, depth, is_group: false })))
    }

    /// A pair of `groupby`.
    pub(super) fn group(grouper: Value, list: Value) -> Res<Self> {
        let items = vec![grouper, list];
        let depth = child_depth(items.iter())?;
        Ok(Self::Tuple(Arc::new(Seq { items, depth, is_group: true })))
    }

    pub(super) fn iter(items: Vec<Value>) -> Self {
        let depth = items.iter().map(Value::depth).max().unwrap_or(0) + 1;
        Self::Iter(Arc::new(Iter { items, taken: AtomicUsize::new(0), depth }))
    }

    /// Refuses what may not be stored inside another value.
    pub(super) fn check_storable(&self) -> Res<()> {
        match self {
            Self::Native(value) if !bridge::is_callable(value) => {
                Err(TemplateError::runtime("a namespace or loop cannot be stored in another value"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) | Self::Markup(s) => Some(s),
            _ => None,
        }
    }

    /// The value, where marked-up text is a plain string.
    pub(super) fn plain(&self) -> Self {
        match self {
            Self::Markup(s) => Self::Str(s.clone()),
            other => other.clone(),
        }
    }

    /// The value, where a string is marked up.
    pub(super) fn into_markup(self) -> Self {
        match self {
            Self::Str(s) => Self::Markup(s),
            other => other,
        }
    }

    fn depth(&self) -> u16 {
        match self {
            Self::List(seq) | Self::Tuple(seq) => seq.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Iter(iter) => iter.depth,
            Self::Method(method) => method.0.depth() + 1,
            _ => 0,
        }
    }

    /// Python's name of the type, as error messages use it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iter(_) => "generator",
            Self::Method(_) => "builtin_function_or_method",
            Self::Native(value) if bridge::is_callable(value) => "function",
            Self::Native(_) => "object",
        }
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(x) => *x != 0.0,
            Self::Str(s) | Self::Markup(s) => !s.is_empty(),
            Self::List(seq) | Self::Tuple(seq) => !seq.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.len() > 0,
            Self::Iter(_) | Self::Method(_) | Self::Native(_) => true,
        }
    }

    /// `len()`: `None` for what has no length.
    pub(super) fn len(&self, budget: &Budget) -> Res<Option<usize>> {
        Ok(Some(match self {
            Self::Undefined(_) => 0,
            Self::Str(s) | Self::Markup(s) => {
                budget.scan(s.len())?;
                s.chars().count()
            }
            Self::List(seq) | Self::Tuple(seq) => seq.items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.entries.len(),
            Self::Range(range) => range.len(),
            _ => return Ok(None),
        }))
    }

    /// All items of an iterable, in a new vector; an iterator is used up.
    pub(super) fn items(&self, budget: &Budget) -> Res<Vec<Value>> {
        let known = match self {
            Self::Str(s) | Self::Markup(s) => s.len(),
            other => other.len(budget)?.unwrap_or(0),
        };
        budget.elements(known)?;
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Str(s) => s
                .chars()
                .map(|c| Self::Str(Arc::from(c.encode_utf8(&mut [0; 4]) as &str)))
                .collect(),
            Self::Markup(s) => s
                .chars()
                .map(|c| Self::Markup(Arc::from(c.encode_utf8(&mut [0; 4]) as &str)))
                .collect(),
            Self::List(seq) | Self::Tuple(seq) => seq.items.clone(),
            Self::Dict(dict) | Self::View(View::Keys, dict) => {
                dict.entries.iter().map(|(k, _)| k.clone()).collect()
            }
            Self::View(View::Values, dict) => dict.entries.iter().map(|(_, v)| v.clone()).collect(),
            Self::View(View::Items, dict) => {
                budget.elements(2 * known)?;
                dict.entries
                    .iter()
                    .map(|(k, v)| Self::tuple(vec![k.clone(), v.clone()]))
                    .collect::<Res<_>>()?
            }
            Self::Range(range) => (0..range.len()).map(|idx| range.get(idx)).collect(),
            Self::Iter(iter) => {
                let from = iter.taken.swap(iter.items.len(), Ordering::Relaxed);
                budget.elements(iter.items.len() - from)?;
                iter.items[from..].to_vec()
            }
            other => {
                return Err(TemplateError::runtime(format!(
                    "'{}' object is not iterable",
                    other.type_name()
                )));
            }
        })
    }

    /// The value of parsed JSON.
    pub(super) fn from_json(json: &serde_json::Value, budget: &Budget) -> Res<Self> {
        budget.step(1)?;
        Ok(match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i128::from(i)),
                (None, Some(u)) => Self::Int(i128::from(u)),
                (None, None) => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Self::Str(Arc::from(s.as_str())),
            serde_json::Value::Array(items) => Self::list(
                items.iter().map(|item| Self::from_json(item, budget)).collect::<Res<_>>()?,
            )?,
            serde_json::Value::Object(map) => {
                let mut entries = Vec::with_capacity(map.len());
                for (key, value) in map {
                    entries.push((
                        Self::Str(Arc::from(key.as_str())),
                        Self::from_json(value, budget)?,
                    ));
                }
                Self::Dict(Arc::new(Dict::new(entries, budget)?))
            }
        })
    }
}
