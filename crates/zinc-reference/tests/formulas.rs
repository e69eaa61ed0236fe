//! The reference against formulas written here once more, in f64 and for one element at a time, over
//! every f32 case of the operation table. Other devices are measured against the reference, so this
//! is what it is measured against itself.

use zinc_plan::{Attention, Op, Plan, RopeMode};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::cases::{self, Case, Row};
use zinc_testkit::compare::nmse;
use zinc_testkit::conformance::run_on_reference;

/// A case with its data as f64.
struct Data<'a> {
    case: &'a Case,
    plan: &'a Plan,
}

impl Data<'_> {
    /// Element `col` of row `row` of the f32 table `name`.
    fn table(&self, name: &str, row: usize, col: usize) -> f64 {
        let weights = &self.case.weights;
        let weight = weights.iter().find(|w| w.name == name).expect("a table of the case");
        assert_eq!(weight.dtype, GgmlType::F32);
        let start = 4 * (row * weight.cols as usize + col);
        let bytes = weight.data[start..start + 4].try_into().expect("four bytes");
        f64::from(f32::from_le_bytes(bytes))
    }

    /// Element `col` of the operand `name` for a token: an embedded row, from the column where the
    /// view begins if it is one.
    fn operand(&self, name: &str, row: &Row, col: usize) -> f64 {
        let view = self.plan.find(&format!("{name}.view"));
        let lead = view.map_or(0, |id| match self.plan.tensor(id).kind {
            zinc_plan::TensorKind::View { col, .. } => col as usize,
            _ => 0,
        });
        self.table(name, row.token as usize, lead + col)
    }

    /// All rows of the case in the order they are run.
    fn rows(&self) -> Vec<Row> {
        self.case.layout.steps.concat()
    }

    /// The f32 table of the rotation.
    fn frequency(&self, variant: usize, idx: usize, n_dims: usize) -> f64 {
        f64::from(self.plan.consts[0].data[variant * (n_dims / 2 + 1) + idx])
    }
}

/// The first output of the case for one row.
fn formula(data: &Data<'_>, op: &Op, row: &Row) -> Option<Vec<f64>> {
    let n_cols = data.plan.tensor(data.plan.outputs[0]).shape.cols as usize;
    let cols = 0..n_cols;
    let y = match op {
        Op::Add => cols.map(|c| data.operand("a", row, c) + data.operand("b", row, c)).collect(),
        Op::GatedAct(_) => cols
            .map(|c| {
                let gate = data.operand("gate", row, c);
                gate / (1.0 + (-gate).exp()) * data.operand("up", row, c)
            })
            .collect(),
        Op::RmsNorm(norm) => {
            let group = norm.group as usize;
            let mean_square = |start: usize| {
                let squares = (start..start + group).map(|c| data.operand("x", row, c).powi(2));
                squares.sum::<f64>() / group as f64
            };
            cols.map(|c| {
                let root = (mean_square(c / group * group) + f64::from(norm.eps)).sqrt();
                data.operand("x", row, c) / root * data.table("w", 0, c % group)
            })
            .collect()
        }
        Op::MatMul(matmul) => {
            let n_in = data.plan.tensor(data.plan.find("y.w")?).shape.cols as usize;
            cols.map(|out| {
                let products =
                    (0..n_in).map(|c| data.table("y.w", out, c) * data.operand("x", row, c));
                let bias = if matmul.bias { data.table("y.b", 0, out) } else { 0.0 };
                products.sum::<f64>() + bias
            })
            .collect()
        }
        Op::Rope(rope) => rotated(data, rope, row, n_cols),
        Op::Attention(attention) => attended(data, attention, row),
        _ => return None,
    };
    Some(y)
}

