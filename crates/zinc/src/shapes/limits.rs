//! How far an operation may be from the reference: what its table in `testdata/ops` says.

use zinc_plan::{ActivationType, Caps, Node, Op, OpKind, Plan};

/// The table of an operation.
fn table(op: OpKind) -> &'static str {
    macro_rules! tables {
        ($($kind:ident $name:literal),*) => {
            match op {
                $(OpKind::$kind => include_str!(concat!("../../../../testdata/ops/", $name, ".toml")),)*
            }
        };
    }
    tables!(
        Embed "embed", GatherRows "gather_rows", Add "add", GatedAct "gated_act",
        RmsNorm "rms_norm", MatMul "matmul", MatMulAdd "matmul_add", Rope "rope",
        KvWrite "kv_write", Attention "attention", Mul "mul", Scale "scale", Softcap "softcap",
        SigmoidGate "sigmoid_gate", HeadSlice "head_slice", Concat "concat", L2Norm "l2_norm",
        RmsNormGated "rms_norm_gated", HeadMatMul "head_matmul", ExpertMatMul "expert_matmul",
        RouterTopK "router_top_k", ExpertCombine "expert_combine",
        LatentAttention "latent_attention", CausalConv1d "causal_conv1d",
        DeltaGates "delta_gates", GatedDeltaNet "gated_delta_net", QuantizeAct "quantize_act",
        TopK "top_k", GateUpAct "gate_up_act", ExpertGateUpAct "expert_gate_up_act"
    )
}

/// Largest normalised squared error of values that pass through the type called `through`, or of others if
/// the table does not name it: `nmse = { f32 = 1e-11, q8_1 = 5e-5 }`.
fn limit(op: OpKind, through: &str) -> f64 {
    let line = table(op).lines().find_map(|line| line.strip_prefix("nmse = {"));
    let entries = line.unwrap_or_default().trim_end_matches('}').split(',');
    let entries: Vec<(&str, f64)> = entries
        .filter_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            Some((name.trim(), value.trim().parse().ok()?))
        })
        .collect();
    let of = |name: &str| entries.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    of(through).or_else(|| of("f32")).unwrap_or(0.0)
}

/// That of a node on a device with `caps`.
fn of_node(plan: &Plan, node: &Node, caps: &Caps) -> f64 {
    let op = node.op.kind();
    let tensor = |operand: usize| plan.tensor(node.reads[operand]);
    match node.op {
        Op::MatMul(_)
        | Op::HeadMatMul(_)
        | Op::ExpertMatMul(_)
        | Op::GateUpAct(_)
        | Op::ExpertGateUpAct(_) => {
            let weight = tensor(0);
            match caps.activation(weight.dtype, weight.shape.cols) {
                Some(ActivationType::Quantized(to)) => limit(op, to.name()),
                _ => limit(op, "f32"),
            }
        }
        Op::Attention(_) if caps.rounds_attention(tensor(1).dtype) => limit(op, "f16_products"),
        Op::Attention(_) => limit(op, tensor(1).dtype.name()),
        Op::LatentAttention(_) if caps.rounds_attention(tensor(2).dtype) => {
            limit(op, "f16_products")
        }
        Op::LatentAttention(_) => limit(op, tensor(2).dtype.name()),
        // What a conversion loses is part of the limit of the product that it is for.
        Op::QuantizeAct => 0.0,
        _ => limit(op, "f32"),
    }
}

/// That of the results of a plan for a device with `caps`: what its operations add together.
pub fn of(plan: &Plan, caps: &Caps) -> f64 {
    plan.distinct_nodes()
        .iter()
        .map(|distinct| of_node(plan, &plan.nodes[distinct.nodes[0]], caps))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_limit() {
        for op in OpKind::ALL {
            let head = table(op).lines().find(|line| line.starts_with("nmse = {"));
            let head = head.unwrap_or_else(|| panic!("{}: no limit", op.name()));
            assert!(head.contains("f32 = ") && head.ends_with('}'), "{}: {head}", op.name());
        }
        assert_eq!(limit(OpKind::MatMul, "q8_1"), 5e-5);
        assert_eq!(limit(OpKind::MatMul, "q8_k"), 1e-4);
        assert_eq!(limit(OpKind::MatMul, "f32"), 1e-11);
        assert_eq!(limit(OpKind::Attention, "q8_0"), limit(OpKind::Attention, "f32"));
        assert_eq!(limit(OpKind::Attention, "f16_products"), 1e-6);
        assert_eq!(limit(OpKind::LatentAttention, "f16_products"), 1e-6);
    }
}
