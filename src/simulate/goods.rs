//! The tables of what is sold: categories, their product types, and types that complement each other.

use super::season::Season;

/// How shoppers buy a product type again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// One is enough for a long time.
    Durable,
    /// More of the same set is welcome.
    Collected,
    /// Used up after about this many days, and then wanted again.
    Consumed(u16),
}

/// A product type.
#[derive(Debug)]
pub struct ProductKind {
    /// Its noun in the singular.
    pub name: &'static str,
    /// Its noun in the plural.
    pub plural: &'static str,
    /// Its usual price.
    pub price: f32,
    /// Its possible materials.
    pub materials: &'static [&'static str],
    /// How it is bought again.
    pub nature: Nature,
    /// The season that it belongs to.
    pub season: Season,
    /// The names of the types that complement it.
    pub goes_with: &'static [&'static str],
}

/// A product type with its names resolved to numbers.
#[derive(Debug)]
pub struct CatalogueKind {
    /// Its entry in the tables.
    pub kind: &'static ProductKind,
    /// The number of its category.
    pub category: u8,
    /// The numbers of the types that complement it.
    pub goes_with: Vec<u16>,
}

/// A category of the shop.
#[derive(Debug)]
pub struct Category {
    /// Its name.
    pub name: &'static str,
    /// Its relative share of the catalogue.
    pub weight: f32,
    /// Whether it has products for feasts.
    pub festive: bool,
    /// Details that a title may name: "with …".
    pub features: &'static [&'static str],
    /// The occasions of its products.
    pub occasions: &'static [&'static str],
    /// Its product types.
    pub kinds: &'static [ProductKind],
}

use Nature::{Collected, Consumed, Durable};
use Season::{AllYear, Autumn, Christmas, Spring, Summer, Winter};

type Words = &'static [&'static str];

/// A product type that is in season all year.
const fn kind(
    name: &'static str,
    plural: &'static str,
    price: f32,
    materials: Words,
    nature: Nature,
    goes_with: Words,
) -> ProductKind {
    ProductKind { name, plural, price, materials, nature, season: AllYear, goes_with }
}

/// The same type, bound to a season.
const fn of(season: Season, mut kind: ProductKind) -> ProductKind {
    kind.season = season;
    kind
}

const WOOD: Words = &["walnut", "oak", "bamboo", "acacia"];
const CLAY: Words = &["stoneware", "porcelain", "terracotta", "enamel"];
const METAL: Words = &["brass", "steel", "cast iron", "tin", "enamel"];
const CLOTH: Words = &["linen", "cotton", "wool", "velvet"];
const LIGHT_CLOTH: Words = &["linen", "cotton", "canvas"];
const GLASS: Words = &["glass", "recycled glass"];
const PAPER: Words = &["paper", "recycled paper"];
const WAX: Words = &["soy wax", "beeswax"];
const WOVEN: Words = &["rattan", "jute", "bamboo"];
const SKIN: Words = &["olive oil", "shea butter", "oat milk"];
const JEWEL: Words = &["silver", "gold plate", "brass", "beaded glass"];
const SOFT: Words = &["felt", "wool", "cotton", "velvet"];
const CARRY: Words = &["leather", "canvas", "cotton", "jute"];

