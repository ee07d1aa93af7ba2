//! The real binary: exit codes, help texts and error messages.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{copied_bundle, flip};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn raisonne(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_fails(arguments: &[&str], code: i32, words: &[&str]) {
    let output = raisonne(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    for word in words {
        assert!(
            stderr(&output).contains(word),
            "{arguments:?} must name {word}: {}",
            stderr(&output)
        );
    }
}

/// A server in the background. It is killed when dropped.
struct ServerProcess(Child);

impl ServerProcess {
    /// Starts `serve` and waits until it logs that it serves.
    fn start(arguments: &[&str], store: &Path) -> Self {
        let mut command = raisonne(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).env("RAISONNE__STORE__PATH", store);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving gRPC and HTTP") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the server ended before it served");
        }
        std::thread::Builder::new()
            .spawn(move || {
                let mut rest = Vec::new();
                let _ = lines.read_to_end(&mut rest);
            })
            .unwrap();
        Self(child)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn misuse_and_failure_have_codes_of_their_own() {
    assert_fails(&["serve", "--no-such-flag"], 2, &["--no-such-flag"]);
    assert_fails(&["no-such-command"], 2, &["no-such-command"]);
    assert_fails(&["stage", "no-such-stage"], 1, &["no-such-stage", "reward_model"]);
    assert_fails(
        &["eval", "--bundle", "no/such/bundle"],
        1,
        &["no/such/bundle", "there is no such folder"],
    );
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let help = |command: &[&str]| {
        let output = raisonne(command).arg("--help").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The commands below `Commands:` in a help text.
    let commands = |help: &str| -> Vec<String> {
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let listed = listed.take_while(|line| !line.is_empty());
        let names = listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
        names.filter(|name| name != "help").collect()
    };
    let mut checked = 0;
    let mut open: Vec<Vec<String>> = vec![vec![]];
    while let Some(command) = open.pop() {
        let text = help(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let name = command.join(" ");
        if !command.is_empty() {
            assert!(text.contains(&format!("Example: raisonne {name}")), "{name}: {text}");
            checked += 1;
        }
        open.extend(commands(&text).into_iter().map(|next| [&command[..], &[next]].concat()));
    }
    assert!(checked > 15, "only {checked} commands were found");
}

#[test]
fn renamed_flags_are_accepted_under_their_old_names() {
    for bench in ["engine", "learner", "logits"] {
        let flag = ["bench", bench, "--rows-max", "0x"];
        assert_fails(&flag, 2, &["invalid value '0x'", "--max-batched-tokens"]);
    }
}

#[test]
fn the_demo_takes_the_configuration_of_serve() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("demo.toml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fs::write(&config, format!("[api]\nlisten = \"{address}\"\n")).unwrap();
    let demo = ["demo", "--once", "--config", config.to_str().unwrap()];
    assert_fails(&demo, 1, &[&address]);

    // The environment wins over the file, and an option over both.
    let output = raisonne(&demo).env("RAISONNE__BUNDLE__PATH", "no/such/bundle").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no/such/bundle"), "{}", stderr(&output));
    let output = raisonne(&["demo", "--once"]).env("RAISONNE__API__LISSTEN", "x").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("lissten"), "{}", stderr(&output));
    let output = raisonne(&demo)
        .args(["--listen", "127.0.0.1:0"])
        .env("RAISONNE__API__LISTEN", &address)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_bundle_with_one_flipped_byte_is_not_served() {
    let home = tempfile::tempdir().unwrap();
    let bundle = copied_bundle(home.path(), "bundle");
    flip(&bundle.join("scorer.safetensors"));
    let bundle = bundle.to_str().unwrap();
    assert_fails(&["serve", "--bundle", bundle], 1, &["scorer.safetensors", "BLAKE3"]);
    assert_fails(&["bundle", "verify", bundle], 1, &["scorer.safetensors"]);
}

#[test]
fn a_bundle_with_a_missing_file_is_not_served() {
    let home = tempfile::tempdir().unwrap();
    let bundle = copied_bundle(home.path(), "bundle");
    fs::remove_file(bundle.join("item_cards.jsonl.zst")).unwrap();
    assert_fails(&["check", "--bundle", bundle.to_str().unwrap()], 1, &["item_cards.jsonl.zst"]);
}

