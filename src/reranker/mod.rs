//! What does a language model say of shoppers and items, and what is its word worth?
//!
//! Prompts have one definition, used by training and serving: a model is trained on exactly the
//! tokens that it will be served with. [`Reranker`] sends them to an engine; [`RerankerFile`] says how
//! what comes back is fused with what the rung below says.

mod facts;
mod file;
mod fusion;
mod grounds;
mod model;
mod prompt;
mod rungs;
mod shopper;
mod thought;
mod thought_text;
mod told;

pub use facts::{DEGREES, FACTS, Facts, OfferedItem, offers, offers_in};
pub use file::{ComparedFile, RerankerFile, WeighedFile};
pub use fusion::{Offered, ScoredOrder, order_by_score, rechead_scores, scored_order};
pub use grounds::{Grounds, ThinkingMode, likes};
pub use model::{
    ComparedAnswer, PendingChoice, PendingComparison, PendingWeighing, RerankError, Reranker,
    RerankerError, RerankerOptions,
};
pub use prompt::{EVENTS_MAX, OFFERED_MAX, PromptError, Prompts, TRUNK_TOKENS_MAX};
pub use rungs::{RUNGS, RungKind, RungSettings, RungSpec};
pub use shopper::{ShopperContext, ShopperWords};
pub use thought::{Because, Proof, Thought};
pub use thought_text::ThoughtText;
pub use told::{Teller, Told, ToldItem, own_backing};
