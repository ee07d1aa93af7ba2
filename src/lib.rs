//! Raisonné re-ranks the slates of an online shop within a deadline, and explains the order.
//!
//! The modules in reading order. A module imports only from lower floors (`tests/floors.rs` checks that):
//!
//! | floor | modules | |
//! |--:|---|---|
//! | 0 | [`domain`] [`overlay`] [`regular_file`] [`telemetry`] | common types, settings, files, metrics |
//! | 1 | [`worker`] [`store`] [`bundle`] [`language`] [`nn`] [`shop`] [`statistics`] | threads, files, tokens, networks, data, counts |
//! | 2 | [`engine`] [`scorer`] [`evidence`] [`upstream`] [`simulate`] [`events`] | inference, reasons, simulated shops |
//! | 3 | [`reranker`] | prompts and answers of the language model |
//! | 4 | [`rank`] [`train`] | serving a climb, training a bundle |
//! | 5 | [`api`] | gRPC and HTTP |
//! | 6 | [`app`] [`config`] [`mod@bench`] [`rank_file`] [`cli`] | wiring, configuration, files of requests, command line |

pub mod api;
pub mod app;
pub mod bench;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod events;
pub mod evidence;
pub mod items;
pub mod language;
pub mod nn;
pub mod overlay;
pub mod rank;
pub mod rank_file;
pub mod regular_file;
pub mod reranker;
pub mod scorer;
pub mod shop;
pub mod simulate;
pub mod statistics;
pub mod store;
pub mod telemetry;
pub mod train;
pub mod upstream;
pub mod worker;
