//! Python's string formatting: the `%` operator, `str.format` and the format specifications both share.

use std::sync::Arc;

use super::TemplateError;
use super::args::Args;
use super::attrs;
use super::budget::{Budget, Res, Text};
use super::escape::repr_float;
use super::ops::Num;
use super::print::{repr, write_repr, write_str};
use super::value::{Key, Value};

fn error<T>(message: impl Into<String>) -> Res<T> {
    Err(TemplateError::runtime(message))
}

/// Flags, width, precision and type of one conversion.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    grouping: Option<char>,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// A run of digits.
fn number(chars: &mut Chars<'_>) -> Res<Option<usize>> {
    let mut value: Option<usize> = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let next = value.unwrap_or(0).checked_mul(10).and_then(|v| v.checked_add(digit as usize));
        match next {
            Some(next) if next <= 1 << 31 => value = Some(next),
            _ => return error("a width or precision is too large"),
        }
    }
    Ok(value)
}

/// `format % value`.
pub(super) fn format_percent(format: &str, value: &Value, budget: &Budget) -> Res<Value> {
    let positional = match value {
        Value::Tuple(seq) => seq.items.clone(),
        other => vec![other.clone()],
    };
    let mut taken = 0;
    let mut out = Text::new(budget);
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c)?;
            continue;
        }
        let mut next = || {
            taken += 1;
            positional
                .get(taken - 1)
                .cloned()
                .ok_or_else(|| TemplateError::runtime("not enough arguments for format string"))
        };
        let mut mapped = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let name: String = chars.by_ref().take_while(|c| *c != ')').collect();
            let Value::Dict(dict) = value else {
                return error("format requires a mapping");
            };
            let Some(found) = dict.get(&Key::Str(Arc::from(name.as_str()))) else {
                return error(format!("format misses the key '{name}'"));
            };
            mapped = Some(found.clone());
        }
        let spec = percent_spec(&mut chars, &mut next)?;
        match spec.kind {
            Some('%') => out.push('%')?,
            Some(_) => {
                let argument = match mapped {
                    Some(value) => value,
                    None => next()?,
                };
                convert_percent(&argument, spec, &mut out, budget)?;
            }
            None => return error("incomplete format"),
        }
    }
    if taken < positional.len() && !matches!(value, Value::Dict(_) | Value::List(_)) {
        return error("not all arguments converted during string formatting");
    }
    Ok(out.finish())
}

/// What stands between `%` and the type, and the type.
fn percent_spec(chars: &mut Chars<'_>, next: &mut dyn FnMut() -> Res<Value>) -> Res<Spec> {
    let mut spec = Spec { align: Some('>'), ..Spec::default() };
    while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
        match flag {
            '-' => spec.align = Some('<'),
            '#' => spec.alternate = true,
            '0' => spec.zero = true,
            '+' => spec.sign = Some('+'),
            _ => spec.sign = spec.sign.or(Some(' ')),
        }
    }
    if spec.align == Some('<') {
        spec.zero = false;
    }
    let mut star = |chars: &mut Chars<'_>| -> Res<Option<usize>> {
        if chars.next_if_eq(&'*').is_none() {
            return number(chars);
        }
        match Num::of(&next()?) {
            Some(Num::Int(n)) => Ok(Some(usize::try_from(n).unwrap_or(0).min(1 << 31))),
            _ => error("* wants int"),
        }
    };
    spec.width = star(chars)?.unwrap_or(0);
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = Some(star(chars)?.unwrap_or(0));
    }
    while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
    spec.kind = chars.next();
    Ok(spec)
}

fn convert_percent(value: &Value, mut spec: Spec, out: &mut Text<'_>, budget: &Budget) -> Res<()> {
    match spec.kind {
        Some(kind @ ('s' | 'r' | 'a')) => {
            let mut text = Text::new(budget);
            if kind == 's' {
                write_str(value, &mut text, budget)?
            } else {
                write_repr(value, &mut text, budget)?
            }
            spec.zero = false;
            pad_text(&text.into_string(), &spec, '>', out)
        }
        Some('c') => match value {
            Value::Str(s) if s.chars().count() == 1 => pad_text(s, &spec, '>', out),
            Value::Int(code) => match u32::try_from(*code).ok().and_then(char::from_u32) {
                Some(c) => pad_text(c.encode_utf8(&mut [0; 4]), &spec, '>', out),
                None => error("%c arg not in range(0x110000)"),
            },
            _ => error("%c requires an int or a unicode character"),
        },
        Some('d' | 'i' | 'u') => {
            spec.kind = Some('d');
            match Num::of(value) {
                Some(Num::Float(x)) if x.is_finite() => {
                    format_number(Num::Int(x.trunc() as i128), &spec, out)
                }
                Some(num @ Num::Int(_)) => format_number(num, &spec, out),
                _ => error(format!(
                    "%d format: a real number is required, not {}",
                    value.type_name()
                )),
            }
        }
        Some('x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G') => match Num::of(value) {
            Some(num) => format_number(num, &spec, out),
            None => error(format!("must be real number, not {}", value.type_name())),
        },
        _ => error("unsupported format character"),
    }
}

