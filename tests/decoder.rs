//! The decoder gives the logits of Hugging Face's transformers from every file format, and all of it can be trained.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use candle_core::backprop::GradStore;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Module, Tensor, Var};
use candle_nn::ops::log_softmax;
use raisonne::nn::decoder::lora::LoraConfig;
use raisonne::nn::decoder::{
    Adapters, Checkpoint, DecoderConfig, Exact, LinearId, Parameters, TokenBatch, UnfusedKernels,
    backprop, block, forward, tensors,
};
use raisonne::nn::packed::WeightDtype;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Tolerance of logits.
const TOLERANCE: f32 = 1e-4;
/// The models beside `fixtures/decoder/make.py`.
const MODELS: [&str; 6] =
    ["qwen3", "qwen3-window", "qwen2-yarn", "qwen2-tied", "llama3", "llama-biased"];
/// `make.py` stores the logits of every so many positions.
const LOGITS_EVERY: usize = 4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder").join(name)
}

/// A decoder, and its expected outputs.
struct Case {
    config: DecoderConfig,
    parameters: Parameters,
    expected: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &str) -> Self {
        let expected = fixture(name).join("expected.safetensors");
        Self {
            expected: candle_core::safetensors::load(expected, &Device::Cpu).unwrap(),
            ..Self::of(&Checkpoint::open(&fixture(name)).unwrap())
        }
    }

    fn of(checkpoint: &Checkpoint) -> Self {
        let parameters = Parameters::load(checkpoint, DType::F32, &Device::Cpu).unwrap();
        Self { config: checkpoint.config().clone(), parameters, expected: HashMap::new() }
    }

    /// A decoder of the same shape with every tensor trained.
    fn trained(name: &str) -> Self {
        let mut case = Self::open(name);
        case.parameters.train(|_| true).unwrap();
        case
    }

    fn exact(&self, batch: &TokenBatch) -> Exact<'_> {
        Exact::new(&self.config, &self.parameters, batch, DType::F32).unwrap()
    }

    /// The expected tokens, sequence by sequence.
    fn tokens(&self) -> Vec<Vec<u32>> {
        integers(&self.expected["tokens"])
    }
}

fn integers(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn logits(exact: &mut Exact<'_>) -> Tensor {
    let rows = forward(exact.config(), exact).unwrap();
    exact.logits(&rows).unwrap()
}

/// The root of the mean square.
fn spread(tensor: &Tensor) -> f32 {
    let numbers = numbers(tensor);
    let square: f32 = numbers.iter().map(|number| number * number).sum();
    (square / numbers.len() as f32).sqrt()
}

/// The largest difference of two tensors.
fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let apart = |(a, b): (f32, f32)| (a - b).abs();
    // A NaN is farther than anything.
    let worst = |worst: f32, apart: f32| if apart <= worst { worst } else { apart };
    numbers(a).into_iter().zip(numbers(b)).map(apart).fold(0.0, worst)
}

// === Transformers as the reference ===

#[test]
fn logits_are_those_of_transformers() {
    let mut positions = 0;
    for name in MODELS {
        let case = Case::open(name);
        let batch = TokenBatch::plain(&case.tokens());
        let logits = logits(&mut case.exact(&batch));
        let kept: Vec<u32> = (0..batch.length as u32).step_by(LOGITS_EVERY).collect();
        let kept = Tensor::new(kept, &Device::Cpu).unwrap();
        let worst = apart(&logits.index_select(&kept, 1).unwrap(), &case.expected["logits"]);
        assert!(worst <= TOLERANCE, "{name}: a logit is {worst} off");
        let top = integers(&logits.argmax(D::Minus1).unwrap());
        assert_eq!(top, integers(&case.expected["top"]), "{name}");
        positions += top.concat().len();
    }
    assert!(positions > 1000, "only {positions} positions were compared");
}

#[test]
fn frequencies_are_those_of_transformers() {
    for name in MODELS {
        let Case { config, expected, .. } = Case::open(name);
        let (frequencies, attention) = config.inverse_frequencies();
        assert!((attention - numbers(&expected["attention"])[0]).abs() < 1e-6, "{name}");
        for (got, expected) in frequencies.iter().zip(numbers(&expected["frequencies"])) {
            assert!((got / expected - 1.0).abs() < 1e-6, "{name}: {got} is not {expected}");
        }
    }
}

