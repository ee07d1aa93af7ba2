//! Importing a shop, as its users do: files in, a folder out, and wrong rows named.

#![expect(clippy::unwrap_used, reason = "a helper that fails must fail its test")]
#![expect(clippy::print_stderr, reason = "a test without its data says that it was skipped")]

use raisonne::domain::EventKind::{Click, Purchase};
use raisonne::domain::UserId;
use raisonne::shop::{
    ImportError, ImportReport, ImportSpec, Shop, ShopError, TimeForm, TimeUnit, import,
};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const NOW: i64 = 1_700_000_000;
const ITEMS: &str = "\
item_id,title,category,price,color,stock
1,Teapot,Kitchen,12.5,red|white,7
2,\"Cup, large\",Kitchen,,white,9
3,Lamp,Light,30,,2
";
const EVENTS: &str = "\
event_id,user_id,item_id,time,kind,quantity,price,basket
a,ann,1,1600000000,purchase,2,12.5,X
b,bob,2,1600000000,click,,,
c,ann,3,2020-09-13T12:26:40Z,purchase,1,30,X
d,bob,2,1500000000,purchase,1,4,Y
e,ann,2,1600000100,purchase,1,4,X
";

/// A folder to import from and into.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn spec(&self, items: &str, events: &str) -> ImportSpec {
        let mut spec = ImportSpec::new(self.path(items), self.path(events), NOW);
        spec.attributes = vec!["color".to_owned()];
        // Some tests count seconds from 0, which no number shows by itself.
        spec.time.form = TimeForm::Unit(TimeUnit::Seconds);
        spec
    }

    fn import(&self, spec: &ImportSpec) -> Result<ImportReport, ImportError> {
        import(spec, &self.path("shop"), &mut |_, _| {})
    }

    fn open(&self) -> Shop {
        Shop::open(&self.path("shop")).unwrap()
    }

    /// The names of everything here, hidden files as well.
    fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The shop of [`ITEMS`] and [`EVENTS`].
fn plain_shop() -> Shop {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", EVENTS);
    folder.import(&folder.spec("items.csv", "events.csv")).unwrap();
    folder.open()
}

#[test]
fn what_was_written_is_read() {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", EVENTS);
    let mut steps = Vec::new();
    let spec = folder.spec("items.csv", "events.csv");
    let report =
        import(&spec, &folder.path("shop"), &mut |done, of| steps.push((done, of))).unwrap();
    assert_eq!((report.items, report.users, report.events, report.baskets), (3, 2, 5, 3));
    let span = report.span.as_ref().unwrap();
    assert_eq!((span.first, span.last), (1_500_000_000, 1_600_000_100));
    assert!(report.imported);
    assert_eq!(report.ignored[0].columns, ["stock"], "a column that is no attribute is not read");
    assert!(report.ignored[1].columns.is_empty() && report.rejects.is_empty());
    assert!(steps.is_sorted() && steps.last().is_some_and(|(done, of)| done == of), "{steps:?}");

    let shop = folder.open();
    assert_eq!(shop.items[1].title, "Cup, large");
    assert_eq!((shop.items[0].price, shop.items[1].price), (Some(12.5), None));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(shop.items[0].attributes, [pair("color", "red"), pair("color", "white")]);
    assert_eq!(shop.users.iter().map(UserId::as_str).collect::<Vec<_>>(), ["bob", "ann"]);
    let events: Vec<_> =
        shop.events.iter().map(|e| (e.time, e.user, e.item, e.kind, e.basket)).collect();
    assert_eq!(
        events,
        [
            (1_500_000_000, 0, 1, Purchase, 0),
            (1_600_000_000, 0, 1, Click, 1),
            (1_600_000_000, 1, 0, Purchase, 2),
            (1_600_000_000, 1, 2, Purchase, 2),
            (1_600_000_100, 1, 1, Purchase, 2),
        ]
    );
    assert_eq!((shop.events[2].quantity, shop.events[2].price), (2.0, Some(12.5)));
    assert_eq!((shop.events[1].quantity, shop.events[1].price), (1.0, None));
    assert_eq!(shop.item_index()[&shop.items[2].id], 2);
}

#[test]
fn without_baskets_the_moment_holds_lines_together() {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", "user_id,item_id,time\nann,1,50\nbob,1,50\nann,2,50\nann,3,51\n");
    folder.import(&folder.spec("items.csv", "events.csv")).unwrap();
    let baskets: Vec<_> = folder.open().events.iter().map(|e| (e.user, e.basket)).collect();
    assert_eq!(baskets, [(0, 0), (0, 0), (1, 1), (0, 2)]);
}

