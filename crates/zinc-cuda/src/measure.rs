//! Measuring the card itself: its read bandwidth, and the wait that lets launches queue up before they are timed.

use zinc_backend::DeviceError;

use crate::card::Card;
use crate::device::Shared;
use crate::driver::DriverError;
use crate::launch::{Kernel, Launch};
use crate::memory::{DeviceBuffer, PinnedBuffer, lost};

/// Most bytes that are read: many times the cache of any card.
const MAX_BYTES: u64 = 2 << 30;
/// Passes over them; the fastest counts.
const N_PASSES: usize = 8;
/// Thread blocks of 256 that fill a multiprocessor.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 8;
/// What queueing a launch with a mark behind it takes at most, with room.
const NANOSECONDS_PER_LAUNCH: u64 = 10_000;
/// Longest wait. More launches than this is enough for are longer than the wait anyway.
const MAX_NANOSECONDS: u64 = 20_000_000;

/// `ReadParams` of `measure.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct ReadParams {
    data: u64,
    sink: u64,
    n: u64,
}

/// `HoldParams` of `measure.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct HoldParams {
    nanoseconds: u64,
    unused: [u64; 2],
}

/// Noise that the buffer is filled with, again and again.
const NOISE_BYTES: usize = 16 << 20;

/// Reads `n_bytes`, a multiple of 16, at `data`; writes their sum to the u32 at `sink` only if it is
/// one unlikely number.
pub fn read_launch(data: u64, sink: u64, n_bytes: u64, card: Card) -> Launch {
    let params = ReadParams { data, sink, n: n_bytes / 16 };
    let grid = [card.n_multiprocessors * BLOCKS_PER_MULTIPROCESSOR, 1, 1];
    let kernel = Kernel { module: "measure", name: "read_words" };
    Launch { overlaps: false, ..Launch::new(kernel, params, grid, 256) }
}

/// Keeps the card busy while `n_launches` are queued with marks between them.
pub fn hold_launch(n_launches: usize) -> Launch {
    let nanoseconds = (n_launches as u64 * NANOSECONDS_PER_LAUNCH).min(MAX_NANOSECONDS);
    let params = HoldParams { nanoseconds, unused: [0; 2] };
    let kernel = Kernel { module: "measure", name: "hold" };
    Launch { overlaps: false, ..Launch::new(kernel, params, [1, 1, 1], 32) }
}

/// Bytes per second that the card reads from its memory.
pub(crate) fn read_bandwidth(shared: &Shared) -> Result<f64, DeviceError> {
    let Shared { context, name, pipeline, card, .. } = shared;
    let failed = |error: DriverError| lost(name, &error);
    let (free, _) = context.memory().map_err(failed)?;
    let n_bytes = (free / 2).clamp(1 << 20, MAX_BYTES) / 16 * 16;
    let data = DeviceBuffer::new(context, name, "measuring its bandwidth", n_bytes)?;
    let sink = DeviceBuffer::new(context, name, "measuring its bandwidth", 16)?;
    fill(shared, &data, n_bytes as usize)?;
    let launch = read_launch(data.address(), sink.address(), n_bytes, *card);
    let function = pipeline.function(&launch)?;
    let pass = || {
        let (begin, end) = (context.event(true)?, context.event(true)?);
        let stream = context.stream()?;
        stream.mark(&begin)?;
        stream.launch(&function, &launch.shape(), &launch.params)?;
        stream.mark(&end)?;
        stream.synchronize()?;
        end.ms_since(&begin)
    };
    let mut ms_min = f32::INFINITY;
    for _ in 0..N_PASSES {
        ms_min = ms_min.min(pass().map_err(failed)?);
    }
    Ok(n_bytes as f64 / f64::from(ms_min.max(1e-6)) * 1e3)
}

/// Fills the first `n_bytes` with bits that no weights are simpler than: zeros take less energy to move, and a card
/// that has power left reads them faster.
fn fill(shared: &Shared, data: &DeviceBuffer, n_bytes: usize) -> Result<(), DeviceError> {
    let Shared { context, name, .. } = shared;
    let mut noise =
        PinnedBuffer::new(context, name, "measuring its bandwidth", NOISE_BYTES.min(n_bytes))?;
    // Knuth's linear congruential generator, whose upper half is random enough.
    let mut state = 1_u64;
    for word in noise.bytes_mut().as_chunks_mut::<4>().0 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *word = ((state >> 32) as u32).to_le_bytes();
    }
    let upload = || {
        let stream = context.stream()?;
        for offset in (0..n_bytes).step_by(NOISE_BYTES) {
            noise.upload(&stream, 0..NOISE_BYTES.min(n_bytes - offset), data, offset)?;
        }
        stream.synchronize()
    };
    upload().map_err(|error| lost(name, &error))
}
