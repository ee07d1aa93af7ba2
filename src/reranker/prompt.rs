//! The prompts: a shopper as a trunk, an item as a branch.
//!
//! A prompt is a sequence of pieces, each tokenized once when the model is opened. So a request needs no tokenizer, and
//! a history's first events are the same tokens whatever follows, so the engine's prefix cache finds them.
//!
//! ```text
//! Shopping history. A month ago bought <a_1><b_7><c_9><d_4> saw <a_3><b_1><c_4><d_0>. Today bought
//! <a_1><b_7><c_2><d_8>. Now, in December, wants
//! ```
//!
//! A text about the shopper comes before the history, and the shopper's request in words after it:
//!
//! ```text
//! Shopping history. About them: prefers solid wood. Today bought <a_1><b_7><c_2><d_8>. Asks for a walnut
//! board. Now, in December, wants
//! ```
//!
//! To weigh candidates, a branch for each follows the trunk: its id and its [facts](super::facts). To compare them, all
//! follow with a label and their best backing, then a thought, then the labels in the answered order. A thought names
//! items by ids, which [`ThoughtText`](super::ThoughtText) decodes as titles:
//!
//! ```text
//!  one of A<a_1><b_7><c_9><d_4> for red B<a_3><b_1><c_4><d_0> with<a_1><b_7><c_2><d_8>. Thought: Likes
//! red.<a_3><b_1><c_4><d_0> goes with<a_1><b_7><c_2><d_8>. Best first: B A
//! ```
//!
//! To write cards, an item follows that the shopper took with the reason, or the attributes that they like:
//!
//! ```text
//! <a_3><b_1><c_4><d_0> because 5 of its 13 buyers own “<a_1><b_7><c_2><d_8>” too.
//! ```

mod notes;
mod thoughts;
mod words;

use super::facts::{Facts, OfferedItem};
use super::shopper::ShopperContext;
use super::thought::{AND, GOES_WITH, IS, LIKES, STOP};
use crate::bundle::{Backing, Catalog, HistoryEvent, month};
use crate::domain::{EventKind, Timestamp};
use crate::language::{LmTokenizer, LmTokenizerError, SemanticTokensError};
use rustc_hash::FxHashSet;
use std::path::Path;
use std::sync::Arc;

/// The start of a trunk.
const BEGIN: &str = "Shopping history.";
/// The age of an event: at most this many days, and its phrase.
const AGES: [(i64, &str); 10] = [
    (0, " Today"),
    (1, " Yesterday"),
    (3, " Days ago"),
    (7, " A week ago"),
    (14, " Two weeks ago"),
    (30, " A month ago"),
    (60, " Two months ago"),
    (120, " Months ago"),
    (270, " Half a year ago"),
    (i64::MAX, " Long ago"),
];
/// The kind of an event, and its verb.
const VERBS: [(EventKind, &str); 3] =
    [(EventKind::Purchase, " bought"), (EventKind::Cart, " took"), (EventKind::Click, " saw")];
/// The start of the text about a shopper.
const ABOUT: &str = " About them:";
/// The start of the shopper's request in words.
const QUERY: &str = " Asks for";
/// The end of a trunk, by month.
const MONTHS: [&str; 12] = [
    " Now, in January, wants",
    " Now, in February, wants",
    " Now, in March, wants",
    " Now, in April, wants",
    " Now, in May, wants",
    " Now, in June, wants",
    " Now, in July, wants",
    " Now, in August, wants",
    " Now, in September, wants",
    " Now, in October, wants",
    " Now, in November, wants",
    " Now, in December, wants",
];
/// The token whose logit at the end of a branch is the candidate's score.
const YES: &str = " yes";
/// The start of the candidates to compare.
const OFFER: &str = " one of";
/// The start of a candidate's backing: an item of the history, or an attribute of such items.
const WITH: &str = " with";
const FOR: &str = " for";
/// The labels of the candidates.
const LABELS: [&str; 10] = [" A", " B", " C", " D", " E", " F", " G", " H", " I", " J"];
/// The start of a thought.
const THOUGHT: &str = " Thought:";
/// The start of an answer, which ends a thought.
const ANSWER: &str = " Best first:";
/// Between an item and the reason why the shopper took it.
const BECAUSE: &str = " because";
/// After each attribute that a shopper likes.
const ALSO: &str = ",";
/// Candidates of one comparison.
pub const OFFERED_MAX: usize = LABELS.len();
/// Seconds in a day.
const DAY_S: i64 = 86_400;
/// Events in a trunk: the latest. Earlier ones count in [facts](super::Facts).
pub const EVENTS_MAX: usize = 32;
/// Tokens in a trunk. The oldest events are left out first.
pub const TRUNK_TOKENS_MAX: usize = 512;

