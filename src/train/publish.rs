//! A workspace to a bundle: its parts and their lineage, golden requests, a manifest, and one step at the end that
//! puts it in its place.

use super::lineage;
use super::offline_reranker::OfflineReranker;
use super::workspace::Workspace;
use crate::bundle::{
    Bundle, BundleError, Draft, GoldenRequest, MANIFEST, Manifest, Part, golden_text,
};
use crate::domain::UserId;
use crate::regular_file::{self, Links};
use crate::reranker::RerankerFile;
use crate::scorer::{OpenedScorer, SlateScores, score_golden};
use crate::shop;
use anyhow::Context as _;
use std::path::Path;

/// Golden requests in a bundle.
const GOLDEN: usize = 8;
/// Items of a golden slate.
const GOLDEN_SLATE: usize = 20;

/// Publishes the parts that the workspace's recipe asks for as the bundle `out`: all of it, or nothing.
/// `out` must not exist, or be a bundle, which is replaced in one step. Parts that were not made from one
/// another by this recipe are refused, and the stage to run again is named ([`StalePart`]).
///
/// [`StalePart`]: super::StalePart
pub fn publish(workspace: &Workspace<'_>, recipe: &str, out: &Path) -> anyhow::Result<Manifest> {
    let parts = parts(workspace)?;
    let lineage = lineage::check(workspace, &parts)?;
    let mut draft = Draft::begin(out).with_context(|| format!("publishing {}", out.display()))?;
    for part in parts {
        for file in part.files(&workspace.dir)? {
            draft.copy(&workspace.dir.join(&file), &file, part.bytes_max())?;
        }
    }
    if workspace.recipe.evaluate.keep_test {
        for file in shop::FILES {
            let name = format!("{}/{file}", Part::Test.file());
            draft.copy(&workspace.shop_dir().join(file), &name, Part::Test.bytes_max())?;
        }
    }
    draft.write(Part::Recipe.file(), recipe.as_bytes())?;
    draft.write(Part::Golden.file(), &golden_text(&[]))?;
    let manifest = |draft: &Draft<'_>| {
        let manifest = Manifest::of(draft.path(), &workspace.recipe.name)?;
        Ok::<_, BundleError>(manifest.with_lineage(lineage.clone()))
    };
    let unpinned = manifest(&draft)?;
    draft.write(MANIFEST, unpinned.to_text().as_bytes())?;
    let golden = golden(draft.path())?;
    draft.write(Part::Golden.file(), &golden_text(&golden))?;
    let manifest = manifest(&draft)?;
    draft.write(MANIFEST, manifest.to_text().as_bytes())?;
    // What a server would refuse is not published.
    Bundle::open(draft.path())?;
    draft.place().with_context(|| format!("publishing {}", out.display()))?;
    Ok(manifest)
}

/// The parts that the bundle takes from the workspace. Without a rung that uses the language model, the
/// bundle does not hold it.
fn parts(workspace: &Workspace<'_>) -> anyhow::Result<Vec<Part>> {
    let mut parts = lineage::parts_of(&workspace.recipe);
    if !uses_language_model(workspace)? {
        parts.retain(|part| !matches!(part, Part::Decoder | Part::Reranker));
    }
    Ok(parts)
}

/// Whether any rung uses the language model.
fn uses_language_model(workspace: &Workspace<'_>) -> anyhow::Result<bool> {
    if !workspace.has(Part::Reranker) {
        return Ok(false);
    }
    let path = workspace.path(Part::Reranker);
    let reading = || format!("reading {}", path.display());
    let file = regular_file::read_to_string(&path, Links::Refused, Part::Reranker.bytes_max());
    let file = file.with_context(reading)?;
    let file: RerankerFile = toml::from_str(&file).with_context(reading)?;
    Ok(file != RerankerFile::default())
}

/// Requests of a few users for items spread over the catalogue, with their scores by the bundle in `dir` on
/// this machine. A machine that computes others must not serve the bundle.
pub fn golden(dir: &Path) -> anyhow::Result<Vec<GoldenRequest>> {
    let bundle = Bundle::open_draft(dir)?;
    let decoder = bundle.has(Part::Decoder).then(|| bundle.path(Part::Decoder));
    let model = OpenedScorer::of(bundle)?.model;
    let mut users: Vec<&UserId> = model.cards.users.keys().collect();
    users.sort_unstable();
    let stride = (users.len() / GOLDEN).max(1);
    let items = model.catalog.items();
    let mut scratch = model.scratch();
    let requests = users.into_iter().step_by(stride).take(GOLDEN).enumerate();
    let golden = requests.map(|(turn, user)| {
        let spread = items.iter().skip(turn).step_by((items.len() / GOLDEN_SLATE).max(1));
        let slate = spread.take(GOLDEN_SLATE).map(|item| item.id.as_str().into()).collect();
        let now = model.cards.as_of;
        let user = user.as_str().into();
        let blank = GoldenRequest { user, now, items: slate, ..GoldenRequest::default() };
        let SlateScores { logits: scores, rechead, .. } =
            score_golden(&model, &blank, &mut scratch)?;
        Ok(GoldenRequest { scores, rechead, ..blank })
    });
    let mut golden = golden.collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(decoder) = decoder {
        let reranker = OfflineReranker::start(&decoder, &model.catalog)?;
        for golden in &mut golden {
            golden.weighed = reranker.weigh_golden(&model, golden)?;
        }
    }
    Ok(golden)
}
