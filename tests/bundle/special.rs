//! Pipes, devices, folders, sockets and links in place of files: an error, and never a wait.

use super::copies::copied_bundle;
use super::{demo, whole};
use raisonne::bundle::{Bundle, Manifest, Part};
use raisonne::config::Config;
use raisonne::language::{LmTokenizer, TextTokenizer};
use raisonne::nn::decoder::Checkpoint;
use raisonne::nn::rqvae::Quantizer;
use raisonne::nn::text::TextEncoder;
use raisonne::train::Recipe;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How long a call may take before the test says that it hangs.
const HANGS_AFTER: Duration = Duration::from_mins(2);

/// What a call says, or a failure if it hangs.
fn in_time(call: impl FnOnce() -> String + Send + 'static) -> String {
    let (send, answer) = mpsc::channel();
    let call = std::thread::Builder::new().spawn(move || send.send(call()));
    drop(call.unwrap());
    answer.recv_timeout(HANGS_AFTER).expect("it should not wait")
}

fn make_pipe(at: &Path) {
    mkfifoat(CWD, at, Mode::RUSR | Mode::WUSR).unwrap();
}

/// Puts something in the first place. The file that was there is kept in the second.
type Make = fn(&Path, &Path);

/// What may lie in the place of a file, and what the error says.
const KINDS: [(&str, Make, &str); 6] = [
    ("a pipe", |at, _| make_pipe(at), "it is a pipe, and must be a regular file"),
    ("a folder", |at, _| fs::create_dir(at).unwrap(), "it is a folder, and must be a regular file"),
    (
        "a socket",
        |at, _| drop(UnixListener::bind(at).unwrap()),
        "it is a socket, and must be a regular file",
    ),
    ("an endless device", |at, _| symlink("/dev/zero", at).unwrap(), "symbolic link"),
    ("a link out", |at, kept| symlink(kept, at).unwrap(), "symbolic link"),
    ("a link to nothing", |at, _| symlink("nowhere", at).unwrap(), "symbolic link"),
];

#[test]
fn each_file_of_a_bundle_must_be_a_regular_file() {
    let home = tempfile::tempdir().unwrap();
    let dir = copied_bundle(home.path(), "demo");
    let kept = home.path().join("kept");
    let files = Part::ALL.iter().filter(|part| part.is_in(&dir));
    let mut files: Vec<String> = files.flat_map(|part| part.files(&dir).unwrap()).collect();
    files.push("manifest.toml".into());
    for file in files {
        let at = dir.join(&file);
        for (kind, make, message) in KINDS {
            fs::rename(&at, &kept).unwrap();
            make(&at, &kept);
            let bundle = dir.clone();
            let error = in_time(move || whole(&Bundle::open(&bundle).unwrap_err()));
            assert!(error.contains(message), "{kind} as {file}: {error}");
            if at.is_dir() && !at.is_symlink() {
                fs::remove_dir(&at).unwrap();
            } else {
                fs::remove_file(&at).unwrap();
            }
            fs::rename(&kept, &at).unwrap();
        }
    }
    Manifest::read(&dir).unwrap().verify(&dir).unwrap();

    // A folder of a part may not be a link, since it could lead out. The bundle itself may be.
    let link = home.path().join("current");
    symlink(&dir, &link).unwrap();
    Manifest::read(&link).unwrap().verify(&link).unwrap();
    fs::rename(dir.join("decoder"), &kept).unwrap();
    symlink(&kept, dir.join("decoder")).unwrap();
    let error = whole(&Manifest::read(&link).unwrap().verify(&link).unwrap_err());
    assert!(error.contains("it is a symbolic link, which may lead out of the bundle"), "{error}");
}

#[test]
fn a_file_above_its_parts_limit_is_not_read() {
    let home = tempfile::tempdir().unwrap();
    let dir = copied_bundle(home.path(), "demo");
    for (part, most) in
        [(Part::ScorerShape, 1 << 20), (Part::Golden, 256 << 20), (Part::Text, 64 << 30)]
    {
        let path = dir.join(part.file());
        let before = fs::read(&path).unwrap();
        // A file with a hole takes no space on the disk.
        if File::options().write(true).open(&path).unwrap().set_len(most + 1).is_err() {
            let mut err = std::io::stderr().lock();
            writeln!(err, "skipped: the file system has no files of {most} bytes").unwrap();
            continue;
        }
        let (bundle, name) = (dir.clone(), "demo");
        let error = in_time(move || whole(&Manifest::of(&bundle, name).unwrap_err()));
        let message = format!("it has {} bytes, and may have {most} at most", most + 1);
        assert!(error.contains(&message), "{error}");
        fs::write(&path, before).unwrap();
    }
}

#[test]
fn whoever_reads_a_file_by_itself_does_not_wait_either() {
    type Read = fn(&Path) -> String;
    let readers: [(&str, Read); 8] = [
        ("recipe.toml", |at| format!("{:#}", Recipe::read(at, &[]).unwrap_err())),
        ("serve.toml", |at| whole(&Config::load(Some(at)).unwrap_err())),
        ("tokenizer.json", |at| whole(&LmTokenizer::load(at.parent().unwrap()).unwrap_err())),
        ("tokenizer.json", |at| whole(&TextTokenizer::load(at).unwrap_err())),
        ("text.safetensors", |at| whole(&TextEncoder::load(at, Path::new("bert")).unwrap_err())),
        ("quantizer.safetensors", |at| whole(&Quantizer::load(at).unwrap_err())),
        ("model.gguf", |at| whole(&Checkpoint::open(at).unwrap_err())),
        ("config.json", |at| whole(&Checkpoint::open(at.parent().unwrap()).unwrap_err())),
    ];
    for (name, read) in readers {
        for device in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let at = home.path().join(name);
            if device {
                symlink("/dev/zero", &at).unwrap();
            } else {
                make_pipe(&at);
            }
            let error = in_time(move || read(&at));
            assert!(!error.is_empty(), "{name}");
        }
    }
    // The weights of a language model whose index names a pipe.
    let home = tempfile::tempdir().unwrap();
    let decoder = demo().join("decoder");
    fs::copy(decoder.join("config.json"), home.path().join("config.json")).unwrap();
    let index = "{\"weight_map\": {\"a\": \"a.safetensors\"}}";
    fs::write(home.path().join("model.safetensors.index.json"), index).unwrap();
    make_pipe(&home.path().join("a.safetensors"));
    let folder = home.path().to_owned();
    let error = in_time(move || whole(&Checkpoint::open(&folder).unwrap_err()));
    assert!(error.contains("it is a pipe, and must be a regular file"), "{error}");
}
