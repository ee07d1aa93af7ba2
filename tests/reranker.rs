//! The rungs of the language model, on the demo's cards and scorer, with an untrained language model. Its output is
//! deterministic noise.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/ladder_options.rs"]
mod support;

use futures_util::StreamExt as _;
use raisonne::bundle::{Bundle, Manifest, Part, golden_text};
use raisonne::domain::{
    Candidate, Criticality, Deadline, Effort, Explain, ItemText, Quality, Query, ReasonSource,
};
use raisonne::language::LmTokenizer;
use raisonne::nn::decoder::TrainableDecoder;
use raisonne::rank::{self, ClimbAnswer, Ladder, LadderOptions, Shortfall, Update};
use raisonne::reranker::{
    ComparedFile, Grounds, Prompts, RerankerFile, RerankerOptions, Thought, WeighedFile,
};
use raisonne::telemetry::Metrics;
use raisonne::train::publish;
use raisonne::train::recipe::DecoderSizes;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// Candidates that are weighed.
const WEIGHED: usize = 20;
/// The golden requests of these bundles.
static GOLDEN: OnceLock<Vec<u8>> = OnceLock::new();

/// The demo bundle with another language model.
fn bundle_with(file: RerankerFile) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    for entry in fs::read_dir(demo).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), home.path().join(entry.file_name())).unwrap();
        }
    }
    // The demo's golden logits are those of the demo's own language model.
    let golden = fs::read_to_string(home.path().join(Part::Golden.file())).unwrap();
    let mut golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    for request in golden.as_array_mut().unwrap() {
        request["weighed"] = serde_json::json!([]);
    }
    fs::write(home.path().join(Part::Golden.file()), golden.to_string()).unwrap();
    let catalog = raisonne::bundle::read_catalog(home.path()).unwrap();
    let words: Vec<_> = Prompts::texts().chain(Prompts::texts()).collect();
    let prompts = Prompts::new(LmTokenizer::fit(words, 300).unwrap(), &catalog).unwrap();
    let sizes = DecoderSizes {
        vocabulary: 300,
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        mlp_width: 48,
    };
    let config = sizes.config(prompts.tokenizer().len(), 1024, Vec::new());
    let decoder = home.path().join(Part::Decoder.file());
    TrainableDecoder::random(config, 5).unwrap().save(&decoder, Path::new("")).unwrap();
    prompts.tokenizer().save(&decoder).unwrap();
    let file = toml::to_string(&file).unwrap();
    fs::write(home.path().join(Part::Reranker.file()), file).unwrap();
    Manifest::of(home.path(), "noise").unwrap().write(home.path()).unwrap();
    // Its logits depend on the model alone, not on the rungs.
    let golden = GOLDEN.get_or_init(|| {
        // It blocks, which the thread of an asynchronous test must not.
        let golden = || publish::golden(home.path()).unwrap();
        golden_text(&std::thread::scope(|scope| scope.spawn(golden).join().unwrap()))
    });
    fs::write(home.path().join(Part::Golden.file()), golden).unwrap();
    Manifest::of(home.path(), "noise").unwrap().write(home.path()).unwrap();
    home
}

/// Compares ten candidates after a thought of so many tokens.
fn compared(thought_tokens_max: usize) -> ComparedFile {
    ComparedFile {
        weight: 1.0,
        rechead_weight: 0.0,
        offered_max: 10,
        thought_tokens_max,
        grounded: false,
    }
}

/// A bundle whose language model only weighs.
fn bundle() -> TempDir {
    let weighed = Some(WeighedFile { weight: 200.0, candidates_max: WEIGHED });
    bundle_with(RerankerFile { weighed, ..RerankerFile::default() })
}

fn options(change: impl FnOnce(&mut RerankerOptions)) -> LadderOptions {
    let mut options = support::ladder_options(Arc::new(Metrics::new()));
    change(&mut options.engine);
    options
}

async fn open(home: &TempDir) -> Arc<Ladder> {
    rank::open(home.path(), &options(|_| {})).await.unwrap().0
}

