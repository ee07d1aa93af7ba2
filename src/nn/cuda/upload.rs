//! What is uploaded for a forward pass: the rows that the engine laid out, and the outputs that it requests.

use super::buffers::PassLimits;
use super::device::{CudaError, Device};
use super::interface::{
    BannedToken, DevicePtr, DrawSpec, LogitPair, PAGES_A_PART, PageRange, PageSlot, Position, Role,
    RowIndex, RowTile, SeenPage, TokenId,
};
use super::words::{List, WordTable};
use crate::nn::packed::{AttentionGroup, BlockTableEntry, KvSlot, PAGE_TOKENS, PagedBatch};
use crate::nn::softmax::SampleSpec;
use std::iter;
use std::ops::Range;

/// The outputs that are requested of a forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaOutputSpec<'a> {
    /// The rows that are read, by number. Those whose whole logits are requested come first.
    pub rows: &'a [u32],
    /// How many of them request their whole logits.
    pub full_logits: usize,
    /// Chosen logits: the index of a row in `rows`, and a token.
    pub chosen: &'a [[u32; 2]],
    /// Draws of a token, which replace the whole logits of the last rows that request those.
    pub draws: &'a [SampleSpec],
    /// Tokens that draws may not return. Each draw has a range of them.
    pub banned: &'a [u32],
    /// Whether the rows themselves are read, after the last norm.
    pub hidden: bool,
}

/// The outputs of a forward pass, kept from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct CudaOutput {
    /// Of each draw: a token, and the bits of its log-probability. If that is not-a-number, nothing could be drawn, and
    /// the token is the one whose logit is not finite, or `u32::MAX` if none has a probability.
    pub drawn: Vec<[u32; 2]>,
    /// The chosen logits.
    pub chosen: Vec<f32>,
    /// The rows after the last norm, if they are requested.
    pub hidden: Vec<f32>,
}

/// What was uploaded for the pass at hand: lists, one after the other, in one table.
#[derive(Debug)]
pub(super) struct PassUpload {
    words: Vec<u32>,
    table: WordTable,
    pub tokens: List<TokenId>,
    pub positions: List<Position>,
    pub slots: List<PageSlot>,
    pub ranges: List<PageRange>,
    pub picked: List<RowIndex>,
    pub tiles: List<RowTile>,
    pub seen: List<SeenPage>,
    pub pairs: List<LogitPair>,
    pub draws: List<DrawSpec>,
    pub banned: List<BannedToken>,
    pub rows: usize,
    /// Rows at the beginning that are alone in their group, and tiles of all others.
    pub singles: usize,
    pub tile_count: usize,
    /// Rows that are read.
    pub picked_count: usize,
    /// Parts of each row's pages that there is space for, and blocks that take turns at them.
    pub parts: usize,
    pub blocks: usize,
}

/// Neighbouring rows that attend as one, and the whole parts that the page lists of all their groups begin with: 0 for one
/// group.
#[derive(Debug, PartialEq, Eq)]
struct AttentionTile {
    rows: Range<usize>,
    shared: usize,
}

/// Tiles of at most `rows_max` rows, of all groups but the first `singles`.
fn tiles(
    pass: &PagedBatch,
    singles: usize,
    rows_max: usize,
) -> impl Iterator<Item = AttentionTile> {
    // A padded bucket has more singles than its pass has groups.
    let mut left = pass.groups.get(singles..).unwrap_or_default();
    let joined = iter::from_fn(move || {
        let first = left.first()?;
        let (count, shared) = join(left, &pass.block_table, rows_max);
        let (these, others) = left.split_at(count);
        left = others;
        Some(AttentionTile { rows: first.rows.start..these[count - 1].rows.end, shared })
    });
    joined.flat_map(move |AttentionTile { rows, shared }| {
        let end = rows.end;
        rows.step_by(rows_max)
            .map(move |row| AttentionTile { rows: row..end.min(row + rows_max), shared })
    })
}

/// How many groups from the first on attend as one, and how many parts they share. A tile loads the shared parts once, but
/// the other parts of its groups one after the other, which separate tiles would load at the same time. So groups join only
/// while the others are no more than the shared ones.
fn join(groups: &[AttentionGroup], seen: &[BlockTableEntry], rows_max: usize) -> (usize, usize) {
    let first = &groups[0];
    let (mut shared, mut all) = (usize::MAX, parts_of(first));
    let mut joined = (1, 0);
    for (count, group) in (2..).zip(&groups[1..]) {
        shared = shared.min(shared_parts(first, group, seen));
        all += parts_of(group);
        if group.rows.end - first.rows.start > rows_max || all > (count + 1) * shared {
            break;
        }
        joined = (count, shared);
    }
    joined
}

