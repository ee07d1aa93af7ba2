//! Reading and writing the parts of a bundle.

use super::lines::{at_most, read_lines};
use super::{
    Backing, BundleError, COMPANIONS, CardReason, Cards, Catalog, CatalogRow, EARLIER_EVENTS_MAX,
    GoldenRequest, HISTORY_LEN, HistoryEvent, ItemCard, ItemStats, Manifest, NO_NEIGHBOUR,
    NeighbourTable, PARTNERS, Part, REASONS_MAX, SemanticIds, UserCard, golden,
};
use crate::domain::{EventKind, Evidence, EvidenceKind, ReasonSource, Timestamp, UserId};
use crate::regular_file::{self, Links};
use half::f16;
use rustc_hash::FxHashMap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The zstd level of the catalogue and the cards.
const ZSTD_LEVEL: i32 = 15;
/// Buyers that one reason names, at most. A reason that rests on more needs none of them.
const SUPPORTERS_MAX: usize = 16;

/// An opened bundle: verified, and read only.
#[derive(Debug)]
pub struct Bundle {
    /// Its folder.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its items.
    pub catalog: Catalog,
    /// Its cards of users and items.
    pub cards: Cards,
    /// Its golden requests.
    pub golden: Vec<GoldenRequest>,
}

// === impl Bundle ===

impl Bundle {
    /// Opens the bundle in `dir`: reads the manifest, checks every file against it, and reads the
    /// catalogue, the cards and the golden requests.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let bundle = Self::open_draft(dir)?;
        golden::check(&bundle.golden, &bundle.manifest)?;
        if bundle.manifest.lineage.is_empty() {
            tracing::warn!(
                version = bundle.manifest.version,
                "the bundle has no lineage: it was made before bundles had one, and nothing shows that its \
                 parts were made from one another"
            );
        }
        Ok(bundle)
    }

    /// Opens a bundle whose golden requests are still to be written.
    pub fn open_draft(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir)?;
        manifest.verify(dir)?;
        let golden = golden::parse(&read_part(dir, Part::Golden)?)?;
        let catalog = read_catalog(dir)?;
        let cards = read_cards(dir, &catalog)?;
        Ok(Self { dir: dir.into(), manifest, catalog, cards, golden })
    }

    /// Whether the bundle has a part.
    pub fn has(&self, part: Part) -> bool {
        self.manifest.hash_of(part).is_some()
    }

    /// Reads the file of a part, within the part's limit.
    pub fn read(&self, part: Part) -> Result<Vec<u8>, BundleError> {
        read_part(&self.dir, part)
    }

    /// Reads the file of a part as a text, within the part's limit.
    pub fn read_text(&self, part: Part) -> Result<String, BundleError> {
        String::from_utf8(self.read(part)?)
            .map_err(|_| BundleError::malformed(part.file(), "it is not UTF-8 text"))
    }

    /// The file of a part.
    pub fn path(&self, part: Part) -> PathBuf {
        self.dir.join(part.file())
    }
}

/// Reads the catalogue in `dir`, with its items' semantic ids if there are any.
pub fn read_catalog(dir: &Path) -> Result<Catalog, BundleError> {
    let catalog = Catalog::new(read_lines::<CatalogRow>(dir, Part::Catalog, None)?);
    let ids = SemanticIds::read(dir, catalog.len())?;
    Ok(catalog.with_semantic_ids(ids))
}

/// Writes a catalogue into `dir`.
pub fn write_catalog(dir: &Path, catalog: &Catalog) -> Result<(), BundleError> {
    write_lines(dir, Part::Catalog, catalog.rows())
}

/// The text of `golden.json`.
pub fn golden_text(golden: &[GoldenRequest]) -> Vec<u8> {
    serde_json::to_vec(golden).expect("golden requests are strings and finite numbers")
}

