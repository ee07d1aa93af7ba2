//! What would the shop have shown without us?
//!
//! A plain co-purchase retriever: it stands for the shop's existing ranker, whose order is the one
//! "given". The product's own ranking never reads it.

mod item_knn;

pub use item_knn::{ItemKnn, ItemKnnConfig, Neighbour};
