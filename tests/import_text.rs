//! Importing text files as databases, spreadsheets and data frames write them: the rows, or what is wrong and where.

#![expect(clippy::unwrap_used, reason = "a helper that fails must fail its test")]

use raisonne::shop::{FileSpec, ImportSpec, Shop, import};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const NOW: i64 = 1_700_000_000;
const ITEMS: &str = "item_id,title\n1,Teapot\n2,Cup\n";
const EVENTS: &str = "user_id,item_id,time\nann,1,1600000000\nbob,2,1600000001\n";
const ROWS: [&str; 2] = ["ann 1 1600000000", "bob 2 1600000001"];

/// A folder to import from and into.
struct Folder(TempDir);

impl Folder {
    /// With a table of two items.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.file("items.csv", ITEMS);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn spec(&self, items: &str, events: &str) -> ImportSpec {
        ImportSpec::new(self.path(items), self.path(events), NOW)
    }

    /// Imports, and shows the events; or the error without the folder's name.
    fn events(&self, spec: &ImportSpec) -> Result<Vec<String>, String> {
        self.shop(spec).map(|shop| {
            let row = |event: &raisonne::shop::ShopEvent| {
                let (user, item) = (event.user as usize, event.item as usize);
                format!("{} {} {}", shop.users[user], shop.items[item].id, event.time)
            };
            shop.events.iter().map(row).collect()
        })
    }

    /// Imports, and shows the titles; or the error without the folder's name.
    fn titles(&self, spec: &ImportSpec) -> Result<Vec<String>, String> {
        self.shop(spec).map(|shop| shop.items.iter().map(|item| item.title.clone()).collect())
    }

    /// An import that fails leaves everything as it was.
    fn shop(&self, spec: &ImportSpec) -> Result<Shop, String> {
        let before = self.listing();
        let imported = import(spec, &self.path("shop"), &mut |_, _| {});
        let shown = |error: String| error.replace(&format!("{}/", self.0.path().display()), "");
        match imported {
            Ok(_) => {
                let shop = Shop::open(&self.path("shop")).unwrap();
                fs::remove_dir_all(self.path("shop")).unwrap();
                Ok(shop)
            }
            Err(error) => {
                assert_eq!(self.listing(), before, "something was left behind");
                Err(shown(error.to_string()))
            }
        }
    }

    /// The names of everything here, hidden files as well.
    fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Reads `--option value` pairs as the command line does.
