//! The arithmetic of the fused scorer: one microkernel for products, and the vector loops around it.
#![expect(
    clippy::inline_always,
    reason = "vector code is compiled inside the kernel that switched features on"
)]

use crate::nn::simd::{LANES, Lanes, VectorKernel, VectorLevel};

/// Rows of a tile. With two vectors per row its ten sums hide the latency of a fused multiply-add, and fit 32
/// registers with what is multiplied; with one vector per row they fit sixteen. Five divides the longest history.
pub(in crate::nn) const ROWS: usize = 5;
/// Added to the variance by a layer norm; PyTorch's default.
const NORM_EPSILON: f32 = 1e-5;

/// A computation over panels of `V` vectors of `L`.
pub(in crate::nn) trait PanelKernel {
    /// The result.
    type Output;
    /// Computes it. Every function that it calls must be `#[inline(always)]`.
    fn run<L: Lanes, const V: usize>(self) -> Self::Output;
}

/// Runs a kernel with panels as wide as the registers of a level allow.
pub(in crate::nn) fn run<K: PanelKernel>(level: VectorLevel, kernel: K) -> K::Output {
    struct WithWidth<K>(K);
    impl<K: PanelKernel> VectorKernel for WithWidth<K> {
        type Output = K::Output;

        #[inline(always)]
        fn run<L: Lanes>(self) -> K::Output {
            if const { L::REGISTERS >= 32 } { self.0.run::<L, 2>() } else { self.0.run::<L, 1>() }
        }
    }
    level.run(WithWidth(kernel))
}

/// Columns of a panel at a level.
pub(super) fn panel_width(level: VectorLevel) -> usize {
    struct PanelWidth;
    impl PanelKernel for PanelWidth {
        type Output = usize;

        #[inline(always)]
        fn run<L: Lanes, const V: usize>(self) -> usize {
            V * LANES
        }
    }
    run(level, PanelWidth)
}

/// `columns`, rounded up to whole panels.
pub(super) fn padded(level: VectorLevel, columns: usize) -> usize {
    columns.next_multiple_of(panel_width(level))
}

/// A view of rows: `count` rows of `inner` numbers, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct RowsView<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub inner: usize,
    pub count: usize,
}

impl<'a> RowsView<'a> {
    /// The `ROWS` rows from `first` on; past the end, the last one again.
    #[inline(always)]
    pub fn tile(self, first: usize) -> [&'a [f32]; ROWS] {
        let mut rows = [self.values; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            let at = (first + r).min(self.count - 1) * self.stride;
            *row = &self.values[at..at + self.inner];
        }
        rows
    }
}

/// How a product is written to its output.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) enum Epilogue {
    Set,
    SetRelu,
    Add,
    AddRelu,
}

/// A linear layer `x W + b`, with its columns in panels: panel by panel, row by row.
#[derive(Debug)]
pub(in crate::nn) struct PanelLinear {
    pub inner: usize,
    pub panels: Vec<f32>,
    /// One number per column of the panels.
    pub bias: Vec<f32>,
}

impl PanelLinear {
    /// Packs `weight(output, input)` for a level; columns past `bias` are zero.
    pub fn new(
        level: VectorLevel,
        inner: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let (width, outer) = (panel_width(level), padded(level, bias.len()));
        let mut panels = vec![0.0; inner * outer];
        for (p, panel) in panels.chunks_exact_mut(inner * width).enumerate() {
            for (k, row) in panel.chunks_exact_mut(width).enumerate() {
                for (column, value) in (p * width..bias.len()).zip(row) {
                    *value = weight(column, k);
                }
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(outer, 0.0);
        Self { inner, panels, bias: padded }
    }

    /// Columns of the output, padding included.
    pub fn outer(&self) -> usize {
        self.bias.len()
    }

    /// A weight, given the columns of a panel.
    #[cfg(feature = "cuda")]
    pub fn at(&self, panel: usize, input: usize, column: usize) -> f32 {
        self.panels[(column / panel * self.inner + input) * panel + column % panel]
    }

    /// `out = finish(rows W + b)`, rows of the output `stride` apart.
    #[inline(always)]
    pub fn apply<L: Lanes, const V: usize>(
        &self,
        rows: RowsView<'_>,
        out: &mut [f32],
        stride: usize,
        finish: Epilogue,
    ) {
        product::<L, V>(rows, &self.panels, Some(&self.bias), (out, stride), finish);
    }
}

/// [`PanelLinear::apply`] as a kernel of its own.
pub(super) struct ApplyLinear<'a> {
    pub dense: &'a PanelLinear,
    pub rows: RowsView<'a>,
    pub out: &'a mut [f32],
    pub stride: usize,
    pub finish: Epilogue,
}

impl PanelKernel for ApplyLinear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes, const V: usize>(self) {
        self.dense.apply::<L, V>(self.rows, self.out, self.stride, self.finish);
    }
}

/// `out = finish(rows panels + bias)`; the output's rows are its second part apart.
#[inline(always)]
pub(super) fn product<L: Lanes, const V: usize>(
    rows: RowsView<'_>,
    panels: &[f32],
    bias: Option<&[f32]>,
    (out, stride): (&mut [f32], usize),
    finish: Epilogue,
) {
    let width = V * LANES;
    for (p, panel) in panels.chunks_exact(rows.inner * width).enumerate() {
        let bias = bias.map(|bias| vectors(&bias[p * width..(p + 1) * width]));
        for first in (0..rows.count).step_by(ROWS) {
            let sums = tile::<L, V>(rows.tile(first), panel);
            for (r, row) in sums.into_iter().enumerate().take(rows.count - first) {
                let at = (first + r) * stride + p * width;
                let out = vectors_mut(&mut out[at..at + width]);
                for v in 0..V {
                    let mut sum = row[v];
                    if let Some(bias) = bias {
                        sum = sum.add(L::load(&bias[v]));
                    }
                    if let Epilogue::Add | Epilogue::AddRelu = finish {
                        sum = sum.add(L::load(&out[v]));
                    }
                    if let Epilogue::SetRelu | Epilogue::AddRelu = finish {
                        sum = sum.max(L::splat(0.0));
                    }
                    sum.store(&mut out[v]);
                }
            }
        }
    }
}

