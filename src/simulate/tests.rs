//! A small simulated shop, read back from its files.

use super::persona::Persona;
use super::write::{EVENT_COLUMNS, ORACLE_COLUMNS};
use super::{SimulationConfig, SimulationSummary, simulate};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::sync::LazyLock;

const FILES: [&str; 5] =
    ["items.csv.zst", "events.csv.zst", "oracle.csv.zst", "oracle_shoppers.csv.zst", "shop.json"];

type CsvRow = BTreeMap<String, String>;

/// The files of one shop, parsed.
struct SimulatedShop {
    config: SimulationConfig,
    summary: SimulationSummary,
    items: Vec<CsvRow>,
    events: Vec<CsvRow>,
    oracle: Vec<CsvRow>,
}

fn small() -> SimulationConfig {
    SimulationConfig { shoppers: 500, products: 600, days: 400, ..SimulationConfig::default() }
}

fn simulated(config: &SimulationConfig, out: &Path) -> SimulationSummary {
    simulate(config, out, &mut |_, _| ()).unwrap()
}

fn rows(path: &Path) -> Vec<CsvRow> {
    let plain = zstd::Decoder::new(File::open(path).unwrap()).unwrap();
    csv::Reader::from_reader(plain).deserialize().map(Result::unwrap).collect()
}

static SHOP: LazyLock<SimulatedShop> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("shop");
    let config = small();
    let summary = simulated(&config, &out);
    let read = |name| rows(&out.join(name));
    let [items, events, oracle] = ["items.csv.zst", "events.csv.zst", "oracle.csv.zst"].map(read);
    SimulatedShop { config, summary, items, events, oracle }
});

fn purchases() -> impl Iterator<Item = &'static CsvRow> {
    SHOP.events.iter().filter(|event| event["kind"] == "purchase")
}

fn number<T: std::str::FromStr>(row: &CsvRow, column: &str) -> T {
    row[column].parse().ok().unwrap_or_else(|| panic!("{column} is a number in {row:?}"))
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        SimulationConfig { shoppers: 60, products: 150, days: 60, ..SimulationConfig::default() };
    let other = SimulationConfig { seed: 8, ..config.clone() };
    for (name, config) in [("a", &config), ("b", &config), ("c", &other)] {
        simulated(config, &folder.path().join(name));
    }
    for file in FILES {
        let [a, b, c] =
            ["a", "b", "c"].map(|shop| fs::read(folder.path().join(shop).join(file)).unwrap());
        assert!(a == b, "{file} differs between two runs");
        assert!(a != c, "{file} does not depend on the seed");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "a temporary folder is left");
}

#[test]
fn an_existing_folder_and_an_impossible_size_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |config: &SimulationConfig, out: &Path| {
        simulate(config, out, &mut |_, _| ()).unwrap_err().to_string()
    };
    assert!(refused(&small(), folder.path()).contains("exists already"));
    let out = folder.path().join("shop");
    let nobody = SimulationConfig { shoppers: 0, ..small() };
    assert_eq!(refused(&nobody, &out), "shoppers must be from 1 to 100000000, not 0");
    assert!(!out.exists());
}

#[test]
fn progress_counts_the_days() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        SimulationConfig { shoppers: 5, products: 50, days: 9, ..SimulationConfig::default() };
    let mut received = Vec::new();
    simulate(&config, &folder.path().join("shop"), &mut |done, of| received.push((done, of)))
        .unwrap();
    assert_eq!(received, (1..=9).map(|day| (day, 9)).collect::<Vec<_>>());
}

#[test]
fn events_are_sorted_and_lie_within_the_days() {
    let times: Vec<i64> = SHOP.events.iter().map(|event| number(event, "time")).collect();
    assert!(times.is_sorted());
    let end = SHOP.config.start + i64::from(SHOP.config.days) * 86_400;
    assert!(times[0] >= SHOP.config.start && *times.last().unwrap() < end);
}

