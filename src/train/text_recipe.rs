//! The section `text_encoder` of a recipe.

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Numbers of a distilled vector.
const WIDTHS: std::ops::RangeInclusive<usize> = 16..=1024;
/// The shop's words and phrases that a distilled table has rows for, at most.
const SHOP_TOKENS_MAX: usize = 1 << 17;

/// How texts become vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TextSection", into = "TextSection")]
pub enum TextEncoderRecipe {
    /// A static table is trained on the shop's texts from nothing.
    Train(TrainedTextRecipe),
    /// The folder of a pretrained static table, relative to the recipe.
    Static(PathBuf),
    /// The folder of a pretrained BERT, relative to the recipe.
    Bert(PathBuf),
    /// A static table over the shop's words is made from a BERT.
    Distil(DistilRecipe),
}

/// The static text encoder that is trained from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedTextRecipe {
    /// The vocabulary size of the tokenizer.
    pub vocabulary: usize,
    /// Epochs over the pairs.
    pub epochs: usize,
    /// Pairs of a batch. Each is a negative of the others.
    pub batch: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// The temperature: cosines are divided by it.
    pub temperature: f64,
    /// Training pairs, at most.
    pub pairs_max: usize,
}

/// The distillation of a BERT into a static table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilRecipe {
    /// The folder of the BERT, relative to the recipe.
    pub teacher: PathBuf,
    /// Numbers of a vector, at most as many as the teacher's.
    pub width: usize,
    /// Words of the shop that get a row of their own, at most.
    #[serde(default = "DistilRecipe::words")]
    pub words: usize,
    /// Phrases of two words that get a row of their own, at most.
    #[serde(default = "DistilRecipe::phrases")]
    pub phrases: usize,
    /// The folder of a pretrained static table that the distilled one must beat, relative to the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<PathBuf>,
}

// === impl DistilRecipe ===

impl DistilRecipe {
    fn words() -> usize {
        8192
    }

    fn phrases() -> usize {
        1024
    }
}

/// The section as it is written: one of the four ways, or the keys of `train` without its name, as in older recipes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextSection {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<TrainedTextRecipe>,
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    table: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distil: Option<DistilRecipe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vocabulary: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epochs: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pairs_max: Option<usize>,
}

impl TryFrom<TextSection> for TextEncoderRecipe {
    type Error = String;

    fn try_from(section: TextSection) -> Result<Self, String> {
        let flat = section.flat()?;
        let TextSection { train, table, bert, distil, .. } = section;
        let ways = [
            ("the keys of train", flat.map(Self::Train)),
            ("train", train.map(Self::Train)),
            ("static", table.map(Self::Static)),
            ("bert", bert.map(Self::Bert)),
            ("distil", distil.map(Self::Distil)),
        ];
        let mut given = ways.into_iter().filter_map(|(name, way)| Some((name, way?)));
        let (first, way) = given
            .next()
            .ok_or("one of `train`, `static`, `bert` and `distil` must be given, and none is")?;
        match given.next() {
            None => Ok(way),
            Some((second, _)) => Err(format!(
                "one of `train`, `static`, `bert` and `distil` must be given, not {first} and {second}"
            )),
        }
    }
}

// === impl TextSection ===

impl TextSection {
    /// The keys of `train`, if they stand in the section itself. Then all of them must.
    fn flat(&self) -> Result<Option<TrainedTextRecipe>, String> {
        let Self { vocabulary, epochs, batch, learning_rate, temperature, pairs_max, .. } = self;
        let keys = [
            ("vocabulary", vocabulary.is_some()),
            ("epochs", epochs.is_some()),
            ("batch", batch.is_some()),
            ("learning_rate", learning_rate.is_some()),
            ("temperature", temperature.is_some()),
            ("pairs_max", pairs_max.is_some()),
        ];
        if keys.iter().all(|(_, given)| !given) {
            return Ok(None);
        }
        let missing = keys.iter().find(|(_, given)| !given).map_or("", |(key, _)| key);
        let flat = || {
            Some(TrainedTextRecipe {
                vocabulary: (*vocabulary)?,
                epochs: (*epochs)?,
                batch: (*batch)?,
                learning_rate: (*learning_rate)?,
                temperature: (*temperature)?,
                pairs_max: (*pairs_max)?,
            })
        };
        flat().map(Some).ok_or_else(|| format!("missing field `{missing}`"))
    }
}

