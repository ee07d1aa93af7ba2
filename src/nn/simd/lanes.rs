//! Sixteen f32 at a time, in the registers of whatever vector unit there is.
#![allow(
    unsafe_code,
    reason = "vector instructions: `Lanes` of a level are used below `VectorLevel::run` or `SimdLevel::run`, which \
              have asked the processor, and every load and store is of a reference"
)]
#![expect(
    clippy::inline_always,
    reason = "a vector operation compiles to its instruction only inside the function that switched the \
              processor's feature on"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps,
    _mm256_add_epi32, _mm256_add_ps, _mm256_castps_si256, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps,
    _mm256_mul_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
    _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512, _mm512_castps512_ps256,
    _mm512_castsi512_ps, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

/// Numbers of a vector.
pub const LANES: usize = 16;

/// The vector registers that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorLevel(RegisterWidth);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RegisterWidth {
    /// AVX-512: 32 registers of 512 bits.
    Avx512,
    /// AVX2 with fused multiply-add: 16 registers of 256 bits.
    Avx2,
    /// Loops that the compiler vectorises for the target's baseline.
    Portable,
}

/// A computation on [`Lanes`] that is compiled for each [`VectorLevel`].
pub trait VectorKernel {
    /// The result.
    type Output;
    /// Computes it. Every function that it calls must be `#[inline(always)]`.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Sixteen f32 in registers.
pub trait Lanes: Copy {
    /// Registers that the processor has for values of this type.
    const REGISTERS: usize;

    /// The same number in each lane.
    fn splat(value: f32) -> Self;
    /// Loads sixteen numbers.
    fn load(values: &[f32; LANES]) -> Self;
    /// Stores sixteen numbers.
    fn store(self, values: &mut [f32; LANES]);
    /// `self + other`
    fn add(self, other: Self) -> Self;
    /// `self - other`
    fn sub(self, other: Self) -> Self;
    /// `self * other`
    fn mul(self, other: Self) -> Self;
    /// The maximum of each lane.
    fn max(self, other: Self) -> Self;
    /// `self * factor + addend`, in one rounding where the processor has the instruction.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The sum of the lanes: of those 8 apart, then 4, 2 and 1, at every level.
    fn sum(self) -> f32;
    /// `self * 2^n`, where the lowest bits of `shifted` hold the integer `n`.
    fn scale_exponent(self, shifted: Self) -> Self;

    /// The sixteen numbers.
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        self.store(&mut values);
        values
    }

    /// The maximum of the lanes.
    #[inline(always)]
    fn max_lane(self) -> f32 {
        let mut values = self.array();
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                values[i] = if values[i] > values[i + half] { values[i] } else { values[i + half] };
            }
            half /= 2;
        }
        values[0]
    }

    /// The nearest bf16 of each lane, ties to even.
    #[inline(always)]
    fn round_to_bf16(self) -> Self {
        let mut values = self.array();
        for value in &mut values {
            let bits = value.to_bits();
            *value = f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000);
        }
        Self::load(&values)
    }

    /// `e^x` of each lane for `x` at most 0, to 2 units in the last place; below -87 nearly 0.
    ///
    /// Cody and Waite: `x = n ln 2 + r`, a Taylor polynomial for `e^r`, and `n` added to the exponent's bits.
    #[inline(always)]
    fn exp(self) -> Self {
        /// Adding 1.5 · 2^23 rounds to an integer, which the lowest bits then hold.
        const ROUND: f32 = 12_582_912.0;
        const LOWEST: f32 = -87.0;
        /// ln 2 in two parts, the first short enough for exact products.
        const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        const TAYLOR: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];

        let x = self.max(Self::splat(LOWEST));
        let shifted = x.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND));
        let whole = shifted.sub(Self::splat(ROUND));
        let mut rest = x;
        for part in LN2 {
            rest = whole.mul_add(Self::splat(-part), rest);
        }
        let mut power = Self::splat(1.0 / 5040.0);
        for factor in TAYLOR {
            power = power.mul_add(rest, Self::splat(factor));
        }
        power = power.mul_add(rest, Self::splat(1.0));
        power.scale_exponent(shifted)
    }
}

// === impl VectorLevel ===

impl VectorLevel {
    /// The widest registers of this processor.
    pub fn best() -> Self {
        let all = [RegisterWidth::Avx512, RegisterWidth::Avx2];
        Self(all.into_iter().find(|width| width.is_here()).unwrap_or(RegisterWidth::Portable))
    }

    /// Every level that this processor can run, the widest first.
    pub fn all_here() -> impl Iterator<Item = Self> {
        let all = [RegisterWidth::Avx512, RegisterWidth::Avx2, RegisterWidth::Portable];
        all.into_iter().filter(|width| width.is_here()).map(Self)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            RegisterWidth::Avx512 => "avx512",
            RegisterWidth::Avx2 => "avx2",
            RegisterWidth::Portable => "portable",
        }
    }

    /// Runs a kernel on these registers.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn run<K: VectorKernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<K: VectorKernel>(kernel: K) -> K::Output {
            kernel.run::<Avx512Lanes>()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: VectorKernel>(kernel: K) -> K::Output {
            kernel.run::<Avx2Lanes>()
        }
        match self.0 {
            // SAFETY: only `best` and `all_here` build a level, and they have asked the processor.
            RegisterWidth::Avx512 => unsafe { avx512(kernel) },
            // SAFETY: as above.
            RegisterWidth::Avx2 => unsafe { avx2(kernel) },
            RegisterWidth::Portable => kernel.run::<PortableLanes>(),
        }
    }

    /// Runs a kernel on these registers.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    pub fn run<K: VectorKernel>(self, kernel: K) -> K::Output {
        kernel.run::<PortableLanes>()
    }

    /// Compiles the plain loops of a closure for these registers, and runs them.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(super) fn run_loops<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        match self.0 {
            // SAFETY: only `best` and `all_here` build a level, and they have asked the processor.
            RegisterWidth::Avx512 => unsafe { avx512(work) },
            // SAFETY: as above.
            RegisterWidth::Avx2 => unsafe { avx2(work) },
            RegisterWidth::Portable => work(),
        }
    }

    /// Runs the plain loops of a closure.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    pub(super) fn run_loops<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

