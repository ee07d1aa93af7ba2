//! Rejection sampling: many questions to one teacher, a few at a time, each answer logged at once.

use super::outcome::QuestionOutcome;
use super::{LabelledQuestion, Teacher};
use crate::train::ProgressObserver;
use crate::train::answer_log::{AnswerLog, AnswerLogKey};
use anyhow::Context as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Settings of rejection sampling.
#[derive(Clone, Copy, Debug)]
pub struct RejectionSampling<'a> {
    /// The file of the answer log.
    pub log: &'a Path,
    /// Whether a teacher that was wrong is given the label and explains it.
    pub targeted: bool,
}

/// The outcome of each question, in their order, and how many were already in the log.
pub fn sample_all(
    teacher: &dyn Teacher,
    questions: &[LabelledQuestion<'_>],
    sampling: RejectionSampling<'_>,
    progress: &mut dyn ProgressObserver,
) -> anyhow::Result<(Vec<QuestionOutcome>, usize)> {
    let key = log_key(teacher, questions, sampling.targeted);
    let mut log = AnswerLog::open(sampling.log, &key)?;
    let queue = QuestionQueue { open: log.missing(questions.len()), next: AtomicUsize::new(0) };
    let known = questions.len() - queue.open.len();
    let concurrency = teacher.concurrency().get().min(queue.open.len()).max(1);
    // A pool of its own: threads that wait for a teacher must not block computation.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(concurrency).build();
    let pool = pool.context("starting the threads that question the teacher")?;
    let (sender, receiver) = mpsc::sync_channel(concurrency);
    let queue = &queue;
    pool.in_place_scope(|scope| {
        for _ in 0..concurrency {
            let sender = sender.clone();
            scope.spawn(move |_| queue.work(teacher, questions, sampling.targeted, &sender));
        }
        drop(sender);
        for (done, (question, outcome)) in receiver.into_iter().enumerate() {
            log.append(question, outcome?)?;
            progress.show("slates", (known + done + 1) as u64, questions.len() as u64);
        }
        anyhow::Ok(())
    })?;
    Ok((log.into_answers(), known))
}

/// Identifies these questions to this teacher.
fn log_key(
    teacher: &dyn Teacher,
    questions: &[LabelledQuestion<'_>],
    targeted: bool,
) -> AnswerLogKey {
    let mut hash = blake3::Hasher::new();
    hash.update(&[u8::from(targeted)]);
    for LabelledQuestion { question, taken } in questions {
        hash.update(question.user.as_str().as_bytes());
        hash.update(&question.case.now.to_le_bytes());
        for event in &question.case.history {
            hash.update(&event.item.to_le_bytes()).update(&event.time.to_le_bytes());
        }
        let offered = question.offered.iter().copied();
        for number in offered.chain([*taken, question.seed, u32::MAX]) {
            hash.update(&number.to_le_bytes());
        }
    }
    let questions = hash.finalize().to_hex().to_string();
    // JSON text, because not every number of a JSON value survives parsing.
    AnswerLogKey { answerer: teacher.description().to_string(), questions }
}

/// The questions without an answer. Threads take them in turn.
struct QuestionQueue {
    /// Indices of the questions.
    open: Vec<usize>,
    /// The next one in `open`.
    next: AtomicUsize,
}

// === impl QuestionQueue ===

impl QuestionQueue {
    /// Questions the teacher until the queue is empty, or the receiver is gone.
    fn work(
        &self,
        teacher: &dyn Teacher,
        questions: &[LabelledQuestion<'_>],
        targeted: bool,
        sender: &mpsc::SyncSender<(usize, anyhow::Result<QuestionOutcome>)>,
    ) {
        while let Some(&index) = self.open.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = sample(teacher, &questions[index], targeted);
            if outcome.is_err() {
                // All threads stop: an error ends the stage, and further answers would be paid for and lost.
                self.next.store(self.open.len(), Ordering::Relaxed);
            }
            if sender.send((index, outcome)).is_err() {
                break;
            }
        }
    }
}

/// Samples until a thought is accepted or the attempts are used up. A targeted attempt comes last.
fn sample(
    teacher: &dyn Teacher,
    labelled: &LabelledQuestion<'_>,
    targeted: bool,
) -> anyhow::Result<QuestionOutcome> {
    let mut outcome = QuestionOutcome::default();
    for number in 0..teacher.attempts_max().get() {
        let reply = teacher.attempt(&labelled.question, number)?;
        outcome.thought = outcome.blind.judge(reply, labelled);
        if outcome.thought.is_some() {
            return Ok(outcome);
        }
    }
    if targeted && let Some(reply) = teacher.explain(&labelled.question, labelled.taken)? {
        outcome.thought = outcome.targeted.judge(reply, labelled);
    }
    Ok(outcome)
}
