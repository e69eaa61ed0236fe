//! Pre-tokenizers: cutting text into the words inside which merges happen.
//!
//! `tokenizer.ggml.pre` names one of the published expression lists. A list is a sequence of stages; each stage cuts
//! every piece that the stages before it left, both at its matches and between them ("isolated" splitting), and sees
//! nothing outside its piece. The stages are scanners written by hand, because a backtracking engine is slow on ordinary
//! text and quadratic or worse on hostile text; the tests compare them with an engine that runs the expressions.

mod names;
mod set;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use names::{Alphabet, PreTokenizer};

use set::{Set, Text};
use words::Words;

use crate::unicode::{ND, NL, WORD, WS};

/// One expression of a list.
#[derive(Clone, Copy)]
enum Stage {
    /// GPT-2's expression.
    Gpt2,
    /// An alternation of the Llama 3 kind.
    Words(&'static Words),
    /// `lead? set{min,max}`
    Run { lead: Lead, set: Set, min: usize, max: usize },
    /// `(?:set_1+|set_2+|…)`: runs of any of these sets.
    Runs(&'static [Set]),
    /// `\s+$`
    TrailingSpace,
    /// Runs of digits cut into threes from the right.
    Triples(Triples),
    /// Chameleon's marker texts: `<sentinel:[0-9]+>`, and images as `IMGIMG[A-I]{1,4}Z`.
    Chameleon,
    /// `[\t\n]|    |  `: tabs and newlines one by one, blanks by four and two.
    Blanks,
}

/// What may stand before a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    None,
    /// ` ?`
    Blank,
    /// `\s?`
    Space,
}

/// Which digits are grouped, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Triples {
    /// Every run of `\p{N}`.
    Numbers,
    /// `\d` runs that end a word: `\d{1,3}(?=(?:\d{3})*\b)`.
    BeforeBoundary,
    /// `(?=(\d{3})+(?!\d))`: every run of `\d`, cut before each group but not apart from what precedes it.
    Lookahead,
}

/// Cuts `text` by all of `stages` and calls `emit` with each word, in order. Empty words are not emitted.
fn split(stages: &[Stage], text: Text, start: usize, emit: &mut dyn FnMut(usize, usize)) {
    let Some((stage, rest)) = stages.split_first() else {
        emit(start, start + text.len());
        return;
    };
    let mut at = 0;
    stage.split(text, &mut |end| {
        debug_assert!(at < end && end <= text.len());
        if rest.is_empty() {
            emit(start + at, start + end);
        } else {
            split(rest, text.slice(at, end), start + at, emit);
        }
        at = end;
    });
}

impl Stage {
    /// Calls `emit` with the end of every piece.
    fn split(&self, text: Text, emit: &mut impl FnMut(usize)) {
        match self {
            Stage::Gpt2 => words::split_gpt2(text, emit),
            Stage::Words(words) => words.split(text, emit),
            Stage::Run { lead, set, min, max } => {
                isolate(text, emit, |at| run_at(text, at, *lead, set, *min, *max))
            }
            Stage::Runs(sets) => isolate(text, emit, |at| {
                sets.iter().find_map(|set| run_at(text, at, Lead::None, set, 1, usize::MAX))
            }),
            Stage::TrailingSpace => split_trailing_space(text, emit),
            Stage::Triples(kind) => split_triples(text, *kind, emit),
            Stage::Chameleon => isolate(text, emit, |at| chameleon_at(text.bytes, at)),
            Stage::Blanks => isolate(text, emit, |at| blanks_at(text.bytes, at)),
        }
    }
}

/// Emits matches and what lies between them. `match_at` says where a match that starts at a position ends.
fn isolate(text: Text, emit: &mut impl FnMut(usize), match_at: impl Fn(usize) -> Option<usize>) {
    let mut at = 0;
    let mut done = 0;
    while at < text.len() {
        if let Some(end) = match_at(at) {
            if done < at {
                emit(at);
            }
            emit(end);
            at = end;
            done = end;
        } else {
            at += text.class(at).1;
        }
    }
    if done < at {
        emit(at);
    }
}

fn run_at(text: Text, at: usize, lead: Lead, set: &Set, min: usize, max: usize) -> Option<usize> {
    let after_lead = match lead {
        Lead::Blank if text.byte(at) == b' ' => at + 1,
        Lead::Space if text.class(at).0 & WS != 0 => at + text.class(at).1,
        _ => at,
    };
    // Without the leading character if the run cannot start behind it (it may itself belong to the set).
    let mut end = if text.in_set(after_lead, set).is_some() { after_lead } else { at };
    let mut n = 0;
    while n < max
        && let Some(len) = text.in_set(end, set)
    {
        end += len;
        n += 1;
    }
    (n >= min).then_some(end)
}

fn split_trailing_space(text: Text, emit: &mut impl FnMut(usize)) {
    // Backwards over white space: one pass, where trying `\s+$` at every position would be quadratic.
    let mut start = text.len();
    while start > 0 {
        let mut previous = start - 1;
        while text.bytes[previous] & 0xc0 == 0x80 {
            previous -= 1;
        }
        if text.class(previous).0 & WS == 0 {
            break;
        }
        start = previous;
    }
    if start > 0 {
        emit(start);
    }
    if start < text.len() {
        emit(text.len());
    }
}

fn split_triples(text: Text, kind: Triples, emit: &mut impl FnMut(usize)) {
    let mask = if kind == Triples::Numbers { crate::unicode::N } else { ND };
    let mut at = 0;
    let mut done = 0;
    while at < text.len() {
        let (class, len) = text.class(at);
        if class & mask == 0 {
            at += len;
            continue;
        }
        let end = text.run(at, mask);
        if kind == Triples::BeforeBoundary && text.class(end).0 & WORD != 0 {
            at = end;
            continue;
        }
        if done < at && (kind != Triples::Lookahead || count(text, at, end).is_multiple_of(3)) {
            emit(at);
            done = at;
        }
        let mut n_left = count(text, at, end);
        while at < end {
            at += text.class(at).1;
            n_left -= 1;
            let group_ends = n_left.is_multiple_of(3) && (n_left > 0 || kind != Triples::Lookahead);
            if group_ends {
                emit(at);
                done = at;
            }
        }
    }
    if done < at {
        emit(at);
    }
}

/// Characters in `start..end`.
fn count(text: Text, start: usize, end: usize) -> usize {
    text.bytes[start..end].iter().filter(|&&b| b & 0xc0 != 0x80).count()
}

fn chameleon_at(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if let Some(tail) = rest.strip_prefix(b"<sentinel:") {
        let n = tail.iter().take_while(|b| b.is_ascii_digit()).count();
        return (n > 0 && tail.get(n) == Some(&b'>')).then_some(at + 10 + n + 1);
    }
    if let Some(tail) = rest.strip_prefix(b"IMGIMG") {
        let n = tail.iter().take(4).take_while(|b| (b'A'..=b'I').contains(b)).count();
        return (n > 0 && tail.get(n) == Some(&b'Z')).then_some(at + 6 + n + 1);
    }
    None
}

fn blanks_at(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    match rest[0] {
        b'\t' | b'\n' => Some(at + 1),
        _ if rest.starts_with(b"    ") => Some(at + 4),
        _ if rest.starts_with(b"  ") => Some(at + 2),
        _ => None,
    }
}

/// `[\r\n]` one by one.
const NEWLINE: Stage = Stage::Run { lead: Lead::None, set: Set::classes(NL), min: 1, max: 1 };
