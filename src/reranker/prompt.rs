//! The prompts: a shopper as a trunk, an item as a branch.
//!
//! A prompt is made of pieces that are turned into tokens each by itself, once, when the model is
//! opened. So a request costs no tokenizer, and the first events of a history are the same tokens
//! whatever comes after them, which lets the engine find them in its cache.
//!
//! ```text
//! Shopping history. A month ago bought <a_1><b_7><c_9><d_4> saw <a_3><b_1><c_4><d_0>. Today bought
//! <a_1><b_7><c_2><d_8>. Now, in December, wants
//! ```
//!
//! Where the shop says something of the shopper in words, that comes before the history, and what the
//! shopper asks for comes after it:
//!
//! ```text
//! Shopping history. About them: prefers solid wood. Today bought <a_1><b_7><c_2><d_8>. Asks for a walnut
//! board. Now, in December, wants
//! ```
//!
//! What follows the trunk is a branch for each candidate, where they are weighed: its id, and
//! [what speaks for it](super::facts). Or, where the best
//! are compared, all of them with labels and with what backs each most, a thought, and the labels in a
//! better order. What is thought names items by their ids, as [`ThoughtText`](super::Spoken) reads them out:
//!
//! ```text
//!  one of A<a_1><b_7><c_9><d_4> for red B<a_3><b_1><c_4><d_0> with<a_1><b_7><c_2><d_8>. Thought: Likes
//! red.<a_3><b_1><c_4><d_0> goes with<a_1><b_7><c_2><d_8>. Best first: B A
//! ```
//!
//! Or, where cards are written, an item that the shopper took and why, or what they like:
//!
//! ```text
//! <a_3><b_1><c_4><d_0> because 5 of its 13 buyers own “<a_1><b_7><c_2><d_8>” too.
//! ```

mod notes;
mod thoughts;
mod words;

pub use words::ShopperWords;

use super::ShopperContext;
use super::facts::{Facts, OfferedItem};
use super::thought::{AND, GOES_WITH, IS, LIKES};
use crate::bundle::{Backing, Catalog, HistoryEvent, month};
use crate::domain::{EventKind, Timestamp};
use crate::language::{LmTokenizer, LmTokenizerError, SemanticTokensError};
use rustc_hash::FxHashSet;
use std::path::Path;
use std::sync::Arc;

/// How a trunk begins.
const BEGIN: &str = "Shopping history.";
/// How long ago a visit was, in days at most, and how that is said.
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
/// What was done, and how that is said.
const DEEDS: [(EventKind, &str); 3] =
    [(EventKind::Purchase, " bought"), (EventKind::Cart, " took"), (EventKind::Click, " saw")];
/// How it begins what the shop knows of a shopper, and what a shopper asks for.
const ABOUT: &str = " About them:";
const ASKS: &str = " Asks for";
/// What ends the events of one age.
const STOP: &str = ".";
/// How a trunk ends, by month.
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
/// The answer whose logit, at the end of a branch, is the item's score.
const YES: &str = " yes";
/// How candidates are offered, to be compared.
const OFFER: &str = " one of";
/// How it is said what backs a candidate: something that was bought, or an attribute of such things.
const WITH: &str = " with";
const FOR: &str = " for";
/// What each of them is called, and how many there may be.
const LABELS: [&str; 10] = [" A", " B", " C", " D", " E", " F", " G", " H", " I", " J"];
/// How a thought begins.
const THINK: &str = " Thought:";
/// How an answer begins, and how a thought ends.
const ANSWER: &str = " Best first:";
/// What comes between an item and why somebody took it.
const BECAUSE: &str = " because";
/// What follows each thing that somebody likes, where it is noted down.
const ALSO: &str = ",";
/// Candidates that can be compared.
pub const OFFERED_MAX: usize = LABELS.len();
/// Seconds of a day.
const DAY_S: i64 = 86_400;
/// Events that a trunk tells: the latest. What came before them, [facts](super::Facts) remember.
pub const EVENTS_MAX: usize = 32;
/// Tokens that a trunk may have; the oldest events are left out first.
pub const TRUNK_TOKENS_MAX: usize = 512;

