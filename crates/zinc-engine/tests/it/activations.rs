//! Sums of squared activations of every family: no matrix is forgotten, and devices and chunks agree.

use std::collections::BTreeMap;
use std::sync::Arc;

use zinc_engine::{ActivationSums, LoadedModel};
use zinc_gguf::{Gguf, ImatrixEntry, TensorEntry};
use zinc_testkit::golden::goldens;

use crate::support::{devices, exact, ids, load};

type Entries = BTreeMap<String, ImatrixEntry>;

fn sums(loaded: &Arc<LoadedModel>, chunk: u32, texts: &[Vec<u32>], with_head: bool) -> Entries {
    let mut sums = ActivationSums::new(loaded.clone(), &exact(chunk), with_head).unwrap();
    texts.iter().for_each(|text| sums.add(text).unwrap());
    sums.entries()
}

/// Whether a matrix of a layer is multiplied with activations: all are, but for tables, the kernels
/// of convolutions, and biases of experts.
fn is_product(tensor: &TensorEntry, n_layers: u32) -> bool {
    let layer = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    let in_trunk = layer.is_some_and(|layer| layer.parse::<u32>().unwrap() < n_layers);
    let is_gate_of_one = tensor.name.contains("ffn_gate_inp_shexp.weight");
    let is_matrix = tensor.dims.len() > 1 || is_gate_of_one;
    let is_other = tensor.name.contains("ssm_conv1d") || tensor.name.ends_with(".bias");
    in_trunk && is_matrix && !is_other
}

/// The entry holds the columns of all of a tensor's matrices.
fn check_entry(name: &str, entry: &ImatrixEntry, tensor: &TensorEntry, n_tokens: usize) {
    let n_matrices = tensor.dims.get(2).copied().unwrap_or(1);
    assert_eq!(entry.sums.len() as u64, tensor.dims[0] * n_matrices, "{name}");
    let n_seen: f32 = entry.counts.iter().sum();
    if entry.counts.len() == 1 {
        assert_eq!(n_seen as usize, n_tokens, "{name}");
    } else {
        assert_eq!(entry.counts.len() as u64, n_matrices, "{name}");
        let n_seen = n_seen as usize;
        assert!(n_seen >= n_tokens && n_seen.is_multiple_of(n_tokens), "{name}");
    }
    let width = tensor.dims[0] as usize;
    for (matrix, sums) in entry.sums.chunks(width).enumerate() {
        let is_seen = entry.counts[matrix % entry.counts.len()] > 0.0;
        assert_eq!(sums.iter().any(|sum| *sum > 0.0), is_seen, "{name}, matrix {matrix}");
    }
}

fn expect_close(what: &str, found: &Entries, expected: &Entries) {
    assert!(found.keys().eq(expected.keys()), "{what}");
    for (name, entry) in found {
        let expected = &expected[name];
        assert_eq!(entry.counts, expected.counts, "{what}: {name}");
        let scale = expected.sums.iter().sum::<f32>() / expected.sums.len() as f32;
        for (a, b) in entry.sums.iter().zip(&expected.sums) {
            assert!((a - b).abs() <= 1e-3 * b + 1e-4 * scale, "{what}: {name}: {a} {b}");
        }
    }
}

#[test]
fn every_matrix_of_every_family_is_seen() {
    for golden in goldens().unwrap().iter().filter(|golden| !golden.is_quantized()) {
        let gguf = Gguf::open(&golden.gguf).unwrap();
        let prompts = golden.prompts().unwrap();
        let texts: Vec<_> = prompts.iter().map(|prompt| ids(&prompt.tokens)).collect();
        let n_tokens = texts.iter().map(Vec::len).sum();
        let mut first: Option<Entries> = None;
        for device in devices() {
            let what = format!("{} on {}", golden.name, device.info().name);
            let loaded = load(&golden.gguf, device);
            let found = sums(&loaded, 128, &texts, false);
            let n_layers = loaded.model().config().n_layers;
            for tensor in gguf.tensors().iter().filter(|tensor| is_product(tensor, n_layers)) {
                assert!(found.contains_key(&tensor.name), "{what}: no entry for {}", tensor.name);
            }
            for (name, entry) in &found {
                check_entry(name, entry, gguf.tensor(name).unwrap(), n_tokens);
            }
            assert_eq!(sums(&loaded, 7, &texts, false), found, "{what}: the chunk changes bits");
            let with_head = sums(&loaded, 16, &texts[..1], true);
            let head = ["output.weight", "token_embd.weight"];
            let head = head.into_iter().find(|name| gguf.tensor(name).is_some()).unwrap();
            assert_eq!(with_head.len(), found.len() + 1, "{what}");
            assert_eq!(with_head[head].counts, [texts[0].len() as f32], "{what}");
            match &first {
                Some(first) => expect_close(&what, &found, first),
                None => first = Some(found),
            }
        }
    }
}
