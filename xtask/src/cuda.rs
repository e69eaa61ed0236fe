//! Compiles the CUDA kernels: PTX for the binary (machine code for what only Hopper runs), and machine code of every
//! generation for its limits.
//!
//! The compiler comes from PyPI wheels of one version, installed into `target/cuda-toolkit`; neither a card nor a
//! driver is needed. What was compiled is committed, packed, in `kernels/ptx`, with hashes that `tidy` checks;
//! `--check`, which CI runs, compiles everything again and compares.

mod nvcc;
mod packed;
mod sources;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

use nvcc::Output;
use sources::Sources;

pub use sources::check_fresh;

const KERNELS: &str = "crates/zinc-cuda/kernels";
/// What was compiled, packed.
const PACKED: &str = "crates/zinc-cuda/kernels/ptx";

/// Generations whose PTX the binary carries, the newest first.
const PTX: [&str; 3] = ["90", "80", "75"];

/// Generations that every kernel must compile for.
const MACHINES: [&str; 5] = ["75", "80", "89", "90a", "120a"];

/// Modules that only Hopper cards run, by the header they begin with: machine code for this one machine.
const HOPPER: (&str, &str) = ("#include \"gemm.cuh\"", "90a");

/// Most registers of a thread: two blocks of 256 threads on a multiprocessor.
const MAX_REGISTERS: u32 = 128;

/// The same where a block of 384 threads has the multiprocessor to itself.
const MAX_HOPPER_REGISTERS: u32 = 168;

/// Modules whose kernels keep sums or states in registers, in one or two blocks of few threads. Each has the registers
/// that its largest kernel takes on the generation where it takes most, so that more are a decision and no accident: 255
/// is all that a thread can have, and what is near it spills next.
const REGISTER_BOUND: [(&str, u32); 6] = [
    ("attention", 182),
    ("attention_decode", 254),
    ("attention_prefill", 255),
    ("attention_softcap", 255),
    ("delta_chunks", 176),
    ("delta_net", 253),
];

/// What is done with the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Packed and written with its hashes if it is within its limits.
    Write,
    /// Packed and written without a look at the limits: `tidy` goes on calling it stale.
    WriteUnchecked,
    /// Compared with what is committed.
    Check,
}

/// A kernel file.
struct Module {
    /// Its stem.
    name: String,
    is_hopper: bool,
    most_registers: u32,
}

impl Module {
    fn read(path: &Path) -> Result<Module> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let is_hopper = text.contains(HOPPER.0);
        let bound = REGISTER_BOUND.iter().find(|(bound, _)| *bound == name);
        let usual = if is_hopper { MAX_HOPPER_REGISTERS } else { MAX_REGISTERS };
        let most_registers = bound.map_or(usual, |(_, most)| *most);
        Ok(Module { name, is_hopper, most_registers })
    }

    /// What it is compiled to; without limits only what is packed.
    fn outputs(&self, with_limits: bool) -> Vec<(&'static str, Output)> {
        if self.is_hopper {
            return vec![(HOPPER.1, Output::Machine)];
        }
        let machines = MACHINES.iter().filter(|_| with_limits);
        let machines = machines.map(|machine| (*machine, Output::Machine));
        machines.chain(PTX.map(|generation| (generation, Output::Ptx))).collect()
    }

    fn packed_name(&self) -> String {
        match self.is_hopper {
            true => format!("{}.{}.cubin.lzma", self.name, HOPPER.1),
            false => format!("{}.ptx.lzma", self.name),
        }
    }
}

/// A module as compiled.
struct Build<'a> {
    module: &'a Module,
    breaches: Vec<String>,
    /// Machine code; or PTX of all generations, the newest first, each behind a line with its number and its bytes.
    code: Vec<u8>,
}

impl Build<'_> {
    fn is_committed(&self, packed: &Path) -> bool {
        packed::unpack(packed).is_ok_and(|code| packed::without_path(code) == self.code)
    }
}

/// Compiles the modules that `arguments` name; else those that are stale, or all for `--check`.
pub fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    let (flags, names): (Vec<&str>, Vec<&str>) =
        arguments.iter().map(String::as_str).partition(|argument| argument.starts_with("--"));
    let mode = match flags[..] {
        [] => Mode::Write,
        ["--ptx"] => Mode::WriteUnchecked,
        ["--check"] => Mode::Check,
        _ => bail!("the flags are --check and --ptx, one at a time"),
    };
    let modules = modules(root)?;
    for name in &names {
        ensure!(modules.iter().any(|module| module.name == *name), "there is no {name}.cu");
    }
    let mut sources = Sources::read(root);
    let mut wanted = Vec::new();
    for module in &modules {
        let is_wanted = match names.is_empty() {
            true => mode == Mode::Check || !sources.is_fresh(root, module)?,
            false => names.contains(&module.name.as_str()),
        };
        if is_wanted {
            wanted.push(module);
        }
    }
    let builds = compile(root, &wanted, mode)?;
    let breaches = builds.iter().flat_map(|build| &build.breaches);
    let n_breaches = breaches.inspect(|breach| eprintln!("{breach}")).count();
    if mode == Mode::Check {
        return Ok(check(root, &builds)? && n_breaches == 0);
    }
    write(root, &builds)?;
    if mode == Mode::Write {
        for build in builds.iter().filter(|build| build.breaches.is_empty()) {
            sources.renew(root, build.module)?;
        }
        sources.write(root, &modules)?;
    }
    Ok(n_breaches == 0)
}

