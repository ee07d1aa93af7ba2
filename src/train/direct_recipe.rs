//! The section `direct` of a recipe.

use crate::scorer::DirectColumns;
use crate::scorer::features::direct_names;
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Seeds of the direct path, at most.
const SEEDS_MAX: usize = 16;
/// Folds of an adaptation, at most.
const FOLDS_MAX: usize = 20;
/// The largest weight of the deep network that may be tried.
const DEEP_WEIGHT_MAX: f32 = 10.0;

/// The direct path of the scorer: it reads the features alone, and the deep network adds to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DirectRecipe {
    /// The names of the features that it reads. Empty: all that the program knows.
    pub inputs: Vec<String>,
    /// Names that are read besides those, such as `rechead`, which is in no default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Names among them that it does not read.
    pub without: Vec<String>,
    /// Width of the hidden layer.
    pub hidden: usize,
    /// The dropout rate.
    pub dropout: f32,
    /// Whole slates of a batch.
    pub batch: usize,
    /// Epochs, at most. 0 keeps the direct path in the workspace.
    pub epochs: usize,
    /// The highest learning rate; it falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Epochs without a better validation metric after which training stops.
    pub patience: usize,
    /// Networks that are trained from different seeds. Their logits are averaged if validation gains by it.
    pub seeds: usize,
    /// Folds in which it is adapted to the validation slates, where those come from another ranker than the training
    /// slates; 0 for none.
    pub adapt_folds: usize,
    /// Weights of the deep network's logit that are tried on validation. At 0, it is served for its attention over
    /// the reasons alone.
    pub deep_weights: Vec<f32>,
}

impl Default for DirectRecipe {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            also: Vec::new(),
            without: Vec::new(),
            hidden: 64,
            dropout: 0.1,
            batch: 64,
            epochs: 6,
            learning_rate: 2e-3,
            weight_decay: 0.01,
            patience: 2,
            seeds: 3,
            adapt_folds: 0,
            deep_weights: vec![0.0, 0.25, 0.5, 1.0],
        }
    }
}

// === impl DirectRecipe ===

