//! The methods of Python's strings, lists and dicts.

use std::sync::Arc;

use super::TemplateError;
use super::args::{Args, flag_arg, int_arg, str_arg};
use super::budget::{Budget, Res, Text};
use super::chars::{
    capitalize, is_alpha, is_decimal, is_digit, is_numeric, is_printable, is_py_space, split_lines,
    title,
};
use super::ops::{equal, escape_html};
use super::printf::format_braces;
use super::value::{Dict, Key, Value, View};

/// Calls `receiver.name(…)`.
pub(super) fn call_method(
    receiver: &Value,
    name: &'static str,
    args: Args,
    budget: &Budget,
) -> Res<Value> {
    match receiver {
        Value::Str(s) => {
            budget.scan(s.len())?;
            str_method(s, name, args, budget)
        }
        Value::Markup(s) => markup_method(s, name, args, budget),
        Value::Dict(dict) => dict_method(receiver, dict, name, args, budget),
        _ => sequence_method(receiver, name, args, budget),
    }
}

fn no_method(name: &str) -> TemplateError {
    TemplateError::runtime(format!("there is no method '{name}'"))
}

fn dict_method(
    value: &Value,
    dict: &Arc<Dict>,
    name: &'static str,
    args: Args,
    budget: &Budget,
) -> Res<Value> {
    match name {
        "get" => {
            let [key, default] = args.bind("get", ["key", "default"], 1)?;
            let key = Key::of(&key.unwrap_or(Value::None), budget)?;
            Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
        }
        "items" => args.none(name).map(|()| Value::View(View::Items, dict.clone())),
        "keys" => args.none(name).map(|()| Value::View(View::Keys, dict.clone())),
        "values" => args.none(name).map(|()| Value::View(View::Values, dict.clone())),
        "copy" => args.none(name).map(|()| value.clone()),
        _ => Err(no_method(name)),
    }
}

fn sequence_method(value: &Value, name: &'static str, args: Args, budget: &Budget) -> Res<Value> {
    match name {
        "copy" => args.none(name).map(|()| value.clone()),
        "count" | "index" => {
            let wanted = args.one(name, "value")?;
            let mut count = 0;
            for (idx, item) in value.items(budget)?.iter().enumerate() {
                if equal(item, &wanted, budget)? {
                    if name == "index" {
                        return Ok(Value::Int(idx as i128));
                    }
                    count += 1;
                }
            }
            if name == "index" {
                Err(TemplateError::runtime("value is not in list"))
            } else {
                Ok(Value::Int(count))
            }
        }
        _ => Err(no_method(name)),
    }
}

fn str_method(s: &Arc<str>, name: &'static str, args: Args, budget: &Budget) -> Res<Value> {
    if let Some(changed) = without_arguments(s, name) {
        args.none(name)?;
        return match changed {
            Changed::Text(text) => budget.str(&text),
            Changed::Test(test) => Ok(Value::Bool(test)),
        };
    }
    match name {
        "strip" | "lstrip" | "rstrip" => strip(s, name, args, budget),
        "split" | "rsplit" => split(s, name, args, budget),
        "splitlines" => {
            let [keep_ends] = args.bind(name, ["keepends"], 0)?;
            str_list(split_lines(s, flag_arg(keep_ends.as_ref(), false)), budget)
        }
        "partition" | "rpartition" => partition(s, name, args, budget),
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
            let count = int_arg(name, count.as_ref(), -1)?;
            let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
            replace(s, str_arg(name, &old)?, str_arg(name, &new)?, count, budget)
        }
        "startswith" | "endswith" => affix(s, name, args, budget),
        "removeprefix" => {
            let prefix = args.one(name, "prefix")?;
            budget.str(s.strip_prefix(&**str_arg(name, &prefix)?).unwrap_or(s))
        }
        "removesuffix" => {
            let suffix = args.one(name, "suffix")?;
            budget.str(s.strip_suffix(&**str_arg(name, &suffix)?).unwrap_or(s))
        }
        "count" | "find" | "rfind" | "index" | "rindex" => search(s, name, args),
        "join" => {
            let items = args.one(name, "iterable")?.items(budget)?;
            let mut out = Text::new(budget);
            for (idx, item) in items.iter().enumerate() {
                out.push_str(if idx > 0 { s } else { "" })?;
                out.push_str(str_arg("join", item)?)?;
            }
            Ok(out.finish())
        }
        "format" => format_braces(s, &args, budget),
        "format_map" => format_map(s, args, budget),
        "center" | "ljust" | "rjust" | "zfill" => justify(s, name, args, budget),
        "expandtabs" => expand_tabs(s, args, budget),
        _ => Err(no_method(name)),
    }
}

