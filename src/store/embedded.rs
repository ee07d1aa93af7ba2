//! A store in one redb file.
//!
//! A get reads a few pages, usually from redb's cache, so it runs on the caller's thread. Puts wait for the disk and scans may
//! be long, so they run on the blocking pool.
//!
//! After an error of the system, redb refuses everything until its file is opened again: what is on the disk may differ from
//! what it remembers. So the next operation opens the file again. A full disk is an error only until there is room.

use super::{
    BatchStore, SCAN_ENTRIES_MAX, Store, StoreEntry, StoreError, StoreFuture, StoreTable,
    check_size,
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition};
use std::io;
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of redb's page cache.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// A store in a redb file.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<File>,
}

struct File {
    path: PathBuf,
    /// None after an error of the system, until the next operation.
    database: ArcSwapOption<Database>,
}

// === impl EmbeddedStore ===

impl EmbeddedStore {
    /// Opens the store at `path`. Creates the file and its parent folders if they do not exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let not_writable = |source| StoreError::NotWritable { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(not_writable)?;
        }
        let file = File { path: path.to_owned(), database: ArcSwapOption::empty() };
        file.database()?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Runs `work` on the blocking pool.
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || file.run(work));
        done.await.unwrap_or_else(|error| {
            let why = format!("the operation was not finished: {error}");
            Err(StoreError::Failed { path: self.file.path.clone(), why })
        })
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.file.path).finish_non_exhaustive()
    }
}

impl Store for EmbeddedStore {
    fn get<'a>(&'a self, table: StoreTable, key: &'a [u8]) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move { self.file.run(|database| get(database, table, key)) })
    }

    fn put<'a>(&'a self, table: StoreTable, key: &'a [u8], value: Bytes) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_size(key, &value)?;
            let key = key.to_owned();
            let entry = (Bytes::from(key), value);
            self.run_blocking(move |database| change(database, table, &[entry], &[])).await
        })
    }

    fn scan<'a>(
        &'a self,
        table: StoreTable,
        prefix: &'a [u8],
        limit: usize,
    ) -> StoreFuture<'a, Vec<StoreEntry>> {
        Box::pin(async move {
            let prefix = prefix.to_owned();
            self.run_blocking(move |database| {
                scan(database, table, Bound::Included(&prefix), &prefix, limit)
            })
            .await
        })
    }
}

impl BatchStore for EmbeddedStore {
    fn get_many(
        &self,
        table: StoreTable,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.file.run(|database| get_many(database, table, keys))
    }

    fn change(
        &self,
        table: StoreTable,
        put: &[StoreEntry],
        remove: &[Bytes],
    ) -> Result<(), StoreError> {
        put.iter().try_for_each(|(key, value)| check_size(key, value))?;
        self.file.run(|database| change(database, table, put, remove))
    }

    fn scan_from(
        &self,
        table: StoreTable,
        from: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<StoreEntry>, StoreError> {
        self.file.run(|database| scan(database, table, from, b"", limit))
    }
}

// === impl File ===

impl File {
    /// Runs `work`, and converts its errors.
    fn run<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database()?;
        let done = catch_panic(&self.path, || work(&database))?;
        done.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                // Another thread may have opened it again.
                self.database.compare_and_swap(&Some(database), None);
            }
            self.store_error(error)
        })
    }

    /// The open database. Opens it if an error closed it.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        if let Some(database) = self.database.load_full() {
            return Ok(database);
        }
        let opened = Arc::new(self.open()?);
        let made = catch_panic(&self.path, || make_tables(&opened))?;
        made.map_err(|error| self.store_error(error))?;
        self.database.store(Some(opened.clone()));
        Ok(opened)
    }

    fn open(&self) -> Result<Database, StoreError> {
        let path = self.path.clone();
        let create = || Database::builder().set_cache_size(CACHE_BYTES_MAX).create(&self.path);
        catch_panic(&self.path, create)?.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
            DatabaseError::Storage(StorageError::Io(source))
                if source.kind() != io::ErrorKind::InvalidData =>
            {
                StoreError::NotWritable { path, source }
            }
            other => StoreError::Corrupt { path, why: other.to_string() },
        })
    }

    /// An error of an open database as a store's error.
    fn store_error(&self, error: redb::Error) -> StoreError {
        let path = self.path.clone();
        match error {
            redb::Error::Io(source) if is_refusal(source.kind()) => {
                StoreError::NotWritable { path, source }
            }
            redb::Error::Corrupted(why) => StoreError::Corrupt { path, why },
            redb::Error::TableTypeMismatch { .. } | redb::Error::TableIsMultimap(_) => {
                StoreError::Corrupt { path, why: error.to_string() }
            }
            other => StoreError::Failed { path, why: other.to_string() },
        }
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let change = database.begin_write()?;
    for table in StoreTable::ALL {
        change.open_table(definition(table))?;
    }
    Ok(change.commit()?)
}

