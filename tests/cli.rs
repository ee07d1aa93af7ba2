//! The real binary: exit codes, help texts and error messages.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{copied_bundle, flip};
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
    assert_fails(&["eval", "--bundle", "no/such/bundle"], 1, &["no/such/bundle", "manifest.toml"]);
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

#[test]
fn an_import_that_is_refused_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (items, events) = (home.path().join("items.csv"), home.path().join("events.csv"));
    fs::write(&items, "item_id,title\na,Mug\n").unwrap();
    fs::write(&events, "user_id,item_id,time\nu1,a,100\nu1,b,200\nu1,a,soon\n").unwrap();
    let out = home.path().join("shop");
    let [items, events, shop] = [&items, &events, &out].map(|path| path.to_str().unwrap());
    let arguments = ["import", "--items", items, "--events", events, "--out", shop];
    assert_fails(&arguments, 1, &["events.csv:3", "item_id", "events.csv:4", "time", "soon"]);
    assert!(!out.exists());
    let output = raisonne(&arguments).arg("--skip-rejects").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(out.exists());
}
