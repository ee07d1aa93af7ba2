//! `raisonne stage`, `export` and `bundle`: train the models of a recipe.

use super::interrupt::{stop_on_interrupt, with_hint};
use super::progress::{JsonProgress, TerminalProgress};
use super::serve::runtime;
use crate::app;
use crate::bundle::Manifest;
use crate::config::Config;
use crate::train::evaluation::table;
use crate::train::{self, ProgressObserver, Recipe, STAGES, Workspace, export, publish, warnings};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;

/// Digits of a data snapshot's hash that are shown.
const DATA_DIGITS: usize = 12;

/// Arguments of `raisonne stage`.
#[derive(Args, Debug)]
pub struct StageArgs {
    /// Name of the stage; `--list` shows them.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// List all stages.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder of the parts. The report is written there too.
    #[arg(long, default_value = "data/work")]
    work: PathBuf,
    /// Write progress as JSON Lines to stderr.
    #[arg(long)]
    json: bool,
}

/// A recipe and the values that override it.
#[derive(Args, Debug)]
struct RecipeArgs {
    /// TOML file with the recipe.
    #[arg(long, default_value = "models/demo.toml")]
    recipe: PathBuf,
    /// Override a value of the recipe, such as `reward_model.loss=bce`. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Arguments of `raisonne export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder of the parts. The stages up to `text_encoder` must have run there.
    #[arg(long, default_value = "data/work")]
    work: PathBuf,
    /// Also write the scorer's features of each candidate.
    #[arg(long)]
    features: bool,
    /// Safetensors file to write.
    #[arg(long)]
    out: PathBuf,
}

/// Subcommands of `raisonne bundle`.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Run every stage of a recipe and publish the bundle.
    ///
    /// Example: raisonne bundle make --recipe models/demo.toml --out models/demo
    Make(MakeArgs),
    /// Verify a bundle: its manifest, the hashes of its files, where its parts come from, and its golden requests.
    ///
    /// Example: raisonne bundle verify models/demo
    Verify(VerifyArgs),
}

/// Arguments of `raisonne bundle make`.
#[derive(Args, Debug)]
pub struct MakeArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder of the parts.
    #[arg(long, default_value = "data/work")]
    work: PathBuf,
    /// Folder of the new bundle. A bundle that is there is replaced in one step, once the new one is whole.
    #[arg(long)]
    out: PathBuf,
    /// First stage to run. The parts of earlier stages must be in the folder of the parts.
    #[arg(long)]
    from: Option<String>,
    /// Write progress as JSON Lines to stderr, and the stages' reports as JSON to stdout.
    #[arg(long)]
    json: bool,
}

/// Arguments of `raisonne bundle verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Folder of the bundle.
    bundle: PathBuf,
}

/// Runs `work` with its progress on stderr: a bar, or JSON Lines.
fn with_progress<T>(
    json: bool,
    work: impl FnOnce(&mut dyn ProgressObserver) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if json {
        return work(&mut JsonProgress::default());
    }
    let mut progress = TerminalProgress::new();
    let done = work(&mut progress);
    progress.end();
    done
}

impl StageArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.list {
            for stage in STAGES {
                writeln!(out, "{:<14} {}", stage.name(), stage.about())?;
            }
            return Ok(());
        }
        let name = self.name.unwrap_or_default();
        let stage = STAGES.iter().find(|stage| stage.name() == name).with_context(|| {
            let known: Vec<_> = STAGES.iter().map(|stage| stage.name()).collect();
            format!("there is no stage {name:?}; the stages are {}", known.join(", "))
        })?;
        let recipe = Recipe::read(&self.recipe.recipe, &self.recipe.set)?;
        let stop = stop_on_interrupt()?;
        let report = with_progress(self.json, |progress| {
            let mut workspace = Workspace::new(&self.work, recipe, progress)?.with_stop(stop);
            train::run(*stage, &mut workspace)
        });
        let report = report.map_err(|error| with_hint(error, "run the same command again"))?;
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
        Ok(())
    }
}

impl ExportArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let recipe = Recipe::read(&self.recipe.recipe, &self.recipe.set)?;
        let mut progress = TerminalProgress::new();
        let mut workspace = Workspace::new(&self.work, recipe, &mut progress)?;
        export::export(&mut workspace, self.features, &self.out)?;
        progress.end();
        writeln!(std::io::stdout(), "written to {}", self.out.display())?;
        Ok(())
    }
}

impl BundleCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Make(make) => make.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl MakeArgs {
    fn run(self) -> anyhow::Result<()> {
        let recipe = Recipe::read(&self.recipe.recipe, &self.recipe.set)?;
        let text = toml::to_string(&recipe)?;
        let (stages, stop) = (self.stages()?, stop_on_interrupt()?);
        let mut reports = Vec::new();
        let manifest = with_progress(self.json, |progress| {
            let workspace = Workspace::new(&self.work, recipe.clone(), progress)?;
            let mut workspace = workspace.with_stop(stop);
            // Hours of training should not end in a refusal.
            train::check_lineage_before(&workspace, *stages.first().context("no stage")?)?;
            for stage in stages.iter().filter(|stage| stage.is_enabled(&recipe)) {
                let report = train::run(*stage, &mut workspace);
                let from = || format!("run the same command with `--from {}`", stage.name());
                reports.push(report.map_err(|error| with_hint(error, &from()))?);
            }
            publish::publish(&workspace, &text, &self.out)
        })?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let warnings = warnings::reported(&self.work);
            let made = json!({
                "version": manifest.version, "out": self.out, "stages": reports, "warnings": warnings
            });
            serde_json::to_writer_pretty(&mut out, &made)?;
            return Ok(writeln!(out)?);
        }
        for report in &reports {
            writeln!(
                out,
                "{:<14} {:>7} s",
                report["stage"].as_str().unwrap_or(""),
                report["seconds"]
            )?;
        }
        if let Some(report) = reports.last() {
            writeln!(out, "{}", table(&report["measured"]))?;
        }
        for warning in warnings::reported(&self.work) {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(out, "published {} as {}", manifest.version, self.out.display())?;
        Ok(())
    }
}

impl MakeArgs {
    /// The stages from `--from` on.
    fn stages(&self) -> anyhow::Result<&'static [&'static dyn train::Stage]> {
        let Some(from) = &self.from else { return Ok(STAGES) };
        let at = STAGES.iter().position(|stage| stage.name() == from);
        Ok(&STAGES[at.with_context(|| {
            format!("there is no stage {from:?}; `raisonne stage --list` shows them")
        })?..])
    }
}

impl VerifyArgs {
    fn run(self) -> anyhow::Result<()> {
        let mut config = Config::default();
        let lineage = lineage_text(&Manifest::read(&self.bundle)?);
        config.bundle.path = self.bundle;
        let (services, opened) = runtime()?.block_on(app::open_services(&config))?;
        let (version, top) = (&opened.version, services.live.ladder().top().as_str());
        writeln!(
            std::io::stdout(),
            "{version} is intact, and reproduces its golden scores up to the rung {top}; {lineage}"
        )?;
        Ok(())
    }
}

/// What a manifest says about where the parts come from.
fn lineage_text(manifest: &Manifest) -> String {
    match manifest.lineage.first() {
        Some(first) => format!(
            "its parts were made from one another, and from the data snapshot {}",
            first.data.get(..DATA_DIGITS).unwrap_or(&first.data)
        ),
        None => "it has no lineage: it was made before bundles had one, and nothing shows that its parts were \
                 made from one another"
            .to_owned(),
    }
}
