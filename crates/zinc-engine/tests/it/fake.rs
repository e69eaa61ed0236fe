//! A device that computes nothing and allocates nothing in a step: its logits are a function of the
//! last token and position.

use std::sync::Arc;

use zinc_backend::{
    Bindings, Caps, Device, DeviceError, DeviceInfo, Executable, Profile, Profiling, States,
    StepInputs, StepOutputs, Ticket, WeightSource, Weights,
};
use zinc_plan::Plan;
use zinc_reference::ReferenceDevice;

type Logit = Arc<dyn Fn(i32, i32, usize) -> f32 + Send + Sync>;

/// The logits are `logit(token id, position, vocabulary index)`, all other outputs zeros.
pub struct FakeDevice {
    reference: ReferenceDevice,
    logit: Logit,
}

impl FakeDevice {
    /// A device with these logits.
    pub fn new(logit: impl Fn(i32, i32, usize) -> f32 + Send + Sync + 'static) -> FakeDevice {
        FakeDevice { reference: ReferenceDevice::new(), logit: Arc::new(logit) }
    }
}

impl Device for FakeDevice {
    fn info(&self) -> &DeviceInfo {
        self.reference.info()
    }

    fn caps(&self) -> &Caps {
        self.reference.caps()
    }

    fn bind_weights(
        &self,
        _: Vec<WeightSource>,
        _: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError> {
        Ok(Weights(Arc::new(())))
    }

    fn alloc_states(&self, _: &Plan) -> Result<States, DeviceError> {
        Ok(States(Arc::new(())))
    }

    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError> {
        Ok(1.0)
    }

    fn compile(
        &self,
        plan: Arc<Plan>,
        _: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(FakeExecutable {
            plan,
            logit: self.logit.clone(),
            last: StepOutputs::default(),
            row: Vec::new(),
            order: Vec::new(),
        }))
    }
}

struct FakeExecutable {
    plan: Arc<Plan>,
    logit: Logit,
    last: StepOutputs,
    /// Logits of a row, and ids by them.
    row: Vec<f32>,
    order: Vec<usize>,
}

impl Executable for FakeExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError> {
        let sizes = inputs.check(&self.plan)?;
        self.last.values.resize(self.plan.outputs.len(), Vec::new());
        for (values, id) in self.last.values.iter_mut().zip(&self.plan.outputs).skip(1) {
            let shape = self.plan.tensor(*id).shape;
            values.clear();
            values.resize(sizes.rows(shape.rows, &self.plan) * shape.cols as usize, 0.0);
        }
        let cols = |at: usize| self.plan.tensor(self.plan.outputs[at]).shape.cols as usize;
        let has_top_k = self.plan.has_top_k(self.plan.outputs[0]);
        self.last.values[0].clear();
        for (place, &row) in inputs.out_rows.iter().enumerate() {
            let (id, position) = (inputs.token_ids[row as usize], inputs.positions[row as usize]);
            self.row.clear();
            self.row.extend((0..cols(0)).map(|i| (self.logit)(id, position, i)));
            if has_top_k {
                let rank = |id: &usize| match self.row[*id].is_finite() {
                    true => self.row[*id] + 0.0,
                    false => f32::INFINITY,
                };
                self.order.clear();
                self.order.extend(0..self.row.len());
                self.order.sort_unstable_by(|a, b| rank(b).total_cmp(&rank(a)).then(a.cmp(b)));
                for (at, id) in self.order.iter().take(cols(1)).enumerate() {
                    self.last.values[1][place * cols(1) + at] = *id as f32;
                    self.last.values[2][place * cols(1) + at] = self.row[*id];
                }
            }
            if !has_top_k || inputs.whole_rows.contains(&(place as i32)) {
                self.last.values[0].extend_from_slice(&self.row);
            }
        }
        Ok(Ticket(0))
    }

    fn wait(&mut self, _: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError> {
        outputs.values.resize(self.last.values.len(), Vec::new());
        for (values, last) in outputs.values.iter_mut().zip(&self.last.values) {
            values.clone_from(last);
        }
        Ok(())
    }

    fn set_profiling(&mut self, _: Profiling) {}

    fn profile(&self) -> Profile {
        Profile::default()
    }
}
