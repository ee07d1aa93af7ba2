//! The Rechead gives the same scores in candle, in the service and in PyTorch, and all of it is trained.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

#[path = "rechead/published.rs"]
mod published;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use raisonne::nn::{
    PaperRechead, RecheadBatch, RecheadNetwork, RecheadScratch, RecheadShape, Weights, softmax_loss,
};
use std::collections::HashMap;

/// Tolerance between two implementations.
const TOLERANCE: f32 = 1e-5;

/// PyTorch's inputs and outputs.
struct Fixture {
    shape: RecheadShape,
    weights: Weights,
    batch: RecheadBatch,
    shoppers: Vec<f32>,
    scores: Vec<f32>,
}

impl Fixture {
    fn read() -> Self {
        let bytes = include_bytes!("fixtures/rechead/fixture.safetensors");
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        let shape = &header.metadata().as_ref().unwrap()["shape"];
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap();
        let mut weights = Weights::default();
        for (name, tensor) in &tensors {
            if let Some(name) = name.strip_prefix("weights.") {
                weights.insert(name, tensor.dims(), flat(tensor));
            }
        }
        let input = |name: &str| tensors[&format!("inputs.{name}")].clone();
        let batch = RecheadBatch {
            history: input("history"),
            thought: input("thought"),
            answer: input("answer"),
            answered: input("answered"),
            items: input("items"),
        };
        Self {
            shape: serde_json::from_str(shape).unwrap(),
            weights,
            batch,
            shoppers: flat(&tensors["expected.shoppers"]),
            scores: flat(&tensors["expected.scores"]),
        }
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn network(weights: &Weights, shape: &RecheadShape) -> RecheadNetwork {
    let tensors: HashMap<String, Tensor> = weights.to_tensors(&Device::Cpu).unwrap();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    RecheadNetwork::new(shape, &vb).unwrap()
}

/// (shoppers, scores) as the service computes them.
fn served(rechead: &PaperRechead, batch: &RecheadBatch) -> (Vec<f32>, Vec<f32>) {
    let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().unwrap();
    let (history, thought, answer) =
        (rows(&batch.history), rows(&batch.thought), rows(&batch.answer));
    let answered: Vec<f32> = batch.answered.to_vec1().unwrap();
    let items = batch.items.to_vec3::<f32>().unwrap();
    let mut room = RecheadScratch::default();
    let (mut shoppers, mut scores) = (Vec::new(), Vec::new());
    for at in 0..answered.len() {
        let answer = (answered[at] > 0.0).then_some(answer[at].as_slice());
        let shopper = rechead.shopper(&history[at], &thought[at], answer, &mut room);
        for text in &items[at] {
            let item = rechead.item(text, &mut room);
            scores.push(item.iter().zip(&shopper).map(|(a, b)| a * b).sum());
        }
        shoppers.extend(shopper);
    }
    (shoppers, scores)
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    // Scores are sums of many products: the tolerance grows with their size.
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let apart = (got - expected).abs() / scale;
        assert!(apart <= TOLERANCE, "{what} {at}: {got} is not {expected}, {apart} apart");
    }
}

#[test]
fn candle_and_serving_equal_pytorch() {
    let fixture = Fixture::read();
    let network = network(&fixture.weights, &fixture.shape);
    let shoppers = flat(&network.shoppers(&fixture.batch).unwrap());
    assert_close("candle's shopper", &shoppers, &fixture.shoppers);
    let scores = flat(&network.forward(&fixture.batch).unwrap());
    assert_close("candle's score", &scores, &fixture.scores);
    let rechead = PaperRechead::new(&fixture.weights, &fixture.shape).unwrap();
    let (shoppers, scores) = served(&rechead, &fixture.batch);
    assert_close("the served shopper", &shoppers, &fixture.shoppers);
    assert_close("the served score", &scores, &fixture.scores);
}

#[test]
fn every_variable_receives_a_gradient() {
    let fixture = Fixture::read();
    let variables = fixture.weights.to_varmap(&Device::Cpu).unwrap();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let scores = RecheadNetwork::new(&fixture.shape, &vb).unwrap().forward(&fixture.batch).unwrap();
    let loss = softmax_loss(&scores, &scores.ones_like().unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    for (name, variable) in variables.data().lock().unwrap().iter() {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} gets none"));
        let most = gradient.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let most: f32 = most.to_scalar().unwrap();
        // A key's bias adds a constant to a row's logits, which softmax cancels.
        assert!(most > 0.0, "{name} gets zeros");
    }
}

#[test]
fn a_thoughts_correction_is_bounded() {
    let fixture = Fixture::read();
    let mute = RecheadShape { gamma: 0.0, ..fixture.shape.clone() };
    let texts = [vec![0.3; 12], vec![-0.2; 12], vec![0.1; 12]];
    let shopper = |shape: &RecheadShape, thought: &[f32]| {
        let rechead = PaperRechead::new(&fixture.weights, shape).unwrap();
        rechead.shopper(&texts[0], thought, None, &mut RecheadScratch::default())
    };
    assert_eq!(shopper(&mute, &texts[1]), shopper(&mute, &texts[2]));
    assert_ne!(shopper(&fixture.shape, &texts[1]), shopper(&fixture.shape, &texts[2]));
}

#[test]
fn inconsistent_weights_and_sizes_are_named() {
    let fixture = Fixture::read();
    let wrong =
        |shape: RecheadShape| PaperRechead::new(&fixture.weights, &shape).unwrap_err().to_string();
    let odd = wrong(RecheadShape { heads: 5, ..fixture.shape.clone() });
    assert_eq!(odd, "`width` is 16, which `heads`, 5, does not divide");
    let loud = wrong(RecheadShape { gamma: 1.5, ..fixture.shape.clone() });
    assert_eq!(loud, "`gamma` is 1.5, and is to be in 0..=1");
    let wide = wrong(RecheadShape { text: 13, ..fixture.shape.clone() });
    assert!(wide.contains("history.project.weight"), "{wide}");
}
