//! Runs a whole model on a device, straight through its plan: the shortest path from a file to
//! logits, with every intermediate tensor at hand. The engine has its own loop.

use std::path::Path;
use std::sync::Arc;

use zinc_backend::{
    Bindings, Device, Executable, States, StepInputs, StepOutputs, WeightSource, Weights,
};
use zinc_gguf::Gguf;
use zinc_models::{Model, PlanOptions};
use zinc_plan::{Limits, Op, Plan, passes};
use zinc_quant::GgmlType;

use crate::TestError;
use crate::breakage::Breakage;
use crate::compare::argmax;

/// Rows of a cache page: small, so that short prompts use several.
const PAGE_SIZE: u32 = 16;

/// A model on a device.
pub struct ModelRunner {
    model: Model,
    device: Arc<dyn Device>,
    weights: Weights,
    kv_type: GgmlType,
    breakage: Option<Breakage>,
}

/// What a pass over a prompt gave.
pub struct Pass {
    /// Logits of every position, row after row.
    pub logits: Vec<f32>,
    /// Residual stream of every position, in the order and under the names of the golden files:
    /// `embed`, `0`, `1`, …, `final_norm`.
    pub hidden: Vec<(String, Vec<f32>)>,
}

impl ModelRunner {
    /// Opens the file and binds its weights to the device.
    ///
    /// # Errors
    /// Those of the file, the model and the device.
    pub fn open(
        gguf: &Path,
        device: Arc<dyn Device>,
        kv_type: GgmlType,
    ) -> Result<Self, TestError> {
        let gguf = Gguf::open(gguf)?;
        let model = Model::from_gguf(&gguf)?;
        let sources = gguf.tensors().iter().map(|tensor| WeightSource {
            name: tensor.name.clone(),
            dtype: tensor.ty,
            rows: tensor.dims[1..].iter().product(),
            cols: tensor.dims[0],
            data: gguf.data(tensor),
        });
        let weights = device.bind_weights(sources.collect(), &mut |_, _| ())?;
        Ok(Self { model, device, weights, kv_type, breakage: None })
    }

    /// The same model, computed wrongly.
    pub fn broken(mut self, breakage: Breakage) -> Self {
        self.breakage = Some(breakage);
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The device it runs on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Whether the device converts activations to 8 bits for some product of this model.
    ///
    /// # Errors
    /// Those of the plan.
    pub fn converts_activations(&self) -> Result<bool, TestError> {
        let plan = self.plan(self.limits(1, 1), &[])?;
        Ok(plan.nodes.iter().any(|node| node.op == Op::QuantizeAct))
    }

    /// One pass over `tokens`, at most `chunk` of them in a step.
    ///
    /// # Errors
    /// Those of the plan and the device.
    pub fn prefill(&self, tokens: &[i32], chunk: usize) -> Result<Pass, TestError> {
        let mut sequence = Sequence::new(self, tokens.len(), chunk)?;
        let taps = self.model.hidden_tensors();
        let mut exec = sequence.compile(chunk, &taps)?;
        let variant = self.model.rope_variant(tokens.len() as u32);
        let mut values = vec![Vec::new(); taps.len() + 1];
        for part in tokens.chunks(chunk) {
            let outputs = sequence.step(exec.as_mut(), part, variant)?;
            for (all, step) in values.iter_mut().zip(outputs.values) {
                all.extend(step);
            }
        }
        let mut values = values.into_iter();
        let logits = values.next().unwrap_or_default();
        let last = taps.len() - 1;
        let name = |idx| match idx {
            0 => "embed".to_owned(),
            idx if idx == last => "final_norm".to_owned(),
            idx => (idx - 1).to_string(),
        };
        let hidden = values.enumerate().map(|(idx, values)| (name(idx), values)).collect();
        Ok(Pass { logits, hidden })
    }

    /// The `n` most likely tokens after `tokens`, one at a time.
    ///
    /// # Errors
    /// Those of the plan and the device.
    pub fn greedy(&self, tokens: &[i32], n: usize, chunk: usize) -> Result<Vec<i32>, TestError> {
        let mut sequence = Sequence::new(self, tokens.len() + n, chunk)?;
        let mut prefill = sequence.compile(chunk, &[])?;
        let mut decode = sequence.compile(1, &[])?;
        let n_vocab = self.model.config().n_vocab as usize;
        let mut last = Vec::new();
        let variant = self.model.rope_variant(tokens.len() as u32);
        for part in tokens.chunks(chunk) {
            let mut outputs = sequence.step(prefill.as_mut(), part, variant)?;
            last = outputs.values[0].split_off((part.len() - 1) * n_vocab);
        }
        let mut found = Vec::with_capacity(n);
        loop {
            found.push(argmax(&last) as i32);
            if found.len() == n {
                return Ok(found);
            }
            let variant = self.model.rope_variant((tokens.len() + found.len()) as u32);
            let mut outputs = sequence.step(decode.as_mut(), &found[found.len() - 1..], variant)?;
            last = std::mem::take(&mut outputs.values[0]);
        }
    }

    /// Limits of a decode step in a cache for `max_len` tokens that larger steps of `chunk` tokens
    /// share, with two pages of nobody.
    fn limits(&self, max_len: usize, chunk: usize) -> Limits {
        let pages_per_seq = (max_len as u32).div_ceil(PAGE_SIZE);
        let window = self.model.config().longest_window().unwrap_or(1);
        // Just large enough, so that it comes round as often as it can.
        let ring = Limits::ring_pages(PAGE_SIZE, window, chunk.min(max_len) as u32);
        Limits {
            max_tokens: 1,
            max_seqs: 1,
            max_out_rows: 1,
            page_size: PAGE_SIZE,
            pages_per_seq,
            n_pages: pages_per_seq + 2,
            window_pages_per_seq: ring,
            n_window_pages: ring + 2,
            n_state_slots: 3,
        }
    }

    /// The model's plan for steps of `chunk` tokens, prepared for the device.
    fn plan(&self, limits: Limits, taps: &[String]) -> Result<Plan, TestError> {
        let options = PlanOptions { limits, kv_type: self.kv_type };
        let mut plan = self.model.plan(&options)?;
        plan.add_outputs(taps)?;
        if let Some(breakage) = &self.breakage {
            (breakage.plan)(&mut plan);
        }
        Ok(passes::prepare(plan, self.device.caps())?)
    }
}

/// One sequence with its cache.
struct Sequence<'a> {
    runner: &'a ModelRunner,
    states: States,
    limits: Limits,
    pages: Vec<i32>,
    window_pages: Vec<i32>,
    n_past: usize,
}

