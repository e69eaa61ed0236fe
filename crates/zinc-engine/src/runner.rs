//! A model on a device: weights bound once, plans compiled per bucket, steps run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zinc_backend::{
    Bindings, Device, Executable, States, StepInputs, StepOutputs, WeightSource, Weights,
};
use zinc_plan::{Plan, TensorKind, passes};

use crate::cache_shape::CacheShape;
use crate::options::EngineOptions;
use crate::{EngineError, Model};

/// A model whose weights a device has taken. Engines and evaluators share it.
pub struct LoadedModel {
    model: Arc<Model>,
    device: Arc<dyn Device>,
    weights: Weights,
    load_time: Duration,
}

impl LoadedModel {
    /// Gives the model's weights to `device`; `progress` is told bytes done and bytes in all.
    ///
    /// # Errors
    /// The device has not enough memory or failed.
    pub fn load(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedModel, EngineError> {
        let begin = Instant::now();
        let weights = device.bind_weights(weight_sources(&model)?, progress)?;
        Ok(LoadedModel { model, device, weights, load_time: begin.elapsed() })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// How long the device took for the weights.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }
}

/// The tensors of the file that the model's plan multiplies with.
pub(crate) fn weight_sources(model: &Model) -> Result<Vec<WeightSource>, EngineError> {
    // Which weights a plan names does not depend on its limits.
    let shape = CacheShape::new(model, &EngineOptions::default(), 1);
    let plan = model.graph().plan(&shape.plan_options(1, 1))?;
    let named = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
    let sources = named.filter_map(|(_, tensor)| model.gguf().tensor(&tensor.name)).map(|entry| {
        WeightSource {
            name: entry.name.clone(),
            dtype: entry.ty,
            rows: entry.dims.iter().skip(1).product(),
            cols: entry.dims.first().copied().unwrap_or(1),
            data: model.gguf().data(entry),
        }
    });
    Ok(sources.collect())
}

/// What the plans of a runner compute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Logits of every token, not only of each sequence's last.
    pub all_rows: bool,
    /// Further tensors to return, by their names in the plan.
    pub taps: Vec<String>,
}

/// Compiled plans of a model and the cache they share.
pub(crate) struct Runner {
    /// Plans by rising token bound: one token per sequence (decode), then the prefill chunk.
    buckets: Vec<Box<dyn Executable>>,
    outputs: StepOutputs,
    // Outlives the executables that use it.
    _states: States,
}

impl Runner {
    pub fn new(
        loaded: &LoadedModel,
        shape: CacheShape,
        wanted: &Wanted,
    ) -> Result<Runner, EngineError> {
        let device = loaded.device.as_ref();
        let plans = bucket_bounds(shape)
            .map(|max_tokens| prepare(&loaded.model, device, shape, max_tokens, wanted))
            .collect::<Result<Vec<_>, _>>()?;
        // Every bucket names the same states.
        let states = device.alloc_states(&plans[0])?;
        let bind = Bindings { weights: &loaded.weights, states: &states };
        let compile = |plan| device.compile(Arc::new(plan), &bind);
        let buckets = plans.into_iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        Ok(Runner { buckets, outputs: StepOutputs::default(), _states: states })
    }

    /// Runs one step on the smallest plan that takes its tokens.
    pub fn run(&mut self, inputs: &StepInputs) -> Result<&StepOutputs, EngineError> {
        let n_tokens = inputs.token_ids.len();
        let fits = |max_tokens: u32| n_tokens <= max_tokens as usize;
        let smallest = self.buckets.iter().position(|bucket| fits(bucket.plan().limits.max_tokens));
        // A step larger than every plan is refused by the device with the numbers.
        let at = smallest.unwrap_or(self.buckets.len() - 1);
        let executable = &mut self.buckets[at];
        let ticket = executable.submit(inputs)?;
        executable.wait(ticket, &mut self.outputs)?;
        Ok(&self.outputs)
    }

    /// The plan with the largest bound.
    pub fn largest_plan(&self) -> &Plan {
        self.buckets[self.buckets.len() - 1].plan()
    }
}

/// Token bounds of the plans, rising: one token per sequence, and the chunk if it is larger.
pub(crate) fn bucket_bounds(shape: CacheShape) -> impl Iterator<Item = u32> {
    let chunk = Some(shape.max_tokens).filter(|chunk| *chunk > shape.max_seqs);
    std::iter::once(shape.max_seqs).chain(chunk)
}

/// The plan of one bucket, made ready for `device`.
pub(crate) fn prepare(
    model: &Model,
    device: &dyn Device,
    shape: CacheShape,
    max_tokens: u32,
    wanted: &Wanted,
) -> Result<Plan, EngineError> {
    let max_out_rows = if wanted.all_rows { max_tokens } else { shape.max_seqs };
    let mut plan = model.graph().plan(&shape.plan_options(max_tokens, max_out_rows))?;
    plan.add_outputs(&wanted.taps)?;
    Ok(passes::prepare(plan, device.caps())?)
}
