//! How do tokens become more tokens, many requests at once?

mod step;

pub use step::{Answers, Read, Runner, RunnerError, Shape, Span, Step, What};
