//! How does a text become a vector?
//!
//! An encoder maps a text's tokens to a *wide* unit vector. A projection maps that to the [`TEXT_WIDTH`] numbers that the
//! scorer's network reads. Two encoders stand behind [`EncodeTokens`]: a static table, which adds up a vector of each
//! token, and a BERT, which reads the tokens in order and costs a thousand times as much.

mod agreement;
mod bert;
mod distil;
mod eigen;
mod error;
mod files;
mod fit;
mod folder;
mod projection;
mod sparse;
mod table;

pub use agreement::{NEAREST, NeighbourAgreement};
pub use bert::{Bert, BertSettings, Pooling};
pub use distil::{Distillation, token_weights};
pub use error::TextEncoderError;
pub use fit::{TextEncoderConfig, TextEncoderProgress, fit};
pub use folder::{BertFolder, StaticFolder, bert_folder, static_table};
pub use projection::Projection;
pub use table::{TABLE_WIDTH_MAX, TokenTable};

use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// Width of a text's vector in the scorer's network.
pub const TEXT_WIDTH: usize = 64;
/// A vector of a smaller squared length counts as zero.
const SQUARE_MIN: f32 = 1e-12;
/// The name of a trained table in the file: (vocabulary, [`TEXT_WIDTH`]).
const TRAINED_TABLE: &str = "text.rows";
/// The name of a wide table in the file: (vocabulary, width).
const WIDE_TABLE: &str = "text.table";
/// The name of the projection in the file: ([`TEXT_WIDTH`], width).
const PROJECTION: &str = "text.projection";

/// Maps a text's tokens to a unit vector. Related texts get similar vectors.
pub trait EncodeTokens: Debug + Send + Sync {
    /// Numbers of a vector.
    fn width(&self) -> usize;

    /// Tokens that it knows: those below this number.
    fn vocabulary(&self) -> usize;

    /// The vectors of texts: (texts, width), each of length one, or all zeros for a text without a known token.
    fn encode_all(&self, texts: &[Vec<u32>]) -> Vec<f32>;
}

/// A wide encoder, and the projection of its vectors.
#[derive(Debug)]
pub struct TextEncoder {
    wide: WideEncoder,
    /// `None` where the wide vectors are [`TEXT_WIDTH`] wide.
    projection: Option<Projection>,
}

#[derive(Debug)]
enum WideEncoder {
    Table(TokenTable),
    Bert(Arc<Bert>),
}

// === impl TextEncoder ===

impl TextEncoder {
    /// The encoder that a shop trains: a table of [`TEXT_WIDTH`] numbers a token.
    pub fn trained(table: TokenTable) -> Self {
        Self { wide: WideEncoder::Table(table), projection: None }
    }

    /// A wide table with a projection of its vectors.
    pub fn of_table(table: TokenTable, projection: Projection) -> Self {
        Self { wide: WideEncoder::Table(table), projection: Some(projection) }
    }

    /// A BERT with a projection of its vectors.
    pub fn of_bert(bert: Arc<Bert>, projection: Projection) -> Self {
        Self { wide: WideEncoder::Bert(bert), projection: Some(projection) }
    }

    /// The wide encoder.
    pub fn wide(&self) -> &dyn EncodeTokens {
        match &self.wide {
            WideEncoder::Table(table) => table,
            WideEncoder::Bert(bert) => &**bert,
        }
    }

    /// The BERT, if it is one.
    pub fn bert(&self) -> Option<&Bert> {
        match &self.wide {
            WideEncoder::Table(_) => None,
            WideEncoder::Bert(bert) => Some(bert),
        }
    }

    /// The projections of wide vectors: (texts, [`TEXT_WIDTH`]).
    pub fn project_all(&self, wide: Vec<f32>) -> Vec<f32> {
        match &self.projection {
            None => wide,
            Some(projection) => projection.project_all(&wide),
        }
    }

    /// The table, if it is one.
    pub fn table(&self) -> Option<&TokenTable> {
        match &self.wide {
            WideEncoder::Table(table) => Some(table),
            WideEncoder::Bert(_) => None,
        }
    }

    /// Writes a text's vector into `out`, [`TEXT_WIDTH`] long.
    ///
    /// Unknown tokens are skipped. A text without a known token is the zero vector, as is a missing text.
    pub fn encode(&self, tokens: &[u32], out: &mut [f32]) {
        match (&self.wide, &self.projection) {
            (WideEncoder::Table(table), None) => table.encode(tokens, out),
            (_, projection) => {
                let wide = self.wide().encode_all(&[tokens.to_vec()]);
                match projection {
                    Some(projection) => projection.project(&wide, out),
                    None => out.copy_from_slice(&wide),
                }
            }
        }
    }

