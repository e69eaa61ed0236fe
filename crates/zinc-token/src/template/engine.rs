//! The minijinja environment that renders as Hugging Face transformers does: our filters, tests, functions and
//! operators, all on one budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value as Native};

use super::args::{Args, int_arg, str_arg};
use super::bridge::{unwrap, unwrap_args, unwrap_call, unwrap_const, wrap};
use super::budget::{Budget, Res};
use super::datetime::DateTime;
use super::methods::call_method;
use super::ops::{self, BinaryOp, CompareOp};
use super::print::to_str;
use super::value::{Dict, Range, Value};
use super::{TemplateError, TemplateLimits, attrs, checks, filters, rewrite};

/// Longest `range()`; the sandbox of Jinja2 has the same limit.
const MAX_RANGE: usize = 100_000;
/// Frames of loops, scopes and macros (a macro counts four more): about 60 macros deep, which fits a thread of
/// 2 MiB.
pub(super) const MAX_FRAMES: usize = 300;
/// minijinja's own limit while parsing.
pub(super) const MAX_NESTING: usize = 150;
/// The name that messages give the template.
const NAME: &str = "chat template";

/// `trim_blocks` and `lstrip_blocks`, as transformers sets them.
pub(super) fn syntax() -> Res<SyntaxConfig> {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true);
    builder.build().map_err(|err| TemplateError::from_engine(err, true))
}

/// Bytecode of a template and of its named blocks.
type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

/// Parses checked source into bytecode with Python's operators.
pub(super) fn compile(source: &str) -> Res<Compiled<'_>> {
    let ast =
        parse(source, NAME, syntax()?).map_err(|err| TemplateError::from_engine(err, true))?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&ast);
    let (code, blocks) = generator.finish();
    Ok((
        rewrite::rewrite(&code),
        blocks.iter().map(|(name, code)| (*name, rewrite::rewrite(code))).collect(),
    ))
}

/// Renders checked source with `variables`.
pub(super) fn render(
    source: &str,
    variables: &serde_json::Map<String, serde_json::Value>,
    now: DateTime,
    limits: TemplateLimits,
) -> Res<String> {
    let budget = Arc::new(Budget::new(limits));
    let environment = environment(&budget, now, limits)?;
    let (code, blocks) = compile(source)?;
    let mut root = BTreeMap::new();
    for (name, json) in variables {
        // The input belongs to the caller, who already holds it in memory: it costs the template nothing.
        root.insert(name.clone(), wrap(Value::from_json(json, &Budget::unlimited())?, &budget));
    }
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    let result =
        eval(&environment, &code, Native::from(root), &blocks, &mut output, AutoEscape::None);
    result.map(|_| ()).map_err(|err| match err.kind() {
        ErrorKind::OutOfFuel => TemplateError::limit("steps", limits.max_steps).at(err.line()),
        _ => TemplateError::from_engine(err, false),
    })?;
    if text.len() as u64 > limits.max_output_bytes {
        return Err(TemplateError::limit("bytes of output", limits.max_output_bytes));
    }
    Ok(text)
}

fn environment(
    budget: &Arc<Budget>,
    now: DateTime,
    limits: TemplateLimits,
) -> Res<Environment<'static>> {
    let mut env = Environment::empty();
    env.set_syntax(syntax()?);
    env.set_debug(false);
    env.set_fuel(Some(limits.max_steps));
    env.set_recursion_limit(MAX_FRAMES);
    let printing = budget.clone();
    env.set_formatter(move |out, _, native| {
        let text = to_str(&unwrap(native, &printing)?, &printing)?;
        let text = str_arg("print", &text)?;
        printing.alloc(text.len())?;
        out.write_str(text).map_err(Error::from)
    });
    let methods = budget.clone();
    env.set_unknown_method_callback(move |_, receiver, name, args| {
        unknown_method(receiver, name, args, &methods)
    });
    for name in filters::NAMES {
        let budget = budget.clone();
        env.add_filter(
            name,
            move |value: Native, args: Rest<Native>, kwargs: Kwargs| -> Result<Native, Error> {
                let found = filters::apply(
                    name,
                    &unwrap(&value, &budget)?,
                    unwrap_call(&args, &kwargs, &budget)?,
                    &budget,
                )?;
                Ok(wrap(found, &budget))
            },
        );
    }
    for name in checks::NAMES {
        let budget = budget.clone();
        env.add_test(
            name,
            move |value: Native, args: Rest<Native>, kwargs: Kwargs| -> Result<bool, Error> {
                Ok(checks::check(
                    name,
                    &unwrap(&value, &budget)?,
                    unwrap_call(&args, &kwargs, &budget)?,
                    &budget,
                )?)
            },
        );
    }
    add_operators(&mut env, budget);
    add_functions(&mut env, budget, now);
    Ok(env)
}

