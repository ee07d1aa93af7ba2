//! What a pass reads and writes on a device, beside weights and pages. All of it is taken when the model is loaded,
//! and stays where it is.

use super::device::{Address, CudaError, Device, Table};
use super::model::{CudaOptions, WARP};
use super::products::CudaWeightDtype;
use crate::nn::decoder::DecoderConfig;
use crate::nn::packed::{AttentionGroup, BlockTableEntry, KvSlot, PAGE_TOKENS, PagedBatch};
use crate::nn::softmax::SampleSpec;
use half::bf16;
use std::iter;
use std::ops::Range;

/// Pages of a part: `PAGES_A_PART` of the kernels.
pub(super) const PAGES_A_PART: usize = 8;
/// Parts that there is room for at most, unless a single row has more. A pass with more attends some rows at a time.
const PARTS_MAX: usize = 16_384;
/// Warps of a block that attends for neighbouring rows, and rows of its fragments: `ROWS_WARPS` of the kernels, and 16.
pub(super) const TILE_WARPS: usize = 4;
pub(super) const FRAGMENT_ROWS: usize = 16;
/// Numbers of a tile: `RowTile` of the kernels.
const TILE_NUMBERS: usize = 3;
/// Rows whose whole logits there is room for, at least. More are calculated so many at a time.
const WHOLE_MIN: usize = 64;
/// Chosen tokens, for each row of the largest pass, whose logits there is room for.
const PAIRS_A_ROW: usize = 256;
/// Which rows have scales of their own, where they have 8 bits: [`Rows::scales`].
pub(super) const NORMED: usize = 0;
pub(super) const ATTENDED: usize = 1;
pub(super) const ACTIVATED: usize = 2;
/// Tokens, for each row of the largest pass, that may be banned where some are drawn, and numbers of a draw: `Draw` of
/// the kernels.
const BANNED_A_ROW: usize = 64;
pub(super) const DRAW_NUMBERS: usize = 5;
/// Blocks that are enough to keep a device busy while a step attends, and how many take turns at a row's parts at
/// least, so that a long text beside many short ones is not the work of one.
const BLOCKS_ENOUGH: usize = 1024;
const BLOCKS_MIN: usize = 8;

/// The most that a pass may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub rows: usize,
    kv_heads: usize,
    /// Neighbouring rows that attend as one: `TILE_TOKENS` of the kernels.
    tile: usize,
    /// Parts of the pages that one row sees.
    parts_of_row: usize,
    /// Parts of all rows that attend at once.
    pub parts: usize,
    /// Rows whose whole logits are there at once.
    pub whole: usize,
    /// Chosen tokens whose logits are there at once.
    pub pairs: usize,
    /// Tokens that aren't allowed where some are drawn.
    pub banned: usize,
    /// Numbers that are uploaded.
    numbers: usize,
}

/// What a pass writes to.
#[derive(Debug)]
pub(super) struct Rows {
    /// How rows lie that weights are multiplied with.
    pub format: CudaWeightDtype,
    pub stream: Table<f32>,
    /// What the last product came to, to be added to the stream.
    pub delta: Table<f32>,
    pub normed: Table<u8>,
    pub qkv: Table<f32>,
    pub queries: Table<bf16>,
    pub attended: Table<bf16>,
    /// The same in 8 bits, where weights have those.
    pub attended_bytes: Option<Table<u8>>,
    pub parts: Table<f32>,
    pub sums: Table<f32>,
    pub gates_ups: Table<f32>,
    pub activated: Table<u8>,
    /// The scales of rows of 8 bits.
    scales: Option<[Table<f32>; 3]>,
    /// Rows that something is wanted of, after the last norm.
    pub picked: Table<bf16>,
    pub exact: Table<f32>,
    pub logits: Table<f32>,
    /// A token and its log-probability, of each that is drawn.
    pub drawn: Table<u32>,
}

