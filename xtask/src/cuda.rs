//! Compiles the CUDA kernels: PTX for the binary (machine code for what only Hopper runs), and machine code of every
//! generation for its limits.
//!
//! The compiler comes from PyPI wheels of one version, installed into `target/cuda-toolkit`; neither a card nor a
//! driver is needed. `kernels/ptx/sources.txt` holds a hash of what each module was made from, so that `tidy` finds
//! stale PTX without a compiler.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lzma_rust2::{LzmaOptions, LzmaWriter};

use crate::tidy::Violation;

const KERNELS: &str = "crates/zinc-cuda/kernels";
const SOURCES: &str = "crates/zinc-cuda/kernels/ptx/sources.txt";

/// CUDA 13.0: the oldest compiler for sm_120a whose PTX driver 580 loads.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
];

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

/// Modules whose kernels keep sums or states in registers, in one or two blocks of few threads: all registers that a
/// thread can have, but no spills.
const REGISTER_BOUND: [&str; 5] =
    ["attention", "attention_decode", "attention_prefill", "delta_chunks", "delta_net"];

/// Compiles the modules that `arguments` name, or all. `--ptx` leaves the machine code and its limits out, for while
/// a kernel is being written.
pub fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    let (flags, only): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|argument| argument.starts_with("--"));
    ensure!(flags.iter().all(|flag| *flag == "--ptx"), "the only flag is --ptx");
    let machines = if flags.is_empty() { &MACHINES[..] } else { &[] };
    let toolkit = toolkit(root)?;
    let all = modules(root)?;
    let mut sources = read_sources(root);
    sources.retain(|name, _| all.contains(name));
    let mut clean = true;
    for module in all.iter().filter(|module| only.is_empty() || only.contains(module)) {
        eprintln!("{module}");
        let source = root.join(KERNELS).join(format!("{module}.cu"));
        let is_hopper = std::fs::read_to_string(&source)?.contains(HOPPER.0);
        let most = if REGISTER_BOUND.contains(&module.as_str()) { 255 } else { MAX_REGISTERS };
        let limits = if is_hopper {
            (vec![HOPPER.1], MAX_HOPPER_REGISTERS)
        } else {
            (machines.to_vec(), most)
        };
        for machine in limits.0 {
            let code = root.join(format!("target/{module}.{machine}.cubin"));
            let arguments = ["-cubin", "-Xptxas", "-v"];
            let report = compile(&toolkit, &source, machine, &arguments, &code.to_string_lossy())?;
            for breach in breaches(&report, limits.1) {
                eprintln!("{module}.cu for sm_{machine}: {breach}");
                clean = false;
            }
            if is_hopper {
                write_packed(root, &format!("{module}.{machine}.cubin"), &std::fs::read(&code)?)?;
            }
        }
        if !is_hopper {
            let archive = ptx_archive(root, &toolkit, module, &source)?;
            write_packed(root, &format!("{module}.ptx"), &archive)?;
        }
        sources.insert(module.clone(), hash(root, module)?);
    }
    let mut text = String::new();
    for (module, hash) in &sources {
        writeln!(text, "{module} {hash}")?;
    }
    std::fs::write(root.join(SOURCES), text)?;
    Ok(clean)
}

/// PTX of all generations, the newest first, each behind a line with its number and its bytes.
fn ptx_archive(root: &Path, toolkit: &Path, module: &str, source: &Path) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for generation in PTX {
        let ptx = root.join(format!("target/{module}.{generation}.ptx"));
        compile(toolkit, source, generation, &["-ptx"], &ptx.to_string_lossy())?;
        let text = std::fs::read(&ptx)?;
        writeln!(archive, "{generation} {}", text.len())?;
        archive.extend(text);
    }
    Ok(archive)
}

fn write_packed(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let to = root.join(KERNELS).join(format!("ptx/{name}.lzma"));
    std::fs::write(to, pack(bytes)?)?;
    Ok(())
}

/// Stale or missing PTX.
pub fn check_fresh(root: &Path) -> Result<Vec<Violation>> {
    let sources = read_sources(root);
    let mut found = Vec::new();
    for module in modules(root)? {
        if sources.get(&module) != Some(&hash(root, &module)?) {
            let at = format!("{KERNELS}/{module}.cu");
            found.push(Violation::new(at, "its PTX is stale: run `cargo xtask cuda`"));
        }
    }
    Ok(found)
}

