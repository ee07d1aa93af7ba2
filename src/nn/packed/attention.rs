//! Attention over pages, in one pass: scores, an online softmax and sums, block by block of keys.
//!
//! A task is some rows of one span and one head of keys: its queries (a row has several per key
//! head) are held against each line of keys while it is in a register. Blocks are counted from the
//! beginning of a sequence, so a row's result depends on its own context alone, never on how the
//! step was cut or on who else is in it.
#![allow(unsafe_code, reason = "rows of one table are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `nn::simd`")]
#![expect(clippy::needless_range_loop, reason = "several tables are walked by one index")]

use super::kv::{Cache, Layout, PAGE_TOKENS};
use super::matrix::{Apart, Dot, F32, Format, Pairs};
use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{LANES, Lanes, Line, ProductKernel, ProductLanes, SimdLevel};
use std::array::{from_mut, from_ref};
use std::ops::Range;

/// Pages of a block: one softmax for 64 keys.
const BLOCK_PAGES: usize = 4;
const BLOCK: usize = BLOCK_PAGES * PAGE_TOKENS;
/// Sums that a score is added up in at most.
const PARTS_MAX: usize = 2;
/// Numbers of the greatest head: what a task keeps on its stack.
pub const HEAD_DIM_MAX: usize = 256;

/// Rows that see the same pages.
#[derive(Clone, Debug)]
pub struct AttentionGroup {
    /// The rows.
    pub rows: Range<usize>,
    /// Pages that all rows see: a number for each, and how many tokens count.
    pub pages: Range<usize>,
    /// Tokens in whole before the rows: row `i` of the group sees `past + i + 1` tokens.
    pub past: usize,
}

/// A page in the order in which a group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTableEntry {
    /// The page.
    pub page: u32,
    /// Position of its first token.
    pub first: u32,
    /// Tokens of it that belong to the group's sequence.
    pub tokens: u32,
}

/// What attention needs to know of a model.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Tokens that a row looks back on, itself included.
    pub window: Option<usize>,
}

/// The tasks of a step, the same for every layer.
#[derive(Debug, Default)]
pub struct Tasks {
    /// Rows of one group each.
    parts: Vec<Part>,
    /// Query heads of a key head.
    per_key: usize,
    /// Parts that they are cut into: very many are too much for one task.
    cuts: usize,
}

#[derive(Clone, Debug)]
struct Part {
    group: usize,
    rows: Range<usize>,
}

impl Tasks {
    /// Cuts a step's groups so that the queries of one key head over some rows fill a task.
    pub fn cut(
        &mut self,
        level: SimdLevel,
        layout: Layout,
        heads: usize,
        groups: &[AttentionGroup],
    ) {
        let queries_max = queries_max(level);
        self.per_key = heads / layout.kv_heads;
        self.cuts = self.per_key.div_ceil(queries_max);
        let rows_max = (queries_max / self.per_key).max(1);
        self.parts.clear();
        for (g, group) in groups.iter().enumerate() {
            // Even tasks: five rows of at most four are three and two.
            let parts = group.rows.len().div_ceil(rows_max);
            let at = |part: usize| group.rows.start + part * group.rows.len() / parts;
            let rows = (0..parts).map(|part| at(part)..at(part + 1));
            self.parts.extend(rows.map(|rows| Part { group: g, rows }));
        }
    }
}

/// `out = softmax(queries keys^T / sqrt(head_dim)) values` for all rows of a step.
pub fn attend(
    (level, pool): (SimdLevel, &ThreadPool),
    cache: &Cache,
    (layer, heads): (usize, Heads),
    (tasks, groups, seen): (&Tasks, &[AttentionGroup], &[BlockTableEntry]),
    queries: &[f32],
    out: &mut [f32],
) {
    let Tasks { parts, per_key, cuts } = tasks;
    let out = DisjointMut::new(out);
    pool.each(parts.len() * cache.layout().kv_heads * cuts, |index| {
        // Tasks of one head follow one another, so that its pages stay in the cache.
        let (head, Part { group, rows }) = (index / parts.len(), &parts[index % parts.len()]);
        let (kv_head, cut) = (head / cuts, head % cuts);
        let first = kv_head * per_key + cut * per_key / cuts;
        let last = kv_head * per_key + (cut + 1) * per_key / cuts;
        let group = &groups[*group];
        let task = Task {
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
    struct Ask<'a>(&'a mut usize);
    impl ProductKernel for Ask<'_> {
        #[inline(always)]
        fn run<L: ProductLanes>(self) {
            *self.0 = L::QUERIES;
        }
    }
    let mut queries = 0;
    level.run(Ask(&mut queries));
    queries
}

struct Task<'a> {
    cache: &'a Cache,
    layer: usize,
    kv_head: usize,
    heads: Range<usize>,
    heads_all: usize,
    window: Option<usize>,
    rows: Range<usize>,
    /// Tokens before the first row.
    past: usize,
    seen: &'a [BlockTableEntry],
    queries: &'a [f32],
    out: &'a DisjointMut<'a, f32>,
    /// Whether there is a fast product of pairs of bf16.
    pairs: bool,
}

