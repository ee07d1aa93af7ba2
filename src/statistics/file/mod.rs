//! Statistics as bytes: little-endian numbers, item by item. `docs/statistics.md` lists them.
//!
//! Only what is not zero is written. A reader checks each length against the bytes that are left, and each value
//! against what [`Statistics::apply`] can make of events. It never allocates by a length that it only read.

mod bytes;
mod groups;
mod items;
mod rows;

use super::chunks::Chunked;
use super::counts::Statistics;
use super::error::StatisticsError;
use super::windows::bounded;
use bytes::{Reader, Writer};

/// The first bytes of statistics.
const MAGIC: [u8; 8] = *b"RAISTATS";
/// The version that is written and read.
const VERSION: u32 = 1;

impl Statistics {
    /// The statistics as bytes, which [`Self::from_bytes`] reads. Equal statistics make equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.put(MAGIC);
        out.put(VERSION.to_le_bytes());
        out.put([u8::from(self.as_of.is_some())]);
        out.put(self.as_of.unwrap_or_default().to_le_bytes());
        groups::write(&self.groups, &mut out);
        self.items.iter().for_each(|item| items::write_item(item, &mut out));
        let states = self.categories.iter().chain(self.attributes.iter());
        states.for_each(|group| items::write_group(group, &mut out));
        self.rows.iter().for_each(|row| rows::write(row.as_deref(), &mut out));
        out.into_bytes()
    }

    /// Reads statistics. Fails for bytes that are foreign, of another version, cut off, followed by others, or of
    /// values that no events can make.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatisticsError> {
        let mut reader = Reader::new(bytes);
        if reader.take("magic") != Ok(MAGIC) {
            return Err(StatisticsError::Foreign);
        }
        let version = reader.u32("version")?;
        if version != VERSION {
            return Err(StatisticsError::Version { value: version, supported: VERSION });
        }
        let (known, as_of) = (reader.u8("as_of")?, reader.i64("as_of")?);
        if known > 1 || bounded(as_of) != as_of {
            return Err(StatisticsError::AsOf { known, value: as_of });
        }
        let groups = groups::read(&mut reader)?;
        let (items, categories, attributes) =
            (groups.len(), groups.categories(), groups.attributes());
        // The lists grow as they are read: nothing is allocated for what is only claimed.
        let mut statistics = Self {
            groups,
            items: Chunked::new(0),
            rows: Chunked::new(0),
            categories: Chunked::new(0),
            attributes: Chunked::new(0),
            as_of: (known == 1).then_some(as_of),
        };
        for item in 0..items {
            statistics.items.push(items::read_item(&mut reader, item)?);
        }
        for number in 0..categories {
            statistics.categories.push(items::read_group(&mut reader, ("category", number))?);
        }
        for number in 0..attributes {
            statistics.attributes.push(items::read_group(&mut reader, ("attribute", number))?);
        }
        let mut partners = rows::Partners::of(items);
        for item in 0..items {
            statistics.rows.push(rows::read(&mut reader, item, &mut partners)?);
        }
        reader.finish()?;
        Ok(statistics)
    }
}
