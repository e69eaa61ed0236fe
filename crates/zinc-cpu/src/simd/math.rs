//! Elementary functions on sixteen lanes, accurate enough that they never decide a golden comparison.

use super::Simd;
use zinc_plan::Activation;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 split so that `n·LN2_HIGH` is exact for the |n| ≤ 151 that occur (Cody and Waite).
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// eˣ, at most 2 ulp off over the whole range; 0 below the smallest subnormal, ∞ above the largest finite value;
/// NaN stays NaN.
///
/// `eˣ = 2ⁿ·eʳ` with the scaling in two factors, so that subnormal results are rounded once.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // `max(limit, x)` returns its second argument for NaN, which keeps it.
    let (n, above_one) = reduced(s, s.min(s.splat(89.0), s.max(s.splat(-105.0), x)));
    let p = s.add(above_one, s.splat(1.0));
    let n_half = s.i_sar::<1>(n);
    let n_rest = s.i_add(n, s.i_xor(n_half, s.i_splat(-1)));
    let n_rest = s.i_add(n_rest, s.i_splat(1));
    s.mul(s.mul(p, power_of_two(s, n_half)), power_of_two(s, n_rest))
}

/// `n = round(x·log2 e)` and `eʳ - 1` for `r = x - n·ln 2`, |r| ≤ 0.347, by a degree-7 Taylor polynomial (remainder
/// below 6e-9).
#[inline(always)]
fn reduced<S: Simd>(s: S, x: S::F) -> (S::I, S::F) {
    let n = s.to_i32(s.mul(x, s.splat(LOG2_E)));
    let n_float = s.to_f32(n);
    let r = s.mul_add(n_float, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n_float, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    // r + r²·p: the small terms are summed before they meet the 1.
    (n, s.mul_add(s.mul(r, r), p, r))
}

/// `tanh x = ±(e²ˣ - 1) / (e²ˣ + 1)` of |x|, where `e²ˣ - 1 = 2ⁿ·(eʳ - 1) + (2ⁿ - 1)` loses nothing for small x.
/// NaN stays NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let sign = s.i_and(s.as_bits(x), s.i_splat(i32::MIN));
    let size = s.as_float(s.i_xor(s.as_bits(x), sign));
    // From 2·|x| = 40 on the result is 1.
    let (n, above_one) = reduced(s, s.min(s.splat(40.0), s.add(size, size)));
    let power = power_of_two(s, n);
    let minus_one = s.mul_add(power, above_one, s.sub(power, s.splat(1.0)));
    let ratio = s.div(minus_one, s.add(minus_one, s.splat(2.0)));
    s.as_float(s.i_or(s.as_bits(ratio), sign))
}

/// 2ⁿ for -126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two<S: Simd>(s: S, n: S::I) -> S::F {
    s.as_float(s.i_shl::<23>(s.i_add(n, s.i_splat(127))))
}

/// `x·σ(x) = x / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.mul(x, sigmoid(s, x))
}

/// `act(gate)·up`. [`Activation`] has the formulas.
#[inline(always)]
pub(crate) fn gated<S: Simd>(s: S, act: Activation, gate: S::F, up: S::F) -> S::F {
    match act {
        Activation::Silu => s.mul(silu(s, gate), up),
        Activation::GeluTanh => {
            // (1 + tanh(u)) / 2 is sigmoid(2u).
            let cube = s.mul(s.mul(gate, gate), gate);
            let inner = s.mul_add(s.splat(0.044_715), cube, gate);
            let twice = s.mul(s.splat(1.595_769), inner);
            s.mul(s.mul(gate, sigmoid(s, twice)), up)
        }
        Activation::SwigluOai => {
            let gate = s.min(gate, s.splat(7.0));
            let up = s.max(s.min(up, s.splat(7.0)), s.splat(-7.0));
            let swish = s.mul(gate, sigmoid(s, s.mul(s.splat(1.702), gate)));
            s.mul(swish, s.add(up, s.splat(1.0)))
        }
    }
}

/// `σ(x) = 1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
    }

    struct Apply<'a>(&'a [f32], &'a mut [f32], Function);

    impl Kernel for Apply<'_> {
        type Out = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let pairs = self.0.as_chunks::<16>().0.iter().zip(self.1.as_chunks_mut::<16>().0);
            for (x, y) in pairs {
                let x = s.load(x);
                let value = match self.2 {
                    Function::Exp => exp(s, x),
                    Function::Sigmoid => sigmoid(s, x),
                    Function::Tanh => tanh(s, x),
                };
                s.store(y, value);
            }
        }
    }

    /// Distance in units of the last place of `want`, subnormals included.
    fn ulps(got: f32, want: f64) -> f64 {
        let rounded = (want as f32).abs();
        let step = f32::from_bits(rounded.to_bits() + 1) - rounded;
        (f64::from(got) - want).abs() / f64::from(step.max(f32::from_bits(1)))
    }

    #[test]
    fn exp_and_sigmoid_are_accurate() {
        let x: Vec<f32> =
            (0..1 << 18).map(|i| (i as f32 - 131_072.0) * (104.0 / 131_072.0)).collect();
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            isa.run(Apply(&x, &mut y, Function::Exp));
            for (x, y) in x.iter().zip(&y).filter(|(x, _)| **x < 88.7) {
                let error = ulps(*y, f64::from(*x).exp());
                assert!(error <= 2.0, "{}: exp({x}) = {y}, off by {error} ulp", isa.name());
            }
            isa.run(Apply(&x, &mut y, Function::Sigmoid));
            for (x, y) in x.iter().zip(&y) {
                let want = 1.0 / (1.0 + (-f64::from(*x)).exp());
                assert!((f64::from(*y) - want).abs() <= 3e-7 * want + 1e-37, "sigmoid({x}) = {y}");
            }
        }
    }

    #[test]
    fn exp_at_the_edges() {
        let mut x = [0.0; 16];
        let edges = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0, 88.8, -150.0, f32::MAX];
        x[..8].copy_from_slice(&edges);
        for isa in Isa::available() {
            let mut y = [9.0; 16];
            isa.run(Apply(&x, &mut y, Function::Exp));
            assert_eq!((y[0], y[1], y[3], y[4]), (0.0, f32::INFINITY, 1.0, 1.0), "{}", isa.name());
            assert!(y[2].is_nan());
            assert_eq!((y[5], y[6], y[7]), (f32::INFINITY, 0.0, f32::INFINITY));
        }
    }

    #[test]
    fn tanh_is_accurate() {
        let mut x: Vec<f32> = (-40_000..40_000).map(|i| i as f32 / 1000.0).collect();
        x.extend((0..160).flat_map(|i| [2f32.powi(-i), -(2f32.powi(-i))]));
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            isa.run(Apply(&x, &mut y, Function::Tanh));
            for (x, y) in x.iter().zip(&y) {
                let error = ulps(*y, f64::from(*x).tanh());
                assert!(error <= 4.0, "{}: tanh({x}) = {y}, off by {error} ulp", isa.name());
            }
            let mut edges = [0.0; 16];
            edges[..3].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
            let mut y = [9.0; 16];
            isa.run(Apply(&edges, &mut y, Function::Tanh));
            assert_eq!((y[0], y[1], y[3]), (1.0, -1.0, 0.0));
            assert!(y[2].is_nan());
        }
    }
}
