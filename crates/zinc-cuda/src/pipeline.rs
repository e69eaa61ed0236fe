//! From the PTX in the binary to loaded kernels.
//!
//! `kernels/ptx/` holds each module compressed for three generations; a card takes the newest it can run, the driver
//! compiles it, and the result is kept on the disk under a name that says card, driver and text; those for
//! other drivers and texts go after a month. A damaged or foreign file there is compiled anew. Modules for Hopper alone are machine
//! code: the driver compiles PTX to be linked, and then has every wgmma waited for where anything is called.

mod cache;
mod ptx;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use zinc_backend::DeviceError;

use crate::driver::{Context, DriverError, Function, Module, is_cubin, read_if_there};
use crate::launch::{Kernel, Launch};
use crate::memory::refused;
use cache::Cache;

pub use ptx::{MODULES, code, param_bytes};

/// Bytes of shared memory that any launch may have, static and dynamic together.
const ALWAYS_THERE: u32 = 48 << 10;

/// Most static ones of kernels that have dynamic ones as well; a test looks at all kernels.
const MOST_STATIC: u32 = 24 << 10;

/// Bytes of dynamic shared memory that any launch may ask for.
const ALWAYS_ALLOWED: u32 = ALWAYS_THERE - MOST_STATIC;

/// A kernel ready to launch.
pub(crate) type Ready = Function;

/// Loaded modules of one card.
pub(crate) struct Pipeline {
    context: Arc<Context>,
    device: String,
    capability: u32,
    cache: Option<Cache>,
    modules: Mutex<HashMap<&'static str, Arc<Module>>>,
    /// With the dynamic shared memory that is allowed.
    functions: Mutex<HashMap<Kernel, (Function, u32)>>,
}

impl Pipeline {
    pub(crate) fn new(
        context: &Arc<Context>,
        device: &str,
        capability: u32,
        cache_dir: Option<PathBuf>,
    ) -> Pipeline {
        let cuda = context.driver().version();
        Pipeline {
            context: Arc::clone(context),
            device: device.to_owned(),
            capability,
            cache: cache_dir.map(|dir| Cache::new(dir, capability, cuda)),
            modules: Mutex::default(),
            functions: Mutex::default(),
        }
    }

    /// The kernel of a launch, compiled and loaded the first time.
    pub(crate) fn function(&self, launch: &Launch) -> Result<Function, DeviceError> {
        let failed = |error| self.refused(launch.kernel.module, &error);
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = launch.kernel;
        let (function, allowed) = match functions.entry(kernel) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let name = CString::new(kernel.name).unwrap_or_default();
                let function = self.module(kernel.module)?.function(&name).map_err(failed)?;
                entry.insert((function, ALWAYS_ALLOWED))
            }
        };
        if launch.shared > *allowed {
            function.allow_shared(launch.shared).map_err(failed)?;
            *allowed = launch.shared;
        }
        Ok(function.clone())
    }

    fn module(&self, name: &'static str) -> Result<Arc<Module>, DeviceError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(name) {
            return Ok(Arc::clone(module));
        }
        let module = self.load(name)?;
        modules.insert(name, Arc::clone(&module));
        Ok(module)
    }

    fn load(&self, name: &str) -> Result<Arc<Module>, DeviceError> {
        let unavailable =
            |reason: String| DeviceError::Unavailable { device: self.device.clone(), reason };
        let code = code(name, self.capability).ok_or_else(|| {
            unavailable(format!("the binary has no kernels {name} for this card"))
        })?;
        let too_old = |what: &str, error: DriverError| match error.is_out_of_memory() {
            true => self.refused(name, &error),
            false => unavailable(format!(
                "the driver cannot {what} {name}: {error}; update it to 580 or newer"
            )),
        };
        if is_cubin(&code) {
            return self.context.load_module(&code).map_err(|error| too_old("load", error));
        }
        let kept = self.cache.as_ref().map(|cache| (cache, cache.path(name, &code)));
        let cached =
            kept.as_ref().and_then(|(_, path)| read_if_there(path)).filter(|image| is_cubin(image));
        if let Some(module) = cached.and_then(|image| self.context.load_module(&image).ok()) {
            return Ok(module);
        }
        let text =
            CString::new(code).map_err(|_| unavailable(format!("kernels {name} are damaged")))?;
        let image = self.context.compile(&text).map_err(|error| too_old("compile", error))?;
        if let Some((cache, path)) = kept {
            cache.keep(name, &path, &image);
        }
        self.context.load_module(&image).map_err(|error| self.refused(name, &error))
    }

    fn refused(&self, module: &str, error: &DriverError) -> DeviceError {
        refused(&self.device, &format!("the kernels {module}"), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the arrays in shared memory that an entry of PTX declares.
    fn static_bytes(entry: &str) -> u32 {
        let arrays = entry.lines().filter_map(|line| line.trim().strip_prefix(".shared "));
        let bytes = |array: &str| array.rsplit_once('[')?.1.split(']').next()?.parse::<u32>().ok();
        arrays.map(|array| bytes(array).unwrap_or(8)).sum()
    }

    /// Whether an entry uses one of the arrays whose length the launch gives.
    fn is_dynamic(text: &str, entry: &str) -> bool {
        let arrays = text.lines().filter_map(|line| line.strip_prefix(".extern .shared "));
        let mut names = arrays.filter_map(|array| array.split(' ').next_back()?.split('[').next());
        let is_token = |c: char| c.is_alphanumeric() || c == '_';
        names.any(|name| entry.split(|c| !is_token(c)).any(|token| token == name))
    }

    #[test]
    fn launches_that_nobody_allows_have_the_memory_that_is_always_there() {
        let mut n_dynamic = 0;
        for module in MODULES.iter().filter(|module| module.machine.is_none()) {
            for capability in [75, 80, 90] {
                let text = code(module.name, capability).expect("a module for the card");
                let text = String::from_utf8(text).expect("PTX");
                for entry in text.split(".visible .entry ").skip(1) {
                    let name = entry.split('(').next().unwrap_or_default();
                    let is_dynamic = is_dynamic(&text, entry);
                    let most = if is_dynamic { MOST_STATIC } else { ALWAYS_THERE };
                    let n_bytes = static_bytes(entry);
                    assert!(n_bytes <= most, "{name} has {n_bytes} bytes of its own");
                    n_dynamic += u32::from(is_dynamic);
                }
            }
        }
        assert!(n_dynamic > 100, "{n_dynamic} kernels take memory from the launch");
    }
}