/// The product of `ROWS` rows and one panel, in registers: most of a slate's time is spent here.
#[inline(always)]
pub(super) fn tile<L: Lanes, const V: usize>(
    rows: [&[f32]; ROWS],
    panel: &[f32],
) -> [[L; V]; ROWS] {
    let mut sums = [[L::splat(0.0); V]; ROWS];
    let (panel, _) = vectors(panel).as_chunks::<V>();
    let [a, b, c, d, e] = rows;
    let length = panel.len();
    let (a, b, c, d, e) = (&a[..length], &b[..length], &c[..length], &d[..length], &e[..length]);
    for (k, weights) in panel.iter().enumerate() {
        let column = [a[k], b[k], c[k], d[k], e[k]];
        for r in 0..ROWS {
            let value = L::splat(column[r]);
            for v in 0..V {
                sums[r][v] = value.mul_add(L::load(&weights[v]), sums[r][v]);
            }
        }
    }
    sums
}

/// The whole vectors of a slice.
#[inline(always)]
pub(super) fn vectors(values: &[f32]) -> &[[f32; LANES]] {
    values.as_chunks().0
}

/// The whole vectors of a slice, to be written.
#[inline(always)]
pub(super) fn vectors_mut(values: &mut [f32]) -> &mut [[f32; LANES]] {
    values.as_chunks_mut().0
}

/// `Σ a·b`
#[inline(always)]
pub(in crate::nn) fn dot<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks(), b.as_chunks());
    let mut sum = L::splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = L::load(a).mul_add(L::load(b), sum);
    }
    let mut sum = sum.sum();
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}

/// `out += weight * row`
#[inline(always)]
pub(super) fn add_scaled<L: Lanes>(weight: f32, row: &[f32], out: &mut [f32]) {
    let ((row, row_rest), (out, out_rest)) = (row.as_chunks(), out.as_chunks_mut());
    let splat = L::splat(weight);
    for (value, out) in row.iter().zip(out) {
        splat.mul_add(L::load(value), L::load(out)).store(out);
    }
    for (value, out) in row_rest.iter().zip(out_rest) {
        *out += weight * value;
    }
}

/// A layer norm's scale and shift.
#[derive(Debug)]
pub(in crate::nn) struct FusedLayerNorm {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl FusedLayerNorm {
    /// Norms one row into `out`.
    #[inline(always)]
    pub fn apply<L: Lanes>(&self, row: &[f32], out: &mut [f32]) {
        let width = row.len() as f32;
        let out = &mut out[..row.len()];
        let mean = sum::<L>(row) / width;
        for (out, value) in out.iter_mut().zip(row) {
            *out = value - mean;
        }
        let spread = (dot::<L>(out, out) / width + NORM_EPSILON).sqrt().recip();
        for ((out, scale), shift) in out.iter_mut().zip(&self.scale).zip(&self.shift) {
            *out = *out * spread * scale + shift;
        }
    }
}

/// The sum of a row.
#[inline(always)]
fn sum<L: Lanes>(row: &[f32]) -> f32 {
    let (row, rest) = row.as_chunks();
    let mut sum = L::splat(0.0);
    for values in row {
        sum = sum.add(L::load(values));
    }
    sum.sum() + rest.iter().sum::<f32>()
}

/// Softmax of the first `count` values of a row of whole vectors; the others get no weight.
#[inline(always)]
pub(super) fn softmax<L: Lanes>(row: &mut [f32], count: usize) {
    row[count..].fill(f32::NEG_INFINITY);
    let row = vectors_mut(row);
    let mut max = L::splat(f32::NEG_INFINITY);
    for values in row.iter() {
        max = max.max(L::load(values));
    }
    let max = L::splat(max.max_lane());
    let mut sum = L::splat(0.0);
    for values in row.iter_mut() {
        let weights = L::load(values).sub(max).exp();
        weights.store(values);
        sum = sum.add(weights);
    }
    let scale = L::splat(sum.sum().recip());
    for values in row.iter_mut() {
        L::load(values).mul(scale).store(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct SoftmaxKernel<'a>(&'a mut [f32], usize);

    impl PanelKernel for SoftmaxKernel<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes, const V: usize>(self) {
            softmax::<L>(self.0, self.1);
        }
    }

    #[test]
    fn softmax_equals_double_precision_and_leaves_padding_empty() {
        for level in VectorLevel::all_here() {
            for count in [1, 2, 7, 8, 31, 50] {
                let logits: Vec<f32> =
                    (0..count).map(|at| (at as f32 * 7.3).sin() * 40.0).collect();
                let mut row = logits.clone();
                row.resize(padded(level, count), f32::NAN);
                run(level, SoftmaxKernel(&mut row, count));
                let top = logits.iter().copied().fold(f32::MIN, f32::max);
                let odds: Vec<f64> = logits.iter().map(|x| f64::from(x - top).exp()).collect();
                let total: f64 = odds.iter().sum();
                for (got, odds) in row.iter().zip(&odds) {
                    assert!((f64::from(*got) - odds / total).abs() < 3e-7, "{got} of {count}");
                }
                assert!(row[count..].iter().all(|weight| *weight < 1e-30), "{row:?}");
            }
        }
    }
}
