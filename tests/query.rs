//! A request in words reaches the scores through the query path alone: what it does not say changes nothing, to the bit,
//! and any text is sound. A query path that does not fit is refused by name.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

#[path = "support/bundle.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod copies;

use copies::copied_bundle;
use raisonne::bundle::{Bundle, Manifest, Part};
use raisonne::domain::{ItemText, UserId};
use raisonne::nn::Weights;
use raisonne::scorer::features::query_path_names;
use raisonne::scorer::{LiveRows, OpenedScorer, QueryFile, ScorerSlate, SlateItem, score_golden};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;

/// A copy of the demo bundle with a query path of random weights, which `change` may spoil.
fn with_query(
    home: &Path,
    change: impl FnOnce(&mut QueryFile, &mut Weights),
) -> Result<OpenedScorer, String> {
    let dir = copied_bundle(home, "query");
    let inputs = ["sales", "query_bm25", "query_hits", "query_cosine", "query_refused"];
    let inputs = inputs.map(str::to_owned).to_vec();
    let mut file = QueryFile { weight: 1.0, hidden: 8, members: 2, inputs };
    let mut weights = Weights::default();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (name, dims) in file.shape().tensors() {
        let count: usize = dims.iter().product();
        weights.insert(&name, &dims, (0..count).map(|_| rng.random_range(0.1..1.0)).collect());
    }
    change(&mut file, &mut weights);
    fs::write(dir.join(Part::QueryShape.file()), toml::to_string(&file).unwrap()).unwrap();
    fs::write(dir.join(Part::Query.file()), weights.to_bytes().unwrap()).unwrap();
    open(&dir)
}

fn open(dir: &Path) -> Result<OpenedScorer, String> {
    Manifest::of(dir, "query").unwrap().write(dir).unwrap();
    let opened = Bundle::open(dir).and_then(OpenedScorer::of);
    opened.map_err(|error| format!("{error:#}"))
}

/// The bits of the logits of these items for the shopper of the first golden request.
fn bits(opened: &OpenedScorer, items: &[SlateItem], query: &str, profile: &str) -> Vec<u32> {
    let (model, golden) = (&opened.model, &opened.golden()[0]);
    let spoken = model.spoken(Some(query), Some(profile));
    let user: UserId = golden.user.as_str().into();
    let card = &model.cards.users[&user];
    let slate = ScorerSlate {
        user: &user,
        now: golden.now,
        history: &card.history,
        pattern: Some(&card.vector),
        pattern_text: &card.pattern,
        rechead: Some(&card.rechead_vector),
        expected_item: None,
        counts: None,
        live: LiveRows::None,
        query: spoken.as_ref(),
        candidates: items,
    };
    let scores = model.score(&slate, &mut model.scratch());
    scores.logits.iter().map(|logit| logit.to_bits()).collect()
}

fn golden_items(opened: &OpenedScorer) -> Vec<SlateItem> {
    let number = |id: &String| opened.model.catalog.number(&id.as_str().into()).unwrap();
    opened.golden()[0].items.iter().map(|id| SlateItem::Known(number(id))).collect()
}

/// A word of the title of an item.
fn word_of(opened: &OpenedScorer, item: &SlateItem) -> String {
    let SlateItem::Known(number) = item else { unreachable!("golden items are known") };
    let title = &opened.model.catalog.item(*number).title;
    title.split(' ').max_by_key(|word| word.len()).unwrap().to_lowercase()
}

#[test]
fn what_says_nothing_of_the_slate_changes_nothing_to_the_bit() {
    let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let plain = open(&copied_bundle(homes[0].path(), "plain")).unwrap();
    let hearing = with_query(homes[1].path(), |_, _| {}).unwrap();
    hearing.check_golden().unwrap();
    let items = golden_items(&hearing);
    let before = bits(&plain, &items, "", "");
    let golden = &hearing.golden()[0];
    let scored = score_golden(&hearing.model, golden, &mut hearing.model.scratch()).unwrap();
    assert_eq!(before.len(), scored.logits.len());
    let long = "zzqx ".repeat(900);
    for text in [
        "",
        " ",
        "zzqx",
        "q",
        "😀🎁",
        "\u{0}\u{7}\u{1b}[2J",
        "ถ้วยกาแฟสีแดง",
        "the for and",
        "not",
        "£",
        &long,
    ] {
        assert_eq!(bits(&hearing, &items, text, ""), before, "query {text:.20?}");
        assert_eq!(bits(&hearing, &items, "", text), before, "profile {text:.20?}");
        assert_eq!(bits(&plain, &items, &word_of(&plain, &items[0]), text), before, "{text:.20?}");
    }
    let word = word_of(&hearing, &items[0]);
    for query in
        [word.clone(), word.to_uppercase(), format!("zzqx {word} 😀"), format!("not {word}")]
    {
        assert_ne!(bits(&hearing, &items, &query, ""), before, "{query}");
    }
    assert_ne!(bits(&hearing, &items, "under £20", ""), before, "prices are known");
    assert_ne!(bits(&hearing, &items, "", &word), before, "profile {word}");
}

