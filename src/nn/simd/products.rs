//! Products of the packed decoder's weights, for each level of instructions.
//!
//! A line of memory (64 bytes) holds sixteen f32, sixteen pairs of bf16, or sixteen fours of bytes. It is multiplied
//! with a scalar of each row, which holds as many inputs in one word, or in two where no fast instruction takes them
//! together. So f32, bf16 and int8 products are the same loop.
#![allow(
    unsafe_code,
    reason = "vector instructions: `ProductLanes` of a level are used below `SimdLevel::run`, which has asked the \
              processor, and every load is of a reference"
)]
#![expect(
    clippy::inline_always,
    reason = "a vector operation compiles to its instruction only inside the function that switched the \
              processor's feature on"
)]
#![expect(clippy::needless_range_loop, reason = "several tables are walked by one index")]

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2Lanes, Avx512Lanes};
use super::lanes::{LANES, Lanes, PortableLanes};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_load_si128, _mm_prefetch,
    _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtepi32_ps,
    _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_load_si256, _mm256_madd_epi16,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_srli_epi16,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32,
    _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_slli_epi32,
};

/// One line of memory.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct CacheLine(pub [u8; 64]);

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdLevel(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    /// AVX-512 with products of pairs of bf16 (AVX512_BF16) and of fours of bytes (VNNI): Zen 4 and later.
    Avx512Bf16,
    /// The same without products of pairs of bf16, which are multiplied as f32. An Intel core does four such products in
    /// the time of one of pairs.
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// Plain loops, vectorised by the compiler.
    Portable,
}

/// A computation on [`ProductLanes`] that is compiled for each [`SimdLevel`].
pub trait ProductKernel {
    /// Computes it. Every function that it calls must be `#[inline(always)]`.
    fn run<L: ProductLanes>(self);
}

/// The shape of a microkernel's tile: how many rows are multiplied with a panel at a time, so that their sums fit
/// the registers.
#[derive(Clone, Copy, Debug)]
pub struct TileShape {
    /// Most rows.
    pub rows: usize,
    /// Most rows for which both lines of a panel are multiplied in one pass; more rows take one line after the other.
    pub whole: usize,
}

/// Lanes with the products of the packed decoder.
///
/// A [`CacheLine`] of weights is multiplied with one scalar per row. A scalar holds as many inputs as a lane of the line
/// holds weights: one f32, two bf16 or four bytes.
pub trait ProductLanes: Lanes {
    /// Sixteen i32: sums of products of bytes.
    type Ints: Copy;
    /// The tile of f32 and bf16 products.
    const FLOATS: TileShape;
    /// The tile of int8 products.
    const BYTES: TileShape;
    /// Queries that attention holds against the same keys at a time.
    const QUERIES: usize;
    /// Independent partial sums of a score, to hide the latency of an addition: one where there are queries enough.
    const SCORE_PARTS: usize;
    /// Whether there is an instruction that multiplies pairs of bf16.
    const PAIRS: bool = false;
    /// Words of a scalar of four bytes. Two where no instruction multiplies all four: then as two pairs of 16 bits,
    /// first the even bytes and then the odd ones.
    const FOUR_WORDS: usize;

    /// Adds each line's f32, times the f32 of each row, to the row's sums.
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
        scalars: &[u32; R],
    );

    /// Adds the products of each line's pairs of bf16 with the pair of each row, by one instruction where
    /// [`Self::PAIRS`] holds.
    #[inline(always)]
    fn dots_pairs<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
        scalars: &[u32; R],
    ) {
        Self::dots_apart(sums, lines, [&scalars.map(low_half), &scalars.map(high_half)]);
    }

    /// The same products in f32: of all low halves first, then of all high halves.
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
        scalars: [&[u32; R]; 2],
    );

    /// The same integer in each lane.
    fn ints(value: i32) -> Self::Ints;

    /// Adds the products of each line's unsigned bytes, by fours, with the four signed bytes of each row.
    /// `scalars` holds [`Self::FOUR_WORDS`] words per row, one after the other.
    fn dots_bytes<const R: usize, const W: usize>(
        sums: &mut [[Self::Ints; R]; W],
        lines: &[CacheLine; W],
        scalars: &[[u32; R]],
    );

    /// Converts integers to f32.
    fn floats(ints: Self::Ints) -> Self;

    /// The 32 bf16 of a line as f32.
    fn two_bf16(line: &CacheLine) -> [Self; 2];

    /// Prefetches a line that is read next.
    #[inline(always)]
    fn prefetch(_: &CacheLine) {}

    /// Prefetches an address that is read later. It need not be valid.
    #[inline(always)]
    fn prefetch_far(_: *const u8) {}
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
    /// The fastest that this processor has.
    pub fn best() -> Self {
        Self::all_here().next().unwrap_or(Self(Instructions::Portable))
    }

    /// Every level that this processor can run, the fastest first.
    pub fn all_here() -> impl Iterator<Item = Self> {
        let [first, second] = if pairs_are_fast() {
            [Instructions::Avx512Bf16, Instructions::Avx512]
        } else {
            [Instructions::Avx512, Instructions::Avx512Bf16]
        };
        let all = [first, second, Instructions::Avx2, Instructions::Portable];
        all.into_iter().filter(|kind| kind.is_here()).map(Self)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            Instructions::Avx512Bf16 => "avx512-bf16",
            Instructions::Avx512 => "avx512",
            Instructions::Avx2 => "avx2",
            Instructions::Portable => "portable",
        }
    }

    /// Whether pairs of bf16 are multiplied by one instruction.
    pub fn has_pairs(self) -> bool {
        self.0 == Instructions::Avx512Bf16
    }

    /// Runs a kernel with the instructions of this level.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn run<K: ProductKernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        #[target_feature(enable = "avx512bf16,avx512vnni")]
        fn avx512<K: ProductKernel>(kernel: K) {
            kernel.run::<Avx512Lanes>();
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: ProductKernel>(kernel: K) {
            kernel.run::<Avx2Lanes>();
        }
        match self.0 {
            // SAFETY: only `all_here` builds a level, and it has asked the processor.
            Instructions::Avx512Bf16 | Instructions::Avx512 => unsafe { avx512(kernel) },
            // SAFETY: as above.
            Instructions::Avx2 => unsafe { avx2(kernel) },
            Instructions::Portable => kernel.run::<PortableLanes>(),
        }
    }

    /// Runs a kernel with the instructions of this level.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    pub fn run<K: ProductKernel>(self, kernel: K) {
        kernel.run::<PortableLanes>();
    }
}

