//! The claims about a slate that can be proved, as a constraint on thoughts.
//!
//! A grounded model chooses among these claims. So every thought of a small or untrusted model holds.

use super::prompt::Prompts;
use super::thought::backs;
use crate::bundle::{Backing, Catalog, HistoryEvent, ItemCard};
use crate::domain::EventKind;
use crate::evidence;

/// Attributes that a thought may say the shopper likes.
const LIKED_MAX: usize = 4;
/// Purchases with an attribute before the shopper is said to like it.
const LIKED_MIN: usize = 3;

/// How a model thinks before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThinkingMode {
    /// It answers at once.
    Off,
    /// It thinks freely, in at most this many tokens.
    Free(usize),
    /// It thinks in claims that can be proved, in at most this many tokens.
    Grounded(Grounds, usize),
}

/// The claims about a shopper and candidates that can be proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grounds {
    /// The numbers of the attributes that the shopper likes, the most frequent first.
    pub likes: Vec<u32>,
    /// Candidates, each with the part of the history that backs a reason on its card.
    pub claims: Vec<(u32, Backing)>,
}

// === impl Grounds ===

impl Grounds {
    /// The claims that these cards back for the shopper with this history.
    pub fn of(
        catalog: &Catalog,
        cards: &[ItemCard],
        history: &[HistoryEvent],
        offered: &[u32],
    ) -> Self {
        let claims = offered.iter().flat_map(|&item| {
            let reasons = cards[item as usize].reasons.iter().map(|reason| reason.backing);
            let is_sayable = |backing: &Backing| match backing {
                Backing::Attribute(number) => {
                    let (name, value) = catalog.attribute(*number);
                    evidence::is_descriptive(name) && !value.contains('.')
                }
                _ => true,
            };
            let backed = reasons.filter(is_sayable);
            let backed = backed.filter(|backing| backs(catalog, history, *backing));
            backed.map(move |backing| (item, backing))
        });
        Self { likes: likes(catalog, history), claims: claims.collect() }
    }

    /// The tokens of every sentence about what the shopper likes: each attribute alone, and each pair.
    pub(super) fn encode_likes(&self, prompts: &Prompts) -> Vec<Vec<u32>> {
        let pairs = self.likes.iter().enumerate().flat_map(|(at, &first)| {
            self.likes[at + 1..].iter().map(move |&second| prompts.encode_likes(&[first, second]))
        });
        let alone = self.likes.iter().map(|&only| prompts.encode_likes(&[only]));
        let mut sentences: Vec<_> = pairs.chain(alone).collect();
        sort_and_dedup(&mut sentences);
        sentences
    }

    /// The tokens of every claim about a candidate, each followed by the tokens that close a thought.
    pub(super) fn encode_claims(&self, prompts: &Prompts) -> Vec<Vec<u32>> {
        let claims =
            self.claims.iter().filter_map(|&(item, backing)| prompts.encode_claim(item, backing));
        let mut sentences: Vec<_> =
            claims.map(|claim| [&claim, prompts.answer_prefix()].concat()).collect();
        sort_and_dedup(&mut sentences);
        sentences
    }
}

/// Removes duplicates: a constraint's entries must be distinct.
fn sort_and_dedup(sentences: &mut Vec<Vec<u32>>) {
    sentences.sort_unstable();
    sentences.dedup();
}

/// The attributes that a shopper bought repeatedly, the most frequent first. Values that a sentence can't hold are left
/// out.
pub fn likes(catalog: &Catalog, history: &[HistoryEvent]) -> Vec<u32> {
    let bought = history.iter().filter(|past| past.kind == EventKind::Purchase);
    evidence::common_attributes(catalog, bought, |value| !value.contains('.'), LIKED_MAX, LIKED_MIN)
}
