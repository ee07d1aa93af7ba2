//! What a pass reads and writes on a device, beside weights and pages.

use super::device::{Address, Argument, Device, DeviceError, Table};
use crate::nn::decoder::Config;
use crate::nn::packed::Pass;
use half::bf16;

/// Pages that one block reads: `PAGES_A_PART` of the kernels.
const PAGES_A_PART: usize = 32;

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
    pub seen: usize,
    pub wanted: usize,
    pub pairs: usize,
    pub rows: usize,
    /// Parts that the pages of a row are cut into, at most.
    pub parts: usize,
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

// === impl Rows ===

impl Rows {
    pub fn new(device: &Device, config: &Config, rows: usize) -> Result<Self, DeviceError> {
        let heads = config.heads * config.head_dim;
        let all = heads + 2 * config.kv_heads * config.head_dim;
        Ok(Self {
            stream: device.zeroed(rows * config.width)?,
            delta: device.zeroed(rows * config.width)?,
            normed: device.zeroed(rows * config.width)?,
            qkv: device.zeroed(rows * all)?,
            queries: device.zeroed(rows * heads)?,
            attended: device.zeroed(rows * heads)?,
            parts: device.zeroed(0)?,
            sums: device.zeroed(0)?,
            gates_ups: device.zeroed(rows * 2 * config.mlp_width)?,
            activated: device.zeroed(rows * config.mlp_width)?,
            picked: device.zeroed(rows * config.width)?,
            exact: device.zeroed(rows * config.width)?,
            logits: device.zeroed(0)?,
        })
    }

    /// What has to be added to the stream before it is read, for kernels: a product and its bias, given the
    /// bias of the product that waits, if one does.
    pub fn pending(&self, bias: Option<Address>) -> [Argument; 2] {
        let delta = bias.map_or(0, |_| self.delta.at(0));
        [delta, bias.unwrap_or(0)].map(Argument::Table)
    }

    /// Makes room for what depends on how long sequences are and on what is wanted. It grows to the most that was ever
    /// needed, and then stays.
    pub fn fit(
        &mut self,
        device: &Device,
        config: &Config,
        parts: usize,
        wanted: Wanted<'_>,
    ) -> Result<(), DeviceError> {
        let logits = (wanted.whole * config.vocabulary).max(wanted.pairs.len());
        for (table, count) in [
            (&mut self.parts, parts * config.head_dim),
            (&mut self.sums, parts * 2),
            (&mut self.logits, logits),
        ] {
            if table.len() < count {
                *table = device.zeroed(count.next_power_of_two())?;
            }
        }
        Ok(())
    }
}

// === impl Plan ===

impl Plan {
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        Ok(Self {
            numbers: Vec::new(),
            table: device.zeroed(0)?,
            tokens: 0,
            positions: 0,
            slots: 0,
            ranges: 0,
            seen: 0,
            wanted: 0,
            pairs: 0,
            rows: 0,
            parts: 0,
        })
    }

    /// Lays out what the kernels read: one list after the other, in one table.
    pub fn fill(&mut self, pass: &Pass, wanted: Wanted<'_>) {
        let numbers = &mut self.numbers;
        numbers.clear();
        self.rows = pass.tokens.len();
        self.tokens = numbers.len();
        numbers.extend(&pass.tokens);
        self.positions = numbers.len();
        numbers.extend(&pass.positions);
        self.slots = numbers.len();
        numbers.extend(pass.slots.iter().flat_map(|slot| [slot.page, slot.token]));
        self.ranges = numbers.len();
        self.parts = 1;
        for group in &pass.groups {
            let range = [group.pages.start as u32, group.pages.end as u32];
            group.rows.clone().for_each(|_| numbers.extend(range));
            self.parts = self.parts.max(group.pages.len().div_ceil(PAGES_A_PART));
        }
        self.seen = numbers.len();
        numbers.extend(pass.seen.iter().flat_map(|seen| [seen.page, seen.first, seen.tokens]));
        self.wanted = numbers.len();
        numbers.extend(wanted.rows);
        self.pairs = numbers.len();
        numbers.extend(wanted.pairs.iter().flatten());
    }

    pub fn upload(&mut self, device: &Device) -> Result<(), DeviceError> {
        if self.table.len() < self.numbers.len() {
            self.table = device.zeroed(self.numbers.len().next_power_of_two())?;
        }
        device.write(&mut self.table, 0, &self.numbers)
    }
}
