//! The case table of the operations: `testdata/ops/<op>.toml` turned into tiny plans.
//!
//! A case feeds an operation with arbitrary f32 rows by embedding them: its operands are tables, and
//! the token ids pick their rows. Caches are filled by earlier steps of the same plan. A case of a
//! fused operation is the unfused pattern; the passes fuse it where the device can.

mod layout;
mod tables;

use bytes::Bytes;
use serde::Deserialize;
use zinc_backend::{Caps, WeightSource};
use zinc_plan::{Builder, Limits, OpKind, Plan, PlanError, TensorId};
use zinc_quant::GgmlType;

pub use layout::{Layout, Row};

use crate::TestError;
use crate::random::Rng;

type Build = Box<dyn Fn(&mut Builder) -> Result<Vec<TensorId>, PlanError>>;

/// One case: a plan of one operation or pattern, its data and its steps.
pub struct Case {
    /// The operation under test.
    pub op: OpKind,
    /// Name in the table.
    pub name: String,
    /// Type of the weights or of the cache, where the case is repeated for several.
    pub dtype: Option<GgmlType>,
    /// Largest NMSE against the reference.
    pub nmse_max: f64,
    /// Weights that the plan names.
    pub weights: Vec<WeightSource>,
    /// Rows of the steps.
    pub layout: Layout,
    build: Build,
}

impl Case {
    /// The plan for `limits`, before the passes.
    ///
    /// # Errors
    /// Operands that do not fit: a mistake in the table.
    pub fn plan(&self, limits: Limits) -> Result<Plan, PlanError> {
        let mut builder = Builder::new(format!("{}/{}", self.op.name(), self.name), limits);
        let outputs = (self.build)(&mut builder)?;
        Ok(builder.finish(outputs))
    }

    /// `matmul/one_row/q4_k`.
    pub fn label(&self) -> String {
        let op = self.op.name();
        match self.dtype {
            Some(dtype) => format!("{op}/{}/{dtype}", self.name),
            None => format!("{op}/{}", self.name),
        }
    }
}

/// Every case of every table, for a device with `caps`: the weight types of the reference (all that
/// exist), and tolerances by the type that the device converts activations to.
///
/// # Errors
/// A table that is missing or malformed.
pub fn all(caps: &Caps) -> Result<Vec<Case>, TestError> {
    tables::read_all(caps)
}

/// What the numbers of an operand look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pattern {
    /// Normal, standard deviation 1.
    #[default]
    Normal,
    /// Integers of -127 to 127 with a 127 in every 32: converting them to 8 bits loses nothing, so
    /// that integer kernels must agree with f32 ones to rounding.
    Int8,
    /// Normal where the device multiplies in f32, [`Pattern::Int8`] where it converts activations to
    /// 8 bits: a few outputs are no sample for a limit on the error of the conversion.
    Exact,
    /// Normal times 1000.
    Large,
    /// Normal times 0.001.
    Small,
    /// Every other row is all zeros.
    ZeroRows,
    /// One element in 256 is ten times as large.
    Outliers,
    /// Multiples of a half, and so equals in every row, 0 and -0 among them.
    Halves,
    /// Normal, with an infinity of either sign and a NaN in every other row.
    Poisoned,
}

/// Collects the data of a case.
pub(crate) struct Feed {
    pub rng: Rng,
    pub weights: Vec<WeightSource>,
}

impl Feed {
    pub(crate) fn new(seed: u64, label: &str) -> Self {
        Self { rng: Rng::new(seed, label), weights: Vec::new() }
    }

    /// A table of f32 rows.
    pub(crate) fn floats(&mut self, name: &str, rows: u32, cols: u32, pattern: Pattern) {
        let mut values = self.rng.normals((rows * cols) as usize);
        for (idx, value) in values.iter_mut().enumerate() {
            match pattern {
                Pattern::Normal | Pattern::Exact => (),
                Pattern::Int8 if idx % 32 == 5 => *value = 127.0_f32.copysign(*value),
                Pattern::Int8 => *value = (*value * 40.0).round().clamp(-127.0, 127.0),
                Pattern::Large => *value *= 1e3,
                Pattern::Small => *value *= 1e-3,
                Pattern::ZeroRows if (idx / cols as usize).is_multiple_of(2) => *value = 0.0,
                Pattern::ZeroRows => (),
                Pattern::Outliers if idx % 256 == 77 => *value *= 10.0,
                Pattern::Outliers => (),
                Pattern::Halves => *value = (*value * 2.0).trunc() / 2.0,
                Pattern::Poisoned => {
                    let (row, col, cols) =
                        (idx / cols as usize, idx % cols as usize, cols as usize);
                    *value = match col {
                        _ if row % 2 == 0 => *value,
                        3 => f32::NEG_INFINITY,
                        col if col == cols / 2 => f32::NAN,
                        col if col + 1 == cols => f32::INFINITY,
                        _ => *value,
                    };
                }
            }
        }
        self.values(name, rows, cols, &values);
    }

    /// A table of these f32 values.
    pub(crate) fn values(&mut self, name: &str, rows: u32, cols: u32, values: &[f32]) {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.push(name, GgmlType::F32, rows, cols, data);
    }

    /// A matrix of random blocks.
    pub(crate) fn blocks(&mut self, name: &str, dtype: GgmlType, rows: u32, cols: u32) {
        let data = self.rng.blocks(dtype, (rows * cols) as usize);
        self.push(name, dtype, rows, cols, data);
    }

    fn push(&mut self, name: &str, dtype: GgmlType, rows: u32, cols: u32, data: Vec<u8>) {
        self.weights.push(WeightSource {
            name: name.into(),
            dtype,
            rows: u64::from(rows),
            cols: u64::from(cols),
            data: Bytes::from(data),
        });
    }
}

/// Columns before and after an operand that is a view: odd, so that nothing is aligned by luck.
const VIEW_LEAD: u32 = 3;
const VIEW_TAIL: u32 = 2;

/// An operand of f32 rows: a whole value, or columns of a wider one.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub name: &'static str,
    pub rows: u32,
    pub cols: u32,
    pub view: bool,
    pub pattern: Pattern,
}

impl Operand {
    fn table_cols(&self) -> u32 {
        match self.view {
            true => VIEW_LEAD + self.cols + VIEW_TAIL,
            false => self.cols,
        }
    }

    /// Draws the data.
    pub(crate) fn fill(&self, feed: &mut Feed) {
        feed.floats(self.name, self.rows, self.table_cols(), self.pattern);
    }

    /// Adds the operand to a plan.
    pub(crate) fn build(&self, b: &mut Builder) -> Result<TensorId, PlanError> {
        let table = b.weight(self.name, GgmlType::F32, self.rows, self.table_cols())?;
        let value = b.embed(&format!("{}.rows", self.name), table, 1.0)?;
        match self.view {
            true => b.view(&format!("{}.view", self.name), value, VIEW_LEAD, self.cols),
            false => Ok(value),
        }
    }
}
