//! What can be shown of a slate: the thoughts that hold, before any is thought.
//!
//! A model that is small, or that nobody trusts, may be held to these: then it chooses what to say, and
//! can't say what is not so.

use super::prompt::Prompts;
use crate::bundle::{Backing, Catalog, HistoryEvent, ItemCard};
use crate::domain::EventKind;
use crate::evidence;

/// Attributes that a shopper may be said to like.
const LIKED_MAX: usize = 4;
/// Purchases that an attribute must occur in, to be liked.
const LIKED_MIN: usize = 3;

/// What can be shown of a shopper and of candidates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grounds {
    /// The numbers of attributes that the shopper chose again and again, most often first.
    pub likes: Vec<u32>,
    /// Candidates, each with something in the history that backs it by a reason on its card.
    pub claims: Vec<(u32, Backing)>,
}

// === impl Grounds ===

impl Grounds {
    /// What these cards show of these candidates to the shopper with this history.
    pub fn of(
        catalog: &Catalog,
        cards: &[ItemCard],
        history: &[HistoryEvent],
        offered: &[u32],
    ) -> Self {
        let claims = offered.iter().flat_map(|&item| {
            let reasons = cards[item as usize].reasons.iter().map(|reason| reason.backing);
            let can_be_said = |backing: &Backing| match backing {
                Backing::Attribute(number) => {
                    let (name, value) = catalog.attribute(*number);
                    evidence::is_descriptive(name) && !value.contains('.')
                }
                _ => true,
            };
            let backed = reasons.filter(can_be_said);
            let backed = backed.filter(|backing| backs(catalog, history, *backing));
            backed.map(move |backing| (item, backing))
        });
        Self { likes: likes(catalog, history), claims: claims.collect() }
    }

    /// What may be said of what the shopper likes, as tokens: nothing, where nothing is known.
    pub(super) fn likes_told(&self, prompts: &Prompts) -> Vec<Vec<u32>> {
        let pairs = self.likes.iter().enumerate().flat_map(|(at, &first)| {
            self.likes[at + 1..].iter().map(move |&second| prompts.likes(&[first, second]))
        });
        let alone = self.likes.iter().map(|&only| prompts.likes(&[only]));
        let mut told: Vec<_> = pairs.chain(alone).collect();
        distinct(&mut told);
        told
    }

    /// What may be said of candidates, as tokens, each with what closes a thought.
    pub(super) fn claims_told(&self, prompts: &Prompts) -> Vec<Vec<u32>> {
        let claims = self.claims.iter().filter_map(|&(item, backing)| prompts.claim(item, backing));
        let mut told: Vec<_> = claims.map(|claim| [&claim, prompts.answer()].concat()).collect();
        distinct(&mut told);
        told
    }
}

/// Leaves out what would be said twice.
fn distinct(told: &mut Vec<Vec<u32>>) {
    told.sort_unstable();
    told.dedup();
}

/// Whether a history backs a reason.
pub(super) fn backs(catalog: &Catalog, history: &[HistoryEvent], backing: Backing) -> bool {
    match backing {
        Backing::Item(other) => history.iter().any(|past| past.item == other),
        Backing::Attribute(attribute) => {
            history.iter().any(|past| catalog.item(past.item).attributes.contains(&attribute))
        }
        Backing::Nothing => false,
    }
}

/// What a shopper chose again and again, of attributes that can be said.
pub fn likes(catalog: &Catalog, history: &[HistoryEvent]) -> Vec<u32> {
    let bought = history.iter().filter(|past| past.kind == EventKind::Purchase);
    evidence::common_attributes(catalog, bought, |value| !value.contains('.'), LIKED_MAX, LIKED_MIN)
}
