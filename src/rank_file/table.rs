//! Rankings as a Parquet table: one row for each item of an answer.

use crate::api::{OfflineAnswer, pb};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::mem;
use std::sync::Arc;

/// WaitingRows that are held before they are written as a row group.
const GROUP_ROWS: usize = 1 << 14;
/// Milliseconds of a second.
const MS: i64 = 1_000;

/// The columns, in the order in which [`WaitingRows::write`] writes them.
const SCHEMA: &str = "
message ranking {
  required binary request_id (STRING);
  required binary user_id (STRING);
  optional int64 time (TIMESTAMP(MILLIS, true));
  required binary quality (STRING);
  required binary bundle (STRING);
  required binary item_id (STRING);
  required int32 place_before (INTEGER(32, false));
  required int32 place_after (INTEGER(32, false));
  required float score;
  optional float score_prior;
  optional float score_scorer;
  optional float score_rechead;
  optional float score_weighed;
  optional float score_reranker;
  required group reasons (LIST) {
    repeated group list {
      required group element {
        required binary text (STRING);
        required binary source (STRING);
        required float weight;
        required group evidence (LIST) {
          repeated group list {
            required group element {
              required binary kind (STRING);
              required binary item_id (STRING);
              required binary attribute (STRING);
              required binary value (STRING);
              required int32 count (INTEGER(32, false));
              required int32 of (INTEGER(32, false));
            }
          }
        }
      }
    }
  }
  required group shortfalls (LIST) {
    repeated group list {
      required group element {
        required binary quality (STRING);
        required binary why (STRING);
        required binary missing (STRING);
      }
    }
  }
  required binary rationale (STRING);
}";

/// A Parquet file of rankings that is being written.
pub(super) struct RankingTable {
    file: SerializedFileWriter<File>,
    rows: WaitingRows,
}

/// The values of a column, and where they stand: levels as Parquet defines them, none for a column with one value a row.
#[derive(Default)]
struct Column<T> {
    values: Vec<T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

/// The rows that wait to be written, by column.
#[derive(Default)]
struct WaitingRows {
    count: usize,
    request_id: Column<ByteArray>,
    user_id: Column<ByteArray>,
    time: Column<i64>,
    quality: Column<ByteArray>,
    bundle: Column<ByteArray>,
    item_id: Column<ByteArray>,
    place_before: Column<i32>,
    place_after: Column<i32>,
    score: Column<f32>,
    parts: [Column<f32>; 5],
    reasons: ReasonColumns,
    shortfalls: [Column<ByteArray>; 3],
    rationale: Column<ByteArray>,
}

#[derive(Default)]
struct ReasonColumns {
    text: Column<ByteArray>,
    source: Column<ByteArray>,
    weight: Column<f32>,
    /// Kind, item, attribute and value of the evidence.
    evidence: [Column<ByteArray>; 4],
    /// Its figure: `count` and `of`.
    figure: [Column<i32>; 2],
}

// === impl RankingTable ===

impl RankingTable {
    pub(super) fn new(file: File) -> Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let file = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        Ok(Self { file, rows: WaitingRows::default() })
    }

    pub(super) fn write(&mut self, answer: &OfflineAnswer) -> Result<()> {
        self.rows.push(answer);
        if self.rows.count >= GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    /// Writes what waits, and the footer.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.rows.count > 0 {
            self.flush()?;
        }
        self.file.close().map(|_| ())
    }

    fn flush(&mut self) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        mem::take(&mut self.rows).write(&mut group)?;
        group.close().map(|_| ())
    }
}

// === impl WaitingRows ===

impl WaitingRows {
    fn push(&mut self, answer: &OfflineAnswer) {
        let OfflineAnswer { user, time, response } = answer;
        let pb::RerankResponse {
            request_id,
            results,
            quality,
            shortfalls,
            bundle,
            receipt: _, // It differs from run to run.
            rationale,
        } = response;
        let [request_id, user, bundle, rationale] =
            [request_id, user, bundle, rationale].map(|text| ByteArray::from(text.as_str()));
        let quality = quality_cell(*quality);
        for result in results {
            self.count += 1;
            self.request_id.one(request_id.clone());
            self.user_id.one(user.clone());
            self.time.optional(time.map(|time| time * MS));
            self.quality.one(quality.clone());
            self.bundle.one(bundle.clone());
            self.push_result(result);
            let cells = |shortfall: &pb::Shortfall| {
                let why = pb::Why::try_from(shortfall.why).unwrap_or_default();
                let why = word_cell(why.as_str_name(), "WHY_");
                [quality_cell(shortfall.quality), why, shortfall.missing.as_str().into()]
            };
            list(&mut self.shortfalls, shortfalls.iter().map(cells));
            self.rationale.one(rationale.clone());
        }
    }

    fn push_result(&mut self, result: &pb::Result) {
        let pb::Result { item_id, rank, input_rank, score, scores, reasons } = result;
        self.item_id.one(item_id.as_str().into());
        self.place_before.one(*input_rank as i32);
        self.place_after.one(*rank as i32);
        self.score.one(*score);
        let pb::Scores { prior, scorer, rechead, weighed, reranker } = scores.unwrap_or_default();
        for (column, part) in self.parts.iter_mut().zip([prior, scorer, rechead, weighed, reranker])
        {
            column.optional(part);
        }
        self.reasons.push(reasons);
    }

