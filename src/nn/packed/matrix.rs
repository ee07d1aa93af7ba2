//! Weights packed for the microkernel, and their products with the rows of a step.
//!
//! A matrix is kept in *panels* of 32 outputs. A panel is a run of lines in the very order in
//! which the kernel reads them, so that a product streams the weights once, whatever the number of
//! rows. The rows are packed as well, in *tiles* as high as the registers allow. Each output is
//! summed over the inputs in one order, whatever its tile: a row's result does not depend on its
//! company.
#![allow(unsafe_code, reason = "panels of one product are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `nn::simd`")]

use super::lines::Lines;
use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{
    LANES, Lanes, Line, PortableLanes, ProductKernel, ProductLanes, SimdLevel, Tile,
};
use half::bf16;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Outputs of a panel: two lanes.
pub const PANEL: usize = 2 * LANES;
/// Inputs that share a scale in int8, as in Q8_0.
pub const GROUP: usize = 32;
/// Lines of a group: four inputs of sixteen outputs each, and then the scales.
const GROUP_LINES: usize = GROUP / 4 * 2 + 1;
/// Lines that are fetched before they are read: what memory takes to answer, and some more.
pub const AHEAD: usize = 64;
/// Parts that a product is cut into for each thread, so that a slow thread holds nobody up.
const PARTS_PER_THREAD: usize = 4;
/// Adding this to a small number rounds it to a whole one, and leaves that in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// What a byte is raised by to have no sign, as the instruction wants one factor.
const RAISE: i32 = 128;

/// How numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    F32,
    /// In the upper half of an f32; inputs are rounded likewise.
    Bf16,
    /// As bytes with a scale for each [`GROUP`]; inputs are rounded likewise, row by row.
    Int8,
}

/// A packed matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    format: Format,
    outputs: usize,
    inputs: usize,
    /// The lines of all matrices of a model: one piece of memory, so that huge pages fit it.
    lines: Arc<Lines>,
    from: usize,
    bias: Vec<f32>,
}

/// A matrix to be packed.
#[derive(Debug)]
pub struct Plan {
    /// How its numbers will be kept.
    pub format: Format,
    /// Rows of the matrix.
    pub outputs: usize,
    /// Columns of the matrix.
    pub inputs: usize,
    /// What is added to each output.
    pub bias: Option<Vec<f32>>,
}

/// The rows of a step, packed for products with matrices of one format.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Tile by tile: of each step along the inputs, the words of a scalar for each row of the tile.
    scalars: Vec<u32>,
    /// Tile by tile: of each group, the scale of each row, in int8.
    scales: Vec<f32>,
    /// Likewise, what takes the raise of the weights away again.
    starts: Vec<i32>,
    rows: usize,
    /// Words of a row's scalars.
    words: usize,
    /// Whether pairs of bf16 are two words.
    apart: bool,
    tile_rows: usize,
}

// === impl Format ===

