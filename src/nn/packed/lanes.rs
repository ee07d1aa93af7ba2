//! Sixteen numbers at a time, on whatever vector unit there is.
//!
//! Kernels are written once, over [`Lanes`], and compiled for each [`Level`] by [`Level::run`].
//! A line of memory (64 bytes) holds sixteen f32, sixteen pairs of bf16, or sixteen fours of
//! bytes; it is multiplied with one 32-bit scalar, which holds as many numbers of the other
//! factor. So f32, bf16 and int8 products are the same loop.
#![allow(
    unsafe_code,
    reason = "vector instructions and loads: every `Lanes` is used below `Level::run`, which has \
              asked the processor first, and every load is of a reference"
)]
#![expect(
    clippy::inline_always,
    reason = "a vector operation compiles to its instruction only inside the function that \
              switched the processor feature on"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_load_si128, _mm_prefetch,
    _mm256_abs_epi8, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_load_si256, _mm256_loadu_ps,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_sign_epi8, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm256_sub_ps, _mm256_xor_si256, _mm512_add_ps, _mm512_castsi512_ps,
    _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_load_ps, _mm512_load_si512, _mm512_loadu_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_sub_ps,
};

/// Numbers that lanes hold.
pub const LANES: usize = 16;

/// One line of memory.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// A level of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// AVX-512 with products of bf16 and of bytes (Zen 4, Sapphire Rapids and later).
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// Whatever the compiler makes of plain loops.
    Portable,
}

/// Something to do with lanes.
pub trait Work {
    /// Does it. Everything on the way must be `#[inline(always)]`.
    fn run<L: Lanes>(self);
}

/// Sixteen f32 in registers.
pub trait Lanes: Copy {
    /// Sixteen i32, the sums of products of bytes.
    type Ints: Copy;
    /// Rows of a tile of floats, two lanes wide, whose sums fit the registers.
    const FLOAT_ROWS: usize;
    /// Rows of a tile of bytes, which has sums of integers and of floats.
    const BYTE_ROWS: usize;
    /// Queries that are held against the same keys at a time.
    const QUERIES: usize;
    /// Whether products of bytes are of the weights as they are kept, raised to have no sign.
    const RAISED: bool = true;

    /// The same number everywhere.
    fn splat(value: f32) -> Self;
    /// Sixteen numbers from memory.
    fn load(values: &[f32; LANES]) -> Self;
    /// Sixteen numbers to memory.
    fn store(self, values: &mut [f32; LANES]);
    /// `self + other`
    fn add(self, other: Self) -> Self;
    /// `self - other`
    fn sub(self, other: Self) -> Self;
    /// `self * other`
    fn mul(self, other: Self) -> Self;
    /// The greater of each two.
    fn max(self, other: Self) -> Self;
    /// `self * factor + more`
    fn mul_add(self, factor: Self, more: Self) -> Self;
    /// `self +` the line's f32 times one f32.
    fn dot_f32(self, line: &Line, scalar: u32) -> Self;
    /// `self +` the products of the line's pairs of bf16 with one pair.
    fn dot_bf16(self, line: &Line, scalar: u32) -> Self;
    /// The same integer everywhere.
    fn ints(value: i32) -> Self::Ints;
    /// `sums +` the products of the line's fours of unsigned bytes with four signed ones.
    fn dot_bytes(sums: Self::Ints, line: &Line, scalar: u32) -> Self::Ints;
    /// Integers as floats.
    fn floats(ints: Self::Ints) -> Self;

    /// A line of 32 bf16.
    fn two_bf16(line: &Line) -> [Self; 2];

    /// Says that a line will be read soon.
    #[inline(always)]
    fn prefetch(_: &Line) {}

    /// The sixteen numbers.
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        self.store(&mut values);
        values
    }

    /// Their sum, always in the same order.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut values = self.array();
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                values[i] += values[i + half];
            }
            half /= 2;
        }
        values[0]
    }

    /// The greatest of them.
    #[inline(always)]
    fn greatest(self) -> f32 {
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

    /// The nearest bf16 of each, ties to even.
    #[inline(always)]
    fn rounded(self) -> Self {
        let mut values = self.array();
        for value in &mut values {
            let bits = value.to_bits();
            *value = f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000);
        }
        Self::load(&values)
    }

    /// e to the power of each number at most 0, to 2 units in the last place; below -87 almost 0.
    ///
    /// x = n ln 2 + r: a polynomial for r, and n added to the exponent's bits.
    #[inline(always)]
    fn exp(self) -> Self {
        /// Adding this rounds to a whole number, and leaves it in the lowest bits.
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
        let (mut powers, shifted) = (power.array(), shifted.array());
        for (power, shifted) in powers.iter_mut().zip(shifted) {
            *power = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
        }
        Self::load(&powers)
    }
}

// === impl Level ===

