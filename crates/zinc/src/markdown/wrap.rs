//! Lines of a terminal that break between words, while the text streams in.

/// Wraps the text of one line after another. A word is held back until its end is known, at most as
/// much of it as a line holds.
#[derive(Debug)]
pub struct Wrap {
    /// Columns of the terminal.
    width: usize,
    /// Columns that the line has by now.
    col: usize,
    /// What stands before the text of further lines, and its columns.
    hang: (&'static str, usize),
    /// Spaces before the word.
    n_spaces: usize,
    /// The word with its styles, and its columns.
    word: String,
    n_word: usize,
    /// The beginning of the word is out already: it is longer than a line.
    is_cut: bool,
    in_style: bool,
}

impl Wrap {
    pub fn new(width: usize) -> Wrap {
        Wrap {
            width,
            col: 0,
            hang: ("", 0),
            n_spaces: 0,
            word: String::new(),
            n_word: 0,
            is_cut: false,
            in_style: false,
        }
    }

    /// The line began with a mark of `n` columns, under which further lines have `hang` and blanks.
    pub fn begin(&mut self, n: usize, hang: &'static str) {
        // Deep lists keep at least half of the line for text.
        (self.col, self.hang) = (n, (hang, n.min(self.width / 2)));
    }

    /// Takes more of the line, and writes to `out` what is certain.
    pub fn push(&mut self, text: &str, out: &mut String) {
        for c in text.chars() {
            if self.in_style || c == '\x1b' {
                self.word.push(c);
                self.in_style = c != 'm';
                continue;
            }
            if c == ' ' {
                self.end_word(out);
                self.n_spaces += 1;
                continue;
            }
            let n_cols = columns(c);
            // Ideographs may stand alone.
            if n_cols == 2 {
                self.end_word(out);
            }
            self.word.push(c);
            self.n_word += n_cols;
            if n_cols == 2 {
                self.end_word(out);
            } else if self.n_word >= self.width - self.hang.1 {
                self.write_word(out);
                self.is_cut = true;
            }
        }
    }

    /// The line ends.
    pub fn end(&mut self, out: &mut String) {
        self.end_word(out);
        (self.col, self.hang, self.n_spaces) = (0, ("", 0), 0);
    }

    fn end_word(&mut self, out: &mut String) {
        self.write_word(out);
        self.is_cut = false;
    }

    fn write_word(&mut self, out: &mut String) {
        let (hang, n_hang) = self.hang;
        let n_cols = self.n_spaces + self.n_word;
        if self.n_word > 0 {
            if self.col + n_cols > self.width && self.col > n_hang && !self.is_cut {
                out.push('\n');
                out.push_str(hang);
                out.extend(std::iter::repeat_n(' ', n_hang - hang.chars().count()));
                self.col = n_hang + self.n_word;
            } else {
                out.extend(std::iter::repeat_n(' ', self.n_spaces));
                self.col += n_cols;
            }
            // What is longer than a line goes on where the terminal breaks it.
            while self.col > self.width {
                self.col -= self.width;
            }
            self.n_spaces = 0;
        }
        out.push_str(&self.word);
        self.word.clear();
        self.n_word = 0;
    }
}

/// Columns that a character takes, near enough to break lines.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe6f | 0xff01..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff => 2,
        0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
