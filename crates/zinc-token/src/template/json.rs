//! The `tojson` filter as Hugging Face defines it: Python's `json.dumps` with `ensure_ascii` off.

use std::sync::Arc;

use super::TemplateError;
use super::args::{Args, flag_arg, str_arg};
use super::budget::{Budget, Res, Text};
use super::escape::repr_float;
use super::ops::sort_by_keys;
use super::value::Value;

struct Style {
    ensure_ascii: bool,
    /// One level of indentation; `None` writes one line.
    indent: Option<Arc<str>>,
    item_separator: Arc<str>,
    key_separator: Arc<str>,
    sort_keys: bool,
}

/// `value|tojson(ensure_ascii, indent, separators, sort_keys)`
pub(super) fn to_json(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [ensure_ascii, indent, separators, sort_keys] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(s) | Value::Markup(s)) => Some(s),
        Some(n) => {
            let width =
                usize::try_from(super::args::int_arg("tojson", Some(&n), 0)?.max(0)).unwrap_or(0);
            budget.alloc(width)?;
            Some(Arc::from(" ".repeat(width)))
        }
    };
    let (item_separator, key_separator) = match separators {
        None | Some(Value::None) => {
            (Arc::from(if indent.is_some() { "," } else { ", " }), Arc::from(": "))
        }
        Some(pair) => match pair.items(budget)?.as_slice() {
            [item, key] => (str_arg("tojson", item)?.clone(), str_arg("tojson", key)?.clone()),
            _ => {
                return Err(TemplateError::runtime(
                    "tojson(): separators must be a pair of strings",
                ));
            }
        },
    };
    let style = Style {
        ensure_ascii: flag_arg(ensure_ascii.as_ref(), false),
        indent,
        item_separator,
        key_separator,
        sort_keys: flag_arg(sort_keys.as_ref(), false),
    };
    let mut out = Text::new(budget);
    write(value, &style, 0, &mut out, budget)?;
    Ok(out.finish())
}

fn write(
    value: &Value,
    style: &Style,
    level: usize,
    out: &mut Text<'_>,
    budget: &Budget,
) -> Res<()> {
    budget.step(1)?;
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::Float(x) => out.push_str(&float(*x)),
        Value::Str(s) | Value::Markup(s) => string(s, style.ensure_ascii, out),
        Value::List(seq) | Value::Tuple(seq) => {
            out.push('[')?;
            for (idx, item) in seq.items.iter().enumerate() {
                separate(idx, style, level + 1, out)?;
                write(item, style, level + 1, out, budget)?;
            }
            close(seq.items.len(), style, level, out)?;
            out.push(']')
        }
        Value::Dict(dict) => {
            let sorted;
            let entries = if style.sort_keys {
                sorted = sorted_entries(&dict.entries, budget)?;
                &sorted
            } else {
                &dict.entries
            };
            out.push('{')?;
            for (idx, (key, value)) in entries.iter().enumerate() {
                separate(idx, style, level + 1, out)?;
                string(&key_text(key)?, style.ensure_ascii, out)?;
                out.push_str(&style.key_separator)?;
                write(value, style, level + 1, out, budget)?;
            }
            close(entries.len(), style, level, out)?;
            out.push('}')
        }
        other => Err(TemplateError::runtime(format!(
            "Object of type {} is not JSON serializable",
            other.type_name()
        ))),
    }
}

fn separate(idx: usize, style: &Style, level: usize, out: &mut Text<'_>) -> Res<()> {
    if idx > 0 {
        out.push_str(&style.item_separator)?;
    }
    new_line(style, level, out)
}

fn close(n_items: usize, style: &Style, level: usize, out: &mut Text<'_>) -> Res<()> {
    if n_items == 0 { Ok(()) } else { new_line(style, level, out) }
}

fn new_line(style: &Style, level: usize, out: &mut Text<'_>) -> Res<()> {
    let Some(indent) = &style.indent else {
        return Ok(());
    };
    out.push('\n')?;
    for _ in 0..level {
        out.push_str(indent)?;
    }
    Ok(())
}

fn sorted_entries(entries: &[(Value, Value)], budget: &Budget) -> Res<Vec<(Value, Value)>> {
    let indexed =
        entries.iter().enumerate().map(|(idx, (key, _))| (key.clone(), Value::Int(idx as i128)));
    let order = sort_by_keys(indexed.collect(), false, budget)?;
    Ok(order
        .into_iter()
        .filter_map(|idx| match idx {
            Value::Int(idx) => entries.get(idx as usize).cloned(),
            _ => None,
        })
        .collect())
}

fn key_text(key: &Value) -> Res<Arc<str>> {
    Ok(match key {
        Value::Str(s) | Value::Markup(s) => s.clone(),
        Value::None => Arc::from("null"),
        Value::Bool(b) => Arc::from(if *b { "true" } else { "false" }),
        Value::Int(i) => Arc::from(i.to_string()),
        Value::Float(x) => Arc::from(float(*x)),
        other => {
            return Err(TemplateError::runtime(format!(
                "keys must be str, int, float, bool or None, not {}",
                other.type_name()
            )));
        }
    })
}

fn float(x: f64) -> String {
    if x.is_nan() {
        "NaN".into()
    } else if x.is_infinite() {
        if x > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        repr_float(x)
    }
}

fn string(text: &str, ensure_ascii: bool, out: &mut Text<'_>) -> Res<()> {
    out.push('"')?;
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\"")?,
            '\\' => out.push_str("\\\\")?,
            '\n' => out.push_str("\\n")?,
            '\r' => out.push_str("\\r")?,
            '\t' => out.push_str("\\t")?,
            '\u{8}' => out.push_str("\\b")?,
            '\u{c}' => out.push_str("\\f")?,
            c if (c as u32) < 0x20 || (ensure_ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"))?;
                }
            }
            c => out.push(c)?,
        }
    }
    out.push('"')
}