impl Level {
    /// The best that this processor has.
    pub fn best() -> Self {
        Self::all_here().next().unwrap_or(Self(Kind::Portable))
    }

    /// Every level that this processor can run, the best first.
    pub fn all_here() -> impl Iterator<Item = Self> {
        let all = [Kind::Avx512, Kind::Avx2, Kind::Portable];
        all.into_iter().filter(|kind| kind.is_here()).map(Self)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// Does some work with the instructions of this level.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn run<W: Work>(self, work: W) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        #[target_feature(enable = "avx512bf16,avx512vnni")]
        fn avx512<W: Work>(work: W) {
            work.run::<Wide>();
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<W: Work>(work: W) {
            work.run::<Halves>();
        }
        match self.0 {
            // SAFETY: a level is made by `all_here` alone, which has asked the processor.
            Kind::Avx512 => unsafe { avx512(work) },
            // SAFETY: as above.
            Kind::Avx2 => unsafe { avx2(work) },
            Kind::Portable => work.run::<Plain>(),
        }
    }

    /// Does some work with the instructions of this level.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    pub fn run<W: Work>(self, work: W) {
        work.run::<Plain>();
    }
}

impl Kind {
    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma");
        match self {
            Self::Avx512 => {
                avx2 && has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512dq")
                    && has!("avx512vl")
                    && has!("avx512bf16")
                    && has!("avx512vnni")
            }
            Self::Avx2 => avx2,
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
struct Wide(__m512);

// SAFETY of this block: `Wide` is used below `Level::run` alone, where the features are on; loads
// and stores are of references to sixteen numbers or to an aligned line.
#[cfg(target_arch = "x86_64")]
impl Lanes for Wide {
    type Ints = __m512i;
    const FLOAT_ROWS: usize = 12;
    const BYTE_ROWS: usize = 6;
    const QUERIES: usize = 12;

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
    fn mul_add(self, factor: Self, more: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, more.0) })
    }

    #[inline(always)]
    fn dot_f32(self, line: &Line, scalar: u32) -> Self {
        unsafe {
            let line = _mm512_load_ps(line.0.as_ptr().cast());
            Self(_mm512_fmadd_ps(line, _mm512_set1_ps(f32::from_bits(scalar)), self.0))
        }
    }

    #[inline(always)]
    fn dot_bf16(self, line: &Line, scalar: u32) -> Self {
        use std::mem::transmute;
        unsafe {
            let line = _mm512_load_si512(line.0.as_ptr().cast());
            let pair = _mm512_set1_epi32(scalar as i32);
            let line = transmute::<__m512i, __m512bh>(line);
            Self(_mm512_dpbf16_ps(self.0, line, transmute::<__m512i, __m512bh>(pair)))
        }
    }

    #[inline(always)]
    fn ints(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn dot_bytes(sums: __m512i, line: &Line, scalar: u32) -> __m512i {
        unsafe {
            let line = _mm512_load_si512(line.0.as_ptr().cast());
            _mm512_dpbusd_epi32(sums, line, _mm512_set1_epi32(scalar as i32))
        }
    }

    #[inline(always)]
    fn floats(ints: __m512i) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(ints) })
    }

    #[inline(always)]
    fn two_bf16(line: &Line) -> [Self; 2] {
        [0, 1].map(|half| unsafe {
            let words = _mm256_load_si256(line.0.as_ptr().add(32 * half).cast());
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words));
            Self(_mm512_castsi512_ps(bits))
        })
    }

    #[inline(always)]
    fn prefetch(line: &Line) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.0.as_ptr().cast()) }
    }
}

/// Lanes in two registers of 256 bits.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Halves([__m256; 2]);

#[cfg(target_arch = "x86_64")]
impl Halves {
    #[inline(always)]
    fn half(line: &Line, half: usize) -> __m256i {
        // SAFETY: half a line is inside the line, and aligned.
        unsafe { _mm256_load_si256(line.0.as_ptr().add(32 * half).cast()) }
    }
}

