//! Byte strings by number and numbers by byte string.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Byte strings one behind the other.
#[derive(Default)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Arena {
    pub(crate) fn with_capacity(n: usize, n_bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(n_bytes), ends: Vec::with_capacity(n) }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub(crate) fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    pub(crate) fn push(&mut self, item: &[u8]) {
        self.bytes.extend_from_slice(item);
        self.ends.push(self.bytes.len());
    }
}

/// Finds the id of a byte string among the strings of an [`Arena`].
///
/// Only ids are in the table: texts as its keys would make it six times as large, and building a vocabulary is bound by
/// cache misses.
pub(crate) struct TextIndex {
    table: HashTable<u32>,
    /// Seeded at random, so that no vocabulary can be made to collide.
    hasher: DefaultHashBuilder,
    /// Length of the longest string; longer ones need no search.
    max_len: usize,
}

impl TextIndex {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Self {
            table: HashTable::with_capacity(n),
            hasher: DefaultHashBuilder::default(),
            max_len: 0,
        }
    }

    /// The string among `texts`, the arena that all of this index is about.
    #[inline]
    pub(crate) fn get(&self, texts: &Arena, text: &[u8]) -> Option<u32> {
        if text.len() > self.max_len {
            return None;
        }
        let same = |&id: &u32| texts.get(id as usize) == Some(text);
        self.table.find(self.hasher.hash_one(text), same).copied()
    }

    /// Adds string `id`; of equal strings the first stays.
    pub(crate) fn insert(&mut self, texts: &Arena, id: u32) {
        let Some(text) = texts.get(id as usize) else {
            return;
        };
        self.max_len = self.max_len.max(text.len());
        let Self { table, hasher, .. } = self;
        let same = |&other: &u32| texts.get(other as usize) == Some(text);
        let rehash = |&other: &u32| hasher.hash_one(texts.get(other as usize).unwrap_or(&[]));
        table.entry(hasher.hash_one(text), same, rehash).or_insert(id);
    }

    /// Ids of all indexed strings, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.table.iter().copied()
    }
}
