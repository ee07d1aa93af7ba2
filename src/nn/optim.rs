//! AdamW (Loshchilov and Hutter 2019) with a named state, so that a training can be resumed.
//!
//! Gradients accumulate until a step. Everything is in f32 in the host's memory.

use super::ops::{TASK_NUMBERS, numbers, numbers_mut, read};
use super::simd::vectorised;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, DType, Device, Error, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var,
};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// The suffixes of the names of a variable's two moments.
const MOMENTS: [&str; 2] = ["first", "second"];

/// The optimiser's hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, per step and learning rate.
    pub weight_decay: f64,
}

/// A trained variable.
#[derive(Clone, Debug)]
pub struct TrainedVariable {
    /// Its name.
    pub name: String,
    /// The variable.
    pub variable: Var,
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub decays: bool,
    /// The first trained row.
    pub from: usize,
}

/// The optimiser and its state.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWConfig,
    steps: u64,
    held: Vec<VariableState>,
}

/// A variable with its moments and the gradient accumulated since the last step.
#[derive(Debug)]
struct VariableState {
    trained: TrainedVariable,
    /// The trained rows, which share the variable's memory.
    weights: Tensor,
    moments: [Tensor; 2],
    gradient: Option<Tensor>,
}

impl Default for AdamWConfig {
    /// The usual values for large language models.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
    }
}

// === impl AdamW ===

impl AdamW {
    /// An optimiser with moments of zero.
    pub fn new(trained: Vec<TrainedVariable>, settings: AdamWConfig) -> Result<Self> {
        let held = trained.into_iter().map(VariableState::new).collect::<Result<_>>()?;
        Ok(Self { settings, steps: 0, held })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The trained variables.
    pub fn trained(&self) -> impl Iterator<Item = &TrainedVariable> {
        self.held.iter().map(|held| &held.trained)
    }

    /// Accumulates gradients for the next step.
    pub fn add(&mut self, gradients: &mut GradStore) -> Result<()> {
        self.held.iter_mut().try_for_each(|held| held.add(gradients))
    }

    /// Takes a step, and gives the global gradient norm before clipping to `norm_max`. Takes no step if the norm is not
    /// finite.
    pub fn step(&mut self, learning_rate: f64, norm_max: f64) -> Result<f64> {
        let squares = self.held.iter().map(VariableState::square).collect::<Result<Vec<_>>>()?;
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            self.held.iter_mut().for_each(|held| held.gradient = None);
            return Ok(norm);
        }
        self.steps += 1;
        let clip = if norm > norm_max { norm_max / norm } else { 1.0 };
        for held in &mut self.held {
            held.step(&self.settings, learning_rate, clip, self.steps)?;
        }
        Ok(norm)
    }

