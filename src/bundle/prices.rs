//! Where a price stands among those of its category.

use super::Catalog;

/// The known prices of each category's items, ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CategoryPrices {
    categories: Vec<Vec<f32>>,
}

// === impl CategoryPrices ===

impl CategoryPrices {
    /// Sorts the prices of a catalogue's items, given in their order.
    pub fn of(catalog: &Catalog, prices: impl IntoIterator<Item = Option<f32>>) -> Self {
        let mut categories = vec![Vec::new(); catalog.categories_len()];
        for (item, price) in catalog.items().iter().zip(prices) {
            categories[item.category as usize].extend(price);
        }
        for prices in &mut categories {
            prices.sort_unstable_by(f32::total_cmp);
        }
        Self { categories }
    }

    /// The share of a category's priced items that cost less than this price, in `0..=1`; 0 without a price, and in a
    /// category that the catalogue does not have.
    pub fn rank(&self, category: Option<u32>, price: Option<f32>) -> f32 {
        let prices = category.and_then(|category| self.categories.get(category as usize));
        let Some((prices, price)) = prices.zip(price) else { return 0.0 };
        let cheaper = prices.partition_point(|&other| other < price);
        cheaper as f32 / prices.len().max(1) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;

    #[test]
    fn a_price_ranks_among_the_priced_items_of_its_category() {
        let row = |(id, category): (&str, &str)| CatalogRow {
            id: id.into(),
            title: id.into(),
            category: category.into(),
            attributes: Vec::new(),
            price: None,
        };
        let items = [("a", "tea"), ("b", "tea"), ("c", "cups"), ("d", "tea"), ("e", "tea")];
        let catalog = Catalog::new(items.map(row));
        let prices = [Some(3.0), Some(1.0), Some(9.0), None, Some(3.0)];
        let prices = CategoryPrices::of(&catalog, prices);
        for (category, price, rank) in [
            ("tea", Some(0.5), 0.0),
            ("tea", Some(1.0), 0.0),
            ("tea", Some(2.0), 1.0 / 3.0),
            ("tea", Some(3.0), 1.0 / 3.0),
            ("tea", Some(4.0), 1.0),
            ("tea", None, 0.0),
            ("cups", Some(10.0), 1.0),
            ("lamps", Some(10.0), 0.0),
        ] {
            let found = prices.rank(catalog.category_number(category), price);
            assert!((found - rank).abs() < 1e-6, "{category} {price:?}: {found}");
        }
    }
}
