//! A model on a device: weights bound once, plans compiled per bucket, steps run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zinc_backend::{
    Bindings, Device, Executable, Profiling, States, StepInputs, StepOutputs, WeightSource, Weights,
};
use zinc_models::PlanOptions;
use zinc_plan::{Builder, Plan, TensorKind, TopK, passes};

use crate::cache_shape::CacheShape;
use crate::mtp::HIDDEN_TENSOR;
use crate::options::EngineOptions;
use crate::profile::{Phase, PlanProfile, Profiler};
use crate::{EngineError, Model, sampler};

/// A model whose weights a device has taken. Engines and evaluators share it.
pub struct LoadedModel {
    model: Arc<Model>,
    device: Arc<dyn Device>,
    weights: Weights,
    blocks: &'static [Block],
    load_time: Duration,
}

impl LoadedModel {
    /// Gives the weights of the model's trunk to `device`; `progress` is told bytes done and bytes
    /// in all.
    ///
    /// # Errors
    /// The device has not enough memory or failed.
    pub fn load(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedModel, EngineError> {
        LoadedModel::load_blocks(model, device, &[Block::Trunk], progress)
    }

    /// As [`LoadedModel::load`], with the weights of the multi-token-prediction head as well, for
    /// [`MtpHead`](crate::MtpHead).
    ///
    /// # Errors
    /// As there; and [`EngineError::NoMtpHead`].
    pub fn load_with_mtp(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedModel, EngineError> {
        LoadedModel::load_blocks(model, device, &[Block::Trunk, Block::Mtp], progress)
    }

    /// As [`LoadedModel::load`], with what else an [`Engine`](crate::Engine) with these options needs
    /// of the model.
    ///
    /// # Errors
    /// As there; and [`EngineError::NoMtpHead`].
    pub fn load_for(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedModel, EngineError> {
        let blocks = options.blocks(&model);
        LoadedModel::load_blocks(model, device, blocks, progress)
    }

    fn load_blocks(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        blocks: &'static [Block],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedModel, EngineError> {
        let begin = Instant::now();
        let weights = device.bind_weights(weight_sources(&model, blocks)?, progress)?;
        Ok(LoadedModel { model, device, weights, blocks, load_time: begin.elapsed() })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Whether the head of multi-token prediction is there.
    pub fn has_mtp(&self) -> bool {
        self.blocks.contains(&Block::Mtp)
    }

    /// How long the device took for the weights.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }
}

/// A part of a model with a plan and a cache of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Block {
    /// The model.
    #[default]
    Trunk,
    /// The head of multi-token prediction.
    Mtp,
}

impl Block {
    /// Its plan.
    pub fn plan(self, model: &Model, options: &PlanOptions) -> Result<Plan, EngineError> {
        match self {
            Block::Trunk => Ok(model.graph().plan(options)?),
            Block::Mtp => model
                .graph()
                .mtp_plan(options)?
                .ok_or_else(|| EngineError::NoMtpHead { arch: model.config().arch.clone() }),
        }
    }

    /// The caches of this part beside those of a trunk of `shape`.
    pub fn shape(self, shape: CacheShape) -> CacheShape {
        match self {
            Block::Trunk => shape,
            Block::Mtp => shape.of_head(),
        }
    }

    /// The plan of one token, for what does not depend on limits: names, weights, columns.
    pub fn smallest_plan(self, model: &Model) -> Result<Plan, EngineError> {
        self.plan(model, &PlanOptions::ONE_TOKEN)
    }
}

/// The tensors of the file that the plans of `blocks` multiply with.
pub(crate) fn weight_sources(
    model: &Model,
    blocks: &[Block],
) -> Result<Vec<WeightSource>, EngineError> {
    let mut names = BTreeSet::new();
    for block in blocks {
        let plan = block.smallest_plan(model)?;
        let weights = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
        names.extend(weights.map(|(_, tensor)| tensor.name.clone()));
    }
    Ok(model.weight_sources(|name| names.contains(name)))
}

/// What the plans of a runner compute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Which part of the model.
    pub block: Block,
    /// Most rows of logits of a step; by default one for each sequence, its last, and what the
    /// options ask for beyond.
    pub out_rows: Option<u32>,
    /// Also, right behind the logits, ids and values of the largest of each row: see [`sampler::Logits`].
    pub largest: bool,
    /// Further tensors to return, by their names in the plan.
    pub taps: Vec<String>,
    /// Also, before those, the trunk's hidden states after the final norm, of every token.
    pub hidden: bool,
}

impl Wanted {
    /// What an engine with caches of `shape` wants of the model.
    pub fn of_engine(shape: CacheShape) -> Wanted {
        Wanted { largest: true, hidden: shape.has_head, ..Wanted::default() }
    }
}

/// What a step gave, and what measures the host's part of it, if profiling is on.
pub(crate) type Ran<'a> = (&'a StepOutputs, Option<&'a mut Profiler>);

/// Compiled plans of a model and the cache they share.
pub(crate) struct Runner {
    /// Plans by rising token bound: one token per sequence (decode), then the prefill chunk.
    buckets: Vec<Box<dyn Executable>>,
    /// The plan that gives hidden states, if there is one.
    pooling: Option<Box<dyn Executable>>,
    outputs: StepOutputs,
    states: States,
    /// Of all plans in order, once profiling was switched on.
    profiler: Option<Box<Profiler>>,
    profiling: bool,
}

impl Runner {
    pub fn new(
        loaded: &LoadedModel,
        shape: CacheShape,
        wanted: &Wanted,
    ) -> Result<Runner, EngineError> {
        let device = loaded.device.as_ref();
        if !loaded.blocks.contains(&wanted.block) {
            return Err(EngineError::NoMtpHead { arch: loaded.model.config().arch.clone() });
        }
        let plans = buckets(shape)
            .map(|bucket| prepare(&loaded.model, device, shape, bucket, wanted))
            .collect::<Result<Vec<_>, _>>()?;
        // Every bucket names the same states.
        let states = device.alloc_states(&plans[0])?;
        let bind = Bindings { weights: &loaded.weights, states: &states };
        let compile = |plan| device.compile(Arc::new(plan), &bind);
        let mut buckets = plans.into_iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        let pooling = if shape.embeddings { buckets.pop() } else { None };
        Ok(Runner {
            buckets,
            pooling,
            outputs: StepOutputs::default(),
            states,
            profiler: None,
            profiling: false,
        })
    }

    /// The caches.
    pub fn states(&self) -> &States {
        &self.states
    }

    /// Runs one step on the smallest plan that takes its tokens.
    pub fn run(&mut self, inputs: &StepInputs) -> Result<Ran<'_>, EngineError> {
        let n_tokens = inputs.token_ids.len();
        let fits = |max_tokens: u32| n_tokens <= max_tokens as usize;
        let smallest = self.buckets.iter().position(|bucket| fits(bucket.plan().limits.max_tokens));
        // A step larger than every plan is refused by the device with the numbers.
        let at = smallest.unwrap_or(self.buckets.len() - 1);
        self.run_on(at, inputs)
    }

    /// Runs one step that gives hidden states after the final norm instead of logits.
    pub fn run_hidden(&mut self, inputs: &StepInputs) -> Result<Ran<'_>, EngineError> {
        self.run_on(self.buckets.len(), inputs)
    }

