//! Whether models fit on the devices of this machine.

use std::sync::Arc;

use zinc_backend::{Device, DeviceInfo, WeightSource};
use zinc_catalog::{Catalog, Entry, Fit, Quant};
use zinc_engine::{EngineOptions, Model, Speculation};
use zinc_quant::GgmlType;

use super::FitArgs;
use crate::backends;
use crate::output::human_bytes;

/// The devices that a model may run on, and how long a context is wanted.
pub struct Devices {
    devices: Vec<(DeviceInfo, Option<Arc<dyn Device>>)>,
    n_ctx: u32,
}

/// Asking what fits disturbs nobody who computes on a card.
const CHOICE: backends::Choice =
    backends::Choice { threads: None, share: true, batch_invariant: false };

impl Devices {
    /// Those of this machine, or the one that the flags name. The reference device is left out: it is
    /// as large as the CPU, and nobody waits for it.
    ///
    /// # Errors
    /// No device has that name.
    pub fn look(args: &FitArgs) -> anyhow::Result<Devices> {
        Devices::with(args.device.as_deref(), args.ctx)
    }

    /// The same without flags.
    ///
    /// # Errors
    /// As there.
    pub fn with(device: Option<&str>, n_ctx: u32) -> anyhow::Result<Devices> {
        let devices = match device {
            Some(name) => {
                let device = backends::open(name, CHOICE)?;
                vec![(device.info().clone(), Some(device))]
            }
            None => {
                let all = backends::devices(CHOICE).into_iter();
                let infos = all.filter(|info| info.name != "reference");
                let open = |info: DeviceInfo| {
                    let device = backends::open(&info.name, CHOICE).ok();
                    (info, device)
                };
                infos.map(open).collect()
            }
        };
        Ok(Devices { devices, n_ctx })
    }

    /// The best answer for a model whose file (or header) is here; `None` if no device can run it.
    pub fn fit_of(&self, model: &Model) -> Option<Fit> {
        let n_ctx = self.n_ctx.min(model.config().n_ctx_train);
        let n_ctx = Some(n_ctx);
        let speculation = Speculation::Auto;
        let options = EngineOptions { n_ctx, speculation, ..EngineOptions::default() };
        let opened = self.devices.iter().filter_map(|(_, device)| device.as_ref());
        best(opened.filter_map(|device| Fit::of(model, device.as_ref(), &options).ok()))
    }

    /// The best answer from the sizes in the catalog, if they are there.
    pub fn fit_about(&self, entry: &Entry, quant: &Quant) -> Option<Fit> {
        let about = |(info, device): &(DeviceInfo, Option<Arc<dyn Device>>)| {
            let maps = device.as_ref().is_some_and(|device| maps_weights(device.as_ref()));
            Fit::about(entry, quant, info, maps, self.n_ctx)
        };
        best(self.devices.iter().filter_map(about))
    }

    /// The model nearest to one that does not fit and itself does: a smaller quantisation of it, or the
    /// largest of its family, or of all.
    pub fn nearest(&self, catalog: &Catalog, entry: &Entry, quant: &Quant) -> Option<String> {
        let size = entry.about_bytes(quant)?;
        let fits = |entry: &Entry, quant: &Quant| {
            let n_bytes = entry.about_bytes(quant).filter(|n_bytes| *n_bytes < size)?;
            self.fit_about(entry, quant).filter(Fit::fits).map(|_| n_bytes)
        };
        let smaller = entry.quants.iter().filter_map(|q| Some((fits(entry, q)?, q)));
        if let Some((_, quant)) = smaller.max_by_key(|(n_bytes, _)| *n_bytes) {
            return Some(format!("{}:{}", entry.id, quant.name));
        }
        let others = |same: bool| {
            let of_family =
                catalog.models.iter().filter(move |e| !same || e.family == entry.family);
            let fitting = of_family.filter_map(|e| Some((fits(e, e.quants.first()?)?, e)));
            fitting.max_by_key(|(n_bytes, _)| *n_bytes).map(|(_, e)| e.id.clone())
        };
        others(true).or_else(|| others(false))
    }
}

/// Whether a device reads weights where the file is mapped.
fn maps_weights(device: &dyn Device) -> bool {
    static BLOCK: Aligned = Aligned([0; 64 * 144]);
    #[repr(align(64))]
    struct Aligned([u8; 64 * 144]);
    let data = bytes::Bytes::from_static(&BLOCK.0);
    let source = WeightSource {
        name: "blk.0.ffn_up.weight".into(),
        dtype: GgmlType::Q4_K,
        rows: 64,
        cols: 256,
        data,
    };
    device.weight_need(&[source]).copied == 0
}

/// The first that fits; else the one with the longest context.
fn best(fits: impl Iterator<Item = Fit>) -> Option<Fit> {
    let mut best: Option<Fit> = None;
    for fit in fits {
        let is_better = best.as_ref().is_none_or(|best| best.longest_ctx < fit.longest_ctx);
        if fit.fits() {
            return Some(fit);
        }
        if is_better {
            best = Some(fit);
        }
    }
    best
}

/// A few words about fit for a table; `about` marks what the catalog alone says.
pub fn words(fit: Option<&Fit>) -> String {
    let Some(fit) = fit else {
        return "?".into();
    };
    let about = if fit.exact { "" } else { "~" };
    match fit.longest_ctx {
        Some(n_ctx) if n_ctx == fit.n_ctx => format!("{about}{}", fit.device),
        Some(n_ctx) => format!("{about}{} up to {n_ctx}", fit.device),
        None => format!("no: {about}{}", human_bytes(fit.need_bytes)),
    }
}

/// A sentence about fit.
pub fn sentence(fit: &Fit) -> String {
    let about = if fit.exact { "" } else { "about " };
    let need =
        format!("a context of {} tokens takes {about}{}", fit.n_ctx, human_bytes(fit.need_bytes));
    let has = match fit.memory_bytes {
        0 => String::new(),
        total => {
            format!(" of {} ({} free)", human_bytes(total), human_bytes(fit.free_bytes))
        }
    };
    match fit.longest_ctx {
        Some(n_ctx) if n_ctx == fit.n_ctx => format!("fits on {}: {need}{has}", fit.device),
        Some(n_ctx) => {
            format!("fits on {} with a context of up to {n_ctx} tokens: {need}{has}", fit.device)
        }
        None => format!("does not fit on {}: {need}{has}", fit.device),
    }
}
