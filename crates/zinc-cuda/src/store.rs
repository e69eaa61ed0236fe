//! Weights on the card: repacked while they are read, and states.

use std::collections::HashMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use zinc_backend::{DeviceError, StateLayout, StatePart, WeightNeed, WeightSource};
use zinc_plan::{Dim, Plan, TensorId, TensorInfo, TensorKind};
use zinc_quant::GgmlType;

use crate::driver::{Context, DriverError, Event};
use crate::launch::{Kernel, Launch};
use crate::memory::{DeviceBuffer, PinnedBuffer, lost};
use crate::pipeline::Pipeline;

/// Rows of planes that a quantised type is repacked to; the numbers are those of `kernels/formats.cuh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowLayout {
    /// Where each plane begins in a row.
    pub planes: [u64; 4],
    /// Bytes of a row.
    pub row_bytes: u64,
}

impl RowLayout {
    /// The layout of rows of `cols` elements; none for types that lie as in the file.
    pub fn of(dtype: GgmlType, cols: u32) -> Option<RowLayout> {
        use GgmlType::*;
        // Bytes of plane 1 and eighths of a byte of plane 2 a block of 32.
        let (high, scale8) = match dtype {
            Q4_0 | IQ4_NL | Q4_K => (0, 16),
            Q4_1 => (0, 32),
            Q5_0 | Q5_K => (4, 16),
            Q5_1 => (4, 32),
            Q8_0 => (16, 16),
            Q6_K => (8, 16),
            MXFP4 | IQ4_XS => (0, 8),
            _ => return None,
        };
        let n_blocks = u64::from(cols) / 32;
        let sizes = [n_blocks * 16, n_blocks * high, n_blocks * scale8 / 8];
        let mut planes = [0; 4];
        for (idx, size) in sizes.into_iter().enumerate() {
            planes[idx + 1] = planes[idx] + size.next_multiple_of(16);
        }
        let supers = if dtype == Q6_K { n_blocks / 8 * 4 } else { 0 };
        Some(RowLayout { planes, row_bytes: planes[3] + supers.next_multiple_of(16) })
    }
}

/// Bytes that a weight takes on the card, with the room to the next one.
fn weight_bytes(source: &WeightSource) -> u64 {
    let cols = u32::try_from(source.cols).unwrap_or(u32::MAX);
    let n_bytes = match RowLayout::of(source.dtype, cols) {
        Some(layout) => layout.row_bytes.saturating_mul(source.rows),
        None => source.data.len() as u64,
    };
    n_bytes.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX)
}

/// Bytes of the card that all weights take, and the staging that they come through.
pub(crate) fn weight_need(sources: &[WeightSource]) -> WeightNeed {
    let copied = sources.iter().map(weight_bytes).fold(0, u64::saturating_add);
    WeightNeed { mapped: 0, copied, loading: 2 * staging_bytes(sources) as u64 }
}

/// Bytes of each half of the upload.
fn staging_bytes(sources: &[WeightSource]) -> usize {
    let largest = sources.iter().map(|source| source.data.len()).max().unwrap_or(0);
    largest.clamp(1, STAGING_BYTES)
}

/// Bytes that are read at a time, and held twice.
const STAGING_BYTES: usize = 64 << 20;

/// Most threads that copy a part.
const MOST_COPIERS: usize = 8;

/// Alignment of a weight.
const ALIGN: u64 = 256;

struct Weight {
    dtype: GgmlType,
    rows: u64,
    cols: u64,
    address: u64,
}

/// A model's weights by name.
pub(crate) struct WeightStore {
    by_name: HashMap<String, Weight>,
    _buffer: DeviceBuffer,
}

/// `RepackParams` of `repack.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct RepackParams {
    from: u64,
    to: u64,
    n_blocks: u32,
    n_rows: u32,
    row_bytes: u64,
}

fn binding(name: &str, reason: impl Into<String>) -> DeviceError {
    DeviceError::Binding { name: name.to_owned(), reason: reason.into() }
}

fn repack_kernel(dtype: GgmlType) -> Option<Kernel> {
    use GgmlType::*;
    let name = match dtype {
        Q4_0 => "repack_q4_0",
        Q4_1 => "repack_q4_1",
        Q5_0 => "repack_q5_0",
        Q5_1 => "repack_q5_1",
        Q8_0 => "repack_q8_0",
        Q4_K => "repack_q4_k",
        Q5_K => "repack_q5_k",
        Q6_K => "repack_q6_k",
        MXFP4 => "repack_mxfp4",
        IQ4_NL => "repack_iq4_nl",
        IQ4_XS => "repack_iq4_xs",
        _ => return None,
    };
    Some(Kernel { module: "repack", name })
}

