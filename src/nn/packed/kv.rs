//! The paged KV cache.
//!
//! A page holds [`PAGE_TOKENS`] tokens of every layer and head in the layout of the attention kernel. A line of keys
//! is one dimension of a head (or two in bf16) for sixteen tokens. A line of values is sixteen dimensions of a head
//! for one token (or two in bf16), and lines of the same dimensions are adjacent. So a query is multiplied with
//! sixteen keys per instruction, without gathers or transposes.
#![allow(unsafe_code, reason = "rows of one batch are written by several threads at a time")]

use super::lines::Lines;
use super::matrix::{PackedFormat, round_bf16};
use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{CacheLine, LANES};
use std::io;

/// Tokens of a page: one per lane of a vector.
pub const PAGE_TOKENS: usize = LANES;

/// The KV cache of a model.
#[derive(Debug)]
pub struct KvCache {
    layout: KvLayout,
    pages: usize,
    /// Layer by layer, the persistent pages.
    lines: Lines,
    /// Scratch pages of branches, valid for one layer of one forward pass.
    scratch: Lines,
}

/// The layout of a page.
#[derive(Clone, Copy, Debug)]
pub struct KvLayout {
    /// The number format: `F32` or `Bf16`.
    pub format: PackedFormat,
    /// Layers.
    pub layers: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

/// The slot of a row's key and value in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// The page. Pages past the persistent ones are scratch.
    pub page: u32,
    /// The token's index in the page.
    pub token: u32,
}

// === impl KvLayout ===

impl KvLayout {
    /// Numbers per scalar.
    pub fn packed(self) -> usize {
        if self.format == PackedFormat::Bf16 { 2 } else { 1 }
    }

    /// Lines of one head's keys in a page.
    pub fn key_lines(self) -> usize {
        self.head_dim.div_ceil(self.packed())
    }

    /// Lines of one head's values for one token (or pair of tokens).
    pub fn value_width(self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Lines of one head's values in a page.
    fn value_lines(self) -> usize {
        self.value_width() * (PAGE_TOKENS / self.packed())
    }

    fn head_lines(self) -> usize {
        self.key_lines() + self.value_lines()
    }

    /// Lines of a page of one layer.
    fn page_lines(self) -> usize {
        self.kv_heads * self.head_lines()
    }

    /// Bytes of a page of all layers.
    pub fn page_bytes(self) -> usize {
        self.page_lines() * self.layers * size_of::<CacheLine>()
    }

    /// Whether a page is persistent, as the first `pages` are, and its first line.
    fn locate(self, pages: usize, layer: usize, page: u32) -> (bool, usize) {
        let (page, lines) = (page as usize, self.page_lines());
        match page.checked_sub(pages) {
            None => (true, (layer * pages + page) * lines),
            Some(scratch) => (false, scratch * lines),
        }
    }
}

// === impl KvCache ===

impl KvCache {
    /// Allocates `pages` persistent pages, and `scratch` pages for branches.
    pub fn new(layout: KvLayout, pages: usize, scratch: usize) -> io::Result<Self> {
        let lines = |pages: usize, layers| {
            let lines = layout.page_lines().checked_mul(layers)?.checked_mul(pages)?;
            Some(Lines::zeroed(lines))
        };
        let all = lines(pages, layout.layers).ok_or(io::ErrorKind::OutOfMemory)??;
        let scratch = lines(scratch, 1).ok_or(io::ErrorKind::OutOfMemory)??;
        Ok(Self { layout, pages, lines: all, scratch })
    }

    /// The same, filled with NaN, so that a test notices any read of unwritten memory.
    #[cfg(test)]
    pub fn poisoned(layout: KvLayout, pages: usize, scratch: usize) -> Self {
        let mut cache = Self::new(layout, pages, scratch).expect("a test takes little memory");
        cache.lines.fill(CacheLine([0xff; 64]));
        cache.scratch.fill(CacheLine([0xff; 64]));
        cache
    }

