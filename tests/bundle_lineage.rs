//! What lies in a folder of parts was made from one another, or it is not published.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "shops/mod.rs"]
#[expect(dead_code, reason = "only the shops themselves are needed here")]
mod shops;
#[path = "support/small.rs"]
mod small;

use raisonne::bundle::{Bundle, Manifest, Part};
use raisonne::train::direct_recipe::DirectRecipe;
use raisonne::train::query_recipe::QueryRecipe;
use raisonne::train::{NoProgress, Recipe, STAGES, Stage, Workspace, publish, run};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Two imported shops, and one folder of parts.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for (shop, shoppers) in [("one", 400), ("other", 380)] {
            shops::shop(&home.path().join(shop), shoppers, 200);
        }
        Self(home)
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("bundle")
    }

    /// The recipe of a shop, without a language model and without a Rechead.
    fn recipe(&self, shop: &str, set: &[&str]) -> Recipe {
        let set: Vec<String> = set.iter().map(|&setting| setting.to_owned()).collect();
        let mut recipe = small::recipe(self.0.path(), &set);
        recipe.shop.imported = Some(self.0.path().join(shop).join("shop"));
        recipe.shop.simulated = None;
        (recipe.language_model, recipe.rechead) = (None, None);
        recipe
    }

    /// Runs these stages, by their names; all that the recipe needs if none is named.
    fn run(&self, recipe: &Recipe, names: &[&str]) -> anyhow::Result<()> {
        let mut progress = NoProgress;
        let mut workspace = Workspace::new(&self.work(), recipe.clone(), &mut progress)?;
        let is_named = |stage: &&&dyn Stage| names.is_empty() || names.contains(&stage.name());
        for stage in STAGES.iter().filter(is_named).filter(|stage| stage.is_enabled(recipe)) {
            run(*stage, &mut workspace)?;
        }
        Ok(())
    }

    fn publish(&self, recipe: &Recipe) -> anyhow::Result<Manifest> {
        let mut progress = NoProgress;
        let workspace = Workspace::new(&self.work(), recipe.clone(), &mut progress)?;
        publish::publish(&workspace, &toml::to_string(recipe)?, &self.out())
    }

    /// Why a recipe's bundle is not published.
    fn refusal(&self, recipe: &Recipe) -> String {
        let before = Manifest::read(&self.out()).unwrap();
        let error = format!("{:#}", self.publish(recipe).unwrap_err());
        assert_eq!(Manifest::read(&self.out()).unwrap(), before, "the old bundle stays");
        error
    }
}

