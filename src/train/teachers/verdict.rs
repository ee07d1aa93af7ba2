//! What a teacher's words are worth, and how often they were worth what.

use super::question::Posed;
use super::{Question, Said};
use crate::reranker::Thought;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::AddAssign;

/// What came of asking about one slate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// A thought that holds and leads to the candidate that was taken.
    pub thought: Option<String>,
    /// What was said by one who did not know which one that was, …
    pub asked: Verdicts,
    /// … and by one who had been told.
    pub told: Verdicts,
}

/// How often what was said came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// It holds, and leads to the candidate that was taken.
    pub kept: u32,
    /// It leads to another one.
    pub wrong: u32,
    /// No thought can be read from it, or none that could be read again.
    pub unreadable: u32,
    /// Something of it does not hold, or can't be shown to.
    pub unprovable: u32,
    /// It is no answer.
    pub no_answer: u32,
    /// Nothing came back.
    pub failed_calls: u32,
}

// === impl Answer ===

impl AddAssign<&Answer> for Answer {
    /// Adds up the verdicts; thoughts are no sum.
    fn add_assign(&mut self, other: &Answer) {
        self.asked += other.asked;
        self.told += other.told;
    }
}

// === impl Verdicts ===

impl Verdicts {
    /// Judges what was said, and gives the thought if it is to be kept.
    pub fn judge(&mut self, said: Said, posed: &Posed<'_>) -> Option<String> {
        let (count, thought) = match said {
            Said::Nothing => (&mut self.no_answer, None),
            Said::Unreadable => (&mut self.unreadable, None),
            Said::Failed => (&mut self.failed_calls, None),
            Said::Took(item, _) if item != posed.taken => (&mut self.wrong, None),
            Said::Took(_, thought) => {
                let text = thought.to_string();
                if Thought::read(&text).as_ref() != Some(&thought) {
                    (&mut self.unreadable, None)
                } else if !holds(&thought, &posed.question, posed.taken) {
                    (&mut self.unprovable, None)
                } else {
                    (&mut self.kept, Some(text))
                }
            }
        };
        *count += 1;
        thought
    }

    /// Times that it was asked.
    pub fn attempts(self) -> u32 {
        let Self { kept, wrong, unreadable, unprovable, no_answer, failed_calls } = self;
        kept + wrong + unreadable + unprovable + no_answer + failed_calls
    }

    /// As a report tells them.
    pub fn told(self) -> Value {
        let attempts = self.attempts();
        let acceptance = f64::from(self.kept) / f64::from(attempts.max(1));
        json!({
            "attempts": attempts,
            "kept": self.kept,
            "acceptance": (acceptance * 1e4).round() / 1e4,
            "dropped": {
                "wrong": self.wrong,
                "unreadable": self.unreadable,
                "unprovable": self.unprovable,
                "no_answer": self.no_answer,
                "failed_calls": self.failed_calls,
            },
        })
    }
}

impl AddAssign for Verdicts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.wrong += other.wrong;
        self.unreadable += other.unreadable;
        self.unprovable += other.unprovable;
        self.no_answer += other.no_answer;
        self.failed_calls += other.failed_calls;
    }
}

/// Whether all of a thought holds, and speaks for this candidate: another one of the slate may bear
/// the same title.
fn holds(thought: &Thought, question: &Question<'_>, item: u32) -> bool {
    let (cards, history) = (&question.cards.items, &question.case.history);
    thought.prove(question.catalog, cards, history, &[item]).is_some()
}