fn modules(root: &Path) -> Result<Vec<Module>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(KERNELS)).context(KERNELS)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(Module::read(&path)?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Runs the compiler for everything that is wanted.
fn compile<'a>(root: &Path, wanted: &[&'a Module], mode: Mode) -> Result<Vec<Build<'a>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let nvcc = nvcc::nvcc(root)?;
    let with_limits = mode != Mode::WriteUnchecked;
    let work = root.join("target/cuda");
    std::fs::create_dir_all(&work)?;
    let mut jobs = Vec::new();
    for module in wanted {
        let outputs = module.outputs(with_limits).into_iter();
        jobs.extend(outputs.map(|(generation, output)| (&module.name, generation, output)));
    }
    eprintln!("cuda: compiling {} modules, {} outputs", wanted.len(), jobs.len());
    let compiled = in_parallel(&jobs, |(name, generation, output)| {
        let source = root.join(KERNELS).join(format!("{name}.cu"));
        let extension = if *output == Output::Ptx { "ptx" } else { "cubin" };
        let to: PathBuf = work.join(format!("{name}.{generation}.{extension}"));
        nvcc::compile(&nvcc, &nvcc::arguments(generation, *output), &source, &to)
    })?;
    let mut compiled = jobs.iter().zip(compiled);
    let mut builds = Vec::new();
    for module in wanted {
        let mut build = Build { module, breaches: Vec::new(), code: Vec::new() };
        let n_outputs = module.outputs(with_limits).len();
        for ((name, generation, output), made) in compiled.by_ref().take(n_outputs) {
            if *output == Output::Machine && with_limits {
                let breaches = nvcc::breaches(&made.report, module.most_registers).into_iter();
                let of = format!("{name}.cu for sm_{generation}");
                build.breaches.extend(breaches.map(|breach| format!("{of}: {breach}")));
            }
            if *output == Output::Ptx {
                let ptx = packed::without_path(made.code);
                writeln!(build.code, "{generation} {}", ptx.len())?;
                build.code.extend(ptx);
            } else if module.is_hopper {
                build.code = made.code;
            }
        }
        builds.push(build);
    }
    Ok(builds)
}

/// Packs what is within its limits. A file that holds the same but for the digests of paths stays as it is.
fn write(root: &Path, builds: &[Build]) -> Result<()> {
    let written = in_parallel(builds, |build| {
        let to = root.join(PACKED).join(build.module.packed_name());
        if !build.breaches.is_empty() || build.is_committed(&to) {
            return Ok(false);
        }
        std::fs::write(&to, packed::pack(&build.code)?)
            .with_context(|| to.display().to_string())?;
        Ok(true)
    })?;
    for (build, _) in builds.iter().zip(written).filter(|(_, written)| *written) {
        eprintln!("cuda: {PACKED}/{} is written", build.module.packed_name());
    }
    Ok(())
}

/// Whether everything is committed as it was compiled; says what is not.
fn check(root: &Path, builds: &[Build]) -> Result<bool> {
    let mut is_clean = true;
    for build in builds {
        let (name, packed) = (&build.module.name, build.module.packed_name());
        if !build.is_committed(&root.join(PACKED).join(&packed)) {
            eprintln!("{PACKED}/{packed}: not what {name}.cu gives: run `cargo xtask cuda {name}`");
            is_clean = false;
        }
    }
    for violation in check_fresh(root)? {
        eprintln!("{}: {}", violation.at, violation.what);
        is_clean = false;
    }
    if is_clean {
        eprintln!("cuda: {} modules are committed as they were compiled", builds.len());
    }
    Ok(is_clean)
}

/// Does `work` for all items, as many at a time as there are processors; results are in the order of the items. The
/// first error ends it.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(usize, R)>> {
        let mut done = Vec::new();
        loop {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(idx) else {
                return Ok(done);
            };
            let result = work(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed));
            done.push((idx, result?));
        }
    };
    let n_workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_workers).map(|_| scope.spawn(worker)).collect();
        let mut done = Vec::new();
        for worker in workers {
            done.extend(worker.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        Ok::<_, anyhow::Error>(done)
    })?;
    done.sort_by_key(|(idx, _)| *idx);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_parallel_keeps_its_order_and_ends_at_an_error() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(in_parallel(&items, |item| Ok(item * 2)).expect("no error")[99], 198);
        let fails = |item: &u32| if *item == 3 { bail!("three") } else { Ok(*item) };
        assert_eq!(in_parallel(&items, fails).expect_err("three fails").to_string(), "three");
    }
}
