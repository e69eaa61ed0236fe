//! Python's operators.

use std::cmp::Ordering;
use std::sync::Arc;

use super::TemplateError;
use super::bridge;
use super::budget::{Budget, Res, Text};
use super::print::{to_str, write_str};
use super::printf;
use super::value::{Key, Value, View};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
}

/// A number with Python's tower of bool, int and float.
#[derive(Clone, Copy)]
pub(super) enum Num {
    Int(i128),
    Float(f64),
}

impl Num {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(Self::Int(i128::from(*b))),
            Value::Int(i) => Some(Self::Int(*i)),
            Value::Float(x) => Some(Self::Float(*x)),
            _ => None,
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(i) => i as f64,
            Self::Float(x) => x,
        }
    }

    fn cmp(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

fn undefined_error(value: &Value) -> Option<TemplateError> {
    match value {
        Value::Undefined(message) => Some(TemplateError::runtime(&**message)),
        _ => None,
    }
}

fn unsupported(op: BinaryOp, a: &Value, b: &Value) -> TemplateError {
    undefined_error(a).or_else(|| undefined_error(b)).unwrap_or_else(|| {
        let op = match op {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::FloorDiv => "//",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "**",
        };
        let (a, b) = (a.type_name(), b.type_name());
        TemplateError::runtime(format!("unsupported operand type(s) for {op}: '{a}' and '{b}'"))
    })
}

/// `a op b` for the arithmetic operators.
pub(super) fn binary(op: BinaryOp, a: &Value, b: &Value, budget: &Budget) -> Res<Value> {
    if let (Some(a), Some(b)) = (Num::of(a), Num::of(b)) {
        return arithmetic(op, a, b);
    }
    if let (Value::Markup(_), _) | (_, Value::Markup(_)) = (a, b) {
        return markup_binary(op, a, b, budget);
    }
    match (op, a, b) {
        (BinaryOp::Add, Value::Str(x), Value::Str(y)) => {
            let mut text = Text::new(budget);
            text.push_str(x)?;
            text.push_str(y)?;
            Ok(text.finish())
        }
        (BinaryOp::Add, Value::List(x), Value::List(y)) => {
            budget.elements(x.items.len() + y.items.len())?;
            Value::list(x.items.iter().chain(&y.items).cloned().collect())
        }
        (BinaryOp::Add, Value::Tuple(x), Value::Tuple(y)) => {
            budget.elements(x.items.len() + y.items.len())?;
            Value::tuple(x.items.iter().chain(&y.items).cloned().collect())
        }
        (BinaryOp::Mul, _, Value::Int(_) | Value::Bool(_)) => repeat(a, b, budget),
        (BinaryOp::Mul, Value::Int(_) | Value::Bool(_), _) => repeat(b, a, budget),
        (BinaryOp::Mod, Value::Str(format), _) if !b.is_undefined() => {
            printf::format_percent(format, b, budget)
        }
        _ => Err(unsupported(op, a, b)),
    }
}

/// Operators with a marked-up operand: what joins it is escaped first.
fn markup_binary(op: BinaryOp, a: &Value, b: &Value, budget: &Budget) -> Res<Value> {
    let escaped = |value: &Value| match value {
        Value::Str(_) => escape_html(value, budget).map(|value| value.plain()),
        Value::Tuple(seq) if op == BinaryOp::Mod => Value::tuple(
            seq.items
                .iter()
                .map(|item| escape_html(item, budget).map(|v| v.plain()))
                .collect::<Res<_>>()?,
        ),
        other => Ok(other.plain()),
    };
    Ok(match op {
        BinaryOp::Add | BinaryOp::Mod => binary(op, &escaped(a)?, &escaped(b)?, budget)?,
        _ => binary(op, &a.plain(), &b.plain(), budget)?,
    }
    .into_markup())
}

/// The text of a value with HTML's special characters escaped, unless it is marked up already.
pub(super) fn escape_html(value: &Value, budget: &Budget) -> Res<Value> {
    if let Value::Markup(_) = value {
        return Ok(value.clone());
    }
    let text = to_str(value, budget)?;
    let mut out = Text::new(budget);
    for c in text.as_str().unwrap_or("").chars() {
        match c {
            '&' => out.push_str("&amp;")?,
            '<' => out.push_str("&lt;")?,
            '>' => out.push_str("&gt;")?,
            '"' => out.push_str("&#34;")?,
            '\'' => out.push_str("&#39;")?,
            c => out.push(c)?,
        }
    }
    Ok(out.finish().into_markup())
}

/// `sequence * times`.
fn repeat(sequence: &Value, times: &Value, budget: &Budget) -> Res<Value> {
    let times_int = match Num::of(times) {
        Some(Num::Int(n)) => usize::try_from(n.max(0)).unwrap_or(usize::MAX),
        _ => 0,
    };
    match sequence {
        Value::Str(s) => {
            budget.alloc(s.len().saturating_mul(times_int))?;
            Ok(Value::Str(Arc::from(s.repeat(if s.is_empty() { 0 } else { times_int }))))
        }
        Value::List(seq) | Value::Tuple(seq) => {
            budget.elements(seq.items.len().saturating_mul(times_int))?;
            let n_items = seq.items.len().saturating_mul(times_int);
            let items = seq.items.iter().cycle().take(n_items).cloned().collect();
            if matches!(sequence, Value::List(_)) {
                Value::list(items)
            } else {
                Value::tuple(items)
            }
        }
        _ => Err(unsupported(BinaryOp::Mul, sequence, times)),
    }
}

fn overflow() -> TemplateError {
    TemplateError::runtime("integer is too large")
}

fn zero_division() -> TemplateError {
    TemplateError::runtime("division by zero")
}

fn arithmetic(op: BinaryOp, a: Num, b: Num) -> Res<Value> {
    let (Num::Int(x), Num::Int(y)) = (a, b) else {
        return float_arithmetic(op, a.float(), b.float());
    };
    let int = |value: Option<i128>| value.map(Value::Int).ok_or_else(overflow);
    match op {
        BinaryOp::Add => int(x.checked_add(y)),
        BinaryOp::Sub => int(x.checked_sub(y)),
        BinaryOp::Mul => int(x.checked_mul(y)),
        BinaryOp::Div | BinaryOp::FloorDiv | BinaryOp::Mod if y == 0 => Err(zero_division()),
        BinaryOp::Div => Ok(Value::Float(x as f64 / y as f64)),
        BinaryOp::FloorDiv => {
            let quotient = x.checked_div(y).ok_or_else(overflow)?;
            Ok(Value::Int(if x % y != 0 && (x < 0) != (y < 0) { quotient - 1 } else { quotient }))
        }
        BinaryOp::Mod => {
            let remainder = x.checked_rem(y).unwrap_or(0);
            Ok(Value::Int(if remainder != 0 && (remainder < 0) != (y < 0) {
                remainder + y
            } else {
                remainder
            }))
        }
        BinaryOp::Pow if y < 0 && x == 0 => Err(zero_division()),
        BinaryOp::Pow if y < 0 => Ok(Value::Float((x as f64).powf(y as f64))),
        BinaryOp::Pow => match (x, u32::try_from(y)) {
            (0 | 1, _) => Ok(Value::Int(if y == 0 { 1 } else { x })),
            (-1, _) => Ok(Value::Int(if y % 2 == 0 { 1 } else { -1 })),
            (_, Ok(y)) => int(x.checked_pow(y)),
            _ => Err(overflow()),
        },
    }
}

fn float_arithmetic(op: BinaryOp, x: f64, y: f64) -> Res<Value> {
    let floor_mod = || {
        let remainder = x % y;
        if remainder != 0.0 && (remainder < 0.0) != (y < 0.0) {
            remainder + y
        } else {
            remainder.abs().copysign(y)
        }
    };
    Ok(Value::Float(match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div | BinaryOp::FloorDiv | BinaryOp::Mod if y == 0.0 => {
            return Err(zero_division());
        }
        BinaryOp::Div => x / y,
        BinaryOp::FloorDiv => ((x - floor_mod()) / y).round(),
        BinaryOp::Mod => floor_mod(),
        BinaryOp::Pow if x == 0.0 && y < 0.0 => return Err(zero_division()),
        BinaryOp::Pow if x < 0.0 && y.fract() != 0.0 => {
            return Err(TemplateError::runtime("a power of a negative number is not real"));
        }
        BinaryOp::Pow => x.powf(y),
    }))
}

