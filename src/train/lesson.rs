//! Lessons: training sequences with a weight per token, and how they become batches.
//!
//! The stages that train a language model differ only in their lessons; one
//! [`Learner`](super::Learner) trains on all of them.

use crate::nn::decoder::{DecoderConfig, Exact, PADDING, TokenBatch};
use crate::nn::ops::{CrossEntropyTargets, RolloutToken};
use crate::nn::{BranchTargets, RowTargets, TokenTargets, softmax_loss};
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::ops::AddAssign;

/// The shortest lesson of a batch has at least this share of the longest one's tokens. A shorter one would be
/// mostly padding, and another batch costs little.
const LENGTH_RATIO_MIN: f32 = 0.6;

/// One training sequence. Its losses add up: cross-entropy, a policy gradient, and a choice between branches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lesson {
    /// The sequence, or the trunk of the branches.
    pub tokens: Vec<u32>,
    /// The weight of each token's cross-entropy (supervised fine-tuning): one per token.
    pub sft_weights: Vec<f32>,
    /// Reinforcement of tokens that the model itself has sampled.
    pub reinforce: Option<Reinforce>,
    /// A choice between branches after the trunk.
    pub choose: Option<Choose>,
}

/// A clipped policy gradient on sampled tokens: GRPO (Shao et al. 2024, eq. 3, without the KL term) or DAPO (Yu et
/// al. 2025).
#[derive(Clone, Debug, PartialEq)]
pub struct Reinforce {
    /// The advantage of each token; 0 for tokens of the prompt.
    pub advantages: Vec<f32>,
    /// The log-probability of each token under the policy that sampled it.
    pub old_logprobs: Vec<f32>,
    /// The clip range of the probability ratio: it is clipped to `1 - clip_eps[0] ..= 1 + clip_eps[1]`.
    pub clip_eps: [f32; 2],
    /// The lesson's share of the step's normaliser. DAPO: its count of sampled tokens, so that all tokens of a step
    /// weigh alike. GRPO: 1, with advantages divided by the sequence's length, so that all sequences weigh alike.
    pub normaliser: f64,
}

/// Branches of a trunk, in the layout of serving: each branch attends to the trunk and to itself.
///
/// A branch's score is the logit of `label_token` at its last token. The loss is softmax cross-entropy over the
/// scores, with the taken branch as the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choose {
    /// The branches, in tokens.
    pub branches: Vec<Vec<u32>>,
    /// The index of the branch that was taken.
    pub taken: usize,
    /// The token whose logit is the score.
    pub label_token: u32,
}

/// Why a lesson cannot be trained on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LessonError {
    /// A field is missing, or contradicts another one.
    #[error("lesson {lesson}: {why}")]
    Malformed {
        /// The lesson's index.
        lesson: usize,
        /// The reason.
        why: String,
    },
    /// A count exceeds a limit.
    #[error("lesson {lesson}: `{field}` is {value}, and `{limit}` is {max}")]
    TooMuch {
        /// The lesson's index.
        lesson: usize,
        /// The field.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The limit.
        limit: &'static str,
        /// The limit's value.
        max: usize,
    },
}

/// A shuffled order of a dataset's lessons. Every epoch has each lesson once, in an order of its own that depends on
/// the seed alone.
#[derive(Clone, Debug)]
pub struct LessonOrder {
    seed: u64,
    lessons: usize,
    /// The epoch whose permutation is cached.
    epoch: Option<u64>,
    permutation: Vec<usize>,
}

/// Lessons as one padded batch, with the targets of its rows.
#[derive(Clone, Debug, Default)]
pub struct LessonBatch {
    /// Tokens, positions and segments.
    pub batch: TokenBatch,
    /// Supervised targets, and reinforced ones.
    texts: [TargetRows; 2],
    /// The last rows of each trunk's branches, the taken branch first.
    choices: Vec<BranchTargets>,
}

/// Rows whose next token has a weight, those tokens, their weights, and how reinforced tokens were sampled.
#[derive(Clone, Debug, Default)]
struct TargetRows {
    rows: Vec<u32>,
    tokens: Vec<u32>,
    weights: Vec<f32>,
    rollout: Vec<RolloutToken>,
}

