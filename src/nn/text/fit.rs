//! Trains the text encoder by contrastive learning on pairs of related texts.
//!
//! A step reads some hundred tokens, so only their rows become tensors and are updated. Dense updates of the whole table
//! would cost ten times as much, and candle would split them over threads that spin while they wait.

use super::table::TokenTable;
use super::{SQUARE_MIN, TEXT_WIDTH};
use crate::nn::token_table::{StepSize, TrainedTable, token_counts};
use candle_core::{D, DType, Device, Error, Result, Tensor, Var};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use rustc_hash::FxHashMap;

/// The share of all tokens at which a token's initial weight is one half (SIF, Arora et al. 2017).
const COMMON_SHARE: f64 = 1e-3;
/// Added to a masked pair's logit; its `exp` is zero in f32.
const MASKED: f32 = -1e4;

/// The tokens of two related texts.
type Pair = (Vec<u32>, Vec<u32>);

/// The hyperparameters of the encoder's training.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Epochs over all pairs.
    pub epochs: usize,
    /// Pairs of a step: the others are the negatives of each.
    pub batch: usize,
    /// The initial learning rate, which decays linearly to zero.
    pub learning_rate: f64,
    /// The temperature of the cosines: lower is sharper.
    pub temperature: f64,
    /// The seed of all randomness.
    pub seed: u64,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        Self { epochs: 3, batch: 128, learning_rate: 5e-3, temperature: 0.07, seed: 0 }
    }
}

/// The progress of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextEncoderProgress {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub of: usize,
    /// Mean loss of the last one, in nats.
    pub loss: f32,
}

/// Trains an encoder so that the two texts of a pair are closer than texts of different pairs.
///
/// The loss is symmetric InfoNCE: `−log softmax(cos / temperature)` of the right partner among all partners of the step.
/// Partners with the same text as the right one are masked. Tokens are below `vocabulary`.
pub fn fit(
    pairs: &[Pair],
    vocabulary: usize,
    plan: &TextEncoderConfig,
    progress: &mut dyn FnMut(TextEncoderProgress),
) -> Result<TokenTable> {
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut network = Network::new(&token_weights(pairs, vocabulary)?, &mut random)?;
    let identities = identities(pairs);
    // A pair with an empty text teaches nothing.
    let whole = |&pair: &usize| !pairs[pair].0.is_empty() && !pairs[pair].1.is_empty();
    let mut order: Vec<usize> = (0..pairs.len()).filter(whole).collect();
    let size = plan.batch.max(2);
    let of = plan.epochs * order.len().div_ceil(size);
    let mut done = 0;
    for _ in 0..plan.epochs {
        order.shuffle(&mut random);
        for chosen in order.chunks(size) {
            let rate = plan.learning_rate * (1.0 - done as f64 / of as f64);
            let batch = PairBatch::new(pairs, &identities, chosen)?;
            done += 1;
            let loss = network.learn(&batch, plan.temperature, rate, done)?;
            progress(TextEncoderProgress { done, of, loss });
        }
    }
    network.folded()
}

/// The pairs of a step.
struct PairBatch {
    /// The distinct tokens of both sides, ascending.
    tokens: Vec<u32>,
    /// `(pairs, tokens)` each: how often a token occurs in the first texts, and in the second.
    counts: [Tensor; 2],
    /// `(pairs, pairs)` each: [`MASKED`] where another pair has the same text.
    masks: [Tensor; 2],
}

impl PairBatch {
    fn new(pairs: &[Pair], identities: &[[u32; 2]], chosen: &[usize]) -> Result<Self> {
        let sides: [Vec<&[u32]>; 2] = [
            chosen.iter().map(|&pair| pairs[pair].0.as_slice()).collect(),
            chosen.iter().map(|&pair| pairs[pair].1.as_slice()).collect(),
        ];
        let mut tokens = sides.concat().concat();
        tokens.sort_unstable();
        tokens.dedup();
        let counts = [token_counts(&sides[0], &tokens)?, token_counts(&sides[1], &tokens)?];
        let masks = [mask(chosen, identities, 0)?, mask(chosen, identities, 1)?];
        Ok(Self { tokens, counts, masks })
    }
}