fn stated(options: &str) -> FileSpec {
    let mut spec = FileSpec::default();
    let words: Vec<&str> = options.split_whitespace().collect();
    for pair in words.chunks(2) {
        match pair[0] {
            "--format" => spec.format = Some(pair[1].parse().unwrap()),
            "--delimiter" => spec.delimiter = Some(pair[1].parse().unwrap()),
            "--quote" => spec.quote = Some(pair[1].parse().unwrap()),
            "--encoding" => spec.encoding = Some(pair[1].parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    spec
}

/// The events of a file of these bytes, or the error.
fn events_of(name: &str, options: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
    let folder = Folder::new();
    folder.file(name, bytes);
    let spec = ImportSpec { events_spec: stated(options), ..folder.spec("items.csv", name) };
    folder.events(&spec)
}

/// The titles of a file of items of these bytes, or the error.
fn titles_of(name: &str, options: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
    let folder = Folder::new();
    folder.file(name, bytes);
    folder.file("events.csv", EVENTS);
    let spec = ImportSpec { items_spec: stated(options), ..folder.spec(name, "events.csv") };
    folder.titles(&spec)
}

#[track_caller]
fn assert_error<T: std::fmt::Debug>(found: Result<T, String>, words: &[&str], case: &str) {
    let error = found.expect_err(case);
    for word in words {
        assert!(error.contains(word), "{case}: {error}\nlacks {word}");
    }
}

fn utf_16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes.as_ref()).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(bytes.as_ref(), 1).unwrap()
}

#[test]
fn dialects_are_told_by_names_and_options() {
    let with = |delimiter: &str| EVENTS.replace(',', delimiter);
    for (name, options, text) in [
        ("events.csv", "", EVENTS.to_owned()),
        ("events.CSV", "", EVENTS.to_owned()),
        ("events.csv", "", EVENTS.replace('\n', "\r\n")),
        ("events.csv", "", EVENTS.replace('\n', "\r")),
        ("events.csv", "", EVENTS.replace('\n', "\n\n").trim_end().to_owned()),
        ("events.csv", "", format!("\u{feff}{EVENTS}")),
        ("events.csv", "", EVENTS.replace("ann", "\"ann\"").replace("user_id", "\"user_id\"")),
        ("events.csv", "", format!("sep=,\n{EVENTS}")),
        ("events.csv", "", format!("\u{feff}sep=;\r\n{}", with(";"))),
        ("events.csv", "--delimiter ;", with(";")),
        ("events.csv", "--delimiter |", with("|")),
        ("events.csv", "--delimiter tab", with("\t")),
        ("events.csv", "--quote '", EVENTS.replace("ann", "'ann'")),
        ("events.tsv", "", with("\t")),
        ("events.tsv", "", format!("\u{feff}{}", with("\t").replace("bob", "\"bob\""))),
        ("events.tsv", "--delimiter ,", EVENTS.to_owned()),
        ("events.dat", "--format csv --delimiter |", with("|")),
        ("events.dat", "--format tsv", with("\t")),
        ("events.csv.txt", "--format csv", EVENTS.to_owned()),
        // A column that is not read may be there twice.
        (
            "events.csv",
            "",
            "user_id,x,item_id,x,time,\nann,,1,,1600000000,\nbob,,2,,1600000001,\n".to_owned(),
        ),
    ] {
        let found = events_of(name, options, &text);
        assert_eq!(found.unwrap_or_else(|e| panic!("{name} {options}: {e}")), ROWS, "{text:?}");
    }
}

#[test]
fn quotes_are_read_by_the_rule_of_their_dialect() {
    let expected = |titles: &[&str]| titles.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    for (name, options, text, titles) in [
        ("i.csv", "", "item_id,title\n1,\"A, B\"\n2,\"5\"\" nail\"\n", ["A, B", "5\" nail"]),
        (
            "i.csv",
            "",
            "item_id,title\n1,5\" nail\n2,Rock \"n\" roll\n",
            ["5\" nail", "Rock \"n\" roll"],
        ),
        ("i.csv", "", "item_id,title\n1,\"two\nlines\"\n2,\"\"\n", ["two\nlines", ""]),
        ("i.csv", "--quote none", "item_id,title\n1,\"A\n2,B\"\n", ["\"A", "B\""]),
        ("i.csv", "--quote '", "item_id,title\n1,'A, B'\n2,\"C\n", ["A, B", "\"C"]),
        ("i.tsv", "", "item_id\ttitle\n1\t\"A\tB\"\n2\t5\" nail\n", ["A\tB", "5\" nail"]),
        (
            "i.tsv",
            "--quote none",
            "item_id\ttitle\n1\t\"Weird Al\" live\n2\t\"B\n",
            ["\"Weird Al\" live", "\"B"],
        ),
        ("i.tsv", "--quote \"", "item_id\ttitle\n1\t\"two\nlines\"\n2\tB\n", ["two\nlines", "B"]),
    ] {
        assert_eq!(
            titles_of(name, options, text),
            Ok(expected(&titles)),
            "{name} {options} {text:?}"
        );
    }
}

#[test]
fn quotes_that_go_wrong_are_named_by_line() {
    let rows = "1,A\n".repeat(120);
    let after = "expected the end of the cell after its closing quote (a quote inside a quoted cell is doubled)";
    for (name, options, text, words) in [
        (
            "i.csv",
            "",
            format!("item_id,title\n1,A\n2,\"B\n{rows}"),
            &[
                "i.csv: line 3: the quote \" that begins a cell here is not closed within 100 lines",
                "--quote none",
            ][..],
        ),
        (
            "i.csv",
            "",
            "item_id,title\n1,\"A\n2,B\n".to_owned(),
            &[
                "i.csv: line 2: the quote \" that begins a cell here is still open at the end of the file",
            ],
        ),
        (
            "i.csv",
            "--quote '",
            "item_id,title\n1,'A\n2,B\n".to_owned(),
            &["i.csv: line 2: the quote ' that begins a cell here is still open"],
        ),
        (
            "i.csv",
            "",
            "item_id,title\n1,\"A\" B\n2,C\n".to_owned(),
            &["i.csv:2: title: found \"A B\"", after],
        ),
        (
            "i.csv",
            "",
            "item_id,title\n1,\"5\" nail\"\n".to_owned(),
            &["i.csv:2: title: found \"5 nail\\\"\"", after],
        ),
        // Spark escapes a quote by a backslash.
        (
            "i.csv",
            "",
            "item_id,title\n1,\"5\\\" nail\"\n2,C\n".to_owned(),
            &["i.csv:2: title: ", after],
        ),
        (
            "i.tsv",
            "",
            "item_id\ttitle\n1\t\"A\n2\tB\"\n".to_owned(),
            &[
                "i.tsv: line 2: the quote \" that begins a cell here is not closed on that line",
                "--quote none",
                "--quote '\"'",
            ],
        ),
        (
            "i.tsv",
            "",
            "item_id\ttitle\n1\t\"Weird Al\" live\n".to_owned(),
            &["i.tsv:2: title: ", after],
        ),
    ] {
        assert_error(titles_of(name, options, &text), words, &text);
    }
}

#[test]
fn a_heading_that_is_none_is_named() {
    let column = "has no column for title: looked for title, name; it has item_id";
    for (name, options, text, words) in [
        (
            "i.csv",
            "",
            "item_id;title\n1;A\n",
            &[
                "i.csv: line 1: the heading \"item_id;title\" is 1 column between ','",
                "--delimiter ';'",
            ][..],
        ),
        ("i.csv", "", "item_id\ttitle\n1\tA\n", &["state --delimiter tab"]),
        ("i.csv", "", "item_id|title\n1|A\n", &["state --delimiter '|'"]),
        ("i.csv", "", "\"item_id\";\"title\"\n1;A\n", &["state --delimiter ';'"]),
        ("i.csv", "", "sku;name of it\n1;A\n", &["state --delimiter ';'"]),
        (
            "i.csv",
            "",
            "item_id;title;sizes S,M\n1;A;\n",
            &["is 2 columns between ','", "state --delimiter ';'"],
        ),
        (
            "i.tsv",
            "",
            "item_id,title\n1,A\n",
            &["is 1 column between '\\t'", "state --delimiter ','"],
        ),
        (
            "i.csv",
            "--delimiter ;",
            "item_id,title\n1,A\n",
            &["is 1 column between ';'", "state --delimiter ','"],
        ),
        (
            "i.csv",
            "",
            "1,Teapot\n2,Cup\n",
            &[
                "i.csv: line 1: the first line must name the columns, but it is \"1,Teapot\"",
                "such as item_id,title",
            ],
        ),
        ("i.csv", "", "2020-09-13 12:26:40,Teapot\n", &["the first line must name the columns"]),
        (
            "i.csv",
            "",
            "sku,label\n1,A\n",
            &["i.csv has no column for item_id: looked for item_id, id; it has label, sku"],
        ),
        ("i.csv", "", "item_id\n1\n2\n", &["i.csv ", column]),
        (
            "i.csv",
            "",
            "item_id,title,item_id\n1,A,2\n",
            &["i.csv: has two columns \"item_id\", number 1 and 3"],
        ),
        ("i.csv", "", "item_id,title,title\n1,A,B\n", &["i.csv: has two columns \"title\""]),
        ("i.csv", "", "item_id,title\0\n1,A\n", &["i.csv: line 1: the heading holds a NUL byte"]),
        ("i.csv", "", "", &["i.csv: the file is empty"]),
        ("i.csv", "", "\n\r\n\n", &["i.csv: the file is empty"]),
        ("i.csv", "", "\u{feff}", &["i.csv: the file is empty"]),
        ("i.csv", "", "item_id,title\n", &["i.csv: has no rows to import"]),
        ("i.csv", "", "item_id,title", &["i.csv: has no rows to import"]),
        (
            "i.csv",
            "--delimiter ; --quote ;",
            "item_id;title\n",
            &["';' can't be both the delimiter and the quote"],
        ),
    ] {
        assert_error(titles_of(name, options, text), words, text);
    }
}

#[test]
fn rows_that_go_wrong_are_named_by_line() {
    for (text, words) in [
        (
            "user_id,item_id,time\nann,1,1600000000\nbob,2\n",
            &["e.csv:3: found \"bob,2\", expected 3 cells, as in the heading, not 2\n"][..],
        ),
        (
            "user_id,item_id,time\nann,1,1600000000,\nbob,2,1\n",
            &["e.csv:2: found \"ann,1,1600000000,\", expected 3 cells, as in the heading, not 4\n"],
        ),
        (
            "user_id,item_id,time\nann,1,1600000000\nbob,2",
            &["e.csv:3: found \"bob,2\"", "not 2; the file ends here: is it cut?"],
        ),
        ("user_id,item_id,time\r\rann,1\r", &["e.csv:3: found \"ann,1\""]),
        (
            "user_id,item_id,time\nann,1,1600\u{0}0000\n",
            &["e.csv:2: found \"ann,1,1600\\00000\", expected text without NUL bytes"],
        ),
        (
            "user_id,item_id,time\nann,1,1600000000\n\0\0\0\0\n",
            &["e.csv:3: ", "expected text without NUL bytes"],
        ),
    ] {
        assert_error(events_of("e.csv", "", text), words, text);
    }
}

#[test]
fn encodings_are_read_as_stated_and_named_if_they_are_not() {
    let text = "item_id,title\r\n1,Café – €5\r\n2,Naïve\r\n";
    let (narrow, _, _) = encoding_rs::WINDOWS_1252.encode(text);
    let (japanese, _, _) = encoding_rs::SHIFT_JIS.encode("item_id,title\n1,急須\n2,茶碗\n");
    let marked = |mark: &[u8], bytes: Vec<u8>| [mark.to_vec(), bytes].concat();
    let (little, big) = (utf_16(text, u16::to_le_bytes), utf_16(text, u16::to_be_bytes));
    for (options, bytes) in [
        ("", text.as_bytes().to_vec()),
        ("", marked(b"\xef\xbb\xbf", text.into())),
        ("--encoding utf-8", marked(b"\xef\xbb\xbf", text.into())),
        ("--encoding windows-1252", narrow.to_vec()),
        ("--encoding latin1", narrow.to_vec()),
        ("--encoding utf-16le", little.clone()),
        ("--encoding utf-16le", marked(b"\xff\xfe", little.clone())),
        ("--encoding utf-16be", big.clone()),
        ("--encoding utf-16be", marked(b"\xfe\xff", big.clone())),
        // A byte order mark is surer than what was stated.
        ("--encoding utf-16le", marked(b"\xfe\xff", big.clone())),
        ("--encoding windows-1252", marked(b"\xef\xbb\xbf", text.into())),
    ] {
        for (name, packed) in
            [("i.csv", bytes.clone()), ("i.csv.gz", gzip(&bytes)), ("i.csv.zst", zstd(&bytes))]
        {
            let found = titles_of(name, options, packed);
            assert_eq!(
                found.as_deref(),
                Ok(&["Café – €5".to_owned(), "Naïve".to_owned()][..]),
                "{options} {name}"
            );
        }
    }
    let found = titles_of("i.csv", "--encoding shift_jis", &japanese);
    assert_eq!(found, Ok(vec!["急須".to_owned(), "茶碗".to_owned()]));

    let wide: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    let wide_big: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
    let cut = little[..little.len() - 1].to_vec();
    let windows = &[
        "i.csv:2: title: found",
        "expected text in UTF-8; these bytes are text in Windows-1252",
        "--encoding windows-1252",
    ][..];
    let le = &["i.csv: its text is UTF-16, not UTF-8: state --encoding utf-16le"][..];
    let be = &["i.csv: its text is UTF-16, not UTF-8: state --encoding utf-16be"][..];
    let utf_32 = &["i.csv: its text is UTF-32", "iconv -f utf-32 -t utf-8"][..];
    for (options, bytes, words) in [
        ("", narrow.to_vec(), windows),
        ("", little.clone(), le),
        ("", marked(b"\xff\xfe", little.clone()), le),
        ("", big.clone(), be),
        ("", marked(b"\xfe\xff", big), be),
        ("", wide.clone(), utf_32),
        ("", marked(b"\xff\xfe\0\0", wide.clone()), utf_32),
        ("", wide_big, utf_32),
        ("--encoding utf-16le", wide, utf_32),
        ("--encoding utf-16le", cut, &["i.csv:4: "]),
        (
            "--encoding shift_jis",
            [&japanese[..], b"3,\xff\n"].concat(),
            &["i.csv:4: title: found", "expected text in Shift_JIS\n"],
        ),
        ("", japanese.to_vec(), &["i.csv:2: title: found", "expected text in UTF-8"]),
        (
            "",
            b"item_id,title,pri\xe7o\n1,A,2\n".to_vec(),
            &[
                "i.csv: line 1: the heading is not text in UTF-8",
                "Windows-1252",
                "--encoding windows-1252",
            ],
        ),
    ] {
        assert_error(titles_of("i.csv", options, &bytes), words, options);
    }
}

#[test]
fn json_lines_are_read_in_every_writing() {
    let object = |user: &str, item: u32, time: u32| {
        format!("{{\"user_id\":\"{user}\",\"item_id\":{item},\"time\":{time}}}")
    };
    let (ann, bob) = (object("ann", 1, 1_600_000_000), object("bob", 2, 1_600_000_001));
    for (name, text) in [
        ("e.jsonl", format!("{ann}\n{bob}\n")),
        ("e.ndjson", format!("{ann}\r\n\r\n{bob}")),
        ("e.json", format!("{ann}\r{bob}\r")),
        ("e.jsonl", format!("\u{feff}{ann}\n{bob}")),
        ("e.jsonl", format!("\n \t{ann}  \n{}\n", bob.replace(',', " , "))),
        (
            "e.jsonl",
            format!(
                "{}\n{bob}\n",
                ann.replace("user_id", "\\u0075ser_id").replace("ann", "\\u0061nn")
            ),
        ),
        (
            "e.jsonl",
            format!("{}\n{bob}\n", ann.replace('}', ",\"price\":null,\"a.b\":{\"user_id\":[1]}}")),
        ),
    ] {
        assert_eq!(
            events_of(name, "", &text).as_deref(),
            Ok(&ROWS.map(str::to_owned)[..]),
            "{text}"
        );
    }
    let wide = utf_16(&format!("{ann}\n{bob}\n"), u16::to_le_bytes);
    assert_eq!(events_of("e.jsonl", "--encoding utf-16le", &wide).unwrap(), ROWS);
    assert_error(events_of("e.jsonl", "", &wide), &["--encoding utf-16le"], "UTF-16");
}

/// A name with dots is one name: it is no path into an object.
#[test]
fn a_json_name_may_hold_dots() {
    let folder = Folder::new();
    folder.file(
        "e.jsonl",
        "{\"user.id\":\"ann\",\"user\":{\"id\":\"x\"},\"item_id\":\"1\",\"time\":1600000000}\n",
    );
    let mut spec = folder.spec("items.csv", "e.jsonl");
    spec.columns = vec![("user_id".to_owned(), "user.id".to_owned())];
    assert_eq!(folder.events(&spec).unwrap(), ROWS[..1]);
}

/// More digits than a float has are kept.
#[test]
fn a_json_number_keeps_its_digits() {
    let folder = Folder::new();
    let (a, b) = ("9007199254740993", "9007199254740992");
    folder.file(
        "i.jsonl",
        format!("{{\"item_id\":{a},\"title\":\"A\"}}\n{{\"item_id\":{b},\"title\":\"B\"}}\n"),
    );
    folder.file(
        "e.jsonl",
        format!("{{\"user_id\":18446744073709551617,\"item_id\":{a},\"time\":1600000000}}\n"),
    );
    let found = folder.events(&folder.spec("i.jsonl", "e.jsonl"));
    assert_eq!(found, Ok(vec![format!("18446744073709551617 {a} 1600000000")]));
}

#[test]
fn json_that_is_no_json_lines_is_named() {
    let good = "{\"user_id\":\"ann\",\"item_id\":1,\"time\":1600000000}";
    let pretty = "{\n  \"user_id\": \"ann\",\n  \"item_id\": 1,\n  \"time\": 5\n}\n";
    let long = format!("[{}", format!("{good},").repeat(30_000));
    for (text, words) in [
        (
            format!("[{good},\n{good}]\n"),
            &["e.jsonl: line 1 begins a JSON array", "one object on each line", "jq -c '.[]'"][..],
        ),
        (format!("\n\n[\n{good}\n]"), &["e.jsonl: line 3 begins a JSON array"]),
        (format!("[{good}]"), &["e.jsonl: line 1 begins a JSON array"]),
        (long, &["e.jsonl: line 1 begins a JSON array"]),
        (
            "[\"ann\",1,5]\n[\"bob\",2,6]\n".to_owned(),
            &["e.jsonl: line 1 is a JSON array, which names no columns"],
        ),
        (
            pretty.to_owned(),
            &["e.jsonl: line 1: the object that begins here does not end on its line", "jq -c ."],
        ),
        (
            format!("{good}\n[1]\n"),
            &["e.jsonl:2: found \"[1]\", expected a JSON object", "not an array"],
        ),
        (format!("{good}{good}\n"), &["e.jsonl:1: found", "and nothing after it on its line"]),
        (format!("{good},\n{good}\n"), &["e.jsonl:1: found", "without a comma after it"]),
        (format!("{good}\n{}\n", good.replace('}', ",}")), &["e.jsonl:2: found", "trailing comma"]),
        (
            format!("{good}\n{}", &good[..30]),
            &["e.jsonl:2: found", "the file ends here: is it cut?"],
        ),
        (
            format!("{good}\n{{\n{good}\n"),
            &["e.jsonl:2: found \"{\", expected a JSON object", "that ends on its line"],
        ),
        (
            format!("{good}\n{}\n", good.replace('}', ",\"item_id\":2}")),
            &["e.jsonl:2: ", "found \"item_id\", expected an object that has this name once"],
        ),
        (
            format!("{good}\n{}\n", good.replace('}', ",\"x\":1,\"\\u0078\":1}")),
            &["e.jsonl:2: ", "found \"x\", expected an object that has this name once"],
        ),
        (
            format!("{good}\n{}\n", good.replace("\"ann\"", "[\"ann\"]")),
            &["e.jsonl:2: user_id: found \"[\\\"ann\\\"]\", expected text or a number"],
        ),
        (
            format!("{good}\n{}\n", good.replace("\"ann\"", "{\"id\":1}")),
            &["e.jsonl:2: user_id: found \"{\\\"id\\\":1}\", expected text or a number"],
        ),
        (
            format!("{good}\n{}\n", good.replace("\"ann\"", "null")),
            &["e.jsonl:2: user_id: found \"\""],
        ),
        (format!("{good}\n{}\n", good.replace("ann", "\\ud800")), &["e.jsonl:2: user_id: found"]),
        (
            format!("{good}\n{}\n", good.replace("1600000000", "NaN")),
            &["e.jsonl:2: found", "expected a JSON object"],
        ),
        (format!("{good}\n\"text\"\n"), &["e.jsonl:2: found", "expected a JSON object"]),
        (
            format!("{good}\nuser_id,item_id\n"),
            &["e.jsonl:2: found \"user_id,item_id\", expected a JSON object"],
        ),
        (String::new(), &["e.jsonl: has no rows to import"]),
        ("{\"a\":1}\n".to_owned(), &["has no column for user_id", "it has a"]),
    ] {
        assert_error(events_of("e.jsonl", "", &text), words, &text[..text.len().min(200)]);
    }
    let narrow = [good.replace("ann", "Caf\u{1}").replace('\u{1}', "").as_bytes(), b"\n"].concat();
    let narrow = [&narrow[..], b"{\"user_id\":\"Caf\xe9\",\"item_id\":1,\"time\":5}\n"].concat();
    assert_error(
        events_of("e.jsonl", "", narrow),
        &["e.jsonl:2: found", "Caf\u{fffd}", "--encoding windows-1252"],
        "Windows-1252",
    );
}

/// Nesting is bounded, whatever a line holds.
#[test]
fn deep_json_is_refused() {
    for deep in [
        "[".repeat(400_000) + &"]".repeat(400_000),
        "{\"a\":".repeat(90_000) + "1" + &"}".repeat(90_000),
    ] {
        for column in ["attributes", "category", "unknown"] {
            let text = format!(
                "{{\"item_id\":1,\"title\":\"A\",\"{column}\":{deep}}}\n{{\"item_id\":2,\"title\":\"B\"}}\n"
            );
            match titles_of("i.jsonl", "", text) {
                Ok(titles) => assert_eq!(titles, ["A", "B"], "{column}"),
                Err(error) => assert!(error.contains("i.jsonl:1: "), "{column}: {error}"),
            }
        }
    }
}

#[test]
fn compressed_files_are_read_whole_or_named() {
    let (head, tail) = EVENTS.split_at(25);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    for (name, options, bytes) in [
        ("e.csv.gz", "", gzip(EVENTS)),
        ("e.csv.gzip", "", gzip(EVENTS)),
        ("e.csv.gz", "", [gzip(head), gzip(""), gzip(tail)].concat()),
        ("e.csv.gz", "", [gzip(EVENTS), vec![0; 70_000]].concat()),
        ("e.csv.gz", "", [gzip(head), vec![0; 512], gzip(tail), vec![0; 3]].concat()),
        ("e.csv.zst", "", [zstd(head), zstd(tail)].concat()),
        (
            "e.csv.zst",
            "",
            [skipped.clone(), zstd(head), skipped.clone(), zstd(tail), skipped.clone()].concat(),
        ),
        ("e", "--format csv", gzip(EVENTS)),
        ("e.dat", "--format csv", zstd(EVENTS)),
        ("e.csv", "--format csv", zstd(EVENTS)),
    ] {
        assert_eq!(
            events_of(name, options, bytes).as_deref(),
            Ok(&ROWS.map(str::to_owned)[..]),
            "{name}"
        );
    }
    let row = |n| format!("user{},{},{}\n", n * 7_919 % 9_973, n % 2 + 1, 1_500_000_000 + n);
    let many = (0..9_000).map(row).collect::<Vec<_>>().concat();
    let many = format!("user_id,item_id,time\n{many}");
    for (name, kind, whole) in
        [("e.csv.gz", "gzip", gzip(&many)), ("e.csv.zst", "zstd", zstd(&many))]
    {
        assert_eq!(events_of(name, "", &whole).unwrap().len(), 9_000);
        for cut in [20, whole.len() / 2, whole.len() - 1] {
            let expected =
                format!("the file is cut: its {kind} data stops in the middle, at byte {cut}");
            assert_error(events_of(name, "", &whole[..cut]), &[name, &expected], name);
        }
        // Half of the zstd file holds no whole block, and so no line. All but a byte holds many.
        let most = events_of(name, "", &whole[..whole.len() - 1]);
        assert_error(most, &["after line "], "the last line that was read is named");
        let more = [&whole[..], b"and more"].concat();
        assert_error(
            events_of(name, "", more),
            &[&format!("its {kind} data is damaged before byte ")],
            name,
        );
    }
    for (name, options, bytes, words) in [
        (
            "e.csv.gz",
            "",
            EVENTS.into(),
            &["e.csv.gz: named like a gzip file, but does not begin like it"][..],
        ),
        (
            "e.csv.zst",
            "",
            gzip(EVENTS),
            &["e.csv.zst: named like a zstd file, but does not begin like it"],
        ),
        ("e.csv", "", gzip(EVENTS), &["e.csv: begins like a gzip file, but is not named like it"]),
        (
            "e.csv.gz",
            "--format csv",
            EVENTS.into(),
            &["named like a gzip file, but does not begin like it"],
        ),
        ("e.csv.gz", "", gzip(gzip(EVENTS)), &["e.csv.gz: holds a gzip file inside, not text"]),
        ("e.csv.gz", "", gzip(""), &["e.csv.gz: the file is empty"]),
        ("e.csv.gz", "", Vec::new(), &["e.csv.gz: the file is empty"]),
        (
            "e.csv",
            "",
            b"PK\x03\x04 and so on".to_vec(),
            &["e.csv: begins like a zip archive or a workbook"],
        ),
        ("e.csv", "", b"BZh91AY".to_vec(), &["e.csv: begins like a bzip2 file"]),
        ("e.parquet.gz", "", gzip(b"PAR1"), &["e.parquet.gz: Parquet is read as it is"]),
        ("e.parquet", "", b"PARE".to_vec(), &["e.parquet: is encrypted Parquet"]),
        (
            "e.csv.bz2",
            "",
            b"BZh91AY".to_vec(),
            &["e.csv.bz2: not a kind of file that can be imported", "--format"],
        ),
        // Its rows would take 2 GiB at once.
        (
            "e.csv.zst",
            "",
            b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00".to_vec(),
            &["e.csv.zst: its zstd data is damaged", "too much memory"],
        ),
        (
            "e.csv.gz",
            "",
            gzip(vec![b'x'; 9 << 20]),
            &["e.csv.gz: line 1: the row that begins here is longer than 1048576 bytes"],
        ),
    ] {
        assert_error(events_of(name, options, bytes), words, name);
    }
}

#[test]
fn folders_and_patterns_are_one_table() {
    let heading = "user_id,item_id,time\n";
    let (ann, bob) = ("ann,1,1600000000\n", "bob,2,1600000001\n");
    let spark = |folder: &Folder| {
        folder.file("e/_SUCCESS", "");
        folder.file("e/._SUCCESS.crc", "crc");
        folder.file("e/.part-00000.csv.crc", "crc");
        folder.file("e/part-00000-c000.csv", format!("{heading}{ann}"));
        folder.file("e/part-00001-c000.csv", "");
        folder.file("e/part-00002-c000.csv", heading);
        folder.file("e/part-00003-c000.csv.gz", gzip(format!("{heading}{bob}")));
    };
    for named in ["e", "e/", "e/*.csv*", "e/part-0000[0-3]*", "*/part*", "e/*"] {
        let folder = Folder::new();
        spark(&folder);
        let mut steps = Vec::new();
        let spec = folder.spec("items.csv", named);
        let report =
            import(&spec, &folder.path("shop"), &mut |done, of| steps.push((done, of))).unwrap();
        assert_eq!((report.events, report.ignored.len()), (2, 2), "{named}");
        let total = [
            "items.csv",
            "e/part-00000-c000.csv",
            "e/part-00002-c000.csv",
            "e/part-00003-c000.csv.gz",
        ];
        let total = total.map(|name| fs::metadata(folder.path(name)).unwrap().len()).iter().sum();
        assert!(steps.is_sorted(), "{steps:?}");
        assert_eq!(steps.last(), Some(&(total, total)), "{named}");
    }
    // A file is a file, even if its name could be a pattern.
    assert_eq!(events_of("e[1].csv", "", EVENTS).unwrap(), ROWS);

    // A part of JSON Lines may lack columns that are null in all its rows.
    let folder = Folder::new();
    folder.file("e/part-0.json", "{\"user_id\":\"ann\",\"item_id\":1,\"time\":1600000000}\n");
    folder.file("e/part-1.json", "");
    folder.file(
        "e/part-2.json",
        "{\"user_id\":\"bob\",\"item_id\":2,\"time\":1600000001,\"kind\":\"click\"}\n",
    );
    assert_eq!(folder.events(&folder.spec("items.csv", "e")).unwrap(), ROWS);
}

/// A Parquet file of these events.
fn parquet(rows: &[(&str, &str, i64)]) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    let schema = "message events {
        REQUIRED BYTE_ARRAY user_id (UTF8); REQUIRED BYTE_ARRAY item_id (UTF8); REQUIRED INT64 time;
    }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = file.next_row_group().unwrap();
    let users: Vec<ByteArray> = rows.iter().map(|row| row.0.into()).collect();
    let items: Vec<ByteArray> = rows.iter().map(|row| row.1.into()).collect();
    for column in [users, items] {
        let mut writer = group.next_column().unwrap().unwrap();
        writer.typed::<ByteArrayType>().write_batch(&column, None, None).unwrap();
        writer.close().unwrap();
    }
    let times: Vec<i64> = rows.iter().map(|row| row.2).collect();
    let mut writer = group.next_column().unwrap().unwrap();
    writer.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
    writer.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
    bytes
}

