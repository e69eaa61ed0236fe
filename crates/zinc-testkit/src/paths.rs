//! Where test data lies.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The folder of test data that every clone has.
pub fn testdata() -> PathBuf {
    workspace().join("testdata")
}

/// The model that is built into zinc: trained weights in K-quants.
pub fn builtin_model() -> PathBuf {
    workspace().join("builtin/zinc-demo.gguf")
}

/// The folder with the full data sets beside the repository, or where `ZINC_SHARED` says; it may
/// be absent.
pub fn shared() -> PathBuf {
    std::env::var_os("ZINC_SHARED").map_or_else(|| workspace().join("../shared"), PathBuf::from)
}
