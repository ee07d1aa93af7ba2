//! Attention over KV pages in one pass: scores, an online softmax and weighted sums, one block of keys after the
//! other (FlashAttention).
//!
//! A task is some rows of one group with one key head. A row has several queries per key head, and all of a task's
//! queries are multiplied with a line of keys while it is in a register. Blocks are counted from the beginning of a
//! sequence. So a row's result depends on its own context alone, not on how the batch was cut or on the rest of it.
#![allow(unsafe_code, reason = "rows of one table are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `nn::simd`")]
#![expect(clippy::needless_range_loop, reason = "several tables are walked by one index")]

use super::kv::{KvCache, KvLayout, PAGE_TOKENS};
use super::matrix::{Bf16PairDot, Bf16SplitDot, Dot, F32Dot, PackedFormat};
use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{CacheLine, LANES, Lanes, ProductKernel, ProductLanes, SimdLevel};
use std::array::{from_mut, from_ref};
use std::ops::Range;

/// Pages of a block: one step of the online softmax per 64 keys.
const BLOCK_PAGES: usize = 4;
const BLOCK: usize = BLOCK_PAGES * PAGE_TOKENS;
/// Most partial sums of a score.
const PARTS_MAX: usize = 2;
/// Largest head dimension: a task keeps sums of this size on its stack.
pub const HEAD_DIM_MAX: usize = 256;

/// Consecutive rows of one sequence, which attend to the same pages.
#[derive(Clone, Debug)]
pub struct AttentionGroup {
    /// The rows.
    pub rows: Range<usize>,
    /// Their pages, as a range of the batch's block table.
    pub pages: Range<usize>,
    /// Tokens of the sequence before the rows: row `i` of the group attends to `past + i + 1` tokens.
    pub past: usize,
}

/// An entry of the block table: a page of a group's sequence, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTableEntry {
    /// The page.
    pub page: u32,
    /// Position of its first token.
    pub first: u32,
    /// Its tokens that belong to the sequence.
    pub tokens: u32,
}

/// A layer's attention: heads and window.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// The sliding window: tokens that a row attends to, itself included.
    pub window: Option<usize>,
}

/// The attention tasks of a batch, the same for every layer.
#[derive(Debug, Default)]
pub struct AttentionTasks {
    /// Row ranges, each within one group.
    parts: Vec<RowRange>,
    /// Query heads per key head.
    per_key: usize,
    /// Tasks per key head: too many query heads are split over several.
    cuts: usize,
}

#[derive(Clone, Debug)]
struct RowRange {
    group: usize,
    rows: Range<usize>,
}

impl AttentionTasks {
    /// Splits a batch's groups so that the queries of one key head over some rows fill a task.
    pub fn cut(
        &mut self,
        level: SimdLevel,
        layout: KvLayout,
        heads: usize,
        groups: &[AttentionGroup],
    ) {
        let queries_max = queries_max(level);
        self.per_key = heads / layout.kv_heads;
        self.cuts = self.per_key.div_ceil(queries_max);
        let rows_max = (queries_max / self.per_key).max(1);
        self.parts.clear();
        for (g, group) in groups.iter().enumerate() {
            // Even tasks: 5 rows with at most 4 per task are 3 and 2.
            let parts = group.rows.len().div_ceil(rows_max);
            let at = |part: usize| group.rows.start + part * group.rows.len() / parts;
            let rows = (0..parts).map(|part| at(part)..at(part + 1));
            self.parts.extend(rows.map(|rows| RowRange { group: g, rows }));
        }
    }
}

