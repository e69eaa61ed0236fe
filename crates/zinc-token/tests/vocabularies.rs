//! Small vocabularies made here: special tokens, byte fallback, hostile files, round trips and streaming.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use proptest::prelude::*;
use zinc_token::{
    DecodeOptions, EncodeOptions, StreamDecoder, TokenError, TokenKind, Tokenizer, VocabSpec,
};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// GPT-2's printable spelling of a byte.
fn spelled(byte: u8) -> String {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let cp = match printable(byte) {
        true => u32::from(byte),
        false => 0x100 + (0..byte).filter(|&b| !printable(b)).count() as u32,
    };
    char::from_u32(cp).unwrap().to_string()
}

/// Texts and kinds of a vocabulary under construction.
#[derive(Default)]
struct Texts(Vec<(String, i32)>);

impl Texts {
    /// All bytes in GPT-2's spelling, then `rest`.
    fn bytes_and(rest: &[(&str, i32)]) -> Self {
        let bytes = (0..=255).map(|byte| (spelled(byte), NORMAL));
        Self(bytes.chain(rest.iter().map(|&(text, kind)| (text.to_owned(), kind))).collect())
    }

    /// Unknown, begin, end, all byte tokens, then `rest`.
    fn sentence_piece(rest: &[&str]) -> Self {
        let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
            .map(|(text, kind)| (text.to_owned(), kind));
        let bytes = (0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), BYTE));
        let rest = rest.iter().map(|&text| (text.to_owned(), NORMAL));
        Self(special.into_iter().chain(bytes).chain(rest).collect())
    }

    fn spec(&self, model: &str) -> VocabSpec<'_> {
        VocabSpec {
            model: model.to_owned(),
            tokens: self.0.iter().map(|(text, _)| text.as_bytes()).collect(),
            token_types: Some(self.0.iter().map(|&(_, kind)| kind).collect()),
            merges: (model != "llama").then(Vec::new),
            scores: (model == "llama").then(|| (0..self.0.len()).map(|id| -(id as f32)).collect()),
            ..VocabSpec::default()
        }
    }
}

fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions::default())
}

fn parsed(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions { parse_special: true, ..EncodeOptions::default() })
}

#[test]
fn control_tokens_need_to_be_asked_for() {
    let texts = Texts::bytes_and(&[("<|end|>", CONTROL), ("<tool>", USER_DEFINED), ("ab", NORMAL)]);
    let tokenizer =
        Tokenizer::new(&VocabSpec { merges: Some(vec![b"a b"]), ..texts.spec("gpt2") }).unwrap();
    assert_eq!(plain(&tokenizer, "ab<tool>ab"), [258, 257, 258]);
    assert_eq!(parsed(&tokenizer, "ab<|end|>ab"), [258, 256, 258]);
    assert_eq!(plain(&tokenizer, "<|end|>").len(), 7);
    assert!(tokenizer.vocab().is_end_of_generation(256));
    assert_eq!(tokenizer.decode(&[258, 256], true), "ab");
    assert_eq!(tokenizer.decode(&[258, 256], false), "ab<|end|>");
    assert_eq!(tokenizer.vocab().special_id("<tool>"), Some(257));
    assert_eq!(tokenizer.vocab().special_id("ab"), None);
}

#[test]
fn merging_never_makes_a_control_token() {
    let texts = Texts::bytes_and(&[("<s", NORMAL), ("<s>", CONTROL)]);
    let merges: Vec<&[u8]> = vec![b"< s", b"<s >"];
    for pre in ["gpt-2", "llama-bpe"] {
        let spec =
            VocabSpec { merges: Some(merges.clone()), pre: Some(pre.into()), ..texts.spec("gpt2") };
        let tokenizer = Tokenizer::new(&spec).unwrap();
        assert!(!plain(&tokenizer, "<s>").contains(&257), "{pre}");
        assert_eq!(parsed(&tokenizer, "<s>"), [257], "{pre}");
    }
    let texts = Texts::sentence_piece(&["▁", "<", "s", ">", "<s", "s>"]);
    let tokenizer = Tokenizer::new(&texts.spec("llama")).unwrap();
    assert!(!plain(&tokenizer, "<s>").contains(&1));
}

#[test]
fn longest_special_token_wins() {
    let texts =
        Texts::bytes_and(&[("<|a|>", CONTROL), ("<|a|><|b|>", CONTROL), ("<|b|>", CONTROL)]);
    let tokenizer = Tokenizer::new(&texts.spec("gpt2")).unwrap();
    assert_eq!(parsed(&tokenizer, "<|a|><|b|><|b|><|a|>"), [257, 258, 256]);
}

