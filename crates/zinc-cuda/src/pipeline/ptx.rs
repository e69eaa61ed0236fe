//! The kernels in the binary: PTX made by `cargo xtask cuda`.

/// A module compiled for one generation.
#[derive(Clone, Copy, Debug)]
pub struct Ptx {
    /// Stem of the `.cu` file.
    pub module: &'static str,
    /// Least compute capability times ten.
    pub capability: u32,
    /// Deflated text.
    pub deflated: &'static [u8],
}

macro_rules! modules {
    ($($module:literal),*) => {
        /// Every module, the newest generation first.
        pub const MODULES: &[Ptx] = &[
            $(
                Ptx { module: $module, capability: 90, deflated: include_bytes!(concat!("../../kernels/ptx/", $module, ".90.ptx.z")) },
                Ptx { module: $module, capability: 80, deflated: include_bytes!(concat!("../../kernels/ptx/", $module, ".80.ptx.z")) },
                Ptx { module: $module, capability: 75, deflated: include_bytes!(concat!("../../kernels/ptx/", $module, ".75.ptx.z")) },
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
    "moe",
    "norm",
    "prepare",
    "quantize",
    "repack",
    "rope",
    "rows"
);

/// Most bytes of a module's text.
const MAX_BYTES: usize = 64 << 20;

/// The newest text of `module` that a card of this capability runs.
pub fn text(module: &str, capability: u32) -> Option<String> {
    let fits = |ptx: &&Ptx| ptx.module == module && ptx.capability <= capability;
    let deflated = MODULES.iter().find(fits)?.deflated;
    let bytes = miniz_oxide::inflate::decompress_to_vec_with_limit(deflated, MAX_BYTES).ok()?;
    String::from_utf8(bytes).ok()
}

/// Bytes of the one parameter of the kernel `name` in a PTX text.
pub fn param_bytes(text: &str, name: &str) -> Option<usize> {
    let mark = format!(".param .align 8 .b8 {name}_param_0[");
    let rest = &text[text.find(&mark)? + mark.len()..];
    rest[..rest.find(']')?].parse().ok()
}
