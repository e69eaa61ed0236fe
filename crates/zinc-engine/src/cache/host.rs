//! The part of the cache that lies in the host's memory.

use std::sync::Arc;

use zinc_backend::{Device, DeviceError, StateAccess, States};
use zinc_plan::Dim;

use crate::kv::{PAGE_SIZE, PageId, WindowTable};

/// Copies rows of a device's states, and counts what the host holds of them.
pub(crate) struct HostTier {
    device: Arc<dyn Device>,
    states: States,
    /// What else lies in the same pages, with the bytes of one.
    beside: Option<(States, usize)>,
    /// Most bytes.
    budget: u64,
    used: u64,
}

impl HostTier {
    /// A tier of up to `budget` bytes; `None` if the device's states cannot be copied.
    pub fn new(device: Arc<dyn Device>, states: States, budget: u64) -> Option<HostTier> {
        device.state_access()?;
        Some(HostTier { device, states, beside: None, budget, used: 0 })
    }

    /// With other caches in the same pages, of `row_bytes` bytes a token.
    pub fn beside(self, states: States, row_bytes: u64) -> HostTier {
        let n_bytes = row_bytes as usize * PAGE_SIZE as usize;
        HostTier { beside: Some((states, n_bytes)), ..self }
    }

    /// Bytes that are free.
    pub fn n_free(&self) -> u64 {
        self.budget - self.used
    }

    /// Most bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Counts bytes that are kept from now on; there must be room for them.
    pub fn keep(&mut self, n_bytes: usize) {
        self.used += n_bytes as u64;
    }

    /// Counts bytes that are dropped.
    pub fn drop(&mut self, n_bytes: usize) {
        self.used -= n_bytes as u64;
    }

    fn access(&self) -> Result<&dyn StateAccess, DeviceError> {
        self.device.state_access().ok_or_else(|| DeviceError::Unavailable {
            device: self.device.info().name.clone(),
            reason: "its caches cannot be copied".into(),
        })
    }

    /// The rows of a page of the caches that keep everything.
    pub fn read_page(&self, page: PageId) -> Result<Box<[u8]>, DeviceError> {
        let mut bytes = Vec::new();
        let all = std::iter::once(&self.states).chain(self.beside.as_ref().map(|(it, _)| it));
        for states in all {
            self.access()?.read_rows(states, Dim::CacheRows, rows(page), &mut bytes)?;
        }
        Ok(bytes.into())
    }

    /// Writes them to another page.
    pub fn write_page(&self, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        let n_beside = self.beside.as_ref().map_or(0, |(_, n_bytes)| *n_bytes);
        let (own, others) = bytes.split_at(bytes.len().saturating_sub(n_beside));
        self.access()?.write_rows(&self.states, Dim::CacheRows, rows(page), own)?;
        match &self.beside {
            Some((states, _)) => {
                self.access()?.write_rows(states, Dim::CacheRows, rows(page), others)
            }
            None => Ok(()),
        }
    }

    /// The rows of a window's pages, then of a recurrent state.
    pub fn read_checkpoint(
        &self,
        window: Option<&WindowTable>,
        state: Option<PageId>,
    ) -> Result<Box<[u8]>, DeviceError> {
        let (access, mut bytes) = (self.access()?, Vec::new());
        for page in window.iter().flat_map(|window| window.pages()) {
            access.read_rows(&self.states, Dim::WindowRows, rows(page), &mut bytes)?;
        }
        if let Some(state) = state {
            let rows = state.0..state.0 + 1;
            access.read_rows(&self.states, Dim::StateSlots, rows, &mut bytes)?;
        }
        Ok(bytes.into())
    }

    /// Writes them to other pages, as many, and another row.
    pub fn write_checkpoint(
        &self,
        window: Option<&WindowTable>,
        state: Option<PageId>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let access = self.access()?;
        let (mut page_bytes, mut state_bytes) = (Vec::new(), 0);
        if let Some(state) = state {
            let rows = state.0..state.0 + 1;
            access.read_rows(&self.states, Dim::StateSlots, rows.clone(), &mut page_bytes)?;
            state_bytes = page_bytes.len().min(bytes.len());
            let at = bytes.len() - state_bytes;
            access.write_rows(&self.states, Dim::StateSlots, rows, &bytes[at..])?;
        }
        let n_pages = window.map_or(0, |window| window.pages().count());
        let each = (bytes.len() - state_bytes) / n_pages.max(1);
        let pages = window.iter().flat_map(|window| window.pages());
        for (page, bytes) in pages.zip(bytes.chunks_exact(each.max(1))) {
            access.write_rows(&self.states, Dim::WindowRows, rows(page), bytes)?;
        }
        Ok(())
    }
}

fn rows(page: PageId) -> std::ops::Range<u32> {
    page.0 * PAGE_SIZE..(page.0 + 1) * PAGE_SIZE
}
