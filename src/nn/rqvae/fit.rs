//! Trains the quantiser, with five techniques against codebook collapse.
//!
//! ```text
//! loss = |x − x̂|² + commitment · Σ_k |r_k − sg e_k|²       sg: no gradient
//!      [ + Σ_k |sg r_k − e_k|² ]                            where codebooks are not averaged
//!      [ + diversity · Σ_k C · Σ_j p_k,j² ]                 p: mean of softmax(−|r_k − e_k,j|²)
//!      [ + contrast · InfoNCE(h, h of what is bought with it) ]
//! ```
//!
//! All are means over a batch. Gradients pass the quantisation unchanged (straight-through estimator).

use super::Quantizer;
use super::config::RqVaeConfig;
use super::contrast::info_nce;
use super::level::{QuantizerLevel, rows};
use super::network::MlpModule;
use candle_core::{D, Device, Result, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::seq::{IndexedRandom as _, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Fewest steps of an epoch, so that the codes of a small shop keep up with its encoder: few items get smaller batches.
const STEPS_MIN: usize = 8;
/// The progress of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RqVaeProgress {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub of: usize,
    /// The losses of the last one.
    pub losses: Losses,
}

/// The unweighted terms of the loss; zero if switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Losses {
    /// Squared distance between a text vector and its decoded codes.
    pub reconstruction: f32,
    /// Squared distance between residuals and their codes, all levels.
    pub commitment: f32,
    /// Unevenness of the use of the codes: 1 per level if even.
    pub diversity: f32,
    /// Symmetric InfoNCE in nats.
    pub contrast: f32,
}

/// Trains a quantiser on `vectors` (items, `text_width`). `pairs` are rows of items that were bought together. The same
/// seed gives the same quantiser.
pub fn fit(
    vectors: &[f32],
    text_width: usize,
    pairs: &[(u32, u32)],
    plan: &RqVaeConfig,
    seed: u64,
    progress: &mut dyn FnMut(RqVaeProgress),
) -> Result<Quantizer> {
    plan.check()?;
    if vectors.is_empty() {
        candle_core::bail!("there is no text vector to learn codes from");
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let table =
        Tensor::from_slice(vectors, (vectors.len() / text_width, text_width), &Device::Cpu)?;
    let mut learner = RqVaeTrainer::new(&table, plan, &mut rng)?;
    let mut order: Vec<u32> = (0..table.dim(0)? as u32).collect();
    let size = plan.batch.min(order.len() / STEPS_MIN).max(1);
    let of = plan.epochs * order.len().div_ceil(size);
    let mut done = 0;
    for _ in 0..plan.epochs {
        order.shuffle(&mut rng);
        for chosen in order.chunks(size) {
            let count = if plan.techniques.contrast { chosen.len() } else { 0 };
            let partners: Vec<(u32, u32)> =
                (0..count).filter_map(|_| pairs.choose(&mut rng).copied()).collect();
            learner
                .optimizer
                .set_learning_rate(plan.learning_rate * (1.0 - done as f64 / of as f64));
            let losses = learner.learn(&table, chosen, &partners)?;
            done += 1;
            progress(RqVaeProgress { done, of, losses });
        }
    }
    learner.quantizer()
}

/// The quantiser in training.
struct RqVaeTrainer<'a> {
    plan: &'a RqVaeConfig,
    encoder: MlpModule,
    decoder: MlpModule,
    levels: Vec<QuantizerLevel>,
    optimizer: AdamW,
}

// === impl RqVaeTrainer ===

impl<'a> RqVaeTrainer<'a> {
    fn new(table: &Tensor, plan: &'a RqVaeConfig, rng: &mut ChaCha8Rng) -> Result<Self> {
        let text = table.dim(1)?;
        let encoder = MlpModule::new([text, plan.hidden, plan.width], rng)?;
        let decoder = MlpModule::new([plan.width, plan.hidden, text], rng)?;
        let mut residuals: Vec<f32> = encoder.forward(table)?.flatten_all()?.to_vec1()?;
        let levels = (0..plan.levels)
            .map(|_| QuantizerLevel::new(&mut residuals, plan, rng))
            .collect::<Result<Vec<_>>>()?;
        let variables = encoder.variables().chain(decoder.variables());
        let variables =
            variables.chain(levels.iter().filter_map(|level| level.variable().cloned()));
        let parameters = ParamsAdamW { weight_decay: 0.0, ..ParamsAdamW::default() };
        let optimizer = AdamW::new(variables.collect(), parameters)?;
        Ok(Self { plan, encoder, decoder, levels, optimizer })
    }