/// What was uploaded for the pass at hand.
#[derive(Debug)]
pub(super) struct Plan {
    numbers: Vec<u32>,
    pub table: Table<u32>,
    /// Where each of its lists begins.
    pub tokens: usize,
    pub positions: usize,
    pub slots: usize,
    pub ranges: usize,
    pub wanted: usize,
    pub tiles: usize,
    pub seen: usize,
    pub pairs: usize,
    pub draws: usize,
    pub banned: usize,
    pub rows: usize,
    /// Rows at the beginning that are alone in their group, and tiles of all others.
    pub singles: usize,
    pub tile_count: usize,
    /// Rows that something is wanted of.
    pub picked: usize,
    /// Parts that there is room for of the pages of each row, and blocks that take turns at them.
    pub parts: usize,
    pub blocks: usize,
}

/// What is wanted of a pass: rows by number, and logits of tokens by the places of rows in that list.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaOutputSpec<'a> {
    /// The rows; those whose whole logits are wanted come first.
    pub rows: &'a [u32],
    /// How many of them want those.
    pub full_logits: usize,
    /// The place of a row, and a token.
    pub chosen: &'a [[u32; 2]],
    /// Of which rows that want their whole logits a token is drawn instead: those come last among them.
    pub draws: &'a [SampleSpec],
    /// Tokens that aren't allowed there.
    pub banned: &'a [u32],
    /// Whether rows are wanted themselves.
    pub hidden: bool,
}

/// What came of a pass, kept from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct CudaOutput {
    /// Of each draw: a token, and the bits of its log-probability. If that is not a number, nothing could be drawn,
    /// and the token is the one whose logit is broken, or `u32::MAX` if none has a probability.
    pub drawn: Vec<[u32; 2]>,
    /// Of each pair.
    pub chosen: Vec<f32>,
    /// Of each wanted row, if they are: the row after the last norm.
    pub hidden: Vec<f32>,
}

/// Neighbouring rows that attend as one, and how many parts the lists of all of their groups begin with; none, where there
/// is one group.
#[derive(Debug, PartialEq, Eq)]
struct Tile {
    rows: Range<usize>,
    shared: usize,
}

/// Tiles of at most so many rows, of all groups but those that come first.
fn tiles(pass: &PagedBatch, singles: usize, most: usize) -> impl Iterator<Item = Tile> {
    // A bucket has more singles than its pass has groups.
    let mut left = pass.groups.get(singles..).unwrap_or_default();
    let joined = iter::from_fn(move || {
        let first = left.first()?;
        let (count, shared) = join(left, &pass.block_table, most);
        let (these, others) = left.split_at(count);
        left = others;
        Some(Tile { rows: first.rows.start..these[count - 1].rows.end, shared })
    });
    joined.flat_map(move |Tile { rows, shared }| {
        let end = rows.end;
        rows.step_by(most).map(move |row| Tile { rows: row..end.min(row + most), shared })
    })
}

/// How many groups from the first on attend as one, and how many parts they share. A tile takes what is shared once, but
/// what each group has of its own one after the other, where tiles of their own would do so at the same time; so it may be
/// no more than what is shared.
fn join(groups: &[AttentionGroup], seen: &[BlockTableEntry], most: usize) -> (usize, usize) {
    let parts = |group: &AttentionGroup| group.pages.len().div_ceil(PAGES_A_PART);
    let first = &groups[0];
    let (mut shared, mut all) = (usize::MAX, parts(first));
    let mut joined = (1, 0);
    for (count, group) in (2..).zip(&groups[1..]) {
        shared = shared.min(shared_parts(first, group, seen));
        all += parts(group);
        if group.rows.end - first.rows.start > most || all > (count + 1) * shared {
            break;
        }
        joined = (count, shared);
    }
    joined
}

/// Whole parts that two groups begin with, of pages that are full, and past to all of their rows.
fn shared_parts(a: &AttentionGroup, b: &AttentionGroup, seen: &[BlockTableEntry]) -> usize {
    let past =
        |group: &AttentionGroup| seen[group.pages.clone()].iter().take(group.past / PAGE_TOKENS);
    past(a).zip(past(b)).take_while(|(a, b)| a == b).count() / PAGES_A_PART
}

/// Threads of blocks that go over rows of so many numbers, which they keep: four at a time, at most 4 and 8 times.
pub(super) fn norm_threads(width: usize) -> u32 {
    threads(width, 512)
}

