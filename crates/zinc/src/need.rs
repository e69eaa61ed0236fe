//! What a model needs to run: memory, and bytes read per token.

use serde::Serialize;
use zinc_backend::Device;
use zinc_engine::{EngineOptions, LayerNeed, MemoryNeed, Model};

use crate::output::human_bytes;
use crate::traffic::Traffic;

/// Memory for a context length on a device.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// Device name.
    pub device: String,
    /// Context length in tokens.
    pub n_ctx: u32,
    /// Element type of the cache.
    pub kv_type: &'static str,
    /// Bytes of weights, read in place or copied.
    pub weight_bytes: u64,
    /// Bytes of weights that the device copies; the others are read where the file is mapped.
    pub copied_weight_bytes: u64,
    /// Bytes of all caches.
    pub kv_bytes: u64,
    /// The caches by the kind of their layers; layers without one are not there.
    pub caches: Vec<CacheReport>,
    /// Bytes of intermediate values.
    pub scratch_bytes: u64,
    /// Bytes that loading the weights takes beyond what caches and scratch do later.
    pub loading_bytes: u64,
    /// Most bytes of the host's memory for what the caches have no room for.
    pub host_cache_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Bytes of memory the device has, if it says so.
    pub memory_bytes: Option<u64>,
    /// Bytes free on the device, if it says so.
    pub free_bytes: Option<u64>,
    /// Whether it fits, if the device says how much it has.
    pub fits: Option<bool>,
    /// Where it does not: the longest context with which it would, if there is one.
    pub longest_ctx: Option<u32>,
    /// Bytes of weights and recurrent states that each generated token reads.
    pub read_bytes_per_token: u64,
    /// Bytes of cache that each generated token reads for each token before it.
    pub kv_bytes_per_token: u64,
    /// Bytes of cache that it reads besides for each token inside the window.
    pub window_kv_bytes_per_token: u64,
    /// The longest window.
    pub window: Option<u32>,
}

/// Caches of layers of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct CacheReport {
    /// `full`, `window`, `latent` or `recurrent`.
    pub kind: &'static str,
    /// Number of layers.
    pub n_layers: u32,
    /// Bytes of all of them.
    pub n_bytes: u64,
}

impl Need {
    /// What `model` needs on `device`.
    ///
    /// # Errors
    /// An option outside its range, or an operation or type the device lacks.
    pub fn of(model: &Model, device: &dyn Device, options: &EngineOptions) -> anyhow::Result<Need> {
        let memory = crate::model::memory_need(model, device, options)?;
        let info = device.info();
        let is_known = info.memory_total > 0;
        let fits = |need: &MemoryNeed| need.fits(info.memory_total, info.memory_free);
        let longest_ctx = match is_known && !fits(&memory) {
            true => options.longest_context(model, device, fits)?,
            false => None,
        };
        let traffic = Traffic::of(model, options)?;
        let window = traffic.window_per_token();
        Ok(Need {
            device: info.name.clone(),
            n_ctx: options.n_ctx(model)?,
            kv_type: options.kv_type.name(),
            weight_bytes: memory.weights.total(),
            copied_weight_bytes: memory.weights.copied,
            kv_bytes: memory.cache.total(),
            caches: caches(&memory),
            scratch_bytes: memory.scratch,
            loading_bytes: memory.only_loading(),
            host_cache_bytes: memory.host_cache,
            total_bytes: memory.total(),
            memory_bytes: is_known.then_some(info.memory_total),
            free_bytes: is_known.then_some(info.memory_free),
            fits: is_known.then(|| fits(&memory)),
            longest_ctx,
            read_bytes_per_token: traffic.step_bytes(1),
            kv_bytes_per_token: traffic.full_per_token(),
            window_kv_bytes_per_token: window.map_or(0, |(n_bytes, _)| n_bytes),
            window: window.map(|(_, window)| window),
        })
    }

    /// Lines for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("device", self.device.clone()), ("weights", self.weight_words())];
        let context = format!("{} tokens, {}", self.n_ctx, self.kv_type);
        rows.push(("cache", format!("{} ({context})", human_bytes(self.kv_bytes))));
        for cache in &self.caches {
            let name = match cache.kind {
                "full" => "  full layers",
                "window" => "  window layers",
                "latent" => "  latent layers",
                _ => "  recurrent layers",
            };
            rows.push((name, format!("{} in {}", human_bytes(cache.n_bytes), cache.n_layers)));
        }
        rows.push(("scratch", human_bytes(self.scratch_bytes)));
        if self.loading_bytes > 0 {
            let n_bytes = human_bytes(self.loading_bytes);
            rows.push(("loading", format!("{n_bytes} more until the weights are there")));
        }
        rows.push(("together", human_bytes(self.total_bytes)));
        if self.host_cache_bytes > 0 {
            let n_bytes = human_bytes(self.host_cache_bytes);
            rows.push(("host cache", format!("up to {n_bytes} more of the host's memory")));
        }
        if let (Some(free), Some(memory), Some(fits)) =
            (self.free_bytes, self.memory_bytes, self.fits)
        {
            let verdict = match (fits, self.longest_ctx) {
                (true, _) if self.total_bytes > free => {
                    "fits, but weights will be read from the disk again".into()
                }
                (true, _) => "fits".into(),
                (false, Some(n_ctx)) => {
                    format!("does not fit; a context of {n_ctx} tokens would")
                }
                (false, None) => "does not fit at any context".into(),
            };
            let (free, memory) = (human_bytes(free), human_bytes(memory));
            rows.push(("free", format!("{free} of {memory}: {verdict}")));
        }
        rows.push(("read per token", self.traffic_words()));
        rows
    }

    fn weight_words(&self) -> String {
        let all = human_bytes(self.weight_bytes);
        match self.copied_weight_bytes {
            0 => format!("{all}, read where the file is mapped"),
            copied if copied == self.weight_bytes => format!("{all}, copied"),
            copied => format!("{all}, of which {} are copied", human_bytes(copied)),
        }
    }

    fn traffic_words(&self) -> String {
        let mut words = human_bytes(self.read_bytes_per_token);
        if self.kv_bytes_per_token > 0 {
            let n_bytes = human_bytes(self.kv_bytes_per_token);
            words += &format!(", and {n_bytes} for each token before it");
        }
        if let Some(window) = self.window {
            let n_bytes = human_bytes(self.window_kv_bytes_per_token);
            words += &format!(", and {n_bytes} for each of the {window} tokens of the window");
        }
        words
    }
}

fn caches(memory: &MemoryNeed) -> Vec<CacheReport> {
    let report = |(kind, need): (&'static str, LayerNeed)| CacheReport {
        kind,
        n_layers: need.n_layers,
        n_bytes: need.n_bytes,
    };
    let cache = &memory.cache;
    let kinds = [
        ("full", cache.full),
        ("window", cache.window),
        ("latent", cache.latent),
        ("recurrent", cache.recurrent),
    ];
    kinds.into_iter().filter(|(_, need)| need.n_layers > 0).map(report).collect()
}
