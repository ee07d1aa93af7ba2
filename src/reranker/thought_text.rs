//! What a language model writes, as people read it: titles in the place of ids.

use super::prompt::Prompts;
use crate::language::{IncrementalDetokenizer, LmTokenizerError};

/// A text that is read out while it is written.
#[derive(Debug)]
pub struct ThoughtText<'a> {
    prompts: &'a Prompts,
    written: IncrementalDetokenizer<'a>,
    /// The last tokens: fewer than an id has, and perhaps how one begins.
    pending: Vec<u32>,
}

// === impl ThoughtText ===

impl<'a> ThoughtText<'a> {
    /// Of a text that nothing is written of yet.
    pub fn new(prompts: &'a Prompts) -> Self {
        Self { prompts, written: prompts.vocabulary().detokenizer(), pending: Vec::new() }
    }

    /// All of a text.
    pub fn all(prompts: &'a Prompts, tokens: &[u32]) -> Result<String, LmTokenizerError> {
        let mut spoken = Self::new(prompts);
        let mut text = String::new();
        for &token in tokens {
            text += &spoken.add(token)?;
        }
        text += &spoken.rest()?;
        Ok(text)
    }

    /// What can be read out once this token is written: nothing while an id is not whole.
    pub fn add(&mut self, token: u32) -> Result<String, LmTokenizerError> {
        self.pending.push(token);
        if self.pending.len() < self.prompts.levels() {
            return Ok(String::new());
        }
        if let Some(item) = self.prompts.number(&self.pending) {
            self.pending.clear();
            return Ok(format!(" {}", self.prompts.title(item)));
        }
        let first = self.pending.remove(0);
        self.written.add(first)
    }

    /// What is left to be read out, once all is written.
    pub fn rest(&mut self) -> Result<String, LmTokenizerError> {
        let mut text = String::new();
        for token in std::mem::take(&mut self.pending) {
            text += &self.written.add(token)?;
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
    fn ids_are_read_out_as_titles_however_they_are_cut() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        let prompts = Prompts::open(&demo.join("decoder"), &read_catalog(&demo).unwrap()).unwrap();
        let vocabulary: &LmTokenizer = prompts.vocabulary();
        let mut tokens = vocabulary.encode(" Likes red.").unwrap();
        tokens.extend(prompts.item(7));
        tokens.extend(vocabulary.encode(" goes with").unwrap());
        tokens.extend(prompts.item(9));
        tokens.extend(&prompts.item(11)[..2]);
        tokens.extend(vocabulary.encode(".").unwrap());
        let half = vocabulary.decode(&prompts.item(11)[..2]).unwrap();
        let expected =
            format!(" Likes red. {} goes with {}{half}.", prompts.title(7), prompts.title(9));
        assert_eq!(ThoughtText::all(&prompts, &tokens).unwrap(), expected);
    }
}