#[test]
fn ids_are_unique_and_known() {
    let unique = |rows: &'static [CsvRow], column: &str| -> BTreeSet<&'static str> {
        let ids: BTreeSet<_> = rows.iter().map(|row| row[column].as_str()).collect();
        assert_eq!(ids.len(), rows.len(), "{column} repeats");
        ids
    };
    let items = unique(&SHOP.items, "item_id");
    unique(&SHOP.items, "title");
    unique(&SHOP.events, "event_id");
    for event in &SHOP.events {
        assert!(items.contains(event["item_id"].as_str()), "{event:?}");
        let shopper: u32 = event["user_id"][1..].parse().unwrap();
        assert!(shopper < SHOP.config.shoppers);
        assert!(number::<f64>(event, "price") > 0.0 && number::<u8>(event, "quantity") > 0);
    }
}

#[test]
fn counts_match_the_rows() {
    let of = |kind: &str| SHOP.events.iter().filter(|event| event["kind"] == kind).count() as u64;
    let baskets: BTreeSet<_> = purchases().map(|event| event["basket"].as_str()).collect();
    assert_eq!(
        SHOP.summary,
        SimulationSummary {
            products: 600,
            shoppers: 500,
            events: SHOP.events.len() as u64,
            clicks: of("click"),
            carts: of("cart"),
            purchases: of("purchase"),
            baskets: baskets.len() as u64,
        }
    );
    assert!(of("purchase") > 3_000 && of("click") > of("cart") && of("cart") > of("purchase"));
}

#[test]
fn a_basket_is_one_shopper_at_one_time_with_at_most_eight_lines() {
    let mut baskets: BTreeMap<&str, Vec<&CsvRow>> = BTreeMap::new();
    for event in &SHOP.events {
        assert_eq!(event["basket"].is_empty(), event["kind"] != "purchase", "{event:?}");
    }
    for event in purchases() {
        baskets.entry(&event["basket"]).or_default().push(event);
    }
    for lines in baskets.values() {
        let one = |column: &str| lines.iter().all(|line| line[column] == lines[0][column]);
        assert!(one("user_id") && one("time") && lines.len() <= 8);
        let items: BTreeSet<_> = lines.iter().map(|line| &line["item_id"]).collect();
        assert_eq!(items.len(), lines.len(), "an item is twice in a basket");
    }
    assert!(baskets.values().any(|lines| lines.len() >= 4));
}

#[test]
fn products_are_sold_in_their_season() {
    let season: BTreeMap<_, _> =
        SHOP.items.iter().map(|item| (&item["item_id"], item["season"].as_str())).collect();
    // Weeks from the first of January.
    let sold = |wanted: &str, weeks: std::ops::Range<i64>| {
        let week = |event: &CsvRow| (number::<i64>(event, "time") - SHOP.config.start) / 604_800;
        let seasonal = purchases().filter(|event| season[&event["item_id"]] == wanted);
        seasonal.filter(|event| weeks.contains(&week(event))).count()
    };
    let (before, summer) = (sold("christmas", 44..52), sold("christmas", 20..28));
    assert!(before > 20 + 10 * summer, "christmas: {before} before it, {summer} in summer");
    let (summer, winter) = (sold("summer", 22..30), sold("summer", 0..8));
    assert!(summer > 10 + 4 * winter, "summer: {summer} in summer, {winter} in winter");
}

/// The share of purchases whose shopper bought the same product before.
fn repeat_share(wanted: impl Fn(&str) -> bool) -> f64 {
    let kind: BTreeMap<_, _> =
        SHOP.items.iter().map(|item| (&item["item_id"], item["product_type"].as_str())).collect();
    let mut seen = BTreeSet::new();
    let (mut repeats, mut all) = (0, 0);
    for event in purchases().filter(|event| wanted(kind[&event["item_id"]])) {
        all += 1;
        repeats += u32::from(!seen.insert((&event["user_id"], &event["item_id"])));
    }
    f64::from(repeats) / f64::from(all)
}

