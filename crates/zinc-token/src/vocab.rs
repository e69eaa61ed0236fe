//! The vocabulary: token bytes, kinds, and the tokens with a role.

mod index;
mod roles;
mod spec;
mod spelling;

use hashbrown::HashMap;

pub(crate) use index::{Arena, TextIndex};
pub use roles::Roles;
pub use spec::VocabSpec;
pub(crate) use spelling::{Spelling, byte_of};

use crate::error::TokenError;

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for text that no token covers.
    Unknown,
    /// Structure of the prompt; never made from text unless the caller asks for special tokens to be parsed.
    Control,
    /// A text that is always one token.
    UserDefined,
    /// Present in the embedding matrix only.
    Unused,
    /// One byte, written `<0xXX>`.
    Byte,
}

impl TokenKind {
    /// From GGUF's number; unknown numbers count as unused, as nothing else is known about such a token.
    pub(crate) fn from_gguf(number: i32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }
}

/// Token bytes, kinds and roles, indexed by token id.
pub struct Vocab {
    pieces: Arena,
    kinds: Vec<TokenKind>,
    roles: Roles,
    /// Ids of tokens that are looked for in text as they are: control, user-defined and unknown ones, by text.
    special_by_text: HashMap<Vec<u8>, u32>,
    /// Tokens behind which white space is dropped when they are parsed from text (Phi-3).
    strip_right: Vec<u32>,
}

impl Vocab {
    pub(crate) fn new(spec: &VocabSpec, spelling: Spelling) -> Result<Self, TokenError> {
        spec.check_lengths()?;
        let mut kinds: Vec<TokenKind> = match &spec.token_types {
            Some(types) => {
                types.iter().take(spec.tokens.len()).map(|&t| TokenKind::from_gguf(t)).collect()
            }
            None => vec![TokenKind::Normal; spec.tokens.len()],
        };
        let roles = Roles::find(spec, &mut kinds);

        let n_bytes = spec.tokens.iter().map(|text| text.len()).sum();
        let mut pieces = Arena::with_capacity(spec.tokens.len(), n_bytes);
        let mut special_by_text = HashMap::new();
        let mut buffer = Vec::new();
        for (id, (&text, &kind)) in spec.tokens.iter().zip(&kinds).enumerate() {
            if matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown) {
                pieces.push(text);
                if !text.is_empty() {
                    special_by_text.entry(text.to_vec()).or_insert(id as u32);
                }
                continue;
            }
            buffer.clear();
            if kind == TokenKind::Byte {
                match byte_of(text) {
                    Some(byte) => buffer.push(byte),
                    None => buffer.extend_from_slice(text),
                }
            } else {
                spelling.decode(text, &mut buffer);
            }
            pieces.push(&buffer);
        }
        let strip_right = strip_right(spec, &kinds);
        Ok(Self { pieces, kinds, roles, special_by_text, strip_right })
    }

    /// Number of tokens; ids are `0..n_tokens`.
    pub fn n_tokens(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes that a token stands for; a special token's own text. Empty for ids outside the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        // Behind the tokens lie strings that only merges know.
        if id as usize >= self.kinds.len() {
            return &[];
        }
        self.pieces.get(id as usize).unwrap_or(&[])
    }

    /// What a token is for; `Unused` for ids outside the vocabulary.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// Whether a token is structure rather than text: control and unknown tokens.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), TokenKind::Control | TokenKind::Unknown)
    }

    /// The control, user-defined or unknown token with exactly this text.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.special_by_text.get(text.as_bytes()).copied()
    }

    /// Ids of the tokens with a role, such as beginning of sequence.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// The tokens that [`Vocab::is_end_of_generation`] is true of, rising.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.roles.end_of_generation
    }

    /// Whether generation stops at this token: end of sequence, turn, message, and the like.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.roles.end_of_generation.binary_search(&id).is_ok()
    }

    pub(crate) fn strips_right(&self, id: u32) -> bool {
        self.strip_right.binary_search(&id).is_ok()
    }

    /// Indexes the texts that merges can produce, by their bytes.
    ///
    /// Tokens that the file marks as control, unknown or byte are not among them: text never becomes one by merging.
    pub(crate) fn index_mergeable(&self, spec: &VocabSpec, spelling: Spelling) -> TextIndex {
        let mut index = TextIndex::with_capacity(self.n_tokens());
        let mut buffer = Vec::new();
        for (id, &text) in spec.tokens.iter().enumerate() {
            let kind = spec
                .token_types
                .as_ref()
                .map_or(TokenKind::Normal, |types| TokenKind::from_gguf(types[id]));
            if text.is_empty()
                || matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::Byte)
            {
                continue;
            }
            // A token whose piece is its raw text, because it has a special kind, may be spelled differently.
            buffer.clear();
            if spelling.decode(text, &mut buffer) && self.piece(id as u32) == buffer {
                index.insert(&self.pieces, id as u32);
            }
        }
        index
    }

    /// The symbol with these bytes: a token, or a string added for merges that name it.
    pub(crate) fn lookup(&self, index: &TextIndex, bytes: &[u8]) -> Option<u32> {
        index.get(&self.pieces, bytes)
    }

    /// The token with these bytes.
    pub(crate) fn token(&self, index: &TextIndex, bytes: &[u8]) -> Option<u32> {
        self.lookup(index, bytes).filter(|&id| (id as usize) < self.n_tokens())
    }

    /// [`Vocab::lookup`], adding the string if there is none.
    pub(crate) fn symbol(&mut self, index: &mut TextIndex, bytes: &[u8]) -> u32 {
        if let Some(id) = self.lookup(index, bytes) {
            return id;
        }
        let id = self.pieces.len() as u32;
        self.pieces.push(bytes);
        index.insert(&self.pieces, id);
        id
    }

    /// For each byte, whether an indexed string has it directly before a blank. (A blank before a blank does not count.)
    pub(crate) fn bytes_before_blanks(&self, index: &TextIndex) -> [bool; 256] {
        let mut found = [false; 256];
        for text in index.ids().filter_map(|id| self.pieces.get(id as usize)) {
            for pair in text.windows(2) {
                if pair[1] == b' ' && pair[0] != b' ' {
                    found[usize::from(pair[0])] = true;
                }
            }
        }
        found
    }

    /// Ids that are looked for in text, with their texts: user-defined tokens, and with `parse_special` all special ones.
    pub(crate) fn searched(&self, parse_special: bool) -> Vec<(u32, &[u8])> {
        let wanted = |kind| match kind {
            TokenKind::UserDefined => true,
            TokenKind::Control | TokenKind::Unknown => parse_special,
            _ => false,
        };
        let mut found: Vec<_> = self
            .special_by_text
            .iter()
            .filter(|&(_, &id)| wanted(self.kind(id)))
            .map(|(text, &id)| (id, text.as_slice()))
            .collect();
        found.sort_unstable_by_key(|&(id, _)| id);
        found
    }
}

/// Phi-3's converter does not write that its added tokens swallow the white space behind them; llama.cpp recognises the
/// models by `general.name`, and so does everybody who wants their token ids to be right.
fn strip_right(spec: &VocabSpec, kinds: &[TokenKind]) -> Vec<u32> {
    let name = spec.name.as_deref().unwrap_or_default().to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Vec::new();
    }
    let special =
        |kind| matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown);
    let keeps = |text: &[u8]| matches!(text, b"<unk>" | b"<s>" | b"<|endoftext|>");
    (0..spec.tokens.len())
        .filter(|&i| spec.tokens[i] == b"</s>" || (special(kinds[i]) && !keeps(spec.tokens[i])))
        .map(|i| i as u32)
        .collect()
}
