//! GPU kernels run on the host: `host/host.cuh` lets a kernel file compile as C++, one fiber per thread.
//!
//! What this finds that a compiler does not: wrong results, accesses outside a buffer (memory that may not be
//! touched lies on both sides of each), reads of memory that nothing wrote (it holds NaNs), threads that wait for
//! each other for ever, and missing barriers (the threads take turns in three orders, which give different results
//! without them). It needs a C++ compiler: `$CXX`, or `c++`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use libloading::Library;

use crate::{TestError, paths};

/// In which order the threads of a block take their turns, and the blocks of a launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// The first one first.
    Forward,
    /// The last one first.
    Reverse,
    /// Another order in each round, from this seed.
    Random(u64),
}

impl Schedule {
    /// One of each kind.
    pub const ALL: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(1)];
}

/// Size of a launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaunchShape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in one dimension.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

type LaunchFn = unsafe extern "C" fn(
    kernel: *const c_void,
    name: *const c_char,
    grid: *const u32,
    n_threads: u32,
    n_dynamic: usize,
    params: *const u8,
    n_params: usize,
    schedule: c_int,
    seed: u64,
    error: *mut c_char,
    n_error: usize,
) -> c_int;
type AllocFn = unsafe extern "C" fn(usize) -> *mut c_void;
type FreeFn = unsafe extern "C" fn(*mut c_void, usize);

/// Kernels compiled for the host.
pub struct KernelHost {
    library: Library,
    launch: LaunchFn,
    alloc: AllocFn,
    free: FreeFn,
}

impl KernelHost {
    /// Compiles the `.cu` files of `kernels` in the folder `out`, where results of earlier calls are used again.
    ///
    /// # Errors
    /// There is no compiler, or a file does not compile: its messages.
    pub fn build(kernels: &Path, out: &Path) -> Result<Arc<KernelHost>, TestError> {
        let library = compile(kernels, out)?;
        // SAFETY: a library just made from this repository's files; it runs nothing when it is loaded.
        let library =
            unsafe { Library::new(&library) }.map_err(|e| failed(&library, e.to_string()))?;
        // SAFETY: the types are those of host.cpp, which was compiled into the library.
        let (launch, alloc, free) = unsafe {
            let lost = |e: libloading::Error| failed(kernels, e.to_string());
            let launch = *library.get::<LaunchFn>(b"zh_launch\0").map_err(lost)?;
            let alloc = *library.get::<AllocFn>(b"zh_alloc\0").map_err(lost)?;
            (launch, alloc, *library.get::<FreeFn>(b"zh_free\0").map_err(lost)?)
        };
        Ok(Arc::new(KernelHost { library, launch, alloc, free }))
    }

    /// A folder with a CUDA driver that runs these kernels (`host/driver.cpp`), for processes that search it first. A card
    /// that no other process of this machine sees.
    ///
    /// # Errors
    /// As for [`KernelHost::build`].
    pub fn driver(kernels: &Path, out: &Path) -> Result<PathBuf, TestError> {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let library = compile(kernels, out)?;
        let folder = library.with_extension("driver");
        std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e.to_string()))?;
        let driver = folder.join("libcuda.so.1");
        if !driver.exists() {
            // Another process may be about to make it, too.
            let partial = folder.join(format!("{}.part", std::process::id()));
            std::fs::copy(&library, &partial).map_err(|e| failed(&partial, e.to_string()))?;
            std::fs::rename(&partial, &driver).map_err(|e| failed(&driver, e.to_string()))?;
        }
        Ok(folder)
    }

    /// Runs a kernel to its end. `params` are the bytes of its one parameter; the addresses in them are those of
    /// [`HostBuffer`]s, and an access outside of them ends the process with the kernel's name.
    ///
    /// # Errors
    /// There is no such kernel, its threads wait for each other, or it uses warp functions in a way CUDA forbids.
    pub fn launch(
        &self,
        kernel: &str,
        shape: LaunchShape,
        params: &[u8],
        schedule: Schedule,
    ) -> Result<(), TestError> {
        let name = CString::new(kernel).map_err(|e| TestError::Mismatch(e.to_string()))?;
        // SAFETY: only the address is used, and only for the call below.
        let function = unsafe { self.library.get::<*const c_void>(name.as_bytes_with_nul()) };
        let function = function.map_err(|_| TestError::Mismatch(format!("no kernel {kernel}")))?;
        let (kind, seed) = match schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let mut error = [0; 512];
        // SAFETY: the kernel is a function of one struct (all are declared by one macro); pointers and lengths
        // belong together. What the kernel does with the addresses in `params` is what is being tested.
        let code = unsafe {
            (self.launch)(
                *function,
                name.as_ptr(),
                shape.grid.as_ptr(),
                shape.block,
                shape.shared as usize,
                params.as_ptr(),
                params.len(),
                kind,
                seed,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the runtime ends the text with a zero inside the buffer.
        let text = unsafe { CStr::from_ptr(error.as_ptr()) };
        Err(TestError::Mismatch(text.to_string_lossy().into_owned()))
    }

    /// `len` bytes of 0xff between memory that may not be touched.
    ///
    /// # Errors
    /// There is not that much memory.
    pub fn buffer(self: &Arc<Self>, len: usize) -> Result<HostBuffer, TestError> {
        // SAFETY: no conditions.
        let start = unsafe { (self.alloc)(len) }.cast::<u8>();
        if start.is_null() {
            return Err(TestError::Mismatch(format!("no memory for {len} bytes")));
        }
        Ok(HostBuffer { host: Arc::clone(self), start, len })
    }
}

/// Memory for kernels: ends (up to its last 256 bytes) where memory begins that may not be touched.
pub struct HostBuffer {
    host: Arc<KernelHost>,
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory is owned; kernels that reach it through its address run in calls of tests, which do not run
// two at a time on one buffer.
unsafe impl Send for HostBuffer {}
// SAFETY: as above.
unsafe impl Sync for HostBuffer {}

impl HostBuffer {
    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// They do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "inside the buffer");
        // SAFETY: in range; the buffer is owned, and no kernel runs meanwhile.
        unsafe { self.start.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// The bytes at `offset`.
    ///
    /// # Panics
    /// They are not inside.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "inside the buffer");
        let mut bytes = vec![0; len];
        // SAFETY: in range; the buffer is owned, and no kernel runs meanwhile.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.start.add(offset), len) };
        bytes
    }

    /// Sets all bytes.
    pub fn fill(&self, byte: u8) {
        // SAFETY: in range; the buffer is owned, and no kernel runs meanwhile.
        unsafe { self.start.write_bytes(byte, self.len) };
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // SAFETY: given by `alloc` with this length.
        unsafe { (self.host.free)(self.start.cast(), self.len) }
    }
}

fn failed(path: &Path, reason: String) -> TestError {
    TestError::File { path: path.to_path_buf(), reason }
}

/// Files of a folder with one of the extensions, sorted.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, TestError> {
    let entries = std::fs::read_dir(folder).map_err(|e| failed(folder, e.to_string()))?;
    let is_one = |path: &PathBuf| {
        path.extension().is_some_and(|found| extensions.iter().any(|one| found == *one))
    };
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_one).collect();
    found.sort();
    Ok(found)
}

