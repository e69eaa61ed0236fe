//! Carries our values through minijinja and back. Scalars and strings are minijinja's own; containers, views,
//! iterators and bound methods travel as objects.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value as Native};

use super::TemplateError;
use super::args::Args;
use super::attrs::python_attr;
use super::budget::{Budget, Res, Text};
use super::methods::call_method;
use super::ops::{equal, order};
use super::print::write_str;
use super::value::{Dict, Key, Value};

/// One of our values as minijinja sees it.
struct Boxed {
    value: Value,
    budget: Arc<Budget>,
}

/// A value for minijinja.
pub(super) fn wrap(value: Value, budget: &Arc<Budget>) -> Native {
    match value {
        Value::Undefined(_) => Native::UNDEFINED,
        Value::None => Native::from(()),
        Value::Bool(b) => Native::from(b),
        Value::Int(i) => i64::try_from(i).map_or_else(|_| Native::from(i), Native::from),
        Value::Float(x) => Native::from(x),
        Value::Str(s) => Native::from(s),
        Value::Markup(s) => Native::from_safe_string(s.as_ref().into()),
        Value::Native(native) => native,
        value => Native::from_object(Boxed { value, budget: budget.clone() }),
    }
}

/// A value from minijinja.
pub(super) fn unwrap(native: &Native, budget: &Budget) -> Res<Value> {
    budget.step(1)?;
    Ok(match native.kind() {
        ValueKind::Undefined => Value::undefined("the value is undefined"),
        ValueKind::None => Value::None,
        ValueKind::Bool => Value::Bool(native.is_true()),
        ValueKind::Number => match i128::try_from(native.clone()) {
            Ok(i) if native.is_integer() => Value::Int(i),
            _ => Value::Float(f64::try_from(native.clone()).unwrap_or(f64::NAN)),
        },
        ValueKind::String => {
            let text = native.to_str().unwrap_or_else(|| Arc::from(""));
            if native.is_safe() { Value::Markup(text) } else { Value::Str(text) }
        }
        _ => match native.as_object() {
            Some(object) => match object.downcast_ref::<Boxed>() {
                Some(boxed) => boxed.value.clone(),
                // Lists that the bytecode itself builds: the filter of a loop, constants.
                None if matches!(object.repr(), ObjectRepr::Seq | ObjectRepr::Iterable) => {
                    budget.elements(object.enumerator_len().unwrap_or(usize::MAX))?;
                    let items = object.try_iter().into_iter().flatten();
                    let items = items.map(|item| unwrap(&item, budget)).collect::<Res<_>>()?;
                    if native.is_tuple() { Value::tuple(items)? } else { Value::list(items)? }
                }
                None => Value::Native(native.clone()),
            },
            None => {
                return Err(TemplateError::runtime(format!(
                    "a value of type {} is not usable",
                    native.kind()
                )));
            }
        },
    })
}

/// A constant from the bytecode, where a map is a dict and not one of minijinja's own objects.
pub(super) fn unwrap_const(native: &Native, budget: &Budget) -> Res<Value> {
    match native.as_object() {
        Some(object) if object.repr() == ObjectRepr::Map => {
            let mut entries = Vec::new();
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                entries.push((unwrap_const(&key, budget)?, unwrap_const(&value, budget)?));
            }
            Ok(Value::Dict(Arc::new(Dict::new(entries, budget)?)))
        }
        _ => unwrap(native, budget),
    }
}

/// The arguments of a call; minijinja passes a method its keyword arguments as one last value.
pub(super) fn unwrap_args(natives: &[Native], budget: &Budget) -> Result<Args, Error> {
    match natives.split_last() {
        Some((last, rest)) if last.is_kwargs() => {
            unwrap_call(rest, &Kwargs::try_from(last.clone())?, budget)
        }
        _ => {
            let positional =
                natives.iter().map(|native| unwrap(native, budget)).collect::<Res<_>>()?;
            Ok(Args { positional, keyword: Vec::new() })
        }
    }
}

