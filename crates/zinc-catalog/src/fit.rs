//! Whether a model fits on a device.

use serde::Serialize;
use zinc_backend::{Device, DeviceInfo};
use zinc_engine::{CacheRows, EngineError, EngineOptions, MemoryNeed, Model};

use crate::catalog::{CacheShape, Entry, Quant};

/// Intermediate values, where the plan that says it is not here: on the CPU plans of 0.6B to 120B of
/// all families take 17 to 88 MiB for a step of 512 tokens (2026-11-26).
const SCRATCH_BYTES: u64 = 96 << 20;

/// Whether a model fits on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// The device.
    pub device: String,
    /// Bytes that it takes there with the context asked for.
    pub need_bytes: u64,
    /// Bytes the device has; 0 if it does not say.
    pub memory_bytes: u64,
    /// Bytes of it that are free.
    pub free_bytes: u64,
    /// Context length asked for, in tokens.
    pub n_ctx: u32,
    /// The longest context, up to that one, that fits; none if not even one token does.
    pub longest_ctx: Option<u32>,
    /// Whether this is the memory plan itself; otherwise it is computed from the sizes in the catalog.
    pub exact: bool,
}

impl Fit {
    /// Whether all of the context asked for fits.
    pub fn fits(&self) -> bool {
        self.longest_ctx == Some(self.n_ctx)
    }

    /// From the memory plan of the model.
    ///
    /// # Errors
    /// An option outside its range, or an operation that the device lacks.
    pub fn of(
        model: &Model,
        device: &dyn Device,
        options: &EngineOptions,
    ) -> Result<Fit, EngineError> {
        let info = device.info();
        let (total, free) = (info.memory_total, info.memory_free);
        let fits = |need: &MemoryNeed| total == 0 || need.fits(total, free);
        let need = options.memory_need(model, device)?;
        let n_ctx = options.n_ctx(model)?;
        let longest_ctx = match fits(&need) {
            true => Some(n_ctx),
            false => options.longest_context(model, device, fits)?,
        };
        Ok(Fit {
            device: info.name.clone(),
            need_bytes: need.total(),
            memory_bytes: total,
            free_bytes: free,
            n_ctx,
            longest_ctx,
            exact: true,
        })
    }

    /// From what the catalog says of sizes; `None` if it says too little. `maps_weights` says whether
    /// the device reads weights in the mapped file.
    pub fn about(
        entry: &Entry,
        quant: &Quant,
        info: &DeviceInfo,
        maps_weights: bool,
        n_ctx: u32,
    ) -> Option<Fit> {
        let weights = entry.about_bytes(quant)?;
        let n_ctx = n_ctx.min(entry.context);
        let Some(shape) = entry.cache else {
            // What does not even hold the weights needs no further numbers.
            let fits = Need { weights, own: 0 }.fits(info, maps_weights);
            return (!fits).then(|| Fit {
                device: info.name.clone(),
                need_bytes: weights,
                memory_bytes: info.memory_total,
                free_bytes: info.memory_free,
                n_ctx,
                longest_ctx: None,
                exact: false,
            });
        };
        let need = |n_ctx: u32| Need::about(&shape, weights, n_ctx);
        let fits = |n_ctx: u32| need(n_ctx).fits(info, maps_weights);
        let longest_ctx = match fits(n_ctx) {
            true => Some(n_ctx),
            false => longest(n_ctx, fits),
        };
        Some(Fit {
            device: info.name.clone(),
            need_bytes: weights + need(n_ctx).own,
            memory_bytes: info.memory_total,
            free_bytes: info.memory_free,
            n_ctx,
            longest_ctx,
            exact: false,
        })
    }
}

/// The largest number up to `most` for which `fits`, in steps of 256.
fn longest(most: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut fitting, mut too_long) = (0, most.div_ceil(256));
    while fitting + 1 < too_long {
        let middle = fitting + (too_long - fitting) / 2;
        match fits(middle * 256) {
            true => fitting = middle,
            false => too_long = middle,
        }
    }
    (fitting > 0).then_some(fitting * 256)
}

/// Bytes of weights, and of everything else.
struct Need {
    weights: u64,
    own: u64,
}

impl Need {
    /// The caches as the engine shapes them, in f16, and room for intermediate values.
    fn about(shape: &CacheShape, weights: u64, n_ctx: u32) -> Need {
        let window = (shape.window_layers > 0).then_some(shape.window);
        let options = EngineOptions::default();
        let rows = CacheRows::of(&options, n_ctx, window, shape.state_values > 0);
        let values = |n_layers: u32, n_values: u32| u64::from(n_layers) * u64::from(n_values);
        let full = values(shape.full_layers, shape.full_values) * rows.full;
        let window = values(shape.window_layers, shape.window_values) * rows.window;
        let states = shape.state_values * rows.states;
        Need { weights, own: (full + window) * 2 + states * 4 + SCRATCH_BYTES }
    }

    fn fits(&self, info: &DeviceInfo, maps_weights: bool) -> bool {
        if info.memory_total == 0 {
            return true;
        }
        let all = self.weights.saturating_add(self.own);
        match maps_weights {
            true => self.own <= info.memory_free && all <= info.memory_total,
            false => all <= info.memory_free,
        }
    }
}
