//! The lists of the simulated shop. On average, products that sell better come first.

use super::SimulationConfig;
use super::catalogue::SimCatalogue;
use super::dice::{Purpose, stream};
use super::words::Facet;
use rand::Rng;

/// Products on one list.
pub const LIST_LENGTH: usize = 24;
/// Products that one list is drawn from, at most.
const POOL_MAX: usize = 600;
/// The factor on a product's popularity from one day to the next.
const POPULARITY_KEPT: f32 = 0.985;
/// The weight of a product with the value searched for, relative to others.
const MATCH_FACTOR: f32 = 30.0;
/// Days during which a product counts as new.
const NEW_DAYS: u16 = 45;
/// Partners of a product: those most often bought with it.
const PARTNERS: usize = 10;
/// The share of products on sale in a week.
const SALE_SHARE: f64 = 0.05;

/// The shop as it is today.
#[derive(Debug)]
pub struct Shelf<'a> {
    catalogue: &'a SimCatalogue,
    seed: u64,
    day: u16,
    popularity: Vec<f32>,
    /// Today's price over the list price, by product.
    price_factors: Vec<f32>,
    by_kind: Vec<Vec<u32>>,
    by_category: Vec<Vec<u32>>,
    by_collection: Vec<Vec<u32>>,
    together: Vec<[(u32, u32); PARTNERS]>,
}

impl<'a> Shelf<'a> {
    /// A shop before its first day.
    pub fn new(catalogue: &'a SimCatalogue, config: &SimulationConfig) -> Self {
        let items = catalogue.items.len();
        Self {
            catalogue,
            seed: config.seed,
            day: 0,
            popularity: vec![0.0; items],
            price_factors: vec![1.0; items],
            by_kind: vec![Vec::new(); catalogue.kinds.len()],
            by_category: vec![Vec::new(); super::goods::CATEGORIES.len()],
            by_collection: vec![Vec::new(); catalogue.collections.len()],
            together: vec![[(0, 0); PARTNERS]; items],
        }
    }

    /// Opens the shop on `day`: decays popularity, adds launched products and removes retired ones.
    pub fn open(&mut self, day: u16) {
        self.day = day;
        for popularity in &mut self.popularity {
            *popularity *= POPULARITY_KEPT;
        }
        if day.is_multiple_of(7) {
            self.draw_sale();
        }
        self.stock();
    }

    /// Today's price over the list price.
    pub fn price_factor(&self, item: u32) -> f32 {
        self.price_factors[item as usize]
    }

    /// Today's price, in hundredths.
    pub fn cents(&self, item: u32) -> u32 {
        let list = self.catalogue.items[item as usize].cents;
        (list as f32 * self.price_factor(item)).round() as u32
    }

    /// Counts the products of a basket as bought together.
    pub fn sell(&mut self, basket: &[u32]) {
        for &item in basket {
            self.popularity[item as usize] += 1.0;
            for &other in basket.iter().filter(|&&other| other != item) {
                pair(&mut self.together[item as usize], other);
            }
        }
    }

    /// A list of a product type. Products with the value searched for are favoured.
    pub fn search(&self, kind: u16, value: Option<(Facet, u8)>, rng: &mut impl Rng) -> Vec<u32> {
        self.draw(&self.by_kind[usize::from(kind)], rng, |item| {
            let facets = &self.catalogue.items[item as usize].facets;
            match value {
                Some((facet, value)) if facets[facet as usize] == value => MATCH_FACTOR,
                _ => 1.0,
            }
        })
    }

    /// A list of a category.
    pub fn category(&self, category: usize, rng: &mut impl Rng) -> Vec<u32> {
        self.draw(&self.by_category[category], rng, |_| 1.0)
    }

    /// A list of a category's new products.
    pub fn new_arrivals(&self, category: usize, rng: &mut impl Rng) -> Vec<u32> {
        let items = &self.catalogue.items;
        let is_new = |&item: &u32| {
            let launched = items[item as usize].launched;
            launched > 0 && self.day - launched < NEW_DAYS
        };
        let pool: Vec<_> = self.by_category[category].iter().copied().filter(is_new).collect();
        self.draw(&pool, rng, |_| 1.0)
    }

    /// A list of a collection.
    pub fn collection(&self, collection: u32, rng: &mut impl Rng) -> Vec<u32> {
        self.draw(&self.by_collection[collection as usize], rng, |_| 1.0)
    }

