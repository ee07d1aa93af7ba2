//! Statistics that are stored, and bytes that are none.

use super::*;

fn stored() -> Vec<u8> {
    let mut counted = Counted::all(12, &log(10, 600, 5));
    counted.statistics.push_item(None, &[0, 1, 2]);
    counted.statistics.to_bytes()
}

#[test]
fn statistics_are_read_as_they_were_stored() {
    for (items, events) in [(0, 0), (1, 0), (1, 1), (10, 600), (40, 3_000)] {
        let counted = Counted::all(items, &log(items.max(1), events, 9));
        let bytes = counted.statistics.to_bytes();
        let read = Statistics::from_bytes(&bytes).unwrap();
        assert_eq!(read.to_bytes(), bytes);
        assert_eq!((read.len(), read.as_of()), (items as usize, counted.statistics.as_of()));
        for (item, now) in (0..items).flat_map(|item| [(item, NOON), (item, NOON + 77 * DAY)]) {
            assert_eq!(read.item(item, now), counted.statistics.item(item, now));
            assert!(read.pairs(item, now).eq(counted.statistics.pairs(item, now)));
            assert_eq!(read.groups().of(item), counted.statistics.groups().of(item));
        }
        for number in 0..3 {
            assert_eq!(read.category(number, NOON), counted.statistics.category(number, NOON));
            assert_eq!(read.attribute(number, NOON), counted.statistics.attribute(number, NOON));
        }
    }
}

#[test]
fn bytes_that_are_cut_off_anywhere_are_refused() {
    let whole = stored();
    for length in 0..whole.len() {
        let error = Statistics::from_bytes(&whole[..length]).unwrap_err();
        let expected =
            if length < 8 { "these are no statistics" } else { "the statistics end within" };
        assert!(error.to_string().contains(expected), "{length} bytes: {error}");
    }
    let longer = [&whole[..], &[0]].concat();
    let error = Statistics::from_bytes(&longer).unwrap_err().to_string();
    assert_eq!(error, format!("1 bytes follow the end of the statistics at byte {}", whole.len()));
}

