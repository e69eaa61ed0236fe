//! Guides: what holds an answer to a grammar, its tools, and its thinking budget.
use crate::{ChatError, ChatFormat, ChatPrompt, GuideSpec, Steer};
use std::sync::Arc;
use zinc_token::Tokenizer;

/// Makes guides for one vocabulary.
pub struct GuideFactory {
    tokenizer_size: usize,
}

impl GuideFactory {
    /// Builds the tables of a vocabulary, once.
    ///
    /// # Errors
    /// [`ChatError::Vocabulary`].
    pub fn new(tokenizer: &Tokenizer) -> Result<Arc<Self>, ChatError> {
        Ok(Arc::new(Self { tokenizer_size: tokenizer.vocab().n_tokens() }))
    }

    /// What holds the answer to `prompt` to `spec`; `None` if nothing has to.
    ///
    /// # Errors
    /// [`ChatError::Constraint`] with the field that cannot be held.
    pub fn guide(
        self: &Arc<Self>,
        format: &ChatFormat,
        prompt: &ChatPrompt,
        spec: &GuideSpec,
    ) -> Result<Option<Box<dyn Steer>>, ChatError> {
        let _ = (format, prompt, spec, self.tokenizer_size);
        Err(ChatError::constraint("response_format", "guides are not built yet"))
    }
}
