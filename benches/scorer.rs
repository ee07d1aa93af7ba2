//! Times the scorer's network, in the sizes that are served.
//!
//! `cargo bench --bench scorer -- [CASE] [--fused=PASSES] [--candle=PASSES] [--json] [--training] [--shape]`
//!
//! `--training` times a training step instead, and `--shape` only prints the network's sizes as JSON. What a query costs
//! is measured by `raisonne bench scorer --bundle BUNDLE`.

use raisonne::bench::{ScorerOptions, scorer, scorer_shape, training};
use raisonne::engine::ComputeDevice;
use std::io::stdout;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--shape") {
        return scorer_shape(&mut stdout());
    }
    if has("--training") {
        return training((64, 16), 10, &mut stdout());
    }
    let passes = |flag: &str| {
        let value = args.iter().find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('='));
        value.map(str::parse).transpose()
    };
    let (fused, candle) = match (passes("--fused")?, passes("--candle")?) {
        (None, None) => (200, 20),
        (fused, candle) => (fused.unwrap_or(0), candle.unwrap_or(0)),
    };
    let case = args.iter().find(|arg| !arg.starts_with("--")).map(Into::into);
    let sizes = if case.is_some() { vec![0] } else { vec![100, 1_000] };
    for candidates in sizes {
        let options = ScorerOptions {
            case: case.clone(),
            candidates,
            device: ComputeDevice::Cpu,
            slates: 1,
            fused,
            candle,
            json: has("--json"),
            bundle: None,
        };
        scorer(&options, &mut stdout())?;
    }
    Ok(())
}
