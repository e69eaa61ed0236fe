//! Does a device compute right? A small generated model, with every weight type the device
//! multiplies with, runs on it and on the reference; the logits must agree.

use std::sync::Arc;

use anyhow::ensure;
use zinc_backend::{Backend, Device};
use zinc_engine::{EngineOptions, Evaluator, LoadedModel, Model, Taps};
use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, StringArray, Value};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceBackend;

use crate::compare::{Difference, compare, tolerance};

const D_MODEL: u64 = 256;
const HEAD_DIM: u64 = 64;
const N_HEADS: u64 = 4;
const N_KV_HEADS: u64 = 2;
const D_FF: u64 = 256;
const N_VOCAB: u64 = 64;

/// Prefill in two steps, one of them ragged, then decode.
const PROMPT: [u32; 9] = [1, 40, 7, 7, 63, 22, 0, 35, 12];
const CHUNK: u32 = 6;
const NEXT: u32 = 3;

/// Largest normalised error allowed, also where activations have 8 bits: a few layers add up less
/// noise than the deep models that [`tolerance`] is for.
const NMSE_MAX: f64 = 1e-3;

/// A passed test.
pub struct Passed {
    /// Weight types that were multiplied with.
    pub types: Vec<GgmlType>,
    /// How far the logits are from the reference's.
    pub difference: Difference,
}

/// Runs the test on `device`.
///
/// # Errors
/// The device fails or its logits are not the reference's.
pub fn check(device: Arc<dyn Device>) -> anyhow::Result<Passed> {
    let types = tested_types(device.as_ref());
    let model = Arc::new(Model::from_bytes(tiny_model(&types)?.into())?);
    let reference = ReferenceBackend.open(zinc_reference::NAME)?;
    let devices = [device.as_ref(), reference.as_ref()];
    let tolerance = tolerance(devices, &model, GgmlType::F32, false).min(NMSE_MAX);
    let expected = logits(Arc::clone(&model), reference)?;
    let found = logits(model, device)?;
    let difference = compare(&expected, &found);
    ensure!(
        difference.nmse <= tolerance,
        "its logits differ from the reference: normalised error {:.1e}, allowed {tolerance:.0e}; worst {:.1e}",
        difference.nmse,
        difference.max_abs,
    );
    Ok(Passed { types, difference })
}

/// Types that the device multiplies with and that can be made here.
fn tested_types(device: &dyn Device) -> Vec<GgmlType> {
    let can_be_made = |ty: &GgmlType| weights(*ty, D_MODEL, D_MODEL, &mut Random(0)).is_ok();
    device.caps().matmul.iter().map(|(ty, _)| *ty).filter(can_be_made).collect()
}

fn logits(model: Arc<Model>, device: Arc<dyn Device>) -> anyhow::Result<Vec<f32>> {
    let loaded = Arc::new(LoadedModel::load(model, device, &mut |_, _| {})?);
    let options = EngineOptions {
        n_ctx: Some(16),
        chunk: CHUNK,
        kv_type: GgmlType::F32,
        ..EngineOptions::default()
    };
    let taps = Taps { all_logits: true, tensors: Vec::new() };
    let mut evaluator = Evaluator::new(loaded, &options, &taps)?;
    let mut values = Vec::new();
    for tokens in [&PROMPT[..], &[NEXT]] {
        let logits = evaluator.eval(tokens)?.swap_remove(0);
        values.extend(logits.values);
    }
    Ok(values)
}

