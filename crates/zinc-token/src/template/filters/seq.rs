//! Filters over sequences.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{raise, refuse_undefined};
use crate::template::args::{Args, flag_arg, int_arg, str_arg};
use crate::template::attrs::get_item;
use crate::template::budget::{Budget, Res, Text};
use crate::template::checks;
use crate::template::ops::{BinaryOp, binary, equal, order, sort_by_keys};
use crate::template::print::write_str;
use crate::template::value::{Key, Value};

pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    match name {
        "batch" => batch(value, args, budget),
        "slice" => slice(value, args, budget),
        "dictsort" => dictsort(value, args, budget),
        "first" | "last" => end(name, value, args, budget),
        "groupby" => groupby(value, args, budget),
        "join" => join(value, args, budget),
        "list" => {
            args.none(name)?;
            Value::list(value.items(budget)?)
        }
        "map" => map(value, args, budget),
        "max" | "min" => extreme(name, value, args, budget),
        "reverse" => reverse(value, args, budget),
        "sort" => sort(value, args, budget),
        "sum" => sum(value, args, budget),
        "unique" => unique(value, args, budget),
        _ => select(name, value, args, budget),
    }
}

/// A dotted path of attribute names and indices; `None` is the item itself.
struct Path(Vec<Value>);

impl Path {
    fn new(attribute: Option<&Value>, budget: &Budget) -> Res<Self> {
        Ok(Self(match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(path) | Value::Markup(path)) => {
                budget.elements(path.len())?;
                path.split('.').map(Self::part).collect()
            }
            Some(other) => vec![other.clone()],
        }))
    }

    fn part(text: &str) -> Value {
        match text.parse::<u32>() {
            Ok(idx) if text.bytes().all(|b| b.is_ascii_digit()) => Value::Int(i128::from(idx)),
            _ => Value::Str(Arc::from(text)),
        }
    }

    fn get(&self, item: &Value, default: Option<&Value>, budget: &Budget) -> Res<Value> {
        let mut found = item.clone();
        for part in &self.0 {
            budget.step(1)?;
            found = get_item(&found, part, budget)?;
            if let (Value::Undefined(_), Some(default)) = (&found, default) {
                found = default.clone();
            }
        }
        Ok(found)
    }
}

/// The key that case-insensitive sorting compares.
fn fold_case(value: Value, case_sensitive: bool, budget: &Budget) -> Res<Value> {
    match &value {
        Value::Str(s) | Value::Markup(s) if !case_sensitive => {
            budget.alloc(s.len())?;
            budget.str(&s.to_lowercase())
        }
        _ => Ok(value),
    }
}

fn positive(name: &str, value: Option<&Value>) -> Res<usize> {
    match usize::try_from(int_arg(name, value, 0)?) {
        Ok(n) if n > 0 => Ok(n),
        _ => raise(format!("{name} needs a positive number")),
    }
}

fn batch(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [count, fill] = args.bind("batch", ["linecount", "fill_with"], 1)?;
    let count = positive("batch", count.as_ref())?;
    let items = value.items(budget)?;
    let mut batches = Vec::new();
    for chunk in items.chunks(count) {
        let mut batch = chunk.to_vec();
        budget.elements(batch.len())?;
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
            budget.elements(count)?;
            batch.resize(count, fill.clone());
        }
        batches.push(Value::list(batch)?);
    }
    Ok(Value::iter(batches))
}

fn slice(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [slices, fill] = args.bind("slice", ["slices", "fill_with"], 1)?;
    let slices = positive("slice", slices.as_ref())?;
    budget.elements(slices)?;
    let items = value.items(budget)?;
    budget.elements(items.len())?;
    let (len, extra) = (items.len() / slices, items.len() % slices);
    let mut parts = Vec::with_capacity(slices);
    let mut from = 0;
    for idx in 0..slices {
        let to = from + len + usize::from(idx < extra);
        let mut part = items[from..to].to_vec();
        if let Some(fill) =
            fill.as_ref().filter(|fill| !matches!(fill, Value::None) && idx >= extra)
        {
            part.push(fill.clone());
        }
        parts.push(Value::list(part)?);
        from = to;
    }
    Ok(Value::iter(parts))
}

