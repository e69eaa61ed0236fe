//! Caches: writing them and attending over them.

use serde::Deserialize;
use zinc_plan::{Builder, CacheGroup, OpKind};
use zinc_quant::GgmlType;

use super::{Context, Entry};
use crate::cases::{Case, Layout, Operand, Pattern};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attention {
    name: String,
    n_heads: u32,
    n_kv_heads: u32,
    k_dim: u32,
    v_dim: u32,
    /// 1 / sqrt(k_dim) when absent.
    scale: Option<f32>,
    softcap: Option<f32>,
    window: Option<u32>,
    /// The caches keep no more than the window.
    #[serde(default)]
    ring: bool,
    /// Heads have sinks.
    #[serde(default)]
    sinks: bool,
    page_size: u32,
    /// For each sequence the tokens written in earlier steps and those of the last step.
    seqs: Vec<[u32; 2]>,
    /// Query, key and value are columns of one packed value.
    #[serde(default)]
    view: bool,
}

impl Entry for Attention {
    const OP: OpKind = OpKind::Attention;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let attributes = zinc_plan::Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            scale: self.scale.unwrap_or(1.0 / (self.k_dim as f32).sqrt()),
            softcap: self.softcap,
            window: self.window,
            sinks: self.sinks,
            page_size: self.page_size,
        };
        let widths = [self.n_kv_heads * self.k_dim, self.n_kv_heads * self.v_dim];
        let fits = |dtype: &GgmlType| {
            widths.iter().all(|width| dtype.row_bytes(*width as usize).is_some())
        };
        let ring = self.window.filter(|_| self.ring);
        let group = ring.map_or(CacheGroup::Full, |_| CacheGroup::Window);
        let case = |dtype| {
            let mut feed = context.feed(&self.name);
            let mut layout = Layout::sequences(&self.seqs, self.page_size, &mut feed.rng);
            if let Some(window) = ring {
                layout = layout.with_window(window, &mut feed.rng);
            }
            let rows = layout.n_rows() as u32;
            let operand = |name, cols| Operand {
                name,
                rows,
                cols,
                view: self.view,
                pattern: Pattern::Normal,
            };
            let q = operand("q", self.n_heads * self.k_dim);
            let (k, v) = (operand("k", widths[0]), operand("v", widths[1]));
            [q, k, v].iter().for_each(|operand| operand.fill(&mut feed));
            feed.floats("sinks", 1, self.n_heads, Pattern::Normal);
            let build = move |b: &mut Builder| {
                let (q, k, v) = (q.build(b)?, k.build(b)?, v.build(b)?);
                let cache_k = b.cache_of(group, "cache_k", dtype, widths[0])?;
                let cache_v = b.cache_of(group, "cache_v", dtype, widths[1])?;
                b.kv_write("write", [k, v], [cache_k, cache_v])?;
                let sinks = match attributes.sinks {
                    true => Some(b.weight("sinks", GgmlType::F32, 1, attributes.n_heads)?),
                    false => None,
                };
                let caches = [cache_k, cache_v];
                Ok(vec![b.attention_with_sinks("y", attributes, q, caches, sinks)?])
            };
            let mut case = context.case(&self.name, Some(dtype), feed, layout, Box::new(build));
            case.nmse_max = context.nmse_of_attention(dtype);
            case
        };
        context.kv_types.iter().copied().filter(fits).map(case).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LatentAttention {
    name: String,
    n_heads: u32,
    latent_dim: u32,
    rope_dim: u32,
    page_size: u32,
    seqs: Vec<[u32; 2]>,
    #[serde(default)]
    view: bool,
}

