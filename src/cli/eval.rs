//! `raisonne eval`: measures the orders of a bundle, or those in TREC files.

use super::progress::TerminalProgress;
use crate::bundle::{Manifest, Part, read_catalog};
use crate::shop::Shop;
use crate::train::case_results::CaseFile;
use crate::train::evaluation::{Evaluation, evaluate, table};
use crate::train::trec::{
    FIGURES, RunFigures, STANDARD_FIGURES, TrecFolder, measure_run, read_qrels, read_run,
};
use crate::train::{self, Recipe, STAGES, Workspace, shop_hash};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Digits of a hash that an error shows.
const HASH_DIGITS: usize = 12;

/// Arguments of `raisonne eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Folder of the bundle's shop, which `raisonne import` wrote. By default it is the shop that the bundle keeps, or the
    /// simulated one of its recipe, made again.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Bundle to evaluate.
    #[arg(long, value_name = "DIR", default_value = "models/demo")]
    bundle: PathBuf,
    /// File of another ranker's slates, if the one that the recipe names was moved.
    #[arg(long, value_name = "FILE")]
    slates: Option<PathBuf>,
    /// Also write each case with all its orders to this file: JSON Lines, then perhaps .zst.
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Also write TREC files to this new folder: qrels.txt, and a run for each order.
    #[arg(long, value_name = "DIR")]
    trec: Option<PathBuf>,
    /// Measure runs by these TREC judgements, without a bundle.
    #[arg(long, value_name = "FILE", requires = "run",
          conflicts_with_all = ["data", "slates", "cases", "trec"])]
    qrels: Option<PathBuf>,
    /// TREC run to measure. May be given several times.
    #[arg(long, value_name = "FILE", requires = "qrels")]
    run: Vec<PathBuf>,
    /// Print JSON. For TREC files, it has the figures of each query.
    #[arg(long)]
    json: bool,
}

/// The files that an evaluation writes beside its report.
struct EvalFiles {
    cases: Option<CaseFile>,
    trec: Option<TrecFolder>,
}

/// Where the shop of a bundle is.
enum ShopSource {
    /// In this folder.
    Folder(PathBuf),
    /// In the bundle.
    Kept,
    /// Nowhere: it is simulated again.
    Simulated,
}

impl EvalArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match &self.qrels {
            Some(qrels) => self.measure_runs(qrels),
            None => self.evaluate_bundle(),
        }
    }

    fn evaluate_bundle(&self) -> anyhow::Result<()> {
        // What can't be written is said before the work, not after it.
        let files = EvalFiles::create(self)?;
        let manifest = Manifest::read(&self.bundle)?;
        manifest.verify(&self.bundle)?;
        let mut progress = TerminalProgress::new();
        let work = tempfile::tempdir().context("creating a temporary folder")?;
        let evaluation = self.evaluate(&manifest, work.path(), &mut progress);
        progress.end();
        let evaluation = evaluation?;
        files.write(&evaluation)?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &evaluation.report)?;
            return Ok(writeln!(out)?);
        }
        Ok(writeln!(out, "{}", table(&evaluation.report))?)
    }

    /// Evaluates in the folder `work`. The bundle is only read.
    fn evaluate(
        &self,
        manifest: &Manifest,
        work: &Path,
        progress: &mut TerminalProgress,
    ) -> anyhow::Result<Evaluation> {
        let mut recipe = Recipe::read(&self.bundle.join(Part::Recipe.file()), &[])?;
        let source = self.shop_source(manifest, &recipe)?;
        self.place_slates(&mut recipe)?;
        match &source {
            ShopSource::Folder(folder) => {
                recipe.shop.imported = Some(std::path::absolute(folder)?);
                recipe.shop.simulated = None;
            }
            ShopSource::Kept => {
                recipe.shop.imported = Some(work.join(Part::Test.file()));
                recipe.shop.simulated = None;
            }
            ShopSource::Simulated => {}
        }
        let mut workspace = Workspace::new(work, recipe, progress)?;
        if matches!(source, ShopSource::Simulated) {
            train::run(STAGES[0], &mut workspace)?;
        }
        // The bundle's parts, its catalogue among them, replace those that were just made.
        for file in &manifest.file {
            let to = work.join(&file.name);
            fs::create_dir_all(to.parent().unwrap_or(work))?;
            let copied = fs::copy(self.bundle.join(&file.name), to);
            copied.with_context(|| format!("copying {} of the bundle", file.name))?;
        }
        check_shop(manifest, &workspace.shop_dir(), work)?;
        evaluate(&mut workspace)
    }

    /// The shop that is named, kept, simulated, or still where the recipe says.
    fn shop_source(&self, manifest: &Manifest, recipe: &Recipe) -> anyhow::Result<ShopSource> {
        if let Some(folder) = &self.data {
            return Ok(ShopSource::Folder(folder.clone()));
        }
        let kept = format!("{}/", Part::Test.file());
        if manifest.file.iter().any(|file| file.name.starts_with(&kept)) {
            return Ok(ShopSource::Kept);
        }
        let Some(imported) = &recipe.shop.imported else { return Ok(ShopSource::Simulated) };
        if imported.is_dir() {
            return Ok(ShopSource::Folder(imported.clone()));
        }
        bail!(
            "the bundle {} keeps no shop to evaluate on, its shop was not simulated, and the folder {} that it was made \
             from is not there. Name the folder of that shop with `--data DIR`, or make the bundle with \
             `--set evaluate.keep_test=true`, which keeps the shop in it",
            self.bundle.display(),
            imported.display()
        )
    }

    /// The slates of another ranker, where the recipe has some.
    fn place_slates(&self, recipe: &mut Recipe) -> anyhow::Result<()> {
        let Some(given) = &mut recipe.slates.given else {
            ensure!(self.slates.is_none(), "the bundle's recipe names no slates of another ranker");
            return Ok(());
        };
        if let Some(slates) = &self.slates {
            given.clone_from(slates);
        }
        ensure!(
            given.exists(),
            "the slates that the bundle was evaluated on are not at {}: name their file with `--slates FILE`",
            given.display()
        );
        Ok(())
    }

    fn measure_runs(&self, qrels: &Path) -> anyhow::Result<()> {
        let judgements = read_qrels(qrels)?;
        let measured = self.run.iter().map(|path| {
            let figures = measure_run(&judgements, &read_run(path)?);
            Ok((path, figures.with_context(|| format!("measuring {}", path.display()))?))
        });
        let measured = measured.collect::<anyhow::Result<Vec<(&PathBuf, RunFigures)>>>()?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let runs: Vec<_> = measured
                .iter()
                .map(|(path, figures)| json!({ "run": path, "figures": figures }))
                .collect();
            serde_json::to_writer_pretty(&mut out, &json!({ "qrels": qrels, "runs": runs }))?;
            return Ok(writeln!(out)?);
        }
        for (path, figures) in &measured {
            writeln!(out, "{}", figures_text(path, figures))?;
        }
        Ok(())
    }
}

