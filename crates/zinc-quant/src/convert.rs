//! The entry points: bytes of any type to f32 and back.

use crate::*;

/// Writes the values of `bytes`, blocks of type `ty`, to `out`.
///
/// Bit-exact with ggml's reference: the order of multiplications is part of each format's definition.
///
/// # Errors
/// [`QuantError::PartialBlock`] or [`QuantError::LengthMismatch`] if `out` and `bytes` do not hold the
/// same whole blocks; [`QuantError::CannotDequantize`] for integer types.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    check_lengths(ty, out.len(), bytes.len())?;
    match ty {
        GgmlType::F32 => float::from_f32_bytes(bytes, out),
        GgmlType::F64 => float::from_f64_bytes(bytes, out),
        GgmlType::F16 => float::from_f16_bytes(bytes, out),
        GgmlType::BF16 => float::from_bf16_bytes(bytes, out),
        GgmlType::F8_E4M3 => float::from_e4m3_bytes(bytes, out),
        GgmlType::Q1_0 => blocks_to_f32::<_, Q1_0>(bytes, out),
        GgmlType::Q2_0 => blocks_to_f32::<_, Q2_0>(bytes, out),
        GgmlType::Q4_0 => blocks_to_f32::<_, Q4_0>(bytes, out),
        GgmlType::Q4_1 => blocks_to_f32::<_, Q4_1>(bytes, out),
        GgmlType::Q5_0 => blocks_to_f32::<_, Q5_0>(bytes, out),
        GgmlType::Q5_1 => blocks_to_f32::<_, Q5_1>(bytes, out),
        GgmlType::Q8_0 => blocks_to_f32::<_, Q8_0>(bytes, out),
        GgmlType::Q8_1 => blocks_to_f32::<_, Q8_1>(bytes, out),
        GgmlType::Q2_K => blocks_to_f32::<_, Q2K>(bytes, out),
        GgmlType::Q3_K => blocks_to_f32::<_, Q3K>(bytes, out),
        GgmlType::Q4_K => blocks_to_f32::<_, Q4K>(bytes, out),
        GgmlType::Q5_K => blocks_to_f32::<_, Q5K>(bytes, out),
        GgmlType::Q6_K => blocks_to_f32::<_, Q6K>(bytes, out),
        GgmlType::Q8_K => blocks_to_f32::<_, Q8K>(bytes, out),
        GgmlType::IQ1_S => blocks_to_f32::<_, Iq1S>(bytes, out),
        GgmlType::IQ1_M => blocks_to_f32::<_, Iq1M>(bytes, out),
        GgmlType::IQ2_XXS => blocks_to_f32::<_, Iq2Xxs>(bytes, out),
        GgmlType::IQ2_XS => blocks_to_f32::<_, Iq2Xs>(bytes, out),
        GgmlType::IQ2_S => blocks_to_f32::<_, Iq2S>(bytes, out),
        GgmlType::IQ3_XXS => blocks_to_f32::<_, Iq3Xxs>(bytes, out),
        GgmlType::IQ3_S => blocks_to_f32::<_, Iq3S>(bytes, out),
        GgmlType::IQ4_NL => blocks_to_f32::<_, Iq4Nl>(bytes, out),
        GgmlType::IQ4_XS => blocks_to_f32::<_, Iq4Xs>(bytes, out),
        GgmlType::TQ1_0 => blocks_to_f32::<_, Tq1_0>(bytes, out),
        GgmlType::TQ2_0 => blocks_to_f32::<_, Tq2_0>(bytes, out),
        GgmlType::MXFP4 => blocks_to_f32::<_, Mxfp4>(bytes, out),
        GgmlType::NVFP4 => blocks_to_f32::<_, Nvfp4>(bytes, out),
        GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64 => {
            return Err(QuantError::CannotDequantize(ty));
        }
    }
    Ok(())
}

/// Writes `src` to `out` as blocks of type `ty`, with the deterministic reference quantiser of the format.
///
/// # Errors
/// As [`dequantize`], and [`QuantError::CannotQuantize`] for types without a quantiser.
pub fn quantize(ty: GgmlType, src: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check_lengths(ty, src.len(), out.len())?;
    match ty {
        GgmlType::F32 => float::to_f32_bytes(src, out),
        GgmlType::F16 => float::to_f16_bytes(src, out),
        GgmlType::BF16 => float::to_bf16_bytes(src, out),
        GgmlType::F8_E4M3 => float::to_e4m3_bytes(src, out),
        GgmlType::Q4_0 => f32_to_blocks::<_, Q4_0>(src, out),
        GgmlType::Q4_1 => f32_to_blocks::<_, Q4_1>(src, out),
        GgmlType::Q5_0 => f32_to_blocks::<_, Q5_0>(src, out),
        GgmlType::Q5_1 => f32_to_blocks::<_, Q5_1>(src, out),
        GgmlType::Q8_0 => f32_to_blocks::<_, Q8_0>(src, out),
        GgmlType::MXFP4 => f32_to_blocks::<_, Mxfp4>(src, out),
        _ => return Err(QuantError::CannotQuantize(ty)),
    }
    Ok(())
}

