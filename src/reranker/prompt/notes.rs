//! What is written on cards, in a language model's tokens.

use super::Prompts;
use crate::bundle::Backing;
use crate::language::LmTokenizerError;
use crate::reranker::ShopperContext;

impl Prompts {
    /// What comes before the reason why this shopper took an item.
    pub fn why(&self, shopper: ShopperContext<'_>, item: u32) -> Vec<u32> {
        let trunk = self.trunk(shopper);
        [&trunk, self.item(item), &self.because].concat()
    }

    /// A reason that can be shown by this: with an id in the place of the title that it cites.
    pub fn reason(&self, text: &str, backing: Backing) -> Result<Vec<u32>, LmTokenizerError> {
        let cited = match backing {
            Backing::Item(other) => text.split_once(self.title(other)).map(|parts| (parts, other)),
            _ => None,
        };
        let Some(((before, after), other)) = cited else {
            return self.vocabulary.encode(&format!(" {text}"));
        };
        let mut tokens = self.vocabulary.encode(&format!(" {before}"))?;
        tokens.extend(self.item(other));
        tokens.extend(self.vocabulary.encode(after)?);
        Ok(tokens)
    }

    /// What comes before what this shopper likes, …
    pub fn tastes(&self, shopper: ShopperContext<'_>) -> Vec<u32> {
        [self.trunk(shopper), self.likes.clone()].concat()
    }

    /// … and each thing that they like.
    pub fn taste(&self, attribute: u32) -> Vec<u32> {
        [&self.attributes[attribute as usize][..], &self.also].concat()
    }
}
