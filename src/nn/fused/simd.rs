//! The arithmetic of the pass: one product kernel, and the few vector loops around it.
#![expect(
    clippy::inline_always,
    reason = "a vector operation compiles to its instruction only inside the function that \
              switched the processor feature on"
)]

use pulp::{Arch, Scalar, Simd, WithSimd};

/// Rows of a tile. With two vectors per row its ten sums hide the latency of a fused multiply-add
/// and, with what is multiplied, fit sixteen registers; and five divides the longest history.
pub(super) const ROWS: usize = 5;
/// Vectors per row of a tile: a panel is this many vectors wide.
pub(super) const VECTORS: usize = 2;
/// Added to the variance by a layer norm; PyTorch's default.
const NORM_EPSILON: f32 = 1e-5;

/// The vectors that the pass runs on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lanes {
    /// The widest that this processor has.
    Widest(Arch),
    /// One number at a time: the twin that every processor can run.
    One,
}

impl Lanes {
    pub fn run<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            Self::Widest(arch) => arch.dispatch(op),
            Self::One => op.with_simd(Scalar),
        }
    }

    /// Columns of a panel.
    pub fn panel(self) -> usize {
        struct Panel;
        impl WithSimd for Panel {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                panel_width::<S>()
            }
        }
        self.run(Panel)
    }

    /// Columns of whole panels that hold `columns`.
    pub fn padded(self, columns: usize) -> usize {
        columns.next_multiple_of(self.panel())
    }
}

/// Rows of a matrix: `count` times `inner` numbers, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub inner: usize,
    pub count: usize,
}

impl<'a> Rows<'a> {
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

/// What a product does with what is already in its output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Finish {
    Set,
    SetRelu,
    Add,
    AddRelu,
}

/// A layer `x W + b`, its columns in panels: of each panel the rows, of each row its columns.
#[derive(Debug)]
pub(super) struct Dense {
    pub inner: usize,
    pub panels: Vec<f32>,
    /// One number per column of the panels.
    pub bias: Vec<f32>,
}

impl Dense {
    /// Packs `weight(output, input)`; columns past `bias` are zero.
    pub fn new(
        lanes: Lanes,
        inner: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let (width, outer) = (lanes.panel(), lanes.padded(bias.len()));
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
    pub fn apply<S: Simd>(
        &self,
        simd: S,
        rows: Rows<'_>,
        out: &mut [f32],
        stride: usize,
        finish: Finish,
    ) {
        product(simd, rows, &self.panels, Some(&self.bias), (out, stride), finish);
    }
}

/// The same outside the pass, where there is no vector unit at hand yet.
pub(super) struct Apply<'a> {
    pub dense: &'a Dense,
    pub rows: Rows<'a>,
    pub out: &'a mut [f32],
    pub stride: usize,
    pub finish: Finish,
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.dense.apply(simd, self.rows, self.out, self.stride, self.finish);
    }
}

/// `out = finish(rows panels + bias)`; the output's rows are its second part apart.
#[inline(always)]
pub(super) fn product<S: Simd>(
    simd: S,
    rows: Rows<'_>,
    panels: &[f32],
    bias: Option<&[f32]>,
    (out, stride): (&mut [f32], usize),
    finish: Finish,
) {
    let width = panel_width::<S>();
    for (p, panel) in panels.chunks_exact(rows.inner * width).enumerate() {
        let bias = bias.map(|bias| vectors::<S>(&bias[p * width..(p + 1) * width]));
        for first in (0..rows.count).step_by(ROWS) {
            let sums = tile(simd, rows.tile(first), panel);
            for (r, row) in sums.into_iter().enumerate().take(rows.count - first) {
                let at = (first + r) * stride + p * width;
                let out = vectors_mut::<S>(&mut out[at..at + width]);
                for v in 0..VECTORS {
                    let mut sum = row[v];
                    if let Some(bias) = bias {
                        sum = simd.add_f32s(sum, bias[v]);
                    }
                    if let Finish::Add | Finish::AddRelu = finish {
                        sum = simd.add_f32s(sum, out[v]);
                    }
                    if let Finish::SetRelu | Finish::AddRelu = finish {
                        sum = simd.max_f32s(sum, simd.splat_f32s(0.0));
                    }
                    out[v] = sum;
                }
            }
        }
    }
}

/// The product of `ROWS` rows and one panel, in registers: where the time of a slate goes.
#[inline(always)]
pub(super) fn tile<S: Simd>(
    simd: S,
    rows: [&[f32]; ROWS],
    panel: &[f32],
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let (panel, _) = vectors::<S>(panel).as_chunks::<VECTORS>();
    let [a, b, c, d, e] = rows;
    let length = panel.len();
    let (a, b, c, d, e) = (&a[..length], &b[..length], &c[..length], &d[..length], &e[..length]);
    for (k, weights) in panel.iter().enumerate() {
        let column = [a[k], b[k], c[k], d[k], e[k]];
        for r in 0..ROWS {
            let value = simd.splat_f32s(column[r]);
            for v in 0..VECTORS {
                sums[r][v] = simd.mul_add_e_f32s(value, weights[v], sums[r][v]);
            }
        }
    }
    sums
}

