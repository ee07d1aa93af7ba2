// Generated from `src/nn/cuda/interface.rs`: `UPDATE_INTERFACE=1 cargo test --test kernels` writes it, and
// without the variable that test compares it. Don't edit.
#pragma once

static const u32 WARP = 32;
static const u32 NORM_THREADS = 512;
static const u32 WIDE_THREADS = 1024;
static const u32 NARROW = 4;
static const u32 WIDE = 8;
static const u32 DRAW_THREADS = 1024;
static const u32 NO_TOKEN = 0xffffffffu;
static const u32 PAGE_TOKENS = 16;
static const u32 PAGES_A_PART = 8;
static const u32 FRAGMENT_ROWS = 16;
static const u32 ROWS_WARPS = 4;
static const u32 FEW_ROWS = 8;
static const u32 FEW_OUTPUTS = 16;
static const u32 FEW_STEP = 128;
static const u32 FEW_AHEAD = 11;
static const u32 GATE_FEW_AHEAD = 6;
static const u32 TRUNK = 0;
static const u32 PADDING = 0xffffffffu;
static const u32 HISTORY_THREADS = 512;
static const u32 TILE_THREADS = 256;
static const u32 TILE = 10;
static const u32 NO_PATTERN = 0xffffffffu;
static const u32 FIRST = 32;
static const u32 SECOND = 16;

enum WeightDtype : u32 { BF16, FLOAT8, INT8 };

struct Product {
  const float *sums;
  const float *bias;
  const float *row_scales;
  const float *column_scales;
  bool integers;
};

struct Heads {
  u32 heads;
  u32 kv_heads;
  u32 dim;
  u32 page_tokens;
};

struct Sequences {
  u32 heads;
  u32 kv_heads;
  u32 dim;
  u32 length;
};

struct Network {
  u32 width;
  u32 text;
  u32 reasons;
  u32 features;
  u32 history;
  u32 ages;
  u32 kinds;
  u32 heads;
  u32 layers;
  u32 ffn;
  u32 columns;
  u32 head_first;
  u32 head_second;
  u32 rechead;
};

struct PageSlot {
  u32 page;
  u32 token;
};

struct PageRange {
  u32 begin;
  u32 end;
};

struct SeenPage {
  u32 page;
  u32 first;
  u32 tokens;
};

struct RowTile {
  u32 first;
  u32 rows;
  u32 shared;
};

struct LogitPair {
  u32 row;
  u32 token;
};

struct DrawSpec {
  float temperature;
  u32 chance_low;
  u32 chance_high;
  u32 banned_begin;
  u32 banned_end;
};

struct Drawn {
  u32 token;
  float logprob;
};

struct OldPolicy {
  float logprob;
  float low;
  float high;
};

struct BranchChoice {
  u32 begin;
  u32 end;
  u32 token;
};

struct SlateEvents {
  u32 first_event;
  u32 events;
  u32 pattern;
};

struct SlateEvent {
  u32 item;
  u32 age;
  u32 kind;
};

struct CandidateTile {
  u32 slate;
  u32 first;
  u32 count;
};

struct CandidateSlots {
  u32 item;
  u32 card;
  u32 reasons;
};

// Head dimensions, and query heads per KV head, that attention is compiled for.
#define FOR_EACH_HEAD_SHAPE(DO) \
  DO(8, 1) DO(8, 2) DO(8, 3) DO(8, 4) \
  DO(16, 1) DO(16, 2) DO(16, 3) DO(16, 4) DO(16, 5) DO(16, 6) DO(16, 7) DO(16, 8) \
  DO(32, 1) DO(32, 2) DO(32, 3) DO(32, 4) DO(32, 5) DO(32, 6) DO(32, 7) DO(32, 8) \
  DO(64, 1) DO(64, 2) DO(64, 3) DO(64, 4) DO(64, 5) DO(64, 6) DO(64, 7) DO(64, 8) \
  DO(128, 1) DO(128, 2) DO(128, 3) DO(128, 4) DO(128, 5) DO(128, 6) DO(128, 7) DO(128, 8)

// Kernels that are compiled once.
#define FOR_EACH_KERNEL(DO) \
  DO(embed) \
  DO(add_norm) \
  DO(add_norm_picked) \
  DO(quantize) \
  DO(chosen_logits) \
  DO(norm_rope_and_write) \
  DO(norm_rope_and_write_float8) \
  DO(attend_merge) \
  DO(silu_mul) \
  DO(multiply_few) \
  DO(gate_few) \
  DO(draw) \
  DO(norm_and_rope) \
  DO(norm_and_rope_back) \
  DO(attention_softmax) \
  DO(attention_softmax_back) \
  DO(join_heads) \
  DO(split_heads) \
  DO(silu_mul_back) \
  DO(norm_back) \
  DO(add_bias) \
  DO(to_bf16) \
  DO(apply_dropout) \
  DO(apply_dropout_back) \
  DO(cross_entropy) \
  DO(choice_cross_entropy) \
  DO(write_rows) \
  DO(encode_histories) \
  DO(score_candidates)
