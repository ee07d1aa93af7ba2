//! One small loop for the vector models: batches, a loss, an optimiser, and a judge after each
//! epoch who says whether it got better.

use candle_core::Tensor;
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};

/// How long and how fast to learn.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Epochs, at most.
    pub epochs: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// The highest step of the optimiser: it rises over the first steps and falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Epochs without a better verdict before it ends.
    pub patience: usize,
}

/// What happened in one epoch.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// The mean loss of its steps.
    pub loss: f64,
    /// The judge's verdict: higher is better.
    pub verdict: f64,
}

/// Steps over which the learning rate rises.
const WARM_UP_STEPS: usize = 100;

/// Learns until the judge has seen no better for `patience` epochs. `loss_of` makes the loss of
/// the given step; `judge` is asked after each epoch and keeps what it likes.
pub fn fit(
    variables: &VarMap,
    plan: Plan,
    mut loss_of: impl FnMut(usize) -> anyhow::Result<Tensor>,
    mut judge: impl FnMut(usize) -> anyhow::Result<f64>,
    mut progress: impl FnMut(f64, usize),
) -> anyhow::Result<Vec<Epoch>> {
    let parameters = ParamsAdamW { weight_decay: plan.weight_decay, ..ParamsAdamW::default() };
    // The order of the variables decides the order of sums nowhere, but a hash map's order must
    // not decide anything: the optimiser gets them by name.
    let mut by_name: Vec<_> = {
        let data = variables.data().lock().expect("no holder of the variables panics");
        data.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect()
    };
    by_name.sort_by(|a, b| a.0.cmp(&b.0));
    let by_name = by_name.into_iter().map(|(_, variable)| variable).collect();
    let mut optimizer = AdamW::new(by_name, parameters)?;
    let total = plan.epochs * plan.steps;
    let (mut epochs, mut best, mut since_best) = (Vec::new(), f64::MIN, 0);
    for epoch in 0..plan.epochs {
        let mut sum = 0.0;
        for step in epoch * plan.steps..(epoch + 1) * plan.steps {
            optimizer.set_learning_rate(plan.learning_rate * schedule(step, total));
            let loss = loss_of(step)?;
            optimizer.backward_step(&loss)?;
            let loss = f64::from(loss.to_scalar::<f32>()?);
            anyhow::ensure!(loss.is_finite(), "the loss is {loss} at step {step}");
            sum += loss;
            progress(loss, step + 1);
        }
        let verdict = judge(epoch)?;
        epochs.push(Epoch { loss: sum / plan.steps.max(1) as f64, verdict });
        since_best = if verdict > best { 0 } else { since_best + 1 };
        best = best.max(verdict);
        if since_best >= plan.patience {
            break;
        }
    }
    Ok(epochs)
}

/// The share of the learning rate at a step: up a ramp, then down a cosine to a tenth.
fn schedule(step: usize, total: usize) -> f64 {
    let ramp = (step + 1) as f64 / WARM_UP_STEPS as f64;
    let fall = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / total.max(1) as f64).cos());
    ramp.min(1.0) * (0.1 + 0.9 * fall)
}
