//! How strongly a text drives each column of each weight matrix: sums of the squares of what the
//! matrices are multiplied with. Quantisers weigh their errors by it (an importance matrix).
//!
//! Which products there are, and what they read, is in the model's plan before any pass: every
//! operation that has a weight and an activation operand. The activations are taps of the plan like
//! any other, so they are values in f32, from before a device quantises them for its product.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use zinc_gguf::ImatrixEntry;
use zinc_plan::{Dim, Node, Op, Plan, TensorKind};

use crate::evaluate::{Evaluator, StepRows, Taps};
use crate::options::EngineOptions;
use crate::runner::{Block, LoadedModel};
use crate::{EngineError, Model};

/// How a product uses its activations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// A matrix that every row meets; or one for each of a row's heads.
    Dense,
    /// Matrices that a row meets as the expert ids say.
    Experts { n_experts: u32, ids: String },
}

/// What products of one form have in common when they read the same activations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    /// The activations' tensor in the plan.
    tensor: String,
    form: Form,
}

/// Sums over what was seen at one [`Source`].
struct Sums {
    /// Elements of a weight matrix's row; of all heads together where each has a matrix.
    width: usize,
    /// Sums of squares, `width` for each expert, or once.
    squares: Vec<f64>,
    /// Rows seen by each expert, or by all.
    counts: Vec<u64>,
    /// Weights that are multiplied with these activations.
    weights: Vec<String>,
}

/// Adds up activations while texts are computed.
pub struct ActivationSums {
    evaluator: Evaluator,
    /// Tapped tensors in the order of a step's values, the logits first.
    taps: Vec<String>,
    sums: BTreeMap<Source, Sums>,
    with_head: bool,
}

impl ActivationSums {
    /// Compiles the plans with their taps. With `with_head`, the matrix that gives the logits counts
    /// as well; it is multiplied with every row then, which takes its time.
    ///
    /// # Errors
    /// As [`Evaluator::new`].
    pub fn new(
        loaded: Arc<LoadedModel>,
        options: &EngineOptions,
        with_head: bool,
    ) -> Result<ActivationSums, EngineError> {
        let sums = sources(loaded.model(), with_head)?;
        let mut tensors: Vec<String> = Vec::new();
        for source in sums.keys() {
            let ids = match &source.form {
                Form::Dense => None,
                Form::Experts { ids, .. } => Some(ids),
            };
            for name in std::iter::once(&source.tensor).chain(ids) {
                if !tensors.contains(name) {
                    tensors.push(name.clone());
                }
            }
        }
        let taps = std::iter::once("logits".to_owned()).chain(tensors.iter().cloned()).collect();
        let evaluator = Evaluator::new(loaded, options, &Taps { all_logits: with_head, tensors })?;
        Ok(ActivationSums { evaluator, taps, sums, with_head })
    }

    /// Computes `tokens` as a sequence of its own and adds what they drive.
    ///
    /// # Errors
    /// As [`Evaluator::eval`]; an activation that is not finite.
    pub fn add(&mut self, tokens: &[u32]) -> Result<(), EngineError> {
        let ActivationSums { evaluator, taps, sums, with_head } = self;
        evaluator.reset();
        let logits_from = if *with_head { 0 } else { tokens.len() };
        evaluator.eval_steps(tokens, logits_from, |step| add_step(sums, taps, &step))
    }

    /// The sums so far by weight tensor: for each column of its matrix, or of all its matrices where
    /// each head has one, with one count; for experts of each one's matrix, with a count for each.
    pub fn entries(&self) -> BTreeMap<String, ImatrixEntry> {
        let mut entries = BTreeMap::new();
        for sums in self.sums.values() {
            let new = ImatrixEntry {
                sums: sums.squares.iter().map(|sum| *sum as f32).collect(),
                counts: sums.counts.iter().map(|count| *count as f32).collect(),
            };
            for weight in &sums.weights {
                match entries.entry(weight.clone()) {
                    Entry::Vacant(entry) => _ = entry.insert(new.clone()),
                    Entry::Occupied(mut entry) => add(entry.get_mut(), &new),
                }
            }
        }
        entries
    }
}

/// Joins what a matrix that is used in several places was driven with.
fn add(entry: &mut ImatrixEntry, other: &ImatrixEntry) {
    let pairs = entry.sums.iter_mut().zip(&other.sums);
    pairs.chain(entry.counts.iter_mut().zip(&other.counts)).for_each(|(a, b)| *a += b);
}

