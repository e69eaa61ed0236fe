//! Facts about the machine that no device tells.

use serde::Serialize;

/// The machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: &'static str,
    /// Threads the system can run at once.
    pub n_threads: usize,
    /// Instruction set extensions that the kernels care for.
    pub isa: Vec<&'static str>,
}

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Self {
        Self {
            os: os(),
            arch: std::env::consts::ARCH,
            n_threads: std::thread::available_parallelism().map_or(1, usize::from),
            isa: isa(),
        }
    }

    /// Lines for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("system", format!("{}, {}", self.os, self.arch)),
            ("threads", self.n_threads.to_string()),
            ("instructions", self.isa.join(" ")),
        ]
    }
}

fn os() -> String {
    let named = std::fs::read_to_string("/etc/os-release").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    named.unwrap_or_else(|| std::env::consts::OS.to_owned())
}

#[cfg(target_arch = "x86_64")]
fn isa() -> Vec<&'static str> {
    macro_rules! detected {
        ($($feature:tt)*) => {
            [$(($feature, std::arch::is_x86_feature_detected!($feature))),*]
        };
    }
    let known = detected!("sse4.2" "avx" "f16c" "fma" "avx2" "avxvnni" "avx512f" "avx512bw" "avx512vnni" "avx512bf16");
    known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn isa() -> Vec<&'static str> {
    macro_rules! detected {
        ($($feature:tt)*) => {
            [$(($feature, std::arch::is_aarch64_feature_detected!($feature))),*]
        };
    }
    let known = detected!("neon" "fp16" "dotprod" "i8mm" "bf16" "sve");
    known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn isa() -> Vec<&'static str> {
    Vec::new()
}