impl RegisterWidth {
    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = || has!("avx2") && has!("fma");
        match self {
            Self::Avx512 => {
                has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512dq")
                    && has!("avx512vl")
                    && avx2()
            }
            Self::Avx2 => avx2(),
            Self::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_here(self) -> bool {
        self == Self::Portable
    }
}

/// Lanes in one register of 512 bits.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512Lanes(pub __m512);

// SAFETY of this block: `Avx512Lanes` is used below `VectorLevel::run` or `SimdLevel::run` alone, where the features
// are on; loads and stores are of references to sixteen numbers.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512Lanes {
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let low = _mm512_castps512_ps256(self.0);
            sum_eight(_mm256_add_ps(low, _mm512_extractf32x8_ps::<1>(self.0)))
        }
    }

    #[inline(always)]
    fn scale_exponent(self, shifted: Self) -> Self {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), exponent)))
        }
    }
}

/// Lanes in two registers of 256 bits.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2Lanes(pub [__m256; 2]);

// SAFETY of this block: as for `Avx512Lanes`.
#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2Lanes {
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([unsafe { _mm256_set1_ps(value) }; 2])
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        let at = values.as_ptr();
        Self(unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] })
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        let at = values.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(at, self.0[0]);
            _mm256_storeu_ps(at.add(8), self.0[1]);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self(unsafe { [_mm256_add_ps(a, c), _mm256_add_ps(b, d)] })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self(unsafe { [_mm256_sub_ps(a, c), _mm256_sub_ps(b, d)] })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self(unsafe { [_mm256_mul_ps(a, c), _mm256_mul_ps(b, d)] })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self(unsafe { [_mm256_max_ps(a, c), _mm256_max_ps(b, d)] })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        let ([a, b], [c, d], [e, f]) = (self.0, factor.0, addend.0);
        Self(unsafe { [_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)] })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [low, high] = self.0;
        unsafe { sum_eight(_mm256_add_ps(low, high)) }
    }

    #[inline(always)]
    fn scale_exponent(self, shifted: Self) -> Self {
        let mut scaled = self.0;
        for (half, shifted) in scaled.iter_mut().zip(shifted.0) {
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                let bits = _mm256_add_epi32(_mm256_castps_si256(*half), exponent);
                *half = _mm256_castsi256_ps(bits);
            }
        }
        Self(scaled)
    }
}

/// The sum of those 4 apart, then 2 and 1.
///
/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sum_eight(values: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Lanes in an array: the twin that every processor can run.
#[derive(Clone, Copy, Debug)]
pub struct PortableLanes(pub(super) [f32; LANES]);

impl PortableLanes {
    #[inline(always)]
    fn zip(self, other: Self, with: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (a, b) in out.iter_mut().zip(other.0) {
            *a = with(*a, b);
        }
        Self(out)
    }
}

impl Lanes for PortableLanes {
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(*values)
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        *values = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Every aarch64 processor has a fused instruction; elsewhere it would be a call into libm.
        if cfg!(target_arch = "aarch64") {
            let mut out = self.0;
            for ((a, factor), addend) in out.iter_mut().zip(factor.0).zip(addend.0) {
                *a = a.mul_add(factor, addend);
            }
            Self(out)
        } else {
            self.mul(factor).add(addend)
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut values = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                values[i] += values[i + half];
            }
            half /= 2;
        }
        values[0]
    }

    #[inline(always)]
    fn scale_exponent(self, shifted: Self) -> Self {
        self.zip(shifted, |power, shifted| {
            f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum, the exponentials and the rounded numbers of sixteen numbers.
    struct Operations<'a>(&'a [f32; LANES]);

    impl VectorKernel for Operations<'_> {
        type Output = (f32, f32, [f32; LANES]);

        #[inline(always)]
        fn run<L: Lanes>(self) -> Self::Output {
            let values = L::load(self.0);
            (values.sum(), values.max_lane(), values.exp().array())
        }
    }

    #[test]
    fn sums_and_exponentials_are_those_of_double_precision_at_every_level() {
        let values: [f32; LANES] = std::array::from_fn(|i| -(i as f32 * 7.3).sin().abs() * 40.0);
        let right: f64 = values.iter().map(|value| f64::from(*value)).sum();
        let sums: Vec<f32> = VectorLevel::all_here()
            .map(|level| {
                let (sum, max, exponentials) = level.run(Operations(&values));
                assert!((f64::from(sum) - right).abs() < 1e-4, "{}", level.as_str());
                assert_eq!(
                    max.to_bits(),
                    values.iter().copied().fold(f32::MIN, f32::max).to_bits()
                );
                for (value, got) in values.iter().zip(exponentials) {
                    let right = f64::from(*value).exp();
                    assert!((f64::from(got) / right - 1.0).abs() < 4e-7, "exp({value}) is {got}");
                }
                sum
            })
            .collect();
        assert!(
            sums.iter().all(|sum| sum.to_bits() == sums[0].to_bits()),
            "one order at every level"
        );
    }
}