/// `out = softmax(queries keys^T / sqrt(head_dim)) values` for all rows of a batch.
pub fn attend(
    (level, pool): (SimdLevel, &ThreadPool),
    cache: &KvCache,
    (layer, heads): (usize, AttentionShape),
    (tasks, groups, seen): (&AttentionTasks, &[AttentionGroup], &[BlockTableEntry]),
    queries: &[f32],
    out: &mut [f32],
) {
    let AttentionTasks { parts, per_key, cuts } = tasks;
    let out = DisjointMut::new(out);
    pool.each(parts.len() * cache.layout().kv_heads * cuts, |index| {
        // Tasks of one head are consecutive, so that its pages stay in the processor's cache.
        let (head, RowRange { group, rows }) = (index / parts.len(), &parts[index % parts.len()]);
        let (kv_head, cut) = (head / cuts, head % cuts);
        let first = kv_head * per_key + cut * per_key / cuts;
        let last = kv_head * per_key + (cut + 1) * per_key / cuts;
        let group = &groups[*group];
        let task = AttentionTask {
            cache,
            layer,
            kv_head,
            heads: first..last,
            heads_all: heads.heads,
            window: heads.window,
            rows: rows.clone(),
            past: group.past + rows.start - group.rows.start,
            seen: &seen[group.pages.clone()],
            queries,
            out: &out,
            pairs: level.has_pairs(),
        };
        task.run(level);
    });
}

fn queries_max(level: SimdLevel) -> usize {
    struct QueriesKernel<'a>(&'a mut usize);
    impl ProductKernel for QueriesKernel<'_> {
        #[inline(always)]
        fn run<L: ProductLanes>(self) {
            *self.0 = L::QUERIES;
        }
    }
    let mut queries = 0;
    level.run(QueriesKernel(&mut queries));
    queries
}

struct AttentionTask<'a> {
    cache: &'a KvCache,
    layer: usize,
    kv_head: usize,
    heads: Range<usize>,
    heads_all: usize,
    window: Option<usize>,
    rows: Range<usize>,
    /// Tokens of the sequence before the first row.
    past: usize,
    seen: &'a [BlockTableEntry],
    queries: &'a [f32],
    out: &'a DisjointMut<'a, f32>,
    /// Whether products of pairs of bf16 have a fast instruction.
    pairs: bool,
}

/// A task with `R` queries.
struct AttentionKernel<'a, const R: usize>(&'a AttentionTask<'a>);

impl<const R: usize> ProductKernel for AttentionKernel<'_, R> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        // Tasks that are too large for a level's registers are not compiled for it.
        if const { R <= L::QUERIES } {
            match self.0.cache.layout().format {
                PackedFormat::Bf16 if const { L::PAIRS } && self.0.pairs => {
                    self.0.attend::<L, Bf16PairDot, R>();
                }
                PackedFormat::Bf16 => self.0.attend::<L, Bf16SplitDot, R>(),
                _ => self.0.attend::<L, F32Dot, R>(),
            }
        } else {
            unreachable!("a task of {R} queries is too much for this level");
        }
    }
}

