//! What is said to be needed before anything is loaded.

use std::path::Path;
use std::sync::Arc;

use zinc_backend::{Device, WeightNeed};
use zinc_engine::{
    CacheNeed, Engine, EngineError, EngineOptions, LayerNeed, MemoryNeed, Model, Speculation,
};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;

use crate::support::{golden, load_with_mtp};

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path).unwrap())
}

fn need(model: &Model, options: &EngineOptions) -> MemoryNeed {
    options.memory_need(model, &ReferenceDevice::new()).unwrap()
}

const OPTIONS: EngineOptions = EngineOptions {
    n_ctx: Some(256),
    chunk: 32,
    kv_type: GgmlType::F16,
    busy_chunk: 16,
    max_seqs: 1,
    checkpoints: 2,
    cache_bytes: None,
    host_cache_bytes: 0,
    extra_rows: 0,
    embeddings: false,
    max_waiting: 16,
    speculation: Speculation::Off,
};

/// Every layer counts once, where its cache is, and only if it has one.
#[test]
fn layers_count_where_their_caches_are() {
    let models = ["qwen3", "deepseek_v2", "gpt_oss", "gemma3", "gemma4", "qwen3_next", "qwen3_5"];
    for name in models {
        let Some((golden, _)) = golden(&format!("{name}.f32")) else {
            continue;
        };
        let model = open(&golden.gguf);
        let config = model.config();
        let layers = &config.layers[..config.n_layers as usize];
        let count = |counts: fn(&zinc_models::LayerConfig) -> bool| {
            layers.iter().filter(|layer| counts(layer)).count() as u32
        };
        let cache = need(&model, &OPTIONS).cache;
        let (has_own, recurrent) = (count(|it| it.kv_layer.is_none()), count(|it| it.recurrent));
        assert_eq!(cache.recurrent.n_layers, recurrent, "{name}");
        let windows = count(|it| it.window.is_some() && it.kv_layer.is_none() && !it.recurrent);
        assert_eq!(cache.window.n_layers, windows, "{name}");
        let all = cache.full.n_layers + cache.latent.n_layers;
        assert_eq!(all, has_own - recurrent - windows, "{name}");
        assert_eq!(cache.latent.n_layers > 0, config.latent.is_some(), "{name}");
        let weights = need(&model, &OPTIONS).weights;
        assert!(weights.mapped > 0 && weights.copied == 0, "{name}");
    }
}

#[test]
fn windows_and_states_do_not_grow_with_the_context() {
    for name in ["gemma3", "gpt_oss", "qwen3_5"] {
        let Some((golden, _)) = golden(&format!("{name}.f32")) else {
            continue;
        };
        let model = open(&golden.gguf);
        let at = |n_ctx| need(&model, &EngineOptions { n_ctx: Some(n_ctx), ..OPTIONS }).cache;
        let (short, long) = (at(256), at(512));
        assert_eq!(long.full.n_bytes, 2 * short.full.n_bytes, "{name}");
        assert_eq!(long.window, short.window, "{name}");
        assert_eq!(long.recurrent, short.recurrent, "{name}");
        // Each checkpoint holds a copy of the states.
        let none = need(&model, &EngineOptions { checkpoints: 0, ..OPTIONS }).cache;
        assert_eq!(short.recurrent.n_bytes, 3 * none.recurrent.n_bytes, "{name}");
        assert!(none.window.n_bytes <= short.window.n_bytes, "{name}");
        // Two sequences have two of everything.
        let two = need(&model, &EngineOptions { max_seqs: 2, ..OPTIONS }).cache;
        assert_eq!(two.total(), 2 * short.total(), "{name}");
    }
}

