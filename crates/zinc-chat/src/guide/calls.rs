//! Grammars of calls, in the syntax of a model.

use serde_json::{Map, Value, json};

use super::gemma::{GemmaRules, anchored};
use super::grammar::{Grammar, Piece, any_of, quoted};
use super::schema;
use crate::answer::{Kind, kind_of};
use crate::syntax::{CallSyntax, Form, Mark, MarkPiece, Params, Syntax};
use crate::{ChatError, Tool};

/// A text that begins a call, and what must follow it.
pub(super) struct Trigger {
    pub text: String,
    /// Only as the first text of the answer.
    pub at_start: bool,
    /// The rest of the call, or of the section of calls, as an expression.
    pub rest: String,
}

/// Writes the grammar of calls.
pub(super) struct CallRules<'a, 'g> {
    grammar: &'a mut Grammar<'g>,
    tools: &'a [Tool],
    parallel: bool,
}

impl<'a, 'g> CallRules<'a, 'g> {
    pub fn new(grammar: &'a mut Grammar<'g>, tools: &'a [Tool], parallel: bool) -> Self {
        Self { grammar, tools, parallel }
    }

    /// An answer that is nothing but calls; the prompt may have opened the first.
    ///
    /// # Errors
    /// What a tool's schema asks for and the syntax cannot hold.
    pub fn whole(&mut self, syntax: &Syntax, is_opened: bool) -> Result<String, ChatError> {
        match syntax {
            Syntax::Calls(syntax) if is_opened => self.rest(syntax),
            Syntax::Harmony => {
                let call = self.harmony_call()?;
                Ok(format!(
                    "{}? {call}",
                    self.grammar.rule(&self.grammar.literal("<|start|>assistant"))
                ))
            }
            Syntax::Calls(syntax) => {
                let open = match syntax.section_open.is_empty() {
                    true => &syntax.open,
                    false => &syntax.section_open,
                };
                let open = without_lead(&mark_text(open));
                let rest = self.rest(syntax)?;
                Ok(format!("{} {rest}", self.grammar.literal(&open)))
            }
        }
    }

    /// What begins calls inside any text; the prompt may have opened one at its begin.
    ///
    /// # Errors
    /// As [`CallRules::whole`].
    pub fn triggers(
        &mut self,
        syntax: &Syntax,
        is_opened: bool,
    ) -> Result<Vec<Trigger>, ChatError> {
        let syntax = match syntax {
            Syntax::Harmony => {
                let rest = self.harmony_rest()?;
                return Ok(vec![Trigger { text: " to=functions.".into(), at_start: false, rest }]);
            }
            Syntax::Calls(syntax) => syntax,
        };
        let rest = self.rest(syntax)?;
        let mut triggers = Vec::new();
        if syntax.is_bare() {
            if let Form::Object { name, .. } = &syntax.form {
                let text = format!("{{\"{name}\"");
                let rest = self.object_rest(syntax)?;
                triggers.push(Trigger { text, at_start: true, rest });
            }
        } else {
            let open = match syntax.section_open.is_empty() {
                true => &syntax.open,
                false => &syntax.section_open,
            };
            let open = without_lead(&mark_text(open));
            // Up to the first control token, else the first line.
            let n = match self.grammar.pieces(&open).first() {
                Some(Piece::Token(id)) => self.grammar.token_text(*id).len(),
                _ => open.find('\n').unwrap_or(open.len()),
            };
            let behind = self.grammar.literal(open[n..].trim_start());
            let blanks = Grammar::blanks();
            let text = open[..n].to_owned();
            let mut rest = format!("{blanks} {behind} {rest}");
            if self.parallel && !syntax.text_open.is_empty() {
                // A text may follow behind the same mark.
                rest = format!("({rest} | {})", self.grammar.literal(&syntax.text_open));
            }
            triggers.push(Trigger { text, at_start: false, rest });
        }
        for other in &syntax.other_opens {
            let text = mark_text(other);
            let call = self.call(syntax)?;
            triggers.push(Trigger { text, at_start: false, rest: call });
        }
        if let (true, Form::Named { mid }) = (is_opened, &syntax.form) {
            // Behind the opening mark, the name tells a call from what else may stand there.
            for tool in self.tools {
                let text = format!("{}{}", tool.name, mark_text(mid));
                let rest = format!("{} {}", self.json(tool), self.grammar.mark(&syntax.close));
                triggers.push(Trigger { text, at_start: true, rest });
            }
        }
        Ok(triggers)
    }

