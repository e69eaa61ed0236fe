//! What a model takes on a device, before anything is loaded.

use std::collections::HashSet;

use zinc_backend::{Device, WeightNeed};
use zinc_plan::{Op, Plan, TensorId};

use crate::cache_shape::CacheShape;
use crate::draft::Head;
use crate::options::EngineOptions;
use crate::runner::{Block, Wanted, buckets, prepare, weight_sources};
use crate::{EngineError, Model};

/// Bytes that a model takes on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights, read where the file is mapped or copied.
    pub weights: WeightNeed,
    /// Caches by the kind of their layers.
    pub cache: CacheNeed,
    /// Intermediate values of the largest step of each kind, and what the device adds to them.
    pub scratch: u64,
    /// Most bytes of the host's memory for what the caches have no room for; taken as it is needed.
    pub host_cache: u64,
}

/// Bytes of the caches. A layer that has none counts nowhere, nor does one that reads another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheNeed {
    /// Keys and values of all positions.
    pub full: LayerNeed,
    /// Keys and values of the last positions: layers with a sliding window.
    pub window: LayerNeed,
    /// Compressed keys and values of all positions.
    pub latent: LayerNeed,
    /// States of recurrent layers, with those of checkpoints.
    pub recurrent: LayerNeed,
}

/// Layers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerNeed {
    /// Number of layers with a cache of this kind.
    pub n_layers: u32,
    /// Bytes of all of them.
    pub n_bytes: u64,
}

impl CacheNeed {
    /// All caches.
    pub fn total(&self) -> u64 {
        let kinds = [self.full, self.window, self.latent, self.recurrent];
        kinds.iter().map(|kind| kind.n_bytes).sum()
    }

    /// Adds the states of a plan.
    fn add(&mut self, plan: &Plan) {
        let latent: HashSet<TensorId> = plan
            .nodes
            .iter()
            .filter(|node| matches!(node.op, Op::LatentAttention(_)))
            .flat_map(|node| node.reads[2..4].iter().copied())
            .collect();
        // A convolution stands before each delta net and belongs to its layer.
        for node in &plan.nodes {
            let n_states = node.op.n_state_writes();
            let states = &node.writes[node.writes.len() - n_states..];
            let Some(first) = states.first() else { continue };
            let windowed = plan.tensor(*first).shape.rows == zinc_plan::Dim::WindowRows;
            let kind = match node.op {
                Op::KvWrite if latent.contains(first) => &mut self.latent,
                Op::KvWrite if windowed => &mut self.window,
                Op::KvWrite => &mut self.full,
                _ => &mut self.recurrent,
            };
            kind.n_layers += u32::from(!matches!(node.op, Op::CausalConv1d(_)));
            kind.n_bytes += states.iter().map(|id| plan.max_bytes(*id)).sum::<u64>();
        }
    }
}

impl MemoryNeed {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.mapped.saturating_add(self.own())
    }

    /// All but what is read where the file is mapped.
    pub fn own(&self) -> u64 {
        [self.cache.total(), self.scratch, self.only_loading()]
            .iter()
            .fold(self.weights.copied, |sum, part| sum.saturating_add(*part))
    }

    /// What loading the weights takes beyond what caches and scratch, which come after it, have room in.
    pub fn only_loading(&self) -> u64 {
        self.weights.loading.saturating_sub(self.cache.total().saturating_add(self.scratch))
    }

    /// Whether a device with `total` bytes of memory, `free` of them free, can hold it. Weights that
    /// are read in place need room to stay in memory, or every step reads them from the disk; they
    /// may push out what other programs have in their files' memory, but not more than there is.
    pub fn fits(&self, total: u64, free: u64) -> bool {
        self.own() <= free && self.total() <= total
    }
}

/// Says what a model takes on a device for caches of one shape and another.
pub(crate) struct Estimate<'a> {
    model: &'a Model,
    device: &'a dyn Device,
    blocks: &'static [Block],
    /// Prepared plans of each block.
    plans: Vec<(Block, Vec<Plan>)>,
    /// Tokens of a step that they are for.
    max_tokens: u32,
    weights: WeightNeed,
}

impl<'a> Estimate<'a> {
    /// For an engine of `model` with these options on `device`.
    pub fn new(
        model: &'a Model,
        device: &'a dyn Device,
        options: &EngineOptions,
    ) -> Result<Estimate<'a>, EngineError> {
        let blocks = options.blocks(model);
        let weights = device.weight_need(&weight_sources(model, blocks)?);
        Ok(Estimate { model, device, blocks, plans: Vec::new(), max_tokens: 0, weights })
    }

    /// What is needed with caches of this shape.
    pub fn need(&mut self, shape: CacheShape) -> Result<MemoryNeed, EngineError> {
        if self.max_tokens != shape.max_tokens {
            let plans = self.blocks.iter().map(|block| Ok((*block, self.prepare(*block, shape)?)));
            self.plans = plans.collect::<Result<Vec<_>, EngineError>>()?;
            self.max_tokens = shape.max_tokens;
        }
        let (mut scratch, mut cache) = (0_u64, CacheNeed::default());
        for (block, plans) in &mut self.plans {
            let shape = block.shape(shape);
            for plan in plans.iter_mut() {
                // Nothing but the limits differs between plans for caches of other sizes, and the
                // arena is bounded by the tokens of a step.
                let (max_tokens, max_out_rows) = (plan.limits.max_tokens, plan.limits.max_out_rows);
                plan.limits = shape.plan_options(max_tokens, max_out_rows).limits;
                let arena = plan.memory.as_ref().map_or(0, |memory| memory.arena_bytes);
                scratch = scratch.saturating_add(arena);
                scratch = scratch.saturating_add(self.device.scratch_need(plan));
            }
            let n_before = cache.total();
            plans.first().into_iter().for_each(|plan| cache.add(plan));
            debug_assert_eq!(
                Some(cache.total() - n_before),
                plans.first().map(Plan::state_bytes),
                "every state belongs to one layer"
            );
        }
        Ok(MemoryNeed { weights: self.weights, cache, scratch, host_cache: 0 })
    }

    fn prepare(&self, block: Block, shape: CacheShape) -> Result<Vec<Plan>, EngineError> {
        let wanted = match block {
            Block::Trunk => Wanted::of_engine(shape),
            Block::Mtp => Head::wanted(),
        };
        let shape = block.shape(shape);
        buckets(shape)
            .map(|bucket| prepare(self.model, self.device, shape, bucket, &wanted))
            .collect()
    }
}
