//! The scanners against an engine that runs the published expressions, on random text.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use fancy_regex::Regex;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::PreTokenizer;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const DEEPSEEK_CASED: &str = r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+";
const DEEPSEEK_CJK: &str = r"[一-龥ࠀ-一가-\x{d7ff}]+";
const HAN_KANA: &str = r"[一-龥぀-ゟ゠-ヿ]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const LINES: &str = r"[^\n]+|[\n]+";
const AFMOE_ASIAN: &str = r"[一-鿿㐀-䶿\x{f900}-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+";

/// One name of each list, with its expressions.
const PUBLISHED: &[(&str, &[&str])] = &[
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    ("gpt-2", &[GPT2]),
    ("starcoder", &[r"\p{N}", GPT2]),
    ("falcon", &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    ("llama-bpe", &[LLAMA3]),
    ("glm4", &[LLAMA3]),
    ("chatglm-bpe", &[LLAMA3]),
    (
        "minicpm5",
        &[
            r"\p{N}{1,3}",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    (
        "jais-2",
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        ],
    ),
    ("qwen2", &[QWEN2]),
    (
        "bailingmoe",
        &[
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
    ),
    ("qwen35", &[QWEN35]),
    ("laguna", &[LINES, QWEN2]),
    (
        "seed-coder",
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    (
        "ufakzeka",
        &[r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    ),
    (
        "exaone-moe",
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
    ),
    ("gpt-4o", &[O200K]),
    ("llama4", &[O200K]),
    ("minimax-m2", &[O200K]),
    ("tiny_aya", &[r"\d{1,3}(?=(?:\d{3})*\b)", O200K]),
    ("tekken", &[TEKKEN]),
    ("youtu", &[r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", YOUTU]),
    ("kimi-k2", &[KIMI_K2]),
    ("deepseek-v3", &[r"\p{N}{1,3}", HAN_KANA, DEEPSEEK3]),
    ("spark2_5", &[r"\p{N}{1,3}", HAN_KANA, SPARK, r"\p{N}"]),
    (
        "deepseek-llm",
        &[
            r"[\r\n]",
            DEEPSEEK_CASED,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ],
    ),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
    ("bloom", &[BLOOM]),
    ("viking", &[BLOOM, r"\p{N}"]),
    (
        "chameleon",
        &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
    ),
    ("superbpe", &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]),
    ("gemma4", &[LINES]),
    ("sarvam-moe", &[LINES]),
    ("afmoe", &[AFMOE_TRIPLES, AFMOE_ASIAN, DEEPSEEK3]),
];

/// Runs of numbers, first one or two so that threes remain.
const AFMOE_TRIPLES: &str =
    r"\p{N}{3}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}{1,2}(?=(?:\p{N}{3})*(?!\p{N}))";

/// Cuts every piece at matches and between them, one expression after the other.
fn isolated(expressions: &[Regex], text: &str) -> Vec<(usize, usize)> {
    let mut pieces = vec![(0, text.len())];
    for expression in expressions {
        let mut next = Vec::new();
        for (start, end) in pieces {
            let mut at = start;
            for found in expression.find_iter(&text[start..end]) {
                let found = found.unwrap();
                next.push((at, start + found.start()));
                next.push((start + found.start(), start + found.end()));
                at = start + found.end();
            }
            next.push((at, end));
        }
        next.retain(|(start, end)| start < end);
        pieces = next;
    }
    pieces
}

fn scanned(pre: &PreTokenizer, text: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    pre.split(text, &mut |start, end| words.push((start, end)));
    words
}

/// Text of the kind that tells the expressions apart.
fn text() -> impl Strategy<Value = String> {
    let characters: Vec<char> =
        "aAbzZésſǅßЖжʰª日本々〇한ㄅカ　、“—ก่ิहि\u{301}\u{300}\u{200d}0127½²٣Ⅷ$+^~`|<=>_!?.,:;'\"-/\\()[]{}#% \t\r\n\u{a0}\u{85}\u{2028}\u{0}\u{7f}😀☠\u{fe0f}।۔،"
            .chars()
            .collect();
    let snippets = vec![
        "'s",
        "'T",
        "'re",
        "'VE",
        "'ll",
        "'d",
        "'ſ",
        " hello",
        "HELLO",
        "camelCase",
        "McDonald",
        "  ",
        "    ",
        "\n\n",
        "\r\n",
        " \n ",
        "1234567",
        "12345",
        "3.14",
        "...",
        "ÉCOLE",
        "ПРИВЕТ",
        "हिन्दी",
        "ภาษาไทย",
        "中文字符",
        "カタカナ",
        "한국어",
        "<sentinel:12>",
        "IMGIMGABCZ",
        " !",
        "/*",
        "//\n",
        "a b c",
        "😀😀",
    ];
    let part = prop_oneof![
        8 => proptest::sample::select(characters).prop_map(String::from),
        4 => proptest::sample::select(snippets).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
        1 => (proptest::sample::select(vec![" ", "\n", "7", "a", "A", "\u{301}", "'", "日"]), 1..40usize)
            .prop_map(|(unit, n)| unit.repeat(n)),
    ];
    proptest::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

/// `PROPTEST_CASES` sets the number of texts for a long run by hand.
fn check(name: &str, expressions: &[&str]) {
    let pre = PreTokenizer::by_name(name).unwrap();
    let expressions: Vec<Regex> =
        expressions.iter().map(|source| Regex::new(source).unwrap()).collect();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&text(), |text| {
        let want = isolated(&expressions, &text);
        let got = scanned(pre, &text);
        let show = |words: &[(usize, usize)]| {
            words.iter().map(|&(s, e)| text[s..e].to_owned()).collect::<Vec<_>>()
        };
        prop_assert!(
            got == want,
            "{name}: {text:?}\n got  {:?}\n want {:?}",
            show(&got),
            show(&want)
        );
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn scanners_agree_with_the_published_expressions() {
    for (name, expressions) in PUBLISHED {
        check(name, expressions);
    }
}

#[test]
fn long_white_space_halves() {
    let pre = PreTokenizer::by_name("jais-2").unwrap();
    let lengths = |text: &str| scanned(pre, text).iter().map(|(s, e)| e - s).collect::<Vec<_>>();
    assert_eq!(lengths(&(" ".repeat(1500) + "x")), [512, 512, 256, 128, 64, 16, 8, 2, 1, 2]);
    assert_eq!(lengths(&" ".repeat(1024)), [512, 512]);
}
