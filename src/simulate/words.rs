//! The vocabulary: materials, colours, motifs, styles, occasions, brands and names.
//!
//! Brands and collections are invented.

/// A quality that a product has one value of, and that a shopper may love or avoid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facet {
    /// Its main colour.
    Color,
    /// Its material.
    Material,
    /// The look that it belongs to.
    Style,
    /// What is drawn or carved on it; the first value is none.
    Motif,
    /// What it is given or used for; the first value is none.
    Occasion,
    /// Its brand.
    Brand,
}

impl Facet {
    /// Every facet, in the order in which a product stores them.
    pub const ALL: [Self; 6] =
        [Self::Color, Self::Material, Self::Style, Self::Motif, Self::Occasion, Self::Brand];

    /// Its word in the oracle's files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Material => "material",
            Self::Style => "style",
            Self::Motif => "motif",
            Self::Occasion => "occasion",
            Self::Brand => "brand",
        }
    }

    /// How many values it has.
    pub const fn len(self) -> usize {
        match self {
            Self::Color => COLORS.len(),
            Self::Material => MATERIALS.len(),
            Self::Style => STYLES.len(),
            Self::Motif => MOTIFS.len(),
            Self::Occasion => OCCASIONS.len(),
            Self::Brand => BRANDS.len(),
        }
    }

    /// The word of a value.
    pub fn value(self, value: u8) -> &'static str {
        let value = usize::from(value);
        match self {
            Self::Color => COLORS[value],
            Self::Material => MATERIALS[value],
            Self::Style => STYLES[value].name,
            Self::Motif => MOTIFS[value],
            Self::Occasion => OCCASIONS[value],
            Self::Brand => BRANDS[value].0,
        }
    }

    /// Where its values start among those of all facets.
    pub const fn offset(self) -> usize {
        let mut offset = 0;
        let mut before = 0;
        while before < self as usize {
            offset += Self::ALL[before].len();
            before += 1;
        }
        offset
    }
}

/// Values of all facets together.
pub const VALUES: usize = Facet::Brand.offset() + Facet::Brand.len();

/// The number of a word. Panics if the vocabulary lacks it.
pub fn number(words: &[&str], word: &str) -> u8 {
    let index = words.iter().position(|&known| known == word);
    index.expect("the tables name only words of the vocabulary") as u8
}

/// Colours.
#[rustfmt::skip]
pub static COLORS: [&str; 18] = [
    "white", "cream", "black", "charcoal", "navy", "sky blue", "teal", "sage", "forest green",
    "mustard", "ochre", "rust", "blush pink", "red", "burgundy", "lilac", "plum", "coral",
];

/// Materials.
#[rustfmt::skip]
pub static MATERIALS: [&str; 34] = [
    "walnut", "oak", "bamboo", "acacia", "stoneware", "porcelain", "terracotta", "glass",
    "recycled glass", "brass", "steel", "cast iron", "enamel", "marble", "linen", "cotton",
    "wool", "velvet", "jute", "leather", "felt", "rattan", "paper", "recycled paper", "soy wax",
    "beeswax", "silver", "gold plate", "beaded glass", "olive oil", "shea butter", "oat milk",
    "tin", "canvas",
];

/// Motifs; the first one is none.
#[rustfmt::skip]
pub static MOTIFS: [&str; 24] = [
    "", "fern", "wildflower", "ivy", "bee", "hare", "fox", "wren", "owl", "whale", "seashell",
    "sailboat", "star", "moon", "polka dot", "stripe", "gingham", "heart", "rose", "mushroom",
    "acorn", "lemon", "zigzag", "sunburst",
];

/// Occasions; the first one is none.
#[rustfmt::skip]
pub static OCCASIONS: [&str; 11] = [
    "", "birthday", "wedding", "housewarming", "new baby", "anniversary", "picnic",
    "garden party", "dinner party", "weekend bake", "quiet evening",
];

/// The look of a style.
#[derive(Debug)]
pub struct Style {
    /// Its name.
    pub name: &'static str,
    /// The colours of the look.
    pub colors: &'static [&'static str],
    /// Its materials.
    pub materials: &'static [&'static str],
    /// Its motifs.
    pub motifs: &'static [&'static str],
}

const fn look(
    name: &'static str,
    colors: &'static [&'static str],
    materials: &'static [&'static str],
    motifs: &'static [&'static str],
) -> Style {
    Style { name, colors, materials, motifs }
}

