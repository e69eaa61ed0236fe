//! The kernels in the binary, made by `cargo xtask cuda`.

use std::io::{BufRead, BufReader, Read};

/// A module as the binary carries it.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Stem of the `.cu` file.
    pub name: &'static str,
    /// The only compute capability times ten that runs it, as machine code; `None` for PTX of several generations.
    pub machine: Option<u32>,
    /// LZMA: of machine code; or of texts, the newest first, each behind a line with its least capability and its
    /// bytes.
    pub packed: &'static [u8],
}

macro_rules! modules {
    ([$($module:literal),* $(,)?] Hopper alone: [$($hopper:literal),* $(,)?]) => {
        /// Every module.
        pub const MODULES: &[Module] = &[
            $(
                Module {
                    name: $module,
                    machine: None,
                    packed: include_bytes!(concat!("../../kernels/ptx/", $module, ".ptx.lzma")),
                },
            )*
            $(
                Module {
                    name: $hopper,
                    machine: Some(90),
                    packed: include_bytes!(concat!("../../kernels/ptx/", $hopper, ".90a.cubin.lzma")),
                },
            )*
        ];
    };
}
modules!(
    [
        "attention",
        "attention_decode",
        "attention_prefill",
        "attention_softcap",
        "delta_chunks",
        "delta_net",
        "embed",
        "expert_down",
        "kv_write",
        "matfloat",
        "matmul",
        "matvec",
        "measure",
        "moe",
        "norm",
        "panels",
        "post_norm",
        "prepare",
        "quantize",
        "repack",
        "rope",
        "router",
        "rows",
        "step",
        "top_k",
    ]
    Hopper alone: [
        "gemm_q4_0",
        "gemm_q4_1",
        "gemm_q5_0",
        "gemm_q5_1",
        "gemm_q8_0",
        "gemm_q4_k",
        "gemm_q5_k",
        "gemm_q6_k",
        "gemm_mxfp4",
        "gemm_iq4_nl",
        "gemm_iq4_xs",
    ]
);

/// Most bytes of a module's code.
const MAX_BYTES: u64 = 64 << 20;
/// Memory that unpacking may take: a little more than the dictionary of 64 MiB that `xtask cuda` allows.
const MAX_DICTIONARY_KIB: u32 = 80 << 10;

/// What the driver gets for a card of this capability: the newest PTX that it runs, or machine code.
pub fn code(module: &str, capability: u32) -> Option<Vec<u8>> {
    let module = MODULES.iter().find(|found| found.name == module)?;
    let unpacked =
        lzma_rust2::LzmaReader::new_mem_limit(module.packed, MAX_DICTIONARY_KIB, None).ok()?;
    let mut unpacked = BufReader::new(unpacked.take(MAX_BYTES));
    let mut code = Vec::new();
    if let Some(machine) = module.machine {
        unpacked.read_to_end(&mut code).ok()?;
        return (machine == capability).then_some(code);
    }
    loop {
        let mut line = String::new();
        unpacked.read_line(&mut line).ok()?;
        let (least, n_bytes) = line.trim_end().split_once(' ')?;
        let (least, n_bytes): (u32, u64) = (least.parse().ok()?, n_bytes.parse().ok()?);
        code.clear();
        unpacked.by_ref().take(n_bytes).read_to_end(&mut code).ok()?;
        if least <= capability {
            return Some(code);
        }
    }
}

/// Bytes of the one parameter of the kernel `name` in PTX or machine code for Hopper.
pub fn param_bytes(code: &[u8], name: &str) -> Option<usize> {
    if crate::driver::is_cubin(code) {
        // The constants of a kernel begin with 528 bytes of the launch; its parameter is the rest.
        return section_bytes(code, &format!(".nv.constant0.{name}"))?.checked_sub(528);
    }
    let text = std::str::from_utf8(code).ok()?;
    let mark = format!(".param .align 8 .b8 {name}_param_0[");
    let rest = &text[text.find(&mark)? + mark.len()..];
    rest[..rest.find(']')?].parse().ok()
}

/// Bytes of a section of a 64-bit ELF file.
fn section_bytes(elf: &[u8], name: &str) -> Option<usize> {
    let number = |at: usize, n_bytes: usize| {
        let bytes = elf.get(at..at + n_bytes)?;
        bytes.iter().rev().try_fold(0, |sum: usize, byte| Some(sum << 8 | usize::from(*byte)))
    };
    let (headers, n_sections, names) = (number(40, 8)?, number(60, 2)?, number(62, 2)?);
    let section = |idx: usize| headers + 64 * idx;
    let names = number(section(names) + 24, 8)?;
    (0..n_sections).map(section).find_map(|at| {
        let found = elf.get(names + number(at, 4)?..)?;
        let is_it = found.starts_with(name.as_bytes()) && found.get(name.len()) == Some(&0);
        is_it.then(|| number(at + 32, 8)).flatten()
    })
}
