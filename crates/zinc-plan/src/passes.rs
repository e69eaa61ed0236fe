//! Passes from a model's plan to one that a device compiles. The order matters: fusion before
//! memory (a fused intermediate needs no bytes), hazards last (reuse of memory creates hazards).

mod fuse;
mod hazards;
mod insert;
mod memory;
mod verify;

use crate::{Caps, Plan, PlanError};

/// Checks the plan's own rules: see [`PlanError::Invalid`] and [`PlanError::Operand`].
///
/// # Errors
/// The first rule that is broken.
pub fn verify(plan: &Plan) -> Result<(), PlanError> {
    verify::rules(plan)
}

/// Turns a model's plan into one for a device with `caps`: fused, with the helper operations the
/// device wants, memory laid out and barriers set.
///
/// # Errors
/// A broken rule, or an operation or type the device lacks, by name.
pub fn prepare(mut plan: Plan, caps: &Caps) -> Result<Plan, PlanError> {
    verify::rules(&plan)?;
    fuse::run(&mut plan, caps);
    verify::rules(&plan)?;
    verify::supported(&plan, caps)?;
    insert::run(&mut plan, caps)?;
    verify::rules(&plan)?;
    memory::run(&mut plan, caps);
    hazards::run(&mut plan);
    Ok(plan)
}
