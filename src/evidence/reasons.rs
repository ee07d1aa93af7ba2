//! The reasons on an item's card.

use super::counts::RECENT_DAYS;
use super::{PurchaseCounts, wording};
use crate::bundle::{Backing, CardReason, Catalog, ItemCard, ItemStats, REASONS_MAX};
use crate::domain::{Evidence, EvidenceKind, ReasonSource, UserId};
use crate::language::TITLE_WORDS;
use std::sync::Arc;

/// The fewest buyers of a claim: one about fewer would be about persons, not about the item.
pub const BUYERS_MIN: usize = 3;
/// Co-purchase reasons on one card.
const PARTNERS_MAX: usize = 5;
/// Attribute reasons on one card.
const ATTRIBUTES_MAX: usize = 2;
/// The fewest sales of a claim about a season.
const SEASON_SALES_MIN: u32 = 20;
/// Months of a season.
const SEASON_MONTHS: usize = 3;
/// The fewest recent buyers of a claim about recency.
const RISE_BUYERS_MIN: u32 = 5;

/// An item that tends to be bought by the same shoppers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimilarItem {
    /// Its number.
    pub item: u32,
    /// The cosine of the two sets of buyers, in `0..=1`.
    pub cosine: f32,
}

/// Writes the card of every item. `partners` are each item's most similar items, best first. They only say where to look:
/// every figure is counted anew from the purchases.
pub fn item_cards(
    catalog: &Catalog,
    users: &[UserId],
    counts: &PurchaseCounts,
    partners: &[Vec<SimilarItem>],
    currency: &str,
) -> Vec<ItemCard> {
    let owners = AttributeOwners::count(catalog, counts);
    let priced = priced_by_category(catalog, &counts.stats);
    let mut next_reason = 0;
    (0..catalog.len() as u32)
        .map(|item| {
            let writer = EvidenceWriter { catalog, users, counts, currency, item };
            let mut reasons = writer.co_purchases(&partners[item as usize]);
            reasons.extend(writer.attributes(&owners));
            reasons.extend(writer.season());
            reasons.extend(writer.recency());
            reasons.extend(writer.repeat());
            reasons.extend(writer.price(priced[catalog.item(item).category as usize]));
            if reasons.is_empty() {
                reasons.extend(writer.title_words(&owners));
            }
            reasons.truncate(REASONS_MAX);
            let first_reason = next_reason;
            next_reason += reasons.len() as u32;
            ItemCard { stats: counts.stats[item as usize].clone(), reasons, first_reason }
        })
        .collect()
}

/// Writes one item's card from counts.
struct EvidenceWriter<'a> {
    catalog: &'a Catalog,
    users: &'a [UserId],
    counts: &'a PurchaseCounts,
    currency: &'a str,
    item: u32,
}

// === impl EvidenceWriter ===

