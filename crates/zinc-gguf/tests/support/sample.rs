//! A small valid file with every kind of content, for the tests that damage it.

use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, Value};
use zinc_quant::GgmlType;

/// About 1 KB: every value type, nested arrays, strings that are not UTF-8, tensors of several formats.
pub fn file() -> Writer {
    let mut writer = Writer::new();
    writer
        .value("general.architecture", Value::String("llama".into()))
        .value("u8", Value::U8(200))
        .value("i8", Value::I8(-3))
        .value("u16", Value::U16(60_000))
        .value("i16", Value::I16(-300))
        .value("u32", Value::U32(4_000_000_000))
        .value("i32", Value::I32(-70_000))
        .value("u64", Value::U64(u64::MAX))
        .value("i64", Value::I64(i64::MIN))
        .value("f32", Value::F32(1e-6))
        .value("f64", Value::F64(0.1))
        .value("bool", Value::Bool(true))
        .value("ints", Value::Array(Array::from(&[1i16, -2, 3][..])))
        .value("floats", Value::Array(Array::from(&[1.0f32, 0.5][..])))
        .value("bools", Value::Array(Array::from(&[true, false][..])))
        .value(
            "tokens",
            Value::Array(Array::Strings(
                [&b"a"[..], b"", b"\xff\xfe", "é".as_bytes()].into_iter().collect(),
            )),
        )
        .value(
            "nested",
            Value::Array(Array::Arrays(vec![
                Array::from(&[7u8][..]),
                Array::Arrays(vec![]),
                Array::Strings(["x"].into_iter().collect()),
            ])),
        );
    for (name, ty, dims) in [
        ("norm", GgmlType::F32, &[5][..]),
        ("embed", GgmlType::F16, &[4, 3]),
        ("small", GgmlType::Q4_0, &[32, 2]),
        ("large", GgmlType::Q4_K, &[256, 1, 1]),
        ("grid", GgmlType::IQ2_XXS, &[256]),
        ("ids", GgmlType::I32, &[2, 1, 1, 2]),
    ] {
        let n_bytes = ty.row_bytes(dims.iter().product::<u64>() as usize).expect("whole blocks");
        let data: Vec<u8> = (0..n_bytes).map(|i| (i * 37 % 251) as u8).collect();
        writer.tensor(name, ty, dims, data);
    }
    writer
}
