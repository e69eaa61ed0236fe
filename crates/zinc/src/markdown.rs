//! Markdown on a terminal, rendered while it streams in.
//!
//! A line is shown as soon as it is certain what it is: headings, lists, quotes and code from their
//! first characters, a table when it ends. Inside a line, bold, italic, code and links are styled as they
//! come. What is no Markdown is shown as it is; nothing of the text is ever left out but the marks.

mod table;
mod wrap;

pub use self::wrap::Wrap;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const ITALIC: &str = "\x1b[3m";
const UNDERLINE: &str = "\x1b[4m";
const STRIKE: &str = "\x1b[9m";
const CYAN: &str = "\x1b[36m";
/// A link that is longer than this is shown as text.
const LINK_BYTES_MAX: usize = 1024;
/// What is longer and still not certain is taken for text.
const HELD_BYTES_MAX: usize = 4096;

/// A narrower terminal breaks lines itself.
pub const WIDTH_MIN: usize = 20;

/// What the line is that comes in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Its first characters do not tell yet.
    Undecided,
    /// Text with styles.
    Text,
    /// A heading.
    Heading,
    /// A quote.
    Quote,
    /// A row of a table.
    Row,
    /// What stands behind the opening fence of a block of code.
    Info,
    /// A line of code.
    Code,
}

/// The state of one answer.
pub struct Markdown {
    line: Line,
    /// Came in and is not certain yet.
    held: String,
    /// The fence of the block of code around, such as three backticks.
    fence: Option<(char, usize)>,
    rows: Vec<String>,
    styles: Styles,
    /// The character before, for marks inside words.
    before: char,
    /// Breaks prose between words.
    wrap: Option<Wrap>,
    out: String,
}

/// Styles of text inside a line.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Styles {
    bold: bool,
    italic: bool,
    strike: bool,
    /// Number of backticks that began code.
    code: usize,
}

impl Markdown {
    /// The beginning of an answer, on a terminal with so many columns; `None` breaks no lines.
    pub fn new(width: Option<usize>) -> Markdown {
        Markdown {
            line: Line::Undecided,
            held: String::new(),
            fence: None,
            rows: Vec::new(),
            styles: Styles::default(),
            before: ' ',
            wrap: width.filter(|width| *width >= WIDTH_MIN).map(Wrap::new),
            out: String::new(),
        }
    }

