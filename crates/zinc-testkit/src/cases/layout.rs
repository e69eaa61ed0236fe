//! Which rows the steps of a case hold, and how to cut them into smaller steps.

use zinc_backend::StepInputs;
use zinc_plan::Limits;

use crate::random::Rng;

/// One token of a step.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Token id: the row of the operand tables.
    pub token: i32,
    /// Sequence.
    pub seq: usize,
    /// Position in the sequence.
    pub position: i32,
    /// Cache row to write.
    pub slot: i32,
    /// Row of the rope table.
    pub variant: i32,
    /// Whether the row is listed in `out_rows`.
    pub wanted: bool,
    /// State slot that the sequence goes on from when a step begins with this row; its own if none.
    pub from: Option<i32>,
    /// State slot that also receives the state after this row, or -1.
    pub save: i32,
}

/// The steps of a case.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Rows of a cache page.
    pub page_size: u32,
    /// Pages of the whole cache.
    pub n_pages: u32,
    /// Page table of each sequence, all of one length.
    pub pages: Vec<Vec<i32>>,
    /// Page table of each sequence in the window group, a ring; empty without windows.
    pub window_pages: Vec<Vec<i32>>,
    /// State slots, numbered from 0: one of nobody, one of each sequence, those of saves.
    pub n_state_slots: u32,
    /// Steps in order; rows of one step may be run together or apart.
    pub steps: Vec<Vec<Row>>,
}

impl Layout {
    /// One step with these token ids, one sequence, no cache.
    pub(crate) fn tokens(tokens: impl IntoIterator<Item = i32>) -> Self {
        let tokens: Vec<i32> = tokens.into_iter().collect();
        let rows = tokens.iter().map(|token| Row {
            token: *token,
            seq: 0,
            position: 0,
            slot: 0,
            variant: 0,
            wanted: true,
            from: None,
            save: -1,
        });
        Self {
            page_size: 1 << 20,
            n_pages: 1,
            pages: vec![vec![0]],
            window_pages: Vec::new(),
            n_state_slots: 2,
            steps: vec![rows.collect()],
        }
    }

    /// One step with the rows `n - 1 .. 0` of the operand tables: not the identity, so that a
    /// device cannot skip the embedding.
    pub(crate) fn rows(n: u32) -> Self {
        Self::tokens((0..n as i32).rev())
    }

    /// Sequences of `past + new` tokens with shuffled pages: the past is written 16 tokens of each
    /// sequence at a time, then one step holds the new tokens of all, interleaved. Token ids count
    /// up over everything.
    pub(crate) fn sequences(seqs: &[[u32; 2]], page_size: u32, rng: &mut Rng) -> Self {
        let per_seq = seqs.iter().map(|[past, new]| (past + new).div_ceil(page_size));
        let per_seq = per_seq.max().unwrap_or(1);
        // Two pages belong to nobody.
        let n_pages = per_seq * seqs.len() as u32 + 2;
        let mut free: Vec<i32> = (0..n_pages as i32).collect();
        rng.shuffle(&mut free);
        let pages = free.chunks_exact(per_seq as usize).take(seqs.len());
        let pages: Vec<Vec<i32>> = pages.map(<[i32]>::to_vec).collect();
        let mut layout = Self {
            page_size,
            n_pages,
            pages,
            window_pages: Vec::new(),
            n_state_slots: seqs.len() as u32 + 1,
            steps: Vec::new(),
        };
        let mut token = 0;
        let mut row = |layout: &Layout, seq: usize, position: u32| {
            token += 1;
            layout.row(token - 1, seq, position as i32)
        };
        let longest = seqs.iter().map(|[past, _]| *past).max().unwrap_or(0);
        for start in (0..longest).step_by(16) {
            let mut step = Vec::new();
            for (seq, [past, _]) in seqs.iter().enumerate() {
                let part = start..(*past).min(start + 16);
                step.extend(part.map(|position| row(&layout, seq, position)));
            }
            layout.steps.push(step);
        }
        let most = seqs.iter().map(|[_, new]| *new).max().unwrap_or(0);
        let mut step = Vec::new();
        for idx in 0..most {
            for (seq, [past, new]) in seqs.iter().enumerate() {
                if idx < *new {
                    step.push(row(&layout, seq, past + idx));
                }
            }
        }
        layout.steps.push(step);
        layout
    }

    /// The same steps in rings of pages just large enough for `window`, shuffled over sequences.
    pub(crate) fn with_window(mut self, window: u32, rng: &mut Rng) -> Self {
        let of_seq = |step: &Vec<Row>, seq| step.iter().filter(|row| row.seq == seq).count();
        let steps = self.steps.iter();
        let most = steps.flat_map(|step| (0..self.pages.len()).map(|seq| of_seq(step, seq))).max();
        let per_seq = Limits::ring_pages(self.page_size, window, most.unwrap_or(1) as u32) as usize;
        let mut free: Vec<i32> = (0..(per_seq * self.pages.len()) as i32).collect();
        rng.shuffle(&mut free);
        self.window_pages = free.chunks_exact(per_seq).map(<[i32]>::to_vec).collect();
        self
    }

