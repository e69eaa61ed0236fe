//! Tokens with a role: beginning of sequence, end of turn, and so on.
//!
//! Files name only some of them, so the rest are recognised by their text, with the same lists as llama.cpp: models are
//! converted and tested against those.

use hashbrown::HashMap;

use super::{TokenKind, VocabSpec};

/// Ids of the tokens with a role. `None` if the vocabulary has no such token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Ends a message inside a turn.
    pub eom: Option<u32>,
    /// Stands for text without tokens.
    pub unk: Option<u32>,
    /// Fills unused places.
    pub pad: Option<u32>,
    /// Fill-in-the-middle: before the prefix.
    pub fim_pre: Option<u32>,
    /// Fill-in-the-middle: before the suffix.
    pub fim_suf: Option<u32>,
    /// Fill-in-the-middle: before the middle.
    pub fim_mid: Option<u32>,
    /// Fill-in-the-middle: padding.
    pub fim_pad: Option<u32>,
    /// Fill-in-the-middle: before a repository's name.
    pub fim_rep: Option<u32>,
    /// Fill-in-the-middle: between files.
    pub fim_sep: Option<u32>,
    /// Every token after which generation stops, sorted.
    pub end_of_generation: Vec<u32>,
}

const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM: &[&str] = &["<|eom_id|>"];
const FIM_PRE: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUF: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MID: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEP: &[&str] = &["<|file_sep|>"];
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// gpt-oss structure that applications must see.
const ALWAYS_VISIBLE: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Roles {
    /// Finds all roles and corrects the kinds of tokens whose role contradicts the kind in the file.
    pub(super) fn find(spec: &VocabSpec, kinds: &mut [TokenKind]) -> Self {
        let ids = ids_of_known_texts(spec);
        let mut control = |id: u32| kinds[id as usize] = TokenKind::Control;
        // The id in the file, else the first text of the list that is a token.
        let mut named = |role: &str, texts: &[&str]| {
            spec.role(role).or_else(|| {
                let id = texts.iter().find_map(|text| ids.get(text.as_bytes())).copied()?;
                control(id);
                Some(id)
            })
        };
        let mut roles = Self {
            eot: named("eot", EOT),
            eom: named("eom", EOM),
            fim_pre: named("fim_pre", FIM_PRE),
            fim_suf: named("fim_suf", FIM_SUF),
            fim_mid: named("fim_mid", FIM_MID),
            fim_pad: named("fim_pad", FIM_PAD),
            fim_rep: named("fim_rep", FIM_REP),
            fim_sep: named("fim_sep", FIM_SEP),
            bos: spec.role("bos"),
            eos: spec.role("eos"),
            unk: spec.role("unk"),
            pad: spec.role("pad"),
            end_of_generation: Vec::new(),
        };
        if spec.model == "llama" {
            // SentencePiece's own defaults, for files that name none.
            let default = |id: u32| Some(id).filter(|&id| (id as usize) < spec.tokens.len());
            let given = |role| spec.role_ids.iter().any(|&(name, _)| name == role);
            roles.unk = roles.unk.or(if given("unk") { None } else { default(0) });
            roles.bos = roles.bos.or(if given("bos") { None } else { default(1) });
            roles.eos = roles.eos.or(if given("eos") { None } else { default(2) });
        }
        roles.end_of_generation = roles.end_ids(&ids, kinds);
        roles
    }

    fn end_ids(&self, ids: &HashMap<&[u8], u32>, kinds: &mut [TokenKind]) -> Vec<u32> {
        let id_of = |text: &str| ids.get(text.as_bytes()).copied();
        let mut ends: Vec<u32> =
            [self.fim_pad, self.fim_rep, self.fim_sep].into_iter().flatten().collect();
        for id in END_OF_GENERATION.iter().filter_map(|text| id_of(text)) {
            ends.push(id);
            kinds[id as usize] = TokenKind::Control;
        }
        for id in ALWAYS_VISIBLE.iter().filter_map(|text| id_of(text)) {
            kinds[id as usize] = TokenKind::UserDefined;
        }
        ends.extend([self.eos, self.eot, self.eom].into_iter().flatten());

        // In harmony-like formats "<|end|>" ends a message, and other tokens end the turn.
        let has = |text: &str| id_of(text).is_some_and(|id| ends.contains(&id));
        let has_call = has("<|call|>") || has("<|calls|>");
        let message_end = (has_call && (has("<|return|>") || has("<|flush|>")))
            .then(|| id_of("<|end|>"))
            .flatten();
        // Gemma 4 and PLaMo have "</s>" as ordinary text (it is an HTML tag).
        let ordinary =
            (has("<|tool_response>") || has("<|plamo:eos|>")).then(|| id_of("</s>")).flatten();
        for (id, kind) in [(message_end, TokenKind::UserDefined), (ordinary, TokenKind::Normal)] {
            if let Some(id) = id.filter(|id| ends.contains(id)) {
                ends.retain(|&end| end != id);
                kinds[id as usize] = kind;
            }
        }
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

/// Ids of the texts that any list above holds; of equal texts the first.
fn ids_of_known_texts<'a>(spec: &VocabSpec<'a>) -> HashMap<&'a [u8], u32> {
    let lists = [
        EOT,
        EOM,
        FIM_PRE,
        FIM_SUF,
        FIM_MID,
        FIM_PAD,
        FIM_REP,
        FIM_SEP,
        END_OF_GENERATION,
        ALWAYS_VISIBLE,
        &["<|plamo:eos|>"],
    ];
    let known: hashbrown::HashSet<&[u8]> =
        lists.iter().flat_map(|list| list.iter().map(|text| text.as_bytes())).collect();
    // Nearly every token is ruled out by its first byte, without hashing.
    let candidate = |text: &[u8]| matches!(text.first(), Some(b'<' | b'[' | b'_' | 0xe2));
    let mut ids = HashMap::new();
    for (id, &text) in spec.tokens.iter().enumerate() {
        if candidate(text) && known.contains(text) {
            ids.entry(text).or_insert(id as u32);
        }
    }
    ids
}