/// A method of marked-up text: text in the arguments is escaped, text in the result is marked up.
fn markup_method(s: &Arc<str>, name: &'static str, args: Args, budget: &Budget) -> Res<Value> {
    let escape = |value: Value| match &value {
        Value::Str(_) => escape_html(&value, budget).map(|value| value.plain()),
        Value::List(seq) | Value::Tuple(seq) if name == "join" => Value::list(
            seq.items
                .iter()
                .map(|item| escape_html(item, budget).map(|v| v.plain()))
                .collect::<Res<_>>()?,
        ),
        _ => Ok(value.plain()),
    };
    let escapes = matches!(name, "format" | "join" | "replace" | "partition" | "rpartition");
    let mut escaped = Args::default();
    for value in args.positional {
        escaped.positional.push(if escapes { escape(value)? } else { value });
    }
    for (key, value) in args.keyword {
        escaped.keyword.push((key, if escapes { escape(value)? } else { value }));
    }
    Ok(match str_method(s, name, escaped, budget)? {
        Value::List(seq) => {
            Value::list(seq.items.iter().cloned().map(Value::into_markup).collect())?
        }
        Value::Tuple(seq) => {
            Value::tuple(seq.items.iter().cloned().map(Value::into_markup).collect())?
        }
        other => other.into_markup(),
    })
}

enum Changed {
    Text(String),
    Test(bool),
}

/// The methods that take no argument.
fn without_arguments(s: &str, name: &str) -> Option<Changed> {
    let all = |test: fn(char) -> bool| Changed::Test(!s.is_empty() && s.chars().all(test));
    Some(match name {
        "upper" => Changed::Text(s.to_uppercase()),
        "lower" => Changed::Text(s.to_lowercase()),
        "casefold" => Changed::Text(s.to_lowercase().replace('ß', "ss")),
        "capitalize" => Changed::Text(capitalize(s)),
        "title" => Changed::Text(title(s)),
        "swapcase" => Changed::Text(
            s.chars()
                .flat_map(|c| {
                    if c.is_uppercase() {
                        c.to_lowercase().to_string()
                    } else {
                        c.to_uppercase().to_string()
                    }
                    .chars()
                    .collect::<Vec<_>>()
                })
                .collect(),
        ),
        "isalnum" => all(|c| is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c)),
        "isalpha" => all(is_alpha),
        "isascii" => Changed::Test(s.is_ascii()),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isspace" => all(is_py_space),
        "isprintable" => Changed::Test(s.chars().all(is_printable)),
        "isidentifier" => Changed::Test(
            s.chars().next().is_some_and(|c| is_alpha(c) || c == '_')
                && s.chars().all(|c| is_alpha(c) || is_decimal(c) || c == '_'),
        ),
        "islower" => {
            Changed::Test(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))
        }
        "isupper" => {
            Changed::Test(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))
        }
        "istitle" => {
            Changed::Test(s.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && title(s) == s)
        }
        _ => return None,
    })
}

fn str_list(parts: Vec<&str>, budget: &Budget) -> Res<Value> {
    budget.elements(parts.len())?;
    Value::list(parts.into_iter().map(|part| budget.str(part)).collect::<Res<_>>()?)
}