/// A query of a demo shopper with so many candidates.
fn query(home: &TempDir, candidates: usize, effort: Effort) -> Query {
    query_of(&Bundle::open(home.path()).unwrap(), candidates, effort)
}

fn query_of(bundle: &Bundle, candidates: usize, effort: Effort) -> Query {
    let user = bundle.cards.users.keys().min().unwrap().clone();
    let items = bundle.catalog.items().iter().step_by(7).take(candidates);
    let candidate = |id: &raisonne::domain::ItemId| Candidate {
        item: id.clone(),
        prior_score: None,
        inline: None,
    };
    Query {
        request_id: "test".into(),
        user,
        history: None,
        profile: None,
        query_text: None,
        candidates: items.map(|item| candidate(&item.id)).collect(),
        top_n: 5,
        effort,
        explain: Explain::Cached,
        reasons_per_item: 2,
        criticality: Criticality::Default,
        bundle: None,
        now: bundle.cards.as_of,
        is_replay: false,
        deadline: Deadline::after(Instant::now(), Duration::from_mins(1)),
    }
}

async fn climb(ladder: &Arc<Ladder>, query: &Query) -> Vec<ClimbAnswer> {
    let updates: Vec<_> = ladder.clone().climb(query.clone()).collect().await;
    let answers = updates.into_iter().filter_map(|update| match update {
        Update::Answer(answer) => Some(*answer),
        Update::Thought(_) => None,
    });
    answers.collect()
}

/// The score of each candidate in bits, by item id.
fn weighed(query: &Query, answer: &ClimbAnswer) -> Vec<(String, Option<u32>)> {
    let name = |input: usize| query.candidates[input].item.to_string();
    let order = answer.ranking.order.iter();
    let mut scores: Vec<_> =
        order.map(|ranked| (name(ranked.input), ranked.scores.weighed.map(f32::to_bits))).collect();
    scores.sort();
    scores
}

