//! Memory of the card and of the machine, freed with its owner.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use zinc_backend::DeviceError;

use crate::driver::{Context, DriverError, Stream};

/// Memory of the card.
pub struct DeviceBuffer {
    context: Arc<Context>,
    address: u64,
    n_bytes: usize,
}

impl DeviceBuffer {
    /// `n_bytes` for `what`, not set to anything.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with the bytes that are free, or [`DeviceError::Lost`].
    pub fn new(
        context: &Arc<Context>,
        device: &str,
        what: &str,
        n_bytes: u64,
    ) -> Result<DeviceBuffer, DeviceError> {
        let made = match usize::try_from(n_bytes) {
            Ok(n_bytes) => context.alloc(n_bytes).map(|address| (address, n_bytes)),
            Err(_) => Err(DriverError { code: 2, text: "more than addresses".into() }),
        };
        match made {
            Ok((address, n_bytes)) => {
                Ok(DeviceBuffer { context: Arc::clone(context), address, n_bytes })
            }
            Err(error) => {
                let available = context.memory().map_or(0, |(free, _)| free);
                Err(refused_bytes(device, what, [n_bytes, available], &error))
            }
        }
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Sets all bytes to zero, in the order of the stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn zero(&self) -> Result<(), DriverError> {
        self.context.stream()?.zero(self.address, self.n_bytes)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.context.free(self.address);
    }
}

/// Memory of the machine that the card copies from and to by itself.
pub struct PinnedBuffer {
    context: Arc<Context>,
    address: *mut u8,
    n_bytes: usize,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// `n_bytes` for `what`, all zero.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or [`DeviceError::Lost`].
    pub fn new(
        context: &Arc<Context>,
        device: &str,
        what: &str,
        n_bytes: usize,
    ) -> Result<PinnedBuffer, DeviceError> {
        let address = context.alloc_host(n_bytes).map_err(|error| {
            let what = format!("{what} in the host's memory");
            // How much the driver may still pin, nobody says.
            refused_bytes(device, &what, [n_bytes as u64, 0], &error)
        })?;
        // SAFETY: `n_bytes` just allocated.
        unsafe { address.write_bytes(0, n_bytes) };
        Ok(PinnedBuffer { context: Arc::clone(context), address, n_bytes })
    }

    /// The bytes. The caller has waited for whatever copies to them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and set to zero in `new`; copies of the card are done, as the caller has waited for them.
        unsafe { std::slice::from_raw_parts(self.address, self.n_bytes) }
    }

    /// The bytes. The caller has waited for whatever copies from or to those that it looks at or changes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.n_bytes) }
    }

    /// Where it begins, for the card as well.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// The word `idx` of memory that is used by words, the card's stores among them.
    pub fn word(&self, idx: usize) -> &AtomicU32 {
        assert!(4 * idx + 4 <= self.n_bytes, "word out of bounds");
        // SAFETY: inside this buffer, which is aligned to more; the owner looks at it in no other way (`turns`).
        unsafe { AtomicU32::from_ptr(self.address.cast::<u32>().add(idx)) }
    }

    /// Copies `part` of the bytes to `to` at `offset`, in the order of the stream. They must not change from its turn on
    /// until then.
    ///
    /// # Errors
    /// The driver's.
    pub fn upload(
        &self,
        stream: &Stream<'_>,
        part: Range<usize>,
        to: &DeviceBuffer,
        offset: usize,
    ) -> Result<(), DriverError> {
        let n_bytes = part.len();
        assert!(part.end <= self.n_bytes && offset + n_bytes <= to.n_bytes, "upload out of bounds");
        // SAFETY: both ranges are inside their buffers; the owner of this buffer waits for an event behind the copy, or for
        // the stream, before changing or dropping the bytes (`exec`, `store`).
        unsafe { stream.upload(to.address + offset as u64, self.address.add(part.start), n_bytes) }
    }

    /// Copies `n_bytes` at `from` to offset `to` here, in the order of the stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn download(
        &mut self,
        stream: &Stream<'_>,
        to: usize,
        from: u64,
        n_bytes: usize,
    ) -> Result<(), DriverError> {
        assert!(to + n_bytes <= self.n_bytes, "download out of bounds");
        // SAFETY: inside this buffer, which nobody reads before its owner has waited for an event behind the copy, or for
        // the stream; `from` is memory of the owner's: an executable's arena (`exec`), or states (`store`).
        unsafe { stream.download(self.address.add(to), from, n_bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // Nothing may still be copied from or to it.
        let _ = self.context.stream().and_then(|stream| stream.synchronize());
        self.context.free_host(self.address);
    }
}

/// What it means that the driver refused something: no memory for `what`, of bytes unknown, or the device no longer works.
pub(crate) fn refused(device: &str, what: &str, error: &DriverError) -> DeviceError {
    refused_bytes(device, what, [0, 0], error)
}

/// The same for an allocation of so many bytes, where so many are available.
fn refused_bytes(
    device: &str,
    what: &str,
    [needed, available]: [u64; 2],
    error: &DriverError,
) -> DeviceError {
    let device = device.into();
    if error.is_out_of_memory() {
        return DeviceError::OutOfMemory { device, what: what.into(), needed, available };
    }
    DeviceError::Lost {
        device,
        reason: format!(
            "{error}; restart zinc, and see `nvidia-smi` and the kernel log if it stays"
        ),
    }
}

/// As [`refused`], where nothing is allocated by name: the driver itself may still want memory for it.
pub(crate) fn lost(device: &str, error: &DriverError) -> DeviceError {
    refused(device, "what the driver keeps of its own", error)
}