/// Shoppers and items in the tokens of one language model.
#[derive(Clone, Debug)]
pub struct Prompts {
    vocabulary: LmTokenizer,
    begin: Vec<u32>,
    about: Vec<u32>,
    asks: Vec<u32>,
    ages: [Vec<u32>; AGES.len()],
    deeds: [Vec<u32>; DEEDS.len()],
    stop: Vec<u32>,
    months: [Vec<u32>; MONTHS.len()],
    asked: u32,
    offer: Vec<u32>,
    labels: [Vec<u32>; LABELS.len()],
    think: Vec<u32>,
    answer: Vec<u32>,
    /// Tokens of an item's id.
    levels: usize,
    /// (items, levels)
    items: Vec<u32>,
    /// (facts, degrees)
    facts: Vec<u32>,
    with: Vec<u32>,
    for_it: Vec<u32>,
    /// The values of attributes, by their numbers.
    attributes: Vec<Vec<u32>>,
    likes: Vec<u32>,
    and: Vec<u32>,
    goes_with: Vec<u32>,
    is: Vec<u32>,
    because: Vec<u32>,
    also: Vec<u32>,
    /// Tokens that no stranger's words may hold.
    added: FxHashSet<u32>,
    /// What ids are read out as.
    titles: Vec<Arc<str>>,
    /// The numbers of items in the order of their ids.
    by_id: Vec<u32>,
}

