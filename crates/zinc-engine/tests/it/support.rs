//! Where test data lies and how tests open models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zinc_backend::Device;
use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::{EngineOptions, LoadedModel, Model};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;

/// The golden file `name`: from the project's own part of them, else from the full set beside the
/// project.
///
/// Prints why and returns `None` if there is neither.
pub fn golden_file(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared =
        std::env::var_os("ZINC_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let places = [
        root.join("testdata/golden").join(name),
        shared.join("golden").join(name),
    ];
    let found = places.iter().find(|path| path.exists()).cloned();
    if found.is_none() {
        eprintln!(
            "skipped: {name} is neither in testdata/golden nor in {}/golden",
            shared.display()
        );
    }
    found
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
    EngineOptions {
        n_ctx: Some(128),
        chunk,
        kv_type: GgmlType::F32,
        max_seqs: 1,
    }
}
