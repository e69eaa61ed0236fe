//! The tokenizer of a model: text to token ids and back.

use std::borrow::Cow;
use std::sync::Mutex;

use zinc_gguf::Metadata;

use crate::encoder::{Scratch, WordEncoder, spelling_of};
use crate::error::TokenError;
use crate::pretokenizer::{Alphabet, PreTokenizer};
use crate::special::{Part, SpecialSearch};
use crate::stream::{DecodeOptions, StreamDecoder};
use crate::vocab::{Spelling, Vocab, VocabSpec};

/// Longest stretch of text encoded in one go, so that positions fit 32 bits. Longer texts are cut here.
const MAX_TEXT: usize = 1 << 30;

/// What [`Tokenizer::encode`] does beside encoding text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the tokens around a text that the model expects (`tokenizer.ggml.add_bos_token`, `add_eos_token`).
    pub add_special: bool,
    /// Turn the texts of control tokens into those tokens. For rendered chat templates; never for what a user wrote.
    pub parse_special: bool,
}

/// A vocabulary with its algorithm. Cheap to share between threads; encoding needs no lock while it runs.
pub struct Tokenizer {
    vocab: Vocab,
    encoder: WordEncoder,
    cut: Cut,
    user_defined: SpecialSearch,
    all_special: SpecialSearch,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    /// Working memory of threads that are not encoding just now.
    idle: Mutex<Vec<Scratch>>,
}

/// How text becomes words.
enum Cut {
    /// Words of the pre-tokenizer, from bytes.
    Words(&'static PreTokenizer),
    /// Pieces of the pre-tokenizer, from characters, cut further at blanks where that changes nothing.
    Pieces(&'static PreTokenizer),
    /// The whole text likewise.
    Blanks,
}

impl Tokenizer {
    /// Builds the tokenizer that a file's `tokenizer.ggml.*` keys describe.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenError> {
        Self::new(&VocabSpec::from_metadata(metadata)?)
    }

    /// Builds a tokenizer from a vocabulary's parts.
    pub fn new(spec: &VocabSpec) -> Result<Self, TokenError> {
        match spec.model.as_str() {
            "gpt2" => {
                let named = spec.pre.as_deref().filter(|pre| !pre.is_empty());
                Self::bpe(spec, named.unwrap_or("default"))
            }
            "gemma4" => Self::bpe(spec, "gemma4"),
            "llama" => Self::spm(spec),
            _ => Err(TokenError::UnsupportedModel { model: spec.model.clone() }),
        }
    }

    fn bpe(spec: &VocabSpec, pre: &str) -> Result<Self, TokenError> {
        let pre = PreTokenizer::by_name(pre).ok_or_else(|| TokenError::UnknownPreTokenizer {
            name: pre.to_owned(),
            known: PreTokenizer::known_names().join(", "),
        })?;
        let mut vocab = Vocab::new(spec, spelling_of(pre.alphabet))?;
        let encoder = WordEncoder::bpe(spec, pre, &mut vocab)?;
        let cut = match pre.alphabet {
            Alphabet::Bytes => Cut::Words(pre),
            Alphabet::Characters => Cut::Pieces(pre),
        };
        // Gemma 4 does not work without; some of its files say otherwise.
        let add_bos = spec.model == "gemma4" || spec.add_bos.unwrap_or(pre.add_bos);
        let add_space_prefix = spec.add_space_prefix.unwrap_or(false);
        Self::assemble(
            vocab,
            encoder,
            cut,
            add_bos,
            spec.add_eos.unwrap_or(false),
            add_space_prefix,
        )
    }

    fn spm(spec: &VocabSpec) -> Result<Self, TokenError> {
        let mut vocab = Vocab::new(spec, Spelling::Plain)?;
        let encoder = WordEncoder::spm(spec, &mut vocab)?;
        let add_bos = spec.add_bos.unwrap_or(true);
        let add_space_prefix = spec.add_space_prefix.unwrap_or(true);
        Self::assemble(
            vocab,
            encoder,
            Cut::Blanks,
            add_bos,
            spec.add_eos.unwrap_or(false),
            add_space_prefix,
        )
    }

    fn assemble(
        vocab: Vocab,
        encoder: WordEncoder,
        cut: Cut,
        add_bos: bool,
        add_eos: bool,
        add_space_prefix: bool,
    ) -> Result<Self, TokenError> {
        let user_defined = SpecialSearch::new(&vocab, false)?;
        let all_special = SpecialSearch::new(&vocab, true)?;
        let idle = Mutex::default();
        Ok(Self {
            vocab,
            encoder,
            cut,
            user_defined,
            all_special,
            add_bos,
            add_eos,
            add_space_prefix,
            idle,
        })
    }

    /// Tokens, their bytes and roles.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Whether `add_special` puts the beginning-of-sequence token before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.vocab.bos().is_some()
    }

