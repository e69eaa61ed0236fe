//! Deliberate mistakes, to show that the checks catch them.

use zinc_backend::StepInputs;
use zinc_plan::Plan;

/// A change to a plan or to the inputs of its steps that makes the result wrong.
pub struct Breakage {
    /// What is wrong.
    pub name: &'static str,
    /// Applied to the model's plan before the passes.
    pub plan: Box<dyn Fn(&mut Plan)>,
    /// Applied to the inputs of every step.
    pub inputs: Box<dyn Fn(&mut StepInputs)>,
}

impl Breakage {
    /// A wrong plan.
    pub fn plan(name: &'static str, edit: impl Fn(&mut Plan) + 'static) -> Self {
        Self { name, plan: Box::new(edit), inputs: Box::new(|_| ()) }
    }

    /// Wrong step inputs.
    pub fn inputs(name: &'static str, edit: impl Fn(&mut StepInputs) + 'static) -> Self {
        Self { name, plan: Box::new(|_| ()), inputs: Box::new(edit) }
    }
}
