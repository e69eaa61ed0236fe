//! Caches and attention.

mod kernels;

use std::f32::consts::LOG2_E;

use zinc_backend::DeviceError;
use zinc_plan::{Attention, Dim, LatentAttention, Node};
use zinc_quant::GgmlType;

use kernels::{Names, PrefillKernel, decode_kernel, names, prefill_kernel, rope_columns};

use super::{COUNTERS, Lowering, N_COUNTERS};
use crate::launch::{Count, Kernel, Launch, Rows};

/// Most parts of a row's keys: `MOST_PARTS` of `attention.cuh`.
const MOST_PARTS: u32 = 64;

/// Fewer parts than this are not worth saving.
const LEAST_PARTS: u32 = 8;

/// Keys taken together: `KEY_BLOCK` of `attention.cuh`.
const KEY_BLOCK: u32 = 64;

/// Scratch for the results of parts; more rows are several launches.
const PARTS_BYTES: u64 = 64 << 20;

/// `KvWriteParams` of `kv_write.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct KvWriteParams {
    k: Rows,
    v: Rows,
    n: Count,
    slots: u64,
    cache_k: u64,
    cache_v: u64,
    unused: u64,
}

/// `AttentionParams` of `attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct AttentionParams {
    q: Rows,
    y: Rows,
    q_rope: Rows,
    n: Count,
    cache_k: u64,
    cache_v: u64,
    cache_rope: u64,
    positions: u64,
    seq_of: u64,
    pages: u64,
    sinks: u64,
    parts: u64,
    part_stats: u64,
    counters: u64,
    n_heads: u32,
    n_kv_heads: u32,
    k_dim: u32,
    v_dim: u32,
    rope_dim: u32,
    window: u32,
    page_size: u32,
    pages_per_seq: u32,
    n_splits: u32,
    n_parts_most: u32,
    first_row: u32,
    scale: f32,
}

/// `PrefillParams` of `attention_prefill.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct PrefillParams {
    base: AttentionParams,
    heads: u32,
    cap: f32,
}

/// `SoftcapParams` of `attention_softcap.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct SoftcapParams {
    base: AttentionParams,
    cap: f32,
    unused: u32,
}

/// `WidenParams` of `attention.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct WidenParams {
    base: AttentionParams,
    k: u64,
    v: u64,
}

/// A launch that makes a cache f16, and attention over that.
#[derive(Clone)]
struct Widened {
    params: AttentionParams,
    launch: Launch,
}

