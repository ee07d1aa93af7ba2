//! What Rust and the kernels have to agree on: constants, records, and the arguments of each kernel.
//!
//! This file is the source. `kernels/interface.h` is generated from it, and `tests/kernels.rs` checks that file, and
//! the C signature of each kernel, against it: names, types and order. It depends on nothing but `half`, so that test
//! needs neither nvcc nor the feature `cuda`.
//!
//! An argument is a field with a name and a type of its own. A pointer's type says what its numbers are for ([`Role`]),
//! and a count's type what it counts ([`Value`]), so two swapped arguments don't compile.

use half::bf16;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

/// Arguments of a kernel, at most.
pub const ARGUMENTS_MAX: usize = 20;

// === constants ===

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: u32 = $value:expr;)+) => {
        $($(#[$doc])* pub const $name: u32 = $value;)+
        /// Every constant that the kernels share, by name.
        pub const CONSTANTS: &[(&str, u32)] = &[$((stringify!($name), $name)),+];
    };
}

constants! {
    /// Threads of a warp.
    WARP: u32 = 32;
    /// Threads of a block that norms rows, at most.
    NORM_THREADS: u32 = 512;
    /// Threads of a block that goes over the widest rows, at most.
    WIDE_THREADS: u32 = 1_024;
    /// Groups of four numbers that a thread of a norming block keeps in registers.
    NARROW: u32 = 4;
    /// The same for the widest rows.
    WIDE: u32 = 8;
    /// Threads of a block that goes over a row of logits.
    DRAW_THREADS: u32 = 1_024;
    /// Returned for a draw where no token has a probability.
    NO_TOKEN: u32 = u32::MAX;
    /// Tokens of a KV page.
    PAGE_TOKENS: u32 = 16;
    /// KV pages of a part, in which attention is split over a sequence.
    PAGES_A_PART: u32 = 8;
    /// Rows of a tensor-core fragment: each is a query head of a token.
    FRAGMENT_ROWS: u32 = 16;
    /// Warps of a block of `attend_rows`.
    ROWS_WARPS: u32 = 4;
    /// Rows that `multiply_few` and `gate_few` take, at most.
    FEW_ROWS: u32 = 8;
    /// Outputs of one of their blocks.
    FEW_OUTPUTS: u32 = 16;
    /// Numbers of a row that they multiply at a time.
    FEW_STEP: u32 = 128;
    /// Steps that `multiply_few` copies ahead.
    FEW_AHEAD: u32 = 11;
    /// Steps that `gate_few` copies ahead.
    GATE_FEW_AHEAD: u32 = 6;
    /// The segment of rows that every later row of a sequence sees.
    TRUNK: u32 = 0;
    /// The segment of rows that pad a sequence and see themselves alone.
    PADDING: u32 = u32::MAX;
    /// Threads of a block of `encode_histories`.
    HISTORY_THREADS: u32 = 512;
    /// Threads of a block of `score_candidates`.
    TILE_THREADS: u32 = 256;
    /// Candidates of a block of `score_candidates`.
    TILE: u32 = 10;
    /// The pattern of a slate that has none.
    NO_PATTERN: u32 = u32::MAX;
    /// Columns of the target attention's first layer that a thread computes at a time.
    FIRST: u32 = 32;
    /// Columns of the target attention's second layer, at most.
    SECOND: u32 = 16;
}

/// Head dimensions that attention is compiled for, and the most query heads of each that may share a KV head.
pub const HEAD_SHAPES: [(u32, u32); 5] = [(8, 4), (16, 8), (32, 8), (64, 8), (128, 8)];

/// The dtype of a layer's weights, and of the rows that they are multiplied with. 8-bit numbers have a scale for each
/// row, which brings its greatest number to the greatest that 8 bits hold.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaWeightDtype {
    /// 16-bit floating point.
    Bf16,
    /// 8-bit floating point (E4M3).
    Float8,
    /// 8-bit integers. Their sums are 32-bit integers, which hold those of the widest rows: 32,768 × 127 × 127.
    Int8,
}