/// Methods of strings, which minijinja knows none of, and the error for what has no methods.
fn unknown_method(
    receiver: &Native,
    name: &str,
    args: &[Native],
    budget: &Arc<Budget>,
) -> Result<Native, Error> {
    let receiver = unwrap(receiver, budget)?;
    match &receiver {
        Value::Undefined(_) => Err(TemplateError::runtime(format!(
            "cannot call '{}' of an undefined value",
            attrs::short(name)
        ))
        .into()),
        Value::Str(_) | Value::Markup(_) => match attrs::python_attr(&receiver, &Arc::from(name)) {
            Some(Value::Method(method)) => Ok(wrap(
                call_method(&receiver, method.1, unwrap_args(args, budget)?, budget)?,
                budget,
            )),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Adds the filters that `rewrite` calls for operators. Their names are no identifiers, so no template can
/// call or replace them.
fn add_operators(env: &mut Environment<'static>, budget: &Arc<Budget>) {
    const ARITHMETIC: [(&str, BinaryOp); 7] = [
        ("+", BinaryOp::Add),
        ("-", BinaryOp::Sub),
        ("*", BinaryOp::Mul),
        ("/", BinaryOp::Div),
        ("//", BinaryOp::FloorDiv),
        ("%", BinaryOp::Mod),
        ("**", BinaryOp::Pow),
    ];
    const COMPARISON: [(&str, CompareOp); 7] = [
        ("==", CompareOp::Eq),
        ("!=", CompareOp::Ne),
        ("<", CompareOp::Lt),
        ("<=", CompareOp::Le),
        (">", CompareOp::Gt),
        (">=", CompareOp::Ge),
        ("x in y", CompareOp::In),
    ];
    for (name, op) in ARITHMETIC {
        add_operator(env, budget, name, move |args, budget| {
            ops::binary(op, &args[0], &args[1], budget)
        });
    }
    for (name, op) in COMPARISON {
        // minijinja looks filters up without the blanks in their names.
        add_operator(env, budget, &name.replace(' ', ""), move |args, budget| {
            Ok(Value::Bool(ops::compare(op, &args[0], &args[1], budget)?))
        });
    }
    add_operator(env, budget, "-x", |args, _| ops::negate(&args[0]));
    add_operator(env, budget, "~", |args, budget| ops::concat(&args[0], &args[1], budget));
    add_operator(env, budget, ".", |args, budget| {
        attrs::get_attr(&args[0], str_arg("getattr", &args[1])?, budget)
    });
    add_operator(env, budget, "[]", |args, budget| attrs::get_item(&args[0], &args[1], budget));
    add_operator(env, budget, "[:]", |args, budget| {
        let bounds = [args[1].clone(), args[2].clone(), args[3].clone()];
        attrs::slice(&args[0], bounds, budget)
    });
    add_operator(env, budget, "[,]", |args, _| Value::list(args.to_vec()));
    add_operator(env, budget, "(,)", |args, _| Value::tuple(args.to_vec()));
    add_operator(env, budget, "{:}", |args, budget| {
        let entries = args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        Ok(Value::Dict(Arc::new(Dict::new(entries, budget)?)))
    });
    add_operator(env, budget, "iter", |args, budget| match &args[0] {
        list @ (Value::List(_) | Value::Tuple(_)) => Ok(list.clone()),
        other => Value::list(other.items(budget)?),
    });
    add_operator(env, budget, "store", |args, _| {
        args[0].check_storable().map(|()| args[0].clone())
    });
    let constants = budget.clone();
    env.add_filter("const", move |value: Native| -> Result<Native, Error> {
        Ok(wrap(unwrap_const(&value, &constants)?, &constants))
    });
}

fn add_operator(
    env: &mut Environment<'static>,
    budget: &Arc<Budget>,
    name: &str,
    op: impl Fn(&[Value], &Budget) -> Res<Value> + Send + Sync + 'static,
) {
    let budget = budget.clone();
    env.add_filter(name.to_string(), move |args: Rest<Native>| -> Result<Native, Error> {
        budget.elements(args.len())?;
        let args = args.iter().map(|arg| unwrap(arg, &budget)).collect::<Res<Vec<_>>>()?;
        Ok(wrap(op(&args, &budget)?, &budget))
    });
}

/// Adds the functions that templates may call.
fn add_functions(env: &mut Environment<'static>, budget: &Arc<Budget>, now: DateTime) {
    add_function(env, budget, "range", range);
    add_function(env, budget, "dict", dict);
    add_function(env, budget, "raise_exception", |args, budget| {
        let message = to_str(&args.one("raise_exception", "message")?, budget)?;
        let message = message.as_str().unwrap_or("").to_string();
        Err(TemplateError::Raised { message, line: None })
    });
    add_function(env, budget, "strftime_now", move |args, budget| {
        let format = args.one("strftime_now", "format")?;
        budget.str(&now.format(str_arg("strftime_now", &format)?))
    });
    let native_namespace = Native::from_function(minijinja::functions::namespace);
    let checked = budget.clone();
    env.add_function(
        "namespace",
        move |state: &mut State, args: Rest<Native>, kwargs: Kwargs| -> Result<Native, Error> {
            storable(&unwrap_call(&args, &kwargs, &checked)?, &checked)?;
            let mut args = args.0;
            if kwargs.args().next().is_some() {
                args.push(Native::from(kwargs));
            }
            native_namespace.call(state, &args)
        },
    );
    let checked = budget.clone();
    env.add_function("cycler", move |args: Rest<Native>| -> Result<Native, Error> {
        storable(&unwrap_args(&args, &checked)?, &checked)?;
        minijinja_contrib::globals::cycler(args.0)
    });
    let checked = budget.clone();
    env.add_function("joiner", move |separator: Option<Native>| -> Result<Native, Error> {
        storable(&unwrap_args(separator.as_slice(), &checked)?, &checked)?;
        Ok(minijinja_contrib::globals::joiner(separator))
    });
}

fn add_function(
    env: &mut Environment<'static>,
    budget: &Arc<Budget>,
    name: &'static str,
    function: impl Fn(Args, &Budget) -> Res<Value> + Send + Sync + 'static,
) {
    let budget = budget.clone();
    env.add_function(name, move |args: Rest<Native>, kwargs: Kwargs| -> Result<Native, Error> {
        Ok(wrap(function(unwrap_call(&args, &kwargs, &budget)?, &budget)?, &budget))
    });
}

/// Refuses arguments that may not be stored in what the call makes.
fn storable(args: &Args, budget: &Budget) -> Result<(), Error> {
    let values = args.positional.iter().chain(args.keyword.iter().map(|(_, value)| value));
    budget.elements(args.positional.len() + args.keyword.len())?;
    for value in values {
        value.check_storable()?;
    }
    Ok(())
}

fn range(args: Args, _: &Budget) -> Res<Value> {
    let given = args.positional.len();
    let [start, stop, step] = args.bind("range", ["start", "stop", "step"], 1)?;
    let (start, stop) = if given < 2 { (None, start) } else { (start, stop) };
    let range = Range {
        start: int_arg("range", start.as_ref(), 0)?,
        stop: int_arg("range", stop.as_ref(), 0)?,
        step: int_arg("range", step.as_ref(), 1)?,
    };
    if range.step == 0 {
        return Err(TemplateError::runtime("range() arg 3 must not be zero"));
    }
    if range.len() > MAX_RANGE {
        return Err(TemplateError::limit("elements of a range", MAX_RANGE as u64));
    }
    Ok(Value::Range(range))
}

fn dict(args: Args, budget: &Budget) -> Res<Value> {
    let mut entries = match args.positional.as_slice() {
        [] => Vec::new(),
        [Value::Dict(dict)] => {
            budget.elements(2 * dict.entries.len())?;
            dict.entries.clone()
        }
        [pairs] => {
            let mut entries = Vec::new();
            for pair in pairs.items(budget)? {
                match pair.items(budget)?.as_slice() {
                    [key, value] => entries.push((key.clone(), value.clone())),
                    _ => return Err(TemplateError::runtime("dict() needs pairs")),
                }
            }
            entries
        }
        _ => {
            return Err(TemplateError::runtime("dict() takes one positional argument at most"));
        }
    };
    entries.extend(args.keyword.into_iter().map(|(name, value)| (Value::Str(name), value)));
    Ok(Value::Dict(Arc::new(Dict::new(entries, budget)?)))
}