/// The launch that repacks `n_rows` rows.
pub fn repack_launch(
    dtype: GgmlType,
    cols: u32,
    n_rows: u32,
    from: u64,
    to: u64,
) -> Option<Launch> {
    let kernel = repack_kernel(dtype)?;
    let row_bytes = RowLayout::of(dtype, cols)?.row_bytes;
    let n_blocks = cols / 32;
    let params = RepackParams { from, to, n_blocks, n_rows, row_bytes };
    let grid = [n_blocks.div_ceil(128), n_rows.clamp(1, 65_535), 1];
    let launch = Launch::new(kernel, params, grid, 128);
    // Copies lie between these launches.
    Some(Launch { overlaps: false, ..launch })
}

/// One of two halves of the upload: filled by the host while the other one is copied.
struct Half {
    pinned: PinnedBuffer,
    staging: DeviceBuffer,
    done: Event,
}

/// Copies rows in parts, alternating between two halves.
struct Loader<'a> {
    context: &'a Arc<Context>,
    device: &'a str,
    pipeline: &'a Pipeline,
    halves: [Half; 2],
    turn: usize,
}

impl<'a> Loader<'a> {
    fn new(
        context: &'a Arc<Context>,
        device: &'a str,
        pipeline: &'a Pipeline,
        n_bytes: usize,
    ) -> Result<Loader<'a>, DeviceError> {
        let half = || {
            let what = "loading the weights";
            let staging = DeviceBuffer::new(context, device, what, n_bytes as u64)?;
            let pinned = PinnedBuffer::new(context, device, what, n_bytes)?;
            let done = context.event(false).map_err(|e| lost(device, &e))?;
            Ok::<_, DeviceError>(Half { pinned, staging, done })
        };
        Ok(Loader { context, device, pipeline, halves: [half()?, half()?], turn: 0 })
    }

    /// Copies `source` to `buffer` at `offset`; `tell` is told the bytes of each part.
    fn load(
        &mut self,
        source: &WeightSource,
        buffer: &DeviceBuffer,
        offset: u64,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        let cols = u32::try_from(source.cols).unwrap_or(u32::MAX);
        let layout = RowLayout::of(source.dtype, cols);
        let row_bytes = match layout {
            Some(_) => source.data.len() / usize::try_from(source.rows.max(1)).unwrap_or(1),
            // Bytes as they are; any cut will do.
            None => 1,
        };
        let capacity = self.halves[0].pinned.bytes().len() / row_bytes.max(1) * row_bytes;
        if capacity == 0 && !source.data.is_empty() {
            return Err(binding(&source.name, format!("a row of {row_bytes} bytes is too long")));
        }
        let mut to = offset;
        for part in source.data.chunks(capacity.max(1)) {
            let half = &mut self.halves[self.turn];
            self.turn = 1 - self.turn;
            let failed = |error| lost(self.device, &error);
            half.done.wait().map_err(failed)?;
            copy(&mut half.pinned.bytes_mut()[..part.len()], part);
            let (bytes, n_rows) = (0..part.len(), (part.len() / row_bytes.max(1)) as u32);
            let (from, at) = (half.staging.address(), buffer.address() + to);
            let repack = layout.and_then(|_| repack_launch(source.dtype, cols, n_rows, from, at));
            let function =
                repack.as_ref().map(|launch| self.pipeline.function(launch)).transpose()?;
            let stream = self.context.stream().map_err(failed)?;
            match layout {
                None => {
                    half.pinned.upload(&stream, bytes, buffer, to as usize).map_err(failed)?;
                    to += part.len() as u64;
                }
                Some(layout) => {
                    half.pinned.upload(&stream, bytes, &half.staging, 0).map_err(failed)?;
                    if let Some((launch, function)) = repack.zip(function) {
                        stream
                            .launch(&function, &launch.shape(), &launch.params)
                            .map_err(failed)?;
                    }
                    to += u64::from(n_rows) * layout.row_bytes;
                }
            }
            stream.mark(&half.done).map_err(failed)?;
            drop(stream);
            tell(part.len() as u64);
        }
        Ok(())
    }
}