impl Instructions {
    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma");
        match self {
            // Processors that have only one of the two extensions get the level below.
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

/// Whether pairs of bf16 are multiplied faster by their own instruction than as f32. No CPUID feature states it.
/// Measured per core: 484 GFLOP/s with it on an AMD processor; 110 on an Intel one, which reaches 224 in f32.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn pairs_are_fast() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] != [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
fn pairs_are_fast() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
impl Avx512Lanes {
    #[inline(always)]
    fn line(line: &CacheLine) -> __m512i {
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

// SAFETY of this block: `Avx512Lanes` is used below `SimdLevel::run` alone, where the features are on; loads
// and stores are of references to sixteen numbers or to an aligned line.
#[cfg(target_arch = "x86_64")]
impl ProductLanes for Avx512Lanes {
    type Ints = __m512i;
    const FLOATS: TileShape = TileShape { rows: 12, whole: 12 };
    const BYTES: TileShape = TileShape { rows: 6, whole: 6 };
    const QUERIES: usize = 12;
    const SCORE_PARTS: usize = 2;
    const PAIRS: bool = true;
    const FOUR_WORDS: usize = 1;

    #[inline(always)]
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
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
        lines: &[CacheLine; W],
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
        lines: &[CacheLine; W],
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
        lines: &[CacheLine; W],
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
    fn two_bf16(line: &CacheLine) -> [Self; 2] {
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
    fn prefetch(line: &CacheLine) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_far(place: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2Lanes {
    #[inline(always)]
    fn half(line: &CacheLine, half: usize) -> __m256i {
        // SAFETY: half a line is inside the line, and aligned.
        unsafe { _mm256_load_si256(line.0.as_ptr().add(32 * half).cast()) }
    }

    #[inline(always)]
    fn halves<const W: usize>(lines: &[CacheLine; W]) -> [[__m256i; 2]; W] {
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

// SAFETY of this block: as for `Avx512Lanes`.
#[cfg(target_arch = "x86_64")]
impl ProductLanes for Avx2Lanes {
    type Ints = [__m256i; 2];
    const FLOATS: TileShape = TileShape { rows: 5, whole: 2 };
    const BYTES: TileShape = TileShape { rows: 4, whole: 2 };
    const QUERIES: usize = 4;
    const SCORE_PARTS: usize = 1;
    const FOUR_WORDS: usize = 2;

    #[inline(always)]
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
        scalars: &[u32; R],
    ) {
        Self::dots(sums, &Self::halves(lines), scalars);
    }

    #[inline(always)]
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
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
        lines: &[CacheLine; W],
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
    fn two_bf16(line: &CacheLine) -> [Self; 2] {
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
    fn prefetch(line: &CacheLine) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_far(place: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
    }
}

impl PortableLanes {
    #[inline(always)]
    fn dots<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
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
    fn words(line: &CacheLine) -> [u32; LANES] {
        let (words, _) = line.0.as_chunks();
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }
}

impl ProductLanes for PortableLanes {
    type Ints = [i32; LANES];
    const FLOATS: TileShape = TileShape { rows: 2, whole: 2 };
    const BYTES: TileShape = TileShape { rows: 2, whole: 2 };
    const QUERIES: usize = 2;
    const SCORE_PARTS: usize = 1;
    const FOUR_WORDS: usize = 2;

    #[inline(always)]
    fn dots_f32<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
        scalars: &[u32; R],
    ) {
        Self::dots(sums, lines, |number| number, scalars);
    }

    #[inline(always)]
    fn dots_apart<const R: usize, const W: usize>(
        sums: &mut [[Self; R]; W],
        lines: &[CacheLine; W],
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
        lines: &[CacheLine; W],
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
    fn two_bf16(line: &CacheLine) -> [Self; 2] {
        let (halves, _) = line.0.as_chunks::<{ 2 * LANES }>();
        std::array::from_fn(|half| {
            let (words, _) = halves[half].as_chunks();
            let bits = |i: usize| u32::from(u16::from_le_bytes(words[i])) << 16;
            Self(std::array::from_fn(|i| f32::from_bits(bits(i))))
        })
    }
}
