//! The pre-tokenizers by name: which stages each `tokenizer.ggml.pre` stands for.
//!
//! Names and aliases are those that converters write. Expressions are the published ones of each model's
//! `tokenizer.json`.

use super::set::{
    AFMOE_ASIAN, ASCII_PUNCTUATION, DEEPSEEK_CASED, DEEPSEEK_CJK, DEEPSEEK_PUNCTUATION, HAN_KANA,
    Set, Text,
};
use super::words::{
    Contraction, DEEPSEEK3, GPT4O, LLAMA3, Letters, QWEN2, QWEN35, Space, Symbols, Tail, Words,
};
use super::{Lead, NEWLINE, Stage, Triples, split};
use crate::unicode::{L, M, N, NL, P, WS};

/// What the symbols are that merges start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alphabet {
    /// Bytes; token texts spell them in GPT-2's printable alphabet.
    Bytes,
    /// Characters, with bytes as `<0xXX>` tokens for characters that have no token; token texts spell blanks as `▁`.
    Characters,
}

/// A pre-tokenizer and the tokenizer settings that go with its name.
pub(crate) struct PreTokenizer {
    names: &'static [&'static str],
    stages: &'static [Stage],
    /// A word that is a token is not merged from parts.
    pub(crate) ignore_merges: bool,
    /// Default of `tokenizer.ggml.add_bos_token`.
    pub(crate) add_bos: bool,
    pub(crate) alphabet: Alphabet,
}

impl PreTokenizer {
    /// Finds a pre-tokenizer by a value of `tokenizer.ggml.pre`.
    pub(crate) fn by_name(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|pre| pre.names.contains(&name))
    }

    /// All names, sorted.
    pub(crate) fn known_names() -> Vec<&'static str> {
        let mut names: Vec<_> = ALL.iter().flat_map(|pre| pre.names).copied().collect();
        names.sort_unstable();
        names
    }

    /// Calls `emit` with start and end of each word of `text`, in order, without gaps.
    pub(crate) fn split(&self, text: &str, emit: &mut dyn FnMut(usize, usize)) {
        split(self.stages, Text::new(text), 0, emit);
    }
}

const fn pre(names: &'static [&'static str], stages: &'static [Stage]) -> PreTokenizer {
    PreTokenizer { names, stages, ignore_merges: false, add_bos: false, alphabet: Alphabet::Bytes }
}

const fn run(set: Set) -> Stage {
    Stage::Run { lead: Lead::None, set, min: 1, max: usize::MAX }
}

const fn run_behind(lead: Lead, set: Set) -> Stage {
    Stage::Run { lead, set, min: 1, max: usize::MAX }
}

const fn up_to(max: usize, set: Set) -> Stage {
    Stage::Run { lead: Lead::None, set, min: 1, max }
}

const NUMBER: Set = Set::classes(N);
/// `\p{N}`
const EACH_NUMBER: Stage = up_to(1, NUMBER);
/// `\p{N}{1,3}`
const NUMBERS_TO_3: Stage = up_to(3, NUMBER);
/// `[0-9][0-9][0-9]`
const THREE_DIGITS: Stage =
    Stage::Run { lead: Lead::None, set: Set::ascii("0123456789"), min: 3, max: 3 };
/// `[^\n]+|[\n]+`
const LINES: Stage = Stage::Runs(&[Set::ascii("\n").not(), Set::ascii("\n")]);
/// `[^(\s|.,!?…。，、।۔،)]`
const BLOOM: Set = Set {
    ranges: &[
        ('\u{60c}', '\u{60c}'),
        ('\u{6d4}', '\u{6d4}'),
        ('\u{964}', '\u{964}'),
        ('\u{2026}', '\u{2026}'),
        ('\u{3001}', '\u{3002}'),
        ('\u{ff0c}', '\u{ff0c}'),
    ],
    ..Set::ascii("(|.,!?)").with_classes(WS).not()
};

const KIMI_K2: Words = Words {
    han_runs: true,
    letters: Letters::Cased { marks: M, han: false },
    tail: Tail::Newlines,
    ..GPT4O
};
const TEKKEN: Words = Words { contraction: Contraction::Never, max_digits: 1, ..GPT4O };
const YOUTU: Words = Words { max_digits: 1, ..GPT4O };
const SEED_CODER: Words =
    Words { symbols: Symbols::Outside(WS | L | N | NL), tail: Tail::None, ..QWEN2 };
const UFAKZEKA: Words = Words { contraction: Contraction::Never, ..QWEN2 };
const MINICPM5: Words = Words { max_digits: usize::MAX, ..LLAMA3 };
const JAIS2: Words = Words { space: Space::Halving, ..LLAMA3 };
const SPARK: Words = Words { tail: Tail::None, space: Space::SingleNewlines, ..DEEPSEEK3 };
const EXAONE_MOE: Words =
    Words { letters: Letters::Phrase, tail: Tail::OneNewlineOrSlash, ..QWEN2 };

/// Youtu's four kinds of CJK runs.
const YOUTU_CJK: &[Set] = &[
    Set::ranges(&[('\u{3131}', '\u{318e}'), ('\u{ac00}', '\u{d7a3}')]),
    Set::ranges(&[
        ('\u{2014}', '\u{2014}'),
        ('\u{2018}', '\u{2019}'),
        ('\u{201c}', '\u{201d}'),
        ('\u{2026}', '\u{2026}'),
        ('\u{3001}', '\u{303f}'),
        ('\u{fe30}', '\u{fe4f}'),
        ('\u{ff01}', '\u{ff01}'),
        ('\u{ff0c}', '\u{ff0c}'),
        ('\u{ff1a}', '\u{ff1b}'),
    ]),
    Set::ranges(&[('\u{3105}', '\u{312f}')]),
    HAN_KANA,
];