/// Writes cards into `dir`: their texts, and their vectors in half precision.
pub fn write_cards(dir: &Path, cards: &Cards) -> Result<(), BundleError> {
    let rows = cards.items.iter().map(ItemCardRow::of);
    write_lines(dir, Part::ItemCards, rows)?;
    let users: BTreeMap<&str, &UserCard> =
        cards.users.iter().map(|(user, card)| (user.as_str(), &**card)).collect();
    write_lines(
        dir,
        Part::UserCards,
        users.iter().map(|(user, card)| UserCardRow::of(user, card)),
    )?;
    let patterns: Vec<f32> = users.values().flat_map(|card| card.vector.iter().copied()).collect();
    let rechead: Vec<f32> =
        users.values().flat_map(|card| card.rechead_vector.iter().copied()).collect();
    write_vectors(dir, cards, &patterns, &rechead)
}

// === cards as rows ===

/// A line of `item_cards.jsonl.zst`.
#[derive(Serialize, Deserialize)]
struct ItemCardRow {
    sales: u32,
    recent: u32,
    buyers: u32,
    first: Option<Timestamp>,
    months: [u32; 12],
    price: Option<f32>,
    rank: f32,
    #[serde(deserialize_with = "at_most::<REASONS_MAX, _, _>")]
    reasons: Vec<ReasonRow>,
}

/// A reason of an item's line.
#[derive(Serialize, Deserialize)]
struct ReasonRow {
    text: String,
    /// Whether a language model chose it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    attribute: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
    count: u32,
    of: u32,
    strength: f32,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "at_most::<SUPPORTERS_MAX, _, _>"
    )]
    supporters: Vec<String>,
}

/// An event: (number of the item, time, index in [`EventKind::ALL`]).
type EventRow = (u32, Timestamp, u8);

/// A line of `user_cards.jsonl.zst`.
#[derive(Serialize, Deserialize)]
struct UserCardRow {
    user: String,
    pattern: String,
    /// (number of the item, time, index in [`EventKind::ALL`]), oldest first.
    #[serde(deserialize_with = "at_most::<HISTORY_LEN, _, _>")]
    history: Vec<EventRow>,
    /// Those before the history, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(deserialize_with = "at_most::<EARLIER_EVENTS_MAX, _, _>")]
    earlier: Vec<EventRow>,
    /// The number of the item that a language model predicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expects: Option<u32>,
}

impl ItemCardRow {
    fn of(card: &ItemCard) -> Self {
        let stats = card.stats.clone();
        Self {
            sales: stats.sales,
            recent: stats.sales_recent,
            buyers: stats.buyers,
            first: stats.first_sale,
            months: stats.months,
            price: stats.price,
            rank: stats.price_rank,
            reasons: card.reasons.iter().map(ReasonRow::of).collect(),
        }
    }

    fn card(self, catalog: &Catalog, first_reason: u32) -> Result<ItemCard, FieldError> {
        let stats = ItemStats {
            sales: self.sales,
            sales_recent: self.recent,
            buyers: self.buyers,
            first_sale: self.first,
            months: self.months,
            price: self.price,
            price_rank: self.rank,
        };
        let reasons =
            self.reasons.into_iter().map(|row| row.reason(catalog)).collect::<Result<_, _>>()?;
        Ok(ItemCard { stats, reasons, first_reason })
    }
}

impl ReasonRow {
    /// The row of a reason, which rests on one piece of evidence.
    fn of(reason: &CardReason) -> Self {
        let evidence = &reason.evidence[0];
        Self {
            text: reason.text.to_string(),
            cached: reason.source == ReasonSource::Cached,
            kind: evidence.kind.as_str().into(),
            item: evidence.item.as_ref().map(|item| item.as_str().into()),
            attribute: evidence.attribute.to_string(),
            value: evidence.value.to_string(),
            count: evidence.count,
            of: evidence.of,
            strength: reason.strength,
            supporters: reason.supporters.iter().map(|user| user.as_str().into()).collect(),
        }
    }

