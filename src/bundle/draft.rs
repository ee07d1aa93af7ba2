//! How does a new bundle take the place of an old one?
//!
//! It is written beside it, as a draft, and flushed to the disk. Then the two folders are exchanged in one
//! step of the file system. So whenever the process is killed, the old bundle or the new one is there, whole.

use super::{BundleError, MANIFEST};
use crate::regular_file::{self, Links};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What the name of a draft begins with. The name of the bundle's folder follows.
pub const LEFTOVER_PREFIX: &str = ".draft-";
/// What the name of a bundle begins with that was moved aside, where folders can't be exchanged.
const REPLACED_PREFIX: &str = ".replaced-";
/// The mode of a bundle's files, whatever the umask: everybody may read them.
const FILE_MODE: u32 = 0o644;
/// The mode of a bundle's folders.
const FOLDER_MODE: u32 = 0o755;
/// Errors that say that a file system can't exchange two folders.
const NO_EXCHANGE: [Errno; 3] = [Errno::NOSYS, Errno::INVAL, Errno::OPNOTSUPP];

/// An operation on the file system, by which a draft is written or put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileOperation {
    /// A folder is made.
    MakeFolder,
    /// A file is written.
    Write,
    /// A file or folder gets its mode.
    SetMode,
    /// A file or folder is flushed to the disk.
    Flush,
    /// The draft and the old bundle are exchanged.
    Exchange,
    /// A folder gets another name.
    Rename,
    /// A folder is removed.
    Remove,
}

/// Is told of each operation before it happens. An error of it ends the publication there.
pub type Observer<'a> = &'a mut dyn FnMut(FileOperation, &Path) -> io::Result<()>;

/// A bundle that is being written. Dropping it removes it.
pub struct Draft<'a> {
    /// Its folder.
    path: PathBuf,
    /// The folder of the bundle that it will be.
    out: PathBuf,
    /// Folders in it.
    folders: BTreeSet<PathBuf>,
    operations: Operations<'a>,
    /// Held as long as the draft is written: a leftover has no lock.
    _lock: File,
    is_leftover: bool,
}

struct Operations<'a>(Option<Observer<'a>>);

// === impl Draft ===

impl<'a> Draft<'a> {
    /// Begins the bundle `out`, which must not exist, or be a bundle, or be a link to one. Removes the drafts
    /// that killed publications of the same bundle left.
    pub fn begin(out: &Path) -> Result<Self, BundleError> {
        Self::begin_with(out, Operations(None))
    }

    /// Begins a bundle, and tells of each operation.
    pub fn begin_observed(out: &Path, observer: Observer<'a>) -> Result<Self, BundleError> {
        Self::begin_with(out, Operations(Some(observer)))
    }

    fn begin_with(out: &Path, mut operations: Operations<'a>) -> Result<Self, BundleError> {
        // Without a slash at its end, which would hide a link.
        let mut out: PathBuf = out.components().collect();
        if out.is_symlink() {
            // The link stays, and the folder behind it is replaced.
            out = fs::canonicalize(&out).map_err(|source| io_error(&out, source))?;
        }
        let home = home_of(&out);
        if !home.is_dir() {
            operations.tell(FileOperation::MakeFolder, home)?;
            fs::create_dir_all(home).map_err(|source| io_error(home, source))?;
        }
        operations.tidy(&out)?;
        if out.symlink_metadata().is_ok() && !out.join(MANIFEST).exists() {
            return Err(BundleError::NotABundle(out));
        }
        operations.tell(FileOperation::MakeFolder, &out)?;
        let prefix = format!("{LEFTOVER_PREFIX}{}-", name_of(&out));
        let path = tempfile::Builder::new().prefix(&prefix).tempdir_in(home);
        let path = path.map_err(|source| io_error(home, source))?.keep();
        let lock = File::open(&path).map_err(|source| io_error(&path, source))?;
        // Where a folder can't be locked, nobody takes it for a leftover either.
        _ = lock.try_lock();
        operations.set_mode(&path, FOLDER_MODE)?;
        let folders = BTreeSet::new();
        Ok(Self { path, out, folders, operations, _lock: lock, is_leftover: false })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a file of at most `bytes_max` bytes into the draft, under this name.
    pub fn copy(&mut self, from: &Path, name: &str, bytes_max: u64) -> Result<(), BundleError> {
        let opened = regular_file::open(from, Links::Followed, bytes_max);
        let mut file = opened.map_err(|source| io_error(from, source))?;
        self.create(name, |to| io::copy(&mut file, to).map(|_| ()))
    }

    /// Writes a file of the draft, or writes it anew.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        self.create(name, |to| to.write_all(bytes))
    }

    fn create(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), BundleError> {
        let path = self.path.join(name);
        let folder = home_of(&path);
        if folder != self.path && self.folders.insert(folder.to_owned()) {
            self.operations.tell(FileOperation::MakeFolder, folder)?;
            DirBuilder::new().create(folder).map_err(|source| io_error(folder, source))?;
            self.operations.set_mode(folder, FOLDER_MODE)?;
        }
        self.operations.tell(FileOperation::Write, &path)?;
        let filled = File::create(&path).and_then(|mut file| fill(&mut file));
        filled.map_err(|source| io_error(&path, source))?;
        self.operations.set_mode(&path, FILE_MODE)?;
        self.operations.flush(&path)
    }

