//! Small models with random weights, made when a test needs them.

use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, StringArray, Value};
use zinc_quant::GgmlType;

const D_MODEL: u64 = 32;
const D_FF: u64 = 64;
const HEAD_DIM: u64 = 16;
const N_HEADS: u64 = 2;

/// Context length of the models, if nothing else is asked for.
pub const N_CTX: u32 = 512;
/// Id of `<|im_end|>`, which ends an answer.
pub const IM_END: u32 = 257;
/// Tokens: one per byte, then the two.
pub const N_VOCAB: u64 = 258;

const TEMPLATE: &str = "\
{%- for message in messages -%}
{%- if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}";

/// What a test changes about the model.
pub struct Spec {
    pub arch: &'static str,
    pub pre: &'static str,
    pub template: Option<&'static str>,
    /// First element of the last layer's `ffn_down`.
    pub ffn_down: Option<f32>,
    pub n_layers: u64,
    pub n_ctx: u32,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            arch: "qwen3",
            pre: "qwen2",
            template: Some(TEMPLATE),
            ffn_down: None,
            n_layers: 2,
            n_ctx: N_CTX,
        }
    }
}

/// A Qwen3 with a ChatML template and a token per byte.
pub fn chat_model() -> Vec<u8> {
    build(&Spec::default())
}

/// A model as `spec` says.
pub fn build(spec: &Spec) -> Vec<u8> {
    let mut file = Writer::new();
    let text = |text: &str| Value::String(text.into());
    file.value("general.architecture", text(spec.arch));
    for (key, value) in [
        ("context_length", spec.n_ctx),
        ("embedding_length", D_MODEL as u32),
        ("block_count", spec.n_layers as u32),
        ("feed_forward_length", D_FF as u32),
        ("attention.head_count", N_HEADS as u32),
        ("attention.head_count_kv", 1),
        ("attention.key_length", HEAD_DIM as u32),
        ("attention.value_length", HEAD_DIM as u32),
    ] {
        file.value(&format!("{}.{key}", spec.arch), Value::U32(value));
    }
    file.value(&format!("{}.attention.layer_norm_rms_epsilon", spec.arch), Value::F32(1e-6));
    vocabulary(&mut file, spec);
    if let Some(template) = spec.template {
        file.value("tokenizer.chat_template", text(template));
    }
    tensors(&mut file, spec);
    file.to_bytes()
}

fn vocabulary(file: &mut Writer, spec: &Spec) {
    let mut pieces: Vec<String> = (0..=255).map(|byte| byte_symbol(byte).to_string()).collect();
    pieces.extend(["<|im_start|>", "<|im_end|>"].map(String::from));
    let types: Vec<i32> = (0..N_VOCAB).map(|id| if id < 256 { 1 } else { 3 }).collect();
    let no_merges = StringArray::from_iter(std::iter::empty::<&str>());
    file.value("tokenizer.ggml.model", Value::String("gpt2".into()));
    file.value("tokenizer.ggml.pre", Value::String(spec.pre.into()));
    file.value("tokenizer.ggml.tokens", Value::Array(Array::Strings(pieces.iter().collect())));
    file.value("tokenizer.ggml.merges", Value::Array(Array::Strings(no_merges)));
    file.value("tokenizer.ggml.token_type", Value::Array(Array::from(types.as_slice())));
    file.value("tokenizer.ggml.eos_token_id", Value::U32(IM_END));
}

/// The character that byte-level vocabularies write for a byte: itself if it can be seen, else one
/// from U+0100 on.
fn byte_symbol(byte: u8) -> char {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match visible(byte) {
        true => char::from(byte),
        false => {
            let nth = (0..byte).filter(|b| !visible(*b)).count() as u32;
            char::from_u32(0x100 + nth).unwrap()
        }
    }
}

fn tensors(file: &mut Writer, spec: &Spec) {
    let mut state = 1_u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut matrix = |file: &mut Writer, name: &str, n_in: u64, n_out: u64| {
        let mut data: Vec<u8> =
            (0..n_in * n_out).flat_map(|_| (0.4 * random()).to_le_bytes()).collect();
        if let Some(value) = spec.ffn_down.filter(|_| name.starts_with("blk.1.ffn_down")) {
            data[..4].copy_from_slice(&value.to_le_bytes());
        }
        file.tensor(name, GgmlType::F32, &[n_in, n_out], data);
    };
    matrix(file, "token_embd.weight", D_MODEL, N_VOCAB);
    matrix(file, "output.weight", D_MODEL, N_VOCAB);
    for layer in 0..spec.n_layers {
        for (part, n_in, n_out) in [
            ("attn_q", D_MODEL, N_HEADS * HEAD_DIM),
            ("attn_k", D_MODEL, HEAD_DIM),
            ("attn_v", D_MODEL, HEAD_DIM),
            ("attn_output", N_HEADS * HEAD_DIM, D_MODEL),
            ("ffn_gate", D_MODEL, D_FF),
            ("ffn_up", D_MODEL, D_FF),
            ("ffn_down", D_FF, D_MODEL),
        ] {
            matrix(file, &format!("blk.{layer}.{part}.weight"), n_in, n_out);
        }
    }
    let mut norm = |name: &str, n: u64| {
        let data: Vec<u8> = (0..n).flat_map(|_| 1f32.to_le_bytes()).collect();
        file.tensor(name, GgmlType::F32, &[n], data);
    };
    for layer in 0..spec.n_layers {
        for (part, n) in [
            ("attn_norm", D_MODEL),
            ("ffn_norm", D_MODEL),
            ("attn_q_norm", HEAD_DIM),
            ("attn_k_norm", HEAD_DIM),
        ] {
            norm(&format!("blk.{layer}.{part}.weight"), n);
        }
    }
    norm("output_norm.weight", D_MODEL);
}