    /// One step on the `chosen` rows of the table of text vectors.
    fn learn(&mut self, table: &Tensor, chosen: &[u32], pairs: &[(u32, u32)]) -> Result<Losses> {
        let xs = rows(table, chosen)?;
        let latents = self.encoder.forward(&xs)?;
        let mut residual = latents.clone();
        let (mut commitment, mut codebooks, mut diversity) = (zero()?, zero()?, zero()?);
        let mut assigned = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            let held = level.assign(&residual)?;
            let codes = level.vectors(&held)?;
            let apart = (&residual - codes.detach())?;
            commitment = (commitment + mean_square(&apart)?)?;
            if level.variable().is_some() {
                codebooks = (codebooks + mean_square(&(residual.detach() - &codes)?)?)?;
            }
            if self.plan.techniques.diversity {
                diversity = (diversity + level.unevenness(&residual)?)?;
            }
            residual = apart;
            assigned.push(held);
        }
        // The last residual is the quantisation error, h − Σ e.
        let rounded = (&latents - residual.detach())?;
        let reconstruction = mean_square(&(&xs - self.decoder.forward(&rounded)?)?)?;
        let contrast = self.contrast(table, pairs)?;
        let plan = self.plan;
        let loss = (&reconstruction + (&commitment * plan.commitment)?)?;
        let loss = ((loss + codebooks)? + (&diversity * plan.diversity)?)?;
        self.optimizer.backward_step(&(loss + (&contrast * plan.contrast)?)?)?;
        for (level, held) in self.levels.iter_mut().zip(&assigned) {
            level.follow(held, plan)?;
        }
        Ok(Losses {
            reconstruction: reconstruction.to_scalar()?,
            commitment: commitment.to_scalar()?,
            diversity: diversity.to_scalar()?,
            contrast: contrast.to_scalar()?,
        })
    }

    fn contrast(&self, table: &Tensor, pairs: &[(u32, u32)]) -> Result<Tensor> {
        if pairs.is_empty() {
            return zero();
        }
        let (lefts, rights): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
        let both = self.encoder.forward(&rows(table, &[lefts, rights].concat())?)?;
        let (left, right) =
            (both.narrow(0, 0, pairs.len())?, both.narrow(0, pairs.len(), pairs.len())?);
        info_nce(pairs, &left, &right, self.plan.temperature)
    }

    fn quantizer(&self) -> Result<Quantizer> {
        Ok(Quantizer {
            encoder: self.encoder.frozen()?,
            decoder: self.decoder.frozen()?,
            codebooks: self.levels.iter().map(|level| level.codebook().clone()).collect(),
        })
    }
}

/// The mean squared length of rows.
fn mean_square(rows: &Tensor) -> Result<Tensor> {
    rows.sqr()?.sum(D::Minus1)?.mean_all()
}

