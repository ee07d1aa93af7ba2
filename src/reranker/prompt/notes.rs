//! The texts of cards in a language model's tokens.

use super::Prompts;
use crate::bundle::Backing;
use crate::language::LmTokenizerError;
use crate::reranker::shopper::ShopperContext;

impl Prompts {
    /// The prompt for the reason why this shopper took an item.
    pub fn reason_prompt(&self, shopper: ShopperContext<'_>, item: u32) -> Vec<u32> {
        let trunk = self.trunk(shopper);
        [&trunk, self.item(item), &self.because].concat()
    }

    /// The tokens of a reason, with an id in place of the title that it cites.
    pub fn encode_reason(
        &self,
        text: &str,
        backing: Backing,
    ) -> Result<Vec<u32>, LmTokenizerError> {
        let cited = match backing {
            Backing::Item(other) => text.split_once(self.title(other)).map(|parts| (parts, other)),
            _ => None,
        };
        let Some(((before, after), other)) = cited else {
            return self.tokenizer.encode(&format!(" {text}"));
        };
        let mut tokens = self.tokenizer.encode(&format!(" {before}"))?;
        tokens.extend(self.item(other));
        tokens.extend(self.tokenizer.encode(after)?);
        Ok(tokens)
    }

    /// The prompt for the attributes that this shopper likes.
    pub fn taste_prompt(&self, shopper: ShopperContext<'_>) -> Vec<u32> {
        [self.trunk(shopper), self.likes.clone()].concat()
    }

    /// The tokens of one attribute that a shopper likes.
    pub fn encode_taste(&self, attribute: u32) -> Vec<u32> {
        [&self.attributes[attribute as usize][..], &self.also].concat()
    }
}