#[test]
fn every_format_and_packing_gives_the_same_shop() {
    let expected = plain_shop();
    let tabbed = |text: &str| text.replace("\"Cup, large\"", "Cup@ large").replace(',', "\t");
    let tabbed = |text: &str| tabbed(text).replace('@', ",");
    for (suffix, items, events) in [
        (".csv", ITEMS.to_owned(), EVENTS.to_owned()),
        (".csv", ITEMS.replace('\n', "\r\n"), EVENTS.replace('\n', "\r\n")),
        (".csv", format!("\u{feff}{}", ITEMS.trim_end()), EVENTS.replace('\n', "\n\n")),
        (".tsv", tabbed(ITEMS), tabbed(EVENTS)),
        (".jsonl", json_lines(ITEMS), json_lines(EVENTS)),
    ] {
        for (packing, pack) in
            [("", plain as fn(&str) -> Vec<u8>), (".zst", zstd_packed), (".gz", gzip_packed)]
        {
            let folder = Folder::new();
            let [i, e] = ["items", "events"].map(|name| format!("{name}{suffix}{packing}"));
            folder.file(&i, pack(&items));
            folder.file(&e, pack(&events));
            folder.import(&folder.spec(&i, &e)).unwrap_or_else(|error| panic!("{i}: {error}"));
            assert_eq!(folder.open(), expected, "{i}");
        }
    }
}

fn plain(text: &str) -> Vec<u8> {
    text.into()
}

fn zstd_packed(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 1).unwrap()
}

fn gzip_packed(text: &str) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

/// A CSV text as JSON Lines: numbers as numbers, lists as lists, empty cells left out.
fn json_lines(text: &str) -> String {
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let heading = table.headers().unwrap().clone();
    let object = |row: csv::StringRecord| {
        let cells = heading.iter().zip(&row).filter(|(_, cell)| !cell.is_empty());
        let value = |cell: &str| match serde_json::from_str::<serde_json::Number>(cell) {
            Ok(number) => number.into(),
            Err(_) if cell.contains('|') => cell.split('|').collect(),
            Err(_) => serde_json::Value::from(cell),
        };
        let object: serde_json::Map<_, _> =
            cells.map(|(name, cell)| (name.to_owned(), value(cell))).collect();
        serde_json::to_string(&object).unwrap() + "\n"
    };
    table.records().map(|row| object(row.unwrap())).collect()
}

#[test]
fn a_parquet_file_gives_the_same_shop() {
    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    let expected = plain_shop();
    for (compression, unit, units) in [
        (Compression::UNCOMPRESSED, "MILLIS", 1_000),
        (Compression::SNAPPY, "MICROS", 1_000_000),
        (Compression::ZSTD(ZstdLevel::default()), "NANOS", 1_000_000_000),
        (Compression::GZIP(GzipLevel::default()), "NANOS", 1_000_000_000),
    ] {
        let folder = Folder::new();
        folder.file("items.csv", ITEMS);
        write_events(&folder.path("events.parquet"), compression, unit, units);
        folder.import(&folder.spec("items.csv", "events.parquet")).unwrap();
        assert_eq!(folder.open(), expected, "{compression:?} {unit}");
    }
}