#[test]
fn foreign_bytes_are_refused() {
    let mut other = stored();
    other[8] = 2;
    let rows: [(&str, &[u8], &str); 5] = [
        ("nothing", &[], "these are no statistics"),
        ("text", b"user,item,time\n1,2,3\n", "these are no statistics"),
        ("zeros", &[0; 64], "these are no statistics"),
        ("another version", &other, "`version` is 2, and this program reads 1"),
        ("the name alone", b"RAISTATS", "the statistics end within `version`"),
    ];
    for (name, bytes, expected) in rows {
        let error = Statistics::from_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// Any byte may be wrong: what is read is refused, or stored again as the same bytes.
#[test]
fn any_changed_byte_is_refused_or_read_as_another_state() {
    let whole = stored();
    let mut refused = 0;
    for (at, flip) in (0..whole.len()).flat_map(|at| [(at, 0x80), (at, 0x01), (at, 0xff)]) {
        let mut bytes = whole.clone();
        bytes[at] ^= flip;
        let Ok(read) = Statistics::from_bytes(&bytes) else {
            refused += 1;
            continue;
        };
        let item = read.item(0, NOON);
        assert!(item.buyers.iter().all(|value| *value >= 0.0), "byte {at}");
        read.pairs(0, NOON).for_each(|pair| assert!((pair.partner as usize) < read.len()));
    }
    assert!(refused > whole.len() / 2, "{refused} of {} were refused", 3 * whole.len());
}

/// The bytes of one item that was bought twice with item 1, by hand.
struct Bytes(Vec<u8>);

impl Bytes {
    /// What a file begins with: no event, and so many categories, attributes and items.
    fn head(counts: [u32; 3]) -> Self {
        let mut bytes = [&b"RAISTATS"[..], &1_u32.to_le_bytes(), &[0; 9]].concat();
        for count in counts {
            bytes.extend(count.to_le_bytes());
        }
        Self(bytes)
    }

    fn and(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// Two items without groups.
    fn two_items() -> Self {
        Self::head([0, 0, 2]).and([0xff; 4]).and([0; 2]).and([0xff; 4]).and([0; 2])
    }

    /// The same, the first with sums of day 9 and sales.
    fn sold(sum: f32, first: i64, last: i64, counts: [u32; 4]) -> Self {
        let mut bytes = Self::two_items().and([0b110_1000]).and(9_i32.to_le_bytes());
        for _ in 0..6 {
            bytes = bytes.and(1.0_f32.to_le_bytes());
        }
        for _ in 0..7 {
            bytes = bytes.and(sum.to_le_bytes());
        }
        bytes = bytes.and(first.to_le_bytes()).and(last.to_le_bytes());
        counts.iter().fold(bytes, |bytes, count| bytes.and(count.to_le_bytes()))
    }

    /// The same of two items that were never sold, the first with pairs.
    fn paired(count: u8, pairs: &[(u32, [u16; 2], f32)]) -> Self {
        let mut bytes = Self::two_items().and([0, 0]).and([count]).and(9_i32.to_le_bytes());
        for (partner, counts, recent) in pairs {
            bytes = bytes.and(partner.to_le_bytes());
            bytes = counts.iter().fold(bytes, |bytes, count| bytes.and(count.to_le_bytes()));
            bytes = bytes.and(recent.to_le_bytes());
        }
        bytes.and([0])
    }
}

#[test]
fn values_that_no_events_make_are_refused() {
    let (good, day) = ([1, 2, 1, 1], 9 * DAY);
    let ok =
        [Bytes::sold(1.0, day, day, good).and([0, 0, 0]), Bytes::paired(1, &[(1, [1, 0], 0.5)])];
    for Bytes(bytes) in ok {
        Statistics::from_bytes(&bytes).unwrap();
    }
    let rows = [
        ("`categories` is 4294967295, above the limit", Bytes::head([u32::MAX, 0, 0])),
        ("`attributes` is 4194305, above the limit", Bytes::head([0, 4_194_305, 0])),
        ("`items` is 4294967295, above the limit", Bytes::head([0, 0, u32::MAX])),
        ("the statistics end within `category`", Bytes::head([0, 0, 1 << 26])),
        ("the statistics end within `kinds", Bytes::head([1 << 22, 1 << 22, 0])),
        ("item 0: `category` is 0, and must be below 0", Bytes::head([0, 0, 1]).and([0; 6])),
        (
            "above the limit of 256",
            Bytes::head([0, 1, 1]).and([0xff, 0xff, 0xff, 0xff, 1, 1]).and([0; 4 * 257]),
        ),
        (
            "`attributes of an item` is 2 with 1 named twice",
            Bytes::head([0, 1, 1]).and([0xff, 0xff, 0xff, 0xff, 2, 0]).and([0; 8]),
        ),
        ("`kinds of events` is 128", Bytes::two_items().and([128])),
        ("`kinds of events` is 1,", Bytes::two_items().and([1])),
        ("`day` is -2147483648", Bytes::two_items().and([32]).and(i32::MIN.to_le_bytes())),
        (
            "`buyers` is NaN, and must be a finite number from 0",
            Bytes::sold(f32::NAN, day, day, good),
        ),
        ("`buyers` is inf", Bytes::sold(f32::INFINITY, day, day, good)),
        ("`buyers` is -1", Bytes::sold(-1.0, day, day, good)),
        (
            "`first_event` is 864000, and must be a time up to day 9",
            Bytes::sold(1.0, 10 * DAY, day, good),
        ),
        ("`last_sale` is 864000", Bytes::sold(1.0, day, 10 * DAY, good)),
        ("`last_sale` is 5, and must be at least `first_event`", Bytes::sold(1.0, 6, 5, good)),
        ("`sales_ever` is 0", Bytes::sold(1.0, day, day, [0, 0, 0, 0])),
        (
            "`buyers_ever` is 3, and must be at most `sales_ever`",
            Bytes::sold(1.0, day, day, [3, 2, 1, 1]),
        ),
        ("`sales today` is 2", Bytes::sold(1.0, day, day, [1, 2, 2, 1])),
        ("`number of pairs` is 65, and must be at most 64", Bytes::paired(65, &[])),
        (
            "`partner` is 2, and must be the number of an item",
            Bytes::paired(1, &[(2, [1, 0], 0.5)]),
        ),
        ("`partner` is 0, and must be another item", Bytes::paired(1, &[(0, [1, 0], 0.5)])),
        (
            "`partner` is 1, and must be listed once",
            Bytes::paired(2, &[(1, [1, 0], 0.5), (1, [1, 0], 0.5)]),
        ),
        ("`same` is 0, and must be above 0, or `next`", Bytes::paired(1, &[(1, [0, 0], 0.5)])),
        ("`recent` is NaN", Bytes::paired(1, &[(1, [1, 0], f32::NAN)])),
        ("`recent` is -1", Bytes::paired(1, &[(1, [1, 0], -1.0)])),
    ];
    for (expected, Bytes(bytes)) in rows {
        let error = Statistics::from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let mut bytes = Bytes::head([0, 0, 0]).0;
    bytes[12] = 2;
    let error = Statistics::from_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("`as_of` is 0 (known: 2)"), "{error}");
}
