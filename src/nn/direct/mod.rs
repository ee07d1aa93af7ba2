//! The scorer's direct path: a small network that reads only numbers of features, beside the deep network.
//!
//! ```text
//! x = clamp((f − mean) / deviation, ±5)         mean and deviation of the training slates
//! z = (x − mean of the slate) / deviation of the slate
//! u = [x; z]
//! logit = w·u + out(GELU(LayerNorm(hidden(u))))  averaged over the members
//! ```
//!
//! Members are networks of one shape that were trained from several seeds. GELU is the form with tanh. The inputs u
//! are computed by one code, [`Standardiser`], for training and serving. A slate's mean and deviation are sums of
//! numbers on a fixed grid, which are exact, so they are the same bits in every order of the candidates.

mod fused;
mod inputs;
mod network;
mod shape;

pub use fused::{DirectScratch, DirectSlateError, FusedDirect};
pub use inputs::{CLAMP, DIRECT_SLATE_MAX, SPREAD_MIN, SlateMoments, Standardiser};
pub use network::DirectNetwork;
pub use shape::DirectShape;
