//! Every product against a plain f64 oracle, on every instruction set of the machine.

use super::act::{ActBlock, ActSuper, QuantizeBlocks, QuantizeSupers};
use super::format::Form;
use super::matmul::{Activations, MatMulTask, Panels, Scratch};
use super::panel::WeightRows;
use crate::simd::Isa;
use zinc_quant::{GgmlType, dequantize, quantize};

/// A small deterministic generator (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Random valid weights of any type: quantised where the format has a quantiser, else random bytes with tame scales.
pub(crate) fn weights(ty: GgmlType, n_rows: usize, n_in: usize, random: &mut Random) -> Vec<u8> {
    let row_bytes = ty.row_bytes(n_in).unwrap();
    let mut out = vec![0; n_rows * row_bytes];
    let values = random.values(n_rows * n_in);
    if quantize(ty, &values, &mut out).is_ok() {
        return out;
    }
    for block in out.chunks_exact_mut(ty.block_bytes()) {
        block.fill_with(|| (random.bits() >> 32) as u8);
        for at in scales(ty) {
            // 2^-14 to 2^-8, either sign.
            let f16 = (random.bits() as u16 & 0x83ff) | (1 + random.bits() as u16 % 6) << 10;
            block[*at..at + 2].copy_from_slice(&f16.to_le_bytes());
        }
    }
    out
}

/// Offsets of the f16 scales in a block.
fn scales(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q6_K => &[208],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::TQ2_0 => &[64],
        GgmlType::MXFP4 => &[],
        _ => &[0],
    }
}

/// Activations as a weight type wants them, and the f64 values they stand for.
enum Act {
    F32(Vec<f32>),
    Blocks(Vec<ActBlock>),
    Supers(Vec<ActSuper>),
}

impl Act {
    fn new(isa: Isa, form: Option<usize>, x: &[f32]) -> Act {
        match form {
            Some(32) => {
                let mut out = vec![super::act::EMPTY_BLOCK; x.len() / 32];
                isa.run(QuantizeBlocks { x, out: &mut out });
                Act::Blocks(out)
            }
            Some(_) => {
                let mut out = vec![super::act::EMPTY_SUPER; x.len() / 256];
                isa.run(QuantizeSupers { x, out: &mut out });
                Act::Supers(out)
            }
            None => Act::F32(x.to_vec()),
        }
    }

    fn rows(&self) -> Activations<'_> {
        match self {
            Act::F32(data) => Activations::F32(data),
            Act::Blocks(blocks) => Activations::Blocks(blocks),
            Act::Supers(supers) => Activations::Supers(supers),
        }
    }

    /// Where a row of `n_in` values begins.
    fn start(&self, row: usize, n_in: usize) -> usize {
        match self {
            Act::F32(_) => row * n_in,
            Act::Blocks(_) => row * n_in / 32,
            Act::Supers(_) => row * n_in / 256,
        }
    }

    fn values(&self) -> Vec<f64> {
        let scaled = |d: f32, q: &[i32]| {
            let values = super::act::values(q).map(|q| f64::from(d) * f64::from(q));
            values.collect::<Vec<_>>()
        };
        match self {
            Act::F32(data) => data.iter().map(|&x| f64::from(x)).collect(),
            Act::Blocks(blocks) => blocks.iter().flat_map(|b| scaled(b.d(), &b.q)).collect(),
            Act::Supers(supers) => supers.iter().flat_map(|b| scaled(b.d, &b.q)).collect(),
        }
    }
}

fn act_block(ty: GgmlType) -> Option<usize> {
    Form::of(ty).map(|form| form.activations().block_len())
}

fn multiply(
    isa: Isa,
    weights: WeightRows<'_>,
    x: &Act,
    n_in: usize,
    range: std::ops::Range<usize>,
) -> Vec<[f32; 16]> {
    let mut scratch = Scratch::new();
    let starts: Vec<usize> = range.map(|row| x.start(row, n_in)).collect();
    isa.run(MatMulTask {
        matrix: Panels { weights, bias: None },
        up: None,
        x: x.rows(),
        n_in,
        starts: &starts,
        scratch: &mut scratch,
    });
    scratch.acc[..starts.len()].to_vec()
}

