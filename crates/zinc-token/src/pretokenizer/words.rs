//! Scanners for the expressions that cut text into words.
//!
//! Each of these expressions is an alternation that matches at every position; the scanner tries the alternatives in
//! the published order and looks at each character a bounded number of times, so the whole pass is linear.

use super::set::Text;
use crate::unicode::{Class, END, HAN, L, LL, LM, LO, LT, LU, M, N, NL, P, S, WS};

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const UPPER: Class = LU | LT | LM | LO | M;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const LOWER: Class = LL | LM | LO | M;

/// Where English contractions (`'s 't 're 've 'm 'll 'd`, any case) are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contraction {
    Never,
    /// As the first alternative.
    First,
    /// As an optional end of a word.
    Suffix,
}

/// What a word is made of, after at most one leading character outside `Words::no_lead`.
#[derive(Clone, Copy)]
pub(super) enum Letters {
    /// One or more characters of these classes.
    Run(Class),
    /// Upper-case run then lower-case run, so that `camelCase` falls apart; `han` says whether Han letters take part.
    Cased { marks: Class, han: bool },
    /// EXAONE-MoE: letters with marks, where a single space may stand before each further letter.
    Phrase,
}

/// Which characters belong to a run of symbols, and what may follow it.
#[derive(Clone, Copy)]
pub(super) enum Symbols {
    /// Every character outside these classes.
    Outside(Class),
    /// Every character inside these classes.
    Inside(Class),
}

/// What a run of symbols takes along behind itself.
#[derive(Clone, Copy)]
pub(super) enum Tail {
    None,
    /// `[\r\n]*`
    Newlines,
    /// `[\r\n/]*`
    NewlinesAndSlashes,
    /// `[\r\n/]?`
    OneNewlineOrSlash,
}

/// How white space is cut; all end with `\s+(?!\S)|\s+`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// `\s*[\r\n]+` first.
    NewlineRuns,
    /// `[\r\n]` first.
    SingleNewlines,
    /// `\s*[\r\n]+`, then runs of 512, 256, … 4, 2, 1 that stop before the last one (JAIS 2).
    Halving,
}

/// The alternation behind Llama 3, Qwen 2, GPT-4o, DeepSeek 3 and their relatives.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) contraction: Contraction,
    /// `[!-/:-@\[-`{-~][A-Za-z]+` before the letters.
    pub(super) punctuated: bool,
    /// `\p{Han}+` before everything else.
    pub(super) han_runs: bool,
    /// The one optional character before a word must be outside these classes.
    pub(super) no_lead: Class,
    pub(super) letters: Letters,
    /// Longest run of `\p{N}` in one word; 0 if the expression has no such alternative.
    pub(super) max_digits: usize,
    pub(super) symbols: Symbols,
    pub(super) tail: Tail,
    pub(super) space: Space,
}

/// Llama 3's expression; the others are described by how they differ from it.
pub(super) const LLAMA3: Words = Words {
    contraction: Contraction::First,
    punctuated: false,
    han_runs: false,
    no_lead: NL | L | N,
    letters: Letters::Run(L),
    max_digits: 3,
    symbols: Symbols::Outside(WS | L | N),
    tail: Tail::Newlines,
    space: Space::NewlineRuns,
};

/// Qwen 2: digits one by one.
pub(super) const QWEN2: Words = Words { max_digits: 1, ..LLAMA3 };

/// Qwen 3.5: combining marks belong to words.
pub(super) const QWEN35: Words =
    Words { letters: Letters::Run(L | M), symbols: Symbols::Outside(WS | L | M | N), ..QWEN2 };

/// GPT-4o (o200k).
pub(super) const GPT4O: Words = Words {
    contraction: Contraction::Suffix,
    letters: Letters::Cased { marks: M, han: true },
    tail: Tail::NewlinesAndSlashes,
    ..LLAMA3
};

/// DeepSeek 3: words are anything but punctuation, symbols and white space.
pub(super) const DEEPSEEK3: Words = Words {
    contraction: Contraction::Never,
    punctuated: true,
    no_lead: NL | L | P | S,
    letters: Letters::Run(L | M),
    max_digits: 0,
    symbols: Symbols::Inside(P | S),
    ..LLAMA3
};

impl Words {
    /// Calls `emit` with the end of each match and each stretch between matches, left to right.
    pub(super) fn split(&self, text: Text, mut emit: impl FnMut(usize)) {
        let mut at = 0;
        let mut done = 0;
        while at < text.len() {
            if self.space == Space::Halving
                && let Some(stop) = halving_stop(text, at)
            {
                if done < at {
                    emit(at);
                }
                split_halving(text, at, stop, &mut emit);
                at = stop;
                done = stop;
                continue;
            }
            match self.match_at(text, at) {
                Some(end) => {
                    if done < at {
                        emit(at);
                    }
                    emit(end);
                    at = end;
                    done = end;
                }
                None => at += text.class(at).1,
            }
        }
        if done < at {
            emit(at);
        }
    }

