//! Pages of the key/value cache: which sequence owns which.
//!
//! Positions `i * PAGE_SIZE ..` of a sequence live in its i-th page, whichever that is, so a
//! sequence grows without moving and gives back what it no longer needs. Pages are counted
//! references: a full page may belong to several sequences that read it; a page that is still being
//! written belongs to one. Layers with a sliding window keep the last pages only, in pages of their
//! own: see [`WindowTable`].

mod window;

pub use window::WindowTable;

/// Cache rows of a page, one per position. Large enough that attention reads runs of rows and page
/// tables stay short, small enough that little of a sequence's last page is wasted.
pub const PAGE_SIZE: u32 = 32;

/// Why pages could not be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Too few pages are free; nothing was taken.
    #[error(
        "the key/value cache has {n_free} of {n_pages} pages of {PAGE_SIZE} tokens free, \
         {n_needed} more are needed; hint: a larger context gives a larger cache"
    )]
    Exhausted {
        /// Pages asked for.
        n_needed: u32,
        /// Pages free.
        n_free: u32,
        /// Pages in all.
        n_pages: u32,
    },
}

/// Index of a page in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// All pages of one cache.
#[derive(Debug)]
pub struct PagePool {
    /// Owners of each page; 0 is free.
    n_owners: Vec<u32>,
    /// Free pages, the next one to hand out last.
    free: Vec<PageId>,
}

impl PagePool {
    /// A pool of `n_pages` free pages.
    pub fn new(n_pages: u32) -> PagePool {
        // Low pages first, so that a short sequence stays within a short stretch of memory.
        PagePool {
            n_owners: vec![0; n_pages as usize],
            free: (0..n_pages).rev().map(PageId).collect(),
        }
    }

    /// Pages in all.
    pub fn n_pages(&self) -> u32 {
        self.n_owners.len() as u32
    }

    /// Pages nobody owns.
    pub fn n_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Sequences that own `page`.
    pub fn n_owners(&self, page: PageId) -> u32 {
        self.n_owners[page.0 as usize]
    }

    /// Takes one page.
    pub(crate) fn take_one(&mut self) -> Option<PageId> {
        let page = self.free.pop()?;
        self.n_owners[page.0 as usize] = 1;
        Some(page)
    }

    fn take(&mut self, n_needed: u32, pages: &mut impl Extend<PageId>) -> Result<(), KvError> {
        let n_free = self.n_free();
        if n_needed > n_free {
            return Err(KvError::Exhausted { n_needed, n_free, n_pages: self.n_pages() });
        }
        let n_owners = &mut self.n_owners;
        let taken = self.free.drain((n_free - n_needed) as usize..).rev();
        pages.extend(taken.inspect(|page| n_owners[page.0 as usize] = 1));
        Ok(())
    }

    /// The page has one more owner.
    pub(crate) fn share(&mut self, page: PageId) {
        let n_owners = &mut self.n_owners[page.0 as usize];
        assert!(*n_owners > 0, "page {} is shared while free", page.0);
        *n_owners += 1;
    }

    /// The page has one owner less.
    pub(crate) fn release(&mut self, page: PageId) {
        let n_owners = &mut self.n_owners[page.0 as usize];
        assert!(*n_owners > 0, "page {} is released twice", page.0);
        *n_owners -= 1;
        if *n_owners == 0 {
            self.free.push(page);
        }
    }
}

/// The pages of one sequence, in order of position.
///
/// Give it back with [`PageTable::truncate`] to 0 before dropping it: it cannot reach its pool by
/// itself.
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<PageId>,
}

/// Pages that `n_tokens` positions need.
pub fn n_pages_for(n_tokens: u32) -> u32 {
    n_tokens.div_ceil(PAGE_SIZE)
}

impl PageTable {
    /// A table that will grow to `n_pages` pages without allocating memory.
    pub fn with_capacity(n_pages: u32) -> PageTable {
        PageTable { pages: Vec::with_capacity(n_pages as usize) }
    }

    /// The pages.
    pub fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Takes pages until there is room for `n_tokens` positions; all of them or none.
    ///
    /// # Errors
    /// [`KvError::Exhausted`].
    pub fn grow(&mut self, pool: &mut PagePool, n_tokens: u32) -> Result<(), KvError> {
        let n_needed = n_pages_for(n_tokens).saturating_sub(self.pages.len() as u32);
        pool.take(n_needed, &mut self.pages)
    }

    /// Keeps the first `n_tokens` positions, as many as can be kept for writing on from there, and
    /// returns how many that is: the page in which writing goes on must not be shared, so of a
    /// shared one nothing is kept.
    pub fn truncate(&mut self, pool: &mut PagePool, n_tokens: u32) -> u32 {
        let mut n_kept = n_tokens.min(self.pages.len() as u32 * PAGE_SIZE);
        let is_shared = |page: &PageId| pool.n_owners(*page) > 1;
        if !n_kept.is_multiple_of(PAGE_SIZE)
            && is_shared(&self.pages[(n_kept / PAGE_SIZE) as usize])
        {
            n_kept -= n_kept % PAGE_SIZE;
        }
        for page in self.pages.drain(n_pages_for(n_kept) as usize..).rev() {
            pool.release(page);
        }
        n_kept
    }

