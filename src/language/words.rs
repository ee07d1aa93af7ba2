//! Splits a title into words, and finds the singular of a word.

/// Words that end in "s" in the singular, or are a genitive without its apostrophe.
const ALREADY_SINGULAR: &[&str] = &[
    "atlas",
    "canvas",
    "childrens",
    "childs",
    "christmas",
    "ladies",
    "lens",
    "mens",
    "pyjamas",
    "scissors",
    "trousers",
    "womens",
];
/// Irregular plurals.
const IRREGULAR: &[(&str, &str)] = &[
    ("children", "child"),
    ("geese", "goose"),
    ("knives", "knife"),
    ("leaves", "leaf"),
    ("men", "man"),
    ("mice", "mouse"),
    ("scarves", "scarf"),
    ("shelves", "shelf"),
    ("women", "woman"),
];

/// The words of a title in lower case. Punctuation that ends a phrase becomes the word `","`.
///
/// "T-light Holder, Red/White" → `t-light` `holder` `,` `red` `and` `white`.
pub(super) fn words(title: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut close = |word: &mut String| {
        let whole = std::mem::take(word);
        let whole = whole.trim_matches(|mark| mark == '-' || mark == '\'');
        if !whole.is_empty() {
            words.push(whole.to_owned());
        }
    };
    for letter in title.chars().flat_map(char::to_lowercase) {
        if letter.is_alphanumeric() || matches!(letter, '-' | '\'') {
            word.push(letter);
            continue;
        }
        close(&mut word);
        match letter {
            '/' | '+' | '&' => close(&mut "and".to_owned()),
            ',' | '.' | ';' | ':' | '(' | ')' => close(&mut ",".to_owned()),
            _ => {}
        }
    }
    close(&mut word);
    words
}

/// The singular of an English noun, or the word itself.
pub(super) fn singular(word: &str) -> String {
    if let Ok(found) = IRREGULAR.binary_search_by_key(&word, |&(plural, _)| plural) {
        return IRREGULAR[found].1.to_owned();
    }
    if word.len() <= 3 || ALREADY_SINGULAR.binary_search(&word).is_ok() {
        return word.to_owned();
    }
    let ends_in_es = ["sses", "xes", "ches", "shes"];
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() > 2) {
        format!("{stem}y")
    } else if ends_in_es.iter().any(|end| word.ends_with(end)) {
        word[..word.len() - 2].to_owned()
    } else if word.ends_with("ss") || word.ends_with("us") || word.ends_with("is") {
        word.to_owned()
    } else {
        word.strip_suffix('s').unwrap_or(word).trim_end_matches('\'').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_split_into_words() {
        let check = |title, expected: &[&str]| assert_eq!(words(title), expected, "{title}");
        check("T-light Holder, Red/White", &["t-light", "holder", ",", "red", "and", "white"]);
        check("Charlie+lola 50's Mug", &["charlie", "and", "lola", "50's", "mug"]);
        check("\"LETTER\" - bling", &["letter", "bling"]);
        check("", &[]);
    }

    #[test]
    fn plurals_become_singular() {
        let check = |plural: &str, expected: &str| assert_eq!(singular(plural), expected);
        for (plural, expected) in [
            ("boxes", "box"),
            ("cases", "case"),
            ("cherries", "cherry"),
            ("christmas", "christmas"),
            ("dishes", "dish"),
            ("glass", "glass"),
            ("glasses", "glass"),
            ("leaves", "leaf"),
            ("roses", "rose"),
            ("t-lights", "t-light"),
            ("ties", "tie"),
        ] {
            check(plural, expected);
        }
    }

    #[test]
    fn tables_are_sorted_for_searching() {
        assert!(ALREADY_SINGULAR.is_sorted());
        assert!(IRREGULAR.is_sorted());
    }
}