impl Lowering<'_> {
    pub(super) fn kv_write(&mut self, node: &Node) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.reads[0]).shape.rows;
        let (k, v) = (self.float_rows(node.reads[0])?, self.float_rows(node.reads[1])?);
        let (cache_k, cache_v) = (self.operand(node.writes[0])?, self.operand(node.writes[1])?);
        let (name, unit) = match cache_k.dtype {
            GgmlType::F32 => ("kv_write_f32", 4),
            GgmlType::F16 => ("kv_write_f16", 4),
            GgmlType::BF16 => ("kv_write_bf16", 4),
            GgmlType::F8_E4M3 => ("kv_write_f8_e4m3", 4),
            GgmlType::Q8_0 => ("kv_write_q8_0", 32),
            GgmlType::Q4_0 => ("kv_write_q4_0", 32),
            other => return Err(self.unsupported(node, format!("a cache of type {other}"))),
        };
        if cache_v.dtype != cache_k.dtype {
            return Err(self.unsupported(node, "keys and values of different types"));
        }
        let params = KvWriteParams {
            k,
            v,
            n: self.count(dim),
            slots: self.operand(node.reads[2])?.address,
            cache_k: cache_k.address,
            cache_v: cache_v.address,
            unused: 0,
        };
        let grid = [k.cols.max(v.cols).div_ceil(64 * unit), self.rows(dim), 2];
        self.push(Launch::new(Kernel { module: "kv_write", name }, params, grid, 64));
        Ok(())
    }

    pub(super) fn attention(
        &mut self,
        node: &Node,
        attention: &Attention,
    ) -> Result<(), DeviceError> {
        let [q, k, v, positions, seq_of, pages] = [0, 1, 2, 3, 4, 5].map(|idx| node.reads[idx]);
        let cache = self.operand(k)?;
        if self.operand(v)?.dtype != cache.dtype {
            return Err(self.unsupported(node, "keys and values of different types"));
        }
        let sinks = node.reads.get(6).filter(|_| attention.sinks);
        let pages = self.operand(pages)?;
        let params = AttentionParams {
            q: self.float_rows(q)?,
            y: self.float_rows(node.writes[0])?,
            q_rope: Rows { data: 0, stride: 0, cols: 0 },
            n: self.count(Dim::Tokens),
            cache_k: cache.address,
            cache_v: self.operand(v)?.address,
            cache_rope: 0,
            positions: self.operand(positions)?.address,
            seq_of: self.operand(seq_of)?.address,
            pages: pages.address,
            sinks: sinks.map_or(Ok(0), |id| self.operand(*id).map(|sinks| sinks.address))?,
            parts: 0,
            part_stats: 0,
            counters: self.places.inputs() + COUNTERS,
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            k_dim: attention.k_dim,
            v_dim: attention.v_dim,
            rope_dim: 0,
            window: attention.window.unwrap_or(0),
            page_size: attention.page_size,
            pages_per_seq: pages.cols,
            n_splits: 1,
            n_parts_most: 1,
            first_row: 0,
            scale: attention.scale * LOG2_E,
        };
        self.attend(node, params, attention.softcap.map(|cap| cap * LOG2_E), cache.dtype)
    }

    pub(super) fn latent_attention(
        &mut self,
        node: &Node,
        attention: &LatentAttention,
    ) -> Result<(), DeviceError> {
        let [q, q_rope, c, r, positions, seq_of, pages] =
            [0, 1, 2, 3, 4, 5, 6].map(|idx| node.reads[idx]);
        let (cache, pages) = (self.operand(c)?, self.operand(pages)?);
        let params = AttentionParams {
            q: self.float_rows(q)?,
            y: self.float_rows(node.writes[0])?,
            q_rope: self.float_rows(q_rope)?,
            n: self.count(Dim::Tokens),
            cache_k: cache.address,
            cache_v: cache.address,
            cache_rope: self.operand(r)?.address,
            positions: self.operand(positions)?.address,
            seq_of: self.operand(seq_of)?.address,
            pages: pages.address,
            sinks: 0,
            parts: 0,
            part_stats: 0,
            counters: self.places.inputs() + COUNTERS,
            n_heads: attention.n_heads,
            n_kv_heads: 1,
            k_dim: attention.latent_dim,
            v_dim: attention.latent_dim,
            rope_dim: attention.rope_dim,
            window: 0,
            page_size: attention.page_size,
            pages_per_seq: pages.cols,
            n_splits: 1,
            n_parts_most: 1,
            first_row: 0,
            scale: attention.scale * LOG2_E,
        };
        self.attend(node, params, None, cache.dtype)
    }

    /// Most parts that the keys of a row are cut into: no more than blocks of keys, and what fills a large card, as wide
    /// heads take a multiprocessor each. A number of the operation's shape: sums depend on it.
    fn most_parts(&self, params: &AttentionParams) -> u32 {
        let positions = self.plan.limits.pages_per_seq.saturating_mul(params.page_size);
        let whole = positions.div_ceil(KEY_BLOCK);
        // A window may begin and end inside a block.
        let of_window = match params.window {
            0 => whole,
            window => window.div_ceil(KEY_BLOCK).saturating_add(1),
        };
        let n_blocks = params.n_kv_heads * (params.n_heads / params.n_kv_heads).div_ceil(8);
        let that_fill = if params.v_dim > 256 { 128 } else { 256 } / n_blocks;
        whole.min(of_window).min(that_fill.max(LEAST_PARTS)).clamp(1, MOST_PARTS)
    }

    fn attend(
        &mut self,
        node: &Node,
        params: AttentionParams,
        softcap: Option<f32>,
        dtype: GgmlType,
    ) -> Result<(), DeviceError> {
        let width = params.v_dim;
        let params = AttentionParams { n_parts_most: self.most_parts(&params), ..params };
        // Asked for whichever kernel runs: smaller buckets use the scratch that the largest one counts.
        let (params, at_once) = self.room_for_parts(params);
        let rope = rope_columns(&params, softcap);
        if let Some(rope) = rope {
            let (tokens, seqs) = (self.bucket.tokens, self.bucket.seqs);
            let wide = self.room_to_widen(node, params, dtype);
            // Tiles of rows pay when their rows share keys.
            let shares_keys = tokens >= 16 && tokens >= 8 * seqs && params.scale > 0.0;
            if shares_keys
                && !self.batch_invariant
                && (dtype == GgmlType::F16 || wide.is_some())
                && let Some(launch) =
                    self.prefill(wide.as_ref().map_or(params, |wide| wide.params), rope, softcap)
            {
                if let Some(wide) = wide {
                    self.push(wide.launch);
                }
                self.push(launch);
                return Ok(());
            }
        }
        if let Some(rope) = rope
            && let Some((names, shared)) =
                decode_kernel((width, rope), dtype, self.card.shared_per_block)
        {
            let kernel = names.kernel("attention_decode", softcap);
            self.attend_parts(params, softcap, at_once, kernel, (8, shared));
            return Ok(());
        }
        let names = match dtype {
            GgmlType::F32 => names!("attention_f32"),
            GgmlType::F16 => names!("attention_f16"),
            GgmlType::BF16 => names!("attention_bf16"),
            GgmlType::F8_E4M3 => names!("attention_f8_e4m3"),
            GgmlType::Q8_0 => names!("attention_q8_0"),
            GgmlType::Q4_0 => names!("attention_q4_0"),
            other => return Err(self.unsupported(node, format!("a cache of type {other}"))),
        };
        if width > 512 {
            return Err(self.unsupported(node, format!("value heads of {width} elements")));
        }
        let shared = 4 * 4 * (params.k_dim + params.rope_dim);
        let kernel = names.kernel("attention", softcap);
        self.attend_parts(params, softcap, at_once, kernel, (4, shared));
        Ok(())
    }

    /// What makes the keys and values of an 8-bit or quantised cache that a step sees f16, for many rows; none where no
    /// bucket of the plan does. Of latent attention the rope takes the place of the values.
    fn room_to_widen(
        &mut self,
        node: &Node,
        params: AttentionParams,
        dtype: GgmlType,
    ) -> Option<Widened> {
        let name = match dtype {
            GgmlType::F8_E4M3 => "attention_widen_f8_e4m3",
            GgmlType::Q8_0 => "attention_widen_q8_0",
            GgmlType::Q4_0 => "attention_widen_q4_0",
            _ => return None,
        };
        // The largest bucket counts the scratch, whether or not its own rows share keys.
        if self.batch_invariant || self.plan.limits.max_tokens < 16 {
            return None;
        }
        // Caches are read by blocks of 32; ropes in fp8 may be shorter.
        if !params.rope_dim.is_multiple_of(32) {
            return None;
        }
        let is_latent = params.rope_dim > 0;
        let cache = node.reads[if is_latent { 2 } else { 1 }];
        let n_rows = self.plan.limits.bound(self.plan.tensor(cache).shape.rows);
        let bytes = |cols: u32| n_rows * u64::from(cols) * 2;
        let k_cols = params.n_kv_heads * params.k_dim;
        let v_cols = if is_latent { params.rope_dim } else { k_cols };
        let (k, v) = (self.transient(bytes(k_cols)), self.transient(bytes(v_cols)));
        let positions = self.plan.limits.pages_per_seq.saturating_mul(params.page_size);
        let grid = [positions.div_ceil(KEY_BLOCK), self.bucket.seqs, 2];
        let kernel = Kernel { module: "attention", name };
        let launch = Launch::new(kernel, WidenParams { base: params, k, v }, grid, 128);
        let params = match is_latent {
            true => AttentionParams { cache_k: k, cache_v: k, cache_rope: v, ..params },
            false => AttentionParams { cache_k: k, cache_v: v, ..params },
        };
        Some(Widened { params, launch })
    }

    /// Scratch for the results of parts, and the rows it is for.
    fn room_for_parts(&mut self, params: AttentionParams) -> (AttentionParams, u32) {
        let parts = u64::from(params.n_heads) * u64::from(params.n_parts_most);
        let row_bytes = parts * (u64::from(params.v_dim) + 2) * 4;
        let at_once = (PARTS_BYTES / row_bytes).clamp(1, u64::from(self.bucket.tokens)) as u32;
        let part_stats = self.transient(u64::from(at_once) * parts * 8);
        let sums = self.transient(u64::from(at_once) * parts * u64::from(params.v_dim) * 4);
        (AttentionParams { parts: sums, part_stats, ..params }, at_once)
    }

    /// Launches of a kernel that computes parts, and merges them, with so many heads a block and shared memory.
    fn attend_parts(
        &mut self,
        params: AttentionParams,
        softcap: Option<f32>,
        at_once: u32,
        kernel: Kernel,
        (heads, shared): (u32, u32),
    ) {
        let n_rows = self.bucket.tokens;
        let group = params.n_heads / params.n_kv_heads;
        let n_blocks = params.n_kv_heads * group.div_ceil(heads);
        let mut first_row = 0;
        while first_row < n_rows {
            let rows = at_once.min(n_rows - first_row);
            // About two blocks for each multiprocessor. Blocks that share keys have a counter.
            let n_splits = match n_blocks.saturating_mul(rows) {
                n if n <= N_COUNTERS => (2 * self.card.n_multiprocessors).div_ceil(n),
                _ => 1,
            };
            let n_splits = n_splits.clamp(1, params.n_parts_most);
            let params = AttentionParams { n_splits, first_row, ..params };
            let grid = [n_splits, n_blocks, rows];
            let launch = match softcap {
                Some(cap) => {
                    let params = SoftcapParams { base: params, cap, unused: 0 };
                    Launch::new(kernel, params, grid, 128)
                }
                None => Launch::new(kernel, params, grid, 128),
            };
            self.push(launch.with_shared(shared));
            first_row += rows;
        }
    }

    /// The launch for many rows, with so many columns for the rope; none when a block has not enough shared memory.
    fn prefill(&self, params: AttentionParams, rope: u32, softcap: Option<f32>) -> Option<Launch> {
        let (width, group) = (params.v_dim, params.n_heads / params.n_kv_heads);
        // At most 16, and the same number in all blocks of a group but the last: none has few rows.
        let heads = group.div_ceil(group.div_ceil(16));
        let PrefillKernel { names, rows, threads, shared } =
            prefill_kernel((width, rope), self.card.shared_per_block)?;
        let tiles = self.bucket.tokens.div_ceil(rows / heads);
        let grid = [tiles, params.n_kv_heads * group.div_ceil(heads), 1];
        let params = PrefillParams { base: params, heads, cap: softcap.unwrap_or(0.0) };
        let kernel = names.kernel("attention_prefill", softcap);
        Some(Launch::new(kernel, params, grid, threads).with_shared(shared))
    }
}
