//! The error of inputs whose shapes are not the network's.

/// Why a slate does not fit the network or its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FusedShapeError {
    /// The tables were built by a network of other sizes.
    #[error("the tables are those of another network")]
    Tables,
    /// An item is not in the table.
    #[error("an item is not in the table")]
    Item,
    /// More events than the network takes.
    #[error("the history is longer than the network's")]
    History,
    /// An age or a kind of event that the network does not know.
    #[error("an event has an age or a kind that the network does not know")]
    Event,
    /// A pattern, an item or a reason is not a text vector.
    #[error("a text vector has another width than the network's")]
    Text,
    /// The features are too few or too many.
    #[error("a candidate has another number of features than the network")]
    Features,
    /// Reasons are not in the table, are too many, or do not have one overlap each: how strongly
    /// the history backs them.
    #[error("a candidate's reasons are not in the table, too many, or not one overlap each")]
    Reasons,
}