/// Writes [`EVENTS`] as Parquet, with columns that the import does not know between them.
fn write_events(path: &Path, compression: parquet::basic::Compression, unit: &str, units: i64) {
    use parquet::data_type::{ByteArrayType, DoubleType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = format!(
        "message events {{
            OPTIONAL DOUBLE quantity; REQUIRED BYTE_ARRAY user_id (UTF8);
            OPTIONAL BYTE_ARRAY note (UTF8); REQUIRED INT64 item_id;
            REQUIRED INT64 time (TIMESTAMP({unit},true)); REQUIRED BYTE_ARRAY kind (UTF8);
            OPTIONAL DOUBLE price; OPTIONAL BYTE_ARRAY basket (UTF8);
        }}"
    );
    let schema = Arc::new(parquet::schema::parser::parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut file =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    macro_rules! column {
        ($kind:ty, $values:expr, $present:expr) => {
            let mut column = group.next_column().unwrap().unwrap();
            let present: Option<[i16; 5]> = $present;
            let present = present.as_ref().map(|levels| &levels[..]);
            column.typed::<$kind>().write_batch(&$values, present, None).unwrap();
            column.close().unwrap();
        };
    }
    let times = [1_600_000_000, 1_600_000_000, 1_600_000_000, 1_500_000_000, 1_600_000_100];
    let kinds = ["purchase", "click", "purchase", "purchase", "purchase"];
    column!(DoubleType, [2.0, 1.0, 1.0, 1.0], Some([1, 0, 1, 1, 1]));
    column!(ByteArrayType, ["ann", "bob", "ann", "bob", "ann"].map(Into::into), None);
    column!(ByteArrayType, ["x"; 5].map(Into::into), Some([1; 5]));
    column!(Int64Type, [1, 2, 3, 2, 2], None);
    column!(Int64Type, times.map(|time: i64| time * units), None);
    column!(ByteArrayType, kinds.map(Into::into), None);
    column!(DoubleType, [12.5, 30.0, 4.0, 4.0], Some([1, 0, 1, 1, 1]));
    column!(ByteArrayType, ["X", "X", "Y", "X"].map(Into::into), Some([1, 0, 1, 1, 1]));
    group.close().unwrap();
    file.close().unwrap();
}

