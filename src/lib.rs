//! Raisonné re-ranks the slates of an online shop within a deadline, and says why.
//!
//! The modules, in reading order; a module may import only from lower floors
//! (`tests/floors.rs` watches):
//!
//! | floor | modules | |
//! |--:|---|---|
//! | 0 | [`domain`] [`telemetry`] | words |
//! | 3 | [`rank`] | acts |

pub mod domain;
pub mod rank;
pub mod telemetry;
