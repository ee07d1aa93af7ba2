//! What does a language model say of shoppers and items, and what is its word worth?
//!
//! Prompts have one definition, used by training and serving: a model is trained on exactly the
//! tokens that it will be served with. [`Reranker`] puts them to an engine; [`RerankerFile`] says how
//! what comes back is fused with what the rung below says.

mod facts;
mod file;
mod grounds;
mod model;
mod prompt;
mod spoken;
mod thought;

pub use facts::{DEGREES, FACTS, Facts, Offer, offers};
pub use file::{ComparedFile, RerankerFile, ScoredOrder, WeighedFile};
pub use grounds::{Grounds, likes};
pub use model::{
    AskError, Choosing, Compared, Comparing, Reranker, RerankerError, RunLimits, Shopper, Thinks,
    Urgency, Weighing,
};
pub use prompt::{EVENTS_MAX, OFFERED_MAX, PromptError, Prompts, TRUNK_TOKENS_MAX, Words};
pub use spoken::Spoken;
pub use thought::{Because, Proof, Thought};
