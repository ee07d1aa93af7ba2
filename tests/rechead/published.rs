//! The published wiring: forward pass and gradients as in PyTorch, in candle and in the service.

use super::{assert_close, flat};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use raisonne::nn::token_table::{StepSize, TrainedTable, distinct_tokens, token_shares};
use raisonne::nn::{
    PublishedNetwork, PublishedRechead, RecheadBatch, RecheadScratch, RecheadShape, RecheadTokens,
    Weights, softmax_loss,
};
use std::collections::HashMap;

/// The texts that have a table, in the order of [`RecheadShape::table`].
const TEXTS: [&str; 3] = ["history", "thought", "answer"];

/// PyTorch's inputs and outputs.
struct Fixture {
    shape: RecheadShape,
    tensors: HashMap<String, Tensor>,
    weights: Weights,
    /// The tokens of each shopper's text, for each of [`TEXTS`].
    tokens: [Vec<Vec<u32>>; 3],
}

impl Fixture {
    fn read() -> Self {
        let bytes = include_bytes!("../fixtures/rechead/published.safetensors");
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        let shape = &header.metadata().as_ref().unwrap()["shape"];
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap();
        let mut weights = Weights::default();
        for (name, tensor) in &tensors {
            if let Some(name) = name.strip_prefix("weights.") {
                weights.insert(name, tensor.dims(), flat(tensor));
            }
        }
        let tokens = TEXTS.map(|text| texts(&tensors, text));
        Self { shape: serde_json::from_str(shape).unwrap(), tensors, weights, tokens }
    }

    fn input(&self, name: &str) -> Tensor {
        self.tensors[&format!("inputs.{name}")].clone()
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        flat(&self.tensors[name])
    }

    fn table(&self, text: usize) -> TrainedTable {
        let values = self.weights.get(&RecheadShape::table(text)).unwrap();
        TrainedTable::new(values.to_vec(), self.shape.width)
    }
}

/// Texts that lie one after the other, from where each begins.
fn texts(tensors: &HashMap<String, Tensor>, name: &str) -> Vec<Vec<u32>> {
    let numbers = |name: String| -> Vec<u32> {
        tensors[&name].to_dtype(DType::U32).unwrap().to_vec1().unwrap()
    };
    let all = numbers(format!("inputs.{name}"));
    let begins = numbers(format!("inputs.{name}_begins"));
    let ends = begins[1..].iter().copied().chain([all.len() as u32]);
    begins.iter().zip(ends).map(|(&from, to)| all[from as usize..to as usize].to_vec()).collect()
}

#[test]
fn candle_equals_pytorch_with_its_gradients() {
    let fixture = Fixture::read();
    let variables = {
        let mut network = Weights::default();
        for (name, dims) in fixture.shape.network_tensors() {
            network.insert(&name, &dims, fixture.weights.get(&name).unwrap().to_vec());
        }
        network.to_varmap(&Device::Cpu).unwrap()
    };
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let network = PublishedNetwork::new(&fixture.shape, &vb).unwrap();
    let mut leaves = Vec::new();
    let encoded = [0, 1, 2].map(|text| {
        let texts: Vec<&[u32]> = fixture.tokens[text].iter().map(Vec::as_slice).collect();
        let tokens = distinct_tokens(&texts);
        let leaf = fixture.table(text).leaf(&tokens).unwrap();
        let encoded = token_shares(&texts, &tokens).unwrap().matmul(&leaf).unwrap();
        leaves.push((tokens, leaf));
        encoded
    });
    let [history, thought, answer] = encoded;
    let (answered, items) = (fixture.input("answered"), fixture.input("items"));
    let batch = RecheadBatch { history, thought, answer, answered, items };
    let shoppers = flat(&network.shoppers(&batch, None).unwrap());
    assert_close("the shopper", &shoppers, &fixture.expected("expected.shoppers"));
    let scores = network.forward(&batch, None).unwrap();
    assert_close("the score", &flat(&scores), &fixture.expected("expected.scores"));
    let loss = softmax_loss(&scores, &scores.ones_like().unwrap()).unwrap();
    let loss_is = flat(&loss.unsqueeze(0).unwrap());
    assert_close("the loss", &loss_is, &fixture.expected("expected.loss"));

    let gradients = loss.backward().unwrap();
    for (name, variable) in variables.data().lock().unwrap().iter() {
        let found = flat(gradients.get(variable).unwrap_or_else(|| panic!("{name} gets none")));
        let expected = fixture.expected(&format!("gradients.{name}"));
        assert_close(&format!("the gradient of {name}"), &found, &expected);
    }
    for (text, (tokens, leaf)) in leaves.iter().enumerate() {
        let name = RecheadShape::table(text);
        let expected = fixture.expected(&format!("gradients.{name}"));
        let mut found = vec![0.0; expected.len()];
        let of_rows = flat(gradients.get(leaf).unwrap());
        let width = fixture.shape.width;
        for (&token, row) in tokens.iter().zip(of_rows.chunks_exact(width)) {
            found[token as usize * width..][..width].copy_from_slice(row);
        }
        assert_close(&format!("the gradient of {name}"), &found, &expected);
        // A step moves against the gradient, and the rows of other tokens stay.
        let (before, mut table) = (fixture.table(text), fixture.table(text));
        table.update(tokens, &of_rows, &StepSize::new(1e-3, 1));
        let moved = table.values().iter().zip(before.values()).zip(&expected);
        assert!(moved.clone().any(|((after, before), _)| after.to_bits() != before.to_bits()));
        for ((after, before), gradient) in moved {
            assert!((after - before) * gradient <= 0.0, "{after} from {before} by {gradient}");
        }
    }
}

