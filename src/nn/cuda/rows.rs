//! What a pass reads and writes on a device, beside weights and pages. All of it is taken when the model is loaded,
//! and stays where it is.

use super::device::{Address, Argument, Device, DeviceError, Table};
use super::model::Options;
use crate::nn::decoder::Config;
use crate::nn::packed::{PAGE_TOKENS, Pass, Seen, Slot};
use half::bf16;

/// Pages of a part: `PAGES_A_PART` of the kernels.
const PAGES_A_PART: usize = 32;
/// Parts, for each row of the largest pass, that there is room for. A pass with more attends some rows at a time.
const PARTS_A_ROW: usize = 4;
/// Rows whose whole logits there is room for, at least. More are calculated so many at a time.
const WHOLE_MIN: usize = 64;
/// Chosen tokens, for each row of the largest pass, whose logits there is room for.
const PAIRS_A_ROW: usize = 256;
/// Blocks that are enough to keep a device busy while a step attends, and how many take turns at a row's parts at
/// least, so that a long text beside many short ones is not the work of one.
const BLOCKS_ENOUGH: usize = 1024;
const BLOCKS_MIN: usize = 8;

/// The most that a pass may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub rows: usize,
    kv_heads: usize,
    /// Parts of the pages that one row sees.
    parts_of_row: usize,
    /// Parts of all rows that attend at once.
    pub parts: usize,
    /// Rows whose whole logits are there at once.
    pub whole: usize,
    /// Chosen tokens whose logits are there at once.
    pub pairs: usize,
    /// Numbers that are uploaded.
    numbers: usize,
}

/// What a pass writes to.
#[derive(Debug)]
pub(super) struct Rows {
    pub stream: Table<f32>,
    /// What the last product came to, to be added to the stream.
    pub delta: Table<f32>,
    pub normed: Table<bf16>,
    pub qkv: Table<f32>,
    pub queries: Table<bf16>,
    pub attended: Table<bf16>,
    pub parts: Table<f32>,
    pub sums: Table<f32>,
    pub gates_ups: Table<f32>,
    pub activated: Table<bf16>,
    /// Rows that something is wanted of, after the last norm.
    pub picked: Table<bf16>,
    pub exact: Table<f32>,
    pub logits: Table<f32>,
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
    pub seen: usize,
    pub pairs: usize,
    pub rows: usize,
    /// Rows that something is wanted of.
    pub picked: usize,
    /// Parts that there is room for of the pages of each row, and blocks that take turns at them.
    pub parts: usize,
    pub blocks: usize,
}

/// What is wanted of a pass: rows by number, and logits of tokens by the places of rows in that list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The rows; those whose whole logits are wanted come first.
    pub rows: &'a [u32],
    /// How many of them want those.
    pub whole: usize,
    /// The place of a row, and a token.
    pub pairs: &'a [[u32; 2]],
    /// Whether rows are wanted themselves.
    pub exact: bool,
}

/// What came of a pass, kept from pass to pass.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Of each pair.
    pub logits: Vec<f32>,
    /// Of each wanted row, if they are: the row after the last norm.
    pub rows: Vec<f32>,
}

// === impl Room ===

