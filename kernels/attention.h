// What rows of texts see of each other.
#pragma once

#include "tensor.h"

// Where heads lie.
struct Heads {
  u32 heads, kv_heads, dim, page_tokens;
};

// Attention, by the tensor cores. What comes of a row is the same to the bit however it is launched: alone, or beside
// others of its text, and by any number of blocks. For that, what a row sees is summed up in an order that depends on
// its list of pages alone:
//
// - The list is cut into parts of PAGES_A_PART pages. A part has a place for each token that its pages could hold; those
//   that a row doesn't see weigh nothing. Scores of a part are there at once, so it has one highest score, and each of
//   its weights is calculated once, rounded to bf16, and multiplied with the values in the order of the places.
// - Parts are added up in their order by `join`, which is all that `attend_rows`, whose parts stay in registers, and
//   `attend_merge`, which finds them in memory, do with them. A part that a row sees nothing of changes nothing.
//
// Keys and values of a part come in chunks of PAGES_A_CHUNK pages. A chunk that no row of a block sees is neither loaded
// nor multiplied; to a row that doesn't see it, it makes no difference whether others do, since it adds zeros to its
// sums. For that, tokens that a page has must be numbers; what lies behind them is never read.
//
// A tile of `attend_rows` may hold rows of several groups, such as branches of one trunk, whose lists begin with the same
// pages. What they share is then loaded once for all of them, and after it what each group has of its own, group after
// group. Each row still meets the parts of its own list in their order, and of those of other groups it sees nothing.
//
// Where pages keep 8 bits, a block makes 16 of those of a part once they are there, and goes on as with any other.
//
// While the scores of a part are calculated, its values are being loaded, and while values are mixed, the keys of the
// next part are.

// Tokens of a page: what the engine calls by the same name.
static const u32 PAGE_TOKENS = 16;
static const u32 PAGES_A_PART = 8;
static const u32 PAGES_A_CHUNK = 2;
static const u32 CHUNKS_A_PART = PAGES_A_PART / PAGES_A_CHUNK;
static const u32 CHUNK_TOKENS = PAGES_A_CHUNK * PAGE_TOKENS;
// Rows of a fragment: each is a query head of a token.
static const u32 FRAGMENT_ROWS = 16;
// Warps of a block of `attend_rows`, and the threads of one of each kind.
static const u32 ROWS_WARPS = 4;
static const u32 ROWS_THREADS = ROWS_WARPS * WARP;
static const u32 PARTS_THREADS = WARP;

// Tokens of a warp, and of a block, of `attend_rows`: so many whole groups of query heads fit a fragment.
template <int GROUP>
static constexpr u32 WARP_TOKENS = FRAGMENT_ROWS / GROUP;
template <int GROUP>
static constexpr u32 TILE_TOKENS = ROWS_WARPS * WARP_TOKENS<GROUP>;

// What a page keeps of a head's keys, or of its values: the numbers of one token after the other, of 16 bits or of 8; and
// behind those of 8 bits, a byte for each token: the exponent of a power of two that all of its numbers are multiplied by,
// as f32 has it. So they are numbers of 16 bits as well, none of them rounded again. Where a token has no byte, as behind
// the last one, zero does: it stands for nothing.
template <class Kept>
static constexpr u32 BESIDE_NUMBERS = sizeof(Kept) == 1 ? 1 : 0;
template <int DIM, class Kept>
static constexpr u32 KEPT_OF_HEAD = PAGE_TOKENS * (DIM + BESIDE_NUMBERS<Kept>);

// The power of two of an exponent, and what makes it one; and the exponent of the least power that is enough for numbers
// up to the greatest to have 8 bits.
static __device__ __forceinline__ float power_of(u32 exponent) { return __uint_as_float(exponent << 23); }
static __device__ __forceinline__ float inverse_power_of(u32 exponent) { return power_of(254 - exponent); }
static __device__ __forceinline__ u32 exponent_for(float greatest) {
  const u32 bits = __float_as_uint(__fdiv_rn(greatest, FLOAT8_MOST));
  return min(max((bits >> 23) + ((bits & 0x7fffff) != 0), 1u), 253u);
}

// Numbers of a token in what a block shares: what is shorter than a step of a product is filled up with zeros, and 8
// numbers lie between two tokens, so that 8 of them, loaded at once, are in different banks. And the bytes that a
// block shares, of either kind, which whoever launches it has to say: keys and values of a part, and where those are kept
// in 8 bits, both of them as they lie, and either of them in 16.
template <int DIM>
static constexpr u32 SHARED_ROW = (DIM < 16 ? 16 : DIM) + 8;
template <int DIM, class Kept>
static constexpr u32 SHARED_BYTES =
    sizeof(Kept) == 1 ? PAGES_A_PART * (PAGE_TOKENS * SHARED_ROW<DIM> * 2 + 2 * KEPT_OF_HEAD<DIM, Kept>)
                      : 2 * PAGES_A_PART * PAGE_TOKENS * SHARED_ROW<DIM> * 2;

