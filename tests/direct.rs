//! The direct path gives the same logits in candle, in the service and in PyTorch, whatever the order of the candidates.
//! What does not fit it is refused by name, and it learns.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

#[path = "support/bundle.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod copies;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use copies::copied_bundle;
use raisonne::bundle::{Bundle, Manifest, Part};
use raisonne::nn::direct::{
    DIRECT_SLATE_MAX, DirectNetwork, DirectScratch, DirectShape, DirectSlateError, FusedDirect,
    Standardiser,
};
use raisonne::nn::simd::VectorLevel;
use raisonne::nn::{Weights, WeightsError};
use raisonne::scorer::features::direct_names;
use raisonne::scorer::{DirectFile, OpenedScorer, score_golden};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;

/// Tolerance between two implementations.
const TOLERANCE: f32 = 1e-5;

/// PyTorch's inputs and outputs.
struct Fixture {
    shape: DirectShape,
    slates: Vec<usize>,
    weights: Weights,
    rows: Vec<f32>,
    inputs: Vec<f32>,
    logits: Vec<f32>,
}

impl Fixture {
    fn read() -> Self {
        let bytes = include_bytes!("fixtures/direct/fixture.safetensors");
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let all = Weights::from_bytes(bytes).unwrap();
        let mut weights = Weights::default();
        for name in all.names() {
            if let Some(short) = name.strip_prefix("weights.") {
                weights.insert(short, all.dims(name).unwrap(), all.get(name).unwrap().to_vec());
            }
        }
        let values = |name: &str| all.get(name).unwrap().to_vec();
        Self {
            shape: serde_json::from_str(&metadata["shape"]).unwrap(),
            slates: serde_json::from_str(&metadata["slates"]).unwrap(),
            weights,
            rows: values("rows"),
            inputs: values("expected.inputs"),
            logits: values("expected.logits"),
        }
    }

    /// The rows of each slate.
    fn each(&self) -> impl Iterator<Item = &[f32]> {
        let mut rest = &self.rows[..];
        self.slates.iter().map(move |count| rest.split_off(..count * self.shape.inputs).unwrap())
    }

    fn standardiser(&self) -> Standardiser {
        let values = |name: &str| self.weights.get(name).unwrap();
        Standardiser::new(values("mean"), values("deviation"))
    }
}

fn served(fused: &FusedDirect, scratch: &mut DirectScratch, rows: &[f32]) -> Vec<f32> {
    let (mut logits, buffer) = (vec![7.0; 3], scratch.rows_mut());
    buffer.clear();
    buffer.extend_from_slice(rows);
    fused.score(scratch, &mut logits).unwrap();
    logits
}

/// The mean over the members' logits of inputs u, by candle.
fn trained(shape: &DirectShape, weights: &Weights, inputs: &[f32]) -> Vec<f32> {
    let tensors = weights.to_tensors(&Device::Cpu).unwrap();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let width = 2 * shape.inputs;
    let inputs = Tensor::from_slice(inputs, (inputs.len() / width, width), &Device::Cpu).unwrap();
    let member = |member| {
        let network = DirectNetwork::new(shape, &vb.pp(DirectShape::member(member))).unwrap();
        network.forward(&inputs).unwrap()
    };
    let all: Vec<Tensor> = (0..shape.members).map(member).collect();
    Tensor::stack(&all, 0).unwrap().mean(0).unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let apart = (got - expected).abs();
        assert!(apart <= TOLERANCE, "{what} {at}: {got} is not {expected}, {apart} apart");
    }
}

#[test]
fn candle_and_serving_equal_pytorch() {
    let of = Fixture::read();
    let standardiser = of.standardiser();
    let inputs: Vec<f32> = of.each().flat_map(|rows| standardiser.slate(rows)).collect();
    assert_close("input", &inputs, &of.inputs);
    assert_close("candle", &trained(&of.shape, &of.weights, &inputs), &of.logits);
    for level in VectorLevel::all_here() {
        let fused = FusedDirect::for_level(&of.weights, &of.shape, level).unwrap();
        let mut scratch = DirectScratch::default();
        let logits: Vec<f32> =
            of.each().flat_map(|rows| served(&fused, &mut scratch, rows)).collect();
        assert_close(level.as_str(), &logits, &of.logits);
    }
}

/// Weights of a shape, with means, deviations and members by a seed.
fn random(shape: &DirectShape, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = Weights::default();
    for (name, least) in [("mean", -1.0_f32), ("deviation", 0.1)] {
        let values = (0..shape.inputs).map(|_| rng.random_range(least..1.0)).collect();
        weights.insert(name, &[shape.inputs], values);
    }
    for member in 0..shape.members {
        let of_member = shape.random_member(seed + member as u64);
        weights.insert_all(&DirectShape::member(member), &of_member);
    }
    weights
}

