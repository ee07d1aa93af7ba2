//! Other words for what the shop sells, and other ways to ask for it. A part of them is only for evaluation, so that a
//! model that learned the others shows what it makes of words that it never met.

/// Who may read a wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wordings {
    /// Those that models may learn from.
    Training,
    /// Those that only an evaluation reads.
    HeldOut,
}

/// The other words for one word of the shop.
#[derive(Debug)]
pub struct Synonyms {
    /// The shop's word.
    pub word: &'static str,
    training: &'static [&'static str],
    held_out: &'static [&'static str],
}

const fn of(
    word: &'static str,
    training: &'static [&'static str],
    held_out: &'static [&'static str],
) -> Synonyms {
    Synonyms { word, training, held_out }
}

/// Every word that has others, sorted.
#[rustfmt::skip]
pub static SYNONYMS: [Synonyms; 43] = [
    of("apron", &["pinafore"], &["kitchen smock"]),
    of("beeswax", &["honey wax"], &["bees wax"]),
    of("black", &["ebony"], &["jet"]),
    of("blush pink", &["pale pink"], &["rosy"]),
    of("bohemian", &["boho"], &["hippie"]),
    of("botanical", &["leafy"], &["plant print"]),
    of("brass", &["golden metal"], &["yellow metal"]),
    of("burgundy", &["wine red"], &["maroon"]),
    of("canvas", &["sailcloth"], &["duck cloth"]),
    of("carafe", &["water jug"], &["decanter"]),
    of("cast iron", &["iron"], &["heavy iron"]),
    of("celestial", &["starry"], &["astral"]),
    of("charcoal", &["dark grey"], &["anthracite"]),
    of("coastal", &["seaside"], &["nautical"]),
    of("coral", &["salmon"], &["peachy"]),
    of("cotton", &["calico"], &["muslin"]),
    of("cream", &["ivory"], &["off white"]),
    of("felt", &["pressed wool"], &["baize"]),
    of("forest green", &["dark green"], &["pine green"]),
    of("fox", &["vixen"], &["foxy"]),
    of("hare", &["rabbit"], &["bunny"]),
    of("industrial", &["factory style"], &["workshop look"]),
    of("leather", &["hide"], &["cowhide"]),
    of("lilac", &["lavender"], &["mauve"]),
    of("linen", &["flax"], &["flaxen cloth"]),
    of("minimalist", &["plain"], &["pared back"]),
    of("mug", &["beaker"], &["coffee cup"]),
    of("mustard", &["dark yellow"], &["dijon"]),
    of("navy", &["dark blue"], &["midnight blue"]),
    of("ochre", &["earth yellow"], &["golden brown"]),
    of("porcelain", &["china"], &["fine bone china"]),
    of("rattan", &["wicker"], &["cane"]),
    of("red", &["crimson"], &["scarlet"]),
    of("retro", &["old school"], &["seventies"]),
    of("romantic", &["lovely"], &["dreamy"]),
    of("rust", &["copper brown"], &["russet"]),
    of("rustic", &["country"], &["farmhouse"]),
    of("scandinavian", &["nordic"], &["swedish"]),
    of("stoneware", &["pottery"], &["earthenware"]),
    of("teal", &["blue green"], &["turquoise"]),
    of("velvet", &["plush"], &["velour"]),
    of("vintage", &["antique"], &["old fashioned"]),
    of("white", &["snowy"], &["alabaster"]),
];

// === impl Wordings ===

impl Wordings {
    /// The other words for a word of the shop in lower case; none if there are none.
    pub fn synonyms(self, word: &str) -> &'static [&'static str] {
        let found = SYNONYMS.binary_search_by_key(&word, |of| of.word);
        found.map_or(&[], |at| match self {
            Self::Training => SYNONYMS[at].training,
            Self::HeldOut => SYNONYMS[at].held_out,
        })
    }

    /// Ways to ask. `{}` stands for what is wanted.
    pub fn requests(self) -> &'static [&'static str] {
        match self {
            Self::Training => {
                &["{}", "{}", "I want {}", "looking for {}", "{} please", "something {}"]
            }
            Self::HeldOut => &["{}", "do you have {}?", "could you find me {}", "we need {}"],
        }
    }

    /// Ways to refuse.
    pub fn refusals(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["not {}", "without {}", "no {}"],
            Self::HeldOut => &["anything but {}", "avoid {}", "other than {}"],
        }
    }

    /// Ways to bound a price from above.
    pub fn price_bounds(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["under {}", "below {}"],
            Self::HeldOut => &["at most {}", "no more than {}"],
        }
    }

    /// Ways to ask for an item like another one.
    pub fn likenesses(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["goes with {}", "like {}", "same style as {}"],
            Self::HeldOut => &["to match {}", "similar to {}"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_and_no_wording_is_for_both() {
        assert!(SYNONYMS.is_sorted_by_key(|of| of.word));
        for of in &SYNONYMS {
            assert!(of.training.iter().all(|word| !of.held_out.contains(word)), "{}", of.word);
        }
        let (training, held_out) = (Wordings::Training, Wordings::HeldOut);
        for (a, b) in [
            (training.refusals(), held_out.refusals()),
            (training.price_bounds(), held_out.price_bounds()),
            (training.likenesses(), held_out.likenesses()),
        ] {
            assert!(a.iter().all(|wording| wording.contains("{}") && !b.contains(wording)));
        }
        assert_eq!(held_out.synonyms("red"), ["scarlet"]);
        assert!(training.synonyms("mushroom").is_empty());
    }
}
