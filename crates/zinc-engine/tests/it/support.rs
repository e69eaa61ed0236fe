//! What tests run on.

use std::path::Path;
use std::sync::Arc;

use zinc_backend::Device;
use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::{EngineOptions, LoadedModel, Model};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::golden::{Golden, Prompt, goldens};

/// The golden model `name` with its numbers; prints why and returns `None` if it is not there.
pub fn golden(name: &str) -> Option<(Golden, Vec<Prompt>)> {
    let found = goldens().unwrap().into_iter().find(|golden| golden.name == name);
    if found.is_none() {
        eprintln!(
            "skipped: golden model {name} is neither in testdata/golden nor in ../shared/golden"
        );
    }
    let golden = found?;
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

/// A golden model on `device`.
pub fn load(path: &Path, device: Arc<dyn Device>) -> Arc<LoadedModel> {
    let model = Arc::new(Model::open(path).unwrap());
    Arc::new(LoadedModel::load(model, device, &mut |_, _| {}).unwrap())
}

/// Options for exact comparison: cache in f32.
pub fn exact(chunk: u32) -> EngineOptions {
    EngineOptions { n_ctx: Some(128), chunk, kv_type: GgmlType::F32, ..EngineOptions::default() }
}
