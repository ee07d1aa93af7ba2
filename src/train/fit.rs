//! The training loop of the vector models, with early stopping: batches, a loss, AdamW, and a
//! validation metric after each epoch.

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};

/// How long and how fast to train.
#[derive(Clone, Copy, Debug)]
pub struct FitConfig {
    /// Epochs, at most.
    pub epochs: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// The highest learning rate. It rises over the first steps, then falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Epochs without a better metric after which training stops.
    pub patience: usize,
}

/// The result of one epoch.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// The mean loss of its steps.
    pub loss: f64,
    /// The validation metric: higher is better.
    pub metric: f64,
}

/// Steps over which the learning rate rises.
const WARM_UP_STEPS: usize = 100;

/// A model in training.
pub trait FitModel {
    /// The loss of a step.
    fn loss(&mut self, step: usize) -> anyhow::Result<Tensor>;

    /// Learns what the optimiser does not hold: `step` counts from 1.
    fn update(
        &mut self,
        _gradients: &GradStore,
        _learning_rate: f64,
        _step: usize,
    ) -> anyhow::Result<()> {
        Ok(())
    }

    /// The metric after an epoch. The model keeps its best weights.
    fn validate(&mut self, epoch: usize) -> anyhow::Result<f64>;
}

/// A model whose weights are all in the optimiser.
struct Functions<L, V> {
    loss_of: L,
    validate: V,
}

impl<L, V> FitModel for Functions<L, V>
where
    L: FnMut(usize) -> anyhow::Result<Tensor>,
    V: FnMut(usize) -> anyhow::Result<f64>,
{
    fn loss(&mut self, step: usize) -> anyhow::Result<Tensor> {
        (self.loss_of)(step)
    }

    fn validate(&mut self, epoch: usize) -> anyhow::Result<f64> {
        (self.validate)(epoch)
    }
}

/// Trains until the metric has not improved for `patience` epochs. `loss_of` computes the loss of a
/// step. `validate` computes the metric after each epoch, and keeps the best weights. `progress` receives
/// the loss and the number of steps done.
pub fn fit(
    variables: &VarMap,
    config: FitConfig,
    loss_of: impl FnMut(usize) -> anyhow::Result<Tensor>,
    validate: impl FnMut(usize) -> anyhow::Result<f64>,
    mut progress: impl FnMut(f64, usize),
) -> anyhow::Result<Vec<Epoch>> {
    fit_model(variables, config, &mut Functions { loss_of, validate }, &mut progress)
}

/// Trains a model that also learns outside of the optimiser, in the same way.
pub fn fit_model(
    variables: &VarMap,
    config: FitConfig,
    model: &mut dyn FitModel,
    progress: &mut dyn FnMut(f64, usize),
) -> anyhow::Result<Vec<Epoch>> {
    let parameters = ParamsAdamW { weight_decay: config.weight_decay, ..ParamsAdamW::default() };
    // Sorted by name, so that nothing depends on the order of a hash map.
    let mut by_name: Vec<_> = {
        let data = variables.data().lock().expect("no holder of the variables panics");
        data.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect()
    };
    by_name.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let by_name = by_name.into_iter().map(|(_, variable)| variable).collect();
    let mut optimizer = AdamW::new(by_name, parameters)?;
    let total = config.epochs * config.steps;
    let (mut epochs, mut best, mut since_best) = (Vec::new(), f64::MIN, 0);
    for epoch in 0..config.epochs {
        let mut sum = 0.0;
        for step in epoch * config.steps..(epoch + 1) * config.steps {
            let rate = config.learning_rate * schedule(step, total);
            optimizer.set_learning_rate(rate);
            let loss = model.loss(step)?;
            let gradients = loss.backward()?;
            optimizer.step(&gradients)?;
            model.update(&gradients, rate, step + 1)?;
            let loss = f64::from(loss.to_scalar::<f32>()?);
            anyhow::ensure!(loss.is_finite(), "the loss is {loss} at step {step}");
            sum += loss;
            progress(loss, step + 1);
        }
        let metric = model.validate(epoch)?;
        epochs.push(Epoch { loss: sum / config.steps.max(1) as f64, metric });
        since_best = if metric > best { 0 } else { since_best + 1 };
        best = best.max(metric);
        if since_best >= config.patience {
            break;
        }
    }
    Ok(epochs)
}

/// The factor on the learning rate at a step: a linear ramp, then a cosine down to a tenth.
fn schedule(step: usize, total: usize) -> f64 {
    let ramp = (step + 1) as f64 / WARM_UP_STEPS as f64;
    let fall = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / total.max(1) as f64).cos());
    ramp.min(1.0) * (0.1 + 0.9 * fall)
}