// === impl EvalFiles ===

impl EvalFiles {
    fn create(args: &EvalArgs) -> anyhow::Result<Self> {
        let cases = args.cases.as_deref().map(CaseFile::create).transpose()?;
        Ok(Self { cases, trec: args.trec.as_deref().map(TrecFolder::create).transpose()? })
    }

    fn write(mut self, evaluation: &Evaluation) -> anyhow::Result<()> {
        if self.cases.is_none() && self.trec.is_none() {
            return Ok(());
        }
        for case in evaluation.cases() {
            if let Some(file) = &mut self.cases {
                file.write(&case)?;
            }
            if let Some(folder) = &mut self.trec {
                folder.write(&case)?;
            }
        }
        self.cases.map_or(Ok(()), CaseFile::finish)?;
        self.trec.map_or(Ok(()), TrecFolder::finish)
    }
}

/// Refuses a shop that the bundle was not made from: by the hash of its data snapshot, or by the items' ids if the bundle
/// is older than lineages.
fn check_shop(manifest: &Manifest, shop: &Path, work: &Path) -> anyhow::Result<()> {
    let another = || format!("{} is not the shop that the bundle was made from", shop.display());
    if !shop.join("shop.json").exists() {
        // It says what there is instead of a shop.
        Shop::open(shop)?;
    }
    if let Some(first) = manifest.lineage.first() {
        let found = shop_hash(shop)?;
        let short = |hash: &str| hash.get(..HASH_DIGITS).unwrap_or(hash).to_owned();
        ensure!(
            found == first.data,
            "{}: its data snapshot is {}, that of the bundle is {}",
            another(),
            short(&found),
            short(&first.data)
        );
        return Ok(());
    }
    let opened = Shop::open(shop)?;
    let catalog = read_catalog(work)?;
    let of_shop: BTreeSet<&str> = opened.items.iter().map(|item| item.id.as_str()).collect();
    let of_bundle: BTreeSet<&str> = catalog.items().iter().map(|item| item.id.as_str()).collect();
    let odd = of_shop.symmetric_difference(&of_bundle).next();
    let Some(odd) = odd else { return Ok(()) };
    let (holder, other) =
        if of_shop.contains(odd) { ("shop", "bundle") } else { ("bundle", "shop") };
    bail!(
        "{}: the {holder} has an item {odd:?}, the {other} has none of that id ({} items in the shop, {} in the bundle)",
        another(),
        of_shop.len(),
        of_bundle.len()
    )
}

/// The means of a run, for people.
fn figures_text(path: &Path, figures: &RunFigures) -> String {
    let RunFigures { queries, missing, unjudged, mean, queries_each: _ } = figures;
    let mut head = vec![format!("{}: {queries} queries", path.display())];
    if *missing > 0 {
        head.push(format!("{missing} of them missing in the run (they count as zero)"));
    }
    if *unjudged > 0 {
        head.push(format!("{unjudged} more without judgements (not measured)"));
    }
    let mut lines = vec![head.join(", ")];
    for names in [FIGURES.map(|(name, _)| name).as_slice(), &STANDARD_FIGURES.map(|(name, _)| name)]
    {
        let cells: Vec<String> =
            names.iter().map(|name| format!("{name} {:.4}", mean[name])).collect();
        lines.push(format!("  {}", cells.join("  ")));
    }
    lines.join("\n")
}
