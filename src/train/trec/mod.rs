//! The files of TREC evaluations: judgements (qrels) and orders (runs), so that other programs measure our orders and ours
//! measures theirs.
//!
//! A line of qrels is `query iteration document grade`, and one of a run is `query Q0 document rank score tag`. As in
//! `trec_eval`, the order of a run is that of its scores as 32-bit floats, the highest first. Of documents with equal
//! scores, the one with the greater name comes first; the column of ranks is not read.

mod figures;
mod read;
mod write;

pub use figures::{FIGURES, RunFigures, STANDARD_FIGURES, measure_run};
pub use read::{Qrels, Run, read_qrels, read_run};
pub use write::{TrecFolder, encode};
