//! The binary `raisonne`.

use clap::Parser as _;
use raisonne::cli::Cli;
use std::process::ExitCode;

/// Training allocates and frees tensors of megabytes in every step. The system's allocator returns them to the kernel and
/// faults them in again, which took half of the time of a training.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// candle splits each tensor operation among threads of its own, which spin at a barrier. Training already computes whole
/// batches in parallel, so these threads only compete with it: it is 1.6 times faster on two cores without them.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

fn main() -> ExitCode {
    limit_candle_to_one_thread();
    raisonne::cli::run(Cli::parse())
}

#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "no other thread can read the environment yet"
)]
fn limit_candle_to_one_thread() {
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: this is the first action of the process, before it has a second thread.
        unsafe { std::env::set_var(CANDLE_THREADS, "1") };
    }
}