    fn reason(self, catalog: &Catalog) -> Result<CardReason, FieldError> {
        let wrong = |field, found: &str, expected| FieldError::new(field, found, expected);
        let kind = EvidenceKind::parse(&self.kind);
        let kind = kind.ok_or_else(|| wrong("kind", &self.kind, "a kind of evidence"))?;
        let item = self.item.map(crate::domain::ItemId::from);
        let backing = match (kind, &item) {
            (EvidenceKind::CoPurchase, Some(item)) => {
                let number = catalog.number(item);
                let expected = "the id of an item of the catalogue";
                Backing::Item(number.ok_or_else(|| wrong("item", item.as_str(), expected))?)
            }
            (EvidenceKind::Attribute | EvidenceKind::AttributeBuyers, _) => {
                let number = catalog.attribute_number(&self.attribute, &self.value);
                let found = || format!("{}={}", self.attribute, self.value);
                let expected = "an attribute of the catalogue";
                Backing::Attribute(number.ok_or_else(|| wrong("attribute", &found(), expected))?)
            }
            _ => Backing::Nothing,
        };
        let evidence = Evidence {
            kind,
            item,
            attribute: self.attribute.into(),
            value: self.value.into(),
            count: self.count,
            of: self.of,
        };
        Ok(CardReason {
            text: self.text.into(),
            source: if self.cached { ReasonSource::Cached } else { ReasonSource::Evidence },
            evidence: Arc::new([evidence]),
            strength: self.strength,
            backing,
            supporters: self.supporters.into_iter().map(UserId::from).collect(),
        })
    }
}

impl UserCardRow {
    fn of(user: &str, card: &UserCard) -> Self {
        let row = |event: &HistoryEvent| (event.item, event.time, event.kind as u8);
        Self {
            user: user.into(),
            pattern: card.pattern.to_string(),
            history: card.history.iter().map(row).collect(),
            earlier: card.earlier.iter().map(row).collect(),
            expects: card.expected_item,
        }
    }

    /// The card of a user in a shop of so many items, with its vectors by the text encoder and the
    /// Rechead.
    fn card(
        self,
        vector: &[f32],
        rechead_vector: &[f32],
        items: usize,
    ) -> Result<(UserId, Arc<UserCard>), FieldError> {
        let event = |(item, time, kind): EventRow| {
            if item as usize >= items {
                let expected = format!("the number of one of {items} items");
                return Err(FieldError::new("history.item", &item.to_string(), &expected));
            }
            let kind = EventKind::ALL.get(usize::from(kind)).copied().ok_or_else(|| {
                let expected = format!("below {}", EventKind::ALL.len());
                FieldError::new("history.kind", &kind.to_string(), &expected)
            })?;
            Ok(HistoryEvent { item, time, kind })
        };
        let history = self.history.into_iter().map(event).collect::<Result<_, _>>()?;
        let earlier = self.earlier.into_iter().map(event).collect::<Result<_, _>>()?;
        let expected_item = self.expects.filter(|item| (*item as usize) < items);
        let (vector, rechead_vector) = (vector.to_vec(), rechead_vector.to_vec());
        let pattern = self.pattern.into();
        let card = UserCard { pattern, vector, history, earlier, expected_item, rechead_vector };
        Ok((self.user.into(), Arc::new(card)))
    }
}

/// A field of a row that has a value that it must not have.
struct FieldError {
    field: &'static str,
    found: String,
    expected: String,
}

impl FieldError {
    fn new(field: &'static str, found: &str, expected: &str) -> Self {
        Self { field, found: format!("{found:?}"), expected: expected.into() }
    }

    /// The same error, of this line of this part.
    fn at(self, part: Part, line: usize) -> BundleError {
        let file = format!("{}:{line}", part.file());
        BundleError::field(&file, self.field, self.found, self.expected)
    }
}

// === files ===

