//! How do tokens become more tokens, many requests at once?

mod runner;
mod step;

pub use runner::CpuRunner;
pub use step::{Answers, Read, Runner, RunnerError, Shape, Span, Step, What};
