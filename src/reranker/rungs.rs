//! The catalogue of rungs: everything about a rung that is data, once.

use super::file::{ComparedFile, RerankerFile, WeighedFile};
use crate::bundle::Part;
use crate::domain::{Effort, Quality};

/// One rung of the catalogue.
///
/// Serving, training, the command line and the benches iterate over [`RUNGS`]. What differs from
/// rung to rung in code is a `match` on [`RungKind`] or [`RungSettings`], which the compiler checks.
#[derive(Debug)]
pub struct RungSpec {
    /// The quality of its rankings. Its word is the rung's name in files, reports, metrics and flags.
    pub quality: Quality,
    /// The effort of a caller who wants to climb up to it.
    pub effort: Effort,
    /// What it does, for `--help`.
    pub summary: &'static str,
    /// The parts of a bundle that it reads, beside the catalogue and the cards.
    pub parts: &'static [Part],
    /// How it ranks, and where its settings are.
    pub kind: RungKind,
}

/// How a rung ranks, and where in a bundle's [`RerankerFile`] its settings are.
#[derive(Clone, Copy, Debug)]
pub enum RungKind {
    /// The small models score each candidate.
    Scored,
    /// The language model weighs each candidate alone.
    Weighed {
        /// Its settings.
        file: fn(&mut RerankerFile) -> &mut Option<WeighedFile>,
    },
    /// The language model compares the best candidates.
    Compared {
        /// Whether it thinks first.
        thinks: bool,
        /// Its settings.
        file: fn(&mut RerankerFile) -> &mut Option<ComparedFile>,
    },
}

/// A rung's settings in a bundle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RungSettings {
    /// They are the scorer's: see `scorer.toml`.
    Scored,
    /// How weighed candidates are fused.
    Weighed(WeighedFile),
    /// How compared candidates are fused.
    Compared(ComparedFile),
}

/// What a language model's rung reads.
const LANGUAGE_MODEL: &[Part] = &[Part::Reranker, Part::Decoder];

/// All rungs, lowest first.
pub const RUNGS: &[RungSpec] = &[
    RungSpec {
        quality: Quality::Scored,
        effort: Effort::Scored,
        summary: "The small models score each candidate",
        parts: &[Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape],
        kind: RungKind::Scored,
    },
    RungSpec {
        quality: Quality::Weighed,
        effort: Effort::Weighed,
        summary: "The language model weighs each candidate alone",
        parts: LANGUAGE_MODEL,
        kind: RungKind::Weighed { file: |file| &mut file.weighed },
    },
    RungSpec {
        quality: Quality::Reranked,
        effort: Effort::Reranked,
        summary: "The language model compares the best at once",
        parts: LANGUAGE_MODEL,
        kind: RungKind::Compared { thinks: false, file: |file| &mut file.reranked },
    },
    RungSpec {
        quality: Quality::Reasoned,
        effort: Effort::Reasoned,
        summary: "The language model compares the best after a thought",
        parts: LANGUAGE_MODEL,
        kind: RungKind::Compared { thinks: true, file: |file| &mut file.reasoned },
    },
];

// === impl RungSpec ===

impl RungSpec {
    /// Its name in files, reports, metrics and flags.
    pub fn name(&self) -> &'static str {
        self.quality.as_str()
    }

    /// The rung of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        RUNGS.iter().find(|rung| rung.name() == name)
    }

    /// Whether a caller who makes this effort wants to climb there.
    pub fn is_within(&self, effort: Effort) -> bool {
        self.effort <= effort
    }

    /// The rung whose rankings have this quality; none for the order given.
    pub fn of(quality: Quality) -> Option<&'static Self> {
        RUNGS.iter().find(|rung| rung.quality == quality)
    }

    /// Its settings in a bundle with this file; `None` if the bundle does without it.
    pub fn settings(&self, mut of: RerankerFile) -> Option<RungSettings> {
        match self.kind {
            RungKind::Scored => Some(RungSettings::Scored),
            RungKind::Weighed { file } => file(&mut of).map(RungSettings::Weighed),
            RungKind::Compared { file, .. } => file(&mut of).map(RungSettings::Compared),
        }
    }

    /// Whether it needs the language model.
    pub fn needs_language_model(&self) -> bool {
        self.parts.contains(&Part::Decoder)
    }
}

// === impl RungSettings ===

impl RungSettings {
    /// How many of the best candidates the rung may put into another order.
    pub fn movable(self) -> usize {
        match self {
            Self::Scored => usize::MAX,
            Self::Weighed(file) => file.candidates_max,
            Self::Compared(file) => file.offered_max,
        }
    }
}

// === impl RerankerFile ===

impl RerankerFile {
    /// The language model's rungs of a bundle, lowest first, with their settings.
    pub fn rungs(self) -> impl Iterator<Item = (&'static RungSpec, RungSettings)> {
        let above = RUNGS.iter().filter(|rung| rung.needs_language_model());
        above.filter_map(move |rung| Some((rung, rung.settings(self)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_rise_and_each_has_a_name_of_its_own() {
        assert!(RUNGS.is_sorted_by(|a, b| a.quality < b.quality && a.effort < b.effort));
        let within = |effort| RUNGS.iter().filter(|rung| rung.is_within(effort)).count();
        assert_eq!([Effort::Scored, Effort::Weighed, Effort::Auto].map(within), [1, 2, 4]);
        let is_named = |rung: &RungSpec| {
            RungSpec::named(rung.name()).is_some_and(|named| named.quality == rung.quality)
        };
        assert!(RUNGS.iter().all(is_named));
    }

    #[test]
    fn a_bundle_has_the_rungs_of_its_file() {
        let text = "[weighed]\nweight = 0.5\ncandidates_max = 9\n";
        let file: RerankerFile = toml::from_str(text).unwrap();
        let rungs: Vec<_> = file.rungs().map(|(rung, _)| rung.name()).collect();
        assert_eq!(rungs, ["weighed"]);
        assert_eq!(RerankerFile::default().rungs().count(), 0);
    }
}