fn get(database: &Database, table: StoreTable, key: &[u8]) -> Result<Option<Bytes>, redb::Error> {
    let table = database.begin_read()?.open_table(definition(table))?;
    Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
}

fn get_many(
    database: &Database,
    table: StoreTable,
    keys: &[Bytes],
) -> Result<Vec<Option<Bytes>>, redb::Error> {
    let table = database.begin_read()?.open_table(definition(table))?;
    let get =
        |key: &Bytes| Ok(table.get(&**key)?.map(|value| Bytes::copy_from_slice(value.value())));
    keys.iter().map(get).collect()
}

fn change(
    database: &Database,
    table: StoreTable,
    put: &[StoreEntry],
    remove: &[Bytes],
) -> Result<(), redb::Error> {
    let change = database.begin_write()?;
    {
        let mut table = change.open_table(definition(table))?;
        for (key, value) in put {
            table.insert(&**key, &**value)?;
        }
        for key in remove {
            table.remove(&**key)?;
        }
    }
    Ok(change.commit()?)
}

/// The first entries from a key on, as long as their keys begin with `prefix`.
fn scan(
    database: &Database,
    table: StoreTable,
    from: Bound<&[u8]>,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<StoreEntry>, redb::Error> {
    let table = database.begin_read()?.open_table(definition(table))?;
    let mut entries = Vec::new();
    for fact in table.range::<&[u8]>((from, Bound::Unbounded))?.take(limit.min(SCAN_ENTRIES_MAX)) {
        let (key, value) = fact?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let copy = Bytes::copy_from_slice;
        entries.push((copy(key.value()), copy(value.value())));
    }
    Ok(entries)
}

fn definition(table: StoreTable) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.as_str())
}

/// Runs `work` and turns a panic into an error. redb panics on some damaged pages, and a request that reads one must
/// go on without the store.
fn catch_panic<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let why = "its pages are inconsistent".to_owned();
        StoreError::Corrupt { path: path.to_owned(), why }
    })
}