fn strip(s: &str, name: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [chars] = args.bind(name, ["chars"], 0)?;
    let set: Option<Vec<char>> = match &chars {
        None | Some(Value::None) => None,
        Some(value) => Some(str_arg(name, value)?.chars().collect()),
    };
    // A long set would make stripping quadratic, so it is charged as such.
    budget.step(set.as_ref().map_or(0, |set| set.len().saturating_mul(s.len()) / 1024))?;
    let out = |c: char| set.as_ref().map_or_else(|| is_py_space(c), |set| set.contains(&c));
    budget.str(match name {
        "strip" => s.trim_matches(out),
        "lstrip" => s.trim_start_matches(out),
        _ => s.trim_end_matches(out),
    })
}

fn split(s: &str, name: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [sep, max] = args.bind(name, ["sep", "maxsplit"], 0)?;
    let max = usize::try_from(int_arg(name, max.as_ref(), -1)?).unwrap_or(usize::MAX);
    budget.elements(s.len().min(max) / 8)?;
    match &sep {
        None | Some(Value::None) => str_list(split_space(s, max, name == "rsplit"), budget),
        Some(sep) => {
            let sep = &**str_arg(name, sep)?;
            if sep.is_empty() {
                return Err(TemplateError::runtime("empty separator"));
            }
            let limit = max.saturating_add(1);
            if name == "split" {
                return str_list(s.splitn(limit, sep).collect(), budget);
            }
            let mut parts: Vec<&str> = s.rsplitn(limit, sep).collect();
            parts.reverse();
            str_list(parts, budget)
        }
    }
}

