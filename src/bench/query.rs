//! What a query costs: the scorer of a bundle with and without one.

use super::median_us;
use crate::bundle::Bundle;
use crate::scorer::{LiveRows, OpenedScorer, ScorerSlate, SlateItem};
use anyhow::{Context as _, Result, ensure};
use std::io::Write;
use std::path::Path;

/// Words of a title that the timed query says.
const TITLE_WORDS: usize = 3;

/// Times a slate of the catalogue's first items for the shopper of the first golden request: without a query, with one,
/// and what it takes to parse and encode it.
pub(super) fn query(
    dir: &Path,
    candidates: usize,
    repetitions: usize,
    out: &mut dyn Write,
) -> Result<()> {
    let opened = OpenedScorer::of(Bundle::open(dir)?)?;
    let model = &opened.model;
    ensure!(model.query().is_some(), "{} has no query path to time", dir.display());
    let golden = opened.golden().first().context("the bundle has no golden request")?;
    let user = golden.user.as_str().into();
    let card = model.cards.users.get(&user).context("the golden request's shopper has no card")?;
    let count = candidates.min(model.catalog.len());
    let items: Vec<SlateItem> = (0..count as u32).map(SlateItem::Known).collect();
    let title = &model.catalog.item(0).title;
    let words: Vec<&str> = title.split_whitespace().take(TITLE_WORDS).collect();
    let text = format!("{} without zinc, under 50", words.join(" "));
    let spoken = model.spoken(Some(&text), None);
    let silent = ScorerSlate {
        user: &user,
        now: golden.now,
        history: &card.history,
        pattern: Some(&card.vector),
        pattern_text: &card.pattern,
        rechead: Some(&card.rechead_vector),
        expected_item: None,
        counts: None,
        live: LiveRows::None,
        query: None,
        candidates: &items,
    };
    let mut scratch = model.scratch();
    let mut time = |slate: &ScorerSlate<'_>| {
        median_us(repetitions, || {
            std::hint::black_box(model.score(slate, &mut scratch));
            Ok(())
        })
    };
    let without = time(&silent)?;
    let with = time(&ScorerSlate { query: spoken.as_ref(), ..silent })?;
    let parsing = median_us(repetitions, || {
        std::hint::black_box(model.spoken(Some(&text), None));
        Ok(())
    })?;
    writeln!(
        out,
        "query: {count} candidates in {with:.0} us, without a query in {without:.0} us; {parsing:.0} us to parse and \
         encode {text:?}"
    )?;
    Ok(())
}
