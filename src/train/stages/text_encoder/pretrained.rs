//! Takes a pretrained static table, and writes what every pretrained encoder's stage writes.

use super::ShopTexts;
use crate::bundle::Part;
use crate::nn::text::{NEAREST, NeighbourAgreement, Projection, TEXT_WIDTH, TextEncoder};
use crate::scorer::{ItemVectors, TextReader, open_static};
use crate::train::Workspace;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Reasons that the projection is fitted on, beside the items' texts, and likewise items.
pub const PROJECTION_TEXTS_MAX: usize = 20_000;
/// Items whose neighbours are compared, at most.
const ASKED_MAX: usize = 500;

/// Takes the static table of a folder.
pub fn run_static(workspace: &mut Workspace<'_>, folder: &Path) -> anyhow::Result<Value> {
    let catalog = workspace.catalog()?;
    let texts = ShopTexts::of(workspace, &catalog, PROJECTION_TEXTS_MAX)?;
    let (tokens, table) =
        open_static(folder).with_context(|| format!("the static table of {}", folder.display()))?;
    let table = table.halved();
    tokens.save(&workspace.path(Part::Tokenizer))?;
    let bare = |projection| TextEncoder::of_table(table.clone(), projection);
    write(workspace, &texts, bare)
}

/// Fits the projection, and writes the encoder and the items' vectors. `encoder` makes the encoder of a projection.
pub fn write(
    workspace: &mut Workspace<'_>,
    texts: &ShopTexts,
    encoder: impl Fn(Projection) -> TextEncoder,
) -> anyhow::Result<Value> {
    let tokens = crate::language::TextTokenizer::load(&workspace.path(Part::Tokenizer))?;
    let wide = encoder(Projection::fit(&[], 1)).wide().width();
    let reader = TextReader::new(tokens.clone(), encoder(Projection::fit(&[], wide)))?;
    let began = Instant::now();
    let vectors = reader.wides(&texts.items);
    let seconds = began.elapsed().as_secs_f64();
    let stride = (texts.items.len() / PROJECTION_TEXTS_MAX).max(1);
    let mut seen: Vec<f32> =
        vectors.chunks_exact(wide).step_by(stride).flatten().copied().collect();
    seen.extend(reader.wides(&texts.reasons));
    let projection = Projection::fit(&seen, wide);
    let narrow = projection.project_all(&vectors);
    let encoder = encoder(projection);
    encoder.save(&workspace.path(Part::Text))?;
    let kept = ItemVectors::of(&vectors, wide);
    fs::write(workspace.path(Part::ItemVectors), kept.to_bytes()?)
        .context("writing the items' vectors")?;
    let agreement = NeighbourAgreement::of(&vectors, wide, asked(texts.items.len()));
    let bytes: Vec<f32> = (0..kept.len() as u32).flat_map(|item| kept.vector(item)).collect();
    Ok(json!({
        "vocabulary": encoder.wide().vocabulary(),
        "width": wide,
        "projected_to": TEXT_WIDTH,
        "items": texts.items.len(),
        "item_vector_bytes": kept.bytes_an_item(),
        "microseconds_an_item": rounded(seconds * 1e6 / texts.items.len().max(1) as f64),
        // Shares of an item's nearest neighbours that are still its nearest.
        "neighbours": NEAREST,
        "agreement_in_bytes": rounded(agreement.share(&bytes, wide)),
        "agreement_projected": rounded(agreement.share(&narrow, TEXT_WIDTH)),
    }))
}

/// The items whose neighbours are compared: every so many.
pub fn asked(items: usize) -> Vec<u32> {
    (0..items as u32).step_by(items.div_ceil(ASKED_MAX).max(1)).collect()
}

pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