/// The normalisers of a step: each kind of loss is divided by its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossNormalisers {
    /// The sum of the supervised tokens' weights.
    pub sft_weights: f64,
    /// The sum of the reinforced lessons' normalisers.
    pub reinforce: f64,
    /// The number of choices.
    pub choices: f64,
}

// === impl Lesson ===

impl Lesson {
    /// A text with weight 1 on every token but the first, which has no context.
    pub fn text(tokens: Vec<u32>) -> Self {
        let sft_weights = (0..tokens.len()).map(|index| f32::from(u8::from(index > 0))).collect();
        Self { tokens, sft_weights, ..Self::default() }
    }

    /// A prompt and a completion that the model has sampled.
    pub fn reinforced(tokens: Vec<u32>, reinforce: Reinforce) -> Self {
        let sft_weights = vec![0.0; tokens.len()];
        Self { tokens, sft_weights, reinforce: Some(reinforce), choose: None }
    }

    /// A choice between branches of a trunk.
    pub fn choice(trunk: Vec<u32>, choose: Choose) -> Self {
        let sft_weights = vec![0.0; trunk.len()];
        Self { sft_weights, tokens: trunk, choose: Some(choose), reinforce: None }
    }

    /// The number of tokens, those of branches included.
    pub fn total_tokens(&self) -> usize {
        self.tokens.len() + self.branches().iter().map(Vec::len).sum::<usize>()
    }

    /// Its share of a step's normalisers.
    pub fn normalisers(&self) -> LossNormalisers {
        let sft_weights = self.sft_weights.iter().copied().map(f64::from).sum();
        let reinforce = self.reinforce.as_ref().map_or(0.0, |reinforce| reinforce.normaliser);
        LossNormalisers {
            sft_weights,
            reinforce,
            choices: f64::from(u8::from(self.choose.is_some())),
        }
    }

    fn branches(&self) -> &[Vec<u32>] {
        self.choose.as_ref().map_or(&[], |choose| &choose.branches)
    }

    /// Whether it is well-formed, and fits the decoder and a micro-batch. `lesson` is its index, for the error.
    pub fn check(
        &self,
        lesson: usize,
        config: &DecoderConfig,
        max_batched_tokens: usize,
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
                "`sft_weights[0]` is {}, and the first token has no context",
                self.sft_weights[0]
            ));
        }
        if let Some(weight) =
            self.sft_weights.iter().find(|weight| !(**weight >= 0.0 && weight.is_finite()))
        {
            return malformed(format!("`sft_weights` holds {weight}"));
        }
        if let Some(why) = self.reinforce.as_ref().and_then(|reinforce| reinforce.problem(tokens)) {
            return malformed(why);
        }
        if self.normalisers() == LossNormalisers::default() {
            return malformed(
                "it teaches nothing: no token has a weight, and there is no choice".into(),
            );
        }
        if let Some(Choose { branches, taken, .. }) = &self.choose {
            let count = branches.len();
            if count < 2 || branches.iter().any(Vec::is_empty) {
                return malformed(format!(
                    "a choice needs two branches or more, none empty, and there are {count}"
                ));
            }
            if *taken >= count {
                return malformed(format!("`taken` is {taken}, and there are {count} branches"));
            }
        }
        self.check_bounds(lesson, config, max_batched_tokens)
    }

    fn check_bounds(
        &self,
        lesson: usize,
        config: &DecoderConfig,
        max_batched_tokens: usize,
    ) -> Result<(), LessonError> {
        let longest = self.branches().iter().map(Vec::len).max().unwrap_or(0);
        let label = self.choose.iter().map(|choose| choose.label_token);
        let all = self.tokens.iter().chain(self.branches().iter().flatten()).copied().chain(label);
        let highest = all.max().map_or(0, |token| token as usize);
        let bounds = [
            ("tokens", self.total_tokens(), "max_batched_tokens", max_batched_tokens),
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
    /// Why it does not fit a sequence of so many tokens, if it does not.
    fn problem(&self, tokens: usize) -> Option<String> {
        let Self { advantages, old_logprobs, clip_eps, normaliser } = self;
        let lengths = [advantages.len(), old_logprobs.len()];
        if lengths != [tokens; 2] {
            let [advantages, old_logprobs] = lengths;
            return Some(format!(
                "{tokens} tokens have {advantages} `advantages` and {old_logprobs} `old_logprobs`"
            ));
        }
        if advantages[0] != 0.0 {
            return Some(format!(
                "`advantages[0]` is {}, and the first token has no context",
                advantages[0]
            ));
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
                "`clip_eps` is {clip_eps:?}, not from 0 on with the first below 1"
            ));
        }
        let is_positive = normaliser.is_finite() && *normaliser > 0.0;
        (!is_positive).then(|| format!("`normaliser` is {normaliser}, not above 0"))
    }
}