impl Format {
    /// Scalars that hold `inputs` numbers.
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

// === impl Matrix ===

impl Matrix {
    /// Packs several matrices into `lines`, as many as [`Plan::lines`] says. `read(m, rows, out)`
    /// reads some rows of matrix `m`.
    pub fn pack<E: Send>(
        pool: &ThreadPool,
        plans: Vec<Plan>,
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
            let Plan { format, outputs, inputs, bias } = plan;
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

    /// How its numbers are kept.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let lines = self.panels() * self.format.panel_lines(self.inputs);
        lines * size_of::<Line>() + size_of_val(&*self.bias)
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    fn panel(&self, index: usize) -> &[Line] {
        let lines = self.format.panel_lines(self.inputs);
        let from = self.from + index * lines;
        &self.lines[from..from + lines]
    }
}

// === impl Plan ===

impl Plan {
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
        lines: &mut [Line],
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
fn pack_row(format: Format, row: &[f32], column: usize, panel: &mut [Line]) {
    let (half, lane) = (column / LANES, column % LANES);
    let mut put = |line: usize, bytes: &[u8], at: usize| {
        panel[line].0[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match format {
        Format::F32 => {
            for (k, value) in row.iter().enumerate() {
                put(2 * k + half, &value.to_le_bytes(), 4 * lane);
            }
        }
        Format::Bf16 => {
            for (k, value) in row.iter().enumerate() {
                let bytes = bf16::from_f32(*value).to_le_bytes();
                put(2 * (k / 2) + half, &bytes, 4 * lane + 2 * (k % 2));
            }
        }
        Format::Int8 => {
            for (g, part) in row.chunks(GROUP).enumerate() {
                let first = g * GROUP_LINES;
                let mut group = [0.0; GROUP];
                group[..part.len()].copy_from_slice(part);
                // The scale is rounded up, so that the greatest weight still fits a byte.
                let scale = round_up(scale_of::<PortableLanes>(&group));
                let inverse = inverse_of(scale.to_f32());
                for (k, value) in group.iter().enumerate() {
                    // A number that is none becomes zero here: its group's scale says it.
                    let byte = ((value * inverse).round() as i32 + RAISE) as u8;
                    put(first + k / 4 * 2 + half, &[byte], 4 * lane + k % 4);
                }
                put(first + GROUP_LINES - 1, &scale.to_le_bytes(), 2 * column);
            }
        }
    }
}

/// What a group's bytes are multiplied by to be its numbers. Not a number if one of those is not
/// or is infinite, so that a broken model is not taken for a sound one.
#[inline(always)]
fn scale_of<L: Lanes>(group: &[f32; GROUP]) -> f32 {
    let zero = L::splat(0.0);
    let (mut sizes, mut nothing) = (zero, zero);
    for part in group.as_chunks().0 {
        let part = L::load(part);
        sizes = sizes.max(part).max(zero.sub(part));
        // Nothing times what is no number, or infinite, is no number.
        nothing = part.mul_add(zero, nothing);
    }
    if nothing.sum() == 0.0 { sizes.max_lane() / 127.0 } else { f32::NAN }
}

/// What a group's numbers are multiplied by to be bytes: nothing where they are too small to count.
#[inline(always)]
fn inverse_of(scale: f32) -> f32 {
    if scale >= f32::MIN_POSITIVE { scale.recip() } else { 0.0 }
}

/// The smallest bf16 that is not below a positive number.
fn round_up(value: f32) -> bf16 {
    if value.is_nan() {
        return bf16::NAN;
    }
    let bits = value.to_bits();
    let up = bits.wrapping_add(0xffff) >> 16;
    bf16::from_bits(up.min(u32::from(bf16::MAX.to_bits())) as u16)
}

// === impl Inputs ===

impl Inputs {
    /// Packs rows of `width` numbers for matrices of a format.
    pub fn fill(
        &mut self,
        level: SimdLevel,
        pool: &ThreadPool,
        format: Format,
        rows: &[f32],
        width: usize,
    ) {
        self.rows = rows.len() / width;
        let Wanted { tile_rows, scalar_words } = Wanted::of(level, format);
        self.words = format.steps(width) * scalar_words;
        self.apart = !level.has_pairs();
        // Tiles of even height: thirteen rows are seven and six, not twelve and one.
        self.tile_rows = self.rows.div_ceil(self.rows.div_ceil(tile_rows).max(1)).max(1);
        self.scalars.resize(self.rows * self.words, 0);
        let groups = if format == Format::Int8 { width.div_ceil(GROUP) } else { 0 };
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
            level.run(Packing { format, apart, rows, height, scalars, scales, starts });
        });
    }
}

/// Rows to be packed as a tile.
struct Packing<'a> {
    format: Format,
    apart: bool,
    rows: &'a [f32],
    height: usize,
    scalars: &'a mut [u32],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
}

impl ProductKernel for Packing<'_> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        let Self { format, apart, rows, height, scalars, scales, starts } = self;
        for (index, row) in rows.chunks_exact(rows.len() / height).enumerate() {
            let target = Column { index, height };
            match format {
                Format::F32 => {
                    for (k, value) in row.iter().enumerate() {
                        scalars[target.at(k)] = value.to_bits();
                    }
                }
                Format::Bf16 if apart => pack_pairs::<Apart>(row, &target, scalars),
                Format::Bf16 => pack_pairs::<Pairs>(row, &target, scalars),
                Format::Int8 => pack_bytes::<L>(row, &target, scalars, scales, starts),
            }
        }
    }
}

/// The place of a row in its tile.
struct Column {
    index: usize,
    height: usize,
}

impl Column {
    #[inline(always)]
    fn at(&self, step: usize) -> usize {
        step * self.height + self.index
    }

