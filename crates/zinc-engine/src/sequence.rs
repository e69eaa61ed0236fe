//! One request on its way through the engine: its tokens, how far they are computed, and its state.
//!
//! ```text
//! Waiting ──start──► Prefilling ──all computed──► Decoding ──► Finished
//!    ▲                   │                            │            ▲
//!    ├───────────── give way ─────────────────────────┘            │
//!    └────────────────────────── cancel ───────────────────────────┘
//! ```

/// Names a sequence for as long as the engine lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose this end-of-generation token.
    StopToken(u32),
    /// This stop string was complete; it is not part of the text.
    StopString(String),
    /// As many tokens as asked for, or as fit into the context, were generated.
    Length,
    /// What steers the text says that it is complete.
    Steered,
    /// The prompt's embedding was reported.
    Pooled,
    /// The request's deadline passed.
    TimeLimit,
    /// [`crate::Engine::cancel`] was called.
    Cancelled,
}

/// Where a sequence stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SequenceState {
    /// Not begun; owns no cache.
    Waiting,
    /// Prompt tokens are being computed.
    Prefilling,
    /// Each step computes the newest token and chooses the next.
    Decoding,
    /// Over.
    Finished(FinishReason),
}

/// Tokens and progress of one sequence.
#[derive(Debug)]
pub struct Sequence {
    id: SequenceId,
    /// Prompt, then generated tokens.
    tokens: Vec<u32>,
    n_prompt: usize,
    /// Tokens whose keys and values are in the cache.
    n_computed: usize,
    state: SequenceState,
}

impl Sequence {
    /// A waiting sequence that may grow to `n_tokens_max` tokens without allocating memory.
    pub fn new(id: SequenceId, prompt: &[u32], n_tokens_max: usize) -> Sequence {
        let mut tokens = Vec::with_capacity(n_tokens_max.max(prompt.len()));
        tokens.extend_from_slice(prompt);
        Sequence {
            id,
            tokens,
            n_prompt: prompt.len(),
            n_computed: 0,
            state: SequenceState::Waiting,
        }
    }

    /// Its name.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// Prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.n_prompt]
    }

    /// Tokens of the prompt.
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// Tokens generated so far.
    pub fn n_generated(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    /// Tokens whose keys and values are in the cache.
    pub fn n_computed(&self) -> usize {
        self.n_computed
    }

    /// Tokens that the next steps have to compute before another can be chosen.
    pub fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// The next `n` of the pending tokens.
    pub fn next_tokens(&self, n: u32) -> &[u32] {
        &self.tokens[self.n_computed..self.n_computed + n as usize]
    }

    /// Where it stands.
    pub fn state(&self) -> &SequenceState {
        &self.state
    }

    /// Whether it is over.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, SequenceState::Finished(_))
    }

    /// Begins or goes on, with the first `n_reused` tokens found in the cache; at least one is left to
    /// compute.
    pub fn start(&mut self, n_reused: usize) {
        assert_eq!(self.state, SequenceState::Waiting, "only a waiting sequence starts");
        assert!(n_reused < self.tokens.len(), "the last token's logits are always computed");
        self.n_computed = n_reused;
        self.state = SequenceState::Prefilling;
    }

    /// The cache holds the first `n_computed` tokens now: fewer than before, as when rope frequencies
    /// change with the length, or more.
    pub fn restart(&mut self, n_computed: usize) {
        assert!(!self.is_finished(), "a finished sequence computes nothing");
        assert!(n_computed < self.tokens.len(), "the last token's logits are always computed");
        self.n_computed = n_computed;
    }

    /// Gives its cache up and waits to start again; its tokens stay.
    pub fn give_way(&mut self) {
        if !self.is_finished() {
            self.n_computed = 0;
            self.state = SequenceState::Waiting;
        }
    }

    /// A step computed `n` more tokens. Returns whether a token is to be chosen from the last one's
    /// logits.
    pub fn advance(&mut self, n: usize) -> bool {
        assert!(n <= self.n_pending(), "a step computes tokens that there are");
        self.n_computed += n;
        let complete = self.n_pending() == 0;
        if complete && self.state == SequenceState::Prefilling {
            self.state = SequenceState::Decoding;
        }
        complete
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: u32) {
        assert_eq!(self.state, SequenceState::Decoding, "only a decoding sequence grows");
        self.tokens.push(id);
    }

    /// Ends the sequence; the first reason stays.
    pub fn finish(&mut self, reason: FinishReason) {
        if !self.is_finished() {
            self.state = SequenceState::Finished(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life() {
        let mut sequence = Sequence::new(SequenceId(1), &[5, 6, 7], 5);
        assert_eq!((sequence.state(), sequence.n_pending()), (&SequenceState::Waiting, 3));
        sequence.start(1);
        assert_eq!((sequence.state(), sequence.n_pending()), (&SequenceState::Prefilling, 2));
        assert!(!sequence.advance(1));
        assert!(sequence.advance(1));
        assert_eq!(sequence.state(), &SequenceState::Decoding);
        sequence.push(9);
        assert_eq!(
            (sequence.n_pending(), sequence.n_generated(), sequence.tokens()),
            (1, 1, &[5, 6, 7, 9][..])
        );
        assert!(sequence.advance(1));
        sequence.finish(FinishReason::Length);
        sequence.finish(FinishReason::Cancelled);
        assert_eq!(sequence.state(), &SequenceState::Finished(FinishReason::Length));
    }

    #[test]
    fn a_restart_keeps_the_tokens() {
        let mut sequence = Sequence::new(SequenceId(1), &[5, 6], 4);
        sequence.start(0);
        sequence.advance(2);
        sequence.push(7);
        sequence.restart(0);
        assert_eq!((sequence.n_pending(), sequence.tokens()), (3, &[5, 6, 7][..]));
        assert!(sequence.advance(3));
        assert_eq!(sequence.state(), &SequenceState::Decoding);
    }

    #[test]
    #[should_panic(expected = "the last token's logits are always computed")]
    fn nothing_left_to_compute_is_a_mistake() {
        Sequence::new(SequenceId(1), &[5], 2).start(1);
    }
}
