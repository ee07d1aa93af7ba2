//! The scorer's network gives the same scores in candle, in the service and in PyTorch, and all of it is trained.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use raisonne::bench::{BenchCase, SlateFill};
use raisonne::nn::simd::VectorLevel;
use raisonne::nn::{
    Ablation, CandidateRow, Din, DinShape, Dropout, FusedDin, FusedScores, FusedShapeError,
    FusedSlate, bce_loss, softmax_loss,
};
use raisonne::scorer::network_shape;
use rand::SeedableRng;

/// Tolerance between two implementations.
const TOLERANCE: f32 = 1e-5;

fn full_size() -> DinShape {
    network_shape(200)
}

/// (logits, attention) of all slates by candle.
fn candle(case: &BenchCase) -> (Vec<f32>, Vec<f32>) {
    let tensors = case.weights.to_tensors(&Device::Cpu).unwrap();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let scored = Din::new(&case.shape, &vb).unwrap().forward(&case.batch().unwrap()).unwrap();
    let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    (flat(scored.logits), flat(scored.attention))
}

/// (logits, attention) of all slates by the fused network.
fn served(case: &BenchCase, fused: &FusedDin) -> (Vec<f32>, Vec<f32>) {
    let (mut logits, mut attention) = (Vec::new(), Vec::new());
    for slate in 0..case.sizes().0 {
        let scores = case.score(fused, slate).unwrap();
        logits.extend(scores.logits);
        attention.extend(scores.attention);
    }
    (logits, attention)
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let apart = (got - expected).abs();
        assert!(apart <= TOLERANCE, "{what} {at}: {got} is not {expected}, {apart} apart");
    }
}

/// The fused scorer gives the numbers of candle at every level of vector registers.
#[track_caller]
fn check(case: &BenchCase) {
    let (logits, attention) = candle(case);
    for level in VectorLevel::all_here() {
        let fused = FusedDin::for_level(&case.weights, &case.shape, level).unwrap();
        let (name, got) = (level.as_str(), served(case, &fused));
        assert_close(&format!("{name} logit"), &got.0, &logits);
        assert_close(&format!("{name} attention"), &got.1, &attention);
    }
}

#[test]
fn candle_and_serving_equal_pytorch() {
    let case = BenchCase::read(include_bytes!("fixtures/din/fixture.safetensors")).unwrap();
    let expected = |name| case.expected.get(name).unwrap();
    let (logits, attention) = candle(&case);
    assert_close("logit", &logits, expected("logits"));
    assert_close("attention", &attention, expected("attention"));
    check(&case);
}

#[test]
fn serving_equals_candle_at_every_length() {
    for (seed, sizes) in [(60, 1), (12, 2), (8, 7), (2, 100), (1, 1_000)].into_iter().enumerate() {
        check(&BenchCase::random(&full_size(), seed as u64, sizes, SlateFill::Ragged).unwrap());
    }
    check(&BenchCase::random(&full_size(), 9, (1, 7), SlateFill::Full).unwrap());
}

#[test]
fn serving_equals_candle_in_other_shapes_and_ablations() {
    let odd = DinShape {
        items: 9,
        width: 24,
        text: 10,
        heads: 1,
        layers: 0,
        attention: [33, 5],
        head: [40, 3],
        features: 30,
        history: 13,
        ..DinShape::default()
    };
    let shapes = Ablation::each().map(|ablation| DinShape { ablation, ..full_size() });
    for shape in shapes.into_iter().chain([odd]) {
        check(&BenchCase::random(&shape, 3, (6, 6), SlateFill::Ragged).unwrap());
    }
}