    /// Puts the words of a scalar down.
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
fn pack_pairs<D: Dot>(row: &[f32], target: &Column, scalars: &mut [u32]) {
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
    target: &Column,
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
        // One loop for each thing that is done, which the compiler then does to many at a time.
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

/// How a level wants the rows of a step.
#[derive(Clone, Copy, Default)]
struct Wanted {
    /// Rows of its highest tile.
    tile_rows: usize,
    /// Words of a scalar.
    scalar_words: usize,
}

impl Wanted {
    fn of(level: SimdLevel, format: Format) -> Self {
        struct Ask<'a>(Format, &'a mut Wanted);
        impl ProductKernel for Ask<'_> {
            #[inline(always)]
            fn run<L: ProductLanes>(self) {
                self.1.tile_rows = tile_of::<L>(self.0).rows;
                self.1.scalar_words = L::FOUR_WORDS;
            }
        }
        let mut wanted = Self::default();
        level.run(Ask(format, &mut wanted));
        match format {
            Format::F32 => wanted.scalar_words = F32::WORDS,
            Format::Bf16 if level.has_pairs() => wanted.scalar_words = Pairs::WORDS,
            Format::Bf16 => wanted.scalar_words = Apart::WORDS,
            Format::Int8 => {}
        }
        wanted
    }
}

fn tile_of<L: ProductLanes>(format: Format) -> Tile {
    if format == Format::Int8 { L::BYTES } else { L::FLOATS }
}

// === products ===

/// A product to be computed: of all panels of a matrix, or of some.
#[derive(Debug)]
pub struct Product<'a> {
    matrix: &'a Matrix,
    chosen: Option<&'a [usize]>,
    out: DisjointMut<'a, f32>,
    /// Numbers of a row of the output.
    width: usize,
}

impl<'a> Product<'a> {
    /// All outputs of a matrix.
    pub fn whole(matrix: &'a Matrix, out: &'a mut [f32]) -> Self {
        Self { matrix, chosen: None, out: DisjointMut::new(out), width: matrix.outputs }
    }

    /// The outputs of some panels, side by side. Past the last output of the matrix a panel leaves
    /// what it finds.
    pub fn of_panels(matrix: &'a Matrix, panels: &'a [usize], out: &'a mut [f32]) -> Self {
        let width = panels.len() * PANEL;
        Self { matrix, chosen: Some(panels), out: DisjointMut::new(out), width }
    }

    fn panels(&self) -> usize {
        self.chosen.map_or(self.matrix.panels(), <[usize]>::len)
    }