    /// The partners of a product that are still sold, most frequent first.
    pub fn bought_with(&self, item: u32) -> Vec<u32> {
        let mut partners = self.together[item as usize];
        partners.sort_unstable_by_key(|&(other, count)| (std::cmp::Reverse(count), other));
        let sold = |other: u32| self.catalogue.items[other as usize].sold(self.day);
        let counted = partners.iter().filter(|&&(other, count)| count > 0 && sold(other));
        counted.map(|&(other, _)| other).collect()
    }

    /// Those of `items` that are sold today.
    pub fn still_sold(&self, items: impl Iterator<Item = u32>) -> Vec<u32> {
        let sold = |item: &u32| self.catalogue.items[*item as usize].sold(self.day);
        items.filter(sold).take(LIST_LENGTH).collect()
    }

    /// Draws a list from a pool without replacement, in proportion to the root of popularity times
    /// `weight`: exponential times are drawn at these rates, and the smallest come first.
    fn draw(&self, pool: &[u32], rng: &mut impl Rng, weight: impl Fn(u32) -> f32) -> Vec<u32> {
        let skipped = pool.len().saturating_sub(POOL_MAX);
        let from = if skipped == 0 { 0 } else { rng.random_range(0..=skipped) };
        let mut keyed: Vec<(f32, u32)> = pool[from..pool.len() - skipped + from]
            .iter()
            .map(|&item| {
                let rate = (1.0 + self.popularity[item as usize]).sqrt() * weight(item);
                (-(1.0 - rng.random::<f32>()).ln() / rate, item)
            })
            .collect();
        let before = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if keyed.len() > LIST_LENGTH {
            keyed.select_nth_unstable_by(LIST_LENGTH, before);
            keyed.truncate(LIST_LENGTH);
        }
        keyed.sort_unstable_by(before);
        keyed.into_iter().map(|(_, item)| item).collect()
    }

    fn draw_sale(&mut self) {
        let mut rng = stream(self.seed, Purpose::Sale, u64::from(self.day), 0);
        for factor in &mut self.price_factors {
            let on_sale = rng.random_bool(SALE_SHARE);
            *factor = if on_sale { 0.01 * f32::from(rng.random_range(65_u8..90)) } else { 1.0 };
        }
    }

    fn stock(&mut self) {
        let shelves = [&mut self.by_kind, &mut self.by_category, &mut self.by_collection];
        shelves.into_iter().flatten().for_each(Vec::clear);
        for (number, item) in self.catalogue.items.iter().enumerate() {
            if item.sold(self.day) {
                self.by_kind[usize::from(item.kind)].push(number as u32);
                self.by_category[usize::from(item.category)].push(number as u32);
                if let Some(collection) = item.collection {
                    self.by_collection[collection as usize].push(number as u32);
                }
            }
        }
    }
}

/// Counts `other` as a partner. In a full table it replaces the rarest partner and keeps its count, so
/// that frequent partners are found in any order (the space-saving sketch).
fn pair(partners: &mut [(u32, u32); PARTNERS], other: u32) {
    let known = partners.iter().position(|&(item, count)| count > 0 && item == other);
    let rarest = || (0..PARTNERS).min_by_key(|&at| partners[at].1);
    let at = known.or_else(rarest).expect("a table has at least one slot");
    partners[at] = (other, partners[at].1 + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_partners_stay() {
        let mut partners = [(0, 0); PARTNERS];
        for round in 0..100 {
            pair(&mut partners, 7);
            pair(&mut partners, 1_000 + round);
        }
        let best = partners.iter().max_by_key(|partner| partner.1);
        assert_eq!(best, Some(&(7, 100)));
    }

    #[test]
    fn lists_hold_only_what_is_sold() {
        let config = SimulationConfig { products: 800, ..SimulationConfig::default() };
        let catalogue = SimCatalogue::draw(&config);
        let mut shelf = Shelf::new(&catalogue, &config);
        shelf.open(500);
        let mut rng = stream(1, Purpose::Visit, 0, 0);
        let list = shelf.category(1, &mut rng);
        assert_eq!(list.len(), LIST_LENGTH);
        assert!(list.iter().all(|&item| catalogue.items[item as usize].sold(500)));
    }
}
