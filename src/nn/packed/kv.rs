//! Keys and values in pages.
//!
//! A page holds [`PAGE_TOKENS`] tokens of every layer and head, laid out for the kernel: of keys, a
//! line is one number (or pair) of a head for sixteen tokens; of values, a line is sixteen numbers
//! of a head for one token (or pair), and lines of the same numbers follow one another. So a query
//! meets sixteen keys per instruction, and nothing is gathered or turned around on the way.
#![allow(unsafe_code, reason = "rows of one step are written by several threads at a time")]

use super::lines::Lines;
use super::matrix::{Format, round_bf16};
use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{LANES, Line};
use std::io;

/// Tokens of a page: as many as there are lanes.
pub const PAGE_TOKENS: usize = LANES;

/// The keys and values of a model.
#[derive(Debug)]
pub struct Cache {
    layout: Layout,
    pages: usize,
    /// Layer by layer, the pages that last.
    lines: Lines,
    /// Pages of branches, which last for a layer of a step.
    scratch: Lines,
}

/// How keys and values lie in a page.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// How numbers are kept: `F32` or `Bf16`.
    pub format: Format,
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

/// Where a row's keys and values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// The page. Pages past those that last are scratch.
    pub page: u32,
    /// The token in it.
    pub token: u32,
}

// === impl Layout ===

impl Layout {
    /// Numbers that a scalar holds.
    pub fn packed(self) -> usize {
        if self.format == Format::Bf16 { 2 } else { 1 }
    }

    /// Lines of one head's keys in a page.
    pub fn key_lines(self) -> usize {
        self.head_dim.div_ceil(self.packed())
    }

    /// Lines of one head's values for one token (or pair).
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
        self.page_lines() * self.layers * size_of::<Line>()
    }

    /// Whether a page lasts, as the first `pages` do, and where it begins.
    fn place(self, pages: usize, layer: usize, page: u32) -> (bool, usize) {
        let (page, lines) = (page as usize, self.page_lines());
        match page.checked_sub(pages) {
            None => (true, (layer * pages + page) * lines),
            Some(scratch) => (false, scratch * lines),
        }
    }
}

// === impl Cache ===

impl Cache {
    /// Room for `pages` pages that last, and for `scratch` pages of branches.
    pub fn new(layout: Layout, pages: usize, scratch: usize) -> io::Result<Self> {
        let lines = |pages: usize, layers| {
            let lines = layout.page_lines().checked_mul(layers)?.checked_mul(pages)?;
            Some(Lines::zeroed(lines))
        };
        let all = lines(pages, layout.layers).ok_or(io::ErrorKind::OutOfMemory)??;
        let scratch = lines(scratch, 1).ok_or(io::ErrorKind::OutOfMemory)??;
        Ok(Self { layout, pages, lines: all, scratch })
    }

    /// The same, full of numbers that are none, so that a test sees whatever reads too far.
    #[cfg(test)]
    pub fn poisoned(layout: Layout, pages: usize, scratch: usize) -> Self {
        let mut cache = Self::new(layout, pages, scratch).expect("a test takes little memory");
        cache.lines.fill(Line([0xff; 64]));
        cache.scratch.fill(Line([0xff; 64]));
        cache
    }

    /// How it is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Pages that last.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes that it takes once every page was written.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.scratch)
    }

    /// The keys and the values of one head in one page.
    pub fn head(&self, layer: usize, page: u32, head: usize) -> (&[Line], &[Line]) {
        let (lasts, from) = self.layout.place(self.pages, layer, page);
        let from = from + head * self.layout.head_lines();
        let lines = if lasts { &self.lines } else { &self.scratch };
        lines[from..from + self.layout.head_lines()].split_at(self.layout.key_lines())
    }

    /// Writes the keys and values of a step's rows to their slots.
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
        // Rows of one page are written by one task, a head at a time: no line has two writers.
        let tasks = if slots.len() < PAGE_TOKENS { 1 } else { layout.kv_heads };
        pool.each(tasks, |task| {
            for head in (0..layout.kv_heads).filter(|head| head % tasks == task) {
                for (row, slot) in slots.iter().enumerate() {
                    let (lasts, from) = layout.place(pages, layer, slot.page);
                    let from = from + head * layout.head_lines();
                    let table = if lasts { &lines } else { &scratch };
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

impl Layout {
    fn write_key(self, lines: &mut [Line], token: usize, key: &[f32]) {
        for (line, part) in lines.iter_mut().zip(key.chunks(self.packed())) {
            let scalar = self.scalar(part);
            line.0[4 * token..4 * token + 4].copy_from_slice(&scalar.to_le_bytes());
        }
    }

    fn write_value(self, lines: &mut [Line], token: usize, value: &[f32]) {
        let packed = self.packed();
        let lines = lines[token / packed..].iter_mut().step_by(PAGE_TOKENS / packed);
        for (line, part) in lines.zip(value.chunks(LANES)) {
            for (lane, number) in part.iter().enumerate() {
                let at = 4 * lane;
                match (self.format, token % packed) {
                    (Format::F32, _) => line.0[at..at + 4].copy_from_slice(&number.to_le_bytes()),
                    // The other half may hold what an earlier owner of the page left, which times
                    // nothing is still not a number if it is infinite.
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
            (Format::F32, [value, ..]) => value.to_bits(),
            (_, [low, high]) => round_bf16(*low) | (round_bf16(*high) << 16),
            (_, [low, ..]) => round_bf16(*low),
            (_, []) => 0,
        }
    }
}