// Parts that the pages of a row are cut into: one at least.
static __device__ u32 parts_of(const u32 *ranges, u32 row) {
  const u32 pages = ranges[2 * row + 1] - ranges[2 * row];
  return pages ? (pages + PAGES_A_PART - 1) / PAGES_A_PART : 1;
}

// A page that rows see: tokens of it, the first of which stands at a position.
struct Seen {
  u32 page, first, tokens;
};

// Neighbouring rows: TILE_TOKENS at most, and maybe none. Those among them that follow each other and have the same
// range are a group. If there are several groups, the lists of all of them have to begin with the same `shared` whole
// parts: the same pages, with the same tokens of them. For one group any number is right, and none is simplest.
struct RowTile {
  u32 first, rows, shared;
};

// The sum so far of some of the keys that a query sees: the highest score among them, of which two is taken to the
// power, and the sum of their weights relative to its own.
struct Sum {
  float highest, weight;
};

// What values are multiplied by when the sums that they belong to become one.
struct Factors {
  float before, more;
};

// Adds a part to the sum of those before it. If nothing of the part is seen, its values are zeros, and minus zero is
// what makes them change nothing: not even the sign of a zero.
static __device__ __forceinline__ Factors join(Sum &sum, Sum part) {
  const float highest = fmaxf(sum.highest, part.highest);
  const bool nothing = part.highest == -INFINITE;
  const Factors factors = {nothing ? 1.0f : power_of_two(__fsub_rn(sum.highest, highest)),
                           nothing ? -0.0f : power_of_two(__fsub_rn(part.highest, highest))};
  sum.highest = highest;
  sum.weight = __fmaf_rn(part.weight, factors.more, __fmul_rn(sum.weight, factors.before));
  return factors;
}

static __device__ __forceinline__ float joined(float value, float more, Factors factors) {
  return __fmaf_rn(more, factors.more, __fmul_rn(value, factors.before));
}

// What all values of a row are multiplied by at last.
static __device__ __forceinline__ float share_of(Sum sum) { return __fdiv_rn(1.0f, sum.weight); }

// The first and the last position of some rows; of none, the first is behind the last.
struct Span {
  u32 first, last;
};

// Positions of rows, for a whole warp. They may come in any order.
static __device__ Span span_of(const u32 *positions, u32 rows) {
  Span span = {EVERYONE, 0};
  for (u32 row = threadIdx.x % WARP; row < rows; row += WARP) {
    span.first = min(span.first, positions[row]);
    span.last = max(span.last, positions[row]);
  }
  for (int far = WARP / 2; far > 0; far /= 2) {
    span.first = min(span.first, __shfl_xor_sync(EVERYONE, span.first, far));
    span.last = max(span.last, __shfl_xor_sync(EVERYONE, span.last, far));
  }
  return span;
}

// A part that a block takes in one of its turns: where its pages begin, and where the list that it belongs to ends;
// which rows of the block may see it, and whether some of the warp's rows are among them, and all of them.
struct Turn {
  u32 begin, end, rows;
  bool some, all;
};

// The pages of the next parts of a block, a page a lane, with the rows that may see it, and which of them anybody of the
// block sees, anybody of the warp, and everybody of the warp wholly: a bit a page.
struct Look {
  Seen page;
  u32 rows, block, warp, whole;
};
static const u32 PARTS_A_LOOK = WARP / PAGES_A_PART;

// Of the pages of one part, the first of each chunk with a page that is in the set; and of each whose pages all are.
static const u32 CHUNK_BEGINNINGS = 0x55;
static __device__ __forceinline__ u32 chunks_with(u32 pages) { return (pages | pages >> 1) & CHUNK_BEGINNINGS; }
static __device__ __forceinline__ u32 chunks_within(u32 pages) { return pages & pages >> 1 & CHUNK_BEGINNINGS; }
static_assert(PAGES_A_CHUNK == 2 && PAGES_A_PART == 8, "a part's pages are a byte of a set, and a chunk's a pair of bits");

// The turns of a block that has one row: some of its parts, with as many others between two of them as other blocks take.
struct TurnsOfRow {
  u32 begin, end, stride, count;

  __device__ __forceinline__ Turn at(u32 turn) const {
    return Turn{begin + turn * stride * PAGES_A_PART, end, 0, true, true};
  }

  __device__ __forceinline__ bool may_see(const Look &, u32, u32) const { return true; }
};

// Turns of a tile that follow each other in one list. The pages of a turn begin PAGES_A_PART times its number behind
// `offset`, which may be less than zero, as numbers go that have no sign. `until` is the turn behind the last, and `rows`
// are those that may see the pages: the first of them, and in the upper half of the bits the one behind the last.
struct Stretch {
  u32 offset, end, until, rows;
};

