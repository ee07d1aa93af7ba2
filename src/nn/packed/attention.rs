//! Attention over pages, in one pass: scores, an online softmax and sums, block by block of keys.
//!
//! A task is some rows of one span and one head of keys: its queries (a row has several per key
//! head) are held against each line of keys while it is in a register. Blocks are counted from the
//! beginning of a sequence, so a row's result depends on its own context alone, never on how the
//! step was cut or on who else is in it.
#![allow(unsafe_code, reason = "rows of one table are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `lanes`")]
#![expect(clippy::needless_range_loop, reason = "several tables are walked by one index")]

use super::crew::{Crew, Shared};
use super::kv::{Cache, Layout, PAGE_TOKENS};
use super::lanes::{LANES, Lanes, Level, Line, Work};
use super::matrix::{Bf16, Dot, F32, Format};
use std::ops::Range;

/// Pages of a block: one softmax for 64 keys.
const BLOCK_PAGES: usize = 4;
const BLOCK: usize = BLOCK_PAGES * PAGE_TOKENS;
/// Sums that a score is added up in, side by side, so that an addition need not wait for the last.
const PARTS: usize = 2;
/// The greatest head: what a task keeps on its stack.
pub const HEAD_DIM_MAX: usize = 256;
/// Queries of a task, on any level.
const QUERIES_MAX: usize = 12;

/// Rows that see the same pages.
#[derive(Clone, Debug)]
pub struct Group {
    /// The rows.
    pub rows: Range<usize>,
    /// Pages that all rows see: a number for each, and how many tokens count.
    pub pages: Range<usize>,
    /// Tokens in whole before the rows: row `i` of the group sees `past + i + 1` tokens.
    pub past: usize,
}

/// A page in the order in which a group sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
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

/// `out = softmax(queries keys^T / sqrt(head_dim)) values` for all rows of a step.
pub fn attend(
    (level, crew): (Level, &Crew),
    cache: &Cache,
    (layer, heads): (usize, Heads),
    (groups, seen): (&[Group], &[Seen]),
    queries: &[f32],
    out: &mut [f32],
) {
    let layout = cache.layout();
    let per_key = heads.heads / layout.kv_heads;
    let queries_max = queries_max(level);
    // The queries of one key head over some rows fill a task; a group with very many heads for one
    // key is cut in parts.
    let rows_max = (queries_max / per_key).max(1);
    let cuts = per_key.div_ceil(queries_max);
    let mut tasks = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        // Even tasks: five rows of at most four are three and two.
        let parts = group.rows.len().div_ceil(rows_max);
        for part in 0..parts {
            let at = |part: usize| group.rows.start + part * group.rows.len() / parts;
            tasks.push((g, at(part)..at(part + 1)));
        }
    }
    let out = Shared::new(out);
    let per_task = layout.kv_heads * cuts;
    crew.each(tasks.len() * per_task, |index| {
        // Tasks of one head follow one another, so that its pages stay in the cache.
        let (head, (g, rows)) = (index / tasks.len(), &tasks[index % tasks.len()]);
        let (kv_head, cut) = (head / cuts, head % cuts);
        let first = kv_head * per_key + cut * per_key / cuts;
        let last = kv_head * per_key + (cut + 1) * per_key / cuts;
        let group = &groups[*g];
        level.run(Task {
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
        });
    });
}

fn queries_max(level: Level) -> usize {
    struct Ask<'a>(&'a mut usize);
    impl Work for Ask<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
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
    seen: &'a [Seen],
    queries: &'a [f32],
    out: &'a Shared<'a, f32>,
}

impl Work for Task<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.cache.layout().format {
            Format::Bf16 => self.with::<L, Bf16>(),
            _ => self.with::<L, F32>(),
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn with<L: Lanes, D: Dot>(&self) {
        match self.rows.len() * self.heads.len() {
            1 => self.attend::<L, D, 1>(),
            2 if const { L::QUERIES >= 2 } => self.attend::<L, D, 2>(),
            3 if const { L::QUERIES >= 3 } => self.attend::<L, D, 3>(),
            4 if const { L::QUERIES >= 4 } => self.attend::<L, D, 4>(),
            5 if const { L::QUERIES >= 5 } => self.attend::<L, D, 5>(),
            6 if const { L::QUERIES >= 6 } => self.attend::<L, D, 6>(),
            7 if const { L::QUERIES >= 7 } => self.attend::<L, D, 7>(),
            8 if const { L::QUERIES >= 8 } => self.attend::<L, D, 8>(),
            9 if const { L::QUERIES >= 9 } => self.attend::<L, D, 9>(),
            10 if const { L::QUERIES >= 10 } => self.attend::<L, D, 10>(),
            11 if const { L::QUERIES >= 11 } => self.attend::<L, D, 11>(),
            _ if const { L::QUERIES >= 12 } => self.attend::<L, D, 12>(),
            queries => unreachable!("a task of {queries} queries"),
        }
    }