#[test]
fn a_folder_of_parquet_is_one_table() {
    let folder = Folder::new();
    folder.file("e/_SUCCESS", "");
    folder.file("e/_metadata", "PAR1");
    folder.file("e/part-00000-c000.snappy.parquet", parquet(&[("ann", "1", 1_600_000_000)]));
    folder.file("e/part-00001-c000.snappy.parquet", parquet(&[]));
    folder.file("e/part-00002-c000.snappy.parquet", parquet(&[("bob", "2", 1_600_000_001)]));
    let spec = folder.spec("items.csv", "e");
    assert_eq!(folder.events(&spec).unwrap(), ROWS);

    folder.file(
        "e/part-00003-c000.snappy.parquet",
        parquet(&[("cid", "1", 1_600_000_002), ("cid", "9", 1_600_000_002)]),
    );
    assert_error(
        folder.events(&spec),
        &["part-00003-c000.snappy.parquet:2: item_id: found \"9\""],
        "a row",
    );
    let cut = parquet(&[("cid", "1", 1_600_000_002)]);
    folder.file("e/part-00003-c000.snappy.parquet", &cut[..cut.len() - 9]);
    assert_error(
        folder.events(&spec),
        &["part-00003-c000.snappy.parquet: "],
        "a footer that is cut",
    );
    folder.file("e/part-00003-c000.snappy.parquet", "");
    assert_eq!(folder.events(&spec).unwrap(), ROWS, "an empty file is passed over");
}