    /// The product of its panel `index` and the tile whose first row is `first`.
    fn tile(&self, level: SimdLevel, inputs: &Inputs, index: usize, first: usize) {
        let place = Place { index, panel: self.chosen.map_or(index, |chosen| chosen[index]) };
        // Each height is compiled for each level by itself: together they would be one huge
        // function.
        macro_rules! tile {
            ($rows:literal) => {
                level.run(Tiled::<$rows> { product: self, inputs, place, first })
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

/// Where a panel stands: in the output, and in the matrix.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    panel: usize,
}

/// `out = inputs W^T + b` for several products of the same inputs.
pub fn multiply(level: SimdLevel, pool: &ThreadPool, inputs: &Inputs, products: &[Product<'_>]) {
    for product in products {
        assert_eq!(product.out.len(), inputs.rows * product.width, "a product fills its table");
    }
    let panels: usize = products.iter().map(Product::panels).sum();
    let parts = panels.min(pool.threads() * PARTS_PER_THREAD).max(1);
    pool.each(parts, |part| {
        let taken = part * panels / parts..(part + 1) * panels / parts;
        let mut first = 0;
        for product in products {
            let end = first + product.panels();
            for panel in taken.start.max(first)..taken.end.min(end) {
                // All tiles, one after the other: the weights stay in the cache meanwhile.
                for row in (0..inputs.rows).step_by(inputs.tile_rows) {
                    product.tile(level, inputs, panel - first, row);
                }
            }
            first = end;
        }
    });
}

/// The product of one panel and one tile.
struct Tiled<'a, const R: usize> {
    product: &'a Product<'a>,
    inputs: &'a Inputs,
    place: Place,
    first: usize,
}

impl<const R: usize> ProductKernel for Tiled<'_, R> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        // No level has tiles higher than its registers allow, and none is compiled.
        if const { R <= L::FLOATS.rows } {
            self.multiply::<L>();
        } else {
            unreachable!("a tile of {R} rows is too high for this level");
        }
    }
}

impl<const R: usize> Tiled<'_, R> {
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
        let Product { matrix, out, width: stride, .. } = product;
        let column = place.panel * PANEL + from * LANES;
        // The last panel may end within its first half.
        let width = matrix.outputs.saturating_sub(column).min(W * LANES);
        if width == 0 {
            return;
        }
        let panel = matrix.panel(place.panel);
        let (tiles, halves) = (inputs.rows.div_ceil(inputs.tile_rows), 2 / W);
        let pass = first / inputs.tile_rows * halves + from;
        let weights = (panel, from, Ahead::of(panel, pass, tiles * halves));
        let scalars = &inputs.scalars[first * inputs.words..(first + R) * inputs.words];
        let (scalars, _) = scalars.as_chunks::<R>();
        let sums = match matrix.format {
            Format::F32 => floats::<L, F32, R, W>(weights, scalars),
            Format::Bf16 if const { L::PAIRS } && !inputs.apart => {
                floats::<L, Pairs, R, W>(weights, scalars)
            }
            Format::Bf16 => floats::<L, Apart, R, W>(weights, scalars),
            Format::Int8 if const { R <= L::BYTES.rows } => {
                let groups = inputs.scales.len() / inputs.rows;
                let taken = first * groups..(first + R) * groups;
                let (scales, _) = inputs.scales[taken.clone()].as_chunks::<R>();
                let (starts, _) = inputs.starts[taken].as_chunks::<R>();
                bytes::<L, R, W>(weights, scalars, scales, starts)
            }
            Format::Int8 => unreachable!("a tile of bytes is lower than {R} rows"),
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

/// A kind of numbers that a kernel is compiled for.
pub trait Dot {
    /// Numbers that a scalar holds.
    const PACKED: usize;
    /// Words of a scalar.
    const WORDS: usize;
    /// The words of a scalar of as many numbers; the second is of use where there are two.
    fn scalar(numbers: [f32; 2]) -> [u32; 2];
    /// The same of numbers that are rounded as the lines are.
    fn rounded_scalar(numbers: [f32; 2]) -> [u32; 2];
    /// Adds the products of the lines with the scalar of each row, word by word.
    fn dots<L: ProductLanes, const R: usize, const W: usize>(
        sums: &mut [[L; R]; W],
        lines: &[Line; W],
        scalars: &[[u32; R]],
    );
}

/// Of f32.
pub struct F32;

impl Dot for F32 {
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
        lines: &[Line; W],
        scalars: &[[u32; R]],
    ) {
        L::dots_f32(sums, lines, &scalars[0]);
    }
}

/// Of pairs of bf16, by the instruction for pairs.
pub struct Pairs;

impl Dot for Pairs {
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
        lines: &[Line; W],
        scalars: &[[u32; R]],
    ) {
        L::dots_pairs(sums, lines, &scalars[0]);
    }
}

/// Of pairs of bf16, as f32.
pub struct Apart;

impl Dot for Apart {
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
        lines: &[Line; W],
        scalars: &[[u32; R]],
    ) {
        L::dots_apart(sums, lines, [&scalars[0], &scalars[1]]);
    }
}

/// The weights that a tile fetches while it works. The processor sees what it reads coming as well,
/// but no further than to the end of a page of 4 kB.
///
/// A single pass over a panel fetches what itself reads soon. Of several, for more tiles or for half
/// a panel each, the first would wait for memory and the others not at all: each fetches its share
/// of the next panel.
#[derive(Clone, Copy)]
struct Ahead {
    place: *const u8,
    /// Bytes for each line that is read.
    step: usize,
}

impl Ahead {
    /// For pass `pass` of so many.
    fn of(panel: &[Line], pass: usize, passes: usize) -> Self {
        let share = panel.len() / passes;
        let skip = if passes == 1 { AHEAD } else { panel.len() + pass * share };
        Self { place: panel.as_ptr().wrapping_add(skip).cast(), step: size_of::<Line>() / passes }
    }

    /// Fetches what goes with the next line.
    #[inline(always)]
    fn fetch<L: ProductLanes>(&mut self) {
        L::prefetch_far(self.place);
        self.place = self.place.wrapping_add(self.step);
    }
}