/// See [`norm_threads`].
pub(super) fn wide_threads(width: usize) -> u32 {
    threads(width, 1_024)
}

fn threads(width: usize, most: usize) -> u32 {
    width.div_ceil(4).next_multiple_of(WARP as usize).min(most) as u32
}

// === impl Room ===

impl Room {
    pub fn of(config: &DecoderConfig, options: CudaOptions) -> Self {
        let CudaOptions {
            kv_pages: pages,
            max_batched_tokens: rows,
            context_tokens_max,
            decodes_max,
            ..
        } = options;
        // A branch sees pages that last, and then some of its own.
        let pages_of_row = context_tokens_max.div_ceil(PAGE_TOKENS) + 1;
        let pages_of_row = pages_of_row.min(pages + rows.div_ceil(PAGE_TOKENS));
        let parts_of_row = pages_of_row.div_ceil(PAGES_A_PART);
        let pairs = (rows * PAIRS_A_ROW).max(config.vocabulary);
        let banned = rows * BANNED_A_ROW;
        let decodes = decodes_max.next_power_of_two().min(rows);
        // A token, a position, a slot, a range, a place among the wanted, a tile and a draw; and all pages that it sees.
        let of_row = 1 + 1 + 2 + 2 + 1 + TILE_NUMBERS + DRAW_NUMBERS + 3 * pages_of_row;
        Self {
            rows,
            kv_heads: config.kv_heads,
            tile: TILE_WARPS * (FRAGMENT_ROWS / (config.heads / config.kv_heads)),
            parts_of_row,
            parts: (decodes * parts_of_row).min(PARTS_MAX).max(parts_of_row),
            whole: decodes_max.max(WHOLE_MIN).min(rows),
            pairs,
            banned,
            numbers: rows * of_row + 2 * pairs + banned,
        }
    }

    /// Blocks that take turns at the parts of each of so many rows, however many there are.
    fn blocks(&self, rows: usize) -> usize {
        let enough = BLOCKS_ENOUGH.div_ceil(rows * self.kv_heads);
        enough.max(BLOCKS_MIN).min(self.parts_of_row)
    }
}

// === impl Rows ===

impl Rows {
    pub fn new(
        device: &Device,
        config: &DecoderConfig,
        room: &Room,
        format: CudaWeightDtype,
    ) -> Result<Self, CudaError> {
        let rows = room.rows;
        let bytes = |width: usize| device.zeroed(rows * width * format.bytes());
        let is_short = format != CudaWeightDtype::Bf16;
        let scales = || Ok([device.zeroed(rows)?, device.zeroed(rows)?, device.zeroed(rows)?]);
        let heads = config.heads * config.head_dim;
        let all = heads + 2 * config.kv_heads * config.head_dim;
        Ok(Self {
            format,
            stream: device.zeroed(rows * config.width)?,
            delta: device.zeroed(rows * config.width)?,
            normed: bytes(config.width)?,
            qkv: device.zeroed(rows * all)?,
            queries: device.zeroed(rows * heads)?,
            attended: device.zeroed(rows * heads)?,
            attended_bytes: is_short.then(|| bytes(heads)).transpose()?,
            parts: device.zeroed(room.parts * heads)?,
            sums: device.zeroed(room.parts * config.heads * 2)?,
            gates_ups: device.zeroed(rows * 2 * config.mlp_width)?,
            activated: bytes(config.mlp_width)?,
            scales: is_short.then(scales).transpose()?,
            picked: device.zeroed(rows * config.width)?,
            exact: device.zeroed(rows * config.width)?,
            logits: device.zeroed((room.whole * config.vocabulary).max(room.pairs))?,
            drawn: device.zeroed(2 * rows)?,
        })
    }

    /// Where the scales of rows of one kind lie; 0 if they have none.
    pub fn scales(&self, kind: usize) -> Address {
        Table::address(self.scales.as_ref().map(|scales| &scales[kind]))
    }
}

// === impl Plan ===

