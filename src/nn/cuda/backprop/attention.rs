//! Attention over whole sequences, forwards and back, as products with a softmax between them.
//!
//! With `P = softmax(s Q K^T)` and `O = P V`: `V' = P^T O'`, `P' = O' V^T`, `S' = P (P' - Σ P P')`, `Q' = s S' K` and
//! `K' = s S'^T Q`. The heads of queries that share a head of keys are rows of one product with it.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::{Matrix, Sizes};
use super::super::device::{Argument, CudaError, Product, Sequences, Table};
use super::{Backprop, THREADS, WARP};
use std::ops::Range;

/// Warps of a block that goes over heads, or over rows of shares, each of which has one.
const WARPS: usize = (THREADS / WARP) as usize;

/// Where the matrices of some heads of keys lie, one behind the other.
struct Heads {
    queries: Matrix,
    keys: Matrix,
    values: Matrix,
    scores: Matrix,
    shares: Matrix,
    /// Rows of their queries, rows of their keys, numbers of a head, and how many heads there are.
    rows: usize,
    length: usize,
    dim: usize,
    count: usize,
}

impl Backprop {
    /// From what projections came to, to what is attended to.
    pub(super) fn attend(&self, layer: usize) -> Result<(), CudaError> {
        self.turn_heads(layer)?;
        for some in self.heads_at_once() {
            let heads = self.heads(&some);
            let seen = heads.of_queries(Matrix::short(self.work.seen.at(0), heads.dim), &some);
            let sizes = heads.sizes([heads.rows, heads.dim, heads.length]);
            self.share(layer, &heads, &some)?;
            // SAFETY: tables have room for a batch's heads.
            unsafe { self.blas.multiply(seen, [heads.shares, heads.values], sizes, 1.0, None)? };
        }
        let arguments = [
            Argument::Table(self.work.attended.at(0)),
            Argument::Table(self.work.seen.at(0)),
            Argument::Sequences(self.sequences()),
        ];
        // SAFETY: the arguments of `join_heads`; both tables have room for a batch's rows.
        unsafe {
            self.device.launch(&self.launches.join_heads, [self.rows(), 1, 1], THREADS, &arguments)
        }
    }

    /// From the gradient of what was attended to, to that of what projections came to.
    pub(super) fn attend_back(&self, layer: usize) -> Result<(), CudaError> {
        let work = &self.work;
        let arguments = [
            Argument::Table(work.seen_back.at(0)),
            Argument::Table(work.attended_back.at(0)),
            Argument::Sequences(self.sequences()),
        ];
        // SAFETY: the arguments of `split_heads`; both tables have room for a batch's rows.
        unsafe {
            let split = &self.launches.split_heads;
            self.device.launch(split, [self.rows(), 1, 1], THREADS, &arguments)?;
        }
        let scale = self.logit_scale();
        for some in self.heads_at_once() {
            let heads = self.heads(&some);
            let Heads { rows, length, dim, .. } = heads;
            let exact = |table: &Table<f32>| Matrix::exact(table.at(0), dim);
            let seen = heads.of_queries(Matrix::short(work.seen_back.at(0), dim), &some);
            let queries = heads.of_queries(exact(&work.queries_back), &some);
            let keys = heads.of_keys(exact(&work.keys_back), &some);
            let values = heads.of_keys(exact(&work.values_back), &some);
            let of_keys = heads.sizes([length, dim, rows]);
            self.share(layer, &heads, &some)?;
            // SAFETY: tables have room for a batch's heads.
            unsafe {
                self.blas.multiply(values, [heads.shares.turned(), seen], of_keys, 1.0, None)?;
                let sizes = heads.sizes([rows, length, dim]);
                let sides = [seen, heads.values.turned()];
                self.blas.multiply(heads.scores, sides, sizes, 1.0, None)?;
            }
            self.share_back(&heads)?;
            // SAFETY: tables have room for a batch's heads.
            unsafe {
                let sizes = heads.sizes([rows, dim, length]);
                self.blas.multiply(queries, [heads.shares, heads.keys], sizes, scale, None)?;
                let sides = [heads.shares.turned(), heads.queries];
                self.blas.multiply(keys, sides, of_keys, scale, None)?;
            }
        }
        self.turn_heads_back(layer)
    }

    /// Heads of keys, counted over all sequences, as many at a time as there is room for.
    fn heads_at_once(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let group = self.config.heads / self.config.kv_heads;
        let of_one = group * self.plan.length * self.plan.length;
        let at_once = (self.work.scores.len() / of_one).max(1);
        let all = self.plan.sequences * self.config.kv_heads;
        (0..all).step_by(at_once).map(move |first| first..all.min(first + at_once))
    }

    fn heads(&self, some: &Range<usize>) -> Heads {
        let (work, dim, length) = (&self.work, self.config.head_dim, self.plan.length);
        let rows = self.config.heads / self.config.kv_heads * length;
        let short = |table: &Table<_>, pitch| Matrix::short(table.at(0), pitch);
        let mut heads = Heads {
            queries: short(&work.queries, dim),
            keys: short(&work.keys, dim),
            values: short(&work.values, dim),
            scores: Matrix::exact(work.scores.at(0), length).apart(rows * length),
            shares: short(&work.shares, length).apart(rows * length),
            rows,
            length,
            dim,
            count: some.len(),
        };
        heads.queries = heads.of_queries(heads.queries, some);
        heads.keys = heads.of_keys(heads.keys, some);
        heads.values = heads.of_keys(heads.values, some);
        heads
    }

