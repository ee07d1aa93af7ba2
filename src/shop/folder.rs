//! The folder of a shop: written whole or not at all, and checked when it is opened.

mod event_line;
mod packed_file;

use super::{Shop, ShopEvent, ShopItem};
use crate::domain::{EventKind, Timestamp, UserId};
use event_line::write_event;
use packed_file::write_packed;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

const ITEMS: &str = "items.jsonl.zst";
const EVENTS: &str = "events.csv.zst";
const MANIFEST: &str = "shop.json";
/// The files of a shop's folder.
pub const FILES: [&str; 3] = [ITEMS, EVENTS, MANIFEST];
/// The version of the format of the three files.
const FORMAT: u32 = 1;
const COLUMNS: [&str; 7] = ["time", "user_id", "item_id", "kind", "quantity", "price", "basket"];

/// Why a shop's folder can't be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// A path leads to no shop: it is missing, a file, or a folder of something else.
    #[error("{path} is not a shop: {why}", path = path.display())]
    Missing {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        why: &'static str,
    },
    /// The system refuses to make a folder.
    #[error("can't write a shop into {path}: {source}", path = path.display())]
    Folder {
        /// The folder that it was to be made in.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not what was written: a hash, a field or a line is wrong.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The field or line, its value, and the value that it should have.
        why: String,
    },
    /// The folder to write exists already.
    #[error("{path} exists already: remove it, or name another folder", path = .0.display())]
    Exists(PathBuf),
}

/// `shop.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ShopManifest {
    format: u32,
    name: String,
    items: usize,
    users: usize,
    events: usize,
    baskets: u32,
    first_event: Option<Timestamp>,
    last_event: Option<Timestamp>,
    /// The BLAKE3 hash of each file, in hexadecimal.
    files: BTreeMap<String, String>,
}

/// A shop to write: its items, the ids of its users, and counts of its events.
pub(super) struct ShopLog<'a> {
    pub items: &'a [ShopItem],
    pub users: usize,
    /// The id of a user.
    pub user: Box<dyn Fn(u32) -> &'a str + 'a>,
    pub events: usize,
    pub baskets: u32,
    /// The times of the first and the last event.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// A line of `items.jsonl.zst`.
#[derive(Serialize, Deserialize)]
struct ItemLine<'a> {
    id: Cow<'a, str>,
    title: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    category: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    description: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    price: Option<f32>,
}

// === impl Shop ===

impl Shop {
    /// Opens the shop in the folder `dir`, and checks it against its hashes and counts.
    pub fn open(dir: &Path) -> Result<Self, ShopError> {
        let manifest = ShopManifest::read(dir)?;
        for name in [ITEMS, EVENTS] {
            manifest.check_hash(&dir.join(name), name)?;
        }
        let items = read_items(&dir.join(ITEMS))?;
        let (users, events) = read_events(&dir.join(EVENTS), &items)?;
        let shop = Self { items, users, events };
        manifest.check_counts(&dir.join(MANIFEST), &shop)?;
        Ok(shop)
    }

    /// Writes the shop into the new folder `dir`: whole, or not at all.
    pub fn write(&self, dir: &Path) -> Result<(), ShopError> {
        self.log().write(dir, self.events.iter().copied())
    }

    fn log(&self) -> ShopLog<'_> {
        ShopLog {
            items: &self.items,
            users: self.users.len(),
            user: Box::new(|user| self.users[user as usize].as_str()),
            events: self.events.len(),
            baskets: self.baskets(),
            span: self.span(),
        }
    }
}

// === impl ShopLog ===