/// Splits at runs of whitespace, at most `max` times, from the left or from the right.
fn split_space(s: &str, max: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right {
        s.trim_end_matches(is_py_space)
    } else {
        s.trim_start_matches(is_py_space)
    };
    while !rest.is_empty() {
        let at = if from_right { rest.rfind(is_py_space) } else { rest.find(is_py_space) };
        let Some(at) = at.filter(|_| parts.len() < max) else {
            let last = if from_right {
                rest.trim_start_matches(is_py_space)
            } else {
                rest.trim_end_matches(is_py_space)
            };
            // The unsplit remainder keeps its inner side's whitespace, as in Python.
            parts.push(if parts.len() < max { last } else { rest });
            break;
        };
        if from_right {
            let width = rest[at..].chars().next().map_or(1, char::len_utf8);
            parts.push(&rest[at + width..]);
            rest = rest[..at].trim_end_matches(is_py_space);
        } else {
            parts.push(&rest[..at]);
            rest = rest[at..].trim_start_matches(is_py_space);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn partition(s: &str, name: &str, args: Args, budget: &Budget) -> Res<Value> {
    let sep = args.one(name, "sep")?;
    let sep = &**str_arg(name, &sep)?;
    if sep.is_empty() {
        return Err(TemplateError::runtime("empty separator"));
    }
    let parts = match (name, s.split_once(sep), s.rsplit_once(sep)) {
        ("partition", Some((head, tail)), _) | ("rpartition", _, Some((head, tail))) => {
            [head, sep, tail]
        }
        ("partition", ..) => [s, "", ""],
        _ => ["", "", s],
    };
    Value::tuple(parts.into_iter().map(|part| budget.str(part)).collect::<Res<_>>()?)
}

/// `str.replace`; a negative count replaces all.
pub(super) fn replace(s: &str, old: &str, new: &str, count: i64, budget: &Budget) -> Res<Value> {
    budget.scan(s.len())?;
    let max = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = Text::new(budget);
    let mut from = 0;
    for (at, matched) in s.match_indices(old).take(max) {
        out.push_str(&s[from..at])?;
        out.push_str(new)?;
        from = at + matched.len();
    }
    out.push_str(&s[from..])?;
    Ok(out.finish())
}

fn affix(s: &str, name: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [affix, start, end] = args.bind(name, ["prefix", "start", "end"], 1)?;
    let part = char_slice(s, name, start.as_ref(), end.as_ref())?.1;
    let affix = affix.unwrap_or(Value::None);
    let choices = match &affix {
        Value::Tuple(seq) => seq.items.clone(),
        other => vec![other.clone()],
    };
    for choice in &choices {
        let choice = &**str_arg(name, choice)?;
        budget.scan(choice.len())?;
        if if name == "startswith" { part.starts_with(choice) } else { part.ends_with(choice) } {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// The part of `s` between two character positions and the position it starts at.
fn char_slice<'s>(
    s: &'s str,
    name: &str,
    start: Option<&Value>,
    end: Option<&Value>,
) -> Res<(usize, &'s str)> {
    let given =
        |value: Option<&Value>| value.filter(|value| !matches!(value, Value::None)).cloned();
    let (start, end) = (given(start), given(end));
    if start.is_none() && end.is_none() {
        return Ok((0, s));
    }
    let len = s.chars().count() as i64;
    let position = |value: i64| {
        if value < 0 { (value + len).max(0) } else { value.min(len) }
    };
    let start = position(int_arg(name, start.as_ref(), 0)?);
    let end = position(int_arg(name, end.as_ref(), len)?).max(start);
    let at = |n: i64| s.char_indices().nth(n as usize).map_or(s.len(), |(at, _)| at);
    Ok((start as usize, &s[at(start)..at(end)]))
}

fn search(s: &str, name: &str, args: Args) -> Res<Value> {
    let [sub, start, end] = args.bind(name, ["sub", "start", "end"], 1)?;
    let sub = sub.unwrap_or(Value::None);
    let sub = &**str_arg(name, &sub)?;
    let (offset, part) = char_slice(s, name, start.as_ref(), end.as_ref())?;
    let found = match name {
        "count" if sub.is_empty() => return Ok(Value::Int(part.chars().count() as i128 + 1)),
        "count" => return Ok(Value::Int(part.matches(sub).count() as i128)),
        "find" | "index" => part.find(sub),
        _ => part.rfind(sub),
    };
    match found {
        Some(at) => Ok(Value::Int((offset + part[..at].chars().count()) as i128)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(TemplateError::runtime("substring not found")),
    }
}

fn format_map(s: &str, args: Args, budget: &Budget) -> Res<Value> {
    let mapping = args.one("format_map", "mapping")?;
    let Value::Dict(dict) = &mapping else {
        return Err(TemplateError::runtime("format_map() needs a mapping"));
    };
    let keyword = dict.entries.iter().filter_map(|(key, value)| match key {
        Value::Str(name) => Some((name.clone(), value.clone())),
        _ => None,
    });
    budget.elements(dict.entries.len())?;
    format_braces(s, &Args { positional: Vec::new(), keyword: keyword.collect() }, budget)
}

fn justify(s: &str, name: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [width, fill] = args.bind(name, ["width", "fillchar"], 1)?;
    let width = usize::try_from(int_arg(name, width.as_ref(), 0)?).unwrap_or(0);
    let fill = match &fill {
        None if name == "zfill" => '0',
        None => ' ',
        Some(value) => {
            let text = str_arg(name, value)?;
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => c,
                _ => {
                    return Err(TemplateError::runtime(
                        "the fill character must be exactly one character long",
                    ));
                }
            }
        }
    };
    let missing = width.saturating_sub(s.chars().count());
    let mut out = Text::new(budget);
    let sign = if name == "zfill" && s.starts_with(['+', '-']) { 1 } else { 0 };
    let left = match name {
        "ljust" => 0,
        // Python gives the odd space to the left only if the width is odd too.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    out.push_str(&s[..sign])?;
    out.fill(fill, left)?;
    out.push_str(&s[sign..])?;
    out.fill(fill, missing - left)?;
    Ok(out.finish())
}

fn expand_tabs(s: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [size] = args.bind("expandtabs", ["tabsize"], 0)?;
    let size = usize::try_from(int_arg("expandtabs", size.as_ref(), 8)?).unwrap_or(0);
    let mut out = Text::new(budget);
    let mut column = 0;
    for c in s.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let n = size - column % size;
                out.fill(' ', n)?;
                column += n;
            }
            _ => {
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                out.push(c)?;
            }
        }
    }
    Ok(out.finish())
}