fn dictsort(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [case_sensitive, by, reverse] =
        args.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let Value::Dict(dict) = value else {
        refuse_undefined(value)?;
        return raise(format!("dictsort needs a mapping, not '{}'", value.type_name()));
    };
    let by_value = match by.as_ref().and_then(Value::as_str) {
        Some("value") => true,
        Some("key") | None => false,
        Some(_) => return raise("You can only sort by either \"key\" or \"value\""),
    };
    let case_sensitive = flag_arg(case_sensitive.as_ref(), false);
    budget.elements(3 * dict.entries.len())?;
    let mut keyed = Vec::with_capacity(dict.entries.len());
    for (key, value) in &dict.entries {
        let sort_key =
            fold_case(if by_value { value.clone() } else { key.clone() }, case_sensitive, budget)?;
        keyed.push((sort_key, Value::tuple(vec![key.clone(), value.clone()])?));
    }
    Value::list(sort_by_keys(keyed, flag_arg(reverse.as_ref(), false), budget)?)
}

fn end(name: &str, value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    args.none(name)?;
    let found = match value {
        Value::Iter(iter) if name == "first" => {
            let at = iter.taken.load(Relaxed);
            iter.taken.store((at + 1).min(iter.items.len()), Relaxed);
            iter.items.get(at).cloned()
        }
        Value::Iter(_) => return raise("'generator' object is not reversible"),
        Value::List(seq) | Value::Tuple(seq) if name == "first" => seq.items.first().cloned(),
        Value::List(seq) | Value::Tuple(seq) => seq.items.last().cloned(),
        other => {
            let items = other.items(budget)?;
            if name == "first" { items.first().cloned() } else { items.last().cloned() }
        }
    };
    Ok(found.unwrap_or_else(|| Value::undefined(format!("No {name} item, sequence was empty."))))
}