#[test]
fn what_is_used_up_is_bought_again() {
    let consumed = ["soap bar", "scented candle", "napkin", "bath salts", "tealight"];
    let durable = ["teapot", "wall mirror", "throw", "table lamp", "rug", "wall clock"];
    let (again, hardly) =
        (repeat_share(|k| consumed.contains(&k)), repeat_share(|k| durable.contains(&k)));
    assert!(again > 0.15, "{again}");
    assert!(hardly < 0.05, "{hardly}");
}

#[test]
fn the_oracle_knows_every_event_and_events_know_nothing_of_it() {
    assert_eq!(SHOP.oracle.len(), SHOP.events.len());
    for (event, truth) in SHOP.events.iter().zip(&SHOP.oracle) {
        assert_eq!(event["event_id"], truth["event_id"]);
        let propensity: f64 = number(truth, "propensity");
        assert!(propensity > 0.0 && propensity <= 1.0);
        assert!(number::<f64>(truth, "preference").is_finite());
    }
    let hidden: BTreeSet<_> = ORACLE_COLUMNS.split(',').skip(1).collect();
    assert!(EVENT_COLUMNS.split(',').all(|column| !hidden.contains(column)));
    assert!(SHOP.events[0].keys().all(|column| !hidden.contains(column.as_str())));
    assert!(SHOP.items[0].keys().all(|column| !hidden.contains(column.as_str())));
}

#[test]
fn high_ranks_are_clicked_more_than_their_products_deserve() {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for (event, truth) in SHOP.events.iter().zip(&SHOP.oracle) {
        if event["kind"] == "click" {
            let place =
                if number::<f64>(truth, "propensity") > 0.99 { &mut first } else { &mut later };
            place.push(number::<f64>(truth, "preference"));
        }
    }
    // The first rank is one of up to 24, and is always examined.
    let share = first.len() as f64 / (first.len() + later.len()) as f64;
    assert!((0.1..0.6).contains(&share), "{share}");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!((mean(&first) - mean(&later)).abs() < 0.6, "{} {}", mean(&first), mean(&later));
}

#[test]
fn what_is_bought_was_liked() {
    let mut sums = BTreeMap::new();
    for (event, truth) in SHOP.events.iter().zip(&SHOP.oracle) {
        let (sum, count) = sums.entry(event["kind"].as_str()).or_insert((0.0, 0.0));
        *sum += number::<f64>(truth, "preference");
        *count += 1.0;
    }
    let mean = |kind: &str| sums[kind].0 / sums[kind].1;
    assert!(mean("purchase") > mean("click") + 0.2, "{sums:?}");
}

#[test]
fn a_love_shows_in_what_is_bought() {
    let value: BTreeMap<_, _> =
        SHOP.items.iter().map(|item| (&item["item_id"], item["style"].as_str())).collect();
    let (mut loved, mut chance, mut all) = (0.0, 0.0, 0.0);
    for event in purchases() {
        let persona = Persona::draw(&SHOP.config, event["user_id"][1..].parse().unwrap());
        let styles: BTreeSet<_> = persona
            .leanings
            .iter()
            .filter(|leaning| leaning.facet == super::words::Facet::Style && leaning.first > 0.0)
            .map(|leaning| leaning.facet.value(leaning.value))
            .collect();
        let carries = |style: &str| f64::from(u8::from(styles.contains(style)));
        loved += carries(value[&event["item_id"]]);
        chance += value.values().map(|style| carries(style)).sum::<f64>() / value.len() as f64;
        all += 1.0;
    }
    assert!(loved / all > 2.0 * chance / all, "{loved} {chance} of {all}");
}

#[test]
fn titles_name_the_product_and_its_facets() {
    assert_eq!(SHOP.items.iter().map(|item| &item["category"]).collect::<BTreeSet<_>>().len(), 14);
    let share = |column: &str| {
        let names = |item: &&CsvRow| item["title"].to_lowercase().contains(&item[column]);
        SHOP.items.iter().filter(names).count() as f64 / SHOP.items.len() as f64
    };
    for (column, least) in [("product_type", 0.9), ("color", 0.99), ("material", 0.8)] {
        assert!(share(column) >= least, "{column}: {}", share(column));
    }
}