/// `format.format(…)`. Fields may name arguments, attributes and items, convert with `!r`/`!s` and nest
/// fields inside their specification.
pub(super) fn format_braces(format: &str, args: &Args, budget: &Budget) -> Res<Value> {
    let mut out = Text::new(budget);
    let mut auto_idx = 0;
    write_braces(format, args, &mut auto_idx, 0, &mut out, budget)?;
    Ok(out.finish())
}

fn write_braces(
    format: &str,
    args: &Args,
    auto_idx: &mut usize,
    depth: u32,
    out: &mut Text<'_>,
    budget: &Budget,
) -> Res<()> {
    if depth > 2 {
        return error("format specifications are nested too deeply");
    }
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at])?;
        let brace = &rest[at..at + 1];
        let after = &rest[at + 1..];
        if after.starts_with(brace) {
            out.push_str(brace)?;
            rest = &after[1..];
            continue;
        }
        if brace == "}" {
            return error("single '}' in format string");
        }
        let Some(end) = matching_brace(after) else {
            return error("expected '}' before end of format string");
        };
        write_field(&after[..end], args, auto_idx, depth, out, budget)?;
        rest = &after[end + 1..];
    }
    out.push_str(rest)
}

/// Offset of the brace that closes a field.
fn matching_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn write_field(
    field: &str,
    args: &Args,
    auto_idx: &mut usize,
    depth: u32,
    out: &mut Text<'_>,
    budget: &Budget,
) -> Res<()> {
    let (head, spec) = match field.find(':') {
        Some(at) => (&field[..at], &field[at + 1..]),
        None => (field, ""),
    };
    let (path, conversion) = match head.split_once('!') {
        Some((path, conversion)) => (path, Some(conversion)),
        None => (head, None),
    };
    let mut value = field_value(path, args, auto_idx, budget)?;
    match conversion {
        None => {}
        Some("s") => value = super::print::to_str(&value, budget)?,
        Some("r" | "a") => value = Value::Str(Arc::from(repr(&value, budget)?)),
        Some(other) => return error(format!("unknown conversion specifier '{other}'")),
    }
    let mut spec_text = Text::new(budget);
    write_braces(spec, args, auto_idx, depth + 1, &mut spec_text, budget)?;
    format_value(&value, &spec_text.into_string(), out, budget)
}

/// Resolves `name.attr[item]` among the arguments.
fn field_value(path: &str, args: &Args, auto_idx: &mut usize, budget: &Budget) -> Res<Value> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    let positional = |idx: usize| {
        args.positional
            .get(idx)
            .cloned()
            .ok_or_else(|| TemplateError::runtime("format() misses a positional argument"))
    };
    let mut value = if name.is_empty() {
        *auto_idx += 1;
        positional(*auto_idx - 1)?
    } else if let Ok(idx) = name.parse::<usize>() {
        positional(idx)?
    } else {
        let found = args.keyword.iter().find(|(known, _)| &**known == name);
        found
            .map(|(_, value)| value.clone())
            .ok_or_else(|| TemplateError::runtime(format!("format() misses '{name}'")))?
    };
    while !rest.is_empty() {
        budget.step(1)?;
        if let Some(item) = rest.strip_prefix('[') {
            let Some((key, tail)) = item.split_once(']') else {
                return error("missing ']' in format string");
            };
            let key = key.parse().map_or_else(|_| Value::Str(Arc::from(key)), Value::Int);
            value = attrs::get_item(&value, &key, budget)?;
            rest = tail;
        } else {
            let attr = &rest[1..];
            let end = attr.find(['.', '[']).unwrap_or(attr.len());
            value = attrs::get_attr(&value, &Arc::from(&attr[..end]), budget)?;
            rest = &attr[end..];
        }
    }
    Ok(value)
}

/// `format(value, spec)`.
fn format_value(value: &Value, spec: &str, out: &mut Text<'_>, budget: &Budget) -> Res<()> {
    if spec.is_empty() {
        return write_str(value, out, budget);
    }
    let spec = parse_spec(spec)?;
    match (value, Num::of(value)) {
        (Value::Str(s) | Value::Markup(s), _) => match spec.kind {
            None | Some('s') => pad_text(s, &spec, '<', out),
            Some(kind) => error(format!("unknown format code '{kind}' for object of type 'str'")),
        },
        (_, Some(num)) => format_number(num, &spec, out),
        _ => error(format!("unsupported format string passed to {}.__format__", value.type_name())),
    }
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
fn parse_spec(text: &str) -> Res<Spec> {
    let mut spec = Spec::default();
    let mut chars = text.chars().peekable();
    let mut ahead = text.chars();
    let (first, second) = (ahead.next(), ahead.next());
    if second.is_some_and(|c| "<>=^".contains(c)) {
        spec.fill = first;
        spec.align = second;
        chars.next();
        chars.next();
    } else if first.is_some_and(|c| "<>=^".contains(c)) {
        spec.align = first;
        chars.next();
    }
    spec.sign = chars.next_if(|c| "+- ".contains(*c));
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zero = chars.next_if_eq(&'0').is_some();
    spec.width = number(&mut chars)?.unwrap_or(0);
    spec.grouping = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = number(&mut chars)?;
        if spec.precision.is_none() {
            return error("format specifier misses its precision");
        }
    }
    spec.kind = chars.next();
    if chars.next().is_some() { error("invalid format specifier") } else { Ok(spec) }
}