pub(crate) fn check_lengths(
    ty: GgmlType,
    n_elems: usize,
    n_bytes: usize,
) -> Result<(), QuantError> {
    let expected = ty.row_bytes(n_elems).ok_or(QuantError::PartialBlock { ty, n_elems })?;
    if expected != n_bytes {
        return Err(QuantError::LengthMismatch { ty, n_elems, expected, found: n_bytes });
    }
    Ok(())
}

fn blocks_to_f32<const N: usize, B: Block<N>>(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    for (block, values) in blocks.iter().zip(out.as_chunks_mut().0) {
        block.dequantize(values);
    }
}

fn f32_to_blocks<const N: usize, B: QuantizeBlock<N>>(src: &[f32], out: &mut [u8]) {
    for (values, bytes) in src.as_chunks().0.iter().zip(out.chunks_exact_mut(size_of::<B>())) {
        bytes.copy_from_slice(bytemuck::bytes_of(&B::quantize(values)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // In a test a panic is the report.
mod tests {
    use super::*;

    const QUANTIZABLE: [GgmlType; 9] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q8_0,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::MXFP4,
    ];

    /// Also holds the block structs to the sizes of the type table.
    #[test]
    fn every_type_converts_any_bytes_or_says_no() {
        for ty in GgmlType::ALL {
            for byte in [0x00, 0x7F, 0xFF] {
                let bytes = vec![byte; 3 * ty.block_bytes()];
                let mut values = vec![0.0; 3 * ty.block_len()];
                let expected = match ty {
                    GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64 => {
                        Err(QuantError::CannotDequantize(ty))
                    }
                    _ => Ok(()),
                };
                assert_eq!(dequantize(ty, &bytes, &mut values), expected);
            }
        }
    }

    #[test]
    fn quantizers_accept_any_floats() {
        let hostile = [f32::NAN, f32::INFINITY, -f32::INFINITY, f32::MAX, 1e-45, -0.0];
        for ty in GgmlType::ALL {
            let mut bytes = vec![0; 256 / ty.block_len() * ty.block_bytes()];
            for value in hostile {
                let mut src = vec![0.5; 256];
                src[..128].fill(value);
                let result = quantize(ty, &src, &mut bytes);
                let expected = match QUANTIZABLE.contains(&ty) {
                    true => Ok(()),
                    false => Err(QuantError::CannotQuantize(ty)),
                };
                assert_eq!(result, expected);
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for ty in QUANTIZABLE.into_iter().chain([GgmlType::F8_E4M3]) {
            let mut bytes = vec![0; ty.row_bytes(64).unwrap()];
            let mut values = vec![1.0; 64];
            quantize(ty, &[0.0; 64], &mut bytes).unwrap();
            dequantize(ty, &bytes, &mut values).unwrap();
            assert!(values.iter().all(|&value| value == 0.0), "{ty}: {values:?}");
        }
    }

    #[test]
    fn lengths_must_agree() {
        let ty = GgmlType::Q8_0;
        assert_eq!(
            dequantize(ty, &[0; 34], &mut [0.0; 31]),
            Err(QuantError::PartialBlock { ty, n_elems: 31 })
        );
        let mismatch = QuantError::LengthMismatch { ty, n_elems: 32, expected: 34, found: 33 };
        assert_eq!(dequantize(ty, &[0; 33], &mut [0.0; 32]), Err(mismatch.clone()));
        assert_eq!(quantize(ty, &[0.0; 32], &mut [0; 33]), Err(mismatch));
    }

    /// log2 of the largest f32 below 8 rounds to 3, which would double the block's scale.
    #[test]
    fn mxfp4_exponent_just_below_a_power_of_two() {
        let mut src = [0.0; 32];
        src[0] = 8.0f32.next_down();
        assert_eq!(Mxfp4::quantize(&src).e, 127);
        src[0] = 8.0;
        assert_eq!(Mxfp4::quantize(&src).e, 128);
    }
}