/// Calls `use_them` with a network and the first slate of a case.
fn with_slate<T>(use_them: impl FnOnce(&FusedDin, &FusedSlate<'_>) -> T) -> T {
    let case = BenchCase::random(&full_size(), 5, (1, 23), SlateFill::Ragged).unwrap();
    let fused = FusedDin::new(&case.weights, &case.shape).unwrap();
    case.prepare(&fused, 0).unwrap().with_slate(|slate| use_them(&fused, slate))
}

#[test]
fn a_candidate_scores_the_same_alone_and_in_any_order() {
    with_slate(|fused, slate| {
        let score = |candidates: &[CandidateRow<'_>]| {
            let mut scores = FusedScores::default();
            let slate = FusedSlate { candidates, ..*slate };
            fused.score(&slate, &mut fused.scratch(), &mut scores).unwrap();
            scores
        };
        let together = score(slate.candidates);
        let mut reversed = slate.candidates.to_vec();
        reversed.reverse();
        let mut backwards = score(&reversed).logits;
        backwards.reverse();
        assert_eq!(backwards, together.logits);
        for (at, candidate) in slate.candidates.iter().enumerate() {
            let alone = score(std::slice::from_ref(candidate));
            assert_eq!(alone.logits, [together.logits[at]]);
            assert_eq!(alone.attention, together.attention[at * 10..(at + 1) * 10]);
        }
    });
}

#[test]
fn a_used_scratch_changes_nothing_and_nothing_grows() {
    let shape = full_size();
    let large = BenchCase::random(&shape, 6, (1, 40), SlateFill::Full).unwrap();
    let fused = FusedDin::new(&large.weights, &shape).unwrap();
    let (mut scratch, mut scores) = (fused.scratch(), FusedScores::default());
    large.prepare(&fused, 0).unwrap().with_slate(|slate| {
        fused.score(slate, &mut scratch, &mut scores).unwrap();
    });
    let (logits, attention) = (scores.logits.as_ptr(), scores.attention.as_ptr());
    let bytes = scratch.bytes();
    let small = BenchCase::random(&shape, 7, (20, 11), SlateFill::Ragged).unwrap();
    for slate in 0..20 {
        let fresh = small.score(&fused, slate).unwrap();
        small.prepare(&fused, slate).unwrap().with_slate(|slate| {
            fused.score(slate, &mut scratch, &mut scores).unwrap();
        });
        assert_eq!(scores.logits, fresh.logits);
        assert_eq!(scores.attention, fresh.attention);
    }
    assert_eq!((scores.logits.as_ptr(), scores.attention.as_ptr()), (logits, attention));
    assert_eq!(scratch.bytes(), bytes);
}

#[test]
fn a_slate_that_does_not_fit_is_refused() {
    with_slate(|fused, slate| {
        let says = |slate: &FusedSlate<'_>| {
            fused.score(slate, &mut fused.scratch(), &mut FusedScores::default()).unwrap_err()
        };
        let with = |change: &dyn Fn(&mut CandidateRow<'_>)| {
            let mut candidates = slate.candidates.to_vec();
            change(&mut candidates[1]);
            says(&FusedSlate { candidates: &candidates, ..*slate })
        };
        let beyond = u32::try_from(slate.items.len()).unwrap();
        assert_eq!(
            with(&|row| row.item = raisonne::nn::ItemRef::Row(beyond)),
            FusedShapeError::Item
        );
        assert_eq!(
            with(&|row| row.item = raisonne::nn::ItemRef::Row(u32::MAX)),
            FusedShapeError::Item
        );
        assert_eq!(with(&|row| row.features = &[]), FusedShapeError::Features);
        assert_eq!(with(&|row| row.overlap = &[0.0; 11]), FusedShapeError::Reasons);
        let past = u32::try_from(slate.reasons.len()).unwrap();
        assert_eq!(
            with(&|row| (row.reasons, row.overlap) = (past..past + 1, &[0.0])),
            FusedShapeError::Reasons
        );
        assert_eq!(says(&FusedSlate { pattern: Some(&[0.0]), ..*slate }), FusedShapeError::Text);
        assert_eq!(fused.item_inline(&[0.0; 65]).unwrap_err(), FusedShapeError::Text);
        let mut event = slate.history[0];
        assert_eq!(says(&FusedSlate { history: &[event; 51], ..*slate }), FusedShapeError::History);
        event.kind = 5;
        assert_eq!(says(&FusedSlate { history: &[event], ..*slate }), FusedShapeError::Event);
    });
}

#[test]
fn every_variable_is_trained() {
    let case = BenchCase::random(&full_size(), 4, (12, 5), SlateFill::Ragged).unwrap();
    let vars = case.weights.to_varmap(&Device::Cpu).unwrap();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let din = Din::new(&case.shape, &vb).unwrap();
    let mut dropout = Dropout { rate: 0.1, rng: SeedableRng::seed_from_u64(1) };
    let logits = din.forward_train(&case.batch().unwrap(), &mut dropout).unwrap().logits;
    let ones = logits.ones_like().unwrap();
    for loss in [softmax_loss(&logits, &ones), bce_loss(&logits, &ones, &ones)] {
        let gradients = loss.unwrap().backward().unwrap();
        for (name, var) in vars.data().lock().unwrap().iter() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("`{name}` has no gradient"));
            let total: f32 = gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(total > 0.0 && total.is_finite(), "the gradient of `{name}` sums to {total}");
        }
    }
}
