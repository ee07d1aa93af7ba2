//! Pretrained text encoders: parity with the libraries that they come from, and folders and texts that are wrong.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use raisonne::language::TEXT_TOKENS_MAX;
use raisonne::scorer::{TextReader, open_bert, open_pretrained, open_static};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest difference of a number from the library's.
const TOLERANCE: f32 = 1e-5;
/// The variable that names a folder with `minilm` and `wordllama`.
const MODELS: &str = "RAISONNE_TEXT_MODELS";

/// What a library gives for some texts.
#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
    queries: Option<Vec<Vec<f32>>>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text")
}

fn expected(file: &str) -> BTreeMap<String, Expected> {
    serde_json::from_slice(&fs::read(fixtures().join(file)).unwrap()).unwrap()
}

fn check(name: &str, text: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}: {text:?}");
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let apart = apart
        .fold(0.0_f32, |most, apart| if apart > most || apart.is_nan() { apart } else { most });
    assert!(apart <= TOLERANCE, "{name}: {text:?} is {apart} apart");
}

fn check_all(home: &Path, file: &str) {
    for (name, expected) in expected(file) {
        let reader = open_pretrained(&home.join(&name)).unwrap();
        let vectors = reader.wides(&expected.texts);
        for ((text, found), vector) in
            expected.texts.iter().zip(vectors.chunks(reader.width())).zip(&expected.vectors)
        {
            check(&name, text, found, vector);
            check(&name, text, &reader.wide(text), vector);
        }
        for (text, vector) in expected.texts.iter().zip(expected.queries.iter().flatten()) {
            check(&format!("{name}, queries"), text, &reader.query(text), vector);
        }
    }
}

#[test]
fn vectors_are_those_of_the_libraries() {
    assert_eq!(expected("expected.json").len(), 5);
    check_all(&fixtures(), "expected.json");
}

#[test]
fn vectors_of_real_weights_are_those_of_sentence_transformers() {
    let Some(models) = std::env::var_os(MODELS) else {
        eprintln!("skipped: {MODELS} names no folder with minilm and wordllama");
        return;
    };
    check_all(Path::new(&models), "expected_pretrained.json");
}

/// A copy of a fixture, in a folder of its own.
fn copied(name: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let from = fixtures().join(name);
    for entry in fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        let into = home.path().join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&into).unwrap();
            for file in fs::read_dir(&path).unwrap() {
                let file = file.unwrap().path();
                fs::copy(&file, into.join(file.file_name().unwrap())).unwrap();
            }
        } else {
            fs::copy(&path, into).unwrap();
        }
    }
    home
}

/// An error with its causes.
fn told(error: &dyn Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.join(": ")
}

fn replace(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} lacks {from}", file.display());
    fs::write(file, text.replace(from, to)).unwrap();
}

