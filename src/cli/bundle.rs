//! `stage`, `export`, `bundle` and `eval`: from a recipe to models, and what they are worth.

use super::interrupt::{stop_on_interrupt, with_hint};
use super::progress::{Bar, JsonLines};
use super::serve::runtime;
use crate::app;
use crate::bundle::{Manifest, Part};
use crate::config::Config;
use crate::train::stages::{evaluate, table};
use crate::train::{self, ProgressObserver, Recipe, STAGES, Workspace, export, publish};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;

/// Carries out one training stage.
#[derive(Args, Debug)]
pub struct Stage {
    /// Its name: see `--list`.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Lists all stages.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The folder of the parts; the report is written there as well.
    #[arg(long, default_value = "data/work")]
    work: PathBuf,
    /// Writes progress as JSON Lines to stderr.
    #[arg(long)]
    json: bool,
}

/// A recipe, and what differs from it.
#[derive(Args, Debug)]
struct RecipeArgs {
    /// What to make, and how.
    #[arg(long, default_value = "models/demo.toml")]
    recipe: PathBuf,
    /// Lays a value over the recipe, such as `reward_model.loss=bce`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Writes the examples and cases of a recipe as plain numbers.
#[derive(Args, Debug)]
pub struct Export {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The folder of the parts: the stages up to the text encoder must have run there.
    #[arg(long, default_value = "data/work")]
    work: PathBuf,
    /// The safetensors file to write.
    #[arg(long)]
    out: PathBuf,
}

/// Makes, verifies and shows bundles.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Carries out every stage of a recipe and publishes what came of it.
    Make(Make),
    /// Checks every file of a bundle against its manifest, and its golden scores.
    Verify(Verify),
}

/// Carries out every stage of a recipe and publishes what came of it.
#[derive(Args, Debug)]
pub struct Make {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The folder of the parts.
    #[arg(long, default_value = "data/work")]
    work: PathBuf,
    /// The bundle's folder.
    #[arg(long)]
    out: PathBuf,
    /// The stage to begin with, where those before it have left their parts in the folder.
    #[arg(long)]
    from: Option<String>,
    /// Writes progress as JSON Lines to stderr, and the stages' reports as JSON to stdout.
    #[arg(long)]
    json: bool,
}

/// Checks every file of a bundle, and its golden requests on every rung.
#[derive(Args, Debug)]
pub struct Verify {
    /// The bundle's folder.
    bundle: PathBuf,
}

/// Measures a bundle on a shop.
#[derive(Args, Debug)]
pub struct Eval {
    /// A folder that `raisonne import` made. Without it, the shop of the bundle's own recipe is
    /// made again.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The bundle.
    #[arg(long, default_value = "models/demo")]
    bundle: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Does some work, with its progress on stderr: a bar, or JSON Lines.
fn with_progress<T>(
    json: bool,
    work: impl FnOnce(&mut dyn ProgressObserver) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if json {
        return work(&mut JsonLines::default());
    }
    let mut bar = Bar::new();
    let done = work(&mut bar);
    bar.end();
    done
}

impl Stage {
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
            format!("there is no stage {name:?}; there are {}", known.join(", "))
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

impl Export {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let recipe = Recipe::read(&self.recipe.recipe, &self.recipe.set)?;
        let mut bar = Bar::new();
        export::export(&mut Workspace::new(&self.work, recipe, &mut bar)?, &self.out)?;
        bar.end();
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

impl Make {
    fn run(self) -> anyhow::Result<()> {
        let recipe = Recipe::read(&self.recipe.recipe, &self.recipe.set)?;
        let text = toml::to_string(&recipe)?;
        let (stages, stop) = (self.stages()?, stop_on_interrupt()?);
        let mut reports = Vec::new();
        let manifest = with_progress(self.json, |progress| {
            let workspace = Workspace::new(&self.work, recipe.clone(), progress)?;
            let mut workspace = workspace.with_stop(stop);
            for stage in stages.iter().filter(|stage| stage.is_enabled(&recipe)) {
                let report = train::run(*stage, &mut workspace);
                let from = || format!("run the same command with `--from {}`", stage.name());
                reports.push(report.map_err(|error| with_hint(error, &from()))?);
            }
            publish::publish(&workspace, &text, &self.out)
        })?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let made = json!({ "version": manifest.version, "out": self.out, "stages": reports });
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
        writeln!(out, "published {} as {}", manifest.version, self.out.display())?;
        Ok(())
    }
}

impl Make {
    /// The stages from the first that is to be carried out.
    fn stages(&self) -> anyhow::Result<&'static [&'static dyn train::Stage]> {
        let Some(from) = &self.from else { return Ok(STAGES) };
        let at = STAGES.iter().position(|stage| stage.name() == from);
        Ok(&STAGES[at.with_context(|| format!("there is no stage {from:?}"))?..])
    }
}

impl Verify {
    fn run(self) -> anyhow::Result<()> {
        let mut config = Config::default();
        config.bundle.path = self.bundle;
        let (services, opened) = runtime()?.block_on(app::open_services(&config))?;
        let (version, top) = (&opened.version, services.live.ladder().top().as_str());
        writeln!(std::io::stdout(), "{version} is whole, and answers as it should up to {top}")?;
        Ok(())
    }
}

impl Eval {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let manifest = Manifest::read(&self.bundle)?;
        manifest.verify(&self.bundle)?;
        let mut recipe = Recipe::read(&self.bundle.join(Part::Recipe.file()), &[])?;
        let work = tempfile::tempdir().context("making a folder to work in")?;
        let mut bar = Bar::new();
        if let Some(data) = self.data {
            recipe.shop.imported = Some(std::path::absolute(data)?);
            recipe.shop.simulated = None;
        }
        let mut workspace = Workspace::new(work.path(), recipe, &mut bar)?;
        if workspace.recipe.shop.simulated.is_some() {
            train::run(STAGES[0], &mut workspace)?;
        }
        // The bundle's own parts, its catalogue among them, take the place of what was made anew.
        for file in &manifest.file {
            let to = work.path().join(&file.name);
            std::fs::create_dir_all(to.parent().unwrap_or(work.path()))?;
            std::fs::copy(self.bundle.join(&file.name), to)?;
        }
        let report = evaluate(&mut workspace)?;
        bar.end();
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", table(&report))?;
        }
        Ok(())
    }
}