fn zero() -> Result<Tensor> {
    Tensor::new(0.0_f32, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::super::Techniques;
    use super::*;
    use rand::Rng as _;

    const TEXT: usize = 12;

    /// Texts of 20 topics with a little of their own.
    fn vectors(items: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let topics: Vec<f32> = (0..20 * TEXT).map(|_| rng.random_range(-1.0..1.0)).collect();
        (0..items)
            .flat_map(|item| {
                let topic = &topics[item % 20 * TEXT..][..TEXT];
                let row: Vec<f32> =
                    topic.iter().map(|value| value + rng.random_range(-0.2..0.2)).collect();
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                row.into_iter().map(move |value| value / length)
            })
            .collect()
    }

    fn plan() -> RqVaeConfig {
        RqVaeConfig {
            codes: 32,
            width: 8,
            hidden: 24,
            epochs: 30,
            batch: 50,
            reset_after: 10,
            ..RqVaeConfig::default()
        }
    }

    fn trained(plan: &RqVaeConfig) -> (Quantizer, Losses, Losses) {
        let vectors = vectors(300);
        let pairs: Vec<(u32, u32)> = (0..280).map(|item| (item, item + 20)).collect();
        let mut losses = Vec::new();
        let quantizer =
            fit(&vectors, TEXT, &pairs, plan, 7, &mut |step| losses.push(step.losses)).unwrap();
        (quantizer, losses[0], *losses.last().unwrap())
    }

    fn distinct(quantizer: &Quantizer) -> usize {
        let mut all: Vec<_> = vectors(300).chunks(TEXT).map(|x| quantizer.encode(x)).collect();
        all.sort();
        all.dedup();
        all.len()
    }

    #[test]
    fn codes_tell_texts_apart_and_back() {
        let (quantizer, first, last) = trained(&plan());
        assert!(last.reconstruction < 0.5 * first.reconstruction, "{first:?} {last:?}");
        assert!(distinct(&quantizer) > 250, "{}", distinct(&quantizer));
        let off = |levels: usize| -> f32 {
            let each = vectors(300);
            let each = each.chunks(TEXT).map(|x| {
                let codes = quantizer.encode(x);
                let told = quantizer.decode(&codes[..levels]);
                x.iter().zip(told).map(|(x, told)| (x - told) * (x - told)).sum::<f32>()
            });
            each.sum::<f32>() / 300.0
        };
        assert!(off(3) < 0.5 * off(0), "codes tell more than none: {} {}", off(3), off(0));
        assert!((off(3) - last.reconstruction).abs() < 0.1, "{} {last:?}", off(3));
    }

    #[test]
    fn the_seed_decides_everything() {
        assert_eq!(trained(&plan()).0, trained(&plan()).0);
        let other = fit(&vectors(300), TEXT, &[], &plan(), 8, &mut |_| {}).unwrap();
        assert_ne!(other, trained(&plan()).0);
    }

    #[test]
    fn each_technique_can_be_switched_off_and_then_changes_the_codes() {
        let whole = trained(&plan()).0;
        let all = Techniques::default();
        for techniques in [
            Techniques { kmeans: false, ..all },
            Techniques { ema: false, ..all },
            Techniques { reset: false, ..all },
            Techniques { diversity: false, ..all },
            Techniques { contrast: false, ..all },
        ] {
            // Without k-means most codes die, so that there is something to reset.
            let kmeans = techniques.kmeans && techniques.reset;
            let with = Techniques { kmeans, ..techniques };
            let reset = Techniques { reset: true, ..with };
            let whole = if techniques.reset {
                whole.clone()
            } else {
                trained(&RqVaeConfig { techniques: reset, ..plan() }).0
            };
            assert_ne!(
                trained(&RqVaeConfig { techniques: with, ..plan() }).0,
                whole,
                "{techniques:?}"
            );
        }
    }

    #[test]
    fn every_layer_and_every_codebook_that_follows_a_gradient_learns() {
        let techniques = Techniques { ema: false, ..Techniques::default() };
        let plan = RqVaeConfig { techniques, ..plan() };
        let table = Tensor::from_vec(vectors(50), (50, TEXT), &Device::Cpu).unwrap();
        let mut learner =
            RqVaeTrainer::new(&table, &plan, &mut ChaCha8Rng::seed_from_u64(2)).unwrap();
        learner.optimizer.set_learning_rate(0.01);
        let before = learner.quantizer().unwrap();
        let chosen: Vec<u32> = (0..50).collect();
        learner.learn(&table, &chosen, &[(0, 20), (1, 21)]).unwrap();
        let after = learner.quantizer().unwrap();
        for (before, after) in
            [(&before.encoder, &after.encoder), (&before.decoder, &after.decoder)]
        {
            for (before, after) in before.0.iter().zip(&after.0) {
                assert!(before.weight != after.weight && before.bias != after.bias);
            }
        }
        assert!(before.codebooks.iter().zip(&after.codebooks).all(|(a, b)| a != b));
    }

    #[test]
    fn plans_that_cannot_be_are_refused_by_name() {
        let says = |plan: RqVaeConfig| {
            fit(&vectors(3), TEXT, &[], &plan, 0, &mut |_| {}).unwrap_err().to_string()
        };
        let said = says(RqVaeConfig { codes: 70_000, ..plan() });
        assert!(said.starts_with("codes must be 1 to 65536, not 70000"), "{said}");
        let said = says(RqVaeConfig { decay: 1.0, ..plan() });
        assert!(said.starts_with("decay must be at least 0 and below 1, not 1"), "{said}");
    }
}
