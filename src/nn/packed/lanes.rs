//! Sixteen numbers at a time, on whatever vector unit there is.
//!
//! Kernels are written once, over [`Lanes`], and compiled for each [`SimdLevel`] by [`SimdLevel::run`].
//! A line of memory (64 bytes) holds sixteen f32, sixteen pairs of bf16, or sixteen fours of
//! bytes; it is multiplied with a scalar of each row, which holds as many numbers of the other
//! factor in one word, or in two where no instruction takes them together fast. So f32, bf16 and
//! int8 products are the same loop.
#![allow(
    unsafe_code,
    reason = "vector instructions and loads: every `Lanes` is used below `SimdLevel::run`, which has \
              asked the processor first, and every load is of a reference"
)]
#![expect(
    clippy::inline_always,
    reason = "a vector operation compiles to its instruction only inside the function that \
              switched the processor feature on"
)]
#![expect(clippy::needless_range_loop, reason = "several tables are walked by one index")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_load_si128,
    _mm_prefetch, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_load_si256, _mm256_loadu_ps,
    _mm256_madd_epi16, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_ps,
    _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps,
    _mm512_cvtepu16_epi32, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

/// Numbers that lanes hold.
pub const LANES: usize = 16;

/// One line of memory.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// A level of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdLevel(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// AVX-512 with products of pairs of bf16 and of fours of bytes (Zen 4 and later).
    Avx512Bf16,
    /// The same but for pairs of bf16, which are multiplied as f32: an Intel core does four such
    /// products in the time that one of pairs takes it.
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

/// How many rows are multiplied with a panel at a time, so that their sums fit the registers.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// Rows at most.
    pub rows: usize,
    /// Rows that take both lines of a panel at once; more take one after the other.
    pub whole: usize,
}

/// Sixteen f32 in registers.
pub trait Lanes: Copy {
    /// Sixteen i32, the sums of products of bytes.
    type Ints: Copy;
    /// Tiles of floats.
    const FLOATS: Tile;
    /// Tiles of bytes.
    const BYTES: Tile;
    /// Queries that are held against the same keys at a time.
    const QUERIES: usize;
    /// Sums that a score is added up in, side by side, so that an addition need not wait for the
    /// last: one where there are queries enough.
    const SCORE_PARTS: usize;
    /// Whether there is an instruction that multiplies pairs of bf16.
    const PAIRS: bool = false;
    /// Words of a scalar that holds four bytes: two where no instruction multiplies all four, which
    /// are then two pairs of 16 bits, of the even ones and of the odd ones.
    const FOUR_WORDS: usize;

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
    /// Adds the lines' f32 times the f32 of each row to its sums.
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: &[u32; R],
    );

    /// Adds the products of the lines' pairs of bf16 with the pair of each row, where
    /// [`Self::PAIRS`] says so.
    #[inline(always)]
    fn dots_pairs<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: &[u32; R],
    ) {
        Self::dots_apart(sums, lines, [&scalars.map(low_half), &scalars.map(high_half)]);
    }

    /// The same, with the pair of each row as two f32: first all low ones, then all high ones.
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: [&[u32; R]; 2],
    );

    /// The same integer everywhere.
    fn ints(value: i32) -> Self::Ints;

    /// Adds the products of the lines' fours of unsigned bytes with the four signed ones of each
    /// row, of which there are [`Self::FOUR_WORDS`] words, one after the other.
    fn dots_bytes<const R: usize, const W: usize>(
        sums: &mut [[Self::Ints; R]; W],
        lines: &[Line; W],
        scalars: &[[u32; R]],
    );

    /// Integers as floats.
    fn floats(ints: Self::Ints) -> Self;

    /// A line of 32 bf16.
    fn two_bf16(line: &Line) -> [Self; 2];

    /// Says that a line will be read next.
    #[inline(always)]
    fn prefetch(_: &Line) {}

    /// Says that what lies at a place will be read after a while. There may be nothing.
    #[inline(always)]
    fn prefetch_far(_: *const u8) {}

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