/// The prompts in the tokens of one language model.
#[derive(Clone, Debug)]
pub struct Prompts {
    tokenizer: LmTokenizer,
    begin: Vec<u32>,
    about: Vec<u32>,
    query: Vec<u32>,
    ages: [Vec<u32>; AGES.len()],
    verbs: [Vec<u32>; VERBS.len()],
    stop: Vec<u32>,
    months: [Vec<u32>; MONTHS.len()],
    score_token: u32,
    offer: Vec<u32>,
    labels: [Vec<u32>; LABELS.len()],
    thought: Vec<u32>,
    answer: Vec<u32>,
    /// Tokens of an id.
    levels: usize,
    /// (items, levels)
    items: Vec<u32>,
    /// (facts, degrees)
    facts: Vec<u32>,
    with: Vec<u32>,
    for_it: Vec<u32>,
    /// The values of attributes, by number.
    attributes: Vec<Vec<u32>>,
    likes: Vec<u32>,
    and: Vec<u32>,
    goes_with: Vec<u32>,
    is: Vec<u32>,
    because: Vec<u32>,
    also: Vec<u32>,
    /// Tokens that are banned in untrusted text.
    added: FxHashSet<u32>,
    /// The titles of items, by number.
    titles: Vec<Arc<str>>,
    /// The numbers of items, sorted by id.
    by_id: Vec<u32>,
}

