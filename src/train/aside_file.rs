//! Files that are written aside and renamed at the end: such a file is whole, or not there.

use std::fs::{File, Permissions};
use std::io;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The permissions of a new file before the process's mask, as any program asks for them.
#[cfg(unix)]
const MODE: u32 = 0o666;

/// A file that gets its name when it is published. Dropped before, it is removed.
#[derive(Debug)]
pub struct AsideFile {
    file: NamedTempFile,
    path: PathBuf,
}

// === impl AsideFile ===

impl AsideFile {
    /// A new file in the folder of `path`, which must exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".aside-");
        #[cfg(unix)]
        let permissions: Permissions = std::os::unix::fs::PermissionsExt::from_mode(MODE);
        #[cfg(unix)]
        builder.permissions(permissions);
        Ok(Self { file: builder.tempfile_in(folder(path))?, path: path.to_owned() })
    }

    /// A handle to write through.
    pub fn handle(&self) -> io::Result<File> {
        self.file.as_file().try_clone()
    }

    /// Flushes the file to the disk, gives it its name, and flushes the folder. A file of that name is replaced.
    pub fn publish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path)?;
        // Some systems can't open a folder; there, the name is as safe as they make it.
        File::open(folder(&self.path)).map_or(Ok(()), |folder| folder.sync_all())
    }
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_is_whole_or_not_there() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        let aside = AsideFile::create(&path).unwrap();
        aside.handle().unwrap().write_all(b"half").unwrap();
        drop(aside);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        std::fs::write(&path, "old").unwrap();
        let aside = AsideFile::create(&path).unwrap();
        aside.handle().unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        aside.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(AsideFile::create(home.path()).is_err());
        assert!(AsideFile::create(&home.path().join("no/folder")).is_err());
    }
}