/// Categories of the shop. One type to a line, so that the table can be read down.
#[rustfmt::skip]
pub static CATEGORIES: [Category; 14] = [
    Category {
        name: "kitchen",
        weight: 1.1,
        festive: false,
        features: &["a leather loop", "a carved handle", "rounded edges", "a pouring lip", "a hanging ring"],
        occasions: &["weekend bake", "housewarming", ""],
        kinds: &[
            kind("serving board", "serving boards", 24.0, WOOD, Durable, &["cheese knife", "serving bowl", "napkin"]),
            kind("mixing bowl", "mixing bowls", 19.0, CLAY, Collected, &["wooden spoon", "baking tin", "tea towel"]),
            kind("baking tin", "baking tins", 14.0, METAL, Collected, &["mixing bowl", "cookie cutter", "oven glove"]),
            kind("cookie cutter", "cookie cutters", 5.0, METAL, Collected, &["baking tin", "storage jar"]),
            kind("wooden spoon", "wooden spoons", 6.0, WOOD, Collected, &["utensil pot", "apron"]),
            kind("utensil pot", "utensil pots", 18.0, CLAY, Durable, &["wooden spoon", "oven glove"]),
            kind("storage jar", "storage jars", 12.0, &["glass", "recycled glass", "stoneware", "tin"], Collected, &["jar label", "wooden spoon"]),
            kind("dish brush", "dish brushes", 6.5, WOOD, Consumed(75), &["dish cloth"]),
            kind("dish cloth", "dish cloths", 5.5, LIGHT_CLOTH, Consumed(60), &["dish brush"]),
            kind("stovetop kettle", "stovetop kettles", 42.0, METAL, Durable, &["teapot", "mug"]),
        ],
    },
    Category {
        name: "dining",
        weight: 1.2,
        festive: true,
        features: &["a speckled glaze", "a gilded rim", "a hand-painted edge", "a ribbed side", "a reactive glaze"],
        occasions: &["dinner party", "wedding", "anniversary", ""],
        kinds: &[
            kind("teapot", "teapots", 34.0, CLAY, Durable, &["tea cup", "mug", "milk jug", "tea tray"]),
            kind("tea cup", "tea cups", 9.0, CLAY, Collected, &["teapot", "milk jug", "cake plate"]),
            kind("mug", "mugs", 11.0, CLAY, Collected, &["coaster", "teapot", "tea tray"]),
            kind("milk jug", "milk jugs", 13.0, CLAY, Durable, &["tea cup", "teapot"]),
            kind("dinner plate", "dinner plates", 14.0, CLAY, Collected, &["serving bowl", "napkin", "placemat"]),
            kind("cake plate", "cake plates", 10.0, CLAY, Collected, &["tea cup", "cake stand"]),
            kind("cake stand", "cake stands", 36.0, &["marble", "glass", "porcelain", "enamel"], Durable, &["cake plate", "napkin"]),
            kind("serving bowl", "serving bowls", 26.0, &["stoneware", "porcelain", "acacia", "glass"], Durable, &["dinner plate", "serving board"]),
            kind("tumbler", "tumblers", 8.0, GLASS, Collected, &["carafe", "coaster"]),
            kind("carafe", "carafes", 25.0, GLASS, Durable, &["tumbler", "tea tray"]),
            kind("cheese knife", "cheese knives", 15.0, METAL, Durable, &["serving board"]),
            kind("tea tray", "tea trays", 28.0, &["walnut", "oak", "rattan", "tin"], Durable, &["tea cup", "teapot"]),
        ],
    },
    Category {
        name: "table linen",
        weight: 0.8,
        festive: true,
        features: &["a scalloped edge", "mitred corners", "a fringed hem", "contrast stitching"],
        occasions: &["dinner party", "garden party", "picnic", ""],
        kinds: &[
            kind("napkin", "napkins", 7.0, &["linen", "cotton", "paper", "recycled paper"], Consumed(50), &["placemat", "table runner"]),
            kind("placemat", "placemats", 9.0, &["linen", "cotton", "jute", "rattan"], Collected, &["coaster", "napkin", "dinner plate"]),
            kind("coaster", "coasters", 6.0, &["oak", "marble", "felt", "jute"], Collected, &["mug", "tumbler"]),
            kind("table runner", "table runners", 29.0, LIGHT_CLOTH, Durable, &["napkin", "candle holder", "placemat"]),
            kind("tablecloth", "tablecloths", 48.0, LIGHT_CLOTH, Durable, &["napkin", "table runner"]),
            kind("tea towel", "tea towels", 9.5, LIGHT_CLOTH, Collected, &["apron", "oven glove"]),
            kind("apron", "aprons", 27.0, LIGHT_CLOTH, Durable, &["oven glove", "tea towel"]),
            kind("oven glove", "oven gloves", 16.0, LIGHT_CLOTH, Durable, &["apron", "baking tin"]),
        ],
    },
    Category {
        name: "home decor",
        weight: 1.3,
        festive: true,
        features: &["a distressed finish", "a hand-carved frame", "a gilded edge", "a woven base", "a hidden hook"],
        occasions: &["housewarming", "anniversary", "wedding", ""],
        kinds: &[
            kind("vase", "vases", 24.0, &["stoneware", "terracotta", "glass", "recycled glass", "brass"], Collected, &["dried bouquet", "table runner"]),
            kind("dried bouquet", "dried bouquets", 18.0, PAPER, Durable, &["vase"]),
            kind("picture frame", "picture frames", 17.0, &["oak", "walnut", "brass", "silver"], Collected, &["art print"]),
            kind("art print", "art prints", 16.0, PAPER, Collected, &["picture frame"]),
            kind("wall mirror", "wall mirrors", 68.0, &["brass", "rattan", "oak", "steel"], Durable, &["wall hook", "wall clock"]),
            kind("wall clock", "wall clocks", 45.0, &["walnut", "steel", "marble", "tin"], Durable, &["wall mirror"]),
            kind("wall hook", "wall hooks", 8.0, METAL, Collected, &["storage basket", "wall mirror"]),
            kind("storage basket", "storage baskets", 26.0, WOVEN, Collected, &["throw", "wall hook"]),
            kind("trinket dish", "trinket dishes", 12.0, CLAY, Collected, &["ring", "earrings"]),
            of(Christmas, kind("wreath", "wreaths", 32.0, &["felt", "paper", "jute"], Durable, &["bauble", "fairy lights"])),
            of(Christmas, kind("bauble", "baubles", 6.0, &["glass", "felt", "paper", "tin"], Collected, &["wreath", "tree topper"])),
            of(Christmas, kind("tree topper", "tree toppers", 15.0, &["brass", "felt", "gold plate"], Durable, &["bauble"])),
        ],
    },
    Category {
        name: "lighting",
        weight: 0.7,
        festive: false,
        features: &["a fabric cord", "a dimmer switch", "a pleated shade", "a swivel arm"],
        occasions: &["housewarming", "quiet evening", ""],
        kinds: &[
            kind("table lamp", "table lamps", 62.0, &["brass", "stoneware", "walnut", "marble"], Durable, &["lampshade"]),
            kind("lampshade", "lampshades", 29.0, &["linen", "velvet", "rattan", "paper"], Durable, &["table lamp"]),
            kind("floor lamp", "floor lamps", 120.0, &["brass", "steel", "oak"], Durable, &["lampshade", "cushion"]),
            kind("lantern", "lanterns", 28.0, &["steel", "brass", "bamboo", "glass"], Collected, &["pillar candle", "tealight"]),
            of(Winter, kind("fairy lights", "fairy lights", 16.0, &["brass", "glass", "felt"], Collected, &["wreath", "lantern"])),
            kind("night light", "night lights", 22.0, &["porcelain", "felt", "paper"], Durable, &["soft toy", "baby blanket"]),
        ],
    },
    Category {
        name: "candles",
        weight: 0.8,
        festive: true,
        features: &["a cotton wick", "a crackling wick", "a cedar scent", "a fig scent", "a lavender scent"],
        occasions: &["quiet evening", "dinner party", "birthday", ""],
        kinds: &[
            kind("scented candle", "scented candles", 16.0, WAX, Consumed(45), &["candle snuffer", "matches"]),
            kind("pillar candle", "pillar candles", 9.0, WAX, Consumed(55), &["candle holder", "lantern"]),
            kind("dinner candle", "dinner candles", 7.0, WAX, Consumed(50), &["candle holder", "table runner"]),
            kind("tealight", "tealights", 5.0, WAX, Consumed(35), &["tealight holder"]),
            kind("candle holder", "candle holders", 18.0, &["brass", "glass", "marble", "cast iron"], Collected, &["dinner candle", "pillar candle"]),
            kind("tealight holder", "tealight holders", 9.0, &["glass", "recycled glass", "tin", "stoneware"], Collected, &["tealight"]),
            kind("candle snuffer", "candle snuffers", 14.0, &["brass", "steel"], Durable, &["scented candle"]),
            kind("matches", "matches", 4.0, PAPER, Consumed(70), &["scented candle", "tealight"]),
        ],
    },
    Category {
        name: "garden",
        weight: 1.0,
        festive: false,
        features: &["drainage holes", "an ash handle", "a brass rose", "a weathered finish"],
        occasions: &["garden party", "housewarming", ""],
        kinds: &[
            kind("plant pot", "plant pots", 17.0, &["terracotta", "stoneware", "tin", "recycled glass"], Collected, &["plant food", "plant stand", "hand trowel"]),
            kind("plant stand", "plant stands", 38.0, &["oak", "rattan", "steel"], Durable, &["plant pot"]),
            of(Spring, kind("seed packet", "seed packets", 4.0, PAPER, Consumed(40), &["seed tray", "plant label", "hand trowel"])),
            of(Spring, kind("seed tray", "seed trays", 13.0, &["bamboo", "tin"], Durable, &["seed packet", "plant label"])),
            kind("plant label", "plant labels", 6.0, &["oak", "tin", "bamboo"], Consumed(120), &["seed packet"]),
            kind("hand trowel", "hand trowels", 18.0, &["steel", "brass"], Durable, &["garden gloves", "seed packet"]),
            of(Spring, kind("garden gloves", "garden gloves", 15.0, &["cotton", "leather", "canvas"], Consumed(200), &["hand trowel"])),
            kind("watering can", "watering cans", 32.0, METAL, Durable, &["plant pot", "plant food"]),
            kind("plant food", "bottles of plant food", 9.0, GLASS, Consumed(60), &["plant pot"]),
            of(Autumn, kind("bird feeder", "bird feeders", 21.0, &["oak", "tin", "glass"], Durable, &["bird seed", "nesting box"])),
            of(Winter, kind("bird seed", "bags of bird seed", 8.0, &["jute", "paper"], Consumed(32), &["bird feeder"])),
            of(Spring, kind("nesting box", "nesting boxes", 26.0, WOOD, Durable, &["bird feeder"])),
        ],
    },
    Category {
        name: "picnic",
        weight: 0.5,
        festive: false,
        features: &["leather straps", "a waterproof back", "a shoulder strap", "brass buckles"],
        occasions: &["picnic", "garden party", ""],
        kinds: &[
            of(Summer, kind("picnic basket", "picnic baskets", 58.0, WOVEN, Durable, &["picnic blanket", "enamel plate", "bunting"])),
            of(Summer, kind("picnic blanket", "picnic blankets", 42.0, &["wool", "cotton", "canvas"], Durable, &["picnic basket", "cool bag"])),
            of(Summer, kind("cool bag", "cool bags", 27.0, CARRY, Durable, &["water bottle", "picnic blanket"])),
            of(Summer, kind("enamel plate", "enamel plates", 9.0, &["enamel", "tin"], Collected, &["picnic basket", "enamel mug"])),
            of(Summer, kind("enamel mug", "enamel mugs", 9.0, &["enamel", "tin"], Collected, &["enamel plate"])),
            of(Summer, kind("bunting", "bunting", 14.0, &["cotton", "felt", "paper"], Collected, &["picnic blanket", "paper straws"])),
            of(Summer, kind("paper straws", "paper straws", 4.0, PAPER, Consumed(30), &["bunting"])),
            kind("water bottle", "water bottles", 21.0, &["steel", "glass"], Durable, &["cool bag", "tote bag"]),
        ],
    },
    Category {
        name: "stationery",
        weight: 1.1,
        festive: true,
        features: &["a ribbon marker", "gilt edges", "a hand-torn edge", "foil lettering", "dotted pages"],
        occasions: &["birthday", "wedding", "new baby", ""],
        kinds: &[
            kind("notebook", "notebooks", 11.0, PAPER, Consumed(80), &["pen", "pencil case"]),
            kind("greeting card", "greeting cards", 3.5, PAPER, Consumed(40), &["gift wrap", "gift tag"]),
            kind("gift wrap", "rolls of gift wrap", 5.0, PAPER, Consumed(60), &["gift tag", "ribbon", "greeting card"]),
            kind("gift tag", "gift tags", 3.0, PAPER, Consumed(65), &["gift wrap", "ribbon"]),
            kind("ribbon", "rolls of ribbon", 4.5, &["cotton", "velvet", "linen"], Consumed(80), &["gift wrap"]),
            kind("pen", "pens", 14.0, &["brass", "steel", "walnut"], Durable, &["notebook", "desk tray"]),
            kind("pencil case", "pencil cases", 13.0, CARRY, Durable, &["pen", "notebook"]),
            kind("desk tray", "desk trays", 29.0, &["walnut", "oak", "leather", "felt"], Durable, &["pen", "notebook"]),
            kind("jar label", "jar labels", 4.0, PAPER, Consumed(90), &["storage jar"]),
            of(Winter, kind("wall calendar", "wall calendars", 17.0, PAPER, Durable, &["notebook", "pen"])),
        ],
    },
    Category {
        name: "toys",
        weight: 0.9,
        festive: false,
        features: &["rounded corners", "a cotton pouch", "stitched eyes", "a pull string"],
        occasions: &["birthday", "new baby", ""],
        kinds: &[
            kind("soft toy", "soft toys", 21.0, SOFT, Collected, &["baby blanket", "picture book"]),
            kind("picture book", "picture books", 9.0, PAPER, Collected, &["soft toy", "book box"]),
            kind("stacking blocks", "stacking blocks", 19.0, WOOD, Durable, &["wooden puzzle", "toy animal"]),
            kind("wooden puzzle", "wooden puzzles", 15.0, WOOD, Collected, &["stacking blocks", "toy animal"]),
            kind("toy animal", "toy animals", 11.0, &["oak", "felt", "bamboo"], Collected, &["wooden puzzle", "play mat"]),
            kind("play mat", "play mats", 48.0, CLOTH, Durable, &["stacking blocks", "toy animal"]),
            kind("baby rattle", "baby rattles", 12.0, &["oak", "silver", "felt"], Durable, &["baby blanket", "soft toy"]),
            kind("book box", "book boxes", 33.0, WOOD, Durable, &["picture book"]),
            kind("colouring set", "colouring sets", 10.0, PAPER, Consumed(60), &["pencil case", "picture book"]),
        ],
    },
    Category {
        name: "textiles",
        weight: 1.1,
        festive: true,
        features: &["tassels", "a piped edge", "a herringbone weave", "a knitted border", "bobble trim"],
        occasions: &["housewarming", "quiet evening", "new baby", ""],
        kinds: &[
            kind("cushion", "cushions", 27.0, CLOTH, Collected, &["throw", "cushion pad"]),
            kind("cushion pad", "cushion pads", 9.0, &["wool", "cotton"], Consumed(240), &["cushion"]),
            kind("throw", "throws", 54.0, CLOTH, Durable, &["cushion", "storage basket"]),
            kind("rug", "rugs", 110.0, &["jute", "wool", "cotton"], Durable, &["cushion", "floor lamp"]),
            kind("bedspread", "bedspreads", 85.0, CLOTH, Durable, &["pillowcase", "throw"]),
            kind("pillowcase", "pillowcases", 17.0, LIGHT_CLOTH, Collected, &["bedspread", "lavender bag"]),
            kind("baby blanket", "baby blankets", 32.0, SOFT, Durable, &["baby rattle", "soft toy"]),
            of(Winter, kind("hot water bottle", "hot water bottles", 24.0, SOFT, Durable, &["throw", "slippers"])),
            of(Winter, kind("slippers", "slippers", 29.0, SOFT, Consumed(300), &["hot water bottle"])),
            kind("lavender bag", "lavender bags", 6.0, LIGHT_CLOTH, Consumed(110), &["pillowcase"]),
        ],
    },
    Category {
        name: "bath",
        weight: 0.9,
        festive: false,
        features: &["a honey scent", "a rosemary scent", "a rope handle", "a waffle weave", "sea salt"],
        occasions: &["quiet evening", "birthday", ""],
        kinds: &[
            kind("soap bar", "soap bars", 6.0, SKIN, Consumed(30), &["soap dish", "hand towel"]),
            kind("hand cream", "tubes of hand cream", 11.0, SKIN, Consumed(48), &["soap bar"]),
            kind("bath salts", "jars of bath salts", 14.0, SKIN, Consumed(40), &["bath brush", "scented candle"]),
            kind("body lotion", "bottles of body lotion", 16.0, SKIN, Consumed(50), &["soap bar", "bath salts"]),
            kind("soap dish", "soap dishes", 12.0, &["stoneware", "marble", "bamboo", "tin"], Durable, &["soap bar"]),
            kind("hand towel", "hand towels", 14.0, LIGHT_CLOTH, Collected, &["bath towel", "soap bar"]),
            kind("bath towel", "bath towels", 29.0, LIGHT_CLOTH, Collected, &["hand towel", "bath mat"]),
            kind("bath mat", "bath mats", 24.0, &["cotton", "bamboo", "jute"], Durable, &["bath towel"]),
            kind("bath brush", "bath brushes", 13.0, WOOD, Durable, &["bath salts"]),
        ],
    },
    Category {
        name: "jewellery",
        weight: 0.9,
        festive: false,
        features: &["a hidden clasp", "a hammered finish", "a fine chain", "a tiny pearl"],
        occasions: &["birthday", "anniversary", "wedding", ""],
        kinds: &[
            kind("necklace", "necklaces", 38.0, JEWEL, Collected, &["earrings", "jewellery box"]),
            kind("earrings", "earrings", 24.0, JEWEL, Collected, &["necklace", "trinket dish"]),
            kind("bracelet", "bracelets", 29.0, JEWEL, Collected, &["ring", "earrings"]),
            kind("ring", "rings", 33.0, JEWEL, Collected, &["bracelet", "trinket dish"]),
            kind("brooch", "brooches", 18.0, &["brass", "silver", "felt", "beaded glass"], Collected, &["scarf"]),
            kind("hair clip", "hair clips", 9.0, &["brass", "velvet", "beaded glass"], Collected, &["earrings"]),
            kind("jewellery box", "jewellery boxes", 44.0, &["walnut", "velvet", "leather"], Durable, &["ring", "necklace"]),
        ],
    },
    Category {
        name: "bags",
        weight: 0.8,
        festive: false,
        features: &["a zipped pocket", "a braided strap", "a printed lining", "brass studs"],
        occasions: &["birthday", ""],
        kinds: &[
            kind("tote bag", "tote bags", 22.0, CARRY, Collected, &["purse", "water bottle"]),
            kind("purse", "purses", 26.0, &["leather", "velvet", "canvas"], Durable, &["tote bag", "key ring"]),
            kind("wash bag", "wash bags", 19.0, CARRY, Durable, &["soap bar", "hand cream"]),
            kind("backpack", "backpacks", 64.0, &["canvas", "leather"], Durable, &["pencil case", "water bottle"]),
            kind("shopping bag", "shopping bags", 8.0, &["jute", "cotton", "recycled paper"], Collected, &["purse"]),
            kind("key ring", "key rings", 8.0, &["leather", "brass", "felt"], Collected, &["purse"]),
            of(Winter, kind("scarf", "scarves", 31.0, CLOTH, Collected, &["brooch", "gloves"])),
            of(Winter, kind("gloves", "gloves", 24.0, &["wool", "leather"], Durable, &["scarf"])),
        ],
    },
];