#[test]
fn a_manifest_cannot_lead_out_of_its_folder() {
    let home = tempfile::tempdir().unwrap();
    let bundle = copied_bundle(home.path(), "bundle");
    let manifest = bundle.join("manifest.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let evil = text.replacen("catalog.jsonl.zst", "../../etc/passwd", 1);
    assert_ne!(text, evil);
    fs::write(&manifest, evil).unwrap();
    assert_fails(&["check", "--bundle", bundle.to_str().unwrap()], 1, &["manifest.toml"]);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a-file");
    fs::write(&file, "in the way").unwrap();
    let store = file.join("facts.redb");
    let output = raisonne(&["check"]).env("RAISONNE__STORE__PATH", &store).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a-file"), "{}", stderr(&output));
}

#[test]
fn two_servers_do_not_share_a_store() {
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("facts.redb");
    let _first = ServerProcess::start(&[], &store);
    let second = raisonne(&["serve", "--listen", "127.0.0.1:0"])
        .env("RAISONNE__STORE__PATH", &store)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another server has it open"), "{}", stderr(&second));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_fails(&["serve", "--listen", &address], 1, &[&address]);
    assert_fails(&["demo", "--once", "--listen", &address], 1, &[&address]);
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("serve.toml");
    fs::write(&config, "[api]\nlisten_on = \"127.0.0.1:1\"\n").unwrap();
    assert_fails(&["check", "--config", config.to_str().unwrap()], 1, &["listen_on"]);
}

#[test]
fn the_demo_shows_slates_before_and_after_with_reasons() {
    let output = raisonne(&["demo", "--once", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in
        ["simulated shop", "bought, latest first", "scored in", "weighed in", "(was ", " – "]
    {
        assert!(shown.contains(words), "the demo must print {words:?}:\n{shown}");
    }
}

/// A folder with things to mistake for others: an empty folder, a file, tables, a shop, and wrong settings.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir(home.path("empty")).unwrap();
        for (name, text) in [
            ("file", "hello"),
            ("items.csv", "item_id,title,brand\na,Mug,Acme\n"),
            ("events.csv", "user_id,item_id,time\nu1,a,1600000000\nu2,a,1600100000\n"),
            ("wrong.csv", "user_id,item_id,time\nu1,a,1600000000\nu1,b,1600000000\nu1,a,soon\n"),
            ("strange.csv", "buyer,sku,day\nu1,a,1600000000\n"),
            ("type.toml", "[api]\nlisten = 5\n"),
            ("key.toml", "[api]\nlisten_on = \"127.0.0.1:1\"\n"),
            ("range.toml", "[scorer]\nthreads = 0\n"),
        ] {
            fs::write(home.path(name), text).unwrap();
        }
        let output =
            home.run("import --items DIR/items.csv --events DIR/events.csv --out DIR/shop");
        assert!(output.status.success(), "{}", stderr(&output));
        home
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command line, in which `DIR` stands for this folder.
    fn run(&self, line: &str) -> Output {
        let dir = self.0.path().to_str().unwrap();
        let words: Vec<_> = line.split(' ').map(|word| word.replace("DIR", dir)).collect();
        raisonne(&words.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap()
    }

    /// The first line on stderr, with `DIR` for this folder.
    fn told(&self, output: &Output) -> String {
        stderr(output).replace(self.0.path().to_str().unwrap(), "DIR")
    }
}

/// A command line, its exit code, and what it is told, without `error: `.
type Mistake = (String, i32, String);

/// What each mistake is told, wholly. Usage errors have further lines on how to get help.
#[test]
fn every_mistake_is_told_once_and_by_name() {
    let home = Home::new();
    let mistakes = [mistakes_of_serving(), mistakes_of_training(), mistakes_of_import()].concat();
    let mut wrong = Vec::new();
    for (line, code, expected) in &mistakes {
        let output = home.run(line);
        let told = home.told(&output);
        let is_told = match code {
            2 => told.starts_with(&format!("error: {expected}\n")),
            // A slow machine shows progress before it.
            _ => {
                told.ends_with(&format!("error: {expected}\n"))
                    && told.matches("error: ").count() == 1
            }
        };
        if output.status.code() != Some(*code) || !is_told {
            let found = output.status.code();
            wrong.push(format!(
                "{line}\n  expected {code} error: {expected}\n  found {found:?} {told}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!home.path("new").exists(), "a mistake must leave nothing");
}

fn mistakes_of_serving() -> Vec<Mistake> {
    let no_bundle = |path: &str, why: &str| {
        format!("opening the bundle DIR/{path}: DIR/{path} is not a bundle: {why}")
    };
    let shop_instead =
        "it has no manifest.toml; it is a shop, of which `raisonne bundle make` makes a bundle";
    vec![
        ("check --config DIR/nope.toml".into(), 1, "cannot read the configuration DIR/nope.toml: No such file or directory (os error 2)".into()),
        ("check --config DIR/empty".into(), 1, "cannot read the configuration DIR/empty: it is a folder, and must be a regular file".into()),
        ("check --config DIR/type.toml".into(), 1, "reading DIR/type.toml: invalid configuration: invalid type: integer `5`, expected socket address, in `api.listen`".into()),
        ("check --config DIR/range.toml".into(), 1, "reading DIR/range.toml: invalid configuration: scorer.threads is 0, but must be at least 1".into()),
        ("check --bundle DIR/nope".into(), 1, no_bundle("nope", "there is no such folder")),
        ("check --bundle DIR/empty".into(), 1, no_bundle("empty", "it has no manifest.toml")),
        ("check --bundle DIR/file".into(), 1, no_bundle("file", "it is a file, not a folder with a manifest.toml")),
        ("check --bundle DIR/shop".into(), 1, no_bundle("shop", shop_instead)),
        ("serve --bundle DIR/shop".into(), 1, no_bundle("shop", shop_instead)),
        ("bundle verify DIR/shop".into(), 1, format!("DIR/shop is not a bundle: {shop_instead}")),
        ("eval --bundle DIR/shop".into(), 1, format!("DIR/shop is not a bundle: {shop_instead}")),
        ("eval --bundle DIR/file".into(), 1, "DIR/file is not a bundle: it is a file, not a folder with a manifest.toml".into()),
        ("eval --data DIR/nope".into(), 1, "DIR/nope is not a shop: there is no such folder".into()),
        ("eval --data DIR/empty".into(), 1, "DIR/empty is not a shop: the folder is empty".into()),
        ("eval --data DIR/file".into(), 1, "DIR/file is not a shop: it is a file; `raisonne import` makes a shop of tables".into()),
        ("stage nope".into(), 1, "there is no stage \"nope\"; the stages are prepare, text_encoder, semantic_ids, rechead_early, reward_model, query, midtrain, traces, sft, weigh, rechead, fuse, write, evaluate".into()),
        ("stage prepare --recipe DIR/nope.toml".into(), 1, "reading the recipe DIR/nope.toml: No such file or directory (os error 2)".into()),
        ("bundle make --out DIR/new --from nope".into(), 1, "there is no stage \"nope\"; `raisonne stage --list` shows them".into()),
        ("simulate --out DIR/shop".into(), 1, "DIR/shop exists already: remove it, or name another folder".into()),
        ("simulate --out DIR/new --shoppers 0".into(), 1, "shoppers must be from 1 to 100000000, not 0".into()),
        ("generate --model DIR/nope --prompt x".into(), 1, "opening the model `DIR/nope`: cannot read `DIR/nope`: No such file or directory (os error 2)".into()),
        ("generate --model DIR/empty --prompt x".into(), 1, "opening the model `DIR/empty`: `DIR/empty` holds no model; it should be a folder with config.json and *.safetensors, or a GGUF file".into()),
        ("serve --listen x".into(), 2, "invalid value 'x' for '--listen <LISTEN>': invalid socket address syntax".into()),
        ("bundle nope".into(), 2, "unrecognized subcommand 'nope'".into()),
        ("generate --model DIR/empty --prompt x --device foo".into(), 2, "invalid value 'foo' for '--device <DEVICE>': \"foo\" is no device: it must be \"cpu\", \"cuda\" or \"cuda:N\"".into()),
    ]
}

fn mistakes_of_training() -> Vec<Mistake> {
    let recipe = "--recipe models/demo.toml --work DIR/empty";
    let keys = "`name`, `seed`, `shop`, `split`, `slates`, `text_encoder`, `semantic_ids`, `reward_model`, \
                `direct`, `query`, `language_model`, `rechead`, `cards`, `evaluate`";
    vec![
        (format!("stage reward_model {recipe}"), 1, "reward_model needs catalog.jsonl.zst, which DIR/empty does not hold: run the stages before it first".into()),
        (format!("stage reward_model {recipe} --set x"), 1, "\"x\" is not KEY=VALUE".into()),
        (format!("stage reward_model {recipe} --set x=1"), 1, format!("reading the recipe models/demo.toml: unknown field `x`, expected one of {keys}")),
        (format!("stage reward_model {recipe} --set reward_model.loss=foo"), 1, "reading the recipe models/demo.toml: unknown variant `foo`, expected `softmax` or `bce`\nin `reward_model.loss`".into()),
        (format!("stage prepare {recipe} --set shop.imported=DIR/empty"), 1, "shop: exactly one of `imported` and `simulated` must be given".into()),
    ]
}

fn mistakes_of_import() -> Vec<Mistake> {
    const OURS: &str = "attributes, basket, category, description, event_id, item_id, kind, price, quantity, time, \
                        title, user_id";
    let import =
        |more: &str| format!("import --items DIR/items.csv --events DIR/events.csv {more}");
    let import_of =
        |events: &str| format!("import --items DIR/items.csv --events DIR/{events} --out DIR/new");
    vec![
        (import("--out DIR/shop"), 1, "DIR/shop exists already: remove it, or name another folder".into()),
        (import("--out DIR/file"), 1, "DIR/file exists already: remove it, or name another folder".into()),
        (import("--out DIR/file/shop"), 1, "can't write a shop into DIR/file: not a directory".into()),
        (import("--out DIR/new --column tmie=day"), 1, format!("\"tmie\" is not one of our columns (did you mean \"time\"?): {OURS}")),
        (import("--out DIR/new --column price=cost"), 1, "no file has a column \"cost\" to read as price; they have brand, item_id, time, title, user_id".into()),
        (import("--out DIR/new --attributes brnad"), 1, "DIR/items.csv has no column for brnad: looked for brnad; it has brand, item_id, title; did you mean `--attributes brand`?".into()),
        (import_of("nope.csv"), 1, "DIR/nope.csv: No such file or directory (os error 2)".into()),
        (import_of("strange.csv"), 1, "DIR/strange.csv has no column for user_id: looked for user_id, customer_id; it has buyer, day, sku; say which it is, such as `--column user_id=buyer`".into()),
        (import_of("wrong.csv"), 1, "nothing was imported: 2 of 4 rows are wrong; correct them, or add `--skip-rejects` to import the others".into()),
        (import("--out DIR/new --column x"), 2, "invalid value 'x' for '--column <OURS=THEIRS>': it must be OURS=THEIRS, such as item_id=sku".into()),
        (import("--out DIR/new --rejects-max x"), 2, "invalid value 'x' for '--rejects-max <REJECTS_MAX>': invalid digit found in string".into()),
    ]
}

#[test]
fn an_import_that_is_refused_shows_its_page_and_writes_nothing() {
    let home = Home::new();
    let line = "import --items DIR/items.csv --events DIR/wrong.csv --out DIR/new";
    let refused = home.run(line);
    assert_eq!(refused.status.code(), Some(1));
    let page = String::from_utf8_lossy(&refused.stdout).into_owned();
    for words in [
        "3 rows read, 1 kept, 2 rejected",
        "1 row: time: expected",
        "line 4 has \"soon\"",
        "columns ignored: brand",
        "events of 1 id that the table of items does not have",
    ] {
        assert!(page.contains(words), "{words} is not in\n{page}");
    }
    assert!(!home.path("new").exists());

    let refused = home.run(&format!("{line} --json"));
    assert_eq!(refused.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&json["imported"], &json["tables"][1]["rejected"]), (&false.into(), &2.into()));
    assert!(json["error"].as_str().unwrap().contains("--skip-rejects"), "{json}");

    let lacking =
        home.run("import --items DIR/items.csv --events DIR/strange.csv --out DIR/new --json");
    let json: serde_json::Value = serde_json::from_slice(&lacking.stdout).unwrap();
    assert!(json["error"].as_str().unwrap().contains("--column user_id=buyer"), "{json}");

    let output = home.run(&format!("{line} --skip-rejects --json"));
    assert!(output.status.success(), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["imported"], &json["events"]), (&true.into(), &1.into()));
    assert!(home.path("new").exists());
}

/// The limit of a file's size stands for a disk that fills.
#[test]
#[cfg(unix)]
fn a_disk_that_fills_is_named_and_nothing_is_left() {
    let home = Home::new();
    let mut events = String::from("user_id,item_id,time\n");
    for row in 0_u32..60_000 {
        let user = row.wrapping_mul(2_654_435_761);
        writeln!(events, "u{user},a,{}", 1_600_000_000 + row).unwrap();
    }
    fs::write(home.path("many.csv"), events).unwrap();
    let run = "trap '' XFSZ; ulimit -f 200; exec \"$0\" import --items items.csv --events many.csv --out new";
    let output = Command::new("sh")
        .args(["-c", run, env!("CARGO_BIN_EXE_raisonne")])
        .current_dir(home.0.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("error: new/events.csv.zst: File too large"),
        "{}",
        stderr(&output)
    );
    let names = fs::read_dir(home.0.path()).unwrap();
    let names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name == "new" || name.starts_with('.')), "{names:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let home = Home::new();
    let output = home.run("import --items DIR/items.csv --events DIR/events.csv --out /proc/shop");
    assert_eq!(output.status.code(), Some(1));
    let told = home.told(&output);
    assert!(told.contains("error: can't write a shop into /proc: "), "{told}");
}