#[test]
fn wrong_rows_are_named_and_nothing_is_imported() {
    const GOOD: &str = "user_id,item_id,time,kind,quantity,price,basket,event_id\n\
                        ann,1,5,,,,,\n";
    let long = "x".repeat(129);
    let row = |cells: &str| ("events.csv", format!("{GOOD}{cells}\n"));
    let item = |cells: &str| ("items.csv", format!("{ITEMS}{cells}\n"));
    for ((file, content), named) in [
        (row(",1,5,,,,,"), r#"events.csv:3: user_id: found "", expected an id of 1 to 128 bytes"#),
        (row(&format!("{long},1,5,,,,,")), r#"events.csv:3: user_id: found "xxxx"#),
        (row("ann,9,5,,,,,"), r#"events.csv:3: item_id: found "9", expected the id of an item"#),
        (row("ann,1,soon,,,,,"), r#"events.csv:3: time: found "soon", expected a time from 1970"#),
        (row("ann,1,1800000000,,,,,"), r#"events.csv:3: time: found "1800000000""#),
        (row("ann,1,5,bought,,,,"), r#"events.csv:3: kind: found "bought", expected one of impr"#),
        (row("ann,1,5,,0,,,"), r#"events.csv:3: quantity: found "0", expected a number above 0"#),
        (row("ann,1,5,,,-1,,"), r#"events.csv:3: price: found "-1", expected a number of at lea"#),
        (row("ann,1,5,,,NaN,,"), r#"events.csv:3: price: found "NaN""#),
        (
            row("ann,1,5"),
            "events.csv:3: found \"ann,1,5\", expected 8 cells, as in the heading, no",
        ),
        (row("\n\r\nann,1,5,,0,,,"), "events.csv:5: quantity"),
        (row("\"a\nb\",1,5,,,,,"), r#"events.csv:3: user_id: found "a\nb""#),
        (row("ann,1,5,,,,,e\nbob,1,5,,,,,e"), "events.csv:4: event_id: found \"e\", expected an"),
        (
            item("1,Jug,,,,"),
            r#"items.csv:5: item_id: found "1", expected an id of its own: line 2"#,
        ),
        (item("4,Jug,,free,,"), r#"items.csv:5: price: found "free""#),
        (
            item(&format!("4,{},,,,", "y".repeat(513))),
            "expected text of at most 512 bytes, not 513",
        ),
        (item(&format!("4,Jug,,,{},", long.repeat(4))), "items.csv:5: color: found \"xxx"),
    ] {
        let folder = Folder::new();
        folder.file("items.csv", ITEMS);
        folder.file("events.csv", EVENTS);
        for content in [content.clone(), content.replace('\r', "").replace('\n', "\r\n")] {
            folder.file(file, content.replace("\"a\r\nb\"", "\"a\nb\""));
            let error = folder.import(&folder.spec("items.csv", "events.csv")).unwrap_err();
            assert!(matches!(error, ImportError::Rejected(_)), "{error:?}");
            assert!(error.to_string().contains(named), "{error}\nlacks {named}");
            assert_eq!(folder.listing(), ["events.csv", "items.csv"], "nothing is left behind");
        }
    }
}

#[test]
fn wrong_json_is_named() {
    for (line, named) in [
        (r#"{"user_id":"ann","item_id":1"#, "events.jsonl:2: found \"{\\\"user_id"),
        ("[1]", "events.jsonl:2: found \"[1]\", expected a JSON object"),
        (
            r#"{"user_id":["a"],"item_id":1,"time":5}"#,
            "events.jsonl:2: user_id: found \"[\\\"a\\\"]",
        ),
        (r#"{"user_id":"a","item_id":1,"time":null}"#, "events.jsonl:2: time: found \"\""),
        (r#"{"user_id":"a","item_id":1}"#, "events.jsonl:2: time: found \"\""),
        ("\u{0}", "events.jsonl:2: found"),
    ] {
        let folder = Folder::new();
        folder.file("items.csv", ITEMS);
        folder
            .file("events.jsonl", format!("{{\"user_id\":1,\"item_id\":1,\"time\":5}}\n{line}\n"));
        let error =
            folder.import(&folder.spec("items.csv", "events.jsonl")).unwrap_err().to_string();
        assert!(error.contains(named), "{error}\nlacks {named}");
        assert!(error.ends_with("events.jsonl"), "{error}");
    }
}

#[test]
fn text_that_is_not_utf_8_is_named() {
    let folder = Folder::new();
    let mut items = ITEMS.as_bytes().to_vec();
    items.extend(b"4,Caf\xe9,,,,\n");
    folder.file("items.csv", items);
    folder.file("events.csv", EVENTS);
    let error = folder.import(&folder.spec("items.csv", "events.csv")).unwrap_err().to_string();
    assert!(
        error.contains("items.csv:5: title: found \"Caf\u{fffd}\", expected text in UTF-8"),
        "{error}"
    );
}

#[test]
fn a_list_of_rejects_is_bounded_and_counted() {
    let folder = Folder::new();
    folder.file("items.csv", format!("{ITEMS}5,Jug,,free,,\n"));
    folder.file("events.csv", "user_id,item_id,time\n".to_owned() + &"ann,9,5\n".repeat(50));
    let spec = ImportSpec { rejects_max: 3, ..folder.spec("items.csv", "events.csv") };
    let Err(ImportError::Rejected(report)) = folder.import(&spec) else { panic!("rejects") };
    let rejects = &report.rejects;
    assert_eq!((rejects.first.len(), rejects.total()), (3, 51));
    assert_eq!(rejects.counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 50]);
    assert!(rejects.to_string().contains("… and 48 more"), "{rejects}");
}

#[test]
fn wrong_rows_can_be_left_out() {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", format!("{EVENTS}f,eve,9,5,,,,\ng,bob,1,never,,,,\n"));
    let spec = ImportSpec { skip_rejects: true, ..folder.spec("items.csv", "events.csv") };
    let report = folder.import(&spec).unwrap();
    assert_eq!((report.events, report.rejects.total()), (5, 2));
    assert_eq!(report.rejects.first[1].value, "never");
    assert_eq!(folder.open(), plain_shop());

    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", "user_id,item_id,time\neve,9,5\n");
    let spec = ImportSpec { skip_rejects: true, ..folder.spec("items.csv", "events.csv") };
    assert!(
        matches!(folder.import(&spec), Err(ImportError::Empty(path, _)) if path == spec.events)
    );
}

#[test]
fn columns_are_read_under_mapped_names() {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", EVENTS.replace("time", "when").replace("user_id", "buyer"));
    let map = |pairs: &[(&str, &str)]| ImportSpec {
        columns: pairs.iter().map(|(ours, theirs)| ((*ours).into(), (*theirs).into())).collect(),
        ..folder.spec("items.csv", "events.csv")
    };
    let fails = |pairs| folder.import(&map(pairs)).unwrap_err().to_string();
    let lacking = fails(&[("time", "when")]);
    assert!(
        lacking.contains("no column for user_id: looked for user_id, customer_id"),
        "{lacking}"
    );
    assert!(lacking.contains("it has basket, buyer, event_id"), "{lacking}");
    let unknown = fails(&[("tiem", "when")]);
    assert!(
        unknown.contains("\"tiem\" is not one of our columns (did you mean \"time\"?)"),
        "{unknown}"
    );
    let unmapped = fails(&[("time", "when"), ("user_id", "buyer"), ("price", "cost")]);
    assert!(unmapped.contains("no file has a column \"cost\" to read as price"), "{unmapped}");
    folder.import(&map(&[("time", "when"), ("user_id", "buyer")])).unwrap();
    assert_eq!(folder.open(), plain_shop());
}

#[test]
fn an_attribute_that_is_not_there_is_named() {
    for (items, content) in [("items.csv", ITEMS.to_owned()), ("items.jsonl", json_lines(ITEMS))] {
        let folder = Folder::new();
        folder.file(items, content);
        folder.file("events.csv", EVENTS);
        let spec =
            ImportSpec { attributes: vec!["colour".into()], ..folder.spec(items, "events.csv") };
        let error = folder.import(&spec).unwrap_err();
        assert!(matches!(error, ImportError::Column { .. }), "{error:?}");
        assert!(error.to_string().contains("looked for colour; it has"), "{error}");
        assert!(error.to_string().contains("did you mean `--attributes color`?"), "{error}");
    }
}

#[test]
fn files_of_another_kind_are_refused() {
    let packed = zstd_packed(EVENTS);
    let half = &packed[..packed.len() / 2];
    let endless = format!("{EVENTS}\"{}", "x,\n".repeat(1 << 19));
    let cases: [(&str, &[u8], &str); 9] = [
        ("events.csv.zst", EVENTS.as_bytes(), "named like a zstd file, but does not begin like it"),
        ("events.csv", &packed, "begins like a zstd file, but is not named like it"),
        ("events.parquet", EVENTS.as_bytes(), "named like a Parquet file"),
        ("events.parquet", b"PAR1 and so on", "events.parquet: "),
        ("events.xlsx", b"PK", "not a kind of file that can be imported"),
        ("events", b"", "not a kind of file that can be imported"),
        ("events.csv", b"", "the file is empty"),
        ("events.csv.zst", half, "events.csv.zst: "),
        (
            "events.csv",
            endless.as_bytes(),
            "line 7: the quote \" that begins a cell here is not closed within 100 lines",
        ),
    ];
    for (name, content, why) in cases {
        let folder = Folder::new();
        folder.file("items.csv", ITEMS);
        folder.file(name, content);
        let error = folder.import(&folder.spec("items.csv", name)).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
        assert!(!folder.path("shop").exists());
    }
    let folder = Folder::new();
    let error = folder.import(&folder.spec("items.csv", "events.csv")).unwrap_err().to_string();
    assert!(error.contains("items.csv: No such file"), "{error}");
}

/// The decoder panics on some of these.
#[test]
fn a_damaged_parquet_file_is_named() {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    let path = folder.path("events.parquet");
    write_events(&path, parquet::basic::Compression::SNAPPY, "MICROS", 1_000_000);
    let whole = fs::read(&path).unwrap();
    let spec = folder.spec("items.csv", "events.parquet");
    let mut refused = 0;
    for at in (whole.len() / 2..).take(120) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        match folder.import(&spec) {
            Ok(_) => fs::remove_dir_all(folder.path("shop")).unwrap(),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("events.parquet"), "byte {at}: {error}");
                assert!(!folder.path("shop").exists());
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn an_earlier_shop_is_never_overwritten() {
    let folder = Folder::new();
    folder.file("items.csv", ITEMS);
    folder.file("events.csv", EVENTS);
    let spec = folder.spec("items.csv", "events.csv");
    folder.import(&spec).unwrap();
    let error = folder.import(&spec).unwrap_err();
    assert!(matches!(error, ImportError::Write(ShopError::Exists(_))), "{error:?}");
    assert_eq!(folder.open(), plain_shop());
}

#[test]
fn a_damaged_shop_is_not_opened() {
    let flip = |bytes: &mut Vec<u8>| bytes[9] ^= 1;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(9);
    let files = ["items.jsonl.zst", "events.csv.zst", "shop.json"];
    for (file, damage) in files
        .iter()
        .flat_map(|file| [(file, flip as fn(&mut Vec<u8>)), (file, cut as fn(&mut Vec<u8>))])
    {
        let folder = Folder::new();
        plain_shop().write(&folder.path("shop")).unwrap();
        let path = folder.path("shop").join(file);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = Shop::open(&folder.path("shop")).unwrap_err();
        assert!(matches!(error, ShopError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let folder = Folder::new();
    plain_shop().write(&folder.path("shop")).unwrap();
    let path = folder.path("shop/shop.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"events\": 5", "\"events\": 6")).unwrap();
    assert!(matches!(Shop::open(&folder.path("shop")), Err(ShopError::Damaged { .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(Shop::open(&folder.path("shop")), Err(ShopError::Missing { .. })));
}

/// `shop.json` of this folder, changed.
fn edit_manifest(folder: &Folder, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.path("shop/shop.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn a_wrong_field_of_a_shop_is_named_with_both_values() {
    for (field, value, expected) in [
        ("format", 2, "`format` is 2, expected 1"),
        ("items", 4, "`items` is 4, expected 3 by the files"),
        ("users", 0, "`users` is 0, expected 2 by the files"),
        ("events", 6, "`events` is 6, expected 5 by the files"),
        ("baskets", 9, "`baskets` is 9, expected 3 by the files"),
        ("first_event", 7, "`first_event` is 7, expected 1500000000 by the files"),
    ] {
        let folder = Folder::new();
        plain_shop().write(&folder.path("shop")).unwrap();
        edit_manifest(&folder, |manifest| manifest[field] = value.into());
        let error = Shop::open(&folder.path("shop")).unwrap_err().to_string();
        assert!(error.contains("shop.json is damaged"), "{error}");
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn a_wrong_cell_of_a_shop_is_named_with_its_line_and_value() {
    for (from, to, expected) in [
        ("1500000000", "soon", "event 1: `time` is \"soon\", expected a time in Unix seconds"),
        (",2,click", ",9,click", "`item_id` is \"9\", expected an id of the items"),
        ("click", "wave", "`kind` is \"wave\", expected a kind of event"),
        ("12.5", "dear", "`price` is \"dear\", expected a number"),
    ] {
        let folder = Folder::new();
        plain_shop().write(&folder.path("shop")).unwrap();
        let path = folder.path("shop/events.csv.zst");
        let text = zstd::decode_all(&fs::read(&path).unwrap()[..]).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(from), "{text}");
        let changed = zstd::encode_all(text.replacen(from, to, 1).as_bytes(), 0).unwrap();
        fs::write(&path, &changed).unwrap();
        let hash = blake3::hash(&changed).to_hex().to_string();
        edit_manifest(&folder, |manifest| manifest["files"]["events.csv.zst"] = hash.into());
        let error = Shop::open(&folder.path("shop")).unwrap_err().to_string();
        assert!(error.contains("events.csv.zst is damaged: event "), "{error}");
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn the_report_counts_rows_by_reason() {
    let folder = Folder::new();
    folder.file("items.csv", format!("{ITEMS}1,Jug,,,,\n2,Jug,,,,\n5,Jug,,free,,\n"));
    let wrong =
        "f,eve,9,5,,,,\ng,eve,8,5,,,,\nh,eve,9,5,,,,\ni,eve,9,5,,,,\nj,bob,1,never,,,,\nk,bob\n";
    folder.file("events.csv", format!("{EVENTS}{wrong}"));
    let mut spec = folder.spec("items.csv", "events.csv");
    let Err(error) = folder.import(&spec) else { panic!("rows are wrong") };
    assert!(
        error.to_string().starts_with(
            "nothing was imported: 9 of 17 rows are wrong; correct them, or add `--skip-re"
        ),
        "{error}"
    );
    let refused = error.report().unwrap().clone();
    assert!(!refused.imported && !folder.path("shop").exists());
    assert_eq!(rows(&refused, 0), ("items", [6, 3, 3], vec![("item_id", 2, 2), ("price", 1, 1)]));
    assert_eq!(
        rows(&refused, 1),
        ("events", [11, 5, 6], vec![("item_id", 4, 3), ("time", 1, 1), ("", 1, 1)])
    );
    let reason = &refused.tables[0].reasons.reasons[0];
    assert_eq!(reason.expected, "an id of its own: line … has this one");
    assert_eq!(reason.examples[1].expected, "an id of its own: line 3 has this one");
    assert_eq!((refused.unknown_items.events, refused.unknown_items.ids), (4, 2));
    let columns: Vec<_> = refused.tables[1].columns.iter().map(|c| &*c.theirs).collect();
    assert_eq!(
        columns,
        ["user_id", "item_id", "time", "kind", "quantity", "price", "basket", "event_id"]
    );
    assert_eq!(refused.tables[0].missing, ["description", "attributes"]);
    assert_eq!(refused.tables[0].ignored, ["stock"]);

    spec.skip_rejects = true;
    let kept = folder.import(&spec).unwrap();
    assert_eq!(ImportReport { imported: false, ..kept }, refused, "skipping changes no count");
}

#[test]
fn the_report_is_a_page() {
    let folder = Folder::new();
    folder.file("items.csv", "sku,title,stock\n1,Teapot,7\n2,Cup,9\n3,,2\n");
    let log = "user_id,item_id,time\n".to_owned()
        + &(0..12)
            .map(|n| format!("ann,{},2020-01-{:02}\n", n % 2 + 1, n / 2 + 1))
            .collect::<Vec<_>>()
            .concat()
        + "bob,1,2020-01-06\nbob,1,2020-01-06\neve,9,2020-01-06\n";
    folder.file("events.csv", log);
    let mut spec = ImportSpec::new(folder.path("items.csv"), folder.path("events.csv"), NOW);
    spec.columns = vec![("item_id".into(), "item_id".into()), ("item_id".into(), "sku".into())];
    spec.skip_rejects = true;
    let page = folder.import(&spec).unwrap().to_string();
    let page = page.replace(folder.dir.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(page, @r#"
    2020-01-01 to 2020-01-06, 5 days, 100 % of events in the last 10 days

    items: DIR/items.csv
      3 rows read, 3 kept, 0 rejected
      columns read: item_id ← sku, title
      columns ignored: stock
      columns missing: category, description, price, attributes

    events: DIR/events.csv
      15 rows read, 14 kept, 1 rejected
        1 row: item_id: expected the id of an item in the table of items
          line 16 has "9"
      columns read: user_id, item_id, time
      columns missing: kind, quantity, price, basket, event_id

    users                  2  50 % with fewer than three events (1)
    items                  3  1 never bought, 1 without any event; missing: category in 3, attributes in 3, description in 3, price in 3
    events                14  14 purchase; missing: quantity in 14, price in 14
    baskets                7
    repeats               11  the same user and item again: 79 % of events
    duplicates             1  equal to an earlier event in every column
    cold                   1  items, and 1 user, without an event in the first 80 % of the span, before 2020-01-05
    unknown                1  events of 1 id that the table of items does not have

    warning: 1 of 3 items have no title: models read titles
    warning: no item has a category or an attribute: reasons can only come from titles and from what buyers did; if some of these columns describe items, take them with `--attributes`: stock
    warning: 7.1 % of events are exact duplicates of others: was a file exported or joined twice?
    warning: there is no column `kind`: every event counts as a purchase
    warning: every time is at midnight: days are the finest time, and events of one day keep the order of the file
    "#);
}

#[test]
fn what_is_odd_about_a_shop_is_said() {
    const DATED: &str = "user_id,item_id,time,kind\n";
    let log = |rows: &[&str]| format!("{DATED}{}\n", rows.join("\n"));
    let mixed = ["ann,1,1600000000,click", "ann,2,1600000100,purchase", "ann,3,1600000200,cart"];
    let bob = ["bob,1,1600000001,click", "bob,2,1600000101,cart", "bob,3,1600000201,click"];
    let fair = log(&[mixed, bob].concat());
    let floats = "item_id,title,category\n1.0,Cup,x\n2.0,Pot,x\n3.0,Jug,x\n";
    let ids =
        |text: &str| text.replace(",1,", ",1.0,").replace(",2,", ",2.0,").replace(",3,", ",3.0,");
    for (items, events, expected) in [
        (ITEMS, fair.clone(), vec![]),
        (floats, ids(&fair), vec!["every item_id ends in .0"]),
        (
            "item_id,title\n1,Cup\n2,Pot\n3,Jug\n",
            fair.clone(),
            vec!["no item has a category or an attribute"],
        ),
        (
            "item_id,title,brand\n1,Cup,a\n2,Pot,b\n3,,c\n",
            fair.clone(),
            vec!["1 of 3 items have no title", "take them with `--attributes`: brand"],
        ),
        (
            ITEMS,
            fair.replace("click", "purchase").replace("cart", "purchase"),
            vec!["every event is of the kind purchase"],
        ),
        (
            ITEMS,
            log(&[&mixed[..], &bob[..1], &["eve,2,1600000102,cart"]].concat()),
            vec!["user \"ann\" has 60 % of all events"],
        ),
        (
            ITEMS,
            log(&[&mixed[..2], &bob[..2]].concat()),
            vec!["100 % of users have fewer than three events"],
        ),
        (
            ITEMS,
            format!("{fair}bob,3,1600000201,click\n"),
            vec!["14 % of events are exact duplicates of others"],
        ),
        (
            ITEMS,
            log(&["ann,1,2020-01-01,click", "bob,1,2020-01-01,cart", "eve,1,2020-01-01,cart"]),
            vec!["every event is at one instant", "100 % of users", "every time is at midnight"],
        ),
    ] {
        let folder = Folder::new();
        folder.file("items.csv", items);
        folder.file("events.csv", &events);
        let mut spec = folder.spec("items.csv", "events.csv");
        spec.attributes.retain(|name| items.contains(name.as_str()));
        let found = folder.import(&spec).unwrap().warnings;
        let said = expected.iter().all(|words| found.iter().any(|warning| warning.contains(words)));
        let more = found.iter().filter(|w| !expected.iter().any(|words| w.contains(words)));
        assert!(said && more.count() == 0, "{events}\nexpected {expected:?}\nfound {found:?}");
    }
}

/// The column of a reason, its rows, and its examples.
type ReasonRows<'r> = (&'r str, u64, usize);

/// The rows of a table of the report: its name, those read, kept and wrong, and its reasons with their rows.
fn rows(report: &ImportReport, at: usize) -> (&str, [u64; 3], Vec<ReasonRows<'_>>) {
    let table = &report.tables[at];
    let reasons = table.reasons.reasons.iter();
    let reasons = reasons.map(|r| (r.column.as_deref().unwrap_or(""), r.rows, r.examples.len()));
    (table.table, [table.rows, table.kept, table.rejected], reasons.collect())
}

/// The files of a shop can be imported again, as the same shop.
#[test]
fn a_written_shop_can_be_imported() {
    let folder = Folder::new();
    let shop = plain_shop();
    shop.write(&folder.path("first")).unwrap();
    let mut spec = folder.spec("first/items.jsonl.zst", "first/events.csv.zst");
    spec.attributes.clear();
    folder.import(&spec).unwrap();
    assert_eq!(folder.open(), shop);
}

/// The folder of real data, where there is one.
fn real(folder: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(folder);
    if !dir.exists() {
        eprintln!("skipped: there is no {}", dir.display());
        return None;
    }
    Some(dir)
}

#[test]
fn a_real_shop_is_the_same_from_csv_and_from_parquet() {
    let Some(dir) = real("online-retail-ii") else { return };
    let shops = ["events.csv.zst", "events.parquet"].map(|events| {
        let folder = Folder::new();
        let spec = ImportSpec::new(dir.join("items.csv.zst"), dir.join(events), NOW);
        let report = folder.import(&spec).unwrap();
        assert_eq!((report.items, report.users, report.events), (4_607, 5_838, 759_500));
        assert_eq!(report.baskets, 36_303);
        let aggregates = ["buyers", "events", "first", "last", "stock_code", "title_raw"];
        assert_eq!(report.ignored[0].columns, aggregates, "aggregates would leak the future");
        folder.open()
    });
    assert!(shops[0] == shops[1]);
    assert!(shops[0].events.is_sorted_by_key(|line| (line.time, line.user, line.basket)));
}

#[test]
fn a_real_catalogue_gives_attributes() {
    let Some(dir) = real("ml-1m") else { return };
    let folder = Folder::new();
    let mut spec =
        ImportSpec::new(dir.join("items.csv.zst"), dir.join("interactions.csv.zst"), NOW);
    spec.attributes = ["genres", "director"].map(str::to_owned).into();
    let report = folder.import(&spec).unwrap();
    assert_eq!((report.items, report.users, report.events), (3_416, 6_040, 999_611));
    let shop = folder.open();
    let [director, genres @ ..] = &*shop.items[0].attributes else { panic!("no attributes") };
    assert_eq!(director.1, "John Lasseter");
    assert_eq!(genres[1].1, "Children's");
    assert!(shop.items[0].description.starts_with("A little boy named Andy"));
}

/// Prints how long a real shop takes: `cargo test --release --test import speed -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(dir) = real("online-retail-ii") else { return };
    for events in ["events.csv.zst", "events.parquet"] {
        let folder = Folder::new();
        let spec = ImportSpec::new(dir.join("items.csv.zst"), dir.join(events), NOW);
        let begun = tokio::time::Instant::now();
        folder.import(&spec).unwrap();
        println!("import of {events}: {:?}", begun.elapsed());
        let begun = tokio::time::Instant::now();
        folder.open();
        println!("open: {:?}", begun.elapsed());
    }
}