static ALL: &[PreTokenizer] = &[
    // `default` is also what a file without the key gets.
    pre(
        &["default"],
        &[run(Set::classes(P).with_ascii("$+<=>^~|")), Stage::Gpt2, run(NUMBER), THREE_DIGITS],
    ),
    pre(
        &[
            "a.x-4.0",
            "exaone4",
            "gigachat",
            "gpt-2",
            "granite-docling",
            "jais",
            "jina-de",
            "jina-es",
            "jina-v1-en",
            "jina-v2-code",
            "jina-v2-de",
            "jina-v2-es",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "phi-2",
            "roberta-bpe",
            "trillion",
        ],
        &[Stage::Gpt2],
    ),
    pre(
        &[
            "codeshell",
            "command-r",
            "exaone",
            "mellum2",
            "minerva-7b",
            "refact",
            "smollm",
            "starcoder",
        ],
        &[EACH_NUMBER, Stage::Gpt2],
    ),
    pre(&["falcon"], &[run(Set::classes(P).with_ascii("$+<=>^~|`")), Stage::Gpt2, THREE_DIGITS]),
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..pre(
            &[
                "falcon-h1",
                "falcon3",
                "jina-v5-nano",
                "lfm2",
                "llama-bpe",
                "llama-v3",
                "llama3",
                "midm-2.0",
                "pixtral",
            ],
            &[Stage::Words(&LLAMA3)],
        )
    },
    pre(&["chatglm-bpe", "dbrx", "smaug-bpe"], &[Stage::Words(&LLAMA3)]),
    PreTokenizer { ignore_merges: true, ..pre(&["glm4", "glm5"], &[Stage::Words(&LLAMA3)]) },
    PreTokenizer {
        ignore_merges: true,
        ..pre(&["minicpm5"], &[NUMBERS_TO_3, Stage::Words(&MINICPM5)])
    },
    pre(&["jais-2"], &[Stage::Words(&JAIS2)]),
    pre(
        &[
            "bailingmoe",
            "bailingmoe2",
            "deepseek-r1-qwen",
            "f2llmv2",
            "grok-2",
            "hunyuan",
            "kormo",
            "llada-moe",
            "megrez",
            "qwen2",
            "solar-open",
            "stablelm2",
        ],
        &[Stage::Words(&QWEN2)],
    ),
    pre(&["qwen35"], &[Stage::Words(&QWEN35)]),
    pre(&["laguna"], &[LINES, Stage::Words(&QWEN2)]),
    pre(&["seed-coder"], &[Stage::Words(&SEED_CODER)]),
    pre(&["ufakzeka"], &[Stage::Words(&UFAKZEKA)]),
    pre(&["exaone-moe"], &[Stage::Words(&EXAONE_MOE)]),
    pre(&["gpt-4o", "kanana2", "llama4", "minimax-m2", "talkie"], &[Stage::Words(&GPT4O)]),
    PreTokenizer {
        ignore_merges: true,
        ..pre(&["granite-embed-multi-97m"], &[Stage::Words(&GPT4O)])
    },
    pre(
        &["cohere2moe", "tiny_aya"],
        &[Stage::Triples(Triples::BeforeBoundary), Stage::Words(&GPT4O)],
    ),
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..pre(&["tekken"], &[Stage::Words(&TEKKEN)])
    },
    PreTokenizer {
        ignore_merges: true,
        ..pre(&["youtu"], &[Stage::Runs(YOUTU_CJK), Stage::Words(&YOUTU)])
    },
    pre(&["kimi-k2"], &[Stage::Words(&KIMI_K2)]),
    pre(
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        &[NUMBERS_TO_3, run(HAN_KANA), Stage::Words(&DEEPSEEK3)],
    ),
    pre(&["spark2_5"], &[NUMBERS_TO_3, run(HAN_KANA), Stage::Words(&SPARK), EACH_NUMBER]),
    pre(
        &["afmoe"],
        &[Stage::Triples(Triples::Numbers), run(AFMOE_ASIAN), Stage::Words(&DEEPSEEK3)],
    ),
    pre(
        &["deepseek-llm"],
        &[
            NEWLINE,
            run_behind(Lead::Space, DEEPSEEK_CASED),
            run_behind(Lead::Space, DEEPSEEK_PUNCTUATION),
            Stage::TrailingSpace,
            run(DEEPSEEK_CJK),
            run(NUMBER),
        ],
    ),
    pre(
        &["deepseek-coder"],
        &[
            NEWLINE,
            run_behind(Lead::Space, Set::classes(L)),
            run_behind(Lead::Space, Set::classes(P)),
            run(DEEPSEEK_CJK),
            EACH_NUMBER,
        ],
    ),
    pre(&["bloom", "gpt3-finnish", "poro-chat"], &[run_behind(Lead::Blank, BLOOM)]),
    pre(&["viking"], &[run_behind(Lead::Blank, BLOOM), EACH_NUMBER]),
    PreTokenizer {
        add_bos: true,
        ..pre(
            &["chameleon"],
            &[
                Stage::Chameleon,
                Stage::Blanks,
                EACH_NUMBER,
                up_to(1, Set::classes(P).with_ascii(ASCII_PUNCTUATION)),
                Stage::Gpt2,
            ],
        )
    },
    pre(&["superbpe"], &[run(NUMBER), Stage::Triples(Triples::Lookahead)]),
    PreTokenizer {
        alphabet: Alphabet::Characters,
        add_bos: true,
        ..pre(&["gemma4", "granite-embed-multi-311m"], &[LINES])
    },
    PreTokenizer { alphabet: Alphabet::Characters, ..pre(&["sarvam-moe"], &[LINES]) },
];