#[test]
fn folders_that_are_no_table_are_named() {
    let whole = [("e/a.csv", EVENTS)];
    let heading = "user_id,item_id,time\n";
    for (named, files, words) in [
        ("e", &[("e/_SUCCESS", ""), ("e/.x.crc", "")][..], &["e: holds no file to import"][..]),
        ("e/*.csv", &[("e/_SUCCESS", "")], &["e/*.csv: matches no file to import"]),
        ("f*.csv", &whole, &["f*.csv: matches no file to import"]),
        ("e/[.csv", &whole, &["e/[.csv: is no file, and as a pattern it is wrong"]),
        ("f.csv", &whole, &["f.csv: No such file"]),
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/b.jsonl", "")],
            &[
                "e/b.jsonl: is JSON Lines, but ",
                "e/a.csv is CSV: the files of a table have one format",
            ],
        ),
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/README.md", "x")],
            &["e/README.md: not a kind of file that can be imported"],
        ),
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/kind=click/b.csv", EVENTS)],
            &["e/kind=click: ", "is a folder inside"],
        ),
        (
            "e",
            &[("e/a.parquet", "PAR1"), ("e/_delta_log/0.json", "{}")],
            &["e: is a Delta Lake table"],
        ),
        ("e", &[("e/a.csv", EVENTS), ("e/_temporary/0/x", "")], &["e: holds a _temporary folder"]),
        ("e", &[("e/a.csv", ""), ("e/b.csv", "")], &["e: its 2 files are empty"]),
        ("e", &[("e/a.csv", heading), ("e/b.csv", heading)], &["e: has no rows to import"]),
        (
            "e",
            &[("e/a.csv", "user_id,item_id,time,price\nann,1,5,2\n"), ("e/b.csv", EVENTS)],
            &[
                "e/b.csv: its columns differ from those of ",
                "e/a.csv: price is \"price\" there, and not there here",
            ],
        ),
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/b.csv", "customer_id,item_id,time\nann,1,5\n")],
            &[
                "e/b.csv: its columns differ",
                "user_id is \"user_id\" there, and \"customer_id\" here",
            ],
        ),
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/b.csv", "item_id,time\n1,5\n")],
            &["e/b.csv has no column for user_id"],
        ),
        // Spark writes parts without headings unless it is told to.
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/b.csv", "ann,1,5\n")],
            &["e/b.csv: line 1: the first line must name the columns"],
        ),
        (
            "e",
            &[("e/a.csv", EVENTS), ("e/b.csv", "user_id,item_id,time\nann,1,5\nann,9,5\n")],
            &["e/b.csv:3: item_id: found \"9\""],
        ),
    ] {
        let folder = Folder::new();
        for (name, content) in files {
            folder.file(name, content);
        }
        assert_error(folder.events(&folder.spec("items.csv", named)), words, named);
    }
    // An id that two files have is named with both.
    let folder = Folder::new();
    folder.file("events.csv", EVENTS);
    folder.file("i/a.csv", ITEMS);
    folder.file("i/b.csv", ITEMS);
    let error = folder.events(&folder.spec("i", "events.csv")).unwrap_err();
    assert!(
        error.contains("i/b.csv:2: item_id: found \"1\", expected an id of its own: line 2 of "),
        "{error}"
    );
    assert!(error.contains("i/a.csv has this one"), "{error}");
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_named_pipe_is_read_to_its_end() {
    for (name, options, bytes) in [
        ("e.csv", "", EVENTS.into()),
        ("e", "--format csv", EVENTS.into()),
        ("e", "--format csv", gzip(EVENTS)),
        ("e", "--format csv", zstd(EVENTS)),
        ("e.csv.gz", "", gzip(EVENTS)),
    ] {
        let folder = Folder::new();
        let path = folder.path(name);
        mkfifo(&path);
        let spec = ImportSpec { events_spec: stated(options), ..folder.spec("items.csv", name) };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut pipe = File::create(&path).unwrap();
                for byte in bytes.chunks(7) {
                    pipe.write_all(byte).unwrap();
                    pipe.flush().unwrap();
                }
            });
            assert_eq!(
                folder.events(&spec).as_deref(),
                Ok(&ROWS.map(str::to_owned)[..]),
                "{name} {options}"
            );
        });
    }
}