/// The variants of [`CudaWeightDtype`] in C, in order.
pub const WEIGHT_DTYPES: [&str; 3] = ["BF16", "FLOAT8", "INT8"];

// === pointers ===

/// What the numbers behind a pointer are for.
pub trait Role: Copy {
    /// A number in the host's memory.
    type Number;
    /// Its type in C.
    const C: &'static str;
}

/// The address on a device of the first number of a role. Null stands for a table that does not exist.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct DevicePtr<R> {
    address: u64,
    role: PhantomData<R>,
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident: $number:ty = $c:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Role for $name {
            type Number = $number;
            const C: &'static str = $c;
        }
    )+};
}

roles! {
    /// The residual stream: (rows, width).
    Residual: f32 = "float";
    /// The unembedding, or a table of embeddings: (vocabulary, width).
    VocabularyWeight: bf16 = "bf16";
    /// A layer's weights: (outputs, inputs).
    LayerWeight: bf16 = "bf16";
    /// Rows or weights in a [`CudaWeightDtype`].
    Packed: u8 = "void";
    /// The scale of a row of 8-bit numbers that weights are multiplied with.
    RowScale: f32 = "float";
    /// The scale of a row of 8-bit weights, which is a column of their product.
    ColumnScale: f32 = "float";
    /// Sums of a product: (rows, outputs). Bits of 32-bit integers, where weights are integers.
    ProductSum: f32 = "float";
    /// A product's bias: (outputs).
    Bias: f32 = "float";
    /// The scale of a norm over rows: (width).
    NormScale: f32 = "float";
    /// The scale of a norm over each head of the queries: (head_dim).
    QueryNormScale: f32 = "float";
    /// The scale of a norm over each head of the keys: (head_dim).
    KeyNormScale: f32 = "float";
    /// The RoPE table, cosines and sines: (positions, head_dim / 2).
    RopeAngle: f32 = "float2";
    /// Rows that go into a product: (rows, inputs).
    InputRow: bf16 = "bf16";
    /// The MLP's gated numbers: (rows, mlp_width).
    GatedRow: bf16 = "bf16";
    /// Inputs after a dropout: (rows, inputs).
    DroppedRow: bf16 = "bf16";
    /// Rows after the last norm: (rows read, width).
    PickedRow: bf16 = "bf16";
    /// The same, not rounded.
    HiddenRow: f32 = "float";
    /// Queries: (rows, heads, head_dim), or (sequences, heads, length, head_dim) in training.
    QueryHead: bf16 = "bf16";
    /// Keys: (sequences, kv_heads, length, head_dim).
    KeyHead: bf16 = "bf16";
    /// Values: (sequences, kv_heads, length, head_dim).
    ValueHead: bf16 = "bf16";
    /// Keys in KV pages: (pages, kv_heads, page), in the dtype of the kernel.
    KeyPage: u8 = "KV";
    /// Values in KV pages: (pages, kv_heads, page), in the dtype of the kernel.
    ValuePage: u8 = "KV";
    /// Attention's output: (rows, heads, head_dim).
    AttendedRow: bf16 = "bf16";
    /// The same head by head: (sequences, heads, length, head_dim).
    AttendedHead: bf16 = "bf16";
    /// Attention's output for one part of a row's pages: (rows, heads, parts, head_dim).
    AttendedPart: f32 = "float";
    /// The highest score of a part, and the sum of its weights: (rows, heads, parts).
    PartSum: f32 = "PartSum";
    /// Attention's scores, or the gradient of its weights: (heads, rows, rows).
    AttentionScore: f32 = "float";
    /// Attention's weights after the softmax, or the gradient of its scores: (heads, rows, rows).
    AttentionWeight: bf16 = "bf16";
    /// Logits of a vocabulary, or of chosen tokens.
    Logit: f32 = "float";
    /// A token's id.
    TokenId: u32 = "u32";
    /// A token that may not be drawn.
    BannedToken: u32 = "u32";
    /// A row's position in its sequence.
    Position: u32 = "u32";
    /// A row's branch, or [`TRUNK`] or [`PADDING`].
    Segment: u32 = "u32";
    /// The number of a row.
    RowIndex: u32 = "u32";
    /// The gradient of the residual stream: (rows, width).
    ResidualGradient: f32 = "float";
    /// The same in bf16, as products take it.
    ResidualGradientBf16: bf16 = "bf16";
    /// The gradient of normed rows: (rows, width).
    NormedGradient: f32 = "float";
    /// The gradient of the gated numbers: (rows, mlp_width).
    GatedGradient: f32 = "float";
    /// The gradient of gates and of what they gate: (rows, 2 mlp_width).
    GateUpGradient: bf16 = "bf16";
    /// The gradient of attention's output: (rows, heads, head_dim).
    AttendedGradient: f32 = "float";
    /// The same head by head: (sequences, heads, length, head_dim).
    AttendedHeadGradient: bf16 = "bf16";
    /// The gradient of queries: (sequences, heads, length, head_dim).
    QueryGradient: f32 = "float";
    /// The gradient of keys: (sequences, kv_heads, length, head_dim).
    KeyGradient: f32 = "float";
    /// The gradient of values: (sequences, kv_heads, length, head_dim).
    ValueGradient: f32 = "float";
    /// The gradient of projected queries, keys and values: (rows, (heads + 2 kv_heads) head_dim).
    QkvGradient: bf16 = "bf16";
    /// The gradient of inputs: (rows, inputs).
    InputGradient: f32 = "float";
    /// The gradient of inputs after a dropout: (rows, inputs).
    DroppedGradient: f32 = "float";
    /// The gradient of logits: (rows, vocabulary).
    LogitGradient: bf16 = "bf16";
    /// An adapter's matrix, or rows between its two matrices.
    AdapterNumber: bf16 = "bf16";
    /// The gradient of an adapter's matrix.
    AdapterGradient: f32 = "float";
    /// The weight of a target token in the loss: (targets).
    TargetWeight: f32 = "float";
    /// The loss of a target token or of a choice.
    Loss: f32 = "float";
    /// A word of an uploaded table.
    UploadedWord: u32 = "u32";
    /// Rows that are uploaded to be kept: (rows, width).
    UploadedRow: f32 = "float";
    /// Rows that are kept on the device: (slots, width).
    CachedRow: f32 = "float";
    /// The slot of a row that is kept on the device.
    SlotIndex: u32 = "u32";
    /// The weights of `encode_histories`, in the order in which it reads them.
    HistoryWeight: f32 = "float";
    /// The weights of `score_candidates`, in the order in which it reads them.
    CandidateWeight: f32 = "float";
    /// An item's row: vector, shares of two first layers, and Rechead vector.
    ItemRow: f32 = "float";
    /// A card's row: keys and values of its reasons.
    CardRow: f32 = "float";
    /// Encoded events: (slates, history, width).
    EncodedEvent: f32 = "float";
    /// The events' terms of the target attention's first layer: (slates, history, columns).
    EventTerm: f32 = "float";
    /// The pattern's query for reasons and its share of the head: (slates, width + head_first).
    PatternShare: f32 = "float";
    /// The vectors of patterns: (patterns, text).
    PatternVector: f32 = "float";
    /// The shoppers' Rechead vectors: (slates, rechead_width).
    ShopperVector: f32 = "float";
    /// Features of candidates: (candidates, features).
    Feature: f32 = "float";
    /// How much the shopper's history backs a reason: (candidates, reasons).
    Overlap: f32 = "float";
    /// The Rechead's scores: (candidates).
    RecheadScore: f32 = "float";
    /// Attention over reasons: (candidates, reasons).
    ReasonAttention: f32 = "float";
}