    /// The moments, by the variables' names and a suffix.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let each = |held: &VariableState| {
            let names = moment_names(&held.trained.name);
            names.into_iter().zip(held.moments.clone()).collect::<Vec<_>>()
        };
        self.held.iter().flat_map(each).collect()
    }

    /// Restores the state that [`AdamW::state`] gave after `steps` steps.
    pub fn restore(&mut self, steps: u64, state: &HashMap<String, Tensor>) -> Result<()> {
        for held in &mut self.held {
            for (name, moment) in moment_names(&held.trained.name).iter().zip(&mut held.moments) {
                let found = state.get(name);
                let found = found.filter(|found| found.dims() == moment.dims());
                let fits = |found: &Tensor| found.to_dtype(DType::F32)?.contiguous()?.copy();
                let missing =
                    || Error::Msg(format!("the optimiser's state has no fitting `{name}`"));
                *moment = fits(found.ok_or_else(missing)?)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

fn moment_names(variable: &str) -> [String; 2] {
    MOMENTS.map(|moment| format!("{variable}.{moment}"))
}

// === impl VariableState ===

impl VariableState {
    fn new(trained: TrainedVariable) -> Result<Self> {
        let (rows, first) = (trained.variable.dim(0)?, trained.from);
        if first >= rows {
            let name = &trained.name;
            return Err(Error::Msg(format!("`{name}` has {rows} rows, and none from {first} on")));
        }
        let weights = trained.variable.detach().narrow(0, first, rows - first)?;
        let zeros = || Tensor::zeros(weights.shape(), DType::F32, &Device::Cpu);
        let moments = [zeros()?, zeros()?];
        Ok(Self { trained, weights, moments, gradient: None })
    }

    fn add(&mut self, gradients: &mut GradStore) -> Result<()> {
        let Some(found) = gradients.remove(&self.trained.variable) else { return Ok(()) };
        let more =
            found.detach().narrow(0, self.trained.from, self.weights.dim(0)?)?.contiguous()?;
        self.gradient = Some(match self.gradient.take() {
            Some(sum) => (sum + more)?,
            None => more,
        });
        Ok(())
    }

    /// The sum of the gradient's squares, in a fixed order.
    fn square(&self) -> Result<f64> {
        let Some(gradient) = &self.gradient else { return Ok(0.0) };
        read([gradient], |[gradient]| {
            let square = |part: &[f32]| vectorised(|| super::simd::dot(part, part));
            let parts = gradient.par_chunks(TASK_NUMBERS).map(|part| f64::from(square(part)));
            parts.collect::<Vec<_>>().into_iter().sum()
        })
    }

    /// A variable without a gradient is not changed.
    fn step(
        &mut self,
        settings: &AdamWConfig,
        learning_rate: f64,
        clip: f64,
        steps: u64,
    ) -> Result<()> {
        let Some(gradient) = self.gradient.take() else { return Ok(()) };
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = *settings;
        let unbiased = |beta: f64| 1.0 - beta.powf(steps as f64);
        let decay = if self.trained.decays { weight_decay } else { 0.0 };
        let [first, second] = &self.moments;
        let clip = clip as f32;
        for (moment, beta, squared) in [(first, beta1, false), (second, beta2, true)] {
            moment.inplace_op2(&gradient, &MomentUpdate { beta: beta as f32, clip, squared })?;
        }
        let step = AdamWStep {
            rate: (learning_rate / unbiased(beta1)) as f32,
            spread: (1.0 / unbiased(beta2).sqrt()) as f32,
            epsilon: epsilon as f32,
            kept: (1.0 - learning_rate * decay) as f32,
        };
        self.weights.inplace_op3(first, second, &step)
    }
}

/// `m <- β m + (1 - β) g`, or with `squared` `v <- β v + (1 - β) g²`
struct MomentUpdate {
    beta: f32,
    clip: f32,
    squared: bool,
}

/// `w <- kept w - rate m / (spread √v + ε)`
struct AdamWStep {
    rate: f32,
    spread: f32,
    epsilon: f32,
    kept: f32,
}

/// Calls `each` with the corresponding numbers of `values` and `others`.
fn update(
    values: &mut CpuStorage,
    layout: &Layout,
    others: &[f32],
    each: impl Fn(&mut f32, f32) + Sync,
) -> Result<()> {
    let values = numbers_mut(values, layout)?;
    let parts = values.par_chunks_mut(TASK_NUMBERS).zip(others.par_chunks(TASK_NUMBERS));
    parts.for_each(|(values, others)| {
        vectorised(|| values.iter_mut().zip(others).for_each(|(value, other)| each(value, *other)));
    });
    Ok(())
}

impl InplaceOp2 for MomentUpdate {
    fn name(&self) -> &'static str {
        "moment"
    }

    fn cpu_fwd(
        &self,
        moment: &mut CpuStorage,
        moment_layout: &Layout,
        gradient: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let Self { beta, clip, squared } = *self;
        let gradient = numbers(gradient, layout)?;
        if squared {
            update(moment, moment_layout, gradient, |moment, gradient| {
                let gradient = gradient * clip;
                *moment = beta * *moment + (1.0 - beta) * gradient * gradient;
            })
        } else {
            let new = (1.0 - beta) * clip;
            update(moment, moment_layout, gradient, |moment, gradient| {
                *moment = beta * *moment + new * gradient;
            })
        }
    }
}

impl InplaceOp3 for AdamWStep {
    fn name(&self) -> &'static str {
        "adamw-step"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        weights_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let weights = numbers_mut(weights, weights_layout)?;
        let (first, second) = (numbers(first, first_layout)?, numbers(second, second_layout)?);
        let moments = first.par_chunks(TASK_NUMBERS).zip(second.par_chunks(TASK_NUMBERS));
        weights.par_chunks_mut(TASK_NUMBERS).zip(moments).for_each(|(weights, (first, second))| {
            vectorised(|| {
                for ((weight, first), second) in weights.iter_mut().zip(first).zip(second) {
                    let spread = second.sqrt() * self.spread + self.epsilon;
                    *weight = *weight * self.kept - self.rate * first / spread;
                }
            });
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two variables, one that decays and one that doesn't.
    fn trained() -> Vec<TrainedVariable> {
        let of = |name: &str, values: &[f32], decays| TrainedVariable {
            name: name.into(),
            variable: Var::new(values, &Device::Cpu).unwrap(),
            decays,
            from: 0,
        };
        vec![of("matrix", &[1.0, -2.0, 3.0], true), of("norm", &[0.5], false)]
    }

    /// The gradients of `Σ w²` over both variables, times `factor`.
    fn gradients(optimiser: &AdamW, factor: f64) -> GradStore {
        let squares: Vec<Tensor> = optimiser
            .trained()
            .map(|trained| trained.variable.sqr().unwrap().sum_all().unwrap())
            .collect();
        ((&squares[0] + &squares[1]).unwrap() * factor).unwrap().backward().unwrap()
    }

    fn weights(optimiser: &AdamW) -> Vec<f32> {
        let each = |trained: &TrainedVariable| trained.variable.to_vec1::<f32>().unwrap();
        optimiser.trained().flat_map(each).collect()
    }

    /// A reference in f64, written from the paper.
    struct Twin {
        weights: [f64; 4],
        moments: [[f64; 2]; 4],
    }

    impl Twin {
        fn step(&mut self, step: i32, rate: f64, norm_max: f64, settings: &AdamWConfig) -> f64 {
            let gradients = self.weights.map(|weight| 2.0 * weight);
            let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
            for (at, gradient) in gradients.into_iter().enumerate() {
                let gradient = gradient * (norm_max / norm).min(1.0);
                let [first, second] = &mut self.moments[at];
                *first = settings.beta1 * *first + (1.0 - settings.beta1) * gradient;
                *second = settings.beta2 * *second + (1.0 - settings.beta2) * gradient.powi(2);
                let first = *first / (1.0 - settings.beta1.powi(step));
                let second = *second / (1.0 - settings.beta2.powi(step));
                let decay = if at < 3 { settings.weight_decay } else { 0.0 };
                self.weights[at] -= rate * decay * self.weights[at];
                self.weights[at] -= rate * first / (second.sqrt() + settings.epsilon);
            }
            norm
        }
    }

    #[test]
    fn steps_are_those_of_the_paper() {
        let settings = AdamWConfig::default();
        for norm_max in [2.0, 1e9] {
            let mut optimiser = AdamW::new(trained(), settings).unwrap();
            let mut twin = Twin { weights: [1.0, -2.0, 3.0, 0.5], moments: [[0.0; 2]; 4] };
            for step in 1..=20 {
                let mut found = gradients(&optimiser, 1.0);
                optimiser.add(&mut found).unwrap();
                let norm = optimiser.step(0.05, norm_max).unwrap();
                let expected = twin.step(step, 0.05, norm_max, &settings);
                assert!((norm / expected - 1.0).abs() < 1e-5, "{norm}, not {expected}");
            }
            for (got, expected) in weights(&optimiser).into_iter().zip(twin.weights) {
                assert!((f64::from(got) - expected).abs() < 1e-5, "{got}, not {expected}");
            }
        }
    }

    #[test]
    fn two_halves_are_a_whole() {
        let step = |parts: &[f64]| {
            let mut optimiser = AdamW::new(trained(), AdamWConfig::default()).unwrap();
            for part in parts {
                let mut found = gradients(&optimiser, *part);
                optimiser.add(&mut found).unwrap();
            }
            let norm = optimiser.step(0.1, 1e9).unwrap();
            (norm, weights(&optimiser))
        };
        let ((norm, whole), (again, halves)) = (step(&[1.0]), step(&[0.5, 0.5]));
        assert!((norm - again).abs() < 1e-5);
        assert!(whole.iter().zip(halves).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn what_is_restored_goes_on_as_it_would_have() {
        let steps = |optimiser: &mut AdamW, count| {
            for _ in 0..count {
                let mut found = gradients(optimiser, 1.0);
                optimiser.add(&mut found).unwrap();
                optimiser.step(0.05, 1.0).unwrap();
            }
        };
        let mut straight = AdamW::new(trained(), AdamWConfig::default()).unwrap();
        steps(&mut straight, 3);
        let state: HashMap<_, _> = straight.state().into_iter().collect();
        // The state is a snapshot only once it is copied, as a file does.
        let state = state.into_iter().map(|(name, held)| (name, held.copy().unwrap())).collect();
        let mut resumed = AdamW::new(trained(), AdamWConfig::default()).unwrap();
        for (resumed, straight) in resumed.trained().zip(straight.trained()) {
            resumed.variable.set(&straight.variable.copy().unwrap()).unwrap();
        }
        resumed.restore(3, &state).unwrap();
        steps(&mut straight, 3);
        steps(&mut resumed, 3);
        assert_eq!(weights(&straight), weights(&resumed));
        let error = resumed.restore(3, &HashMap::new()).unwrap_err().to_string();
        assert_eq!(error, "the optimiser's state has no fitting `matrix.first`");
    }

    #[test]
    fn rows_before_the_first_trained_one_stay() {
        let variable = Var::new(&[[1_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let trained = |from| TrainedVariable {
            name: "table".into(),
            variable: variable.clone(),
            decays: true,
            from,
        };
        let mut optimiser = AdamW::new(vec![trained(1)], AdamWConfig::default()).unwrap();
        let mut found = variable.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        optimiser.add(&mut found).unwrap();
        // The norm is that of the rows that are trained: 2 · (3, 4).
        assert!((optimiser.step(0.1, 1e9).unwrap() - 10.0).abs() < 1e-5);
        let rows = variable.to_vec2::<f32>().unwrap();
        assert_eq!(rows[0], [1.0, 2.0]);
        assert!(rows[1][0] < 3.0 && rows[1][1] < 4.0);
        let error = AdamW::new(vec![trained(2)], AdamWConfig::default()).unwrap_err().to_string();
        assert_eq!(error, "`table` has 2 rows, and none from 2 on");
    }

    #[test]
    fn a_gradient_that_is_not_finite_makes_no_step() {
        let mut optimiser = AdamW::new(trained(), AdamWConfig::default()).unwrap();
        let before = weights(&optimiser);
        let mut found = gradients(&optimiser, f64::INFINITY);
        optimiser.add(&mut found).unwrap();
        assert!(!optimiser.step(0.1, 1.0).unwrap().is_finite());
        assert_eq!((weights(&optimiser), optimiser.steps()), (before, 0));
    }
}
