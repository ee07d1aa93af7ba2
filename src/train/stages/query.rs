//! The query path of the scorer: it learns from slates with queries what a request in words adds to the scores.

use super::reward_model::examples;
use crate::bundle::Part;
use crate::scorer::features::{FEATURES, QueryIndex, direct_names};
use crate::scorer::{DirectColumns, RECHEAD_INPUT};
use crate::simulate::Wordings;
use crate::train::asked_query::{QueryClass, QueryWriter};
use crate::train::cases::Case;
use crate::train::direct_slates::DirectSlate;
use crate::train::offline_scorer::OfflineScorer;
use crate::train::query_cases::{QueryCase, QueryData, is_held_out};
use crate::train::query_path::QueryTraining;
use crate::train::recipe::Recipe;
use crate::train::training_data::TrainingData;
use crate::train::{Stage, Workspace};
use anyhow::{Context as _, ensure};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// What the report says of a query path that validation gives no weight.
const NO_GAIN: &str =
    "the query path adds nothing on validation: none is written, and queries change no score";

/// Trains the query path.
#[derive(Debug)]
pub struct QueryStage;

impl Stage for QueryStage {
    fn name(&self) -> &'static str {
        "query"
    }

    fn about(&self) -> &'static str {
        "Trains the scorer's query path (what a request in words adds to the scores) on slates with written queries"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
    }

    fn may_read(&self) -> &'static [Part] {
        &[Part::Direct, Part::Rechead, Part::RecheadShape]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "split", "slates", "reward_model", "query"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Query, Part::QueryShape]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.query.is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let query = recipe.query.clone().context("the recipe has no `query`")?;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let mut scorer = OfflineScorer::without_head(workspace)?;
        if scorer.direct_inputs().iter().any(|name| name == RECHEAD_INPUT) {
            scorer = OfflineScorer::read(workspace)?.without_late_sum();
        }
        let inputs = query.names(&direct_inputs(&scorer))?;
        let rows = QueryRows {
            columns: DirectColumns::of_query_path(&inputs)?,
            of: QueryData { data: &data, index: Arc::new(QueryIndex::of(&data.catalog)) },
            writer: QueryWriter::new(&data.catalog, &query, &recipe.shop.currency),
            scorer: &scorer,
            seed: recipe.seed,
        };
        let learns = |case: &Case| !is_held_out(case.user, recipe.seed, query.held_out_share);
        let mut taught = examples(&data, &recipe)?;
        taught.retain(learns);
        taught.truncate(query.examples_max);
        let mut slates = rows.slates(&taught)?;
        slates.retain(|slate| !slate.rows.is_empty());
        ensure!(!slates.is_empty(), "no query says anything of a slate of the training time");
        let (size, currency) = (recipe.slates.size, &recipe.shop.currency);
        let validation = data.last_cases(size, currency, split.validate, split.test)?;
        let validation: Vec<Case> =
            validation.into_iter().flat_map(|(_, cases)| cases).filter(learns).collect();
        let validation = rows.slates(&validation)?;
        let training = QueryTraining {
            recipe: &query,
            inputs,
            seed: recipe.seed,
            examples: &slates,
            validation: &validation,
        };
        let trained = training.run(workspace.progress)?;
        let (path, shape) = (workspace.path(Part::Query), workspace.path(Part::QueryShape));
        let mut report = trained.report;
        if trained.file.weight > 0.0 {
            std::fs::write(path, trained.weights.to_bytes()?).context("writing the query path")?;
            std::fs::write(shape, toml::to_string(&trained.file)?)
                .context("writing the query path's shape")?;
        } else {
            remove(&path)?;
            remove(&shape)?;
            report["note"] = json!(NO_GAIN);
        }
        Ok(report)
    }
}

/// The names of the features that the query path reads beside those of queries, if the recipe names none.
fn direct_inputs(scorer: &OfflineScorer) -> Vec<String> {
    match scorer.direct_inputs() {
        [] => FEATURES.iter().map(|feature| feature.name.to_owned()).collect(),
        names => {
            let is_read = |name: &&String| direct_names().any(|known| known == **name);
            names.iter().filter(is_read).cloned().collect()
        }
    }
}

/// Removes what an earlier run wrote.
fn remove(path: &std::path::Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("removing the query path of an earlier run")
        }
        _ => Ok(()),
    }
}

/// Makes slates with queries.
struct QueryRows<'a> {
    columns: DirectColumns,
    of: QueryData<'a>,
    writer: QueryWriter<'a>,
    scorer: &'a OfflineScorer,
    seed: u64,
}

// === impl QueryRows ===

impl QueryRows<'_> {
    /// A slate with a query for each case in which something was taken, with the scores of the rest of the scorer.
    fn slates(&self, cases: &[Case]) -> anyhow::Result<Vec<DirectSlate>> {
        let asked: Vec<Case> = cases
            .par_iter()
            .enumerate()
            .filter_map(|(at, case)| {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ ((at as u64) << 16));
                let class: QueryClass = self.writer.draw_class(&mut rng);
                let wordings = Wordings::Training;
                QueryCase::of(&self.writer, self.of.data, case, class, wordings, &mut rng)
            })
            .map(|asked| asked.case)
            .collect();
        // The rest of the scorer hears nothing, so its scores are those without a query.
        let scores = self.scorer.scores(self.of.data, &asked)?;
        let slate = |(case, scores): (&Case, Vec<f32>)| self.of.slate(&self.columns, case, scores);
        Ok(asked.par_iter().zip(scores).map(slate).collect())
    }
}
