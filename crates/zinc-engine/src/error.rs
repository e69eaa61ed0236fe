use zinc_backend::DeviceError;
use zinc_gguf::GgufError;
use zinc_models::ModelError;
use zinc_plan::PlanError;
use zinc_token::TokenError;

use crate::kv::KvError;
use crate::sampler::SamplerError;
use crate::steer::SteerError;
use crate::stop::StopError;

/// Why a model could not be loaded or a request not be served.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file is no GGUF file that can be read; the error names it.
    #[error(transparent)]
    Open {
        /// What is wrong with it.
        source: GgufError,
    },
    /// The bytes of a model in memory are no GGUF file.
    #[error("model in memory: {0}")]
    InMemory(GgufError),
    /// The file holds no model that zinc runs.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file's tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenError),
    /// The device lacks something that the model's plan needs.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The device failed, or has not enough memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The cache has no page left.
    #[error(transparent)]
    Cache(#[from] KvError),
    /// Sampling parameters or logits cannot be used.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// Stop strings cannot be used.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// What constrains an answer failed.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// Embeddings are asked of an engine that was not built for them.
    #[error("this engine gives no embeddings; hint: start it with embeddings switched on")]
    NoEmbeddings,
    /// An embedding is not a finite vector other than zero.
    #[error("the hidden states of the prompt have no direction: their length is {length}")]
    Embedding {
        /// Length of the pooled vector.
        length: f64,
    },
    /// A special token that is to be shown is not in the vocabulary.
    #[error("token {id} is to be shown in the text; the model's ids are below {n_vocab}")]
    ShownToken {
        /// The id.
        id: u32,
        /// Tokens of the vocabulary.
        n_vocab: u32,
    },
    /// The budget of the caches has no room for one sequence.
    #[error(
        "the caches may take {budget} bytes; one sequence of the context's length takes {least}; \
         hint: a larger budget, a shorter context or fewer sequences"
    )]
    CacheBudget {
        /// Bytes that they may take.
        budget: u64,
        /// Bytes that they take at least.
        least: u64,
    },
    /// A cache in the host's memory is asked for on a device whose caches cannot be copied.
    #[error("device {device} cannot keep caches in the host's memory; hint: leave its budget at 0")]
    HostCache {
        /// The device.
        device: String,
    },
    /// An option of the engine is outside its range.
    #[error("{option} is {value}; allowed: {allowed}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// The model has no head of multi-token prediction, or was loaded without it.
    #[error(
        "this model of architecture {arch} has no multi-token-prediction head; hint: draft by lookup, \
         or not at all (--speculate lookup, off; auto chooses)"
    )]
    NoMtpHead {
        /// Its architecture.
        arch: String,
    },
    /// Hidden states do not belong to the tokens they are given with.
    #[error("{n_values} hidden values are given for {n_tokens} tokens, expected {n_expected}")]
    HiddenStates {
        /// Tokens.
        n_tokens: usize,
        /// Values given.
        n_values: usize,
        /// Values that those tokens need.
        n_expected: usize,
    },
    /// A model computes something that is no number.
    #[error("{tensor} holds {value}; hint: `zinc diff` finds the first tensor that is not finite")]
    Activation {
        /// Name in the plan.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty; hint: give at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room in the context.
    #[error(
        "the prompt has {n_prompt} tokens, which leaves no room in a context of {n_ctx}; hint: {}",
        longer_context(*n_prompt, *n_ctx_train)
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Context length of this engine.
        n_ctx: u32,
        /// Context length the model was trained for.
        n_ctx_train: u32,
    },
    /// A token id is not in the vocabulary.
    #[error("token {position} of the prompt has id {id}; the model's ids are below {n_vocab}")]
    TokenId {
        /// Index in the prompt.
        position: usize,
        /// The id.
        id: u32,
        /// Rows of the model's embedding.
        n_vocab: u32,
    },
    /// Too many requests wait.
    #[error("{n_waiting} requests are waiting already, which is the limit; hint: try again later")]
    QueueFull {
        /// Requests in the queue.
        n_waiting: usize,
    },
}

fn longer_context(n_prompt: usize, n_ctx_train: u32) -> String {
    if n_prompt < n_ctx_train as usize {
        format!("a longer context (--ctx, up to {n_ctx_train} for this model), or a shorter prompt")
    } else {
        format!("shorten the prompt, the model was trained for {n_ctx_train} tokens")
    }
}
