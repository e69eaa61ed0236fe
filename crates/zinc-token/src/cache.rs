//! A bounded cache of encoded words.

/// Longest word that is kept, in bytes.
const MAX_WORD: usize = 23;
/// Most tokens of a word that is kept.
const MAX_IDS: usize = 8;
/// Entries of 64 bytes: 1 MiB, which fits a core's second-level cache. A power of two.
const N_ENTRIES: usize = 1 << 14;

/// Token ids of recent short words: direct-mapped, so it never grows and an unlucky pair of words merely takes turns.
pub(crate) struct WordCache {
    entries: Vec<Entry>,
}

/// The word padded with zeros, with its length in the last byte. Length 0 marks an empty entry.
type Key = [u64; 3];

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    ids: [u32; MAX_IDS],
    n_ids: u32,
}

/// Where a word is or would be.
pub(crate) struct Slot {
    key: Key,
    entry: usize,
}

impl WordCache {
    pub(crate) fn new() -> Self {
        let empty = Entry { key: [0; 3], ids: [0; MAX_IDS], n_ids: 0 };
        Self { entries: vec![empty; N_ENTRIES] }
    }

    /// The place of `word`, or `None` if words of this length are not kept.
    #[inline]
    pub(crate) fn slot(&self, word: &[u8]) -> Option<Slot> {
        if word.len() > MAX_WORD || word.is_empty() {
            return None;
        }
        let mut bytes = [0u8; MAX_WORD + 1];
        bytes[..word.len()].copy_from_slice(word);
        bytes[MAX_WORD] = word.len() as u8;
        let mut key = [0; 3];
        for (part, chunk) in key.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *part = u64::from_le_bytes(*chunk);
        }
        Some(Slot { key, entry: hash(&key) % N_ENTRIES })
    }

    #[inline]
    pub(crate) fn get(&self, slot: &Slot) -> Option<&[u32]> {
        let entry = &self.entries[slot.entry];
        (entry.key == slot.key).then(|| &entry.ids[..entry.n_ids as usize])
    }

    pub(crate) fn put(&mut self, slot: &Slot, ids: &[u32]) {
        if ids.len() <= MAX_IDS {
            let entry = &mut self.entries[slot.entry];
            entry.key = slot.key;
            entry.ids[..ids.len()].copy_from_slice(ids);
            entry.n_ids = ids.len() as u32;
        }
    }
}

/// Multiply and fold, twice; quality only matters for how often words collide.
fn hash(key: &Key) -> usize {
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        wide as u64 ^ (wide >> 64) as u64
    };
    let first = fold(key[0] ^ 0x9e37_79b9_7f4a_7c15, key[1] ^ 0xd1b5_4a32_d192_ed03);
    fold(first ^ key[2], 0xa076_1d64_78bd_642f) as usize
}
