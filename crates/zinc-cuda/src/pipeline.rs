//! From the PTX in the binary to loaded kernels.
//!
//! `kernels/ptx/` holds each module compressed for three generations; a card takes the newest it can run, the driver
//! compiles it, and the result is kept on the disk under a name that says card, driver and text. A damaged or foreign
//! file there is compiled anew. Modules for Hopper alone are machine code: the driver compiles PTX to be linked, and
//! then has every wgmma waited for where anything is called.

mod ptx;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use zinc_backend::DeviceError;

use crate::driver::{Context, Function, Module, is_cubin, read_if_there};
use crate::launch::{Kernel, Launch};
use crate::memory::lost;

pub use ptx::{MODULES, code, param_bytes};

/// Bytes of dynamic shared memory that any launch may ask for.
const ALWAYS_ALLOWED: u32 = 46 << 10;

/// A kernel ready to launch.
pub(crate) type Ready = Function;

/// Loaded modules of one card.
pub(crate) struct Pipeline {
    context: Arc<Context>,
    device: String,
    capability: u32,
    cache_dir: Option<PathBuf>,
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
        Pipeline {
            context: Arc::clone(context),
            device: device.to_owned(),
            capability,
            cache_dir,
            modules: Mutex::default(),
            functions: Mutex::default(),
        }
    }

    /// The kernel of a launch, compiled and loaded the first time.
    pub(crate) fn function(&self, launch: &Launch) -> Result<Function, DeviceError> {
        let failed = |error| lost(&self.device, &error);
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
        if is_cubin(&code) {
            return self.context.load_module(&code).map_err(|error| {
                unavailable(format!(
                    "the driver cannot load {name}: {error}; update it to 580 or newer"
                ))
            });
        }
        let path = self.cache_path(name, &code);
        let cached = path.as_deref().and_then(read_if_there).filter(|image| is_cubin(image));
        if let Some(module) = cached.and_then(|image| self.context.load_module(&image).ok()) {
            return Ok(module);
        }
        let text =
            CString::new(code).map_err(|_| unavailable(format!("kernels {name} are damaged")))?;
        let image = self.context.compile(&text).map_err(|error| {
            unavailable(format!(
                "the driver cannot compile {name}: {error}; update it to 580 or newer"
            ))
        })?;
        if let Some(path) = path {
            keep(&path, &image);
        }
        self.context.load_module(&image).map_err(|error| lost(&self.device, &error))
    }

    /// Where the compiled module is kept.
    fn cache_path(&self, name: &str, text: &[u8]) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        (text, self.context.driver().version()).hash(&mut hasher);
        let file = format!("{name}-sm{}-{:016x}.cubin", self.capability, hasher.finish());
        Some(self.cache_dir.as_ref()?.join(file))
    }
}

/// Writes a file that appears whole or not at all. Failing costs the next start a compilation, nothing else.
fn keep(path: &std::path::Path, image: &[u8]) {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let write = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&part, image)?;
        std::fs::rename(&part, path)
    };
    if write().is_err() {
        let _ = std::fs::remove_file(&part);
    }
}
