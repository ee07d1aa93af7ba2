//! The section `query` of a recipe.

use super::direct_recipe::DirectRecipe;
use crate::scorer::DirectColumns;
use crate::scorer::features::{QUERY_FEATURES, direct_names};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Seeds of the query path, at most.
const SEEDS_MAX: usize = 16;
/// The largest weight that may be tried.
const WEIGHT_MAX: f32 = 10.0;

/// The query path of the scorer: it hears what a request says in words. The queries that it learns from are written from
/// the items that were taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryRecipe {
    /// The names of the features that it reads. Empty: those of the direct path, and every query feature.
    pub inputs: Vec<String>,
    /// Names among them that it does not read.
    pub without: Vec<String>,
    /// Width of the hidden layer.
    pub hidden: usize,
    /// The dropout rate.
    pub dropout: f32,
    /// Whole slates of a batch.
    pub batch: usize,
    /// Epochs, at most.
    pub epochs: usize,
    /// The highest learning rate; it falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Epochs without a better validation metric after which training stops.
    pub patience: usize,
    /// Networks that are trained from different seeds. Their logits are averaged if validation gains by it.
    pub seeds: usize,
    /// Slates to learn from, at most.
    pub examples_max: usize,
    /// Weights of its logit that are tried on validation. Where 0 is best, no query path is written.
    pub weights: Vec<f32>,
    /// The share of queries that name another item, with which the item taken shares a value.
    pub implicit_share: f64,
    /// The share of queries with one fact that is wrong.
    pub misinformed_share: f64,
    /// The share of requests with a profile.
    pub profile_share: f64,
    /// The share of shoppers that it does not learn from, and that the report's section `queries` is about.
    pub held_out_share: f64,
}

impl Default for QueryRecipe {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            without: Vec::new(),
            hidden: 64,
            dropout: 0.1,
            batch: 64,
            epochs: 6,
            learning_rate: 2e-3,
            weight_decay: 0.01,
            patience: 2,
            seeds: 2,
            examples_max: 12_000,
            weights: vec![0.0, 0.5, 1.0, 1.5],
            implicit_share: 0.25,
            misinformed_share: 0.2,
            profile_share: 0.25,
            held_out_share: 0.2,
        }
    }
}

// === impl QueryRecipe ===

impl QueryRecipe {
    /// The names of the features that it reads, in order. `direct` are those that the direct path reads. Refuses a name
    /// that is unknown or comes twice.
    pub fn names(&self, direct: &[String]) -> anyhow::Result<Vec<String>> {
        let query = QUERY_FEATURES.iter().map(|feature| feature.name.to_owned());
        let all: Vec<String> = match &self.inputs[..] {
            [] => direct.iter().cloned().chain(query).collect(),
            names => names.to_vec(),
        };
        for (index, name) in self.without.iter().enumerate() {
            ensure!(
                all.contains(name),
                "`query.without[{index}]` is `{name}`, which the query path would not read anyway"
            );
        }
        let names: Vec<String> =
            all.into_iter().filter(|name| !self.without.contains(name)).collect();
        DirectColumns::of_query_path(&names).context("in the recipe's section `query`")?;
        Ok(names)
    }

    /// How one of its networks is trained.
    pub fn training(&self) -> DirectRecipe {
        DirectRecipe {
            hidden: self.hidden,
            dropout: self.dropout,
            batch: self.batch,
            epochs: self.epochs,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            patience: self.patience,
            seeds: self.seeds,
            ..DirectRecipe::default()
        }
    }

    /// Checks every setting; the error names the one that is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        self.names(&direct_names().map(str::to_owned).collect::<Vec<_>>())?;
        for (name, count) in [
            ("batch", self.batch),
            ("hidden", self.hidden),
            ("epochs", self.epochs),
            ("examples_max", self.examples_max),
        ] {
            ensure!(count >= 1, "`query.{name}` is 0, expected at least 1");
        }
        let Self { seeds, dropout, .. } = *self;
        ensure!(
            (1..=SEEDS_MAX).contains(&seeds),
            "`query.seeds` is {seeds}, expected 1 to {SEEDS_MAX}"
        );
        ensure!(
            (0.0..1.0).contains(&dropout),
            "`query.dropout` is {dropout}, expected 0 to below 1"
        );
        for (name, share) in [
            ("implicit_share", self.implicit_share),
            ("misinformed_share", self.misinformed_share),
            ("profile_share", self.profile_share),
            ("held_out_share", self.held_out_share),
        ] {
            ensure!((0.0..=1.0).contains(&share), "`query.{name}` is {share}, expected 0 to 1");
        }
        let both = self.implicit_share + self.misinformed_share;
        ensure!(
            both <= 1.0,
            "`query.implicit_share` and `query.misinformed_share` are {both} together, expected at most 1"
        );
        ensure!(!self.weights.is_empty(), "`query.weights` is empty, expected a weight");
        for (index, weight) in self.weights.iter().enumerate() {
            ensure!(
                (0.0..=WEIGHT_MAX).contains(weight),
                "`query.weights[{index}]` is {weight}, expected 0 to {WEIGHT_MAX}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_direct_path_and_of_queries() {
        let direct = ["sales".to_owned(), "trend".to_owned()];
        let names = QueryRecipe::default().names(&direct).unwrap();
        assert_eq!(names[..3], ["sales", "trend", "query_cosine"]);
        assert_eq!(names.len(), 2 + QUERY_FEATURES.len());
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let plain = QueryRecipe::default;
        for (recipe, says) in [
            (QueryRecipe { batch: 0, ..plain() }, "`query.batch` is 0, expected at least 1"),
            (QueryRecipe { hidden: 0, ..plain() }, "`query.hidden` is 0, expected at least 1"),
            (QueryRecipe { epochs: 0, ..plain() }, "`query.epochs` is 0, expected at least 1"),
            (
                QueryRecipe { examples_max: 0, ..plain() },
                "`query.examples_max` is 0, expected at least 1",
            ),
            (QueryRecipe { seeds: 17, ..plain() }, "`query.seeds` is 17, expected 1 to 16"),
            (
                QueryRecipe { dropout: f32::NAN, ..plain() },
                "`query.dropout` is NaN, expected 0 to below 1",
            ),
            (
                QueryRecipe { profile_share: 1.5, ..plain() },
                "`query.profile_share` is 1.5, expected 0 to 1",
            ),
            (
                QueryRecipe { implicit_share: 0.75, misinformed_share: 0.5, ..plain() },
                "`query.implicit_share` and `query.misinformed_share` are 1.25 together, expected at most 1",
            ),
            (
                QueryRecipe { weights: vec![], ..plain() },
                "`query.weights` is empty, expected a weight",
            ),
            (
                QueryRecipe { weights: vec![-1.0], ..plain() },
                "`query.weights[0]` is -1, expected 0 to 10",
            ),
            (
                QueryRecipe { without: vec!["weather".into()], ..plain() },
                "`query.without[0]` is `weather`, which the query path would not read anyway",
            ),
            (
                QueryRecipe { inputs: vec!["weather".into()], ..plain() },
                "in the recipe's section `query`",
            ),
        ] {
            assert_eq!(recipe.check().unwrap_err().to_string(), says);
        }
        plain().check().unwrap();
    }
}