/// The arguments of a call in their two parts.
pub(super) fn unwrap_call(
    natives: &[Native],
    kwargs: &Kwargs,
    budget: &Budget,
) -> Result<Args, Error> {
    let mut args = unwrap_args(natives, budget)?;
    for name in kwargs.args() {
        args.keyword.push((Arc::from(name), unwrap(&kwargs.get::<Native>(name)?, budget)?));
    }
    // What is left unused here is minijinja's to complain about, and nothing is.
    Ok(args)
}

/// Whether minijinja's value is a macro or a function: what may be stored anywhere.
pub(super) fn is_callable(native: &Native) -> bool {
    native.as_object().is_some_and(|object| {
        let name = object.type_name();
        name.ends_with("::Macro") || name.ends_with("::BoxedFunction")
    })
}

/// Whether two of minijinja's objects are one.
pub(super) fn same_object(a: &Native, b: &Native) -> bool {
    // Distinct macros and functions print alike only if they are equal for every template.
    a == b
}

/// An attribute of what minijinja owns.
pub(super) fn native_attr(native: &Native, name: &str) -> Option<Value> {
    let found = native.get_attr(name).ok().filter(|found| !found.is_undefined())?;
    let budget = Budget::unlimited();
    unwrap(&found, &budget).ok()
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.value.type_name())
    }
}

impl Object for Boxed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match &self.value {
            Value::List(_) | Value::Tuple(_) => ObjectRepr::Seq,
            Value::Dict(_) => ObjectRepr::Map,
            Value::Method(_) => ObjectRepr::Plain,
            _ => ObjectRepr::Iterable,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Native) -> Option<Native> {
        let found = match &self.value {
            Value::List(seq) | Value::Tuple(seq) => seq.items.get(key.as_usize()?)?.clone(),
            Value::Dict(dict) => {
                let key =
                    unwrap(key, &self.budget).and_then(|key| Key::of(&key, &self.budget)).ok()?;
                dict.get(&key)?.clone()
            }
            _ => return None,
        };
        Some(wrap(found, &self.budget))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.value {
            Value::List(seq) | Value::Tuple(seq) => Enumerator::Seq(seq.items.len()),
            Value::Method(_) => Enumerator::NonEnumerable,
            other => match other.items(&self.budget) {
                Ok(items) => Enumerator::Values(
                    items.into_iter().map(|item| wrap(item, &self.budget)).collect(),
                ),
                Err(_) => Enumerator::NonEnumerable,
            },
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.value.truth()
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Native]) -> Result<Native, Error> {
        match &self.value {
            Value::Method(method) => {
                let args = unwrap_args(args, &self.budget)?;
                Ok(wrap(call_method(&method.0, method.1, args, &self.budget)?, &self.budget))
            }
            other => Err(TemplateError::runtime(format!(
                "'{}' object is not callable",
                other.type_name()
            ))
            .into()),
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Native],
    ) -> Result<Native, Error> {
        match python_attr(&self.value, &Arc::from(name)) {
            Some(Value::Method(method)) => {
                let args = unwrap_args(args, &self.budget)?;
                Ok(wrap(call_method(&method.0, method.1, args, &self.budget)?, &self.budget))
            }
            Some(Value::Undefined(message)) => Err(TemplateError::runtime(&*message).into()),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        match equal(&self.value, &other.value, &self.budget) {
            Ok(true) => Some(Ordering::Equal),
            _ => order(&self.value, &other.value, &self.budget)
                .ok()
                .flatten()
                .or(Some(Ordering::Less)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new(&self.budget);
        write_str(&self.value, &mut text, &self.budget).map_err(|_| fmt::Error)?;
        f.write_str(&text.into_string())
    }
}

impl From<TemplateError> for Error {
    fn from(err: TemplateError) -> Self {
        Self::new(ErrorKind::InvalidOperation, err.to_string()).with_source(err)
    }
}
