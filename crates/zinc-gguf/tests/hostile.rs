//! Damaged and hostile files: one clear error each.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

#[path = "support/sample.rs"]
mod sample;

use bytes::Bytes;
use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, Gguf, Value};
use zinc_quant::GgmlType;

/// A file written field by field, as no writer would.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    /// Magic, version 3 and the two counts.
    fn header(n_tensors: u64, n_keys: u64) -> Raw {
        Raw::default().raw(b"GGUF").u32(3).u64(n_tensors).u64(n_keys)
    }

    /// A file of one key of this type, whose value the test appends.
    fn value(ty: u32) -> Raw {
        Raw::header(0, 1).string("k").u32(ty)
    }

    /// A file of one tensor named `t`.
    fn tensor(dims: &[u64], ty: u32, offset: u64) -> Raw {
        Raw::header(1, 0).one_tensor("t", dims, ty, offset)
    }

    fn one_tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let described = self.string(name).u32(dims.len() as u32);
        let sized = dims.iter().fold(described, |raw, &dim| raw.u64(dim));
        sized.u32(ty).u64(offset)
    }

    fn raw(mut self, bytes: &[u8]) -> Raw {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Raw {
        self.raw(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Raw {
        self.raw(&value.to_le_bytes())
    }

    fn string(self, value: &str) -> Raw {
        self.u64(value.len() as u64).raw(value.as_bytes())
    }

    /// Zero bytes, so that counts and sizes can be believed.
    fn zeros(self, n_bytes: usize) -> Raw {
        self.raw(&vec![0; n_bytes])
    }
}

/// The error must contain `expected`: what is wrong, and where.
fn check(file: Raw, expected: &str) {
    let message = match Gguf::from_bytes(Bytes::from(file.0)) {
        Ok(_) => panic!("opened, expected: {expected}"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains(expected), "{message}\nexpected: {expected}");
}

fn opens(file: Raw) -> Gguf {
    Gguf::from_bytes(Bytes::from(file.0)).unwrap()
}

#[test]
fn header() {
    check(Raw::default(), "the file is empty");
    check(Raw::default().raw(b"GG"), "magic at byte 0 needs 4 bytes, only 2");
    check(Raw::default().raw(b"PK\x03\x04"), "not a GGUF file");
    check(Raw::default().raw(b"GGUF\x03"), "version at byte 4 needs 4 bytes, only 1");
    check(Raw::default().raw(b"GGUF").u32(1), "version 1 is not supported");
    check(Raw::default().raw(b"GGUF").u32(4), "version 4 is not supported");
    check(Raw::default().raw(b"GGUF").u32(0), "version 0 is not supported");
    check(Raw::default().raw(b"GGUF\0\0\0\x03"), "big-endian");
    check(Raw::default().raw(b"GGUF").u32(3), "tensor count at byte 8");
    check(Raw::header(0, u64::MAX), "metadata key count at byte 16: count 18446744073709551615");
    check(Raw::header(u64::MAX, 0), "tensor count at byte 8: count 18446744073709551615");
    check(Raw::header(0, 2).zeros(25), "metadata key count at byte 16: count 2");
    for version in [2, 3] {
        let file = Raw::default().raw(b"GGUF").u32(version).u64(0).u64(0);
        assert_eq!(opens(file).version(), version);
    }
}

#[test]
fn keys_and_strings() {
    check(Raw::header(0, 1).u64(60_000).zeros(100), "metadata key #0 at byte 32 needs 60000");
    check(
        Raw::header(1, 0).u64(256).zeros(400),
        "name of tensor #0 at byte 24 has 256 bytes, at most 255",
    );
    // A long key is cut short in messages.
    let long_key = Raw::header(0, 1).string(&"é".repeat(5000)).u32(99);
    check(long_key.zeros(8), "é…\" at byte 10032: unknown value type 99");
    check(
        Raw::header(0, 1).u64(u64::MAX).zeros(20),
        "metadata key #0 at byte 24 has 18446744073709551615 bytes, at most 65535",
    );
    check(
        Raw::header(0, 1).u64(2).raw(b"a\xff").zeros(20),
        "metadata key #0 at byte 33 is not valid UTF-8",
    );
    check(
        Raw::value(8).u64(1 << 60),
        "value of metadata key \"k\" at byte 45 needs 1152921504606846976",
    );
    check(
        Raw::value(8).u64(1).raw(b"\xff"),
        "value of metadata key \"k\" at byte 45 is not valid UTF-8",
    );
    check(Raw::value(13).u64(0), "unknown value type 13");
    check(Raw::value(u32::MAX).u64(0), "unknown value type 4294967295");
    check(
        Raw::value(7).raw(b"\x02"),
        "value of metadata key \"k\" at byte 37 is 2, a bool is 0 or 1",
    );
    check(Raw::value(10).u32(0), "value of metadata key \"k\" at byte 37 needs 8 bytes, only 4");
    let twice = Raw::value(0).raw(b"\x01").string("k").u32(0).raw(b"\x02").0;
    let mut twice = twice;
    twice[16] = 2;
    check(Raw(twice), "metadata key \"k\" at byte 38 occurs twice");
}

#[test]
fn arrays() {
    check(
        Raw::value(9).u32(5).u64(1 << 62),
        "value of metadata key \"k\" at byte 41: count 4611686018427387904",
    );
    check(Raw::value(9).u32(8).u64(1 << 61).zeros(80), "count 2305843009213693952");
    check(
        Raw::value(9).u32(8).u64(2).u64(0).u64(9),
        "value of metadata key \"k\" at byte 65 needs 9 bytes, only 0",
    );
    check(Raw::value(9).u32(7).u64(3).raw(b"\0\x01\x07"), "at byte 51 is 7, a bool");
    check(Raw::value(9).u32(9).u64(1 << 40), "count 1099511627776");
    check(Raw::value(9).u32(99).u64(0), "unknown value type 99");
    let nested = |depth: usize| {
        let file = (1..depth).fold(Raw::value(9), |raw, _| raw.u32(9).u64(1));
        file.u32(0).u64(0)
    };
    opens(nested(4));
    check(nested(5), "arrays are nested more than 4 deep");
    // A megabyte of nesting must not use the stack in proportion.
    check(nested(100_000), "arrays are nested more than 4 deep");
}

#[test]
fn alignment() {
    for (alignment, message) in [(0, "is 0, it must be"), (48, "is 48, it must be")] {
        let file = Raw::header(0, 1).string("general.alignment").u32(4);
        check(file.u32(alignment), message);
    }
    let file = Raw::header(0, 1).string("general.alignment").u32(8);
    check(file.string("32"), "\"general.alignment\" is string, expected");
    // Aligned to more than the file: fine as long as there is nothing to align.
    let file = Raw::header(0, 1).string("general.alignment").u32(10);
    assert_eq!(opens(file.u64(1 << 63)).alignment(), 1 << 63);
    check(Raw::tensor(&[8], 0, 8).zeros(64), "data offset 8 is not a multiple of the alignment 32");
}

#[test]
fn tensors() {
    let f32 = GgmlType::F32.id();
    let q4_k = GgmlType::Q4_K.id();
    assert_eq!(opens(Raw::tensor(&[], f32, 0).zeros(64)).tensors()[0].dims, [1]);
    check(Raw::tensor(&[1; 5], f32, 0).zeros(64), "tensor \"t\" at byte 33 has 5 dimensions");
    check(Raw::tensor(&[4, 0], f32, 0).zeros(64), "tensor \"t\" at byte 45: dimension 1 is 0");
    check(Raw::tensor(&[1 << 63, 2], f32, 0).zeros(64), "overflows");
    check(Raw::tensor(&[1 << 62, 1], f32, 0).zeros(64), "overflows");
    check(Raw::tensor(&[u64::MAX; 4], f32, 0).zeros(64), "overflows");
    check(
        Raw::tensor(&[100], q4_k, 0).zeros(64),
        "rows of 100 elements do not fill whole q4_k blocks of 256",
    );
    check(Raw::tensor(&[4], 31, 0).zeros(64), "tensor \"t\" at byte 45: unknown tensor type 31");
    check(Raw::tensor(&[4], u32::MAX, 0).zeros(64), "unknown tensor type 4294967295");
    check(
        Raw::tensor(&[4], f32, 0).zeros(14),
        "tensor \"t\" lies at bytes 64..80, the file ends at 71",
    );
    check(Raw::tensor(&[4], f32, u64::MAX - 31).zeros(64), "lies at bytes");
    check(Raw::tensor(&[4], f32, 0), "lies at bytes 64..80, the file ends at 57");
    check(
        Raw::header(1, 0).u64(4).raw(b"a\xc3zz").zeros(64),
        "name of tensor #0 at byte 33 is not valid UTF-8",
    );
    check(Raw::header(1, 0).u64(99).zeros(40), "name of tensor #0 at byte 32 needs 99");
    check(
        Raw::header(1, 0).string("t").u32(4).raw(&[1; 20]),
        "description of tensor \"t\" at byte 53",
    );

    let two = |name, offset| {
        Raw::header(2, 0).one_tensor("t", &[16], f32, 0).one_tensor(name, &[4], f32, offset)
    };
    opens(two("u", 64).zeros(200));
    check(two("t", 64).zeros(200), "tensor name \"t\"");
    check(two("u", 32).zeros(200), "tensors \"t\" and \"u\" overlap at byte 128");
    check(two("u", 0).zeros(200), "overlap at byte 96");
}

#[test]
fn every_truncation_is_refused_or_harmless() {
    let file = Bytes::from(sample::file().to_bytes());
    let opens = |length: usize| Gguf::from_bytes(file.slice(..length)).is_ok();
    let whole = (0..=file.len()).find(|length| opens(*length)).unwrap();
    // What may be missing is the padding behind the last tensor.
    assert!((whole..=file.len()).all(opens) && file.len() - whole < 64, "{whole} bytes");
    assert!(file[whole..].iter().all(|byte| *byte == 0), "{whole} bytes");
}

#[test]
fn files_end_at_the_alignment() {
    for n in [1, 31, 32, 33] {
        let mut writer = Writer::new();
        writer.tensor("t", GgmlType::I8, &[n], vec![7; n as usize]);
        let bytes = writer.to_bytes();
        assert!(bytes.len().is_multiple_of(32), "{n}: {}", bytes.len());
        let mut written = Vec::new();
        writer.write_to(&mut written).unwrap();
        assert_eq!(written, bytes);
    }
}

#[test]
fn a_part_of_a_split_model_in_memory_is_refused() {
    let mut writer = Writer::new();
    writer.value("split.count", Value::U16(3));
    check(Raw(writer.to_bytes()), "one of 3 parts");
}

#[test]
fn typed_getters() {
    let gguf = opens(Raw(sample::file().to_bytes()));
    let metadata = gguf.metadata();
    assert_eq!(metadata.len(), 17);
    assert_eq!(metadata.u32("absent").unwrap(), None);
    assert_eq!(metadata.u32("u8").unwrap(), Some(200));
    assert_eq!(metadata.u32("u32").unwrap(), Some(4_000_000_000));
    assert_eq!(metadata.u64("u64").unwrap(), Some(u64::MAX));
    assert_eq!(metadata.f32("f64").unwrap(), Some(0.1));
    assert_eq!(metadata.bool("bool").unwrap(), Some(true));
    assert_eq!(metadata.require_str("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.i32s("ints").unwrap().unwrap(), [1, -2, 3]);
    assert_eq!(metadata.f32s("floats").unwrap().unwrap(), [1.0, 0.5]);
    assert_eq!(metadata.bools("bools").unwrap().unwrap(), [true, false]);
    let tokens = metadata.require_strings("tokens").unwrap();
    let expected = [&b"a"[..], b"", b"\xff\xfe", "é".as_bytes()];
    assert_eq!(tokens.iter().collect::<Vec<_>>(), expected);
    assert_eq!(tokens.get(2), b"\xff\xfe");
    let Some(Value::Array(Array::Arrays(nested))) = metadata.get("nested") else {
        panic!("{:?}", metadata.get("nested"));
    };
    assert_eq!(nested.iter().map(Array::len).collect::<Vec<_>>(), [1, 0, 1]);

    for (error, expected) in [
        (
            metadata.u32("i8").unwrap_err(),
            "\"i8\" is -3, out of range for an integer in the range of u32",
        ),
        (metadata.u32("u64").unwrap_err(), "\"u64\" is 18446744073709551615, out of range"),
        (metadata.u64("f32").unwrap_err(), "\"f32\" is f32, expected an integer"),
        (metadata.str("u8").unwrap_err(), "\"u8\" is u8, expected a string"),
        (
            metadata.strings("ints").unwrap_err(),
            "\"ints\" is an array of i16, expected an array of strings",
        ),
        (metadata.strings("u8").unwrap_err(), "\"u8\" is u8, expected an array of strings"),
        (metadata.u32s("ints").unwrap_err(), "\"ints\" has -2 at index 1, out of range"),
        (
            metadata.i32s("floats").unwrap_err(),
            "\"floats\" is an array of f32, expected an array of integers",
        ),
        (
            metadata.f32s("tokens").unwrap_err(),
            "\"tokens\" is an array of strings, expected an array of floats",
        ),
        (metadata.require_u32("absent").unwrap_err(), "metadata key \"absent\" is missing"),
    ] {
        assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn written_files_read_back_the_same() {
    for alignment in [1, 32, 4096] {
        let mut writer = sample::file();
        writer.alignment(alignment);
        let file = writer.to_bytes();
        let mut streamed = Vec::new();
        writer.write_to(&mut streamed).unwrap();
        assert!(file == streamed);
        let gguf = opens(Raw(file));
        assert_eq!(gguf.alignment(), u64::from(alignment));
        for tensor in gguf.tensors() {
            let data = gguf.data(tensor);
            assert!(data.iter().enumerate().all(|(i, &byte)| byte == (i * 37 % 251) as u8));
        }
    }
}