static __device__ __forceinline__ u32 rows_between(u32 first, u32 behind) { return first | behind << 16; }

// The turns of a block that has a tile: what all rows share, and then what each group has of its own. Stretches are where
// the block shares them, and behind the last is one without pages that has no end.
struct TurnsOfTile {
  const Stretch *stretches;
  u32 count;
  // Rows of the warp: those before them in the tile, and how many they are.
  u32 before, tokens;

  __device__ __forceinline__ Turn at(u32 turn) const {
    const Stretch *of = stretches;
    while (of->until <= turn) of++;
    const u32 first = of->rows & 0xffff, behind = of->rows >> 16;
    return Turn{of->offset + turn * PAGES_A_PART, of->end, of->rows, first < before + tokens && before < behind,
                first <= before && before + tokens <= behind};
  }

  // Whether a row of the warp may see the part of a turn.
  __device__ __forceinline__ bool may_see(const Look &look, u32 turn, u32 row_of_warp) const {
    const u32 rows = __shfl_sync(EVERYONE, look.rows, turn % PARTS_A_LOOK * PAGES_A_PART), row = before + row_of_warp;
    return row >= (rows & 0xffff) && row < rows >> 16;
  }
};

// Finds the stretches of a tile, for a whole warp: one of what is shared, one for each group, and the one without pages.
// Gives how many turns they are.
static __device__ __forceinline__ u32 find_stretches(Stretch *stretches, const u32 *ranges, const RowTile &tile) {
  u32 found = 0, turns = tile.rows > 0 ? tile.shared : 0, first = 0;
  for (u32 before = 0; before < tile.rows; before += WARP) {
    const u32 row = before + threadIdx.x % WARP;
    const u32 *of = ranges + 2 * (tile.first + min(row, tile.rows - 1));
    const bool begins = row < tile.rows && (row == 0 || of[0] != of[-2] || of[1] != of[-1]);
    for (u32 left = __ballot_sync(EVERYONE, begins); left; left &= left - 1) {
      const u32 lane = __ffs(left) - 1;
      const u32 begin = __shfl_sync(EVERYONE, of[0], lane), end = __shfl_sync(EVERYONE, of[1], lane);
      if (found == 0) stretches[found++] = Stretch{begin, end, turns, rows_between(0, tile.rows)};
      // The group before ends here.
      else stretches[found - 1].rows = rows_between(first, before + lane);
      first = before + lane;
      const u32 parts = (end - begin + PAGES_A_PART - 1) / PAGES_A_PART;
      const u32 offset = begin + (tile.shared - turns) * PAGES_A_PART;
      turns += parts > tile.shared ? parts - tile.shared : 0;
      stretches[found++] = Stretch{offset, end, turns, rows_between(first, tile.rows)};
    }
  }
  stretches[found] = Stretch{0, 0, EVERYONE, 0};
  return turns;
}

// How a block attends: WARPS of it with TOKENS each, of which GROUP query heads see one key head.
template <int DIM, int GROUP, class Kept, int WARPS, int TOKENS, class Turns>
struct Attention {
  static constexpr int ROW = SHARED_ROW<DIM>;
  static constexpr int STEPS = (ROW - 8) / 16, TILES = 2 * STEPS;
  // Rows of the fragment that a lane has a share in: where the upper half is empty, one.
  static constexpr int HALVES = TOKENS * GROUP > 8 ? 2 : 1;
  // Numbers of a part in 16 bits, and what a page keeps of a head.
  static constexpr int PART = PAGES_A_PART * PAGE_TOKENS * ROW;
  static constexpr int KEPT = KEPT_OF_HEAD<DIM, Kept>;
  static constexpr bool IS_SHORT = sizeof(Kept) == 1;
  // Tokens of a page that a block goes over at once, each thread over the same 8 numbers of theirs.
  static constexpr int TOKENS_AT_ONCE = WARPS * WARP / TILES;

  // Of the key head, in the first page.
  const Kept *keys, *values;
  // From there to the next page.
  u32 page_numbers;
  const Seen *seen;
  Turns turns;
  u32 window;
  float scale;
  Span block, warp;
  bf16 *room;

  __device__ __forceinline__ bool sees(const Seen &page, Span rows) const {
    return page.tokens > 0 && rows.first <= rows.last && page.first <= rows.last &&
           (window == 0 || page.first + page.tokens + window > rows.first + 1);
  }

  __device__ __forceinline__ bool sees_whole(const Seen &page, Span rows) const {
    return page.tokens == PAGE_TOKENS && page.first + PAGE_TOKENS <= rows.first + 1 &&
           (window == 0 || page.first + window > rows.last);
  }

