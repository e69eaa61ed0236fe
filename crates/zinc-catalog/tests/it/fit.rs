//! Fit before the download: from the header alone, the same as from the file.

use std::path::Path;

use zinc_backend::Backend;
use zinc_catalog::{Catalog, Fit, Reference};
use zinc_engine::{EngineOptions, Model};
use zinc_reference::ReferenceBackend;

use crate::Place;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_says_what_the_file_takes() {
    let place = Place::new().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../builtin/zinc-demo.gguf");
    let bytes = std::fs::read(&path).unwrap();
    let n_bytes = bytes.len() as u64;
    place.hub.put("o/m-GGUF/m-Q8_0.gguf", bytes.into());
    let reference = Reference::parse("hf:o/m-GGUF").unwrap();
    let (plan, stand_in) = place.puller(None).look_at(&reference).await.unwrap();
    assert_eq!(plan.size(), Some(n_bytes));
    assert!(place.hub.sent() <= 4 << 20, "{} of {n_bytes}", place.hub.sent());
    let device = ReferenceBackend.open("reference").unwrap();
    let whole = Model::open(&path).unwrap();
    let options = EngineOptions::default();
    let from_file = Fit::of(&whole, device.as_ref(), &options).unwrap();
    let from_header = Fit::of(&stand_in.model, device.as_ref(), &options).unwrap();
    assert_eq!(from_file.need_bytes, from_header.need_bytes);
    assert_eq!(from_file.n_ctx, from_header.n_ctx);
}

#[test]
fn fit_from_the_catalog_follows_memory() {
    let catalog = Catalog::built_in().unwrap();
    let entry = catalog.find("qwen3-8b").unwrap();
    let quant = entry.quant(None).unwrap();
    let mut info = ReferenceBackend.open("reference").unwrap().info().clone();
    let mut fit = |gib: u64, n_ctx| {
        (info.memory_total, info.memory_free) = (gib << 30, gib << 30);
        Fit::about(entry, quant, &info, false, n_ctx).unwrap()
    };
    assert!(fit(8, 8192).fits());
    let long = fit(8, 32768);
    assert!(!long.fits() && long.longest_ctx.unwrap() >= 8192, "{long:?}");
    assert_eq!(fit(4, 8192).longest_ctx, None);
    // Keys and values of 36 layers with 8 heads of 128 in f16.
    let difference = fit(8, 8192).need_bytes - fit(8, 4096).need_bytes;
    assert_eq!(difference, 4096 * 36 * 8 * 128 * 2 * 2);
}

/// What the memory plan says of files of these shapes: bytes of the caches with 8192 tokens, from
/// `zinc inspect --ctx 8192 --json` of 2026-11-26.
const PLANNED: [(&str, u64); 8] = [
    ("qwen3-8b", 1_207_959_552),
    ("qwen3.5-9b", 479_199_232),
    ("gpt-oss-120b", 344_457_216),
    ("gemma-3-4b", 730_333_184),
    ("gemma-4-e2b", 83_361_792),
    ("gemma-4-e4b", 244_318_208),
    ("gemma-4-26b-a4b", 1_137_704_960),
    ("gemma-4-31b", 4_550_819_840),
];

#[test]
fn the_catalog_agrees_with_the_memory_plan() {
    const SCRATCH_BYTES: u64 = 96 << 20;
    let catalog = Catalog::built_in().unwrap();
    let info = ReferenceBackend.open("reference").unwrap().info().clone();
    for (id, planned) in PLANNED {
        let entry = catalog.find(id).unwrap();
        let quant = entry.quant(None).unwrap();
        let fit = Fit::about(entry, quant, &info, false, 8192).unwrap();
        let own = fit.need_bytes - entry.about_bytes(quant).unwrap();
        assert_eq!(own, planned + SCRATCH_BYTES, "{id}");
    }
}

#[test]
fn fit_is_known_of_every_model() {
    let catalog = Catalog::built_in().unwrap();
    let mut info = ReferenceBackend.open("reference").unwrap().info().clone();
    (info.memory_total, info.memory_free) = (1 << 40, 1 << 40);
    for entry in &catalog.models {
        for quant in &entry.quants {
            let fit = Fit::about(entry, quant, &info, false, 8192);
            assert!(fit.is_some_and(|fit| fit.fits()), "{} {}", entry.id, quant.name);
        }
    }
}
