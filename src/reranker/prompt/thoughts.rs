//! Thoughts in a language model's tokens, with ids in place of titles.

use super::Prompts;
use crate::bundle::{Backing, HistoryEvent};
use crate::language::LmTokenizerError;
use crate::reranker::facts::OfferedItem;
use crate::reranker::thought::{Because, IS, STOP, Thought};

impl Prompts {
    /// The tokens of a thought. `None` if it names an item that is neither offered nor in the history.
    pub fn encode_thought(
        &self,
        thought: &Thought,
        offered: &[OfferedItem],
        history: &[HistoryEvent],
    ) -> Result<Option<Vec<u32>>, LmTokenizerError> {
        let is = |item: u32, title: &str| *self.titles[item as usize] == *title;
        let item = offered.iter().find(|offer| is(offer.item, &thought.title));
        let Some(item) = item.map(|offer| offer.item) else { return Ok(None) };
        let likes = thought.likes_sentence();
        let mut tokens =
            if likes.is_empty() { Vec::new() } else { self.tokenizer.encode(&likes)? };
        tokens.extend(self.item(item));
        match &thought.because {
            Because::GoesWith(title) => {
                let other = history.iter().find(|past| is(past.item, title));
                let Some(other) = other else { return Ok(None) };
                tokens.extend(&self.goes_with);
                tokens.extend(self.item(other.item));
                tokens.extend(&self.stop);
            }
            Because::Is(value) => {
                tokens.extend(self.tokenizer.encode(&format!("{IS}{value}{STOP}"))?);
            }
        }
        Ok(Some(tokens))
    }

    /// The sentence about what the shopper likes.
    pub(in crate::reranker) fn encode_likes(&self, attributes: &[u32]) -> Vec<u32> {
        let values = attributes.iter().map(|&number| self.attributes[number as usize].as_slice());
        let values: Vec<&[u32]> = values.collect();
        [&self.likes, &values.join(&self.and[..]), &self.stop].map(Vec::as_slice).concat()
    }

    /// The sentence about a candidate with this backing; `None` without backing.
    pub(in crate::reranker) fn encode_claim(
        &self,
        item: u32,
        backing: Backing,
    ) -> Option<Vec<u32>> {
        let (verb, other) = match backing {
            Backing::Item(other) => (&self.goes_with, self.item(other)),
            Backing::Attribute(number) => (&self.is, self.attributes[number as usize].as_slice()),
            Backing::Nothing => return None,
        };
        Some([self.item(item), verb, other, &self.stop].concat())
    }
}