  __device__ __forceinline__ Look look(u32 turn) const {
    const u32 lane = threadIdx.x % WARP;
    const Turn of = turns.at(turn + lane / PAGES_A_PART);
    const u32 at = of.begin + lane % PAGES_A_PART;
    Look found;
    found.page = Seen{0, 0, 0};
    if (at < of.end) found.page = seen[at];
    found.rows = of.rows;
    found.block = __ballot_sync(EVERYONE, sees(found.page, block));
    found.warp = __ballot_sync(EVERYONE, of.some && sees(found.page, warp));
    found.whole = __ballot_sync(EVERYONE, of.all && sees_whole(found.page, warp));
    return found;
  }

  // The pages of a part, out of those of a look.
  static __device__ __forceinline__ u32 of_part(u32 pages, u32 turn) {
    return pages >> turn % PARTS_A_LOOK * PAGES_A_PART & 0xff;
  }

  // The next part that anybody of the block sees anything of, from a turn on; behind the last if there is none. Of parts
  // in between, `pass` is told.
  template <class Pass>
  __device__ __forceinline__ u32 next_seen(Look &look, u32 turn, Pass pass) const {
    for (; turn < turns.count; turn++) {
      if (turn % PARTS_A_LOOK == 0) look = this->look(turn);
      if (of_part(look.block, turn)) break;
      pass(turn);
    }
    return turn;
  }

  // Begins to load keys or values of a part: the chunks of it that anybody of the block sees.
  __device__ __forceinline__ void load(bf16 *to, const bf16 *from, const Look &look, u32 turn) const {
    const int its = threadIdx.x / TILES, number = threadIdx.x % TILES * 8;
    from += its * DIM + number;
    to += its * ROW + number;
    const u32 chunks = chunks_with(of_part(look.block, turn));
#pragma unroll 1
    for (u32 left = chunks | chunks << 1; left; left &= left - 1) {
      const int in_part = __ffs(left) - 1, at = turn % PARTS_A_LOOK * PAGES_A_PART + in_part;
      const u32 page = __shfl_sync(EVERYONE, look.page.page, at);
      const int tokens = __shfl_sync(EVERYONE, look.page.tokens, at);
      const bf16 *of_page = from + (size_t)page * page_numbers;
#pragma unroll
      for (int token = 0; token < (int)PAGE_TOKENS; token += TOKENS_AT_ONCE)
        if (TOKENS_AT_ONCE <= (int)PAGE_TOKENS || its < (int)PAGE_TOKENS)
          begin_copy(to + (in_part * PAGE_TOKENS + token) * ROW, of_page + token * DIM,
                     token + its < tokens && number < DIM);
    }
  }

  // The same of 8 bits: as they lie.
  __device__ __forceinline__ void load(float8 *to, const float8 *from, const Look &look, u32 turn) const {
    const int thread = threadIdx.x;
    const u32 chunks = chunks_with(of_part(look.block, turn));
#pragma unroll 1
    for (u32 left = chunks | chunks << 1; left; left &= left - 1) {
      const int in_part = __ffs(left) - 1, at = turn % PARTS_A_LOOK * PAGES_A_PART + in_part;
      const u32 page = __shfl_sync(EVERYONE, look.page.page, at);
      const int tokens = __shfl_sync(EVERYONE, look.page.tokens, at);
      const float8 *of_page = from + (size_t)page * page_numbers;
      float8 *to_page = to + in_part * KEPT;
      for (int byte = thread * 16; byte < (int)PAGE_TOKENS * DIM; byte += WARPS * WARP * 16)
        begin_copy_of(to_page + byte, of_page + byte, min(max(tokens * DIM - byte, 0), 16));
      if (thread == in_part) begin_copy_of(to_page + PAGE_TOKENS * DIM, of_page + PAGE_TOKENS * DIM, tokens);
    }
  }

  // Makes numbers of 16 bits of what was loaded of some chunks in 8, for the whole block.
  __device__ __forceinline__ void lengthen(bf16 *to, const float8 *from, u32 chunks) const {
    const int its = threadIdx.x / TILES, number = threadIdx.x % TILES * 8;
#pragma unroll 1
    for (u32 left = chunks | chunks << 1; left; left &= left - 1) {
      const int in_part = __ffs(left) - 1;
      const float8 *page = from + in_part * KEPT;
#pragma unroll
      for (int first = 0; first < (int)PAGE_TOKENS; first += TOKENS_AT_ONCE) {
        const int token = first + its;
        if (TOKENS_AT_ONCE > (int)PAGE_TOKENS && its >= (int)PAGE_TOKENS) continue;
        uint4 eight = {0, 0, 0, 0};
        if (number < DIM) {
          const uint2 bytes = *reinterpret_cast<const uint2 *>(page + token * DIM + number);
          const float factor = power_of(page[PAGE_TOKENS * DIM + token]);
          const uint2 four = pairs_of_float8s(bytes.x, factor), next = pairs_of_float8s(bytes.y, factor);
          eight = uint4{four.x, four.y, next.x, next.y};
        }
        *reinterpret_cast<uint4 *>(to + (in_part * PAGE_TOKENS + token) * ROW + number) = eight;
      }
    }
    meet();
  }