/// The parts that a group's pages are split into.
fn parts_of(group: &AttentionGroup) -> usize {
    group.pages.len().div_ceil(PAGES_A_PART as usize)
}

/// Whole parts that two groups begin with, of full pages that all of their rows see.
fn shared_parts(a: &AttentionGroup, b: &AttentionGroup, seen: &[BlockTableEntry]) -> usize {
    let past =
        |group: &AttentionGroup| seen[group.pages.clone()].iter().take(group.past / PAGE_TOKENS);
    past(a).zip(past(b)).take_while(|(a, b)| a == b).count() / PAGES_A_PART as usize
}

// === impl PassUpload ===

impl PassUpload {
    pub fn new(device: &Device, limits: &PassLimits) -> Result<Self, CudaError> {
        Ok(Self {
            words: Vec::with_capacity(limits.words),
            table: WordTable::new(device, limits.words)?,
            tokens: List::default(),
            positions: List::default(),
            slots: List::default(),
            ranges: List::default(),
            picked: List::default(),
            tiles: List::default(),
            seen: List::default(),
            pairs: List::default(),
            draws: List::default(),
            banned: List::default(),
            rows: 0,
            singles: 0,
            tile_count: 0,
            picked_count: 0,
            parts: 0,
            blocks: 0,
        })
    }

    /// The address of a list.
    pub fn at<R: Role>(&self, list: List<R>) -> DevicePtr<R> {
        self.table.at(list)
    }

    /// Lays out the lists of a pass.
    pub fn fill(&mut self, pass: &PagedBatch, outputs: CudaOutputSpec<'_>, limits: &PassLimits) {
        let singles = pass.groups.iter().take_while(|group| group.rows.len() == 1);
        self.parts = 1;
        self.singles = 0;
        for group in singles {
            self.parts = self.parts.max(parts_of(group));
            self.singles += 1;
        }
        self.blocks = self.parts;
        let rows = (pass.tokens.len(), outputs.rows.len());
        self.lay_out(pass, outputs, rows, (0, limits.tile_rows));
    }

    /// Lays out the lists of a pass over one token of each of some sequences, padded to `rows`. The kernels' arguments,
    /// such as where lists begin, then depend on `rows` alone. Padding rows are sequences of one token, each in a page of
    /// its own from `scratch` on.
    pub fn fill_bucket(
        &mut self,
        pass: &PagedBatch,
        outputs: CudaOutputSpec<'_>,
        rows: usize,
        scratch: u32,
        limits: &PassLimits,
    ) {
        (self.parts, self.blocks) = (limits.parts_of_row, limits.blocks(rows));
        self.singles = rows;
        self.lay_out(pass, outputs, (rows, rows), (scratch, limits.tile_rows));
    }

    /// Lays out the lists, padded to so many rows and so many rows that are read.
    fn lay_out(
        &mut self,
        pass: &PagedBatch,
        outputs: CudaOutputSpec<'_>,
        (rows, picked): (usize, usize),
        (scratch, tile_rows): (u32, usize),
    ) {
        (self.rows, self.picked_count) = (rows, picked);
        let words = &mut self.words;
        let padding = 0..(rows - pass.tokens.len()) as u32;
        words.clear();
        self.tokens = List::from(words.len());
        words.extend(&pass.tokens);
        words.extend(padding.clone().map(|_| 0));
        self.positions = List::from(words.len());
        words.extend(&pass.positions);
        words.extend(padding.clone().map(|_| 0));
        self.slots = List::from(words.len());
        let added = padding.clone().map(|index| KvSlot { page: scratch + index, token: 0 });
        let slots = pass.slots.iter().copied().chain(added);
        words.extend(slots.flat_map(|KvSlot { page, token }| PageSlot { page, token }.words()));
        self.ranges = List::from(words.len());
        for group in &pass.groups {
            let (begin, end) = (group.pages.start as u32, group.pages.end as u32);
            let range = PageRange { begin, end }.words();
            group.rows.clone().for_each(|_| words.extend(range));
        }
        let seen = pass.block_table.len() as u32;
        let one = |index| PageRange { begin: seen + index, end: seen + index + 1 };
        words.extend(padding.clone().flat_map(|index| one(index).words()));
        self.picked = List::from(words.len());
        words.extend(outputs.rows);
        words.extend((outputs.rows.len()..picked).map(|_| 0));
        let tiles_begin = words.len();
        self.tiles = List::from(tiles_begin);
        for AttentionTile { rows, shared } in tiles(pass, self.singles, tile_rows) {
            let (first, rows, shared) = (rows.start as u32, rows.len() as u32, shared as u32);
            words.extend(RowTile { first, rows, shared }.words());
        }
        self.tile_count = (words.len() - tiles_begin) / RowTile::WORDS;
        self.seen = List::from(words.len());
        let own =
            padding.map(|index| BlockTableEntry { page: scratch + index, first: 0, tokens: 1 });
        let seen = pass.block_table.iter().copied().chain(own);
        words.extend(seen.flat_map(|BlockTableEntry { page, first, tokens }| {
            SeenPage { page, first, tokens }.words()
        }));
        self.pairs = List::from(words.len());
        for &[row, token] in outputs.chosen {
            words.extend(LogitPair { row, token }.words());
        }
        self.draws = List::from(words.len());
        for draw in outputs.draws {
            let chance = draw.chance.to_bits();
            let spec = DrawSpec {
                temperature: draw.temperature,
                chance_low: chance as u32,
                chance_high: (chance >> 32) as u32,
                banned_begin: draw.banned.start as u32,
                banned_end: draw.banned.end as u32,
            };
            words.extend(spec.words());
        }
        self.banned = List::from(words.len());
        words.extend(outputs.banned);
    }