#[test]
fn parts_of_another_shop_or_recipe_are_not_published() {
    let home = Home::new();
    let one = home.recipe("one", &[]);
    home.run(&one, &[]).unwrap();
    let made = home.publish(&one).unwrap();
    let bundle = Bundle::open(&home.out()).unwrap();
    for part in Part::ALL.into_iter().filter(|part| bundle.has(*part)) {
        let record = made.lineage.iter().find(|record| record.part == part.file());
        let is_written_by_publish = matches!(part, Part::Golden | Part::Recipe);
        assert_eq!(record.is_none(), is_written_by_publish, "{part:?}");
    }

    // What another recipe left is neither read nor taken.
    let strange = [Part::Rechead, Part::RecheadShape, Part::Reranker].map(Part::file);
    for file in strange.into_iter().chain(["decoder/config.json"]) {
        let path = home.work().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "of another shop").unwrap();
    }
    home.run(&one, &["write", "evaluate"]).unwrap();
    assert_eq!(home.publish(&one).unwrap().version, made.version);
    assert!(!home.out().join("decoder").exists() && !home.out().join("rechead.toml").exists());

    // A setting counts for the stages that it is about.
    let error = home.refusal(&home.recipe("one", &["evaluate.resamples=50"]));
    let by_evaluate = "report.json was made by another recipe: the settings of evaluate differ: run the stages \
                       from evaluate on again, with `raisonne bundle make --from evaluate`";
    assert_eq!(error, by_evaluate);
    let error = home.refusal(&home.recipe("one", &["cards.as_of=2024-06-01T00:00:00Z"]));
    assert!(error.contains("the settings of write differ"), "{error}");
    let error = home.refusal(&home.recipe("one", &["seed=8"]));
    assert!(error.starts_with("catalog.jsonl.zst was made by another recipe"), "{error}");

    // A part that somebody changed.
    let path = home.work().join(Part::Samples.file());
    let before = fs::read(&path).unwrap();
    fs::write(&path, "[]").unwrap();
    let error = home.refusal(&one);
    assert!(
        error.starts_with("samples.json was changed after the stage write had written it"),
        "{error}"
    );
    fs::write(&path, before).unwrap();
    home.publish(&one).unwrap();

    // Nothing was made from the other shop, and then only the catalogue was.
    let other = home.recipe("other", &[]);
    let of_another =
        "was made from another shop than the one that the recipe names now: run the stages from";
    let error = home.refusal(&other);
    assert!(error.starts_with(&format!("catalog.jsonl.zst {of_another} prepare on")), "{error}");
    let error = format!("{:#}", home.run(&other, &["text_encoder"]).unwrap_err());
    assert!(error.contains(&format!("catalog.jsonl.zst {of_another} prepare on")), "{error}");
    home.run(&other, &["prepare"]).unwrap();
    let error = home.refusal(&other);
    assert!(error.starts_with(&format!("tokenizer.json {of_another} text_encoder on")), "{error}");
    home.run(&one, &["prepare"]).unwrap();
    let error = home.refusal(&one);
    assert!(error.starts_with("semantic_ids.safetensors is missing"), "{error}");

    // The same parts made again are the same parts.
    home.run(&one, &["semantic_ids"]).unwrap();
    assert_eq!(home.publish(&one).unwrap().version, made.version);

    // A text encoder of other settings makes all that came after it stale.
    let longer = home.recipe("one", &["text_encoder.epochs=2"]);
    home.run(&longer, &["text_encoder"]).unwrap();
    let error = home.refusal(&longer);
    let another = "was made from another text.safetensors than the one that is here now";
    assert!(error.starts_with(&format!("quantizer.safetensors {another}")), "{error}");

    // A folder of parts from before there were records.
    fs::remove_file(home.work().join("lineage.toml")).unwrap();
    let error = home.refusal(&one);
    assert!(error.starts_with("catalog.jsonl.zst has no lineage in lineage.toml"), "{error}");
}

#[test]
fn a_recipe_asks_for_the_parts_of_its_enabled_stages() {
    let home = tempfile::tempdir().unwrap();
    let mut recipe = small::recipe(home.path(), &[]);
    let check = |recipe: &Recipe| {
        for stage in STAGES {
            for part in stage.outputs() {
                // Two stages may make a part, each for other recipes.
                let makes =
                    |stage: &&dyn Stage| stage.is_enabled(recipe) && stage.outputs().contains(part);
                let (asks, is_enabled) = (recipe.asks_for(*part), STAGES.iter().any(makes));
                // The stage of the scorer makes its direct path only for a recipe with one, and that of the text
                // encoder these parts only for a pretrained one.
                let is_enabled = is_enabled && (*part != Part::Direct || recipe.direct.is_some());
                let of_pretrained = matches!(*part, Part::TextBert | Part::ItemVectors);
                let is_enabled =
                    is_enabled && (!of_pretrained || !recipe.text_encoder.is_trained());
                assert_eq!(asks, is_enabled, "{} {part:?}", stage.name());
            }
        }
    };
    check(&recipe);
    recipe.direct = Some(DirectRecipe::default());
    recipe.query = Some(QueryRecipe::default());
    check(&recipe);
    recipe.rechead = None;
    check(&recipe);
    recipe.language_model.as_mut().unwrap().compare = None;
    check(&recipe);
    recipe.language_model = None;
    check(&recipe);
}

#[test]
fn stages_name_sections_that_a_recipe_has() {
    let home = tempfile::tempdir().unwrap();
    let recipe = small::recipe(home.path(), &["direct.seeds=1".into(), "query.seeds=1".into()]);
    let table = toml::Table::try_from(&recipe).unwrap();
    for stage in STAGES {
        for section in stage.recipe_sections() {
            let mut steps = section.split('.');
            let first = steps.next().and_then(|step| table.get(step));
            let value = steps.fold(first, |value, step| value?.get(step));
            assert!(value.is_some(), "{} names {section}", stage.name());
        }
    }
}
