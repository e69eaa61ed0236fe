//! A vocabulary as the file states it.

use zinc_gguf::Metadata;

use crate::error::TokenError;

/// Tokens and merges beyond this cannot be numbered with 32 bits together with the strings merges may add.
const MAX_ENTRIES: usize = 1 << 28;

/// The tokenizer metadata of a GGUF file (`tokenizer.ggml.*`), borrowed from it.
///
/// Field names are the keys' names. Nothing in here is trusted.
#[derive(Default, Clone)]
pub struct VocabSpec<'a> {
    /// `general.name`; some models' special tokens behave in ways that no other key tells.
    pub name: Option<String>,
    /// `tokenizer.ggml.model`: the algorithm.
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<&'a [u8]>,
    /// `tokenizer.ggml.scores`, by id.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`, by id.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`, best first, each "left right".
    pub merges: Option<Vec<&'a [u8]>>,
    /// `tokenizer.ggml.bos_token_id` and its kin: the key's middle part (`bos`, `eos`, …) and the id.
    pub role_ids: Vec<(&'static str, u32)>,
    /// `tokenizer.ggml.add_bos_token`
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`
    pub add_space_prefix: Option<bool>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Role names and the keys that may give their ids, newer keys first.
const ROLE_KEYS: [(&str, &str); 12] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("eot", "tokenizer.ggml.eot_token_id"),
    ("eom", "tokenizer.ggml.eom_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("fim_pre", "tokenizer.ggml.fim_pre_token_id"),
    ("fim_suf", "tokenizer.ggml.fim_suf_token_id"),
    ("fim_mid", "tokenizer.ggml.fim_mid_token_id"),
    ("fim_pad", "tokenizer.ggml.fim_pad_token_id"),
    ("fim_rep", "tokenizer.ggml.fim_rep_token_id"),
    ("fim_sep", "tokenizer.ggml.fim_sep_token_id"),
];

/// Keys that older converters wrote for the same roles.
const OLD_ROLE_KEYS: [(&str, &str); 3] = [
    ("fim_pre", "tokenizer.ggml.prefix_token_id"),
    ("fim_suf", "tokenizer.ggml.suffix_token_id"),
    ("fim_mid", "tokenizer.ggml.middle_token_id"),
];

impl<'a> VocabSpec<'a> {
    /// Reads the keys from a file's metadata.
    pub fn from_metadata(metadata: &'a Metadata) -> Result<Self, TokenError> {
        let str_of = |key| metadata.str(key).map_err(wrong);
        let bool_of = |key| metadata.bool(key).map_err(wrong);
        let strings = |key| match metadata.strings(key) {
            Ok(found) => Ok(found.map(|strings| strings.iter().collect::<Vec<_>>())),
            Err(error) => Err(wrong(error)),
        };
        // Ids that do not fit (some converters write -1 for "none") name no token.
        let role_ids = ROLE_KEYS
            .iter()
            .chain(&OLD_ROLE_KEYS)
            .filter_map(|&(role, key)| {
                let id = metadata.get(key)?.as_integer()?;
                Some((role, u32::try_from(id).ok()?))
            })
            .collect();
        let model = str_of("tokenizer.ggml.model")?;
        Ok(Self {
            name: str_of("general.name").ok().flatten().map(str::to_owned),
            model: model.ok_or(TokenError::MissingKey { key: "tokenizer.ggml.model" })?.to_owned(),
            pre: str_of("tokenizer.ggml.pre")?.map(str::to_owned),
            tokens: strings(TOKENS)?.unwrap_or_default(),
            scores: scores(metadata)?,
            token_types: metadata.i32s(TOKEN_TYPE).map_err(wrong)?,
            merges: strings(MERGES)?,
            role_ids,
            add_bos: bool_of("tokenizer.ggml.add_bos_token")?,
            add_eos: bool_of("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: bool_of("tokenizer.ggml.add_space_prefix")?,
        })
    }

    /// Checks that the arrays fit together and can be numbered.
    pub(super) fn check_lengths(&self) -> Result<(), TokenError> {
        let n_tokens = self.tokens.len();
        let n_merges = self.merges.as_ref().map_or(0, Vec::len);
        if n_tokens == 0 {
            return Err(TokenError::MissingKey { key: TOKENS });
        }
        if n_tokens > MAX_ENTRIES || n_merges > MAX_ENTRIES {
            return Err(TokenError::VocabularySize { n_tokens, n_merges });
        }
        let check = |key, found: Option<usize>| match found {
            Some(found) if found < n_tokens => {
                Err(TokenError::ArrayLength { key, found, n_tokens })
            }
            _ => Ok(()),
        };
        check(SCORES, self.scores.as_ref().map(Vec::len))?;
        check(TOKEN_TYPE, self.token_types.as_ref().map(Vec::len))
    }

    /// The id that the file gives for a role, if it names a token.
    pub(super) fn role(&self, role: &str) -> Option<u32> {
        let given = self.role_ids.iter().find(|&&(name, _)| name == role);
        given.map(|&(_, id)| id).filter(|&id| (id as usize) < self.tokens.len())
    }
}

/// Scores may be stored as floats or as integers.
fn scores(metadata: &Metadata) -> Result<Option<Vec<f32>>, TokenError> {
    match metadata.f32s(SCORES) {
        Ok(scores) => Ok(scores),
        Err(error) => match metadata.i32s(SCORES) {
            Ok(scores) => {
                Ok(scores.map(|scores| scores.iter().map(|&score| score as f32).collect()))
            }
            Err(_) => Err(wrong(error)),
        },
    }
}

fn wrong(error: impl std::fmt::Display) -> TokenError {
    TokenError::Metadata(error.to_string())
}
