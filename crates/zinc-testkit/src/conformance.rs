//! Runs the case table on a device and compares with the reference.
//!
//! For each case: the result is within the table's NMSE of the reference; it is the same bit for bit
//! when the rows are cut into steps of 1 and 3, and when the plan allows larger steps than are run
//! (a row's result depends on its own operands only); and a fused operation is really fused and
//! gives the same bits as its parts. A device whose order of summation depends on the number of rows
//! ([`Caps::batch_invariant`] is `false`) is held to the NMSE instead of the bits when steps are cut.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zinc_backend::{ActivationType, Bindings, Caps, Device, StepInputs, StepOutputs};
use zinc_plan::{OpKind, Plan, passes};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;

use crate::TestError;
use crate::breakage::Breakage;
use crate::cases::{self, Case};
use crate::compare::{nmse, same_bits};

/// What became of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// All checks hold; the NMSE against the reference.
    Passed(f64),
    /// The device says that it lacks an operation or a type.
    Unsupported(String),
    /// A check does not hold.
    Failed(String),
}

/// A case and its verdict.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// Operation under test.
    pub op: OpKind,
    /// `matmul/one_row/q4_k`.
    pub label: String,
    /// Weight or cache type.
    pub dtype: Option<GgmlType>,
    /// What became of it.
    pub verdict: Verdict,
}

/// All cases of one device.
#[derive(Clone, Debug)]
pub struct Report {
    /// Device name.
    pub device: String,
    /// In the order of the table.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// The failures, one line each.
    pub fn failures(&self) -> Vec<String> {
        let lines = self.cases.iter().filter_map(|case| match &case.verdict {
            Verdict::Failed(reason) => Some(format!("{}: {reason}", case.label)),
            _ => None,
        });
        lines.collect()
    }

    /// Cases that passed.
    pub fn n_passed(&self) -> usize {
        let passed = |case: &&CaseReport| matches!(case.verdict, Verdict::Passed(_));
        self.cases.iter().filter(passed).count()
    }

    /// Prints the report and checks that nothing failed, and that each operation was tried unless
    /// `missing` names it.
    ///
    /// # Panics
    /// Otherwise.
    pub fn assert_passed(&self, missing: &[OpKind]) {
        eprint!("{self}");
        let failures = self.failures();
        assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
        for op in OpKind::ALL {
            let tried =
                |case: &CaseReport| case.op == op && matches!(case.verdict, Verdict::Passed(_));
            let found = self.cases.iter().any(tried);
            assert_eq!(found, !missing.contains(&op), "{}: tried", op.name());
        }
    }
}

/// One line for each operation, then each reason for which cases were not tried.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in OpKind::ALL {
            let of_op = || self.cases.iter().filter(|case| case.op == op);
            let errors = of_op().filter_map(|case| match case.verdict {
                Verdict::Passed(nmse) => Some(nmse),
                _ => None,
            });
            let (n_passed, worst) = errors.fold((0, 0.0_f64), |(n, max), e| (n + 1, max.max(e)));
            let (name, n_cases) = (op.name(), of_op().count());
            writeln!(
                f,
                "{}: {name}: {n_passed} of {n_cases} passed, nmse <= {worst:.1e}",
                self.device
            )?;
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for case in &self.cases {
            if let Verdict::Unsupported(reason) = &case.verdict {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        for (reason, n) in reasons {
            writeln!(f, "{}: {n} cases not supported: {reason}", self.device)?;
        }
        Ok(())
    }
}

/// Runs every case of the table.
///
/// # Panics
/// If the table cannot be read.
pub fn check_device(device: &dyn Device) -> Report {
    let cases = cases::all(device.caps()).expect("the case table is readable");
    let check = |case: &Case| CaseReport {
        op: case.op,
        label: case.label(),
        dtype: case.dtype,
        verdict: check_case(case, device),
    };
    Report { device: device.info().name.clone(), cases: cases.iter().map(check).collect() }
}