    /// Attends with `R` queries: every head of the first row, then of the next.
    #[inline(always)]
    fn attend<L: Lanes, D: Dot, const R: usize>(&self) {
        let layout = self.cache.layout();
        let mut scalars = [[0_u32; R]; HEAD_DIM_MAX];
        self.pack::<D, R>(layout, &mut scalars);
        let mut state = State::<R>::new();
        let last = self.past + self.rows.len();
        let first = self.window.map_or(0, |window| (self.past + 1).saturating_sub(window));
        for block in self.seen.chunks(BLOCK_PAGES) {
            let (begin, end) = (block[0].first as usize, block[block.len() - 1]);
            if begin >= last || (end.first + end.tokens) as usize <= first {
                continue;
            }
            let mut scores = [[f32::NEG_INFINITY; BLOCK]; R];
            for (p, seen) in block.iter().enumerate() {
                let (keys, _) = self.cache.head(self.layer, seen.page, self.kv_head);
                let sums = scores_of::<L, D, R>(keys, &scalars);
                for r in 0..R {
                    let (halves, _) = scores[r].as_chunks_mut::<LANES>();
                    sums[r].store(&mut halves[p]);
                    self.hide(r / self.heads.len(), seen, &mut halves[p], f32::NEG_INFINITY);
                }
            }
            state.soften::<L>(layout, &mut scores);
            for (p, seen) in block.iter().enumerate() {
                for r in 0..R {
                    let (halves, _) = scores[r].as_chunks_mut::<LANES>();
                    // What is not to be seen counts for nothing at all, whatever it holds.
                    self.hide(r / self.heads.len(), seen, &mut halves[p], 0.0);
                }
            }
            for (p, seen) in block.iter().enumerate() {
                let (_, values) = self.cache.head(self.layer, seen.page, self.kv_head);
                let steps = (seen.tokens as usize).div_ceil(layout.packed());
                let weights = packed_weights::<D, R>(&scores, p);
                let scale = p == 0;
                state.add::<L, D>(values, &weights[..steps], scale);
            }
        }
        self.finish(layout, &state);
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
                scalars[step][r] = D::scalar(&scaled);
            }
        }
    }

    /// Where a query's head begins, in the queries and in the output.
    #[inline(always)]
    fn at(&self, layout: Layout, query: usize) -> usize {
        let (row, head) = (query / self.heads.len(), query % self.heads.len());
        ((self.rows.start + row) * self.heads_all + self.heads.start + head) * layout.head_dim
    }

    /// Writes over the scores of what a row must not see.
    #[inline(always)]
    fn hide(&self, row: usize, seen: &Seen, scores: &mut [f32; LANES], with: f32) {
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

/// The scores of one page.
#[inline(always)]
fn scores_of<L: Lanes, D: Dot, const R: usize>(
    keys: &[Line],
    scalars: &[[u32; R]; HEAD_DIM_MAX],
) -> [L; R] {
    let mut sums = [[L::splat(0.0); PARTS]; R];
    let (pairs, rest) = keys.as_chunks::<PARTS>();
    let (steps, _) = scalars.as_chunks::<PARTS>();
    for (lines, scalars) in pairs.iter().zip(steps) {
        for part in 0..PARTS {
            for r in 0..R {
                sums[r][part] = D::dot(sums[r][part], &lines[part], scalars[part][r]);
            }
        }
    }
    for (line, scalars) in rest.iter().zip(&scalars[pairs.len() * PARTS..]) {
        for r in 0..R {
            sums[r][0] = D::dot(sums[r][0], line, scalars[r]);
        }
    }
    let mut scores = [L::splat(0.0); R];
    for r in 0..R {
        scores[r] = sums[r][0].add(sums[r][1]);
    }
    scores
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
            scalars[step][r] = D::scalar(&weights[r][at..at + D::PACKED]);
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
            let most = most.greatest().max(self.greatest[r]);
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
                    weights = weights.rounded();
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

    /// Adds a page's values.
    #[inline(always)]
    fn add<L: Lanes, D: Dot>(
        &mut self,
        values: &[Line],
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
            for (line, weights) in values.iter().zip(weights) {
                for r in 0..R {
                    sums[r] = D::dot(sums[r], line, weights[r]);
                }
            }
            for r in 0..R {
                let (parts, _) = self.sums[r].as_chunks_mut::<LANES>();
                sums[r].store(&mut parts[part]);
            }
        }
    }
}

const _: () = assert!(HEAD_DIM_MAX.is_multiple_of(LANES) && QUERIES_MAX <= LANES);
