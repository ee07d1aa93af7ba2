//! Typed values of tables that pandas, pyarrow, polars and DuckDB wrote: each is imported as they read it back, or as the
//! rule of `docs/import.md` has it. `tests/fixtures/import/make.py` writes the tables and what is expected.

#![expect(clippy::unwrap_used, reason = "a helper that fails must fail its test")]

use raisonne::shop::{
    DecimalMark, ImportError, ImportReport, ImportSpec, Shop, TimeOptions, TimeUnit, import,
};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const NOW: i64 = 1_700_000_000;
/// The table of items for fixtures that hold events of items 0 to 3.
const ITEMS: &str = "item_id,title\n0,Teapot\n1,Cup\n2,Lamp\n3,Jug\n";

/// `expected.json`.
#[derive(Deserialize)]
struct Expected {
    ids: Vec<IdCase>,
    times: Vec<TimeCase>,
    codecs: Vec<String>,
    /// The user, the item, the time and the price of each event in the files of `codecs`.
    log: Vec<(String, String, i64, Option<f32>)>,
}

/// A column of ids; a refused one is null.
#[derive(Deserialize)]
struct IdCase {
    file: String,
    column: String,
    ids: Vec<Option<String>>,
}

/// A column of times in Unix seconds; a refused one is null.
#[derive(Deserialize)]
struct TimeCase {
    file: String,
    column: String,
    seconds: Vec<Option<i64>>,
    unit: Option<String>,
    format: Option<String>,
    zone: Option<String>,
}

/// A folder to import into, and files beside it.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn import(&self, spec: &ImportSpec) -> Result<ImportReport, ImportError> {
        import(spec, &self.dir.path().join("shop"), &mut |_, _| {})
    }

    /// The lines of the wrong rows of a fixture, and the shop unless no row is left.
    fn import_most(&self, mut spec: ImportSpec) -> (Vec<u64>, Option<Shop>) {
        spec.skip_rejects = true;
        let (report, shop) = match self.import(&spec) {
            Ok(report) => (report, Some(Shop::open(&self.dir.path().join("shop")).unwrap())),
            Err(error @ ImportError::Empty(..)) => (error.report().unwrap().clone(), None),
            Err(error) => panic!("{}: {error}", spec.items.display()),
        };
        let of_fixture = report.rejects.first.iter().filter(|r| r.file.starts_with(fixture("")));
        (of_fixture.map(|reject| reject.line).collect(), shop)
    }
}

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(file)
}

fn expected() -> Expected {
    serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn mapped(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).to_owned())).collect()
}

/// A CSV file of a heading and rows.
fn lines(heading: &str, rows: impl Iterator<Item = String>) -> String {
    std::iter::once(heading.to_owned()).chain(rows).map(|row| row + "\n").collect()
}

/// The lines of the rows that have no value.
fn refused<T>(file: &str, values: &[Option<T>]) -> Vec<u64> {
    let first =
        if Path::new(file).extension().is_some_and(|ending| ending == "csv") { 2 } else { 1 };
    let rows = values.iter().zip(first..);
    rows.filter(|(value, _)| value.is_none()).map(|(_, line)| line).collect()
}

#[test]
fn an_item_has_one_id_in_every_type_of_every_format() {
    let cases = expected().ids;
    assert!(cases.len() > 100, "{} columns", cases.len());
    for IdCase { file, column, ids } in cases {
        let (folder, at) = (Folder::new(), format!("{column} of {file}"));
        let kept: Vec<&str> = ids.iter().flatten().map(String::as_str).collect();
        let known = if kept.is_empty() { &["none"] } else { &kept[..] };
        let rows = known.iter().map(|id| format!("ann,{id},2020-01-01"));
        let events = folder.file("events.csv", lines("user_id,item_id,time", rows));
        let mut spec = ImportSpec::new(fixture(&file), events, NOW);
        spec.columns = mapped(&[("item_id", &column)]);
        let (wrong, shop) = folder.import_most(spec);
        assert_eq!(wrong, refused(&file, &ids), "{at}");
        let Some(shop) = shop else {
            assert_eq!(kept, [""; 0], "{at}");
            continue;
        };
        assert_eq!(
            shop.items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(),
            kept,
            "{at}"
        );
        assert_eq!(shop.events.len(), kept.len(), "{at}: ids of the events are the items'");
    }
}

#[test]
fn a_user_has_one_id_in_every_type_of_every_format() {
    for IdCase { file, column, ids } in expected().ids {
        let (folder, at) = (Folder::new(), format!("{column} of {file}"));
        let kept: Vec<&str> = ids.iter().flatten().map(String::as_str).collect();
        let rows = kept.iter().chain(&["other"]).map(|id| format!("{id},Teapot"));
        let items = folder.file("items.csv", lines("item_id,title", rows));
        let mut spec = ImportSpec::new(items, fixture(&file), NOW);
        spec.columns = mapped(&[("item_id", &column), ("user_id", &column), ("basket", &column)]);
        let (wrong, shop) = folder.import_most(spec);
        assert_eq!(wrong, refused(&file, &ids), "{at}");
        let users: Vec<String> =
            shop.iter().flat_map(|shop| &shop.users).map(|user| user.as_str().to_owned()).collect();
        assert_eq!(users, kept, "{at}");
    }
}