impl AttentionTask<'_> {
    /// Each number of queries is a function of its own at each level.
    fn run(&self, level: SimdLevel) {
        match self.rows.len() * self.heads.len() {
            1 => level.run(AttentionKernel::<1>(self)),
            2 => level.run(AttentionKernel::<2>(self)),
            3 => level.run(AttentionKernel::<3>(self)),
            4 => level.run(AttentionKernel::<4>(self)),
            5 => level.run(AttentionKernel::<5>(self)),
            6 => level.run(AttentionKernel::<6>(self)),
            7 => level.run(AttentionKernel::<7>(self)),
            8 => level.run(AttentionKernel::<8>(self)),
            9 => level.run(AttentionKernel::<9>(self)),
            10 => level.run(AttentionKernel::<10>(self)),
            11 => level.run(AttentionKernel::<11>(self)),
            12 => level.run(AttentionKernel::<12>(self)),
            queries => unreachable!("a task of {queries} queries"),
        }
    }

    /// Computes attention for `R` queries: every head of the first row, then of the next.
    #[inline(always)]
    fn attend<L: ProductLanes, D: Dot, const R: usize>(&self) {
        let layout = self.cache.layout();
        let mut scalars = [[0_u32; R]; HEAD_DIM_MAX];
        self.pack::<D, R>(layout, &mut scalars);
        let mut state = OnlineSoftmax::<R>::new();
        let last = self.past + self.rows.len();
        let first = self.window.map_or(0, |window| (self.past + 1).saturating_sub(window));
        for (b, block) in self.seen.chunks(BLOCK_PAGES).enumerate() {
            let (begin, end) = (block[0].first as usize, block[block.len() - 1]);
            if begin >= last || (end.first + end.tokens) as usize <= first {
                continue;
            }
            let mut scores = [[f32::NEG_INFINITY; BLOCK]; R];
            for (p, seen) in block.iter().enumerate() {
                let sums =
                    scores_of::<L, D, R>(self.keys(seen), self.after_keys(block, p), &scalars);
                for r in 0..R {
                    let (halves, _) = scores[r].as_chunks_mut::<LANES>();
                    sums[r].store(&mut halves[p]);
                    if !self.sees_all(seen) {
                        self.mask(r / self.heads.len(), seen, &mut halves[p], f32::NEG_INFINITY);
                    }
                }
            }
            state.softmax_block::<L>(layout, &mut scores);
            for (p, seen) in block.iter().enumerate().filter(|(_, seen)| !self.sees_all(seen)) {
                for r in 0..R {
                    let (halves, _) = scores[r].as_chunks_mut::<LANES>();
                    // Masked keys get a weight of exactly zero.
                    self.mask(r / self.heads.len(), seen, &mut halves[p], 0.0);
                }
            }
            for (p, seen) in block.iter().enumerate() {
                let values = self.values(seen);
                let next = match (block.get(p + 1), self.seen.get((b + 1) * BLOCK_PAGES)) {
                    (Some(next), _) => self.values(next),
                    (None, Some(next)) => self.keys(next),
                    (None, None) => values,
                };
                let steps = (seen.tokens as usize).div_ceil(layout.packed());
                let weights = packed_weights::<D, R>(&scores, p);
                let scale = p == 0;
                state.add::<L, D>((values, next), &weights[..steps * D::WORDS], scale);
            }
        }
        self.finish(layout, &state);
    }

    #[inline(always)]
    fn keys(&self, seen: &BlockTableEntry) -> &[CacheLine] {
        self.cache.head(self.layer, seen.page, self.kv_head).0
    }

    #[inline(always)]
    fn values(&self, seen: &BlockTableEntry) -> &[CacheLine] {
        self.cache.head(self.layer, seen.page, self.kv_head).1
    }

    /// The lines that are read after the keys of page `p` of a block.
    #[inline(always)]
    fn after_keys(&self, block: &[BlockTableEntry], p: usize) -> &[CacheLine] {
        block.get(p + 1).map_or_else(|| self.values(&block[0]), |next| self.keys(next))
    }

    /// Packs the scaled queries in the format of the keys: for each step along the head, one scalar per query.
    #[inline(always)]
    fn pack<D: Dot, const R: usize>(
        &self,
        layout: KvLayout,
        scalars: &mut [[u32; R]; HEAD_DIM_MAX],
    ) {
        let scale = (layout.head_dim as f32).sqrt().recip();
        for r in 0..R {
            let from = self.at(layout, r);
            let query = &self.queries[from..from + layout.head_dim];
            for (step, part) in query.chunks(D::PACKED).enumerate() {
                let mut scaled = [0.0; 2];
                for (scaled, value) in scaled.iter_mut().zip(part) {
                    *scaled = value * scale;
                }
                put::<D, R>(D::scalar(scaled), step, r, scalars);
            }
        }
    }

    /// The offset of a query's head in the queries and in the output.
    #[inline(always)]
    fn at(&self, layout: KvLayout, query: usize) -> usize {
        let (row, head) = (query / self.heads.len(), query % self.heads.len());
        ((self.rows.start + row) * self.heads_all + self.heads.start + head) * layout.head_dim
    }

    /// Whether every row attends to every token of a page, as with most pages.
    #[inline(always)]
    fn sees_all(&self, seen: &BlockTableEntry) -> bool {
        let (first, last) = (seen.first as usize, self.past + self.rows.len());
        let far_enough = self.window.is_none_or(|window| first + window >= last);
        seen.tokens as usize == PAGE_TOKENS && first + PAGE_TOKENS <= self.past + 1 && far_enough
    }

    /// Overwrites the scores of keys that a row does not attend to.
    #[inline(always)]
    fn mask(&self, row: usize, seen: &BlockTableEntry, scores: &mut [f32; LANES], with: f32) {
        let first = seen.first as usize;
        let end = (self.past + row + 1).saturating_sub(first).min(seen.tokens as usize);
        for score in &mut scores[end..] {
            *score = with;
        }
        if let Some(window) = self.window {
            let begin = (self.past + row + 1).saturating_sub(window).saturating_sub(first);
            for score in &mut scores[..begin.min(LANES)] {
                *score = with;
            }
        }
    }

    #[inline(always)]
    fn finish<const R: usize>(&self, layout: KvLayout, state: &OnlineSoftmax<R>) {
        for r in 0..R {
            let share = state.total[r].recip();
            // SAFETY: these heads of these rows are this task's.
            let out = unsafe { self.out.slice(self.at(layout, r), layout.head_dim) };
            for (out, sum) in out.iter_mut().zip(&state.sums[r]) {
                *out = sum * share;
            }
        }
    }
}