    /// Whether `add_special` puts the end-of-sequence token behind a text.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.vocab.eos().is_some()
    }

    /// Whether a text's first word gets a blank before it.
    pub(crate) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// The token ids of `text`. Never fails: every text has an encoding.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if options.add_special && self.add_bos {
            ids.extend(self.vocab.bos());
        }
        let mut scratch = self.take_scratch();
        let mut after_special = true;
        self.partition(text, options.parse_special, |part| match part {
            Part::Token(id) => {
                ids.push(id);
                after_special = true;
            }
            Part::Text(mut text) => {
                while !text.is_empty() {
                    let (now, later) = text.split_at(text.floor_char_boundary(MAX_TEXT));
                    self.encode_text(now, after_special, &mut scratch, &mut ids);
                    after_special = false;
                    text = later;
                }
            }
        });
        self.return_scratch(scratch);
        if options.add_special && self.add_eos {
            ids.extend(self.vocab.eos());
        }
        ids
    }

    /// Calls `emit` with each part of `text`, in order: the first step of [`Tokenizer::encode`], for callers that
    /// change the text between special tokens. Such text is to be encoded without `parse_special`.
    ///
    /// White space that a special token swallows (Phi-3) is in no part.
    pub fn partition<'a>(&self, text: &'a str, parse_special: bool, emit: impl FnMut(Part<'a>)) {
        let search = if parse_special { &self.all_special } else { &self.user_defined };
        search.partition(&self.vocab, text, emit);
    }

    fn encode_text(
        &self,
        text: &str,
        after_special: bool,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let Self { encoder, vocab, .. } = self;
        match &self.cut {
            Cut::Words(pre) => pre.split(text, &mut |start, end| {
                encoder.encode(vocab, &text.as_bytes()[start..end], scratch, ids);
            }),
            Cut::Pieces(pre) => {
                let text = with_plain_blanks(text);
                pre.split(&text, &mut |start, end| {
                    encoder.encode_at_blanks(vocab, &text.as_bytes()[start..end], scratch, ids);
                });
            }
            Cut::Blanks => {
                let mut text = with_plain_blanks(text);
                if self.add_space_prefix && after_special {
                    text.to_mut().insert(0, ' ');
                }
                encoder.encode_at_blanks(vocab, text.as_bytes(), scratch, ids);
            }
        }
    }

    /// The text of `ids`; invalid UTF-8 becomes U+FFFD. A leading blank that [`Tokenizer::encode`] adds is dropped.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut decoder = StreamDecoder::new(DecodeOptions { skip_special, at_text_start: true });
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(self, id));
        }
        text.push_str(decoder.finish());
        text
    }

    fn take_scratch(&self) -> Scratch {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.pop().unwrap_or_else(Scratch::new)
    }

    fn return_scratch(&self, scratch: Scratch) {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.push(scratch);
    }
}

/// Vocabularies that spell a blank as `▁` (U+2581) cannot tell it from that character; here both are a blank.
fn with_plain_blanks(text: &str) -> Cow<'_, str> {
    if text.contains('▁') { Cow::Owned(text.replace('▁', " ")) } else { Cow::Borrowed(text) }
}