  __device__ __forceinline__ void lengthen(bf16 *, const bf16 *, u32) const {}

  static __device__ __forceinline__ void meet() {
    if (WARPS > 1) __syncthreads();
    else __syncwarp();
  }

  // Waits until copies are there, those of others as well, and until nobody reads what was there before.
  template <int GROUPS>
  static __device__ __forceinline__ void await_all() {
    await_copies<GROUPS>();
    meet();
  }

  // Goes over all parts in their order. `row_positions` are those of the rows of the fragment that the lane has a share
  // in, and `queries` the rows themselves. Of each part that the warp sees something of, `take(turn, sums, values)` is
  // told; of others that nobody of the block sees anything of, `pass(turn)`.
  template <class Take, class Pass>
  __device__ __forceinline__ void attend(const u32 (&queries)[STEPS][4], const u32 (&row_positions)[HALVES], Take take,
                                         Pass pass) const {
    const int lane = threadIdx.x % WARP;
    // Of 8 bits, keys and values take turns at one place where they have 16.
    bf16 *const part_keys = room, *const part_values = IS_SHORT ? room : room + PART;
    Kept *const loaded_keys = reinterpret_cast<Kept *>(IS_SHORT ? room + PART : room);
    Kept *const loaded_values = loaded_keys + (IS_SHORT ? PAGES_A_PART * KEPT : PART);
    const bf16 *const keys_of_lane = part_keys + (lane / 16 * 8 + lane % 8) * ROW + lane / 8 % 2 * 8;
    const bf16 *const values_of_lane = part_values + lane % 16 * ROW + lane / 16 * 8;
    Look look;
    u32 turn = next_seen(look, 0, pass);
    if (turn == turns.count) return;
    load(loaded_keys, keys, look, turn);
    close_copies();
    load(loaded_values, values, look, turn);
    for (bool first = true; turn < turns.count; first = false) {
      const u32 own = chunks_with(of_part(look.warp, turn)), whole = chunks_within(of_part(look.whole, turn));
      // Besides the keys, there is one group: of nothing, or else of the first values.
      close_copies();
      await_all<1>();
      const u32 loaded = chunks_with(of_part(look.block, turn));
      lengthen(part_keys, loaded_keys, loaded);
      if (!first) load(loaded_values, values, look, turn);
      close_copies();

      // Positions behind those of rows that may see the part; of others, that of the very first, so they see nothing.
      int behind_rows[HALVES];
#pragma unroll
      for (int half = 0; half < HALVES; half++)
        behind_rows[half] = turns.may_see(look, turn, (lane / 4 + half * 8) / GROUP) ? (int)row_positions[half] + 1 : 0;

      // Scores: of each chunk, and of each 8 tokens of it.
      constexpr int EIGHTS = CHUNK_TOKENS / 8;
      float scores[CHUNKS_A_PART][EIGHTS][4];
#pragma unroll
      for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
#pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++)
#pragma unroll
          for (int i = 0; i < 4; i++) scores[chunk][eight][i] = 0.0f;
        const u32 bit = 1u << chunk * PAGES_A_CHUNK;
        if (!(own & bit)) continue;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
          for (int eight = 0; eight < EIGHTS; eight += 2) {
            u32 matrices[4];
            load_matrices(matrices, keys_of_lane + (chunk * CHUNK_TOKENS + eight * 8) * ROW + step * 16);
            multiply_add(scores[chunk][eight], queries[step], matrices[0], matrices[1]);
            multiply_add(scores[chunk][eight + 1], queries[step], matrices[2], matrices[3]);
          }
        if (whole & bit) continue;
#pragma unroll
        for (int page = 0; page < (int)PAGES_A_CHUNK; page++) {
          const int at = turn % PARTS_A_LOOK * PAGES_A_PART + chunk * PAGES_A_CHUNK + page;
          const int first_at = __shfl_sync(EVERYONE, look.page.first, at);
          const int tokens = __shfl_sync(EVERYONE, look.page.tokens, at);
#pragma unroll
          for (int half = 0; half < HALVES; half++) {
            const int behind = behind_rows[half] - first_at, end = min(tokens, behind);
            const int begin = window ? behind - (int)window : 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int token = i / 2 * 8 + lane % 4 * 2 + i % 2;
              float &score = scores[chunk][page * 2 + i / 2][half * 2 + i % 2];
              score = token >= begin && token < end ? score : -INFINITE;
            }
          }
        }
      }