#[test]
fn what_has_no_end_or_no_format_is_refused() {
    let folder = Folder::new();
    mkfifo(&folder.path("pipe"));
    mkfifo(&folder.path("e.parquet"));
    std::os::unix::net::UnixListener::bind(folder.path("socket.csv")).unwrap();
    let zero = Path::new("/dev/zero");
    for (path, options, words) in [
        // Without a format it is not even opened, so this does not wait for a writer.
        (folder.path("pipe"), "", &["pipe: not a kind of file", "--format"][..]),
        (folder.path("e.parquet"), "", &["Parquet can't be read from a pipe"]),
        (
            folder.path("socket.csv"),
            "",
            &["socket.csv: is a socket: only files and pipes are read"],
        ),
        (zero.into(), "", &["/dev/zero: not a kind of file"]),
        (zero.into(), "--format csv", &["/dev/zero: is a device: only files and pipes are read"]),
        ("/dev/null".into(), "--format jsonl", &["/dev/null: is a device"]),
        (
            "-".into(),
            "",
            &["-: the standard input has no name that tells its format: state --format"],
        ),
    ] {
        let spec = ImportSpec {
            events: path.clone(),
            events_spec: stated(options),
            ..folder.spec("items.csv", "")
        };
        assert_error(folder.events(&spec), words, &path.display().to_string());
    }
    let both = ImportSpec {
        items: "-".into(),
        events: "-".into(),
        items_spec: stated("--format csv"),
        events_spec: stated("--format csv"),
        ..folder.spec("", "")
    };
    assert_error(folder.events(&both), &["can't be both the items and the events"], "-");
}

