//! Measures this machine: the bandwidth of memory, and the kernel's peak speed on weights in the cache.
#![expect(clippy::inline_always, reason = "see `nn::simd`")]

use super::lines::Lines;
use super::matrix::{
    AHEAD, MatrixProduct, MatrixSpec, PackedFormat, PackedInputs, PackedMatrix, multiply,
};
use super::model::WeightDtype;
use super::thread_pool::ThreadPool;
use crate::nn::simd::{CacheLine, ProductKernel, ProductLanes, SimdLevel};
use std::convert::Infallible;
use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::Instant;

/// Lines to read: 256 MB, more than any cache holds.
const LINES: usize = 4 << 20;
/// Rows, outputs and inputs of a product whose weights and rows stay in a core's cache.
const ROWS: usize = 96;
const WIDTH: usize = 512;
/// The best of this many runs counts: in others, threads share cores or other processes run.
const RUNS: usize = 40;

/// Bytes per second that `threads` threads read from memory, with the kernels' prefetching.
pub fn read_bandwidth(threads: NonZeroUsize, level: SimdLevel) -> io::Result<f64> {
    let pool = ThreadPool::new(threads);
    let mut lines = Lines::zeroed(LINES)?;
    lines.iter_mut().for_each(|line| line.0[0] = 1);
    let part = LINES / threads;
    let took = best(|| {
        pool.each(threads.get(), |thread| {
            level.run(ReadKernel(&lines[thread * part..(thread + 1) * part]));
        });
    });
    Ok(size_of_val(&*lines) as f64 / took.as_secs_f64())
}

/// Reads lines.
struct ReadKernel<'a>(&'a [CacheLine]);

impl ProductKernel for ReadKernel<'_> {
    #[inline(always)]
    fn run<L: ProductLanes>(self) {
        let mut sum = L::splat(0.0);
        for line in self.0 {
            L::prefetch_far((&raw const *line).wrapping_add(AHEAD).cast());
            let [low, high] = L::two_bf16(line);
            sum = sum.add(low).add(high);
        }
        black_box(sum.array());
    }
}

/// Peak operations per second of the kernel. A multiplication and an addition count as one each.
pub fn peak_flops(
    precision: WeightDtype,
    threads: NonZeroUsize,
    level: SimdLevel,
) -> io::Result<f64> {
    let pool = ThreadPool::new(threads);
    let format = match precision {
        WeightDtype::F32 => PackedFormat::F32,
        WeightDtype::Bf16 => PackedFormat::Bf16,
        // candle multiplies 4 bits as bytes in the end; formats of GPUs are not multiplied here.
        WeightDtype::Int8 | WeightDtype::Int4 | WeightDtype::Float8 => PackedFormat::Int8,
    };
    let outputs = WIDTH * threads.get();
    let plan = MatrixSpec { format, outputs, inputs: WIDTH, bias: None };
    let read = |_, _, out: &mut [f32]| {
        out.fill(1.0);
        Ok::<(), Infallible>(())
    };
    let plans = vec![plan];
    let lines = Lines::zeroed(MatrixSpec::lines(&plans))?;
    let Ok(matrices) = PackedMatrix::pack(&pool, plans, lines, read);
    let rows = vec![1.0; ROWS * WIDTH];
    let mut out = vec![0.0; ROWS * outputs];
    let mut inputs = PackedInputs::default();
    inputs.fill(level, &pool, format, &rows, WIDTH);
    let repeats = 20;
    let took = best(|| {
        for _ in 0..repeats {
            multiply(level, &pool, &inputs, &[MatrixProduct::whole(&matrices[0], &mut out)]);
        }
    });
    Ok((2 * repeats * ROWS * WIDTH * outputs) as f64 / took.as_secs_f64())
}

fn best(mut run: impl FnMut()) -> Duration {
    let times = (0..RUNS).map(|_| {
        let begun = Instant::now();
        run();
        begun.elapsed()
    });
    times.min().unwrap_or_default()
}
