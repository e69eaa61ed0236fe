//! Damaged copies of a valid file never panic, and no file makes the reader allocate more than its
//! size justifies. One test function, because the allocator counts for the whole process.

#[path = "support/sample.rs"]
mod sample;
#[path = "support/walk.rs"]
mod walk;

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, Gguf, Value};
use zinc_quant::GgmlType;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Memory per byte of file. The worst file is all one-byte values under short keys: 17 bytes of file
/// become a key, a value and an index entry; with the slack of the two tables 15 times as much was
/// measured, and twice that is possible right after both have grown.
const MAX_PER_BYTE: usize = 32;
/// For error messages, the hasher's keys and the like.
const MAX_FIXED: usize = 16 << 10;

#[derive(Clone, Debug)]
enum Damage {
    FlipBit(usize),
    SetByte(usize, u8),
    /// Overwrites eight bytes: what a length or count field becomes in a hostile file.
    SetWord(usize, u64),
    Truncate(usize),
    /// Copies a stretch of the file elsewhere: well-formed pieces in the wrong place.
    Copy(usize, usize, usize),
}

/// Positions are taken modulo the file's length.
fn damage() -> impl Strategy<Value = Damage> {
    let word = prop_oneof![
        0u64..64,
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u64..9).prop_map(|less| u64::MAX - less),
    ];
    prop_oneof![
        4 => any::<usize>().prop_map(Damage::FlipBit),
        2 => any::<(usize, u8)>().prop_map(|(at, byte)| Damage::SetByte(at, byte)),
        4 => (any::<usize>(), word).prop_map(|(at, word)| Damage::SetWord(at, word)),
        1 => any::<usize>().prop_map(Damage::Truncate),
        2 => (any::<usize>(), any::<usize>(), 1usize..64)
            .prop_map(|(from, to, length)| Damage::Copy(from, to, length)),
    ]
}

fn apply(file: &mut Vec<u8>, damage: &Damage) {
    let length = file.len().max(1);
    match *damage {
        Damage::FlipBit(at) => {
            if let Some(byte) = file.get_mut(at / 8 % length) {
                *byte ^= 1 << (at % 8);
            }
        }
        Damage::SetByte(at, byte) => {
            if let Some(old) = file.get_mut(at % length) {
                *old = byte;
            }
        }
        Damage::SetWord(at, word) => {
            if let Some(old) = file[at % length..].first_chunk_mut() {
                *old = word.to_le_bytes();
            }
        }
        Damage::Truncate(at) => file.truncate(at % length),
        Damage::Copy(from, to, n_bytes) => {
            let piece: Vec<u8> = file[from % length..].iter().copied().take(n_bytes).collect();
            for (old, new) in file[to % length..].iter_mut().zip(piece) {
                *old = new;
            }
        }
    }
}

/// Opens the file and returns whether that worked, after checking the memory it took.
fn check_memory(file: Vec<u8>) -> bool {
    let file = Bytes::from(file);
    let limit = MAX_PER_BYTE * file.len() + MAX_FIXED;
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let opened = Gguf::from_bytes(file);
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= limit, "opening took {taken} bytes, the limit is {limit}");
    opened.is_ok()
}

/// Valid files that put the most objects into the fewest bytes.
fn dense_files() -> [Vec<u8>; 4] {
    let n_items = 20_000;
    let mut keys = Writer::new();
    for i in 0..n_items {
        keys.value(&format!("{i:x}"), Value::U8(0));
    }
    let mut arrays = Writer::new();
    let empty = Array::from(&[0u8; 0][..]);
    arrays.value("k", Value::Array(Array::Arrays(vec![empty; n_items])));
    let mut strings = Writer::new();
    let empty = std::iter::repeat_n(b"", n_items);
    strings.value("k", Value::Array(Array::Strings(empty.collect())));
    let mut tensors = Writer::new();
    tensors.alignment(1);
    for i in 0..n_items {
        tensors.tensor(&format!("{i:x}"), GgmlType::I8, &[1], vec![0]);
    }
    [keys, arrays, strings, tensors].map(|writer| writer.to_bytes())
}

#[test]
fn any_file_opens_or_fails_within_bounds() {
    for file in dense_files() {
        assert!(check_memory(file));
    }
    let valid = sample::file().to_bytes();
    assert!(check_memory(valid.clone()));

    // The header is what can be wrong; data bytes are all valid. Damage favours it accordingly.
    let header_len = Gguf::from_bytes(valid.clone().into()).expect("the sample is valid").shards()
        [0]
    .data_start as usize;
    let config =
        ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let damages = proptest::collection::vec(damage(), 1..4);
    TestRunner::new(config)
        .run(&(damages, any::<bool>()), |(damages, header_only)| {
            let mut file = valid.clone();
            let data = file.split_off(if header_only { header_len } else { file.len() });
            damages.iter().for_each(|damage| apply(&mut file, damage));
            file.extend(data);
            check_memory(file.clone());
            let _ = walk::open_and_walk(Bytes::from(file)); // Refusing is as good as opening.
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
