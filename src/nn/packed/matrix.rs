//! Weights packed for the microkernel, and their products with the rows of a batch.
//!
//! A matrix is stored in *panels* of 32 outputs. A panel is a run of cache lines in the order in which the kernel
//! reads them, so a product streams the weights once for any number of rows. The rows are packed as well, in
//! *tiles* as high as the registers allow. Each output is summed over the inputs in one order in every tile, so a
//! row's result does not depend on the rest of the batch.
#![allow(unsafe_code, reason = "panels of one product are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `nn::simd`")]

use super::lines::Lines;
use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{
    CacheLine, LANES, Lanes, PortableLanes, ProductKernel, ProductLanes, SimdLevel, TileShape,
};
use half::bf16;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Outputs of a panel: two vectors.
pub const PANEL: usize = 2 * LANES;
/// Inputs that share a scale in int8, as in Q8_0.
pub const GROUP: usize = 32;
/// Lines of a group: four inputs of sixteen outputs each, and then a line of scales.
const GROUP_LINES: usize = GROUP / 4 * 2 + 1;
/// Lines to prefetch ahead: the latency of memory and a margin.
pub const AHEAD: usize = 64;
/// Tasks of a product per thread, so that one slow thread does not delay the others.
const PARTS_PER_THREAD: usize = 4;
/// Adding 1.5 · 2^23 to a small number rounds it to an integer, which the lowest bits then hold.
const ROUND: f32 = 12_582_912.0;
/// Added to a weight's byte to make it unsigned: the instruction takes one unsigned factor.
const RAISE: i32 = 128;

/// How a packed matrix stores its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedFormat {
    /// As f32.
    F32,
    /// As bf16; inputs are rounded to bf16 as well.
    Bf16,
    /// As bytes with a scale for each [`GROUP`]; inputs are quantized the same way, row by row.
    Int8,
}

/// A packed matrix.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    format: PackedFormat,
    outputs: usize,
    inputs: usize,
    /// The lines of all matrices of a model: one allocation, which huge pages fit.
    lines: Arc<Lines>,
    from: usize,
    bias: Vec<f32>,
}

/// A matrix to be packed.
#[derive(Debug)]
pub struct MatrixSpec {
    /// How its weights will be stored.
    pub format: PackedFormat,
    /// Rows of the matrix.
    pub outputs: usize,
    /// Columns of the matrix.
    pub inputs: usize,
    /// Added to each output.
    pub bias: Option<Vec<f32>>,
}

/// The rows of a batch, packed for products with matrices of one format.
#[derive(Debug, Default)]
pub struct PackedInputs {
    /// Tile by tile: for each step along the inputs, the words of one scalar per row of the tile.
    scalars: Vec<u32>,
    /// Tile by tile, of int8: for each group, the scale of each row.
    scales: Vec<f32>,
    /// Likewise, the correction for [`RAISE`].
    starts: Vec<i32>,
    rows: usize,
    /// Words of a row's scalars.
    words: usize,
    /// Whether a pair of bf16 takes two words.
    apart: bool,
    tile_rows: usize,
}

// === impl PackedFormat ===

impl PackedFormat {
    /// Scalars for `inputs` inputs.
    fn steps(self, inputs: usize) -> usize {
        match self {
            Self::F32 => inputs,
            Self::Bf16 => inputs.div_ceil(2),
            Self::Int8 => inputs.div_ceil(GROUP) * (GROUP / 4),
        }
    }

    /// Lines of a panel.
    fn panel_lines(self, inputs: usize) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 2 * self.steps(inputs),
            Self::Int8 => inputs.div_ceil(GROUP) * GROUP_LINES,
        }
    }
}

// === impl PackedMatrix ===