/// `W` of the two lines that a panel has for each step.
#[inline(always)]
fn lanes_of<const W: usize>(lines: &[Line; 2], from: usize) -> &[Line; W] {
    lines[from..].first_chunk().expect("a panel is two lanes wide")
}

/// `W` lanes of a tile of f32 or bf16, from a lane on: where the time of a step goes.
#[inline(always)]
fn floats<L: ProductLanes, D: Dot, const R: usize, const W: usize>(
    (panel, from, mut ahead): (&[Line], usize, Ahead),
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

/// The same of int8: integers within a group, floats across groups.
#[inline(always)]
fn bytes<L: ProductLanes, const R: usize, const W: usize>(
    (panel, from, mut ahead): (&[Line], usize, Ahead),
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

    fn pack(pool: &ThreadPool, format: Format, dims: (usize, usize), weights: &[f32]) -> Matrix {
        let (outputs, inputs) = dims;
        let bias = Some((0..outputs).map(|output| output as f32 / 64.0).collect());
        let read = |_, rows: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&weights[rows.start * inputs..rows.end * inputs]);
            Ok::<(), Infallible>(())
        };
        let plan = Plan { format, outputs, inputs, bias };
        let plans = vec![plan];
        let lines = Lines::zeroed(Plan::lines(&plans)).unwrap();
        let Ok(mut matrices) = Matrix::pack(pool, plans, lines, read);
        matrices.remove(0)
    }

    /// A product into a table full of numbers that are none.
    fn product(level: SimdLevel, pool: &ThreadPool, matrix: &Matrix, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / matrix.inputs;
        let mut out = vec![f32::NAN; count * matrix.outputs];
        let mut inputs = Inputs::default();
        inputs.fill(level, pool, matrix.format, rows, matrix.inputs);
        multiply(level, pool, &inputs, &[Product::whole(matrix, &mut out)]);
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
        // Odd sizes: panels, groups and pairs that are not whole. Miri is slow, and gets little to do.
        let dims: &[_] =
            if cfg!(miri) { &[(33, 37)] } else { &[(70, 101), (32, 64), (5, 33), (1, 1)] };
        for &dims in dims {
            let weights = random(&mut rng, dims.0 * dims.1);
            for (format, bound) in [(Format::F32, 1e-6), (Format::Bf16, 5e-3), (Format::Int8, 1e-2)]
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
        for format in [Format::F32, Format::Bf16, Format::Int8] {
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
        for format in [Format::F32, Format::Bf16, Format::Int8] {
            let matrix = pack(&pool, format, dims, &weights);
            for level in SimdLevel::all_here() {
                let whole = product(level, &pool, &matrix, &rows);
                let chosen = [2, 0];
                let mut out = vec![f32::NAN; 3 * chosen.len() * PANEL];
                let mut inputs = Inputs::default();
                inputs.fill(level, &pool, format, &rows, dims.1);
                let product = Product::of_panels(&matrix, &chosen, &mut out);
                multiply(level, &pool, &inputs, &[product]);
                for (whole, some) in whole.chunks(dims.0).zip(out.chunks(2 * PANEL)) {
                    assert_eq!(some[..6], whole[2 * PANEL..], "the last panel has six outputs");
                    assert_eq!(some[PANEL..], whole[..PANEL]);
                }
            }
        }
    }

    #[test]
    fn extreme_numbers_are_kept_as_far_as_they_go() {
        assert_eq!(round_bf16(f32::NAN), 0x7fc0);
        assert_eq!(round_bf16(f32::INFINITY), 0x7f80);
        assert_eq!(round_bf16(1.0), 0x3f80);
        assert!(round_up(1.001).to_f32() >= 1.001);
        let pool = pool();
        // A group of zeros has no scale, and no zero is divided by.
        let matrix = pack(&pool, Format::Int8, (32, 32), &[0.0; 1024]);
        let out = product(SimdLevel::best(), &pool, &matrix, &[0.0; 32]);
        assert_eq!(out[0].to_bits(), 0.0_f32.to_bits());
        // Nor has one of numbers whose reciprocal is infinite.
        let out = product(SimdLevel::best(), &pool, &matrix, &[f32::MIN_POSITIVE; 32]);
        assert_eq!(out[0].to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let pool = pool();
        for format in [Format::F32, Format::Bf16, Format::Int8] {
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