/// Styles, one to a line.
#[rustfmt::skip]
pub static STYLES: [Style; 12] = [
    look("botanical", &["sage", "forest green", "cream"], &["linen", "terracotta", "recycled paper"], &["fern", "ivy", "wildflower"]),
    look("scandinavian", &["white", "charcoal", "sky blue"], &["oak", "wool", "porcelain"], &["star", "fox", ""]),
    look("rustic", &["ochre", "rust", "cream"], &["walnut", "stoneware", "cast iron"], &["acorn", "hare", "mushroom"]),
    look("vintage", &["cream", "blush pink", "burgundy"], &["enamel", "brass", "tin"], &["rose", "gingham", "polka dot"]),
    look("coastal", &["navy", "sky blue", "white"], &["rattan", "canvas", "recycled glass"], &["whale", "seashell", "sailboat"]),
    look("bohemian", &["rust", "mustard", "plum"], &["jute", "velvet", "beaded glass"], &["sunburst", "zigzag", "moon"]),
    look("industrial", &["black", "charcoal", "rust"], &["steel", "leather", "cast iron"], &["", "zigzag", "stripe"]),
    look("romantic", &["blush pink", "lilac", "red"], &["porcelain", "silver", "cotton"], &["heart", "rose", "wren"]),
    look("retro", &["mustard", "teal", "coral"], &["enamel", "glass", "felt"], &["polka dot", "stripe", "lemon"]),
    look("minimalist", &["white", "black", "sage"], &["marble", "bamboo", "glass"], &["", "", "stripe"]),
    look("folk", &["red", "teal", "forest green"], &["felt", "acacia", "cotton"], &["owl", "wren", "bee"]),
    look("celestial", &["navy", "plum", "lilac"], &["gold plate", "velvet", "soy wax"], &["moon", "star", "sunburst"]),
];

/// The price level of a brand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Below the usual.
    Budget,
    /// The usual.
    Standard,
    /// Above it.
    Premium,
    /// Far above it.
    Luxury,
}

impl Tier {
    /// Its word in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Standard => "standard",
            Self::Premium => "premium",
            Self::Luxury => "luxury",
        }
    }

    /// The factor on the usual price of a product type.
    pub fn factor(self) -> f32 {
        match self {
            Self::Budget => 0.62,
            Self::Standard => 1.0,
            Self::Premium => 1.6,
            Self::Luxury => 2.6,
        }
    }
}

use Tier::{Budget, Luxury, Premium, Standard};

/// Brands, all invented, and their tiers.
#[rustfmt::skip]
pub static BRANDS: [(&str, Tier); 36] = [
    ("Ostrel", Standard), ("Vandmere", Premium), ("Quillby", Standard), ("Tarnby & Lowe", Premium),
    ("Hesperun", Luxury), ("Mothwick", Standard), ("Plumbary", Budget), ("Orrin Vale", Premium),
    ("Dapplewen", Standard), ("Kestrin", Budget), ("Lumbleby", Budget), ("Averine", Luxury),
    ("Sorrelby", Standard), ("Brackenlo", Standard), ("Nimbary", Budget), ("Wexholt", Premium),
    ("Pellonde", Luxury), ("Tuckermoor", Budget), ("Isolene", Premium), ("Garrowby", Standard),
    ("Fennimund", Standard), ("Hollowen", Standard), ("Crumbleigh", Budget), ("Ardenfold", Premium),
    ("Miravelle", Luxury), ("Thrushby", Standard), ("Ombrelis", Premium), ("Pipkinry", Budget),
    ("Yarrowen", Standard), ("Castelune", Luxury), ("Dunnockby", Budget), ("Saltmarrow", Standard),
    ("Evenlo", Standard), ("Gildersham", Premium), ("Wickenby", Budget), ("Lorrimere", Standard),
];

/// First parts of a collection's invented name.
#[rustfmt::skip]
pub static COLLECTION_HEADS: [&str; 32] = [
    "Thistle", "Fern", "Willow", "Bramble", "Larks", "Meadow", "Hazel", "Amber", "Moss", "Rowan",
    "Clover", "Ember", "Heather", "Juniper", "Linden", "Maple", "Nettle", "Orchard", "Pebble",
    "Quarry", "River", "Saffron", "Tansy", "Umber", "Violet", "Winter", "Aspen", "Birch",
    "Cinder", "Dove", "Elder", "Frost",
];

/// Last parts of a collection's invented name.
#[rustfmt::skip]
pub static COLLECTION_TAILS: [&str; 14] = [
    "down", "hollow", "wick", "mere", "combe", "dale", "fold", "garth", "holt", "lea", "moor",
    "stead", "thorpe", "wold",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_look_is_made_of_known_words() {
        for style in &STYLES {
            style.colors.iter().for_each(|word| _ = number(&COLORS, word));
            style.materials.iter().for_each(|word| _ = number(&MATERIALS, word));
            style.motifs.iter().for_each(|word| _ = number(&MOTIFS, word));
        }
    }

    #[test]
    fn facets_do_not_overlap() {
        let total: usize = Facet::ALL.into_iter().map(Facet::len).sum();
        assert_eq!(VALUES, total);
        assert_eq!(Facet::Material.offset(), COLORS.len());
    }
}
