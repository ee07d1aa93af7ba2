//! A thought about a slate, as a sentence that a shopper can read and a program can check.
//!
//! It goes in GR2's three steps: what the shopper likes, which candidate fits, and why. A thought
//! that was written can be read again, and what it claims can be held against the shop's own data.

use super::grounds::backs;
use crate::bundle::{Backing, Catalog, HistoryEvent, ItemCard};
use std::fmt;

/// What a thought says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thought {
    /// What the shopper likes, in the shop's own words for attributes.
    pub likes: Vec<String>,
    /// The title of the candidate that fits.
    pub title: String,
    /// Why it fits.
    pub because: Because,
}

/// Why a candidate fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It goes with something that the shopper had, by its title.
    GoesWith(String),
    /// It has an attribute that the shopper's things have, by its value.
    Is(String),
}

/// What a thought's claim about a candidate rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The number of the candidate.
    pub item: u32,
    /// The place of the reason on its card that says the same, with its evidence.
    pub reason: usize,
}

/// Things that a thought says of what a shopper likes.
const LIKES_MAX: usize = 3;
pub(super) const LIKES: &str = " Likes ";
pub(super) const AND: &str = " and ";
pub(super) const GOES_WITH: &str = " goes with ";
pub(super) const IS: &str = " is ";
const STOP: &str = ".";

impl fmt::Display for Thought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.likes_told())?;
        match &self.because {
            Because::GoesWith(other) => write!(f, " {}{GOES_WITH}{other}{STOP}", self.title),
            Because::Is(value) => write!(f, " {}{IS}{value}{STOP}", self.title),
        }
    }
}

impl Thought {
    /// What it says of what the shopper likes: nothing, if it says nothing of that.
    pub fn likes_told(&self) -> String {
        if self.likes.is_empty() {
            return String::new();
        }
        format!("{LIKES}{}{STOP}", self.likes.join(AND))
    }

    /// Reads a thought; `None` if it is none of ours. Titles may hold anything but a full stop that
    /// ends them, so the last sentence is looked at from its end.
    pub fn read(text: &str) -> Option<Self> {
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
    /// What it rests on, if all of it holds: what the shopper is said to like are attributes of what
    /// they had, the candidate was offered, and a reason on its card says why it fits.
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
        let says_so = |backing: Backing| match (&self.because, backing) {
            (Because::GoesWith(title), Backing::Item(other)) => {
                *catalog.item(other).title == **title
            }
            (Because::Is(value), Backing::Attribute(attribute)) => {
                **catalog.attribute(attribute).1 == **value
            }
            _ => false,
        };
        let holds = |backing: Backing| says_so(backing) && backs(catalog, history, backing);
        let reasons = &cards[item as usize].reasons;
        let reason = reasons.iter().position(|reason| holds(reason.backing))?;
        Some(Proof { item, reason })
    }

    /// What it says of the candidate.
    pub fn sentence(&self) -> String {
        let of_it = Self { likes: Vec::new(), ..self.clone() };
        of_it.to_string().trim_start().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
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
            assert_eq!(Thought::read(&thought.to_string()), Some(thought));
        }
        let text = " Likes red. Mug goes with Red Teapot.";
        assert_eq!(Thought::read(text).unwrap().to_string(), text);
    }

    #[test]
    fn what_is_no_thought_is_not_read() {
        for text in
            ["", ".", " Likes red.", " Mug", "Mug is red.", " Likes a and b and c and d. X is y."]
        {
            assert_eq!(Thought::read(text), None, "{text:?}");
        }
    }
}