    /// What follows the opening mark of the first call, or of the section.
    fn rest(&mut self, syntax: &CallSyntax) -> Result<String, ChatError> {
        let call = self.call(syntax)?;
        let call = self.grammar.rule(&call);
        let close = self.grammar.mark(&syntax.close);
        let parallel = self.parallel && syntax.parallel;
        let section_close = self.grammar.mark(&syntax.section_close);
        if syntax.list {
            let more = format!("(\",\" /[ \\n]{{0,8}}/ {call})*");
            let more = if parallel { more } else { String::new() };
            return Ok(format!(
                "\"[\" /[ \\n]{{0,8}}/ {call} {more} /[ \\n]{{0,4}}/ \"]\" {section_close}"
            ));
        }
        let open = self.grammar.literal(&without_lead(&mark_text(&syntax.open)));
        if syntax.section_open.is_empty() {
            return Ok(format!("{call} {close}"));
        }
        let one = self.grammar.rule(&format!("/[ \\n]{{0,2}}/ {open} {call} {close}"));
        let more = if parallel { format!("{one}*") } else { String::new() };
        Ok(format!("{one} {more} {section_close}"))
    }

    /// Any of the tools' calls, without the marks around it.
    fn call(&mut self, syntax: &CallSyntax) -> Result<String, ChatError> {
        let mut options = Vec::new();
        for tool in self.tools {
            options.push(self.call_of(syntax, tool)?);
        }
        Ok(any_of(&options))
    }

    fn call_of(&mut self, syntax: &CallSyntax, tool: &Tool) -> Result<String, ChatError> {
        let name = quoted(&tool.name);
        Ok(match &syntax.form {
            Form::Object { name: name_key, arguments } => {
                let head = format!("{{\"{name_key}\": {name}, \"{arguments}\": ");
                let arguments = self.json(tool);
                format!("{} {arguments} \"}}\"", quoted(&head))
            }
            Form::Keyed => {
                let arguments = self.json(tool);
                format!("{} {arguments} \"}}\"", quoted(&format!("{{{name}: ")))
            }
            Form::Named { mid } => {
                let arguments = self.json(tool);
                format!("{name} {} {arguments}", self.grammar.mark(mid))
            }
            Form::Params(params) => {
                let arguments = self.params(params, tool)?;
                format!("{name} {} {arguments}", self.grammar.mark(&params.mid))
            }
            Form::Gemma => {
                let schema = schema::of_arguments(&tool.parameters);
                let at = place(tool);
                let target = schema::resolve(&schema, &schema);
                let empty = Map::new();
                let fields = target.as_object().unwrap_or(&empty);
                let arguments = GemmaRules::new(self.grammar, &schema, &at).object(fields)?;
                format!("{name} {arguments}")
            }
            Form::Python => {
                let what =
                    "calls written as Python cannot be constrained; use tool_choice \"auto\"";
                return Err(ChatError::constraint("tool_choice", what));
            }
        })
    }

    fn json(&mut self, tool: &Tool) -> String {
        self.grammar.json(&schema::of_arguments(&tool.parameters))
    }

    /// Behind `{"name"`, which may also begin another object.
    fn object_rest(&mut self, syntax: &CallSyntax) -> Result<String, ChatError> {
        let Form::Object { arguments, .. } = &syntax.form else {
            return self.call(syntax);
        };
        let mut options = Vec::new();
        for tool in self.tools {
            let head = format!("{}, \"{arguments}\":", quoted(&tool.name));
            let json = self.json(tool);
            options.push(format!("{} /[ ]?/ {json} \"}}\"", quoted(&head)));
        }
        Ok(format!("\":\" /[ ]?/ {}", any_of(&options)))
    }

    /// Arguments between tags: those of the schema in its order.
    fn params(&mut self, params: &Params, tool: &Tool) -> Result<String, ChatError> {
        let root = &tool.parameters;
        let schema = schema::resolve(root, root);
        let properties = schema.get("properties").and_then(Value::as_object);
        let Some(properties) = properties.filter(|p| !p.is_empty()) else {
            if schema.get("additionalProperties") == Some(&json!(false)) {
                return Ok("\"\"".to_owned());
            }
            let open = self.grammar.mark(&params.open);
            let value = self.value_text(params);
            let end = self.grammar.mark(&params.key_end);
            return Ok(format!("({open} /[a-zA-Z_][a-zA-Z0-9_]{{0,60}}/ {end} {value})*"));
        };
        let required: Vec<&str> = match schema.get("required").and_then(Value::as_array) {
            Some(names) => names.iter().filter_map(Value::as_str).collect(),
            None => Vec::new(),
        };
        let mut parts = Vec::new();
        for (key, property) in properties {
            let (open, key_text) = (self.grammar.mark(&params.open), self.grammar.literal(key));
            let value = self.param_value(params, tool, key, property)?;
            let rule = self.grammar.rule(&format!("{open} {key_text} {value}"));
            let is_required = required.contains(&key.as_str());
            parts.push(if is_required { rule } else { format!("{rule}?") });
        }
        Ok(parts.join(" "))
    }