const TYPES: &[(GgmlType, &[usize])] = &[
    (GgmlType::F32, &[1, 3, 64, 77, 256, 1000, 1040]),
    (GgmlType::F16, &[1, 13, 64, 256, 999]),
    (GgmlType::BF16, &[5, 64, 512, 777]),
    (GgmlType::Q8_0, &[32, 96, 1024, 1056]),
    (GgmlType::Q4_0, &[32, 160, 1024, 2080]),
    (GgmlType::Q4_K, &[256, 1024, 1280]),
    (GgmlType::Q5_K, &[256, 1024, 1280]),
    (GgmlType::Q6_K, &[256, 1024, 1280]),
    (GgmlType::Q4_1, &[32, 288, 1056]),
    (GgmlType::Q5_0, &[64, 288, 1056]),
    (GgmlType::Q5_1, &[64, 288, 1056]),
    (GgmlType::Q2_K, &[256, 1280]),
    (GgmlType::Q3_K, &[256, 1280]),
    (GgmlType::IQ4_XS, &[256, 1280]),
    (GgmlType::IQ4_NL, &[32, 288, 1056]),
    (GgmlType::MXFP4, &[32, 288, 1056]),
    (GgmlType::IQ2_XXS, &[256, 768]),
    (GgmlType::IQ3_S, &[256, 768]),
    (GgmlType::TQ2_0, &[256, 768]),
];

/// The kernel against f64 sums over the dequantised operands, for full and partial panels.
#[test]
fn products_match_the_oracle() {
    for isa in Isa::available() {
        for &(ty, lengths) in TYPES {
            for &n_in in lengths {
                for n_out in [16, 7, 1] {
                    check_product(isa, ty, n_in, n_out, 3);
                }
            }
        }
    }
}

fn check_product(isa: Isa, ty: GgmlType, n_in: usize, n_out: usize, n_rows: usize) {
    let mut random = Random::new(n_in as u64 + n_out as u64);
    let data = weights(ty, n_out, n_in, &mut random);
    let row_bytes = ty.row_bytes(n_in).unwrap();
    let mut w = vec![0.0; n_out * n_in];
    dequantize(ty, &data, &mut w).unwrap();
    let act = Act::new(isa, act_block(ty), &random.values(n_rows * n_in));
    let x = act.values();
    let rows = WeightRows { ty, data: &data, row_bytes, n_rows: n_out };
    let y = multiply(isa, rows, &act, n_in, 0..n_rows);
    for t in 0..n_rows {
        for o in 0..n_out {
            let terms = (0..n_in).map(|i| f64::from(w[o * n_in + i]) * x[t * n_in + i]);
            let (want, magnitude) =
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let error = (f64::from(y[t][o]) - want).abs();
            assert!(
                error <= 1e-6 * magnitude + 1e-30,
                "{} {ty} n_in {n_in} n_out {n_out} [{t}, {o}]: {} instead of {want}",
                isa.name(),
                y[t][o],
            );
        }
    }
}

/// A row's result is the same bits alone and inside any batch.
#[test]
fn rows_do_not_depend_on_the_batch() {
    for isa in Isa::available() {
        for &(ty, lengths) in TYPES {
            let n_in = lengths[lengths.len() - 1];
            let mut random = Random::new(7);
            let data = weights(ty, 16, n_in, &mut random);
            let rows =
                WeightRows { ty, data: &data, row_bytes: ty.row_bytes(n_in).unwrap(), n_rows: 16 };
            let act = Act::new(isa, act_block(ty), &random.values(33 * n_in));
            let alone: Vec<_> =
                (0..33).map(|t| multiply(isa, rows, &act, n_in, t..t + 1)[0]).collect();
            for n in 1..=33 {
                let first = 33 - n;
                let batch = multiply(isa, rows, &act, n_in, first..33);
                assert_eq!(batch, alone[first..], "{} {ty}, {n} rows", isa.name());
            }
        }
    }
}

/// Quantised products are exact sums in a fixed order, so every instruction set gives the same bits.
#[test]
fn quantised_products_agree_between_instruction_sets() {
    for &(ty, lengths) in TYPES.iter().filter(|(ty, _)| act_block(*ty).is_some()) {
        let n_in = lengths[lengths.len() - 1];
        let mut random = Random::new(11);
        let data = weights(ty, 16, n_in, &mut random);
        let rows =
            WeightRows { ty, data: &data, row_bytes: ty.row_bytes(n_in).unwrap(), n_rows: 16 };
        let x = random.values(5 * n_in);
        let results = Isa::available().into_iter().map(|isa| {
            let act = Act::new(isa, act_block(ty), &x);
            (isa, multiply(isa, rows, &act, n_in, 0..5))
        });
        let results: Vec<_> = results.collect();
        for (isa, result) in &results[1..] {
            assert_eq!(result, &results[0].1, "{ty}: {} and {}", isa.name(), results[0].0.name());
        }
    }
}

