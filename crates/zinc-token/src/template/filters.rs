//! Jinja2's filters.

mod seq;
mod text;

use std::sync::Arc;

use super::TemplateError;
use super::args::{Args, flag_arg, int_arg, str_arg};
use super::attrs;
use super::budget::{Budget, Res, Text};
use super::json::to_json;
use super::ops::{BinaryOp, Num, binary, escape_html};
use super::print::{to_str, write_repr};
use super::value::{Dict, Value, View};

/// Every filter name, for the check when a template is parsed.
pub(super) const NAMES: [&str; 52] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// `value|name(args)`.
pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    budget.step(1)?;
    match name {
        "abs" => absolute(value, args),
        "attr" => attribute(value, args, budget),
        "count" | "length" => length(value, args, budget),
        "d" | "default" => default(value, args),
        "float" => to_float(value, args),
        "format" => format(value, args, budget),
        "int" => to_int(value, args),
        "items" => items(value, args, budget),
        "pprint" => pretty(value, args, budget),
        "round" => round(value, args),
        "safe" => args.none(name).and_then(|()| Ok(to_str(value, budget)?.into_markup())),
        "e" | "escape" => args.none(name).and_then(|()| escape_html(value, budget)),
        "forceescape" => args.none(name).and_then(|()| escape_html(&value.plain(), budget)),
        "string" => {
            args.none(name)?;
            if let Value::Markup(_) = value { Ok(value.clone()) } else { to_str(value, budget) }
        }
        "tojson" => to_json(value, args, budget),
        "filesizeformat" => file_size(value, args, budget),
        "batch" | "dictsort" | "first" | "groupby" | "join" | "last" | "list" | "map" | "max"
        | "min" | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice"
        | "sort" | "sum" | "unique" => seq::apply(name, value, args, budget),
        _ => match (text::apply(name, value, args, budget)?, value) {
            (text @ Value::Str(_), Value::Markup(_)) if text::KEEPS_MARKUP.contains(&name) => {
                Ok(text.into_markup())
            }
            (text, _) => Ok(text),
        },
    }
}

fn raise<T>(message: impl Into<String>) -> Res<T> {
    Err(TemplateError::runtime(message))
}

/// Raises what using an undefined value raises.
fn refuse_undefined(value: &Value) -> Res<()> {
    match value {
        Value::Undefined(message) => raise(&**message),
        _ => Ok(()),
    }
}

fn absolute(value: &Value, args: Args) -> Res<Value> {
    args.none("abs")?;
    refuse_undefined(value)?;
    match Num::of(value) {
        Some(Num::Int(i)) => i
            .checked_abs()
            .map(Value::Int)
            .ok_or_else(|| TemplateError::runtime("integer is too large")),
        Some(Num::Float(x)) => Ok(Value::Float(x.abs())),
        None => raise(format!("bad operand type for abs(): '{}'", value.type_name())),
    }
}

fn attribute(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let name = args.one("attr", "name")?;
    let name = str_arg("attr", &name)?;
    refuse_undefined(value)?;
    match attrs::python_attr(value, name) {
        Some(found) => Ok(found),
        None => {
            budget.step(1)?;
            Ok(Value::undefined(format!(
                "'{} object' has no attribute '{}'",
                value.type_name(),
                attrs::short(name)
            )))
        }
    }
}

fn length(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    args.none("length")?;
    match value.len(budget)? {
        Some(n) => Ok(Value::Int(n as i128)),
        None => raise(format!("object of type '{}' has no len()", value.type_name())),
    }
}

fn default(value: &Value, args: Args) -> Res<Value> {
    let [default, boolean] = args.bind("default", ["default_value", "boolean"], 0)?;
    if value.is_undefined() || (flag_arg(boolean.as_ref(), false) && !value.truth()) {
        return Ok(default.unwrap_or_else(|| Value::Str(Arc::from(""))));
    }
    Ok(value.clone())
}