impl Entry for LatentAttention {
    const OP: OpKind = OpKind::LatentAttention;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let attributes = zinc_plan::LatentAttention {
            n_heads: self.n_heads,
            latent_dim: self.latent_dim,
            rope_dim: self.rope_dim,
            scale: 1.0 / ((self.latent_dim + self.rope_dim) as f32).sqrt(),
            page_size: self.page_size,
        };
        let widths = [self.latent_dim, self.rope_dim];
        let fits = |dtype: &GgmlType| {
            let mut widths = widths.iter();
            widths.all(|width| dtype.row_bytes(*width as usize).is_some())
        };
        let case = |dtype| {
            let mut feed = context.feed(&self.name);
            let layout = Layout::sequences(&self.seqs, self.page_size, &mut feed.rng);
            let rows = layout.n_rows() as u32;
            let operand = |name, cols| Operand {
                name,
                rows,
                cols,
                view: self.view,
                pattern: Pattern::Normal,
            };
            let q = operand("q", self.n_heads * self.latent_dim);
            let q_rope = operand("q_rope", self.n_heads * self.rope_dim);
            let (c, r) = (operand("c", widths[0]), operand("r", widths[1]));
            for operand in [q, q_rope, c, r] {
                operand.fill(&mut feed);
            }
            let build = move |b: &mut Builder| {
                let queries = [q.build(b)?, q_rope.build(b)?];
                let (c, r) = (c.build(b)?, r.build(b)?);
                let caches = [
                    b.cache("cache_kv", dtype, widths[0])?,
                    b.cache("cache_k_rope", dtype, widths[1])?,
                ];
                b.kv_write("write", [c, r], caches)?;
                Ok(vec![b.latent_attention("y", attributes, queries, caches)?])
            };
            let mut case = context.case(&self.name, Some(dtype), feed, layout, Box::new(build));
            // Steps of fewer rows round nothing: the tensor cores' decode kernels are exact to f32 as well.
            case.nmse_max = match case.layout.steps.iter().any(|step| step.len() >= 16) {
                true => context.nmse_of_attention(dtype),
                false => context.nmse_of(dtype),
            };
            case
        };
        let types = context.kv_types.iter().copied();
        types.filter(fits).map(case).collect()
    }
}

/// A cache row is read back with attention over one key: its weight is exactly 1, so the result is
/// the row as the cache holds it. Keys are read by using their cache as values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KvWrite {
    name: String,
    k_cols: u32,
    v_cols: u32,
    page_size: u32,
    seqs: Vec<[u32; 2]>,
    #[serde(default)]
    pattern: Pattern,
    #[serde(default)]
    view: bool,
}

impl KvWrite {
    /// After the writing steps, one step that reads every position again while it writes to a page
    /// of nobody, and one that overwrites position 0 of each sequence with the last row.
    fn layout(&self, rng: &mut crate::random::Rng) -> Layout {
        let mut layout = Layout::sequences(&self.seqs, self.page_size, rng);
        let taken: Vec<i32> = layout.pages.concat();
        let spare = (0..layout.n_pages as i32).find(|page| !taken.contains(page)).unwrap_or(0);
        let mut again: Vec<_> = layout.steps.concat();
        for row in &mut again {
            row.slot = spare * self.page_size as i32;
        }
        let last = layout.n_rows() as i32 - 1;
        let overwrite = (0..self.seqs.len()).map(|seq| layout.row(last, seq, 0)).collect();
        // One row at a time: two rows of a step must not write one slot.
        layout.steps.extend(again.into_iter().map(|row| vec![row]));
        layout.steps.push(overwrite);
        layout
    }
}

impl Entry for KvWrite {
    const OP: OpKind = OpKind::KvWrite;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let one_key = |v_dim| zinc_plan::Attention {
            n_heads: 1,
            n_kv_heads: 1,
            k_dim: self.k_cols,
            v_dim,
            scale: 1.0 / (self.k_cols as f32).sqrt(),
            softcap: None,
            window: Some(1),
            sinks: false,
            page_size: self.page_size,
        };
        let (read_k, read_v) = (one_key(self.k_cols), one_key(self.v_cols));
        let widths = [self.k_cols, self.v_cols];
        let fits = |dtype: &GgmlType| {
            widths.iter().all(|width| dtype.row_bytes(*width as usize).is_some())
        };
        let case = |dtype| {
            let mut feed = context.feed(&self.name);
            let layout = self.layout(&mut feed.rng);
            let rows = layout.n_rows() as u32;
            let operand =
                |name, cols| Operand { name, rows, cols, view: self.view, pattern: self.pattern };
            let (k, v) = (operand("k", widths[0]), operand("v", widths[1]));
            k.fill(&mut feed);
            v.fill(&mut feed);
            let build = move |b: &mut Builder| {
                let (k, v) = (k.build(b)?, v.build(b)?);
                let cache_k = b.cache("cache_k", dtype, widths[0])?;
                let cache_v = b.cache("cache_v", dtype, widths[1])?;
                b.kv_write("write", [k, v], [cache_k, cache_v])?;
                let key = b.attention("key", read_k, k, [cache_k, cache_k])?;
                Ok(vec![b.attention("value", read_v, k, [cache_k, cache_v])?, key])
            };
            context.case(&self.name, Some(dtype), feed, layout, Box::new(build))
        };
        context.kv_types.iter().copied().filter(fits).map(case).collect()
    }
}