/// Every product type of the tables.
pub fn kinds() -> Vec<CatalogueKind> {
    let flat = || {
        let categories = CATEGORIES.iter().enumerate();
        categories.flat_map(|(number, category)| category.kinds.iter().map(move |k| (number, k)))
    };
    let names: Vec<_> = flat().map(|(_, kind)| kind.name).collect();
    let resolve = |name: &&str| {
        let at = names.iter().position(|known| known == name);
        at.expect("a type is complemented by types of the tables") as u16
    };
    flat()
        .map(|(category, kind)| CatalogueKind {
            kind,
            category: category as u8,
            goes_with: kind.goes_with.iter().map(resolve).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::{MATERIALS, OCCASIONS, number};
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_tables_name_only_what_exists_once() {
        let kinds = || CATEGORIES.iter().flat_map(|category| category.kinds);
        let names: BTreeSet<_> = kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), kinds().count(), "a product type appears twice");
        for kind in kinds() {
            kind.materials.iter().for_each(|word| _ = number(&MATERIALS, word));
            for other in kind.goes_with {
                assert!(names.contains(other), "{} goes with the unknown {other}", kind.name);
            }
        }
        for category in &CATEGORIES {
            category.occasions.iter().for_each(|word| _ = number(&OCCASIONS, word));
        }
    }
}