    pub fn upload(&mut self, device: &Device) -> Result<(), CudaError> {
        self.table.upload(device, &self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass of groups: rows, past tokens that each sees, and the page that those begin at. Each also sees its own tokens.
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

    /// Of each tile: the first row, the rows, and the shared parts.
    fn laid(groups: &[(usize, usize, u32)], singles: usize, most: usize) -> Vec<[usize; 3]> {
        let pass = pass(groups);
        let tiles = tiles(&pass, singles, most);
        tiles.map(|AttentionTile { rows, shared }| [rows.start, rows.len(), shared]).collect()
    }

    #[test]
    fn branches_of_a_long_trunk_attend_together() {
        // A trunk of a thousand tokens is seven whole parts. The eighth part is each branch's own.
        let tiles = laid(&[(5, 1_000, 0); 100], 0, 16);
        assert_eq!(tiles.len(), 34);
        assert_eq!(tiles[..2], [[0, 15, 7], [15, 15, 7]]);
        assert_eq!(tiles[33], [495, 5, 0]);
        // A tile has no more unshared parts than shared ones.
        assert_eq!(laid(&[(1, 1_000, 0); 9], 0, 16), [[0, 7, 7], [7, 2, 7]]);
        // Single rows come first, and are in no tile.
        assert_eq!(laid(&[(1, 1_000, 0), (2, 1_000, 0), (3, 1_000, 0)], 1, 16), [[1, 5, 7]]);
        assert_eq!(laid(&[(1, 1_000, 0); 3], 8, 16), [[0; 3]; 0]);
    }

    #[test]
    fn what_shares_little_attends_by_itself() {
        // Another trunk; a trunk no longer than a part; and trunks that differ behind the first part.
        assert_eq!(laid(&[(5, 1_000, 0), (5, 1_000, 100)], 0, 16), [[0, 5, 0], [5, 5, 0]]);
        assert_eq!(laid(&[(5, 127, 0), (5, 127, 0)], 0, 16), [[0, 5, 0], [5, 5, 0]]);
        assert_eq!(laid(&[(5, 128, 0), (5, 128, 0)], 0, 16), [[0, 5, 0], [5, 5, 0]]);
        assert_eq!(laid(&[(5, 256, 0), (5, 256, 0)], 0, 16), [[0, 10, 2]]);
        let mut forked = pass(&[(5, 1_000, 0), (5, 1_000, 0)]);
        forked.block_table[forked.groups[1].pages.start + 8].page = 77;
        assert_eq!(tiles(&forked, 0, 16).count(), 2);
        // A group of many rows has tiles of its own.
        let tiles = laid(&[(37, 1_000, 0), (3, 1_000, 0), (4, 1_000, 0)], 0, 16);
        assert_eq!(tiles, [[0, 16, 0], [16, 16, 0], [32, 5, 0], [37, 7, 7]]);
    }

    #[test]
    fn rows_share_the_least_that_two_of_them_do() {
        // The second group leaves the trunk in its sixth part.
        let tiles = laid(&[(3, 1_000, 0), (3, 700, 0), (3, 1_000, 0)], 0, 16);
        assert_eq!(tiles, [[0, 6, 5], [6, 3, 0]]);
    }
}