/// Whether the system refused to write, in contrast to a failure.
fn is_refusal(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::StorageFull | Kind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use redb::StorageBackend;
    use std::fs;
    use std::sync::Mutex;

    #[tokio::test]
    async fn facts_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/facts.redb");
        let store = EmbeddedStore::open(&path).unwrap();
        store.put(StoreTable::UserCards, b"ann", Bytes::from_static(b"tea")).await.unwrap();
        drop(store);
        let store = EmbeddedStore::open(&path).unwrap();
        assert_eq!(&*store.get(StoreTable::UserCards, b"ann").await.unwrap().unwrap(), b"tea");
    }

    #[test]
    fn a_second_opener_is_told_who_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.redb");
        let first = EmbeddedStore::open(&path).unwrap();
        let error = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        drop(first);
        EmbeddedStore::open(&path).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for path in [dir.path().join("file/facts.redb"), dir.path().to_owned()] {
            let error = EmbeddedStore::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.redb");
        drop(EmbeddedStore::open(&path).unwrap());
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[0] ^= 1;
        for damaged in
            [b"not a database at all".to_vec(), flipped, whole[..whole.len() / 2].to_vec()]
        {
            fs::write(&path, damaged).unwrap();
            let error = EmbeddedStore::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[tokio::test]
    async fn a_damaged_page_is_no_panic() {
        const FACTS: u32 = 200;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.redb");
        let store = EmbeddedStore::open(&path).unwrap();
        for n in 0..FACTS {
            let value = Bytes::from_static(&[7; 300]);
            store.put(StoreTable::UserCards, &n.to_be_bytes(), value).await.unwrap();
        }
        drop(store);
        let whole = fs::read(&path).unwrap();
        let used: Vec<usize> =
            (0..whole.len()).filter(|at| ![0, 7].contains(&whole[*at])).collect();
        let mut corrupt = 0;
        for at in used.iter().step_by(used.len() / 100) {
            let mut damaged = whole.clone();
            damaged[*at] ^= 0x81;
            fs::write(&path, damaged).unwrap();
            let read = async || {
                let store = EmbeddedStore::open(&path)?;
                for n in 0..FACTS {
                    store.get(StoreTable::UserCards, &n.to_be_bytes()).await?;
                }
                Ok(())
            };
            match read().await {
                Ok(()) => {}
                Err(StoreError::Corrupt { .. }) => corrupt += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        assert!(corrupt > 0);
    }

    /// A disk that loses power: from some operation on everything fails, and of the writes that were not synced only some
    /// are on the disk afterwards.
    #[derive(Clone, Debug)]
    struct FrailDisk(Arc<Mutex<DiskState>>);

    #[derive(Debug, Default)]
    struct DiskState {
        /// What reads see.
        live: Vec<u8>,
        synced: Vec<u8>,
        /// Writes and changes of the length since the last sync, in their order.
        unsynced: Vec<Unsynced>,
        /// Operations that the disk still carries out.
        left: usize,
    }

    #[derive(Clone, Debug)]
    enum Unsynced {
        Write(usize, Vec<u8>),
        Length(usize),
    }

    impl Unsynced {
        fn apply(&self, image: &mut Vec<u8>) {
            match self {
                Self::Write(at, bytes) => {
                    let end = at + bytes.len();
                    image.resize(image.len().max(end), 0);
                    image[*at..end].copy_from_slice(bytes);
                }
                Self::Length(length) => image.resize(*length, 0),
            }
        }
    }

    impl FrailDisk {
        fn of(image: Vec<u8>, left: usize) -> Self {
            let (live, synced) = (image.clone(), image);
            Self(Arc::new(Mutex::new(DiskState { live, synced, left, ..DiskState::default() })))
        }

        fn operate<T>(&self, work: impl FnOnce(&mut DiskState) -> T) -> io::Result<T> {
            let mut state = self.0.lock().unwrap();
            if state.left == 0 {
                return Err(io::Error::other("the power is off"));
            }
            state.left -= 1;
            Ok(work(&mut state))
        }

        /// What is on the disk after the power was lost.
        fn image(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
            let state = self.0.lock().unwrap();
            let mut image = state.synced.clone();
            for change in state.unsynced.iter().filter(|_| rng.random_bool(0.5)) {
                change.apply(&mut image);
            }
            image
        }
    }

    impl StorageBackend for FrailDisk {
        fn len(&self) -> io::Result<u64> {
            self.operate(|state| state.live.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.operate(|state| {
                let at = offset as usize;
                out.copy_from_slice(&state.live[at..at + out.len()]);
            })
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.operate(|state| {
                let change = Unsynced::Length(len as usize);
                change.apply(&mut state.live);
                state.unsynced.push(change);
            })
        }

        fn sync_data(&self) -> io::Result<()> {
            self.operate(|state| {
                state.synced.clone_from(&state.live);
                state.unsynced.clear();
            })
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.operate(|state| {
                let change = Unsynced::Write(offset as usize, data.to_vec());
                change.apply(&mut state.live);
                state.unsynced.push(change);
            })
        }
    }

    /// A hundred times, the power goes at a random operation. What was acknowledged is there, and of what was not, all or
    /// nothing.
    #[test]
    fn a_lost_power_loses_nothing_that_was_acknowledged() {
        const LOSSES: u64 = 100;
        const TABLE: StoreTable = StoreTable::ShopperEvents;
        let open = |disk: FrailDisk| Database::builder().create_with_backend(disk);
        let entry = |change: u32, n: u32| {
            let mut key = change.to_be_bytes().to_vec();
            key.extend(n.to_be_bytes());
            (Bytes::from(key), Bytes::from(vec![change as u8; 40]))
        };
        let count = |change: u32| 1 + change % 60;
        let (mut broken_off, mut halves) = (0, [0; 2]);
        for seed in 0..LOSSES {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let disk = FrailDisk::of(Vec::new(), usize::MAX);
            make_tables(&open(disk.clone()).unwrap()).unwrap();
            let disk =
                FrailDisk::of(disk.0.lock().unwrap().live.clone(), rng.random_range(40..900));
            let (mut acknowledged, mut begun) = (0, 0);
            if let Ok(database) = open(disk.clone()) {
                while begun < 60 {
                    let put: Vec<_> = (0..count(begun)).map(|n| entry(begun, n)).collect();
                    begun += 1;
                    if change(&database, TABLE, &put, &[]).is_err() {
                        broken_off += 1;
                        break;
                    }
                    acknowledged = begun;
                }
            }
            let database = open(FrailDisk::of(disk.image(&mut rng), usize::MAX)).unwrap();
            for change in 0..60 {
                let keys: Vec<_> = (0..count(change)).map(|n| entry(change, n).0).collect();
                let found = get_many(&database, TABLE, &keys).unwrap();
                let there = found.iter().flatten().count();
                let all = if change < acknowledged {
                    true
                } else if change < begun {
                    halves[usize::from(there > 0)] += 1;
                    there > 0
                } else {
                    false
                };
                let expected = if all { keys.len() } else { 0 };
                assert_eq!(there, expected, "seed {seed}, change {change} of {acknowledged}");
            }
        }
        assert!(broken_off > 50, "the power went in only {broken_off} changes");
        assert!(halves[0] > 0, "no change was lost: {halves:?}");
    }
}