#[test]
fn a_score_depends_on_the_slate_and_not_on_its_order() {
    let home = tempfile::tempdir().unwrap();
    let hearing = with_query(home.path(), |_, _| {}).unwrap();
    let items = golden_items(&hearing);
    let query = format!("{} under £30", word_of(&hearing, &items[1]));
    let forth = bits(&hearing, &items, &query, "");
    let back: Vec<SlateItem> = items.iter().rev().cloned().collect();
    let mut back = bits(&hearing, &back, &query, "");
    back.reverse();
    assert_eq!(forth, back);
}

#[test]
fn an_inline_item_is_heard_of_by_its_text() {
    let home = tempfile::tempdir().unwrap();
    let hearing = with_query(home.path(), |_, _| {}).unwrap();
    let inline = |title: &str| SlateItem::Inline {
        text: ItemText { title: title.into(), ..ItemText::default() },
        number: None,
        price: None,
    };
    let huge = "walnut ".repeat(20_000);
    for (title, is_heard) in [
        ("walnut tray", true),
        ("Walnut trays", true),
        (huge.as_str(), true),
        ("brass tray", false),
        ("", false),
        ("😀", false),
    ] {
        let items = [inline(title), inline("zzqx")];
        let (asked, silent) =
            (bits(&hearing, &items, "walnut", ""), bits(&hearing, &items, "", ""));
        assert_eq!(asked != silent, is_heard, "{title:.20}");
        assert!(asked.iter().all(|&logit| f32::from_bits(logit).is_finite()), "{title:.20}");
    }
}

#[test]
fn a_query_path_that_does_not_fit_is_refused_by_name() {
    let says = |change: &dyn Fn(&mut QueryFile, &mut Weights)| {
        let home = tempfile::tempdir().unwrap();
        with_query(home.path(), change).unwrap_err()
    };
    for (error, expected) in [
        (
            says(&|file, _| file.inputs[1] = "weather".into()),
            "query.toml can't be read: `query.inputs[1]` is `weather`, which is no feature of this program",
        ),
        (
            says(&|file, _| file.inputs[1] = "sales".into()),
            "query.toml can't be read: `query.inputs[1]` is `sales` again, which is `query.inputs[0]`",
        ),
        (says(&|file, _| file.inputs.clear()), "query.toml can't be read: `query.inputs` is empty"),
        (
            says(&|file, _| file.weight = f32::NAN),
            "query.toml can't be read: `query.weight` is NaN, expected 0 to 10",
        ),
        (
            says(&|file, _| file.hidden = 9),
            "query.safetensors can't be read: tensor `members.0.hidden.weight` has dimensions",
        ),
        (
            says(&|_, weights| weights.insert("mean", &[5], vec![f32::NAN; 5])),
            "query.safetensors can't be read: tensor `mean` has a value that is not finite",
        ),
    ] {
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    for part in [Part::Query, Part::QueryShape] {
        let home = tempfile::tempdir().unwrap();
        with_query(home.path(), |_, _| {}).unwrap();
        let dir = home.path().join("query");
        fs::remove_file(dir.join(part.file())).unwrap();
        let error = fs::read_dir(&dir).map(|_| Manifest::of(&dir, "query").err());
        let refused = error.unwrap().map_or_else(|| open(&dir).unwrap_err(), |e| e.to_string());
        assert!(refused.contains("query."), "{refused}");
    }
    let home = tempfile::tempdir().unwrap();
    let all: Vec<String> = query_path_names().map(str::to_owned).collect();
    with_query(home.path(), |file, weights| {
        file.inputs = all;
        *weights = file.shape().random(3);
    })
    .unwrap();
}
