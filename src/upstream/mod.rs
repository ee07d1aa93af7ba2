//! What would the shop have shown without us?
//!
//! Two retrievers stand in for the shop's own ranker, whose order is the order given: a plain item-kNN over
//! co-purchases, and a stronger blend of several lists. Serving never reads them.

mod blended;
mod item_knn;
mod titles;

pub use blended::{BlendWeights, Blended, BlendedDay};
pub use item_knn::{ItemKnn, ItemKnnConfig, Neighbour};