#[test]
fn a_real_model_decodes_greedily_as_with_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/tiny-llm/hf");
    if !folder.is_dir() {
        println!("skipped: there is no {}", folder.display());
        return;
    }
    let case = Case::of(&Checkpoint::open(&folder).unwrap());
    let expected = fs::read_to_string(fixture("greedy.json")).unwrap();
    let expected: Vec<u32> = serde_json::from_str(&expected).unwrap();
    // All positions at once: each expected token has to follow from those before it.
    let logits = logits(&mut case.exact(&TokenBatch::plain(&[&expected[..expected.len() - 1]])));
    assert_eq!(integers(&logits.argmax(D::Minus1).unwrap())[0], expected[1..]);
}

// === Layouts ===

#[test]
fn a_branch_has_the_logits_of_trunk_and_branch_as_one_text() {
    for name in ["qwen3-window", "llama3"] {
        let case = Case::open(name);
        let tokens = case.tokens().remove(0);
        let (trunk, rest) = tokens.split_at(20);
        let branches: Vec<&[u32]> = vec![&rest[..5], &rest[5..17], &rest[17..18]];
        let together =
            TokenBatch::branched(&[(trunk, &branches[..]), (&trunk[..9], &branches[1..])]);
        let together = logits(&mut case.exact(&together));
        let mut start = trunk.len();
        for branch in branches {
            let alone = TokenBatch::plain(&[[trunk, branch].concat()]);
            let alone = logits(&mut case.exact(&alone));
            let alone = alone.narrow(1, trunk.len(), branch.len()).unwrap();
            let branched =
                together.narrow(0, 0, 1).unwrap().narrow(1, start, branch.len()).unwrap();
            assert!(apart(&branched, &alone) < TOLERANCE, "{name}");
            start += branch.len();
        }
        assert!(numbers(&together).iter().all(|logit| logit.is_finite()));
    }
}

#[test]
fn logits_in_bf16_are_near_those_in_f32() {
    let case = Case::open("qwen3");
    let batch = TokenBatch::plain(&case.tokens());
    let mut half = Exact::new(&case.config, &case.parameters, &batch, DType::BF16).unwrap();
    let (half, full) = (logits(&mut half), logits(&mut case.exact(&batch)));
    assert!(spread(&(half - &full).unwrap()) < 0.05 * spread(&full));
}

// === Training ===

/// The mean cross-entropy of each next token.
fn cross_entropy(
    exact: &Exact<'_>,
    rows: &Tensor,
    batch: &TokenBatch,
) -> candle_core::Result<Tensor> {
    let length = batch.length - 1;
    let logits = exact.logits(&rows.narrow(1, 0, length)?.contiguous()?)?;
    let next = Tensor::from_slice(&batch.tokens, (batch.sequences, batch.length), &Device::Cpu)?;
    let next = next.narrow(1, 1, length)?.contiguous()?.unsqueeze(2)?;
    log_softmax(&logits, D::Minus1)?.gather(&next, 2)?.neg()?.mean_all()
}

/// The loss and gradients of a forward and backward pass without recomputation.
fn plain(exact: &mut Exact<'_>, batch: &TokenBatch) -> (Tensor, GradStore) {
    let rows = forward(exact.config(), exact).unwrap();
    let loss = cross_entropy(exact, &rows, batch).unwrap();
    let gradients = loss.backward().unwrap();
    (loss, gradients)
}

/// Adapters on all matrices of `case`, with a nonzero B: a zero one would give A no gradient.
fn adapters(case: &Case, dropout: f32) -> Adapters {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let plan = LoraConfig { rank: 3, alpha: 6.0, dropout };
    let layers = (0..case.config.layers).flat_map(LinearId::of_layer);
    let adapters = Adapters::new(&case.config, plan, layers, &mut random, &Device::Cpu).unwrap();
    for (name, tensor) in adapters.tensors() {
        if name.ends_with("lora_B.weight") {
            let more = Tensor::randn(0_f32, 0.1, tensor.dims(), &Device::Cpu).unwrap();
            Var::from_tensor(tensor).unwrap().set(&more).unwrap();
        }
    }
    adapters
}