fn modules(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(KERNELS)).context(KERNELS)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// FNV-1a of the module, the headers it includes and the compiler's version.
fn hash(root: &Path, module: &str) -> Result<String> {
    let mut names = vec![format!("{module}.cu")];
    let mut texts = Vec::new();
    while let Some(name) = names.get(texts.len()).cloned() {
        // Headers of the compiler and of the host runner are not here.
        let text = std::fs::read_to_string(root.join(KERNELS).join(&name)).unwrap_or_default();
        let included = text.lines().filter_map(|line| line.strip_prefix("#include \""));
        for header in included.filter_map(|rest| rest.strip_suffix('"')) {
            if !names.iter().any(|name| name == header) {
                names.push(header.to_owned());
            }
        }
        texts.push(text);
    }
    ensure!(!texts[0].is_empty(), "{module}.cu cannot be read");
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(WHEELS[0].as_bytes());
    texts.iter().for_each(|text| add(text.as_bytes()));
    Ok(format!("{hash:016x}"))
}

fn read_sources(root: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root.join(SOURCES)).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(module, hash)| (module.to_owned(), hash.to_owned())).collect()
}

/// The compiler, installed the first time.
fn toolkit(root: &Path) -> Result<PathBuf> {
    let target = root.join("target/cuda-toolkit");
    let toolkit = target.join("nvidia/cu13");
    if !toolkit.join("bin/nvcc").exists() {
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&target)
            .args(WHEELS)
            .status()
            .context("cannot run python3 -m pip")?;
        ensure!(status.success(), "the wheels of the CUDA compiler cannot be installed");
    }
    Ok(toolkit)
}

/// Runs the compiler; returns what it reports.
fn compile(
    toolkit: &Path,
    source: &Path,
    generation: &str,
    arguments: &[&str],
    to: &str,
) -> Result<String> {
    let output = Command::new(toolkit.join("bin/nvcc"))
        .args(["-O3", "-std=c++17"])
        .arg(format!("-gencode=arch=compute_{generation},code={}", code(generation, arguments)))
        .args(arguments)
        .arg("-o")
        .arg(to)
        .arg(source)
        .output()
        .context("cannot run nvcc")?;
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{} for {generation}:\n{report}", source.display());
    }
    Ok(report)
}

fn code(generation: &str, arguments: &[&str]) -> String {
    match arguments.contains(&"-ptx") {
        true => format!("compute_{generation}"),
        false => format!("sm_{generation}"),
    }
}

/// LZMA, which packs the many kernels of a file that differ little three times as well as deflate.
fn pack(text: &[u8]) -> Result<Vec<u8>> {
    // Text has no alignment; lines of thousands of kernels repeat for long.
    let pb = if text.is_ascii() { 0 } else { LzmaOptions::PB_DEFAULT };
    let nice_len = LzmaOptions::NICE_LEN_MAX;
    let options = LzmaOptions { pb, nice_len, depth_limit: 1000, ..LzmaOptions::with_preset(9) };
    let size = Some(text.len() as u64);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, size)?;
    writer.write_all(text)?;
    Ok(writer.finish()?)
}

/// Kernels over the limits, from the report of `-Xptxas -v`.
fn breaches(report: &str, most: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mut kernel = "";
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default();
        } else if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores") {
            found.push(format!("{kernel}: {}", line.trim()));
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(' ').next().and_then(|number| number.parse::<u32>().ok());
            if registers.is_some_and(|registers| registers > most) {
                found.push(format!("{kernel}: {}, at most {most}", rest.trim()));
            }
        } else if line.contains("warning") || line.contains("Performance Loss") {
            found.push(line.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::breaches;

    #[test]
    fn spills_and_registers_are_found() {
        let report = "\
ptxas info    : Compiling entry function 'a' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, 416 bytes cmem[0]
ptxas info    : Compiling entry function 'b' for 'sm_80'
    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 200 registers, 416 bytes cmem[0]
";
        let found = breaches(report, 128);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|breach| breach.starts_with("b: ")));
        let serialized = "ptxas info    : (C7509) Potential Performance Loss: wgmma.mma_async \
                          instructions are serialized due to the presence of Extern calls in 'c'";
        assert_eq!(breaches(serialized, 128).len(), 1);
    }
}
