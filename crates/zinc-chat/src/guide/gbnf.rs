//! llama.cpp's grammars, rewritten in llguidance's Lark.
//!
//! `name ::= alternatives` becomes a rule; character classes and `.` become regular expressions; groups,
//! `*`, `+`, `?` and `{m,n}` are the same in both. Names are lower-cased with underscores, and `root` is
//! `start`.

/// Rewrites a grammar.
///
/// # Errors
/// What is wrong, and on which line.
pub(super) fn to_lark(source: &str) -> Result<String, String> {
    let mut reader = Reader { rest: source, line: 1, out: String::new(), depth: 0 };
    let mut has_root = false;
    loop {
        reader.blanks(true);
        if reader.rest.is_empty() {
            break;
        }
        has_root |= reader.rule()? == "root";
    }
    if has_root { Ok(reader.out) } else { Err("there is no rule \"root\"".into()) }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    out: String,
    depth: usize,
}

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 50;

impl<'a> Reader<'a> {
    fn error<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("line {}: {what}", self.line))
    }

    fn skip(&mut self, n: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(n);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Skips blanks and comments; line breaks only if they mean nothing here.
    fn blanks(&mut self, lines: bool) {
        loop {
            let is_blank = |c: char| c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n');
            let n = self.rest.find(|c| !is_blank(c)).unwrap_or(self.rest.len());
            self.skip(n);
            if !self.rest.starts_with('#') {
                return;
            }
            let n = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(n);
        }
    }

    fn name(&mut self) -> Option<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let n = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        (n > 0).then(|| self.skip(n).to_owned())
    }

    fn rule(&mut self) -> Result<String, String> {
        let Some(name) = self.name() else { return self.error("expected the name of a rule") };
        self.blanks(true);
        if !self.rest.starts_with("::=") {
            return self.error("expected ::= behind a rule's name");
        }
        self.skip(3);
        self.out.push_str(&rule_name(&name));
        self.out.push_str(": ");
        self.blanks(true);
        self.alternatives()?;
        if !(self.rest.is_empty() || self.rest.starts_with('\n')) {
            return self.error("expected the end of the rule");
        }
        self.out.push('\n');
        Ok(name)
    }

    /// Up to the end of the rule or group.
    fn alternatives(&mut self) -> Result<(), String> {
        let mut is_empty = true;
        loop {
            self.blanks(self.depth > 0);
            let Some(c) = self.rest.chars().next() else { break };
            match c {
                '|' => {
                    self.skip(1);
                    self.out.push_str(if is_empty { "\"\" | " } else { "| " });
                    is_empty = true;
                    self.blanks(true);
                    continue;
                }
                '\n' => {
                    // An alternative may begin on the next line.
                    let ahead = self.rest.trim_start();
                    if !ahead.starts_with('|') {
                        break;
                    }
                    self.blanks(true);
                    continue;
                }
                ')' => break,
                _ => self.item(c)?,
            }
            is_empty = false;
        }
        if is_empty {
            self.out.push_str("\"\" ");
        }
        Ok(())
    }

    fn item(&mut self, c: char) -> Result<(), String> {
        match c {
            '"' => self.quoted('"')?,
            '[' => self.class()?,
            '.' => {
                self.skip(1);
                self.out.push_str("/(?s:.)/");
            }
            '(' => {
                if self.depth >= MAX_DEPTH {
                    return self.error("groups are nested too deeply");
                }
                self.skip(1);
                self.depth += 1;
                self.out.push('(');
                self.alternatives()?;
                self.depth -= 1;
                if !self.rest.starts_with(')') {
                    return self.error("a group is not closed");
                }
                self.skip(1);
                self.out.push(')');
            }
            _ => match self.name() {
                Some(name) => self.out.push_str(&rule_name(&name)),
                None => return self.error(&format!("unexpected {c:?}")),
            },
        }
        self.repetition()?;
        self.out.push(' ');
        Ok(())
    }

    fn repetition(&mut self) -> Result<(), String> {
        if self.rest.starts_with(['*', '+', '?']) {
            let op = self.skip(1);
            self.out.push_str(op);
        } else if self.rest.starts_with('{') {
            let Some(n) = self.rest.find('}') else { return self.error("{ is not closed") };
            let range = self.skip(n + 1);
            let is_range = |c: char| c.is_ascii_digit() || ", {}".contains(c);
            if !range.chars().all(is_range) {
                return self.error("expected {m}, {m,} or {m,n}");
            }
            self.out.push_str(&range.replace(' ', ""));
        }
        Ok(())
    }

    /// A text in quotation marks, as JSON writes it.
    fn quoted(&mut self, quote: char) -> Result<(), String> {
        self.skip(1);
        let mut text = String::new();
        loop {
            match self.character()? {
                (c, false) if c == quote => break,
                (c, _) => text.push(c),
            }
        }
        self.out.push_str(&serde_json::Value::String(text).to_string());
        Ok(())
    }

    /// A character class as a regular expression.
    fn class(&mut self) -> Result<(), String> {
        self.skip(1);
        self.out.push_str("/[");
        if self.rest.starts_with('^') {
            self.skip(1);
            self.out.push('^');
        }
        loop {
            match self.character()? {
                (']', false) => break,
                ('-', false) => self.out.push('-'),
                (c, _) => self.out.push_str(&format!("\\u{{{:X}}}", c as u32)),
            }
        }
        self.out.push_str("]/");
        Ok(())
    }

    /// The next character of a text or class, and whether it was escaped.
    fn character(&mut self) -> Result<(char, bool), String> {
        let Some(c) = self.rest.chars().next().filter(|c| *c != '\n') else {
            return self.error("a text or class is not closed");
        };
        self.skip(c.len_utf8());
        if c != '\\' {
            return Ok((c, false));
        }
        let Some(escaped) = self.rest.chars().next() else {
            return self.error("an escape is not complete");
        };
        self.skip(escaped.len_utf8());
        let n_digits = match escaped {
            'n' => return Ok(('\n', true)),
            'r' => return Ok(('\r', true)),
            't' => return Ok(('\t', true)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c => return Ok((c, true)),
        };
        let digits = self.rest.get(..n_digits).unwrap_or_default();
        let found = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        match found {
            Some(c) => {
                self.skip(n_digits);
                Ok((c, true))
            }
            None => self.error("an escape is no character"),
        }
    }
}

/// A rule's name in Lark, where capitals mean something else.
fn rule_name(name: &str) -> String {
    if name == "root" {
        return "start".to_owned();
    }
    let mut out = "r_".to_owned();
    for c in name.chars() {
        match c {
            '-' => out.push_str("_d_"),
            'A'..='Z' => {
                out.push_str("_u_");
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_are_rewritten() {
        let source = "# list\nroot ::= \"- \" Item-one+ # x\n  | \"a\\\"b\\n\"\nItem-one ::= [a-z^\\]] [^\\n]{1,3} (\"x\" | \n \"y\")?\n";
        let lark = to_lark(source).unwrap();
        let want = "start: \"- \" r__u_item_d_one+ | \"a\\\"b\\n\" \nr__u_item_d_one: /[\\u{61}-\\u{7A}\\u{5E}\\u{5D}]/ /[^\\u{A}]/{1,3} (\"x\" | \"y\" )? \n";
        assert_eq!(lark, want);
        for (wrong, line) in [
            ("root = x", "line 1"),
            ("root ::= \"x", "line 1"),
            ("a ::= b", "root"),
            ("root ::= (\"a\"", "line 1"),
        ] {
            assert!(to_lark(wrong).unwrap_err().contains(line), "{wrong}");
        }
    }
}
