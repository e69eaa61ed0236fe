//! The definition of the operations: scalar, one thread, no tricks.
//!
//! Values are f32; sums are carried in f64 so that the order of a reduction does not matter at the
//! precision of the result, which makes this a stricter oracle than any f32 order would be.
//! Weights and caches are dequantised by `zinc-quant` before use. Never optimise this crate: other
//! backends are measured against it, and it must stay obviously right.

mod choice;
mod exec;
mod ops;
mod storage;

use std::ops::Range;
use std::sync::Arc;

use zinc_backend::{
    ActivationType, Backend, Bindings, Caps, Device, DeviceError, DeviceInfo, Executable,
    StateAccess, States, WeightNeed, WeightSource, Weights,
};
use zinc_plan::{Dim, Plan};
use zinc_quant::GgmlType;

pub use crate::choice::{chosen_experts, may_choose};
use crate::exec::ReferenceExecutable;
use crate::storage::{StateStore, WeightStore};

/// Name of the only device.
pub const NAME: &str = "reference";

/// The backend with the one device `reference`.
#[derive(Debug, Default)]
pub struct ReferenceBackend;

impl Backend for ReferenceBackend {
    fn devices(&self) -> Vec<DeviceInfo> {
        vec![ReferenceDevice::new().info]
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Device>, DeviceError> {
        if name == NAME {
            return Ok(Arc::new(ReferenceDevice::new()));
        }
        Err(DeviceError::Unknown { name: name.into(), available: NAME.into() })
    }
}

/// The scalar device.
#[derive(Debug)]
pub struct ReferenceDevice {
    info: DeviceInfo,
    caps: Caps,
}

impl ReferenceDevice {
    /// Opens the device; it is always there.
    pub fn new() -> Self {
        let info = DeviceInfo {
            name: NAME.into(),
            description: "scalar f32 definition of the operations, slow".into(),
            memory_total: 0,
            memory_free: 0,
            facts: Vec::new(),
        };
        use GgmlType::{BF16, F8_E4M3, F16, F32, Q4_0, Q8_0};
        let kv_types = vec![F32, F16, BF16, F8_E4M3, Q8_0, Q4_0];
        let matmul = GgmlType::ALL
            .into_iter()
            .filter(|ty| storage::is_readable(*ty))
            .map(|ty| (ty, ActivationType::F32))
            .collect();
        let caps = Caps {
            device: NAME.into(),
            fused: Default::default(),
            matmul,
            kv_types,
            batch_invariant: true,
            f16_attention: false,
            f16_products: false,
            joins_activations: false,
        };
        Self { info, caps }
    }
}

impl Default for ReferenceDevice {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes read to measure the memory.
const MEASURED_BYTES: usize = 256 << 20;

impl Device for ReferenceDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn weight_need(&self, sources: &[WeightSource]) -> WeightNeed {
        let mapped = sources.iter().map(|source| source.data.len() as u64).sum();
        WeightNeed { mapped, ..WeightNeed::default() }
    }

    fn bind_weights(
        &self,
        sources: Vec<WeightSource>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError> {
        let n_bytes = sources.iter().map(|source| source.data.len() as u64).sum();
        let store = WeightStore::new(sources)?;
        progress(n_bytes, n_bytes);
        Ok(Weights(Arc::new(store)))
    }

    fn alloc_states(&self, plan: &Plan) -> Result<States, DeviceError> {
        Ok(States(Arc::new(StateStore::new(plan)?)))
    }

    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError> {
        Ok(zinc_backend::host_read_bandwidth(1, MEASURED_BYTES))
    }

    fn state_access(&self) -> Option<&dyn StateAccess> {
        Some(self)
    }

    fn compile(
        &self,
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(ReferenceExecutable::new(plan, bind)?))
    }
}

impl StateAccess for ReferenceDevice {
    fn read_rows(
        &self,
        states: &States,
        dim: Dim,
        rows: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        states.of_device::<StateStore>()?.read_rows(dim, rows, out)
    }

    fn write_rows(
        &self,
        states: &States,
        dim: Dim,
        rows: Range<u32>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        states.of_device::<StateStore>()?.write_rows(dim, rows, bytes)
    }
}