// === impl DevicePtr ===

impl<R: Role> DevicePtr<R> {
    /// No table.
    pub const NULL: Self = Self { address: 0, role: PhantomData };

    /// The numbers at an address.
    pub fn new(address: u64) -> Self {
        Self { address, role: PhantomData }
    }

    /// The address.
    pub fn address(self) -> u64 {
        self.address
    }

    /// From this number on.
    pub fn from(self, number: usize) -> Self {
        Self::new(self.address + (number * size_of::<R::Number>()) as u64)
    }

    /// The same numbers in another role.
    pub fn with_role<S: Role<Number = R::Number>>(self) -> DevicePtr<S> {
        DevicePtr::new(self.address)
    }
}

impl<R: Role<Number = bf16>> DevicePtr<R> {
    /// The same numbers in a [`CudaWeightDtype`] that is bf16.
    pub fn packed(self) -> DevicePtr<Packed> {
        DevicePtr::new(self.address)
    }
}

impl DevicePtr<Packed> {
    /// The same numbers, where their [`CudaWeightDtype`] is bf16.
    pub fn as_bf16<R: Role<Number = bf16>>(self) -> DevicePtr<R> {
        DevicePtr::new(self.address)
    }
}

impl<R: Role> Default for DevicePtr<R> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<R> fmt::Debug for DevicePtr<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

