//! Reads the arguments of a call written as Python: `(city='Paris', n=[1, True])`.

use serde_json::{Map, Value, json};

use super::json::Bad;

/// Deepest nesting of lists and dictionaries.
const MAX_DEPTH: usize = 64;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// The text may go on.
enum Stop {
    More,
    Bad,
}

type Read<T> = Result<T, Stop>;

/// The arguments in parentheses at the begin of `text`, and how many bytes they take; `None` if they do
/// not end yet.
pub(super) fn arguments(text: &str) -> Result<Option<(Value, usize)>, Bad> {
    let mut reader = Reader { text, at: 0 };
    match reader.arguments() {
        Ok(arguments) => Ok(Some((arguments, reader.at))),
        Err(Stop::More) => Ok(None),
        Err(Stop::Bad) => Err(Bad),
    }
}

/// A list or dictionary as Python prints it, if `text` is one and nothing else.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { text, at: 0 };
    let value = text.starts_with(['[', '{']).then(|| reader.value(0).ok()).flatten()?;
    text[reader.at..].trim().is_empty().then_some(value)
}

impl Reader<'_> {
    fn peek(&mut self) -> Read<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next().ok_or(Stop::More)
    }

    fn eat(&mut self, c: char) -> Read<bool> {
        let found = self.peek()? == c;
        if found {
            self.at += c.len_utf8();
        }
        Ok(found)
    }

    fn expect(&mut self, c: char) -> Read<()> {
        if self.eat(c)? { Ok(()) } else { Err(Stop::Bad) }
    }

    fn arguments(&mut self) -> Read<Value> {
        self.expect('(')?;
        let mut fields = Map::new();
        while !self.eat(')')? {
            if !fields.is_empty() {
                self.expect(',')?;
                if self.eat(')')? {
                    break;
                }
            }
            self.peek()?;
            let name = self.word()?;
            self.expect('=')?;
            let value = self.value(0)?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }

    /// A name, a number or a word, which ends before another character.
    fn word(&mut self) -> Read<String> {
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
        let n = rest.find(|c| !is_part(c)).ok_or(Stop::More)?;
        if n == 0 {
            return Err(Stop::Bad);
        }
        self.at += n;
        Ok(rest[..n].to_owned())
    }

    fn value(&mut self, depth: usize) -> Read<Value> {
        if depth > MAX_DEPTH {
            return Err(Stop::Bad);
        }
        match self.peek()? {
            quote @ ('\'' | '"') => {
                self.at += 1;
                Ok(Value::String(self.quoted(quote)?))
            }
            '[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.eat(']')? {
                    if !items.is_empty() {
                        self.expect(',')?;
                        if self.eat(']')? {
                            break;
                        }
                    }
                    items.push(self.value(depth + 1)?);
                }
                Ok(Value::Array(items))
            }
            '{' => self.dictionary(depth),
            _ => match self.word()?.as_str() {
                "True" | "true" => Ok(json!(true)),
                "False" | "false" => Ok(json!(false)),
                "None" | "null" => Ok(Value::Null),
                word => serde_json::from_str(word).ok().filter(Value::is_number).ok_or(Stop::Bad),
            },
        }
    }

    fn dictionary(&mut self, depth: usize) -> Read<Value> {
        self.at += 1;
        let mut fields = Map::new();
        while !self.eat('}')? {
            if !fields.is_empty() {
                self.expect(',')?;
                if self.eat('}')? {
                    break;
                }
            }
            let Value::String(key) = self.value(depth + 1)? else { return Err(Stop::Bad) };
            self.expect(':')?;
            let value = self.value(depth + 1)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }

    fn quoted(&mut self, quote: char) -> Read<String> {
        let mut out = String::new();
        loop {
            let c = self.text[self.at..].chars().next().ok_or(Stop::More)?;
            self.at += c.len_utf8();
            if c == quote {
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = self.text[self.at..].chars().next().ok_or(Stop::More)?;
            self.at += escaped.len_utf8();
            match escaped {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                '\\' | '\'' | '"' => out.push(escaped),
                other => out.extend(['\\', other]),
            }
        }
    }
}