    /// Puts the draft in its place. From one moment to the next, the bundle is the new one. Nothing may be
    /// written into the draft afterwards.
    pub fn place(&mut self) -> Result<(), BundleError> {
        for folder in &self.folders {
            self.operations.flush(folder)?;
        }
        self.operations.flush(&self.path)?;
        let home = home_of(&self.out).to_owned();
        if self.out.symlink_metadata().is_err() {
            self.operations.rename(&self.path, &self.out)?;
            self.is_leftover = true;
            return self.operations.flush(&home);
        }
        let old = self.exchange()?;
        // From here on, nothing of the new bundle may be removed, and the old one is rubbish.
        self.is_leftover = true;
        self.operations.flush(&home)?;
        self.operations.remove(&old)
    }

    /// Leaves what was written where it is, as a killed process would.
    pub fn abandon(mut self) {
        self.is_leftover = true;
    }

    /// Exchanges the draft and the old bundle, and returns where the old one is now.
    fn exchange(&mut self) -> Result<PathBuf, BundleError> {
        let (draft, out) = (&self.path, &self.out);
        let exchanged = self.operations.observe(FileOperation::Exchange, out);
        let exchanged = exchanged
            .and_then(|()| Ok(renameat_with(CWD, draft, CWD, out, RenameFlags::EXCHANGE)?));
        match exchanged {
            Ok(()) => Ok(self.path.clone()),
            Err(error) if is_no_exchange(&error) => self.replace_in_two_steps(),
            Err(source) => Err(io_error(&self.out, source)),
        }
    }

    /// Moves the old bundle aside, and then the draft into its place. If the process is killed in between,
    /// the next publication puts the old bundle back.
    fn replace_in_two_steps(&mut self) -> Result<PathBuf, BundleError> {
        let aside = aside_of(&self.out);
        tracing::warn!(
            bundle = %self.out.display(),
            "this file system can't exchange two folders: the bundle is missing for a moment, between moving \
             the old one aside, as {}, and moving the new one into its place",
            aside.display()
        );
        self.operations.rename(&self.out, &aside)?;
        if let Err(error) = self.operations.rename(&self.path, &self.out) {
            self.operations.rename(&aside, &self.out)?;
            return Err(error);
        }
        Ok(aside)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_leftover {
            // If it stays, the next publication removes it.
            _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl std::fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("path", &self.path)
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}

// === impl Operations ===

impl Operations<'_> {
    fn observe(&mut self, operation: FileOperation, path: &Path) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |observer| observer(operation, path))
    }

    fn tell(&mut self, operation: FileOperation, path: &Path) -> Result<(), BundleError> {
        self.observe(operation, path).map_err(|source| io_error(path, source))
    }

    fn set_mode(&mut self, path: &Path, mode: u32) -> Result<(), BundleError> {
        self.tell(FileOperation::SetMode, path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|source| io_error(path, source))
    }

    fn flush(&mut self, path: &Path) -> Result<(), BundleError> {
        self.tell(FileOperation::Flush, path)?;
        File::open(path).and_then(|file| file.sync_all()).map_err(|source| io_error(path, source))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), BundleError> {
        self.tell(FileOperation::Rename, to)?;
        fs::rename(from, to).map_err(|source| io_error(to, source))
    }

    fn remove(&mut self, folder: &Path) -> Result<(), BundleError> {
        self.tell(FileOperation::Remove, folder)?;
        fs::remove_dir_all(folder).map_err(|source| io_error(folder, source))
    }

    /// Puts back a bundle that was moved aside and not replaced, and removes what killed publications left.
    fn tidy(&mut self, out: &Path) -> Result<(), BundleError> {
        let aside = aside_of(out);
        if aside.join(MANIFEST).exists() && out.symlink_metadata().is_err() {
            tracing::warn!(bundle = %out.display(), "putting back the bundle that was moved aside");
            self.rename(&aside, out)?;
        }
        for leftover in leftovers(out).map_err(|source| io_error(home_of(out), source))? {
            self.remove(&leftover)?;
        }
        Ok(())
    }
}

/// Folders that killed publications of this bundle left. The draft of one that still runs is locked.
fn leftovers(out: &Path) -> io::Result<Vec<PathBuf>> {
    let (draft, aside) = (format!("{LEFTOVER_PREFIX}{}-", name_of(out)), aside_of(out));
    let mut found = Vec::new();
    for entry in fs::read_dir(home_of(out))? {
        let path = entry?.path();
        let is_draft = name_of(&path).starts_with(&draft) && path.is_dir() && !path.is_symlink();
        let is_free = || File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok());
        if path == aside || is_draft && is_free() {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_no_exchange(error: &io::Error) -> bool {
    NO_EXCHANGE.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

fn aside_of(out: &Path) -> PathBuf {
    home_of(out).join(format!("{REPLACED_PREFIX}{}", name_of(out)))
}

fn home_of(path: &Path) -> &Path {
    match path.parent() {
        Some(home) if !home.as_os_str().is_empty() => home,
        _ => Path::new("."),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn io_error(path: &Path, source: io::Error) -> BundleError {
    BundleError::Io { path: path.into(), source }
}
