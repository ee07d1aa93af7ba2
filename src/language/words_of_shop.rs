//! Adds a shop's own words and phrases to the tokens of a pretrained tokenizer.

use super::text_tokenizer::{TextTokenizer, TextTokenizerError};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::cmp::Reverse;

/// Occurrences that a word needs to become a token.
const WORD_COUNT_MIN: u32 = 2;
/// Occurrences that a phrase needs.
const PHRASE_COUNT_MIN: u32 = 5;
/// Letters of a word of a phrase, at least: "of the" is none.
const PHRASE_LETTERS_MIN: usize = 3;
/// Letters of a word, at most.
const WORD_LETTERS_MAX: usize = 40;

/// How many words and phrases become tokens, at most.
#[derive(Clone, Copy, Debug)]
pub struct ShopVocabularyLimits {
    /// Words.
    pub words: usize,
    /// Phrases of two words.
    pub phrases: usize,
}

/// A tokenizer that knows a shop's words, and what its new tokens stand for.
#[derive(Debug)]
pub struct ShopVocabulary {
    /// The tokenizer. The tokens of the pretrained one keep their numbers.
    pub tokens: TextTokenizer,
    /// The texts of the new tokens, which follow the pretrained ones: words, and then phrases.
    pub added: Vec<String>,
    /// How many of them are words.
    pub words: usize,
}

// === impl ShopVocabulary ===

impl ShopVocabulary {
    /// Adds the words of these texts that the tokenizer would split, and pairs of words that often stand side by side.
    /// The tokenizer must be a WordPiece, as every BERT's is.
    pub fn of(
        pretrained: &TextTokenizer,
        texts: &[String],
        limits: ShopVocabularyLimits,
    ) -> Result<Self, TextTokenizerError> {
        let (split, phrases) = counts(pretrained, texts);
        let mut added = most_frequent(split, WORD_COUNT_MIN, limits.words);
        let words = added.len();
        added.extend(most_frequent(phrases, PHRASE_COUNT_MIN, limits.phrases));
        let failed = TextTokenizerError::when("extended by the shop's words");
        let tokens = extended(pretrained, &added, words).map_err(failed)?;
        Ok(Self { tokens, added, words })
    }
}

/// How often each word that has several tokens occurs, and each pair of words.
fn counts(
    tokens: &TextTokenizer,
    texts: &[String],
) -> (FxHashMap<String, u32>, FxHashMap<String, u32>) {
    let (mut split, mut phrases) = (FxHashMap::default(), FxHashMap::default());
    for text in texts {
        let words = tokens.words(text);
        for (word, pieces) in words.iter().flatten() {
            if *pieces > 1 && is_word(word, 2) {
                *split.entry(word.clone()).or_default() += 1;
            }
        }
        for pair in words.windows(2) {
            let [Some((one, _)), Some((other, _))] = pair else { continue };
            if is_word(one, PHRASE_LETTERS_MIN) && is_word(other, PHRASE_LETTERS_MIN) {
                *phrases.entry(format!("{one} {other}")).or_default() += 1;
            }
        }
    }
    (split, phrases)
}

fn is_word(word: &str, letters_min: usize) -> bool {
    let letters = word.chars().count();
    (letters_min..=WORD_LETTERS_MAX).contains(&letters) && word.chars().all(char::is_alphabetic)
}

/// The texts that occur most, equal ones in alphabetical order.
fn most_frequent(counts: FxHashMap<String, u32>, count_min: u32, most: usize) -> Vec<String> {
    let frequent = counts.into_iter().filter(|(_, count)| *count >= count_min);
    let mut frequent: Vec<(String, u32)> = frequent.collect();
    frequent.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
    frequent.truncate(most);
    frequent.into_iter().map(|(text, _)| text).collect()
}

/// The tokenizer with these texts as further tokens. The first ones, words, join the model's vocabulary. The others are
/// found before a text is split into words.
fn extended(
    pretrained: &TextTokenizer,
    added: &[String],
    words: usize,
) -> tokenizers::Result<TextTokenizer> {
    let mut file: Value = serde_json::from_str(&pretrained.to_json()?)?;
    let kind = file["model"]["type"].as_str().unwrap_or("unknown").to_owned();
    let first = pretrained.vocabulary();
    let Some(vocabulary) = file["model"]["vocab"].as_object_mut().filter(|_| kind == "WordPiece")
    else {
        return Err(format!("the teacher's tokenizer is of type {kind}, not WordPiece").into());
    };
    for (token, word) in (first..).zip(&added[..words]) {
        vocabulary.insert(word.clone(), json!(token));
    }
    let Some(found_first) = file["added_tokens"].as_array_mut() else {
        return Err("the teacher's tokenizer has no list `added_tokens`".into());
    };
    found_first.extend((first + words..).zip(&added[words..]).map(|(token, phrase)| {
        json!({
            "id": token, "content": phrase, "single_word": true, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false,
        })
    }));
    file["post_processor"] = Value::Null;
    TextTokenizer::from_json(&serde_json::to_vec(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pretrained(kind: &str) -> TextTokenizer {
        let vocabulary = ["[UNK]", "[CLS]", "red", "mug", "re", "##tro", "##spot", "cake", "stand"];
        let vocabulary: serde_json::Map<String, Value> = vocabulary
            .iter()
            .enumerate()
            .map(|(id, word)| ((*word).to_owned(), json!(id)))
            .collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{ "id": 1, "content": "[CLS]", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true }],
            "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": null, "decoder": null,
            "model": { "type": kind, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary },
        });
        TextTokenizer::from_json(&serde_json::to_vec(&file).unwrap()).unwrap()
    }

    #[test]
    fn words_that_were_split_and_phrases_become_tokens() {
        let texts = vec!["Red RETROSPOT Cake Stand".to_owned(); 6];
        let limits = ShopVocabularyLimits { words: 5, phrases: 1 };
        let before = pretrained("WordPiece");
        let shop = ShopVocabulary::of(&before, &texts, limits).unwrap();
        assert_eq!(
            (shop.words, &shop.added[..]),
            (1, &["retrospot".to_owned(), "cake stand".to_owned()][..])
        );
        let (retrospot, cake_stand) = (9, 10);
        for (text, tokens) in [
            ("red retrospot mug", vec![2, retrospot, 3]),
            ("Retrospot Cake Stand", vec![retrospot, cake_stand]),
            ("cake stands", vec![7, 0]),
            ("cake. stand", vec![7, 0, 8]),
            ("", vec![]),
        ] {
            assert_eq!(shop.tokens.encode(text), tokens, "{text}");
        }
        assert_eq!(shop.tokens.vocabulary(), 11);
        assert_eq!(before.encode("retrospot"), [4, 5, 6]);
        assert_eq!((before.unknown(), before.special()), (Some(0), vec![1]));
    }

    #[test]
    fn rare_words_are_left_out_and_another_tokenizer_is_refused_by_its_type() {
        let limits = ShopVocabularyLimits { words: 5, phrases: 5 };
        let shop = ShopVocabulary::of(&pretrained("WordPiece"), &["retrospot".to_owned()], limits);
        assert!(shop.unwrap().added.is_empty());
        let error = ShopVocabulary::of(&pretrained("WordLevel"), &[], limits).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("WordLevel, not WordPiece"), "{source}");
    }
}
