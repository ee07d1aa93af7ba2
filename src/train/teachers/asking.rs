//! Many questions to one teacher, a few at a time, and none twice.

use super::verdict::Answer;
use super::{Posed, Teacher};
use crate::train::ProgressObserver;
use crate::train::answers::{Answers, Mark};
use anyhow::Context as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// How questions are asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The file of the answers so far.
    pub file: &'a Path,
    /// Whether a teacher that erred is told which candidate was taken, and asked why.
    pub targeted: bool,
}

/// What came of each question, in their order, and how many were answered before.
pub fn ask_all(
    teacher: &dyn Teacher,
    posed: &[Posed<'_>],
    asking: Asking<'_>,
    progress: &mut dyn ProgressObserver,
) -> anyhow::Result<(Vec<Answer>, usize)> {
    let mut answers = Answers::open(asking.file, &mark(teacher, posed, asking.targeted))?;
    let left = Left { slates: answers.missing(posed.len()), next: AtomicUsize::new(0) };
    let known = posed.len() - left.slates.len();
    let at_once = teacher.at_once().get().min(left.slates.len()).max(1);
    // Who waits for a teacher must not hold up who computes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(at_once).build();
    let pool = pool.context("starting the threads that ask")?;
    let (tell, told) = mpsc::sync_channel(at_once);
    let left = &left;
    pool.in_place_scope(|scope| {
        for _ in 0..at_once {
            let tell = tell.clone();
            scope.spawn(move |_| left.ask(teacher, posed, asking.targeted, &tell));
        }
        drop(tell);
        for (done, (slate, answer)) in told.into_iter().enumerate() {
            answers.add(slate, answer?)?;
            progress.show("slates", (known + done + 1) as u64, posed.len() as u64);
        }
        anyhow::Ok(())
    })?;
    Ok((answers.into_all(), known))
}

/// These questions to this teacher, who may be told where it erred.
fn mark(teacher: &dyn Teacher, posed: &[Posed<'_>], targeted: bool) -> Mark {
    let mut hash = blake3::Hasher::new();
    hash.update(&[u8::from(targeted)]);
    for Posed { question, taken } in posed {
        hash.update(question.user.as_str().as_bytes());
        hash.update(&question.case.now.to_le_bytes());
        for past in &question.case.history {
            hash.update(&past.item.to_le_bytes()).update(&past.time.to_le_bytes());
        }
        let offered = question.offered.iter().copied();
        for number in offered.chain([*taken, question.seed, u32::MAX]) {
            hash.update(&number.to_le_bytes());
        }
    }
    let questions = hash.finalize().to_hex().to_string();
    // As a string: numbers of a JSON value would not all survive being read.
    Mark { by: teacher.about().to_string(), questions }
}

/// The slates that nobody has been asked about yet.
struct Left {
    slates: Vec<usize>,
    next: AtomicUsize,
}

// === impl Left ===

impl Left {
    /// Asks about one after the other, until none is left or nobody listens any more.
    fn ask(
        &self,
        teacher: &dyn Teacher,
        posed: &[Posed<'_>],
        targeted: bool,
        tell: &mpsc::SyncSender<(usize, anyhow::Result<Answer>)>,
    ) {
        while let Some(&slate) = self.slates.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let answer = ask(teacher, &posed[slate], targeted);
            if answer.is_err() {
                // Nobody asks on: what can't be put down is not to be paid for.
                self.next.store(self.slates.len(), Ordering::Relaxed);
            }
            if tell.send((slate, answer)).is_err() {
                break;
            }
        }
    }
}

/// Asks until something can be kept, or there is nothing more to try.
fn ask(teacher: &dyn Teacher, posed: &Posed<'_>, targeted: bool) -> anyhow::Result<Answer> {
    let mut answer = Answer::default();
    for number in 0..teacher.attempts_max().get() {
        let said = teacher.attempt(&posed.question, number)?;
        answer.thought = answer.asked.judge(said, posed);
        if answer.thought.is_some() {
            return Ok(answer);
        }
    }
    if targeted && let Some(said) = teacher.explain(&posed.question, posed.taken)? {
        answer.thought = answer.told.judge(said, posed);
    }
    Ok(answer)
}