    /// Takes more text, and returns what is certain, with styles.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        self.advance(false);
        std::mem::take(&mut self.out)
    }

    /// The rest.
    pub fn finish(&mut self) -> String {
        self.advance(true);
        let rest = std::mem::take(&mut self.held);
        match self.line {
            Line::Row => self.rows.push(rest),
            Line::Info => self.out += &format!("{DIM}{rest}{RESET}"),
            _ => self.out += &rest,
        }
        self.end_table();
        self.end_line();
        self.line = Line::Undecided;
        self.fence = None;
        std::mem::take(&mut self.out)
    }

    fn advance(&mut self, at_end: bool) {
        loop {
            let end = self.held.find('\n');
            let line = end.unwrap_or(self.held.len());
            let whole = end.is_some() || at_end || line > HELD_BYTES_MAX;
            if self.line == Line::Undecided && !self.begin(line, whole) {
                return;
            }
            // A fence's line is gone by now.
            let line = self.held.find('\n').unwrap_or(self.held.len());
            let has_end = line < self.held.len();
            if matches!(self.line, Line::Row | Line::Info) && !has_end && line > HELD_BYTES_MAX {
                self.end_table();
                self.fence = None;
                self.line = Line::Text;
            }
            match self.line {
                Line::Text | Line::Heading | Line::Quote => {
                    self.inline(line, has_end || at_end || line > HELD_BYTES_MAX);
                }
                Line::Code => {
                    let text: String = self.held.drain(..line).collect();
                    self.out += &text;
                }
                Line::Undecided | Line::Row | Line::Info => {}
            }
            if !has_end {
                return;
            }
            self.newline();
        }
    }

    /// Takes the end of the line at the front of what is held.
    fn newline(&mut self) {
        let line = self.held.find('\n').unwrap_or(self.held.len());
        let rest: String = self.held.drain(..(line + 1).min(self.held.len())).collect();
        match self.line {
            Line::Row => self.rows.push(rest.trim_end().to_owned()),
            Line::Info => {
                let info = rest.trim();
                self.out +=
                    &format!("{DIM}{}{RESET}\n", if info.is_empty() { "code" } else { info });
            }
            _ => {
                self.out += &rest[..rest.len() - 1];
                self.end_line();
                self.out.push('\n');
            }
        }
        self.line = Line::Undecided;
        self.before = ' ';
    }

    fn end_line(&mut self) {
        if let Some(wrap) = &mut self.wrap {
            wrap.end(&mut self.out);
        }
        if self.styles != Styles::default()
            || matches!(self.line, Line::Heading | Line::Quote | Line::Code)
        {
            self.out += RESET;
        }
        self.styles = Styles::default();
    }

    /// Decides what the line is whose first `n` bytes are held; `whole` if they are all of it. Returns
    /// false if more are needed.
    fn begin(&mut self, n: usize, whole: bool) -> bool {
        let text = self.held[..n].to_owned();
        let trimmed = text.trim_start_matches(' ');
        let indent = n - trimmed.len();
        if let Some((mark, count)) = self.fence {
            return self.begin_code(trimmed, mark, count, whole);
        }
        let Some(first) = trimmed.chars().next() else {
            if whole {
                self.end_table();
                self.line = Line::Text;
            }
            return whole;
        };
        let run = trimmed.chars().take_while(|c| *c == first).count();
        let rest = &trimmed[run * first.len_utf8()..];
        if first == '|' {
            self.line = Line::Row;
            return true;
        }
        // A run of marks at the end of what is held may go on.
        if rest.is_empty() && !whole && "#-*+>`~_".contains(first) {
            return false;
        }
        self.end_table();
        self.line = Line::Text;
        match first {
            '`' | '~' if run >= 3 && !rest.contains('`') => {
                self.fence = Some((first, run));
                self.held.drain(..n - rest.len());
                self.line = Line::Info;
            }
            '#' if run <= 6 && rest.starts_with(' ') => {
                self.held.drain(..n - rest.len() + 1);
                self.out += &format!("{BOLD}{CYAN}");
                self.line = Line::Heading;
            }
            '-' | '*' | '_' if run >= 3 && rest.trim().is_empty() && whole => {
                self.held.drain(..n);
                self.out += &format!("{DIM}{}{RESET}", "─".repeat(40));
            }
            '-' | '*' | '+' if run == 1 && rest.starts_with(' ') => {
                self.held.drain(..n - rest.len() + 1);
                self.out += &format!("{}{CYAN}•{RESET} ", " ".repeat(indent));
                self.hang(indent + 2, "");
            }
            '>' if run == 1 => {
                let blank = usize::from(rest.starts_with(' '));
                self.held.drain(..n - rest.len() + blank);
                self.out += &format!("{DIM}│ ");
                self.hang(2, "│ ");
                self.line = Line::Quote;
            }
            _ => {}
        }
        true
    }

    /// Further lines of this one stand under its text, `n` columns from the left.
    fn hang(&mut self, n: usize, mark: &'static str) {
        if let Some(wrap) = &mut self.wrap {
            wrap.begin(n, mark);
        }
    }

    /// As [`Markdown::begin`], inside a block of code.
    fn begin_code(&mut self, trimmed: &str, mark: char, count: usize, whole: bool) -> bool {
        let run = trimmed.chars().take_while(|c| *c == mark).count();
        let is_fence = run >= count && trimmed[run..].trim().is_empty();
        let may_be = trimmed.len() == run || is_fence;
        if may_be && !whole {
            return false;
        }
        if is_fence {
            self.fence = None;
            let line = self.held.find('\n').unwrap_or(self.held.len());
            self.held.drain(..line);
            self.line = Line::Text;
            // The fence's line is not shown; its end would be an empty one.
            if self.held.starts_with('\n') {
                self.held.remove(0);
                self.line = Line::Undecided;
            }
            return self.line != Line::Undecided || self.begin_next();
        }
        self.out += CYAN;
        self.line = Line::Code;
        true
    }

    /// Begins the line behind a fence, if it is here.
    fn begin_next(&mut self) -> bool {
        match self.held.find('\n') {
            Some(end) => self.begin(end, true),
            None if self.held.is_empty() => false,
            None => self.begin(self.held.len(), false),
        }
    }

    fn end_table(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            self.out += &table::render(&rows);
        }
    }

    /// Shows the first `n` bytes of what is held, up to a mark that is not certain; `whole` if they are
    /// all of the line.
    fn inline(&mut self, n: usize, whole: bool) {
        let text: String = self.held[..n].to_owned();
        let (mut at, shown) = (0, self.out.len());
        while let Some(c) = text[at..].chars().next() {
            let rest = &text[at..];
            let taken = match c {
                _ if self.styles.code > 0 && c != '`' => Some(self.plain(rest)),
                '`' => self.backticks(rest, whole),
                '\\' => self.escape(rest, whole),
                '*' | '_' | '~' => self.emphasis(rest, c, whole),
                '[' => self.link(rest, whole),
                _ => Some(self.plain(rest)),
            };
            let Some(taken) = taken else { break };
            self.before = text[at..at + taken].chars().next_back().unwrap_or(' ');
            at += taken;
        }
        self.held.drain(..at);
        if let Some(wrap) = &mut self.wrap {
            let new = self.out.split_off(shown);
            wrap.push(&new, &mut self.out);
        }
    }

    /// Shows one character.
    fn plain(&mut self, rest: &str) -> usize {
        let c = rest.chars().next().unwrap_or(' ');
        self.out.push(c);
        c.len_utf8()
    }

    fn escape(&mut self, rest: &str, whole: bool) -> Option<usize> {
        match rest[1..].chars().next() {
            Some(c) if c.is_ascii_punctuation() => {
                self.out.push(c);
                Some(2)
            }
            None if !whole => None,
            _ => Some(self.plain(rest)),
        }
    }

    fn backticks(&mut self, rest: &str, whole: bool) -> Option<usize> {
        let run = rest.len() - rest.trim_start_matches('`').len();
        if run == rest.len() && !whole {
            return None;
        }
        match self.styles.code {
            0 => self.styles.code = run,
            open if open == run => self.styles.code = 0,
            _ => {
                self.out += &rest[..run];
                return Some(run);
            }
        }
        self.apply();
        Some(run)
    }

    fn emphasis(&mut self, rest: &str, mark: char, whole: bool) -> Option<usize> {
        let run = rest.len() - rest.trim_start_matches(mark).len();
        let next = rest[run..].chars().next();
        if next.is_none() && !whole {
            return None;
        }
        let next = next.unwrap_or(' ');
        let inside_word = mark == '_' && self.before.is_alphanumeric() && next.is_alphanumeric();
        let (opens, closes) = (!next.is_whitespace(), !self.before.is_whitespace());
        let toggle = |on: bool| !inside_word && if on { closes } else { opens };
        let Styles { bold, italic, strike, .. } = self.styles;
        let changed = match (mark, run) {
            ('~', 2) if toggle(strike) => Styles { strike: !strike, ..self.styles },
            ('*' | '_', 1) if toggle(italic) => Styles { italic: !italic, ..self.styles },
            ('*' | '_', 2) if toggle(bold) => Styles { bold: !bold, ..self.styles },
            ('*' | '_', 3) if toggle(bold) && toggle(italic) => {
                Styles { bold: !bold, italic: !italic, ..self.styles }
            }
            _ => {
                self.out += &rest[..run];
                return Some(run);
            }
        };
        self.styles = changed;
        self.apply();
        Some(run)
    }

    /// `[text](address)`: the text underlined, the address behind it.
    fn link(&mut self, rest: &str, whole: bool) -> Option<usize> {
        let complete = rest.find("](").and_then(|middle| {
            let end = middle + rest[middle..].find(')')?;
            Some((&rest[1..middle], &rest[middle + 2..end], end + 1))
        });
        // A bracket that closes without an address, or not at all, is none of a link.
        let closed = rest.find(']').filter(|at| at + 1 < rest.len());
        let may_be = closed.is_none_or(|at| rest[at + 1..].starts_with('('));
        match complete {
            Some((text, address, taken)) if may_be && !text.contains('[') => {
                self.out += &format!("{UNDERLINE}{text}");
                self.apply();
                if text != address {
                    self.out += &format!(" {DIM}({address})");
                    self.apply();
                }
                Some(taken)
            }
            None if may_be && !whole && rest.len() < LINK_BYTES_MAX => None,
            _ => Some(self.plain(rest)),
        }
    }

    /// Writes the styles that hold from here on.
    fn apply(&mut self) {
        self.out += RESET;
        match self.line {
            Line::Heading => self.out += &format!("{BOLD}{CYAN}"),
            Line::Quote => self.out += DIM,
            _ => {}
        }
        let Styles { bold, italic, strike, code } = self.styles;
        for (on, style) in [(bold, BOLD), (italic, ITALIC), (strike, STRIKE), (code > 0, CYAN)] {
            if on {
                self.out += style;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders `text` in pieces of `n` characters, with styles as readable marks.
    fn render(text: &str, n: usize) -> String {
        render_at(None, text, n)
    }

    /// The same on a terminal with so many columns.
    fn render_at(width: Option<usize>, text: &str, n: usize) -> String {
        let mut markdown = Markdown::new(width);
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        for chunk in chars.chunks(n) {
            out += &markdown.push(&chunk.iter().collect::<String>());
        }
        out += &markdown.finish();
        let marks = [
            (RESET, "{/}"),
            (BOLD, "{b}"),
            (DIM, "{d}"),
            (ITALIC, "{i}"),
            (UNDERLINE, "{u}"),
            (STRIKE, "{s}"),
            (CYAN, "{c}"),
        ];
        marks.iter().fold(out, |out, (code, mark)| out.replace(code, mark))
    }

    fn check(text: &str, expected: &str) {
        for n in 1..40 {
            assert_eq!(render(text, n), expected, "{text:?} in pieces of {n}");
        }
    }

    #[test]
    fn inline_styles() {
        check("a **b** c", "a {/}{b}b{/} c");
        check("*i* and ***bi***", "{/}{i}i{/} and {/}{b}{i}bi{/}");
        check("`x * y` *", "{/}{c}x * y{/} *");
        check("2 * 3 * 4, snake_case_name, a_", "2 * 3 * 4, snake_case_name, a_");
        check("~~no~~ ~yes~", "{/}{s}no{/} ~yes~");
        check(r"\*no\*", "*no*");
        check("never **closed\nnext", "never {/}{b}closed{/}\nnext");
        check("see [it](http://x) and [1] or [a", "see {u}it{/} {d}(http://x){/} and [1] or [a");
    }

    #[test]
    fn blocks() {
        check("# T *x*\ntext\n", "{b}{c}T {/}{b}{c}{i}x{/}{b}{c}{/}\ntext\n");
        check("- a\n  * b\n1. c\n", "{c}•{/} a\n  {c}•{/} b\n1. c\n");
        check("> q\n---\n#no\n", &format!("{{d}}│ q{{/}}\n{{d}}{}{{/}}\n#no\n", "─".repeat(40)));
        check("a\n\nb", "a\n\nb");
        check("**b** x", "{/}{b}b{/} x");
    }

    #[test]
    fn code_is_shown_as_it_is() {
        check(
            "```rust\nlet a = *b;\n\n    // `c`\n```\nd *e*\n",
            "{d}rust{/}\n{c}let a = *b;{/}\n{c}{/}\n{c}    // `c`{/}\nd {/}{i}e{/}\n",
        );
        check("~~~\n```\n~~~", "{d}code{/}\n{c}```{/}\n");
        check("```\nx", "{d}code{/}\n{c}x{/}");
    }

    #[test]
    fn tables_line_up() {
        let text = "| a | bb |\n|---|---:|\n| ccc | **d** |\n\nx";
        check(text, "{b}a  {/} │ {b}bb{/}\n────┼───\nccc │  d\n\nx");
        check("| no table\nx", "| no table\nx");
    }

    #[test]
    fn lines_break_between_words() {
        let check = |text: &str, expected: &str| {
            for n in 1..40 {
                assert_eq!(render_at(Some(20), text, n), expected, "{text:?} in pieces of {n}");
            }
        };
        check("one two three four five six\nx\n", "one two three four\nfive six\nx\n");
        check("exactly twenty chars\nx", "exactly twenty chars\nx");
        check("a **bold word that goes** on", "a {/}{b}bold word that\ngoes{/} on");
        check("  - item of some length here", "  {c}•{/} item of some\n    length here");
        check("> quoted words that go on", "{d}│ quoted words that\n│ go on{/}");
        check("# a heading of many words", "{b}{c}a heading of many\nwords{/}");
        // What is longer than a line is left to the terminal, and so are code and tables.
        check(&"x".repeat(50), &"x".repeat(50));
        check("see http://example.org/a-long-path ok", "see\nhttp://example.org/a-long-path ok");
        check(
            "```\nlet a = 1; let b = 2; let c = 3;\n```\n",
            "{d}code{/}\n{c}let a = 1; let b = 2; let c = 3;{/}\n",
        );
        check("一二三四五六七八九十一", "一二三四五六七八九十\n一");
    }

    #[test]
    fn a_line_without_end_takes_no_time() {
        for start in ["| ", "---", "```", "[", "> ", "x"] {
            let mut markdown = Markdown::new(Some(80));
            let mut n_chars = markdown.push(start).len();
            for _ in 0..200_000 {
                n_chars += markdown.push("word-").len();
            }
            n_chars += markdown.finish().len();
            assert!(n_chars >= 1_000_000, "{start}: {n_chars}");
        }
    }

    #[test]
    fn nothing_is_lost() {
        let text = "a*b _c [d](e `f ~g # h > i | j\n|k\n**\n- \n>\n``\n~~~ l";
        for n in 1..60 {
            let plain = render(text, n);
            for c in 'a'..='l' {
                assert!(plain.contains(c), "{c} in {plain:?}");
            }
        }
    }
}