#[track_caller]
fn assert_reached<'a>(
    variables: impl Iterator<Item = (String, &'a Tensor)>,
    gradients: &GradStore,
) {
    let mut reached = 0;
    for (name, variable) in variables {
        let gradient =
            gradients.get(variable).unwrap_or_else(|| panic!("`{name}` gets no gradient"));
        let all = numbers(gradient);
        assert!(all.iter().all(|value| value.is_finite()), "`{name}` gets {all:?}");
        assert!(all.iter().any(|&value| value != 0.0), "`{name}` gets a gradient of zeros");
        reached += 1;
    }
    assert!(reached > 0);
}

#[test]
fn every_variable_gets_a_gradient() {
    for name in MODELS {
        let case = Case::trained(name);
        assert_eq!(case.parameters.variables().unwrap().len(), tensors(&case.config).len());
        let batch = TokenBatch::plain(&case.tokens());
        let (_, gradients) = plain(&mut case.exact(&batch), &batch);
        let named = case.parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor));
        assert_reached(named, &gradients);
    }
}

#[test]
fn adapters_get_gradients_and_the_frozen_decoder_none() {
    for name in MODELS {
        let case = Case::open(name);
        let adapters = adapters(&case, 0.0);
        let batch = TokenBatch::plain(&case.tokens());
        let (_, gradients) = plain(&mut case.exact(&batch).with_adapters(&adapters), &batch);
        assert_reached(adapters.tensors(), &gradients);
        for matrix in (0..case.config.layers).flat_map(LinearId::of_layer) {
            let weight = case.parameters.get(&matrix.name()).unwrap();
            assert!(gradients.get(weight).is_none(), "{name}: {matrix:?} is frozen");
        }
    }
}

