//! Trains a Rechead in the published wiring (RPORec, stage I).
//!
//! The three tables of tokens start as the text encoder's, and the vectors of items stay as the text encoder makes them.
//! The loss is the softmax of the item that was taken against items that are drawn once.

use super::cases::Case;
use super::fit::{self, FitModel};
use super::rechead_recipe::{RecheadRecipe, TokenTables};
use super::training_data::TrainingData;
use super::workspace::Workspace;
use crate::nn::token_table::{StepSize, TrainedTable, distinct_tokens, token_shares};
use crate::nn::{
    Dropout, PublishedNetwork, Rechead, RecheadBatch, RecheadShape, Weights, softmax_loss,
};
use crate::scorer::ShopperTokens;
use anyhow::Context as _;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// The length of an item's vector. The product of two such vectors is their cosine over 0.05, the temperature at which
/// text encoders are trained: the scores themselves have none.
pub const ITEM_LENGTH: f32 = 4.472_136;

/// The best weights of a training.
pub struct TrainedRechead {
    /// The weights.
    pub weights: Weights,
    /// The same, for serving.
    pub network: Rechead,
    /// Their metric on validation cases.
    pub best: f64,
    /// Every epoch.
    pub epochs: Vec<fit::Epoch>,
}

/// What a Rechead of the published wiring learns from.
pub struct PublishedTraining<'a> {
    /// The shop.
    pub data: &'a TrainingData,
    /// The settings.
    pub recipe: &'a RecheadRecipe,
    /// The sizes.
    pub shape: &'a RecheadShape,
    /// The seed of everything random.
    pub seed: u64,
}

/// A moment of a shopper: their texts, and the items of the softmax. The first was taken.
struct Example {
    texts: ShopperTokens,
    items: Vec<u32>,
}

/// The model in training.
struct Model<'a, F> {
    training: &'a PublishedTraining<'a>,
    examples: Vec<Example>,
    variables: VarMap,
    network: PublishedNetwork,
    /// Of the history, the thought and the answer.
    tables: [TrainedTable; 3],
    /// The rows that the step at hand reads, by table.
    read: Vec<(Vec<u32>, Var)>,
    dropout: Dropout,
    metric: F,
    best: Option<(f64, Weights, Rechead)>,
}

// === impl PublishedTraining ===

impl PublishedTraining<'_> {
    /// Trains on these cases. `candidates` are the items of each example, the one that was taken first; `metric` judges
    /// the network after each epoch.
    pub fn run(
        &self,
        cases: &[Case],
        candidates: Vec<Vec<u32>>,
        metric: impl FnMut(&Rechead) -> f64,
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<TrainedRechead> {
        let recipe = self.recipe;
        let texts: Vec<ShopperTokens> = cases
            .par_iter()
            .map(|case| ShopperTokens::of(case.written(), self.data.text_sources(case)))
            .collect();
        let examples = texts.into_iter().zip(candidates);
        let examples: Vec<Example> =
            examples.map(|(texts, items)| Example { texts, items }).collect();
        let variables = self.shape.random(self.seed)?.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = PublishedNetwork::new(self.shape, &built)?;
        let steps = examples.len().div_ceil(recipe.batch);
        let config = recipe.fit_config(steps);
        let table = self.start_table()?;
        let rng = ChaCha8Rng::seed_from_u64(self.seed ^ 6);
        let mut model = Model {
            training: self,
            examples,
            variables: variables.clone(),
            network,
            tables: [0, 1, 2].map(|_| TrainedTable::new(table.clone(), self.shape.width)),
            read: Vec::new(),
            dropout: Dropout { rate: recipe.dropout, rng },
            metric,
            best: None,
        };
        let total = (config.epochs * steps) as u64;
        let epochs = fit::fit_model(&variables, config, &mut model, &mut |loss, step| {
            workspace.progress.show_losses("rechead", step as u64, total, &[("loss", loss)]);
        })?;
        let (best, weights, network) = model.best.context("the recipe allows no epoch")?;
        Ok(TrainedRechead { weights, network, best, epochs })
    }

    /// The text encoder's rows, scaled so that the mean of an item's rows is as long as its fixed vector on average.
    fn start_table(&self) -> anyhow::Result<Vec<f32>> {
        let (data, width) = (self.data, self.shape.width);
        let rows = data.reader.token_rows().context(
            "the published wiring needs a text encoder that is a table of token vectors, and this one is none",
        )?;
        let length = |item: u32| {
            let tokens = data.reader.tokens(&data.catalog.text(item));
            let mut sum = vec![0.0_f32; width];
            for &token in &tokens {
                let row = rows.get(token as usize * width..).and_then(|rows| rows.get(..width));
                sum.iter_mut().zip(row.unwrap_or(&[])).for_each(|(sum, value)| *sum += value);
            }
            let square: f32 = sum.iter().map(|value| value * value).sum();
            square.sqrt() / tokens.len().max(1) as f32
        };
        let items = data.catalog.len() as u32;
        let mean = (0..items).map(|item| f64::from(length(item))).sum::<f64>() / f64::from(items);
        let scale = if mean > 0.0 { self.shape.item_length / mean as f32 } else { 1.0 };
        Ok(rows.iter().map(|value| value * scale).collect())
    }
}