impl DirectRecipe {
    /// The names of the features that it reads, in order. Refuses a name that is unknown or comes twice.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let mut all: Vec<String> = match &self.inputs[..] {
            [] => direct_names().map(str::to_owned).collect(),
            names => names.to_vec(),
        };
        all.extend_from_slice(&self.also);
        for (index, name) in self.without.iter().enumerate() {
            ensure!(
                all.contains(name),
                "`direct.without[{index}]` is `{name}`, which the direct path would not read anyway"
            );
        }
        let names: Vec<String> =
            all.into_iter().filter(|name| !self.without.contains(name)).collect();
        DirectColumns::of(&names).context("in the recipe")?;
        Ok(names)
    }

    /// Whether it reads the input of this name.
    pub fn reads(&self, name: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|known| known == name);
        let by_default = self.inputs.is_empty() && direct_names().any(|known| known == name);
        (by_default || named(&self.inputs) || named(&self.also)) && !named(&self.without)
    }

    /// Checks every setting; the error names the one that is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        self.names()?;
        ensure!(self.batch >= 1, "`direct.batch` is 0, expected at least 1");
        ensure!(self.hidden >= 1, "`direct.hidden` is 0, expected at least 1");
        let Self { seeds, dropout, .. } = *self;
        ensure!(
            (1..=SEEDS_MAX).contains(&seeds),
            "`direct.seeds` is {seeds}, expected 1 to {SEEDS_MAX}"
        );
        ensure!(
            (0.0..1.0).contains(&dropout),
            "`direct.dropout` is {dropout}, expected 0 to below 1"
        );
        let folds = self.adapt_folds;
        ensure!(
            folds != 1 && folds <= FOLDS_MAX,
            "`direct.adapt_folds` is {folds}, expected 0 or 2 to {FOLDS_MAX}"
        );
        ensure!(!self.deep_weights.is_empty(), "`direct.deep_weights` is empty, expected a weight");
        for (index, weight) in self.deep_weights.iter().enumerate() {
            ensure!(
                (0.0..=DEEP_WEIGHT_MAX).contains(weight),
                "`direct.deep_weights[{index}]` is {weight}, expected 0 to {DEEP_WEIGHT_MAX}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_all_or_those_that_are_given_less_those_left_out() {
        let names = |inputs: &[&str], without: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let recipe = DirectRecipe {
                inputs: owned(inputs),
                without: owned(without),
                ..DirectRecipe::default()
            };
            recipe.check().map(|()| recipe.names().unwrap()).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(names(&[], &[]).unwrap(), direct_names().collect::<Vec<_>>());
        assert_eq!(names(&["trend", "sales"], &["sales"]).unwrap(), ["trend"]);
        assert_eq!(names(&[], &["trend"]).unwrap().len(), direct_names().count() - 1);
        for (inputs, without, says) in [
            (
                &["trend", "weather"][..],
                &[][..],
                "in the recipe: `direct.inputs[1]` is `weather`, which is no feature of this program",
            ),
            (
                &["trend", "sales", "trend"],
                &[],
                "in the recipe: `direct.inputs[2]` is `trend` again, which is `direct.inputs[0]`",
            ),
            (
                &["trend"],
                &["sales"],
                "`direct.without[0]` is `sales`, which the direct path would not read anyway",
            ),
            (&["trend"], &["trend"], "in the recipe: `direct.inputs` is empty, expected 1 to "),
        ] {
            let error = names(inputs, without).unwrap_err();
            assert!(error.starts_with(says), "{error:?} does not begin with {says:?}");
        }
    }

    #[test]
    fn the_score_of_a_rechead_is_read_by_name_alone() {
        let named = |also: &[&str], without: &[&str]| DirectRecipe {
            also: also.iter().map(|&name| name.to_owned()).collect(),
            without: without.iter().map(|&name| name.to_owned()).collect(),
            ..DirectRecipe::default()
        };
        let reads = |recipe: &DirectRecipe| {
            let columns = DirectColumns::of(&recipe.names().unwrap()).unwrap();
            assert_eq!(columns.reads_rechead(), recipe.reads("rechead"));
            recipe.reads("rechead")
        };
        assert!(!reads(&named(&[], &[])));
        assert!(reads(&named(&["rechead"], &[])));
        assert!(!reads(&named(&["rechead"], &["rechead"])));
        let twice = named(&["rechead", "rechead"], &[]).names().unwrap_err();
        assert!(format!("{twice:#}").contains("is `rechead` again"), "{twice:#}");
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let plain = DirectRecipe::default;
        for (recipe, says) in [
            (DirectRecipe { batch: 0, ..plain() }, "`direct.batch` is 0, expected at least 1"),
            (DirectRecipe { hidden: 0, ..plain() }, "`direct.hidden` is 0, expected at least 1"),
            (DirectRecipe { seeds: 0, ..plain() }, "`direct.seeds` is 0, expected 1 to 16"),
            (DirectRecipe { seeds: 17, ..plain() }, "`direct.seeds` is 17, expected 1 to 16"),
            (
                DirectRecipe { dropout: 1.0, ..plain() },
                "`direct.dropout` is 1, expected 0 to below 1",
            ),
            (
                DirectRecipe { dropout: f32::NAN, ..plain() },
                "`direct.dropout` is NaN, expected 0 to below 1",
            ),
            (
                DirectRecipe { deep_weights: vec![], ..plain() },
                "`direct.deep_weights` is empty, expected a weight",
            ),
            (
                DirectRecipe { deep_weights: vec![0.5, -1.0], ..plain() },
                "`direct.deep_weights[1]` is -1, expected 0 to 10",
            ),
        ] {
            assert_eq!(recipe.check().unwrap_err().to_string(), says);
        }
        plain().check().unwrap();
    }
}