/// Compiler options. Products are not contracted with sums: only the kernels' own `fmaf` are.
fn options(host: &Path, kernels: &Path) -> Vec<String> {
    let plain =
        ["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-w", "-DZINC_HOST", "-x", "c++"];
    let mut options: Vec<String> = plain.iter().map(|option| (*option).to_owned()).collect();
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        options.push("-mfma".into());
    }
    options.extend([host, kernels].map(|folder| format!("-I{}", folder.display())));
    options
}

/// The library with all kernels of a folder.
fn compile(kernels: &Path, out: &Path) -> Result<PathBuf, TestError> {
    // Tests of one process ask side by side, and would write the same files.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let host = paths::workspace().join("crates/zinc-testkit/host");
    let options = options(&host, kernels);
    let mut headers = DefaultHasher::new();
    options.hash(&mut headers);
    for header in [files(&host, &["cuh"])?, files(kernels, &["cuh"])?].concat() {
        std::fs::read(&header).map_err(|e| failed(&header, e.to_string()))?.hash(&mut headers);
    }
    std::fs::create_dir_all(out).map_err(|e| failed(out, e.to_string()))?;
    let mut all = headers.clone();
    let mut jobs = Vec::new();
    for source in [files(&host, &["cpp"])?, files(kernels, &["cu"])?].concat() {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read(&source).map_err(|e| failed(&source, e.to_string()))?;
        let mut hasher = headers.clone();
        text.hash(&mut hasher);
        text.hash(&mut all);
        jobs.push((source, out.join(format!("{stem}-{:016x}.o", hasher.finish()))));
    }
    let library = out.join(format!("kernels-{:016x}.so", all.finish()));
    if library.exists() {
        return Ok(library);
    }
    // Two at a time: the machines that run the checks have two cores.
    let results = std::thread::scope(|scope| {
        let (even, odd): (Vec<_>, Vec<_>) =
            jobs.iter().enumerate().partition(|(idx, _)| idx % 2 == 0);
        let threads = [even, odd].map(|part| {
            let options = &options;
            scope.spawn(move || part.iter().try_for_each(|(_, job)| compile_one(job, options)))
        });
        threads.map(|thread| thread.join().unwrap_or_else(|_| Err(failed(out, "panicked".into()))))
    });
    results.into_iter().collect::<Result<(), _>>()?;
    let mut link = compiler();
    link.args(["-shared", "-pthread"]).args(jobs.iter().map(|(_, object)| object));
    finish(link, &library)?;
    Ok(library)
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
}

fn compile_one((source, object): &(PathBuf, PathBuf), options: &[String]) -> Result<(), TestError> {
    if object.exists() {
        return Ok(());
    }
    let mut command = compiler();
    command.args(options).arg("-c").arg(source);
    finish(command, object)
}

/// Runs a command that writes `result`, which appears only when it is whole.
fn finish(mut command: Command, result: &Path) -> Result<(), TestError> {
    let partial = result.with_extension(format!("{}.part", std::process::id()));
    let output = command.arg("-o").arg(&partial).output();
    let output = output.map_err(|e| {
        failed(result, format!("no C++ compiler ({e}): install one, or name it in CXX"))
    })?;
    if !output.status.success() {
        return Err(failed(result, String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    std::fs::rename(&partial, result).map_err(|e| failed(result, e.to_string()))
}
