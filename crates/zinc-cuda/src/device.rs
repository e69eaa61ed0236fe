//! The device: which cards there are, what they can do, how one is opened.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use zinc_backend::{
    ActivationType, Backend, Bindings, Caps, Device, DeviceError, DeviceInfo, Executable,
    StateAccess, States, Variant, WeightNeed, WeightSource, Weights,
};
use zinc_plan::{Dim, OpKind, Plan};
use zinc_quant::GgmlType;

use crate::card::Card;
use crate::driver::{CardInfo, Context, Driver, NoDriver};
use crate::exec::{self, CudaExecutable};
use crate::lock::{self, CardLock, LockError};
use crate::measure;
use crate::memory::lost;
use crate::pipeline::Pipeline;
use crate::store::{self, StateStore, WeightStore};

/// Least compute capability times ten: dp4a and integer tensor cores.
const MIN_CAPABILITY: u32 = 75;

/// Compute capability times ten of the cards that have wgmma: later ones do not.
pub(crate) const HOPPER: u32 = 90;
/// That of the newest cards before them.
const BEFORE_HOPPER: u32 = 89;
/// Shared memory that a block has on every card.
const LEAST_SHARED: u32 = 64 << 10;

/// Types of key and value caches.
const KV_TYPES: [GgmlType; 6] = {
    use GgmlType::{BF16, F8_E4M3, F16, F32, Q4_0, Q8_0};
    [F32, F16, BF16, F8_E4M3, Q8_0, Q4_0]
};

/// Weight types that are multiplied with activations in q8.
const QUANTISED: [GgmlType; 11] = {
    use GgmlType::*;
    [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, MXFP4, IQ4_NL, IQ4_XS]
};

/// How cards are opened.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// Directory for compiled kernels; none compiles at each start.
    pub cache_dir: Option<PathBuf>,
    /// Directory of the locks, the same for all processes of this machine: `/run/lock` or `/dev/shm`, whichever
    /// everybody may write to, else the one for temporary files.
    pub lock_dir: PathBuf,
    /// Use a card that another process uses.
    pub share: bool,
    /// Rows have the same bits whatever the rows beside them.
    pub batch_invariant: bool,
}

impl Default for CudaOptions {
    fn default() -> CudaOptions {
        CudaOptions {
            cache_dir: None,
            lock_dir: lock::machine_dir(),
            share: false,
            batch_invariant: false,
        }
    }
}

/// The backend with the devices `cuda0`, `cuda1`, ...
#[derive(Clone, Debug, Default)]
pub struct CudaBackend {
    /// How cards are opened.
    pub options: CudaOptions,
}

/// Why this machine has no CUDA device; `None` when it has one.
pub fn why_none() -> Option<String> {
    let driver = match Driver::load() {
        Ok(driver) => driver,
        Err(why) => return Some(why.to_string()),
    };
    match driver.cards() {
        Err(error) => Some(error.to_string()),
        Ok(cards) if cards.is_empty() => Some(NoDriver::NoCard.to_string()),
        Ok(cards) => {
            let fits = |card: &CardInfo| card.capability >= MIN_CAPABILITY;
            let names: Vec<_> = cards.iter().map(|card| card.name.as_str()).collect();
            (!cards.iter().any(fits)).then(|| {
                format!(
                    "no card has compute capability 7.5 or more: {}; use one of 2018 (Turing) or later",
                    names.join(", ")
                )
            })
        }
    }
}

/// Why a driver that is installed has no device for us: it is too old, or does not start.
pub fn why_unusable() -> Option<String> {
    match Driver::load() {
        Ok(_) | Err(NoDriver::Missing | NoDriver::NoCard) => None,
        Err(why) => Some(why.to_string()),
    }
}

fn name_of(card: &CardInfo) -> String {
    format!("cuda{}", card.ordinal)
}

