//! Filters over text.

use std::sync::Arc;

use super::{raise, refuse_undefined};
use crate::template::args::{Args, flag_arg, int_arg, str_arg};
use crate::template::budget::{Budget, Res, Text};
use crate::template::chars::{capitalize, is_py_space, split_lines};
use crate::template::methods::{call_method, replace};
use crate::template::ops::escape_html;
use crate::template::print::{to_str, write_str};
use crate::template::value::Value;

/// The filters that leave marked-up text marked up.
pub(super) const KEEPS_MARKUP: [&str; 6] =
    ["capitalize", "center", "indent", "lower", "trim", "upper"];

pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let text = to_str(value, budget)?;
    let s = str_arg(name, &text)?;
    budget.scan(s.len())?;
    match name {
        "capitalize" => args.none(name).and_then(|()| budget.str(&capitalize(s))),
        "lower" => args.none(name).and_then(|()| budget.str(&s.to_lowercase())),
        "upper" => args.none(name).and_then(|()| budget.str(&s.to_uppercase())),
        "title" => args.none(name).and_then(|()| budget.str(&title(s))),
        "trim" => {
            let [chars] = args.bind(name, ["chars"], 0)?;
            call_method(&text, "strip", Args::of(chars.into_iter().collect()), budget)
        }
        "center" => {
            let [width] = args.bind(name, ["width"], 0)?;
            call_method(&text, "center", Args::of(vec![width.unwrap_or(Value::Int(80))]), budget)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
            let count = match &count {
                None | Some(Value::None) => -1,
                Some(count) => int_arg(name, Some(count), -1)?,
            };
            let old = to_str(&old.unwrap_or(Value::None), budget)?;
            let new = to_str(&new.unwrap_or(Value::None), budget)?;
            replace(s, str_arg(name, &old)?, str_arg(name, &new)?, count, budget)
        }
        "striptags" => args.none(name).and_then(|()| strip_tags(s, budget)),
        "indent" => {
            refuse_undefined(value)?;
            indent(s, args, budget)
        }
        "truncate" => truncate(s, args, budget),
        "wordcount" => {
            args.none(name)?;
            let words = s
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .filter(|word| !word.is_empty());
            Ok(Value::Int(words.count() as i128))
        }
        "wordwrap" => word_wrap(s, args, budget),
        "urlencode" => url_encode(value, args, budget),
        "xmlattr" => xml_attributes(value, args, budget),
        _ => raise(format!("No filter named '{}'.", super::attrs::short(name))),
    }
}

/// Jinja's `title`: words start after blanks, hyphens and opening brackets only.
fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut at_start = true;
    for c in s.chars() {
        let separates = is_py_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        if separates {
            out.push(c);
        } else if at_start {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        at_start = separates;
    }
    out
}

fn strip_tags(s: &str, budget: &Budget) -> Res<Value> {
    let mut out = Text::new(budget);
    let mut rest = s;
    let mut plain = String::with_capacity(s.len());
    while let Some(at) = rest.find('<') {
        plain.push_str(&rest[..at]);
        let (close, width) = if rest[at..].starts_with("<!--") { ("-->", 3) } else { (">", 1) };
        match rest[at..].find(close) {
            Some(end) => rest = &rest[at + end + width..],
            None => {
                plain.push_str(&rest[at..]);
                rest = "";
            }
        }
    }
    plain.push_str(rest);
    for (idx, word) in plain.split(is_py_space).filter(|word| !word.is_empty()).enumerate() {
        out.push_str(if idx > 0 { " " } else { "" })?;
        out.push_str(word)?;
    }
    Ok(out.finish())
}

fn indent(s: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"], 0)?;
    let (first, blank) = (flag_arg(first.as_ref(), false), flag_arg(blank.as_ref(), false));
    let indention: Arc<str> = match &width {
        Some(Value::Str(s) | Value::Markup(s)) => s.clone(),
        width => {
            let width = usize::try_from(int_arg("indent", width.as_ref(), 4)?).unwrap_or(0);
            budget.alloc(width)?;
            Arc::from(" ".repeat(width))
        }
    };
    // A final newline counts as the start of one more, empty line.
    let mut lines = split_lines(s, false);
    if s.is_empty() || s.ends_with(crate::template::chars::is_line_end) {
        lines.push("");
    }
    let mut out = Text::new(budget);
    for (idx, line) in lines.iter().enumerate() {
        out.push_str(if idx > 0 { "\n" } else { "" })?;
        if if idx == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention)?;
        }
        out.push_str(line)?;
    }
    Ok(out.finish())
}

fn truncate(s: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [length, kill_words, end, leeway] =
        args.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let length = usize::try_from(int_arg("truncate", length.as_ref(), 255)?).unwrap_or(0);
    let leeway = match &leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => usize::try_from(int_arg("truncate", Some(leeway), 5)?).unwrap_or(0),
    };
    let end = end.unwrap_or_else(|| Value::Str(Arc::from("...")));
    let end = str_arg("truncate", &end)?;
    let end_len = end.chars().count();
    if length < end_len {
        return raise(format!("truncate: expected length >= {end_len}, got {length}"));
    }
    if s.chars().count() <= length.saturating_add(leeway) {
        return budget.str(s);
    }
    let cut = s.char_indices().nth(length - end_len).map_or(s, |(at, _)| &s[..at]);
    let kept = if flag_arg(kill_words.as_ref(), false) {
        cut
    } else {
        cut.rsplit_once(' ').map_or(cut, |(head, _)| head)
    };
    let mut out = Text::new(budget);
    out.push_str(kept)?;
    out.push_str(end)?;
    Ok(out.finish())
}

