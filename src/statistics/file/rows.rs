//! The pairs of items in stored statistics.

use super::bytes::{Reader, Writer};
use super::items::{day, fault};
use crate::statistics::error::StatisticsError;
use crate::statistics::pairs::{PARTNERS_MAX, Pair, PairRow};
use std::sync::Arc;

// The number of an item's partners is written in one byte.
const _: () = assert!(PARTNERS_MAX <= u8::MAX as usize);

/// Which item each partner was read for last, to find one that is listed twice.
pub(super) struct Partners(Vec<u32>);

impl Partners {
    pub(super) fn of(items: usize) -> Self {
        Self(vec![u32::MAX; items])
    }

    /// Why a partner of `item` cannot be, if it cannot.
    fn refuse(&mut self, item: u32, partner: u32) -> Option<&'static str> {
        let Some(last) = self.0.get_mut(partner as usize) else {
            return Some("the number of an item");
        };
        if partner == item {
            return Some("another item");
        }
        (std::mem::replace(last, item) == item).then_some("listed once")
    }
}

pub(super) fn write(row: Option<&PairRow>, out: &mut Writer) {
    let Some(row) = row else { return out.put([0]) };
    out.put([row.pairs.len() as u8]);
    out.put(row.day.0.to_le_bytes());
    for pair in &row.pairs {
        out.put(pair.partner.to_le_bytes());
        out.put(pair.same.to_le_bytes());
        out.put(pair.next.to_le_bytes());
        out.put(pair.recent.to_le_bytes());
    }
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    item: usize,
    partners: &mut Partners,
) -> Result<Option<Arc<PairRow>>, StatisticsError> {
    let (whose, count) = (("item", item), reader.u8("number of pairs")? as usize);
    if count > PARTNERS_MAX {
        let rule = format!("at most {PARTNERS_MAX}");
        return Err(fault(whose, "number of pairs", &rule, count));
    }
    if count == 0 {
        return Ok(None);
    }
    let day = day(reader, whose)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let pair = read_pair(reader, item)?;
        if let Some(rule) = partners.refuse(item as u32, pair.partner) {
            return Err(fault(whose, "partner", rule, pair.partner));
        }
        pairs.push(pair);
    }
    Ok(Some(Arc::new(PairRow { day, pairs })))
}

fn read_pair(reader: &mut Reader<'_>, item: usize) -> Result<Pair, StatisticsError> {
    let partner = reader.u32("partner")?;
    let (same, next) = (reader.u16("same")?, reader.u16("next")?);
    let recent = reader.f32("recent")?;
    if same == 0 && next == 0 {
        return Err(fault(("item", item), "same", "above 0, or `next`", same));
    }
    if !recent.is_finite() || recent.is_sign_negative() {
        return Err(fault(("item", item), "recent", "a finite number from 0", recent));
    }
    Ok(Pair { partner, same, next, recent })
}