#[tokio::test(flavor = "multi_thread")]
async fn the_climb_goes_on_to_weighed_and_no_higher_than_asked() {
    let home = bundle();
    let ladder = open(&home).await;
    assert_eq!(ladder.top(), Quality::Weighed);
    let answers = climb(&ladder, &query(&home, 30, Effort::Auto)).await;
    let qualities: Vec<_> = answers.iter().map(|answer| answer.ranking.quality).collect();
    assert_eq!(qualities, [Quality::Given, Quality::Scored, Quality::Weighed]);
    let [_, scored, last] = &answers[..] else { unreachable!() };
    assert_eq!(last.shortfalls, []);
    assert!(last.ranking.is_permutation(30));
    assert!(last.ranking.order.is_sorted_by(|a, b| a.score >= b.score));
    // The best of the scored order were weighed; the others keep their places behind them.
    let inputs = |answer: &ClimbAnswer| {
        answer.ranking.order.iter().map(|ranked| ranked.input).collect::<Vec<_>>()
    };
    assert_eq!(inputs(scored)[WEIGHED..], inputs(last)[WEIGHED..]);
    assert_ne!(inputs(scored)[..WEIGHED], inputs(last)[..WEIGHED], "noise says otherwise");
    for (place, ranked) in last.ranking.order.iter().enumerate() {
        assert_eq!(ranked.scores.weighed.is_some(), place < WEIGHED);
        assert!(ranked.scores.scorer.is_some());
        assert!(place >= 5 || !ranked.reasons.is_empty(), "{place} has no reasons");
    }
    let receipt = last.receipt;
    assert!(receipt.prompt_tokens > 0 && receipt.card_hits == 30);
    assert!(receipt.generated_tokens >= 4 * WEIGHED as u32, "an id has four tokens");

    let low = climb(&ladder, &query(&home, 30, Effort::Scored)).await;
    assert_eq!(low.last().unwrap().ranking.quality, Quality::Scored);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_thought_is_followed_by_a_permutation() {
    let file =
        RerankerFile { weighed: None, reranked: Some(compared(0)), reasoned: Some(compared(12)) };
    let home = bundle_with(file);
    let ladder = open(&home).await;
    assert_eq!(ladder.top(), Quality::Reasoned);
    for candidates in [2, 5, 10, 30] {
        let mut query = query(&home, candidates, Effort::Reasoned);
        query.explain = Explain::Live;
        let answers = climb(&ladder, &query).await;
        let qualities: Vec<_> = answers.iter().map(|answer| answer.ranking.quality).collect();
        let climbed = [Quality::Given, Quality::Scored, Quality::Reranked, Quality::Reasoned];
        assert_eq!(qualities, climbed, "{:?}", answers.last().unwrap().shortfalls);
        for answer in &answers[2..] {
            assert!(answer.ranking.is_permutation(candidates));
            let order = &answer.ranking.order;
            assert!(order.is_sorted_by(|a, b| a.score >= b.score));
            // Every rank is used once.
            let offered = order.iter().take(10).filter_map(|ranked| ranked.scores.reranker);
            let mut places: Vec<f32> = offered.map(|score| (-score).exp_m1().round()).collect();
            places.sort_by(f32::total_cmp);
            let all: Vec<f32> = (0..candidates.min(10)).map(|place| place as f32).collect();
            assert_eq!(places, all);
        }
        // A thought that is noise is not proved, and replaces no reason.
        let last = &answers.last().unwrap().ranking;
        assert_eq!(last.rationale, None);
        let reasons = last.order.iter().flat_map(|ranked| &*ranked.reasons);
        assert!(reasons.map(|reason| reason.source).all(|source| source != ReasonSource::Live));
    }
    let alone = query(&home, 1, Effort::Reasoned);
    let answer = climb(&ladder, &alone).await.pop().unwrap();
    assert_eq!(answer.ranking.quality, Quality::Scored, "one is no choice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grounded_thought_always_holds() {
    let reasoned = Some(ComparedFile {
        weight: 0.0,
        rechead_weight: 0.0,
        offered_max: 10,
        thought_tokens_max: 48,
        grounded: true,
    });
    let home = bundle_with(RerankerFile { reasoned, ..RerankerFile::default() });
    let ladder = open(&home).await;
    let bundle = Bundle::open(home.path()).unwrap();
    let (catalog, cards) = (&bundle.catalog, &bundle.cards.items);
    let mut users: Vec<_> = bundle.cards.users.iter().collect();
    users.sort_by(|a, b| a.0.cmp(b.0));
    let mut thoughts = 0;
    for (user, card) in users.into_iter().step_by(400) {
        let mut query = query_of(&bundle, 30, Effort::Reasoned);
        (query.user, query.explain) = (user.clone(), Explain::Live);
        let updates: Vec<_> = ladder.clone().climb(query.clone()).collect().await;
        let (mut told, mut last) = (String::new(), None);
        for update in updates {
            match update {
                Update::Thought(piece) => told += &piece,
                Update::Answer(answer) => last = Some(answer.ranking),
            }
        }
        let last = last.unwrap();
        assert_eq!(last.quality, Quality::Reasoned);
        let best = last.order.iter().filter(|ranked| ranked.scores.reranker.is_some());
        let number = |input: usize| catalog.number(&query.candidates[input].item).unwrap();
        let offered: Vec<u32> = best.map(|ranked| number(ranked.input)).collect();
        let grounds = Grounds::of(catalog, cards, &card.history, &offered);
        assert_eq!(last.rationale.is_none(), grounds.claims.is_empty(), "{user:?}");
        let Some(rationale) = last.rationale.clone() else { continue };
        thoughts += 1;
        assert_eq!(told.trim(), &*rationale, "what was streamed is what was thought");
        let thought = Thought::parse(&told).unwrap();
        assert!(thought.prove(catalog, cards, &card.history, &offered).is_some(), "{told}");
        let live = last.order.iter().flat_map(|ranked| &*ranked.reasons);
        let live: Vec<_> = live.filter(|reason| reason.source == ReasonSource::Live).collect();
        assert_eq!(live.len(), 1);
        assert!(told.ends_with(&*live[0].text), "{told}");
    }
    assert!(thoughts > 5, "{thoughts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_score_of_a_candidate_depends_on_neither_order_nor_slate() {
    let home = bundle();
    let ladder = open(&home).await;
    let straight = query(&home, WEIGHED, Effort::Weighed);
    let mut turned = straight.clone();
    turned.candidates.reverse();
    let answers = [climb(&ladder, &straight).await, climb(&ladder, &turned).await];
    let [straight, turned] = [(&straight, &answers[0]), (&turned, &answers[1])]
        .map(|(query, answers)| weighed(query, answers.last().unwrap()));
    assert_eq!(straight, turned);
    assert!(straight.iter().all(|(_, bits)| bits.is_some()));

    // The answer of a comparison does not depend on the order of the candidates.
    let file =
        RerankerFile { weighed: None, reranked: Some(compared(0)), reasoned: Some(compared(8)) };
    let (other, effort) = (bundle_with(file), Effort::Reasoned);
    let comparing = open(&other).await;
    let mut places = Vec::new();
    for turn in 0..3 {
        let mut query = query(&other, 10, effort);
        query.candidates.rotate_left(turn * 3);
        let answer = climb(&comparing, &query).await.pop().unwrap();
        assert_eq!(answer.ranking.quality, Quality::Reasoned);
        let order = answer.ranking.order.iter().map(|ranked| {
            let place = ranked.scores.reranker.map(f32::to_bits);
            (query.candidates[ranked.input].item.to_string(), place)
        });
        places.push(order.collect::<std::collections::BTreeMap<_, _>>());
    }
    assert!(places.iter().all(|turned| *turned == places[0]), "{places:?}");

    let few = query(&home, 3, Effort::Weighed);
    let answer = climb(&ladder, &few).await.pop().unwrap();
    for given in weighed(&few, &answer) {
        assert!(straight.contains(&given), "{given:?}");
    }
    // The shopper's trunk is in the prefix cache.
    assert!(answer.receipt.cached_tokens > 0);
}

/// `cargo test --release --test reranker permutations -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn ten_thousand_answers_are_permutations() {
    const REQUESTS: usize = 10_000;
    let home =
        bundle_with(RerankerFile { reasoned: Some(compared(12)), ..RerankerFile::default() });
    let ladder = open(&home).await;
    let bundle = Bundle::open(home.path()).unwrap();
    let mut users: Vec<_> = bundle.cards.users.keys().cloned().collect();
    users.sort();
    let items = bundle.catalog.items();
    let mut valid = 0;
    for at in 0..REQUESTS {
        let mut query = query_of(&bundle, 2 + at % 9, Effort::Reasoned);
        query.user = users[at % users.len()].clone();
        for (place, candidate) in query.candidates.iter_mut().enumerate() {
            candidate.item = items[(at * 37 + place * 101) % items.len()].id.clone();
        }
        let answer = climb(&ladder, &query).await.pop().unwrap();
        let given = answer.ranking.order.iter().filter_map(|ranked| ranked.scores.reranker);
        let mut places: Vec<u32> = given.map(|score| (-score).exp_m1().round() as u32).collect();
        places.sort_unstable();
        let all: Vec<u32> = (0..query.candidates.len() as u32).collect();
        valid += usize::from(answer.ranking.quality == Quality::Reasoned && places == all);
    }
    println!("{valid} of {REQUESTS} answers are permutations");
    assert_eq!(valid, REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_items_do_not_stop_the_others() {
    let home = bundle();
    let ladder = open(&home).await;
    let mut query = query(&home, 6, Effort::Weighed);
    let text = |title: &str| ItemText {
        title: title.into(),
        category: String::new(),
        attributes: Vec::new(),
    };
    query.candidates[1] =
        Candidate { item: "inline".into(), prior_score: None, inline: Some(text("Red mug")) };
    query.candidates[4] = Candidate { item: "unknown".into(), prior_score: None, inline: None };
    let answer = climb(&ladder, &query).await.pop().unwrap();
    assert_eq!(answer.ranking.quality, Quality::Weighed);
    assert!(answer.ranking.is_permutation(6));
    let without = weighed(&query, &answer).into_iter().filter(|(_, bits)| bits.is_none());
    assert_eq!(without.map(|(name, _)| name).collect::<Vec<_>>(), ["inline", "unknown"]);
    assert_eq!(answer.ranking.order.last().unwrap().input, 4, "nothing is known of it");

    for candidate in &mut query.candidates {
        candidate.item = format!("no {}", candidate.item).into();
    }
    let answer = climb(&ladder, &query).await.pop().unwrap();
    assert_eq!(answer.ranking.quality, Quality::Scored, "one of them says what it is");
    assert_eq!(answer.shortfalls.last(), Some(&(Quality::Weighed, Shortfall::Missing("items"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_kv_pages_for_a_golden_request_is_refused() {
    let home = bundle();
    let page = |engine: &mut RerankerOptions| engine.kv_cache_bytes = 16 << 10;
    let error = rank::open(home.path(), &options(page)).await.unwrap_err();
    let error = format!("{:#}", anyhow::Error::from(error));
    assert!(error.contains("a golden request fails: `trunk` is"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_model_that_does_not_fit_its_bundle_is_refused() {
    let says = |home: &TempDir| {
        let path = home.path().to_owned();
        async move {
            let error = rank::open(&path, &options(|_| {})).await.unwrap_err();
            format!("{:#}", anyhow::Error::from(error))
        }
    };
    let home = bundle();
    let weights = home.path().join("decoder/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert!(says(&home).await.contains("decoder/model.safetensors was changed"));

    let home = bundle();
    let stranger = home.path().join("decoder/extra.bin");
    fs::write(&stranger, "x").unwrap();
    assert!(says(&home).await.contains("it lacks decoder/extra.bin"));

    // Golden logits that differ.
    let home = bundle();
    let path = home.path().join(Part::Golden.file());
    let golden = fs::read_to_string(&path).unwrap();
    let mut golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let items = golden[0]["items"].as_array().unwrap().len();
    golden[0]["weighed"] = serde_json::json!(vec![99.0; items]);
    fs::write(&path, golden.to_string()).unwrap();
    Manifest::of(home.path(), "noise").unwrap().write(home.path()).unwrap();
    let told = says(&home).await;
    assert!(told.contains("weighs") && told.contains("not 99"), "{told}");

    // No golden request covers the language model.
    let home = bundle();
    let path = home.path().join(Part::Golden.file());
    let golden = fs::read_to_string(&path).unwrap();
    let mut golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    for request in golden.as_array_mut().unwrap() {
        request["weighed"] = serde_json::json!([]);
    }
    fs::write(&path, golden.to_string()).unwrap();
    Manifest::of(home.path(), "noise").unwrap().write(home.path()).unwrap();
    let told = says(&home).await;
    assert!(told.contains("`weighed` is in 0 requests, expected in at least one"), "{told}");

    // A tokenizer with more tokens than the model's vocabulary.
    let home = bundle();
    let decoder = home.path().join("decoder");
    let mut vocabulary = LmTokenizer::load(&decoder).unwrap();
    vocabulary.add_semantic_ids(5, 256).unwrap();
    let config = decoder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let known = vocabulary.len() - 256;
    assert!(text.contains(&format!("\"vocab_size\": {known}")), "{text}");
    let mut model = TrainableDecoder::open(&decoder).unwrap();
    model.config.vocabulary -= 10;
    let rows = model.parameters.get("model.embed_tokens.weight").unwrap();
    let fewer = rows.narrow(0, 0, model.config.vocabulary).unwrap();
    model.parameters.insert("model.embed_tokens.weight", fewer);
    fs::remove_file(&config).unwrap();
    model.save(&decoder, Path::new("")).unwrap();
    Manifest::of(home.path(), "noise").unwrap().write(home.path()).unwrap();
    let told = says(&home).await;
    assert!(told.contains(&format!("vocabulary has {}", known - 10)), "{told}");
}
