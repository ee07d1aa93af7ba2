//! Parts as files.

use super::{
    Backing, BundleError, COMPANIONS, CardReason, Cards, Catalog, CatalogRow, HistoryEvent,
    ItemCard, ItemStats, Manifest, NO_NEIGHBOUR, NeighbourTable, PARTNERS, Part, SemanticIds,
    UserCard,
};
use crate::domain::{EventKind, Evidence, EvidenceKind, ReasonSource, Timestamp, UserId};
use half::f16;
use rustc_hash::FxHashMap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The level that card texts are compressed with.
const ZSTD_LEVEL: i32 = 15;

/// An opened bundle: verified, and read only.
#[derive(Debug)]
pub struct Bundle {
    /// Where it lies.
    pub dir: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    /// Its items.
    pub catalog: Catalog,
    /// What it knows about users and items.
    pub cards: Cards,
    /// Requests with the scores that they must get.
    pub golden: Vec<GoldenRequest>,
}

/// A request with the scores that it must get on every machine, within a tolerance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GoldenRequest {
    /// The user, whose card is in the bundle.
    pub user: String,
    /// When the request came.
    pub now: Timestamp,
    /// The slate, in the order given.
    pub items: Vec<String>,
    /// The scorer's logits, in that order.
    pub scores: Vec<f32>,
    /// The Rechead's, in that order, where there is one.
    #[serde(default)]
    pub rechead: Vec<f32>,
    /// The language model's, in that order, where it has a rung.
    #[serde(default)]
    pub weighed: Vec<f32>,
}

// === impl Bundle ===

impl Bundle {
    /// Opens the bundle in `dir`: reads the manifest, checks every file against it, reads the
    /// tables.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir)?;
        manifest.verify(dir)?;
        let catalog = read_catalog(dir)?;
        let cards = read_cards(dir, &catalog)?;
        let golden = serde_json::from_slice(&read_part(dir, Part::Golden)?)
            .map_err(|error| BundleError::malformed(Part::Golden.file(), &error.to_string()))?;
        Ok(Self { dir: dir.into(), manifest, catalog, cards, golden })
    }

    /// The file of a part.
    pub fn path(&self, part: Part) -> PathBuf {
        self.dir.join(part.file())
    }
}

/// Reads the catalogue in `dir`, and its items' semantic ids if there are any.
pub fn read_catalog(dir: &Path) -> Result<Catalog, BundleError> {
    let catalog = Catalog::new(read_lines::<CatalogRow>(dir, Part::Catalog)?);
    let ids = SemanticIds::read(dir, catalog.len())?;
    Ok(catalog.with_semantic_ids(ids))
}

/// Writes a catalogue into `dir`.
pub fn write_catalog(dir: &Path, catalog: &Catalog) -> Result<(), BundleError> {
    write_lines(dir, Part::Catalog, catalog.rows())
}

/// Writes golden requests into `dir`.
pub fn write_golden(dir: &Path, golden: &[GoldenRequest]) -> Result<(), BundleError> {
    let path = dir.join(Part::Golden.file());
    let text = serde_json::to_vec(golden).expect("golden requests are strings and finite numbers");
    fs::write(&path, text).map_err(|source| BundleError::Io { path, source })
}

/// Writes cards into `dir`: their words, and their vectors in half precision.
pub fn write_cards(dir: &Path, cards: &Cards) -> Result<(), BundleError> {
    let rows = cards.items.iter().map(ItemRow::of);
    write_lines(dir, Part::ItemCards, rows)?;
    let users: BTreeMap<&str, &UserCard> =
        cards.users.iter().map(|(user, card)| (user.as_str(), &**card)).collect();
    write_lines(dir, Part::UserCards, users.iter().map(|(user, card)| UserRow::of(user, card)))?;
    let patterns: Vec<f32> = users.values().flat_map(|card| card.vector.iter().copied()).collect();
    let heads: Vec<f32> = users.values().flat_map(|card| card.head.iter().copied()).collect();
    write_vectors(dir, cards, &patterns, &heads)
}

// === cards as rows ===

#[derive(Serialize, Deserialize)]
struct ItemRow {
    sales: u32,
    recent: u32,
    buyers: u32,
    first: Option<Timestamp>,
    months: [u32; 12],
    price: Option<f32>,
    rank: f32,
    reasons: Vec<ReasonRow>,
}

