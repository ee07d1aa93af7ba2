//! What a sequence of tokens teaches, and how lessons become batches.
//!
//! The stages that train a language model differ in their lessons alone; one
//! [`Learner`](super::Learner) learns them all.

use crate::nn::decoder::{DecoderConfig, Exact, PADDING, TokenBatch};
use crate::nn::ops::{CrossEntropyTargets, RolloutToken};
use crate::nn::{BranchTargets, RowTargets, TokenTargets, softmax_loss};
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::ops::AddAssign;

/// Rows of a batch that a recipe may ask for, padding included.
pub const ROWS_MAX: usize = 1 << 20;

/// Of the rows of a batch's longest lesson, what the shortest may have: less would mostly be filled
/// up, and a batch more costs little.
const ALIKE: f32 = 0.6;

/// What one sequence teaches: how much each token counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lesson {
    /// The sequence, or the trunk that branches go on from.
    pub tokens: Vec<u32>,
    /// How much each token counts as one that has to be written: the weight of its cross-entropy.
    pub sft_weights: Vec<f32>,
    /// What it was worth to write it.
    pub reinforce: Option<Reinforce>,
    /// Which of several ways to go on was taken.
    pub choose: Option<Choose>,
}

/// What a text was worth that the model wrote itself (GRPO, Shao et al. 2024, eq. 3, without its last term; DAPO, Yu et al.
/// 2025).
#[derive(Clone, Debug, PartialEq)]
pub struct Reinforce {
    /// How much better each token was than what else might have been written, and 0 for those that were given.
    pub advantages: Vec<f32>,
    /// The log-probability of each when it was written.
    pub old_logprobs: Vec<f32>,
    /// How much less likely, and how much likelier, a token may become before it gains nothing more: shares of what it was.
    pub clip_eps: [f32; 2],
    /// What it adds to what a step's sum is divided by: its tokens, where each of those counts alike (DAPO); or 1, where
    /// advantages are divided by a text's length, so that each text does (GRPO).
    pub normaliser: f64,
}

/// Branches of a trunk, laid out as they are weighed in serving: each sees the trunk and itself.
///
/// The score of a branch is the logit of one token at its end, and the lesson is that the branch
/// which was taken has the highest: softmax cross-entropy over the scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choose {
    /// The branches.
    pub branches: Vec<Vec<u32>>,
    /// The one that was taken.
    pub taken: usize,
    /// The token whose logit is the score.
    pub label_token: u32,
}

/// Why a lesson cannot be learned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LessonError {
    /// Something is missing, or does not fit the rest.
    #[error("lesson {lesson}: {why}")]
    Malformed {
        /// Its place.
        lesson: usize,
        /// What is wrong.
        why: String,
    },
    /// Something is beyond a limit.
    #[error("lesson {lesson}: `{field}` is {value}, and `{limit}` is {max}")]
    TooMuch {
        /// Its place.
        lesson: usize,
        /// What was counted.
        field: &'static str,
        /// How much of it there is.
        value: usize,
        /// The limit.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
}

/// In which order lessons are learned: every one once before any comes again, shuffled by a seed.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    lessons: usize,
    /// The epoch whose order is held.
    epoch: Option<u64>,
    places: Vec<usize>,
}

/// A batch, and what its rows teach.
#[derive(Clone, Debug, Default)]
pub struct LessonBatch {
    /// Tokens, positions and segments.
    pub batch: TokenBatch,
    /// What is imitated, and what is reinforced.
    texts: [Followers; 2],
    /// The last rows of each trunk's branches, the one that was taken first.
    choices: Vec<BranchTargets>,
}

/// Rows that are followed by a token that counts, that token, how much it counts, and what is known of how it was written.
#[derive(Clone, Debug, Default)]
struct Followers {
    rows: Vec<u32>,
    tokens: Vec<u32>,
    weights: Vec<f32>,
    written: Vec<RolloutToken>,
}

