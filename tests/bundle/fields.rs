//! Every field of a manifest and of the golden requests, with a value that it must not have.

use super::copies::copied_bundle;
use super::{demo, folder, manifest, whole};
use raisonne::bundle::{Bundle, GoldenRequest, Manifest, Part, golden_text};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What is wrong, the change that makes it so, and a part of the error.
type FieldCase = (&'static str, Box<dyn Fn(&mut Manifest)>, String);
type LineCase = (&'static str, Part, Box<dyn Fn(&mut Value)>, &'static str);

/// What a hash must be, in errors.
const HASH_FORM: &str = "64 hexadecimal digits in lower case";

/// The hash of a file.
fn hash(of: &Manifest, name: &str) -> String {
    of.file.iter().find(|file| file.name == name).unwrap().blake3.clone()
}

/// Each changed manifest of the folder is refused with its message.
fn are_refused(dir: &Path, sound: &Manifest, cases: Vec<FieldCase>) {
    for (what, change, message) in cases {
        let mut changed = sound.clone();
        change(&mut changed);
        changed.write(dir).unwrap();
        let error = Manifest::read(dir).unwrap().verify(dir).unwrap_err();
        assert!(whole(&error).contains(&message), "{what}: {error}\nexpected: {message}");
    }
}

#[test]
fn the_demo_verifies_and_has_no_lineage() {
    let found = Manifest::read(&demo()).unwrap();
    found.verify(&demo()).unwrap();
    assert!(found.lineage.is_empty(), "it was made before bundles had one");
    assert_eq!(Manifest::of(&demo(), "demo").unwrap(), found);
}

#[test]
fn each_field_of_a_manifest_and_of_its_files_is_checked() {
    let folder = folder();
    let dir = folder.path();
    let sound = manifest(dir);
    sound.verify(dir).unwrap();
    let (catalog, zeros) = (hash(&sound, "catalog.jsonl.zst"), "0".repeat(64));
    let (whole_hash, space) = (sound.version.trim_start_matches("small-"), &sound.space);
    let cases: Vec<FieldCase> = vec![
        (
            "another version",
            Box::new(|of| of.version = "small-000000000000".into()),
            format!(
                "`version` is \"small-000000000000\", expected a name and \"-{whole_hash}\", the hash of the files"
            ),
        ),
        (
            "a version without a name",
            Box::new(|of| of.version = of.version.replace("small", "")),
            format!(
                "`version` is \"-{whole_hash}\", expected a name of 1 to 128 bytes before the hash"
            ),
        ),
        (
            "another space",
            Box::new(|of| of.space = "76ec76f575c0".into()),
            format!("`space` is \"76ec76f575c0\", expected \"{space}\", the hash of"),
        ),
        (
            "a file twice",
            Box::new(|of| of.file.push(of.file[0].clone())),
            "`file.name` is \"catalog.jsonl.zst\" twice, expected each name once".into(),
        ),
        (
            "a file out of the bundle",
            Box::new(|of| of.file[0].name = "../catalog.jsonl.zst".into()),
            "`file.name` is \"../catalog.jsonl.zst\", expected the name of a file in the bundle"
                .into(),
        ),
        (
            "a file that belongs to no part",
            Box::new(|of| of.file[0].name = "notes.txt".into()),
            "`file.name` is \"notes.txt\", expected the name of a file of one of a bundle's parts"
                .into(),
        ),
        (
            "another length",
            Box::new(|of| of.file[0].bytes += 1),
            "catalog.jsonl.zst: `bytes` is 17, expected 18".into(),
        ),
        (
            "a length above the part's limit",
            Box::new(|of| of.file[6].bytes = 1 << 50),
            "`file.bytes` is 1125899906842624 of".into(),
        ),
        (
            "another hash",
            Box::new({
                let zeros = zeros.clone();
                move |of| of.file[0].blake3.clone_from(&zeros)
            }),
            format!("its BLAKE3 hash is {catalog}, the manifest says {zeros}"),
        ),
        (
            "a hash in upper case",
            Box::new(|of| of.file[0].blake3 = of.file[0].blake3.to_uppercase()),
            format!("of catalog.jsonl.zst, expected {HASH_FORM}"),
        ),
        (
            "half a pair",
            Box::new(|of| {
                let mut half = of.file[0].clone();
                half.name = "rechead.toml".into();
                of.file.push(half);
            }),
            "it names rechead.toml, and lacks rechead.safetensors".into(),
        ),
        (
            "a needed part that is not named",
            Box::new(|of| of.file.retain(|file| file.name != "samples.json")),
            "it lacks samples.json".into(),
        ),
        (
            "a named file that is not there",
            Box::new(|of| {
                let mut other = of.file[0].clone();
                other.name = "decoder/config.json".into();
                of.file.push(other.clone());
                of.file.push(raisonne::bundle::FileEntry { name: "reranker.toml".into(), ..other });
            }),
            "lacks decoder/config.json".into(),
        ),
    ];
    are_refused(dir, &sound, cases);
}

#[test]
fn each_field_of_a_lineage_is_checked() {
    let folder = folder();
    let dir = folder.path();
    let sound = manifest(dir);
    sound.verify(dir).unwrap();
    let [catalog, text] = ["catalog.jsonl.zst", "text.safetensors"].map(|name| hash(&sound, name));
    let zeros = "0".repeat(64);
    let cases: Vec<FieldCase> = vec![
        (
            "a part without lineage",
            Box::new(|of| of.lineage.retain(|record| record.part != "text.safetensors")),
            "`lineage` is without text.safetensors, expected each part of the bundle".into(),
        ),
        (
            "a lineage twice",
            Box::new(|of| of.lineage.push(of.lineage[0].clone())),
            "`lineage.part` is \"catalog.jsonl.zst\" twice, expected each part once".into(),
        ),
        (
            "a lineage of another file",
            Box::new({
                let text = text.clone();
                move |of| of.lineage[0].blake3.clone_from(&text)
            }),
            format!(
                "`lineage.blake3` is \"{text}\" of catalog.jsonl.zst, expected \"{catalog}\", its hash"
            ),
        ),
        (
            "another data snapshot",
            Box::new(|of| of.lineage[3].data = "c".repeat(64)),
            "`lineage.data` is \"cccc".into(),
        ),
        (
            "an input that is another part's",
            Box::new({
                let zeros = zeros.clone();
                move |of| {
                    of.lineage[2].inputs.insert("catalog.jsonl.zst".into(), zeros.clone());
                }
            }),
            format!(
                "`lineage.inputs.\"catalog.jsonl.zst\"` is \"{zeros}\" of text.safetensors, expected \"{catalog}\""
            ),
        ),
        (
            "an input without lineage",
            Box::new({
                let zeros = zeros.clone();
                move |of| {
                    of.lineage[2].inputs.insert("midtrained".into(), zeros.clone());
                }
            }),
            "expected the hash of a part with a lineage".into(),
        ),
        (
            "no stage",
            Box::new(|of| of.lineage[1].stage.clear()),
            "`lineage.stage` is \"\" of tokenizer.json, expected the name of a stage".into(),
        ),
        (
            "a recipe's hash that is none",
            Box::new(|of| of.lineage[1].recipe = "none".into()),
            format!("`lineage.recipe` is \"none\" of tokenizer.json, expected {HASH_FORM}"),
        ),
    ];
    are_refused(dir, &sound, cases);
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let folder = folder();
    let dir = folder.path();
    let sound = manifest(dir).to_text();
    for (what, text, message) in [
        ("nothing", String::new(), "missing field `version`"),
        ("an unknown field", format!("owner = \"me\"\n{sound}"), "unknown field `owner`"),
        ("a negative length", sound.replace("bytes = 17", "bytes = -17"), "invalid value"),
        ("a text for a length", sound.replace("bytes = 17", "bytes = \"17\""), "invalid type"),
        ("JSON", "{\"version\": 1}".into(), "manifest.toml can't be read"),
        (
            "many files",
            "version = \"\"\nspace = \"\"\n".to_owned()
                + &"[[file]]\nname = \"a\"\nbytes = 0\nblake3 = \"\"\n".repeat(257),
            "`file` is a list of 257, expected at most 256 files",
        ),
        (
            "a mebibyte",
            format!("# {}\n{sound}", "x".repeat(1 << 20)),
            "and may have 1048576 at most",
        ),
    ] {
        fs::write(dir.join("manifest.toml"), text).unwrap();
        let error = Manifest::read(dir).unwrap_err();
        assert!(whole(&error).contains(message), "{what}: {}", whole(&error));
    }
}

/// Nothing reads files beside the parts, and a volume may hold some of its own. A folder of a part is read by
/// listing it, so that a stranger in there counts.
#[test]
fn strangers_are_ignored_beside_the_parts_and_refused_within_them() {
    let home = tempfile::tempdir().unwrap();
    let dir = copied_bundle(home.path(), "demo");
    fs::write(dir.join("README.md"), "mine").unwrap();
    fs::create_dir(dir.join("lost+found")).unwrap();
    let manifest = Manifest::read(&dir).unwrap();
    manifest.verify(&dir).unwrap();
    for stranger in ["decoder/extra.safetensors", "shop"] {
        fs::write(dir.join(stranger), "x").unwrap();
        let error = manifest.verify(&dir).unwrap_err().to_string();
        assert!(error.contains(&format!("it lacks {stranger}")), "{error}");
        fs::remove_file(dir.join(stranger)).unwrap();
    }
}

#[test]
fn golden_requests_cover_what_the_bundle_serves() {
    let home = tempfile::tempdir().unwrap();
    let dir = copied_bundle(home.path(), "demo");
    let text = fs::read(dir.join(Part::Golden.file())).unwrap();
    let sound: Vec<GoldenRequest> = serde_json::from_slice(&text).unwrap();
    let each = |change: &dyn Fn(&mut GoldenRequest)| {
        let mut golden = sound.clone();
        golden.iter_mut().for_each(change);
        golden_text(&golden)
    };
    let long: Vec<Value> = vec![json!(0.0); 2_001];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("none", b"[]".to_vec(), "`requests` is an empty list, expected at least one"),
        (
            "without items",
            each(&|golden| golden.items.clear()),
            "`[0].items` is empty, expected at least one item",
        ),
        (
            "without scores",
            each(&|golden| golden.scores.clear()),
            "`[0].scores` is a list of 0, expected one for each of 20 items",
        ),
        (
            "with a score too few",
            each(&|golden| _ = golden.scores.pop()),
            "`[0].scores` is a list of 19, expected one for each of 20 items",
        ),
        (
            "with logits too few",
            each(&|golden| _ = golden.weighed.pop()),
            "`[0].weighed` is a list of 19, expected one for each of 20 items",
        ),
        (
            "without the Rechead",
            each(&|golden| golden.rechead.clear()),
            "`rechead` is in 0 requests, expected in at least one: the bundle has a Rechead",
        ),
        (
            "many",
            golden_text(&sound.iter().cycle().take(257).cloned().collect::<Vec<_>>()),
            "a list has more than 256 entries",
        ),
        (
            "of a huge slate",
            json!([{"user": "u", "now": 0, "items": [], "scores": long}]).to_string().into_bytes(),
            "a list has more than 2000 entries",
        ),
        ("no list", b"{}".to_vec(), "golden.json can't be read"),
    ];
    for (what, golden, message) in cases {
        fs::write(dir.join(Part::Golden.file()), golden).unwrap();
        Manifest::of(&dir, "demo").unwrap().write(&dir).unwrap();
        let error = Bundle::open(&dir).unwrap_err().to_string();
        assert!(error.contains(message), "{what}: {error}");
    }
    // A Rechead's scores are of no use without a Rechead.
    fs::write(dir.join(Part::Golden.file()), &text).unwrap();
    for part in [Part::Rechead, Part::RecheadShape] {
        fs::remove_file(dir.join(part.file())).unwrap();
    }
    Manifest::of(&dir, "demo").unwrap().write(&dir).unwrap();
    let error = Bundle::open(&dir).unwrap_err().to_string();
    assert!(error.contains("expected in none: the bundle has no Rechead"), "{error}");
}