/// The lower of two bf16, as the bits of an f32.
#[inline(always)]
pub fn low_half(pair: u32) -> u32 {
    pair << 16
}

/// The higher of two bf16, as the bits of an f32.
#[inline(always)]
pub fn high_half(pair: u32) -> u32 {
    pair & 0xffff_0000
}

// === impl SimdLevel ===

impl SimdLevel {
    /// The best that this processor has.
    pub fn best() -> Self {
        Self::all_here().next().unwrap_or(Self(Kind::Portable))
    }

    /// Every level that this processor can run, the best first.
    pub fn all_here() -> impl Iterator<Item = Self> {
        let [first, second] = if pairs_are_fast() {
            [Kind::Avx512Bf16, Kind::Avx512]
        } else {
            [Kind::Avx512, Kind::Avx512Bf16]
        };
        let all = [first, second, Kind::Avx2, Kind::Portable];
        all.into_iter().filter(|kind| kind.is_here()).map(Self)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            Kind::Avx512Bf16 => "avx512-bf16",
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        }
    }

    /// Whether pairs of bf16 are multiplied by an instruction of their own.
    pub fn has_pairs(self) -> bool {
        self.0 == Kind::Avx512Bf16
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
            Kind::Avx512Bf16 | Kind::Avx512 => unsafe { avx512(work) },
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
            // Processors that have the one without the other are not worth a level of their own.
            Self::Avx512Bf16 | Self::Avx512 => {
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

/// Whether pairs of bf16 are multiplied faster by their own instruction than as f32. No feature says
/// so. What was measured is 484 GFLOP/s a core with it on an AMD processor, and 110 on an Intel one,
/// which makes 224 in f32.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn pairs_are_fast() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] != [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
fn pairs_are_fast() -> bool {
    false
}

/// Lanes in one register of 512 bits.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Wide(__m512);

#[cfg(target_arch = "x86_64")]
impl Wide {
    #[inline(always)]
    fn line(line: &Line) -> __m512i {
        // SAFETY: a line is as long as the register, and aligned.
        unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn dots<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[__m512; W],
        scalars: &[u32; R],
    ) {
        for r in 0..R {
            for w in 0..W {
                // SAFETY: as for the `Lanes` below.
                unsafe {
                    let scalar = _mm512_set1_ps(f32::from_bits(scalars[r]));
                    sums[w][r].0 = _mm512_fmadd_ps(lines[w], scalar, sums[w][r].0);
                }
            }
        }
    }
}

// SAFETY of this block: `Wide` is used below `SimdLevel::run` alone, where the features are on; loads
// and stores are of references to sixteen numbers or to an aligned line.
#[cfg(target_arch = "x86_64")]
impl Lanes for Wide {
    type Ints = __m512i;
    const FLOATS: Tile = Tile { rows: 12, whole: 12 };
    const BYTES: Tile = Tile { rows: 6, whole: 6 };
    const QUERIES: usize = 12;
    const SCORE_PARTS: usize = 2;
    const PAIRS: bool = true;
    const FOUR_WORDS: usize = 1;

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
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: &[u32; R],
    ) {
        let mut numbers = [unsafe { _mm512_set1_ps(0.0) }; W];
        for w in 0..W {
            numbers[w] = unsafe { _mm512_castsi512_ps(Self::line(&lines[w])) };
        }
        Self::dots(sums, &numbers, scalars);
    }

    #[inline(always)]
    fn dots_pairs<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: &[u32; R],
    ) {
        use std::mem::transmute;
        for r in 0..R {
            for w in 0..W {
                unsafe {
                    let line = transmute::<__m512i, __m512bh>(Self::line(&lines[w]));
                    let pair = _mm512_set1_epi32(scalars[r] as i32);
                    let pair = transmute::<__m512i, __m512bh>(pair);
                    sums[w][r].0 = _mm512_dpbf16_ps(sums[w][r].0, line, pair);
                }
            }
        }
    }

    #[inline(always)]
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        [low, high]: [&[u32; R]; 2],
    ) {
        let mut numbers = [unsafe { _mm512_set1_ps(0.0) }; W];
        for w in 0..W {
            let pairs = Self::line(&lines[w]);
            numbers[w] = unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)) };
        }
        Self::dots(sums, &numbers, low);
        for w in 0..W {
            let pairs = Self::line(&lines[w]);
            let mask = unsafe { _mm512_set1_epi32(0xffff_0000_u32 as i32) };
            numbers[w] = unsafe { _mm512_castsi512_ps(_mm512_and_si512(pairs, mask)) };
        }
        Self::dots(sums, &numbers, high);
    }

    #[inline(always)]
    fn ints(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn dots_bytes<const R: usize, const W: usize>(
        sums: &mut [[__m512i; R]; W],
        lines: &[Line; W],
        scalars: &[[u32; R]],
    ) {
        for r in 0..R {
            for w in 0..W {
                unsafe {
                    let four = _mm512_set1_epi32(scalars[0][r] as i32);
                    sums[w][r] = _mm512_dpbusd_epi32(sums[w][r], Self::line(&lines[w]), four);
                }
            }
        }
    }

    #[inline(always)]
    fn floats(ints: __m512i) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(ints) })
    }

    #[inline(always)]
    fn two_bf16(line: &Line) -> [Self; 2] {
        // In a loop: a closure may stay a function of its own, which has no vector instructions.
        let mut out = [Self::splat(0.0); 2];
        for half in 0..2 {
            unsafe {
                let words = _mm256_load_si256(line.0.as_ptr().add(32 * half).cast());
                let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words));
                out[half] = Self(_mm512_castsi512_ps(bits));
            }
        }
        out
    }

    #[inline(always)]
    fn prefetch(line: &Line) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_far(place: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
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

    #[inline(always)]
    fn halves<const W: usize>(lines: &[Line; W]) -> [[__m256i; 2]; W] {
        let mut halves = [[unsafe { _mm256_set1_epi32(0) }; 2]; W];
        for w in 0..W {
            for half in 0..2 {
                halves[w][half] = Self::half(&lines[w], half);
            }
        }
        halves
    }

    /// Row by row, so that a scalar is loaded once, and no more than one at a time.
    #[inline(always)]
    fn dots<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[[__m256i; 2]; W],
        scalars: &[u32; R],
    ) {
        for r in 0..R {
            for w in 0..W {
                for half in 0..2 {
                    // SAFETY: as for the `Lanes` below.
                    unsafe {
                        let scalar = _mm256_set1_ps(f32::from_bits(scalars[r]));
                        let numbers = _mm256_castsi256_ps(lines[w][half]);
                        let sum = &mut sums[w][r].0[half];
                        *sum = _mm256_fmadd_ps(numbers, scalar, *sum);
                    }
                }
            }
        }
    }
}

