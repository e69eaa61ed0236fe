//! Which kernel for tensor cores attends, by the width of heads, the cache and the shared memory of a block.

use zinc_quant::GgmlType;

use super::{AttentionParams, MOST_PARTS};
use crate::launch::Kernel;

/// `Merge` of `attention.cuh`, aligned.
const MERGE_BYTES: u32 = 4 * MOST_PARTS * 4 + 128;

/// `Tile` of `attention_prefill.cuh`.
const TILE_BYTES: u32 = 1024;

/// Head widths that the kernels for tensor cores are compiled for.
const WIDTHS: [u32; 6] = [32, 64, 96, 128, 256, 512];

/// Those of them that have kernels with a soft cap.
const CAPPED_WIDTHS: [u32; 3] = [64, 128, 256];

/// A kernel's name, and that of the one with a soft cap on scores.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) plain: &'static str,
    pub(super) capped: &'static str,
}

impl Names {
    /// The kernel of `module`, or the one with a soft cap.
    pub(super) fn kernel(self, module: &'static str, softcap: Option<f32>) -> Kernel {
        match softcap {
            Some(_) => Kernel { module: "attention_softcap", name: self.capped },
            None => Kernel { module, name: self.plain },
        }
    }
}

macro_rules! names {
    ($plain:literal) => {
        Names { plain: $plain, capped: concat!($plain, "_softcap") }
    };
}

pub(super) use names;

/// Bytes of a row of `width` f16 numbers in shared memory.
fn row_bytes(width: u32) -> u32 {
    2 * width + 16
}

/// Columns for the rope behind those of the values, as the kernels for tensor cores keep a key: none of plain attention,
/// and of latent attention what a kernel was compiled with. `None` where no kernel has such keys.
pub(super) fn rope_columns(params: &AttentionParams, softcap: Option<f32>) -> Option<u32> {
    let (width, rope) = (params.v_dim, params.rope_dim);
    let columns = match width {
        _ if softcap.is_some() => CAPPED_WIDTHS.contains(&width).then_some(0)?,
        _ if rope == 0 => WIDTHS.contains(&width).then_some(0)?,
        32 => 32,
        512 => 64,
        _ => return None,
    };
    // Copies are of eight columns.
    (params.k_dim == width && rope <= columns && rope.is_multiple_of(8)).then_some(columns)
}

/// Keys that a block takes together: `KEYS` of the kernels for tensor cores.
fn step_keys(width: u32) -> u32 {
    if width > 128 { 32 } else { 64 }
}

/// A kernel for many rows, the rows of its tile, and its launch.
pub(super) struct PrefillKernel {
    pub names: Names,
    pub rows: u32,
    pub threads: u32,
    /// Bytes.
    pub shared: u32,
}

/// The kernel for many rows of heads of a width, with columns for the rope, that has the largest tile that fits.
pub(super) fn prefill_kernel(
    (width, rope): (u32, u32),
    shared_per_block: u32,
) -> Option<PrefillKernel> {
    // Stages of keys and values, the rows of a tile, and the threads.
    let kernels: &[(u32, u32, u32, Names)] = match width {
        32 if rope > 0 => &[(2, 64, 128, names!("attention_prefill_latent_32_2"))],
        512 if rope > 0 => &[
            (2, 64, 256, names!("attention_prefill_latent_512_2")),
            (1, 32, 128, names!("attention_prefill_latent_512_1")),
        ],
        32 => &[(2, 64, 128, names!("attention_prefill_32_2"))],
        64 => &[(2, 64, 128, names!("attention_prefill_64_2"))],
        96 => &[
            (2, 64, 128, names!("attention_prefill_96_2")),
            (1, 64, 128, names!("attention_prefill_96_1")),
        ],
        128 => &[
            (2, 64, 128, names!("attention_prefill_128_2")),
            (1, 64, 128, names!("attention_prefill_128_1")),
        ],
        256 => &[
            (2, 64, 128, names!("attention_prefill_256_2")),
            (1, 64, 128, names!("attention_prefill_256_1")),
        ],
        512 => &[
            (2, 64, 256, names!("attention_prefill_512_2")),
            (1, 32, 128, names!("attention_prefill_512_1")),
        ],
        _ => &[],
    };
    let row = row_bytes(width + rope);
    // Latent values are the keys.
    let keys = step_keys(width) * if rope > 0 { 1 } else { 2 };
    let need = |n_stages: u32, rows: u32| (rows + n_stages * keys) * row;
    let limit = shared_per_block.saturating_sub(TILE_BYTES);
    let (n_stages, rows, threads, names) =
        *kernels.iter().find(|(n_stages, rows, ..)| need(*n_stages, *rows) <= limit)?;
    Some(PrefillKernel { names, rows, threads, shared: need(n_stages, rows) })
}