impl Room {
    pub fn of(config: &Config, options: Options) -> Self {
        let Options { pages, rows_max: rows, context_tokens_max, decodes_max, .. } = options;
        // A branch sees pages that last, and then some of its own.
        let pages_of_row = context_tokens_max.div_ceil(PAGE_TOKENS) + 1;
        let pages_of_row = pages_of_row.min(pages + rows.div_ceil(PAGE_TOKENS));
        let parts_of_row = pages_of_row.div_ceil(PAGES_A_PART);
        let pairs = (rows * PAIRS_A_ROW).max(config.vocabulary);
        // A token, a position, a slot, a range and a place among the wanted; and all pages that it sees.
        let of_row = 1 + 1 + 2 + 2 + 1 + 3 * pages_of_row;
        Self {
            rows,
            kv_heads: config.kv_heads,
            parts_of_row,
            parts: (rows * PARTS_A_ROW).max(decodes_max.next_power_of_two() * parts_of_row),
            whole: decodes_max.max(WHOLE_MIN).min(rows),
            pairs,
            numbers: rows * of_row + 2 * pairs,
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
    pub fn new(device: &Device, config: &Config, room: &Room) -> Result<Self, DeviceError> {
        let rows = room.rows;
        let heads = config.heads * config.head_dim;
        let all = heads + 2 * config.kv_heads * config.head_dim;
        Ok(Self {
            stream: device.zeroed(rows * config.width)?,
            delta: device.zeroed(rows * config.width)?,
            normed: device.zeroed(rows * config.width)?,
            qkv: device.zeroed(rows * all)?,
            queries: device.zeroed(rows * heads)?,
            attended: device.zeroed(rows * heads)?,
            parts: device.zeroed(room.parts * heads)?,
            sums: device.zeroed(room.parts * config.heads * 2)?,
            gates_ups: device.zeroed(rows * 2 * config.mlp_width)?,
            activated: device.zeroed(rows * config.mlp_width)?,
            picked: device.zeroed(rows * config.width)?,
            exact: device.zeroed(rows * config.width)?,
            logits: device.zeroed((room.whole * config.vocabulary).max(room.pairs))?,
        })
    }

    /// What has to be added to the stream before it is read, for kernels: a product and its bias, given the
    /// bias of the product that waits, if one does.
    pub fn pending(&self, bias: Option<Address>) -> [Argument; 2] {
        let delta = bias.map_or(0, |_| self.delta.at(0));
        [delta, bias.unwrap_or(0)].map(Argument::Table)
    }
}

// === impl Plan ===

impl Plan {
    pub fn new(device: &Device, room: &Room) -> Result<Self, DeviceError> {
        Ok(Self {
            numbers: Vec::with_capacity(room.numbers),
            table: device.zeroed(room.numbers)?,
            tokens: 0,
            positions: 0,
            slots: 0,
            ranges: 0,
            wanted: 0,
            seen: 0,
            pairs: 0,
            rows: 0,
            picked: 0,
            parts: 0,
            blocks: 0,
        })
    }

    /// Lays out what the kernels read: one list after the other, in one table.
    pub fn fill(&mut self, pass: &Pass, wanted: Wanted<'_>) {
        self.parts = 1;
        for group in &pass.groups {
            self.parts = self.parts.max(group.pages.len().div_ceil(PAGES_A_PART));
        }
        self.blocks = self.parts;
        self.lay(pass, wanted, [pass.tokens.len(), wanted.rows.len()], 0);
    }

    /// The same of one token of each of some texts, padded to so many. What kernels are told beside the table, where
    /// its lists begin among it, then depends on that number alone. What is added are texts of one token, each in a
    /// page of its own from `scratch` on.
    pub fn fill_bucket(
        &mut self,
        pass: &Pass,
        wanted: Wanted<'_>,
        rows: usize,
        scratch: u32,
        room: &Room,
    ) {
        (self.parts, self.blocks) = (room.parts_of_row, room.blocks(rows));
        self.lay(pass, wanted, [rows, rows], scratch);
    }

    /// Lays the lists out, those of `rows` rows and `picked` wanted ones, whatever the pass has of them.
    fn lay(&mut self, pass: &Pass, wanted: Wanted<'_>, [rows, picked]: [usize; 2], scratch: u32) {
        (self.rows, self.picked) = (rows, picked);
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
        let slots = added.clone().map(|index| Slot { page: scratch + index, token: 0 });
        numbers.extend(
            pass.slots.iter().copied().chain(slots).flat_map(|slot| [slot.page, slot.token]),
        );
        self.ranges = numbers.len();
        for group in &pass.groups {
            let range = [group.pages.start as u32, group.pages.end as u32];
            group.rows.clone().for_each(|_| numbers.extend(range));
        }
        let seen = pass.seen.len() as u32;
        numbers.extend(added.clone().flat_map(|index| [seen + index, seen + index + 1]));
        self.wanted = numbers.len();
        numbers.extend(wanted.rows);
        numbers.extend((wanted.rows.len()..picked).map(|_| 0));
        self.seen = numbers.len();
        let own = added.map(|index| Seen { page: scratch + index, first: 0, tokens: 1 });
        let seen = pass.seen.iter().copied().chain(own);
        numbers.extend(seen.flat_map(|seen| [seen.page, seen.first, seen.tokens]));
        self.pairs = numbers.len();
        numbers.extend(wanted.pairs.iter().flatten());
    }

    pub fn upload(&mut self, device: &Device) -> Result<(), DeviceError> {
        device.write(&mut self.table, 0, &self.numbers)
    }
}