impl From<TextEncoderRecipe> for TextSection {
    fn from(recipe: TextEncoderRecipe) -> Self {
        let mut section = Self::default();
        match recipe {
            // As in older recipes, so that what was made by one of them is still its own.
            TextEncoderRecipe::Train(train) => {
                section.vocabulary = Some(train.vocabulary);
                section.epochs = Some(train.epochs);
                section.batch = Some(train.batch);
                section.learning_rate = Some(train.learning_rate);
                section.temperature = Some(train.temperature);
                section.pairs_max = Some(train.pairs_max);
            }
            TextEncoderRecipe::Static(folder) => section.table = Some(folder),
            TextEncoderRecipe::Bert(folder) => section.bert = Some(folder),
            TextEncoderRecipe::Distil(distil) => section.distil = Some(distil),
        }
        section
    }
}

// === impl TextEncoderRecipe ===

impl TextEncoderRecipe {
    /// Checks the numbers.
    pub fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Static(_) | Self::Bert(_) => Ok(()),
            Self::Train(TrainedTextRecipe { temperature, learning_rate, .. }) => {
                let is_positive = |value: &f64| value.is_finite() && *value > 0.0;
                ensure!(
                    is_positive(temperature),
                    "text_encoder.temperature is {temperature}, not a number above 0"
                );
                ensure!(
                    is_positive(learning_rate),
                    "text_encoder.learning_rate is {learning_rate}, not a number above 0"
                );
                Ok(())
            }
            Self::Distil(distil) => {
                ensure!(
                    WIDTHS.contains(&distil.width),
                    "text_encoder.distil.width is {}, not {} to {}",
                    distil.width,
                    WIDTHS.start(),
                    WIDTHS.end()
                );
                for (key, found) in [("words", distil.words), ("phrases", distil.phrases)] {
                    ensure!(
                        found <= SHOP_TOKENS_MAX,
                        "text_encoder.distil.{key} is {found}, not at most {SHOP_TOKENS_MAX}"
                    );
                }
                Ok(())
            }
        }
    }

    /// The folders that it names.
    pub fn folders_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Train(_) => Vec::new(),
            Self::Static(folder) | Self::Bert(folder) => vec![folder],
            Self::Distil(distil) => {
                let DistilRecipe { teacher, rival, .. } = distil;
                std::iter::once(teacher).chain(rival.as_mut()).collect()
            }
        }
    }

    /// Whether the shop trains its encoder from nothing: then wide vectors are the cards' own.
    pub fn is_trained(&self) -> bool {
        matches!(self, Self::Train(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: &str = "vocabulary = 600\nepochs = 1\nbatch = 64\nlearning_rate = 0.01\n\
                        temperature = 0.05\npairs_max = 1500\n";

    fn read(text: &str) -> Result<TextEncoderRecipe, String> {
        let recipe: TextEncoderRecipe = toml::from_str(text).map_err(|error| error.to_string())?;
        recipe.check().map_err(|error| error.to_string())?;
        Ok(recipe)
    }

    #[test]
    fn every_way_is_read_and_written() {
        let trained = read(FLAT).unwrap();
        assert!(trained.is_trained());
        assert_eq!(read(&format!("[train]\n{FLAT}")).unwrap(), trained);
        // An older workspace's lineage holds the hash of this text.
        assert_eq!(toml::to_string(&trained).unwrap(), FLAT);
        for text in [
            "static = \"words\"\n",
            "bert = \"minilm\"\n",
            "[distil]\nteacher = \"minilm\"\nwidth = 256\nwords = 10\nphrases = 0\nrival = \"words\"\n",
        ] {
            let recipe = read(text).unwrap();
            assert_eq!(toml::to_string(&recipe).unwrap(), text);
            assert!(!recipe.is_trained());
        }
        let mut distil = read("distil = { teacher = \"t\", width = 64, rival = \"r\" }").unwrap();
        assert_eq!(distil.folders_mut(), [&PathBuf::from("t"), &PathBuf::from("r")]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let without_batch = FLAT.replace("batch = 64\n", "");
        let both = format!("static = \"words\"\n{FLAT}");
        let sharp = FLAT.replace("0.05", "0.0");
        for (text, expected) in [
            ("", "none is"),
            (without_batch.as_str(), "missing field `batch`"),
            (&both, "not the keys of train and static"),
            (&sharp, "text_encoder.temperature is 0, not a number above 0"),
            ("static = \"a\"\nbert = \"b\"", "not static and bert"),
            ("static = 7", "static"),
            ("pretrained = \"a\"", "unknown field `pretrained`"),
            ("distil = { width = 64 }", "missing field `teacher`"),
            ("distil = { teacher = \"t\", width = 8 }", "distil.width is 8, not 16 to 1024"),
            ("distil = { teacher = \"t\", width = 2000 }", "distil.width is 2000"),
            ("distil = { teacher = \"t\", width = 64, words = 999999 }", "distil.words is 999999"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error} lacks {expected}");
        }
    }
}