/// A Qwen3 of as many layers as it takes for every type to have a matrix, with small random weights.
fn tiny_model(types: &[GgmlType]) -> anyhow::Result<Vec<u8>> {
    let mut file = Writer::new();
    let mut random = Random(0x7a69_6e63);
    let n_layers = types.len().div_ceil(7).max(1) as u32;
    metadata(&mut file, n_layers);
    let mut next_type = types.iter().copied().cycle();
    let mut matrix = |file: &mut Writer, name: &str, n_in: u64, n_out: u64| {
        let ty = next_type.next().unwrap_or(GgmlType::F32);
        file.tensor(name, ty, &[n_in, n_out], weights(ty, n_in, n_in * n_out, &mut random)?);
        anyhow::Ok(())
    };
    matrix(&mut file, "token_embd.weight", D_MODEL, N_VOCAB)?;
    matrix(&mut file, "output.weight", D_MODEL, N_VOCAB)?;
    let (n_q, n_kv) = (N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM);
    for layer in 0..n_layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for (part, n_in, n_out) in [
            ("attn_q", D_MODEL, n_q),
            ("attn_k", D_MODEL, n_kv),
            ("attn_v", D_MODEL, n_kv),
            ("attn_output", n_q, D_MODEL),
            ("ffn_gate", D_MODEL, D_FF),
            ("ffn_up", D_MODEL, D_FF),
            ("ffn_down", D_FF, D_MODEL),
        ] {
            matrix(&mut file, &name(part), n_in, n_out)?;
        }
        for (part, n) in [
            ("attn_norm", D_MODEL),
            ("ffn_norm", D_MODEL),
            ("attn_q_norm", HEAD_DIM),
            ("attn_k_norm", HEAD_DIM),
        ] {
            norm(&mut file, &name(part), n);
        }
    }
    norm(&mut file, "output_norm.weight", D_MODEL);
    Ok(file.to_bytes())
}

fn metadata(file: &mut Writer, n_layers: u32) {
    let u32s = [
        ("context_length", 64),
        ("embedding_length", D_MODEL as u32),
        ("block_count", n_layers),
        ("feed_forward_length", D_FF as u32),
        ("attention.head_count", N_HEADS as u32),
        ("attention.head_count_kv", N_KV_HEADS as u32),
        ("attention.key_length", HEAD_DIM as u32),
        ("attention.value_length", HEAD_DIM as u32),
    ];
    file.value("general.architecture", Value::String("qwen3".into()));
    for (key, value) in u32s {
        file.value(&format!("qwen3.{key}"), Value::U32(value));
    }
    file.value("qwen3.attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    file.value("qwen3.rope.freq_base", Value::F32(10_000.0));
    let pieces: StringArray = (0..N_VOCAB).map(|id| format!("t{id}")).collect();
    let merges: StringArray = std::iter::empty::<&str>().collect();
    file.value("tokenizer.ggml.model", Value::String("gpt2".into()));
    file.value("tokenizer.ggml.pre", Value::String("qwen2".into()));
    file.value("tokenizer.ggml.tokens", Value::Array(Array::Strings(pieces)));
    file.value("tokenizer.ggml.merges", Value::Array(Array::Strings(merges)));
}

fn norm(file: &mut Writer, name: &str, n: u64) {
    let values: Vec<u8> =
        (0..n).flat_map(|i| (0.75 + 0.5 * ((i % 7) as f32 / 6.0)).to_le_bytes()).collect();
    file.tensor(name, GgmlType::F32, &[n], values);
}

/// `n_elems` random weights of standard deviation 1 / sqrt(`n_in`), so that activations stay near 1.
fn weights(ty: GgmlType, n_in: u64, n_elems: u64, random: &mut Random) -> anyhow::Result<Vec<u8>> {
    let deviation = 1.0 / (n_in as f32).sqrt();
    // For formats without a quantiser: any bytes are valid blocks once their f16 scales, given here
    // as (byte offset, value), are of the right size. The minimum makes the mean 0.
    let scales = match ty {
        GgmlType::Q4_K => vec![(0, deviation / 235.0), (2, 7.5 * deviation / 235.0)],
        GgmlType::Q5_K => vec![(0, deviation / 480.0), (2, 15.5 * deviation / 480.0)],
        GgmlType::Q6_K => vec![(208, deviation / 1370.0)],
        _ => {
            let values: Vec<f32> =
                (0..n_elems).map(|_| random.next() * 3f32.sqrt() * deviation).collect();
            return quantized(ty, &values);
        }
    };
    let n_bytes = ty.row_bytes(n_elems as usize).unwrap_or(0);
    let mut bytes: Vec<u8> = (0..n_bytes).map(|_| (random.next() * 128.0) as i8 as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        for (offset, scale) in &scales {
            block[*offset..offset + 2].copy_from_slice(&quantized(GgmlType::F16, &[*scale])?);
        }
    }
    Ok(bytes)
}

fn quantized(ty: GgmlType, values: &[f32]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap_or(0)];
    zinc_quant::quantize(ty, values, &mut bytes)?;
    Ok(bytes)
}

/// Uniform values in -1..1 from a linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
