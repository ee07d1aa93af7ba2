//! A new bundle takes the place of an old one, or nothing happens.

use super::{demo, folder, manifest};
use raisonne::bundle::{
    BundleError, Draft, FileOperation, LEFTOVER_PREFIX, MANIFEST, Manifest, Part,
};
use rustix::io::Errno;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// Makes a bundle of which one file says `content`, in the place of `out`.
fn publish(
    out: &Path,
    content: &str,
    observer: &mut dyn FnMut(FileOperation, &Path) -> io::Result<()>,
) -> Result<Manifest, BundleError> {
    let parts = folder();
    fs::create_dir(parts.path().join("decoder")).unwrap();
    for (file, text) in [
        ("samples.json", content),
        ("decoder/config.json", "{}"),
        ("decoder/model.safetensors", "weights"),
        ("reranker.toml", ""),
    ] {
        fs::write(parts.path().join(file), text).unwrap();
        // Neither the modes of the parts nor the umask count.
        fs::set_permissions(parts.path().join(file), Permissions::from_mode(0o600)).unwrap();
    }
    let mut draft = Draft::begin_observed(out, observer)?;
    let fill = |draft: &mut Draft<'_>| -> Result<Manifest, BundleError> {
        for part in Part::ALL.into_iter().filter(|part| part.is_in(parts.path())) {
            for file in part.files(parts.path())? {
                draft.copy(&parts.path().join(&file), &file, part.bytes_max())?;
            }
        }
        let manifest = Manifest::of(draft.path(), "small")?;
        draft.write(MANIFEST, manifest.to_text().as_bytes())?;
        Ok(manifest)
    };
    let placed = fill(&mut draft).and_then(|manifest| draft.place().map(|()| manifest));
    if placed.is_err() {
        draft.abandon();
    }
    placed
}

/// The version of the bundle, if it is whole.
fn version(out: &Path) -> String {
    let manifest = Manifest::read(out).unwrap();
    manifest.verify(out).unwrap();
    manifest.version
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Counts the operations, and ends the publication before the `kill_at`th, as a kill would.
fn killed(out: &Path, content: &str, kill_at: usize, exchange: bool) -> (usize, bool) {
    let mut count = 0;
    let done = publish(out, content, &mut |operation, _| {
        count += 1;
        if count > kill_at {
            return Err(io::Error::other("killed"));
        }
        if operation == FileOperation::Exchange && !exchange {
            return Err(Errno::NOSYS.into());
        }
        Ok(())
    });
    (count, done.is_ok())
}

#[test]
fn whenever_a_publication_is_killed_the_old_bundle_or_the_new_one_is_there() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("bundle");
    let mut tell_nothing = |_: FileOperation, _: &Path| Ok(());
    let old = publish(&out, "old", &mut tell_nothing).unwrap().version;
    let aside = home.path().join("new");
    let new = publish(&aside, "new", &mut tell_nothing).unwrap().version;
    fs::remove_dir_all(&aside).unwrap();
    assert_ne!(old, new);

    let (mut kill_at, mut replaced) = (0, 0);
    loop {
        let (count, done) = killed(&out, "new", kill_at, true);
        let found = version(&out);
        assert!(found == old || found == new, "killed at {kill_at}: {found}");
        if done {
            assert!(count <= kill_at);
            break;
        }
        replaced += usize::from(found == new);
        // The next publication starts from the old bundle again, with the leftovers of this one.
        publish(&out, "old", &mut tell_nothing).unwrap();
        assert_eq!(names(home.path()), ["bundle"], "leftovers are removed");
        kill_at += 1;
    }
    assert_eq!(
        replaced, 2,
        "before the flush of the folder around it, and before the old one is removed"
    );
    assert!(kill_at > 40, "only {kill_at} operations were told of");
    assert_eq!(version(&out), new);
    assert_eq!(names(home.path()), ["bundle"]);
}

#[test]
fn a_first_publication_that_is_killed_leaves_nothing_or_a_whole_bundle() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("deep/bundle");
    for kill_at in 0.. {
        let (_, done) = killed(&out, "new", kill_at, true);
        assert!(!out.exists() || !version(&out).is_empty(), "killed at {kill_at}");
        if done {
            break;
        }
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
    }
    assert_eq!(names(&home.path().join("deep")), ["bundle"]);
}