    fn match_at(&self, text: Text, at: usize) -> Option<usize> {
        let (class, len) = text.class(at);
        if self.contraction == Contraction::First
            && let Some(end) = contraction(text, at)
        {
            return Some(end);
        }
        if self.han_runs && class & HAN != 0 {
            return Some(text.run(at, HAN));
        }
        if self.punctuated
            && text.byte(at).is_ascii_punctuation()
            && text.byte(at + 1).is_ascii_alphabetic()
        {
            let letters = text.bytes[at + 1..].iter().take_while(|b| b.is_ascii_alphabetic());
            return Some(at + 1 + letters.count());
        }
        if let Some(end) = self.word_at(text, at, class, len) {
            return Some(end);
        }
        if class & N != 0 && self.max_digits > 0 {
            return Some(digits(text, at, self.max_digits));
        }
        self.symbols_at(text, at, class).or_else(|| self.space_at(text, at, class))
    }

    /// `[^…]?letters(contraction)?`
    fn word_at(&self, text: Text, at: usize, class: Class, len: usize) -> Option<usize> {
        let lead = class & self.no_lead == 0;
        match self.letters {
            Letters::Run(mask) => {
                if lead && text.class(at + len).0 & mask != 0 {
                    return Some(text.run(at + len, mask));
                }
                (class & mask != 0).then(|| text.run(at, mask))
            }
            Letters::Phrase => {
                if lead && text.class(at + len).0 & L != 0 {
                    return Some(phrase(text, at + len));
                }
                (class & L != 0).then(|| phrase(text, at))
            }
            Letters::Cased { marks, han } => {
                let cased = Cased::new(marks, han);
                let first = lead.then_some(at + len);
                // Each alternative is tried with the leading character, then without it.
                let end = (first.and_then(|from| cased.lower_end(text, from)))
                    .or_else(|| cased.lower_end(text, at))
                    .or_else(|| first.and_then(|from| cased.upper_end(text, from)))
                    .or_else(|| cased.upper_end(text, at))?;
                match self.contraction {
                    Contraction::Suffix => Some(contraction(text, end).unwrap_or(end)),
                    _ => Some(end),
                }
            }
        }
    }

    /// ` ?symbols tail`
    fn symbols_at(&self, text: Text, at: usize, class: Class) -> Option<usize> {
        let from = if text.byte(at) == b' ' { at + 1 } else { at };
        let first = if from == at { class } else { text.class(from).0 };
        let mut end = match self.symbols {
            Symbols::Outside(mask) if first & (mask | END) == 0 => text.run_outside(from, mask),
            Symbols::Inside(mask) if first & mask != 0 => text.run(from, mask),
            _ => return None,
        };
        let is_newline = |b: u8| b == b'\r' || b == b'\n';
        match self.tail {
            Tail::None => {}
            Tail::Newlines => {
                while is_newline(text.byte(end)) {
                    end += 1;
                }
            }
            Tail::NewlinesAndSlashes => {
                while is_newline(text.byte(end)) || text.byte(end) == b'/' {
                    end += 1;
                }
            }
            Tail::OneNewlineOrSlash => {
                if is_newline(text.byte(end)) || text.byte(end) == b'/' {
                    end += 1;
                }
            }
        }
        Some(end)
    }

    fn space_at(&self, text: Text, at: usize, class: Class) -> Option<usize> {
        if class & WS == 0 {
            return None;
        }
        if self.space == Space::SingleNewlines && class & NL != 0 {
            return Some(at + 1);
        }
        let run = SpaceRun::measure(text, at);
        match run.after_newline {
            Some(end) if self.space != Space::SingleNewlines => Some(end),
            _ => Some(run.cut(text)),
        }
    }
}

/// GPT-2's expression: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
pub(super) fn split_gpt2(text: Text, mut emit: impl FnMut(usize)) {
    let mut at = 0;
    while at < text.len() {
        at = gpt2_at(text, at);
        emit(at);
    }
}

fn gpt2_at(text: Text, at: usize) -> usize {
    let first = text.byte(at);
    if first == b'\'' {
        match (text.byte(at + 1), text.byte(at + 2)) {
            (b's' | b't' | b'm' | b'd', _) => return at + 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => return at + 3,
            _ => {}
        }
    }
    let from = if first == b' ' { at + 1 } else { at };
    let (class, len) = text.class(from);
    if class & L != 0 {
        text.run(from + len, L)
    } else if class & N != 0 {
        text.run(from + len, N)
    } else if class & (WS | END) == 0 {
        text.run_outside(from + len, WS | L | N)
    } else {
        SpaceRun::measure(text, at).cut(text)
    }
}

