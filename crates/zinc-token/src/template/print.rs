//! Python's `str()` and `repr()` of values.

use super::budget::{Budget, Res, Text};
use super::escape::{repr_float, repr_str};
use super::value::{Value, View};

/// `str(value)` appended to `out`.
pub(super) fn write_str(value: &Value, out: &mut Text<'_>, budget: &Budget) -> Res<()> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Str(s) | Value::Markup(s) => out.push_str(s),
        other => write_repr(other, out, budget),
    }
}

/// `str(value)` as a value; strings are shared, not copied.
pub(super) fn to_str(value: &Value, budget: &Budget) -> Res<Value> {
    if let Value::Str(_) | Value::Markup(_) = value {
        return Ok(value.plain());
    }
    let mut out = Text::new(budget);
    write_str(value, &mut out, budget)?;
    Ok(out.finish())
}

/// `repr(value)` as a string.
pub(super) fn repr(value: &Value, budget: &Budget) -> Res<String> {
    let mut out = Text::new(budget);
    write_repr(value, &mut out, budget)?;
    Ok(out.into_string())
}

/// `repr(value)` appended to `out`.
pub(super) fn write_repr(value: &Value, out: &mut Text<'_>, budget: &Budget) -> Res<()> {
    budget.step(1)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::Float(x) => out.push_str(&repr_float(*x)),
        Value::Str(s) => repr_str(s, out),
        Value::Markup(s) => {
            out.push_str("Markup(")?;
            repr_str(s, out)?;
            out.push(')')
        }
        Value::List(seq) => write_items("[", &seq.items, "]", out, budget),
        Value::Tuple(seq) => {
            write_items("(", &seq.items, if seq.items.len() == 1 { ",)" } else { ")" }, out, budget)
        }
        Value::Dict(dict) => {
            out.push('{')?;
            write_entries(&dict.entries, out, budget)?;
            out.push('}')
        }
        Value::View(view, _) => {
            let name = match view {
                View::Keys => "dict_keys([",
                View::Values => "dict_values([",
                View::Items => "dict_items([",
            };
            write_items(name, &value.items(budget)?, "])", out, budget)
        }
        Value::Range(range) => {
            out.push_str(&format!("range({}, {}", range.start, range.stop))?;
            if range.step != 1 {
                out.push_str(&format!(", {}", range.step))?;
            }
            out.push(')')
        }
        Value::Iter(_) => out.push_str("<generator object>"),
        Value::Method(method) => out.push_str(&format!(
            "<built-in method {} of {} object>",
            method.1,
            method.0.type_name()
        )),
        Value::Native(_) => out.push_str(&format!("<{}>", value.type_name())),
    }
}

fn write_items(
    open: &str,
    items: &[Value],
    close: &str,
    out: &mut Text<'_>,
    budget: &Budget,
) -> Res<()> {
    out.push_str(open)?;
    for (idx, item) in items.iter().enumerate() {
        out.push_str(if idx > 0 { ", " } else { "" })?;
        write_repr(item, out, budget)?;
    }
    out.push_str(close)
}

fn write_entries(entries: &[(Value, Value)], out: &mut Text<'_>, budget: &Budget) -> Res<()> {
    for (idx, (key, value)) in entries.iter().enumerate() {
        out.push_str(if idx > 0 { ", " } else { "" })?;
        write_repr(key, out, budget)?;
        out.push_str(": ")?;
        write_repr(value, out, budget)?;
    }
    Ok(())
}