impl PackedMatrix {
    /// Packs several matrices into `lines`, as many as [`MatrixSpec::lines`] says. `read(m, rows, out)`
    /// reads some rows of matrix `m`.
    pub fn pack<E: Send>(
        pool: &ThreadPool,
        plans: Vec<MatrixSpec>,
        mut lines: Lines,
        read: impl Fn(usize, Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Vec<Self>, E> {
        let mut starts = vec![0];
        for plan in &plans {
            starts.push(starts[starts.len() - 1] + plan.panels() * plan.panel_lines());
        }
        for (m, plan) in plans.iter().enumerate() {
            plan.pack(pool, &mut lines[starts[m]..starts[m + 1]], |rows, out| read(m, rows, out))?;
        }
        let lines = Arc::new(lines);
        let matrices = plans.into_iter().zip(starts).map(|(plan, from)| {
            let MatrixSpec { format, outputs, inputs, bias } = plan;
            let mut bias = bias.unwrap_or_default();
            if !bias.is_empty() {
                bias.resize(outputs.next_multiple_of(PANEL), 0.0);
            }
            Self { format, outputs, inputs, lines: lines.clone(), from, bias }
        });
        Ok(matrices.collect())
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How its weights are stored.
    pub fn format(&self) -> PackedFormat {
        self.format
    }

    /// Memory in bytes.
    pub fn bytes(&self) -> usize {
        let lines = self.panels() * self.format.panel_lines(self.inputs);
        lines * size_of::<CacheLine>() + size_of_val(&*self.bias)
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    fn panel(&self, index: usize) -> &[CacheLine] {
        let lines = self.format.panel_lines(self.inputs);
        let from = self.from + index * lines;
        &self.lines[from..from + lines]
    }
}

// === impl MatrixSpec ===

impl MatrixSpec {
    /// Lines that several matrices take.
    pub fn lines(plans: &[Self]) -> usize {
        plans.iter().map(|plan| plan.panels() * plan.panel_lines()).sum()
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    fn panel_lines(&self) -> usize {
        self.format.panel_lines(self.inputs)
    }

    fn pack<E: Send>(
        &self,
        pool: &ThreadPool,
        lines: &mut [CacheLine],
        read: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let outcomes = Mutex::new(Ok(()));
        let panels = DisjointMut::new(lines);
        pool.each(self.panels(), |p| {
            // SAFETY: each panel is packed by one task.
            let panel = unsafe { panels.slice(p * self.panel_lines(), self.panel_lines()) };
            let taken = p * PANEL..outputs.min((p + 1) * PANEL);
            let mut rows = vec![0.0; taken.len() * inputs];
            match read(taken, &mut rows) {
                Ok(()) => {
                    for (column, row) in rows.chunks_exact(inputs).enumerate() {
                        pack_row(self.format, row, column, panel);
                    }
                }
                Err(error) => *outcomes.lock().expect("no reader panics") = Err(error),
            }
        });
        outcomes.into_inner().expect("no reader panics")
    }
}

/// Writes the weights of one output into its column of a panel.
fn pack_row(format: PackedFormat, row: &[f32], column: usize, panel: &mut [CacheLine]) {
    let (half, lane) = (column / LANES, column % LANES);
    let mut put = |line: usize, bytes: &[u8], at: usize| {
        panel[line].0[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match format {
        PackedFormat::F32 => {
            for (k, value) in row.iter().enumerate() {
                put(2 * k + half, &value.to_le_bytes(), 4 * lane);
            }
        }
        PackedFormat::Bf16 => {
            for (k, value) in row.iter().enumerate() {
                let bytes = bf16::from_f32(*value).to_le_bytes();
                put(2 * (k / 2) + half, &bytes, 4 * lane + 2 * (k % 2));
            }
        }
        PackedFormat::Int8 => {
            for (g, part) in row.chunks(GROUP).enumerate() {
                let first = g * GROUP_LINES;
                let mut group = [0.0; GROUP];
                group[..part.len()].copy_from_slice(part);
                // The scale is rounded up, so that the greatest weight still fits a byte.
                let scale = round_up(scale_of::<PortableLanes>(&group));
                let inverse = inverse_of(scale.to_f32());
                for (k, value) in group.iter().enumerate() {
                    // A NaN becomes zero here: the scale of its group is NaN.
                    let byte = ((value * inverse).round() as i32 + RAISE) as u8;
                    put(first + k / 4 * 2 + half, &[byte], 4 * lane + k % 4);
                }
                put(first + GROUP_LINES - 1, &scale.to_le_bytes(), 2 * column);
            }
        }
    }
}

/// The scale of a group: its absolute maximum over 127. NaN if a number is NaN or infinite, so that broken weights
/// give broken outputs.
#[inline(always)]
fn scale_of<L: Lanes>(group: &[f32; GROUP]) -> f32 {
    let zero = L::splat(0.0);
    let (mut sizes, mut nothing) = (zero, zero);
    for part in group.as_chunks().0 {
        let part = L::load(part);
        sizes = sizes.max(part).max(zero.sub(part));
        // Zero times NaN or infinity is NaN.
        nothing = part.mul_add(zero, nothing);
    }
    if nothing.sum() == 0.0 { sizes.max_lane() / 127.0 } else { f32::NAN }
}

/// The reciprocal of a scale; zero where it would overflow.
#[inline(always)]
fn inverse_of(scale: f32) -> f32 {
    if scale >= f32::MIN_POSITIVE { scale.recip() } else { 0.0 }
}

/// The smallest bf16 that is at least a positive number.
fn round_up(value: f32) -> bf16 {
    if value.is_nan() {
        return bf16::NAN;
    }
    let bits = value.to_bits();
    let up = bits.wrapping_add(0xffff) >> 16;
    bf16::from_bits(up.min(u32::from(bf16::MAX.to_bits())) as u16)
}

// === impl PackedInputs ===

impl PackedInputs {
    /// Packs rows of `width` numbers for matrices of a format.
    pub fn fill(
        &mut self,
        level: SimdLevel,
        pool: &ThreadPool,
        format: PackedFormat,
        rows: &[f32],
        width: usize,
    ) {
        self.rows = rows.len() / width;
        let InputLayout { tile_rows, scalar_words } = InputLayout::of(level, format);
        self.words = format.steps(width) * scalar_words;
        self.apart = !level.has_pairs();
        // Tiles of even height: 13 rows are 7 and 6, not 12 and 1.
        self.tile_rows = self.rows.div_ceil(self.rows.div_ceil(tile_rows).max(1)).max(1);
        self.scalars.resize(self.rows * self.words, 0);
        let groups = if format == PackedFormat::Int8 { width.div_ceil(GROUP) } else { 0 };
        self.scales.resize(self.rows * groups, 0.0);
        self.starts.resize(self.rows * groups, 0);
        let (tile_rows, words, count) = (self.tile_rows, self.words, self.rows);
        let apart = self.apart;
        let scalars = DisjointMut::new(&mut self.scalars);
        let (scales, starts) =
            (DisjointMut::new(&mut self.scales), DisjointMut::new(&mut self.starts));
        pool.each(count.div_ceil(tile_rows), |t| {
            let first = t * tile_rows;
            let height = tile_rows.min(count - first);
            // SAFETY: each tile is filled by one task.
            let (scalars, scales, starts) = unsafe {
                (
                    scalars.slice(first * words, height * words),
                    scales.slice(first * groups, height * groups),
                    starts.slice(first * groups, height * groups),
                )
            };
            let rows = &rows[first * width..(first + height) * width];
            level.run(PackInputs { format, apart, rows, height, scalars, scales, starts });
        });
    }
}

/// Rows to be packed as a tile.
struct PackInputs<'a> {
    format: PackedFormat,
    apart: bool,
    rows: &'a [f32],
    height: usize,
    scalars: &'a mut [u32],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
}

impl ProductKernel for PackInputs<'_> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        let Self { format, apart, rows, height, scalars, scales, starts } = self;
        for (index, row) in rows.chunks_exact(rows.len() / height).enumerate() {
            let target = TileRow { index, height };
            match format {
                PackedFormat::F32 => {
                    for (k, value) in row.iter().enumerate() {
                        scalars[target.at(k)] = value.to_bits();
                    }
                }
                PackedFormat::Bf16 if apart => pack_pairs::<Bf16SplitDot>(row, &target, scalars),
                PackedFormat::Bf16 => pack_pairs::<Bf16PairDot>(row, &target, scalars),
                PackedFormat::Int8 => pack_bytes::<L>(row, &target, scalars, scales, starts),
            }
        }
    }
}

/// The position of a row in its tile.
struct TileRow {
    index: usize,
    height: usize,
}

impl TileRow {
    #[inline(always)]
    fn at(&self, step: usize) -> usize {
        step * self.height + self.index
    }

    /// Writes the words of a scalar.
    #[inline(always)]
    fn put(&self, step: usize, words: &[u32], out: &mut [u32]) {
        for (w, word) in words.iter().enumerate() {
            out[self.at(step * words.len() + w)] = *word;
        }
    }
}

/// The nearest bf16, ties to even, in the lower half.
#[inline(always)]
pub fn round_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    // A NaN stays one: all its bits may be in the half that is cut off.
    if value.is_nan() { 0x7fc0 } else { (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 }
}

#[inline(always)]
fn pack_pairs<D: Dot>(row: &[f32], target: &TileRow, scalars: &mut [u32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    for (k, pair) in pairs.iter().enumerate() {
        target.put(k, &D::scalar(*pair)[..D::WORDS], scalars);
    }
    if let [last] = rest {
        target.put(pairs.len(), &D::scalar([*last, 0.0])[..D::WORDS], scalars);
    }
}

#[inline(always)]
fn pack_bytes<L: ProductLanes>(
    row: &[f32],
    target: &TileRow,
    scalars: &mut [u32],
    scales: &mut [f32],
    starts: &mut [i32],
) {
    for (g, part) in row.chunks(GROUP).enumerate() {
        let mut group = [0.0; GROUP];
        group[..part.len()].copy_from_slice(part);
        let scale = scale_of::<L>(&group);
        let inverse = inverse_of(scale);
        if scale.is_nan() {
            // The scale alone carries on that something is broken.
            group = [0.0; GROUP];
        }
        // One loop per operation: the compiler vectorises each.
        let mut wholes = [0_i32; GROUP];
        for (whole, value) in wholes.iter_mut().zip(&group) {
            *whole = (value * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        }
        scales[target.at(g)] = scale;
        starts[target.at(g)] = -RAISE * wholes.iter().sum::<i32>();
        let (fours, _) = wholes.as_chunks::<4>();
        for (k, four) in fours.iter().enumerate() {
            let four = four.map(|whole| whole as i8);
            let step = g * (GROUP / 4) + k;
            if const { L::FOUR_WORDS == 1 } {
                let word = u32::from_le_bytes(four.map(i8::cast_unsigned));
                target.put(step, &[word], scalars);
            } else {
                let [a, b, c, d] = four.map(|byte| u32::from(i16::from(byte).cast_unsigned()));
                target.put(step, &[a | (c << 16), b | (d << 16)], scalars);
            }
        }
    }
}

/// How a level's kernel reads its inputs.
#[derive(Clone, Copy, Default)]
struct InputLayout {
    /// Rows of a full tile.
    tile_rows: usize,
    /// Words of a scalar.
    scalar_words: usize,
}

impl InputLayout {
    fn of(level: SimdLevel, format: PackedFormat) -> Self {
        struct LayoutKernel<'a>(PackedFormat, &'a mut InputLayout);
        impl ProductKernel for LayoutKernel<'_> {
            #[inline(always)]
            fn run<L: ProductLanes>(self) {
                self.1.tile_rows = tile_of::<L>(self.0).rows;
                self.1.scalar_words = L::FOUR_WORDS;
            }
        }
        let mut wanted = Self::default();
        level.run(LayoutKernel(format, &mut wanted));
        match format {
            PackedFormat::F32 => wanted.scalar_words = F32Dot::WORDS,
            PackedFormat::Bf16 if level.has_pairs() => wanted.scalar_words = Bf16PairDot::WORDS,
            PackedFormat::Bf16 => wanted.scalar_words = Bf16SplitDot::WORDS,
            PackedFormat::Int8 => {}
        }
        wanted
    }
}

fn tile_of<L: ProductLanes>(format: PackedFormat) -> TileShape {
    if format == PackedFormat::Int8 { L::BYTES } else { L::FLOATS }
}

// === products ===

/// A product to compute: with all panels of a matrix, or with some.
#[derive(Debug)]
pub struct MatrixProduct<'a> {
    matrix: &'a PackedMatrix,
    chosen: Option<&'a [usize]>,
    out: DisjointMut<'a, f32>,
    /// Width of an output row.
    width: usize,
}

impl<'a> MatrixProduct<'a> {
    /// All outputs of a matrix.
    pub fn whole(matrix: &'a PackedMatrix, out: &'a mut [f32]) -> Self {
        Self { matrix, chosen: None, out: DisjointMut::new(out), width: matrix.outputs }
    }

    /// The outputs of some panels, side by side. Columns past the last output of the matrix are not written.
    pub fn of_panels(matrix: &'a PackedMatrix, panels: &'a [usize], out: &'a mut [f32]) -> Self {
        let width = panels.len() * PANEL;
        Self { matrix, chosen: Some(panels), out: DisjointMut::new(out), width }
    }

    fn panels(&self) -> usize {
        self.chosen.map_or(self.matrix.panels(), <[usize]>::len)
    }

    /// The product of its panel `index` and the tile whose first row is `first`.
    fn tile(&self, level: SimdLevel, inputs: &PackedInputs, index: usize, first: usize) {
        let place = PanelPlace { index, panel: self.chosen.map_or(index, |chosen| chosen[index]) };
        // Each height is a function of its own at each level: one function for all would be huge.
        macro_rules! tile {
            ($rows:literal) => {
                level.run(TileKernel::<$rows> { product: self, inputs, place, first })
            };
        }
        match inputs.tile_rows.min(inputs.rows - first) {
            1 => tile!(1),
            2 => tile!(2),
            3 => tile!(3),
            4 => tile!(4),
            5 => tile!(5),
            6 => tile!(6),
            7 => tile!(7),
            8 => tile!(8),
            9 => tile!(9),
            10 => tile!(10),
            11 => tile!(11),
            12 => tile!(12),
            rows => unreachable!("a tile of {rows} rows"),
        }
    }
}

/// The index of a panel in the output, and in the matrix.
#[derive(Clone, Copy)]
struct PanelPlace {
    index: usize,
    panel: usize,
}

/// `out = inputs W^T + b` for several products of the same inputs.
pub fn multiply(
    level: SimdLevel,
    pool: &ThreadPool,
    inputs: &PackedInputs,
    products: &[MatrixProduct<'_>],
) {
    for product in products {
        assert_eq!(product.out.len(), inputs.rows * product.width, "a product fills its table");
    }
    let panels: usize = products.iter().map(MatrixProduct::panels).sum();
    let parts = panels.min(pool.threads() * PARTS_PER_THREAD).max(1);
    pool.each(parts, |part| {
        let taken = part * panels / parts..(part + 1) * panels / parts;
        let mut first = 0;
        for product in products {
            let end = first + product.panels();
            for panel in taken.start.max(first)..taken.end.min(end) {
                // All tiles of a panel in turn: its weights stay in the processor's cache.
                for row in (0..inputs.rows).step_by(inputs.tile_rows) {
                    product.tile(level, inputs, panel - first, row);
                }
            }
            first = end;
        }
    });
}

/// The product of one panel and one tile.
struct TileKernel<'a, const R: usize> {
    product: &'a MatrixProduct<'a>,
    inputs: &'a PackedInputs,
    place: PanelPlace,
    first: usize,
}

impl<const R: usize> ProductKernel for TileKernel<'_, R> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        // Tiles that are too high for a level's registers are not compiled for it.
        if const { R <= L::FLOATS.rows } {
            self.multiply::<L>();
        } else {
            unreachable!("a tile of {R} rows is too high for this level");
        }
    }
}

impl<const R: usize> TileKernel<'_, R> {
    #[inline(always)]
    fn multiply<L: ProductLanes>(self) {
        if R <= tile_of::<L>(self.product.matrix.format).whole {
            self.part::<L, 2>(0);
        } else {
            self.part::<L, 1>(0);
            self.part::<L, 1>(1);
        }
    }