/// Changes one number of one tensor of single precision.
fn set_number(file: &Path, tensor: &str, at: usize, value: f32) {
    let bytes = fs::read(file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = read
        .iter()
        .map(|(name, view)| {
            (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec())
        })
        .collect();
    let (.., data) = tensors.iter_mut().find(|(name, ..)| name == tensor).unwrap();
    data[at * 4..][..4].copy_from_slice(&value.to_le_bytes());
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Spoils a folder.
type Spoil = fn(&Path);

/// Fixtures, what is done to them, and what the error says.
const SPOILT: [(&str, Spoil, &str); 17] = [
    (
        "static_table",
        |at| fs::remove_file(at.join("model.safetensors")).unwrap(),
        "has no model.safetensors",
    ),
    (
        "static_table",
        |at| fs::remove_file(at.join("tokenizer.json")).unwrap(),
        "has no tokenizer.json",
    ),
    (
        "static_table",
        |at| fs::rename(at.join("model.safetensors"), at.join("pytorch_model.bin")).unwrap(),
        "only as a pickle, pytorch_model.bin",
    ),
    (
        "bert_mean",
        |at| fs::rename(at.join("model.safetensors"), at.join("weights.pt")).unwrap(),
        "only as a pickle, weights.pt",
    ),
    (
        "static_table",
        |at| {
            set_number(&at.join("model.safetensors"), "embedding.weight", 24 * 7 + 3, f32::NAN);
        },
        "row 7 of the table of tokens",
    ),
    (
        "bert_mean",
        |at| {
            let tensor = "embeddings.word_embeddings.weight";
            set_number(&at.join("model.safetensors"), tensor, 32 * 5, f32::INFINITY);
        },
        "row 5 of `embeddings.word_embeddings.weight`",
    ),
    (
        "static_table",
        |at| replace(&at.join("tokenizer.json"), "\"wood\": 41", "\"wood\": 400"),
        "401 tokens, and the encoder's table has 43 rows",
    ),
    (
        "bert_mean",
        |at| replace(&at.join("tokenizer.json"), "\"wood\": 41", "\"wood\": 400"),
        "401 tokens, and the encoder's table has 46 rows",
    ),
    (
        "bert_mean",
        |at| {
            replace(
                &at.join("config.json"),
                "\"model_type\": \"bert\"",
                "\"model_type\": \"roberta\"",
            );
        },
        "`model_type` roberta, not bert",
    ),
    ("bert_mean", |at| fs::write(at.join("config.json"), "{").unwrap(), "config.json"),
    (
        "bert_mean",
        |at| replace(&at.join("config.json"), "\"hidden_size\": 32", "\"hidden_size\": 40"),
        "tensor library",
    ),
    (
        "bert_mean",
        |at| {
            replace(
                &at.join("config.json"),
                "\"hidden_act\": \"gelu\"",
                "\"hidden_act\": \"swish\"",
            );
        },
        "`hidden_act` is swish",
    ),
    (
        "bert_mean",
        |at| replace(&at.join("1_Pooling/config.json"), "\"mean\"", "\"lasttoken\""),
        "`pooling_mode` is lasttoken, not mean or cls",
    ),
    (
        "bert_mean",
        |at| replace(&at.join("modules.json"), "normalize.Normalize", "dense.Dense"),
        "Dense, not Transformer, Pooling or Normalize",
    ),
    ("static_table", |at| fs::write(at.join("tokenizer.json"), "{}").unwrap(), "tokenizer"),
    (
        "static_table",
        |at| fs::write(at.join("model.safetensors"), "no").unwrap(),
        "model.safetensors",
    ),
    (
        "static_mapped",
        |at| set_mapping_beyond(&at.join("model.safetensors")),
        "`mapping` leads token 2 to row",
    ),
];

#[test]
fn folders_that_are_wrong_are_refused_by_what_is_wrong() {
    for (name, spoil, expected) in SPOILT {
        let folder = copied(name);
        let open = |at: &Path| -> Result<(), Box<dyn Error>> {
            if name.starts_with("bert") {
                open_bert(at).map(drop).map_err(Into::into)
            } else {
                open_static(at).map(drop).map_err(Into::into)
            }
        };
        open(folder.path()).unwrap();
        spoil(folder.path());
        let error = told(&*open(folder.path()).unwrap_err());
        assert!(error.contains(expected), "{name}: {error} lacks {expected}");
    }
}

fn set_mapping_beyond(file: &Path) {
    set_number(file, "mapping", 2 * 2, f32::from_bits(77));
}

#[test]
fn odd_texts_get_sound_vectors_within_bounds() {
    let long = "walnut box ".repeat(100_000);
    let texts = [
        ("", true),
        (" \t\n", true),
        ("a", false),
        ("🎁🎄", false),
        ("\u{0}\u{1}\u{7f}\u{ffff}", false),
        ("ของขวัญ", false),
        (long.as_str(), false),
        (&"x".repeat(1 << 20), false),
        (&"猫".repeat(5_000), false),
    ];
    for name in ["bert_mean", "bert_cls", "static_table", "static_mapped", "static_module"] {
        let reader = open_pretrained(&fixtures().join(name)).unwrap();
        for (text, is_empty) in texts {
            let shown: String = text.chars().take(20).collect();
            assert!(reader.tokens(text).len() <= TEXT_TOKENS_MAX, "{name}: {shown}");
            for vector in [reader.wide(text), reader.query(text).to_vec(), reader.vector(text)] {
                assert!(vector.iter().all(|value| value.is_finite()), "{name}: {shown}");
                let length: f32 = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
                assert!(
                    length < 1e-6 || (length - 1.0).abs() < 1e-4,
                    "{name}: {shown} has {length}"
                );
                assert!(!is_empty || length == 0.0, "{name}: an empty text has a vector");
            }
        }
        assert!(reader.encoder().wide().vocabulary() >= reader.vocabulary());
    }
}

#[test]
fn many_texts_get_the_vectors_that_they_get_alone() {
    let reader: TextReader = open_pretrained(&fixtures().join("bert_mean")).unwrap();
    let texts: Vec<String> =
        (0..150).map(|n| "red walnut box ".repeat(n % 13) + ["mug", "lamp"][n % 2]).collect();
    let all = reader.wides(&texts);
    for (text, vector) in texts.iter().zip(all.chunks(reader.width())) {
        check("bert_mean", text, vector, &reader.wide(text));
    }
}