/// Why a language model cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] LmTokenizerError),
    /// Its tokenizer cannot have the tokens of semantic ids.
    #[error(transparent)]
    Semantic(#[from] SemanticTokensError),
    /// The catalogue's items have no semantic ids.
    #[error("the catalogue's items have no semantic ids, by which a language model knows them")]
    NoIds,
    /// Its tokenizer has nothing for a word of ours.
    #[error("the tokenizer has no token for {0:?}")]
    Mute(&'static str),
    /// It was made for fewer tokens than the prompts need.
    #[error("the prompts hold token {token}, and the language model knows {vocabulary}")]
    Unknown {
        /// The highest token of the prompts.
        token: u32,
        /// Tokens that the model knows.
        vocabulary: usize,
    },
}

// === impl Prompts ===

impl Prompts {
    /// Reads the tokenizer of a model's folder, and puts the catalogue into its tokens.
    pub fn open(folder: &Path, catalog: &Catalog) -> Result<Self, PromptError> {
        Self::new(LmTokenizer::load(folder)?, catalog)
    }

    /// Puts the catalogue into the tokens of a vocabulary, which gets those of semantic ids if it
    /// lacks them.
    pub fn new(mut vocabulary: LmTokenizer, catalog: &Catalog) -> Result<Self, PromptError> {
        let ids = catalog.semantic_ids().ok_or(PromptError::NoIds)?;
        let tokens = vocabulary.add_semantic_ids(ids.levels(), ids.codes())?;
        let items = ids.iter().map(|id| tokens.encode(id).ok_or(PromptError::NoIds));
        let items = items.collect::<Result<Vec<_>, _>>()?.concat();
        let id = |item: &u32| &items[*item as usize * ids.levels()..][..ids.levels()];
        let mut by_id: Vec<u32> = (0..catalog.len() as u32).collect();
        by_id.sort_by(|a, b| id(a).cmp(id(b)));
        let attributes = (0..catalog.attributes_len() as u32)
            .map(|number| vocabulary.encode(&format!(" {}", catalog.attribute(number).1)))
            .collect::<Result<_, _>>()?;
        let facts = vocabulary.add(&Facts::words().collect::<Vec<_>>())?;
        let say = |text: &'static str| match vocabulary.encode(text) {
            Ok(tokens) if tokens.is_empty() => Err(PromptError::Mute(text)),
            tokens => Ok(tokens?),
        };
        Ok(Self {
            begin: say(BEGIN)?,
            about: say(ABOUT)?,
            asks: say(ASKS)?,
            ages: all(AGES.map(|(_, text)| say(text)))?,
            deeds: all(DEEDS.map(|(_, text)| say(text)))?,
            stop: say(STOP)?,
            months: all(MONTHS.map(say))?,
            asked: say(YES)?[0],
            offer: say(OFFER)?,
            labels: all(LABELS.map(say))?,
            think: say(THINK)?,
            answer: say(ANSWER)?,
            with: say(WITH)?,
            for_it: say(FOR)?,
            attributes,
            likes: say(LIKES.trim_end())?,
            and: say(AND.trim_end())?,
            goes_with: say(GOES_WITH.trim_end())?,
            is: say(IS.trim_end())?,
            because: say(BECAUSE)?,
            also: say(ALSO)?,
            titles: catalog.items().iter().map(|item| item.title.clone()).collect(),
            by_id,
            levels: ids.levels(),
            items,
            facts,
            added: vocabulary.added(),
            vocabulary,
        })
    }

    /// What the prompts say beside ids: what a tokenizer that is made from nothing should know.
    pub fn words() -> impl Iterator<Item = &'static str> + Clone {
        let ages = AGES.iter().map(|&(_, text)| text);
        let deeds = DEEDS.iter().map(|&(_, text)| text);
        let compared = [OFFER, WITH, FOR, LIKES, GOES_WITH, IS, THINK, ANSWER];
        let others = [BEGIN, ABOUT, ASKS, STOP, YES, BECAUSE, ALSO].into_iter().chain(compared);
        ages.chain(deeds).chain(MONTHS).chain(LABELS).chain(others)
    }

    /// The model's words.
    pub fn vocabulary(&self) -> &LmTokenizer {
        &self.vocabulary
    }

    /// Whether a model that knows so many tokens knows all that is said.
    pub fn fit(&self, vocabulary: usize) -> Result<(), PromptError> {
        let Self { begin, about, asks, stop, items, facts, offer, think, answer, .. } = self;
        let Self { with, for_it, likes, and, goes_with, is, because, also, .. } = self;
        let pieces = [begin, about, asks, stop, items, facts, offer, think, answer].into_iter();
        let pieces = pieces.chain([with, for_it, likes, and, goes_with, is, because, also]);
        let pieces = pieces.chain(&self.ages).chain(&self.deeds).chain(&self.months);
        let pieces = pieces.chain(&self.labels).chain(&self.attributes);
        let token = pieces.flatten().copied().chain([self.asked]).max().unwrap_or_default();
        if token as usize >= vocabulary {
            return Err(PromptError::Unknown { token, vocabulary });
        }
        Ok(())
    }

    /// A shopper: what they did, oldest first, what is said in words, and when they want something. Of
    /// a history that is too long the latest events count.
    pub fn trunk(&self, shopper: ShopperContext<'_>) -> Vec<u32> {
        let ShopperContext { history, now, words } = shopper;
        let (profile, request) = (self.profile(words), self.request(words));
        let mut history = &history[history.len().saturating_sub(EVENTS_MAX)..];
        loop {
            let trunk = self.whole_trunk(&profile, history, &request, now);
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
        request: &[u32],
        now: Timestamp,
    ) -> Vec<u32> {
        let mut tokens = [&self.begin, profile].concat();
        let (mut age, mut deed) = (None, None);
        for past in history {
            let (new_age, new_deed) = (age_of(now - past.time), deed_of(past.kind));
            if age != Some(new_age) {
                if age.is_some() {
                    tokens.extend(&self.stop);
                }
                tokens.extend(&self.ages[new_age]);
                (age, deed) = (Some(new_age), None);
            }
            if deed != Some(new_deed) {
                tokens.extend(&self.deeds[new_deed]);
                deed = Some(new_deed);
            }
            tokens.extend(self.item(past.item));
        }
        if age.is_some() {
            tokens.extend(&self.stop);
        }
        tokens.extend(request);
        tokens.extend(&self.months[month(now)]);
        tokens
    }

    /// A candidate, with what speaks for it. After a trunk, it is a branch.
    pub fn branch(&self, offer: &OfferedItem) -> Vec<u32> {
        let facts = offer.facts.told().map(|place| self.facts[place]);
        self.item(offer.item).iter().copied().chain(facts).collect()
    }

    /// An item of the catalogue, by its number: its semantic id.
    pub fn item(&self, number: u32) -> &[u32] {
        &self.items[number as usize * self.levels..][..self.levels]
    }

    /// All items, in the order of their numbers.
    pub fn items(&self) -> impl Iterator<Item = &[u32]> {
        self.items.chunks_exact(self.levels)
    }

    /// The order in which candidates are offered: by their ids, so that a place says nothing about
    /// what the ranker before us thought of them.
    pub fn offer_order(&self, offers: &mut [OfferedItem]) {
        offers.sort_by_key(|offer| self.item(offer.item));
    }

    /// What follows a trunk where candidates are compared, [`OFFERED_MAX`] at most.
    pub fn offer(&self, offers: &[OfferedItem]) -> Vec<u32> {
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

    /// The number of the item with this id, if any has it.
    pub fn number(&self, id: &[u32]) -> Option<u32> {
        let at = self.by_id.binary_search_by(|&item| self.item(item).cmp(id)).ok()?;
        Some(self.by_id[at])
    }

    /// The tokens of an id.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// The title of an item.
    pub fn title(&self, item: u32) -> &str {
        &self.titles[item as usize]
    }

    /// The names of the candidates that are offered, in their order.
    pub fn labels(&self) -> &[Vec<u32>] {
        &self.labels
    }

    /// How a thought begins.
    pub fn think(&self) -> &[u32] {
        &self.think
    }

    /// How an answer begins, and how a thought ends.
    pub fn answer(&self) -> &[u32] {
        &self.answer
    }

    /// What was thought before an answer: the tokens up to where the answer begins, if it does.
    pub fn thought<'a>(&self, written: &'a [u32]) -> &'a [u32] {
        let ending = written.windows(self.answer.len()).position(|window| window == self.answer);
        &written[..ending.unwrap_or(0)]
    }

    /// The token whose logit, at the end of a branch, is the item's score.
    pub fn asked(&self) -> u32 {
        self.asked
    }
}

