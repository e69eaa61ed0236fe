//! Pages of a sequence in the window group: the last ones only, in a ring.

use std::collections::VecDeque;

use super::{KvError, PAGE_SIZE, PageId, PagePool, n_pages_for};

/// The last pages of one sequence, and where they stand in the ring that plans see.
///
/// A page that slides out is given back and a fresh one taken in its place, so a page that somebody
/// else still holds is never overwritten. Pages are kept for as long as the ring has room, which
/// lets a sequence go back by a step or so. Give the table back with [`WindowTable::clear`].
#[derive(Debug)]
pub struct WindowTable {
    /// Pages `first ..` of the sequence, counted from position 0.
    pages: VecDeque<PageId>,
    first: u32,
    /// Entries of the ring.
    n_entries: u32,
    /// Keys that a query sees, itself included.
    window: u32,
}

impl WindowTable {
    /// An empty table over a ring of `n_entries` pages, which
    /// [`ring_pages`](zinc_plan::Limits::ring_pages) says for `window`.
    pub fn new(n_entries: u32, window: u32) -> WindowTable {
        let pages = VecDeque::with_capacity(n_entries as usize);
        WindowTable { pages, first: 0, n_entries, window }
    }

    fn end(&self) -> u32 {
        self.first + self.pages.len() as u32
    }

    /// First position that a token after `n_tokens` others sees.
    fn first_key(&self, n_tokens: u32) -> u32 {
        (n_tokens + 1).saturating_sub(self.window)
    }

    /// Whether a sequence can go on after its first `n_tokens` positions.
    pub fn covers(&self, n_tokens: u32) -> bool {
        let first = self.first_key(n_tokens) / PAGE_SIZE;
        self.first <= first && n_pages_for(n_tokens) <= self.end()
    }

    /// The pages, by rising position.
    pub fn pages(&self) -> impl Iterator<Item = PageId> {
        self.pages.iter().copied()
    }

    /// Slides on until the ring has room for `n_tokens` positions, and returns how many pages it
    /// takes for them; what slid out is gone.
    pub fn slide(&mut self, pool: &mut PagePool, n_tokens: u32) -> u32 {
        let n_new = n_pages_for(n_tokens).saturating_sub(self.end());
        assert!(n_new <= self.n_entries, "a step is larger than its ring");
        let n_out = (self.pages.len() as u32 + n_new).saturating_sub(self.n_entries);
        for page in self.pages.drain(..n_out as usize) {
            pool.release(page);
        }
        self.first += n_out;
        n_new
    }

    /// Slides on and takes pages until there is room for `n_tokens` positions.
    ///
    /// # Errors
    /// [`KvError::Exhausted`], when a pool was made for fewer sequences; what slid out is gone.
    pub fn grow(&mut self, pool: &mut PagePool, n_tokens: u32) -> Result<(), KvError> {
        let n_new = self.slide(pool, n_tokens);
        pool.take(n_new, &mut self.pages)
    }

    /// Pages that going on after the first `n_tokens` positions needs.
    pub fn n_pages_before(&self, n_tokens: u32) -> u32 {
        n_pages_for(n_tokens).saturating_sub(self.first_key(n_tokens) / PAGE_SIZE)
    }

    /// Takes fresh pages in the place of those that going on after the first `n_tokens` positions
    /// needs; the caller fills them.
    ///
    /// # Errors
    /// [`KvError::Exhausted`].
    pub fn take_before(&mut self, pool: &mut PagePool, n_tokens: u32) -> Result<(), KvError> {
        self.clear(pool);
        self.first = self.first_key(n_tokens) / PAGE_SIZE;
        pool.take(self.n_pages_before(n_tokens), &mut self.pages)
    }

    /// Keeps the pages of the first `n_tokens` positions.
    pub fn truncate(&mut self, pool: &mut PagePool, n_tokens: u32) {
        let n_kept = n_pages_for(n_tokens).saturating_sub(self.first);
        for page in self.pages.drain((n_kept as usize).min(self.pages.len())..) {
            pool.release(page);
        }
    }

    /// Gives all pages back.
    pub fn clear(&mut self, pool: &mut PagePool) {
        self.pages.drain(..).for_each(|page| pool.release(page));
        self.first = 0;
    }