#[test]
fn phi3_tokens_swallow_white_space() {
    let mut texts = Texts::sentence_piece(&["▁", "a"]);
    texts.0.push(("<|user|>".into(), CONTROL));
    let spec = VocabSpec { name: Some("Phi3".into()), ..texts.spec("llama") };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let (blank, a, user) = (259, 260, 261);
    assert_eq!(parsed(&tokenizer, "<|user|> \n\ta"), [user, blank, a]);
    let tokenizer = Tokenizer::new(&texts.spec("llama")).unwrap();
    assert_eq!(parsed(&tokenizer, "<|user|> a"), [user, blank, blank, a]);
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let texts = Texts::sentence_piece(&["▁ab", "▁", "a", "b", "ab", "▁a"]);
    let tokenizer = Tokenizer::new(&texts.spec("llama")).unwrap();
    let byte = |b: u8| 3 + u32::from(b);
    // "ab" is worse than "▁ab" but must come first, as "▁a" is worse still.
    assert_eq!(plain(&tokenizer, "ab"), [259]);
    assert_eq!(plain(&tokenizer, "é"), [260, byte(0xc3), byte(0xa9)]);
    assert_eq!(tokenizer.decode(&[259, 259], true), "ab ab");
    assert_eq!(tokenizer.decode(&[byte(0xc3), byte(0xa9)], true), "é");
    let with_bos = tokenizer.encode("", EncodeOptions { add_special: true, parse_special: false });
    assert_eq!(with_bos, [1]);
    // U+2581 in a text is what a blank becomes, too.
    assert_eq!(plain(&tokenizer, "ab▁ab"), plain(&tokenizer, "ab ab"));
}

#[test]
fn roles_follow_the_texts() {
    let texts = Texts::bytes_and(&[
        ("<|start|>", CONTROL),
        ("<|end|>", CONTROL),
        ("<|return|>", CONTROL),
        ("<|call|>", CONTROL),
        ("</s>", NORMAL),
    ]);
    let spec = VocabSpec { role_ids: vec![("eos", 258), ("bos", 9_999_999)], ..texts.spec("gpt2") };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let vocab = tokenizer.vocab();
    assert_eq!(vocab.roles().end_of_generation, [258, 259, 260]);
    assert_eq!(
        (vocab.kind(256), vocab.kind(257)),
        (TokenKind::UserDefined, TokenKind::UserDefined)
    );
    assert_eq!((vocab.bos(), vocab.eos()), (None, Some(258)));
    assert!(!tokenizer.adds_bos());
}

#[test]
fn unusable_vocabularies_are_refused() {
    let texts = Texts::bytes_and(&[]);
    let check = |spec: VocabSpec, part: &str| match Tokenizer::new(&spec) {
        Ok(_) => panic!("accepted; expected an error with {part:?}"),
        Err(error) => assert!(error.to_string().contains(part), "{error}"),
    };
    let pre = |name: &str| VocabSpec { pre: Some(name.into()), ..texts.spec("gpt2") };
    check(pre("gpt-5"), "\"gpt-5\"");
    check(pre("gpt-5"), "llama-bpe, llama-v3, llama3, llama4");
    for model in ["bert", "t5", "rwkv", "plamo2", "none", "no_vocab", "whitespace"] {
        check(VocabSpec { model: model.into(), ..texts.spec("gpt2") }, model);
    }
    check(VocabSpec { merges: None, ..texts.spec("gpt2") }, "tokenizer.ggml.merges");
    check(VocabSpec { tokens: Vec::new(), ..texts.spec("gpt2") }, "tokenizer.ggml.tokens");
    check(VocabSpec { token_types: Some(vec![1; 3]), ..texts.spec("gpt2") }, "3 elements");
    check(VocabSpec { scores: None, ..texts.spec("llama") }, "tokenizer.ggml.scores");
    check(VocabSpec { scores: Some(vec![0.0; 7]), ..texts.spec("llama") }, "7 elements");
    assert!(matches!(Tokenizer::new(&pre("x")), Err(TokenError::UnknownPreTokenizer { .. })));
}