#[test]
fn training_lowers_the_loss() {
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};
    let case = Case::open("qwen3");
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let layers = (0..case.config.layers).flat_map(LinearId::of_layer);
    let adapters =
        Adapters::new(&case.config, LoraConfig::default(), layers, &mut random, &Device::Cpu)
            .unwrap();
    let batch = TokenBatch::plain(&case.tokens());
    let params = ParamsAdamW { lr: 1e-2, ..ParamsAdamW::default() };
    let mut optimiser = AdamW::new(adapters.variables().unwrap(), params).unwrap();
    let mut losses = Vec::new();
    for _ in 0..8 {
        let mut exact = case.exact(&batch).with_adapters(&adapters);
        let (loss, gradients) =
            backprop(&mut exact, |exact, rows| cross_entropy(exact, rows, &batch)).unwrap();
        optimiser.step(&gradients).unwrap();
        losses.push(loss.to_scalar::<f32>().unwrap());
    }
    assert!(losses[7] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn recomputed_gradients_are_plain_ones() {
    for name in MODELS {
        for dropout in [None, Some(0.0), Some(0.3)] {
            let case = if dropout.is_none() { Case::trained(name) } else { Case::open(name) };
            let mut adapters = adapters(&case, dropout.unwrap_or_default());
            adapters.drop_out(Some(11));
            let batch = TokenBatch::plain(&case.tokens());
            let exact = || match dropout {
                None => case.exact(&batch),
                Some(_) => case.exact(&batch).with_adapters(&adapters),
            };
            let (loss, expected) = plain(&mut exact(), &batch);
            let (again, got) =
                backprop(&mut exact(), |exact, rows| cross_entropy(exact, rows, &batch)).unwrap();
            assert!(apart(&loss, &again) < 1e-5);
            let trained = case.parameters.variables().unwrap().into_iter();
            let trained: Vec<Var> = match dropout {
                None => trained.collect(),
                Some(_) => adapters.variables().unwrap(),
            };
            assert!(!trained.is_empty());
            for variable in trained {
                let [got, expected] = [&got, &expected].map(|all| all.get(&variable).unwrap());
                let worst = apart(got, expected);
                assert!(worst < 1e-5, "{name}, dropout {dropout:?}: {worst} apart");
            }
        }
    }
}

/// Numbers that a graph stores.
fn kept(out: &Tensor) -> usize {
    let nodes = out.sorted_nodes().into_iter().filter(|node| !node.is_variable());
    nodes.map(Tensor::elem_count).sum()
}

#[test]
fn recomputation_stores_a_fraction_of_the_activations() {
    let mut case = Case::trained("qwen3-window");
    // Twelve layers: the saving grows with the depth.
    case.config.layers = 12;
    case.config.windows = vec![None; 12];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    case.parameters = Parameters::random(&case.config, &mut random, &Device::Cpu).unwrap();
    let batch = TokenBatch::plain(&case.tokens());
    let mut exact = case.exact(&batch);
    let rows = forward(&case.config, &mut exact).unwrap();
    let plain = kept(&rows);
    let input = Var::from_tensor(&exact.embedding().unwrap()).unwrap();
    let layer = kept(&block(&case.config, &mut exact, 0, input.as_tensor().clone()).unwrap());
    let recomputed = case.config.layers * input.elem_count() + layer;
    println!("a plain pass keeps {plain} numbers, a recomputed one {recomputed}");
    assert!(5 * recomputed < plain);
}

// === Adapters ===

#[test]
fn merged_adapters_give_the_logits_of_separate_ones() {
    let case = Case::open("qwen2-yarn");
    let adapters = adapters(&case, 0.0);
    let batch = TokenBatch::plain(&case.tokens());
    let without = logits(&mut case.exact(&batch));
    let beside = logits(&mut case.exact(&batch).with_adapters(&adapters));
    let merged = Case { parameters: adapters.merge(&case.parameters).unwrap(), ..case };
    assert!(apart(&logits(&mut merged.exact(&batch)), &beside) < TOLERANCE);
    assert!(apart(&without, &beside) > 100.0 * TOLERANCE);

    // A merged decoder is saved like any other.
    let dir = TempDir::new().unwrap();
    fs::copy(fixture("qwen2-yarn").join("config.json"), dir.path().join("config.json")).unwrap();
    merged.parameters.save(&dir.path().join("model.safetensors")).unwrap();
    let read = Case::of(&Checkpoint::open(dir.path()).unwrap());
    assert!(apart(&logits(&mut read.exact(&batch)), &beside) < TOLERANCE);
}

#[test]
fn fresh_adapters_change_nothing() {
    let case = Case::open("llama-biased");
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let matrices = [LinearId::Query(0), LinearId::Down(1)];
    let fresh =
        Adapters::new(&case.config, LoraConfig::default(), matrices, &mut random, &Device::Cpu)
            .unwrap();
    let batch = TokenBatch::plain(&case.tokens());
    let [without, with] = [case.exact(&batch), case.exact(&batch).with_adapters(&fresh)]
        .map(|mut exact| logits(&mut exact));
    assert!(apart(&without, &with) < 1e-6);
}

#[test]
fn adapters_from_peft_give_pefts_logits() {
    let case = Case::open("llama3");
    let adapters = Adapters::load(&case.config, &fixture("llama3/adapter"), &Device::Cpu).unwrap();
    let batch = TokenBatch::plain(&case.tokens());
    let adapted = logits(&mut case.exact(&batch).with_adapters(&adapters));
    let kept: Vec<u32> = (0..batch.length as u32).step_by(LOGITS_EVERY).collect();
    let kept = adapted.index_select(&Tensor::new(kept, &Device::Cpu).unwrap(), 1).unwrap();
    assert!(apart(&kept, &case.expected["adapted"]) <= TOLERANCE);
    assert!(apart(&kept, &case.expected["logits"]) > 100.0 * TOLERANCE);
}

#[test]
fn adapters_are_saved_and_loaded_under_pefts_names() {
    let case = Case::open("llama3");
    let adapters = adapters(&case, 0.1);
    let dir = TempDir::new().unwrap();
    adapters.save(dir.path()).unwrap();
    let file = dir.path().join("adapter_model.safetensors");
    let stored = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    assert_eq!(stored[name].dims(), [3, 32]);
    let read = Adapters::load(&case.config, dir.path(), &Device::Cpu).unwrap();
    assert_eq!(read.plan(), adapters.plan());
    let all = |adapters: &Adapters| -> BTreeMap<String, Vec<f32>> {
        adapters.tensors().map(|(name, tensor)| (name, numbers(tensor))).collect()
    };
    assert_eq!(all(&read), all(&adapters));

    let narrower = DecoderConfig { mlp_width: 48, ..case.config.clone() };
    let error = Adapters::load(&narrower, dir.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("mlp"), "{error}");
    let description = dir.path().join("adapter_config.json");
    let dora = fs::read_to_string(&description)
        .unwrap()
        .replace("\"use_dora\": false", "\"use_dora\": true");
    fs::write(description, dora).unwrap();
    let error = Adapters::load(&case.config, dir.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("use_dora"), "{error}");
}

// === GGUF ===

/// A folder with a GGUF file and the tokenizer that it needs beside it.
fn gguf_folder() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let file = dir.path().join("model.gguf");
    (dir, file)
}