/// Text cut to the precision and padded to the width.
fn pad_text(text: &str, spec: &Spec, default_align: char, out: &mut Text<'_>) -> Res<()> {
    let cut = match spec.precision {
        Some(precision) => text.char_indices().nth(precision).map_or(text, |(at, _)| &text[..at]),
        None => text,
    };
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    pad(cut, fill, spec.align.unwrap_or(default_align), spec.width, out)
}

fn pad(text: &str, fill: char, align: char, width: usize, out: &mut Text<'_>) -> Res<()> {
    let missing = width.saturating_sub(text.chars().count());
    let left = match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    out.fill(fill, left)?;
    out.push_str(text)?;
    out.fill(fill, missing - left)
}

fn format_number(num: Num, spec: &Spec, out: &mut Text<'_>) -> Res<()> {
    // `format!` takes 16 bits; no float has so many digits.
    if spec.precision.is_some_and(|p| p > 60_000) {
        return error("precision is too large");
    }
    let kind = match (spec.kind, num) {
        (Some('n'), _) | (None, Num::Int(_)) => 'd',
        (None, Num::Float(_)) => 'r',
        (Some(kind), _) => kind,
    };
    let (negative, digits) = match (num, kind) {
        (Num::Int(i), 'c') => match u32::try_from(i).ok().and_then(char::from_u32) {
            Some(c) => (false, c.to_string()),
            None => return error("%c arg not in range(0x110000)"),
        },
        (num, 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'r') => {
            let x = num.float();
            let negative = x.is_sign_negative() && !x.is_nan();
            (negative, float_digits(x.abs(), kind, spec.precision))
        }
        (Num::Int(i), _) => (i < 0, int_digits(i.unsigned_abs(), kind, spec.alternate)?),
        (_, kind) => return error(format!("unknown format code '{kind}' for a number")),
    };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let grouped = group(&digits, spec.grouping);
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    let align = match spec.align {
        Some('>') if spec.zero && spec.fill.is_none() => '=',
        Some(align) => align,
        None => {
            if spec.zero {
                '='
            } else {
                '>'
            }
        }
    };
    if align == '=' {
        let missing = spec.width.saturating_sub(sign.len() + grouped.chars().count());
        out.push_str(sign)?;
        out.fill(fill, missing)?;
        return out.push_str(&grouped);
    }
    pad(&format!("{sign}{grouped}"), fill, align, spec.width, out)
}

/// The digits of an integer in the base that `kind` names, after its prefix if that is wanted.
fn int_digits(magnitude: u128, kind: char, prefixed: bool) -> Res<String> {
    let (prefix, digits) = match kind {
        'd' => ("", magnitude.to_string()),
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        'o' => ("0o", format!("{magnitude:o}")),
        'b' => ("0b", format!("{magnitude:b}")),
        _ => return error(format!("unknown format code '{kind}' for a number")),
    };
    Ok(if prefixed { format!("{prefix}{digits}") } else { digits })
}

/// The digits of a non-negative float.
fn float_digits(x: f64, kind: char, precision: Option<usize>) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "nan".into() } else { "inf".into() };
    }
    let places = precision.unwrap_or(6);
    let text = match kind.to_ascii_lowercase() {
        'f' => format!("{x:.places$}"),
        '%' => format!("{:.places$}%", x * 100.0),
        'e' => exponential(x, places),
        'g' => general(x, places.max(1)),
        _ => match precision {
            Some(places) => {
                let text = general(x, places.max(1));
                if text.contains(['.', 'e']) { text } else { text + ".0" }
            }
            None => repr_float(x),
        },
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

fn exponential(x: f64, places: usize) -> String {
    let text = format!("{x:.places$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%g`: significant digits without trailing zeros.
fn general(x: f64, significant: usize) -> String {
    let scientific = exponential(x, significant - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        } else {
            text.to_string()
        }
    };
    if exponent < -4 || exponent >= significant as i32 {
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{exponent}", trim(mantissa));
    }
    let places = usize::try_from(significant as i32 - 1 - exponent).unwrap_or(0);
    trim(&format!("{x:.places$}"))
}

/// Thousands separators in the whole part.
fn group(digits: &str, separator: Option<char>) -> String {
    let Some(separator) = separator else {
        return digits.to_string();
    };
    let whole_len = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (idx, c) in digits.chars().enumerate() {
        if idx > 0 && idx < whole_len && (whole_len - idx).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(c);
    }
    out
}
