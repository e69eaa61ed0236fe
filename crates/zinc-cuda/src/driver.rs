//! The CUDA driver: its library opened at run time, and the few calls of it that zinc needs.
//!
//! Nothing of CUDA is linked. [`Driver::load`] opens `libcuda.so.1` (`nvcuda.dll`) and resolves every
//! function before any is called, so an old driver is one clear error and no crash later.

mod api;
mod stream;

use std::ffi::{CStr, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use api::Api;
use stream::Gate;
pub use stream::Stream;

/// Oldest driver that loads the kernels in the binary: CUDA 13.0, driver 580.
pub const MIN_CUDA: i32 = 13_000;

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: i32 = 100;

/// What a driver call returned, in the driver's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverError {
    /// The number, such as 2 for out of memory.
    pub code: i32,
    /// `CUDA_ERROR_OUT_OF_MEMORY: out of memory`, with the call that gave it.
    pub text: String,
}

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl DriverError {
    /// Whether the device has no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == 2
    }
}

type Result<T> = std::result::Result<T, DriverError>;

/// The opened library.
pub struct Driver {
    api: Api,
    version: i32,
}

/// A card as the driver describes it.
#[derive(Clone, Debug)]
pub struct CardInfo {
    /// Index for the driver.
    pub ordinal: i32,
    /// Marketing name.
    pub name: String,
    /// Which card it is, whatever its index.
    pub uuid: String,
    /// Compute capability times ten: 90 for Hopper.
    pub capability: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub n_multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_per_block: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
}

/// Why there is no driver to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDriver {
    /// The library is not there.
    Missing,
    /// The library is older than the kernels, or lacks a function.
    TooOld {
        /// Version of CUDA that it serves, `12.4`; empty when it does not say.
        found: String,
    },
    /// There is no card, or all of them are hidden from this process.
    NoCard,
    /// It is there but refuses to start.
    Failed(String),
}

impl std::fmt::Display for NoDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoDriver::Missing => f.write_str(
                "no NVIDIA driver: libcuda is not here; for a card install driver 580 or newer, in a container let it in",
            ),
            NoDriver::TooOld { found } => write!(
                f,
                "the NVIDIA driver is too old: it serves CUDA {found}, zinc needs 13.0; install driver 580 or newer"
            ),
            NoDriver::NoCard => f.write_str(
                "the NVIDIA driver finds no card; see `nvidia-smi` and CUDA_VISIBLE_DEVICES",
            ),
            NoDriver::Failed(reason) => write!(
                f,
                "the NVIDIA driver does not start: {reason}; see `nvidia-smi` and the kernel log"
            ),
        }
    }
}

