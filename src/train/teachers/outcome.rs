//! Judges a teacher's replies, and counts the verdicts.

use super::question::LabelledQuestion;
use super::{SlateQuestion, TeacherReply};
use crate::reranker::Thought;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::AddAssign;

/// The outcome of one question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionOutcome {
    /// The accepted thought: it holds, and leads to the taken candidate.
    pub thought: Option<String>,
    /// Verdicts on attempts without the label.
    #[serde(rename = "asked")]
    pub blind: VerdictCounts,
    /// Verdicts on attempts with the label.
    #[serde(rename = "told")]
    pub targeted: VerdictCounts,
}

/// How many replies had each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCounts {
    /// Accepted: the thought holds, and leads to the taken candidate.
    pub kept: u32,
    /// It leads to another candidate.
    pub wrong: u32,
    /// No thought can be parsed from it, or its text does not parse to the same thought.
    pub unreadable: u32,
    /// A claim does not hold, or cannot be checked.
    pub unprovable: u32,
    /// It names no candidate.
    pub no_answer: u32,
    /// The call failed.
    pub failed_calls: u32,
}

// === impl QuestionOutcome ===

impl AddAssign<&QuestionOutcome> for QuestionOutcome {
    /// Adds up the verdicts, and ignores the thoughts.
    fn add_assign(&mut self, other: &QuestionOutcome) {
        self.blind += other.blind;
        self.targeted += other.targeted;
    }
}

// === impl VerdictCounts ===

impl VerdictCounts {
    /// Judges and counts a reply, and returns the thought if it is accepted.
    pub fn judge(
        &mut self,
        reply: TeacherReply,
        labelled: &LabelledQuestion<'_>,
    ) -> Option<String> {
        let (count, thought) = match reply {
            TeacherReply::NoAnswer => (&mut self.no_answer, None),
            TeacherReply::Unreadable => (&mut self.unreadable, None),
            TeacherReply::CallFailed => (&mut self.failed_calls, None),
            TeacherReply::Chose(item, _) if item != labelled.taken => (&mut self.wrong, None),
            TeacherReply::Chose(_, thought) => {
                let text = thought.to_string();
                if Thought::parse(&text).as_ref() != Some(&thought) {
                    (&mut self.unreadable, None)
                } else if !holds(&thought, &labelled.question, labelled.taken) {
                    (&mut self.unprovable, None)
                } else {
                    (&mut self.kept, Some(text))
                }
            }
        };
        *count += 1;
        thought
    }

    /// The number of attempts.
    pub fn attempts(self) -> u32 {
        let Self { kept, wrong, unreadable, unprovable, no_answer, failed_calls } = self;
        kept + wrong + unreadable + unprovable + no_answer + failed_calls
    }

    /// The counts for a stage's report.
    pub fn report_json(self) -> Value {
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

impl AddAssign for VerdictCounts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.wrong += other.wrong;
        self.unreadable += other.unreadable;
        self.unprovable += other.unprovable;
        self.no_answer += other.no_answer;
        self.failed_calls += other.failed_calls;
    }
}

/// Whether every claim of a thought holds for this candidate. Only its index identifies it: another candidate may have the
/// same title.
fn holds(thought: &Thought, question: &SlateQuestion<'_>, item: u32) -> bool {
    let (cards, history) = (&question.cards.items, &question.case.history);
    thought.prove(question.catalog, cards, history, &[item]).is_some()
}
