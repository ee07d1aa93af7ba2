//! A workspace to a bundle: golden requests, a manifest, and a rename at the end.

use super::offline_reranker::OfflineReranker;
use super::workspace::Workspace;
use crate::bundle::{Bundle, GoldenRequest, MANIFEST, Manifest, Part, write_golden};
use crate::domain::UserId;
use crate::reranker::RerankerFile;
use crate::scorer::{OpenedScorer, SlateScores, score_golden};
use crate::shop;
use anyhow::Context as _;
use std::fs;
use std::path::Path;

/// Golden requests in a bundle.
const GOLDEN: usize = 8;
/// Items of a golden slate.
const GOLDEN_SLATE: usize = 20;

/// Publishes the parts in the workspace as the bundle `out`: all of it, or nothing. `out` must not
/// exist, or be a bundle.
pub fn publish(workspace: &Workspace<'_>, recipe: &str, out: &Path) -> anyhow::Result<Manifest> {
    anyhow::ensure!(
        !out.exists() || out.join(MANIFEST).exists(),
        "{} exists and is not a bundle: it is not replaced",
        out.display()
    );
    let home = out.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(home).with_context(|| format!("making the folder {}", home.display()))?;
    let draft = tempfile::Builder::new()
        .prefix(".draft-")
        .tempdir_in(home)
        .with_context(|| format!("writing to {}", home.display()))?;
    let has_rungs = uses_language_model(workspace)?;
    for part in Part::ALL {
        let absent = part.is_optional() && !workspace.path(part).exists()
            || !has_rungs && matches!(part, Part::Decoder | Part::Reranker);
        if absent || matches!(part, Part::Golden | Part::Recipe | Part::Test) {
            continue;
        }
        for file in part.files(&workspace.dir)? {
            let to = draft.path().join(&file);
            let copy = fs::create_dir_all(to.parent().unwrap_or(draft.path()))
                .and_then(|()| fs::copy(workspace.dir.join(&file), &to));
            copy.with_context(|| format!("copying {file} from the workspace"))?;
        }
    }
    if workspace.recipe.evaluate.keep_test {
        keep_test(workspace, &draft.path().join(Part::Test.file()))?;
    }
    fs::write(draft.path().join(Part::Recipe.file()), recipe)?;
    write_golden(draft.path(), &[])?;
    Manifest::of(draft.path(), &workspace.recipe.name)?.write(draft.path())?;
    let golden = golden(draft.path())?;
    write_golden(draft.path(), &golden)?;
    let manifest = Manifest::of(draft.path(), &workspace.recipe.name)?;
    manifest.write(draft.path())?;
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("replacing {}", out.display()))?;
    }
    let draft = draft.keep();
    fs::rename(&draft, out).with_context(|| format!("publishing {}", out.display()))?;
    Ok(manifest)
}

/// Copies the shop, which holds the test time, into the draft of a bundle.
fn keep_test(workspace: &Workspace<'_>, to: &Path) -> anyhow::Result<()> {
    let from = workspace.shop_dir();
    let keeping = || format!("keeping the shop {} in the bundle", from.display());
    fs::create_dir(to).with_context(keeping)?;
    for file in shop::FILES {
        fs::copy(from.join(file), to.join(file)).with_context(keeping)?;
    }
    Ok(())
}

/// Whether any rung uses the language model. Without one, the bundle does not hold it.
fn uses_language_model(workspace: &Workspace<'_>) -> anyhow::Result<bool> {
    let path = workspace.path(Part::Reranker);
    if !path.exists() {
        return Ok(false);
    }
    let reading = || format!("reading {}", path.display());
    let file = std::fs::read_to_string(&path).with_context(reading)?;
    let file: RerankerFile = toml::from_str(&file).with_context(reading)?;
    Ok(file != RerankerFile::default())
}

/// Requests of a few users for items spread over the catalogue, with their scores on this machine. A
/// machine that computes others must not serve the bundle.
fn golden(dir: &Path) -> anyhow::Result<Vec<GoldenRequest>> {
    let bundle = Bundle::open(dir)?;
    let decoder = bundle.path(Part::Decoder);
    let model = OpenedScorer::of(bundle)?.model;
    let mut users: Vec<&UserId> = model.cards.users.keys().collect();
    users.sort();
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
    if decoder.exists() {
        let reranker = OfflineReranker::start(&decoder, &model.catalog)?;
        for golden in &mut golden {
            golden.weighed = reranker.weigh_golden(&model, golden)?;
        }
    }
    Ok(golden)
}