/// What lessons weigh together: each kind of loss is divided by its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossTotals {
    /// The weights of tokens.
    pub sft_weights: f64,
    /// What reinforced texts add up to.
    pub reinforce: f64,
    /// Choices.
    pub choices: f64,
}

// === impl Lesson ===

impl Lesson {
    /// A text whose every token counts alike; the first follows nothing and is given.
    pub fn text(tokens: Vec<u32>) -> Self {
        let sft_weights = (0..tokens.len()).map(|place| f32::from(u8::from(place > 0))).collect();
        Self { tokens, sft_weights, ..Self::default() }
    }

    /// A text that the model wrote itself, after a prompt or not.
    pub fn written(tokens: Vec<u32>, reinforce: Reinforce) -> Self {
        let sft_weights = vec![0.0; tokens.len()];
        Self { tokens, sft_weights, reinforce: Some(reinforce), choose: None }
    }

    /// A trunk and its branches.
    pub fn choice(trunk: Vec<u32>, choose: Choose) -> Self {
        let sft_weights = vec![0.0; trunk.len()];
        Self { sft_weights, tokens: trunk, choose: Some(choose), reinforce: None }
    }

    /// Tokens, those of branches included.
    pub fn rows(&self) -> usize {
        self.tokens.len() + self.branches().iter().map(Vec::len).sum::<usize>()
    }

    /// What it adds to the totals.
    pub fn totals(&self) -> LossTotals {
        let sft_weights = self.sft_weights.iter().copied().map(f64::from).sum();
        let reinforce = self.reinforce.as_ref().map_or(0.0, |reinforce| reinforce.normaliser);
        LossTotals { sft_weights, reinforce, choices: f64::from(u8::from(self.choose.is_some())) }
    }

    fn branches(&self) -> &[Vec<u32>] {
        self.choose.as_ref().map_or(&[], |choose| &choose.branches)
    }

    /// Whether a decoder can learn it in batches of `rows_max` rows. `lesson` is its place.
    pub fn check(
        &self,
        lesson: usize,
        config: &DecoderConfig,
        rows_max: usize,
    ) -> Result<(), LessonError> {
        let malformed = |why: String| Err(LessonError::Malformed { lesson, why });
        let (tokens, weights) = (self.tokens.len(), self.sft_weights.len());
        if tokens == 0 {
            return malformed("`tokens` is empty".into());
        }
        if weights != tokens {
            return malformed(format!("{tokens} tokens have {weights} weights in `sft_weights`"));
        }
        if self.sft_weights[0] != 0.0 {
            return malformed(format!(
                "`sft_weights[0]` is {}: nothing comes before it",
                self.sft_weights[0]
            ));
        }
        if let Some(weight) =
            self.sft_weights.iter().find(|weight| !(**weight >= 0.0 && weight.is_finite()))
        {
            return malformed(format!("`sft_weights` holds {weight}"));
        }
        if let Some(why) = self.reinforce.as_ref().and_then(|reinforce| reinforce.wrong(tokens)) {
            return malformed(why);
        }
        if self.totals() == LossTotals::default() {
            return malformed("it teaches nothing: no token counts, and nothing is chosen".into());
        }
        if let Some(Choose { branches, taken, .. }) = &self.choose {
            let count = branches.len();
            if count < 2 || branches.iter().any(Vec::is_empty) {
                return malformed(format!("{count} branches, or an empty one, are no choice"));
            }
            if *taken >= count {
                return malformed(format!("`taken` is {taken}, and there are {count} branches"));
            }
        }
        self.check_bounds(lesson, config, rows_max)
    }

