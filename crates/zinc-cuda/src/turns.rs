//! Turns of an executable whose steps may be queued before they are known: `kernels/step.cu`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use zinc_backend::{DeviceError, StepSizes};

use crate::driver::{Context, DriverError, Stream};
use crate::launch::{Kernel, Launch};
use crate::lower;
use crate::memory::{DeviceBuffer, PinnedBuffer};

/// Longest wait for a turn: more than a host takes to choose a token, and less than what looks at a card would notice.
const MOST_NANOSECONDS: u64 = 50_000_000;

/// As many turns missed in a row, and none waits for so many steps.
const MOST_MISSED: u32 = 4;
const N_PASSED: u32 = 1000;

/// A card that does not say within this time what it does is lost, as the driver will say.
const MOST_LEAVING: Duration = Duration::from_secs(1);

/// What becomes of a turn, in its word; 0 until it is known.
const LEAVING: u32 = 2;
const LEFT: u32 = 3;

/// `StepBeginParams` of `step.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct StepBeginParams {
    go: u64,
    fate: u64,
    from: u64,
    turns: u64,
    to: u64,
    nanoseconds: u64,
    stride: u32,
    n_slots: u32,
}

/// The host's side: inputs of the turns that may be under way, and the words that card and host agree by.
pub(crate) struct Turns {
    inputs: PinnedBuffer,
    stride: usize,
    /// The newest turn that may go on, then a word for each slot.
    words: PinnedBuffer,
    n_slots: u32,
    /// Turns in a row that waited in vain although they were wanted.
    n_missed: u32,
    /// Steps since then that were not queued ahead.
    n_passed: u32,
}

impl Turns {
    /// For inputs of up to `n_bytes` and `n_slots` turns under way.
    pub fn new(
        context: &Arc<Context>,
        device: &str,
        n_bytes: usize,
        n_slots: u32,
    ) -> Result<Turns, DeviceError> {
        let pinned = |n_bytes| PinnedBuffer::new(context, device, "step inputs", n_bytes);
        let stride = n_bytes.next_multiple_of(16);
        Ok(Turns {
            inputs: pinned(stride * n_slots as usize)?,
            stride,
            words: pinned(4 * (1 + n_slots as usize))?,
            n_slots,
            n_missed: 0,
            n_passed: 0,
        })
    }

    /// The launch that begins a turn: brings its inputs to `to`. The number of turns so far is at `turns`.
    pub fn launch(&self, turns: u64, to: u64) -> Launch {
        let words = self.words.address();
        let params = StepBeginParams {
            go: words,
            fate: words + 4,
            from: self.inputs.address(),
            turns,
            to,
            nanoseconds: MOST_NANOSECONDS,
            stride: self.stride as u32,
            n_slots: self.n_slots,
        };
        let kernel = Kernel { module: "step", name: "step_begin" };
        Launch { overlaps: false, ..Launch::new(kernel, params, [1, 1, 1], 256) }
    }

    /// Where in `inputs` those of `turn` are.
    fn place(&self, turn: u32) -> Range<usize> {
        let start = (turn % self.n_slots) as usize * self.stride;
        start..start + self.stride
    }

    /// Copies the inputs of `turn` to the card, where it does not bring them itself.
    pub fn upload(
        &self,
        stream: &Stream<'_>,
        turn: u32,
        n_bytes: usize,
        to: &DeviceBuffer,
    ) -> Result<(), DriverError> {
        let start = self.place(turn).start;
        self.inputs.upload(stream, start..start + n_bytes, to, 0)
    }

    /// Where the inputs of `turn` go, once the turn that had the place before is over.
    pub fn inputs(&mut self, turn: u32) -> &mut [u8] {
        let place = self.place(turn);
        &mut self.inputs.bytes_mut()[place]
    }

    /// Makes ready for a turn that is not known yet: without rows as long as nobody says otherwise.
    pub fn begin(&mut self, turn: u32) {
        let sizes = StepSizes { tokens: 0, seqs: 0, out_rows: 0 };
        let nothing = lower::header(sizes, lower::HEADER_BYTES as usize);
        let bytes: &[u8] = bytemuck::cast_slice(&nothing);
        self.inputs(turn)[..bytes.len()].copy_from_slice(bytes);
        self.fate(turn).store(0, Ordering::Relaxed);
    }

    /// The word to store a turn in when it may go on.
    pub fn go(&self) -> &AtomicU32 {
        self.words.word(0)
    }

    fn fate(&self, turn: u32) -> &AtomicU32 {
        self.words.word(1 + (turn % self.n_slots) as usize)
    }

    /// Has `turn`, which waits behind the gate, go on with the inputs that `write` writes. False if it does not wait any
    /// more, and has nothing to do.
    pub fn go_on(&mut self, context: &Context, turn: u32, write: impl FnOnce(&mut [u8])) -> bool {
        let place = self.place(turn);
        let bytes = &mut self.inputs.bytes_mut()[place];
        context.go_on(self.words.word(0), turn, || write(bytes)) && self.goes(turn)
    }

    /// Whether `turn`, which may go on, does: it may have waited too long already.
    fn goes(&mut self, turn: u32) -> bool {
        // Either the card sees that it may go on, or this sees that the card is leaving.
        fence(Ordering::SeqCst);
        let begin = Instant::now();
        let is_missed = loop {
            match self.fate(turn).load(Ordering::Acquire) {
                LEAVING if begin.elapsed() < MOST_LEAVING => std::hint::spin_loop(),
                fate => break fate == LEFT || fate == LEAVING,
            }
        };
        self.n_missed = if is_missed { self.n_missed + 1 } else { 0 };
        !is_missed
    }

    /// Whether to queue a step ahead: not while the host is too slow for it, or launches are made one by one.
    pub fn pay(&mut self) -> bool {
        if self.n_missed < MOST_MISSED {
            return true;
        }
        self.n_passed += 1;
        if self.n_passed == N_PASSED {
            (self.n_missed, self.n_passed) = (MOST_MISSED - 1, 0);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::StepBeginParams;
    use crate::pipeline::{code, param_bytes};

    #[test]
    fn parameters_are_as_large_as_the_kernel_wants() {
        for capability in [75, 80, 90] {
            let code = code("step", capability).expect("in the binary");
            assert_eq!(param_bytes(&code, "step_begin"), Some(size_of::<StepBeginParams>()));
        }
    }
}
