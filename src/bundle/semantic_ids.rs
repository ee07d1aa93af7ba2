//! Semantic ids: a few codes for each item. All but the last quantise its text; the last one tells it
//! from the items whose other codes are equal.

use super::{BundleError, Part};
use crate::regular_file::{self, Links};
use rand::Rng;
use rand::seq::IndexedRandom as _;
use rustc_hash::FxHashMap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fmt::Display;
use std::path::Path;

/// The name of the tensor in the file: (items, levels), U16.
const TENSOR: &str = "codes";
/// Codes of an id, at most.
const LEVELS_MAX: usize = 32;
/// The metadata key of the number of codes of a level.
const CODES_KEY: &str = "codes_per_level";

/// The semantic ids of a catalogue's items. No two are equal.
#[derive(Clone, Debug, PartialEq)]
pub struct SemanticIds {
    /// Codes of an id, the last one included.
    levels: usize,
    /// Codes of each level.
    codes: usize,
    /// (items, levels)
    table: Vec<u16>,
    numbers: FxHashMap<Vec<u16>, u32>,
}

/// More items share a prefix than the last level has codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{items} items have ids that begin with {prefix:?}, but the last level has only {codes} codes: \
     use more levels, or more codes in each"
)]
pub struct PrefixFull {
    /// The shared codes.
    pub prefix: Vec<u16>,
    /// How many items share them.
    pub items: usize,
    /// Codes of the last level.
    pub codes: usize,
}

// === impl SemanticIds ===

impl SemanticIds {
    /// An empty table of ids with `levels` codes each, the last one included. Codes are below `codes`.
    pub fn new(levels: usize, codes: usize) -> Self {
        Self { levels, codes, table: Vec::new(), numbers: FxHashMap::default() }
    }

    /// Ids of items with these prefixes (items, `levels` − 1), in the order of their numbers. The last
    /// codes are drawn; see [`SemanticIds::add`].
    pub fn draw(
        prefixes: &[u16],
        levels: usize,
        codes: usize,
        rng: &mut impl Rng,
    ) -> Result<Self, PrefixFull> {
        let mut ids = Self::new(levels, codes);
        let mut sharing: FxHashMap<&[u16], usize> = FxHashMap::default();
        for prefix in prefixes.chunks_exact(levels - 1) {
            *sharing.entry(prefix).or_default() += 1;
        }
        if let Some((prefix, &items)) =
            sharing.iter().max_by_key(|&(prefix, &items)| (items, prefix))
            && items > codes
        {
            return Err(PrefixFull { prefix: prefix.to_vec(), items, codes });
        }
        for prefix in prefixes.chunks_exact(levels - 1) {
            ids.add(prefix, rng)?;
        }
        Ok(ids)
    }

    /// Gives the next item an id with this prefix. The last code is drawn among those that no other item
    /// with the prefix has.
    pub fn add(&mut self, prefix: &[u16], rng: &mut impl Rng) -> Result<&[u16], PrefixFull> {
        let mut id = [prefix, &[0]].concat();
        let last = prefix.len();
        let is_free = |&code: &u16| {
            id[last] = code;
            !self.numbers.contains_key(&id)
        };
        let free: Vec<u16> = (0..self.codes).map(|code| code as u16).filter(is_free).collect();
        id[last] = *free.choose(rng).ok_or_else(|| PrefixFull {
            prefix: prefix.to_vec(),
            items: self.codes + 1,
            codes: self.codes,
        })?;
        self.table.extend_from_slice(&id);
        let number = self.numbers.len() as u32;
        self.numbers.insert(id, number);
        Ok(self.of(number))
    }

    /// How many items have an id.
    pub fn len(&self) -> usize {
        self.table.len() / self.levels
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Codes of an id.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Codes of each level.
    pub fn codes(&self) -> usize {
        self.codes
    }

    /// The id of the item of this number. Panics if there is none.
    pub fn of(&self, number: u32) -> &[u16] {
        &self.table[number as usize * self.levels..][..self.levels]
    }

    /// The number of the item that has this id.
    pub fn item(&self, id: &[u16]) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    /// All ids, in the order of their items' numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u16]> {
        self.table.chunks_exact(self.levels)
    }