fn random_rows(count: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count * inputs).map(|_| rng.random_range(-3.0_f32..3.0)).collect()
}

#[test]
fn serving_equals_candle_in_other_shapes_and_at_every_length() {
    for (at, shape) in [(1, 1, 1), (58, 64, 3), (3, 5, 2), (33, 17, 16), (512, 1_024, 1)]
        .map(|(inputs, hidden, members)| DirectShape { inputs, hidden, members })
        .into_iter()
        .enumerate()
    {
        let weights = random(&shape, at as u64);
        let values = |name: &str| weights.get(name).unwrap();
        let standardiser = Standardiser::new(values("mean"), values("deviation"));
        for level in VectorLevel::all_here() {
            let fused = FusedDirect::for_level(&weights, &shape, level).unwrap();
            let mut scratch = DirectScratch::default();
            for count in [0, 1, 4, 5, 6, 23] {
                let rows = random_rows(count, shape.inputs, 3);
                let expected = match count {
                    0 => Vec::new(),
                    _ => trained(&shape, &weights, &standardiser.slate(&rows)),
                };
                let what = format!("{shape:?}, {count} candidates, {}", level.as_str());
                assert_close(&what, &served(&fused, &mut scratch, &rows), &expected);
            }
        }
    }
}

#[test]
fn a_logit_does_not_depend_on_the_order_to_the_bit() {
    let shape = DirectShape { inputs: 58, hidden: 64, members: 3 };
    for level in VectorLevel::all_here() {
        let fused = FusedDirect::for_level(&random(&shape, 5), &shape, level).unwrap();
        let mut scratch = DirectScratch::default();
        for count in [2, 7, 100, 1_000] {
            let rows = random_rows(count, shape.inputs, count as u64);
            let before = served(&fused, &mut scratch, &rows);
            let mut order: Vec<usize> = (0..count).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
            let row = |at: usize| &rows[at * shape.inputs..][..shape.inputs];
            let shuffled: Vec<f32> = order.iter().flat_map(|&at| row(at)).copied().collect();
            let after = served(&fused, &mut scratch, &shuffled);
            for (&at, after) in order.iter().zip(after) {
                assert_eq!(before[at].to_bits(), after.to_bits(), "{} {at}", level.as_str());
            }
        }
    }
}

#[test]
fn the_scratch_grows_to_the_longest_slate_and_no_further() {
    let shape = DirectShape { inputs: 58, hidden: 64, members: 3 };
    let fused = FusedDirect::new(&random(&shape, 5), &shape).unwrap();
    let mut scratch = DirectScratch::default();
    served(&fused, &mut scratch, &random_rows(300, shape.inputs, 1));
    let bytes = scratch.bytes();
    for count in [1, 300, 0, 17, 299] {
        served(&fused, &mut scratch, &random_rows(count, shape.inputs, 2));
        assert_eq!(scratch.bytes(), bytes, "{count}");
    }
}

#[test]
fn a_slate_that_does_not_fit_is_refused_with_its_numbers() {
    let shape = DirectShape { inputs: 4, hidden: 8, members: 1 };
    let fused = FusedDirect::new(&random(&shape, 5), &shape).unwrap();
    let mut scratch = DirectScratch::default();
    for numbers in [1, 3, 7, 4 * DIRECT_SLATE_MAX + 1] {
        scratch.rows_mut().clear();
        scratch.rows_mut().resize(numbers, 0.5);
        let mut logits = vec![1.0, 2.0];
        let expected = DirectSlateError::Features { found: numbers, expected: 4 };
        assert_eq!(fused.score(&mut scratch, &mut logits), Err(expected));
        assert_eq!(logits, [1.0, 2.0], "unchanged");
    }
    let longest = random_rows(DIRECT_SLATE_MAX + 1, 4, 1);
    let logits = served(&fused, &mut scratch, &longest);
    assert!(logits.len() > DIRECT_SLATE_MAX && logits.iter().all(|logit| logit.is_finite()));
}

