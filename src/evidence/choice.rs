//! Which reasons of an item are told, and in which order?
//!
//! A reason that rests on the shopper's own history comes before one about the item alone, and one about what shoppers
//! like this one went on to buy before the rest. A form of sentence, and a fact, that was told often in the same list gives
//! way.

use crate::bundle::{Backing, CardReason};
use crate::domain::EvidenceKind;
use rustc_hash::FxHashMap;

/// Times that a form or a fact counts as told, at most. So the penalty is bounded, and a strong reason still stands.
const TOLD_MAX: u32 = 3;
/// Words at the beginning of a sentence that make its form.
const FORM_WORDS: usize = 2;

/// What is known of one reason for one shopper. Each is in `0..=1`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReasonSignals {
    /// How strongly the shopper's own history backs it.
    pub backing: f32,
    /// How likely the shopper goes on to buy what it names.
    pub relevance: f32,
    /// The scorer's attention to it.
    pub attention: f32,
}

/// What each signal counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceWeights {
    /// Of the backing.
    pub backing: f32,
    /// Of the relevance.
    pub relevance: f32,
    /// Of the attention.
    pub attention: f32,
    /// Taken off for each time that its form was told, and for each time that the fact was that it rests on.
    pub repetition: f32,
}

/// Chooses the reasons of the items of one list, from the first item on.
#[derive(Clone, Debug)]
pub struct ReasonChoice {
    weights: ChoiceWeights,
    /// How often each form was told.
    forms: FxHashMap<Form, u32>,
    /// How often each attribute and each companion was.
    facts: FxHashMap<Backing, u32>,
}

/// The kind of a claim, and the first words of its sentence without values and figures.
pub type Form = (EvidenceKind, String);

/// A reason that may be told: its place on the card, its value without repetition, its form and what it rests on.
struct Fit {
    place: usize,
    value: f32,
    form: Form,
    fact: Backing,
}

// === impl ChoiceWeights ===

impl ChoiceWeights {
    /// Set by hand: `docs/evaluation.md` says what they do.
    pub const CHOSEN: Self =
        Self { backing: 1.0, relevance: 1.0, attention: 0.5, repetition: 0.15 };
    /// The attention alone.
    pub const ATTENTION: Self =
        Self { backing: 0.0, relevance: 0.0, attention: 1.0, repetition: 0.0 };

    /// The value of a reason with these signals.
    pub fn value(&self, signals: ReasonSignals) -> f32 {
        let ReasonSignals { backing, relevance, attention } = signals;
        self.backing * backing + self.relevance * relevance + self.attention * attention
    }
}

impl Default for ChoiceWeights {
    fn default() -> Self {
        Self::CHOSEN
    }
}

// === impl ReasonChoice ===

impl ReasonChoice {
    /// A choice for a list of which nothing was told yet.
    pub fn new(weights: ChoiceWeights) -> Self {
        Self { weights, forms: FxHashMap::default(), facts: FxHashMap::default() }
    }

    /// The places of the reasons that are told of the next item, most telling first. `signals` belong to the reasons,
    /// `None` where one is not for this shopper. Equals keep the order of the card.
    pub fn choose(
        &mut self,
        reasons: &[CardReason],
        signals: &[Option<ReasonSignals>],
        most: usize,
    ) -> Vec<usize> {
        let fit = |(place, (reason, signals)): (usize, (&CardReason, &Option<ReasonSignals>))| {
            let value = self.weights.value((*signals)?);
            Some(Fit { place, value, form: form(reason)?, fact: reason.backing })
        };
        let mut left: Vec<Fit> = reasons.iter().zip(signals).enumerate().filter_map(fit).collect();
        let mut chosen = Vec::with_capacity(most.min(left.len()));
        while chosen.len() < most && !left.is_empty() {
            let values: Vec<f32> = left.iter().map(|fit| self.value(fit)).collect();
            let best = (1..left.len()).fold(0, |best, at| {
                if values[at].total_cmp(&values[best]).is_gt() { at } else { best }
            });
            let Fit { place, form, fact, .. } = left.remove(best);
            *self.forms.entry(form).or_default() += 1;
            if fact != Backing::Nothing {
                *self.facts.entry(fact).or_default() += 1;
            }
            chosen.push(place);
        }
        chosen
    }

    /// What a reason is worth after what was told.
    fn value(&self, fit: &Fit) -> f32 {
        let times = |told: Option<&u32>| told.copied().unwrap_or(0).min(TOLD_MAX) as f32;
        let told = times(self.forms.get(&fit.form)) + times(self.facts.get(&fit.fact));
        fit.value - self.weights.repetition * told
    }
}