    /// Writes `semantic_ids.safetensors` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), BundleError> {
        let path = dir.join(Part::SemanticIds.file());
        let bytes: Vec<u8> = self.table.iter().flat_map(|code| code.to_le_bytes()).collect();
        let shape = vec![self.len(), self.levels];
        let view = TensorView::new(Dtype::U16, shape, &bytes).expect("rows of one width");
        let metadata = [(CODES_KEY.to_owned(), self.codes.to_string())].into_iter().collect();
        safetensors::serialize_to_file([(TENSOR, view)], Some(metadata), &path)
            .map_err(|error| malformed(&error.to_string()))
    }

    /// Reads the ids of a catalogue of `items` from `dir`, if it holds any.
    pub fn read(dir: &Path, items: usize) -> Result<Option<Self>, BundleError> {
        let path = dir.join(Part::SemanticIds.file());
        match regular_file::read(&path, Links::Refused, Part::SemanticIds.bytes_max()) {
            Ok(bytes) => Self::parse(&bytes, items).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BundleError::Io { path, source }),
        }
    }

    fn parse(bytes: &[u8], items: usize) -> Result<Self, BundleError> {
        let wrong = |error: safetensors::SafeTensorError| malformed(&error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
        let codes = metadata.metadata().as_ref().and_then(|meta| meta.get(CODES_KEY));
        let found = codes.map_or("missing".to_owned(), |codes| format!("{codes:?}"));
        let codes: usize = codes
            .and_then(|codes| codes.parse().ok())
            .ok_or_else(|| field(CODES_KEY, found, "a number"))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
        let tensor = tensors.tensor(TENSOR).map_err(wrong)?;
        let levels = match *tensor.shape() {
            [rows, levels]
                if rows == items
                    && (1..=LEVELS_MAX).contains(&levels)
                    && tensor.dtype() == Dtype::U16 =>
            {
                levels
            }
            _ => {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                let expected = format!("U16 [items, levels], one id for each of {items} items");
                return Err(field(TENSOR, found, expected));
            }
        };
        let (halves, _) = tensor.data().as_chunks::<2>();
        let table: Vec<u16> = halves.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect();
        if let Some(code) = table.iter().find(|&&code| usize::from(code) >= codes) {
            let expected = format!("a code of a level of {codes}");
            return Err(field(TENSOR, code, expected));
        }
        let mut numbers: FxHashMap<Vec<u16>, u32> = FxHashMap::default();
        for (id, number) in table.chunks_exact(levels).zip(0..) {
            if let Some(other) = numbers.insert(id.to_vec(), number) {
                let found = format!("{id:?} for the items {other} and {number}");
                return Err(field(TENSOR, found, "ids of which no two items have the same id"));
            }
        }
        Ok(Self { levels, codes, table, numbers })
    }
}

fn malformed(why: &str) -> BundleError {
    BundleError::malformed(Part::SemanticIds.file(), why)
}

fn field(name: &str, found: impl Display, expected: impl Display) -> BundleError {
    BundleError::field(Part::SemanticIds.file(), name, found, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(3)
    }

    #[test]
    fn the_last_code_tells_items_with_one_prefix_apart() {
        let prefixes = [[1, 2], [1, 2], [1, 3], [1, 2], [1, 2]].concat();
        let ids = SemanticIds::draw(&prefixes, 3, 4, &mut rng()).unwrap();
        assert_eq!(ids.len(), 5);
        let mut lasts: Vec<u16> = [0, 1, 3, 4].map(|item| ids.of(item)[2]).into();
        lasts.sort_unstable();
        assert_eq!(lasts, [0, 1, 2, 3], "each code was free once");
        assert!(ids.iter().zip(0..).all(|(id, item)| ids.item(id) == Some(item)));
        assert_eq!(ids, SemanticIds::draw(&prefixes, 3, 4, &mut rng()).unwrap());
    }

    #[test]
    fn a_prefix_with_more_items_than_codes_is_named_with_both() {
        let prefixes = [[5, 6], [5, 6], [0, 0], [5, 6], [5, 6]].concat();
        let error = SemanticIds::draw(&prefixes, 3, 3, &mut rng()).unwrap_err();
        assert_eq!(error, PrefixFull { prefix: vec![5, 6], items: 4, codes: 3 });
        let expected =
            "4 items have ids that begin with [5, 6], but the last level has only 3 codes";
        assert!(error.to_string().starts_with(expected), "{error}");
        let mut full = SemanticIds::draw(&prefixes[..6], 3, 3, &mut rng()).unwrap();
        assert_eq!(full.add(&[0, 0], &mut rng()).map(<[u16]>::len), Ok(3));
        full.add(&[5, 6], &mut rng()).unwrap();
        assert_eq!(full.add(&[5, 6], &mut rng()), Err(error));
    }

    #[test]
    fn ids_survive_the_file_and_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        assert_eq!(SemanticIds::read(dir, 2).unwrap(), None);
        let ids = SemanticIds::draw(&[7, 7], 2, 300, &mut rng()).unwrap();
        ids.write(dir).unwrap();
        assert_eq!(SemanticIds::read(dir, 2).unwrap(), Some(ids.clone()));
        let error = |items| SemanticIds::read(dir, items).unwrap_err().to_string();
        assert!(error(3).contains("one id for each of 3 items"), "{}", error(3));
        let twice = SemanticIds { table: vec![7, 1, 7, 1], ..ids.clone() };
        twice.write(dir).unwrap();
        assert!(error(2).contains("no two items have the same id"), "{}", error(2));
        SemanticIds { codes: 5, ..ids }.write(dir).unwrap();
        assert!(error(2).contains("of a level of 5"), "{}", error(2));
    }
}