/// Without an exchange there is a moment without a bundle, and the next publication mends it.
#[test]
fn where_folders_can_t_be_exchanged_the_old_bundle_is_put_back() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("bundle");
    let mut tell_nothing = |_: FileOperation, _: &Path| Ok(());
    let old = publish(&out, "old", &mut tell_nothing).unwrap().version;
    let mut gaps = 0;
    for kill_at in 0.. {
        let (_, done) = killed(&out, "new", kill_at, false);
        if done {
            break;
        }
        if !out.exists() {
            gaps += 1;
            // The next one begins by putting the old bundle back, whatever becomes of it.
            drop(Draft::begin(&out).unwrap());
            assert_eq!(version(&out), old);
        }
        publish(&out, "old", &mut tell_nothing).unwrap();
        assert_eq!(names(home.path()), ["bundle"]);
    }
    assert_eq!(gaps, 1, "between the two renames");
    assert_ne!(version(&out), old);
    assert_eq!(names(home.path()), ["bundle"]);
}

#[test]
fn modes_are_those_of_a_bundle_whatever_the_parts_had() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("bundle");
    publish(&out, "new", &mut |_, _| Ok(())).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&out), mode(&out.join("decoder"))), (0o755, 0o755));
    for file in names(&out).iter().filter(|file| *file != "decoder") {
        assert_eq!(mode(&out.join(file)), 0o644, "{file}");
    }
    assert_eq!(mode(&out.join("decoder/config.json")), 0o644);
}

#[test]
fn every_file_and_folder_is_flushed_before_the_bundle_is_in_its_place() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("bundle");
    let mut told = Vec::new();
    publish(&out, "old", &mut |_, _| Ok(())).unwrap();
    publish(&out, "new", &mut |operation, path| {
        told.push((operation, path.to_owned()));
        Ok(())
    })
    .unwrap();
    let exchange = told.iter().position(|(operation, _)| *operation == FileOperation::Exchange);
    let (before, after) = told.split_at(exchange.unwrap());
    let flushed = |path: &Path| before.contains(&(FileOperation::Flush, path.to_owned()));
    for (operation, path) in before {
        if *operation == FileOperation::Write {
            assert!(flushed(path) && flushed(path.parent().unwrap()), "{}", path.display());
        }
    }
    assert!(after.contains(&(FileOperation::Flush, home.path().to_owned())), "{after:?}");
}

#[test]
fn a_draft_that_is_dropped_or_still_written_is_no_leftover() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("bundle");
    let mut running = Draft::begin(&out).unwrap();
    running.write("samples.json", b"[]").unwrap();
    // Another publication of the same bundle leaves the running one alone.
    let second = Draft::begin(&out).unwrap();
    assert_eq!(names(home.path()).len(), 2);
    drop(second);
    running.write("golden.json", b"[]").unwrap();
    drop(running);
    assert!(names(home.path()).is_empty());
    // What a killed one left is removed, and nothing else.
    for name in
        [&format!("{LEFTOVER_PREFIX}bundle-x1"), &format!("{LEFTOVER_PREFIX}other-x1"), "mine"]
    {
        fs::create_dir(home.path().join(name)).unwrap();
    }
    drop(Draft::begin(&out).unwrap());
    assert_eq!(names(home.path()), [".draft-other-x1", "mine"]);
}

#[test]
fn only_a_bundle_or_a_link_to_one_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let other = home.path().join("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cat.jpg"), "cat").unwrap();
    let error = Draft::begin(&other).unwrap_err();
    assert!(matches!(error, BundleError::NotABundle(_)), "{error}");
    assert!(error.to_string().ends_with("it is not replaced; name another folder"), "{error}");
    assert!(other.join("cat.jpg").exists());
    assert_eq!(names(home.path()), ["photos"]);

    let (bundle, link) = (home.path().join("v1"), home.path().join("current"));
    let old = publish(&bundle, "old", &mut |_, _| Ok(())).unwrap().version;
    symlink("v1", &link).unwrap();
    let new = publish(&link, "new", &mut |_, _| Ok(())).unwrap().version;
    assert_ne!(old, new);
    assert!(link.is_symlink());
    assert_eq!([version(&link), version(&bundle)], [new.clone(), new]);
}

/// What the tests publish is a bundle to a manifest.
#[test]
fn the_lineage_of_a_manifest_survives_its_file() {
    let parts = folder();
    let sound = manifest(parts.path());
    sound.write(parts.path()).unwrap();
    assert_eq!(Manifest::read(parts.path()).unwrap(), sound);
    assert!(Manifest::read(&demo()).unwrap().lineage.is_empty());
}