/// The form of a sentence: the kind of its claim, and its first words without values and figures. `None` for a reason
/// without evidence, which no card has.
pub fn form(reason: &CardReason) -> Option<Form> {
    let evidence = reason.evidence.first()?;
    let words = reason.text.split_whitespace().take(FORM_WORDS);
    let names_value = evidence.kind != EvidenceKind::CoPurchase;
    let is_value = |word: &str| {
        let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric());
        bare.contains(|letter: char| letter.is_ascii_digit())
            || word.starts_with('“')
            || (names_value && evidence.value.split_whitespace().any(|part| part == bare))
    };
    let words: Vec<&str> = words.map(|word| if is_value(word) { "#" } else { word }).collect();
    Some((evidence.kind, words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Backing;
    use crate::domain::{Evidence, ReasonSource};

    fn reason(kind: EvidenceKind, text: &str, value: &str) -> CardReason {
        let (attribute, value) = ("colour".into(), value.into());
        CardReason {
            text: text.into(),
            source: ReasonSource::Evidence,
            evidence: [Evidence { kind, item: None, attribute, value, count: 3, of: 9 }].into(),
            strength: 0.5,
            backing: Backing::Nothing,
            supporters: Vec::new(),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a choice takes optional signals")]
    fn signals(backing: f32, relevance: f32, attention: f32) -> Option<ReasonSignals> {
        Some(ReasonSignals { backing, relevance, attention })
    }

    /// A card: a pair, an attribute, and two claims about the item alone.
    fn card() -> Vec<CardReason> {
        vec![
            reason(
                EvidenceKind::CoPurchase,
                "Goes with “Red Mug”: 3 of the 9 have both.",
                "Red Mug",
            ),
            reason(EvidenceKind::Attribute, "For those who like red: 3 of its 9 buyers.", "red"),
            reason(EvidenceKind::Repeat, "3 of its 9 buyers came back for it.", ""),
            reason(EvidenceKind::Recency, "On the rise: 3 shoppers bought it.", ""),
        ]
    }

    #[test]
    fn each_signal_orders_the_reasons_of_a_card() {
        let none = signals(0.0, 0.0, 0.0);
        for (what, given, most, expected) in [
            (
                "history before attention",
                [signals(0.8, 0.0, 0.1), none, signals(0.0, 0.0, 0.8), none],
                2,
                vec![0, 2],
            ),
            (
                "relevance before attention",
                [none, signals(0.0, 0.6, 0.1), none, signals(0.0, 0.0, 0.7)],
                2,
                vec![1, 3],
            ),
            (
                "attention among equals",
                [none, none, signals(0.0, 0.0, 0.2), signals(0.0, 0.0, 0.8)],
                2,
                vec![3, 2],
            ),
            ("the card's order among equals", [none; 4], 3, vec![0, 1, 2]),
            ("not for this shopper", [None, None, signals(0.0, 0.0, 0.1), None], 3, vec![2]),
            ("none", [None; 4], 3, vec![]),
            ("no more than asked for", [none; 4], 0, vec![]),
        ] {
            let found = ReasonChoice::new(ChoiceWeights::CHOSEN).choose(&card(), &given, most);
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn a_form_that_was_told_gives_way_and_the_best_stands_where_there_is_no_other() {
        let (close, far) = (
            [signals(0.5, 0.0, 0.3), signals(0.4, 0.0, 0.3), None, None],
            [signals(0.9, 0.0, 0.5), signals(0.0, 0.0, 0.1), None, None],
        );
        let mut choice = ReasonChoice::new(ChoiceWeights::CHOSEN);
        let mut next = |given| choice.choose(&card(), given, 1);
        assert_eq!(next(&close), [0]);
        assert_eq!(next(&close), [1], "the same form gives way to one that is nearly as good");
        assert_eq!(next(&close), [0]);
        for _ in 0..20 {
            assert_eq!(next(&far), [0], "the penalty is bounded");
        }
        let alone = [signals(0.0, 0.0, 0.1), None, None, None];
        assert_eq!(next(&alone), [0], "nothing else is there");
    }

    #[test]
    fn a_fact_that_was_told_gives_way() {
        let about = |attribute, text: &str| CardReason {
            backing: Backing::Attribute(attribute),
            ..reason(EvidenceKind::Attribute, text, "")
        };
        let mut choice = ReasonChoice::new(ChoiceWeights::CHOSEN);
        let given = [signals(0.5, 0.0, 0.0), signals(0.4, 0.0, 0.0)];
        let first = [about(1, "For those who like red."), about(2, "Made for a birthday.")];
        assert_eq!(choice.choose(&first, &given, 1), [0]);
        let next = [about(1, "More of red."), about(3, "Chosen for a wedding.")];
        assert_eq!(choice.choose(&next, &given, 1), [1], "red was told in another form");
        let alone = [about(1, "More of red."), about(3, "Chosen for a wedding.")];
        assert_eq!(choice.choose(&alone[..1], &given[..1], 1), [0], "nothing else is there");
    }

    #[test]
    fn within_one_item_forms_vary_as_well() {
        let mut card = card();
        card.insert(
            1,
            reason(EvidenceKind::CoPurchase, "Goes with “Blue Mug”: 4 of the 9.", "Blue Mug"),
        );
        let given =
            [signals(0.5, 0.0, 0.3), signals(0.5, 0.0, 0.3), signals(0.45, 0.0, 0.3), None, None];
        let found = ReasonChoice::new(ChoiceWeights::CHOSEN).choose(&card, &given, 3);
        assert_eq!(found, [0, 2, 1]);
    }

    #[test]
    fn a_form_knows_no_value_and_no_figure() {
        let of = |text: &str, value: &str| {
            form(&reason(EvidenceKind::Attribute, text, value)).unwrap().1
        };
        for (one, other) in [
            ("3 of its 9 buyers chose red.", "40 of its 99 buyers chose blue."),
            ("A red piece: 3 of its 9.", "A blue piece: 4 of its 9."),
            ("More “red”: 3 of its 9.", "More “blue”: 4 of its 7."),
        ] {
            assert_eq!(of(one, "red"), of(other, "blue"), "{one}");
        }
        assert_ne!(of("3 of its 9 buyers", ""), of("For those who like red", "red"));
    }
}
