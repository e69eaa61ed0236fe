//! Jinja2's tests: what follows `is`.

use std::sync::Arc;

use super::TemplateError;
use super::args::{Args, str_arg};
use super::bridge;
use super::budget::{Budget, Res};
use super::ops::{BinaryOp, CompareOp, Num, binary, compare, equal};
use super::value::Value;

/// Every test name, for the check when a template is parsed.
pub(super) const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// `value is name(args)`.
pub(super) fn check(name: &str, value: &Value, args: Args, budget: &Budget) -> Res<bool> {
    budget.step(1)?;
    let op = match name {
        "==" | "eq" | "equalto" => Some(CompareOp::Eq),
        "!=" | "ne" => Some(CompareOp::Ne),
        "<" | "lt" | "lessthan" => Some(CompareOp::Lt),
        "<=" | "le" => Some(CompareOp::Le),
        ">" | "gt" | "greaterthan" => Some(CompareOp::Gt),
        ">=" | "ge" => Some(CompareOp::Ge),
        "in" => Some(CompareOp::In),
        _ => None,
    };
    if let Some(op) = op {
        return compare(op, value, &args.one(name, "other")?, budget);
    }
    match name {
        "divisibleby" => {
            let divisor = args.one(name, "num")?;
            equal(&binary(BinaryOp::Mod, value, &divisor, budget)?, &Value::Int(0), budget)
        }
        "sameas" => Ok(same(value, &args.one(name, "other")?)),
        "even" | "odd" => {
            args.none(name)?;
            let rest = binary(BinaryOp::Mod, value, &Value::Int(2), budget)?;
            equal(&rest, &Value::Int(i128::from(name == "odd")), budget)
        }
        "lower" | "upper" => {
            args.none(name)?;
            let text = super::print::to_str(value, budget)?;
            let text = str_arg(name, &text)?;
            budget.scan(text.len())?;
            let (upper, lower) =
                (text.chars().any(char::is_uppercase), text.chars().any(char::is_lowercase));
            Ok(if name == "lower" { lower && !upper } else { upper && !lower })
        }
        "filter" | "test" => {
            args.none(name)?;
            let known: &[&str] = if name == "filter" { &super::filters::NAMES } else { &NAMES };
            Ok(value.as_str().is_some_and(|name| known.contains(&name)))
        }
        _ => {
            args.none(name)?;
            kind(name, value)
        }
    }
}

/// The tests that ask for the kind of the value alone.
fn kind(name: &str, value: &Value) -> Res<bool> {
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => match value {
            Value::Method(_) => true,
            Value::Native(native) => bridge::is_callable(native),
            // `Undefined` has a `__call__` that raises.
            other => other.is_undefined(),
        },
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "escaped" => matches!(value, Value::Markup(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "number" => Num::of(value).is_some(),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Str(_) | Value::Markup(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => !matches!(
            value,
            Value::None
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Method(_)
                | Value::Native(_)
        ),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        _ => {
            return Err(TemplateError::runtime(format!(
                "No test named '{}'.",
                super::attrs::short(name)
            )));
        }
    })
}

/// Python's `is`, as far as values without addresses can tell.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(x), Value::Bool(y)) => x == y,
        (Value::Int(x), Value::Int(y)) => x == y,
        (Value::Float(x), Value::Float(y)) => x == y,
        (Value::Str(x), Value::Str(y)) => Arc::ptr_eq(x, y) || x == y,
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => Arc::ptr_eq(x, y),
        (Value::Dict(x), Value::Dict(y)) => Arc::ptr_eq(x, y),
        (Value::Native(x), Value::Native(y)) => bridge::same_object(x, y),
        _ => false,
    }
}
