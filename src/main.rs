//! The binary `raisonne`: parse, run, exit code.

use clap::Parser as _;
use raisonne::cli::Cli;
use std::process::ExitCode;

/// Training allocates and frees tensors of megabytes all the time. The system's allocator hands
/// each back to the kernel and faults it in again, which took half of the time of a training.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// candle shares one tensor at a time out among threads of its own, which spin at a barrier. Whatever
/// is slow here is already shared out by whole batches, and those threads would only be in the way:
/// a training on two cores is 1.6 times faster without them.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

fn main() -> ExitCode {
    keep_candle_to_its_thread();
    raisonne::cli::run(Cli::parse())
}

#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "the environment is set while nobody else can read it yet"
)]
fn keep_candle_to_its_thread() {
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: the first thing that the process does, before it has a second thread.
        unsafe { std::env::set_var(CANDLE_THREADS, "1") };
    }
}