#[test]
fn the_longest_context_that_fits_is_found() {
    let Some((golden, _)) = golden("qwen3.f32") else {
        return;
    };
    let model = open(&golden.gguf);
    let device = ReferenceDevice::new();
    let device: &dyn Device = &device;
    let at = |n_ctx| need(&model, &EngineOptions { n_ctx: Some(n_ctx), ..OPTIONS });
    let whole = EngineOptions { n_ctx: Some(500), ..OPTIONS };
    let longest = |budget: u64| {
        whole.longest_context(&model, device, |need| need.fits(u64::MAX, budget)).unwrap()
    };
    assert_eq!(longest(at(500).own()), Some(500));
    assert_eq!(longest(at(500).own() - 1), Some(480));
    assert_eq!(longest(at(96).own()), Some(96));
    assert_eq!(longest(at(96).own() - 1), Some(64));
    assert_eq!(longest(at(32).own() - 1), Some(1));
    assert_eq!(longest(at(1).own() - 1), None);
    // Weights that are read in place must not exceed the memory that there is.
    let need = at(64);
    assert!(need.fits(need.total(), need.own()));
    assert!(!need.fits(need.total() - 1, need.own()));
    assert!(!need.fits(u64::MAX, need.own() - 1));
}

/// Caches and scratch take the place of what the weights were loaded through.
#[test]
fn loading_counts_where_it_takes_more_than_what_comes_after_it() {
    let with = |loading| {
        let weights = WeightNeed { copied: 100, loading, ..WeightNeed::default() };
        let full = LayerNeed { n_layers: 1, n_bytes: 20 };
        let cache = CacheNeed { full, ..CacheNeed::default() };
        MemoryNeed { weights, cache, scratch: 10, host_cache: 0 }
    };
    assert_eq!((with(30).own(), with(30).only_loading()), (130, 0));
    assert_eq!((with(64).own(), with(64).only_loading()), (164, 34));
    assert!(with(64).fits(164, 164) && !with(64).fits(163, 163));
}

/// The head that drafts takes weights, a cache in the same pages, and scratch.
#[test]
fn the_head_counts_where_it_drafts() {
    let Some((golden, _)) = golden("qwen3_5_mtp.f32") else {
        return;
    };
    let model = open(&golden.gguf);
    let with = |speculation, max_seqs| {
        let options = EngineOptions { max_seqs, speculation, ..OPTIONS };
        need(&model, &options)
    };
    let [lookup, mtp, auto] =
        [Speculation::Lookup, Speculation::Mtp, Speculation::Auto].map(|it| with(it, 2));
    assert_eq!(mtp, auto);
    let head = model.gguf().tensors().iter().filter(|tensor| tensor.name.starts_with("blk.2."));
    let n_bytes: u64 = head.map(|tensor| tensor.n_bytes).sum();
    assert_eq!(mtp.weights.mapped - lookup.weights.mapped, n_bytes);
    assert_eq!(mtp.cache.full.n_layers, lookup.cache.full.n_layers + 1);
    assert_eq!(mtp.cache.full.n_bytes, 2 * lookup.cache.full.n_bytes, "layers of one size");
    assert_eq!(mtp.cache.recurrent, lookup.cache.recurrent);
    assert!(mtp.scratch > lookup.scratch);
    // A budget of bytes is for the head's cache as well.
    let loaded = load_with_mtp(&golden.gguf, std::sync::Arc::new(ReferenceDevice::new()));
    let budget = 3 * mtp.cache.total();
    let within = |speculation| {
        let cache_bytes = Some(budget);
        let options = EngineOptions { cache_bytes, speculation, max_seqs: 2, ..OPTIONS };
        let taken = need(&model, &options).cache.total();
        assert!(taken <= budget && taken > budget / 2, "{taken} of {budget}");
        Engine::new(std::sync::Arc::clone(&loaded), &options).unwrap().stats().n_pages
    };
    let (few, many) = (within(Speculation::Mtp), within(Speculation::Lookup));
    assert!(few < many, "{few} pages with a head, {many} without");

    let Some((golden, _)) = crate::support::golden("qwen3.f32") else {
        return;
    };
    let options = EngineOptions { speculation: Speculation::Mtp, ..OPTIONS };
    let refused = options.memory_need(&open(&golden.gguf), &ReferenceDevice::new()).unwrap_err();
    assert!(matches!(refused, EngineError::NoMtpHead { .. }), "{refused}");
}