/// Copies `from`, which may have to be read from a file first, by as many threads as are worth it: one of them brings
/// about a tenth of what the bus to a card takes.
fn copy(to: &mut [u8], from: &[u8]) {
    const PART: usize = 4 << 20;
    let parts = Mutex::new(to.chunks_mut(PART).zip(from.chunks(PART)));
    let next = || parts.lock().ok()?.next();
    let work = || {
        while let Some((to, from)) = next() {
            to.copy_from_slice(from);
        }
    };
    let n_cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let n_threads = n_cores.min(MOST_COPIERS).min(from.len().div_ceil(PART));
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            // Those that there are do it all.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Checks that a weight has the bytes its shape needs.
fn check(source: &WeightSource) -> Result<(), DeviceError> {
    let row_bytes = usize::try_from(source.cols).ok().and_then(|cols| source.dtype.row_bytes(cols));
    let expected = row_bytes.and_then(|bytes| (bytes as u64).checked_mul(source.rows));
    match expected {
        Some(expected) if expected == source.data.len() as u64 => Ok(()),
        Some(expected) => {
            let reason = format!("has {} bytes, its shape needs {expected}", source.data.len());
            Err(binding(&source.name, reason))
        }
        None => {
            let reason = format!("{} columns are no whole {} blocks", source.cols, source.dtype);
            Err(binding(&source.name, reason))
        }
    }
}

impl WeightStore {
    /// Copies all weights to the card, repacking those that are quantised.
    pub(crate) fn new(
        context: &Arc<Context>,
        device: &str,
        pipeline: &Pipeline,
        sources: &[WeightSource],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<WeightStore, DeviceError> {
        sources.iter().try_for_each(check)?;
        let n_bytes = weight_need(sources).copied;
        let buffer = DeviceBuffer::new(context, device, "the weights", n_bytes)?;
        let mut loader = Loader::new(context, device, pipeline, staging_bytes(sources))?;
        let total = sources.iter().map(|source| source.data.len() as u64).sum();
        let (mut offset, mut done) = (0, 0);
        let mut by_name = HashMap::with_capacity(sources.len());
        for source in sources {
            let mut tell = |n_bytes| {
                done += n_bytes;
                progress(done, total);
            };
            loader.load(source, &buffer, offset, &mut tell)?;
            let address = buffer.address() + offset;
            let WeightSource { dtype, rows, cols, .. } = *source;
            by_name.insert(source.name.clone(), Weight { dtype, rows, cols, address });
            offset += weight_bytes(source);
        }
        let synchronize = context.stream().and_then(|stream| stream.synchronize());
        synchronize.map_err(|error| lost(device, &error))?;
        Ok(WeightStore { by_name, _buffer: buffer })
    }

    /// Where the weight that `plan` calls `id` begins, if its type and shape are what the plan says.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
        let tensor = plan.tensor(id);
        let weight = self
            .by_name
            .get(&tensor.name)
            .ok_or_else(|| binding(&tensor.name, "is not among the bound weights"))?;
        let rows = plan.limits.bound(tensor.shape.rows);
        let cols = u64::from(tensor.shape.cols);
        if (weight.dtype, weight.rows, weight.cols) != (tensor.dtype, rows, cols) {
            let reason = format!(
                "is {} [{}, {}], the plan says {} [{rows}, {cols}]",
                weight.dtype, weight.rows, weight.cols, tensor.dtype
            );
            return Err(binding(&tensor.name, reason));
        }
        Ok(weight.address)
    }
}

struct State {
    dtype: GgmlType,
    cols: u32,
    n_rows: u64,
    buffer: DeviceBuffer,
}

/// What the memory is for that rows of states pass through.
const STATE_COPIES: &str = "copies of caches";

/// A model's states.
pub(crate) struct StateStore {
    context: Arc<Context>,
    device: String,
    /// In the order of the plan.
    states: Vec<State>,
    layout: StateLayout,
    /// What copies to and from the host go through.
    staging: Mutex<PinnedBuffer>,
}

impl StateStore {
    /// Allocates the states of `plan`, all zero.
    pub(crate) fn new(
        context: &Arc<Context>,
        device: &str,
        plan: &Plan,
    ) -> Result<StateStore, DeviceError> {
        let states = plan.tensors_where(|tensor| tensor.kind == TensorKind::State);
        let state = |(id, tensor): (TensorId, &TensorInfo)| {
            let what = format!("cache {}", tensor.name);
            let buffer = DeviceBuffer::new(context, device, &what, plan.max_bytes(id))?;
            buffer.zero().map_err(|error| lost(device, &error))?;
            let n_rows = plan.limits.bound(tensor.shape.rows);
            Ok(State { dtype: tensor.dtype, cols: tensor.shape.cols, n_rows, buffer })
        };
        Ok(StateStore {
            context: Arc::clone(context),
            device: device.into(),
            states: states.map(state).collect::<Result<_, DeviceError>>()?,
            layout: StateLayout::of(plan),
            staging: Mutex::new(PinnedBuffer::new(context, device, STATE_COPIES, 0)?),
        })
    }

    /// As [`zinc_backend::StateAccess::read_rows`].
    pub(crate) fn read_rows(
        &self,
        dim: Dim,
        rows: &Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let ranges = self.layout.ranges(dim, rows)?;
        let n_bytes = ranges.iter().map(|(_, range)| range.len()).sum();
        self.with_staging(n_bytes, |staging, context| {
            let stream = context.stream()?;
            let mut to = 0;
            for (idx, range) in &ranges {
                let from = self.states[*idx].buffer.address() + range.start as u64;
                staging.download(&stream, to, from, range.len())?;
                to += range.len();
            }
            stream.synchronize()?;
            out.extend_from_slice(&staging.bytes()[..n_bytes]);
            Ok(())
        })
    }

    /// As [`zinc_backend::StateAccess::write_rows`].
    pub(crate) fn write_rows(
        &self,
        dim: Dim,
        rows: &Range<u32>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let parts = self.layout.parts(dim, rows, bytes)?;
        self.with_staging(bytes.len(), |staging, context| {
            staging.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            let stream = context.stream()?;
            let mut from = 0;
            for StatePart { idx, range, .. } in &parts {
                let part = from..from + range.len();
                staging.upload(&stream, part, &self.states[*idx].buffer, range.start)?;
                from += range.len();
            }
            stream.synchronize()
        })
    }

    /// Runs `copy` with staging of at least `n_bytes` that nothing is copied from or to, then or after.
    fn with_staging(
        &self,
        n_bytes: usize,
        copy: impl FnOnce(&mut PinnedBuffer, &Context) -> Result<(), DriverError>,
    ) -> Result<(), DeviceError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if staging.bytes().len() < n_bytes {
            *staging = PinnedBuffer::new(&self.context, &self.device, STATE_COPIES, n_bytes)?;
        }
        copy(&mut staging, &self.context).map_err(|error| lost(&self.device, &error))
    }

    /// Where the state that `plan` calls `id` begins, if it has the type and size the plan says.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
        let tensor: &TensorInfo = plan.tensor(id);
        let state = self.layout.find(&tensor.name).and_then(|idx| self.states.get(idx));
        let state = state.ok_or_else(|| binding(&tensor.name, "is not among the states"))?;
        let n_rows = plan.limits.bound(tensor.shape.rows);
        if (state.dtype, state.cols, state.n_rows) != (tensor.dtype, tensor.shape.cols, n_rows) {
            return Err(binding(&tensor.name, "has another type or size than the plan says"));
        }
        Ok(state.buffer.address())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zinc_backend::{WeightNeed, WeightSource};
    use zinc_quant::GgmlType;

    use super::{STAGING_BYTES, copy, weight_need};

    #[test]
    fn weights_need_their_room_and_both_halves_of_the_upload() {
        let source = |rows: usize| WeightSource {
            name: "a.weight".into(),
            dtype: GgmlType::F32,
            rows: rows as u64,
            cols: 1,
            data: Bytes::from(vec![0; 4 * rows]),
        };
        let need = |sources: &[WeightSource]| weight_need(sources);
        let some = WeightNeed { mapped: 0, copied: 512 + 256, loading: 2 * 400 };
        assert_eq!(need(&[source(100), source(10)]), some);
        assert_eq!(need(&[source(STAGING_BYTES)]).loading, 2 * STAGING_BYTES as u64);
    }

    #[test]
    fn threads_copy_every_byte() {
        for n_bytes in [0, 1, 4 << 20, (4 << 20) + 1, 37 << 20] {
            let from: Vec<u8> =
                (0..n_bytes).map(|idx: usize| (idx * 31 + idx / 7919) as u8).collect();
            let mut to = vec![0; n_bytes];
            copy(&mut to, &from);
            assert!(to == from, "{n_bytes} bytes");
        }
    }
}