// === values ===

/// An argument, or a field of one, that is no pointer.
pub trait Value: Copy {
    /// Its type in C.
    const C: &'static str;
}

impl Value for u32 {
    const C: &'static str = "u32";
}

impl Value for f32 {
    const C: &'static str = "float";
}

impl Value for bool {
    const C: &'static str = "bool";
}

impl Value for CudaWeightDtype {
    const C: &'static str = "WeightDtype";
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(u32);

        impl $name {
            /// So many.
            pub fn of(count: usize) -> Self {
                Self(count as u32)
            }
        }

        impl Value for $name {
            const C: &'static str = "u32";
        }
    )+};
}

counts! {
    /// Numbers of a row.
    Width,
    /// Rows.
    RowCount,
    /// Rows of a sequence.
    Length,
    /// Outputs of a matrix.
    Outputs,
    /// Tokens of a vocabulary.
    Vocabulary,
    /// Pairs of a row and a token.
    PairCount,
    /// Parts of a row's pages that there is space for.
    PartCount,
    /// Tokens of a sliding window; 0 if there is none.
    Window,
    /// The first KV head of some, counted over all sequences.
    FirstHead,
    /// KV heads.
    HeadCount,
    /// Numbers.
    NumberCount,
    /// Groups of four numbers.
    FourCount,
    /// The lower half of a 64-bit seed.
    SeedLow,
    /// The upper half of a 64-bit seed.
    SeedHigh,
}

macro_rules! factors {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name(f32);

        impl $name {
            /// The factor of this value.
            pub fn of(value: f32) -> Self {
                Self(value)
            }
        }

        impl Value for $name {
            const C: &'static str = "float";
        }
    )+};
}

factors! {
    /// Added to the mean square of a row before a norm divides by its root.
    Epsilon,
    /// Scores of attention are multiplied by it.
    ScoreScale,
    /// The share of inputs that a dropout leaves out.
    Dropout,
    /// The weight of a choice in the loss.
    ChoiceWeight,
}

// === parameters ===

/// A parameter of a kernel, or a field of a record, in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Whether it is a pointer.
    pub kind: ParameterKind,
    /// The type of its value, or of what it points to.
    pub c: &'static str,
}

/// How a kernel uses a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A value.
    Value,
    /// A pointer to what it reads.
    Read,
    /// A pointer to what it writes.
    Write,
}

macro_rules! field_type {
    (read $role:ty) => { DevicePtr<$role> };
    (write $role:ty) => { DevicePtr<$role> };
    (value $value:ty) => { $value };
}

macro_rules! parameter {
    ($name:ident read $role:ty) => {
        Parameter { name: stringify!($name), kind: ParameterKind::Read, c: <$role as Role>::C }
    };
    ($name:ident write $role:ty) => {
        Parameter { name: stringify!($name), kind: ParameterKind::Write, c: <$role as Role>::C }
    };
    ($name:ident value $value:ty) => {
        Parameter { name: stringify!($name), kind: ParameterKind::Value, c: <$value as Value>::C }
    };
}

// === records ===

/// Structs that are arguments.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ident $type:ty,)+ })+) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: field_type!($kind $type),)+
            }

            impl Value for $name {
                const C: &'static str = stringify!($name);
            }
        )+
        /// Every struct that is an argument: its name and its fields.
        pub const STRUCTS: &[(&str, &[Parameter])] =
            &[$((stringify!($name), &[$(parameter!($field $kind $type)),+])),+];
    };
}