    /// Runs one step on the plan at `at` of all.
    fn run_on(&mut self, at: usize, inputs: &StepInputs) -> Result<Ran<'_>, EngineError> {
        let executable = match self.buckets.get_mut(at) {
            Some(executable) => executable,
            None => self.pooling.as_mut().ok_or(EngineError::NoEmbeddings)?,
        };
        let mut profiler = self.profiler.as_deref_mut().filter(|_| self.profiling);
        if let Some(profiler) = &mut profiler {
            profiler.lap(Phase::Prepare);
            profiler.enter(at, executable.as_mut(), inputs);
        }
        let ticket = executable.submit(inputs)?;
        if let Some(profiler) = &mut profiler {
            profiler.lap(Phase::Submit);
        }
        executable.wait(ticket, &mut self.outputs)?;
        if let Some(profiler) = &mut profiler {
            profiler.lap(Phase::Wait);
            profiler.leave(executable.as_ref(), inputs);
        }
        Ok((&self.outputs, profiler))
    }

    /// Begins to measure steps, or goes on, or pauses.
    pub fn set_profiling(&mut self, on: bool) {
        self.profiling = on;
        if on {
            let n_plans = self.executables().count();
            self.profiler.get_or_insert_with(|| Box::new(Profiler::new(n_plans)));
        } else {
            let executables = self.buckets.iter_mut().chain(&mut self.pooling);
            executables.for_each(|executable| executable.set_profiling(Profiling::Off));
        }
    }

    /// Measures the host's part of steps, while profiling is on.
    pub fn profiler(&mut self) -> Option<&mut Profiler> {
        self.profiler.as_deref_mut().filter(|_| self.profiling)
    }

    /// What was measured of each plan that ran since this was last asked for; stops profiling.
    pub fn take_profile(&mut self) -> Vec<PlanProfile> {
        self.set_profiling(false);
        let profiler = self.profiler.take();
        let plans = self.executables().map(|executable| executable.plan());
        profiler.map(|profiler| profiler.report(plans)).unwrap_or_default()
    }

    fn executables(&self) -> impl Iterator<Item = &Box<dyn Executable>> {
        self.buckets.iter().chain(&self.pooling)
    }

    /// The plan with the largest bound.
    pub fn largest_plan(&self) -> &Plan {
        self.buckets[self.buckets.len() - 1].plan()
    }
}