/// The scores of one page. Prefetches the lines that are read next: pages are not contiguous, so the hardware
/// prefetcher cannot.
#[inline(always)]
fn scores_of<L: ProductLanes, D: Dot, const R: usize>(
    keys: &[CacheLine],
    next: &[CacheLine],
    scalars: &[[u32; R]; HEAD_DIM_MAX],
) -> [L; R] {
    const { assert!(L::SCORE_PARTS <= PARTS_MAX) };
    let mut sums = [[L::splat(0.0); R]; PARTS_MAX];
    let keys = keys.chunks(L::SCORE_PARTS).zip(next.chunks(L::SCORE_PARTS));
    // A page has at least as many lines of values as of keys.
    for ((lines, next), scalars) in keys.zip(scalars.chunks(L::SCORE_PARTS * D::WORDS)) {
        let parts = lines.iter().zip(next).zip(scalars.chunks_exact(D::WORDS));
        for (sums, ((line, next), scalars)) in sums.iter_mut().zip(parts) {
            L::prefetch(next);
            D::dots(from_mut(sums), from_ref(line), scalars);
        }
    }
    let mut scores = sums[0];
    for r in 0..R {
        scores[r] = scores[r].add(sums[1][r]);
    }
    scores
}

/// Writes the words of a query's scalar.
#[inline(always)]
fn put<D: Dot, const R: usize>(words: [u32; 2], step: usize, r: usize, out: &mut [[u32; R]]) {
    for w in 0..D::WORDS {
        out[step * D::WORDS + w][r] = words[w];
    }
}

/// Packs the softmax weights of one page's tokens in the format of the values.
#[inline(always)]
fn packed_weights<D: Dot, const R: usize>(
    weights: &[[f32; BLOCK]; R],
    page: usize,
) -> [[u32; R]; PAGE_TOKENS] {
    let mut scalars = [[0; R]; PAGE_TOKENS];
    for step in 0..PAGE_TOKENS / D::PACKED {
        let at = page * PAGE_TOKENS + step * D::PACKED;
        for r in 0..R {
            let mut numbers = [0.0; 2];
            numbers[..D::PACKED].copy_from_slice(&weights[r][at..at + D::PACKED]);
            put::<D, R>(D::rounded_scalar(numbers), step, r, &mut scalars);
        }
    }
    scalars
}

/// An online softmax (Milakov and Gimelshein 2018): the maximum score so far, and sums relative to it.
struct OnlineSoftmax<const R: usize> {
    max_score: [f32; R],
    total: [f32; R],
    /// The factor by which sums shrink because the maximum grew.
    shrink: [f32; R],
    sums: [[f32; HEAD_DIM_MAX]; R],
}