/// A float from text, the way `float()` reads it.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::chars::is_py_space);
    if text.is_empty() || text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn to_float(value: &Value, args: Args) -> Res<Value> {
    let [default] = args.bind("float", ["default"], 0)?;
    refuse_undefined(value)?;
    let parsed = match value {
        Value::Str(s) | Value::Markup(s) => parse_float(s),
        other => Num::of(other).map(Num::float),
    };
    Ok(parsed.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
}

/// An integer from text in `base`, the way `int()` reads it.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::chars::is_py_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixes: [(&str, u32); 3] = [("0x", 16), ("0o", 8), ("0b", 2)];
    let lower = digits.to_ascii_lowercase();
    let prefixed = prefixes
        .iter()
        .find(|(prefix, radix)| lower.starts_with(prefix) && (base == *radix || base == 0));
    let (digits, radix) = match prefixed {
        Some((prefix, radix)) => (&lower[prefix.len()..], *radix),
        None => (lower.as_str(), if base == 0 { 10 } else { base }),
    };
    if !(2..=36).contains(&radix)
        || digits.starts_with(['_', '+', '-'])
        || digits.ends_with('_')
        || digits.contains("__")
    {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

fn to_int(value: &Value, args: Args) -> Res<Value> {
    let [default, base] = args.bind("int", ["default", "base"], 0)?;
    refuse_undefined(value)?;
    let base = u32::try_from(int_arg("int", base.as_ref(), 10)?).unwrap_or(10);
    let truncate = |x: f64| (x.is_finite() && x.abs() < 1e38).then_some(x.trunc() as i128);
    let parsed = match value {
        Value::Str(s) | Value::Markup(s) => {
            parse_int(s, base).or_else(|| parse_float(s).and_then(truncate))
        }
        other => match Num::of(other) {
            Some(Num::Int(i)) => Some(i),
            Some(Num::Float(x)) => truncate(x),
            None => None,
        },
    };
    Ok(parsed.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
}

fn format(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    if !args.positional.is_empty() && !args.keyword.is_empty() {
        return raise("format: cannot take positional and keyword arguments at the same time");
    }
    let values = if args.keyword.is_empty() {
        Value::tuple(args.positional)?
    } else {
        let entries = args.keyword.into_iter().map(|(name, value)| (Value::Str(name), value));
        Value::Dict(Arc::new(Dict::new(entries, budget)?))
    };
    let text = if let Value::Markup(_) = value { value.clone() } else { to_str(value, budget)? };
    binary(BinaryOp::Mod, &text, &values, budget)
}

fn items(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    args.none("items")?;
    match value {
        Value::Undefined(_) => Ok(Value::iter(Vec::new())),
        Value::Dict(dict) => Ok(Value::iter(Value::View(View::Items, dict.clone()).items(budget)?)),
        _ => raise("Can only get item pairs from a mapping."),
    }
}

/// `pprint` keeps short values on one line, which is all that is done here.
fn pretty(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    args.none("pprint")?;
    let mut out = Text::new(budget);
    write_repr(value, &mut out, budget)?;
    Ok(out.finish())
}

fn round(value: &Value, args: Args) -> Res<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
    refuse_undefined(value)?;
    let precision = int_arg("round", precision.as_ref(), 0)?.clamp(-400, 400) as i32;
    let Some(num) = Num::of(value) else {
        return raise(format!("type {} doesn't define __round__ method", value.type_name()));
    };
    let method = match &method {
        None => "common",
        Some(value) => str_arg("round", value)?,
    };
    let scale = 10f64.powi(precision);
    let scaled = num.float() * scale;
    match (method, num) {
        ("ceil", _) => Ok(Value::Float(scaled.ceil() / scale)),
        ("floor", _) => Ok(Value::Float(scaled.floor() / scale)),
        ("common", Num::Int(i)) if precision >= 0 => Ok(Value::Int(i)),
        ("common", Num::Int(i)) => {
            let unit = 10i128.checked_pow(precision.unsigned_abs()).unwrap_or(i128::MAX);
            let (down, rest) = (i.div_euclid(unit), i.rem_euclid(unit));
            let up = rest > unit - rest || (rest == unit - rest && down % 2 != 0);
            Ok(Value::Int((down + i128::from(up)).saturating_mul(unit)))
        }
        ("common", Num::Float(x)) if precision < 0 => {
            let unit = 10f64.powi(-precision);
            Ok(Value::Float((x / unit).round_ties_even() * unit))
        }
        // Formatting rounds the exact binary value half to even, as Python's `round` does.
        ("common", Num::Float(x)) => {
            Ok(Value::Float(format!("{x:.*}", precision as usize).parse().unwrap_or(x)))
        }
        _ => raise("method must be common, ceil or floor"),
    }
}

fn file_size(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [binary] = args.bind("filesizeformat", ["binary"], 0)?;
    let binary = flag_arg(binary.as_ref(), false);
    let bytes = match value {
        Value::Str(s) | Value::Markup(s) => parse_float(s),
        other => Num::of(other).map(Num::float),
    };
    let Some(bytes) = bytes else {
        return raise("filesizeformat needs a number");
    };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return budget.str("1 Byte");
    }
    if bytes < base {
        return budget.str(&format!("{} Bytes", bytes as i64));
    }
    let mut unit = base;
    let mut prefixes = "kMGTPEZY".chars().peekable();
    let mut prefix = 'k';
    while let Some(next) = prefixes.next() {
        prefix = next;
        unit *= base;
        if bytes < unit || prefixes.peek().is_none() {
            break;
        }
    }
    let prefix = match (prefix, binary) {
        ('k', true) => "Ki".to_string(),
        (c, true) => format!("{c}i"),
        (c, false) => c.to_string(),
    };
    budget.str(&format!("{:.1} {prefix}B", base * bytes / unit))
}