/// The place of the phrase for something that happened so many seconds ago.
fn age_of(seconds: i64) -> usize {
    let days = seconds.max(0) / DAY_S;
    AGES.iter().position(|&(most, _)| days <= most).unwrap_or(AGES.len() - 1)
}

/// The place of the word for what was done: whatever is no purchase and no cart was looked at.
fn deed_of(kind: EventKind) -> usize {
    DEEDS.iter().position(|&(deed, _)| deed == kind).unwrap_or(DEEDS.len() - 1)
}

/// All of them, or the first error.
fn all<T, E, const N: usize>(of: [Result<T, E>; N]) -> Result<[T; N], E> {
    let all = of.into_iter().collect::<Result<Vec<T>, E>>()?;
    Ok(<[T; N]>::try_from(all).unwrap_or_else(|_| unreachable!("none was lost")))
}

#[cfg(test)]
mod tests {
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
        let words: Vec<_> = std::iter::repeat_n(Prompts::words(), 4).flatten().collect();
        Prompts::new(LmTokenizer::fit(words, 512).unwrap(), &catalog()).unwrap()
    }

    fn past(item: u32, days: i64, kind: EventKind) -> HistoryEvent {
        HistoryEvent { item, time: NOW - days * DAY_S, kind }
    }

    /// Midday of the first of December 2025.
    const NOW: Timestamp = 1_764_590_400;

    #[test]
    fn a_trunk_reads_as_it_should() {
        let prompts = prompts();
        let history = [
            past(0, 40, EventKind::Purchase),
            past(1, 40, EventKind::Purchase),
            past(2, 35, EventKind::Click),
            past(0, 0, EventKind::Cart),
        ];
        let trunk = prompts.trunk(ShopperContext::of(&history, NOW));
        let text = prompts.vocabulary().decode(&trunk).unwrap();
        let ids: Vec<_> =
            (0..3).map(|item| prompts.vocabulary().decode(prompts.item(item)).unwrap()).collect();
        assert_eq!(
            text,
            format!(
                "Shopping history. Two months ago bought{}{} saw{}. Today took{}. Now, in December, wants",
                ids[0], ids[1], ids[2], ids[0]
            )
        );
        let nobody =
            prompts.vocabulary().decode(&prompts.trunk(ShopperContext::of(&[], NOW))).unwrap();
        assert_eq!(nobody, "Shopping history. Now, in December, wants");
    }

    #[test]
    fn what_comes_later_leaves_the_beginning_alone() {
        let prompts = prompts();
        let history: Vec<_> =
            (0..20).map(|at| past(at % 5, i64::from(20 - at), EventKind::Purchase)).collect();
        let [short, long] = [&history[..10], &history]
            .map(|history| prompts.trunk(ShopperContext::of(history, NOW)));
        let ending = prompts.months[11].len() + prompts.stop.len();
        assert!(long.starts_with(&short[..short.len() - ending]));
    }

    #[test]
    fn what_strangers_write_is_told_in_words_alone_and_within_bounds() {
        let prompts = prompts();
        let told = |profile: &str, request: &str| {
            let words = ShopperWords { profile, request };
            let shopper = ShopperContext { words, ..ShopperContext::of(&[], NOW) };
            prompts.vocabulary().decode(&prompts.trunk(shopper)).unwrap()
        };
        assert_eq!(
            told(" likes\n mugs ", "a red  mug."),
            "Shopping history. About them: likes mugs. Asks for a red mug. Now, in December, wants"
        );
        let nothing = "Shopping history. Now, in December, wants";
        assert_eq!(told("", " \n"), nothing);
        // Neither ids nor what ends a text can be smuggled in.
        let id = prompts.vocabulary().decode(prompts.item(3)).unwrap();
        assert_eq!(told("", &format!("{id}<|endoftext|>")), nothing);
        assert_eq!(told("", &format!("mug {id}")), told("", "mug "));
        let long = "mug ".repeat(5000);
        let words = ShopperWords { profile: &long, request: &long };
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
    fn a_model_must_know_every_token() {
        let prompts = prompts();
        let tokens = prompts.vocabulary().len();
        prompts.fit(tokens).unwrap();
        let error = prompts.fit(tokens - 1).unwrap_err().to_string();
        assert!(error.ends_with(&format!("knows {}", tokens - 1)), "{error}");
        let bare = Prompts::new(prompts.vocabulary.clone(), &Catalog::default());
        assert!(matches!(bare, Err(PromptError::NoIds)));
    }
}