#[test]
fn serving_equals_pytorch() {
    let fixture = Fixture::read();
    let rechead = PublishedRechead::new(&fixture.weights, &fixture.shape).unwrap();
    let answered: Vec<f32> = fixture.input("answered").to_vec1().unwrap();
    let items = fixture.input("items").to_vec3::<f32>().unwrap();
    let mut room = RecheadScratch::default();
    let (mut shoppers, mut scores) = (Vec::new(), Vec::new());
    for at in 0..answered.len() {
        let [history, thought, answer] = [0, 1, 2].map(|text| &*fixture.tokens[text][at]);
        let answer = (answered[at] > 0.0).then_some(answer);
        let shopper = rechead.shopper(RecheadTokens { history, thought, answer }, &mut room);
        for item in &items[at] {
            let item = rechead.item(item);
            scores.push(item.iter().zip(&shopper).map(|(a, b)| a * b).sum());
        }
        shoppers.extend(shopper);
    }
    assert_close("the shopper", &shoppers, &fixture.expected("expected.shoppers"));
    assert_close("the score", &scores, &fixture.expected("expected.scores"));
}

#[test]
fn texts_of_unknown_tokens_and_no_texts_are_sound() {
    let fixture = Fixture::read();
    let rechead = PublishedRechead::new(&fixture.weights, &fixture.shape).unwrap();
    let shopper = |history: &[u32], answer: Option<&[u32]>| {
        let texts = RecheadTokens { history, thought: &[], answer };
        rechead.shopper(texts, &mut RecheadScratch::default())
    };
    for (history, answer) in
        [(&[][..], None), (&[u32::MAX, 9_999], None), (&[], Some(&[][..])), (&[1, 2], Some(&[3]))]
    {
        let found = shopper(history, answer);
        assert!(found.iter().all(|value| value.is_finite()), "{history:?}, {answer:?}: {found:?}");
    }
    assert_ne!(shopper(&[1], None), shopper(&[2], None));
    assert_ne!(shopper(&[1], Some(&[3])), shopper(&[1], Some(&[4])));
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let fixture = Fixture::read();
    let plain = || fixture.shape.clone();
    for (shape, says) in [
        (
            RecheadShape { text: 8, ..plain() },
            "`text` is 8, and is to be `width`, 16: items never move",
        ),
        (RecheadShape { vocabulary: 0, ..plain() }, "`vocabulary` is 0, not 1 to 1048576"),
        (RecheadShape { item_length: 0.0, ..plain() }, "`item_length` is 0, and is to be above 0"),
        (
            RecheadShape { item_length: f32::NAN, ..plain() },
            "`item_length` is NaN, and is to be above 0",
        ),
        (RecheadShape { heads: 3, ..plain() }, "`width` is 16, which `heads`, 3, does not divide"),
        (
            RecheadShape { vocabulary: 41, ..plain() },
            "tensor `history.table` has dimensions [40, 16], not [41, 16]",
        ),
    ] {
        let found = PublishedRechead::new(&fixture.weights, &shape).unwrap_err().to_string();
        assert_eq!(found, says);
    }
}