impl Driver {
    /// The driver of this process, opened once.
    ///
    /// # Errors
    /// There is none, it is too old, or it finds no card.
    pub fn load() -> std::result::Result<&'static Driver, NoDriver> {
        static DRIVER: OnceLock<std::result::Result<Driver, NoDriver>> = OnceLock::new();
        DRIVER.get_or_init(Driver::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> std::result::Result<Driver, NoDriver> {
        let api = Api::open()?;
        let mut driver = Driver { api, version: 0 };
        // SAFETY: the first call of the library, as it demands; 0 is the only value of its flags.
        let started = driver.check("cuInit", unsafe { (driver.api.init)(0) });
        started.map_err(|error| match error.code {
            NO_DEVICE => NoDriver::NoCard,
            _ => NoDriver::Failed(error.text),
        })?;
        let mut version = 0;
        // SAFETY: writes one i32.
        let told = unsafe { (driver.api.driver_get_version)(&raw mut version) };
        driver.check("cuDriverGetVersion", told).map_err(|error| NoDriver::Failed(error.text))?;
        driver.version = version;
        if version < MIN_CUDA {
            let found = format!("{}.{}", version / 1000, version % 1000 / 10);
            return Err(NoDriver::TooOld { found });
        }
        Ok(driver)
    }

    /// Version of CUDA that the driver serves, 13010 for 13.1.
    pub fn version(&self) -> i32 {
        self.version
    }

    fn check(&self, call: &str, code: i32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let word = |get: api::GetErrorText| {
            let mut text = null();
            // SAFETY: gives a string that lives as long as the library, or leaves the null.
            unsafe { get(code, &raw mut text) };
            if text.is_null() {
                return String::new();
            }
            // SAFETY: not null, so the driver's own NUL-terminated string.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        let [name, what] = [word(self.api.get_error_name), word(self.api.get_error_string)];
        Err(DriverError { code, text: format!("{call}: {name} ({code}): {what}") })
    }

    /// The cards that this process may see.
    ///
    /// # Errors
    /// The driver's.
    pub fn cards(&self) -> Result<Vec<CardInfo>> {
        let mut n_cards = 0;
        // SAFETY: writes one i32.
        self.check("cuDeviceGetCount", unsafe { (self.api.device_get_count)(&raw mut n_cards) })?;
        (0..n_cards).map(|ordinal| self.card(ordinal)).collect()
    }

    fn card(&self, ordinal: i32) -> Result<CardInfo> {
        let mut device = 0;
        // SAFETY: writes one i32.
        self.check("cuDeviceGet", unsafe { (self.api.device_get)(&raw mut device, ordinal) })?;
        let mut name = [0u8; 256];
        // SAFETY: writes at most 256 bytes with a NUL among them.
        let named = unsafe { (self.api.device_get_name)(name.as_mut_ptr().cast(), 256, device) };
        self.check("cuDeviceGetName", named)?;
        let mut uuid = [0u8; 16];
        // SAFETY: writes 16 bytes.
        let told = unsafe { (self.api.device_get_uuid)(uuid.as_mut_ptr().cast(), device) };
        self.check("cuDeviceGetUuid", told)?;
        let mut memory = 0usize;
        // SAFETY: writes one usize.
        let told = unsafe { (self.api.device_total_mem)(&raw mut memory, device) };
        self.check("cuDeviceTotalMem", told)?;
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: writes one i32.
            let told =
                unsafe { (self.api.device_get_attribute)(&raw mut value, attribute, device) };
            self.check("cuDeviceGetAttribute", told).map(|()| u32::try_from(value).unwrap_or(0))
        };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(CardInfo {
            ordinal,
            name: String::from_utf8_lossy(name).into_owned(),
            uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
            capability: attribute(api::CAPABILITY_MAJOR)? * 10 + attribute(api::CAPABILITY_MINOR)?,
            memory: memory as u64,
            n_multiprocessors: attribute(api::MULTIPROCESSORS)?,
            shared_per_block: attribute(api::SHARED_PER_BLOCK_OPTIN)?,
            shared_per_multiprocessor: attribute(api::SHARED_PER_MULTIPROCESSOR)?,
        })
    }
}

/// A card in use: its primary context and one stream, on which everything runs in order.
pub struct Context {
    driver: &'static Driver,
    device: i32,
    raw: *mut c_void,
    stream: *mut c_void,
    gate: Mutex<Gate>,
    /// See [`Context::was_last_used_by`].
    last_user: AtomicU64,
}

// SAFETY: the driver's interface may be called from any thread; every call makes the context current first.
unsafe impl Send for Context {}
// SAFETY: as above; handles are only read.
unsafe impl Sync for Context {}

/// A loaded module of kernels.
pub struct Module {
    context: Arc<Context>,
    raw: *mut c_void,
}

// SAFETY: as for `Context`.
unsafe impl Send for Module {}
// SAFETY: as for `Context`.
unsafe impl Sync for Module {}

/// A kernel of a module.
#[derive(Clone)]
pub struct Function {
    raw: *mut c_void,
    module: Arc<Module>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Function {}
// SAFETY: as for `Context`.
unsafe impl Sync for Function {}

/// A mark in the stream.
pub struct Event {
    context: Arc<Context>,
    raw: *mut c_void,
}

// SAFETY: as for `Context`.
unsafe impl Send for Event {}

/// A recorded sequence of launches.
pub struct Graph {
    context: Arc<Context>,
    raw: *mut c_void,
}

// SAFETY: as for `Context`.
unsafe impl Send for Graph {}

/// Grid, block and the rest of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Whether it may start while the launch before it still runs.
    pub overlaps: bool,
}

impl Context {
    /// Takes the card into use.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(driver: &'static Driver, ordinal: i32) -> Result<Arc<Context>> {
        let (mut device, mut raw, mut stream) = (0, null_mut(), null_mut());
        // SAFETY: writes one i32.
        let found = unsafe { (driver.api.device_get)(&raw mut device, ordinal) };
        driver.check("cuDeviceGet", found)?;
        // SAFETY: writes one handle, released in `drop`.
        let kept = unsafe { (driver.api.primary_ctx_retain)(&raw mut raw, device) };
        driver.check("cuDevicePrimaryCtxRetain", kept)?;
        let (gate, last_user) = (Mutex::default(), AtomicU64::new(0));
        let mut context = Context { driver, device, raw, stream, gate, last_user };
        context.enter()?;
        // SAFETY: writes one handle, destroyed in `drop`; 1 is CU_STREAM_NON_BLOCKING.
        let made = unsafe { (driver.api.stream_create)(&raw mut stream, 1) };
        driver.check("cuStreamCreate", made)?;
        context.stream = stream;
        Ok(Arc::new(context))
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until `drop`.
        let entered = unsafe { (self.driver.api.ctx_set_current)(self.raw) };
        self.driver.check("cuCtxSetCurrent", entered)
    }

