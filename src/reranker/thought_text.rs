//! The text of a thought as people read it, with titles in place of semantic ids.

use super::prompt::Prompts;
use crate::language::{IncrementalDetokenizer, LmTokenizerError};

/// Decodes a thought incrementally.
#[derive(Debug)]
pub struct ThoughtText<'a> {
    prompts: &'a Prompts,
    detokenizer: IncrementalDetokenizer<'a>,
    /// The last tokens, which may be the start of an id. They are fewer than an id has.
    pending: Vec<u32>,
}

// === impl ThoughtText ===

impl<'a> ThoughtText<'a> {
    /// A decoder before the first token.
    pub fn new(prompts: &'a Prompts) -> Self {
        Self { prompts, detokenizer: prompts.tokenizer().detokenizer(), pending: Vec::new() }
    }

    /// The text of all tokens.
    pub fn decode(prompts: &'a Prompts, tokens: &[u32]) -> Result<String, LmTokenizerError> {
        let mut decoder = Self::new(prompts);
        let mut text = String::new();
        for &token in tokens {
            text += &decoder.push(token)?;
        }
        text += &decoder.finish()?;
        Ok(text)
    }

    /// Adds a token, and returns the text that is certain by now. It is empty while an id may be incomplete.
    pub fn push(&mut self, token: u32) -> Result<String, LmTokenizerError> {
        self.pending.push(token);
        if self.pending.len() < self.prompts.levels() {
            return Ok(String::new());
        }
        if let Some(item) = self.prompts.item_with_id(&self.pending) {
            self.pending.clear();
            return Ok(format!(" {}", self.prompts.title(item)));
        }
        let first = self.pending.remove(0);
        self.detokenizer.add(first)
    }

    /// The remaining text, after the last token.
    pub fn finish(&mut self) -> Result<String, LmTokenizerError> {
        let mut text = String::new();
        for token in std::mem::take(&mut self.pending) {
            text += &self.detokenizer.add(token)?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::read_catalog;
    use crate::language::LmTokenizer;
    use std::path::Path;

    #[test]
    fn ids_become_titles_and_incomplete_ids_stay() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        let prompts = Prompts::open(&demo.join("decoder"), &read_catalog(&demo).unwrap()).unwrap();
        let tokenizer: &LmTokenizer = prompts.tokenizer();
        let mut tokens = tokenizer.encode(" Likes red.").unwrap();
        tokens.extend(prompts.item(7));
        tokens.extend(tokenizer.encode(" goes with").unwrap());
        tokens.extend(prompts.item(9));
        tokens.extend(&prompts.item(11)[..2]);
        tokens.extend(tokenizer.encode(".").unwrap());
        let half = tokenizer.decode(&prompts.item(11)[..2]).unwrap();
        let expected =
            format!(" Likes red. {} goes with {}{half}.", prompts.title(7), prompts.title(9));
        assert_eq!(ThoughtText::decode(&prompts, &tokens).unwrap(), expected);
    }
}
