//! The binary `raisonne`: parse, run, exit code.

use clap::Parser as _;
use raisonne::cli::Cli;
use std::process::ExitCode;

/// Training allocates and frees tensors of megabytes all the time. The system's allocator hands
/// each back to the kernel and faults it in again, which took half of the time of a training.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    raisonne::cli::run(Cli::parse())
}