/// The products of a model by what they read.
fn sources(model: &Model, with_head: bool) -> Result<BTreeMap<Source, Sums>, EngineError> {
    let plan = Block::Trunk.smallest_plan(model)?;
    let mut sources: BTreeMap<Source, Sums> = BTreeMap::new();
    for node in &plan.nodes {
        let Some(operand) = node.op.activation_operand() else { continue };
        let tensor = plan.tensor(node.reads[operand]);
        if tensor.shape.rows == Dim::OutRows && !with_head {
            continue;
        }
        let form = match node.op {
            Op::ExpertMatMul(matmul) => Form::Experts {
                n_experts: matmul.n_experts,
                ids: plan.tensor(node.reads[operand + 1]).name.clone(),
            },
            _ => Form::Dense,
        };
        let source = Source { tensor: tensor.name.clone(), form };
        let sums = sources.entry(source).or_insert_with_key(|source| {
            let (width, n_matrices) = match source.form {
                Form::Dense => (tensor.shape.cols, 1),
                Form::Experts { n_experts, .. } => (weight_cols(&plan, node), n_experts),
            };
            let (width, n_matrices) = (width as usize, n_matrices as usize);
            let squares = vec![0.0; width * n_matrices];
            Sums { width, squares, counts: vec![0; n_matrices], weights: Vec::new() }
        });
        let weights = node.reads[..operand].iter().map(|id| plan.tensor(*id));
        let weights = weights.filter(|weight| weight.kind == TensorKind::Weight);
        sums.weights.extend(weights.map(|weight| weight.name.clone()));
    }
    Ok(sources)
}

fn weight_cols(plan: &Plan, node: &Node) -> u32 {
    plan.tensor(node.reads[0]).shape.cols
}

/// Adds the rows of a step.
fn add_step(
    sums: &mut BTreeMap<Source, Sums>,
    taps: &[String],
    step: &StepRows<'_>,
) -> Result<(), EngineError> {
    let values = |name: &String| {
        let at = taps.iter().position(|tap| tap == name);
        at.and_then(|at| step.values.get(at)).map_or(&[][..], Vec::as_slice)
    };
    for (source, sums) in sums {
        let rows = values(&source.tensor);
        if let Some(value) = rows.iter().find(|value| !value.is_finite()) {
            let (tensor, value) = (source.tensor.clone(), *value);
            return Err(EngineError::Activation { tensor, value });
        }
        match &source.form {
            Form::Dense => sums.add_dense(rows),
            Form::Experts { ids, .. } => sums.add_experts(rows, values(ids), step.tokens.clone()),
        }
    }
    Ok(())
}

impl Sums {
    fn add_dense(&mut self, rows: &[f32]) {
        let rows = rows.chunks_exact(self.width);
        self.counts[0] += rows.len() as u64;
        rows.for_each(|row| add_squares(&mut self.squares, row));
    }

    /// `rows` has for each token one row for all of its experts, or one for each of them.
    fn add_experts(&mut self, rows: &[f32], ids: &[f32], tokens: Range<usize>) {
        let n_slots = ids.len() / tokens.len();
        let n_per_token = rows.len() / self.width / tokens.len();
        let rows = rows.chunks_exact(self.width * n_per_token);
        for (row, ids) in rows.zip(ids.chunks_exact(n_slots)) {
            for (slot, id) in ids.iter().enumerate() {
                // Ids come as f32 like all outputs; a plan's rules keep them below the number of
                // experts.
                let expert = *id as usize;
                let x = &row[slot % n_per_token * self.width..][..self.width];
                self.counts[expert] += 1;
                add_squares(&mut self.squares[expert * self.width..][..self.width], x);
            }
        }
    }
}

fn add_squares(sums: &mut [f64], row: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += f64::from(*x) * f64::from(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(width: usize, n_matrices: usize) -> Sums {
        let squares = vec![0.0; width * n_matrices];
        Sums { width, squares, counts: vec![0; n_matrices], weights: Vec::new() }
    }

    #[test]
    fn dense_rows_add_up() {
        let mut sums = sums(2, 1);
        sums.add_dense(&[1.0, 2.0, 3.0, -4.0]);
        sums.add_dense(&[0.5, 0.0]);
        assert_eq!((sums.squares, sums.counts), (vec![10.25, 20.0], vec![3]));
    }

    #[test]
    fn experts_see_their_tokens_only() {
        // Both slots of a token share its row.
        let mut shared = sums(1, 3);
        shared.add_experts(&[2.0, 3.0], &[0.0, 2.0, 2.0, 0.0], 5..7);
        assert_eq!((shared.squares, shared.counts), (vec![13.0, 0.0, 13.0], vec![2, 0, 2]));
        // Each slot has a row of its own.
        let mut own = sums(2, 2);
        own.add_experts(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0], 0..1);
        assert_eq!((own.squares, own.counts), (vec![9.0, 16.0, 1.0, 4.0], vec![1, 1]));
    }
}
