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
mod thought;
mod thought_text;

pub use facts::{DEGREES, FACTS, Facts, OfferedItem, offers};
pub use file::{ComparedFile, RerankerFile, ScoredOrder, WeighedFile};
pub use grounds::{Grounds, likes};
pub use model::{
    ComparedAnswer, PendingChoice, PendingComparison, PendingWeighing, RerankError, Reranker,
    RerankerError, RerankerOptions, ShopperContext, ThinkingMode,
};
pub use prompt::{EVENTS_MAX, OFFERED_MAX, PromptError, Prompts, ShopperWords, TRUNK_TOKENS_MAX};
pub use thought::{Because, Proof, Thought};
pub use thought_text::ThoughtText;