    /// `W` lanes of the panel, from lane `from` on.
    #[inline(always)]
    fn part<L: ProductLanes, const W: usize>(&self, from: usize) {
        let Self { product, inputs, place, first } = self;
        let MatrixProduct { matrix, out, width: stride, .. } = product;
        let column = place.panel * PANEL + from * LANES;
        // The last panel may end within its first half.
        let width = matrix.outputs.saturating_sub(column).min(W * LANES);
        if width == 0 {
            return;
        }
        let panel = matrix.panel(place.panel);
        let (tiles, halves) = (inputs.rows.div_ceil(inputs.tile_rows), 2 / W);
        let pass = first / inputs.tile_rows * halves + from;
        let weights = (panel, from, Prefetcher::of(panel, pass, tiles * halves));
        let scalars = &inputs.scalars[first * inputs.words..(first + R) * inputs.words];
        let (scalars, _) = scalars.as_chunks::<R>();
        let sums = match matrix.format {
            PackedFormat::F32 => floats::<L, F32Dot, R, W>(weights, scalars),
            PackedFormat::Bf16 if const { L::PAIRS } && !inputs.apart => {
                floats::<L, Bf16PairDot, R, W>(weights, scalars)
            }
            PackedFormat::Bf16 => floats::<L, Bf16SplitDot, R, W>(weights, scalars),
            PackedFormat::Int8 if const { R <= L::BYTES.rows } => {
                let groups = inputs.scales.len() / inputs.rows;
                let taken = first * groups..(first + R) * groups;
                let (scales, _) = inputs.scales[taken.clone()].as_chunks::<R>();
                let (starts, _) = inputs.starts[taken].as_chunks::<R>();
                bytes::<L, R, W>(weights, scalars, scales, starts)
            }
            PackedFormat::Int8 => unreachable!("a tile of bytes is lower than {R} rows"),
        };
        for r in 0..R {
            let mut values = [[0.0; LANES]; W];
            for (values, sums) in values.iter_mut().zip(&sums) {
                sums[r].store(values);
            }
            let values = values.as_flattened_mut();
            if let Some(bias) = matrix.bias.get(column..column + W * LANES) {
                for (value, bias) in values.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
            let at = (first + r) * stride + place.index * PANEL + from * LANES;
            // SAFETY: these columns belong to this panel, and a panel to one task.
            let out = unsafe { out.slice(at, width) };
            out.copy_from_slice(&values[..width]);
        }
    }
}

/// A number format that kernels are compiled for.
pub trait Dot {
    /// Inputs per scalar.
    const PACKED: usize;
    /// Words of a scalar.
    const WORDS: usize;
    /// The words of the scalar of one or two inputs; with one word the second is unused.
    fn scalar(numbers: [f32; 2]) -> [u32; 2];
    /// The same for inputs that are already rounded.
    fn rounded_scalar(numbers: [f32; 2]) -> [u32; 2];
    /// Adds the products of each line with the scalar of each row, word by word.
    fn dots<L: ProductLanes, const R: usize, const W: usize>(
        sums: &mut [[L; R]; W],
        lines: &[CacheLine; W],
        scalars: &[[u32; R]],
    );
}

/// Products of f32.
pub struct F32Dot;

impl Dot for F32Dot {
    const PACKED: usize = 1;
    const WORDS: usize = 1;