    /// The driver.
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// Bytes of memory free and in all.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.enter()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: writes two usize.
        let told = unsafe { (self.driver.api.mem_get_info)(&raw mut free, &raw mut total) };
        self.driver.check("cuMemGetInfo", told).map(|()| (free as u64, total as u64))
    }

    /// Memory of the card; freed by [`Context::free`].
    pub(crate) fn alloc(&self, n_bytes: usize) -> Result<u64> {
        let _stream = self.stream()?;
        let mut address = 0;
        // SAFETY: writes one address.
        let made = unsafe { (self.driver.api.mem_alloc)(&raw mut address, n_bytes.max(1)) };
        self.driver.check("cuMemAlloc", made).map(|()| address)
    }

    pub(crate) fn free(&self, address: u64) {
        if let Ok(_stream) = self.stream() {
            // SAFETY: comes from `alloc` and is freed once, by its owner's `drop`. The call waits for the card.
            unsafe { (self.driver.api.mem_free)(address) };
        }
    }

    /// Memory of the machine that the card copies from and to by itself.
    pub(crate) fn alloc_host(&self, n_bytes: usize) -> Result<*mut u8> {
        let _stream = self.stream()?;
        let mut address = null_mut();
        // SAFETY: writes one pointer.
        let made = unsafe { (self.driver.api.mem_alloc_host)(&raw mut address, n_bytes.max(1)) };
        self.driver.check("cuMemAllocHost", made).map(|()| address.cast())
    }

    pub(crate) fn free_host(&self, address: *mut u8) {
        if let Ok(_stream) = self.stream() {
            // SAFETY: comes from `alloc_host` and is freed once, by its owner's `drop`.
            unsafe { (self.driver.api.mem_free_host)(address.cast()) };
        }
    }

    /// Records the launches that `body` makes, without running them.
    ///
    /// # Errors
    /// The driver's or those of `body`.
    pub fn record<E: From<DriverError>>(
        self: &Arc<Self>,
        body: impl FnOnce(&Stream<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Graph, E> {
        let stream = self.stream()?;
        let api = &self.driver.api;
        // SAFETY: the stream lives; 2 is CU_STREAM_CAPTURE_MODE_RELAXED: other threads are free.
        let begun = unsafe { (api.stream_begin_capture)(self.stream, 2) };
        self.driver.check("cuStreamBeginCapture", begun)?;
        let result = body(&stream);
        let mut graph = null_mut();
        // SAFETY: ends the capture begun above and writes one handle.
        let ended = unsafe { (api.stream_end_capture)(self.stream, &raw mut graph) };
        result?;
        self.driver.check("cuStreamEndCapture", ended)?;
        let mut raw = null_mut();
        // SAFETY: the graph was just made; writes one handle, destroyed by `Graph::drop`.
        let made = unsafe { (api.graph_instantiate)(&raw mut raw, graph, 0) };
        // SAFETY: made above; the executable graph does not need it any more.
        unsafe { (api.graph_destroy)(graph) };
        self.driver.check("cuGraphInstantiate", made)?;
        Ok(Graph { context: Arc::clone(self), raw })
    }

    /// Loads compiled code or PTX.
    ///
    /// # Errors
    /// The driver's: code of another card, or a PTX that is too new.
    pub fn load_module(self: &Arc<Self>, image: &[u8]) -> Result<Arc<Module>> {
        let _stream = self.stream()?;
        let mut raw = null_mut();
        // SAFETY: reads an image that says its own length: a cubin whose cache entry was checked, or PTX with its NUL.
        let made =
            unsafe { (self.driver.api.module_load_data)(&raw mut raw, image.as_ptr().cast()) };
        self.driver.check("cuModuleLoadData", made)?;
        Ok(Arc::new(Module { context: Arc::clone(self), raw }))
    }

    /// Compiles PTX for this card.
    ///
    /// # Errors
    /// The driver's.
    pub fn compile(&self, ptx: &CStr) -> Result<Vec<u8>> {
        self.enter()?;
        let api = &self.driver.api;
        let mut state = null_mut();
        // SAFETY: no options; writes one handle, destroyed below.
        let made = unsafe { (api.link_create)(0, null_mut(), null_mut(), &raw mut state) };
        self.driver.check("cuLinkCreate", made)?;
        let n_bytes = ptx.to_bytes_with_nul().len();
        // SAFETY: reads `n_bytes` of a NUL-terminated text; 1 is CU_JIT_INPUT_PTX; no name, no options.
        let added = unsafe {
            let data = ptx.as_ptr().cast_mut().cast();
            (api.link_add_data)(state, 1, data, n_bytes, null(), 0, null_mut(), null_mut())
        };
        let mut result = self.driver.check("cuLinkAddData", added).map(|()| Vec::new());
        if result.is_ok() {
            let (mut image, mut n_bytes) = (null_mut(), 0);
            // SAFETY: writes a pointer and a length that hold until the state is destroyed.
            let done = unsafe { (api.link_complete)(state, &raw mut image, &raw mut n_bytes) };
            result = self.driver.check("cuLinkComplete", done).map(|()| {
                // SAFETY: as above; copied before the state goes.
                unsafe { std::slice::from_raw_parts(image.cast::<u8>(), n_bytes) }.to_vec()
            });
        }
        // SAFETY: made above, destroyed once.
        unsafe { (api.link_destroy)(state) };
        result
    }

    /// A new mark.
    ///
    /// # Errors
    /// The driver's.
    pub fn event(self: &Arc<Self>, timed: bool) -> Result<Event> {
        self.enter()?;
        let mut raw = null_mut();
        // CU_EVENT_DISABLE_TIMING is 2.
        let flags = if timed { 0 } else { 2 };
        // SAFETY: writes one handle, destroyed by `Event::drop`.
        let made = unsafe { (self.driver.api.event_create)(&raw mut raw, flags) };
        self.driver.check("cuEventCreate", made)?;
        Ok(Event { context: Arc::clone(self), raw })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.enter().is_ok() && !self.stream.is_null() {
            // SAFETY: made in `new`; whatever used it holds an `Arc` of this context and is gone.
            unsafe { (self.driver.api.stream_destroy)(self.stream) };
        }
        // SAFETY: retained in `new`.
        unsafe { (self.driver.api.primary_ctx_release)(self.device) };
    }
}

impl Module {
    /// The kernel called `name`.
    ///
    /// # Errors
    /// The driver's: no such kernel.
    pub fn function(self: &Arc<Self>, name: &CStr) -> Result<Function> {
        let driver = self.context.driver;
        let _stream = self.context.stream()?;
        let mut raw = null_mut();
        // SAFETY: the module lives; writes one handle, valid as long as the module.
        let found =
            unsafe { (driver.api.module_get_function)(&raw mut raw, self.raw, name.as_ptr()) };
        driver.check(&format!("cuModuleGetFunction {}", name.to_string_lossy()), found)?;
        Ok(Function { raw, module: Arc::clone(self) })
    }
}

impl Function {
    /// Allows launches with so many bytes of dynamic shared memory.
    ///
    /// # Errors
    /// The driver's: the card has less.
    pub fn allow_shared(&self, n_bytes: u32) -> Result<()> {
        let context = &self.module.context;
        let _stream = context.stream()?;
        let value = i32::try_from(n_bytes).unwrap_or(i32::MAX);
        let set = context.driver.api.func_set_attribute;
        // SAFETY: the function lives; the attribute takes any number and checks it.
        let set = unsafe { set(self.raw, api::MAX_DYNAMIC_SHARED, value) };
        context.driver.check("cuFuncSetAttribute", set)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(_stream) = self.context.stream() {
            // SAFETY: loaded once; functions hold the module.
            unsafe { (self.context.driver.api.module_unload)(self.raw) };
        }
    }
}

impl Event {
    /// Waits until the stream has passed the mark, which must not be behind a closed gate. Leaves the gate as it is.
    ///
    /// # Errors
    /// The driver's, also those of launches before the mark.
    pub fn wait(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the event lives.
        let waited = unsafe { (self.context.driver.api.event_synchronize)(self.raw) };
        self.context.driver.check("cuEventSynchronize", waited)
    }

    /// Milliseconds from `earlier` to this mark, both passed.
    ///
    /// # Errors
    /// The driver's.
    pub fn ms_since(&self, earlier: &Event) -> Result<f32> {
        self.context.enter()?;
        let mut ms = 0.0;
        // SAFETY: both events live; writes one f32.
        let told = unsafe {
            (self.context.driver.api.event_elapsed_time)(&raw mut ms, earlier.raw, self.raw)
        };
        self.context.driver.check("cuEventElapsedTime", told).map(|()| ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made once, destroyed once.
            unsafe { (self.context.driver.api.event_destroy)(self.raw) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_stream) = self.context.stream() {
            // SAFETY: made once, destroyed once; the driver waits for running launches of it.
            unsafe { (self.context.driver.api.graph_exec_destroy)(self.raw) };
        }
    }
}

/// Whether `path` looks like compiled code for a card: an ELF file.
pub fn is_cubin(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// Reads a file if it is there.
pub(crate) fn read_if_there(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}
