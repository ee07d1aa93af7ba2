//! What a teacher has answered so far: one file, so that nobody is asked twice.
//!
//! A line says who was asked what; then comes a line for each slate, in the order in which they were
//! answered. A line that was cut off is asked again.

use super::verdict::Answer;
use super::{Posed, Teacher};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Who was asked what: answers to something else are not taken up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Who answers, as JSON: numbers would not all survive being read.
    teacher: String,
    /// Whether it is told where it erred.
    targeted: bool,
    /// A hash of the questions.
    questions: String,
}

/// A slate by its number, and what came of it.
#[derive(Serialize, Deserialize)]
struct Line {
    slate: usize,
    #[serde(flatten)]
    answer: Answer,
}

/// The answers so far, and their file.
#[derive(Debug)]
pub struct Answers {
    path: PathBuf,
    file: File,
    so_far: BTreeMap<usize, Answer>,
}

// === impl Mark ===

impl Mark {
    /// These questions to this teacher.
    pub fn new(teacher: &dyn Teacher, posed: &[Posed<'_>], targeted: bool) -> Self {
        let mut hash = blake3::Hasher::new();
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
        Self { teacher: teacher.about().to_string(), targeted, questions }
    }
}

// === impl Answers ===

impl Answers {
    /// Opens the file, or makes it. Answers of another teacher, or to other questions, are refused:
    /// they may have cost money.
    pub fn open(path: &Path, mark: &Mark) -> anyhow::Result<Self> {
        let opening = || format!("taking up the answers in {}", path.display());
        Self::take_up(path, mark).with_context(opening)
    }

    fn take_up(path: &Path, mark: &Mark) -> anyhow::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut answers = Self { path: path.to_owned(), file, so_far: BTreeMap::new() };
        let mut text = Vec::new();
        answers.file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        answers.file.set_len(whole as u64)?;
        answers.file.seek(SeekFrom::End(0))?;
        let mut lines = text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let Some(head) = lines.next() else {
            answers.write(mark)?;
            return Ok(answers);
        };
        let found: Mark = serde_json::from_slice(head).context("it holds no answers of ours")?;
        ensure!(found.teacher == mark.teacher, "they are those of {}", found.teacher);
        ensure!(found == *mark, "other questions were asked");
        for line in lines {
            let Line { slate, answer } = serde_json::from_slice(line)?;
            answers.so_far.insert(slate, answer);
        }
        Ok(answers)
    }

    /// Those of so many slates that nothing is known of yet.
    pub fn missing(&self, slates: usize) -> Vec<usize> {
        (0..slates).filter(|slate| !self.so_far.contains_key(slate)).collect()
    }

    /// Writes an answer down.
    pub fn add(&mut self, slate: usize, answer: Answer) -> anyhow::Result<()> {
        let line = Line { slate, answer };
        self.write(&line).with_context(|| format!("writing {}", self.path.display()))?;
        self.so_far.insert(slate, line.answer);
        Ok(())
    }

    /// All of them, in the order of their slates.
    pub fn into_all(self) -> Vec<Answer> {
        self.so_far.into_values().collect()
    }

    /// In one piece, so that no line is half there while another is written.
    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        Ok(self.file.write_all(&bytes)?)
    }
}
