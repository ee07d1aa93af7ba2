//! The networks for serving: one shopper at a time.
//!
//! A shopper's vector is computed once per card, an item's once per bundle. A request costs a dot product per candidate.

mod layers;
mod paper;
mod published;

pub use layers::RecheadScratch;
pub use paper::PaperRechead;
pub use published::{PublishedRechead, RecheadTokens};

use super::{RecheadShape, RecheadWiring};
use crate::nn::{Weights, WeightsError};

/// The network for serving, in either wiring.
#[derive(Clone, Debug)]
pub enum Rechead {
    /// Over fixed vectors of texts.
    Paper(PaperRechead),
    /// Over the tokens of texts.
    Published(PublishedRechead),
}

// === impl Rechead ===

impl Rechead {
    /// Builds a network of this shape from its weights.
    pub fn new(weights: &Weights, shape: &RecheadShape) -> Result<Self, WeightsError> {
        match shape.wiring {
            RecheadWiring::Paper => PaperRechead::new(weights, shape).map(Self::Paper),
            RecheadWiring::Published => PublishedRechead::new(weights, shape).map(Self::Published),
        }
    }

    /// Width of a shopper's and of an item's vector.
    pub fn width(&self) -> usize {
        match self {
            Self::Paper(network) => network.width(),
            Self::Published(network) => network.shape().width,
        }
    }

    /// Width of the vector of an item's text.
    pub fn text_width(&self) -> usize {
        match self {
            Self::Paper(network) => network.text_width(),
            Self::Published(network) => network.shape().text,
        }
    }

    /// The vector (d) of an item, from its text's vector (e).
    pub fn item(&self, text: &[f32], scratch: &mut RecheadScratch) -> Vec<f32> {
        match self {
            Self::Paper(network) => network.item(text, scratch),
            Self::Published(network) => network.item(text),
        }
    }

    /// The same network, which reads each text of a shopper as if it were the next one: a check that the texts differ.
    pub fn with_texts_swapped(self) -> Self {
        match self {
            Self::Paper(network) => Self::Paper(network.with_texts_swapped()),
            Self::Published(network) => Self::Published(network.with_texts_swapped()),
        }
    }
}