    /// Writes the table and the projection as safetensors. The files of a BERT are written by [`Bert::save`].
    pub fn save(&self, path: &Path) -> Result<(), TextEncoderError> {
        let mut tensors = HashMap::new();
        match (&self.wide, &self.projection) {
            (WideEncoder::Table(table), None) => {
                tensors.insert(TRAINED_TABLE, table.to_tensor()?);
            }
            (WideEncoder::Table(table), Some(_)) => {
                tensors.insert(WIDE_TABLE, table.to_tensor()?);
            }
            (WideEncoder::Bert(_), _) => {}
        }
        if let Some(projection) = &self.projection {
            tensors.insert(PROJECTION, projection.to_tensor()?);
        }
        Ok(candle_core::safetensors::save(&tensors, path)?)
    }

    /// Reads a file of [`TextEncoder::save`]. A file without a table is that of the BERT in the folder `bert`.
    pub fn load(path: &Path, bert: &Path) -> Result<Self, TextEncoderError> {
        let bytes = regular_file::read(path, Links::Followed, DATA_BYTES_MAX)
            .map_err(|source| TextEncoderError::Read { path: path.into(), source })?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        if let Some(table) = tensors.get(TRAINED_TABLE) {
            return Self::trained_of(table);
        }
        let Some(projection) = tensors.get(PROJECTION) else {
            let why = format!("neither {TRAINED_TABLE} nor {PROJECTION} is in the file");
            return Err(TextEncoderError::Tensors(why));
        };
        let projection = Projection::of_tensor(projection)?;
        let encoder = match tensors.get(WIDE_TABLE) {
            Some(table) => Self::of_table(TokenTable::of_tensor(table)?, projection),
            None => Self::of_bert(Arc::new(Bert::load(bert)?), projection),
        };
        encoder.check_widths()?;
        Ok(encoder)
    }

    fn trained_of(table: &Tensor) -> Result<Self, TextEncoderError> {
        let table = TokenTable::of_tensor(table)?;
        if table.width() != TEXT_WIDTH {
            let found = table.width();
            let why = format!("{TRAINED_TABLE} is {found} wide and should be {TEXT_WIDTH}");
            return Err(TextEncoderError::Tensors(why));
        }
        Ok(Self::trained(table))
    }

    fn check_widths(&self) -> Result<(), TextEncoderError> {
        let (found, expected) =
            (self.projection.as_ref().map(Projection::wide), self.wide().width());
        if found.is_some_and(|found| found != expected) {
            let why =
                format!("{PROJECTION} reads {found:?} numbers, and the encoder gives {expected}");
            return Err(TextEncoderError::Tensors(why));
        }
        Ok(())
    }
}

/// Scales a vector to length one. One that is next to nothing becomes zeros.
fn to_unit_length(vector: &mut [f32]) {
    let square: f32 = vector.iter().map(|value| value * value).sum();
    let scale = if square > SQUARE_MIN { square.sqrt().recip() } else { 0.0 };
    for value in vector {
        *value *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|value| ((value * 37 % 101) as f32 - 50.0) / 50.0).collect()
    }

    #[test]
    fn a_saved_encoder_is_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.safetensors");
        let trained = TextEncoder::trained(TokenTable::new(numbers(128), TEXT_WIDTH).unwrap());
        let table = TokenTable::new(numbers(960), 96).unwrap();
        let wide = TextEncoder::of_table(table.halved(), Projection::fit(&numbers(9_600), 96));
        for encoder in [trained, wide] {
            encoder.save(&path).unwrap();
            let loaded = TextEncoder::load(&path, folder.path()).unwrap();
            assert_eq!(loaded.wide().width(), encoder.wide().width());
            let encoded = |encoder: &TextEncoder| {
                let mut out = [f32::NAN; TEXT_WIDTH];
                encoder.encode(&[1, 0, 1], &mut out);
                out.map(f32::to_bits)
            };
            assert_eq!(encoded(&loaded), encoded(&encoder));
        }
    }

    #[test]
    fn files_that_do_not_fit_are_refused_by_what_they_hold() {
        type Shapes<'a> = &'a [(&'a str, (usize, usize))];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.safetensors");
        let zeros = |shape: (usize, usize)| {
            Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap()
        };
        let cases: [(Shapes<'_>, &str); 5] = [
            (&[(TRAINED_TABLE, (3, 5))], "5 wide"),
            (&[], "neither"),
            (&[(PROJECTION, (63, 96))], "63 numbers"),
            (&[(PROJECTION, (64, 96)), (WIDE_TABLE, (3, 95))], "gives 95"),
            (&[(PROJECTION, (64, 96))], "encoder.json"),
        ];
        for (tensors, expected) in cases {
            let tensors: HashMap<&str, Tensor> =
                tensors.iter().map(|&(name, shape)| (name, zeros(shape))).collect();
            candle_core::safetensors::save(&tensors, &path).unwrap();
            let error = TextEncoder::load(&path, folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
    }
}
