//! The scorer on a GPU agrees with the CPU's. `scripts/cuda-check` runs these tests over an emulated device. It checks every
//! address, stride and launch, but no speed.

#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use raisonne::bench::{BenchCase, PreparedRows, PreparedSlate, SlateFill};
use raisonne::bundle::{Bundle, UserCard};
use raisonne::domain::{ItemText, UserId};
use raisonne::nn::cuda::{
    CudaScorer, CudaScorerError, CudaScorerLimits, CudaScorerTables, CudaScores, CudaSlate,
};
use raisonne::nn::{
    Ablation, CandidateRow, DinShape, FusedDin, FusedScores, FusedShapeError, FusedSlate, ItemRef,
    MASKED_OVERLAP, Weights,
};
use raisonne::scorer::features::direct_names;
use raisonne::scorer::{
    self, DirectFile, DirectScorer, GpuLimits, OpenedScorer, ScoreRequest, ScorerFile, ScorerModel,
    SlateItem,
};
use raisonne::telemetry::Metrics;
use raisonne::worker;
use std::collections::HashMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest difference from the CPU's number, relative to the greatest of its kind.
const TOLERANCE: f32 = 1e-5;
/// The variable that names the file in which an emulated device counts calls.
const CALLS: &str = "EMULATED_CALLS";
/// Limits that are large enough for these tests.
const ROOMY: CudaScorerLimits = CudaScorerLimits {
    slates_max: 16,
    candidates_max: 300,
    rows_max: 600,
    items_max: 600,
    cards_max: 300,
};

/// One test at a time: an emulated device has one thread, and its counts are global.
static DEVICE: Mutex<()> = Mutex::new(());

fn device() -> MutexGuard<'static, ()> {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn full_size() -> DinShape {
    DinShape { items: 80, ..DinShape::default() }
}

/// A network on CPU and GPU, and slates that share its tables.
struct Both {
    fused: Arc<FusedDin>,
    scorer: CudaScorer,
    slates: Vec<PreparedSlate>,
}

impl Both {
    fn of(case: &BenchCase, bounds: CudaScorerLimits) -> Self {
        let fused = Arc::new(FusedDin::new(&case.weights, &case.shape).unwrap());
        let slates = case.prepare_all(&fused, 0..case.sizes().0).unwrap();
        let (items, reasons) = (slates[0].items.clone(), slates[0].reasons.clone());
        let tables = CudaScorerTables { items, reasons, rechead_items: [].into() };
        let scorer = CudaScorer::load(fused.clone(), tables, bounds, 0).unwrap();
        Self { fused, scorer, slates }
    }

    fn random(
        shape: &DinShape,
        seed: u64,
        sizes: (usize, usize),
        bounds: CudaScorerLimits,
    ) -> Self {
        Self::of(&BenchCase::random(shape, seed, sizes, SlateFill::Ragged).unwrap(), bounds)
    }

    fn lent(slates: &[PreparedSlate]) -> Vec<PreparedRows<'_>> {
        slates.iter().map(PreparedSlate::rows).collect()
    }

    /// Compares the scores of all slates.
    #[track_caller]
    fn check(&mut self) {
        let lent = Self::lent(&self.slates);
        let slates: Vec<FusedSlate<'_>> = lent.iter().map(PreparedRows::slate).collect();
        check(&self.fused, &mut self.scorer, &slates);
    }
}

