//! What a program does with a file it was given: shared by the property test and the fuzz target.

use bytes::Bytes;
use zinc_gguf::{Array, Gguf, GgufError, Value};

/// Opens a file and touches all of it that was indexed: every value, and each tensor's first row.
pub fn open_and_walk(file: Bytes) -> Result<(), GgufError> {
    let gguf = Gguf::from_bytes(file)?;
    for (key, value) in gguf.metadata().iter() {
        assert_eq!(gguf.metadata().get(key).map(Value::value_type), Some(value.value_type()));
        if let Value::Array(array) = value {
            walk_array(array);
        }
    }
    for tensor in gguf.tensors() {
        assert!((1..=4).contains(&tensor.dims.len()), "{tensor:?}");
        let data = gguf.data(tensor);
        assert_eq!(data.len() as u64, tensor.n_bytes);
        let row_len = tensor.dims[0] as usize;
        let row_bytes = tensor.ty.row_bytes(row_len).expect("whole blocks, checked on opening");
        let mut row = vec![0.0; row_len];
        // Integer types have no floating point meaning; all others must convert.
        if zinc_quant::dequantize(tensor.ty, &data[..row_bytes], &mut row).is_err() {
            assert!(!tensor.ty.is_quantized(), "{tensor:?}");
        }
    }
    Ok(())
}

fn walk_array(array: &Array) {
    match array {
        Array::Scalars(scalars) => assert_eq!(scalars.iter().count(), array.len()),
        Array::Strings(strings) => assert_eq!(strings.iter().count(), array.len()),
        Array::Arrays(arrays) => arrays.iter().for_each(walk_array),
    }
}