impl AddAssign for LossNormalisers {
    fn add_assign(&mut self, other: Self) {
        self.sft_weights += other.sft_weights;
        self.reinforce += other.reinforce;
        self.choices += other.choices;
    }
}

// === impl LessonOrder ===

impl LessonOrder {
    /// An order of so many lessons.
    pub fn new(lessons: usize, seed: u64) -> Self {
        Self { seed, lessons, epoch: None, permutation: Vec::new() }
    }

    /// The lesson at a position of the endless sequence of epochs.
    pub fn lesson_at(&mut self, position: u64) -> usize {
        let (epoch, within) = (position / self.lessons as u64, position % self.lessons as u64);
        if self.epoch != Some(epoch) {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(epoch);
            self.permutation = (0..self.lessons).collect();
            self.permutation.shuffle(&mut random);
            self.epoch = Some(epoch);
        }
        self.permutation[within as usize]
    }

    /// The lessons of a step, from 0 on, where each step takes `lessons_per_step`.
    pub fn of_step(&mut self, step: usize, lessons_per_step: usize) -> impl Iterator<Item = usize> {
        let first = (step * lessons_per_step) as u64;
        (first..first + lessons_per_step as u64).map(|position| self.lesson_at(position))
    }
}

/// Packs lessons into few batches of up to `max_batched_tokens`, padding included: the longest first, each with others
/// of similar length.
pub fn pack<'a>(lessons: &[&'a Lesson], max_batched_tokens: usize) -> Vec<Vec<&'a Lesson>> {
    let mut sorted = lessons.to_vec();
    sorted.sort_by_key(|lesson| std::cmp::Reverse(lesson.total_tokens()));
    let mut batches: Vec<Vec<&Lesson>> = Vec::new();
    for lesson in sorted {
        match batches.last_mut() {
            Some(batch)
                if (batch.len() + 1) * batch[0].total_tokens() <= max_batched_tokens
                    && lesson.total_tokens()
                        >= (batch[0].total_tokens() as f32 * LENGTH_RATIO_MIN) as usize =>
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
    /// Lays lessons out, each padded to the longest.
    pub fn new(lessons: &[&Lesson]) -> Self {
        let texts: Vec<_> =
            lessons.iter().map(|lesson| (lesson.tokens.as_slice(), lesson.branches())).collect();
        let mut padded = Self { batch: TokenBatch::branched(&texts), ..Self::default() };
        for (index, lesson) in lessons.iter().enumerate() {
            padded.add_targets(lesson, index * padded.batch.length);
        }
        padded
    }

    /// Adds the targets of a lesson whose rows begin at `first`.
    fn add_targets(&mut self, lesson: &Lesson, first: usize) {
        let [supervised, reinforced] = &mut self.texts;
        supervised.add(lesson, &lesson.sft_weights, first);
        if let Some(Reinforce { advantages, old_logprobs, clip_eps: [below, above], .. }) =
            &lesson.reinforce
        {
            let ratio_bounds = [1.0 - below, 1.0 + above];
            reinforced.add(lesson, advantages, first);
            let sampled =
                old_logprobs.iter().zip(advantages).filter(|(_, advantage)| **advantage != 0.0);
            reinforced.rollout.extend(
                sampled.map(|(&old_logprob, _)| RolloutToken { old_logprob, ratio_bounds }),
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

    /// The targets of its rows. `normalisers` are the normalisers of the whole step.
    pub fn row_targets(&self, normalisers: LossNormalisers) -> RowTargets<'_> {
        let [supervised, reinforced] = &self.texts;
        RowTargets {
            tokens: [
                supervised.token_targets(normalisers.sft_weights),
                reinforced.token_targets(normalisers.reinforce),
            ],
            branches: &self.choices,
            branches_normaliser: normalisers.choices,
        }
    }

    /// The loss of the hidden states after the last norm (scalar): the batch's share of the step's loss.
    pub fn loss(
        &self,
        exact: &Exact<'_>,
        rows: &Tensor,
        normalisers: LossNormalisers,
    ) -> candle_core::Result<Tensor> {
        let targets = self.row_targets(normalisers);
        let rows = rows.flatten_to(1)?;
        let select = |indices: &[u32]| {
            rows.index_select(&Tensor::from_slice(indices, indices.len(), rows.device())?, 0)
        };
        let mut losses = Vec::new();
        for TokenTargets { rows, targets } in
            targets.tokens.into_iter().filter(|of| !of.rows.is_empty())
        {
            losses.push(exact.cross_entropy(&select(rows)?, targets)?);
        }
        for choice in targets.branches {
            let scores =
                exact.token_logits(&select(&choice.rows)?, choice.label_token)?.unsqueeze(0)?;
            losses.push(
                (softmax_loss(&scores, &scores.ones_like()?)? / targets.branches_normaliser)?,
            );
        }
        let none = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        losses.into_iter().try_fold(none, |sum, loss| sum + loss)
    }

    /// The scores of each choice's branches, in the order of the lessons and of the branches.
    pub fn scores(&self, exact: &Exact<'_>, rows: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
        let rows = rows.flatten_to(1)?;
        let scores = self.choices.iter().map(|choice| {
            let mut indices = choice.rows.clone();
            indices.sort_unstable();
            let indices = Tensor::from_vec(indices, choice.rows.len(), rows.device())?;
            exact.token_logits(&rows.index_select(&indices, 0)?, choice.label_token)?.to_vec1()
        });
        scores.collect()
    }

    /// The number of padding rows.
    pub fn padding(&self) -> usize {
        self.batch.segments.iter().filter(|&&segment| segment == PADDING).count()
    }
}

// === impl TargetRows ===

impl TargetRows {
    /// Adds the tokens with a weight of a lesson whose rows begin at `first`.
    fn add(&mut self, lesson: &Lesson, weights: &[f32], first: usize) {
        let targets = lesson.tokens.iter().zip(weights).skip(1).zip(first as u32..);
        for ((token, weight), row) in targets.filter(|((_, weight), _)| **weight != 0.0) {
            self.rows.push(row);
            self.tokens.push(*token);
            self.weights.push(*weight);
        }
    }

    fn token_targets(&self, normaliser: f64) -> TokenTargets<'_> {
        let Self { rows, tokens, weights, rollout } = self;
        TokenTargets { rows, targets: CrossEntropyTargets { tokens, weights, normaliser, rollout } }
    }
}

/// The normalisers of a step on these lessons.
pub fn normalisers<'a>(lessons: impl IntoIterator<Item = &'a Lesson>) -> LossNormalisers {
    let mut sum = LossNormalisers::default();
    lessons.into_iter().for_each(|lesson| sum += lesson.normalisers());
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
    fn every_epoch_has_each_lesson_once() {
        let orders = [1, 1, 2].map(|seed| {
            let mut order = LessonOrder::new(7, seed);
            (0..21).map(|position| order.lesson_at(position)).collect::<Vec<_>>()
        });
        assert_eq!(orders[0], orders[1]);
        assert_ne!(orders[0], orders[2]);
        for epoch in orders[0].chunks(7) {
            assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 7);
        }
        assert_ne!(orders[0][..7], orders[0][7..14]);
        // A position has the same lesson whichever positions were read before.
        assert_eq!(LessonOrder::new(7, 1).lesson_at(17), orders[0][17]);
    }

    #[test]
    fn batches_keep_the_budget_with_little_padding() {
        let lessons: Vec<Lesson> =
            (2..40).map(|length| Lesson::text(vec![1; length * 7 % 31 + 2])).collect();
        let all: Vec<&Lesson> = lessons.iter().collect();
        let batches = pack(&all, 64);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), lessons.len());
        let (mut rows, mut padding) = (0, 0);
        for batch in &batches {
            let batch = LessonBatch::new(batch);
            assert!(batch.batch.tokens.len() <= 64);
            rows += batch.batch.tokens.len();
            padding += batch.padding();
        }
        assert_eq!(rows - padding, lessons.iter().map(Lesson::total_tokens).sum::<usize>());
        assert!(padding * 10 < rows, "{padding} of {rows} rows are padding");
    }

    #[test]
    fn a_row_has_the_next_token_as_its_target() {
        let text = Lesson { sft_weights: vec![0.0, 0.0, 0.5], ..Lesson::text(vec![1, 2, 3]) };
        let mut trunk = Lesson::choice(vec![8, 9], choose());
        trunk.sft_weights = vec![0.0, 2.0];
        let written = Lesson::reinforced(vec![4, 5, 6], reinforce());
        let batch = LessonBatch::new(&[&trunk, &text, &written]);
        assert_eq!(batch.batch.length, 6);
        let [supervised, reinforced] = &batch.texts;
        assert_eq!((&*supervised.rows, &*supervised.tokens), (&[0, 7][..], &[9, 3][..]));
        assert_eq!((&*supervised.weights, supervised.rollout.len()), (&[2.0, 0.5][..], 0));
        // A token without an advantage is left out, whatever its log-probability.
        assert_eq!((&*reinforced.rows, &*reinforced.tokens), (&[13][..], &[6][..]));
        let ratio_bounds = [1.0 - 0.2, 1.0 + 0.28];
        assert_eq!(reinforced.weights, [-0.5]);
        assert_eq!(reinforced.rollout, [RolloutToken { old_logprob: -2.0, ratio_bounds }]);
        // The taken branch comes first.
        assert_eq!(batch.choices[0].rows, [5, 4, 3]);
        assert_eq!(batch.padding(), 6);
        let expected = LossNormalisers { sft_weights: 2.5, reinforce: 2.0, choices: 1.0 };
        assert_eq!(normalisers([&trunk, &text, &written]), expected);
    }

    #[test]
    fn a_malformed_lesson_is_named() {
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
        assert!(says(|l| l.sft_weights[0] = 1.0).contains("has no context"));
        assert_eq!(says(|l| l.sft_weights[1] = f32::NAN), "lesson 3: `sft_weights` holds NaN");
        assert!(says(|l| l.choose = None).contains("teaches nothing"));
        let written = |change: fn(&mut Reinforce)| {
            let mut reinforce = reinforce();
            change(&mut reinforce);
            let lesson = Lesson::reinforced(vec![1, 2, 3], reinforce);
            lesson.check(3, &config(), 10).unwrap_err().to_string()
        };
        let expected = "lesson 3: 3 tokens have 3 `advantages` and 2 `old_logprobs`";
        assert_eq!(written(|of| of.old_logprobs.truncate(2)), expected);
        assert!(written(|of| of.advantages[0] = 1.0).contains("has no context"));
        assert_eq!(written(|of| of.old_logprobs[1] = f32::NAN), "lesson 3: `reinforce` holds NaN");
        assert!(
            written(|of| of.clip_eps[0] = 1.0).contains("`clip_eps` is [1.0, 0.28], not from 0 on")
        );
        assert_eq!(written(|of| of.normaliser = 0.0), "lesson 3: `normaliser` is 0, not above 0");
        let with = |change: fn(&mut Choose)| {
            let mut choose = choose();
            change(&mut choose);
            let lesson = Lesson::choice(vec![1, 2], choose);
            lesson.check(3, &config(), 10).unwrap_err().to_string()
        };
        assert!(with(|c| c.branches.truncate(1)).contains("a choice needs two branches"));
        assert_eq!(with(|c| c.taken = 3), "lesson 3: `taken` is 3, and there are 3 branches");
        let limits = with(|c| c.label_token = 12);
        assert_eq!(limits, "lesson 3: `token` is 12, and `the highest token` is 11");
        let limits = with(|c| c.branches[0] = vec![1; 7]);
        assert_eq!(limits, "lesson 3: `tokens` is 11, and `max_batched_tokens` is 10");
        let long = Lesson::text(vec![1; 17]).check(0, &config(), 100).unwrap_err().to_string();
        assert_eq!(long, "lesson 0: `positions` is 17, and `positions_max` is 16");
    }
}