    /// A second table over the pages that going on after the first `n_tokens` positions needs,
    /// which this one [`covers`](WindowTable::covers). The last of them may be written on by either
    /// table, after those positions: rows before them stay.
    pub fn pin(&self, pool: &mut PagePool, n_tokens: u32) -> WindowTable {
        let first = self.first_key(n_tokens) / PAGE_SIZE;
        let range = (first - self.first) as usize..(n_pages_for(n_tokens) - self.first) as usize;
        let pages: VecDeque<PageId> = self.pages.range(range).copied().collect();
        pages.iter().for_each(|page| pool.share(*page));
        WindowTable { pages, first, n_entries: self.n_entries, window: self.window }
    }

    /// Goes back to what `pinned` holds.
    pub fn restore(&mut self, pool: &mut PagePool, pinned: &WindowTable) {
        pinned.pages.iter().for_each(|page| pool.share(*page));
        self.clear(pool);
        self.pages.extend(&pinned.pages);
        self.first = pinned.first;
    }

    /// Cache row of `position`, which must be within the pages.
    pub fn slot(&self, position: u32) -> u32 {
        let page = self.pages[(position / PAGE_SIZE - self.first) as usize];
        page.0 * PAGE_SIZE + position % PAGE_SIZE
    }

    /// Appends the ring to a step's page tables; entries without a page are 0.
    pub fn push_ring(&self, tables: &mut Vec<i32>) {
        let start = tables.len();
        tables.resize(start + self.n_entries as usize, 0);
        for (idx, page) in (self.first..).zip(&self.pages) {
            tables[start + (idx % self.n_entries) as usize] = page.0 as i32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zinc_plan::Limits;

    const WINDOW: u32 = 2 * PAGE_SIZE;
    const STEP: u32 = PAGE_SIZE + 3;

    fn table() -> WindowTable {
        WindowTable::new(Limits::ring_pages(PAGE_SIZE, WINDOW, STEP), WINDOW)
    }

    #[test]
    fn pages_slide_and_are_given_back() {
        let mut pool = PagePool::new(5);
        let mut table = table();
        assert_eq!(table.n_entries, 5);
        assert!(table.covers(0));
        for n_tokens in (STEP..50 * STEP).step_by(STEP as usize) {
            let before = n_tokens - STEP;
            assert!(table.covers(before));
            table.grow(&mut pool, n_tokens).unwrap();
            // All rows that the step reads and writes are there and apart.
            let rows: std::collections::HashSet<u32> =
                (table.first_key(before)..n_tokens).map(|position| table.slot(position)).collect();
            assert_eq!(rows.len() as u32, n_tokens - table.first_key(before));
        }
        let mut ring = vec![7];
        table.push_ring(&mut ring);
        let place = |position: u32| ring[1 + (position / PAGE_SIZE % table.n_entries) as usize];
        let last = 49 * STEP - 1;
        for position in last + 1 - WINDOW..=last {
            let row = place(position) as u32 * PAGE_SIZE + position % PAGE_SIZE;
            assert_eq!(row, table.slot(position));
        }
        assert!(!table.covers(0));
        table.clear(&mut pool);
        assert_eq!(pool.n_free(), 5);
    }

    #[test]
    fn a_pinned_page_is_not_taken_for_something_else() {
        let mut pool = PagePool::new(9);
        let mut table = table();
        let n_pinned = WINDOW + PAGE_SIZE + 5;
        table.grow(&mut pool, STEP).unwrap();
        table.grow(&mut pool, n_pinned).unwrap();
        let mut pinned = table.pin(&mut pool, n_pinned);
        let slots: Vec<u32> =
            (n_pinned + 1 - WINDOW..n_pinned).map(|position| table.slot(position)).collect();
        // The live table goes on in the last pinned page and then leaves all of them behind.
        let mut n_tokens = n_pinned;
        while n_tokens < 20 * STEP {
            n_tokens += STEP;
            table.grow(&mut pool, n_tokens).unwrap();
            let written = n_tokens - STEP..n_tokens;
            assert!(written.into_iter().all(|position| !slots.contains(&table.slot(position))));
        }
        assert!(!table.covers(n_pinned));
        table.restore(&mut pool, &pinned);
        assert!(table.covers(n_pinned));
        assert!((n_pinned + 1 - WINDOW..n_pinned).map(|position| table.slot(position)).eq(slots));
        assert!(!table.covers(n_pinned - 10), "the page of its first key was not pinned");
        table.clear(&mut pool);
        pinned.clear(&mut pool);
        assert_eq!(pool.n_free(), 9);
    }
}