impl<const R: usize> OnlineSoftmax<R> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            max_score: [f32::NEG_INFINITY; R],
            total: [0.0; R],
            shrink: [0.0; R],
            sums: [[0.0; HEAD_DIM_MAX]; R],
        }
    }

    /// Turns a block's scores into weights.
    #[inline(always)]
    fn softmax_block<L: Lanes>(&mut self, layout: KvLayout, scores: &mut [[f32; BLOCK]; R]) {
        for r in 0..R {
            let (parts, _) = scores[r].as_chunks_mut::<LANES>();
            let mut most = L::load(&parts[0]);
            for part in &parts[1..] {
                most = most.max(L::load(part));
            }
            let most = most.max_lane().max(self.max_score[r]);
            if most == f32::NEG_INFINITY {
                // The row attends to no key of this block.
                scores[r] = [0.0; BLOCK];
                self.shrink[r] = 1.0;
                continue;
            }
            let mut total = L::splat(0.0);
            for part in parts {
                let mut weights = L::load(part).sub(L::splat(most)).exp();
                if layout.format == PackedFormat::Bf16 {
                    // Sums the weights as they are used, rounded.
                    weights = weights.round_to_bf16();
                }
                total = total.add(weights);
                weights.store(part);
            }
            let shrink = L::splat(self.max_score[r] - most).exp().array()[0];
            self.total[r] = self.total[r] * shrink + total.sum();
            self.shrink[r] = shrink;
            self.max_score[r] = most;
        }
    }

    /// Adds a page's weighted values, and prefetches the lines that are read next.
    #[inline(always)]
    fn add<L: ProductLanes, D: Dot>(
        &mut self,
        (values, next): (&[CacheLine], &[CacheLine]),
        weights: &[[u32; R]],
        scale: bool,
    ) {
        let steps = PAGE_TOKENS / D::PACKED;
        for (part, values) in values.chunks_exact(steps).enumerate() {
            let mut sums = [L::splat(0.0); R];
            for r in 0..R {
                let (parts, _) = self.sums[r].as_chunks::<LANES>();
                sums[r] = L::load(&parts[part]);
                if scale {
                    sums[r] = sums[r].mul(L::splat(self.shrink[r]));
                }
            }
            for line in next.iter().skip(part * steps).take(steps) {
                L::prefetch(line);
            }
            for (line, weights) in values.iter().zip(weights.chunks_exact(D::WORDS)) {
                D::dots(from_mut(&mut sums), from_ref(line), weights);
            }
            for r in 0..R {
                let (parts, _) = self.sums[r].as_chunks_mut::<LANES>();
                sums[r].store(&mut parts[part]);
            }
        }
    }
}