    #[inline(always)]
    fn scalar([number, _]: [f32; 2]) -> [u32; 2] {
        [number.to_bits(), 0]
    }

    #[inline(always)]
    fn rounded_scalar(numbers: [f32; 2]) -> [u32; 2] {
        Self::scalar(numbers)
    }

    #[inline(always)]
    fn dots<L: ProductLanes, const R: usize, const W: usize>(
        sums: &mut [[L; R]; W],
        lines: &[CacheLine; W],
        scalars: &[[u32; R]],
    ) {
        L::dots_f32(sums, lines, &scalars[0]);
    }
}

/// Products of pairs of bf16, by the instruction for pairs.
pub struct Bf16PairDot;

impl Dot for Bf16PairDot {
    const PACKED: usize = 2;
    const WORDS: usize = 1;

    #[inline(always)]
    fn scalar([low, high]: [f32; 2]) -> [u32; 2] {
        [round_bf16(low) | (round_bf16(high) << 16), 0]
    }

    #[inline(always)]
    fn rounded_scalar([low, high]: [f32; 2]) -> [u32; 2] {
        [low.to_bits() >> 16 | high.to_bits(), 0]
    }

    #[inline(always)]
    fn dots<L: ProductLanes, const R: usize, const W: usize>(
        sums: &mut [[L; R]; W],
        lines: &[CacheLine; W],
        scalars: &[[u32; R]],
    ) {
        L::dots_pairs(sums, lines, &scalars[0]);
    }
}

/// Products of pairs of bf16, computed in f32.
pub struct Bf16SplitDot;

impl Dot for Bf16SplitDot {
    const PACKED: usize = 2;
    const WORDS: usize = 2;