// === impl Model ===

impl<F> Model<'_, F> {
    /// The vectors of one text of each example: (B, d). Remembers which rows they were read from.
    fn encode(&mut self, table: usize, texts: &[&[u32]]) -> anyhow::Result<Tensor> {
        let tokens = distinct_tokens(texts);
        if tokens.is_empty() {
            let dims = (texts.len(), self.training.shape.width);
            return Ok(Tensor::zeros(dims, DType::F32, &Device::Cpu)?);
        }
        let rows = self.tables[table].leaf(&tokens)?;
        let encoded = token_shares(texts, &tokens)?.matmul(&rows)?;
        self.read[table] = (tokens, rows);
        Ok(encoded)
    }

    fn batch(&mut self, of: std::ops::Range<usize>) -> anyhow::Result<RecheadBatch> {
        let examples = std::mem::take(&mut self.examples);
        let batch = self.batch_of(&examples[of]);
        self.examples = examples;
        batch
    }

    fn batch_of(&mut self, examples: &[Example]) -> anyhow::Result<RecheadBatch> {
        let none = Var::zeros((1, 1), DType::F32, &Device::Cpu)?;
        self.read = vec![(Vec::new(), none); self.tables.len()];
        let texts = |of: fn(&ShopperTokens) -> &[u32]| -> Vec<&[u32]> {
            examples.iter().map(|example| of(&example.texts)).collect()
        };
        let history = self.encode(0, &texts(|texts| &texts.history))?;
        let thought = self.encode(1, &texts(|texts| &texts.thought))?;
        let answer = self.encode(2, &texts(|texts| texts.answer.as_deref().unwrap_or(&[])))?;
        let answered = examples.iter().map(|of| f32::from(u8::from(of.texts.answer.is_some())));
        let answered: Vec<f32> = answered.collect();
        Ok(RecheadBatch {
            history,
            thought,
            answer,
            answered: Tensor::from_vec(answered, examples.len(), &Device::Cpu)?,
            items: self.items(examples)?,
        })
    }

    /// The fixed vectors of the examples' items: (B, N, d).
    fn items(&self, examples: &[Example]) -> anyhow::Result<Tensor> {
        let (vectors, shape) = (&self.training.data.item_vectors, self.training.shape);
        let mut rows = Vec::new();
        for &item in examples.iter().flat_map(|example| &example.items) {
            let begin = rows.len();
            rows.resize(begin + shape.width, 0.0);
            vectors.add_to(&mut rows[begin..], item, shape.item_length);
        }
        let candidates = examples.first().map_or(0, |example| example.items.len());
        Ok(Tensor::from_vec(rows, (examples.len(), candidates, shape.width), &Device::Cpu)?)
    }

    /// All weights: those of the network, and the tables.
    fn weights(&self) -> anyhow::Result<Weights> {
        let mut weights = Weights::from_varmap(&self.variables)?;
        let dims = [self.training.shape.vocabulary, self.training.shape.width];
        for (at, table) in self.tables.iter().enumerate() {
            weights.insert(&RecheadShape::table(at), &dims, table.values().to_vec());
        }
        Ok(weights)
    }
}

impl<F: FnMut(&Rechead) -> f64> FitModel for Model<'_, F> {
    fn loss(&mut self, step: usize) -> anyhow::Result<Tensor> {
        let size = self.training.recipe.batch;
        let start = step % self.examples.len().div_ceil(size) * size;
        let batch = self.batch(start..self.examples.len().min(start + size))?;
        let scores = self.network.forward(&batch, Some(&mut self.dropout))?;
        Ok(softmax_loss(&scores, &scores.ones_like()?)?)
    }

    fn update(&mut self, gradients: &GradStore, rate: f64, step: usize) -> anyhow::Result<()> {
        if self.training.recipe.encoders == TokenTables::Frozen {
            return Ok(());
        }
        let pace = StepSize::new(rate, step);
        for (table, (tokens, rows)) in self.tables.iter_mut().zip(&self.read) {
            if let Some(gradient) = gradients.get(rows) {
                table.update(tokens, &gradient.flatten_all()?.to_vec1()?, &pace);
            }
        }
        Ok(())
    }

    fn validate(&mut self, _epoch: usize) -> anyhow::Result<f64> {
        let weights = self.weights()?;
        let served = Rechead::new(&weights, self.training.shape)?;
        let metric = (self.metric)(&served);
        if self.best.as_ref().is_none_or(|best| metric > best.0) {
            self.best = Some((metric, weights, served));
        }
        Ok(metric)
    }
}
