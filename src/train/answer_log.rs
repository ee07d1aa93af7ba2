//! An append-only JSON Lines file of answers, so that an interrupted stage asks no question twice.
//!
//! The first line is a key: who answers, and a hash of the questions. Each other line is one answer, in the order in which
//! they came. A truncated last line is dropped, and its question asked again.

use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Identifies the answerer and the questions. A log with another key is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerLogKey {
    /// The model or teacher that answers.
    #[serde(rename = "by")]
    pub answerer: String,
    /// A hash of the questions.
    pub questions: String,
}

/// A question by its index, and its answer.
#[derive(Serialize, Deserialize)]
struct AnswerLine<T> {
    question: usize,
    #[serde(flatten)]
    answer: T,
}

/// The answers so far, and their file.
#[derive(Debug)]
pub struct AnswerLog<T> {
    path: PathBuf,
    file: File,
    /// By question.
    answers: BTreeMap<usize, T>,
}

// === impl AnswerLog ===

impl<T: Serialize + DeserializeOwned> AnswerLog<T> {
    /// Opens or creates the file. A log of another answerer or other questions is refused, not overwritten: its answers may
    /// have cost money.
    pub fn open(path: &Path, key: &AnswerLogKey) -> anyhow::Result<Self> {
        let opening = || format!("opening the answer log {}", path.display());
        Self::read(path, key).with_context(opening)
    }

    fn read(path: &Path, key: &AnswerLogKey) -> anyhow::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut log = Self { path: path.to_owned(), file, answers: BTreeMap::new() };
        let mut text = Vec::new();
        log.file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        log.file.set_len(whole as u64)?;
        log.file.seek(SeekFrom::End(0))?;
        let mut lines = text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let Some(head) = lines.next() else {
            log.write(key)?;
            return Ok(log);
        };
        let found: AnswerLogKey = serde_json::from_slice(head).context("it is no answer log")?;
        ensure!(found.answerer == key.answerer, "its answers are from {}", found.answerer);
        ensure!(found == *key, "its answers are to other questions");
        for line in lines {
            let AnswerLine { question, answer } = serde_json::from_slice(line)?;
            log.answers.insert(question, answer);
        }
        Ok(log)
    }

    /// Those of so many questions that have no answer yet.
    pub fn missing(&self, questions: usize) -> Vec<usize> {
        (0..questions).filter(|question| !self.answers.contains_key(question)).collect()
    }

    /// Appends an answer.
    pub fn append(&mut self, question: usize, answer: T) -> anyhow::Result<()> {
        let line = AnswerLine { question, answer };
        self.write(&line).with_context(|| format!("writing {}", self.path.display()))?;
        self.answers.insert(question, line.answer);
        Ok(())
    }

    /// All answers, in the order of their questions.
    pub fn into_answers(self) -> Vec<T> {
        self.answers.into_values().collect()
    }

    /// Writes a line by one call, so that lines never interleave.
    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        Ok(self.file.write_all(&bytes)?)
    }
}