    /// The shares that queries give to keys.
    fn share(&self, layer: usize, heads: &Heads, some: &Range<usize>) -> Result<(), CudaError> {
        let sides = [heads.queries, heads.keys.turned()];
        let sizes = heads.sizes([heads.rows, heads.length, heads.dim]);
        // SAFETY: there is room for the logits of these heads.
        unsafe { self.blas.multiply(heads.scores, sides, sizes, self.logit_scale(), None)? };
        let arguments = [
            Argument::Table(heads.shares.at),
            Argument::Table(heads.scores.at),
            Argument::Table(self.plan.at(self.plan.positions)),
            Argument::Table(self.plan.at(self.plan.segments)),
            Argument::Count(some.start as u32),
            Argument::Count(some.len() as u32),
            Argument::Count(self.config.windows[layer].unwrap_or(0) as u32),
            Argument::Sequences(self.sequences()),
        ];
        let blocks = (heads.rows * heads.count).div_ceil(WARPS);
        // SAFETY: the arguments of `share`; there are as many shares as logits.
        unsafe { self.device.launch(&self.launches.share, [blocks, 1, 1], THREADS, &arguments) }
    }

    fn share_back(&self, heads: &Heads) -> Result<(), CudaError> {
        let rows = heads.rows * heads.count;
        let arguments = [
            Argument::Table(heads.shares.at),
            Argument::Table(heads.scores.at),
            Argument::Count(rows as u32),
            Argument::Count(heads.length as u32),
        ];
        // SAFETY: the arguments of `share_back`; there are as many shares as gradients.
        unsafe {
            let blocks = rows.div_ceil(WARPS);
            self.device.launch(&self.launches.share_back, [blocks, 1, 1], THREADS, &arguments)
        }
    }

    fn turn_heads(&self, layer: usize) -> Result<(), CudaError> {
        let work = &self.work;
        let to = [work.queries.at(0), work.keys.at(0), work.values.at(0)].map(Argument::Table);
        let arguments: Vec<_> = to.into_iter().chain(self.turn(layer)).collect();
        let grid = self.grid_of_heads();
        // SAFETY: the arguments of `turn_heads`; positions are below those that there are turns of.
        unsafe { self.device.launch(&self.launches.turn_heads, grid, THREADS, &arguments) }
    }

    fn turn_heads_back(&self, layer: usize) -> Result<(), CudaError> {
        let work = &self.work;
        let gradients = [&work.queries_back, &work.keys_back, &work.values_back];
        let to = [Argument::Table(work.qkv_back.at(0))];
        let from = gradients.map(|table| Argument::Table(table.at(0)));
        let arguments: Vec<_> = to.into_iter().chain(from).chain(self.turn(layer)).collect();
        let grid = self.grid_of_heads();
        // SAFETY: the arguments of `turn_heads_back`; as of `turn_heads`.
        unsafe { self.device.launch(&self.launches.turn_heads_back, grid, THREADS, &arguments) }
    }

    /// What both ways of a turn are told of the heads.
    fn turn(&self, layer: usize) -> [Argument; 7] {
        let of = &self.layers[layer];
        let bias = Table::address(of.qkv.bias.as_ref());
        let norm = |which: usize| {
            Argument::Table(Table::address(of.head_norms.as_ref().map(|norms| &norms[which])))
        };
        [
            Argument::Product(Product { sums: self.work.qkv.at(0), bias, ..Product::default() }),
            norm(0),
            norm(1),
            Argument::Table(self.turns.at(0)),
            Argument::Number(self.config.norm_epsilon as f32),
            Argument::Table(self.plan.at(self.plan.positions)),
            Argument::Sequences(self.sequences()),
        ]
    }

    fn grid_of_heads(&self) -> [usize; 3] {
        let heads = self.config.heads + 2 * self.config.kv_heads;
        [self.rows(), heads.div_ceil(WARPS), 1]
    }

    /// What logits of rows over rows are multiplied by.
    fn logit_scale(&self) -> f32 {
        (self.config.head_dim as f32).sqrt().recip()
    }

    fn sequences(&self) -> Sequences {
        Sequences {
            heads: self.config.heads as u32,
            kv_heads: self.config.kv_heads as u32,
            dim: self.config.head_dim as u32,
            length: self.plan.length as u32,
        }
    }
}

// === impl Heads ===

impl Heads {
    fn sizes(&self, [rows, columns, inner]: [usize; 3]) -> Sizes {
        Sizes { rows, columns, inner, count: self.count }
    }

    /// The part of a table of queries that is theirs.
    fn of_queries(&self, all: Matrix, some: &Range<usize>) -> Matrix {
        let each = self.rows * self.dim;
        all.from(some.start * each).apart(each)
    }

    /// The part of a table of keys or values that is theirs.
    fn of_keys(&self, all: Matrix, some: &Range<usize>) -> Matrix {
        let each = self.length * self.dim;
        all.from(some.start * each).apart(each)
    }
}