#[test]
fn a_time_is_one_moment_in_every_type_of_every_format() {
    let cases = expected().times;
    assert!(cases.len() > 100, "{} columns", cases.len());
    for TimeCase { file, column, seconds, unit, format, zone } in cases {
        let (folder, at) = (Folder::new(), format!("{column} of {file}"));
        let items = folder.file("items.csv", ITEMS);
        let mut spec = ImportSpec::new(items, fixture(&file), NOW);
        spec.columns = mapped(&[("user_id", "id"), ("item_id", "id"), ("time", &column)]);
        let unit: Option<TimeUnit> = unit.map(|unit| unit.parse().unwrap());
        spec.time = TimeOptions::new(unit, format.as_deref(), zone.as_deref()).unwrap();
        let (wrong, shop) = folder.import_most(spec);
        assert_eq!(wrong, refused(&file, &seconds), "{at}");
        let found: Vec<i64> =
            shop.iter().flat_map(|shop| &shop.events).map(|event| event.time).collect();
        let mut kept: Vec<i64> = seconds.into_iter().flatten().collect();
        kept.sort_unstable();
        assert_eq!(found, kept, "{at}");
    }
}

#[test]
fn every_codec_page_and_encoding_of_parquet_is_read() {
    let Expected { codecs, log, .. } = expected();
    assert!(codecs.len() > 20, "{codecs:?}");
    for file in codecs {
        let folder = Folder::new();
        let spec = ImportSpec::new(folder.file("items.csv", ITEMS), fixture(&file), NOW);
        let report = folder.import(&spec).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(report.ignored[1].columns, ["note"], "{file}");
        let shop = Shop::open(&folder.dir.path().join("shop")).unwrap();
        let found = shop.events.iter().map(|event| {
            let (user, item) = (&shop.users[event.user as usize], &shop.items[event.item as usize]);
            (user.as_str().to_owned(), item.id.as_str().to_owned(), event.time, event.price)
        });
        assert_eq!(found.collect::<Vec<_>>(), log, "{file}");
    }
}

#[test]
fn lists_and_maps_are_categories_and_attributes() {
    for file in ["nested.parquet", "nested-groups.parquet"] {
        let folder = Folder::new();
        let events = folder.file("events.csv", "user_id,item_id,time\nann,1,2020-01-01\n");
        let mut spec = ImportSpec::new(fixture(file), events, NOW);
        spec.attributes = ["tags", "sizes"].map(str::to_owned).to_vec();
        folder.import(&spec).unwrap();
        let shop = Shop::open(&folder.dir.path().join("shop")).unwrap();
        let shown = shop.items.iter().map(|item| {
            let pairs = item.attributes.iter().map(|(name, value)| format!("{name}={value}"));
            (item.category.as_str(), pairs.collect::<Vec<_>>().join(" "))
        });
        let expected = [
            ("Kitchen|Tea", "color=red sizes=1 sizes=2 tags=a tags=b"),
            ("", "sizes=3 tags=c"),
            ("", ""),
        ];
        assert_eq!(
            shown.collect::<Vec<_>>(),
            expected.map(|(category, pairs)| (category, pairs.to_owned()))
        );
    }
}

#[test]
fn what_can_not_be_read_is_named() {
    for (file, columns, named) in [
        ("log-empty.parquet", &[][..], "has no rows to import"),
        (
            "nested.parquet",
            &[("item_id", "ids")],
            "its column \"ids\" holds lists or objects, and item_id must be",
        ),
        (
            "nested.parquet",
            &[("user_id", "maker")],
            "its column \"maker\" holds lists or objects, and user_id",
        ),
        (
            "nested.parquet",
            &[("user_id", "title"), ("time", "moments")],
            "and time must be text or a number",
        ),
        ("log-encrypted-footer.parquet", &[], "is encrypted"),
        ("log-encrypted-columns.parquet", &[], "encrypted"),
    ] {
        let folder = Folder::new();
        let mut spec = ImportSpec::new(folder.file("items.csv", ITEMS), fixture(file), NOW);
        spec.columns = mapped(columns);
        let error = folder.import(&spec).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains(file), "{file}: {error}");
        assert!(!folder.dir.path().join("shop").exists());
    }
}