/// What one of a runner's plans is for, and the most tokens of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bucket {
    /// Gives logits and what is tapped.
    Logits(u32),
    /// Gives the hidden states after the final norm, of any rows.
    Hidden(u32),
}

/// Plans of a runner: by rising bounds one token per sequence, and the chunk if it is larger; then
/// that of hidden states, if it is wanted.
pub(crate) fn buckets(shape: CacheShape) -> impl Iterator<Item = Bucket> {
    let chunk = Some(shape.max_tokens).filter(|chunk| *chunk > shape.max_seqs);
    let hidden = shape.embeddings.then_some(Bucket::Hidden(shape.max_tokens));
    std::iter::once(shape.max_seqs).chain(chunk).map(Bucket::Logits).chain(hidden)
}

/// The plan of one bucket, made ready for `device`.
pub(crate) fn prepare(
    model: &Model,
    device: &dyn Device,
    shape: CacheShape,
    bucket: Bucket,
    wanted: &Wanted,
) -> Result<Plan, EngineError> {
    let plan = |max_tokens, max_out_rows| {
        let options = shape.plan_options(max_tokens, max_out_rows);
        match (wanted.block, bucket) {
            (Block::Trunk, Bucket::Logits(_)) if wanted.hidden => {
                Ok(model.graph().plan_with_hidden(&options)?)
            }
            (block, _) => block.plan(model, &options),
        }
    };
    let plan = match bucket {
        Bucket::Logits(max_tokens) => {
            let n_rows = wanted.out_rows.unwrap_or(shape.n_out_rows).min(max_tokens);
            let mut plan = plan(max_tokens, n_rows)?;
            plan.add_outputs(&wanted.taps)?;
            if wanted.largest { with_largest(plan)? } else { plan }
        }
        Bucket::Hidden(max_tokens) => {
            let mut plan = plan(max_tokens, max_tokens)?;
            plan.only_outputs(&[HIDDEN_TENSOR.to_owned()])?;
            plan
        }
    };
    Ok(passes::prepare(plan, device.caps())?)
}

/// The plan with ids and values of the largest logits of each row as its second and third outputs.
fn with_largest(plan: Plan) -> Result<Plan, EngineError> {
    let mut outputs = plan.outputs.clone();
    let logits = outputs[0];
    let k = sampler::N_LARGEST.min(plan.tensor(logits).shape.cols);
    let mut builder = Builder::reopen(plan);
    let largest = builder.top_k("largest", TopK { k }, logits)?;
    outputs.splice(1..1, largest);
    Ok(builder.finish(outputs))
}