structs! {
    /// A product that is not scaled yet: (rows, columns). A kernel that reads it multiplies by the scales of 8-bit rows
    /// and weights, and adds the bias, where there are any.
    Product {
        sums: read ProductSum,
        bias: read Bias,
        row_scales: read RowScale,
        column_scales: read ColumnScale,
        /// Whether the sums are 32-bit integers.
        integers: value bool,
    }
    /// Attention heads and KV pages.
    Heads {
        heads: value u32,
        kv_heads: value u32,
        dim: value u32,
        page_tokens: value u32,
    }
    /// Attention heads of a training batch, and the rows of each of its sequences.
    Sequences {
        heads: value u32,
        kv_heads: value u32,
        dim: value u32,
        length: value u32,
    }
    /// Sizes of the scorer's network.
    Network {
        width: value u32,
        text: value u32,
        reasons: value u32,
        features: value u32,
        history: value u32,
        ages: value u32,
        kinds: value u32,
        heads: value u32,
        layers: value u32,
        ffn: value u32,
        /// Columns of the target attention's first layer, padded to a multiple of [`FIRST`].
        columns: value u32,
        head_first: value u32,
        head_second: value u32,
        rechead: value u32,
    }
}

/// A number of 32 bits in an uploaded table.
trait Word {
    fn word(self) -> u32;
}

impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}

impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

/// Records of tables of 32-bit words.
macro_rules! records {
    ($($(#[$doc:meta])* $name:ident[$words:literal] { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)+
            }

            impl $name {
                /// Words of a record.
                pub const WORDS: usize = $words;

                /// The record as it is uploaded.
                pub fn words(self) -> [u32; $words] {
                    [$(Word::word(self.$field)),+]
                }
            }

            impl Role for $name {
                type Number = u32;
                const C: &'static str = stringify!($name);
            }

            impl DevicePtr<$name> {
                /// From this record on.
                pub fn record(self, index: usize) -> Self {
                    self.from(index * $words)
                }
            }
        )+
        /// Every record: its name and its fields.
        pub const RECORDS: &[(&str, &[Parameter])] =
            &[$((stringify!($name), &[$(parameter!($field value $type)),+])),+];
    };
}

records! {
    /// The KV slot that a row's key and value are written to.
    PageSlot[2] {
        page: u32,
        token: u32,
    }
    /// The pages that a row sees, as a range of the list of [`SeenPage`]s.
    PageRange[2] {
        begin: u32,
        end: u32,
    }
    /// A page that rows see: its number, the position of its first token, and how many of its tokens they see.
    SeenPage[3] {
        page: u32,
        first: u32,
        tokens: u32,
    }
    /// Neighbouring rows that attend as one, and the whole parts that the page lists of all their groups begin with.
    RowTile[3] {
        first: u32,
        rows: u32,
        shared: u32,
    }
    /// The logit that is read of a token, for one of the picked rows.
    LogitPair[2] {
        row: u32,
        token: u32,
    }
    /// How a token is drawn from a row of logits: the temperature (0 takes the highest), a number of [0, 1) as the two
    /// halves of a double, and a range of the list of banned tokens.
    DrawSpec[5] {
        temperature: f32,
        chance_low: u32,
        chance_high: u32,
        banned_begin: u32,
        banned_end: u32,
    }
    /// A drawn token and its log-probability. Not-a-number, if nothing could be drawn; then the token is the one whose
    /// logit is not finite, or [`NO_TOKEN`].
    Drawn[2] {
        token: u32,
        logprob: f32,
    }
    /// A token that a policy generated: its log-probability then, and the bounds of its clipped ratio (PPO).
    OldPolicy[3] {
        logprob: f32,
        low: f32,
        high: f32,
    }
    /// The branches of a choice, as a range of scores of which the first was taken, and the token whose logit they are.
    BranchChoice[3] {
        begin: u32,
        end: u32,
        token: u32,
    }
    /// A slate: its events among those of the batch, and the row of its pattern or [`NO_PATTERN`].
    SlateEvents[3] {
        first_event: u32,
        events: u32,
        pattern: u32,
    }
    /// An event of a shopper's history.
    SlateEvent[3] {
        item: u32,
        age: u32,
        kind: u32,
    }
    /// Neighbouring candidates of one slate, at most [`TILE`].
    CandidateTile[3] {
        slate: u32,
        first: u32,
        count: u32,
    }
    /// A candidate: the slots of its item and of its card, and how many reasons the card has.
    CandidateSlots[3] {
        item: u32,
        card: u32,
        reasons: u32,
    }
}