    /// Goes on with a full page that somebody else owns too.
    pub(crate) fn push_shared(&mut self, pool: &mut PagePool, page: PageId) {
        pool.share(page);
        self.pages.push(page);
    }

    /// Takes another full page, which holds the same, for the one at `idx`.
    pub(crate) fn replace(&mut self, pool: &mut PagePool, idx: usize, page: PageId) {
        pool.share(page);
        pool.release(std::mem::replace(&mut self.pages[idx], page));
    }

    /// Cache row of `position`, which must be within the pages.
    pub fn slot(&self, position: u32) -> u32 {
        self.pages[(position / PAGE_SIZE) as usize].0 * PAGE_SIZE + position % PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn pages_follow_the_positions() {
        let mut pool = PagePool::new(4);
        let mut table = PageTable::default();
        table.grow(&mut pool, 0).unwrap();
        assert!(table.pages().is_empty());
        table.grow(&mut pool, 1).unwrap();
        table.grow(&mut pool, PAGE_SIZE).unwrap();
        assert_eq!(table.pages(), [PageId(0)]);
        table.grow(&mut pool, PAGE_SIZE + 1).unwrap();
        assert_eq!(table.pages(), [PageId(0), PageId(1)]);
        assert_eq!(
            [0, PAGE_SIZE - 1, PAGE_SIZE + 3].map(|p| table.slot(p)),
            [0, PAGE_SIZE - 1, PAGE_SIZE + 3]
        );
        assert_eq!(table.truncate(&mut pool, 5), 5);
        assert_eq!((table.pages().len(), pool.n_free()), (1, 3));
        assert_eq!(table.truncate(&mut pool, 500), PAGE_SIZE);
    }

    #[test]
    fn exhaustion_is_an_error_with_numbers_and_takes_nothing() {
        let mut pool = PagePool::new(3);
        let mut table = PageTable::default();
        table.grow(&mut pool, 2 * PAGE_SIZE).unwrap();
        let error = table.grow(&mut pool, 5 * PAGE_SIZE).unwrap_err();
        assert_eq!(error, KvError::Exhausted { n_needed: 3, n_free: 1, n_pages: 3 });
        assert_eq!((table.pages().len(), pool.n_free()), (2, 1));
    }

    #[test]
    fn a_shared_page_is_never_written_on() {
        let mut pool = PagePool::new(4);
        let mut first = PageTable::default();
        first.grow(&mut pool, 2 * PAGE_SIZE + 4).unwrap();
        let mut second = PageTable::default();
        first.pages()[..2].to_vec().into_iter().for_each(|it| second.push_shared(&mut pool, it));
        // Writing on at the end is in pages of their own; writing on inside a shared page is
        // refused by keeping less.
        second.grow(&mut pool, 2 * PAGE_SIZE + 1).unwrap();
        assert_ne!(first.pages()[2], second.pages()[2]);
        assert_eq!(second.truncate(&mut pool, PAGE_SIZE + 7), PAGE_SIZE);
        assert_eq!(first.truncate(&mut pool, PAGE_SIZE + 7), PAGE_SIZE + 7);
        first.truncate(&mut pool, 0);
        assert_eq!(pool.n_free(), 3, "page 0 is still owned by the second table");
        second.truncate(&mut pool, 0);
        assert_eq!(pool.n_free(), 4);
    }

    /// Random growth, sharing and truncation: references always add up, and no page that somebody
    /// may write to has two owners.
    #[test]
    fn owners_always_add_up() {
        let mut state = 12_345u64;
        let mut random = |n: u32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % n
        };
        let mut pool = PagePool::new(24);
        let mut tables: Vec<(PageTable, u32)> = Vec::new();
        for _ in 0..5000 {
            match random(4) {
                0 => tables.push((PageTable::default(), 0)),
                1 if !tables.is_empty() => {
                    let at = random(tables.len() as u32) as usize;
                    let (table, n_tokens) = &mut tables[at];
                    let n_more = random(50);
                    if table.grow(&mut pool, *n_tokens + n_more).is_ok() {
                        *n_tokens += n_more;
                    }
                }
                2 if !tables.is_empty() => {
                    let at = random(tables.len() as u32) as usize;
                    let n_full = tables[at].1 / PAGE_SIZE;
                    let pages = tables[at].0.pages()[..n_full as usize].to_vec();
                    let mut shared = PageTable::default();
                    pages.into_iter().for_each(|page| shared.push_shared(&mut pool, page));
                    tables.push((shared, n_full * PAGE_SIZE));
                }
                3 if !tables.is_empty() => {
                    let at = random(tables.len() as u32) as usize;
                    let (table, n_tokens) = &mut tables[at];
                    *n_tokens = table.truncate(&mut pool, random(*n_tokens + 1));
                    if *n_tokens == 0 {
                        tables.swap_remove(at);
                    }
                }
                _ => {}
            }
            let mut owners: HashMap<PageId, u32> = HashMap::new();
            for (table, n_tokens) in &tables {
                table.pages().iter().for_each(|page| *owners.entry(*page).or_default() += 1);
                let written = &table.pages()[(n_tokens / PAGE_SIZE) as usize..];
                assert!(written.iter().all(|page| pool.n_owners(*page) == 1));
            }
            assert!(owners.iter().all(|(page, n)| pool.n_owners(*page) == *n));
            assert_eq!(owners.len() as u32 + pool.n_free(), pool.n_pages());
        }
    }
}
