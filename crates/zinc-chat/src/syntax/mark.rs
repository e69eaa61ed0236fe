//! Marks: the fixed text around calls, with blanks that models vary and slots for numbers.

/// A piece of a mark.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MarkPiece {
    /// This text.
    Text(String),
    /// White space; as the template writes it, but any amount is taken.
    Blank(String),
    /// A number that counts calls.
    Index,
    /// A call's id or the like: characters other than blanks and brackets.
    Id,
}

/// A text with slots; may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mark(Vec<MarkPiece>);

/// Whether a mark stands at the begin of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It does not.
    No,
    /// It may, with more text.
    Partial,
    /// It does, and takes that many bytes.
    Yes(usize),
}

impl Mark {
    /// A mark of fixed text.
    pub(crate) fn new(text: &str) -> Self {
        let mut mark = Self::default();
        text.chars().for_each(|c| mark.push(c));
        mark
    }

    /// A mark of text in which `slot` stands for an id.
    pub(crate) fn with_slots(text: &str, slot: char) -> Self {
        let mut mark = Self::default();
        for c in text.chars() {
            match c == slot {
                true => mark.0.push(MarkPiece::Id),
                false => mark.push(c),
            }
        }
        mark
    }

    /// The mark that both texts are instances of: they may differ in numbers.
    pub(crate) fn unify(a: &str, b: &str, slot: char) -> Option<Self> {
        let (a_mark, b_mark) = (Self::with_slots(a, slot), Self::with_slots(b, slot));
        if a == b {
            return Some(a_mark);
        }
        let (a_mark, b_mark) = (a_mark.indexed(), b_mark.indexed());
        (a_mark == b_mark).then_some(a_mark)
    }

    /// `text` and then this mark.
    pub(crate) fn behind(&self, text: &str) -> Self {
        let mut mark = Self::new(text);
        mark.0.extend(self.0.iter().cloned());
        mark
    }

    fn push(&mut self, c: char) {
        // A blank inside a line is part of the text; a line break is a blank.
        match (self.0.last_mut(), c) {
            (Some(MarkPiece::Blank(blank)), c) if c.is_whitespace() => blank.push(c),
            (Some(MarkPiece::Text(text)), c) if c != '\n' => text.push(c),
            (_, c) if c.is_whitespace() => self.0.push(MarkPiece::Blank(c.into())),
            (_, c) => self.0.push(MarkPiece::Text(c.into())),
        }
    }

    /// The same with numbers as slots.
    fn indexed(self) -> Self {
        let mut out = Self::default();
        for piece in self.0 {
            let MarkPiece::Text(text) = piece else {
                out.0.push(piece);
                continue;
            };
            for part in text.chars() {
                match (out.0.last(), part.is_ascii_digit()) {
                    (Some(MarkPiece::Index), true) => {}
                    (_, true) => out.0.push(MarkPiece::Index),
                    (_, false) => out.push(part),
                }
            }
        }
        out
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, MarkPiece::Blank(_)))
    }

    pub(crate) fn pieces(&self) -> &[MarkPiece] {
        &self.0
    }

    /// Its fixed texts.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |piece: &MarkPiece| match piece {
            MarkPiece::Text(text) => Some(text.trim_end().to_owned()),
            _ => None,
        };
        self.0.iter().filter_map(text).collect()
    }

    /// The first of its texts.
    pub(crate) fn first_text(&self) -> &str {
        let text = self.0.iter().find_map(|piece| match piece {
            MarkPiece::Text(text) => Some(text.trim_end()),
            _ => None,
        });
        text.unwrap_or("")
    }

    /// Whether `text` begins with the mark. Blanks at its ends are not part of it; elsewhere any amount
    /// is taken.
    pub(crate) fn at(&self, text: &str) -> Found {
        let is_blank = |piece: &MarkPiece| matches!(piece, MarkPiece::Blank(_));
        let begin = self.0.iter().position(|piece| !is_blank(piece)).unwrap_or(self.0.len());
        let end = self.0.iter().rposition(|piece| !is_blank(piece)).map_or(begin, |last| last + 1);
        let pieces = &self.0[begin..end];
        let mut rest = text;
        for (i, piece) in pieces.iter().enumerate() {
            let taken = match piece {
                MarkPiece::Text(wanted) => {
                    let last = i + 1 == pieces.len();
                    let wanted = if last { wanted.trim_end() } else { wanted };
                    if !rest.starts_with(wanted) {
                        let partial = wanted.starts_with(rest);
                        return if partial { Found::Partial } else { Found::No };
                    }
                    wanted.len()
                }
                MarkPiece::Blank(_) => rest.len() - rest.trim_start().len(),
                MarkPiece::Index => leading(rest, |c| c.is_ascii_digit()),
                MarkPiece::Id => leading(rest, |c| !c.is_whitespace() && !"<>[]{}\"".contains(c)),
            };
            rest = &rest[taken..];
            let is_slot = matches!(piece, MarkPiece::Index | MarkPiece::Id);
            if is_slot && taken == 0 {
                return if rest.is_empty() { Found::Partial } else { Found::No };
            }
            // More of the slot may come.
            if rest.is_empty() && (is_slot || i + 1 < pieces.len()) {
                return Found::Partial;
            }
        }
        Found::Yes(text.len() - rest.len())
    }

    /// The first place where the mark stands or may yet stand: its offset, and how many bytes it takes
    /// if it does.
    pub(crate) fn find(&self, text: &str) -> Option<(usize, Option<usize>)> {
        let first = self.first_text().chars().next()?;
        let mut from = 0;
        while let Some(at) = text[from..].find(first).map(|at| from + at) {
            match self.at(&text[at..]) {
                Found::Yes(n) => return Some((at, Some(n))),
                Found::Partial => return Some((at, None)),
                Found::No => from = at + first.len_utf8(),
            }
        }
        None
    }
}

fn leading(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_take_any_blanks_and_numbers() {
        let mark = Mark::new("\n</function>\n</tool_call>\n");
        assert_eq!(mark.at("</function></tool_call>x"), Found::Yes(23));
        assert_eq!(mark.at("</function> \n </tool_call>"), Found::Yes(26));
        assert_eq!(mark.at("</function> \n </to"), Found::Partial);
        assert_eq!(mark.at("</function> x"), Found::No);
        assert_eq!(mark.find("abc</fu"), Some((3, None)));
        assert_eq!(mark.find("a</b></function></tool_call>"), Some((5, Some(23))));
        let mark = Mark::unify(":0<|args|>", ":1<|args|>", '#').unwrap();
        assert_eq!(mark.at(":12<|args|>{"), Found::Yes(11));
        assert_eq!(mark.at(":1"), Found::Partial);
        assert_eq!(mark.at(":<"), Found::No);
        assert_eq!(Mark::with_slots("<id>#<n>", '#').at("<id>call_1<n>"), Found::Yes(13));
        assert!(Mark::unify("a", "b", '#').is_none());
        assert_eq!(Mark::new("<invoke name=\"").at("<invoke name=\"x"), Found::Yes(14));
    }
}
