//! What tests run on.

use std::path::Path;
use std::sync::Arc;

use zinc_backend::Device;
use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::{EngineOptions, LoadedModel, Model};
use zinc_gguf::Gguf;
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::golden::{Golden, Prompt, golden_if_there};

/// The golden model `name` with its numbers; prints why and returns `None` if it is not there.
pub fn golden(name: &str) -> Option<(Golden, Vec<Prompt>)> {
    let golden = golden_if_there(name)?;
    let prompts = golden.prompts().unwrap();
    Some((golden, prompts))
}

/// Token ids as the engine takes them.
pub fn ids(numbers: &[i32]) -> Vec<u32> {
    numbers.iter().map(|&id| id as u32).collect()
}

/// Every device that results are checked on.
pub fn devices() -> Vec<Arc<dyn Device>> {
    let cpu = CpuDevice::new(2, Isa::best()).unwrap();
    vec![Arc::new(ReferenceDevice::new()), Arc::new(cpu)]
}

/// A golden model on `device`, with its head of multi-token prediction.
pub fn load_with_mtp(path: &Path, device: Arc<dyn Device>) -> Arc<LoadedModel> {
    let model = Arc::new(Model::open(path).unwrap());
    Arc::new(LoadedModel::load_with_mtp(model, device, &mut |_, _| {}).unwrap())
}

/// The golden model `qwen3_5_mtp` with weights that make its trunk and its head see little but the last
/// token, and so agree most of the time.
pub fn agreeing(path: &Path, device: Arc<dyn Device>) -> Arc<LoadedModel> {
    let mut bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::from_bytes(bytes.clone().into()).unwrap();
    let mut change = |name: &str, change: &dyn Fn(usize, f32) -> f32| {
        let entry = gguf.tensor(name).unwrap();
        let begin = entry.offset as usize;
        let values = bytes[begin..begin + entry.n_bytes as usize].chunks_exact_mut(4);
        for (at, value) in values.enumerate() {
            let old = f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
            value.copy_from_slice(&change(at, old).to_le_bytes());
        }
    };
    let branches = [
        "blk.0.ssm_out",
        "blk.0.ffn_down",
        "blk.1.attn_output",
        "blk.1.ffn_down",
        "blk.2.attn_output",
        "blk.2.ffn_down",
    ];
    for name in branches {
        change(&format!("{name}.weight"), &|_, old| 0.2 * old);
    }
    // The head passes the token on, without what is said of the one before.
    let n_cols = gguf.tensor("blk.2.nextn.eh_proj.weight").unwrap().dims[0] as usize;
    change("blk.2.nextn.eh_proj.weight", &|at, _| f32::from(u8::from(at % n_cols == at / n_cols)));
    change("blk.2.nextn.enorm.weight", &|_, _| 1.0);
    let norm = gguf.data(gguf.tensor("output_norm.weight").unwrap());
    let norm: Vec<f32> =
        norm.chunks_exact(4).map(|it| f32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect();
    change("blk.2.nextn.shared_head_norm.weight", &|at, _| norm[at]);
    let model = Arc::new(Model::from_bytes(bytes.into()).unwrap());
    Arc::new(LoadedModel::load_with_mtp(model, device, &mut |_, _| {}).unwrap())
}

/// A golden model on `device`.
pub fn load(path: &Path, device: Arc<dyn Device>) -> Arc<LoadedModel> {
    let model = Arc::new(Model::open(path).unwrap());
    Arc::new(LoadedModel::load(model, device, &mut |_, _| {}).unwrap())
}

/// Options for exact comparison: cache in f32.
pub fn exact(chunk: u32) -> EngineOptions {
    EngineOptions { n_ctx: Some(128), chunk, kv_type: GgmlType::F32, ..EngineOptions::default() }
}
