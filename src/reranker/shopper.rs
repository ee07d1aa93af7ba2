//! A shopper, as a prompt describes them.

use crate::bundle::HistoryEvent;
use crate::domain::Timestamp;

/// The shopper of a prompt.
#[derive(Clone, Copy, Debug)]
pub struct ShopperContext<'a> {
    /// Their events, oldest first.
    pub history: &'a [HistoryEvent],
    /// The time of the request.
    pub now: Timestamp,
    /// Texts about the shopper and from them.
    pub words: ShopperWords<'a>,
}

/// Texts about a shopper and from them; either may be empty. They are untrusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShopperWords<'a> {
    /// What the shop knows about the shopper.
    pub profile: &'a str,
    /// The shopper's request in words.
    pub query_text: &'a str,
}

// === impl ShopperContext ===

impl<'a> ShopperContext<'a> {
    /// A shopper without texts.
    pub fn of(history: &'a [HistoryEvent], now: Timestamp) -> Self {
        Self { history, now, words: ShopperWords::default() }
    }
}