/// A maximal run of white space.
struct SpaceRun {
    start: usize,
    end: usize,
    /// Start of the run's last character.
    last: usize,
    /// Position behind the last newline in the run.
    after_newline: Option<usize>,
}

impl SpaceRun {
    fn measure(text: Text, start: usize) -> Self {
        let mut run = Self { start, end: start, last: start, after_newline: None };
        loop {
            let (class, len) = text.class(run.end);
            if class & WS == 0 {
                return run;
            }
            run.last = run.end;
            run.end += len;
            if class & NL != 0 {
                run.after_newline = Some(run.end);
            }
        }
    }

    /// `\s+(?!\S)|\s+`: all but the last character when something else follows, which keeps it for the next word.
    fn cut(&self, text: Text) -> usize {
        if self.end == text.len() || self.last == self.start { self.end } else { self.last }
    }
}

/// Where JAIS 2's cascade ends if white space without newlines, of two characters or more, starts at `at`.
///
/// The cascade is cut in one go: asking for the run's length again at each of its words would be quadratic.
fn halving_stop(text: Text, at: usize) -> Option<usize> {
    let run = SpaceRun::measure(text, at);
    (run.after_newline.is_none() && run.last > run.start).then(|| run.cut(text))
}

/// Cuts the white space `at..stop` into words of 512, 256, … 4, 2, 1 characters, the longest that fits each time.
fn split_halving(text: Text, mut at: usize, stop: usize, emit: &mut impl FnMut(usize)) {
    let mut n_left: usize = 0;
    let mut end = at;
    while end < stop {
        end += text.class(end).1;
        n_left += 1;
    }
    while n_left > 0 {
        let n = if n_left >= 512 { 512 } else { 1 << n_left.ilog2() };
        for _ in 0..n {
            at += text.class(at).1;
        }
        n_left -= n;
        emit(at);
    }
}

/// `'s`, `'t`, `'m`, `'d`, `'re`, `'ve`, `'ll` in any case. As in any Unicode engine, `ſ` (U+017F) is an `s` then.
fn contraction(text: Text, at: usize) -> Option<usize> {
    if text.byte(at) != b'\'' {
        return None;
    }
    match (text.byte(at + 1).to_ascii_lowercase(), text.byte(at + 2).to_ascii_lowercase()) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', b'e') | (b'l', b'l') | (0xc5, 0xbf) => Some(at + 3),
        _ => None,
    }
}

/// `\p{N}{1,max}`
fn digits(text: Text, mut at: usize, max: usize) -> usize {
    for _ in 0..max {
        let (class, len) = text.class(at);
        if class & N == 0 {
            break;
        }
        at += len;
    }
    at
}

/// `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+` from a letter.
fn phrase(text: Text, mut at: usize) -> usize {
    loop {
        let from = if text.byte(at) == b' ' { at + 1 } else { at };
        let (class, len) = text.class(from);
        if class & L == 0 {
            return at;
        }
        at = text.run(from + len, M);
    }
}

/// `U*L+` and `U+L*`, where letters without case and marks are in both U and L.
struct Cased {
    upper: Class,
    lower: Class,
    excluded: Class,
}

impl Cased {
    fn new(marks: Class, han: bool) -> Self {
        let drop = M & !marks;
        Self { upper: UPPER & !drop, lower: LOWER & !drop, excluded: if han { 0 } else { HAN } }
    }

    fn is(&self, class: Class, mask: Class) -> bool {
        class & mask != 0 && class & self.excluded == 0
    }

    fn run(&self, text: Text, mut at: usize, mask: Class) -> usize {
        loop {
            let (class, len) = text.class(at);
            if !self.is(class, mask) {
                return at;
            }
            at += len;
        }
    }

    /// End of `U*L+` at `from`: the upper run takes all it can and gives back just enough for one lower character.
    fn lower_end(&self, text: Text, from: usize) -> Option<usize> {
        let mut at = from;
        let mut after_both = None;
        loop {
            let (class, len) = text.class(at);
            if !self.is(class, self.upper) {
                break;
            }
            at += len;
            if self.is(class, self.lower) {
                after_both = Some(at);
            }
        }
        let end = self.run(text, at, self.lower);
        if end > at { Some(end) } else { after_both }
    }

    /// End of `U+L*` at `from`.
    fn upper_end(&self, text: Text, from: usize) -> Option<usize> {
        let end = self.run(text, from, self.upper);
        (end > from).then(|| self.run(text, end, self.lower))
    }
}