/// `-a`
pub(super) fn negate(a: &Value) -> Res<Value> {
    match Num::of(a) {
        Some(Num::Int(i)) => i.checked_neg().map(Value::Int).ok_or_else(overflow),
        Some(Num::Float(x)) => Ok(Value::Float(-x)),
        None => Err(undefined_error(a).unwrap_or_else(|| {
            TemplateError::runtime(format!("bad operand type for unary -: '{}'", a.type_name()))
        })),
    }
}

/// `a ~ b`
pub(super) fn concat(a: &Value, b: &Value, budget: &Budget) -> Res<Value> {
    let mut text = Text::new(budget);
    write_str(a, &mut text, budget)?;
    write_str(b, &mut text, budget)?;
    Ok(text.finish())
}

/// `a op b` for the comparison operators.
pub(super) fn compare(op: CompareOp, a: &Value, b: &Value, budget: &Budget) -> Res<bool> {
    Ok(match op {
        CompareOp::Eq => equal(a, b, budget)?,
        CompareOp::Ne => !equal(a, b, budget)?,
        CompareOp::In => contains(b, a, budget)?,
        CompareOp::Lt => order(a, b, budget)? == Some(Ordering::Less),
        CompareOp::Le => matches!(order(a, b, budget)?, Some(Ordering::Less | Ordering::Equal)),
        CompareOp::Gt => order(a, b, budget)? == Some(Ordering::Greater),
        CompareOp::Ge => matches!(order(a, b, budget)?, Some(Ordering::Greater | Ordering::Equal)),
    })
}

