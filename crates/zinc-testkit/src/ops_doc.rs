//! `docs/ops.md`: which device runs which operation in which types, from the case table and the
//! devices' caps, tried with one case of each kind.

use std::collections::BTreeSet;
use std::fmt::Write;

use zinc_backend::{ActivationType, Device};
use zinc_cpu::{CpuDevice, Isa};
use zinc_plan::OpKind;
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;

use crate::TestError;
use crate::cases::{self, Case};
use crate::conformance::{Verdict, check_case};

const HEADER: &str = "\
# Operations

Which device runs which operation in which types. Generated from `testdata/ops/*.toml` and the devices'
caps, each cell tried with a case; `ZINC_UPDATE=1 cargo test -p zinc-cuda --test ops_doc` writes it
anew. The operations are defined in `crates/zinc-plan/src/op.rs`. Where a device has a part of the types, they
are those of its weights, below. The column of CUDA is that of the kernels compiled for the host.

A fused operation that a device lacks runs as its parts. A type that a device lacks is refused by name
when the model is loaded; nothing moves to another device unasked.

";

/// A device with what it makes of the table.
struct Column {
    name: &'static str,
    device: Box<dyn Device>,
    cases: Vec<Case>,
}

/// The whole page, with columns for these devices after those of this crate.
///
/// # Errors
/// A table that cannot be read, a device that cannot be opened, or a case that fails.
pub fn text(others: Vec<(&'static str, Box<dyn Device>)>) -> Result<String, TestError> {
    let mut devices: Vec<(&'static str, Box<dyn Device>)> = vec![
        ("reference", Box::new(ReferenceDevice::new())),
        ("cpu", Box::new(CpuDevice::new(2, Isa::best())?)),
    ];
    devices.extend(others);
    let mut columns = Vec::new();
    for (name, device) in devices {
        let cases = cases::all(device.caps())?;
        columns.push(Column { name, device, cases });
    }
    let mut page = String::from(HEADER);
    operations(&mut page, &columns)?;
    weight_types(&mut page, &columns);
    kv_types(&mut page, &columns);
    Ok(page)
}

fn write_head(page: &mut String, first: &[&str], columns: &[Column]) {
    let names = columns.iter().map(|column| column.name);
    let heads: Vec<&str> = first.iter().copied().chain(names).collect();
    let _ = writeln!(page, "| {} |", heads.join(" | "));
    let _ = writeln!(page, "|{}", "---|".repeat(heads.len()));
}

fn operations(page: &mut String, columns: &[Column]) -> Result<(), TestError> {
    write_head(page, &["operation", "cases"], columns);
    for op in OpKind::ALL {
        let count = |column: &Column| column.cases.iter().filter(|case| case.op == op).count();
        let n_cases = columns.iter().map(count).max().unwrap_or(0);
        let cells: Result<Vec<String>, TestError> =
            columns.iter().map(|column| support(column, op)).collect();
        let kind = if op.is_fused() { " (fused)" } else { "" };
        let _ = writeln!(page, "| `{}`{kind} | {n_cases} | {} |", op.name(), cells?.join(" | "));
    }
    Ok(())
}

/// What a device says to the first case of each type.
fn support(column: &Column, op: OpKind) -> Result<String, TestError> {
    let mut seen = BTreeSet::new();
    let (mut passed, mut n_missing) = (Vec::new(), 0);
    for case in column.cases.iter().filter(|case| case.op == op) {
        if !seen.insert(case.dtype) {
            continue;
        }
        match check_case(case, column.device.as_ref()) {
            Verdict::Passed(_) => passed.push(case.dtype),
            Verdict::Unsupported(_) => n_missing += 1,
            Verdict::Failed(reason) => {
                return Err(TestError::Mismatch(format!("{}: {reason}", case.label())));
            }
        }
    }
    Ok(match (passed.len(), n_missing) {
        (0, 0) => "not needed".into(),
        (0, _) if op.is_fused() => "as its parts".into(),
        (0, _) => "no".into(),
        (1, 0) if passed == [None] => "yes".into(),
        (n, 0) => format!("all {n} types"),
        (n, n_missing) => format!("{n} of {} types", n + n_missing),
    })
}

fn weight_types(page: &mut String, columns: &[Column]) {
    let _ = writeln!(
        page,
        "\n## Weights\n\nThe type that activations are converted to for a product with weights of each \
         type. Rows that\nare no multiple of its block are multiplied in f32.\n"
    );
    write_head(page, &["weights"], columns);
    for ty in GgmlType::ALL {
        let cell = |column: &Column| {
            let mut types = column.device.caps().matmul.iter();
            match types.find(|(weight, _)| *weight == ty) {
                Some((_, ActivationType::F32)) => "f32",
                Some((_, ActivationType::Quantized(to))) => to.name(),
                None => "no",
            }
        };
        let cells: Vec<&str> = columns.iter().map(cell).collect();
        let _ = writeln!(page, "| `{ty}` | {} |", cells.join(" | "));
    }
}

fn kv_types(page: &mut String, columns: &[Column]) {
    let _ = writeln!(page, "\n## Key/value cache\n");
    write_head(page, &["type"], columns);
    let types = |column: &Column| column.device.caps().kv_types.clone();
    let all: BTreeSet<GgmlType> = columns.iter().flat_map(types).collect();
    for ty in all {
        let cell = |column: &Column| match column.device.caps().kv_types.contains(&ty) {
            true => "yes",
            false => "no",
        };
        let cells: Vec<&str> = columns.iter().map(cell).collect();
        let _ = writeln!(page, "| `{ty}` | {} |", cells.join(" | "));
    }
}