fn mask(chosen: &[usize], identities: &[[u32; 2]], side: usize) -> Result<Tensor> {
    let read: Vec<u32> = chosen.iter().map(|&pair| identities[pair][side]).collect();
    let mut mask = Vec::with_capacity(read.len() * read.len());
    for (row, own) in read.iter().enumerate() {
        let others = read.iter().enumerate();
        mask.extend(others.map(
            |(column, other)| {
                if column != row && other == own { MASKED } else { 0.0 }
            },
        ));
    }
    Tensor::from_vec(mask, (read.len(), read.len()), &Device::Cpu)
}

/// The encoder in training: three factors of the table. Serving needs only their product.
struct Network {
    /// `(vocabulary, TEXT_WIDTH)`.
    vectors: TrainedTable,
    /// `(vocabulary, 1)`: logarithms of the weights, which keeps them positive.
    weights: TrainedTable,
    /// `(TEXT_WIDTH, TEXT_WIDTH)`, initially the identity.
    projection: TrainedTable,
}

/// The variables of a step: the rows of its tokens, and the projection.
struct Leaves {
    vectors: Var,
    weights: Var,
    projection: Var,
}

impl Network {
    fn new(weights: &[f32], random: &mut ChaCha8Rng) -> Result<Self> {
        let spread = (TEXT_WIDTH as f32).sqrt().recip();
        let normal = Normal::new(0.0_f32, spread).map_err(Error::wrap)?;
        let vectors = normal.sample_iter(random).take(weights.len() * TEXT_WIDTH).collect();
        let identity = Tensor::eye(TEXT_WIDTH, DType::F32, &Device::Cpu)?;
        Ok(Self {
            vectors: TrainedTable::new(vectors, TEXT_WIDTH),
            weights: TrainedTable::new(weights.iter().map(|weight| weight.ln()).collect(), 1),
            projection: TrainedTable::new(identity.flatten_all()?.to_vec1()?, TEXT_WIDTH),
        })
    }

    fn leaves(&self, tokens: &[u32]) -> Result<Leaves> {
        Ok(Leaves {
            vectors: self.vectors.leaf(tokens)?,
            weights: self.weights.leaf(tokens)?,
            projection: self.projection.leaf(&Self::WHOLE_PROJECTION)?,
        })
    }

    /// Every row of the projection.
    const WHOLE_PROJECTION: [u32; TEXT_WIDTH] = {
        let mut rows = [0; TEXT_WIDTH];
        let mut row = 0;
        while row < TEXT_WIDTH {
            rows[row] = row as u32;
            row += 1;
        }
        rows
    };

    /// Takes Adam's step number `step`, counted from 1. Gives the loss before it, in nats.
    fn learn(
        &mut self,
        batch: &PairBatch,
        temperature: f64,
        rate: f64,
        step: usize,
    ) -> Result<f32> {
        let leaves = self.leaves(&batch.tokens)?;
        let loss = leaves.loss(batch, temperature)?;
        let gradients = loss.backward()?;
        let pace = StepSize::new(rate, step);
        let updates = [
            (&mut self.vectors, &leaves.vectors, batch.tokens.as_slice()),
            (&mut self.weights, &leaves.weights, batch.tokens.as_slice()),
            (&mut self.projection, &leaves.projection, Self::WHOLE_PROJECTION.as_slice()),
        ];
        for (rows, leaf, touched) in updates {
            if let Some(gradient) = gradients.get(leaf) {
                rows.update(touched, &gradient.flatten_all()?.to_vec1()?, &pace);
            }
        }
        loss.to_scalar()
    }

    /// The three factors as one table.
    fn folded(&self) -> Result<TokenTable> {
        let all: Vec<u32> = (0..self.weights.values().len() as u32).collect();
        let leaves = self.leaves(&all)?;
        let rows = leaves.rows()?.flatten_all()?.to_vec1()?;
        TokenTable::new(rows, TEXT_WIDTH).map_err(Error::wrap)
    }
}

impl Leaves {
    /// `(tokens, TEXT_WIDTH)`: weight × vector × projection.
    fn rows(&self) -> Result<Tensor> {
        self.vectors.broadcast_mul(&self.weights.exp()?)?.matmul(&self.projection)
    }