    #[inline(always)]
    fn scalar(pair: [f32; 2]) -> [u32; 2] {
        pair.map(|number| round_bf16(number) << 16)
    }

    #[inline(always)]
    fn rounded_scalar(pair: [f32; 2]) -> [u32; 2] {
        pair.map(f32::to_bits)
    }

    #[inline(always)]
    fn dots<L: ProductLanes, const R: usize, const W: usize>(
        sums: &mut [[L; R]; W],
        lines: &[CacheLine; W],
        scalars: &[[u32; R]],
    ) {
        L::dots_apart(sums, lines, [&scalars[0], &scalars[1]]);
    }
}

/// Prefetches weights while a tile is computed. The hardware prefetcher stops at the end of a page of 4 kB.
///
/// A single pass over a panel prefetches what it reads itself soon. Of several passes, for more tiles or for half a
/// panel each, only the first would wait for memory: so each prefetches its share of the next panel.
#[derive(Clone, Copy)]
struct Prefetcher {
    place: *const u8,
    /// Bytes to advance per line read.
    step: usize,
}

impl Prefetcher {
    /// For pass `pass` of `passes`.
    fn of(panel: &[CacheLine], pass: usize, passes: usize) -> Self {
        let share = panel.len() / passes;
        let skip = if passes == 1 { AHEAD } else { panel.len() + pass * share };
        Self {
            place: panel.as_ptr().wrapping_add(skip).cast(),
            step: size_of::<CacheLine>() / passes,
        }
    }