// === kernels ===

/// The arguments of a kernel.
pub trait Arguments {
    /// The kernel's name in C, or those of its variants.
    const NAMES: &'static [&'static str];

    /// The host's address of each argument, in the kernel's order; null behind the last one.
    fn addresses(&self) -> [*mut c_void; ARGUMENTS_MAX];
}

/// A kernel as the C sources should declare it.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// Its name, or those of its variants. `DIM` and `GROUP` stand for a head dimension and for query heads per KV
    /// head, and a variant over 8-bit pages has `float8` in its name.
    pub names: &'static [&'static str],
    /// Its parameters.
    pub parameters: &'static [Parameter],
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident($($c:literal),+) { $($field:ident: $kind:ident $type:ty,)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $(pub $field: field_type!($kind $type),)+
            }

            impl Arguments for $name {
                const NAMES: &'static [&'static str] = &[$($c),+];

                fn addresses(&self) -> [*mut c_void; ARGUMENTS_MAX] {
                    let arguments = [$(ptr::from_ref(&self.$field).cast::<c_void>()),+];
                    let mut addresses = [ptr::null_mut(); ARGUMENTS_MAX];
                    for (address, argument) in addresses.iter_mut().zip(arguments) {
                        *address = argument.cast_mut();
                    }
                    addresses
                }
            }

            const _: () = assert!([$(stringify!($field)),+].len() <= ARGUMENTS_MAX);
        )+
        /// Every kernel.
        pub const KERNELS: &[Signature] = &[$(Signature {
            names: &[$($c),+],
            parameters: &[$(parameter!($field $kind $type)),+],
        }),+];
    };
}