    fn check_bounds(
        &self,
        lesson: usize,
        config: &DecoderConfig,
        rows_max: usize,
    ) -> Result<(), LessonError> {
        let longest = self.branches().iter().map(Vec::len).max().unwrap_or(0);
        let asked = self.choose.iter().map(|choose| choose.label_token);
        let all = self.tokens.iter().chain(self.branches().iter().flatten()).copied().chain(asked);
        let highest = all.max().map_or(0, |token| token as usize);
        let bounds = [
            ("rows", self.rows(), "rows_max", rows_max),
            ("positions", self.tokens.len() + longest, "positions_max", config.positions_max),
            ("token", highest, "the highest token", config.vocabulary - 1),
        ];
        for (field, value, limit, max) in bounds {
            if value > max {
                return Err(LessonError::TooMuch { lesson, field, value, limit, max });
            }
        }
        Ok(())
    }
}

// === impl Reinforce ===

impl Reinforce {
    /// What is wrong with it, for a text of so many tokens.
    fn wrong(&self, tokens: usize) -> Option<String> {
        let Self { advantages, old_logprobs, clip_eps, normaliser } = self;
        let lengths = [advantages.len(), old_logprobs.len()];
        if lengths != [tokens; 2] {
            let [advantages, old_logprobs] = lengths;
            return Some(format!(
                "{tokens} tokens have {advantages} `advantages` and {old_logprobs} `old_logprobs`"
            ));
        }
        if advantages[0] != 0.0 {
            return Some(format!("`advantages[0]` is {}: nothing comes before it", advantages[0]));
        }
        let broken = advantages
            .iter()
            .chain(old_logprobs)
            .chain(clip_eps)
            .find(|number| !number.is_finite());
        if let Some(number) = broken {
            return Some(format!("`reinforce` holds {number}"));
        }
        if !(0.0..1.0).contains(&clip_eps[0]) || clip_eps[1] < 0.0 {
            return Some(format!(
                "`clip_eps` is {clip_eps:?}, not shares from 0 on, the first below 1"
            ));
        }
        let is_positive = normaliser.is_finite() && *normaliser > 0.0;
        (!is_positive).then(|| format!("`normaliser` is {normaliser}, not above 0"))
    }
}

impl AddAssign for LossTotals {
    fn add_assign(&mut self, other: Self) {
        self.sft_weights += other.sft_weights;
        self.reinforce += other.reinforce;
        self.choices += other.choices;
    }
}

// === impl Order ===

impl Order {
    /// The order of so many lessons.
    pub fn new(lessons: usize, seed: u64) -> Self {
        Self { seed, lessons, epoch: None, places: Vec::new() }
    }

    /// The lesson that comes at a place of the endless sequence of epochs.
    pub fn lesson(&mut self, place: u64) -> usize {
        let (epoch, within) = (place / self.lessons as u64, place % self.lessons as u64);
        if self.epoch != Some(epoch) {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(epoch);
            self.places = (0..self.lessons).collect();
            self.places.shuffle(&mut random);
            self.epoch = Some(epoch);
        }
        self.places[within as usize]
    }

    /// The lessons of a step that takes `each`, in their order.
    pub fn of_step(&mut self, step: usize, each: usize) -> impl Iterator<Item = usize> {
        let first = (step * each) as u64;
        (first..first + each as u64).map(|place| self.lesson(place))
    }
}

/// Puts lessons into as few batches of up to `rows_max` rows as go well: the longest first, each
/// with others of about its length, since all of a batch are filled up to its longest.
pub fn pack<'a>(lessons: &[&'a Lesson], rows_max: usize) -> Vec<Vec<&'a Lesson>> {
    let mut sorted = lessons.to_vec();
    sorted.sort_by_key(|lesson| std::cmp::Reverse(lesson.rows()));
    let mut batches: Vec<Vec<&Lesson>> = Vec::new();
    for lesson in sorted {
        match batches.last_mut() {
            Some(batch)
                if (batch.len() + 1) * batch[0].rows() <= rows_max
                    && lesson.rows() >= (batch[0].rows() as f32 * ALIKE) as usize =>
            {
                batch.push(lesson);
            }
            _ => batches.push(vec![lesson]),
        }
    }
    batches
}

