//! Events as a shop reports them, and as the store keeps them.

use crate::domain::{Event, EventKind, ItemId, Timestamp, UserId};
use bytes::Bytes;

/// The first byte of a value: how the rest is written.
const FORMAT: u8 = 1;
/// Bytes of a value before the item's id: format, sequence, time and kind.
const HEAD_BYTES: usize = 1 + 8 + 8 + 1;
/// Bytes of the hash of an event's id. Among 2³² events of one shopper, two share a hash with a probability under 10⁻¹⁹.
const ID_HASH_BYTES: usize = 16;
/// Ends the user's id in a key.
const SEPARATOR: u8 = 0;

/// An event that a shop reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its place in its call, from 0.
    pub index: u32,
    /// Its id: distinct among the events of the shopper.
    pub id: String,
    /// The shopper.
    pub user: UserId,
    /// What they did.
    pub event: Event,
}

/// An event of one shopper in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the order in which events were taken.
    pub sequence: u64,
    /// What the shopper did.
    pub event: Event,
}

// === impl NewEvent ===

impl NewEvent {
    /// Its key in the store: the shopper's id, and a hash of its own. So a shopper's events lie together.
    pub(super) fn key(&self) -> Bytes {
        let mut key = prefix(&self.user);
        key.extend_from_slice(&blake3::hash(self.id.as_bytes()).as_bytes()[..ID_HASH_BYTES]);
        key.into()
    }
}

/// The begin of the keys of a shopper's events. Another shopper's longer id may begin with it: see [`is_of`].
pub(super) fn prefix(user: &UserId) -> Vec<u8> {
    let mut key = Vec::with_capacity(user.as_str().len() + 1 + ID_HASH_BYTES);
    key.extend_from_slice(user.as_str().as_bytes());
    key.push(SEPARATOR);
    key
}

/// Whether a key that begins with a shopper's [`prefix`] is of this shopper. Ids may hold any byte, but keys of one length
/// with one beginning are of one shopper.
pub(super) fn is_of(user: &UserId, key: &[u8]) -> bool {
    key.len() == user.as_str().len() + 1 + ID_HASH_BYTES
}

/// The shopper of a key; `None` if it is no event's key.
pub(super) fn user_of(key: &[u8]) -> Option<UserId> {
    let (user, separator) = key.split_at(key.len().checked_sub(1 + ID_HASH_BYTES)?);
    let user = std::str::from_utf8(user).ok().filter(|user| !user.is_empty())?;
    (separator[0] == SEPARATOR).then(|| user.into())
}

// === impl StoredEvent ===

impl StoredEvent {
    /// Its value in the store.
    pub(super) fn encode(&self) -> Bytes {
        let Self { sequence, event: Event { item, time, kind } } = self;
        let mut value = Vec::with_capacity(HEAD_BYTES + item.as_str().len());
        value.push(FORMAT);
        value.extend_from_slice(&sequence.to_le_bytes());
        value.extend_from_slice(&time.to_le_bytes());
        value.push(*kind as u8);
        value.extend_from_slice(item.as_str().as_bytes());
        value.into()
    }

    /// Reads a value; the error says what is wrong with it.
    pub(super) fn decode(value: &[u8]) -> Result<Self, String> {
        let (head, item) = value
            .split_at_checked(HEAD_BYTES)
            .ok_or_else(|| format!("has {} bytes, expected {HEAD_BYTES} at least", value.len()))?;
        if head[0] != FORMAT {
            return Err(format!("is of format {}, expected {FORMAT}", head[0]));
        }
        let number = |at: usize| {
            let bytes = head[at..at + 8].try_into().expect("the head has its length");
            u64::from_le_bytes(bytes)
        };
        let kind = EventKind::ALL.get(usize::from(head[17])).copied();
        let kind = kind.ok_or_else(|| format!("has the unknown kind {}", head[17]))?;
        let item = std::str::from_utf8(item).map_err(|_| "has an item id that is not UTF-8")?;
        let (item, time) = (ItemId::from(item), number(9) as Timestamp);
        Ok(Self { sequence: number(1), event: Event { item, time, kind } })
    }

    /// Its place among a shopper's events: by time, and of one moment in the order in which they were taken.
    pub(super) fn place(&self) -> (Timestamp, u64) {
        (self.event.time, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(item: &str, time: Timestamp, kind: EventKind) -> StoredEvent {
        StoredEvent { sequence: 7, event: Event { item: item.into(), time, kind } }
    }

    #[test]
    fn values_survive_the_round_trip() {
        for kind in EventKind::ALL {
            for (item, time) in [("a", 0), ("", -1), ("ünï", i64::MAX), (&"x".repeat(128), 1)] {
                let event = stored(item, time, kind);
                assert_eq!(StoredEvent::decode(&event.encode()), Ok(event));
            }
        }
    }

    #[test]
    fn what_is_no_value_is_named() {
        let whole = stored("a", 3, EventKind::Cart).encode();
        let with = |at: usize, byte: u8| {
            let mut value = whole.to_vec();
            value[at] = byte;
            value
        };
        for (value, expected) in [
            (vec![], "has 0 bytes"),
            (whole[..17].to_vec(), "has 17 bytes"),
            (with(0, 2), "is of format 2, expected 1"),
            (with(17, 5), "has the unknown kind 5"),
            (with(18, 0xff), "not UTF-8"),
        ] {
            let error = StoredEvent::decode(&value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn keys_tell_shoppers_apart_whose_ids_begin_alike() {
        let key = |user: &str, id: &str| {
            let event = Event { item: "i".into(), time: 0, kind: EventKind::Click };
            NewEvent { index: 0, id: id.into(), user: user.into(), event }.key()
        };
        let users = ["a", "a\0", "a\0b", "ab", "ünï", "a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"];
        for user in users {
            let key = key(user, "1");
            assert_eq!(user_of(&key), Some(user.into()));
            for other in users {
                let other = UserId::from(other);
                let begins = key.starts_with(&prefix(&other)) && is_of(&other, &key);
                assert_eq!(begins, other.as_str() == user, "{other:?} {user:?}");
            }
        }
        assert_ne!(key("a", "1"), key("a", "2"));
        assert_eq!(user_of(b"\0"), None);
        assert_eq!(user_of(&[0; 17]), None);
    }
}