    /// From the mark behind the key to the mark behind the value.
    fn param_value(
        &mut self,
        params: &Params,
        tool: &Tool,
        key: &str,
        property: &Value,
    ) -> Result<String, ChatError> {
        let root = &tool.parameters;
        let key_end = self.grammar.mark(&params.key_end);
        let value_end = self.grammar.mark(&params.value_end);
        let kind = kind_of(schema::resolve(root, root), key);
        if kind == Kind::Json {
            let json = self.grammar.json(&schema::part(root, property));
            let mark = params.key_end_json.as_ref().unwrap_or(&params.key_end);
            return Ok(format!("{} {json} {value_end}", self.grammar.mark(mark)));
        }
        let target = schema::resolve(root, property);
        let fixed = match (target.get("enum"), target.get("const")) {
            (Some(Value::Array(values)), _) => values.clone(),
            (_, Some(value)) => vec![value.clone()],
            _ => Vec::new(),
        };
        if !fixed.is_empty() {
            let text = |value: &Value| match value {
                Value::String(text) => self.grammar.literal(text),
                other => self.grammar.literal(&other.to_string()),
            };
            let options: Vec<_> = fixed.iter().map(text).collect();
            return Ok(format!("{key_end} {} {value_end}", any_of(&options)));
        }
        let place = format!("{}.properties.{key}", place(tool));
        for keyword in ["format", "minLength", "maxLength"] {
            if target.get(keyword).is_some() {
                let what = format!(
                    "the keyword {keyword:?} is not supported in this model's call syntax; leave it out, or make the tool not strict"
                );
                return Err(ChatError::constraint(format!("{place}.{keyword}"), what));
            }
        }
        if let Some(pattern) = target.get("pattern").and_then(Value::as_str) {
            let Some(regex) = anchored(pattern) else {
                let what = "in this model's call syntax a pattern must be of the form ^...$ without alternatives";
                return Err(ChatError::constraint(format!("{place}.pattern"), what));
            };
            return Ok(format!("{key_end} {regex} {value_end}"));
        }
        let value = self.value_text(params);
        Ok(format!("{key_end} {value}"))
    }

    /// Any text up to the mark behind a value.
    fn value_text(&mut self, params: &Params) -> String {
        // The line break before the mark is not needed, as the parser does not need it.
        self.grammar.text_until(&without_lead(&mark_text(&params.value_end)))
    }

    fn harmony_call(&mut self) -> Result<String, ChatError> {
        let rest = self.harmony_rest()?;
        let direct = self.grammar.literal(" to=functions.");
        let later = self.grammar.literal("<|channel|>commentary to=functions.");
        Ok(format!("({direct} | {later}) {rest}"))
    }

    /// Behind the recipient's `functions.`.
    fn harmony_rest(&mut self) -> Result<String, ChatError> {
        let message = self.grammar.literal("<|message|>");
        let channel = self.grammar.literal("<|channel|>commentary json");
        let json = self.grammar.literal(" <|constrain|>json");
        let head = self.grammar.rule(&format!("({channel} | {json} | \" json\") {message}"));
        let mut options = Vec::new();
        for tool in self.tools {
            let arguments = self.json(tool);
            options.push(format!("{} {head} {arguments}", quoted(&tool.name)));
        }
        Ok(any_of(&options))
    }
}

/// Where a tool's schema stands in the request.
pub(super) fn place(tool: &Tool) -> String {
    format!("tools.{}.parameters", tool.name)
}

/// A mark's text as the template writes it, with numbers and ids of the first call.
fn mark_text(mark: &Mark) -> String {
    let piece = |piece: &MarkPiece| match piece {
        MarkPiece::Text(text) | MarkPiece::Blank(text) => text.clone(),
        MarkPiece::Index => "0".to_owned(),
        MarkPiece::Id => "call00000".to_owned(),
    };
    mark.pieces().iter().map(piece).collect()
}

/// Without the blanks before it, which are the answer's.
fn without_lead(text: &str) -> String {
    text.trim_start().to_owned()
}
