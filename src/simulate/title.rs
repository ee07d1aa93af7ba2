//! The titles and descriptions of products.

use super::dice::one;
use super::goods::{CATEGORIES, CatalogueKind, Nature};
use super::season::Season;
use super::words::{BRANDS, Facet};
use rand::Rng;
use rustc_hash::FxHashSet;

/// Titles that are drawn before a number makes one unique.
const TRIES_MAX: usize = 12;

/// The properties of a product that its title may name.
#[derive(Debug)]
pub struct Label<'a> {
    /// The product's type.
    pub kind: &'a CatalogueKind,
    /// Its values, in the order of [`Facet::ALL`].
    pub facets: [u8; 6],
    /// Its season.
    pub season: Season,
    /// Its collection's name.
    pub collection: Option<&'a str>,
}

impl Label<'_> {
    fn word(&self, facet: Facet) -> &'static str {
        facet.value(self.facets[facet as usize])
    }

    fn feast(&self) -> &'static str {
        if Season::FEASTS.contains(&self.season) { self.season.word() } else { "" }
    }
}

/// Draws a title that is not in `titles`, and adds it.
pub fn unique(label: &Label<'_>, titles: &mut FxHashSet<String>, rng: &mut impl Rng) -> String {
    let mut title = draw(label, rng);
    for _ in 1..TRIES_MAX {
        if !titles.contains(&title) {
            break;
        }
        title = draw(label, rng);
    }
    let mut unique = title.clone();
    let mut copy = 2;
    while !titles.insert(unique.clone()) {
        unique = format!("{title} No. {copy}");
        copy += 1;
    }
    unique
}

/// Draws a title. Every form names the type. Together they name colour, material, motif and collection,
/// so that a model can read these from the text.
fn draw(label: &Label<'_>, rng: &mut impl Rng) -> String {
    let [color, material, style, motif] =
        [Facet::Color, Facet::Material, Facet::Style, Facet::Motif].map(|facet| label.word(facet));
    let feature = one(rng, CATEGORIES[usize::from(label.kind.category)].features);
    let (noun, feast) = (label.kind.kind.name, label.feast());
    let collection = label.collection.unwrap_or(label.word(Facet::Brand));
    let set = label.kind.kind.nature == Nature::Collected && rng.random_bool(0.25);
    let text = if set {
        let size = one(rng, &["2", "3", "4", "6"]);
        let plural = label.kind.kind.plural;
        format!("{collection} set of {size} {feast} {motif} {material} {plural} in {color}")
    } else {
        match rng.random_range(0..8) {
            0 => format!("{collection} {feast} {motif} {noun} in {color} {material}"),
            1 => format!("{color} {material} {feast} {motif} {noun} with {feature}"),
            2 => format!("{collection} {material} {feast} {noun}, {color} {motif}"),
            3 => format!("{style} {feast} {motif} {material} {noun} in {color}"),
            4 => format!("{motif} {feast} {noun} in {color} {material}, {collection}"),
            5 => format!("{collection} {color} {motif} {material} {feast} {noun}"),
            6 => {
                format!("{collection} {material} {feast} {motif} {noun} in {color} with {feature}")
            }
            _ => format!("{collection} {style} {feast} {color} {material} {motif} {noun}"),
        }
    };
    capitalised(&text)
}

/// One or two sentences about a product.
pub fn describe(label: &Label<'_>, rng: &mut impl Rng) -> String {
    let [color, material, style, motif, occasion] = Facet::ALL.map(|facet| label.word(facet))[..5]
        .try_into()
        .expect("a product has more than five facets");
    let (brand, tier) = BRANDS[usize::from(label.facets[Facet::Brand as usize])];
    let noun = label.kind.kind.name;
    let first = match rng.random_range(0..4) {
        0 => format!("{style} {noun} in {color}, made of {material}."),
        1 => format!("{color} {noun} of {material} with {} {style} touch.", article(style)),
        2 => format!("Our {brand} {noun}: {material}, {color}, and {style} at heart."),
        _ => format!("Made by {brand} from {material} and finished in {color}."),
    };
    let mut more = Vec::new();
    if !motif.is_empty() {
        more.push(format!("It carries {} {motif} motif", article(motif)));
    }
    if !occasion.is_empty() {
        more.push(format!("It is a good choice for {} {occasion}", article(occasion)));
    }
    if let Some(name) = label.collection {
        more.push(format!("It belongs to the {name} collection by {brand}"));
    }
    if label.season != Season::AllYear {
        more.push(format!("It is made for {}", capitalised_feast(label.season)));
    }
    more.push(format!("{brand} is our {} choice", tier.word()));
    let second = &more[rng.random_range(0..more.len())];
    format!("{}{} {second}.", first[..1].to_uppercase(), &first[1..])
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn capitalised_feast(season: Season) -> String {
    if Season::FEASTS.contains(&season) { capitalised(season.word()) } else { season.word().into() }
}

/// The words with capital letters as in a title, and no double spaces.
fn capitalised(text: &str) -> String {
    let mut title = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !title.is_empty() {
            title.push(' ');
        }
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if !matches!(word, "in" | "of" | "with" | "a" | "an" | "and") => {
                title.extend(first.to_uppercase());
                title.push_str(letters.as_str());
            }
            _ => title.push_str(word),
        }
    }
    // A colour before an absent motif needs no comma.
    title.trim_end_matches(',').to_owned()
}

#[cfg(test)]
mod tests {
    use super::capitalised;

    #[test]
    fn a_title_is_capitalised_and_has_single_spaces() {
        let title = capitalised("walnut  serving board with a leather loop,");
        assert_eq!(title, "Walnut Serving Board with a Leather Loop");
    }
}