kernels! {
    /// The embeddings of tokens. Grid: rows.
    Embed("embed") {
        stream: write Residual,
        table: read VocabularyWeight,
        tokens: read TokenId,
        width: value Width,
    }
    /// `stream += delta`, and its norm in a dtype. Grid: rows.
    AddNorm("add_norm") {
        normed: write Packed,
        row_scales: write RowScale,
        dtype: value CudaWeightDtype,
        stream: write Residual,
        delta: value Product,
        norm_scale: read NormScale,
        epsilon: value Epsilon,
        width: value Width,
    }
    /// The norm of `stream + delta` for the rows that are read. Grid: rows that are read.
    AddNormPicked("add_norm_picked") {
        normed: write PickedRow,
        hidden: write HiddenRow,
        stream: read Residual,
        delta: value Product,
        picked: read RowIndex,
        norm_scale: read NormScale,
        epsilon: value Epsilon,
        width: value Width,
    }
    /// Rows or weights of bf16 in a dtype of 8 bits. Grid: rows.
    Quantize("quantize") {
        packed: write Packed,
        row_scales: write RowScale,
        dtype: value CudaWeightDtype,
        rows: read InputRow,
        width: value Width,
    }
    /// Logits of chosen tokens. Grid: warps.
    ChosenLogits("chosen_logits") {
        logits: write Logit,
        normed: read PickedRow,
        table: read VocabularyWeight,
        pairs: read LogitPair,
        count: value PairCount,
        width: value Width,
    }
    /// Norms and rotates projected heads, and writes keys and values to their pages. Grid: rows, warps.
    NormRopeAndWrite("norm_rope_and_write", "norm_rope_and_write_float8") {
        queries: write QueryHead,
        keys: write KeyPage,
        values: write ValuePage,
        qkv: value Product,
        query_scale: read QueryNormScale,
        key_scale: read KeyNormScale,
        rope: read RopeAngle,
        epsilon: value Epsilon,
        positions: read Position,
        slots: read PageSlot,
        heads: value Heads,
    }
    /// Attention of tiles of neighbouring rows. Grid: tiles, KV heads.
    AttendRows("attend_rows_DIM_GROUP", "attend_rows_float8_DIM_GROUP") {
        attended: write AttendedRow,
        queries: read QueryHead,
        keys: read KeyPage,
        values: read ValuePage,
        positions: read Position,
        ranges: read PageRange,
        seen: read SeenPage,
        tiles: read RowTile,
        score_scale: value ScoreScale,
        window: value Window,
        heads: value Heads,
    }
    /// Attention of single rows, part by part. Grid: rows, KV heads, blocks per row.
    AttendParts("attend_parts_DIM_GROUP", "attend_parts_float8_DIM_GROUP") {
        parts: write AttendedPart,
        sums: write PartSum,
        queries: read QueryHead,
        keys: read KeyPage,
        values: read ValuePage,
        positions: read Position,
        ranges: read PageRange,
        seen: read SeenPage,
        score_scale: value ScoreScale,
        window: value Window,
        parts_max: value PartCount,
        heads: value Heads,
    }
    /// Joins the parts of single rows. Grid: rows, heads.
    AttendMerge("attend_merge") {
        attended: write AttendedRow,
        parts: read AttendedPart,
        sums: read PartSum,
        ranges: read PageRange,
        parts_max: value PartCount,
        heads: value Heads,
    }
    /// `silu(gate) * up` in a dtype. Grid: rows.
    SiluMul("silu_mul") {
        gated: write Packed,
        row_scales: write RowScale,
        dtype: value CudaWeightDtype,
        gates_ups: value Product,
        width: value Width,
    }
    /// A product of a few rows. Grid: outputs / [`FEW_OUTPUTS`].
    MultiplyFew("multiply_few") {
        sums: write ProductSum,
        inputs: read InputRow,
        weights: read LayerWeight,
        rows: value RowCount,
        outputs: value Outputs,
        width: value Width,
    }
    /// `silu(gate) * up` of the product of a few rows. Grid: outputs / [`FEW_OUTPUTS`].
    GateFew("gate_few") {
        gated: write GatedRow,
        inputs: read InputRow,
        weights: read LayerWeight,
        rows: value RowCount,
        outputs: value Outputs,
        width: value Width,
        bias: read Bias,
    }
    /// Draws tokens from rows of logits. Grid: rows of logits.
    Draw("draw") {
        drawn: write Drawn,
        logits: write Logit,
        draws: read DrawSpec,
        banned: read BannedToken,
        vocabulary: value Vocabulary,
    }
    /// Norms and rotates projected heads, head by head. Grid: rows, warps.
    NormAndRope("norm_and_rope") {
        queries: write QueryHead,
        keys: write KeyHead,
        values: write ValueHead,
        qkv: value Product,
        query_scale: read QueryNormScale,
        key_scale: read KeyNormScale,
        rope: read RopeAngle,
        epsilon: value Epsilon,
        positions: read Position,
        sequences: value Sequences,
    }
    /// The backward pass of `norm_and_rope`. Grid: rows, warps.
    NormAndRopeBack("norm_and_rope_back") {
        gradient: write QkvGradient,
        queries: read QueryGradient,
        keys: read KeyGradient,
        values: read ValueGradient,
        qkv: value Product,
        query_scale: read QueryNormScale,
        key_scale: read KeyNormScale,
        rope: read RopeAngle,
        epsilon: value Epsilon,
        positions: read Position,
        sequences: value Sequences,
    }
    /// The causal softmax of attention's scores. Grid: warps.
    AttentionSoftmax("attention_softmax") {
        weights: write AttentionWeight,
        scores: read AttentionScore,
        positions: read Position,
        segments: read Segment,
        first: value FirstHead,
        count: value HeadCount,
        window: value Window,
        sequences: value Sequences,
    }
    /// The backward pass of `attention_softmax`. Grid: warps.
    AttentionSoftmaxBack("attention_softmax_back") {
        weights: write AttentionWeight,
        gradient: read AttentionScore,
        rows: value RowCount,
        length: value Length,
    }
    /// Attention's output from heads to rows. Grid: rows.
    JoinHeads("join_heads") {
        rows: write AttendedRow,
        heads: read AttendedHead,
        sequences: value Sequences,
    }
    /// The backward pass of `join_heads`. Grid: rows.
    SplitHeads("split_heads") {
        heads: write AttendedHeadGradient,
        rows: read AttendedGradient,
        sequences: value Sequences,
    }
    /// The backward pass of `silu_mul`. Grid: rows.
    SiluMulBack("silu_mul_back") {
        gradient: write GateUpGradient,
        gates_ups: value Product,
        gated: read GatedGradient,
        width: value Width,
    }
    /// The backward pass of a norm, added to the stream's gradient. Grid: normed rows.
    NormBack("norm_back") {
        stream: write ResidualGradient,
        normed: read NormedGradient,
        rows: read Residual,
        picked: read RowIndex,
        norm_scale: read NormScale,
        epsilon: value Epsilon,
        width: value Width,
    }
    /// `rows += bias`. Grid: rows.
    AddBias("add_bias") {
        rows: write Residual,
        bias: read Bias,
        width: value Width,
    }
    /// The stream's gradient in bf16. Grid: any number of blocks.
    ToBf16("to_bf16") {
        to: write ResidualGradientBf16,
        from: read ResidualGradient,
        fours: value FourCount,
    }
    /// An adapter's inputs after a dropout. Grid: any number of blocks.
    ApplyDropout("apply_dropout") {
        to: write DroppedRow,
        from: read InputRow,
        count: value NumberCount,
        seed_low: value SeedLow,
        seed_high: value SeedHigh,
        dropout: value Dropout,
    }
    /// The backward pass of `apply_dropout`. Grid: any number of blocks.
    ApplyDropoutBack("apply_dropout_back") {
        to: write InputGradient,
        from: read DroppedGradient,
        count: value NumberCount,
        seed_low: value SeedLow,
        seed_high: value SeedHigh,
        dropout: value Dropout,
    }
    /// The loss of target tokens, and the gradient of their logits. Grid: targets.
    CrossEntropy("cross_entropy") {
        gradient: write LogitGradient,
        losses: write Loss,
        logits: read Logit,
        tokens: read TokenId,
        weights: read TargetWeight,
        old_policy: read OldPolicy,
        vocabulary: value Vocabulary,
    }
    /// The loss of choices between branches, and the gradient of their rows. Grid: choices.
    ChoiceCrossEntropy("choice_cross_entropy") {
        gradient: write NormedGradient,
        losses: write Loss,
        scores: read Logit,
        table: read VocabularyWeight,
        choices: read BranchChoice,
        weight: value ChoiceWeight,
        width: value Width,
    }
    /// Copies uploaded rows to their slots. Grid: rows.
    WriteRows("write_rows") {
        table: write CachedRow,
        rows: read UploadedRow,
        slots: read SlotIndex,
        width: value Width,
    }
    /// The scorer's Transformer over each slate's events. Grid: slates.
    EncodeHistories("encode_histories") {
        encoded: write EncodedEvent,
        terms: write EventTerm,
        shares: write PatternShare,
        weights: read HistoryWeight,
        items: read ItemRow,
        slates: read SlateEvents,
        events: read SlateEvent,
        patterns: read PatternVector,
        network: value Network,
    }
    /// The scorer's logits, Rechead scores and attention over reasons. Grid: tiles.
    ScoreCandidates("score_candidates") {
        logits: write Logit,
        rechead: write RecheadScore,
        attention: write ReasonAttention,
        weights: read CandidateWeight,
        items: read ItemRow,
        cards: read CardRow,
        encoded: read EncodedEvent,
        terms: read EventTerm,
        shares: read PatternShare,
        shoppers: read ShopperVector,
        slates: read SlateEvents,
        tiles: read CandidateTile,
        candidates: read CandidateSlots,
        features: read Feature,
        overlaps: read Overlap,
        network: value Network,
    }
}
