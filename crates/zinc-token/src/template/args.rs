//! Arguments of a call, and binding them to the parameters of what is called.

use std::sync::Arc;

use super::TemplateError;
use super::budget::Res;
use super::ops::Num;
use super::value::Value;

#[derive(Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub keyword: Vec<(Arc<str>, Value)>,
}

impl Args {
    pub(super) fn of(positional: Vec<Value>) -> Self {
        Self { positional, keyword: Vec::new() }
    }

    /// Takes the keyword argument `name`.
    pub(super) fn take_keyword(&mut self, name: &str) -> Option<Value> {
        let at = self.keyword.iter().position(|(found, _)| &**found == name)?;
        Some(self.keyword.remove(at).1)
    }

    /// Assigns the arguments to `names`, the first `required` of which must be given.
    pub(super) fn bind<const N: usize>(
        mut self,
        callee: &str,
        names: [&str; N],
        required: usize,
    ) -> Res<[Option<Value>; N]> {
        if self.positional.len() > N {
            let n = self.positional.len();
            return Err(TemplateError::runtime(format!(
                "{callee}() takes at most {N} arguments ({n} given)"
            )));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional.drain(..)) {
            *slot = Some(value);
        }
        for (name, value) in self.keyword {
            match names.iter().position(|known| *known == &*name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => {
                    return Err(TemplateError::runtime(format!("{callee}() got '{name}' twice")));
                }
                None => {
                    return Err(TemplateError::runtime(format!(
                        "{callee}() got an unexpected keyword argument '{name}'"
                    )));
                }
            }
        }
        if let Some(at) = bound[..required].iter().position(Option::is_none) {
            return Err(TemplateError::runtime(format!(
                "{callee}() misses its argument '{}'",
                names[at]
            )));
        }
        Ok(bound)
    }

    /// No arguments at all.
    pub(super) fn none(self, callee: &str) -> Res<()> {
        self.bind::<0>(callee, [], 0).map(|_| ())
    }

    /// Exactly one argument.
    pub(super) fn one(self, callee: &str, name: &str) -> Res<Value> {
        let [value] = self.bind(callee, [name], 1)?;
        Ok(value.unwrap_or(Value::None))
    }
}

/// The text of a string argument.
pub(super) fn str_arg<'v>(callee: &str, value: &'v Value) -> Res<&'v Arc<str>> {
    match value {
        Value::Str(s) | Value::Markup(s) => Ok(s),
        Value::Undefined(message) => Err(TemplateError::runtime(&**message)),
        other => Err(TemplateError::runtime(format!(
            "{callee}() needs a str, not '{}'",
            other.type_name()
        ))),
    }
}

/// The value of an integer argument, or `default` where it was not given.
pub(super) fn int_arg(callee: &str, value: Option<&Value>, default: i64) -> Res<i64> {
    match value {
        None => Ok(default),
        Some(Value::Undefined(message)) => Err(TemplateError::runtime(&**message)),
        Some(value) => match Num::of(value) {
            Some(Num::Int(i)) => i64::try_from(i)
                .map_err(|_| TemplateError::runtime(format!("{callee}(): integer is too large"))),
            _ => Err(TemplateError::runtime(format!(
                "{callee}() needs an int, not '{}'",
                value.type_name()
            ))),
        },
    }
}

/// The truth of an optional argument.
pub(super) fn flag_arg(value: Option<&Value>, default: bool) -> bool {
    value.map_or(default, Value::truth)
}
