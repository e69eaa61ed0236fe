//! A vocabulary as llguidance reads it.

use std::sync::Arc;

use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use zinc_token::{TokenKind, Tokenizer};

use crate::ChatError;

/// The tables of one vocabulary.
pub(super) struct VocabTables {
    factory: ParserFactory,
    env: TokEnv,
    ends: Vec<u32>,
    /// Every token but those that end the generation, as a mask.
    all_but_ends: Vec<u32>,
}

impl VocabTables {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let vocab = tokenizer.vocab();
        let n_tokens = vocab.n_tokens() as u32;
        let ends = vocab.roles().end_of_generation.clone();
        let Some(&end) = ends.first() else {
            return Err(ChatError::Vocabulary("it has no token that ends an answer".into()));
        };
        let words: Vec<Vec<u8>> = (0..n_tokens).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(n_tokens, end), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| ChatError::Vocabulary(error.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        let mut all_but_ends = vec![u32::MAX; n_tokens.div_ceil(32) as usize];
        for id in ends.iter().copied().chain(n_tokens..n_tokens.next_multiple_of(32)) {
            clear(&mut all_but_ends, id);
        }
        Ok(Self { factory, env, ends, all_but_ends })
    }

    /// A matcher of a grammar; the error is llguidance's.
    pub fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let parser = self.factory.create_parser_from_init_default(GrammarInit::Serialized(grammar));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(matcher),
        }
    }

    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    pub fn all_but_ends(&self) -> &[u32] {
        &self.all_but_ends
    }

    /// The text of a token, a special one's too.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let trie = self.env.tok_trie();
        if id as usize >= trie.vocab_size() {
            return &[];
        }
        let bytes = trie.token(id);
        bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER]).unwrap_or(bytes)
    }

    pub fn n_tokens(&self) -> u32 {
        self.env.tok_trie().vocab_size() as u32
    }

    /// Tokens that spell `bytes`.
    pub fn spell(&self, bytes: &[u8]) -> Vec<u32> {
        self.env.tok_trie().greedy_tokenize(bytes)
    }
}

/// Takes a token out of a mask.
pub(super) fn clear(mask: &mut [u32], id: u32) {
    if let Some(word) = mask.get_mut((id / 32) as usize) {
        *word &= !(1 << (id % 32));
    }
}

/// A token's bytes; special ones are marked, so that text never stands for them, and those that no text
/// has are empty, so that they are never allowed.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let vocab = tokenizer.vocab();
    let piece = vocab.piece(id);
    match vocab.kind(id) {
        TokenKind::Control | TokenKind::Unknown if !piece.is_empty() => {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], piece].concat()
        }
        TokenKind::Control | TokenKind::Unknown | TokenKind::Unused => Vec::new(),
        // No text has this byte.
        _ if piece.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte => piece.to_vec(),
    }
}