impl Plan {
    pub fn new(device: &Device, room: &Room) -> Result<Self, CudaError> {
        Ok(Self {
            numbers: Vec::with_capacity(room.numbers),
            table: device.zeroed(room.numbers)?,
            tokens: 0,
            positions: 0,
            slots: 0,
            ranges: 0,
            wanted: 0,
            tiles: 0,
            seen: 0,
            pairs: 0,
            draws: 0,
            banned: 0,
            rows: 0,
            singles: 0,
            tile_count: 0,
            picked: 0,
            parts: 0,
            blocks: 0,
        })
    }

    /// Lays out what the kernels read: one list after the other, in one table.
    pub fn fill(&mut self, pass: &PagedBatch, wanted: CudaOutputSpec<'_>, room: &Room) {
        let singles = pass.groups.iter().take_while(|group| group.rows.len() == 1);
        self.parts = 1;
        self.singles = 0;
        for group in singles {
            self.parts = self.parts.max(group.pages.len().div_ceil(PAGES_A_PART));
            self.singles += 1;
        }
        self.blocks = self.parts;
        self.lay(pass, wanted, [pass.tokens.len(), wanted.rows.len()], [0, room.tile]);
    }

    /// The same of one token of each of some texts, padded to so many. What kernels are told beside the table, where
    /// its lists begin among it, then depends on that number alone. What is added are texts of one token, each in a
    /// page of its own from `scratch` on.
    pub fn fill_bucket(
        &mut self,
        pass: &PagedBatch,
        wanted: CudaOutputSpec<'_>,
        rows: usize,
        scratch: u32,
        room: &Room,
    ) {
        (self.parts, self.blocks) = (room.parts_of_row, room.blocks(rows));
        self.singles = rows;
        self.lay(pass, wanted, [rows, rows], [scratch as usize, room.tile]);
    }

    /// Lays the lists out, those of `rows` rows and `picked` wanted ones, whatever the pass has of them.
    fn lay(
        &mut self,
        pass: &PagedBatch,
        wanted: CudaOutputSpec<'_>,
        [rows, picked]: [usize; 2],
        [scratch, tile]: [usize; 2],
    ) {
        (self.rows, self.picked) = (rows, picked);
        let scratch = scratch as u32;
        let numbers = &mut self.numbers;
        let added = 0..(rows - pass.tokens.len()) as u32;
        numbers.clear();
        self.tokens = numbers.len();
        numbers.extend(&pass.tokens);
        numbers.extend(added.clone().map(|_| 0));
        self.positions = numbers.len();
        numbers.extend(&pass.positions);
        numbers.extend(added.clone().map(|_| 0));
        self.slots = numbers.len();
        let slots = added.clone().map(|index| KvSlot { page: scratch + index, token: 0 });
        numbers.extend(
            pass.slots.iter().copied().chain(slots).flat_map(|slot| [slot.page, slot.token]),
        );
        self.ranges = numbers.len();
        for group in &pass.groups {
            let range = [group.pages.start as u32, group.pages.end as u32];
            group.rows.clone().for_each(|_| numbers.extend(range));
        }
        let seen = pass.block_table.len() as u32;
        numbers.extend(added.clone().flat_map(|index| [seen + index, seen + index + 1]));
        self.wanted = numbers.len();
        numbers.extend(wanted.rows);
        numbers.extend((wanted.rows.len()..picked).map(|_| 0));
        self.tiles = numbers.len();
        for Tile { rows, shared } in tiles(pass, self.singles, tile) {
            numbers.extend([rows.start, rows.len(), shared].map(|number| number as u32));
        }
        self.tile_count = (numbers.len() - self.tiles) / TILE_NUMBERS;
        self.seen = numbers.len();
        let own = added.map(|index| BlockTableEntry { page: scratch + index, first: 0, tokens: 1 });
        let seen = pass.block_table.iter().copied().chain(own);
        numbers.extend(seen.flat_map(|seen| [seen.page, seen.first, seen.tokens]));
        self.pairs = numbers.len();
        numbers.extend(wanted.chosen.iter().flatten());
        self.draws = numbers.len();
        for draw in wanted.draws {
            let chance = draw.chance.to_bits();
            let [low, high] = [chance as u32, (chance >> 32) as u32];
            let [begin, end] = [draw.banned.start, draw.banned.end].map(|at| at as u32);
            numbers.extend([draw.temperature.to_bits(), low, high, begin, end]);
        }
        self.banned = numbers.len();
        numbers.extend(wanted.banned);
    }

