//! The one stream of a context, and the gate that its work may be behind.
//!
//! A step that is queued before it is known waits on the card until its turn has come (`kernels/step.cu`). Until then
//! nothing goes on behind it, so whoever uses the stream, or calls what may wait for it, opens the gate first: the step
//! then goes on as one that has nothing to do.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{MutexGuard, PoisonError};

use super::{Context, Event, Function, Graph, Result, Shape, api};

/// A turn that the stream waits for, and the word that has to reach its number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting {
    word: *const AtomicU32,
    turn: u32,
}

/// Closed while the stream waits for a turn.
#[derive(Default)]
pub(super) struct Gate {
    waiting: Option<Waiting>,
}

// SAFETY: whoever closes the gate owns the word, which goes only after the stream was asked for, and so the gate opened.
unsafe impl Send for Gate {}

impl Gate {
    fn open(&mut self) {
        if let Some(Waiting { word, turn }) = self.waiting.take() {
            // SAFETY: lives as long as the gate is closed, see above.
            let word = unsafe { &*word };
            // What was written before is there for whoever sees the number.
            word.store(turn, Ordering::Release);
        }
    }
}

/// The right to use the stream, which one thread has at a time.
pub struct Stream<'a> {
    context: &'a Context,
    gate: MutexGuard<'a, Gate>,
}

impl Context {
    /// The stream, with the gate open, for whatever uses it or may wait for it. One at a time: a thread that holds one
    /// must not ask for another.
    ///
    /// # Errors
    /// The driver's.
    pub fn stream(&self) -> Result<Stream<'_>> {
        self.enter()?;
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.open();
        Ok(Stream { context: self, gate })
    }

    /// Whether `user`, any number of its own, is the one who asked this last; nobody is at first.
    pub fn was_last_used_by(&self, user: u64) -> bool {
        self.last_user.swap(user, Ordering::Relaxed) == user
    }

    /// Has `turn` go on, if the stream still waits for it: `write` writes its inputs. Whether it did.
    pub fn go_on(&self, word: &AtomicU32, turn: u32, write: impl FnOnce()) -> bool {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_waiting = gate.waiting == Some(Waiting { word, turn });
        if is_waiting {
            write();
            gate.open();
        }
        is_waiting
    }
}

impl Stream<'_> {
    /// Closes the gate: what this queues from now on begins by waiting until `word` reaches `turn`. It must stay where it
    /// is until the stream is asked for the next time, by whoever frees it at the latest.
    pub(crate) fn close(&mut self, word: &AtomicU32, turn: u32) {
        self.gate.waiting = Some(Waiting { word, turn });
    }

    /// Copies to the card.
    ///
    /// # Safety
    /// `from` must stay readable until the stream has passed, and unchanged from when its turn comes; `to` must be
    /// `n_bytes` of the card's.
    pub(crate) unsafe fn upload(&self, to: u64, from: *const u8, n_bytes: usize) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        // SAFETY: the caller's promise.
        let queued = unsafe { (driver.api.memcpy_htod_async)(to, from.cast(), n_bytes, stream) };
        driver.check("cuMemcpyHtoDAsync", queued)
    }

    /// Copies from the card.
    ///
    /// # Safety
    /// `to` must stay writable and unread until the stream has passed; `from` must be `n_bytes` of the card's.
    pub(crate) unsafe fn download(&self, to: *mut u8, from: u64, n_bytes: usize) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        // SAFETY: the caller's promise.
        let queued = unsafe { (driver.api.memcpy_dtoh_async)(to.cast(), from, n_bytes, stream) };
        driver.check("cuMemcpyDtoHAsync", queued)
    }

    /// Sets memory of the card to zeros.
    pub(crate) fn zero(&self, address: u64, n_bytes: usize) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        // SAFETY: the caller owns the range, see `memory::DeviceBuffer::zero`.
        let queued = unsafe { (driver.api.memset_d8_async)(address, 0, n_bytes, stream) };
        driver.check("cuMemsetD8Async", queued)
    }

    /// Launches `function` with one parameter, the bytes of a struct.
    ///
    /// Kernels reach only memory of the card, and pinned memory of the machine, which [`crate::launch`] is given no address
    /// of but by `turns`: a wrong address fails the context and harms no other memory of this process.
    ///
    /// # Errors
    /// The driver's.
    pub fn launch(&self, function: &Function, shape: &Shape, params: &[u8]) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        let mut attribute = api::LaunchAttribute::overlap();
        let config = api::LaunchConfig {
            grid: shape.grid,
            block: [shape.block, 1, 1],
            shared: shape.shared,
            stream,
            attributes: &raw mut attribute,
            n_attributes: u32::from(shape.overlaps),
        };
        let mut params = [params.as_ptr().cast_mut().cast()];
        // SAFETY: the driver reads as many bytes as the kernel's parameter has, which `pipeline` has compared with
        // the struct's size; config and attribute live over the call.
        let queued = unsafe {
            (driver.api.launch_kernel_ex)(
                &raw const config,
                function.raw,
                params.as_mut_ptr(),
                null_mut(),
            )
        };
        driver.check("cuLaunchKernelEx", queued)
    }

    /// Runs the recorded launches.
    ///
    /// # Errors
    /// The driver's.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        // SAFETY: graph and stream live.
        let queued = unsafe { (driver.api.graph_launch)(graph.raw, stream) };
        driver.check("cuGraphLaunch", queued)
    }

    /// Puts the mark here.
    ///
    /// # Errors
    /// The driver's.
    pub fn mark(&self, event: &Event) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        // SAFETY: event and stream live.
        let queued = unsafe { (driver.api.event_record)(event.raw, stream) };
        driver.check("cuEventRecord", queued)
    }

    /// Waits until everything in the stream is done.
    ///
    /// # Errors
    /// The driver's, also those of launches before.
    pub fn synchronize(&self) -> Result<()> {
        let Context { driver, stream, .. } = *self.context;
        // SAFETY: the stream lives until the context goes.
        let waited = unsafe { (driver.api.stream_synchronize)(stream) };
        driver.check("cuStreamSynchronize", waited)
    }
}
