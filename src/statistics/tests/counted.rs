//! Unknown and pushed items, clones, bounds and bytes.

use super::super::chunks::Chunked;
use super::super::item::{GroupState, ItemState};
use super::super::pairs::{Pair, PairRow};
use super::*;
use std::sync::Arc;

#[test]
fn an_unknown_item_counts_nowhere_and_is_remembered() {
    for item in [3, 1_000, UNKNOWN_ITEM] {
        let mut counted = Counted::of(3);
        counted.apply(0, bought(1, NOON));
        let before = counted.statistics.to_bytes();
        counted.apply(0, bought(item, NOON));
        counted.apply(0, event(item, NOON + 9, Click));
        assert_eq!(counted.statistics.to_bytes(), before, "{item}");
        assert_eq!(counted.statistics.item(item, NOON), ItemCounts::default());
        assert_eq!(counted.statistics.pairs(item, NOON).count(), 0);
        assert_eq!(counted.pasts[&0].item(item).unwrap().purchases, 1);
        assert_eq!(counted.statistics.category(7, NOON), GroupCounts::default());
        assert_eq!(counted.statistics.attribute(u32::MAX, NOON), GroupCounts::default());
    }
    assert_eq!(Counted::of(0).statistics.as_of(), None);
}

#[test]
fn a_pushed_item_counts_like_any_other() {
    /// Groups that are given, and those that are kept.
    type Row<'a> = (&'a str, Option<u32>, &'a [u32], Option<u32>, &'a [u32]);
    let rows: [Row<'_>; 5] = [
        ("no groups", None, &[], None, &[]),
        ("known groups", Some(2), &[1, 2], Some(2), &[1, 2]),
        ("an unknown category", Some(3), &[0], None, &[0]),
        ("unknown attributes", Some(0), &[3, 1, u32::MAX], Some(0), &[1]),
        ("an attribute twice", Some(0), &[1, 1], Some(0), &[1]),
    ];
    for (name, category, attributes, kept, kept_attributes) in rows {
        let mut counted = Counted::of(2);
        let number = counted.statistics.push_item(category, attributes);
        assert_eq!((number, counted.statistics.len()), (2, 3), "{name}");
        assert_eq!(counted.statistics.groups().of(number), (kept, kept_attributes), "{name}");
        counted.apply(0, bought(number, NOON));
        counted.apply(0, bought(0, NOON));
        assert_eq!(counted.statistics.item(number, NOON).sales_ever, 1, "{name}");
        assert_eq!(counted.statistics.pairs(0, NOON).next().unwrap().partner, number, "{name}");
        let sold = |group: u32| counted.statistics.category(group, NOON).sales_ever;
        assert_eq!(sold(2), u64::from(kept == Some(2)), "{name}");
        let bytes = counted.statistics.to_bytes();
        assert_eq!(Statistics::from_bytes(&bytes).unwrap().to_bytes(), bytes, "{name}");
    }
}

#[test]
fn a_clone_does_not_change_when_the_original_is_written() {
    let events = log(100, 4_000, 21);
    let (before, after) = events.split_at(2_000);
    let mut counted = Counted::all(100, before);
    let (clone, bytes) = (counted.statistics.clone(), counted.statistics.to_bytes());
    for &(user, event) in after {
        counted.apply(user, event);
    }
    counted.statistics.push_item(Some(0), &[]);
    assert_eq!(clone.to_bytes(), bytes);
    assert_eq!(clone.len(), 100);
    assert_ne!(counted.statistics.to_bytes(), bytes);
    // And a written clone leaves the original as it is.
    let (mut clone, bytes) = (counted.statistics.clone(), counted.statistics.to_bytes());
    clone.apply(&mut ShopperPast::default(), bought(0, NOON));
    assert_eq!(counted.statistics.to_bytes(), bytes);
}

#[test]
fn groups_are_checked_against_their_bounds() {
    let many = vec![0; ITEM_GROUPS_MAX + 1];
    let rows: [(&str, Option<u32>, &[u32], &str); 4] = [
        ("category", Some(2), &[], "item 1: `category` is 2, and must be below 2"),
        ("attribute", None, &[0, 3], "item 1: `attribute` is 3, and must be below 3"),
        ("no category is no number", Some(u32::MAX), &[], "`category` is 4294967295"),
        ("many", None, &many, "`attributes of an item` is 257, above the limit of 256"),
    ];
    for (name, category, attributes, expected) in rows {
        let mut groups = ItemGroups::new(2, 3).unwrap();
        groups.push(Some(1), &[2]).unwrap();
        let error = groups.push(category, attributes).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!((groups.len(), groups.of(1)), (1, (None, &[][..])), "{name}");
    }
    for (categories, attributes) in [(GROUPS_MAX + 1, 0), (0, GROUPS_MAX + 1)] {
        let error = ItemGroups::new(categories, attributes).unwrap_err().to_string();
        assert!(error.contains("above the limit of 4194304"), "{error}");
    }
}

#[test]
fn an_item_takes_at_most_200_bytes_and_a_pair_twelve() {
    // Counts, the pointer to a row, the category, and where the attributes end.
    let item = size_of::<ItemState>() + size_of::<Option<Arc<PairRow>>>() + 2 * size_of::<u32>();
    assert!(item <= 200, "{item} bytes an item");
    assert_eq!(size_of::<Pair>(), 12);
    assert!(size_of::<GroupState>() <= 320, "{} bytes a group", size_of::<GroupState>());
    let events = log(40, 5_000, 2);
    let counted = Counted::all(40, &events);
    let pairs: usize = (0..40).map(|n| counted.statistics.pairs(n, NOON).count()).sum();
    let groups = 6 * size_of::<ItemGroups>() + 6 * 400;
    let bytes = counted.statistics.to_bytes().len();
    assert!(bytes <= 40 * 220 + pairs * 12 + groups, "{bytes} bytes are stored");
    let _: Chunked<ItemState, 1> = Chunked::new(0);
}