/// The kernel for heads of a width, with columns for the rope, that has the deepest ring that fits, and its shared memory.
pub(super) fn decode_kernel(
    (width, rope): (u32, u32),
    dtype: GgmlType,
    shared_per_block: u32,
) -> Option<(Names, u32)> {
    let kernels: &[(u32, Names)] = match width {
        _ if dtype != GgmlType::F16 && rope > 0 => &[],
        32 if rope > 0 => &[(3, names!("attention_decode_latent_32_3"))],
        512 if rope > 0 => &[
            (3, names!("attention_decode_latent_512_3")),
            (2, names!("attention_decode_latent_512_2")),
            (1, names!("attention_decode_latent_512_1")),
        ],
        64 if dtype == GgmlType::F8_E4M3 => &[(3, names!("attention_decode_f8_e4m3_64_3"))],
        128 if dtype == GgmlType::F8_E4M3 => &[
            (3, names!("attention_decode_f8_e4m3_128_3")),
            (2, names!("attention_decode_f8_e4m3_128_2")),
        ],
        256 if dtype == GgmlType::F8_E4M3 => &[(2, names!("attention_decode_f8_e4m3_256_2"))],
        64 if dtype == GgmlType::Q8_0 => &[(2, names!("attention_decode_q8_0_64_2"))],
        128 if dtype == GgmlType::Q8_0 => &[(2, names!("attention_decode_q8_0_128_2"))],
        256 if dtype == GgmlType::Q8_0 => &[(2, names!("attention_decode_q8_0_256_2"))],
        _ if dtype != GgmlType::F16 => &[],
        32 => &[(3, names!("attention_decode_32_3"))],
        64 => &[(3, names!("attention_decode_64_3"))],
        96 => &[(2, names!("attention_decode_96_2"))],
        128 => &[
            (3, names!("attention_decode_128_3")),
            (2, names!("attention_decode_128_2")),
            (1, names!("attention_decode_128_1")),
        ],
        256 => &[(3, names!("attention_decode_256_3")), (2, names!("attention_decode_256_2"))],
        512 => &[
            (3, names!("attention_decode_512_3")),
            (2, names!("attention_decode_512_2")),
            (1, names!("attention_decode_512_1")),
        ],
        _ => &[],
    };
    let (row, keys) = (row_bytes(width + rope), step_keys(width));
    let stage = keys * row * if rope > 0 { 1 } else { 2 };
    // Queries, scores of two steps, keys and values of the stages.
    let need = |n_stages: u32| 16 * row + 2 * 8 * (keys + 8) * 4 + n_stages * stage;
    // Beside them, the weights of parts.
    let limit = shared_per_block.saturating_sub(MERGE_BYTES);
    let kernel = kernels.iter().find(|(n_stages, _)| need(*n_stages) <= limit);
    kernel.map(|(n_stages, names)| (*names, need(*n_stages)))
}

#[cfg(test)]
mod tests {
    use super::super::{PrefillParams, SoftcapParams};
    use super::*;
    use crate::pipeline::{code, param_bytes};

    /// Every choice is compiled for the cards that make it, and takes the parameters that it gets.
    #[test]
    fn chosen_kernels_are_there() {
        // Turing, Ampere's small and large cards, Hopper.
        for (capability, shared) in
            [(75, 64 << 10), (86, 99 << 10), (80, 163 << 10), (90, 227 << 10)]
        {
            let codes = ["attention_decode", "attention_prefill", "attention_softcap"]
                .map(|module| (module, code(module, capability).expect("a module")));
            let check = |kernel: Kernel, bytes: usize| {
                let (_, code) =
                    codes.iter().find(|(module, _)| *module == kernel.module).expect("a module");
                assert_eq!(
                    param_bytes(code, kernel.name),
                    Some(bytes),
                    "{capability}: {}",
                    kernel.name
                );
            };
            let shapes = WIDTHS.map(|width| (width, 0)).into_iter().chain([(32, 32), (512, 64)]);
            for (shape, softcap) in shapes.flat_map(|shape| [(shape, None), (shape, Some(1.0))]) {
                if softcap.is_some() && (shape.1 > 0 || !CAPPED_WIDTHS.contains(&shape.0)) {
                    continue;
                }
                if let Some(found) = prefill_kernel(shape, shared) {
                    let kernel = found.names.kernel("attention_prefill", softcap);
                    check(kernel, size_of::<PrefillParams>());
                }
                for dtype in [GgmlType::F16, GgmlType::Q8_0, GgmlType::F8_E4M3] {
                    let Some((names, _)) = decode_kernel(shape, dtype, shared) else { continue };
                    let bytes = match softcap {
                        Some(_) => size_of::<SoftcapParams>(),
                        None => size_of::<AttentionParams>(),
                    };
                    check(names.kernel("attention_decode", softcap), bytes);
                }
            }
        }
    }
}