/// A file that is cut anywhere is refused, and so is one in which any byte of its pages or footer changed, if it shows.
#[test]
fn a_cut_or_changed_parquet_file_never_passes_for_another() {
    let folder = Folder::new();
    let items = folder.file("items.csv", ITEMS);
    for name in ["log-snappy-v1.parquet", "log-zstd-v2.parquet", "log-none-plain.parquet"] {
        let whole = fs::read(fixture(name)).unwrap();
        for bytes in (0..whole.len()).step_by(97) {
            let spec = ImportSpec::new(items.clone(), folder.file(name, &whole[..bytes]), NOW);
            let error = folder.import(&spec).unwrap_err().to_string();
            assert!(error.contains(name), "{bytes} bytes: {error}");
            let is_cut = error.contains("it is cut") || error.contains("is empty");
            assert!(is_cut || error.contains("does not begin like it"), "{bytes} bytes: {error}");
        }
        for at in (4..whole.len() - 4).step_by(61) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            let spec = ImportSpec::new(items.clone(), folder.file(name, &changed), NOW);
            match folder.import(&spec) {
                Ok(_) => fs::remove_dir_all(folder.dir.path().join("shop")).unwrap(),
                Err(error) => assert!(error.to_string().contains(name), "byte {at}: {error}"),
            }
            assert!(!folder.dir.path().join("shop").exists());
        }
    }
}

#[test]
fn a_damaged_page_is_named_by_row_group_and_column() {
    let folder = Folder::new();
    let name = "log-zstd-v2.parquet";
    let mut bytes = fs::read(fixture(name)).unwrap();
    // The first pages of the first row group are before the middle of the file; its footer is at the end.
    bytes[4..200].fill(0xff);
    let spec = ImportSpec::new(folder.file("items.csv", ITEMS), folder.file(name, bytes), NOW);
    let error = folder.import(&spec).unwrap_err().to_string();
    assert!(error.contains("row group 1 of 6, column \"user_id\": "), "{error}");
    assert!(error.contains("It is damaged, cut or encrypted: write the file again"), "{error}");
}

#[test]
fn a_decimal_comma_is_read_in_prices_and_quantities() {
    let events = "user_id;item_id;time;price;quantity\nann;1;2020-01-01;6,95;1,5\nann;2;2020-01-01;1.234,50;2\n";
    let folder = Folder::new();
    let (items, events) = (folder.file("items.csv", ITEMS), folder.file("events.csv", events));
    let mut spec = ImportSpec::new(items, events, NOW);
    spec.events_spec.delimiter = Some(";".parse().unwrap());
    let error = folder.import(&spec).unwrap_err();
    let reject = &error.report().unwrap().rejects.first[0];
    assert!(reject.expected.contains("--decimal-comma"), "{reject}");
    spec.decimal = DecimalMark::Comma;
    folder.import(&spec).unwrap();
    let shop = Shop::open(&folder.dir.path().join("shop")).unwrap();
    let amounts: Vec<_> = shop.events.iter().map(|event| (event.price, event.quantity)).collect();
    assert_eq!(amounts, [(Some(6.95), 1.5), (Some(1_234.5), 2.0)]);
}

#[test]
fn dates_of_two_meanings_are_imported_once_the_user_says_which() {
    for (time, format, expected) in [
        ("03/04/2020", "%d/%m/%Y", 1_585_872_000),
        ("03/04/2020", "%m/%d/%Y", 1_583_280_000),
        ("45235.5", "excel", 1_699_185_600),
        ("200912010745", "%Y%m%d%H%M", 1_259_653_500),
    ] {
        let folder = Folder::new();
        let events = folder.file("events.csv", format!("user_id,item_id,time\nann,1,{time}\n"));
        let mut spec = ImportSpec::new(folder.file("items.csv", ITEMS), events, NOW);
        let error = folder.import(&spec).unwrap_err();
        let reject = &error.report().unwrap().rejects.first[0];
        assert!(
            reject.expected.contains(&format!("--time-format {format}"))
                || reject.expected.contains(&format!("'{format}'")),
            "{reject}"
        );
        spec.time = TimeOptions::new(None, Some(format), None).unwrap();
        let report = folder.import(&spec).unwrap();
        assert_eq!(report.span.map(|span| span.first), Some(expected), "{time} {format}");
    }
}

#[test]
fn hours_that_a_zone_repeats_are_warned_of() {
    let events =
        "user_id,item_id,time\nann,1,2022-10-30 02:30\nann,2,2022-03-27 02:30\nann,3,2022-05-01\n";
    let folder = Folder::new();
    let (items, events) = (folder.file("items.csv", ITEMS), folder.file("events.csv", events));
    let mut spec = ImportSpec::new(items, events, NOW);
    spec.time = TimeOptions::new(None, None, Some("Europe/Berlin")).unwrap();
    let report = folder.import(&spec).unwrap();
    let warned = |text: &str| report.warnings.iter().any(|warning| warning.contains(text));
    assert!(warned("Europe/Berlin has twice when its clocks go back"), "{:?}", report.warnings);
    assert!(warned("Europe/Berlin leaves out when its clocks go forward"), "{:?}", report.warnings);
}