/// Wraps each line on its own at blanks; words longer than the width are broken unless told otherwise.
fn word_wrap(s: &str, args: Args, budget: &Budget) -> Res<Value> {
    let [width, break_long, wrap] =
        args.bind("wordwrap", ["width", "break_long_words", "wrapstring"], 0)?;
    let width = usize::try_from(int_arg("wordwrap", width.as_ref(), 79)?).unwrap_or(0);
    if width == 0 {
        return raise("wordwrap needs a positive width");
    }
    let break_long = flag_arg(break_long.as_ref(), true);
    let wrap = match &wrap {
        None | Some(Value::None) => Arc::from("\n"),
        Some(wrap) => str_arg("wordwrap", wrap)?.clone(),
    };
    let mut out = Text::new(budget);
    for (idx, line) in split_lines(s, false).into_iter().enumerate() {
        out.push_str(if idx > 0 { &wrap } else { "" })?;
        for (idx, part) in wrap_line(line, width, break_long).iter().enumerate() {
            out.push_str(if idx > 0 { &wrap } else { "" })?;
            out.push_str(part)?;
        }
    }
    Ok(out.finish())
}

fn wrap_line(line: &str, width: usize, break_long: bool) -> Vec<String> {
    let mut parts = Vec::new();
    let mut current = String::new();
    let mut current_len = 0;
    let mut gap = "";
    let mut rest = line;
    while !rest.is_empty() {
        let word_end = rest.find(' ').unwrap_or(rest.len());
        let mut word = &rest[..word_end];
        let word_len = word.chars().count();
        if !word.is_empty() {
            if current_len > 0 && current_len + gap.len() + word_len > width {
                parts.push(std::mem::take(&mut current));
                current_len = 0;
                gap = "";
            }
            while break_long && current_len == 0 && word.chars().count() > width {
                let at = word.char_indices().nth(width).map_or(word.len(), |(at, _)| at);
                parts.push(word[..at].to_string());
                word = &word[at..];
            }
            current.push_str(gap);
            current.push_str(word);
            current_len += gap.len() + word.chars().count();
        }
        rest = &rest[word_end..];
        let gap_len = rest.len() - rest.trim_start_matches(' ').len();
        gap = &rest[..gap_len];
        rest = &rest[gap_len..];
    }
    if !current.is_empty() {
        parts.push(current);
    }
    parts
}

fn url_quote(text: &str, for_query: bool, out: &mut Text<'_>) -> Res<()> {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte as char)?
            }
            b'/' if !for_query => out.push('/')?,
            b' ' if for_query => out.push('+')?,
            _ => out.push_str(&format!("%{byte:02X}"))?,
        }
    }
    Ok(())
}

fn url_encode(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    args.none("urlencode")?;
    let mut out = Text::new(budget);
    let pairs = match value {
        Value::Dict(dict) => dict.entries.clone(),
        Value::List(_) | Value::Tuple(_) => {
            let mut pairs = Vec::new();
            for pair in value.items(budget)? {
                match pair.items(budget)?.as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _ => return raise("urlencode needs pairs"),
                }
            }
            pairs
        }
        other => {
            let text = to_str(other, budget)?;
            url_quote(text.as_str().unwrap_or(""), false, &mut out)?;
            return Ok(out.finish());
        }
    };
    for (idx, (key, value)) in pairs.iter().enumerate() {
        out.push_str(if idx > 0 { "&" } else { "" })?;
        url_quote(to_str(key, budget)?.as_str().unwrap_or(""), true, &mut out)?;
        out.push('=')?;
        url_quote(to_str(value, budget)?.as_str().unwrap_or(""), true, &mut out)?;
    }
    Ok(out.finish())
}

fn xml_attributes(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [auto_space] = args.bind("xmlattr", ["autospace"], 0)?;
    let Value::Dict(dict) = value else {
        return raise("xmlattr needs a mapping");
    };
    let mut out = Text::new(budget);
    let mut first = !flag_arg(auto_space.as_ref(), true);
    for (key, value) in &dict.entries {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = to_str(key, budget)?;
        if key
            .as_str()
            .is_some_and(|key| key.contains(|c| is_py_space(c) || matches!(c, '/' | '>' | '=')))
        {
            return raise("invalid character in attribute name");
        }
        out.push_str(if first { "" } else { " " })?;
        first = false;
        write_str(&escape_html(&key, budget)?, &mut out, budget)?;
        out.push_str("=\"")?;
        let value = to_str(value, budget)?;
        write_str(&escape_html(&value, budget)?, &mut out, budget)?;
        out.push('"')?;
    }
    Ok(out.finish())
}