/// One line of a compressed part, changed.
fn with_line(dir: &Path, part: Part, change: &dyn Fn(&mut Value)) {
    let path = dir.join(part.file());
    let text = zstd::decode_all(&fs::read(&path).unwrap()[..]).unwrap();
    let text = String::from_utf8(text).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let mut line: Value = serde_json::from_str(first).unwrap();
    change(&mut line);
    let text = format!("{line}\n{rest}");
    fs::write(&path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
}

#[test]
fn lines_and_their_lists_are_bounded() {
    let reason = json!({"text": "t", "kind": "recent", "count": 1, "of": 1, "strength": 0.5});
    let cases: [LineCase; 6] = [
        (
            "a history",
            Part::UserCards,
            Box::new(|line| line["history"] = json!(vec![json!([0, 0, 0]); 51])),
            "user_cards.jsonl.zst can't be read: line 1: a list has more than 50 entries",
        ),
        (
            "reasons",
            Part::ItemCards,
            Box::new({
                let reason = reason.clone();
                move |line| line["reasons"] = json!(vec![reason.clone(); 11])
            }),
            "item_cards.jsonl.zst can't be read: line 1: a list has more than 10 entries",
        ),
        (
            "supporters",
            Part::ItemCards,
            Box::new(move |line| {
                let mut reason = reason.clone();
                reason["supporters"] = json!(vec!["u"; 17]);
                line["reasons"] = json!([reason]);
            }),
            "item_cards.jsonl.zst can't be read: line 1: a list has more than 16 entries",
        ),
        (
            "attributes",
            Part::Catalog,
            Box::new(|line| line["attributes"] = json!(vec![("a", "b"); 129])),
            "catalog.jsonl.zst can't be read: line 1: a list has more than 128 entries",
        ),
        (
            "a line",
            Part::Catalog,
            Box::new(|line| line["title"] = "x".repeat(9 << 20).into()),
            "catalog.jsonl.zst can't be read: line 1: it is longer than 8388608 bytes",
        ),
        (
            "a line of a user",
            Part::UserCards,
            Box::new(|line| line["pattern"] = "x".repeat(9 << 20).into()),
            "user_cards.jsonl.zst can't be read: line 1: it is longer than 8388608 bytes",
        ),
    ];
    let home = tempfile::tempdir().unwrap();
    let dir = copied_bundle(home.path(), "demo");
    for (what, part, change, message) in cases {
        let before = fs::read(dir.join(part.file())).unwrap();
        with_line(&dir, part, &*change);
        Manifest::of(&dir, "demo").unwrap().write(&dir).unwrap();
        let error = Bundle::open(&dir).unwrap_err().to_string();
        assert!(error.starts_with(message), "{what}: {error}");
        fs::write(dir.join(part.file()), before).unwrap();
    }
    // A few compressed bytes that become a huge text.
    let row = |number: usize| {
        let title = "x".repeat(6 << 20);
        json!({"id": number.to_string(), "title": title, "category": "", "attributes": [], "price": null})
    };
    let rows: Vec<String> = (0..14).map(|number| format!("{}\n", row(number))).collect();
    let path = dir.join(Part::Catalog.file());
    let before = fs::read(&path).unwrap();
    fs::write(&path, zstd::encode_all(rows.concat().as_bytes(), 1).unwrap()).unwrap();
    Manifest::of(&dir, "demo").unwrap().write(&dir).unwrap();
    let error = Bundle::open(&dir).unwrap_err().to_string();
    assert!(error.contains("all lines together are longer than"), "{error}");
    fs::write(&path, before).unwrap();
    // More lines than the catalogue has items are not even kept.
    let path = dir.join(Part::ItemCards.file());
    let twice = fs::read(&path).unwrap().repeat(2);
    fs::write(&path, twice).unwrap();
    Manifest::of(&dir, "demo").unwrap().write(&dir).unwrap();
    let error = Bundle::open(&dir).unwrap_err().to_string();
    assert!(error.contains("line 3001: there are more than 3000 lines"), "{error}");
}