fn groupby(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [attribute, default, case_sensitive] =
        args.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let path = Path::new(attribute.as_ref(), budget)?;
    let default = default.filter(|default| !matches!(default, Value::None));
    let case_sensitive = flag_arg(case_sensitive.as_ref(), false);
    let key =
        |item: &Value| fold_case(path.get(item, default.as_ref(), budget)?, case_sensitive, budget);
    let mut keyed = Vec::new();
    for item in value.items(budget)? {
        keyed.push((key(&item)?, item));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sort_by_keys(keyed, false, budget)? {
        let item_key = key(&item)?;
        match groups.last_mut() {
            Some((group_key, items)) if equal(group_key, &item_key, budget)? => items.push(item),
            _ => groups.push((item_key, vec![item])),
        }
    }
    let mut pairs = Vec::with_capacity(groups.len());
    for (_, items) in groups {
        let grouper = path.get(&items[0], default.as_ref(), budget)?;
        pairs.push(Value::group(grouper, Value::list(items)?)?);
    }
    Value::list(pairs)
}

fn join(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"], 0)?;
    let path = Path::new(attribute.as_ref(), budget)?;
    let mut out = Text::new(budget);
    for (idx, item) in value.items(budget)?.iter().enumerate() {
        if let Some(separator) = separator.as_ref().filter(|_| idx > 0) {
            write_str(separator, &mut out, budget)?;
        }
        write_str(&path.get(item, None, budget)?, &mut out, budget)?;
    }
    Ok(out.finish())
}

fn map(value: &Value, mut args: Args, budget: &Budget) -> Res<Value> {
    let items = value.items(budget)?;
    let mut mapped = Vec::with_capacity(items.len());
    if args.positional.is_empty() {
        let Some(attribute) = args.take_keyword("attribute") else {
            return raise("map requires a filter argument");
        };
        let default =
            args.take_keyword("default").filter(|default| !matches!(default, Value::None));
        args.none("map")?;
        let path = Path::new(Some(&attribute), budget)?;
        for item in &items {
            mapped.push(path.get(item, default.as_ref(), budget)?);
        }
        return Ok(Value::iter(mapped));
    }
    let filter = args.positional.remove(0);
    let filter = str_arg("map", &filter)?;
    if !super::NAMES.contains(&&**filter) {
        return raise(format!("No filter named '{}'.", super::attrs::short(filter)));
    }
    for item in &items {
        budget.elements(args.positional.len() + 2 * args.keyword.len())?;
        let args = Args { positional: args.positional.clone(), keyword: args.keyword.clone() };
        mapped.push(super::apply(filter, item, args, budget)?);
    }
    Ok(Value::iter(mapped))
}

/// `select`, `reject` and their `attr` forms.
fn select(name: &str, value: &Value, mut args: Args, budget: &Budget) -> Res<Value> {
    let keeps = name.starts_with("select");
    if !value.truth() {
        return Ok(Value::iter(Vec::new()));
    }
    let path = if name.ends_with("attr") {
        if args.positional.is_empty() {
            return raise("Missing parameter for attribute name");
        }
        Path::new(Some(&args.positional.remove(0)), budget)?
    } else {
        Path(Vec::new())
    };
    let test = if args.positional.is_empty() { None } else { Some(args.positional.remove(0)) };
    let mut kept = Vec::new();
    for item in value.items(budget)? {
        let tested = path.get(&item, None, budget)?;
        let passes = match &test {
            None => tested.truth(),
            Some(test) => {
                budget.elements(args.positional.len())?;
                checks::check(
                    str_arg(name, test)?,
                    &tested,
                    Args::of(args.positional.clone()),
                    budget,
                )?
            }
        };
        if passes == keeps {
            kept.push(item);
        }
    }
    Ok(Value::iter(kept))
}

fn extreme(name: &str, value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
    let case_sensitive = flag_arg(case_sensitive.as_ref(), false);
    let path = Path::new(attribute.as_ref(), budget)?;
    let mut best: Option<(Value, Value)> = None;
    for item in value.items(budget)? {
        let key = fold_case(path.get(&item, None, budget)?, case_sensitive, budget)?;
        let better = match &best {
            None => true,
            Some((best_key, _)) if name == "max" => {
                order(&key, best_key, budget)? == Some(Ordering::Greater)
            }
            Some((best_key, _)) => order(&key, best_key, budget)? == Some(Ordering::Less),
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(match best {
        Some((_, item)) => item,
        None => Value::undefined("No aggregated item, sequence was empty."),
    })
}

fn reverse(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    args.none("reverse")?;
    if let Value::Str(s) | Value::Markup(s) = value {
        return budget.str(&s.chars().rev().collect::<String>());
    }
    let mut items = value.items(budget)?;
    items.reverse();
    Ok(match value {
        // What Python cannot reverse lazily comes back as a list.
        Value::Iter(_) => Value::list(items)?,
        _ => Value::iter(items),
    })
}

fn sort(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [reverse, case_sensitive, attribute] =
        args.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
    let case_sensitive = flag_arg(case_sensitive.as_ref(), false);
    let paths = match &attribute {
        Some(Value::Str(names)) => names
            .split(',')
            .map(|name| Path::new(Some(&Value::Str(Arc::from(name))), budget))
            .collect::<Res<Vec<_>>>()?,
        other => vec![Path::new(other.as_ref(), budget)?],
    };
    let mut keyed = Vec::new();
    for item in value.items(budget)? {
        budget.elements(paths.len())?;
        let mut keys = Vec::with_capacity(paths.len());
        for path in &paths {
            keys.push(fold_case(path.get(&item, None, budget)?, case_sensitive, budget)?);
        }
        keyed.push((Value::list(keys)?, item));
    }
    Value::list(sort_by_keys(keyed, flag_arg(reverse.as_ref(), false), budget)?)
}

fn sum(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"], 0)?;
    let path = Path::new(attribute.as_ref(), budget)?;
    let mut total = start.unwrap_or(Value::Int(0));
    if matches!(total, Value::Str(_)) {
        return raise("sum() can't sum strings");
    }
    for item in value.items(budget)? {
        total = binary(BinaryOp::Add, &total, &path.get(&item, None, budget)?, budget)?;
    }
    Ok(total)
}

fn unique(value: &Value, args: Args, budget: &Budget) -> Res<Value> {
    let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let case_sensitive = flag_arg(case_sensitive.as_ref(), false);
    let path = Path::new(attribute.as_ref(), budget)?;
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for item in value.items(budget)? {
        let key = fold_case(path.get(&item, None, budget)?, case_sensitive, budget)?;
        if seen.insert(Key::of(&key, budget)?) {
            kept.push(item);
        }
    }
    Ok(Value::iter(kept))
}