/// The largest values of each format, against the largest activations: nothing saturates.
#[test]
fn extremes_do_not_saturate() {
    let n_in = 1024;
    for isa in Isa::available() {
        for ty in GgmlType::ALL.into_iter().filter(|ty| Form::of(*ty).is_some()) {
            for byte in [0x00, 0x7f, 0x80, 0x81, 0xff] {
                let mut data = vec![byte; 16 * ty.row_bytes(n_in).unwrap()];
                for block in data.chunks_exact_mut(ty.block_bytes()) {
                    for at in scales(ty) {
                        block[*at..at + 2].copy_from_slice(&[0x00, 0x3c]);
                    }
                    if ty == GgmlType::MXFP4 {
                        block[0] = 127;
                    }
                }
                let mut w = vec![0.0; 16 * n_in];
                dequantize(ty, &data, &mut w).unwrap();
                for sign in [1.0, -1.0] {
                    let act = Act::new(isa, act_block(ty), &vec![127.0 * sign; n_in]);
                    let rows = WeightRows {
                        ty,
                        data: &data,
                        row_bytes: ty.row_bytes(n_in).unwrap(),
                        n_rows: 16,
                    };
                    let y = multiply(isa, rows, &act, n_in, 0..1)[0];
                    for (o, y) in y.iter().enumerate() {
                        let want: f64 = act
                            .values()
                            .iter()
                            .zip(&w[o * n_in..])
                            .map(|(x, w)| x * f64::from(*w))
                            .sum();
                        let error = (f64::from(*y) - want).abs();
                        assert!(
                            error <= 1e-5 * want.abs() + 1e-3,
                            "{} {ty} {byte:#x}: {y} for {want}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

/// Exponents at both ends: 2^-128 is subnormal, and sums of the largest leave the range of f32 before the scale of the
/// activations brings them back.
#[test]
fn extreme_exponents_of_mxfp4_are_exact() {
    let exponents = [0, 1, 2, 3, 63, 64, 126, 127, 128, 129, 200, 250, 251, 252, 0, 255];
    for isa in Isa::available() {
        let mut random = Random::new(5);
        let mut data = weights(GgmlType::MXFP4, 16, 32, &mut random);
        for (block, e) in data.chunks_exact_mut(17).zip(exponents) {
            block[0] = e;
        }
        // 2^127 with any code but 0 and 1 is infinite in f32, here as in the dequantiser.
        data[15 * 17 + 1..].fill(0x10);
        let mut w = vec![0.0; 16 * 32];
        dequantize(GgmlType::MXFP4, &data, &mut w).unwrap();
        let x: Vec<f32> = random.values(2 * 32).iter().map(|x| x * 2f32.powi(-12)).collect();
        let act = Act::new(isa, Some(32), &x);
        let rows = WeightRows { ty: GgmlType::MXFP4, data: &data, row_bytes: 17, n_rows: 16 };
        for first in 0..2 {
            for n_rows in 1..=2 - first {
                let y = multiply(isa, rows, &act, 32, first..first + n_rows)[0];
                for (o, y) in y.iter().enumerate() {
                    let x = act.values();
                    let terms = w[32 * o..].iter().zip(&x[32 * first..32 * first + 32]);
                    let (want, size) = terms.fold((0.0, 0.0), |(sum, size), (w, x)| {
                        (sum + f64::from(*w) * x, size + (f64::from(*w) * x).abs())
                    });
                    let error = (f64::from(*y) - want).abs();
                    assert!(
                        error <= 1e-6 * size + 2e-45,
                        "{} exponent {}: {y:e} for {want:e}",
                        isa.name(),
                        exponents[o]
                    );
                }
            }
        }
    }
}

#[test]
fn activations_are_within_half_a_step() {
    let mut random = Random::new(3);
    let mut x = random.values(1024);
    x[..256].fill(0.0);
    x[256..512].iter_mut().for_each(|x| *x *= 1e-30);
    x[512..768].iter_mut().for_each(|x| *x *= 1e30);
    for isa in Isa::available() {
        for block in [32, 256] {
            let values = Act::new(isa, Some(block), &x).values();
            for (x, got) in x.chunks(block).zip(values.chunks(block)) {
                let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                for (x, got) in x.iter().zip(got) {
                    let error = (f64::from(*x) - got).abs();
                    assert!(
                        error <= f64::from(largest) / 127.0 * 0.505,
                        "{} {x} became {got}",
                        isa.name()
                    );
                }
            }
        }
    }
}
