//! A thought about a slate: sentences that a shopper can read and a program can prove.
//!
//! It has the three steps of GR2: what the shopper likes, which candidate fits, and why. A generated thought is parsed,
//! and its claims are checked against the shop's data.

use crate::bundle::{Backing, Catalog, HistoryEvent, ItemCard};
use std::fmt;

/// A parsed thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thought {
    /// The values of the attributes that the shopper likes.
    pub likes: Vec<String>,
    /// The title of the candidate that fits.
    pub title: String,
    /// Why it fits.
    pub because: Because,
}

/// Why a candidate fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It goes with an item of the shopper's history, by title.
    GoesWith(String),
    /// It has an attribute of the shopper's items, by value.
    Is(String),
}

/// The proof of a thought's claim about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The number of the candidate.
    pub item: u32,
    /// The index of the reason on its card that makes the same claim, with evidence.
    pub reason: usize,
}

/// Attributes that a thought may name.
const LIKES_MAX: usize = 3;
pub(super) const LIKES: &str = " Likes ";
pub(super) const AND: &str = " and ";
pub(super) const GOES_WITH: &str = " goes with ";
pub(super) const IS: &str = " is ";
/// The end of a sentence.
pub(super) const STOP: &str = ".";

impl fmt::Display for Thought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.likes_sentence())?;
        match &self.because {
            Because::GoesWith(other) => write!(f, " {}{GOES_WITH}{other}{STOP}", self.title),
            Because::Is(value) => write!(f, " {}{IS}{value}{STOP}", self.title),
        }
    }
}

impl Thought {
    /// The sentence about what the shopper likes; empty if there is none.
    pub fn likes_sentence(&self) -> String {
        if self.likes.is_empty() {
            return String::new();
        }
        format!("{LIKES}{}{STOP}", self.likes.join(AND))
    }

    /// Parses a thought; `None` if the text has another form. A title may contain " is ", so the last sentence is
    /// parsed from its end.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix(STOP)?;
        let (likes, rest) = match text.strip_prefix(LIKES) {
            Some(rest) => rest.split_once(". ")?,
            None => ("", text.strip_prefix(' ')?),
        };
        let likes: Vec<String> =
            likes.split(AND).filter(|like| !like.is_empty()).map(str::to_owned).collect();
        if likes.len() > LIKES_MAX {
            return None;
        }
        let (title, because) = if let Some((title, other)) = rest.split_once(GOES_WITH) {
            (title, Because::GoesWith(other.to_owned()))
        } else {
            let (title, value) = rest.rsplit_once(IS)?;
            (title, Because::Is(value.to_owned()))
        };
        Some(Self { likes, title: title.to_owned(), because })
    }
}

impl Thought {
    /// The proof, if all of the thought holds: the shopper's items have the liked attributes, the candidate was
    /// offered, and a backed reason on its card makes the same claim.
    pub fn prove(
        &self,
        catalog: &Catalog,
        cards: &[ItemCard],
        history: &[HistoryEvent],
        offered: &[u32],
    ) -> Option<Proof> {
        let liked = |value: &String| {
            let held = history.iter().flat_map(|past| &catalog.item(past.item).attributes);
            held.copied().any(|attribute| **catalog.attribute(attribute).1 == **value)
        };
        if !self.likes.iter().all(liked) {
            return None;
        }
        let item = *offered.iter().find(|item| *catalog.item(**item).title == *self.title)?;
        let is_same_claim = |backing: Backing| match (&self.because, backing) {
            (Because::GoesWith(title), Backing::Item(other)) => {
                *catalog.item(other).title == **title
            }
            (Because::Is(value), Backing::Attribute(attribute)) => {
                **catalog.attribute(attribute).1 == **value
            }
            _ => false,
        };
        let holds = |backing: Backing| is_same_claim(backing) && backs(catalog, history, backing);
        let reasons = &cards[item as usize].reasons;
        let reason = reasons.iter().position(|reason| holds(reason.backing))?;
        Some(Proof { item, reason })
    }

    /// The sentence about the candidate.
    pub fn sentence(&self) -> String {
        let claim = Self { likes: Vec::new(), ..self.clone() };
        claim.to_string().trim_start().to_owned()
    }
}

/// Whether a history backs a reason.
pub(super) fn backs(catalog: &Catalog, history: &[HistoryEvent], backing: Backing) -> bool {
    match backing {
        Backing::Item(other) => history.iter().any(|past| past.item == other),
        Backing::Attribute(attribute) => {
            history.iter().any(|past| catalog.item(past.item).attributes.contains(&attribute))
        }
        Backing::Nothing => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_thought_parses_to_the_same() {
        let thought = |likes: &[&str], because| Thought {
            likes: likes.iter().map(|&like| like.to_owned()).collect(),
            title: "Set of 6 Mugs, Red".into(),
            because,
        };
        let (with, is) = (Because::GoesWith("Red Teapot".into()), Because::Is("red".into()));
        for thought in [
            thought(&[], with.clone()),
            thought(&["red"], is.clone()),
            thought(&["red", "weekend bake"], with),
            thought(&[], is),
        ] {
            assert_eq!(Thought::parse(&thought.to_string()), Some(thought));
        }
        let text = " Likes red. Mug goes with Red Teapot.";
        assert_eq!(Thought::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn other_texts_do_not_parse() {
        for text in
            ["", ".", " Likes red.", " Mug", "Mug is red.", " Likes a and b and c and d. X is y."]
        {
            assert_eq!(Thought::parse(text), None, "{text:?}");
        }
    }
}
