//! The compiler: PyPI's wheels, what it is told, and what it reports.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install;

/// CUDA 13.0: the oldest compiler for sm_120a whose PTX driver 580 loads.
pub const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
];

/// What one run of the compiler makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Ptx,
    /// Machine code, with a report of registers and spills.
    Machine,
}

/// What a run made, and what it said.
pub struct Compiled {
    pub code: Vec<u8>,
    pub report: String,
}

/// The compiler, installed the first time.
pub fn nvcc(root: &Path) -> Result<PathBuf> {
    let venv = root.join("target/cuda-toolkit");
    install::python_packages(&venv, &WHEELS.join("\n"))?;
    let lib = venv.join("lib");
    let pythons = std::fs::read_dir(&lib).with_context(|| lib.display().to_string())?;
    let inside = "site-packages/nvidia/cu13/bin/nvcc";
    let mut found = pythons.flatten().map(|python| python.path().join(inside));
    found.find(|nvcc| nvcc.exists()).context("the wheels of the CUDA compiler have no nvcc")
}

/// What the compiler is told besides its files.
pub fn arguments(generation: &str, output: Output) -> Vec<String> {
    let (code, rest) = match output {
        Output::Ptx => ("compute", &["-ptx"][..]),
        Output::Machine => ("sm", &["-cubin", "-Xptxas", "-v"][..]),
    };
    let target = format!("-gencode=arch=compute_{generation},code={code}_{generation}");
    let words = ["-O3", "-std=c++17", &target].into_iter().chain(rest.iter().copied());
    words.map(str::to_owned).collect()
}

/// Runs the compiler; `to` is a file of its own.
pub fn compile(nvcc: &Path, arguments: &[String], source: &Path, to: &Path) -> Result<Compiled> {
    let output = Command::new(nvcc).args(arguments).arg("-o").arg(to).arg(source).output();
    let output = output.context("cannot run nvcc")?;
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{} with {}:\n{report}", source.display(), arguments.join(" "));
    }
    let code = std::fs::read(to).with_context(|| to.display().to_string())?;
    Ok(Compiled { code, report })
}

/// Kernels over the limits, from the report on machine code.
pub fn breaches(report: &str, most_registers: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mut kernel = "";
    let mut n_kernels = 0;
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default();
        } else if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores") {
            found.push(format!("{kernel}: {}", line.trim()));
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(' ').next().and_then(|number| number.parse::<u32>().ok());
            n_kernels += u32::from(registers.is_some());
            if registers.is_some_and(|registers| registers > most_registers) {
                found.push(format!("{kernel}: {}, at most {most_registers}", rest.trim()));
            }
        } else if line.contains("warning") || line.contains("Performance Loss") {
            found.push(line.trim().to_owned());
        }
    }
    // A report in other words would let everything pass.
    if n_kernels == 0 {
        found.push("the report names no kernel's registers".to_owned());
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
        let found = breaches(&format!("{report}{serialized}"), 255);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(breaches("", 128).len(), 1, "nothing was looked at");
    }
}
