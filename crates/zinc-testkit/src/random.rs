//! Seeded random numbers and blocks, the same on every machine.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use zinc_quant::GgmlType;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough for test data.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `seed` and the name of what it is for, so that cases do not share numbers.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0 .. n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number of mean 0 and variance 1, near enough to normal: twelve uniform ones (Irwin-Hall).
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        (sum - 6.0) as f32
    }

    /// `n` normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// Shuffles `items` (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for idx in (1..items.len()).rev() {
            let other = self.below(idx + 1);
            items.swap(idx, other);
        }
    }

    /// `n` bytes of whole blocks of type `ty` whose values are finite and of ordinary size.
    ///
    /// Plain floats are rounded normal numbers. Every other block is random bytes, drawn again until
    /// its values fit: this needs no knowledge of a format, so a new one is covered without change.
    ///
    /// # Panics
    /// If `n_elems` is no whole number of blocks or the type cannot be dequantised.
    pub fn blocks(&mut self, ty: GgmlType, n_elems: usize) -> Vec<u8> {
        let n_bytes = ty.row_bytes(n_elems).expect("whole blocks");
        if !ty.is_quantized() {
            let mut bytes = vec![0; n_bytes];
            let values = self.normals(n_elems);
            match ty {
                GgmlType::F64 => {
                    let raw = values.iter().flat_map(|v| f64::from(*v).to_le_bytes());
                    bytes = raw.collect();
                }
                _ => zinc_quant::quantize(ty, &values, &mut bytes).expect("a float type"),
            }
            return bytes;
        }
        let pool = pool(ty);
        let n_blocks = n_elems / ty.block_len();
        let picks = (0..n_blocks).map(|_| self.below(pool.len()));
        picks.flat_map(|pick| pool[pick].clone()).collect()
    }

    fn ordinary_block(&mut self, ty: GgmlType) -> Vec<u8> {
        let mut values = vec![0.0; ty.block_len()];
        loop {
            let block: Vec<u8> = (0..ty.block_bytes()).map(|_| self.bits() as u8).collect();
            zinc_quant::dequantize(ty, &block, &mut values).expect("a readable type");
            let largest = values.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
            let finite = values.iter().all(|v| v.is_finite());
            if finite && (0.1..4.0).contains(&largest) {
                return block;
            }
        }
    }
}

/// Blocks of one type, drawn once: that is slow for formats whose scale has many exponents.
fn pool(ty: GgmlType) -> Arc<Vec<Vec<u8>>> {
    type Pools = Mutex<HashMap<GgmlType, Arc<Vec<Vec<u8>>>>>;
    static POOLS: LazyLock<Pools> = LazyLock::new(Pools::default);
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let draw = || {
        let mut rng = Rng::new(0, ty.name());
        Arc::new((0..64).map(|_| rng.ordinary_block(ty)).collect())
    };
    pools.entry(ty).or_insert_with(draw).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let draw = |seed, name| Rng::new(seed, name).normals(4);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn blocks_of_every_readable_type_are_ordinary() {
        let mut rng = Rng::new(1, "blocks");
        for ty in GgmlType::ALL {
            let block = vec![0; ty.block_bytes()];
            let mut values = vec![0.0; ty.block_len()];
            if zinc_quant::dequantize(ty, &block, &mut values).is_err() {
                continue;
            }
            let bytes = rng.blocks(ty, 2 * ty.block_len());
            let mut values = vec![0.0; 2 * ty.block_len()];
            zinc_quant::dequantize(ty, &bytes, &mut values).expect("as many values as blocks hold");
            assert!(values.iter().all(|v| v.abs() < 8.0), "{ty}");
        }
    }
}