// SAFETY of this block: as for `Wide`.
#[cfg(target_arch = "x86_64")]
impl Lanes for Halves {
    type Ints = [__m256i; 2];
    const FLOATS: Tile = Tile { rows: 5, whole: 2 };
    const BYTES: Tile = Tile { rows: 4, whole: 2 };
    const QUERIES: usize = 4;
    const SCORE_PARTS: usize = 1;
    const FOUR_WORDS: usize = 2;

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
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: &[u32; R],
    ) {
        Self::dots(sums, &Self::halves(lines), scalars);
    }

    #[inline(always)]
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        [low, high]: [&[u32; R]; 2],
    ) {
        let mut numbers = Self::halves(lines);
        for half in numbers.as_flattened_mut() {
            *half = unsafe { _mm256_slli_epi32::<16>(*half) };
        }
        Self::dots(sums, &numbers, low);
        let mut numbers = Self::halves(lines);
        for half in numbers.as_flattened_mut() {
            let mask = unsafe { _mm256_set1_epi32(0xffff_0000_u32 as i32) };
            *half = unsafe { _mm256_and_si256(*half, mask) };
        }
        Self::dots(sums, &numbers, high);
    }

    #[inline(always)]
    fn ints(value: i32) -> [__m256i; 2] {
        [unsafe { _mm256_set1_epi32(value) }; 2]
    }

    /// There is a product of unsigned with signed bytes, but it saturates. Pairs of 16 bits don't,
    /// and take as many instructions.
    #[inline(always)]
    fn dots_bytes<const R: usize, const W: usize>(
        sums: &mut [[[__m256i; 2]; R]; W],
        lines: &[Line; W],
        scalars: &[[u32; R]],
    ) {
        for (odd, scalars) in scalars.iter().enumerate() {
            let mut pairs = Self::halves(lines);
            for half in pairs.as_flattened_mut() {
                *half = if odd == 0 {
                    unsafe { _mm256_and_si256(*half, _mm256_set1_epi16(0xff)) }
                } else {
                    unsafe { _mm256_srli_epi16::<8>(*half) }
                };
            }
            for r in 0..R {
                for w in 0..W {
                    for half in 0..2 {
                        unsafe {
                            let scalar = _mm256_set1_epi32(scalars[r] as i32);
                            let products = _mm256_madd_epi16(pairs[w][half], scalar);
                            let sum = &mut sums[w][r][half];
                            *sum = _mm256_add_epi32(*sum, products);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn floats([low, high]: [__m256i; 2]) -> Self {
        Self(unsafe { [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)] })
    }

    #[inline(always)]
    fn two_bf16(line: &Line) -> [Self; 2] {
        // In loops: a closure may stay a function of its own, which has no vector instructions.
        let mut out = [Self::splat(0.0); 2];
        for half in 0..2 {
            for quarter in 0..2 {
                unsafe {
                    let at = line.0.as_ptr().add(32 * half + 16 * quarter);
                    let bits = _mm256_cvtepu16_epi32(_mm_load_si128(at.cast()));
                    out[half].0[quarter] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits));
                }
            }
        }
        out
    }

    #[inline(always)]
    fn prefetch(line: &Line) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_far(place: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
    }
}

/// Lanes in an array: the twin that every processor can run.
#[derive(Clone, Copy)]
pub struct Plain([f32; LANES]);

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
    fn dots<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        number: impl Fn(u32) -> u32,
        scalars: &[u32; R],
    ) {
        for (sums, line) in sums.iter_mut().zip(lines) {
            let line = Self(Self::words(line).map(|word| f32::from_bits(number(word))));
            for (sum, scalar) in sums.iter_mut().zip(scalars) {
                *sum = line.mul_add(Self::splat(f32::from_bits(*scalar)), *sum);
            }
        }
    }

    #[inline(always)]
    fn words(line: &Line) -> [u32; LANES] {
        let (words, _) = line.0.as_chunks();
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }
}