fn on_gpu(scorer: &mut CudaScorer, slates: &[FusedSlate<'_>]) -> Vec<FusedScores> {
    let jobs: Vec<CudaSlate<'_>> =
        slates.iter().map(|&slate| CudaSlate { slate, shopper: &[] }).collect();
    let mut done: Vec<CudaScores> = slates.iter().map(|_| CudaScores::default()).collect();
    scorer.score(&jobs, &mut done).unwrap();
    done.into_iter().map(|done| done.scores).collect()
}

#[track_caller]
fn check(fused: &FusedDin, scorer: &mut CudaScorer, slates: &[FusedSlate<'_>]) {
    for (at, (found, slate)) in on_gpu(scorer, slates).iter().zip(slates).enumerate() {
        let mut right = FusedScores::default();
        fused.score(slate, &mut fused.scratch(), &mut right).unwrap();
        let kinds = [(&found.logits, &right.logits), (&found.attention, &right.attention)];
        for (kind, (found, right)) in ["logit", "attention"].into_iter().zip(kinds) {
            assert_eq!(found.len(), right.len());
            let most = right.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
            for (row, (found, right)) in found.iter().zip(right).enumerate() {
                let near = (found - right).abs() <= TOLERANCE * most;
                assert!(near, "{kind} {row} of slate {at} is {found}, not {right}");
            }
        }
    }
}

#[test]
fn a_batch_has_the_scores_of_the_cpu() {
    let _device = device();
    let fixture = include_bytes!("fixtures/din/fixture.safetensors");
    Both::of(&BenchCase::read(fixture).unwrap(), ROOMY).check();
    // Every length of histories and lists of reasons, unknown items, missing patterns.
    for (seed, sizes) in [(16, 3), (5, 21), (1, 100)].into_iter().enumerate() {
        Both::random(&full_size(), seed as u64, sizes, ROOMY).check();
    }
    Both::of(&BenchCase::random(&full_size(), 9, (2, 23), SlateFill::Full).unwrap(), ROOMY).check();
}

#[test]
fn other_shapes_and_ablations_have_the_scores_of_the_cpu() {
    let _device = device();
    let odd = DinShape {
        items: 9,
        width: 22,
        text: 130,
        heads: 1,
        layers: 0,
        attention: [33, 5],
        head: [41, 3],
        features: 31,
        history: 13,
        ..DinShape::default()
    };
    let shapes = Ablation::each().map(|ablation| DinShape { ablation, ..full_size() });
    for shape in shapes.into_iter().chain([odd]) {
        Both::random(&shape, 3, (4, 6), ROOMY).check();
    }
}

fn demo() -> OpenedScorer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    OpenedScorer::of(Bundle::open(&dir).unwrap()).unwrap()
}

#[test]
fn the_demo_has_the_scores_of_the_cpu() {
    let _device = device();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let file: ScorerFile =
        toml::from_str(&fs::read_to_string(demo.join("scorer.toml")).unwrap()).unwrap();
    let weights = Weights::from_bytes(&fs::read(demo.join("scorer.safetensors")).unwrap()).unwrap();
    let mut case = BenchCase::random(&file.shape, 11, (6, 17), SlateFill::Ragged).unwrap();
    case.weights = weights;
    Both::of(&case, ROOMY).check();
}

#[test]
fn the_demo_s_golden_requests_pass() {
    let _device = device();
    let opened = demo();
    let limits = GpuLimits { ordinal: 0, pairs_min: 1, rows_max: 100 };
    opened.check_golden_on(&mut opened.model.on_gpu(limits, 4).unwrap()).unwrap();
}

/// The demo's model with a direct path and this weight of the deep network.
fn with_direct(deep_weight: f32) -> ScorerModel {
    let inputs = direct_names().map(str::to_owned).collect();
    let file = DirectFile { deep_weight, hidden: 8, members: 2, inputs };
    let direct = DirectScorer::new(&file.shape().random(3), &file).unwrap();
    Arc::into_inner(demo().model).unwrap().with_direct(Arc::new(direct))
}

#[test]
fn large_slates_are_served_from_a_gpu() {
    let _device = device();
    serves_large_slates(&demo().model);
    for deep_weight in [0.5, 0.0] {
        serves_large_slates(&Arc::new(with_direct(deep_weight)));
    }
}

fn serves_large_slates(model: &Arc<ScorerModel>) {
    let one = NonZeroUsize::MIN;
    let many = NonZeroUsize::new(64).unwrap();
    let gpu = GpuLimits { ordinal: 0, pairs_min: 200, rows_max: 300 };
    let slates = worker::InboxLimits { waiting_max: many, batch_max: many };
    let limits = scorer::ScorerLimits { threads: one, slates, gpu: Some(gpu) };
    let on_gpu = model.on_gpu(gpu, 64).unwrap();
    let scorer = scorer::Scorer::start(model, Some(on_gpu), limits, &Arc::new(Metrics::new()));
    let inline = || {
        let text = ItemText { title: "A blue teapot".into(), ..ItemText::default() };
        SlateItem::Inline { text, number: None, price: None }
    };
    let request = |(at, (user, card)): (usize, (&UserId, &Arc<UserCard>))| {
        let count = if at % 4 == 0 { 1 } else { 30 };
        let known = (0..count).map(|row| SlateItem::Known((at as u32 * 31 + row * 7) % 3_000));
        let entries: Vec<SlateItem> = known.chain([inline()]).collect();
        let (user, card) = (user.clone(), card.clone());
        ScoreRequest {
            user,
            now: 1_500_000_000,
            card,
            counts: None,
            live: None,
            query: None,
            items: entries.into(),
        }
    };
    let requests: Vec<ScoreRequest> =
        model.cards.users.iter().take(12).enumerate().map(request).collect();
    let before = calls();
    let replies = requests.iter().map(|request| scorer.score(request.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let replies = runtime.block_on(futures_util::future::join_all(replies));
    if let Some((before, after)) = before.zip(calls()) {
        assert!(after["score_candidates"] > before.get("score_candidates").copied().unwrap_or(0));
    }
    let mut scratch = model.scratch();
    for (request, reply) in requests.iter().zip(replies) {
        let right = model.score(&request.slate(), &mut scratch);
        let found = reply.unwrap().scores;
        let rows = found.logits.iter().zip(&right.logits);
        let rows = rows.chain(found.rechead.iter().zip(&right.rechead));
        for (found, right) in rows {
            assert!((found - right).abs() < 1e-4, "{found} is not {right}");
        }
        assert_eq!(found.rechead.len(), right.rechead.len());
        for row in 0..request.items.len() {
            let rows = found.attention(row).iter().zip(right.attention(row));
            assert!(rows.into_iter().all(|(found, right)| (found - right).abs() < 1e-4));
        }
    }
}

#[test]
fn missing_and_masked_inputs_count_as_on_the_cpu() {
    let _device = device();
    let mut both =
        Both::of(&BenchCase::random(&full_size(), 4, (1, 9), SlateFill::Full).unwrap(), ROOMY);
    let lent = Both::lent(&both.slates);
    let slate = lent[0].slate();
    let mut left_out = [0.5; 10];
    left_out[0] = MASKED_OVERLAP;
    left_out[7] = MASKED_OVERLAP;
    let inline = both.fused.item_inline(&[0.3; 64]).unwrap();
    let candidates: Vec<CandidateRow<'_>> = (0..)
        .zip(slate.candidates)
        .map(|(row, candidate)| match row % 3 {
            0 => CandidateRow { overlap: &left_out, ..candidate.clone() },
            1 => CandidateRow { reasons: 0..0, overlap: &[], ..candidate.clone() },
            _ => CandidateRow { item: ItemRef::Inline(&inline), ..candidate.clone() },
        })
        .collect();
    let odd = FusedSlate { candidates: &candidates, ..slate };
    let new = FusedSlate { history: &[], pattern: None, ..odd };
    let one = FusedSlate { history: &slate.history[..1], ..slate };
    let nothing = FusedSlate { candidates: &[], ..slate };
    check(&both.fused, &mut both.scorer, &[odd, nothing, new, one, slate]);
    check(&both.fused, &mut both.scorer, &[]);
}

#[test]
fn evicted_rows_come_back() {
    let _device = device();
    // Fewer slots than one slate has items, and than all slates have cards: nearly every batch uploads and evicts some.
    let bounds = CudaScorerLimits { items_max: 60, cards_max: 7, ..ROOMY };
    let mut both = Both::random(&full_size(), 5, (12, 15), bounds);
    for _ in 0..2 {
        both.check();
    }
}

#[test]
fn slates_beyond_a_batch_become_several_batches() {
    let _device = device();
    let case = BenchCase::random(&full_size(), 6, (7, 23), SlateFill::Ragged).unwrap();
    let small = |bounds| Both::of(&case, bounds).check();
    small(CudaScorerLimits { slates_max: 2, ..ROOMY });
    small(CudaScorerLimits { candidates_max: 11, ..ROOMY });
    small(CudaScorerLimits { rows_max: 51, ..ROOMY });
    small(CudaScorerLimits {
        slates_max: 1,
        candidates_max: 1,
        rows_max: 51,
        items_max: 51,
        cards_max: 1,
    });
}

#[test]
fn other_slates_of_a_batch_change_nothing() {
    let _device = device();
    let mut both = Both::random(&full_size(), 7, (6, 22), ROOMY);
    let lent = Both::lent(&both.slates);
    let slates: Vec<FusedSlate<'_>> = lent.iter().map(PreparedRows::slate).collect();
    let together = on_gpu(&mut both.scorer, &slates);
    let mut backwards: Vec<FusedSlate<'_>> = slates.clone();
    backwards.reverse();
    let mut reversed = on_gpu(&mut both.scorer, &backwards);
    reversed.reverse();
    for (at, slate) in slates.iter().enumerate() {
        let alone = on_gpu(&mut both.scorer, std::slice::from_ref(slate)).remove(0);
        assert_eq!(alone.logits, together[at].logits);
        assert_eq!(alone.logits, reversed[at].logits);
        assert_eq!(alone.attention, together[at].attention);
        // Candidates one by one.
        for (row, candidate) in slate.candidates.iter().enumerate().step_by(5) {
            let slate = FusedSlate { candidates: std::slice::from_ref(candidate), ..*slate };
            assert_eq!(on_gpu(&mut both.scorer, &[slate])[0].logits, [alone.logits[row]]);
        }
    }
}

#[test]
fn the_rechead_scores_shoppers_and_items() {
    let _device = device();
    let case = BenchCase::random(&full_size(), 8, (3, 12), SlateFill::Ragged).unwrap();
    let fused = Arc::new(FusedDin::new(&case.weights, &case.shape).unwrap());
    let slates = case.prepare_all(&fused, 0..3).unwrap();
    let (width, count) = (40, slates[0].items.len());
    let number = |at: usize| (at as f32 * 0.7).sin();
    let rechead_items: Arc<[f32]> = (0..count * width).map(number).collect();
    let tables = CudaScorerTables {
        items: slates[0].items.clone(),
        reasons: slates[0].reasons.clone(),
        rechead_items: rechead_items.clone(),
    };
    let mut scorer = CudaScorer::load(fused, tables, ROOMY, 0).unwrap();
    let shoppers: Vec<f32> = (0..2 * width).map(|at| number(at + 5)).collect();
    let (one, other) = shoppers.split_at(width);
    let lent = Both::lent(&slates);
    let jobs: Vec<CudaSlate<'_>> = lent
        .iter()
        .zip([one, &[], other])
        .map(|(lent, shopper)| CudaSlate { slate: lent.slate(), shopper })
        .collect();
    let mut done = [CudaScores::default(), CudaScores::default(), CudaScores::default()];
    scorer.score(&jobs, &mut done).unwrap();
    for (job, done) in jobs.iter().zip(&done) {
        for (candidate, found) in job.slate.candidates.iter().zip(&done.rechead) {
            let item = match candidate.item {
                ItemRef::Row(row) => &rechead_items[row as usize * width..][..width],
                ItemRef::Inline(_) => &[],
            };
            let right: f32 = job.shopper.iter().zip(item).map(|(a, b)| a * b).sum();
            assert!((found - right).abs() < 1e-4, "{found} is not {right}");
        }
    }
    let short = CudaSlate { shopper: &one[1..], ..jobs[0] };
    assert!(matches!(scorer.score(&[short], &mut done), Err(CudaScorerError::Shopper)));
}

#[test]
fn slates_of_another_network_are_refused() {
    let _device = device();
    let case = BenchCase::random(&full_size(), 10, (1, 3), SlateFill::Full).unwrap();
    let mut both = Both::of(&case, ROOMY);
    let others = case.prepare(&both.fused, 0).unwrap();
    let other = others.rows();
    let jobs = [CudaSlate { slate: other.slate(), shopper: &[] }];
    let refused = both.scorer.score(&jobs, &mut [CudaScores::default()]);
    assert!(matches!(refused, Err(CudaScorerError::Misfit(FusedShapeError::Tables))));
    let lent = both.slates[0].rows();
    let unknown = CandidateRow { item: ItemRef::Row(80), ..lent.slate().candidates[0].clone() };
    let slate = FusedSlate { candidates: &[unknown], ..lent.slate() };
    let refused =
        both.scorer.score(&[CudaSlate { slate, shopper: &[] }], &mut [CudaScores::default()]);
    assert!(matches!(refused, Err(CudaScorerError::Misfit(FusedShapeError::Item))));
    let load = |shape: &DinShape, bounds| {
        let case = BenchCase::random(shape, 1, (1, 1), SlateFill::Full).unwrap();
        let fused = Arc::new(FusedDin::new(&case.weights, shape).unwrap());
        let slate = case.prepare(&fused, 0).unwrap();
        let tables = CudaScorerTables {
            items: slate.items,
            reasons: slate.reasons,
            rechead_items: [].into(),
        };
        CudaScorer::load(fused, tables, bounds, 0).unwrap_err()
    };
    let wide = DinShape { attention: [32, 17], ..full_size() };
    assert!(matches!(load(&wide, ROOMY), CudaScorerError::Attention(17)));
    let few = CudaScorerLimits { rows_max: 50, ..ROOMY };
    assert!(matches!(load(&full_size(), few), CudaScorerError::Limits));
}

/// The calls that an emulated device has counted.
fn calls() -> Option<HashMap<String, u64>> {
    let text = fs::read_to_string(std::env::var_os(CALLS)?).unwrap();
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    Some(lines.map(|(name, count)| (name.to_owned(), count.parse().unwrap())).collect())
}

#[test]
fn a_batch_takes_one_upload_two_launches_one_download_and_no_memory() {
    let _device = device();
    let case = BenchCase::random(&full_size(), 12, (8, 20), SlateFill::Full).unwrap();
    let mut both = Both::of(&case, ROOMY);
    let lent = Both::lent(&both.slates);
    let slates: Vec<FusedSlate<'_>> = lent.iter().map(PreparedRows::slate).collect();
    let mut asked = || {
        let before = calls()?;
        on_gpu(&mut both.scorer, &slates);
        let after = calls()?;
        let of = move |name: &str| {
            after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0)
        };
        Some(of)
    };
    // Only the first batch uploads rows.
    for places in [2, 0, 0] {
        let Some(count) = asked() else { return };
        assert_eq!((count("write_rows"), count("launch")), (places, 2 + places));
        assert_eq!((count("encode_histories"), count("score_candidates")), (1, 1));
        assert_eq!((count("cuMemcpyHtoD"), count("cuMemcpyDtoH")), (1, 1));
        assert_eq!((count("cuMemAlloc"), count("cuMemset"), count("cuMemFree")), (0, 0, 0));
        assert_eq!(count("cuStreamSynchronize"), 1);
    }
}
