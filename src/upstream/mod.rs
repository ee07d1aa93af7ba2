//! What would the shop have shown without us?
//!
//! A plain item-kNN over co-purchases stands in for the shop's own ranker, whose order is the order given. Serving never
//! reads it.

mod item_knn;

pub use item_knn::{ItemKnn, ItemKnnConfig, Neighbour};