    /// Unit vectors `(texts, TEXT_WIDTH)` of texts given as `(texts, tokens)` counts.
    fn encode(&self, counts: &Tensor) -> Result<Tensor> {
        let sums = counts.matmul(&self.rows()?)?;
        let square = sums.sqr()?.sum_keepdim(D::Minus1)?;
        sums.broadcast_div(&(square + f64::from(SQUARE_MIN))?.sqrt()?)
    }

    /// The mean symmetric InfoNCE of a batch.
    fn loss(&self, batch: &PairBatch, temperature: f64) -> Result<Tensor> {
        let [left, right] = [self.encode(&batch.counts[0])?, self.encode(&batch.counts[1])?];
        let logits = (left.matmul(&right.t()?)? / temperature)?;
        let targets = Tensor::arange(0, batch.counts[0].dim(0)? as u32, &Device::Cpu)?;
        let rightward = (&logits + &batch.masks[1])?;
        let leftward = (logits.t()?.contiguous()? + &batch.masks[0])?;
        let rightward = candle_nn::loss::cross_entropy(&rightward, &targets)?;
        (rightward + candle_nn::loss::cross_entropy(&leftward, &targets)?)? / 2.0
    }
}

/// An id for each text of each pair; equal texts have equal ids.
fn identities(pairs: &[Pair]) -> Vec<[u32; 2]> {
    let mut numbers: FxHashMap<&[u32], u32> = FxHashMap::default();
    let mut number = |text| {
        let next = numbers.len() as u32;
        *numbers.entry(text).or_insert(next)
    };
    pairs.iter().map(|(left, right)| [number(left.as_slice()), number(right.as_slice())]).collect()
}

