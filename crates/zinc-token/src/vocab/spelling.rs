//! How vocabularies write bytes as text.

/// How token texts in the file spell bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spelling {
    /// GPT-2's alphabet: one printable character per byte.
    ByteAlphabet,
    /// Plain UTF-8 with `▁` for a blank.
    Plain,
}

/// The byte that a text of the form `<0xXX>` names.
pub(crate) fn byte_of(text: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = *text else {
        return None;
    };
    let digit = |c: u8| (c as char).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

impl Spelling {
    /// Appends the bytes that a token text stands for. Returns whether the text was spelled as this vocabulary spells
    /// mergeable tokens; a text that was not is appended as it is.
    pub(crate) fn decode(self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        match self {
            Spelling::ByteAlphabet => {
                if decode_byte_alphabet(text, out) {
                    return true;
                }
                out.truncate(start);
                out.extend_from_slice(text);
                false
            }
            Spelling::Plain => {
                let mut has_blank = false;
                let mut rest = text;
                while let Some((&first, tail)) = rest.split_first() {
                    if first == 0xe2 && tail.starts_with(&[0x96, 0x81]) {
                        out.push(b' ');
                        rest = &tail[2..];
                    } else {
                        has_blank |= first == b' ';
                        out.push(first);
                        rest = tail;
                    }
                }
                !has_blank
            }
        }
    }
}

/// GPT-2's alphabet writes printable Latin-1 bytes as themselves and the other 68 as U+0100 onwards.
fn decode_byte_alphabet(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = text.iter();
    while let Some(&first) = rest.next() {
        let cp = match first {
            0x21..=0x7e => {
                out.push(first);
                continue;
            }
            0xc2..=0xc5 => match rest.next() {
                Some(&second @ 0x80..=0xbf) => {
                    u32::from(first & 0x1f) << 6 | u32::from(second & 0x3f)
                }
                _ => return false,
            },
            _ => return false,
        };
        let byte = match cp {
            0xa1..=0xac | 0xae..=0xff => cp as u8,
            0x100..=0x120 => (cp - 0x100) as u8,
            0x121..=0x142 => (cp - 0x121 + 0x7f) as u8,
            0x143 => 0xad,
            _ => return false,
        };
        out.push(byte);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_spells_every_byte_once() {
        // GPT-2's rule: printable Latin-1 as it is, the rest from U+0100 in order.
        let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 0x100;
        for byte in 0..=255u8 {
            let cp = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            let spelled = char::from_u32(cp).map(String::from).unwrap_or_default();
            let mut decoded = Vec::new();
            assert!(Spelling::ByteAlphabet.decode(spelled.as_bytes(), &mut decoded));
            assert_eq!(decoded, [byte]);
        }
    }

    #[test]
    fn texts_outside_the_alphabet_stay_as_they_are() {
        let check = |text: &[u8]| {
            let mut decoded = b"x".to_vec();
            assert!(!Spelling::ByteAlphabet.decode(text, &mut decoded));
            assert_eq!(decoded[1..], *text);
        };
        check("a b".as_bytes());
        check("<｜end▁of▁sentence｜>".as_bytes());
        check(b"\xc4");
        check(b"\xff\xff");
        check("\u{144}".as_bytes());
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_of(b"<0x0A>"), Some(10));
        assert_eq!(byte_of(b"<0xfF>"), Some(255));
        assert_eq!(byte_of(b"<0xG0>"), None);
        assert_eq!(byte_of(b"<0x0A> "), None);
    }
}