    /// Prefetches for one line read.
    #[inline(always)]
    fn fetch<L: ProductLanes>(&mut self) {
        L::prefetch_far(self.place);
        self.place = self.place.wrapping_add(self.step);
    }
}

/// `W` of the two lines of a step, from line `from` on.
#[inline(always)]
fn lanes_of<const W: usize>(lines: &[CacheLine; 2], from: usize) -> &[CacheLine; W] {
    lines[from..].first_chunk().expect("a panel is two lanes wide")
}

/// `W` vectors of a tile of f32 or bf16, from vector `from` on: most of a forward pass is spent here.
#[inline(always)]
fn floats<L: ProductLanes, D: Dot, const R: usize, const W: usize>(
    (panel, from, mut ahead): (&[CacheLine], usize, Prefetcher),
    scalars: &[[u32; R]],
) -> [[L; R]; W] {
    let mut sums = [[L::splat(0.0); R]; W];
    let (lines, _) = panel.as_chunks::<2>();
    for (lines, scalars) in lines.iter().zip(scalars.chunks_exact(D::WORDS)) {
        (0..2).for_each(|_| ahead.fetch::<L>());
        D::dots(&mut sums, lanes_of(lines, from), scalars);
    }
    sums
}

/// The same for int8: integer sums within a group, f32 sums across groups.
#[inline(always)]
fn bytes<L: ProductLanes, const R: usize, const W: usize>(
    (panel, from, mut ahead): (&[CacheLine], usize, Prefetcher),
    scalars: &[[u32; R]],
    scales: &[[f32; R]],
    starts: &[[i32; R]],
) -> [[L; R]; W] {
    let mut sums = [[L::splat(0.0); R]; W];
    let (groups, _) = panel.as_chunks::<GROUP_LINES>();
    let scalars = scalars.chunks_exact(GROUP / 4 * L::FOUR_WORDS);
    for (((lines, scalars), scales), starts) in groups.iter().zip(scalars).zip(scales).zip(starts) {
        let mut ints = [starts.map(L::ints); W];
        let (steps, _) = lines.as_chunks::<2>();
        for (lines, scalars) in steps.iter().zip(scalars.chunks_exact(L::FOUR_WORDS)) {
            (0..2).for_each(|_| ahead.fetch::<L>());
            L::dots_bytes(&mut ints, lanes_of(lines, from), scalars);
        }
        ahead.fetch::<L>();
        let weights = L::two_bf16(&lines[GROUP_LINES - 1]);
        for ((sums, ints), weight) in sums.iter_mut().zip(ints).zip(&weights[from..]) {
            for r in 0..R {
                let factor = weight.mul(L::splat(scales[r]));
                sums[r] = L::floats(ints[r]).mul_add(factor, sums[r]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use std::convert::Infallible;
    use std::num::NonZeroUsize;

    fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn pool() -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(2).unwrap())
    }

    fn pack(
        pool: &ThreadPool,
        format: PackedFormat,
        dims: (usize, usize),
        weights: &[f32],
    ) -> PackedMatrix {
        let (outputs, inputs) = dims;
        let bias = Some((0..outputs).map(|output| output as f32 / 64.0).collect());
        let read = |_, rows: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&weights[rows.start * inputs..rows.end * inputs]);
            Ok::<(), Infallible>(())
        };
        let plan = MatrixSpec { format, outputs, inputs, bias };
        let plans = vec![plan];
        let lines = Lines::zeroed(MatrixSpec::lines(&plans)).unwrap();
        let Ok(mut matrices) = PackedMatrix::pack(pool, plans, lines, read);
        matrices.remove(0)
    }

    /// A product into a table of NaN.
    fn product(
        level: SimdLevel,
        pool: &ThreadPool,
        matrix: &PackedMatrix,
        rows: &[f32],
    ) -> Vec<f32> {
        let count = rows.len() / matrix.inputs;
        let mut out = vec![f32::NAN; count * matrix.outputs];
        let mut inputs = PackedInputs::default();
        inputs.fill(level, pool, matrix.format, rows, matrix.inputs);
        multiply(level, pool, &inputs, &[MatrixProduct::whole(matrix, &mut out)]);
        out
    }

    /// The relative error against double precision.
    fn error(out: &[f32], weights: &[f32], rows: &[f32], (outputs, inputs): (usize, usize)) -> f64 {
        let (mut error, mut norm) = (0.0, 0.0);
        for (row, out) in rows.chunks(inputs).zip(out.chunks(outputs)) {
            for (output, (weights, got)) in weights.chunks(inputs).zip(out).enumerate() {
                let products = row.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let right = products.sum::<f64>() + output as f64 / 64.0;
                error += (right - f64::from(*got)).powi(2);
                norm += right.powi(2);
            }
        }
        (error / norm).sqrt()
    }

    #[test]
    fn products_are_those_of_double_precision_at_every_level() {
        let (pool, mut rng) = (pool(), ChaCha8Rng::seed_from_u64(0));
        // Odd sizes: panels, groups and pairs that are not whole. Few under Miri, which is slow.
        let dims: &[_] =
            if cfg!(miri) { &[(33, 37)] } else { &[(70, 101), (32, 64), (5, 33), (1, 1)] };
        for &dims in dims {
            let weights = random(&mut rng, dims.0 * dims.1);
            for (format, bound) in
                [(PackedFormat::F32, 1e-6), (PackedFormat::Bf16, 5e-3), (PackedFormat::Int8, 1e-2)]
            {
                let matrix = pack(&pool, format, dims, &weights);
                for &count in if cfg!(miri) { &[3][..] } else { &[1, 2, 7, 13, 25] } {
                    let rows = random(&mut rng, count * dims.1);
                    for level in SimdLevel::all_here() {
                        let out = product(level, &pool, &matrix, &rows);
                        let error = error(&out, &weights, &rows, dims);
                        let name = level.as_str();
                        assert!(error < bound, "{format:?} {dims:?} x{count} {name}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_gets_the_same_bits_in_any_tile() {
        let (pool, mut rng) = (pool(), ChaCha8Rng::seed_from_u64(1));
        let (dims, count) = if cfg!(miri) { ((33, 5), 3) } else { ((70, 100), 13) };
        let weights = random(&mut rng, dims.0 * dims.1);
        for format in [PackedFormat::F32, PackedFormat::Bf16, PackedFormat::Int8] {
            let matrix = pack(&pool, format, dims, &weights);
            let rows = random(&mut rng, count * dims.1);
            for level in SimdLevel::all_here() {
                let together = product(level, &pool, &matrix, &rows);
                for (row, together) in rows.chunks(dims.1).zip(together.chunks(dims.0)) {
                    assert_eq!(product(level, &pool, &matrix, row), together, "{format:?}");
                }
            }
        }
    }

    #[test]
    fn chosen_panels_have_the_bits_of_the_whole_product() {
        let (pool, mut rng) = (pool(), ChaCha8Rng::seed_from_u64(2));
        let dims = (70, if cfg!(miri) { 5 } else { 100 });
        let weights = random(&mut rng, dims.0 * dims.1);
        let rows = random(&mut rng, 3 * dims.1);
        for format in [PackedFormat::F32, PackedFormat::Bf16, PackedFormat::Int8] {
            let matrix = pack(&pool, format, dims, &weights);
            for level in SimdLevel::all_here() {
                let whole = product(level, &pool, &matrix, &rows);
                let chosen = [2, 0];
                let mut out = vec![f32::NAN; 3 * chosen.len() * PANEL];
                let mut inputs = PackedInputs::default();
                inputs.fill(level, &pool, format, &rows, dims.1);
                let product = MatrixProduct::of_panels(&matrix, &chosen, &mut out);
                multiply(level, &pool, &inputs, &[product]);
                for (whole, some) in whole.chunks(dims.0).zip(out.chunks(2 * PANEL)) {
                    assert_eq!(some[..6], whole[2 * PANEL..], "the last panel has six outputs");
                    assert_eq!(some[PANEL..], whole[..PANEL]);
                }
            }
        }
    }

    #[test]
    fn extreme_numbers_are_rounded_without_overflow() {
        assert_eq!(round_bf16(f32::NAN), 0x7fc0);
        assert_eq!(round_bf16(f32::INFINITY), 0x7f80);
        assert_eq!(round_bf16(1.0), 0x3f80);
        assert!(round_up(1.001).to_f32() >= 1.001);
        let pool = pool();
        // A group of zeros has scale zero, which nothing is divided by.
        let matrix = pack(&pool, PackedFormat::Int8, (32, 32), &[0.0; 1024]);
        let out = product(SimdLevel::best(), &pool, &matrix, &[0.0; 32]);
        assert_eq!(out[0].to_bits(), 0.0_f32.to_bits());
        // So has a group whose scale has an infinite reciprocal.
        let out = product(SimdLevel::best(), &pool, &matrix, &[f32::MIN_POSITIVE; 32]);
        assert_eq!(out[0].to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn nan_and_infinite_numbers_give_no_finite_outputs() {
        let pool = pool();
        for format in [PackedFormat::F32, PackedFormat::Bf16, PackedFormat::Int8] {
            for broken in [f32::NAN, f32::INFINITY] {
                let mut weights = vec![0.5; 2 * 64];
                weights[70] = broken;
                let matrix = pack(&pool, format, (2, 64), &weights);
                let mut rows = vec![0.25; 2 * 64];
                rows[100] = broken;
                for level in SimdLevel::all_here() {
                    let out = product(level, &pool, &matrix, &rows);
                    let finite: Vec<_> = out.iter().map(|value| value.is_finite()).collect();
                    assert_eq!(finite, [true, false, false, false], "{format:?}");
                }
            }
        }
    }
}
