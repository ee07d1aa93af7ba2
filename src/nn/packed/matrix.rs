//! Weights packed for the microkernel, and their products with the rows of a step.
//!
//! A matrix is kept in *panels* of 32 outputs. A panel is a run of lines in the very order in
//! which the kernel reads them, so that a product streams the weights once, whatever the number of
//! rows. The rows are packed as well, in *tiles* as high as the registers allow. Each output is
//! summed over the inputs in one order, whatever its tile: a row's result does not depend on its
//! company.
#![allow(unsafe_code, reason = "panels of one product are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `lanes`")]

use super::crew::{Crew, Shared};
use super::lanes::{LANES, Lanes, Level, Line, Work};
use super::lines::Lines;
use half::bf16;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Outputs of a panel: two lanes.
pub const PANEL: usize = 2 * LANES;
/// Inputs that share a scale in int8, as in Q8_0.
pub const GROUP: usize = 32;
/// Lines of a group: four inputs of sixteen outputs each, and then the scales.
const GROUP_LINES: usize = GROUP / 4 * 2 + 1;
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
    /// Tile by tile: of each step along the inputs, a scalar for each row of the tile.
    scalars: Vec<u32>,
    /// Tile by tile: of each group, the scale of each row, in int8.
    scales: Vec<f32>,
    /// Likewise, what takes the raise of the weights away again.
    starts: Vec<i32>,
    rows: usize,
    /// Scalars of a row.
    steps: usize,
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
        crew: &Crew,
        plans: Vec<Plan>,
        mut lines: Lines,
        read: impl Fn(usize, Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Vec<Self>, E> {
        let mut starts = vec![0];
        for plan in &plans {
            starts.push(starts[starts.len() - 1] + plan.panels() * plan.panel_lines());
        }
        for (m, plan) in plans.iter().enumerate() {
            plan.pack(crew, &mut lines[starts[m]..starts[m + 1]], |rows, out| read(m, rows, out))?;
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
        crew: &Crew,
        lines: &mut [Line],
        read: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let outcomes = Mutex::new(Ok(()));
        let panels = Shared::new(lines);
        crew.each(self.panels(), |p| {
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
            for (g, group) in row.chunks(GROUP).enumerate() {
                let first = g * GROUP_LINES;
                // The scale is rounded up, so that the greatest weight still fits a byte.
                let scale = round_up(scale_of(group));
                let inverse = inverse_of(scale.to_f32());
                for k in 0..GROUP {
                    // A number that is none becomes zero here: its group's scale says it.
                    let value = group.get(k).map_or(0.0, |value| (value * inverse).round());
                    let byte = (value as i32 + RAISE) as u8;
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
fn scale_of(group: &[f32]) -> f32 {
    let greatest = group.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let finite = group.iter().fold(true, |finite, value| finite & value.is_finite());
    if finite { greatest / 127.0 } else { f32::NAN }
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
    pub fn fill(&mut self, level: Level, crew: &Crew, format: Format, rows: &[f32], width: usize) {
        self.rows = rows.len() / width;
        self.steps = format.steps(width);
        let most = tile_rows_max(level, format);
        // Tiles of even height: thirteen rows are seven and six, not twelve and one.
        self.tile_rows = self.rows.div_ceil(self.rows.div_ceil(most).max(1)).max(1);
        self.scalars.resize(self.rows * self.steps, 0);
        let groups = if format == Format::Int8 { width.div_ceil(GROUP) } else { 0 };
        self.scales.resize(self.rows * groups, 0.0);
        self.starts.resize(self.rows * groups, 0);
        let (tile_rows, steps, count) = (self.tile_rows, self.steps, self.rows);
        let scalars = Shared::new(&mut self.scalars);
        let (scales, starts) = (Shared::new(&mut self.scales), Shared::new(&mut self.starts));
        crew.each(count.div_ceil(tile_rows), |t| {
            let first = t * tile_rows;
            let height = tile_rows.min(count - first);
            // SAFETY: each tile is filled by one task.
            let (scalars, scales, starts) = unsafe {
                (
                    scalars.slice(first * steps, height * steps),
                    scales.slice(first * groups, height * groups),
                    starts.slice(first * groups, height * groups),
                )
            };
            let rows = &rows[first * width..(first + height) * width];
            level.run(Tile { format, rows, height, scalars, scales, starts });
        });
    }
}

/// Rows to be packed as a tile.
struct Tile<'a> {
    format: Format,
    rows: &'a [f32],
    height: usize,
    scalars: &'a mut [u32],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
}

impl Work for Tile<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { format, rows, height, scalars, scales, starts } = self;
        for (index, row) in rows.chunks_exact(rows.len() / height).enumerate() {
            let target = Column { index, height };
            match format {
                Format::F32 => {
                    for (k, value) in row.iter().enumerate() {
                        scalars[target.at(k)] = value.to_bits();
                    }
                }
                Format::Bf16 => pack_pairs(row, &target, scalars),
                Format::Int8 => pack_bytes(row, &target, scalars, scales, starts),
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
}

/// The nearest bf16, ties to even, in the lower half.
#[inline(always)]
pub fn round_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    // A NaN stays one: all its bits may be in the half that is cut off.
    if value.is_nan() { 0x7fc0 } else { (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 }
}

#[inline(always)]
fn pack_pairs(row: &[f32], target: &Column, scalars: &mut [u32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    for (k, [low, high]) in pairs.iter().enumerate() {
        scalars[target.at(k)] = round_bf16(*low) | (round_bf16(*high) << 16);
    }
    if let [last] = rest {
        scalars[target.at(pairs.len())] = round_bf16(*last);
    }
}

#[inline(always)]
fn pack_bytes(
    row: &[f32],
    target: &Column,
    scalars: &mut [u32],
    scales: &mut [f32],
    starts: &mut [i32],
) {
    for (g, part) in row.chunks(GROUP).enumerate() {
        let mut group = [0.0; GROUP];
        group[..part.len()].copy_from_slice(part);
        let scale = scale_of(&group);
        let inverse = inverse_of(scale);
        if scale.is_nan() {
            // The scale alone carries on that something is broken.
            group = [0.0; GROUP];
        }
        let mut bytes = [0_i8; GROUP];
        let mut sum = 0;
        for (byte, value) in bytes.iter_mut().zip(&group) {
            let whole = (value * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
            *byte = whole as i8;
            sum += whole;
        }
        scales[target.at(g)] = scale;
        starts[target.at(g)] = -RAISE * sum;
        let (fours, _) = bytes.as_chunks::<4>();
        for (k, four) in fours.iter().enumerate() {
            let four = four.map(i8::cast_unsigned);
            scalars[target.at(g * (GROUP / 4) + k)] = u32::from_le_bytes(four);
        }
    }
}

/// Rows of the highest tile of a level.
fn tile_rows_max(level: Level, format: Format) -> usize {
    struct Ask<'a>(Format, &'a mut usize);
    impl Work for Ask<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            *self.1 = if self.0 == Format::Int8 { L::BYTE_ROWS } else { L::FLOAT_ROWS };
        }
    }
    let mut rows = 0;
    level.run(Ask(format, &mut rows));
    rows
}

// === products ===

/// A product to be computed: of all panels of a matrix, or of some.
#[derive(Debug)]
pub struct Product<'a> {
    matrix: &'a Matrix,
    chosen: Option<&'a [usize]>,
    out: Shared<'a, f32>,
    /// Numbers of a row of the output.
    width: usize,
}

impl<'a> Product<'a> {
    /// All outputs of a matrix.
    pub fn whole(matrix: &'a Matrix, out: &'a mut [f32]) -> Self {
        Self { matrix, chosen: None, out: Shared::new(out), width: matrix.outputs }
    }

    /// The outputs of some panels, side by side. Past the last output of the matrix a panel leaves
    /// what it finds.
    pub fn of_panels(matrix: &'a Matrix, panels: &'a [usize], out: &'a mut [f32]) -> Self {
        let width = panels.len() * PANEL;
        Self { matrix, chosen: Some(panels), out: Shared::new(out), width }
    }

    fn panels(&self) -> usize {
        self.chosen.map_or(self.matrix.panels(), <[usize]>::len)
    }

    /// All tiles of its panel `index`: the weights stay in the cache meanwhile.
    fn panel(&self, level: Level, inputs: &Inputs, index: usize) {
        let place = Place { index, panel: self.chosen.map_or(index, |chosen| chosen[index]) };
        for first in (0..inputs.rows).step_by(inputs.tile_rows) {
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
}

/// Where a panel stands: in the output, and in the matrix.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    panel: usize,
}

/// `out = inputs W^T + b` for several products of the same inputs.
pub fn multiply(level: Level, crew: &Crew, inputs: &Inputs, products: &[Product<'_>]) {
    for product in products {
        assert_eq!(product.out.len(), inputs.rows * product.width, "a product fills its table");
    }
    let panels: usize = products.iter().map(Product::panels).sum();
    let parts = panels.min(crew.threads() * PARTS_PER_THREAD).max(1);
    crew.each(parts, |part| {
        let taken = part * panels / parts..(part + 1) * panels / parts;
        let mut first = 0;
        for product in products {
            let end = first + product.panels();
            for panel in taken.start.max(first)..taken.end.min(end) {
                product.panel(level, inputs, panel - first);
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

impl<const R: usize> Work for Tiled<'_, R> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // No level has tiles higher than its registers allow, and none is compiled.
        if const { R <= L::FLOAT_ROWS } {
            self.multiply::<L>();
        } else {
            unreachable!("a tile of {R} rows is too high for this level");
        }
    }
}

impl<const R: usize> Tiled<'_, R> {
    #[inline(always)]
    fn multiply<L: Lanes>(self) {
        let Self { product, inputs, place, first } = self;
        let Product { matrix, out, width: stride, .. } = product;
        let panel = matrix.panel(place.panel);
        let scalars = &inputs.scalars[first * inputs.steps..(first + R) * inputs.steps];
        let (scalars, _) = scalars.as_chunks::<R>();
        let sums = match matrix.format {
            Format::F32 => floats::<L, F32, R>(panel, scalars),
            Format::Bf16 => floats::<L, Bf16, R>(panel, scalars),
            Format::Int8 if const { R <= L::BYTE_ROWS } => {
                let groups = inputs.steps / (GROUP / 4);
                let taken = first * groups..(first + R) * groups;
                let (scales, _) = inputs.scales[taken.clone()].as_chunks::<R>();
                let (starts, _) = inputs.starts[taken].as_chunks::<R>();
                bytes::<L, R>(panel, scalars, scales, starts)
            }
            Format::Int8 => unreachable!("a tile of bytes is lower than {R} rows"),
        };
        let column = place.panel * PANEL;
        let width = PANEL.min(matrix.outputs - column);
        for (r, row) in sums.into_iter().enumerate() {
            let mut values = [0.0; PANEL];
            let (halves, _) = values.as_chunks_mut::<LANES>();
            for (half, sum) in halves.iter_mut().zip(row) {
                sum.store(half);
            }
            if let Some(bias) = matrix.bias.get(column..column + PANEL) {
                for (value, bias) in values.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
            // SAFETY: these columns belong to this panel, and a panel to one task.
            let out = unsafe { out.slice((first + r) * stride + place.index * PANEL, width) };
            out.copy_from_slice(&values[..width]);
        }
    }
}

/// A product of a line with a scalar.
pub trait Dot {
    /// Numbers that a scalar holds.
    const PACKED: usize;
    /// One scalar of as many numbers.
    fn scalar(numbers: &[f32]) -> u32;
    /// The same of numbers that are rounded as the lines are.
    fn rounded_scalar(numbers: &[f32]) -> u32;
    /// `sums + line * scalar`
    fn dot<L: Lanes>(sums: L, line: &Line, scalar: u32) -> L;
}

/// Of f32.
pub struct F32;

impl Dot for F32 {
    const PACKED: usize = 1;

    #[inline(always)]
    fn scalar(numbers: &[f32]) -> u32 {
        numbers[0].to_bits()
    }

    #[inline(always)]
    fn rounded_scalar(numbers: &[f32]) -> u32 {
        Self::scalar(numbers)
    }

    #[inline(always)]
    fn dot<L: Lanes>(sums: L, line: &Line, scalar: u32) -> L {
        sums.dot_f32(line, scalar)
    }
}

/// Of pairs of bf16.
pub struct Bf16;

impl Dot for Bf16 {
    const PACKED: usize = 2;

    #[inline(always)]
    fn scalar(numbers: &[f32]) -> u32 {
        round_bf16(numbers[0]) | (round_bf16(numbers[1]) << 16)
    }

    #[inline(always)]
    fn rounded_scalar(numbers: &[f32]) -> u32 {
        (numbers[0].to_bits() >> 16) | (numbers[1].to_bits() & 0xffff_0000)
    }

    #[inline(always)]
    fn dot<L: Lanes>(sums: L, line: &Line, scalar: u32) -> L {
        sums.dot_bf16(line, scalar)
    }
}

/// A tile of f32 or bf16: where the time of a step goes.
#[inline(always)]
fn floats<L: Lanes, D: Dot, const R: usize>(panel: &[Line], scalars: &[[u32; R]]) -> [[L; 2]; R] {
    let mut sums = [[L::splat(0.0); 2]; R];
    let (lines, _) = panel.as_chunks::<2>();
    for ([left, right], scalars) in lines.iter().zip(scalars) {
        for r in 0..R {
            sums[r][0] = D::dot(sums[r][0], left, scalars[r]);
            sums[r][1] = D::dot(sums[r][1], right, scalars[r]);
        }
    }
    sums
}

/// A tile of int8: integers within a group, floats across groups.
#[inline(always)]
fn bytes<L: Lanes, const R: usize>(
    panel: &[Line],
    scalars: &[[u32; R]],
    scales: &[[f32; R]],
    starts: &[[i32; R]],
) -> [[L; 2]; R] {
    let mut sums = [[L::splat(0.0); 2]; R];
    let (groups, _) = panel.as_chunks::<GROUP_LINES>();
    let (scalars, _) = scalars.as_chunks::<{ GROUP / 4 }>();
    for (((lines, scalars), scales), starts) in groups.iter().zip(scalars).zip(scales).zip(starts) {
        let mut ints = [[L::ints(0); 2]; R];
        for r in 0..R {
            ints[r] = [L::ints(if L::RAISED { starts[r] } else { 0 }); 2];
        }
        for k in 0..GROUP / 4 {
            for r in 0..R {
                ints[r][0] = L::dot_bytes(ints[r][0], &lines[2 * k], scalars[k][r]);
                ints[r][1] = L::dot_bytes(ints[r][1], &lines[2 * k + 1], scalars[k][r]);
            }
        }
        let weights = L::two_bf16(&lines[GROUP_LINES - 1]);
        for r in 0..R {
            let scale = L::splat(scales[r]);
            for half in 0..2 {
                let factor = weights[half].mul(scale);
                sums[r][half] = L::floats(ints[r][half]).mul_add(factor, sums[r][half]);
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

    fn crew() -> Crew {
        Crew::new(NonZeroUsize::new(2).unwrap())
    }

    fn pack(crew: &Crew, format: Format, dims: (usize, usize), weights: &[f32]) -> Matrix {
        let (outputs, inputs) = dims;
        let bias = Some((0..outputs).map(|output| output as f32 / 64.0).collect());
        let read = |_, rows: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&weights[rows.start * inputs..rows.end * inputs]);
            Ok::<(), Infallible>(())
        };
        let plan = Plan { format, outputs, inputs, bias };
        let plans = vec![plan];
        let lines = Lines::zeroed(Plan::lines(&plans)).unwrap();
        let Ok(mut matrices) = crew.install(|| Matrix::pack(crew, plans, lines, read));
        matrices.remove(0)
    }

    /// A product into a table full of numbers that are none.
    fn product(level: Level, crew: &Crew, matrix: &Matrix, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / matrix.inputs;
        let mut out = vec![f32::NAN; count * matrix.outputs];
        let mut inputs = Inputs::default();
        crew.install(|| {
            inputs.fill(level, crew, matrix.format, rows, matrix.inputs);
            multiply(level, crew, &inputs, &[Product::whole(matrix, &mut out)]);
        });
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
        let (crew, mut rng) = (crew(), ChaCha8Rng::seed_from_u64(0));
        // Odd sizes: panels, groups and pairs that are not whole.
        for dims in [(70, 101), (32, 64), (5, 33), (1, 1)] {
            let weights = random(&mut rng, dims.0 * dims.1);
            for (format, bound) in [(Format::F32, 1e-6), (Format::Bf16, 5e-3), (Format::Int8, 1e-2)]
            {
                let matrix = pack(&crew, format, dims, &weights);
                for count in [1, 2, 7, 13, 25] {
                    let rows = random(&mut rng, count * dims.1);
                    for level in Level::all_here() {
                        let out = product(level, &crew, &matrix, &rows);
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
        let (crew, mut rng) = (crew(), ChaCha8Rng::seed_from_u64(1));
        // Miri is slow, and gets little to do.
        let (dims, count) = if cfg!(miri) { ((33, 5), 3) } else { ((70, 100), 13) };
        let weights = random(&mut rng, dims.0 * dims.1);
        for format in [Format::F32, Format::Bf16, Format::Int8] {
            let matrix = pack(&crew, format, dims, &weights);
            let rows = random(&mut rng, count * dims.1);
            for level in Level::all_here() {
                let together = product(level, &crew, &matrix, &rows);
                for (row, together) in rows.chunks(dims.1).zip(together.chunks(dims.0)) {
                    assert_eq!(product(level, &crew, &matrix, row), together, "{format:?}");
                }
            }
        }
    }

    #[test]
    fn chosen_panels_have_the_bits_of_the_whole_product() {
        let (crew, mut rng) = (crew(), ChaCha8Rng::seed_from_u64(2));
        let dims = (70, if cfg!(miri) { 5 } else { 100 });
        let weights = random(&mut rng, dims.0 * dims.1);
        let rows = random(&mut rng, 3 * dims.1);
        for format in [Format::F32, Format::Bf16, Format::Int8] {
            let matrix = pack(&crew, format, dims, &weights);
            for level in Level::all_here() {
                let whole = product(level, &crew, &matrix, &rows);
                let chosen = [2, 0];
                let mut out = vec![f32::NAN; 3 * chosen.len() * PANEL];
                let mut inputs = Inputs::default();
                crew.install(|| {
                    inputs.fill(level, &crew, format, &rows, dims.1);
                    let product = Product::of_panels(&matrix, &chosen, &mut out);
                    multiply(level, &crew, &inputs, &[product]);
                });
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
        let crew = crew();
        // A group of zeros has no scale, and no zero is divided by.
        let matrix = pack(&crew, Format::Int8, (32, 32), &[0.0; 1024]);
        let out = product(Level::best(), &crew, &matrix, &[0.0; 32]);
        assert_eq!(out[0].to_bits(), 0.0_f32.to_bits());
        // Nor has one of numbers whose reciprocal is infinite.
        let out = product(Level::best(), &crew, &matrix, &[f32::MIN_POSITIVE; 32]);
        assert_eq!(out[0].to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let crew = crew();
        for format in [Format::F32, Format::Bf16, Format::Int8] {
            for broken in [f32::NAN, f32::INFINITY] {
                let mut weights = vec![0.5; 2 * 64];
                weights[70] = broken;
                let matrix = pack(&crew, format, (2, 64), &weights);
                let mut rows = vec![0.25; 2 * 64];
                rows[100] = broken;
                for level in Level::all_here() {
                    let out = product(level, &crew, &matrix, &rows);
                    let finite: Vec<_> = out.iter().map(|value| value.is_finite()).collect();
                    assert_eq!(finite, [true, false, false, false], "{format:?}");
                }
            }
        }
    }
}
