use zinc_gguf::writer::Writer;
use zinc_gguf::{Gguf, Value};
use zinc_quant::GgmlType;

use super::*;

fn policy(file_type: FileType) -> Policy {
    Policy {
        file_type,
        pure: false,
        output: None,
        token_embedding: None,
        overrides: Vec::new(),
        has_imatrix: false,
    }
}

/// A model of `names`, matrices of `width` x 4 unless the name says otherwise.
fn model(names: &[&str], width: u64, numbers: &[(&str, u32)]) -> Gguf {
    let mut writer = Writer::new();
    writer.value("general.architecture", Value::String("a".into()));
    for (key, value) in numbers {
        writer.value(&format!("a.{key}"), Value::U32(*value));
    }
    for name in names {
        let dims: &[u64] = match *name {
            name if name.contains("_exps") => &[width, 4, 2],
            name if name.contains("norm") || name.ends_with("bias") => &[width],
            _ => &[width, 4],
        };
        let n_elems: u64 = dims.iter().product();
        writer.tensor(name, GgmlType::F32, dims, vec![0; 4 * n_elems as usize]);
    }
    Gguf::from_bytes(writer.to_bytes().into()).unwrap()
}

#[track_caller]
fn check(policy: &Policy, gguf: &Gguf, expected: &[GgmlType]) {
    let found = policy.decide(gguf).unwrap();
    for ((tensor, decision), expected) in gguf.tensors().iter().zip(&found).zip(expected) {
        assert_eq!(decision.ty, *expected, "{} in {}", tensor.name, policy.file_type.name());
    }
    assert_eq!(found.len(), expected.len());
}

use GgmlType::*;

#[test]
fn mixtures_of_a_dense_model() {
    let names = [
        "token_embd.weight",
        "output.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_q.bias",
        "blk.0.attn_v.weight",
        "blk.1.attn_v.weight",
        "blk.0.ffn_down.weight",
        "blk.3.ffn_down.weight",
        "blk.0.ffn_gate_inp.weight",
    ];
    let numbers = [("block_count", 8), ("attention.head_count", 8), ("attention.head_count_kv", 2)];
    let gguf = model(&names, 256, &numbers);
    let mixtures = [
        (FileType::F16, [F16, F16, F32, F16, F32, F16, F16, F16, F16, F32]),
        (FileType::Q8_0, [Q8_0, Q8_0, F32, Q8_0, F32, Q8_0, Q8_0, Q8_0, Q8_0, F32]),
        (FileType::Q6_K, [Q6_K, Q6_K, F32, Q6_K, F32, Q6_K, Q6_K, Q6_K, Q6_K, F32]),
        (FileType::Q5_K_M, [Q5_K, Q6_K, F32, Q5_K, F32, Q5_K, Q6_K, Q6_K, Q6_K, F32]),
        (FileType::Q4_K_M, [Q4_K, Q6_K, F32, Q4_K, F32, Q4_K, Q6_K, Q6_K, Q6_K, F32]),
        (FileType::Q4_0, [Q4_0, Q6_K, F32, Q4_0, F32, Q4_0, Q4_0, Q4_0, Q4_0, F32]),
        (FileType::IQ4_XS, [IQ4_XS, Q6_K, F32, IQ4_XS, F32, Q5_K, Q5_K, Q5_K, IQ4_XS, F32]),
        (FileType::MXFP4, [MXFP4, Q8_0, F32, MXFP4, F32, MXFP4, MXFP4, MXFP4, MXFP4, F32]),
    ];
    for (file_type, expected) in mixtures {
        check(&policy(file_type), &gguf, &expected);
    }
    let pure = Policy { pure: true, ..policy(FileType::Q4_K_M) };
    check(&pure, &gguf, &[Q4_K, Q4_K, F32, Q4_K, F32, Q4_K, Q4_K, Q4_K, Q4_K, F32]);
    let imatrix = Policy { has_imatrix: true, ..policy(FileType::Q4_0) };
    check(&imatrix, &gguf, &[Q4_0, Q6_K, F32, Q4_0, F32, Q4_0, Q4_0, Q4_1, Q4_0, F32]);
}

#[test]
fn overrides_come_first() {
    let names =
        ["token_embd.weight", "blk.0.attn_v.weight", "blk.1.attn_v.weight", "blk.1.ffn_up.weight"];
    let gguf = model(&names, 256, &[("block_count", 2)]);
    let over = |pattern: &str, ty| (Pattern(pattern.into()), ty);
    let chosen = Policy {
        overrides: vec![over("blk.1.*attn", BF16), over("attn_v", Q5_K)],
        ..policy(FileType::Q4_K_M)
    };
    check(&chosen, &gguf, &[Q6_K, Q5_K, BF16, Q4_K]);
    // Without an output matrix the embeddings are it, and both flags speak of them.
    let tied = Policy { output: Some(Q8_0), ..policy(FileType::Q4_K_M) };
    check(&tied, &gguf, &[Q8_0, Q4_K, Q6_K, Q4_K]);
    let tied = Policy { token_embedding: Some(F16), ..tied };
    check(&tied, &gguf, &[F16, Q4_K, Q6_K, Q4_K]);
}

#[test]
fn experts_and_recurrent_layers() {
    let names = [
        "blk.0.attn_qkv.weight",
        "blk.0.ssm_alpha.weight",
        "blk.0.ssm_conv1d.weight",
        "blk.0.ssm_out.weight",
        "blk.0.ffn_up_exps.weight",
        "blk.0.ffn_down_shexp.weight",
        "blk.0.ffn_gate_exps.bias",
        "output.weight",
    ];
    let gguf = model(&names, 256, &[("block_count", 1), ("expert_count", 128)]);
    check(&policy(FileType::MXFP4), &gguf, &[Q8_0, Q8_0, F32, Q8_0, MXFP4, Q8_0, F32, Q8_0]);
    check(&policy(FileType::Q4_K_M), &gguf, &[Q6_K, Q8_0, F32, Q4_K, Q4_K, Q6_K, F32, Q6_K]);
}

#[test]
fn rows_that_are_no_whole_blocks() {
    let names = ["blk.0.attn_q.weight", "output.weight"];
    for (file_type, width, expected) in [
        (FileType::Q4_K_M, 96, [Q5_0, Q8_0]),
        (FileType::Q5_K_M, 96, [Q5_1, Q8_0]),
        (FileType::Q6_K, 96, [Q8_0, Q8_0]),
        (FileType::IQ4_XS, 96, [IQ4_NL, Q8_0]),
        (FileType::MXFP4, 96, [MXFP4, Q8_0]),
        (FileType::Q4_K_M, 48, [F16, F16]),
        (FileType::Q8_0, 48, [F16, F16]),
    ] {
        check(&policy(file_type), &model(&names, width, &[]), &expected);
    }
}

#[test]
fn patterns() {
    let matches = |pattern: &str, name: &str| Pattern(pattern.into()).matches(name);
    assert!(matches("attn_v", "blk.0.attn_v.weight"));
    assert!(matches("blk.1.*down", "blk.1.ffn_down.weight"));
    assert!(!matches("blk.1.*down", "blk.11.ffn_down.weight"));
    assert!(!matches("down*blk", "blk.1.ffn_down.weight"));
    assert!(matches("*", "anything"));
}