// === impl LessonBatch ===

impl LessonBatch {
    /// Lays lessons out.
    pub fn new(lessons: &[&Lesson]) -> Self {
        let texts: Vec<_> =
            lessons.iter().map(|lesson| (lesson.tokens.as_slice(), lesson.branches())).collect();
        let mut taught = Self { batch: TokenBatch::branched(&texts), ..Self::default() };
        for (at, lesson) in lessons.iter().enumerate() {
            taught.teach(lesson, at * taught.batch.length);
        }
        taught
    }

    /// Adds what a lesson whose rows begin at `first` teaches.
    fn teach(&mut self, lesson: &Lesson, first: usize) {
        let [imitated, reinforced] = &mut self.texts;
        imitated.add(lesson, &lesson.sft_weights, first);
        if let Some(Reinforce { advantages, old_logprobs, clip_eps: [below, above], .. }) =
            &lesson.reinforce
        {
            let bounds = [1.0 - below, 1.0 + above];
            reinforced.add(lesson, advantages, first);
            let counts =
                old_logprobs.iter().zip(advantages).filter(|(_, advantage)| **advantage != 0.0);
            reinforced.written.extend(
                counts.map(|(&old_logprob, _)| RolloutToken { old_logprob, ratio_bounds: bounds }),
            );
        }
        if let Some(Choose { branches, taken, label_token }) = &lesson.choose {
            let mut end = first + lesson.tokens.len();
            let ends = branches.iter().map(|branch| {
                end += branch.len();
                end as u32 - 1
            });
            let mut rows: Vec<u32> = ends.collect();
            rows.swap(0, *taken);
            self.choices.push(BranchTargets { rows, label_token: *label_token });
        }
    }

    /// What its rows should say: their part of what `totals` are divided by.
    pub fn row_targets(&self, totals: LossTotals) -> RowTargets<'_> {
        let [imitated, reinforced] = &self.texts;
        RowTargets {
            tokens: [imitated.followed(totals.sft_weights), reinforced.followed(totals.reinforce)],
            branches: &self.choices,
            branches_normaliser: totals.choices,
        }
    }

    /// The loss of the rows after the last norm: how far they are from [`LessonBatch::row_targets`].
    pub fn loss(
        &self,
        exact: &Exact<'_>,
        rows: &Tensor,
        totals: LossTotals,
    ) -> candle_core::Result<Tensor> {
        let aims = self.row_targets(totals);
        let rows = rows.flatten_to(1)?;
        let picked = |places: &[u32]| {
            rows.index_select(&Tensor::from_slice(places, places.len(), rows.device())?, 0)
        };
        let mut losses = Vec::new();
        for TokenTargets { rows, targets } in
            aims.tokens.into_iter().filter(|of| !of.rows.is_empty())
        {
            losses.push(exact.cross_entropy(&picked(rows)?, targets)?);
        }
        for choice in aims.branches {
            let scores =
                exact.token_logits(&picked(&choice.rows)?, choice.label_token)?.unsqueeze(0)?;
            losses.push((softmax_loss(&scores, &scores.ones_like()?)? / aims.branches_normaliser)?);
        }
        let none = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        losses.into_iter().try_fold(none, |sum, loss| sum + loss)
    }

    /// The scores of the branches of each choice, in the order of the lessons and of the branches.
    pub fn scores(&self, exact: &Exact<'_>, rows: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
        let rows = rows.flatten_to(1)?;
        let scores = self.choices.iter().map(|choice| {
            let mut places = choice.rows.clone();
            places.sort_unstable();
            let places = Tensor::from_vec(places, choice.rows.len(), rows.device())?;
            exact.token_logits(&rows.index_select(&places, 0)?, choice.label_token)?.to_vec1()
        });
        scores.collect()
    }

    /// Rows that only fill sequences up.
    pub fn padding(&self) -> usize {
        self.batch.segments.iter().filter(|&&segment| segment == PADDING).count()
    }
}

