//! What was answered so far: one file, so that nobody is asked twice.
//!
//! A line says who was asked what; then comes a line for each question, in the order in which they were
//! answered. A line that was cut off is asked again.

use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Who was asked what: answers to something else are not taken up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Who answers, in a form of their own.
    pub by: String,
    /// A hash of the questions.
    pub questions: String,
}

/// A question by its number, and what came of it.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    question: usize,
    #[serde(flatten)]
    answer: T,
}

/// The answers so far, and their file.
#[derive(Debug)]
pub struct Answers<T> {
    path: PathBuf,
    file: File,
    so_far: BTreeMap<usize, T>,
}

// === impl Answers ===

impl<T: Serialize + DeserializeOwned> Answers<T> {
    /// Opens the file, or makes it. Answers of somebody else, or to other questions, are refused:
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
        ensure!(found.by == mark.by, "they are those of {}", found.by);
        ensure!(found == *mark, "other questions were asked");
        for line in lines {
            let Line { question, answer } = serde_json::from_slice(line)?;
            answers.so_far.insert(question, answer);
        }
        Ok(answers)
    }

    /// Those of so many questions that nothing is known of yet.
    pub fn missing(&self, questions: usize) -> Vec<usize> {
        (0..questions).filter(|question| !self.so_far.contains_key(question)).collect()
    }

    /// Writes an answer down.
    pub fn add(&mut self, question: usize, answer: T) -> anyhow::Result<()> {
        let line = Line { question, answer };
        self.write(&line).with_context(|| format!("writing {}", self.path.display()))?;
        self.so_far.insert(question, line.answer);
        Ok(())
    }

    /// All of them, in the order of their questions.
    pub fn into_all(self) -> Vec<T> {
        self.so_far.into_values().collect()
    }

    /// In one piece, so that no line is half there while another is written.
    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        Ok(self.file.write_all(&bytes)?)
    }
}