/// Writes a decoder of the Qwen family as a GGUF file. `kind` gives each matrix's block type.
fn write_gguf(case: &Case, architecture: &str, kind: impl Fn(&str) -> GgmlDType, file: &Path) {
    let DecoderConfig { width, layers, heads, kv_heads, head_dim, mlp_width, .. } = case.config;
    let sizes = [
        ("embedding_length", width),
        ("block_count", layers),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", head_dim),
        ("feed_forward_length", mlp_width),
        ("context_length", case.config.positions_max),
    ];
    let key = |key: &str| format!("{architecture}.{key}");
    let mut metadata: Vec<(String, Value)> =
        sizes.iter().map(|&(name, size)| (key(name), Value::U32(size as u32))).collect();
    metadata.push(("general.architecture".into(), Value::String(architecture.into())));
    metadata.push((key("rope.freq_base"), Value::F32(case.config.rope_theta as f32)));
    metadata.push(("tokenizer.ggml.eos_token_id".into(), Value::U32(2)));
    let parts = [
        ("model.layers", "blk"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    let tensors: Vec<(String, QTensor)> = case
        .parameters
        .iter()
        .map(|(name, tensor)| {
            let short = |name: String, (long, short): &(&str, &str)| name.replace(long, short);
            let kind = if tensor.rank() == 2 { kind(name) } else { GgmlDType::F32 };
            (parts.iter().fold(name.to_owned(), short), QTensor::quantize(tensor, kind).unwrap())
        })
        .collect();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(file).unwrap(), &metadata, &tensors).unwrap();
}

/// The decoder with its matrices quantised to blocks of `kind` and back.
fn rounded(case: &Case, kind: GgmlDType) -> Parameters {
    let mut rounded = Parameters::default();
    for (name, tensor) in case.parameters.iter() {
        let kind = if tensor.rank() == 2 { kind } else { GgmlDType::F32 };
        let blocks = QTensor::quantize(tensor, kind).unwrap();
        rounded.insert(name, blocks.dequantize(&Device::Cpu).unwrap());
    }
    rounded
}

#[test]
fn a_gguf_file_gives_the_logits_of_the_folder() {
    for (name, architecture) in [("qwen3", "qwen3"), ("qwen2-tied", "qwen2")] {
        let case = Case::open(name);
        let batch = TokenBatch::plain(&case.tokens());
        let exact = logits(&mut case.exact(&batch));
        for kind in [GgmlDType::F32, GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_0] {
            let (dir, file) = gguf_folder();
            write_gguf(&case, architecture, |_| kind, &file);
            let read = Case::of(&Checkpoint::open(dir.path()).unwrap());
            assert_eq!(read.config.ends, case.config.ends);
            let got = logits(&mut read.exact(&batch));
            let config = case.config.clone();
            let parameters = rounded(&case, kind);
            let rounded = Case { config, parameters, expected: HashMap::new() };
            let worst = apart(&got, &logits(&mut rounded.exact(&batch)));
            assert!(worst < TOLERANCE, "{name} in {kind:?} is {worst} off its blocks");
            let error = spread(&(&got - &exact).unwrap()) / spread(&exact);
            let allowed = if kind == GgmlDType::Q4_0 { 0.6 } else { 0.05 };
            assert!(error < allowed, "{name} in {kind:?} is {error} off");
        }
    }
}

/// llama.cpp interleaves the rows of Llama's heads, and lists the scaled frequencies.
#[test]
fn a_gguf_file_of_llama_cpps_is_read() {
    let case = Case::open("llama3");
    let (_dir, file) = gguf_folder();
    fs::copy(fixture("llama3.gguf"), &file).unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    let read = Case::of(&checkpoint);
    let (frequencies, _) = read.config.inverse_frequencies();
    for (got, expected) in frequencies.iter().zip(case.config.inverse_frequencies().0) {
        assert!((got / expected - 1.0).abs() < 1e-6);
    }
    assert_eq!(read.config.ends, [2]);
    let batch = TokenBatch::plain(&case.tokens());
    let expected = logits(&mut case.exact(&batch));
    let error = (logits(&mut read.exact(&batch)) - &expected).unwrap();
    let error = spread(&error) / spread(&expected);
    assert!(error < 0.05, "logits are {error} off");

    // Products with blocks equal products with the dequantised rows, in their order.
    let query = LinearId::Query(0);
    let (rows, columns) = query.dims(checkpoint.config());
    let blocks = checkpoint.quantize_q4k(query, 0..rows).unwrap();
    let input = Tensor::eye(columns, DType::F32, &Device::Cpu).unwrap();
    let weight = read.parameters.get(&query.name()).unwrap().t().unwrap();
    assert!(apart(&blocks.forward(&input).unwrap(), &weight) < 0.01);
}

#[test]
fn a_gguf_file_is_served_in_the_bits_of_its_layers_and_not_of_its_unembedding() {
    // Six bits come in blocks of 256 inputs.
    let (width, mlp_width, heads, head_dim) = (256, 256, 8, 32);
    let Case { config, .. } = Case::open("qwen3");
    let config =
        DecoderConfig { width, mlp_width, heads, head_dim, layers: 1, tied: false, ..config };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let parameters = Parameters::random(&config, &mut rng, &Device::Cpu).unwrap();
    let case = Case { config, parameters, expected: HashMap::new() };
    for (layers, unembedding, precision) in [
        (GgmlDType::Q4K, GgmlDType::Q6K, WeightDtype::Int4),
        (GgmlDType::Q4_0, GgmlDType::Q6K, WeightDtype::Int4),
        (GgmlDType::Q4_1, GgmlDType::F16, WeightDtype::Int4),
        (GgmlDType::Q6K, GgmlDType::Q4K, WeightDtype::Int8),
        (GgmlDType::Q8_0, GgmlDType::F32, WeightDtype::Int8),
        (GgmlDType::BF16, GgmlDType::Q8_0, WeightDtype::Bf16),
        (GgmlDType::F16, GgmlDType::F32, WeightDtype::Bf16),
        (GgmlDType::F32, GgmlDType::F16, WeightDtype::F32),
    ] {
        let (dir, file) = gguf_folder();
        let unembeds = LinearId::Unembed.name();
        let kind = |name: &str| if name == unembeds { unembedding } else { layers };
        write_gguf(&case, "qwen3", kind, &file);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let of = |linear| checkpoint.matrix(linear).unwrap().format();
        assert_ne!(of(LinearId::Unembed), of(LinearId::Gate(0)), "the file is of both kinds");
        let chosen = WeightDtype::of(&checkpoint).unwrap();
        assert_eq!(chosen, precision, "{layers:?} with an unembedding in {unembedding:?}");
    }
}

#[test]
fn a_gguf_file_without_a_tokenizer_is_refused() {
    let error = Checkpoint::open(&fixture("llama3.gguf")).unwrap_err().to_string();
    assert!(error.contains("needs the model's tokenizer.json beside it"), "{error}");
}

#[test]
fn matrices_without_whole_blocks_of_four_bits_get_eight() {
    let checkpoint = Checkpoint::open(&fixture("qwen3")).unwrap();
    let gate = LinearId::Gate(0);
    let (rows, columns) = gate.dims(checkpoint.config());
    let product = checkpoint.quantize_q4k(gate, 0..rows).unwrap();
    let input = Tensor::eye(columns, DType::F32, &Device::Cpu).unwrap();
    let tensors = checkpoint.to_tensors(DType::F32, &Device::Cpu).unwrap();
    let weight = tensors[&gate.name()].t().unwrap();
    assert!(apart(&product.forward(&input).unwrap(), &weight) < 0.01);
}