// SAFETY of this block: as for `Wide`.
#[cfg(target_arch = "x86_64")]
impl Lanes for Halves {
    type Ints = [__m256i; 2];
    const FLOAT_ROWS: usize = 3;
    const BYTE_ROWS: usize = 2;
    const QUERIES: usize = 3;
    const RAISED: bool = false;

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
    fn mul_add(self, factor: Self, more: Self) -> Self {
        let ([a, b], [c, d], [e, f]) = (self.0, factor.0, more.0);
        Self(unsafe { [_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)] })
    }

    #[inline(always)]
    fn dot_f32(self, line: &Line, scalar: u32) -> Self {
        let mut sums = self.0;
        for (half, sum) in sums.iter_mut().enumerate() {
            unsafe {
                let scalar = _mm256_set1_ps(f32::from_bits(scalar));
                let line = _mm256_castsi256_ps(Self::half(line, half));
                *sum = _mm256_fmadd_ps(line, scalar, *sum);
            }
        }
        Self(sums)
    }

    #[inline(always)]
    fn dot_bf16(self, line: &Line, scalar: u32) -> Self {
        let mut sums = self.0;
        for (half, sum) in sums.iter_mut().enumerate() {
            unsafe {
                // The scalar is cut in two where scalars are: the vector unit has enough to do.
                let first = _mm256_set1_ps(f32::from_bits(scalar << 16));
                let second = _mm256_set1_ps(f32::from_bits(scalar & 0xffff_0000));
                let pairs = Self::half(line, half);
                let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                let low = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
                *sum = _mm256_fmadd_ps(low, first, *sum);
                *sum = _mm256_fmadd_ps(_mm256_castsi256_ps(high), second, *sum);
            }
        }
        Self(sums)
    }

    #[inline(always)]
    fn ints(value: i32) -> [__m256i; 2] {
        [unsafe { _mm256_set1_epi32(value) }; 2]
    }

    /// `vpmaddubsw` wants one factor without a sign: the weights, their raise taken away, get the
    /// sign of the row's bytes, and two products of at most 127 by 127 fit a word.
    #[inline(always)]
    fn dot_bytes(mut sums: [__m256i; 2], line: &Line, scalar: u32) -> [__m256i; 2] {
        for (half, sum) in sums.iter_mut().enumerate() {
            unsafe {
                let four = _mm256_set1_epi32(scalar as i32);
                let weights = _mm256_xor_si256(Self::half(line, half), _mm256_set1_epi8(-128));
                let signed = _mm256_sign_epi8(weights, four);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(four), signed);
                let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                *sum = _mm256_add_epi32(*sum, fours);
            }
        }
        sums
    }

    #[inline(always)]
    fn floats([low, high]: [__m256i; 2]) -> Self {
        Self(unsafe { [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)] })
    }

    #[inline(always)]
    fn two_bf16(line: &Line) -> [Self; 2] {
        [0, 1].map(|half| {
            Self([0, 1].map(|quarter| unsafe {
                let at = line.0.as_ptr().add(32 * half + 16 * quarter);
                let bits = _mm256_cvtepu16_epi32(_mm_load_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }))
        })
    }

    #[inline(always)]
    fn prefetch(line: &Line) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.0.as_ptr().cast()) }
    }
}

/// Lanes in an array: the twin that every processor can run.
#[derive(Clone, Copy)]
struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, with: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (a, b) in out.iter_mut().zip(other.0) {
            *a = with(*a, b);
        }
        Self(out)
    }

    #[inline(always)]
    fn words(line: &Line) -> [u32; LANES] {
        let (words, _) = line.0.as_chunks();
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }
}

impl Lanes for Plain {
    type Ints = [i32; LANES];
    const FLOAT_ROWS: usize = 2;
    const BYTE_ROWS: usize = 2;
    const QUERIES: usize = 2;

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
    fn mul_add(self, factor: Self, more: Self) -> Self {
        self.mul(factor).add(more)
    }

    #[inline(always)]
    fn dot_f32(self, line: &Line, scalar: u32) -> Self {
        let line = Self(Self::words(line).map(f32::from_bits));
        line.mul_add(Self::splat(f32::from_bits(scalar)), self)
    }

    #[inline(always)]
    fn dot_bf16(self, line: &Line, scalar: u32) -> Self {
        let words = Self::words(line);
        let low = Self(words.map(|pair| f32::from_bits(pair << 16)));
        let high = Self(words.map(|pair| f32::from_bits(pair & 0xffff_0000)));
        let first = Self::splat(f32::from_bits(scalar << 16));
        let second = Self::splat(f32::from_bits(scalar & 0xffff_0000));
        high.mul_add(second, low.mul_add(first, self))
    }

    #[inline(always)]
    fn ints(value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn dot_bytes(mut sums: [i32; LANES], line: &Line, scalar: u32) -> [i32; LANES] {
        let scalar = scalar.to_le_bytes().map(|byte| i32::from(byte as i8));
        let (fours, _) = line.0.as_chunks::<4>();
        for (sum, four) in sums.iter_mut().zip(fours) {
            for (byte, scalar) in four.iter().zip(scalar) {
                *sum += i32::from(*byte) * scalar;
            }
        }
        sums
    }

    #[inline(always)]
    fn floats(ints: [i32; LANES]) -> Self {
        Self(ints.map(|int| int as f32))
    }

    #[inline(always)]
    fn two_bf16(line: &Line) -> [Self; 2] {
        let (halves, _) = line.0.as_chunks::<{ 2 * LANES }>();
        std::array::from_fn(|half| {
            let (words, _) = halves[half].as_chunks();
            let bits = |i: usize| u32::from(u16::from_le_bytes(words[i])) << 16;
            Self(std::array::from_fn(|i| f32::from_bits(bits(i))))
        })
    }
}