impl ShopLog<'_> {
    /// Writes a shop with these events into the new folder `dir`: whole, or not at all.
    pub(super) fn write(
        &self,
        dir: &Path,
        events: impl Iterator<Item = ShopEvent>,
    ) -> Result<(), ShopError> {
        refuse_existing(dir)?;
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let refused = |source| ShopError::Folder { path: parent.to_owned(), source };
        fs::create_dir_all(parent).map_err(refused)?;
        // A sibling, so that the rename stays within one file system. The shop is written one level
        // deeper, because only its owner may read the staging folder.
        let staging = tempfile::Builder::new().prefix(".shop-").tempdir_in(parent);
        let staging = staging.map_err(refused)?;
        let draft = staging.path().join("draft");
        fs::create_dir(&draft).map_err(refused)?;
        self.write_files(&draft, dir, events)?;
        fs::rename(&draft, dir).map_err(at(dir))
    }

    /// Writes the files of the shop `dir` into the folder `draft`. Errors name them as they will be called.
    fn write_files(
        &self,
        draft: &Path,
        dir: &Path,
        events: impl Iterator<Item = ShopEvent>,
    ) -> Result<(), ShopError> {
        let named = |name: &str| at(&dir.join(name));
        let items = write_packed(&draft.join(ITEMS), |to| self.write_items(to));
        let items = items.map_err(named(ITEMS))?;
        let log = write_packed(&draft.join(EVENTS), |to| self.write_events(to, events));
        let log = log.map_err(named(EVENTS))?;
        let files = [(ITEMS, items), (EVENTS, log)].map(|(name, hash)| (name.to_owned(), hash));
        let manifest = ShopManifest::of(self, name_of(dir), files.into());
        let written = || {
            let mut to = File::create(draft.join(MANIFEST))?;
            serde_json::to_writer_pretty(&mut to, &manifest)?;
            to.write_all(b"\n")?;
            to.sync_all()
        };
        written().map_err(named(MANIFEST))
    }

    fn write_items(&self, to: &mut impl Write) -> io::Result<()> {
        for item in self.items {
            serde_json::to_writer(&mut *to, &ItemLine::from(item))?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    fn write_events(
        &self,
        to: &mut impl Write,
        mut events: impl Iterator<Item = ShopEvent>,
    ) -> io::Result<()> {
        writeln!(to, "{}", COLUMNS.join(","))?;
        events.try_for_each(|event| {
            let item = self.items[event.item as usize].id.as_str();
            write_event(to, &event, (self.user)(event.user), item)
        })
    }
}

// === impl ShopManifest ===

impl ShopManifest {
    fn of(log: &ShopLog<'_>, name: String, files: BTreeMap<String, String>) -> Self {
        Self {
            format: FORMAT,
            name,
            items: log.items.len(),
            users: log.users,
            events: log.events,
            baskets: log.baskets,
            first_event: log.span.map(|span| span.0),
            last_event: log.span.map(|span| span.1),
            files,
        }
    }

    fn read(dir: &Path) -> Result<Self, ShopError> {
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Err(error) if is_absent(&error) => {
                return Err(ShopError::Missing { path: dir.to_owned(), why: instead_of_shop(dir) });
            }
            text => text.map_err(at(&path))?,
        };
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(&path, error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong_field(&path, "format", manifest.format, FORMAT));
        }
        Ok(manifest)
    }

    fn check_hash(&self, path: &Path, name: &str) -> Result<(), ShopError> {
        let found = hash(path)?;
        match self.files.get(name) {
            Some(expected) if *expected == found => Ok(()),
            Some(expected) => {
                let why = format!("its BLAKE3 hash is {found}, {MANIFEST} says {expected}");
                Err(damaged(path, why))
            }
            None => Err(damaged(path, format!("its hash is not in {MANIFEST}"))),
        }
    }

    /// Checks the counts and times against those of the shop in the files.
    fn check_counts(&self, path: &Path, shop: &Shop) -> Result<(), ShopError> {
        let counted = Self::of(&shop.log(), self.name.clone(), self.files.clone());
        let values = |manifest: &Self| {
            let Self { items, users, events, baskets, first_event, last_event, .. } = manifest;
            let time = |time: &Option<Timestamp>| time.map_or("null".into(), |t| t.to_string());
            let counts = [items.to_string(), users.to_string(), events.to_string()];
            let rest = [baskets.to_string(), time(first_event), time(last_event)];
            counts.into_iter().chain(rest)
        };
        let names = ["items", "users", "events", "baskets", "first_event", "last_event"];
        for ((name, value), counted) in names.into_iter().zip(values(self)).zip(values(&counted)) {
            if value != counted {
                return Err(wrong_field(path, name, value, format!("{counted} by the files")));
            }
        }
        Ok(())
    }
}

// === impl ItemLine ===

impl<'a> From<&'a ShopItem> for ItemLine<'a> {
    fn from(item: &'a ShopItem) -> Self {
        let mut attributes = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in &item.attributes {
            attributes.entry(name.into()).or_default().push(value.into());
        }
        Self {
            id: item.id.as_str().into(),
            title: (&item.title).into(),
            category: (&item.category).into(),
            attributes,
            description: (&item.description).into(),
            price: item.price,
        }
    }
}

impl From<ItemLine<'_>> for ShopItem {
    fn from(item: ItemLine<'_>) -> Self {
        let pairs = item.attributes.into_iter().flat_map(|(name, values)| {
            let pair = move |value: Cow<'_, str>| (name.to_string(), value.into_owned());
            values.into_iter().map(pair)
        });
        Self {
            id: item.id.into_owned().into(),
            title: item.title.into_owned(),
            category: item.category.into_owned(),
            attributes: pairs.collect(),
            description: item.description.into_owned(),
            price: item.price,
        }
    }
}

