//! Raisonné re-ranks the slates of an online shop within a deadline, and says why.
//!
//! The modules, in reading order; a module may import only from lower floors
//! (`tests/floors.rs` watches):
//!
//! | floor | modules | |
//! |--:|---|---|
//! | 0 | [`domain`] [`telemetry`] | words |
//! | 1 | [`worker`] [`store`] [`bundle`] [`language`] [`nn`] [`shop`] | matter |
//! | 2 | [`engine`] [`scorer`] [`evidence`] [`upstream`] [`simulate`] | machines |
//! | 3 | [`rank`] [`train`] | acts |
//! | 4 | [`api`] | door |
//! | 5 | [`app`] [`config`] [`mod@bench`] [`cli`] | the house |

pub mod api;
pub mod app;
pub mod bench;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod evidence;
pub mod language;
pub mod nn;
pub mod rank;
pub mod scorer;
pub mod shop;
pub mod simulate;
pub mod store;
pub mod telemetry;
pub mod train;
pub mod upstream;
pub mod worker;
