//! The kernels in the binary: PTX made by `cargo xtask cuda`.

use std::io::Read;

/// A module compiled for one generation.
#[derive(Clone, Copy, Debug)]
pub struct Ptx {
    /// Stem of the `.cu` file.
    pub module: &'static str,
    /// Least compute capability times ten.
    pub capability: u32,
    /// LZMA of the text.
    pub packed: &'static [u8],
}

macro_rules! modules {
    ($($module:literal),*) => {
        /// Every module, the newest generation first.
        pub const MODULES: &[Ptx] = &[
            $(
                Ptx { module: $module, capability: 90, packed: include_bytes!(concat!("../../kernels/ptx/", $module, ".90.ptx.lzma")) },
                Ptx { module: $module, capability: 80, packed: include_bytes!(concat!("../../kernels/ptx/", $module, ".80.ptx.lzma")) },
                Ptx { module: $module, capability: 75, packed: include_bytes!(concat!("../../kernels/ptx/", $module, ".75.ptx.lzma")) },
            )*
        ];
    };
}
modules!(
    "attention",
    "attention_decode",
    "attention_prefill",
    "delta_net",
    "embed",
    "kv_write",
    "matfloat",
    "matmul",
    "matvec",
    "measure",
    "moe",
    "norm",
    "prepare",
    "quantize",
    "repack",
    "rope",
    "rows"
);

/// Most bytes of a module's text.
const MAX_BYTES: u64 = 64 << 20;
/// Memory that unpacking may take: a little more than the dictionary of 64 MiB that `xtask cuda` allows.
const MAX_DICTIONARY_KIB: u32 = 80 << 10;

/// The newest text of `module` that a card of this capability runs.
pub fn text(module: &str, capability: u32) -> Option<String> {
    let fits = |ptx: &&Ptx| ptx.module == module && ptx.capability <= capability;
    let packed = MODULES.iter().find(fits)?.packed;
    let unpacked = lzma_rust2::LzmaReader::new_mem_limit(packed, MAX_DICTIONARY_KIB, None).ok()?;
    let mut text = String::new();
    unpacked.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Bytes of the one parameter of the kernel `name` in a PTX text.
pub fn param_bytes(text: &str, name: &str) -> Option<usize> {
    let mark = format!(".param .align 8 .b8 {name}_param_0[");
    let rest = &text[text.find(&mark)? + mark.len()..];
    rest[..rest.find(']')?].parse().ok()
}
