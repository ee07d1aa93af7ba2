//! The vector code keeps its bits: hashes of outputs that were computed before its last change.
//!
//! A change that means to alter bits (another order of a sum, another `exp`) renews the hashes, and says so in its
//! commit. The hashes hold on x86-64 Linux with glibc: angles and initial weights come from its libm.

#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use raisonne::bench::{BenchCase, SlateFill};
use raisonne::nn::decoder::Checkpoint;
use raisonne::nn::packed::{
    AttentionGroup, BlockTableEntry, KvDtype, KvSlot, PAGE_TOKENS, PackedDecoder, PackedOptions,
    SimdLevel, WeightDtype,
};
use raisonne::nn::simd::VectorLevel;
use raisonne::nn::{DinShape, FusedDin, PaperRechead, RecheadScratch, RecheadShape, Weights};
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

/// FNV-1a over the bits of numbers.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, values: &[f32]) {
        for byte in values.iter().flat_map(|value| value.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[test]
fn the_fused_scorer_keeps_its_bits() {
    let shape = DinShape { items: 200, ..DinShape::default() };
    for level in VectorLevel::all_here().filter(|level| level.as_str() == "avx512") {
        let mut hash = Hash::new();
        for (seed, sizes) in [(60, 1), (12, 2), (8, 7), (2, 100)].into_iter().enumerate() {
            let case = BenchCase::random(&shape, seed as u64, sizes, SlateFill::Ragged).unwrap();
            let fused = FusedDin::for_level(&case.weights, &shape, level).unwrap();
            for slate in 0..sizes.0 {
                let scores = case.score(&fused, slate).unwrap();
                hash.add(&scores.logits);
                hash.add(&scores.attention);
            }
        }
        assert_eq!(format!("{:016x}", hash.0), "e8ab5d52561a5ee8");
    }
}

#[test]
fn the_demo_bundles_rechead_keeps_its_bits() {
    let bytes = fs::read("models/demo/rechead.safetensors").unwrap();
    let weights = Weights::from_bytes(&bytes).unwrap();
    let [width, text] = *weights.dims("history.project.weight").unwrap() else { panic!() };
    let rechead = PaperRechead::new(&weights, &RecheadShape::of(text, width, 0.5)).unwrap();
    let (mut hash, mut scratch) = (Hash::new(), RecheadScratch::default());
    for i in 0..20 {
        let wave = |of: fn(f32) -> f32, a: usize, b: usize| -> Vec<f32> {
            (0..text).map(|k| of((i * a + k * b) as f32)).collect()
        };
        let (history, thought) = (wave(f32::sin, 31, 7), wave(f32::cos, 13, 5));
        hash.add(&rechead.item(&history, &mut scratch));
        let answer = (i % 2 == 0).then_some(&thought[..]);
        hash.add(&rechead.shopper(&history, &thought, answer, &mut scratch));
    }
    assert_eq!(format!("{:016x}", hash.0), "d16769382c5ed526");
}

#[test]
fn the_packed_decoder_keeps_its_bits_at_every_level() {
    let expected = [
        (WeightDtype::F32, "avx512-bf16", "71f5b48f15b56296"),
        (WeightDtype::F32, "avx512", "71f5b48f15b56296"),
        (WeightDtype::F32, "avx2", "ccd6412e0d0f76ac"),
        (WeightDtype::F32, "portable", "02e88fce127896a8"),
        (WeightDtype::Bf16, "avx512-bf16", "3aa4a17111e47525"),
        (WeightDtype::Bf16, "avx512", "459f51dd8e8c9874"),
        (WeightDtype::Bf16, "avx2", "459f51dd8e8c9874"),
        (WeightDtype::Bf16, "portable", "459f51dd8e8c9874"),
        (WeightDtype::Int8, "avx512-bf16", "2a66b942191fc5c5"),
        (WeightDtype::Int8, "avx512", "257f58d4ea253dff"),
        (WeightDtype::Int8, "avx2", "257f58d4ea253dff"),
        (WeightDtype::Int8, "portable", "fd6a0450e990c1c8"),
    ];
    for level in SimdLevel::all_here() {
        for (dtype, _, hash) in expected.iter().filter(|(_, name, _)| *name == level.as_str()) {
            assert_eq!(&decoder_hash(*dtype, level), hash, "{dtype:?} {}", level.as_str());
        }
    }
}

/// The hash of the logits of 37 tokens.
fn decoder_hash(weight_dtype: WeightDtype, level: SimdLevel) -> String {
    let checkpoint = Checkpoint::open(Path::new("tests/fixtures/decoder/qwen3")).unwrap();
    let (vocabulary, tokens) = (checkpoint.config().vocabulary, 37_usize);
    let options = PackedOptions {
        weight_dtype,
        kv_dtype: KvDtype::Model,
        threads: NonZeroUsize::new(2).unwrap(),
        level,
        kv_pages: 16,
        max_batched_tokens: 64,
    };
    let mut decoder = PackedDecoder::load(checkpoint, options).unwrap();
    let batch = decoder.batch_mut();
    for i in 0..tokens {
        batch.tokens.push(((i * i * 7 + i * 13) % vocabulary) as u32);
        batch.positions.push(i as u32);
        let (page, token) = ((i / PAGE_TOKENS) as u32, (i % PAGE_TOKENS) as u32);
        batch.slots.push(KvSlot { page, token });
    }
    let pages = tokens.div_ceil(PAGE_TOKENS);
    batch.block_table.extend((0..pages).map(|page| {
        let first = page * PAGE_TOKENS;
        let tokens = PAGE_TOKENS.min(tokens - first) as u32;
        BlockTableEntry { page: page as u32, first: first as u32, tokens }
    }));
    batch.groups.push(AttentionGroup { rows: 0..tokens, pages: 0..pages, past: 0 });
    let rows = decoder.forward().unwrap();
    let mut logits = vec![0.0; tokens * vocabulary];
    decoder.logits(&rows, &(0..tokens).collect::<Vec<_>>(), &mut logits).unwrap();
    let mut hash = Hash::new();
    hash.add(&logits);
    format!("{:016x}", hash.0)
}