#[test]
fn numbers_that_are_not_finite_never_reach_a_logit() {
    let shape = DirectShape { inputs: 4, hidden: 8, members: 2 };
    let fused = FusedDirect::new(&random(&shape, 5), &shape).unwrap();
    let mut scratch = DirectScratch::default();
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE] {
        for place in 0..8 {
            let mut rows = random_rows(6, shape.inputs, 1);
            rows[place] = odd;
            let logits = served(&fused, &mut scratch, &rows);
            assert!(logits.iter().all(|logit| logit.is_finite()), "{odd} at {place}: {logits:?}");
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let shape = DirectShape { inputs: 4, hidden: 8, members: 2 };
    let good = random(&shape, 5);
    let with = |name: &str, dims: &[usize], value: f32| {
        let mut weights = good.clone();
        weights.insert(name, dims, vec![value; dims.iter().product()]);
        weights
    };
    let says = |weights: &Weights, shape: &DirectShape| {
        FusedDirect::new(weights, shape).unwrap_err().to_string()
    };
    for (name, dims) in shape.tensors() {
        for odd in [f32::NAN, f32::INFINITY] {
            let error = says(&with(&name, &dims, odd), &shape);
            assert_eq!(error, format!("tensor `{name}` has a value that is not finite"));
        }
        let mut longer = dims.clone();
        longer[0] += 1;
        let error = says(&with(&name, &longer, 0.5), &shape);
        let expected = format!("tensor `{name}` has dimensions {longer:?}, not {dims:?}");
        assert_eq!(error, expected);
    }
    let error = says(&with("deviation", &[4], -0.5), &shape);
    assert_eq!(error, "`deviation[0]` is -0.5, not at least 0");
    let more = DirectShape { members: 3, ..shape };
    assert_eq!(says(&good, &more), "tensor `members.2.linear.weight` is missing");
    let error = FusedDirect::new(&good, &DirectShape { hidden: 0, ..shape }).unwrap_err();
    assert!(matches!(error, WeightsError::Shape(_)), "{error}");
}

// === In a bundle ===

/// The demo bundle with a direct path of these inputs, after `change` of its section and its weights.
fn with_direct(
    home: &Path,
    inputs: &[&str],
    change: impl FnOnce(&mut DirectFile, &mut Weights),
) -> Result<OpenedScorer, String> {
    let dir = copied_bundle(home, "direct");
    let mut file = DirectFile {
        deep_weight: 0.5,
        hidden: 8,
        members: 2,
        inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
    };
    let mut weights = match file.inputs.len() {
        0 => Weights::default(),
        _ => random(&file.shape(), 11),
    };
    change(&mut file, &mut weights);
    let path = dir.join(Part::ScorerShape.file());
    let mut table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    table.insert("direct".into(), toml::Value::try_from(&file).unwrap());
    fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    fs::write(dir.join(Part::Direct.file()), weights.to_bytes().unwrap()).unwrap();
    open(&dir)
}

fn open(dir: &Path) -> Result<OpenedScorer, String> {
    Manifest::of(dir, "direct").unwrap().write(dir).unwrap();
    let opened = Bundle::open(dir).and_then(OpenedScorer::of);
    opened.map_err(|error| format!("{error:#}"))
}

#[test]
fn a_direct_path_is_added_to_the_deep_logits() {
    let homes = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let plain = open(&copied_bundle(homes[0].path(), "plain")).unwrap();
    plain.check_golden().unwrap();
    let inputs = ["sales", "trend", "price_rank"];
    let logits = |opened: &OpenedScorer| -> Vec<f32> {
        let mut scratch = opened.model.scratch();
        let all = opened.golden().iter();
        let all = all.map(|golden| score_golden(&opened.model, golden, &mut scratch).unwrap());
        all.flat_map(|scores| scores.logits).collect()
    };
    let deep = logits(&plain);
    let at = |home: &Path, weight: f32| {
        logits(&with_direct(home, &inputs, |file, _| file.deep_weight = weight).unwrap())
    };
    let (alone, half) = (at(homes[1].path(), 0.0), at(homes[2].path(), 0.5));
    for ((deep, alone), half) in deep.iter().zip(&alone).zip(&half) {
        assert_eq!((alone + 0.5 * deep).to_bits(), half.to_bits());
    }
    let distinct = alone.iter().filter(|&&logit| (logit - alone[0]).abs() > 1e-6).count();
    assert!(distinct > alone.len() / 2, "{alone:?}");
}

#[test]
fn a_direct_path_of_zeros_leaves_every_score_as_it_was_to_the_bit() {
    let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let plain = open(&copied_bundle(homes[0].path(), "plain")).unwrap();
    let names: Vec<&str> = direct_names().collect();
    let zeros = |file: &mut DirectFile, weights: &mut Weights| {
        file.deep_weight = 1.0;
        for (name, dims) in file.shape().tensors() {
            weights.insert(&name, &dims, vec![0.0; dims.iter().product()]);
        }
    };
    let zeros = with_direct(homes[1].path(), &names, zeros).unwrap();
    let (mut scratch, mut other) = (plain.model.scratch(), zeros.model.scratch());
    for golden in plain.golden() {
        let expected = score_golden(&plain.model, golden, &mut scratch).unwrap();
        let got = score_golden(&zeros.model, golden, &mut other).unwrap();
        let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got.logits), bits(&expected.logits));
        for row in 0..golden.items.len() {
            assert_eq!(bits(got.attention(row)), bits(expected.attention(row)));
        }
    }
}