const _: () = assert!(HEAD_DIM_MAX.is_multiple_of(LANES));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::packed::kv::KvSlot;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use std::num::NonZeroUsize;

    /// A trunk in pages that are not contiguous, and branches of these lengths in scratch pages. Few under Miri,
    /// which is slow.
    const TRUNK: usize = 37;
    const TRUNK_PAGES: [u32; 3] = [3, 1, 6];
    const PAGES: u32 = 8;
    const BRANCHES: [usize; 3] = if cfg!(miri) { [2, 1, 1] } else { [5, 3, 17] };

    struct AttentionCase {
        layout: KvLayout,
        heads: AttentionShape,
        /// Keys and values of the trunk, then of the branches.
        trunk: [Vec<f32>; 2],
        rows: [Vec<f32>; 2],
        queries: Vec<f32>,
    }

    impl AttentionCase {
        fn new(format: PackedFormat, (heads, kv_heads, head_dim): (usize, usize, usize)) -> Self {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            let mut random = |count: usize| -> Vec<f32> {
                (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
            };
            let (width, rows) = (kv_heads * head_dim, BRANCHES.iter().sum::<usize>());
            Self {
                layout: KvLayout { format, layers: 2, kv_heads, head_dim },
                heads: AttentionShape { heads, window: None },
                trunk: [random(TRUNK * width), random(TRUNK * width)],
                rows: [random(rows * width), random(rows * width)],
                queries: random(rows * heads * head_dim),
            }
        }

        /// The kernel's output. All memory that was not written holds NaN.
        fn attend(&self, level: SimdLevel) -> Vec<f32> {
            let pool = ThreadPool::new(NonZeroUsize::new(2).unwrap());
            let mut cache = KvCache::poisoned(self.layout, PAGES as usize, 4);
            let place = |at: usize, pages: &[u32]| KvSlot {
                page: pages[at / PAGE_TOKENS],
                token: (at % PAGE_TOKENS) as u32,
            };
            let trunk: Vec<_> = (0..TRUNK).map(|at| place(at, &TRUNK_PAGES)).collect();
            let (mut slots, mut groups, mut seen) = (Vec::new(), Vec::new(), Vec::new());
            let mut scratch = PAGES;
            for branch in BRANCHES {
                let (from, row) = (seen.len(), slots.len());
                let own: Vec<_> = (scratch..).take(branch.div_ceil(PAGE_TOKENS)).collect();
                see(&TRUNK_PAGES, 0, TRUNK, &mut seen);
                see(&own, TRUNK, branch, &mut seen);
                slots.extend((0..branch).map(|at| place(at, &own)));
                scratch += own.len() as u32;
                groups.push(AttentionGroup {
                    rows: row..slots.len(),
                    pages: from..seen.len(),
                    past: TRUNK,
                });
            }
            let mut out = vec![f32::NAN; self.queries.len()];
            cache.write(&pool, 1, &trunk, [&self.trunk[0], &self.trunk[1]]);
            cache.write(&pool, 1, &slots, [&self.rows[0], &self.rows[1]]);
            let mut tasks = AttentionTasks::default();
            tasks.cut(level, self.layout, self.heads.heads, &groups);
            let view = (&tasks, groups.as_slice(), seen.as_slice());
            attend((level, &pool), &cache, (1, self.heads), view, &self.queries, &mut out);
            out
        }

        /// A naive reference in double precision.
        fn reference(&self) -> Vec<f64> {
            let KvLayout { kv_heads, head_dim, .. } = self.layout;
            let mut out = Vec::new();
            let mut first = 0;
            for branch in BRANCHES {
                for row in 0..branch {
                    for head in 0..self.heads.heads {
                        let kv = head * kv_heads / self.heads.heads;
                        let number = |which: usize, at: usize, d: usize| {
                            let (table, at) = match at.checked_sub(TRUNK) {
                                None => (&self.trunk[which], at),
                                Some(own) => (&self.rows[which], first + own),
                            };
                            f64::from(table[(at * kv_heads + kv) * head_dim + d])
                        };
                        let seen = TRUNK + row + 1;
                        let from =
                            self.heads.window.map_or(0, |window| seen.saturating_sub(window));
                        let query = ((first + row) * self.heads.heads + head) * head_dim;
                        let score = |at: usize| {
                            let product = |d| f64::from(self.queries[query + d]) * number(0, at, d);
                            (0..head_dim).map(product).sum::<f64>() / (head_dim as f64).sqrt()
                        };
                        let weights: Vec<_> = (from..seen).map(|at| score(at).exp()).collect();
                        let total: f64 = weights.iter().sum();
                        out.extend((0..head_dim).map(|d| {
                            let sum = |(at, weight): (usize, &f64)| weight * number(1, at, d);
                            (from..seen).zip(&weights).map(sum).sum::<f64>() / total
                        }));
                    }
                }
                first += branch;
            }
            out
        }
    }

    fn see(pages: &[u32], first: usize, tokens: usize, seen: &mut Vec<BlockTableEntry>) {
        for (p, page) in pages.iter().enumerate() {
            let start = p * PAGE_TOKENS;
            let tokens = PAGE_TOKENS.min(tokens - start) as u32;
            seen.push(BlockTableEntry { page: *page, first: (first + start) as u32, tokens });
        }
    }

    #[test]
    fn attention_is_that_of_double_precision_at_every_level() {
        // Key heads with two, one and many query heads; head dimensions below a vector's width.
        let all = [(4, 2, 32), (8, 4, 8), (4, 4, 64), (14, 1, 16)];
        for &heads in if cfg!(miri) { &[(2, 1, 7)][..] } else { &all } {
            for window in [None, Some(20)] {
                for (format, bound) in [(PackedFormat::F32, 1e-6), (PackedFormat::Bf16, 5e-3)] {
                    let mut case = AttentionCase::new(format, heads);
                    case.heads.window = window;
                    let right = case.reference();
                    for level in SimdLevel::all_here() {
                        for (got, right) in case.attend(level).iter().zip(&right) {
                            let error = (f64::from(*got) - right).abs();
                            assert!(
                                error < bound,
                                "{format:?} {heads:?} {window:?} {}: {got}",
                                level.as_str()
                            );
                        }
                    }
                }
            }
        }
    }
}
