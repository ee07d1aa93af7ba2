//! Is each rung of the ladder better than the one below it, and than the best plain rule?

use crate::bundle::Part;
use crate::train::evaluation::evaluate;
use crate::train::{Stage, Workspace};
use anyhow::Context as _;
use serde_json::Value;

/// Measures each rung of the ladder against the rung below it, and against plain rules.
#[derive(Debug)]
pub struct Evaluate;

impl Stage for Evaluate {
    fn name(&self) -> &'static str {
        "evaluate"
    }

    fn about(&self) -> &'static str {
        "Compares each rung's order with that of the rung below and with plain rules on slates of the test time, with bootstrap intervals"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
    }

    fn may_read(&self) -> &'static [Part] {
        &[
            Part::SemanticIds,
            Part::Direct,
            Part::Query,
            Part::QueryShape,
            Part::Decoder,
            Part::Rechead,
            Part::RecheadShape,
            Part::Reranker,
        ]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Report]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let report = evaluate(workspace)?.report;
        std::fs::write(workspace.path(Part::Report), serde_json::to_vec_pretty(&report)?)
            .context("writing the report")?;
        Ok(report)
    }
}