/// Fails if the folder exists, unless it is empty, and if it would be in a file.
pub(super) fn refuse_existing(dir: &Path) -> Result<(), ShopError> {
    let is_free = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !dir.exists(),
    };
    if !is_free {
        return Err(ShopError::Exists(dir.to_owned()));
    }
    match dir.ancestors().skip(1).find(|above| above.exists()) {
        Some(above) if !above.is_dir() => {
            let source = io::ErrorKind::NotADirectory.into();
            Err(ShopError::Folder { path: above.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whether there is no such file: nothing, or a file where a folder should be.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What there is in place of a shop.
fn instead_of_shop(path: &Path) -> &'static str {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "there is no such folder",
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            "it is a file; `raisonne import` makes a shop of tables"
        }
        Err(_) => "it can't be listed",
        Ok(_) if path.join("manifest.toml").exists() => {
            "it is a bundle, which `raisonne bundle make` wrote"
        }
        Ok(mut entries) => match entries.next() {
            None => "the folder is empty",
            Some(_) => "it has no shop.json, which `raisonne import` writes",
        },
    }
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn at(path: &Path) -> impl Fn(io::Error) -> ShopError + use<> {
    let path = path.to_owned();
    move |source| ShopError::Io { path: path.clone(), source }
}

fn damaged(path: &Path, why: String) -> ShopError {
    ShopError::Damaged { path: path.to_owned(), why }
}

fn wrong_field(path: &Path, field: &str, found: impl Display, expected: impl Display) -> ShopError {
    damaged(path, format!("`{field}` is {found}, expected {expected}"))
}

/// The BLAKE3 hash of a file, in hexadecimal.
fn hash(path: &Path) -> Result<String, ShopError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(at(path))?).map_err(at(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn decompress(path: &Path) -> Result<impl BufRead + use<>, ShopError> {
    let file = File::open(path).map_err(at(path))?;
    Ok(BufReader::new(zstd::Decoder::new(file).map_err(at(path))?))
}

fn read_items(path: &Path) -> Result<Vec<ShopItem>, ShopError> {
    let mut items = Vec::new();
    for line in decompress(path)?.lines() {
        let line = line.map_err(at(path))?;
        let item: ItemLine<'_> = serde_json::from_str(&line)
            .map_err(|error| damaged(path, format!("item {}: {error}", items.len() + 1)))?;
        items.push(item.into());
    }
    Ok(items)
}

fn read_events(
    path: &Path,
    items: &[ShopItem],
) -> Result<(Vec<UserId>, Vec<ShopEvent>), ShopError> {
    let index: FxHashMap<&str, u32> = items.iter().map(|item| item.id.as_str()).zip(0..).collect();
    let mut table = csv::Reader::from_reader(decompress(path)?);
    let mut users = UserNumbers::default();
    let mut lines = Vec::new();
    let mut row = csv::StringRecord::new();
    while table.read_record(&mut row).map_err(|error| damaged(path, error.to_string()))? {
        let line = read_line(&row, &index, &mut users)
            .map_err(|why| damaged(path, format!("event {}: {why}", lines.len() + 1)))?;
        lines.push(line);
    }
    Ok((users.ids, lines))
}

fn read_line(
    row: &csv::StringRecord,
    items: &FxHashMap<&str, u32>,
    users: &mut UserNumbers,
) -> Result<ShopEvent, String> {
    let [time, user, item, kind, quantity, price, basket] = std::array::from_fn(|at| row.get(at));
    let price = cell("price", price, "a number", |text| {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    });
    Ok(ShopEvent {
        time: cell("time", time, "a time in Unix seconds", |text| text.parse().ok())?,
        user: cell("user_id", user, "an id", |id| Some(users.number(id)))?,
        item: cell("item_id", item, "an id of the items", |id| items.get(id).copied())?,
        kind: cell("kind", kind, "a kind of event", EventKind::parse)?,
        quantity: cell("quantity", quantity, "a number", |text| text.parse().ok())?,
        price: price?,
        basket: cell("basket", basket, "a whole number", |text| text.parse().ok())?,
    })
}

/// Parses the cell of a column. The error names the column, its value and the valid ones.
fn cell<T>(
    column: &str,
    text: Option<&str>,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("`{column}` is missing, expected {expected}"))?;
    parse(text).ok_or_else(|| format!("`{column}` is {text:?}, expected {expected}"))
}

/// UserNumbers, numbered by first appearance.
#[derive(Default)]
struct UserNumbers {
    ids: Vec<UserId>,
    numbers: FxHashMap<String, u32>,
}

impl UserNumbers {
    fn number(&mut self, id: &str) -> u32 {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        let number = self.ids.len() as u32;
        self.ids.push(id.into());
        self.numbers.insert(id.to_owned(), number);
        number
    }
}