      // Weights, and their sum: each lane's in the order of its tokens, and then over the four lanes that share a row.
      Sum sums[HALVES];
      float lowered[HALVES];
#pragma unroll
      for (int half = 0; half < HALVES; half++) {
        float highest = -INFINITE;
#pragma unroll
        for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
          if (!(own >> chunk * PAGES_A_CHUNK & 1)) continue;
#pragma unroll
          for (int eight = 0; eight < EIGHTS; eight++)
            highest = fmaxf(highest, fmaxf(scores[chunk][eight][half * 2], scores[chunk][eight][half * 2 + 1]));
        }
        highest = fmaxf(highest, __shfl_xor_sync(EVERYONE, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(EVERYONE, highest, 2));
        sums[half] = Sum{__fmul_rn(highest, scale), 0.0f};
        // A row that sees nothing has weights of zero, not of what becomes of infinite less infinite.
        lowered[half] = highest == -INFINITE ? 0.0f : -sums[half].highest;
      }
      u32 weights[CHUNKS_A_PART][PAGES_A_CHUNK][4];
#pragma unroll
      for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
#pragma unroll
        for (int page = 0; page < (int)PAGES_A_CHUNK; page++)
#pragma unroll
          for (int i = 0; i < 4; i++) weights[chunk][page][i] = 0;
        if (!(own >> chunk * PAGES_A_CHUNK & 1)) continue;
#pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++)
#pragma unroll
          for (int half = 0; half < HALVES; half++) {
            const float *of = &scores[chunk][eight][half * 2];
            const float weight = power_of_two(__fmaf_rn(of[0], scale, lowered[half]));
            const float next = power_of_two(__fmaf_rn(of[1], scale, lowered[half]));
            sums[half].weight = __fadd_rn(__fadd_rn(sums[half].weight, weight), next);
            weights[chunk][eight / 2][eight % 2 * 2 + half] = pair_of(weight, next);
          }
      }
#pragma unroll
      for (int half = 0; half < HALVES; half++) {
        sums[half].weight = __fadd_rn(sums[half].weight, __shfl_xor_sync(EVERYONE, sums[half].weight, 1));
        sums[half].weight = __fadd_rn(sums[half].weight, __shfl_xor_sync(EVERYONE, sums[half].weight, 2));
      }

      const u32 this_turn = turn;
      turn = next_seen(look, turn + 1, pass);
      await_all<0>();
      lengthen(part_values, loaded_values, loaded);
      if (turn < turns.count) load(loaded_keys, keys, look, turn);
      close_copies();
      float mixed[TILES][4];
#pragma unroll
      for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) mixed[tile][i] = 0.0f;
#pragma unroll
      for (int chunk = 0; chunk < (int)CHUNKS_A_PART; chunk++) {
        if (!(own >> chunk * PAGES_A_CHUNK & 1)) continue;
#pragma unroll
        for (int page = 0; page < (int)PAGES_A_CHUNK; page++)
#pragma unroll
          for (int tile = 0; tile < TILES; tile += 2) {
            u32 matrices[4];
            const int first_token = chunk * CHUNK_TOKENS + page * PAGE_TOKENS;
            load_matrices_turned(matrices, values_of_lane + first_token * ROW + tile * 8);
            multiply_add(mixed[tile], weights[chunk][page], matrices[0], matrices[1]);
            multiply_add(mixed[tile + 1], weights[chunk][page], matrices[2], matrices[3]);
          }
      }
      if (own) take(this_turn, sums, mixed);
    }
  }
};

// The queries of some tokens as a fragment: of rows behind the last, those of the last token again, which nobody reads.
template <int DIM, int GROUP, int STEPS, int HALVES>
static __device__ __forceinline__ void load_queries(u32 (&queries)[STEPS][4], u32 (&row_positions)[HALVES],
                                                    const bf16 *from, const u32 *positions, u32 tokens,
                                                    const Heads &of, u32 kv_head) {
  const u32 lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const u32 row = lane / 4 + half * 8, token = min(row / GROUP, tokens - 1);
    const bool used = half < HALVES && tokens > 0;
    const bf16 *query = from + (used ? ((size_t)token * of.heads + kv_head * GROUP + row % GROUP) * DIM : 0);
    if (half < HALVES) row_positions[half < HALVES ? half : 0] = used ? positions[token] : 0;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 column = step * 16 + i * 8 + lane % 4 * 2;
        queries[step][i * 2 + half] = used && column < DIM ? load_pair(query + column) : 0;
      }
  }
}

// By how much scores are multiplied so that powers of two are what powers of e would be.
static __device__ __forceinline__ float in_powers_of_two(float scale) { return __fmul_rn(scale, 1.44269504f); }