impl<'a> Sequence<'a> {
    /// A sequence of up to `max_len` tokens, computed in steps of up to `chunk`.
    fn new(runner: &'a ModelRunner, max_len: usize, chunk: usize) -> Result<Self, TestError> {
        let limits = runner.limits(max_len, chunk);
        // Pages in falling order and not from the cache's end: an engine that ignores the table
        // gets nothing right by luck.
        let falling = |n: u32| (0..n as i32).rev().map(|page| page + 1).collect();
        let pages = falling(limits.pages_per_seq);
        let window_pages = falling(limits.window_pages_per_seq);
        let states = runner.device.alloc_states(&runner.plan(limits, &[])?)?;
        Ok(Self { runner, states, limits, pages, window_pages, n_past: 0 })
    }

    fn compile(&self, chunk: usize, taps: &[String]) -> Result<Box<dyn Executable>, TestError> {
        let chunk = chunk as u32;
        let limits = Limits { max_tokens: chunk, max_out_rows: chunk, ..self.limits };
        let plan = self.runner.plan(limits, taps)?;
        let bind = Bindings { weights: &self.runner.weights, states: &self.states };
        Ok(self.runner.device.compile(Arc::new(plan), &bind)?)
    }

    /// One step over the sequence's next tokens.
    fn step(
        &mut self,
        exec: &mut dyn Executable,
        tokens: &[i32],
        variant: i32,
    ) -> Result<StepOutputs, TestError> {
        let page_size = PAGE_SIZE as usize;
        let positions = self.n_past..self.n_past + tokens.len();
        let slots = |pages: &[i32]| -> Vec<i32> {
            let page = |p: usize| pages[p / page_size % pages.len()];
            let rows = positions.clone();
            rows.map(|p| page(p) * PAGE_SIZE as i32 + (p % page_size) as i32).collect()
        };
        let mut inputs = StepInputs {
            token_ids: tokens.to_vec(),
            positions: positions.clone().map(|p| p as i32).collect(),
            seq_of: vec![0; tokens.len()],
            slots: slots(&self.pages),
            pages: self.pages.clone(),
            window_slots: slots(&self.window_pages),
            window_pages: self.window_pages.clone(),
            out_rows: (0..tokens.len() as i32).collect(),
            rope_variant: vec![variant; tokens.len()],
            state_from: vec![1],
            state_slots: vec![1],
            state_saves: vec![-1; tokens.len()],
            ..StepInputs::default()
        };
        self.n_past += tokens.len();
        if let Some(breakage) = &self.runner.breakage {
            (breakage.inputs)(&mut inputs);
        }
        let ticket = exec.submit(&inputs)?;
        let mut outputs = StepOutputs::default();
        exec.wait(ticket, &mut outputs)?;
        Ok(outputs)
    }
}