#[test]
fn a_deep_network_without_weight_still_attends_to_the_reasons() {
    let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let plain = open(&copied_bundle(homes[0].path(), "plain")).unwrap();
    let alone = with_direct(homes[1].path(), &["sales"], |file, _| file.deep_weight = 0.0).unwrap();
    let (mut scratch, mut other) = (plain.model.scratch(), alone.model.scratch());
    let mut attended = 0.0;
    for golden in plain.golden() {
        let expected = score_golden(&plain.model, golden, &mut scratch).unwrap();
        let got = score_golden(&alone.model, golden, &mut other).unwrap();
        for row in 0..golden.items.len() {
            assert_eq!(got.attention(row), expected.attention(row));
            attended += got.attention(row).iter().sum::<f32>();
        }
    }
    assert!(attended > 0.0);
}

#[test]
fn a_bundle_whose_direct_path_does_not_fit_is_refused_by_name() {
    let says = |inputs: &[&str], change: &dyn Fn(&mut DirectFile, &mut Weights)| {
        let home = tempfile::tempdir().unwrap();
        with_direct(home.path(), inputs, change).unwrap_err()
    };
    let keep = |_: &mut DirectFile, _: &mut Weights| {};
    let two = ["sales", "trend"];
    let all: Vec<&str> = direct_names().collect();
    for (error, expected) in [
        (
            says(&["sales", "weather"], &keep),
            "scorer.toml can't be read: `direct.inputs[1]` is `weather`, which is no feature of this program",
        ),
        (
            says(&["sales", "trend", "sales"], &keep),
            "scorer.toml can't be read: `direct.inputs[2]` is `sales` again, which is `direct.inputs[0]`",
        ),
        (says(&[], &keep), "scorer.toml can't be read: `direct.inputs` is empty, expected 1 to"),
        (
            says(&two, &|file, _| _ = file.inputs.pop()),
            "direct.safetensors can't be read: tensor `mean` has dimensions [2], not [1]",
        ),
        (
            says(&two, &|file, _| file.inputs.push("purchases".into())),
            "direct.safetensors can't be read: tensor `mean` has dimensions [2], not [3]",
        ),
        (
            says(&two, &|file, _| file.hidden = 9),
            "direct.safetensors can't be read: tensor `members.0.hidden.weight` has dimensions [8, 4], not [9, 4]",
        ),
        (
            says(&two, &|file, _| file.members = 0),
            "direct.safetensors can't be read: `members` of the direct path is 0, not 1 to 16",
        ),
        (
            says(&two, &|_, weights| weights.insert("mean", &[2], vec![0.0, f32::NAN])),
            "direct.safetensors can't be read: tensor `mean` has a value that is not finite",
        ),
        (
            says(&two, &|file, _| file.deep_weight = f32::NAN),
            "scorer.toml can't be read: `direct.deep_weight` is NaN, expected 0 to 10",
        ),
        (
            says(&two, &|file, _| file.deep_weight = -0.25),
            "scorer.toml can't be read: `direct.deep_weight` is -0.25, expected 0 to 10",
        ),
    ] {
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    let home = tempfile::tempdir().unwrap();
    with_direct(home.path(), &all, keep).unwrap();
}

#[test]
fn a_section_and_its_weights_come_together() {
    let home = tempfile::tempdir().unwrap();
    with_direct(home.path(), &["sales"], |_, _| {}).unwrap();
    let dir = home.path().join("direct");
    let weights = fs::read(dir.join(Part::Direct.file())).unwrap();
    fs::remove_file(dir.join(Part::Direct.file())).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(
        error.contains("`direct` is a section, expected none without direct.safetensors"),
        "{error}"
    );
    let plain = copied_bundle(home.path(), "plain");
    fs::write(plain.join(Part::Direct.file()), weights).unwrap();
    let error = open(&plain).unwrap_err();
    assert!(
        error.contains("`direct` is missing, expected a section, for direct.safetensors"),
        "{error}"
    );
}
