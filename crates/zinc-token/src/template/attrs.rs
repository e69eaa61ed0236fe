//! Attribute access, subscripts and slices, with the sandbox's rules: names with a leading underscore and
//! methods that change their object are out of reach.

use std::sync::Arc;

use super::TemplateError;
use super::bridge;
use super::budget::{Budget, Res};
use super::ops::Num;
use super::value::{Key, Value};

const STR_METHODS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const DICT_METHODS: [&str; 5] = ["copy", "get", "items", "keys", "values"];
const LIST_METHODS: [&str; 3] = ["copy", "count", "index"];
const TUPLE_METHODS: [&str; 2] = ["count", "index"];
const DICT_MUTATORS: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const LIST_MUTATORS: [&str; 8] =
    ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// The Python attribute `name`, not looking at items.
pub(super) fn python_attr(value: &Value, name: &Arc<str>) -> Option<Value> {
    let (methods, mutators): (&[&'static str], &[&'static str]) = match value {
        Value::Str(_) | Value::Markup(_) => (&STR_METHODS, &[]),
        Value::Dict(_) => (&DICT_METHODS, &DICT_MUTATORS),
        Value::List(_) => (&LIST_METHODS, &LIST_MUTATORS),
        Value::Tuple(seq) => match &**name {
            "grouper" if seq.is_group => return seq.items.first().cloned(),
            "list" if seq.is_group => return seq.items.get(1).cloned(),
            _ => (&TUPLE_METHODS, &[]),
        },
        Value::Range(_) => (&TUPLE_METHODS, &[]),
        Value::Native(native) => return bridge::native_attr(native, name),
        _ => return None,
    };
    if let Some(name) = methods.iter().find(|method| **method == &**name) {
        return Some(Value::Method(Arc::new((value.clone(), name))));
    }
    mutators.contains(&&**name).then(|| unsafe_attr(value, name))
}

fn unsafe_attr(value: &Value, name: &str) -> Value {
    Value::undefined(format!(
        "access to attribute '{}' of '{}' object is unsafe",
        short(name),
        value.type_name()
    ))
}

/// A name cut to a length that fits a message.
pub(super) fn short(name: &str) -> String {
    if name.chars().nth(60).is_none() {
        name.into()
    } else {
        name.chars().take(57).chain("...".chars()).collect()
    }
}

fn no_attr(value: &Value, name: &str) -> Value {
    let name = short(name);
    Value::undefined(match value {
        Value::None => format!("'None' has no attribute '{name}'"),
        other => format!("'{} object' has no attribute '{name}'", other.type_name()),
    })
}

fn refuse_undefined(value: &Value) -> Res<()> {
    match value {
        Value::Undefined(message) => Err(TemplateError::runtime(&**message)),
        _ => Ok(()),
    }
}

/// `value.name`: the attribute, else the item.
pub(super) fn get_attr(value: &Value, name: &Arc<str>, budget: &Budget) -> Res<Value> {
    refuse_undefined(value)?;
    if let Some(found) = python_attr(value, name) {
        return Ok(found);
    }
    budget.scan(name.len())?;
    if let Value::Dict(dict) = value
        && let Some(found) = dict.get_str(name)
    {
        return Ok(found.clone());
    }
    Ok(no_attr(value, name))
}

/// `value[key]`: the item, else for a string the attribute.
pub(super) fn get_item(value: &Value, key: &Value, budget: &Budget) -> Res<Value> {
    refuse_undefined(value)?;
    if let Value::Markup(s) = value {
        return Ok(get_item(&Value::Str(s.clone()), key, budget)?.into_markup());
    }
    let found = match (value, key) {
        (Value::Dict(dict), _) => match Key::of(key, budget) {
            Ok(key) => dict.get(&key).cloned(),
            Err(TemplateError::Limit { what, limit, line }) => {
                return Err(TemplateError::Limit { what, limit, line });
            }
            Err(_) => None,
        },
        (_, Value::Int(_) | Value::Bool(_)) => index(value, key, budget)?,
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match key {
        Value::Str(name) | Value::Markup(name) => {
            Ok(python_attr(value, name).unwrap_or_else(|| no_attr(value, name)))
        }
        Value::Int(i) => Ok(no_attr(value, &i.to_string())),
        _ => Ok(no_attr(value, key.type_name())),
    }
}

/// The element at an integer index, counted from the end if negative.
fn index(value: &Value, key: &Value, budget: &Budget) -> Res<Option<Value>> {
    if !matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_)) {
        return Ok(None);
    }
    let Some(Num::Int(idx)) = Num::of(key) else {
        return Ok(None);
    };
    let len = value.len(budget)?.unwrap_or(0) as i128;
    let idx = if idx < 0 { idx + len } else { idx };
    if !(0..len).contains(&idx) {
        return Ok(None);
    }
    let idx = idx as usize;
    Ok(match value {
        Value::Str(s) => {
            s.chars().nth(idx).map(|c| Value::Str(Arc::from(c.encode_utf8(&mut [0; 4]) as &str)))
        }
        Value::List(seq) | Value::Tuple(seq) => seq.items.get(idx).cloned(),
        Value::Range(range) => Some(range.get(idx)),
        _ => None,
    })
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, bounds: [Value; 3], budget: &Budget) -> Res<Value> {
    refuse_undefined(value)?;
    if let Value::Markup(s) = value {
        return Ok(slice(&Value::Str(s.clone()), bounds, budget)?.into_markup());
    }
    if !matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_)) {
        return Err(TemplateError::runtime(format!(
            "'{}' object cannot be sliced",
            value.type_name()
        )));
    }
    let len = value.len(budget)?.unwrap_or(0);
    let indices = slice_indices(len, bounds)?;
    budget.elements(indices.len())?;
    match value {
        Value::Str(s) => {
            let chars: Vec<char> = s.chars().collect();
            budget.str(&indices.into_iter().map(|idx| chars[idx]).collect::<String>())
        }
        Value::List(seq) => {
            Value::list(indices.into_iter().map(|idx| seq.items[idx].clone()).collect())
        }
        Value::Tuple(seq) => {
            Value::tuple(indices.into_iter().map(|idx| seq.items[idx].clone()).collect())
        }
        Value::Range(range) => Value::list(indices.into_iter().map(|idx| range.get(idx)).collect()),
        other => {
            Err(TemplateError::runtime(format!("'{}' object cannot be sliced", other.type_name())))
        }
    }
}

/// The positions that a slice of a sequence of `len` elements names, in order.
fn slice_indices(len: usize, bounds: [Value; 3]) -> Res<Vec<usize>> {
    let bound = |value: &Value| match (value, Num::of(value)) {
        (Value::None, _) => Ok(None),
        (_, Some(Num::Int(i))) => Ok(Some(i)),
        _ => Err(TemplateError::runtime("slice indices must be integers or None")),
    };
    let [start, stop, step] = [bound(&bounds[0])?, bound(&bounds[1])?, bound(&bounds[2])?];
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(TemplateError::runtime("slice step cannot be zero"));
    }
    let n = len as i128;
    // Going down, the positions run from the last element to just before the first.
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clamp = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(b) if b < 0 => b.saturating_add(n).max(low),
        Some(b) => b.min(high),
    };
    let (start, stop) = if step > 0 {
        (clamp(start, 0), clamp(stop, n))
    } else {
        (clamp(start, n - 1), clamp(stop, -1))
    };
    let mut indices = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        indices.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(indices)
}