#[test]
fn hostile_vocabularies_still_encode() {
    // Duplicates, empty and non-UTF-8 tokens, merges without a blank, of absent tokens, of nothing, and in a circle.
    let tokens: Vec<&[u8]> = vec![
        b"a",
        b"a",
        b"",
        b"\xff\xfe",
        b"b",
        b"ab",
        b"<0x61>",
        b"<0xZZ>",
        b"\xe2\x96\x81",
        b"\xe2",
    ];
    let merges: Vec<&[u8]> = vec![
        b"a b",
        b"a b",
        b"ab",
        b" ",
        b"",
        b"  ",
        b"x y",
        b"xy z",
        b"ab ",
        b" ab",
        b"a ",
        b"\xff \xff",
        b"b a",
        b"ba ab",
    ];
    for model in ["gpt2", "gemma4", "llama"] {
        for kind in [NORMAL, CONTROL, USER_DEFINED, UNKNOWN, BYTE, 5, -7, 99] {
            let spec = VocabSpec {
                model: model.into(),
                tokens: tokens.clone(),
                token_types: Some(vec![kind; tokens.len()]),
                scores: Some(vec![
                    f32::NAN,
                    f32::INFINITY,
                    -0.0,
                    0.0,
                    1.0,
                    1.0,
                    2.0,
                    f32::NEG_INFINITY,
                    0.0,
                    0.0,
                ]),
                merges: Some(merges.clone()),
                role_ids: vec![("bos", u32::MAX), ("eos", 10), ("unk", 2)],
                add_bos: Some(true),
                add_eos: Some(true),
                ..VocabSpec::default()
            };
            let tokenizer = Tokenizer::new(&spec).unwrap();
            for text in
                ["", "ab", "xyz abab ▁ é\n\n", "\u{0}", &"ab".repeat(1000), &"🔥".repeat(1000)]
            {
                for parse_special in [false, true] {
                    let ids =
                        tokenizer.encode(text, EncodeOptions { add_special: true, parse_special });
                    assert!(
                        ids.iter().all(|&id| (id as usize) < tokens.len()),
                        "{model} {kind} {text:?} {ids:?}"
                    );
                    tokenizer.decode(&ids, false);
                }
            }
            tokenizer.decode(&[0, 9, 10, 11, 1000, u32::MAX], false);
        }
    }
}

/// A byte-level vocabulary with a few merges, long and short words.
fn byte_level() -> Tokenizer {
    let merges = ["a b", "ab ab", "abab abab", "Ġ ab", "Ġ Ġ", "ĠĠ ĠĠ", "Ã ©", "b a", "1 2", "12 3"];
    let joined: Vec<String> = merges.iter().map(|merge| merge.replace(' ', "")).collect();
    let rest: Vec<_> = joined.iter().map(|text| (text.as_str(), NORMAL)).collect();
    let texts = Texts::bytes_and(&rest);
    let merges = merges.iter().map(|merge| merge.as_bytes()).collect();
    Tokenizer::new(&VocabSpec {
        merges: Some(merges),
        pre: Some("qwen2".into()),
        ..texts.spec("gpt2")
    })
    .unwrap()
}

/// Merging as it is defined, without queue or cache: join the first of the best pairs until there is none.
fn merged_by_definition(word: &str) -> Vec<String> {
    let merges = ["a b", "ab ab", "abab abab", "b a"];
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let rank = |i: usize| {
            merges.iter().position(|merge| *merge == format!("{} {}", parts[i], parts[i + 1]))
        };
        let best = (0..parts.len().saturating_sub(1)).filter_map(|i| Some((rank(i)?, i))).min();
        let Some((_, i)) = best else { return parts };
        let right = parts.remove(i + 1);
        parts[i].push_str(&right);
    }
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in "[ab12é \n😀]{0,80}|\\PC{0,30}") {
        let tokenizer = byte_level();
        prop_assert_eq!(tokenizer.decode(&plain(&tokenizer, &text), false), text);
    }

    #[test]
    fn queue_and_scan_merge_as_defined(word in "[abx]{1,30}|(ab){20,60}|[ab]{40,90}") {
        let tokenizer = byte_level();
        let got: Vec<_> = plain(&tokenizer, &word).iter().map(|&id| tokenizer.vocab().piece(id).to_vec()).collect();
        let want: Vec<_> = merged_by_definition(&word).into_iter().map(String::into_bytes).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn streaming_equals_decoding_at_once(ids in proptest::collection::vec(0u32..300, 0..60)) {
        for tokenizer in [byte_level(), Tokenizer::new(&Texts::sentence_piece(&["▁", "▁a", "é"]).spec("llama")).unwrap()] {
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.vocab().piece(id).to_vec()).collect();
            let mut stream = StreamDecoder::new(DecodeOptions { skip_special: false, at_text_start: false });
            let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id).to_owned()).collect();
            text.push_str(stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn streams_hold_back_unfinished_characters() {
    let tokenizer = byte_level();
    let mut stream = StreamDecoder::new(DecodeOptions::default());
    let chunks: Vec<String> =
        "a😀é".bytes().map(|byte| stream.push(&tokenizer, u32::from(byte)).to_owned()).collect();
    assert_eq!(chunks, ["a", "", "", "", "😀", "", "é"]);
    assert_eq!(stream.push(&tokenizer, 0xf0), "");
    assert_eq!(stream.push(&tokenizer, u32::from(b'x')), "\u{fffd}x");
    assert_eq!(stream.push(&tokenizer, 0xc3), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn a_continued_text_keeps_its_first_blank() {
    let texts = Texts::sentence_piece(&["▁a"]);
    let tokenizer = Tokenizer::new(&texts.spec("llama")).unwrap();
    let first = |at_text_start| {
        let mut stream = StreamDecoder::new(DecodeOptions { skip_special: true, at_text_start });
        assert_eq!(stream.push(&tokenizer, 1), "");
        stream.push(&tokenizer, 259).to_owned()
    };
    assert_eq!((first(true).as_str(), first(false).as_str()), ("a", " a"));
}