/// The cards that can be used, the best first: more memory bandwidth comes with more multiprocessors
/// and newer generations.
fn cards() -> Vec<(&'static Driver, CardInfo)> {
    let Ok(driver) = Driver::load() else { return Vec::new() };
    let mut cards = driver.cards().unwrap_or_default();
    cards.retain(|card| card.capability >= MIN_CAPABILITY);
    cards.sort_by_key(|card| {
        std::cmp::Reverse((
            u64::from(card.n_multiprocessors) * u64::from(card.capability),
            card.memory,
        ))
    });
    cards.into_iter().map(|card| (driver, card)).collect()
}

fn info(driver: &Driver, card: &CardInfo, memory_free: u64) -> DeviceInfo {
    let version = driver.version();
    let facts = [
        ("compute capability", format!("{}.{}", card.capability / 10, card.capability % 10)),
        ("multiprocessors", card.n_multiprocessors.to_string()),
        ("driver", format!("CUDA {}.{}", version / 1000, version % 1000 / 10)),
    ];
    DeviceInfo {
        name: name_of(card),
        description: card.name.clone(),
        memory_total: card.memory,
        memory_free,
        facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

/// Takes the card, or says why not.
fn lock(options: &CudaOptions, uuid: &str) -> Result<CardLock, String> {
    let taken = match options.share {
        true => CardLock::shared(&options.lock_dir, uuid),
        false => CardLock::alone(&options.lock_dir, uuid),
    };
    taken.map_err(|error| match error {
        LockError::InUse => "another zinc process uses this card; stop it, choose another card with --device, or use \
                             both with --share"
            .into(),
        LockError::File(path, error) => {
            let dir = options.lock_dir.display();
            format!("cannot lock {}: {error}; let zinc write to {dir}", path.display())
        }
    })
}

impl Backend for CudaBackend {
    fn devices(&self) -> Vec<DeviceInfo> {
        cards().iter().map(|(driver, card)| info(driver, card, card.memory)).collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Device>, DeviceError> {
        let cards = cards();
        let Some((driver, card)) = cards.iter().find(|(_, card)| name_of(card) == name) else {
            let available: Vec<_> = cards.iter().map(|(_, card)| name_of(card)).collect();
            return Err(DeviceError::Unknown {
                name: name.into(),
                available: match available.is_empty() {
                    true => why_none().unwrap_or_default(),
                    false => available.join(", "),
                },
            });
        };
        Ok(Arc::new(CudaDevice::open(driver, card, &self.options)?))
    }
}

/// What the device and its executables share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub name: String,
    pub card: Card,
    pub batch_invariant: bool,
    pub pipeline: Arc<Pipeline>,
    pub context: Arc<Context>,
    _lock: Arc<CardLock>,
}

/// An opened card.
pub struct CudaDevice {
    info: DeviceInfo,
    caps: Caps,
    shared: Arc<Shared>,
}

impl CudaDevice {
    fn open(
        driver: &'static Driver,
        card: &CardInfo,
        options: &CudaOptions,
    ) -> Result<CudaDevice, DeviceError> {
        let name = name_of(card);
        let unavailable =
            |reason: String| DeviceError::Unavailable { device: name.clone(), reason };
        let lock = lock(options, &card.uuid).map_err(unavailable)?;
        let context = Context::new(driver, card.ordinal).map_err(|error| {
            unavailable(format!("{error}; see `nvidia-smi` for what else uses the card"))
        })?;
        let (memory_free, _) = context.memory().map_err(|error| lost(&name, &error))?;
        let pipeline = Pipeline::new(&context, &name, card.capability, options.cache_dir.clone());
        let shared = Shared {
            name: name.clone(),
            card: Card::from(card),
            batch_invariant: options.batch_invariant,
            pipeline: Arc::new(pipeline),
            context,
            _lock: Arc::new(lock),
        };
        let caps = caps(&name, card.capability, options.batch_invariant);
        Ok(CudaDevice { info: info(driver, card, memory_free), caps, shared: Arc::new(shared) })
    }
}

/// What the plan passes may ask of a card of this compute capability (times ten).
pub fn caps(name: &str, capability: u32, batch_invariant: bool) -> Caps {
    let quantised = QUANTISED.map(|ty| (ty, ActivationType::Quantized(GgmlType::Q8_1)));
    let floats = [GgmlType::F32, GgmlType::F16, GgmlType::BF16].map(|ty| (ty, ActivationType::F32));
    Caps {
        device: name.to_owned(),
        fused: [OpKind::MatMulAdd, OpKind::GateUpAct, OpKind::ExpertGateUpAct].into(),
        matmul: quantised.into_iter().chain(floats).collect(),
        kv_types: KV_TYPES.to_vec(),
        batch_invariant,
        f16_attention: !batch_invariant,
        f16_products: !batch_invariant && capability == HOPPER,
        joins_activations: true,
    }
}

impl StateAccess for CudaDevice {
    fn read_rows(
        &self,
        states: &States,
        dim: Dim,
        rows: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        states.of_device::<StateStore>()?.read_rows(dim, &rows, out)
    }

    fn write_rows(
        &self,
        states: &States,
        dim: Dim,
        rows: Range<u32>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        states.of_device::<StateStore>()?.write_rows(dim, &rows, bytes)
    }
}

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn weight_need(&self, sources: &[WeightSource]) -> WeightNeed {
        store::weight_need(sources)
    }

    fn scratch_need(&self, plan: &Plan) -> u64 {
        exec::scratch_need(plan, &self.shared)
    }

    fn bind_weights(
        &self,
        sources: Vec<WeightSource>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError> {
        let Shared { context, name, pipeline, .. } = &*self.shared;
        let store = WeightStore::new(context, name, pipeline, &sources, progress)?;
        Ok(Weights(Arc::new(store)))
    }

    fn alloc_states(&self, plan: &Plan) -> Result<States, DeviceError> {
        let Shared { context, name, .. } = &*self.shared;
        Ok(States(Arc::new(StateStore::new(context, name, plan)?)))
    }

    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError> {
        measure::read_bandwidth(&self.shared)
    }

    fn variants(&self) -> Vec<Variant> {
        let variant = |name: &str, card: Card, batch_invariant: bool| Variant {
            name: name.into(),
            device: Arc::new(CudaDevice {
                info: self.info.clone(),
                caps: caps(&self.shared.name, card.capability, batch_invariant),
                shared: Arc::new(Shared { batch_invariant, card, ..(*self.shared).clone() }),
            }),
        };
        let own = self.shared.card;
        let mut variants = vec![variant("by size", own, false), variant("invariant", own, true)];
        if self.shared.batch_invariant {
            variants.reverse();
        }
        if own.capability == HOPPER {
            // The same kernels as on the cards before it.
            let before = Card { capability: BEFORE_HOPPER, ..own };
            variants.push(variant("without wgmma", before, false));
        }
        // What other cards would choose: tiles, splits of sums, depths of rings.
        let card_of = |n_multiprocessors: u32| Card { n_multiprocessors, ..own };
        let half = card_of((own.n_multiprocessors / 2).max(1));
        variants.push(variant("as for half the card", half, false));
        let twice = card_of(2 * own.n_multiprocessors);
        variants.push(variant("as for twice the card", twice, false));
        let shared = own.shared_per_block.min(LEAST_SHARED);
        let shallow = Card { shared_per_block: shared, shared_per_multiprocessor: shared, ..own };
        variants.push(variant("little shared memory", shallow, false));
        variants
    }

    fn state_access(&self) -> Option<&dyn StateAccess> {
        Some(self)
    }

    fn compile(
        &self,
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        Ok(Box::new(CudaExecutable::new(plan, bind, &self.shared)?))
    }
}