/// `a == b`.
pub(super) fn equal(a: &Value, b: &Value, budget: &Budget) -> Res<bool> {
    budget.step(1)?;
    if let (Some(a), Some(b)) = (Num::of(a), Num::of(b)) {
        return Ok(a.cmp(b) == Some(Ordering::Equal));
    }
    Ok(match (&a.plain(), &b.plain()) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(x), Value::Str(y)) => {
            budget.scan(x.len().min(y.len()))?;
            x == y
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            if x.items.len() != y.items.len() {
                return Ok(false);
            }
            for (x, y) in x.items.iter().zip(&y.items) {
                if !equal(x, y, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(x), Value::Dict(y)) => {
            if x.entries.len() != y.entries.len() {
                return Ok(false);
            }
            for (key, value) in &x.entries {
                let other = y.get(&Key::of(key, budget)?);
                if !other.is_some_and(|other| equal(value, other, budget).unwrap_or(false)) {
                    // The budget stays exceeded, so a swallowed limit is raised here at the latest.
                    return budget.step(1).map(|()| false);
                }
            }
            true
        }
        (Value::Range(x), Value::Range(y)) => {
            x.len() == y.len()
                && (x.len() == 0 || (x.start == y.start && (x.len() == 1 || x.step == y.step)))
        }
        (Value::Iter(x), Value::Iter(y)) => Arc::ptr_eq(x, y),
        (Value::Native(x), Value::Native(y)) => bridge::same_object(x, y),
        _ => false,
    })
}

/// How `a` and `b` compare; `None` only when a NaN is involved.
pub(super) fn order(a: &Value, b: &Value, budget: &Budget) -> Res<Option<Ordering>> {
    budget.step(1)?;
    if let (Some(a), Some(b)) = (Num::of(a), Num::of(b)) {
        return Ok(a.cmp(b));
    }
    match (&a.plain(), &b.plain()) {
        (Value::Str(x), Value::Str(y)) => {
            budget.scan(x.len().min(y.len()))?;
            // UTF-8 orders as its code points do.
            Ok(Some(x.cmp(y)))
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            for (x, y) in x.items.iter().zip(&y.items) {
                if !equal(x, y, budget)? {
                    return order(x, y, budget);
                }
            }
            Ok(Some(x.items.len().cmp(&y.items.len())))
        }
        _ => Err(undefined_error(a).or_else(|| undefined_error(b)).unwrap_or_else(|| {
            let (a, b) = (a.type_name(), b.type_name());
            TemplateError::runtime(format!("'{a}' and '{b}' cannot be ordered"))
        })),
    }
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value, budget: &Budget) -> Res<bool> {
    match container {
        Value::Str(s) | Value::Markup(s) => match item {
            Value::Str(part) | Value::Markup(part) => {
                budget.scan(s.len())?;
                Ok(s.contains(&**part))
            }
            _ => Err(undefined_error(item).unwrap_or_else(|| {
                TemplateError::runtime(format!(
                    "'in <string>' requires string as left operand, not {}",
                    item.type_name()
                ))
            })),
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => {
            Ok(dict.get(&Key::of(item, budget)?).is_some())
        }
        Value::List(seq) | Value::Tuple(seq) => any_equal(&seq.items, item, budget),
        Value::Undefined(_) | Value::View(..) | Value::Range(_) | Value::Iter(_) => {
            any_equal(&container.items(budget)?, item, budget)
        }
        _ => Err(TemplateError::runtime(format!(
            "argument of type '{}' is not iterable",
            container.type_name()
        ))),
    }
}

fn any_equal(items: &[Value], wanted: &Value, budget: &Budget) -> Res<bool> {
    for item in items {
        if equal(item, wanted, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A stable sort by `keys`, which may raise. The standard sorts may panic on the inconsistent order that NaN
/// gives, so this is a plain merge sort.
pub(super) fn sort_by_keys(
    keyed: Vec<(Value, Value)>,
    reverse: bool,
    budget: &Budget,
) -> Res<Vec<Value>> {
    budget.elements(2 * keyed.len())?;
    let mut sorted = keyed;
    if reverse {
        sorted.reverse();
    }
    let mut width = 1;
    while width < sorted.len() {
        let mut merged = Vec::with_capacity(sorted.len());
        for run in sorted.chunks(2 * width) {
            let (left, right) = run.split_at(width.min(run.len()));
            let (mut l, mut r) = (0, 0);
            while l < left.len() && r < right.len() {
                if order(&right[r].0, &left[l].0, budget)? == Some(Ordering::Less) {
                    merged.push(right[r].clone());
                    r += 1;
                } else {
                    merged.push(left[l].clone());
                    l += 1;
                }
            }
            merged.extend_from_slice(&left[l..]);
            merged.extend_from_slice(&right[r..]);
        }
        sorted = merged;
        width *= 2;
    }
    if reverse {
        sorted.reverse();
    }
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}