    pub fn upload(&mut self, device: &Device) -> Result<(), CudaError> {
        device.write(&mut self.table, 0, &self.numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass of groups of so many rows, each of which sees so many tokens from a page on, and then its own.
    fn pass(groups: &[(usize, usize, u32)]) -> PagedBatch {
        let mut pass = PagedBatch::default();
        for (&(rows, past, first_page), own) in groups.iter().zip(1_000..) {
            let (row, from) =
                (pass.groups.last().map_or(0, |group| group.rows.end), pass.block_table.len());
            let see = |(page, first): (u32, usize), end: usize| BlockTableEntry {
                page,
                first: first as u32,
                tokens: PAGE_TOKENS.min(end - first) as u32,
            };
            let pages = (first_page..).zip((0..past).step_by(PAGE_TOKENS));
            pass.block_table.extend(pages.map(|page| see(page, past)));
            pass.block_table.push(see((own, past), past + rows));
            let pages = from..pass.block_table.len();
            pass.groups.push(AttentionGroup { rows: row..row + rows, pages, past });
        }
        pass
    }

    /// First rows, how many they are, and what they share.
    fn laid(groups: &[(usize, usize, u32)], singles: usize, most: usize) -> Vec<[usize; 3]> {
        let pass = pass(groups);
        let tiles = tiles(&pass, singles, most);
        tiles.map(|Tile { rows, shared }| [rows.start, rows.len(), shared]).collect()
    }

    #[test]
    fn branches_of_a_long_trunk_attend_together() {
        // A trunk of a thousand tokens is seven parts and a piece of the eighth, which is each branch's own.
        let tiles = laid(&[(5, 1_000, 0); 100], 0, 16);
        assert_eq!(tiles.len(), 34);
        assert_eq!(tiles[..2], [[0, 15, 7], [15, 15, 7]]);
        assert_eq!(tiles[33], [495, 5, 0]);
        // So is what a tile may hold at most of what is not shared.
        assert_eq!(laid(&[(1, 1_000, 0); 9], 0, 16), [[0, 7, 7], [7, 2, 7]]);
        // Rows that are alone come first, and are no tile's.
        assert_eq!(laid(&[(1, 1_000, 0), (2, 1_000, 0), (3, 1_000, 0)], 1, 16), [[1, 5, 7]]);
        assert_eq!(laid(&[(1, 1_000, 0); 3], 8, 16), [[0; 3]; 0]);
    }

    #[test]
    fn what_shares_little_attends_by_itself() {
        // Another trunk, one that is no longer than a part, and another one behind the first part.
        assert_eq!(laid(&[(5, 1_000, 0), (5, 1_000, 100)], 0, 16), [[0, 5, 0], [5, 5, 0]]);
        assert_eq!(laid(&[(5, 127, 0), (5, 127, 0)], 0, 16), [[0, 5, 0], [5, 5, 0]]);
        assert_eq!(laid(&[(5, 128, 0), (5, 128, 0)], 0, 16), [[0, 5, 0], [5, 5, 0]]);
        assert_eq!(laid(&[(5, 256, 0), (5, 256, 0)], 0, 16), [[0, 10, 2]]);
        let mut forked = pass(&[(5, 1_000, 0), (5, 1_000, 0)]);
        forked.block_table[forked.groups[1].pages.start + 8].page = 77;
        assert_eq!(tiles(&forked, 0, 16).count(), 2);
        // What many rows attend to, they do tile by tile, and with nobody else.
        let tiles = laid(&[(37, 1_000, 0), (3, 1_000, 0), (4, 1_000, 0)], 0, 16);
        assert_eq!(tiles, [[0, 16, 0], [16, 16, 0], [32, 5, 0], [37, 7, 7]]);
    }

    #[test]
    fn rows_share_the_least_that_two_of_them_do() {
        // The shorter one leaves the trunk in its sixth part.
        let tiles = laid(&[(3, 1_000, 0), (3, 700, 0), (3, 1_000, 0)], 0, 16);
        assert_eq!(tiles, [[0, 6, 5], [6, 3, 0]]);
    }
}
