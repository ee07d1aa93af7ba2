//! Raisonné re-ranks the slates of an online shop within a deadline, and says why.
//!
//! The modules, in reading order; a module may import only from lower floors
//! (`tests/floors.rs` watches):
//!
//! | floor | modules | |
//! |--:|---|---|
//! | 0 | [`domain`] [`overlay`] [`telemetry`] | words |
//! | 1 | [`worker`] [`store`] [`bundle`] [`language`] [`nn`] [`shop`] | matter |
//! | 2 | [`engine`] [`scorer`] [`evidence`] [`upstream`] [`simulate`] | machines |
//! | 3 | [`reranker`] | a machine that can be spoken to |
//! | 4 | [`rank`] [`train`] | acts |
//! | 5 | [`api`] | door |
//! | 6 | [`app`] [`config`] [`mod@bench`] [`cli`] | the house |

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
pub mod overlay;
pub mod rank;
pub mod reranker;
pub mod scorer;
pub mod shop;
pub mod simulate;
pub mod store;
pub mod telemetry;
pub mod train;
pub mod upstream;
pub mod worker;