// === impl Followers ===

impl Followers {
    /// Adds the tokens of a lesson, whose rows begin at `first`, that have a weight.
    fn add(&mut self, lesson: &Lesson, weights: &[f32], first: usize) {
        let follows = lesson.tokens.iter().zip(weights).skip(1).zip(first as u32..);
        for ((token, weight), row) in follows.filter(|((_, weight), _)| **weight != 0.0) {
            self.rows.push(row);
            self.tokens.push(*token);
            self.weights.push(*weight);
        }
    }

    fn followed(&self, total: f64) -> TokenTargets<'_> {
        let Self { rows, tokens, weights, written } = self;
        TokenTargets {
            rows,
            targets: CrossEntropyTargets { tokens, weights, normaliser: total, rollout: written },
        }
    }
}

/// What lessons weigh together.
pub fn totals<'a>(lessons: impl IntoIterator<Item = &'a Lesson>) -> LossTotals {
    let mut sum = LossTotals::default();
    lessons.into_iter().for_each(|lesson| sum += lesson.totals());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::decoder::tiny;
    use std::collections::BTreeSet;

    fn config() -> DecoderConfig {
        DecoderConfig { positions_max: 16, ..tiny() }
    }

    fn choose() -> Choose {
        Choose { branches: vec![vec![4, 5], vec![6], vec![7]], taken: 2, label_token: 9 }
    }

    fn reinforce() -> Reinforce {
        let (advantages, old_logprobs) = (vec![0.0, 0.0, -0.5], vec![0.0, -1.0, -2.0]);
        Reinforce { advantages, old_logprobs, clip_eps: [0.2, 0.28], normaliser: 2.0 }
    }

    #[test]
    fn every_lesson_comes_once_before_any_comes_again() {
        let orders = [1, 1, 2].map(|seed| {
            let mut order = Order::new(7, seed);
            (0..21).map(|place| order.lesson(place)).collect::<Vec<_>>()
        });
        assert_eq!(orders[0], orders[1]);
        assert_ne!(orders[0], orders[2]);
        for epoch in orders[0].chunks(7) {
            assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 7);
        }
        assert_ne!(orders[0][..7], orders[0][7..14]);
        // A place is the same place whatever was asked before.
        assert_eq!(Order::new(7, 1).lesson(17), orders[0][17]);
    }

    #[test]
    fn batches_keep_the_budget_and_waste_little() {
        let lessons: Vec<Lesson> =
            (2..40).map(|length| Lesson::text(vec![1; length * 7 % 31 + 2])).collect();
        let all: Vec<&Lesson> = lessons.iter().collect();
        let batches = pack(&all, 64);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), lessons.len());
        let (mut rows, mut padding) = (0, 0);
        for batch in &batches {
            let taught = LessonBatch::new(batch);
            assert!(taught.batch.tokens.len() <= 64);
            rows += taught.batch.tokens.len();
            padding += taught.padding();
        }
        assert_eq!(rows - padding, lessons.iter().map(Lesson::rows).sum::<usize>());
        assert!(padding * 10 < rows, "{padding} of {rows} rows are padding");
    }

    #[test]
    fn rows_teach_the_tokens_that_follow_them() {
        let text = Lesson { sft_weights: vec![0.0, 0.0, 0.5], ..Lesson::text(vec![1, 2, 3]) };
        let mut trunk = Lesson::choice(vec![8, 9], choose());
        trunk.sft_weights = vec![0.0, 2.0];
        let written = Lesson::written(vec![4, 5, 6], reinforce());
        let taught = LessonBatch::new(&[&trunk, &text, &written]);
        assert_eq!(taught.batch.length, 6);
        let [imitated, reinforced] = &taught.texts;
        assert_eq!((&*imitated.rows, &*imitated.tokens), (&[0, 7][..], &[9, 3][..]));
        assert_eq!((&*imitated.weights, imitated.written.len()), (&[2.0, 0.5][..], 0));
        // A token that was worth nothing is left out, whatever its chance was.
        assert_eq!((&*reinforced.rows, &*reinforced.tokens), (&[13][..], &[6][..]));
        let bounds = [1.0 - 0.2, 1.0 + 0.28];
        assert_eq!(reinforced.weights, [-0.5]);
        assert_eq!(reinforced.written, [RolloutToken { old_logprob: -2.0, ratio_bounds: bounds }]);
        // The branch that was taken comes first.
        assert_eq!(taught.choices[0].rows, [5, 4, 3]);
        assert_eq!(taught.padding(), 6);
        let right = LossTotals { sft_weights: 2.5, reinforce: 2.0, choices: 1.0 };
        assert_eq!(totals([&trunk, &text, &written]), right);
    }

    #[test]
    fn what_cannot_be_learned_is_named() {
        let says = |change: fn(&mut Lesson)| {
            let mut lesson = Lesson::choice(vec![1, 2], choose());
            change(&mut lesson);
            lesson.check(3, &config(), 10).unwrap_err().to_string()
        };
        Lesson::choice(vec![1, 2], choose()).check(3, &config(), 10).unwrap();
        assert_eq!(says(|l| l.tokens.clear()), "lesson 3: `tokens` is empty");
        assert_eq!(
            says(|l| l.sft_weights = vec![0.0]),
            "lesson 3: 2 tokens have 1 weights in `sft_weights`"
        );
        assert!(says(|l| l.sft_weights[0] = 1.0).contains("nothing comes before it"));
        assert_eq!(says(|l| l.sft_weights[1] = f32::NAN), "lesson 3: `sft_weights` holds NaN");
        assert!(says(|l| l.choose = None).contains("teaches nothing"));
        let written = |change: fn(&mut Reinforce)| {
            let mut reinforce = reinforce();
            change(&mut reinforce);
            let lesson = Lesson::written(vec![1, 2, 3], reinforce);
            lesson.check(3, &config(), 10).unwrap_err().to_string()
        };
        let wrong = "lesson 3: 3 tokens have 3 `advantages` and 2 `old_logprobs`";
        assert_eq!(written(|of| of.old_logprobs.truncate(2)), wrong);
        assert!(written(|of| of.advantages[0] = 1.0).contains("nothing comes before it"));
        assert_eq!(written(|of| of.old_logprobs[1] = f32::NAN), "lesson 3: `reinforce` holds NaN");
        assert!(
            written(|of| of.clip_eps[0] = 1.0).contains("`clip_eps` is [1.0, 0.28], not shares")
        );
        assert_eq!(written(|of| of.normaliser = 0.0), "lesson 3: `normaliser` is 0, not above 0");
        let with = |change: fn(&mut Choose)| {
            let mut choose = choose();
            change(&mut choose);
            let lesson = Lesson::choice(vec![1, 2], choose);
            lesson.check(3, &config(), 10).unwrap_err().to_string()
        };
        assert!(with(|c| c.branches.truncate(1)).contains("are no choice"));
        assert_eq!(with(|c| c.taken = 3), "lesson 3: `taken` is 3, and there are 3 branches");
        let limits = with(|c| c.label_token = 12);
        assert_eq!(limits, "lesson 3: `token` is 12, and `the highest token` is 11");
        let limits = with(|c| c.branches[0] = vec![1; 7]);
        assert_eq!(limits, "lesson 3: `rows` is 11, and `rows_max` is 10");
        let long = Lesson::text(vec![1; 17]).check(0, &config(), 100).unwrap_err().to_string();
        assert_eq!(long, "lesson 0: `positions` is 17, and `positions_max` is 16");
    }
}