    /// Writes the columns in the order of the schema.
    fn write(self, group: &mut SerializedRowGroupWriter<'_, File>) -> Result<()> {
        self.request_id.write::<ByteArrayType>(group)?;
        self.user_id.write::<ByteArrayType>(group)?;
        self.time.write::<Int64Type>(group)?;
        self.quality.write::<ByteArrayType>(group)?;
        self.bundle.write::<ByteArrayType>(group)?;
        self.item_id.write::<ByteArrayType>(group)?;
        self.place_before.write::<Int32Type>(group)?;
        self.place_after.write::<Int32Type>(group)?;
        self.score.write::<FloatType>(group)?;
        self.parts.into_iter().try_for_each(|part| part.write::<FloatType>(group))?;
        let ReasonColumns { text, source, weight, evidence, figure } = self.reasons;
        text.write::<ByteArrayType>(group)?;
        source.write::<ByteArrayType>(group)?;
        weight.write::<FloatType>(group)?;
        evidence.into_iter().try_for_each(|cells| cells.write::<ByteArrayType>(group))?;
        figure.into_iter().try_for_each(|cells| cells.write::<Int32Type>(group))?;
        self.shortfalls.into_iter().try_for_each(|cells| cells.write::<ByteArrayType>(group))?;
        self.rationale.write::<ByteArrayType>(group)
    }
}

// === impl ReasonColumns ===

impl ReasonColumns {
    fn push(&mut self, reasons: &[pb::Reason]) {
        if reasons.is_empty() {
            self.text.level(0, 0, None);
            self.source.level(0, 0, None);
            self.weight.level(0, 0, None);
            self.no_evidence(0, 0);
        }
        for (nth, reason) in reasons.iter().enumerate() {
            let again = i16::from(nth > 0);
            self.text.level(again, 1, Some(reason.text.as_str().into()));
            self.source.level(again, 1, Some(word_cell(reason.source().as_str_name(), "SOURCE_")));
            self.weight.level(again, 1, Some(reason.weight));
            if reason.evidence.is_empty() {
                self.no_evidence(again, 1);
            }
            for (nth, evidence) in reason.evidence.iter().enumerate() {
                self.evidence(if nth > 0 { 2 } else { again }, evidence);
            }
        }
    }

    fn no_evidence(&mut self, repetition: i16, definition: i16) {
        self.evidence.iter_mut().for_each(|cells| cells.level(repetition, definition, None));
        self.figure.iter_mut().for_each(|cells| cells.level(repetition, definition, None));
    }

    fn evidence(&mut self, repetition: i16, evidence: &pb::Evidence) {
        let kind = word_cell(evidence.kind().as_str_name(), "EVIDENCE_KIND_");
        let pb::Evidence { kind: _, item_id, attribute, value, count, of } = evidence;
        let texts = [item_id, attribute, value].map(|text| ByteArray::from(text.as_str()));
        let [item_id, attribute, value] = texts;
        for (cells, text) in self.evidence.iter_mut().zip([kind, item_id, attribute, value]) {
            cells.level(repetition, 2, Some(text));
        }
        for (cells, figure) in self.figure.iter_mut().zip([*count, *of]) {
            cells.level(repetition, 2, Some(figure as i32));
        }
    }
}

// === impl Column ===

impl<T> Column<T> {
    /// A value of a column that has one in each row.
    fn one(&mut self, value: T) {
        self.values.push(value);
    }

    /// A value that may be missing.
    fn optional(&mut self, value: Option<T>) {
        self.definition.push(i16::from(value.is_some()));
        self.values.extend(value);
    }

    /// A value in a list, or the empty list in its place.
    fn level(&mut self, repetition: i16, definition: i16, value: Option<T>) {
        self.repetition.push(repetition);
        self.definition.push(definition);
        self.values.extend(value);
    }

    fn write<D: DataType<T = T>>(
        self,
        group: &mut SerializedRowGroupWriter<'_, File>,
    ) -> Result<()> {
        let mut column = group.next_column()?.expect("the schema has a column for each of these");
        let levels = |levels: Vec<i16>| (!levels.is_empty()).then_some(levels);
        let (definition, repetition) = (levels(self.definition), levels(self.repetition));
        let writer = column.typed::<D>();
        writer.write_batch(&self.values, definition.as_deref(), repetition.as_deref())?;
        column.close()
    }
}

/// A list of records, one column for each of their cells.
fn list<const N: usize>(
    columns: &mut [Column<ByteArray>; N],
    records: impl ExactSizeIterator<Item = [ByteArray; N]>,
) {
    if records.len() == 0 {
        for column in columns.iter_mut() {
            column.level(0, 0, None);
        }
    }
    for (nth, record) in records.enumerate() {
        for (column, cell) in columns.iter_mut().zip(record) {
            column.level(i16::from(nth > 0), 1, Some(cell));
        }
    }
}

/// The word of a quality: `scored` for `QUALITY_SCORED`.
pub(super) fn quality_word(quality: i32) -> String {
    let quality = pb::Quality::try_from(quality).unwrap_or_default();
    word(quality.as_str_name(), "QUALITY_")
}

fn quality_cell(quality: i32) -> ByteArray {
    quality_word(quality).into_bytes().into()
}

fn word_cell(name: &str, prefix: &str) -> ByteArray {
    word(name, prefix).into_bytes().into()
}

/// The word of a name of the contract, without its prefix.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}
