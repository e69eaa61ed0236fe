//! The device: what it can do, and how it is opened.

use crate::exec::{self, CpuExecutable};
use crate::kernels::cache::KV_TYPES;
use crate::kernels::format::Form;
use crate::pool::Pool;
use crate::store::{self, StateStore, WeightStore};
use crate::{Isa, NAME, machine};
use std::ops::Range;
use std::sync::Arc;
use zinc_backend::{
    ActivationType, Backend, Bindings, Caps, Device, DeviceError, DeviceInfo, Executable,
    StateAccess, States, Variant, WeightNeed, WeightSource, Weights, host_read_bandwidth,
};
use zinc_plan::{Dim, OpKind, Plan};
use zinc_quant::GgmlType;

/// The backend with the one device `cpu`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend {
    /// Threads to use; the physical cores available when absent.
    pub n_threads: Option<usize>,
}

impl Backend for CpuBackend {
    fn devices(&self) -> Vec<DeviceInfo> {
        let n_threads = self.n_threads.unwrap_or_else(machine::default_threads);
        vec![info(n_threads, Isa::best())]
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Device>, DeviceError> {
        if name != NAME {
            return Err(DeviceError::Unknown { name: name.into(), available: NAME.into() });
        }
        let n_threads = self.n_threads.unwrap_or_else(machine::default_threads);
        Ok(Arc::new(CpuDevice::new(n_threads, Isa::best())?))
    }
}

/// The opened processor with its threads.
pub struct CpuDevice {
    info: DeviceInfo,
    caps: Caps,
    pool: Arc<Pool>,
    isa: Isa,
}

impl CpuDevice {
    /// A device with `n_threads` threads (at least one) that uses the instruction set `isa`.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when the system refuses the threads.
    pub fn new(n_threads: usize, isa: Isa) -> Result<CpuDevice, DeviceError> {
        let pool = Pool::new(n_threads).map_err(|error| DeviceError::Unavailable {
            device: NAME.into(),
            reason: format!("cannot start {n_threads} threads: {error}; try fewer with --threads"),
        })?;
        let info = info(pool.n_threads(), isa);
        Ok(CpuDevice { info, caps: caps(), pool: Arc::new(pool), isa })
    }
}

/// Bytes read to measure the memory: more than the caches of large machines.
const MEASURED_BYTES: usize = 1 << 30;
/// The same where memory is short.
const MEASURED_BYTES_MIN: usize = 64 << 20;

fn info(n_threads: usize, isa: Isa) -> DeviceInfo {
    let (memory_total, memory_free) = machine::memory();
    DeviceInfo {
        name: NAME.into(),
        description: machine::processor(),
        memory_total,
        memory_free,
        facts: vec![("isa".into(), isa.name().into()), ("threads".into(), n_threads.to_string())],
    }
}

fn caps() -> Caps {
    let is_number = |ty: &GgmlType| {
        let mut value = vec![0.0; ty.block_len()];
        zinc_quant::dequantize(*ty, &vec![0; ty.block_bytes()], &mut value).is_ok()
    };
    let activation = |ty: GgmlType| match Form::of(ty) {
        Some(form) => ActivationType::Quantized(form.activations()),
        None => ActivationType::F32,
    };
    Caps {
        device: NAME.into(),
        fused: [OpKind::MatMulAdd, OpKind::GateUpAct, OpKind::ExpertGateUpAct].into(),
        matmul: GgmlType::ALL
            .into_iter()
            .filter(is_number)
            .map(|ty| (ty, activation(ty)))
            .collect(),
        kv_types: KV_TYPES.to_vec(),
        batch_invariant: true,
        f16_attention: false,
        f16_products: false,
        joins_activations: false,
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn weight_need(&self, sources: &[WeightSource]) -> WeightNeed {
        let mut need = WeightNeed::default();
        for source in sources {
            let n_bytes = source.data.len() as u64;
            match store::is_copied(source) {
                true => need.copied += n_bytes,
                false => need.mapped += n_bytes,
            }
        }
        need
    }

    fn scratch_need(&self, plan: &Plan) -> u64 {
        exec::scratch_need(plan, self.pool.n_threads())
    }

    fn bind_weights(
        &self,
        sources: Vec<WeightSource>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError> {
        Ok(Weights(Arc::new(WeightStore::new(sources, progress)?)))
    }

    fn alloc_states(&self, plan: &Plan) -> Result<States, DeviceError> {
        Ok(States(Arc::new(StateStore::new(plan, machine::memory().1)?)))
    }

    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError> {
        let free = usize::try_from(machine::memory().1).unwrap_or(usize::MAX);
        // Where the system does not tell what is free, the least.
        let n_bytes = MEASURED_BYTES.min(free / 4).max(MEASURED_BYTES_MIN);
        Ok(host_read_bandwidth(self.pool.n_threads(), n_bytes))
    }

    fn variants(&self) -> Vec<Variant> {
        let others = Isa::available().into_iter().filter(|isa| *isa != self.isa);
        let variant = |isa: Isa| Variant {
            name: isa.name().into(),
            device: Arc::new(CpuDevice {
                info: info(self.pool.n_threads(), isa),
                caps: self.caps.clone(),
                pool: Arc::clone(&self.pool),
                isa,
            }),
        };
        std::iter::once(self.isa).chain(others).map(variant).collect()
    }

    fn state_access(&self) -> Option<&dyn StateAccess> {
        Some(self)
    }

    fn compile(
        &self,
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(CpuExecutable::new(plan, bind, Arc::clone(&self.pool), self.isa)?))
    }
}

impl StateAccess for CpuDevice {
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