#[derive(Serialize, Deserialize)]
struct ReasonRow {
    text: String,
    /// Whether a language model wrote it.
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supporters: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct UserRow {
    user: String,
    pattern: String,
    /// (item, time, kind) by number, oldest first.
    history: Vec<(u32, Timestamp, u8)>,
    /// The number of the item that they are expected to want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expects: Option<u32>,
}

impl ItemRow {
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

    fn card(self, catalog: &Catalog, first_reason: u32) -> Option<ItemCard> {
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
            self.reasons.into_iter().map(|row| row.reason(catalog)).collect::<Option<_>>()?;
        Some(ItemCard { stats, reasons, first_reason })
    }
}

impl ReasonRow {
    /// A card's reason rests on one piece of evidence; a language model's may rest on more, and
    /// will bring its own row.
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

    fn reason(self, catalog: &Catalog) -> Option<CardReason> {
        let kind = EvidenceKind::parse(&self.kind)?;
        let item = self.item.map(crate::domain::ItemId::from);
        let backing = match (kind, &item) {
            (EvidenceKind::CoPurchase, Some(item)) => Backing::Item(catalog.number(item)?),
            (EvidenceKind::Attribute, _) => {
                Backing::Attribute(catalog.attribute_number(&self.attribute, &self.value)?)
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
        Some(CardReason {
            text: self.text.into(),
            source: if self.cached { ReasonSource::Cached } else { ReasonSource::Evidence },
            evidence: Arc::new([evidence]),
            strength: self.strength,
            backing,
            supporters: self.supporters.into_iter().map(UserId::from).collect(),
        })
    }
}

impl UserRow {
    fn of(user: &str, card: &UserCard) -> Self {
        let history = card.history.iter().map(|past| (past.item, past.time, past.kind as u8));
        Self {
            user: user.into(),
            pattern: card.pattern.to_string(),
            history: history.collect(),
            expects: card.expects,
        }
    }

    fn card(self, vector: &[f32], head: &[f32], items: usize) -> Option<(UserId, Arc<UserCard>)> {
        let past = |(item, time, kind): (u32, Timestamp, u8)| {
            let kind = *EventKind::ALL.get(usize::from(kind))?;
            ((item as usize) < items).then_some(HistoryEvent { item, time, kind })
        };
        let history = self.history.into_iter().map(past).collect::<Option<_>>()?;
        let expects = self.expects.filter(|item| (*item as usize) < items);
        let (pattern, vector, head) = (self.pattern.into(), vector.to_vec(), head.to_vec());
        let card = UserCard { pattern, vector, history, expects, head };
        Some((self.user.into(), Arc::new(card)))
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
    let as_of = metadata.metadata().as_ref().and_then(|meta| meta.get("as_of")?.parse().ok());
    let as_of = as_of.ok_or_else(|| wrong(Part::CardVectors, "it lacks the as-of time"))?;
    let mut first_reason = 0;
    let mut items = Vec::with_capacity(catalog.len());
    for row in read_lines::<ItemRow>(dir, Part::ItemCards)? {
        let card = row.card(catalog, first_reason);
        let card =
            card.ok_or_else(|| wrong(Part::ItemCards, "a reason cites what is not there"))?;
        first_reason += card.reasons.len() as u32;
        items.push(card);
    }
    let rows = read_lines::<UserRow>(dir, Part::UserCards)?;
    let [item_vectors, reason_vectors, patterns] =
        [("items", items.len()), ("reasons", first_reason as usize), ("patterns", rows.len())]
            .map(|(name, rows)| read_vectors(&tensors, name, rows));
    let (item_vectors, reason_vectors, patterns) = (item_vectors?, reason_vectors?, patterns?);
    let [partners, companions] = TIES.map(|ties| read_ties(&tensors, ties, items.len()));
    let (partners, companions) = (partners?, companions?);
    if items.len() != catalog.len() {
        return Err(wrong(Part::ItemCards, "there is not one card per item of the catalogue"));
    }
    let (rechead_vectors, heads): (Arc<[f32]>, _) = match tensors.tensor(HEADS[0]) {
        Ok(_) => (
            read_vectors(&tensors, HEADS[0], items.len())?.into(),
            read_vectors(&tensors, HEADS[1], rows.len())?,
        ),
        Err(_) => (Arc::default(), Vec::new()),
    };
    let width = item_vectors.len() / items.len().max(1);
    let head_width = heads.len() / rows.len().max(1);
    if !rows.is_empty() && head_width != rechead_vectors.len() / items.len().max(1) {
        let [of_items, of_users] = HEADS;
        let why = format!("{of_items} and {of_users} are of two widths");
        return Err(wrong(Part::CardVectors, &why));
    }
    let mut users = FxHashMap::default();
    let each = patterns.chunks(width.max(1)).enumerate();
    for (row, (at, vector)) in rows.into_iter().zip(each) {
        let head = &heads[at * head_width..(at + 1) * head_width];
        let card = row.card(vector, head, items.len());
        users.extend([card.ok_or_else(|| wrong(Part::UserCards, "a history names no item"))?]);
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

/// The tables of items and of users in the Rechead's space, which only bundles with a Rechead have.
const HEADS: [&str; 2] = ["rechead_items", "rechead_users"];

/// The tables of ties: their names, those of their closeness, and their columns.
const TIES: [(&str, &str, usize); 2] =
    [("partners", "closeness", PARTNERS), ("companions", "companions_closeness", COMPANIONS)];

fn read_vectors(
    tensors: &SafeTensors<'_>,
    name: &str,
    rows: usize,
) -> Result<Vec<f32>, BundleError> {
    let wrong = |why: &str| BundleError::malformed(Part::CardVectors.file(), why);
    let tensor = tensors.tensor(name).map_err(|error| wrong(&error.to_string()))?;
    if tensor.dtype() != Dtype::F16 || tensor.shape().len() != 2 || tensor.shape()[0] != rows {
        return Err(wrong(&format!("{name} is not a table of {rows} half precision rows")));
    }
    let (halves, _) = tensor.data().as_chunks::<2>();
    Ok(halves.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect())
}

fn read_ties(
    tensors: &SafeTensors<'_>,
    (name, closeness, columns): (&str, &str, usize),
    rows: usize,
) -> Result<NeighbourTable, BundleError> {
    let wrong = |why: &str| BundleError::malformed(Part::CardVectors.file(), why);
    let tensor = tensors.tensor(name).map_err(|error| wrong(&error.to_string()))?;
    if tensor.dtype() != Dtype::U32 || tensor.shape() != [rows, columns] {
        return Err(wrong(&format!("{name} is not a table of {rows} x {columns} numbers")));
    }
    let (words, _) = tensor.data().as_chunks::<4>();
    let items: Vec<u32> = words.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
    if items.iter().any(|&item| item != NO_NEIGHBOUR && item as usize >= rows) {
        return Err(wrong(&format!("one of {name} is no item of the catalogue")));
    }
    let closeness = read_vectors(tensors, closeness, rows)?;
    if closeness.len() != items.len() {
        return Err(wrong(&format!("there is not one closeness for each of {name}")));
    }
    Ok(NeighbourTable { columns, items, closeness })
}

fn write_vectors(
    dir: &Path,
    cards: &Cards,
    patterns: &[f32],
    heads: &[f32],
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
        let [items, users] = [&*cards.rechead_vectors, heads].map(halves);
        let [of_items, of_users] = HEADS;
        tables.push((of_items, Dtype::F16, width, items));
        tables.push((of_users, Dtype::F16, width, users));
    }
    for ((name, closeness, columns), ties) in
        TIES.into_iter().zip([&cards.partners, &cards.companions])
    {
        let items = ties.items.iter().flat_map(|item| item.to_le_bytes()).collect();
        tables.push((name, Dtype::U32, columns, items));
        tables.push((closeness, Dtype::F16, columns, halves(&ties.closeness)));
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
    fs::read(&path).map_err(|source| BundleError::Io { path, source })
}

fn read_lines<T: DeserializeOwned>(dir: &Path, part: Part) -> Result<Vec<T>, BundleError> {
    let wrong = |why: String| BundleError::malformed(part.file(), &why);
    let bytes = read_part(dir, part)?;
    let text = zstd::Decoder::new(&bytes[..]).map_err(|error| wrong(error.to_string()))?;
    BufReader::new(text)
        .lines()
        .enumerate()
        .map(|(number, line)| {
            let line = line.map_err(|error| wrong(error.to_string()))?;
            serde_json::from_str(&line)
                .map_err(|error| wrong(format!("line {}: {error}", number + 1)))
        })
        .collect()
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