impl Lanes for Plain {
    type Ints = [i32; LANES];
    const FLOATS: Tile = Tile { rows: 2, whole: 2 };
    const BYTES: Tile = Tile { rows: 2, whole: 2 };
    const QUERIES: usize = 2;
    const SCORE_PARTS: usize = 1;
    const FOUR_WORDS: usize = 2;

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
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        scalars: &[u32; R],
    ) {
        Self::dots(sums, lines, |number| number, scalars);
    }

    #[inline(always)]
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[Line; W],
        [low, high]: [&[u32; R]; 2],
    ) {
        Self::dots(sums, lines, low_half, low);
        Self::dots(sums, lines, high_half, high);
    }

    #[inline(always)]
    fn ints(value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn dots_bytes<const R: usize, const W: usize>(
        sums: &mut [[[i32; LANES]; R]; W],
        lines: &[Line; W],
        scalars: &[[u32; R]],
    ) {
        for (sums, line) in sums.iter_mut().zip(lines) {
            let (fours, _) = line.0.as_chunks::<4>();
            for (r, sums) in sums.iter_mut().enumerate() {
                let [even, odd] = [scalars[0][r], scalars[1][r]];
                let factors = [even, odd, even >> 16, odd >> 16].map(|word| i32::from(word as i16));
                for (sum, four) in sums.iter_mut().zip(fours) {
                    for (byte, factor) in four.iter().zip(factors) {
                        *sum += i32::from(*byte) * factor;
                    }
                }
            }
        }
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
