//! Why counts could not be made or read.

/// What is wrong with groups of items, or with stored statistics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    /// A catalogue with too many items, categories or attributes.
    #[error("`{field}` is {value}, above the limit of {limit}")]
    AboveLimit {
        /// What was counted.
        field: &'static str,
        /// The most there may be.
        limit: usize,
        /// What there is.
        value: usize,
    },
    /// A value of an item, a category or an attribute that cannot be.
    #[error("{of} {number}: `{field}` is {value}, and must be {rule}")]
    Value {
        /// `item`, `category` or `attribute`.
        of: &'static str,
        /// Its number.
        number: usize,
        /// The wrong field.
        field: &'static str,
        /// What the field must be.
        rule: String,
        /// What it is.
        value: String,
    },
    /// A time of the latest event that cannot be.
    #[error(
        "`as_of` is {value} (known: {known}), and must be a time within five million years (known: 0 or 1)"
    )]
    AsOf {
        /// Whether there is an event.
        known: u8,
        /// Its time.
        value: i64,
    },
    /// Bytes that are no statistics.
    #[error("these are no statistics: the first 8 bytes are not `RAISTATS`")]
    Foreign,
    /// Statistics of another version.
    #[error("`version` is {value}, and this program reads {supported}")]
    Version {
        /// The version read.
        value: u32,
        /// The version that is supported.
        supported: u32,
    },
    /// Statistics that end too early.
    #[error(
        "the statistics end within `{field}`: byte {at} needs {needed} more, and {left} are left"
    )]
    Truncated {
        /// What was read.
        field: &'static str,
        /// Where it starts.
        at: usize,
        /// The bytes that it needs.
        needed: usize,
        /// The bytes that are left.
        left: usize,
    },
    /// Bytes behind the end.
    #[error("{left} bytes follow the end of the statistics at byte {at}")]
    Trailing {
        /// Where the statistics end.
        at: usize,
        /// The bytes behind.
        left: usize,
    },
}