fn read_cards(dir: &Path, catalog: &Catalog) -> Result<Cards, BundleError> {
    let wrong = |part: Part, why: &str| BundleError::malformed(part.file(), why);
    let vectors = read_part(dir, Part::CardVectors)?;
    let tensors = SafeTensors::deserialize(&vectors)
        .map_err(|error| wrong(Part::CardVectors, &error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&vectors)
        .map_err(|error| wrong(Part::CardVectors, &error.to_string()))?;
    let as_of = metadata.metadata().as_ref().and_then(|metadata| metadata.get("as_of"));
    let found = as_of.map_or("missing".to_owned(), |as_of| format!("{as_of:?}"));
    let as_of = as_of
        .and_then(|as_of| as_of.parse().ok())
        .ok_or_else(|| wrong_tensor("as_of", found, "a time in Unix seconds"))?;
    let rows = read_lines::<ItemCardRow>(dir, Part::ItemCards, Some(catalog.len()))?;
    let mut first_reason = 0;
    let mut items = Vec::with_capacity(catalog.len());
    for (row, line) in rows.into_iter().zip(1..) {
        let card = row.card(catalog, first_reason);
        let card = card.map_err(|error| error.at(Part::ItemCards, line))?;
        first_reason += card.reasons.len() as u32;
        items.push(card);
    }
    let rows = read_lines::<UserCardRow>(dir, Part::UserCards, None)?;
    let [item_vectors, reason_vectors, patterns] =
        [("items", items.len()), ("reasons", first_reason as usize), ("patterns", rows.len())]
            .map(|(name, rows)| read_vectors(&tensors, name, rows));
    let (item_vectors, reason_vectors, patterns) = (item_vectors?, reason_vectors?, patterns?);
    let [partners, companions] =
        NEIGHBOURS.map(|names| read_neighbours(&tensors, names, items.len()));
    let (partners, companions) = (partners?, companions?);
    if items.len() != catalog.len() {
        let (found, expected) = (items.len(), format!("one for each of {} items", catalog.len()));
        return Err(BundleError::field(Part::ItemCards.file(), "lines", found, expected));
    }
    let [of_items, of_users] = RECHEAD_TENSORS;
    let (rechead_vectors, rechead_users): (Arc<[f32]>, _) = match tensors.tensor(of_items) {
        Ok(_) => (
            read_vectors(&tensors, of_items, items.len())?.into(),
            read_vectors(&tensors, of_users, rows.len())?,
        ),
        Err(_) => (Arc::default(), Vec::new()),
    };
    let width = item_vectors.len() / items.len().max(1);
    let rechead_width = rechead_users.len() / rows.len().max(1);
    let expected = rechead_vectors.len() / items.len().max(1);
    if !rows.is_empty() && rechead_width != expected {
        let (found, expected) =
            (format!("{rechead_width} wide"), format!("{expected}, the width of {of_items}"));
        return Err(wrong_tensor(of_users, found, expected));
    }
    let mut users = FxHashMap::default();
    let each = patterns.chunks(width.max(1)).enumerate();
    for (row, (index, vector)) in rows.into_iter().zip(each) {
        let rechead = &rechead_users[index * rechead_width..(index + 1) * rechead_width];
        let card = row.card(vector, rechead, items.len());
        users.extend([card.map_err(|error| error.at(Part::UserCards, index + 1))?]);
    }
    Ok(Cards {
        as_of,
        items,
        users,
        partners,
        companions,
        item_vectors,
        reason_vectors,
        rechead_vectors,
    })
}

/// The tensors of the items' and the users' vectors by the Rechead. Only bundles with a Rechead have them.
const RECHEAD_TENSORS: [&str; 2] = ["rechead_items", "rechead_users"];

/// The neighbour tables: their tensors of items and of cosines, and their columns.
const NEIGHBOURS: [(&str, &str, usize); 2] =
    [("partners", "closeness", PARTNERS), ("companions", "companions_closeness", COMPANIONS)];

/// Reads a tensor of `rows` vectors.
fn read_vectors(
    tensors: &SafeTensors<'_>,
    name: &str,
    rows: usize,
) -> Result<Vec<f32>, BundleError> {
    let tensor = find_tensor(tensors, name)?;
    if tensor.dtype() != Dtype::F16 || tensor.shape().len() != 2 || tensor.shape()[0] != rows {
        return Err(wrong_tensor(name, form(&tensor), format!("F16 [{rows}, width]")));
    }
    let (halves, _) = tensor.data().as_chunks::<2>();
    Ok(halves.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect())
}

fn read_neighbours(
    tensors: &SafeTensors<'_>,
    (name, closeness_name, columns): (&str, &str, usize),
    rows: usize,
) -> Result<NeighbourTable, BundleError> {
    let tensor = find_tensor(tensors, name)?;
    if tensor.dtype() != Dtype::U32 || tensor.shape() != [rows, columns] {
        return Err(wrong_tensor(name, form(&tensor), format!("U32 [{rows}, {columns}]")));
    }
    let (words, _) = tensor.data().as_chunks::<4>();
    let items: Vec<u32> = words.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
    let unknown = items.iter().find(|item| **item != NO_NEIGHBOUR && **item as usize >= rows);
    if let Some(item) = unknown {
        return Err(wrong_tensor(name, item, format!("the number of one of {rows} items")));
    }
    let closeness = read_vectors(tensors, closeness_name, rows)?;
    if closeness.len() != items.len() {
        let found = format!("{} numbers", closeness.len());
        let expected = format!("{}, one for each of {name}", items.len());
        return Err(wrong_tensor(closeness_name, found, expected));
    }
    Ok(NeighbourTable { columns, items, closeness })
}

fn find_tensor<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, BundleError> {
    let missing = |error: safetensors::SafeTensorError| {
        BundleError::malformed(Part::CardVectors.file(), &error.to_string())
    };
    tensors.tensor(name).map_err(missing)
}

/// The type and shape of a tensor, for an error.
fn form(tensor: &TensorView<'_>) -> String {
    format!("{:?} {:?}", tensor.dtype(), tensor.shape())
}

fn wrong_tensor(name: &str, found: impl Display, expected: impl Display) -> BundleError {
    BundleError::field(Part::CardVectors.file(), name, found, expected)
}

/// Writes `cards.safetensors`. `patterns` and `rechead` are the users' vectors, in the order of the
/// users' ids: (users, width) each.
fn write_vectors(
    dir: &Path,
    cards: &Cards,
    patterns: &[f32],
    rechead: &[f32],
) -> Result<(), BundleError> {
    let halves = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    };
    let width = cards.item_vectors.len() / cards.items.len().max(1);
    let mut tables: Vec<(&str, Dtype, usize, Vec<u8>)> = vec![
        ("items", Dtype::F16, width, halves(&cards.item_vectors)),
        ("patterns", Dtype::F16, width, halves(patterns)),
        ("reasons", Dtype::F16, width, halves(&cards.reason_vectors)),
    ];
    if !cards.rechead_vectors.is_empty() {
        let width = cards.rechead_vectors.len() / cards.items.len().max(1);
        let [items, users] = [&*cards.rechead_vectors, rechead].map(halves);
        let [of_items, of_users] = RECHEAD_TENSORS;
        tables.push((of_items, Dtype::F16, width, items));
        tables.push((of_users, Dtype::F16, width, users));
    }
    for ((name, closeness, columns), table) in
        NEIGHBOURS.into_iter().zip([&cards.partners, &cards.companions])
    {
        let items = table.items.iter().flat_map(|item| item.to_le_bytes()).collect();
        tables.push((name, Dtype::U32, columns, items));
        tables.push((closeness, Dtype::F16, columns, halves(&table.closeness)));
    }
    let views = tables.iter().map(|(name, kind, width, bytes)| {
        let number = if *kind == Dtype::F16 { 2 } else { 4 };
        let shape = vec![bytes.len() / number / (*width).max(1), *width];
        (*name, TensorView::new(*kind, shape, bytes).expect("rows of one width"))
    });
    let metadata = [("as_of".to_owned(), cards.as_of.to_string())].into_iter().collect();
    let path = dir.join(Part::CardVectors.file());
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .map_err(|error| BundleError::malformed(Part::CardVectors.file(), &error.to_string()))
}

fn read_part(dir: &Path, part: Part) -> Result<Vec<u8>, BundleError> {
    let path = dir.join(part.file());
    regular_file::read(&path, Links::Refused, part.bytes_max())
        .map_err(|source| BundleError::Io { path, source })
}

fn write_lines<T: Serialize>(
    dir: &Path,
    part: Part,
    rows: impl Iterator<Item = T>,
) -> Result<(), BundleError> {
    let path = dir.join(part.file());
    let write = || -> std::io::Result<()> {
        let file = zstd::Encoder::new(BufWriter::new(File::create(&path)?), ZSTD_LEVEL)?;
        let mut file = BufWriter::new(file.auto_finish());
        for row in rows {
            serde_json::to_writer(&mut file, &row)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().map_err(|source| BundleError::Io { path: path.clone(), source })
}