fn raisonne(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
    command.arg("import").args(arguments).current_dir(folder.0.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs an import with this on its standard input.
fn fed(folder: &Folder, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = raisonne(folder, arguments).spawn().unwrap();
    // A program that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn the_standard_input_is_a_table() {
    for (format, input) in [
        ("csv", EVENTS.into()),
        ("events=csv", gzip(EVENTS)),
        ("jsonl", b"{\"user_id\":\"ann\",\"item_id\":1,\"time\":1600000000}\n".to_vec()),
    ] {
        let folder = Folder::new();
        let format = if format == "jsonl" { "events=jsonl" } else { format };
        let arguments =
            ["--items", "items.csv", "--events", "-", "--format", format, "--out", "shop"];
        let output = fed(&folder, &arguments, &input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!Shop::open(&folder.path("shop")).unwrap().events.is_empty());
    }
    for (format, input, words) in [
        (&[][..], EVENTS, "the standard input has no name that tells its format: state --format"),
        (&["--format", "events=parquet"], "PAR1", "Parquet can't be read from a pipe"),
        (&["--format", "events=csv"], "", "the file is empty"),
        (&["--format", "events=text"], EVENTS, "expected csv, tsv, jsonl or parquet"),
        (&["--format", "events=csv", "--delimiter", "::"], EVENTS, "expected one ASCII character"),
        (&["--format", "events=csv", "--encoding", "utf-32"], EVENTS, "expected a known encoding"),
    ] {
        let folder = Folder::new();
        let arguments =
            [&["--items", "items.csv", "--events", "-", "--out", "shop"], format].concat();
        let output = fed(&folder, &arguments, input.as_bytes());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{error}\nlacks {words}");
        assert_eq!(folder.listing(), ["items.csv"]);
    }
}

#[test]
fn options_may_be_stated_for_one_table() {
    let folder = Folder::new();
    let (items, _, _) = encoding_rs::WINDOWS_1252.encode("item_id;title\n1;'Café'\n2;B\n");
    folder.file("items.dat", items);
    folder.file("events.csv", EVENTS);
    let arguments = [
        "--items",
        "items.dat",
        "--events",
        "events.csv",
        "--out",
        "shop",
        "--format",
        "items=csv",
        "--delimiter",
        "items=;",
        "--encoding",
        "items=windows-1252",
        "--quote",
        "items='",
    ];
    let output = fed(&folder, &arguments, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Shop::open(&folder.path("shop")).unwrap().items[0].title, "Café");
}

/// The files are changed by the first report of progress, when their first rows are read.
#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let row = |n| format!("ann,1,{}\n", 1_600_000_000 + n);
    let rows = (0..40_000).map(row).collect::<Vec<_>>().concat();
    let text = format!("user_id,item_id,time\n{rows}");
    let objects = "{\"user_id\":\"ann\",\"item_id\":1,\"time\":1600000000}\n".repeat(9_000);
    let replace: fn(&Path) = |path| {
        let other = path.with_extension("new");
        fs::copy(path, &other).unwrap();
        fs::rename(other, path).unwrap();
    };
    let grow: fn(&Path) = |path| {
        File::options().append(true).open(path).unwrap().write_all(b"bob,2,1600000000\n").unwrap();
    };
    let cut: fn(&Path) = |path| File::options().write(true).open(path).unwrap().set_len(9).unwrap();
    let touch: fn(&Path) = |path| {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let remove: fn(&Path) = |path| fs::remove_file(path).unwrap();
    for (change, how) in [
        (replace, "another file took its place"),
        (grow, "bytes and now has"),
        (cut, "bytes and now has 9"),
        (touch, "it was written to"),
        (remove, "now it can't be found"),
    ] {
        for (name, bytes) in [
            ("e.csv", text.clone().into_bytes()),
            ("e.csv.gz", gzip(&text)),
            ("e.csv.zst", zstd(&text)),
            ("e.jsonl", objects.clone().into_bytes()),
            ("e.parquet", parquet(&vec![("ann", "1", 1_600_000_000); 40_000])),
        ] {
            let folder = Folder::new();
            let path = folder.file(name, bytes);
            let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
            let spec = ImportSpec { skip_rejects: true, ..folder.spec("items.csv", name) };
            let total = fs::metadata(&path).unwrap().len() + ITEMS.len() as u64;
            let mut is_changed = false;
            let error = import(&spec, &folder.path("shop"), &mut |done, of| {
                assert!(of >= total);
                if done > ITEMS.len() as u64 && !is_changed {
                    change(&path);
                    is_changed = true;
                }
            });
            let error = error.unwrap_err().to_string();
            assert!(error.contains(&format!("{name}: changed while it was read: ")), "{error}");
            assert!(error.contains(how), "{name}: {error}\nlacks {how}");
            assert!(!folder.path("shop").exists());
        }
    }
}

/// A spreadsheet of a land where a comma is the decimal mark.
#[test]
fn a_spreadsheet_with_decimal_commas_is_no_silent_success() {
    let text = "\u{feff}item_id;title;price\r\n1;Teekanne;12,50\r\n2;Tasse;3\r\n";
    assert_error(
        titles_of("i.csv", "", text),
        &["i.csv: line 1: the heading", "--delimiter ';'"],
        "no option",
    );
    assert_error(
        titles_of("i.csv", "--delimiter ;", text),
        &["i.csv:2: price: found \"12,50\""],
        "a delimiter",
    );
    let text = text.replace("12,50", "12.50");
    assert_eq!(titles_of("i.csv", "--delimiter ;", text).unwrap(), ["Teekanne", "Tasse"]);
}

/// Many items whose titles don't compress.
fn many_items() -> String {
    let title = |n: u64| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(n));
    (0..4_000).fold("item_id,title\n".to_owned(), |text, n| text + &format!("{n},{}\n", title(n)))
}

/// A limit of a file's size stands for a disk that fills: both fail in the middle of a write.
#[test]
fn a_disk_that_fills_leaves_nothing_behind() {
    let folder = Folder::new();
    folder.file("items.csv", many_items());
    folder.file("events.csv", EVENTS);
    let before = folder.listing();
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" import --items items.csv --events events.csv --out shop";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_raisonne")])
        .current_dir(folder.0.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("items.jsonl.zst: ") && error.contains("File too large"), "{error}");
    assert_eq!(folder.listing(), before);
}

#[test]
fn a_place_that_can_not_be_written_is_named() {
    let folder = Folder::new();
    folder.file("events.csv", EVENTS);
    let spec = folder.spec("items.csv", "events.csv");
    let before = folder.listing();
    let error =
        import(&spec, &folder.path("events.csv/shop"), &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("events.csv"), "{error}");
    assert_eq!(folder.listing(), before);

    let closed = folder.path("closed");
    fs::create_dir(&closed).unwrap();
    let mut mode = fs::metadata(&closed).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(&closed, mode).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write where no one may");
        return;
    }
    let error = import(&spec, &closed.join("shop"), &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("closed: Permission denied"), "{error}");
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
}