/// Initial weights, `a / (a + share of all tokens)`: low for "of", high for "retrospot".
fn token_weights(pairs: &[Pair], vocabulary: usize) -> Result<Vec<f32>> {
    let mut counts = vec![0_u32; vocabulary];
    for &token in pairs.iter().flat_map(|(left, right)| left.iter().chain(right)) {
        match counts.get_mut(token as usize) {
            Some(count) => *count += 1,
            None => candle_core::bail!("token {token} of a vocabulary of {vocabulary}"),
        }
    }
    let all = f64::from(counts.iter().sum::<u32>().max(1));
    let weight = |count| (COMMON_SHARE / (COMMON_SHARE + f64::from(count) / all)) as f32;
    Ok(counts.into_iter().map(weight).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::text::EncodeTokens as _;
    use rand::Rng;

    const VOCABULARY: usize = 120;

    /// Pairs whose texts share no token but come from the same of 30 topics.
    fn topics() -> Vec<Pair> {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        (0..1_500)
            .map(|pair| {
                let topic = pair % 30;
                let noise = random.random_range(60..VOCABULARY as u32);
                (vec![topic, noise], vec![30 + topic, noise ^ 1])
            })
            .collect()
    }

    fn plan() -> TextEncoderConfig {
        TextEncoderConfig {
            epochs: 8,
            batch: 64,
            learning_rate: 0.02,
            ..TextEncoderConfig::default()
        }
    }

    fn train(pairs: &[Pair], plan: &TextEncoderConfig) -> TokenTable {
        fit(pairs, VOCABULARY, plan, &mut |_| ()).unwrap()
    }

    fn encoded(encoder: &TokenTable, tokens: &[u32]) -> [f32; TEXT_WIDTH] {
        let mut out = [f32::NAN; TEXT_WIDTH];
        encoder.encode(tokens, &mut out);
        out
    }

    fn network(random: &mut ChaCha8Rng) -> Network {
        let weights: Vec<f32> = (0..VOCABULARY).map(|_| random.random_range(0.01..1.0)).collect();
        let mut network = Network::new(&weights, random).unwrap();
        network.projection.values.fill_with(|| random.random_range(-0.3..0.3));
        network
    }

    #[test]
    fn texts_that_belong_together_end_up_close() {
        let mut losses = Vec::new();
        let encoder =
            fit(&topics(), VOCABULARY, &plan(), &mut |step| losses.push(step.loss)).unwrap();
        assert!(losses[losses.len() - 1] < 0.5 * losses[0], "{losses:?}");
        let near = |left: u32, right: u32| -> f32 {
            let pair = encoded(&encoder, &[left]).into_iter().zip(encoded(&encoder, &[30 + right]));
            pair.map(|(left, right)| left * right).sum()
        };
        for topic in 0..30 {
            let others = (0..30).filter(|&other| other != topic);
            assert!(others.into_iter().all(|other| near(topic, other) < near(topic, topic)));
        }
    }

    #[test]
    fn training_repeats_from_its_seed() {
        let plan = TextEncoderConfig { epochs: 1, ..plan() };
        assert_eq!(train(&topics(), &plan), train(&topics(), &plan));
        assert_ne!(
            train(&topics(), &plan),
            train(&topics(), &TextEncoderConfig { seed: 1, ..plan.clone() })
        );
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (pairs, mut random) = (topics(), ChaCha8Rng::seed_from_u64(0));
        let batch = PairBatch::new(&pairs, &identities(&pairs), &[0, 1, 2, 3, 30]).unwrap();
        let network = network(&mut random);
        let leaves = network.leaves(&batch.tokens).unwrap();
        let gradients = leaves.loss(&batch, 0.5).unwrap().backward().unwrap();
        let loss =
            |leaves: &Leaves| -> f32 { leaves.loss(&batch, 0.5).unwrap().to_scalar().unwrap() };
        for leaf in [&leaves.vectors, &leaves.weights, &leaves.projection] {
            let gradient = gradients.get(leaf).expect("a gradient for each variable");
            let slope: f32 = gradient.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(slope > 0.0);
            // Along the gradient the loss changes by its squared length.
            let size = f64::from(1e-2 / slope.sqrt());
            let before = loss(&leaves);
            leaf.set(&(leaf.as_tensor() + (gradient * size).unwrap()).unwrap()).unwrap();
            let change = f64::from(loss(&leaves) - before) / size;
            assert!((change / f64::from(slope) - 1.0).abs() < 0.05, "{change} is not {slope}");
        }
    }

    #[test]
    fn a_partner_that_reads_the_same_is_no_rival() {
        let pairs = [(vec![1], vec![9]), (vec![2], vec![9]), (vec![3], vec![8])];
        let batch = PairBatch::new(&pairs, &identities(&pairs), &[0, 1, 2]).unwrap();
        let rightward: Vec<Vec<f32>> = batch.masks[1].to_vec2().unwrap();
        assert_eq!(rightward, [[0.0, MASKED, 0.0], [MASKED, 0.0, 0.0], [0.0, 0.0, 0.0]]);
        let leftward: Vec<Vec<f32>> = batch.masks[0].to_vec2().unwrap();
        assert_eq!(leftward, vec![vec![0.0; 3]; 3], "the first texts all read differently");
    }

    #[test]
    fn the_fast_path_equals_the_network_that_trains() {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let network = network(&mut random);
        let fast = network.folded().unwrap();
        let all: Vec<u32> = (0..VOCABULARY as u32).collect();
        let leaves = network.leaves(&all).unwrap();
        for length in 1..40 {
            let text: Vec<u32> =
                (0..length).map(|_| random.random_range(0..VOCABULARY as u32)).collect();
            let slow = leaves.encode(&token_counts(&[&text], &all).unwrap()).unwrap();
            let slow: Vec<f32> = slow.flatten_all().unwrap().to_vec1().unwrap();
            for (fast, slow) in encoded(&fast, &text).into_iter().zip(slow) {
                assert!((fast - slow).abs() < 1e-6, "{fast} is not {slow}");
            }
        }
    }

    #[test]
    fn nothing_to_learn_from_leaves_an_encoder_all_the_same() {
        assert_eq!(train(&[], &plan()).vocabulary(), VOCABULARY);
        let alone = encoded(&train(&[(vec![], vec![1])], &plan()), &[1]);
        assert!((alone.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_refused() {
        let pairs = [(vec![1], vec![VOCABULARY as u32])];
        let error = fit(&pairs, VOCABULARY, &plan(), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("token 120"), "{error}");
    }
}