// What rows of texts see, tile by tile: chunks and branches of them. Grid: (tiles, kv_heads).
template <int DIM, int GROUP, class Kept>
static __device__ __forceinline__ void attend_rows(bf16 *attended, const bf16 *queries, const Kept *keys,
                                                   const Kept *values, const u32 *positions, const u32 *ranges,
                                                   const Seen *seen, const RowTile *tiles, float scale, u32 window,
                                                   const Heads &of) {
  constexpr int TOKENS = WARP_TOKENS<GROUP>;
  typedef Attention<DIM, GROUP, Kept, ROWS_WARPS, TOKENS, TurnsOfTile> Shape;
  __shared__ Stretch stretches[TILE_TOKENS<GROUP> + 2];
  __shared__ u32 turns;
  ROOM(room);
  let_next_begin();
  wait_for_last();
  const RowTile tile = tiles[blockIdx.x];
  if (threadIdx.x < WARP) turns = find_stretches(stretches, ranges, tile);
  const u32 kv_head = blockIdx.y, lane = threadIdx.x % WARP, before = threadIdx.x / WARP * TOKENS;
  const u32 first = tile.first + before, tokens = tile.rows > before ? min(tile.rows - before, (u32)TOKENS) : 0;
  Shape shape;
  shape.keys = keys + kv_head * Shape::KEPT;
  shape.values = values + kv_head * Shape::KEPT;
  shape.page_numbers = of.kv_heads * Shape::KEPT;
  shape.seen = seen;
  shape.window = window;
  shape.scale = in_powers_of_two(scale);
  shape.block = span_of(positions + tile.first, tile.rows);
  shape.warp = span_of(positions + first, tokens);
  shape.room = (bf16 *)room;
  u32 query[Shape::STEPS][4], row_positions[Shape::HALVES];
  load_queries<DIM, GROUP>(query, row_positions, queries + (size_t)first * of.heads * DIM, positions + first, tokens, of,
                           kv_head);

  Sum sums[Shape::HALVES];
  float mixed[Shape::TILES][4];
#pragma unroll
  for (int half = 0; half < Shape::HALVES; half++) sums[half] = Sum{-INFINITE, 0.0f};
#pragma unroll
  for (int column = 0; column < Shape::TILES; column++)
#pragma unroll
    for (int i = 0; i < 4; i++) mixed[column][i] = 0.0f;
  const auto take = [&](u32, const Sum(&part)[Shape::HALVES], const float(&more)[Shape::TILES][4]) {
#pragma unroll
    for (int half = 0; half < Shape::HALVES; half++) {
      const Factors factors = join(sums[half], part[half]);
#pragma unroll
      for (int column = 0; column < Shape::TILES; column++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++)
          mixed[column][i] = joined(mixed[column][i], more[column][i], factors);
    }
  };
  __syncthreads();
  shape.turns = TurnsOfTile{stretches, turns, before, tokens};
  shape.attend(query, row_positions, take, [](u32) {});

#pragma unroll
  for (int half = 0; half < Shape::HALVES; half++) {
    const u32 row = lane / 4 + half * 8;
    if (row >= tokens * GROUP) continue;
    const float share = share_of(sums[half]);
    bf16 *to = attended + ((size_t)(first + row / GROUP) * of.heads + kv_head * GROUP + row % GROUP) * DIM + lane % 4 * 2;
#pragma unroll
    for (int column = 0; column < DIM / 8; column++)
      store_pair(to + column * 8, pair_of(__fmul_rn(mixed[column][2 * half], share),
                                          __fmul_rn(mixed[column][2 * half + 1], share)));
  }
}