impl EvidenceWriter<'_> {
    fn buyers(&self) -> &[u32] {
        &self.counts.buyers[self.item as usize]
    }

    fn stats(&self) -> &ItemStats {
        &self.counts.stats[self.item as usize]
    }

    /// The supporters' ids, if they are so few that the reason must be masked for each of them.
    fn supporters(&self, of: &[u32]) -> Vec<UserId> {
        if of.len() > BUYERS_MIN {
            return Vec::new();
        }
        of.iter().map(|&user| self.users[user as usize].clone()).collect()
    }

    fn co_purchases(&self, partners: &[SimilarItem]) -> Vec<CardReason> {
        let title = &self.catalog.item(self.item).title;
        let mut reasons: Vec<CardReason> = Vec::new();
        for partner in partners {
            let both = self.counts.buyers_of_both(self.item, partner.item);
            let other = self.catalog.item(partner.item);
            // A variant that bears the same name would read as the item itself.
            if both.len() < BUYERS_MIN || other.title == *title || reasons.len() == PARTNERS_MAX {
                continue;
            }
            let evidence = Evidence {
                kind: EvidenceKind::CoPurchase,
                item: Some(other.id.clone()),
                attribute: "".into(),
                value: other.title.clone(),
                count: both.len() as u32,
                of: self.buyers().len() as u32,
            };
            reasons.extend(self.reason(evidence, partner.cosine, partner.item).map(|reason| {
                let (backing, supporters) = (Backing::Item(partner.item), self.supporters(&both));
                CardReason { backing, supporters, ..reason }
            }));
        }
        reasons
    }

    fn attributes(&self, owners: &AttributeOwners) -> Vec<CardReason> {
        let mut found = Vec::new();
        for &attribute in &self.catalog.item(self.item).attributes {
            let (name, value) = self.catalog.attribute(attribute);
            let also: Vec<u32> = self
                .buyers()
                .iter()
                .copied()
                .filter(|&user| owners.owned(user, attribute) > 1)
                .collect();
            if wording::can_be_said(name) && !value.is_empty() && also.len() >= BUYERS_MIN {
                // Common attributes are shared by chance, so the lift ranks them.
                let share = also.len() as f32 / self.buyers().len() as f32;
                let lift = share / owners.share(attribute).max(1e-3);
                found.push((&**name == TITLE_WORDS, lift, attribute, also));
            }
        }
        // Words of titles say less than what the shop itself says of an item.
        found.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        found.truncate(ATTRIBUTES_MAX);
        let shared = found.into_iter();
        shared
            .filter_map(|(_, _, attribute, also)| self.attribute_reason(attribute, &also))
            .collect()
    }

    fn attribute_reason(&self, attribute: u32, also: &[u32]) -> Option<CardReason> {
        let (name, value) = self.catalog.attribute(attribute);
        let evidence = Evidence {
            kind: EvidenceKind::Attribute,
            item: None,
            attribute: name.clone(),
            value: value.clone(),
            count: also.len() as u32,
            of: self.buyers().len() as u32,
        };
        let strength = also.len() as f32 / self.buyers().len() as f32;
        let reason = self.reason(evidence, strength, attribute)?;
        let (backing, supporters) = (Backing::Attribute(attribute), self.supporters(also));
        Some(CardReason { backing, supporters, ..reason })
    }

    /// A claim about all buyers of the words that the item's title shares with others, for an item whose own buyers
    /// show nothing. Shops whose items have few other attributes have such ones.
    fn title_words(&self, owners: &AttributeOwners) -> Option<CardReason> {
        let attributes = self.catalog.item(self.item).attributes.iter().copied();
        let shared = attributes.filter(|&attribute| {
            let (name, value) = self.catalog.attribute(attribute);
            &**name == TITLE_WORDS
                && !value.is_empty()
                && owners.repeaters(attribute) as usize >= BUYERS_MIN
        });
        // Common words come back by chance, so the lift ranks them. A reason that no single shopper makes is better.
        let best = shared.max_by(|&a, &b| {
            let stands = |attribute| owners.repeaters(attribute) as usize > BUYERS_MIN;
            let lift =
                |attribute| owners.strength(attribute) / owners.buyers(attribute).max(1) as f32;
            stands(a).cmp(&stands(b)).then(lift(a).total_cmp(&lift(b))).then(b.cmp(&a))
        })?;
        let (name, value) = self.catalog.attribute(best);
        let evidence = Evidence {
            kind: EvidenceKind::AttributeBuyers,
            item: None,
            attribute: name.clone(),
            value: value.clone(),
            count: owners.repeaters(best),
            of: owners.buyers(best),
        };
        let reason = self.reason(evidence, owners.strength(best), best)?;
        let also = owners.few_repeaters(self.catalog, self.counts, best);
        Some(CardReason {
            backing: Backing::Attribute(best),
            supporters: self.supporters(&also),
            ..reason
        })
    }

    /// A claim about three months in a row that hold at least twice their share of the sales.
    fn season(&self) -> Option<CardReason> {
        let ItemStats { months, sales, .. } = self.stats();
        let window = |first: usize| (first..first + SEASON_MONTHS).map(|month| month % 12);
        let (first, count) = (0..12)
            .map(|first| (first, window(first).map(|month| months[month]).sum::<u32>()))
            .max_by_key(|&(first, count)| (count, std::cmp::Reverse(first)))?;
        let fair = *sales as f32 * SEASON_MONTHS as f32 / 12.0;
        if *sales < SEASON_SALES_MIN || (count as f32) < 2.0 * fair {
            return None;
        }
        let window: Vec<_> = window(first).collect();
        let evidence = Evidence {
            kind: EvidenceKind::Season,
            item: None,
            attribute: "months".into(),
            value: wording::months_in_words(&window).into(),
            count,
            of: *sales,
        };
        self.reason(evidence, count as f32 / *sales as f32, 0)
    }

    /// A claim about recent buyers, if they are at least a quarter of all.
    fn recency(&self) -> Option<CardReason> {
        let recent = self.counts.recent_buyers[self.item as usize];
        if recent < RISE_BUYERS_MIN || (recent as usize) * 4 < self.buyers().len() {
            return None;
        }
        let evidence = Evidence {
            kind: EvidenceKind::Recency,
            item: None,
            attribute: "days".into(),
            value: "".into(),
            count: recent,
            of: RECENT_DAYS as u32,
        };
        let strength = recent as f32 / self.buyers().len() as f32;
        self.reason(evidence, strength, 0)
    }

    /// A claim about buyers who came back, if they are at least a fifth.
    fn repeat(&self) -> Option<CardReason> {
        let returned = self.counts.returners[self.item as usize];
        if (returned as usize) < BUYERS_MIN || (returned as usize) * 5 < self.buyers().len() {
            return None;
        }
        let evidence = Evidence {
            kind: EvidenceKind::Repeat,
            item: None,
            attribute: "".into(),
            value: "".into(),
            count: returned,
            of: self.buyers().len() as u32,
        };
        let strength = returned as f32 / self.buyers().len() as f32;
        self.reason(evidence, strength, 0)
    }

    /// A claim about a price in the lowest or the highest fifth of the category's `of` prices.
    fn price(&self, of: usize) -> Option<CardReason> {
        let stats = self.stats();
        let price = stats.price?;
        let cheaper = (stats.price_rank * of as f32).round() as usize;
        let item = self.catalog.item(self.item);
        let category = self.catalog.category(item.category);
        if of < 10 || category.is_empty() || (cheaper * 5 >= of && cheaper * 5 < of * 4) {
            return None;
        }
        let evidence = Evidence {
            kind: EvidenceKind::Price,
            item: None,
            attribute: "price".into(),
            value: format!("{price:.2}").into(),
            count: cheaper as u32,
            of: of as u32,
        };
        self.reason(evidence, 0.0, 0)
    }

    /// A reason in one of its phrasings. The item and the claim's subject (`about`) choose it, so that cards vary.
    fn reason(&self, evidence: Evidence, strength: f32, about: u32) -> Option<CardReason> {
        let category = self.catalog.category(self.catalog.item(self.item).category);
        let mut phrasings = wording::phrasings(&evidence, category, self.currency);
        let turn = self.item.wrapping_add(about) as usize % phrasings.len().max(1);
        (!phrasings.is_empty()).then(|| CardReason {
            text: phrasings.swap_remove(turn).into(),
            source: ReasonSource::Evidence,
            evidence: Arc::new([evidence]),
            strength,
            backing: Backing::Nothing,
            supporters: Vec::new(),
        })
    }
}