/// Columns of a panel.
#[inline(always)]
pub(super) fn panel_width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// The whole vectors of a slice.
#[inline(always)]
pub(super) fn vectors<S: Simd>(values: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(values).0
}

#[inline(always)]
pub(super) fn vectors_mut<S: Simd>(values: &mut [f32]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(values).0
}

/// `sum of a * b`
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (&a, &b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(a, b, sum);
    }
    let mut sum = simd.reduce_sum_f32s(sum);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}

/// `out += weight * row`
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(simd: S, weight: f32, row: &[f32], out: &mut [f32]) {
    let ((row, row_rest), (out, out_rest)) = (S::as_simd_f32s(row), S::as_mut_simd_f32s(out));
    let splat = simd.splat_f32s(weight);
    for (&value, out) in row.iter().zip(out) {
        *out = simd.mul_add_e_f32s(splat, value, *out);
    }
    for (value, out) in row_rest.iter().zip(out_rest) {
        *out += weight * value;
    }
}

/// A layer norm's scale and shift.
#[derive(Debug)]
pub(super) struct Norm {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl Norm {
    /// Norms one row into `out`.
    #[inline(always)]
    pub fn apply<S: Simd>(&self, simd: S, row: &[f32], out: &mut [f32]) {
        let width = row.len() as f32;
        let out = &mut out[..row.len()];
        let mean = sum(simd, row) / width;
        for (out, value) in out.iter_mut().zip(row) {
            *out = value - mean;
        }
        let spread = (dot(simd, out, out) / width + NORM_EPSILON).sqrt().recip();
        for ((out, scale), shift) in out.iter_mut().zip(&self.scale).zip(&self.shift) {
            *out = *out * spread * scale + shift;
        }
    }
}

#[inline(always)]
fn sum<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let (row, rest) = S::as_simd_f32s(row);
    let mut sum = simd.splat_f32s(0.0);
    for &value in row {
        sum = simd.add_f32s(sum, value);
    }
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

/// Softmax of the first `count` values of a row of whole vectors; the rest takes no weight.
#[inline(always)]
pub(super) fn softmax<S: Simd>(simd: S, row: &mut [f32], count: usize) {
    row[count..].fill(f32::NEG_INFINITY);
    let row = vectors_mut::<S>(row);
    let mut top = simd.splat_f32s(f32::NEG_INFINITY);
    for &value in row.iter() {
        top = simd.max_f32s(top, value);
    }
    let top = simd.splat_f32s(simd.reduce_max_f32s(top));
    let mut sum = simd.splat_f32s(0.0);
    for value in row.iter_mut() {
        *value = exp(simd, simd.sub_f32s(*value, top));
        sum = simd.add_f32s(sum, *value);
    }
    let share = simd.splat_f32s(simd.reduce_sum_f32s(sum).recip());
    for value in row.iter_mut() {
        *value = simd.mul_f32s(*value, share);
    }
}

/// e to the power of `x` at most 0, to 2 units in the last place; below -87 it is almost 0.
///
/// x = n ln 2 + r: a polynomial for r, and n added to the exponent's bits.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// Adding this rounds to a whole number, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.0;
    /// ln 2 in two parts, the first short enough for exact products.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const TAYLOR: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];

    let x = simd.max_f32s(x, simd.splat_f32s(LOWEST));
    let round = simd.splat_f32s(ROUND);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), round);
    let whole = simd.sub_f32s(shifted, round);
    let mut rest = x;
    for part in LN2 {
        rest = simd.mul_add_e_f32s(whole, simd.splat_f32s(-part), rest);
    }
    let mut power = simd.splat_f32s(1.0 / 5040.0);
    for factor in TAYLOR {
        power = simd.mul_add_e_f32s(power, rest, simd.splat_f32s(factor));
    }
    power = simd.mul_add_e_f32s(power, rest, simd.splat_f32s(1.0));
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(power), exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Softmax<'a>(&'a mut [f32], usize);

    impl WithSimd for Softmax<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            softmax(simd, self.0, self.1);
        }
    }

    #[test]
    fn softmax_equals_double_precision_and_leaves_padding_empty() {
        for lanes in [Lanes::Widest(Arch::new()), Lanes::One] {
            for count in [1, 2, 7, 8, 31, 50] {
                let logits: Vec<f32> =
                    (0..count).map(|at| (at as f32 * 7.3).sin() * 40.0).collect();
                let mut row = logits.clone();
                row.resize(lanes.padded(count), f32::NAN);
                lanes.run(Softmax(&mut row, count));
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