/// Each pair is a complex number times `magnitude * exp(i * position * frequency)`.
fn rotated(data: &Data<'_>, rope: &zinc_plan::Rope, row: &Row, n_cols: usize) -> Vec<f64> {
    let (head_dim, n_dims) = (rope.head_dim as usize, rope.n_dims as usize);
    let element = |col: usize| {
        let (head, within) = (col / head_dim * head_dim, col % head_dim);
        if within >= n_dims {
            return data.operand("x", row, col);
        }
        let (pair, is_imaginary) = match rope.mode {
            RopeMode::Norm => (within / 2, within % 2 == 1),
            RopeMode::Neox => (within % (n_dims / 2), within >= n_dims / 2),
        };
        let (real, imaginary) = match rope.mode {
            RopeMode::Norm => (head + 2 * pair, head + 2 * pair + 1),
            RopeMode::Neox => (head + pair, head + pair + n_dims / 2),
        };
        let (a, b) = (data.operand("x", row, real), data.operand("x", row, imaginary));
        let frequency = data.frequency(row.variant as usize, pair, n_dims);
        // The angle is defined as an f32 product.
        let angle = f64::from(row.position as f32 * frequency as f32);
        let magnitude = data.frequency(row.variant as usize, n_dims / 2, n_dims);
        magnitude
            * match is_imaginary {
                false => a * angle.cos() - b * angle.sin(),
                true => a * angle.sin() + b * angle.cos(),
            }
    };
    (0..n_cols).map(element).collect()
}

/// Softmax over the earlier rows of the same sequence, found by their positions: no cache, no pages.
fn attended(data: &Data<'_>, attention: &Attention, row: &Row) -> Vec<f64> {
    let (k_dim, v_dim) = (attention.k_dim as usize, attention.v_dim as usize);
    let first = attention.window.map_or(0, |window| row.position + 1 - window as i32);
    let keys: Vec<Row> = data
        .rows()
        .into_iter()
        .filter(|key| key.seq == row.seq && (first..=row.position).contains(&key.position))
        .collect();
    let shared = (attention.n_heads / attention.n_kv_heads) as usize;
    let mut y = Vec::new();
    for head in 0..attention.n_heads as usize {
        let score = |key: &Row| {
            let products = (0..k_dim).map(|c| {
                data.operand("q", row, head * k_dim + c)
                    * data.operand("k", key, head / shared * k_dim + c)
            });
            products.sum::<f64>() * f64::from(attention.scale)
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = exps.iter().sum();
        y.extend((0..v_dim).map(|c| {
            let values = keys.iter().map(|key| data.operand("v", key, head / shared * v_dim + c));
            exps.iter().zip(values).map(|(exp, value)| exp * value).sum::<f64>() / total
        }));
    }
    y
}

#[test]
fn every_f32_case_agrees_with_its_formula() {
    let caps = zinc_backend::Device::caps(&ReferenceDevice::new()).clone();
    let cases = cases::all(&caps).expect("the case table is readable");
    let mut n_checked = 0;
    for case in &cases {
        // Long contexts add nothing to the formula, and this search for keys is quadratic.
        let is_plain = case.dtype.is_none_or(|dtype| dtype == GgmlType::F32);
        if !is_plain || case.layout.n_rows() > 200 {
            continue;
        }
        let plan = case.plan(case.layout.limits(case.layout.n_rows())).expect("a valid case");
        let data = Data { case, plan: &plan };
        let op = plan.nodes.iter().map(|node| node.op).find(|op| op.kind() == case.op);
        let Some(op) = op else { continue };
        let rows = data.rows();
        let expected: Option<Vec<Vec<f64>>> =
            rows.iter().map(|row| formula(&data, &op, row)).collect();
        let Some(expected) = expected else { continue };
        let expected: Vec<f32> = expected.concat().iter().map(|value| *value as f32).collect();
        let found = run_on_reference(case).expect("the reference runs the case");
        let error = nmse(&found[0], &expected);
        assert!(error < 1e-13, "{}: nmse {error:e}", case.label());
        n_checked += 1;
    }
    assert!(n_checked >= 60, "only {n_checked} cases have a formula");
}