    /// As [`Layout::sequences`], for operations with a state: the rows of a sequence stay together.
    /// The step under test saves the states after its tokens at the offsets `saves`; later steps go
    /// on from each of them, over the same tokens. At the end every sequence starts anew in the same
    /// slot.
    pub(crate) fn recurrent(seqs: &[[u32; 2]], saves: &[u32], rng: &mut Rng) -> Self {
        let mut layout = Self::sequences(seqs, 1 << 20, rng);
        for step in &mut layout.steps {
            step.sort_by_key(|row| (row.seq, row.position));
        }
        let n_tokens = layout.n_rows() as i32;
        let tested = layout.steps.len() - 1;
        for offset in saves {
            let mut again = Vec::new();
            for (seq, [past, _]) in seqs.iter().enumerate() {
                let slot = layout.n_state_slots as i32;
                let is_later =
                    |row: &&mut Row| row.seq == seq && row.position >= (past + offset) as i32;
                let mut later = layout.steps[tested].iter_mut().filter(is_later);
                if let Some(row) = later.next() {
                    row.save = slot;
                    layout.n_state_slots += 1;
                }
                again.extend(later.enumerate().map(|(idx, row)| Row {
                    from: Some(slot).filter(|_| idx == 0),
                    save: -1,
                    ..*row
                }));
            }
            layout.steps.push(again);
        }
        let restart = (0..seqs.len()).flat_map(|seq| (0..2).map(move |position| (seq, position)));
        let restart = restart.map(|(seq, position)| {
            let token = (seq as i32 * 2 + position) % n_tokens;
            layout.row(token, seq, position)
        });
        let restart = restart.collect();
        layout.steps.push(restart);
        layout
    }

    /// A token at a position of a sequence, written where the page table says.
    pub(crate) fn row(&self, token: i32, seq: usize, position: i32) -> Row {
        let page_size = self.page_size as i32;
        let page = self.pages[seq][(position / page_size) as usize];
        let slot = page * page_size + position % page_size;
        Row { token, seq, position, slot, variant: 0, wanted: true, from: None, save: -1 }
    }

    /// Number of rows of all steps.
    pub fn n_rows(&self) -> usize {
        self.steps.iter().map(Vec::len).sum()
    }

    /// Limits for steps of at most `max_tokens`.
    pub fn limits(&self, max_tokens: usize) -> Limits {
        Limits {
            max_tokens: max_tokens as u32,
            max_seqs: self.pages.len() as u32,
            max_out_rows: max_tokens as u32,
            page_size: self.page_size,
            pages_per_seq: self.pages[0].len() as u32,
            n_pages: self.n_pages,
            window_pages_per_seq: self.window_pages.first().map_or(0, |pages| pages.len() as u32),
            n_window_pages: self.window_pages.iter().map(|pages| pages.len() as u32).sum(),
            n_state_slots: self.n_state_slots,
        }
    }

    /// The inputs of each step, cut into steps of at most `chunk` rows. A step names only the
    /// sequences that take part in it.
    pub fn inputs(&self, chunk: usize) -> Vec<StepInputs> {
        let parts = self.steps.iter().flat_map(|step| step.chunks(chunk));
        parts.map(|rows| self.step_inputs(rows)).collect()
    }

    fn step_inputs(&self, rows: &[Row]) -> StepInputs {
        let mut inputs = StepInputs::default();
        let mut seqs: Vec<usize> = Vec::new();
        for (idx, row) in rows.iter().enumerate() {
            let seq = seqs.iter().position(|seq| *seq == row.seq).unwrap_or_else(|| {
                seqs.push(row.seq);
                inputs.pages.extend(&self.pages[row.seq]);
                inputs.window_pages.extend(self.window_pages.get(row.seq).into_iter().flatten());
                let slot = (self.pages.len() - row.seq) as i32;
                inputs.state_from.push(row.from.unwrap_or(slot));
                inputs.state_slots.push(slot);
                seqs.len() - 1
            });
            inputs.token_ids.push(row.token);
            inputs.positions.push(row.position);
            inputs.seq_of.push(seq as i32);
            inputs.slots.push(row.slot);
            if let Some(ring) = self.window_pages.get(row.seq) {
                let page = ring[(row.position / self.page_size as i32) as usize % ring.len()];
                let offset = row.position % self.page_size as i32;
                inputs.window_slots.push(page * self.page_size as i32 + offset);
            }
            inputs.state_saves.push(row.save);
            inputs.rope_variant.push(row.variant);
            if row.wanted {
                inputs.out_rows.push(idx as i32);
            }
        }
        inputs
    }
}