/// Why prompts can't be built.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The tokenizer can't be read or used.
    #[error(transparent)]
    Tokenizer(#[from] LmTokenizerError),
    /// The tokenizer can't get the tokens of semantic ids.
    #[error(transparent)]
    Semantic(#[from] SemanticTokensError),
    /// The catalogue's items have no semantic ids.
    #[error("the catalogue's items have no semantic ids, which name them to a language model")]
    NoSemanticIds,
    /// The tokenizer has no token for a piece of a prompt.
    #[error("the tokenizer has no token for {0:?}")]
    NoToken(&'static str),
    /// The model's vocabulary lacks a token of the prompts.
    #[error("the prompts hold token {token}, and the language model's vocabulary has {vocabulary}")]
    UnknownToken {
        /// The highest token of the prompts.
        token: u32,
        /// Tokens in the model's vocabulary.
        vocabulary: usize,
    },
}

// === impl Prompts ===

impl Prompts {
    /// Reads the tokenizer in a model's folder, and encodes the catalogue.
    pub fn open(folder: &Path, catalog: &Catalog) -> Result<Self, PromptError> {
        Self::new(LmTokenizer::load(folder)?, catalog)
    }

    /// Encodes the catalogue. A tokenizer without the tokens of semantic ids and facts gets them.
    pub fn new(mut tokenizer: LmTokenizer, catalog: &Catalog) -> Result<Self, PromptError> {
        let ids = catalog.semantic_ids().ok_or(PromptError::NoSemanticIds)?;
        let tokens = tokenizer.add_semantic_ids(ids.levels(), ids.codes())?;
        let items = ids.iter().map(|id| tokens.encode(id).ok_or(PromptError::NoSemanticIds));
        let items = items.collect::<Result<Vec<_>, _>>()?.concat();
        let id = |item: &u32| &items[*item as usize * ids.levels()..][..ids.levels()];
        let mut by_id: Vec<u32> = (0..catalog.len() as u32).collect();
        by_id.sort_by(|a, b| id(a).cmp(id(b)));
        let attributes = (0..catalog.attributes_len() as u32)
            .map(|number| tokenizer.encode(&format!(" {}", catalog.attribute(number).1)))
            .collect::<Result<_, _>>()?;
        let facts = tokenizer.add(&Facts::tokens().collect::<Vec<_>>())?;
        let encode = |text: &'static str| match tokenizer.encode(text) {
            Ok(tokens) if tokens.is_empty() => Err(PromptError::NoToken(text)),
            tokens => Ok(tokens?),
        };
        Ok(Self {
            begin: encode(BEGIN)?,
            about: encode(ABOUT)?,
            query: encode(QUERY)?,
            ages: all(AGES.map(|(_, text)| encode(text)))?,
            verbs: all(VERBS.map(|(_, text)| encode(text)))?,
            stop: encode(STOP)?,
            months: all(MONTHS.map(encode))?,
            score_token: encode(YES)?[0],
            offer: encode(OFFER)?,
            labels: all(LABELS.map(encode))?,
            thought: encode(THOUGHT)?,
            answer: encode(ANSWER)?,
            with: encode(WITH)?,
            for_it: encode(FOR)?,
            attributes,
            likes: encode(LIKES.trim_end())?,
            and: encode(AND.trim_end())?,
            goes_with: encode(GOES_WITH.trim_end())?,
            is: encode(IS.trim_end())?,
            because: encode(BECAUSE)?,
            also: encode(ALSO)?,
            titles: catalog.items().iter().map(|item| item.title.clone()).collect(),
            by_id,
            levels: ids.levels(),
            items,
            facts,
            added: tokenizer.added(),
            tokenizer,
        })
    }

    /// The texts of all pieces but ids: what a new tokenizer is trained on.
    pub fn texts() -> impl Iterator<Item = &'static str> + Clone {
        let ages = AGES.iter().map(|&(_, text)| text);
        let verbs = VERBS.iter().map(|&(_, text)| text);
        let compared = [OFFER, WITH, FOR, LIKES, GOES_WITH, IS, THOUGHT, ANSWER];
        let others = [BEGIN, ABOUT, QUERY, STOP, YES, BECAUSE, ALSO].into_iter().chain(compared);
        ages.chain(verbs).chain(MONTHS).chain(LABELS).chain(others)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &LmTokenizer {
        &self.tokenizer
    }

    /// Checks that a model's vocabulary has every token of the prompts.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), PromptError> {
        let Self { begin, about, query, stop, items, facts, offer, thought, answer, .. } = self;
        let Self { with, for_it, likes, and, goes_with, is, because, also, .. } = self;
        let pieces = [begin, about, query, stop, items, facts, offer, thought, answer].into_iter();
        let pieces = pieces.chain([with, for_it, likes, and, goes_with, is, because, also]);
        let pieces = pieces.chain(&self.ages).chain(&self.verbs).chain(&self.months);
        let pieces = pieces.chain(&self.labels).chain(&self.attributes);
        let token = pieces.flatten().copied().chain([self.score_token]).max().unwrap_or_default();
        if token as usize >= vocabulary {
            return Err(PromptError::UnknownToken { token, vocabulary });
        }
        Ok(())
    }

    /// The shopper: the text about them, their events, their request in words, and the month. It leaves out the oldest
    /// events of a long history.
    pub fn trunk(&self, shopper: ShopperContext<'_>) -> Vec<u32> {
        let ShopperContext { history, now, words } = shopper;
        let (profile, query) = (self.profile(words), self.query(words));
        let mut history = &history[history.len().saturating_sub(EVENTS_MAX)..];
        loop {
            let trunk = self.whole_trunk(&profile, history, &query, now);
            if trunk.len() <= TRUNK_TOKENS_MAX || history.is_empty() {
                return trunk;
            }
            history = &history[history.len().div_ceil(4)..];
        }
    }

    fn whole_trunk(
        &self,
        profile: &[u32],
        history: &[HistoryEvent],
        query: &[u32],
        now: Timestamp,
    ) -> Vec<u32> {
        let mut tokens = [&self.begin, profile].concat();
        let (mut age, mut verb) = (None, None);
        for past in history {
            let (new_age, new_verb) = (age_of(now - past.time), verb_of(past.kind));
            if age != Some(new_age) {
                if age.is_some() {
                    tokens.extend(&self.stop);
                }
                tokens.extend(&self.ages[new_age]);
                (age, verb) = (Some(new_age), None);
            }
            if verb != Some(new_verb) {
                tokens.extend(&self.verbs[new_verb]);
                verb = Some(new_verb);
            }
            tokens.extend(self.item(past.item));
        }
        if age.is_some() {
            tokens.extend(&self.stop);
        }
        tokens.extend(query);
        tokens.extend(&self.months[month(now)]);
        tokens
    }

    /// A candidate's branch: its id and its facts.
    pub fn branch(&self, offer: &OfferedItem) -> Vec<u32> {
        let facts = offer.facts.token_indices().map(|index| self.facts[index]);
        self.item(offer.item).iter().copied().chain(facts).collect()
    }

    /// The semantic id of an item, by number.
    pub fn item(&self, number: u32) -> &[u32] {
        &self.items[number as usize * self.levels..][..self.levels]
    }

    /// The semantic ids of all items, by number.
    pub fn items(&self) -> impl Iterator<Item = &[u32]> {
        self.items.chunks_exact(self.levels)
    }

    /// Sorts candidates by id, so that their order reveals no score of the rung below.
    pub fn sort_offers(&self, offers: &mut [OfferedItem]) {
        offers.sort_by_key(|offer| self.item(offer.item));
    }

    /// The candidates to compare, after a trunk: [`OFFERED_MAX`] at most.
    pub fn offers(&self, offers: &[OfferedItem]) -> Vec<u32> {
        debug_assert!(offers.len() <= OFFERED_MAX);
        let mut tokens = self.offer.clone();
        for (label, offer) in self.labels.iter().zip(offers) {
            tokens.extend(label);
            tokens.extend(self.branch(offer));
            match offer.because {
                Backing::Item(other) => {
                    tokens.extend(&self.with);
                    tokens.extend(self.item(other));
                }
                Backing::Attribute(number) => {
                    tokens.extend(&self.for_it);
                    tokens.extend(&self.attributes[number as usize]);
                }
                Backing::Nothing => {}
            }
        }
        tokens.extend(&self.stop);
        tokens
    }

    /// The number of the item with this id.
    pub fn item_with_id(&self, id: &[u32]) -> Option<u32> {
        let at = self.by_id.binary_search_by(|&item| self.item(item).cmp(id)).ok()?;
        Some(self.by_id[at])
    }

    /// The number of tokens of an id.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// The title of an item.
    pub fn title(&self, item: u32) -> &str {
        &self.titles[item as usize]
    }

    /// The labels of the candidates, in their order.
    pub fn labels(&self) -> &[Vec<u32>] {
        &self.labels
    }

    /// The tokens that start a thought.
    pub fn thought_prefix(&self) -> &[u32] {
        &self.thought
    }

    /// The tokens that start an answer, which end a thought.
    pub fn answer_prefix(&self) -> &[u32] {
        &self.answer
    }

    /// The thought before an answer; empty if no answer starts.
    pub fn thought_before_answer<'a>(&self, generated: &'a [u32]) -> &'a [u32] {
        let ending = generated.windows(self.answer.len()).position(|window| window == self.answer);
        &generated[..ending.unwrap_or(0)]
    }

    /// The token whose logit at the end of a branch is the candidate's score.
    pub fn score_token(&self) -> u32 {
        self.score_token
    }
}

