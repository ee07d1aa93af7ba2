//! Takes a pretrained BERT, whose files become a part of the bundle.

use super::ShopTexts;
use super::pretrained::write;
use crate::bundle::Part;
use crate::nn::text::{Bert, TextEncoder};
use crate::scorer::open_bert;
use crate::train::Workspace;
use anyhow::Context as _;
use serde_json::Value;
use std::path::Path;

/// Reasons that the projection is fitted on. Each costs milliseconds.
const REASONS_MAX: usize = 4_000;

/// Takes the BERT of a folder.
pub fn run(workspace: &mut Workspace<'_>, folder: &Path) -> anyhow::Result<Value> {
    let catalog = workspace.catalog()?;
    let texts = ShopTexts::of(workspace, &catalog, REASONS_MAX)?;
    let (tokens, bert) =
        open_bert(folder).with_context(|| format!("the BERT of {}", folder.display()))?;
    tokens.save(&workspace.path(Part::Tokenizer))?;
    let kept = workspace.path(Part::TextBert);
    bert.save(folder, &kept)?;
    let bert = std::sync::Arc::new(Bert::load(&kept)?);
    write(workspace, &texts, |projection| TextEncoder::of_bert(bert.clone(), projection))
}