fn priced_by_category(catalog: &Catalog, stats: &[ItemStats]) -> Vec<usize> {
    let mut priced = vec![0; catalog.categories_len()];
    for (item, stats) in catalog.items().iter().zip(stats) {
        priced[item.category as usize] += usize::from(stats.price.is_some());
    }
    priced
}

/// Distinct items with each attribute that each user owns.
struct AttributeOwners {
    /// By user: (attribute, items), ascending by attribute.
    owned: Vec<Vec<(u32, u32)>>,
    /// By attribute: the share of users who own more than one such item.
    share: Vec<f32>,
    /// By attribute: the users who own any such item, and those who own several.
    users: Vec<(u32, u32)>,
}

impl AttributeOwners {
    fn count(catalog: &Catalog, counts: &PurchaseCounts) -> Self {
        let mut share = Vec::new();
        let mut by_attribute = vec![(0, 0); catalog.attributes_len()];
        let owned: Vec<_> = counts
            .baskets
            .iter()
            .map(|items| {
                let mut all: Vec<u32> =
                    items.iter().flat_map(|&item| catalog.item(item).attributes.clone()).collect();
                all.sort_unstable();
                let owned: Vec<(u32, u32)> =
                    all.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect();
                for &(attribute, items) in &owned {
                    let (any, several): &mut (u32, u32) = &mut by_attribute[attribute as usize];
                    *any += 1;
                    *several += u32::from(items > 1);
                }
                for &(attribute, _) in owned.iter().filter(|(_, items)| *items > 1) {
                    share.resize(share.len().max(attribute as usize + 1), 0.0);
                    share[attribute as usize] += 1.0;
                }
                owned
            })
            .collect();
        let users = counts.baskets.iter().filter(|items| !items.is_empty()).count().max(1);
        for share in &mut share {
            *share /= users as f32;
        }
        Self { owned, share, users: by_attribute }
    }

    fn owned(&self, user: u32, attribute: u32) -> u32 {
        let owned = &self.owned[user as usize];
        owned.binary_search_by_key(&attribute, |pair| pair.0).map_or(0, |index| owned[index].1)
    }

    /// The users who own an item with this attribute.
    fn buyers(&self, attribute: u32) -> u32 {
        self.users[attribute as usize].0
    }

    /// The users who own several items with this attribute.
    fn repeaters(&self, attribute: u32) -> u32 {
        self.users[attribute as usize].1
    }

    /// The share of its buyers who own several.
    fn strength(&self, attribute: u32) -> f32 {
        self.repeaters(attribute) as f32 / self.buyers(attribute).max(1) as f32
    }

    /// The users who own several items with this attribute, ascending. If they are more than [`BUYERS_MIN`], their
    /// number is all that matters, and some are left out.
    fn few_repeaters(
        &self,
        catalog: &Catalog,
        counts: &PurchaseCounts,
        attribute: u32,
    ) -> Vec<u32> {
        let items = catalog.items_with(attribute).iter();
        let buyers = items.flat_map(|&item| &counts.buyers[item as usize]).copied();
        let mut found: Vec<u32> = Vec::with_capacity(BUYERS_MIN + 1);
        for user in buyers.filter(|&user| self.owned(user, attribute) > 1) {
            if found.len() > BUYERS_MIN {
                break;
            }
            if !found.contains(&user) {
                found.push(user);
            }
        }
        found.sort_unstable();
        found
    }

    fn share(&self, attribute: u32) -> f32 {
        self.share.get(attribute as usize).copied().unwrap_or(0.0)
    }
}