    /// Its layout.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Persistent pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Memory in bytes once every page was written.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.scratch)
    }

    /// The keys and the values of one head in one page.
    pub fn head(&self, layer: usize, page: u32, head: usize) -> (&[CacheLine], &[CacheLine]) {
        let (persistent, from) = self.layout.locate(self.pages, layer, page);
        let from = from + head * self.layout.head_lines();
        let lines = if persistent { &self.lines } else { &self.scratch };
        lines[from..from + self.layout.head_lines()].split_at(self.layout.key_lines())
    }

    /// Writes the keys and values of a batch's rows to their slots.
    pub fn write(
        &mut self,
        pool: &ThreadPool,
        layer: usize,
        slots: &[KvSlot],
        [keys, values]: [&[f32]; 2],
    ) {
        let layout = self.layout;
        let width = layout.kv_heads * layout.head_dim;
        let pages = self.pages;
        let (lines, scratch) =
            (DisjointMut::new(&mut self.lines), DisjointMut::new(&mut self.scratch));
        // One task writes all rows of a head: no line has two writers.
        let tasks = if slots.len() < PAGE_TOKENS { 1 } else { layout.kv_heads };
        pool.each(tasks, |task| {
            for head in (0..layout.kv_heads).filter(|head| head % tasks == task) {
                for (row, slot) in slots.iter().enumerate() {
                    let (persistent, from) = layout.locate(pages, layer, slot.page);
                    let from = from + head * layout.head_lines();
                    let table = if persistent { &lines } else { &scratch };
                    // SAFETY: a head's lines are written by one task.
                    let lines = unsafe { table.slice(from, layout.head_lines()) };
                    let (key_lines, value_lines) = lines.split_at_mut(layout.key_lines());
                    let at = row * width + head * layout.head_dim;
                    let (token, taken) = (slot.token as usize, at..at + layout.head_dim);
                    layout.write_key(key_lines, token, &keys[taken.clone()]);
                    layout.write_value(value_lines, token, &values[taken]);
                }
            }
        });
    }
}

impl KvLayout {
    fn write_key(self, lines: &mut [CacheLine], token: usize, key: &[f32]) {
        for (line, part) in lines.iter_mut().zip(key.chunks(self.packed())) {
            let scalar = self.scalar(part);
            line.0[4 * token..4 * token + 4].copy_from_slice(&scalar.to_le_bytes());
        }
    }

    fn write_value(self, lines: &mut [CacheLine], token: usize, value: &[f32]) {
        let packed = self.packed();
        let lines = lines[token / packed..].iter_mut().step_by(PAGE_TOKENS / packed);
        for (line, part) in lines.zip(value.chunks(LANES)) {
            for (lane, number) in part.iter().enumerate() {
                let at = 4 * lane;
                match (self.format, token % packed) {
                    (PackedFormat::F32, _) => {
                        line.0[at..at + 4].copy_from_slice(&number.to_le_bytes());
                    }
                    // Clears the other half: an infinite value of the page's earlier owner would
                    // give NaN even with a weight of zero.
                    (_, 0) => {
                        let pair = round_bf16(*number).to_le_bytes();
                        line.0[at..at + 4].copy_from_slice(&pair);
                    }
                    (_, _) => {
                        let high = (round_bf16(*number) as u16).to_le_bytes();
                        line.0[at + 2..at + 4].copy_from_slice(&high);
                    }
                }
            }
        }
    }

    /// One or two numbers as a scalar.
    pub fn scalar(self, part: &[f32]) -> u32 {
        match (self.format, part) {
            (PackedFormat::F32, [value, ..]) => value.to_bits(),
            (_, [low, high]) => round_bf16(*low) | (round_bf16(*high) << 16),
            (_, [low, ..]) => round_bf16(*low),
            (_, []) => 0,
        }
    }
}