/// Runs one case with all its checks.
pub fn check_case(case: &Case, device: &dyn Device) -> Verdict {
    match try_case(case, device) {
        Ok(nmse) => Verdict::Passed(nmse),
        Err(error) if error.is_unsupported() => Verdict::Unsupported(unsupported_reason(&error)),
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

/// Without the label of the node, so that equal reasons are counted together.
fn unsupported_reason(error: &TestError) -> String {
    match error {
        TestError::Plan(zinc_plan::PlanError::Unsupported { op, reason, .. }) => {
            format!("{op}: {reason}")
        }
        other => other.to_string(),
    }
}

fn try_case(case: &Case, device: &dyn Device) -> Result<f64, TestError> {
    let mismatch = TestError::Mismatch;
    let caps = device.caps();
    if case.op.is_fused() && !caps.fused.contains(&case.op) {
        let reason = "not fused, runs as its parts".into();
        return Err(TestError::Plan(zinc_plan::PlanError::Unsupported {
            device: caps.device.clone(),
            op: case.op.name(),
            label: case.name.clone(),
            reason,
        }));
    }
    let whole = case.layout.steps.iter().map(Vec::len).max().unwrap_or(1);
    let run = |chunk, bound, caps: &Caps| {
        let plan = passes::prepare(case.plan(case.layout.limits(bound))?, caps)?;
        check_kinds(case, &plan, caps)?;
        run_plan(case, plan, device, chunk)
    };
    let found = run(whole, whole, caps)?;

    let expected = run_on_reference(case)?;
    let worst = largest_error(case, &found, &expected)?;
    let same = |what: &str, other: &[Vec<f32>]| {
        // Long sums may be cut in as many parts as make good use of the device.
        if caps.f16_products {
            return largest_error(case, other, &expected).map(|_| ());
        }
        for (idx, (other, found)) in other.iter().zip(&found).enumerate() {
            if let Err(at) = same_bits(other, found) {
                return Err(mismatch(format!("{what} changes output {idx} at element {at}")));
            }
        }
        Ok(())
    };
    for chunk in [1, 3] {
        if chunk < whole {
            let cut = run(chunk, chunk, caps)?;
            if caps.batch_invariant {
                same(&format!("steps of {chunk}"), &cut)?;
            } else {
                largest_error(case, &cut, &expected)?;
            }
        }
    }
    same("a larger bound", &run(whole, 2 * whole + 5, caps)?)?;
    if case.op.is_fused() {
        let mut parts = caps.clone();
        parts.fused.clear();
        same("running the parts", &run(whole, whole, &parts)?)?;
    }
    Ok(worst)
}

/// The largest NMSE of the outputs, all within the case's limit.
fn largest_error(case: &Case, found: &[Vec<f32>], expected: &[Vec<f32>]) -> Result<f64, TestError> {
    let mut worst = 0.0_f64;
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = nmse(found, expected);
        if error.is_nan() || error > case.nmse_max {
            let limit = case.nmse_max;
            let reason = format!("output {idx}: nmse {error:.2e} is above {limit:.0e}");
            return Err(TestError::Mismatch(reason));
        }
        worst = worst.max(error);
    }
    Ok(worst)
}

/// What the reference gives for a case: all outputs, the rows of the steps one after the other.
///
/// # Errors
/// Those of the plan and the device: mistakes in the table.
pub fn run_on_reference(case: &Case) -> Result<Vec<Vec<f32>>, TestError> {
    run_broken(case, &Breakage::plan("nothing", |_| ()))
}

/// As [`run_on_reference`], computed wrongly.
///
/// # Errors
/// As there.
pub fn run_broken(case: &Case, breakage: &Breakage) -> Result<Vec<Vec<f32>>, TestError> {
    let reference = ReferenceDevice::new();
    let whole = case.layout.steps.iter().map(Vec::len).max().unwrap_or(1);
    let mut plan = case.plan(case.layout.limits(whole))?;
    (breakage.plan)(&mut plan);
    let plan = passes::prepare(plan, reference.caps())?;
    let inputs = case.layout.inputs(whole).into_iter().map(|mut inputs| {
        (breakage.inputs)(&mut inputs);
        inputs
    });
    run_steps(case, plan, &reference, inputs)
}

/// All outputs of a case for its prepared plan; steps hold at most `chunk` rows.
///
/// # Errors
/// Those of the device.
pub fn run_plan(
    case: &Case,
    plan: Plan,
    device: &dyn Device,
    chunk: usize,
) -> Result<Vec<Vec<f32>>, TestError> {
    run_steps(case, plan, device, case.layout.inputs(chunk))
}

fn run_steps(
    case: &Case,
    plan: Plan,
    device: &dyn Device,
    steps: impl IntoIterator<Item = StepInputs>,
) -> Result<Vec<Vec<f32>>, TestError> {
    let weights = device.bind_weights(case.weights.clone(), &mut |_, _| ())?;
    let states = device.alloc_states(&plan)?;
    let bind = Bindings { weights: &weights, states: &states };
    let n_outputs = plan.outputs.len();
    let mut exec = device.compile(Arc::new(plan), &bind)?;
    let mut outputs = vec![Vec::new(); n_outputs];
    let mut step_outputs = StepOutputs::default();
    for inputs in steps {
        let ticket = exec.submit(&inputs)?;
        exec.wait(ticket, &mut step_outputs)?;
        for (all, step) in outputs.iter_mut().zip(&step_outputs.values) {
            all.extend(step);
        }
    }
    Ok(outputs)
}

/// The operation under test must be in the prepared plan, or the case tests something else.
fn check_kinds(case: &Case, plan: &Plan, caps: &Caps) -> Result<(), TestError> {
    let converts = |(_, activation): &_| matches!(activation, ActivationType::Quantized(_));
    if case.op == OpKind::QuantizeAct && !caps.matmul.iter().any(converts) {
        return Ok(());
    }
    let expected = !case.op.is_fused() || caps.fused.contains(&case.op);
    let found = plan.nodes.iter().any(|node| node.op.kind() == case.op);
    if found == expected {
        return Ok(());
    }
    let name = case.op.name();
    let found = if found { "is" } else { "is not" };
    Err(TestError::Mismatch(format!("{name} {found} in the prepared plan")))
}