// What one row of a text sees, part by part: for steps of many texts. Grid: (rows, kv_heads, blocks); blocks take turns
// at the parts of a row, so any number of them is right for any number of parts, of which there is room for `most`. Of
// a part that the row sees nothing of, only the sum is written.
template <int DIM, int GROUP, class Kept>
static __device__ __forceinline__ void attend_parts(float *parts, Sum *sums, const bf16 *queries, const Kept *keys,
                                                    const Kept *values, const u32 *positions, const u32 *ranges,
                                                    const Seen *seen, float scale, u32 window, u32 most, const Heads &of) {
  typedef Attention<DIM, GROUP, Kept, 1, 1, TurnsOfRow> Shape;
  ROOM(room);
  let_next_begin();
  wait_for_last();
  const u32 row = blockIdx.x, kv_head = blockIdx.y, count = parts_of(ranges, row), head = threadIdx.x / 4;
  Shape shape;
  shape.keys = keys + kv_head * Shape::KEPT;
  shape.values = values + kv_head * Shape::KEPT;
  shape.page_numbers = of.kv_heads * Shape::KEPT;
  shape.seen = seen;
  shape.turns.begin = ranges[2 * row] + blockIdx.z * PAGES_A_PART;
  shape.turns.end = ranges[2 * row + 1];
  shape.turns.stride = gridDim.z;
  shape.turns.count = count > blockIdx.z ? (count - blockIdx.z + gridDim.z - 1) / gridDim.z : 0;
  if (shape.turns.count == 0) return;
  shape.window = window;
  shape.scale = in_powers_of_two(scale);
  shape.block = shape.warp = Span{positions[row], positions[row]};
  shape.room = (bf16 *)room;
  u32 query[Shape::STEPS][4], row_positions[Shape::HALVES];
  load_queries<DIM, GROUP>(query, row_positions, queries + (size_t)row * of.heads * DIM, positions + row, 1, of, kv_head);

  const size_t out = ((size_t)row * of.heads + kv_head * GROUP + head) * most + blockIdx.z;
  const bool wanted = head < GROUP;
  const u32 first = threadIdx.x % 4;
  const auto take = [&](u32 turn, const Sum(&part)[Shape::HALVES], const float(&mixed)[Shape::TILES][4]) {
    if (!wanted) return;
    const size_t at = out + turn * gridDim.z;
    if (first == 0) sums[at] = part[0];
#pragma unroll
    for (int column = 0; column < DIM / 8; column++)
      *reinterpret_cast<float2 *>(parts + at * DIM + column * 8 + first * 2) = float2{mixed[column][0], mixed[column][1]};
  };
  const auto pass = [&](u32 turn) {
    if (wanted && first == 0) sums[out + turn * gridDim.z] = Sum{-INFINITE, 0.0f};
  };
  shape.attend(query, row_positions, take, pass);
}

// The parts of a row become one. Grid: (rows, heads).
extern "C" __global__ void attend_merge(bf16 *attended, const float *parts, const Sum *sums,
                                        const u32 *ranges, u32 most, Heads of) {
  let_next_begin();
  wait_for_last();
  const size_t head = (size_t)blockIdx.x * of.heads + blockIdx.y;
  const u32 count = parts_of(ranges, blockIdx.x);
  for (u32 column = threadIdx.x; column < of.dim; column += blockDim.x) {
    Sum sum = {-INFINITE, 0.0f};
    float value = 0.0f;
#pragma unroll 4
    for (u32 part = 0; part < count; part++) {
      const size_t at = head * most + part;
      const Sum next = sums[at];
      const float more = next.highest == -INFINITE ? 0.0f : parts[at * of.dim + column];
      const Factors factors = join(sum, next);
      value = joined(value, more, factors);
    }
    attended[head * of.dim + column] = __float2bfloat16(__fmul_rn(value, share_of(sum)));
  }
}

// Registers are limited so that two blocks of `attend_rows` fit, and more of `attend_parts` than what they share allows.
#define ATTEND_TO(ROWS, PARTS, KEPT, DIM, GROUP)                                                          \
  extern "C" __global__ void __launch_bounds__(ROWS_THREADS, 2) ROWS##_##DIM##_##GROUP(                   \
      bf16 *attended, const bf16 *queries, const KEPT *keys, const KEPT *values,                          \
      const u32 *positions, const u32 *ranges, const Seen *seen, const RowTile *tiles, float scale,       \
      u32 window, Heads of) {                                                                             \
    attend_rows<DIM, GROUP, KEPT>(attended, queries, keys, values, positions, ranges, seen, tiles, scale, \
                                  window, of);                                                            \
  }                                                                                                       \
  extern "C" __global__ void __launch_bounds__(PARTS_THREADS, 8) PARTS##_##DIM##_##GROUP(                 \
      float *parts, Sum *sums, const bf16 *queries, const KEPT *keys, const KEPT *values,                 \
      const u32 *positions, const u32 *ranges, const Seen *seen, float scale, u32 window,                 \
      u32 most, Heads of) {                                                                               \
    attend_parts<DIM, GROUP, KEPT>(parts, sums, queries, keys, values, positions, ranges, seen, scale,    \
                                   window, most, of);                                                     \
  }
#define ATTEND(DIM, GROUP)                                   \
  ATTEND_TO(attend_rows, attend_parts, bf16, DIM, GROUP)     \
  ATTEND_TO(attend_rows_float8, attend_parts_float8, float8, DIM, GROUP)
#define ATTEND_GROUPS(DIM)                                                                          \
  ATTEND(DIM, 1) ATTEND(DIM, 2) ATTEND(DIM, 3) ATTEND(DIM, 4) ATTEND(DIM, 5) ATTEND(DIM, 6)         \
  ATTEND(DIM, 7) ATTEND(DIM, 8)
ATTEND(8, 1) ATTEND(8, 2) ATTEND(8, 3) ATTEND(8, 4)
ATTEND_GROUPS(16)
ATTEND_GROUPS(32)
ATTEND_GROUPS(64)
ATTEND_GROUPS(128)
