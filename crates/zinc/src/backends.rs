//! The devices of this machine. The only file that names concrete backends, and the only place for
//! their feature flags.

use std::sync::Arc;

use zinc_backend::{Backend, Device, DeviceError, DeviceInfo};
use zinc_cpu::CpuBackend;
use zinc_cuda::{CudaBackend, CudaOptions};
use zinc_engine::EngineError;
use zinc_reference::ReferenceBackend;

use crate::args::DeviceArgs;
use crate::{env, report, selftest};

/// How devices are opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Threads of the cpu device.
    pub threads: Option<u32>,
    /// Use a card that another process uses.
    pub share: bool,
    /// Only kernels whose rows do not depend on what else a step holds.
    pub batch_invariant: bool,
}

/// All backends, the fastest first.
fn backends(choice: Choice) -> Vec<Box<dyn Backend>> {
    let n_threads = choice.threads.map(|n| n as usize);
    let options = CudaOptions {
        cache_dir: env::cache_dir().map(|dir| dir.join("cuda")),
        share: choice.share,
        batch_invariant: choice.batch_invariant,
        ..CudaOptions::default()
    };
    vec![
        Box::new(CudaBackend { options }),
        Box::new(CpuBackend { n_threads }),
        Box::new(ReferenceBackend),
    ]
}

/// Kinds of devices that this machine has none of, each with the reason.
pub fn absent() -> Vec<(&'static str, String)> {
    zinc_cuda::why_none().map(|why| ("cuda", why)).into_iter().collect()
}

/// All devices, the fastest first.
pub fn devices(choice: Choice) -> Vec<DeviceInfo> {
    backends(choice).iter().flat_map(|backend| backend.devices()).collect()
}

/// Opens the device called `name`, unless its backend says it cannot.
///
/// # Errors
/// No device has the name, or it is not available.
pub fn open(name: &str, choice: Choice) -> anyhow::Result<Arc<dyn Device>> {
    for backend in backends(choice) {
        if backend.devices().iter().any(|info| info.name == name) {
            return Ok(backend.open(name)?);
        }
    }
    Err(unknown(name, choice))
}

/// Refuses a device that does not do what `--batch-invariant` asks for.
///
/// # Errors
/// Its rows depend on what else a step holds.
pub fn check_invariant(device: &dyn Device) -> anyhow::Result<()> {
    if device.caps().batch_invariant {
        return Ok(());
    }
    let what = format!("the results of {} depend on what else runs", device.info().name);
    Err(report::with_hint(what, "leave out --batch-invariant, or use --device cpu"))
}

fn unknown(name: &str, choice: Choice) -> anyhow::Error {
    let names: Vec<_> = devices(choice).into_iter().map(|info| info.name).collect();
    let why = absent().into_iter().find(|(kind, _)| name.starts_with(kind));
    let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
    let what = format!("no device called {}{why}", report::printable(name));
    report::with_hint(what, format!("devices of this machine: {}", names.join(", ")))
}

impl DeviceArgs {
    /// Looks whether this machine has the device that the flags name, without opening it.
    ///
    /// # Errors
    /// No device has the name.
    pub fn check_name(&self) -> anyhow::Result<()> {
        let choice = Choice::default();
        match &self.device {
            Some(name) if !devices(choice).iter().any(|info| info.name == *name) => {
                Err(unknown(name, choice))
            }
            _ => Ok(()),
        }
    }

    /// Opens the device that the flags name, or the fastest that computes right. A device that
    /// fails its self-test is never used.
    ///
    /// # Errors
    /// The device is unknown, not available, or computes wrong values.
    pub fn open(&self) -> anyhow::Result<Arc<dyn Device>> {
        self.open_with(false)
    }

    /// As [`DeviceArgs::open`], where asked for with kernels whose rows do not depend on what else a
    /// step holds.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(&self, batch_invariant: bool) -> anyhow::Result<Arc<dyn Device>> {
        let choice = Choice { threads: self.threads.threads, share: self.share, batch_invariant };
        if let Some(name) = &self.device {
            let device = open(name, choice)?;
            selftest::check(Arc::clone(&device)).map_err(|error| failed(name, error))?;
            return Ok(device);
        }
        if let Some(why) = zinc_cuda::why_unusable() {
            report::note(format!("warning: not using cuda: {why}"));
        }
        for info in devices(choice) {
            let tested = open(&info.name, choice)
                .and_then(|device| selftest::check(Arc::clone(&device)).map(|_| device));
            match tested {
                Ok(device) => return Ok(device),
                Err(error) => report::note(format!("warning: not using {}: {error:#}", info.name)),
            }
        }
        Err(report::with_hint(
            "no device of this machine passes its self-test",
            "run `zinc doctor`",
        ))
    }
}

/// Why a device did not pass its self-test. One that has no room for it may well compute right.
fn failed(name: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(EngineError::Device(DeviceError::OutOfMemory { .. })) => error,
        _ => error.context(format!(
            "device {name} fails its self-test; hint: run `zinc doctor` and choose another with --device"
        )),
    }
}