/// A task of `R` queries.
struct Queries<'a, const R: usize>(&'a Task<'a>);

impl<const R: usize> ProductKernel for Queries<'_, R> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        // No level has more queries in a task than its registers allow, and none is compiled.
        if const { R <= L::QUERIES } {
            match self.0.cache.layout().format {
                Format::Bf16 if const { L::PAIRS } && self.0.pairs => {
                    self.0.attend::<L, Pairs, R>();
                }
                Format::Bf16 => self.0.attend::<L, Apart, R>(),
                _ => self.0.attend::<L, F32, R>(),
            }
        } else {
            unreachable!("a task of {R} queries is too much for this level");
        }
    }
}

impl Task<'_> {
    /// Each number of queries is compiled for each level by itself.
    fn run(&self, level: SimdLevel) {
        match self.rows.len() * self.heads.len() {
            1 => level.run(Queries::<1>(self)),
            2 => level.run(Queries::<2>(self)),
            3 => level.run(Queries::<3>(self)),
            4 => level.run(Queries::<4>(self)),
            5 => level.run(Queries::<5>(self)),
            6 => level.run(Queries::<6>(self)),
            7 => level.run(Queries::<7>(self)),
            8 => level.run(Queries::<8>(self)),
            9 => level.run(Queries::<9>(self)),
            10 => level.run(Queries::<10>(self)),
            11 => level.run(Queries::<11>(self)),
            12 => level.run(Queries::<12>(self)),
            queries => unreachable!("a task of {queries} queries"),
        }
    }

    /// Attends with `R` queries: every head of the first row, then of the next.
    #[inline(always)]
    fn attend<L: ProductLanes, D: Dot, const R: usize>(&self) {
        let layout = self.cache.layout();
        let mut scalars = [[0_u32; R]; HEAD_DIM_MAX];
        self.pack::<D, R>(layout, &mut scalars);
        let mut state = State::<R>::new();
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
                        self.hide(r / self.heads.len(), seen, &mut halves[p], f32::NEG_INFINITY);
                    }
                }
            }
            state.soften::<L>(layout, &mut scores);
            for (p, seen) in block.iter().enumerate().filter(|(_, seen)| !self.sees_all(seen)) {
                for r in 0..R {
                    let (halves, _) = scores[r].as_chunks_mut::<LANES>();
                    // What is not to be seen weighs nothing at all.
                    self.hide(r / self.heads.len(), seen, &mut halves[p], 0.0);
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
    fn keys(&self, seen: &BlockTableEntry) -> &[Line] {
        self.cache.head(self.layer, seen.page, self.kv_head).0
    }

    #[inline(always)]
    fn values(&self, seen: &BlockTableEntry) -> &[Line] {
        self.cache.head(self.layer, seen.page, self.kv_head).1
    }

    /// What is read after the keys of page `p` of a block.
    #[inline(always)]
    fn after_keys(&self, block: &[BlockTableEntry], p: usize) -> &[Line] {
        block.get(p + 1).map_or_else(|| self.values(&block[0]), |next| self.keys(next))
    }

    /// The scaled queries, as the keys are kept: of each step along the head, one for each query.
    #[inline(always)]
    fn pack<D: Dot, const R: usize>(&self, layout: Layout, scalars: &mut [[u32; R]; HEAD_DIM_MAX]) {
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

    /// Where a query's head begins, in the queries and in the output.
    #[inline(always)]
    fn at(&self, layout: Layout, query: usize) -> usize {
        let (row, head) = (query / self.heads.len(), query % self.heads.len());
        ((self.rows.start + row) * self.heads_all + self.heads.start + head) * layout.head_dim
    }

    /// Whether every row sees every token of a page, as of most pages.
    #[inline(always)]
    fn sees_all(&self, seen: &BlockTableEntry) -> bool {
        let (first, last) = (seen.first as usize, self.past + self.rows.len());
        let far_enough = self.window.is_none_or(|window| first + window >= last);
        seen.tokens as usize == PAGE_TOKENS && first + PAGE_TOKENS <= self.past + 1 && far_enough
    }

    /// Writes over the scores of what a row must not see.
    #[inline(always)]
    fn hide(&self, row: usize, seen: &BlockTableEntry, scores: &mut [f32; LANES], with: f32) {
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
    fn finish<const R: usize>(&self, layout: Layout, state: &State<R>) {
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

/// The scores of one page. What is read next is fetched meanwhile: pages lie apart, so the processor
/// does not see them coming.
#[inline(always)]
fn scores_of<L: ProductLanes, D: Dot, const R: usize>(
    keys: &[Line],
    next: &[Line],
    scalars: &[[u32; R]; HEAD_DIM_MAX],
) -> [L; R] {
    const { assert!(L::SCORE_PARTS <= PARTS_MAX) };
    let mut sums = [[L::splat(0.0); R]; PARTS_MAX];
    let keys = keys.chunks(L::SCORE_PARTS).zip(next.chunks(L::SCORE_PARTS));
    // There are at least as many lines of values as of keys.
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

/// Puts the words of a query's scalar down.
#[inline(always)]
fn put<D: Dot, const R: usize>(words: [u32; 2], step: usize, r: usize, out: &mut [[u32; R]]) {
    for w in 0..D::WORDS {
        out[step * D::WORDS + w][r] = words[w];
    }
}

/// The weights of one page's tokens, as the values are kept.
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

/// An online softmax: the greatest score so far, and sums that are right for it.
struct State<const R: usize> {
    greatest: [f32; R],
    total: [f32; R],
    /// What the sums must be scaled by since the greatest score grew.
    shrink: [f32; R],
    sums: [[f32; HEAD_DIM_MAX]; R],
}

impl<const R: usize> State<R> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            greatest: [f32::NEG_INFINITY; R],
            total: [0.0; R],
            shrink: [0.0; R],
            sums: [[0.0; HEAD_DIM_MAX]; R],
        }
    }

    /// Turns a block's scores into weights.
    #[inline(always)]
    fn soften<L: Lanes>(&mut self, layout: Layout, scores: &mut [[f32; BLOCK]; R]) {
        for r in 0..R {
            let (parts, _) = scores[r].as_chunks_mut::<LANES>();
            let mut most = L::load(&parts[0]);
            for part in &parts[1..] {
                most = most.max(L::load(part));
            }
            let most = most.max_lane().max(self.greatest[r]);
            if most == f32::NEG_INFINITY {
                // Nothing of this block is to be seen by this row.
                scores[r] = [0.0; BLOCK];
                self.shrink[r] = 1.0;
                continue;
            }
            let mut total = L::splat(0.0);
            for part in parts {
                let mut weights = L::load(part).sub(L::splat(most)).exp();
                if layout.format == Format::Bf16 {
                    // The sum is of the weights as they will be used.
                    weights = weights.round_to_bf16();
                }
                total = total.add(weights);
                weights.store(part);
            }
            let shrink = L::splat(self.greatest[r] - most).exp().array()[0];
            self.total[r] = self.total[r] * shrink + total.sum();
            self.shrink[r] = shrink;
            self.greatest[r] = most;
        }
    }

    /// Adds a page's values, while what is read next is fetched.
    #[inline(always)]
    fn add<L: ProductLanes, D: Dot>(
        &mut self,
        (values, next): (&[Line], &[Line]),
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

    /// A trunk in pages that lie apart, and branches of these lengths in scratch pages. Miri is slow,
    /// and gets little to do.
    const TRUNK: usize = 37;
    const TRUNK_PAGES: [u32; 3] = [3, 1, 6];
    const PAGES: u32 = 8;
    const BRANCHES: [usize; 3] = if cfg!(miri) { [2, 1, 1] } else { [5, 3, 17] };

    struct Case {
        layout: Layout,
        heads: Heads,
        /// Keys and values of the trunk, then of the branches.
        trunk: [Vec<f32>; 2],
        rows: [Vec<f32>; 2],
        queries: Vec<f32>,
    }

    impl Case {
        fn new(format: Format, (heads, kv_heads, head_dim): (usize, usize, usize)) -> Self {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            let mut random = |count: usize| -> Vec<f32> {
                (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
            };
            let (width, rows) = (kv_heads * head_dim, BRANCHES.iter().sum::<usize>());
            Self {
                layout: Layout { format, layers: 2, kv_heads, head_dim },
                heads: Heads { heads, window: None },
                trunk: [random(TRUNK * width), random(TRUNK * width)],
                rows: [random(rows * width), random(rows * width)],
                queries: random(rows * heads * head_dim),
            }
        }

        /// What the kernel says. Every place that nobody wrote holds numbers that are none.
        fn attend(&self, level: SimdLevel) -> Vec<f32> {
            let pool = ThreadPool::new(NonZeroUsize::new(2).unwrap());
            let mut cache = Cache::poisoned(self.layout, PAGES as usize, 4);
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
            let mut tasks = Tasks::default();
            tasks.cut(level, self.layout, self.heads.heads, &groups);
            let view = (&tasks, groups.as_slice(), seen.as_slice());
            attend((level, &pool), &cache, (1, self.heads), view, &self.queries, &mut out);
            out
        }

        /// The same in double precision, in the plainest way.
        fn plainly(&self) -> Vec<f64> {
            let Layout { kv_heads, head_dim, .. } = self.layout;
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
        // Heads of keys with two, one and very many heads of queries; heads shorter than the lanes.
        let all = [(4, 2, 32), (8, 4, 8), (4, 4, 64), (14, 1, 16)];
        for &heads in if cfg!(miri) { &[(2, 1, 7)][..] } else { &all } {
            for window in [None, Some(20)] {
                for (format, bound) in [(Format::F32, 1e-6), (Format::Bf16, 5e-3)] {
                    let mut case = Case::new(format, heads);
                    case.heads.window = window;
                    let right = case.plainly();
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