/// The index in [`AGES`] of an event this many seconds ago.
fn age_of(seconds: i64) -> usize {
    let days = seconds.max(0) / DAY_S;
    AGES.iter().position(|&(most, _)| days <= most).unwrap_or(AGES.len() - 1)
}

/// The index in [`VERBS`] of a kind of event. Kinds without a verb of their own count as clicks.
fn verb_of(kind: EventKind) -> usize {
    VERBS.iter().position(|&(other, _)| other == kind).unwrap_or(VERBS.len() - 1)
}

/// All values, or the first error.
fn all<T, E, const N: usize>(of: [Result<T, E>; N]) -> Result<[T; N], E> {
    let all = of.into_iter().collect::<Result<Vec<T>, E>>()?;
    Ok(<[T; N]>::try_from(all).unwrap_or_else(|_| unreachable!("the length is kept")))
}

#[cfg(test)]
mod tests {
    use super::super::shopper::ShopperWords;
    use super::*;
    use crate::bundle::{CatalogRow, SemanticIds};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn catalog() -> Catalog {
        let row = |id: u32| CatalogRow {
            id: format!("m{id}"),
            title: format!("Mug {id}"),
            category: "kitchen".into(),
            attributes: Vec::new(),
            price: None,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let prefixes: Vec<u16> = (0..5).flat_map(|item| [item, 9 - item]).collect();
        let ids = SemanticIds::draw(&prefixes, 3, 10, &mut rng).unwrap();
        Catalog::new((0..5).map(row)).with_semantic_ids(Some(ids))
    }

    fn prompts() -> Prompts {
        let words: Vec<_> = std::iter::repeat_n(Prompts::texts(), 4).flatten().collect();
        Prompts::new(LmTokenizer::fit(words, 512).unwrap(), &catalog()).unwrap()
    }

    fn past(item: u32, days: i64, kind: EventKind) -> HistoryEvent {
        HistoryEvent { item, time: NOW - days * DAY_S, kind }
    }

    /// Midday of the first of December 2025.
    const NOW: Timestamp = 1_764_590_400;

    #[test]
    fn a_trunk_has_the_documented_text() {
        let prompts = prompts();
        let history = [
            past(0, 40, EventKind::Purchase),
            past(1, 40, EventKind::Purchase),
            past(2, 35, EventKind::Click),
            past(0, 0, EventKind::Cart),
        ];
        let trunk = prompts.trunk(ShopperContext::of(&history, NOW));
        let text = prompts.tokenizer().decode(&trunk).unwrap();
        let ids: Vec<_> =
            (0..3).map(|item| prompts.tokenizer().decode(prompts.item(item)).unwrap()).collect();
        assert_eq!(
            text,
            format!(
                "Shopping history. Two months ago bought{}{} saw{}. Today took{}. Now, in December, wants",
                ids[0], ids[1], ids[2], ids[0]
            )
        );
        let nobody =
            prompts.tokenizer().decode(&prompts.trunk(ShopperContext::of(&[], NOW))).unwrap();
        assert_eq!(nobody, "Shopping history. Now, in December, wants");
    }

    #[test]
    fn later_events_leave_the_prefix_unchanged() {
        let prompts = prompts();
        let history: Vec<_> =
            (0..20).map(|at| past(at % 5, i64::from(20 - at), EventKind::Purchase)).collect();
        let [short, long] = [&history[..10], &history]
            .map(|history| prompts.trunk(ShopperContext::of(history, NOW)));
        let ending = prompts.months[11].len() + prompts.stop.len();
        assert!(long.starts_with(&short[..short.len() - ending]));
    }

    #[test]
    fn untrusted_text_has_neither_special_tokens_nor_unbounded_length() {
        let prompts = prompts();
        let text = |profile: &str, query_text: &str| {
            let words = ShopperWords { profile, query_text };
            let shopper = ShopperContext { words, ..ShopperContext::of(&[], NOW) };
            prompts.tokenizer().decode(&prompts.trunk(shopper)).unwrap()
        };
        assert_eq!(
            text(" likes\n mugs ", "a red  mug."),
            "Shopping history. About them: likes mugs. Asks for a red mug. Now, in December, wants"
        );
        let nothing = "Shopping history. Now, in December, wants";
        assert_eq!(text("", " \n"), nothing);
        // Neither ids nor stop tokens pass.
        let id = prompts.tokenizer().decode(prompts.item(3)).unwrap();
        assert_eq!(text("", &format!("{id}<|endoftext|>")), nothing);
        assert_eq!(text("", &format!("mug {id}")), text("", "mug "));
        let long = "mug ".repeat(5000);
        let words = ShopperWords { profile: &long, query_text: &long };
        let history = vec![past(1, 1, EventKind::Purchase); 500];
        let trunk = prompts.trunk(ShopperContext { words, ..ShopperContext::of(&history, NOW) });
        assert!(trunk.len() <= TRUNK_TOKENS_MAX);
        assert!(trunk.ends_with(&prompts.months[11]) && trunk.contains(&prompts.item(1)[0]));
    }

    #[test]
    fn a_trunk_has_a_bound() {
        let prompts = prompts();
        let kinds = [EventKind::Purchase, EventKind::Click];
        let history: Vec<_> = (0..500).map(|at| past(at % 5, 1, kinds[at as usize % 2])).collect();
        let trunk = prompts.trunk(ShopperContext::of(&history, NOW));
        assert!(trunk.len() <= TRUNK_TOKENS_MAX);
        assert_eq!(trunk, prompts.trunk(ShopperContext::of(&history[500 - EVENTS_MAX..], NOW)));
    }

    #[test]
    fn a_vocabulary_must_have_every_token() {
        let prompts = prompts();
        let tokens = prompts.tokenizer().len();
        prompts.check_vocabulary(tokens).unwrap();
        let error = prompts.check_vocabulary(tokens - 1).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has {}", tokens - 1)), "{error}");
        let bare = Prompts::new(prompts.tokenizer.clone(), &Catalog::default());
        assert!(matches!(bare, Err(PromptError::NoSemanticIds)));
    }
}
