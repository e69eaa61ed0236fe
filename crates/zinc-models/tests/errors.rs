//! Files that cannot be run: one error at load that names the key or the tensor.

use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, Gguf, Value};
use zinc_models::{Model, RopeScaling};
use zinc_quant::GgmlType;
use zinc_testkit::golden::golden_if_there;

/// What is wrong with a file.
enum Edit {
    /// A metadata value, below the architecture's prefix unless it has a dot in front.
    Set(&'static str, Value),
    /// A metadata key is missing.
    Drop(&'static str),
    /// A tensor is missing.
    DropTensor(&'static str),
    /// A tensor has its first two dimensions exchanged.
    Transpose(&'static str),
    /// A tensor that no architecture has.
    AddTensor(&'static str),
}

fn write(gguf: &Gguf, edit: &Edit) -> Vec<u8> {
    let arch = gguf.metadata().require_str("general.architecture");
    let arch = arch.expect("a model").to_owned();
    let full = |key: &str| match key.strip_prefix('.') {
        Some(key) => key.to_owned(),
        None => format!("{arch}.{key}"),
    };
    let changed = match edit {
        Edit::Set(key, _) | Edit::Drop(key) => Some(full(key)),
        _ => None,
    };
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        if Some(key) != changed.as_deref() && key != "general.alignment" {
            writer.value(key, value.clone());
        }
    }
    if let Edit::Set(key, value) = edit {
        writer.value(&full(key), value.clone());
    }
    for tensor in gguf.tensors() {
        let mut dims = tensor.dims.clone();
        match edit {
            Edit::DropTensor(name) if *name == tensor.name => continue,
            Edit::Transpose(name) if *name == tensor.name => dims.swap(0, 1),
            _ => (),
        }
        writer.tensor(&tensor.name, tensor.ty, &dims, gguf.data(tensor));
    }
    if let Edit::AddTensor(name) = edit {
        writer.tensor(name, GgmlType::F32, &[1], vec![0; 4]);
    }
    writer.to_bytes()
}

/// Whether the edited golden is refused with a message that contains `expected`.
fn refuses(name: &str, edit: Edit, expected: &str) -> Result<(), String> {
    let Some(golden) = golden_if_there(name) else { return Ok(()) };
    let gguf = Gguf::open(&golden.gguf).expect("a readable model");
    let edited = Gguf::from_bytes(write(&gguf, &edit).into()).expect("a valid file");
    match Model::from_gguf(&edited) {
        Err(error) if error.to_string().contains(expected) => Ok(()),
        Err(error) => Err(format!("{name}: {error}, expected {expected}")),
        Ok(_) => Err(format!("{name}: loads, expected {expected}")),
    }
}

fn assert_all(results: impl IntoIterator<Item = Result<(), String>>) {
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn text(value: &str) -> Value {
    Value::String(value.into())
}

#[test]
fn wrong_files_are_refused_by_name() {
    use Edit::{AddTensor, Drop, DropTensor, Set, Transpose};
    let q = "qwen3.f32";
    assert_all([
        refuses(
            q,
            Set(".general.architecture", text("frobnicator")),
            "architecture frobnicator is not supported",
        ),
        refuses(q, Drop("embedding_length"), "qwen3.embedding_length"),
        refuses(q, DropTensor("blk.1.attn_q.weight"), "tensor blk.1.attn_q.weight is missing"),
        refuses(
            q,
            DropTensor("blk.0.attn_k_norm.weight"),
            "tensor blk.0.attn_k_norm.weight is missing",
        ),
        refuses(
            q,
            Transpose("blk.0.ffn_down.weight"),
            "tensor blk.0.ffn_down.weight has dimensions",
        ),
        refuses(
            q,
            AddTensor("blk.0.frobnicator.weight"),
            "tensor blk.0.frobnicator.weight is not part of",
        ),
        refuses(
            q,
            Set("rope.scaling.type", text("frob")),
            "qwen3.rope.scaling.type: frob is not supported",
        ),
        refuses(q, Set("rope.dimension_count", Value::U32(7)), "qwen3.rope.dimension_count"),
        refuses(q, Set("expert_count", Value::U32(4)), "qwen3.expert_count: is 4"),
        refuses(q, Set("nextn_predict_layers", Value::U32(1)), "qwen3.nextn_predict_layers"),
        refuses(q, Set("attention.head_count_kv", Value::U32(3)), "qwen3.attention.head_count_kv"),
        refuses(q, Set("block_count", Value::U32(0)), "qwen3.block_count"),
    ]);
}

#[test]
fn arithmetic_that_would_be_left_out_is_refused_by_name() {
    use Edit::Set;
    let number = Value::F32;
    assert_all([
        refuses("llama.f32", Set("logit_scale", number(0.5)), "llama.logit_scale: is 0.5"),
        refuses("llama.f32", Set("residual_scale", number(0.2)), "llama.residual_scale"),
        refuses(
            "gemma4_dense.f32",
            Set("attn_logit_softcapping", number(50.0)),
            "softcapping: is 50",
        ),
        refuses("llama.f32", Set("attention.scale", number(0.2)), "llama.attention.scale"),
        refuses("llama.f32", Set("attention.clamp_kqv", number(8.0)), "llama.attention.clamp_kqv"),
        refuses("llama.f32", Set("attention.causal", Value::Bool(false)), "llama.attention.causal"),
        refuses(
            "gpt_oss.mxfp4",
            Set("rope.scaling.yarn_ext_factor", number(0.0)),
            "gpt-oss.rope.scaling.yarn_ext_factor",
        ),
    ]);
}

/// YaRN's factor on cos and sin: the file's own stands in for the paper's `0.1 ln(factor) + 1`.
#[test]
fn yarn_magnitude() {
    let Some(golden) = golden_if_there("qwen3_yarn.f32") else { return };
    let gguf = Gguf::open(&golden.gguf).expect("a readable model");
    let magnitude = |key, value| {
        let edited = write(&gguf, &Edit::Set(key, Value::F32(value)));
        let edited = Gguf::from_bytes(edited.into()).expect("a valid file");
        match &Model::from_gguf(&edited).expect("a model").config().rope_scaling {
            RopeScaling::Yarn { attn_factor, .. } => *attn_factor,
            other => panic!("{other:?}"),
        }
    };
    let paper = 0.1 * 4f32.ln() + 1.0;
    assert_eq!(magnitude("rope.scaling.yarn_attn_factor", 1.3), 1.3);
    assert_eq!(magnitude("rope.scaling.attn_factor", 1.5), paper * 1.5);
}

#[test]
fn wrong_experts_and_windows_are_refused_by_name() {
    use Edit::{Drop, DropTensor, Set, Transpose};
    let count = Value::U32;
    let flags = |values: &[bool]| Value::Array(Array::from(values));
    assert_all([
        refuses("qwen3_moe.f32", Drop("expert_used_count"), "qwen3moe.expert_used_count"),
        refuses(
            "qwen3_moe.f32",
            Set("expert_used_count", count(9)),
            "qwen3moe.expert_used_count: is 9, must be 1 to 8",
        ),
        refuses(
            "qwen3_moe.f32",
            DropTensor("blk.1.ffn_up_exps.weight"),
            "tensor blk.1.ffn_up_exps.weight is missing",
        ),
        refuses(
            "qwen3_moe.f32",
            Transpose("blk.0.ffn_gate_exps.weight"),
            "tensor blk.0.ffn_gate_exps.weight has dimensions",
        ),
        refuses(
            "gemma3.f32",
            Set("attention.sliding_window_pattern", flags(&[true, false])),
            "gemma3.attention.sliding_window_pattern: has 2 entries for 6 blocks",
        ),
        refuses(
            "gpt_oss.f32",
            DropTensor("blk.1.attn_sinks.weight"),
            "tensor blk.1.attn_sinks.weight is missing",
        ),
        refuses(
            "gpt_oss.f32",
            DropTensor("blk.1.ffn_down_exps.bias"),
            "tensor blk.1.ffn_down_exps.bias is missing",
        ),
        refuses(
            "gpt_oss.f32",
            Drop("attention.sliding_window"),
            "gpt-oss.attention.sliding_window",
        ),
        refuses(
            "deepseek_v3.f32",
            Set("expert_gating_func", count(7)),
            "deepseek2.expert_gating_func: is 7",
        ),
        refuses("deepseek_v3.f32", Set("expert_group_count", count(3)), "in 2 of 3 groups"),
        refuses(
            "deepseek_v3.f32",
            Drop("attention.key_length_mla"),
            "deepseek2.attention.key_length_mla",
        ),
        refuses(
            "gemma4.f32",
            Set("attention.shared_kv_layers", count(6)),
            "gemma4.attention.shared_kv_layers",
        ),
        refuses(
            "gemma4.f32",
            Drop("attention.sliding_window_pattern"),
            "gemma4.attention.sliding_window_pattern",
        ),
        refuses(
            "gemma4.f32",
            DropTensor("per_layer_model_proj.weight"),
            "tensor per_layer_model_proj.weight is missing",
        ),
    ]);
}

#[test]
fn wrong_hybrids_are_refused_by_name() {
    use Edit::{Drop, DropTensor, Set};
    let count = Value::U32;
    let flags = |values: &[bool]| Value::Array(Array::from(values));
    assert_all([
        refuses("qwen3_5.f32", Set("ssm.inner_size", count(60)), "qwen35.ssm.inner_size: is 60"),
        refuses("qwen3_5.f32", Set("ssm.group_count", count(3)), "qwen35.ssm.group_count"),
        refuses("qwen3_5.f32", Drop("ssm.state_size"), "qwen35.ssm.state_size"),
        refuses(
            "qwen3_5.f32",
            Set("attention.recurrent_layers", flags(&[true])),
            "qwen35.attention.recurrent_layers: has 1 entries for 4 blocks",
        ),
        refuses(
            "qwen3_5.f32",
            DropTensor("blk.0.ssm_conv1d.weight"),
            "tensor blk.0.ssm_conv1d.weight is missing",
        ),
        refuses(
            "qwen3_5_moe.f32",
            Drop("expert_shared_feed_forward_length"),
            "qwen35moe.expert_shared_feed_forward_length",
        ),
        refuses(
            "qwen3_5_mtp.f32",
            DropTensor("blk.2.nextn.eh_proj.weight"),
            "tensor blk.2.nextn.eh_proj.weight is missing",
        ),
        refuses(
            "qwen3_5_mtp.f32",
            Set("nextn_predict_layers", count(2)),
            "qwen35.nextn_predict_layers: is 2",
        ),
        refuses("qwen3_5_mtp.f32", Set("nextn_predict_layers", count(0)), "tensor blk.2.nextn"),
    ]);
}

#[test]
fn models_of_experts_alone_need_no_dense_width() {
    let key = "feed_forward_length";
    for edit in [Edit::Drop(key), Edit::Set(key, Value::U32(0))] {
        let Some(golden) = golden_if_there("qwen3_5_moe.f32") else { return };
        let gguf = Gguf::open(&golden.gguf).expect("a readable model");
        let edited = Gguf::from_bytes(write(&gguf, &edit).into()).expect("a valid file");
        Model::from_gguf(&edited).expect("a model");
    }
    assert_all([refuses("qwen3_5.f32", Edit::Set(key, Value::U32(0)), "must be 1 to")]);
}
