// Each kernel, emulated, compared with the same sum in double precision. Outputs are filled with not-a-number before, so
// numbers that a kernel does not write show as well. It is in one library with the emulated driver, because compiling all
// kernels takes long.
#include "driver.cpp"

#include <random>

namespace {

std::mt19937 chance(7);
bool failed = false;

u32 below(u32 limit) { return (u32)chance() % limit; }

// The relative error of bf16, and of sums of f32.
const double HALF = 1.0 / 512, EXACT = 1e-5;
// The relative error of E4M3.
const double EIGHTH = 1.0 / 16;
const float UNWRITTEN = NAN;

std::vector<float> floats(size_t count, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float &value : values) value = normal(chance);
  return values;
}

std::vector<bf16> halves(size_t count) {
  std::vector<bf16> values;
  for (float value : floats(count)) values.push_back(__float2bfloat16(value));
  return values;
}

std::vector<bf16> unwritten(size_t count) { return std::vector<bf16>(count, __float2bfloat16(UNWRITTEN)); }

double number(float value) { return value; }
double number(bf16 value) { return __bfloat162float(value); }
double number(double value) { return value; }

// Checks the root mean square of the errors, relative to that of the expected numbers.
template <class T>
void hold(const char *name, const std::vector<T> &found, const std::vector<double> &expected, double most) {
  double off = 0, all = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    off += std::pow(number(found[i]) - expected[i], 2);
    all += std::pow(expected[i], 2);
  }
  const double error = std::sqrt(off / all);
  const bool holds = found.size() == expected.size() && error <= most;
  failed |= !holds;
  printf("%-32s %.1e (at most %.1e)%s\n", name, error, most, holds ? "" : "  FAILED");
}

double rms(const std::vector<double> &row, double epsilon) {
  double squares = 0;
  for (double value : row) squares += value * value;
  return 1.0 / std::sqrt(squares / (double)row.size() + epsilon);
}

// Checks rows of 8 bits that `write` writes with a scale for each. The error of E4M3 is relative to the number, and that of
// an integer is at most half a step of its row.
template <class Write>
void hold_bytes(const char *name, const std::vector<double> &expected, size_t width, Write write) {
  for (WeightDtype format : {FLOAT8, INT8}) {
    std::vector<u32> bytes(expected.size() / 4, 0x7f7f7f7f);
    std::vector<float> scales(expected.size() / width, UNWRITTEN);
    write(bytes.data(), scales.data(), format);
    std::vector<double> values;
    double apart = 0, all = 0;
    for (size_t row = 0; row < scales.size(); row++) {
      double most = 0;
      for (size_t i = row * width; i < (row + 1) * width; i++) {
        const uint8_t byte = (uint8_t)(bytes[i / 4] >> i % 4 * 8);
        values.push_back((format == INT8 ? (double)(int8_t)byte : from_float8(byte)) * scales[row]);
        most = std::max(most, std::abs(expected[i]));
        all += expected[i] * expected[i];
      }
      apart += std::pow(most / 127, 2) * (double)width;
    }
    const bool integers = format == INT8;
    hold((name + std::string(integers ? ", in integers" : ", in 8 bits")).c_str(), values, expected, integers ? std::sqrt(apart / all) / 2 : EIGHTH);
  }
}

// Sums of a product with scales of rows and columns, and the values that they stand for with a bias.
struct Sums {
  std::vector<float> sums, bias, row_scales, column_scales;
  std::vector<double> values;
  bool integers;

  Sums(u32 rows, u32 columns, bool integers = false)
      : sums(floats(rows * columns)), bias(floats(columns)), row_scales(floats(rows)), column_scales(floats(columns)), integers(integers) {
    for (u32 row = 0; row < rows; row++)
      for (u32 i = 0; i < columns; i++) {
        float &sum = sums[row * columns + i];
        double value = sum;
        if (integers) {
          const int whole = (int)(sum * 1000.0f);
          value = whole;
          memcpy(&sum, &whole, sizeof whole);
        }
        values.push_back(value * row_scales[row] * column_scales[i] + bias[i]);
      }
  }
  Product product() const { return {sums.data(), bias.data(), row_scales.data(), column_scales.data(), integers}; }
};

void norms() {
  // Wider than one group of four per thread.
  const u32 rows = 3, width = 652;
  const float epsilon = 1e-6f;
  auto stream = floats(rows * width), scale = floats(width);
  const Sums delta(rows, width);
  std::vector<double> sums(rows * width), normed(rows * width), picked;
  for (u32 row = 0; row < rows; row++) {
    std::vector<double> values(width);
    for (u32 i = 0; i < width; i++) values[i] = sums[row * width + i] = (double)stream[row * width + i] + delta.values[row * width + i];
    for (u32 i = 0; i < width; i++) normed[row * width + i] = values[i] * rms(values, epsilon) * scale[i];
  }
  std::vector<u32> wanted = {2, 0};
  for (u32 row : wanted) picked.insert(picked.end(), normed.begin() + row * width, normed.begin() + (row + 1) * width);
  auto halves_out = unwritten(2 * width);
  std::vector<float> exact(2 * width, UNWRITTEN);
  emulated::launch({2, 1, 1}, {64, 1, 1}, [&] {
    add_norm_picked(halves_out.data(), exact.data(), stream.data(), delta.product(), wanted.data(), scale.data(), epsilon, width);
  });
  hold("add_norm_picked", halves_out, picked, HALF);
  hold("add_norm_picked, exact", exact, picked, EXACT);
  const auto before = stream;
  hold_bytes("add_norm", normed, width, [&](u32 *bytes, float *scales, WeightDtype format) {
    stream = before;
    emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] {
      add_norm(bytes, scales, format, stream.data(), delta.product(), scale.data(), epsilon, width);
    });
  });
  hold("add_norm, stream", stream, sums, EXACT);
  stream = before;
  auto out = unwritten(rows * width);
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] {
    add_norm(out.data(), nullptr, BF16, stream.data(), delta.product(), scale.data(), epsilon, width);
  });
  hold("add_norm", out, normed, HALF);
  // Without a delta, the stream is only normed.
  out = unwritten(rows * width);
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] {
    add_norm(out.data(), nullptr, BF16, stream.data(), Product{}, scale.data(), epsilon, width);
  });
  hold("add_norm, of nothing more", out, normed, HALF);
}

void quantized() {
  const u32 rows = 4, width = 1100;
  auto from = halves(rows * width);
  // A row of zeros, and one with a number far greater than the others.
  for (u32 i = 0; i < width; i++) from[width + i] = __float2bfloat16(0.0f);
  from[2 * width + 7] = __float2bfloat16(-30.0f);
  std::vector<double> expected;
  for (bf16 value : from) expected.push_back(number(value));
  hold_bytes("quantize", expected, width, [&](u32 *bytes, float *scales, WeightDtype format) {
    emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] { quantize(bytes, scales, format, from.data(), width); });
  });
}

// Every number of rows, weights that end within a step, and more steps than are copied ahead.
void few() {
  for (u32 width : {8u, 64u, 200u, FEW_STEP * (FEW_AHEAD + 2) + 40}) {
    const u32 outputs = 48;
    auto weights = halves(outputs * width), inputs = halves(FEW_ROWS * width);
    std::vector<float> of_all;
    for (u32 rows : {FEW_ROWS, 1u, 5u}) {
      std::vector<double> expected;
      for (u32 row = 0; row < rows; row++)
        for (u32 output = 0; output < outputs; output++) {
          double sum = 0;
          for (u32 i = 0; i < width; i++) sum += number(inputs[row * width + i]) * number(weights[output * width + i]);
          expected.push_back(sum);
        }
      std::vector<float> sums(rows * outputs, UNWRITTEN);
      emulated::launch({outputs / FEW_OUTPUTS, 1, 1}, {WARP, 1, 1}, [&] {
        multiply_few(sums.data(), inputs.data(), weights.data(), rows, outputs, width);
      }, few_shared(FEW_AHEAD));
      hold(("multiply_few, " + std::to_string(rows) + " of " + std::to_string(width)).c_str(), sums, expected, EXACT);
      if (rows == FEW_ROWS) of_all = sums;
      if (memcmp(of_all.data(), sums.data(), sums.size() * sizeof(float))) {
        printf("multiply_few: a row's result depends on the batch  FAILED\n");
        failed = true;
      }
    }
  }
}

// Gates of few rows have the bits of the gates of many.
void few_gates() {
  const u32 outputs = 2 * 24, width = 136;
  auto weights = halves(outputs * width), inputs = halves(FEW_ROWS * width);
  auto bias = floats(outputs);
  std::vector<float> sums(FEW_ROWS * outputs, UNWRITTEN);
  emulated::launch({outputs / FEW_OUTPUTS, 1, 1}, {WARP, 1, 1}, [&] {
    multiply_few(sums.data(), inputs.data(), weights.data(), FEW_ROWS, outputs, width);
  }, few_shared(FEW_AHEAD));
  auto expected = unwritten(FEW_ROWS * outputs / 2), found = expected;
  emulated::launch({FEW_ROWS, 1, 1}, {64, 1, 1}, [&] {
    silu_mul(expected.data(), nullptr, BF16, {sums.data(), bias.data(), nullptr, nullptr, false}, outputs / 2);
  });
  emulated::launch({outputs / 16, 1, 1}, {WARP, 1, 1}, [&] {
    gate_few(found.data(), inputs.data(), weights.data(), FEW_ROWS, outputs, width, bias.data());
  }, few_shared(GATE_FEW_AHEAD));
  std::vector<double> right;
  for (bf16 value : expected) right.push_back(number(value));
  hold("gate_few", found, right, 0);
}

// Draws, compared with sums in order: each token has its probability, and banned tokens have none.
void draws() {
  const u32 vocabulary = 5000, rows = 64;
  auto of_row = floats(vocabulary, 3.0f);
  const std::vector<u32> banned = {17, 4999, 20, 7};
  of_row[17] = 90.0f;
  of_row[7] = 80.0f;
  std::vector<float> logits;
  std::vector<DrawSpec> asked;
  for (u32 row = 0; row < rows; row++) {
    logits.insert(logits.end(), of_row.begin(), of_row.end());
    const double chance = (row + 0.5) / rows;
    u32 halves[2];
    memcpy(halves, &chance, sizeof chance);
    asked.push_back(DrawSpec{row % 4 == 0 ? 0.0f : 0.5f * (float)(row % 4), halves[0], halves[1], 0, 4});
  }
  // From the last rows nothing can be drawn: one has a logit that is not finite, and one has no probability at all. One row
  // has two highest logits.
  float *broken = &logits[(rows - 1) * vocabulary], *none = &logits[(rows - 2) * vocabulary], *equal = &logits[(rows - 4) * vocabulary];
  broken[123] = NAN;
  broken[2000] = INFINITE;
  for (u32 i = 0; i < vocabulary; i++) none[i] = -INFINITE;
  equal[3333] = equal[1111] = 70.0f;
  std::vector<float> left = logits;
  for (u32 row = 0; row < rows; row++)
    for (u32 token : banned) left[row * vocabulary + token] = -INFINITE;
  std::vector<Drawn> drawn(rows, Drawn{1, UNWRITTEN});
  emulated::launch({rows, 1, 1}, {256, 1, 1}, [&] { draw(drawn.data(), logits.data(), asked.data(), banned.data(), vocabulary); });
  std::vector<double> expected, found;
  for (u32 row = 0; row + 2 < rows; row++) {
    const float *of = &left[row * vocabulary];
    const double temperature = row % 4 ? 0.5 * (row % 4) : 1.0;
    const u32 highest = (u32)(std::max_element(of, of + vocabulary) - of);
    double total = 0, below = 0;
    for (u32 i = 0; i < vocabulary; i++) total += std::exp((of[i] - of[highest]) / temperature);
    const u32 token = drawn[row].token;
    for (u32 i = 0; i < token; i++) below += std::exp((of[i] - of[highest]) / temperature);
    const double own = std::exp((of[token] - of[highest]) / temperature), point = (row + 0.5) / rows * total;
    // A tolerance for rounding at the boundary of two tokens.
    const double hair = 1e-5 * total;
    const bool right = row % 4 ? below <= point + hair && point <= below + own + hair && own > 0 : token == highest;
    if (!right) {
      printf("draw: token %u of row %u  FAILED\n", token, row);
      failed = true;
    }
    expected.push_back(std::log(own / total));
    found.push_back(drawn[row].logprob);
  }
  hold("draw", found, expected, EXACT);
  if (drawn[rows - 1].token != 123 || !std::isnan(drawn[rows - 1].logprob) || drawn[rows - 2].token != NO_TOKEN ||
      !std::isnan(drawn[rows - 2].logprob) || drawn[rows - 4].token != 1111) {
    printf("draw: of nothing %u %f, %u %f, of equals %u  FAILED\n", drawn[rows - 1].token, drawn[rows - 1].logprob,
           drawn[rows - 2].token, drawn[rows - 2].logprob, drawn[rows - 4].token);
    failed = true;
  }
}

void tables() {
  const u32 rows = 3, width = 80, tokens = 11;
  auto table = halves(tokens * width), row = halves(rows * width);
  std::vector<u32> of_rows = {4, 10, 0};
  std::vector<LogitPair> pairs = {{2, 5}, {0, 10}, {1, 0}};
  std::vector<double> embedded, logits;
  for (u32 token : of_rows)
    for (u32 i = 0; i < width; i++) embedded.push_back(number(table[token * width + i]));
  for (u32 pair = 0; pair < 3; pair++) {
    double sum = 0;
    for (u32 i = 0; i < width; i++) sum += number(row[pairs[pair].row * width + i]) * number(table[pairs[pair].token * width + i]);
    logits.push_back(sum);
  }
  std::vector<float> stream(rows * width, UNWRITTEN), found(3, UNWRITTEN);
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] { embed(stream.data(), table.data(), of_rows.data(), width); });
  hold("embed", stream, embedded, 0);
  emulated::launch({1, 1, 1}, {128, 1, 1}, [&] { chosen_logits(found.data(), row.data(), table.data(), pairs.data(), 3, width); });
  hold("chosen_logits", found, logits, EXACT);
}

void gates() {
  const u32 rows = 2, width = 580;
  for (bool integers : {false, true}) {
    const char *name = integers ? "silu_mul, of integers" : "silu_mul";
    const Sums both(rows, 2 * width, integers);
    std::vector<double> expected;
    for (u32 row = 0; row < rows; row++)
      for (u32 i = 0; i < width; i++) {
        const double gate = both.values[row * 2 * width + i], up = both.values[(row * 2 + 1) * width + i];
        expected.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    auto out = unwritten(rows * width);
    emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] { silu_mul(out.data(), nullptr, BF16, both.product(), width); });
    hold(name, out, expected, HALF);
    hold_bytes(name, expected, width, [&](u32 *bytes, float *scales, WeightDtype format) {
      emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] { silu_mul(bytes, scales, format, both.product(), width); });
    });
  }
}

// Sequences in pages at random, and the upload of each of their rows.
struct PagedTexts {
  std::vector<u32> order, positions;
  std::vector<PageSlot> slots;
  std::vector<PageRange> ranges;
  std::vector<SeenPage> seen;
  std::vector<RowTile> tiles;
  u32 taken = 0;

  // Adds a sequence, or a branch of the first tokens of another one: it sees the other one's pages, and then pages of its
  // own. Returns its number.
  u32 add(u32 length, const RowTile *trunk = nullptr) {
    const u32 begin = (u32)seen.size(), first = trunk ? trunk->rows : 0, row = (u32)positions.size();
    for (u32 at = 0; at < first; at += PAGE_TOKENS) {
      SeenPage page = seen[ranges[trunk->first].begin + at / PAGE_TOKENS];
      page.tokens = std::min(page.tokens, first - at);
      seen.push_back(page);
    }
    for (u32 at = 0; at < length; at++) {
      if (at % PAGE_TOKENS == 0) seen.push_back({order[taken++], first + at, std::min(PAGE_TOKENS, length - at)});
      positions.push_back(first + at);
      slots.push_back({seen.back().page, at % PAGE_TOKENS});
    }
    for (u32 at = 0; at < length; at++) ranges.push_back({begin, (u32)seen.size()});
    tiles.push_back({row, length, 0});
    return (u32)tiles.size() - 1;
  }

  u32 rows() const { return (u32)positions.size(); }
};

// What comes of attention: weights, and what they come to, are each off by what a bf16 can be, independently.
const double TWO_HALVES = HALF * std::sqrt(2.0);

bool same(const char *name, const char *what, const std::vector<bf16> &found, const std::vector<bf16> &right) {
  const bool holds = found.size() == right.size() && !memcmp(found.data(), right.data(), found.size() * sizeof(bf16));
  if (!holds) printf("%s: %s changes what comes of it  FAILED\n", name, what);
  failed |= !holds;
  return holds;
}

// A number of a token, as a page keeps it of a head.
double kept_number(const bf16 *head, u32 token, int i, int dim) { return number(head[token * dim + i]); }
double kept_number(const float8 *head, u32 token, int i, int dim) {
  return (double)from_float8(head[token * dim + i]) * power_of(head[PAGE_TOKENS * dim + token]);
}

// Heads are written to pages, and attend: a sequence of several parts, and many branches of all of it or most of it, one of
// them with several parts of its own; a sequence that two branches leave in the middle of a page; and one shorter than a
// page. The rest of each page stays not-a-number, so reads of it show.
template <int DIM, int GROUP, class Kv>
void attention(const char *name,
               void (*place)(bf16 *, Kv *, Kv *, Product, const float *, const float *, const float2 *, float, const u32 *,
                             const PageSlot *, Heads),
               void (*by_rows)(bf16 *, const bf16 *, const Kv *, const Kv *, const u32 *, const PageRange *, const SeenPage *,
                               const RowTile *, float, u32, Heads),
               void (*by_parts)(float *, PartSum *, const bf16 *, const Kv *, const Kv *, const u32 *, const PageRange *,
                                const SeenPage *, float, u32, u32, Heads),
               u32 window) {
  const u32 kv_heads = 2, heads = kv_heads * GROUP, all = heads + 2 * kv_heads, pages = 64, parts = 4;
  const Heads of = {heads, kv_heads, DIM, PAGE_TOKENS};
  const float epsilon = 1e-6f, turn_scale = 1.1f, scale = 1.0f / std::sqrt((float)DIM);
  PagedTexts texts;
  for (u32 page = 0; page < pages; page++) texts.order.push_back(page);
  std::shuffle(texts.order.begin(), texts.order.end(), chance);
  // Parts of the long text that all of its branches begin with, though they leave it at its end, at that of these parts,
  // and in the middle of the page behind them.
  const u32 long_text = texts.add(PAGE_TOKENS * 19 + 5), shared = 2;
  const RowTile long_rows = texts.tiles[long_text];
  const RowTile whole_parts = {long_rows.first, PAGE_TOKENS * PAGES_A_PART * shared, 0};
  const RowTile little_more = {long_rows.first, whole_parts.rows + 3, 0};
  for (u32 length : {5u, 1u, 3u, 5u, 1u}) texts.add(length, &long_rows);
  for (u32 length : {3u, 1u}) texts.add(length, &whole_parts);
  texts.add(PAGE_TOKENS * 4 + 6, &long_rows);
  for (u32 length : {1u, 3u, 5u}) texts.add(length, &little_more);
  for (u32 length : {1u, 5u, 1u, 3u}) texts.add(length, &long_rows);
  const u32 behind_branches = texts.rows(), trunk = texts.add(PAGE_TOKENS * 9 + 7);
  const RowTile whole = texts.tiles[trunk], most_of_it = {whole.first, PAGE_TOKENS * 7 + 3, 0};
  texts.add(PAGE_TOKENS + 4, &whole);
  texts.add(1, &most_of_it);
  texts.add(3);
  const auto &positions = texts.positions;
  const auto &slots = texts.slots;
  const auto &ranges = texts.ranges;
  const auto &seen = texts.seen;
  const u32 rows = texts.rows(), row_numbers = heads * DIM;

  const Sums qkv(rows, all * DIM);
  auto query_scale = floats(DIM), key_scale = floats(DIM);
  std::vector<float> frequencies;
  for (int i = 0; i < DIM / 2; i++) frequencies.push_back(std::pow(10000.0f, -2.0f * (float)i / DIM));
  auto queries = unwritten((size_t)rows * row_numbers);
  std::vector<Kv> keys((size_t)pages * kv_heads * HEAD_PAGE_NUMBERS<DIM, Kv>), values;
  memset(keys.data(), 0xff, keys.size() * sizeof(Kv));
  values = keys;
  std::vector<float2> turns;
  for (u32 position = 0; position <= *std::max_element(positions.begin(), positions.end()); position++)
    for (float frequency : frequencies) {
      const double angle = (double)position * frequency;
      turns.push_back({(float)(std::cos(angle) * turn_scale), (float)(std::sin(angle) * turn_scale)});
    }
  const u32 warps = 3;
  emulated::launch({rows, (all + warps - 1) / warps, 1}, {warps * WARP, 1, 1}, [&] {
    place(queries.data(), keys.data(), values.data(), qkv.product(), query_scale.data(), key_scale.data(), turns.data(),
                epsilon, positions.data(), slots.data(), of);
  });
  // What each head should be, as it is kept.
  std::vector<double> of_queries;
  for (u32 row = 0; row < rows; row++)
    for (u32 head = 0; head < heads; head++) {
      std::vector<double> head_of(DIM);
      for (int i = 0; i < DIM; i++) head_of[i] = qkv.values[((size_t)row * all + head) * DIM + i];
      const double factor = rms(head_of, epsilon);
      for (int i = 0; i < DIM; i++) head_of[i] *= factor * query_scale[i];
      for (int i = 0; i < DIM / 2; i++) {
        const double angle = (double)positions[row] * frequencies[i], a = head_of[i], b = head_of[i + DIM / 2];
        head_of[i] = (a * std::cos(angle) - b * std::sin(angle)) * turn_scale;
        head_of[i + DIM / 2] = (b * std::cos(angle) + a * std::sin(angle)) * turn_scale;
      }
      of_queries.insert(of_queries.end(), head_of.begin(), head_of.end());
    }
  hold((std::string(name) + ", queries").c_str(), queries, of_queries, HALF);
  const auto kept = [&](const std::vector<Kv> &of, u32 page, u32 kv_head, u32 token, int i) {
    return kept_number(&of[((size_t)page * kv_heads + kv_head) * HEAD_PAGE_NUMBERS<DIM, Kv>], token, i, DIM);
  };
  std::vector<double> of_values, found_values;
  for (u32 row = 0; row < rows; row++)
    for (u32 head = 0; head < kv_heads; head++)
      for (int i = 0; i < DIM; i++) {
        of_values.push_back(qkv.values[((size_t)row * all + heads + kv_heads + head) * DIM + i]);
        found_values.push_back(kept(values, slots[row].page, head, slots[row].token, i));
      }
  hold((std::string(name) + ", values").c_str(), found_values, of_values, sizeof(Kv) == 1 ? EIGHTH : HALF);

  // What attention of them comes to, as they are kept.
  std::vector<double> expected((size_t)rows * row_numbers);
  for (u32 row = 0; row < rows; row++)
    for (u32 head = 0; head < heads; head++) {
      const u32 kv_head = head / GROUP;
      double total = 0;
      double *to = &expected[((size_t)row * heads + head) * DIM];
      for (u32 s = ranges[row].begin; s < ranges[row].end; s++)
        for (u32 token = 0; token < seen[s].tokens; token++) {
          const u32 at = seen[s].first + token;
          if (at > positions[row] || (window && at + window <= positions[row])) continue;
          double score = 0;
          for (int i = 0; i < DIM; i++) score += number(queries[((size_t)row * heads + head) * DIM + i]) * kept(keys, seen[s].page, kv_head, token, i);
          const double weight = std::exp(score * scale);
          total += weight;
          for (int i = 0; i < DIM; i++) to[i] += weight * kept(values, seen[s].page, kv_head, token, i);
        }
      for (int i = 0; i < DIM; i++) to[i] /= total;
    }

  // All rows, in tiles that are as large as can be.
  const auto in_tiles = [&](const std::vector<RowTile> &tiles) {
    auto attended = unwritten((size_t)rows * row_numbers);
    emulated::launch({(u32)tiles.size(), kv_heads, 1}, {ROWS_THREADS, 1, 1}, [&] {
      by_rows(attended.data(), queries.data(), keys.data(), values.data(), positions.data(), ranges.data(), seen.data(), tiles.data(), scale, window, of);
    }, SHARED_BYTES<DIM, Kv>);
    return attended;
  };
  std::vector<RowTile> tiles;
  for (const RowTile &text : texts.tiles)
    for (u32 row = 0; row < text.rows; row += TILE_TOKENS<GROUP>)
      tiles.push_back({text.first + row, std::min(TILE_TOKENS<GROUP>, text.rows - row), 0});
  // One tile has no rows.
  tiles.push_back({1, 0, 0});
  const auto attended = in_tiles(tiles);
  hold(name, attended, expected, TWO_HALVES);

  // The last rows of the long text and those of all branches, in tiles that hold rows of several of them: as large as can
  // be, of any size, and with less said to be shared than is.
  auto of_branches = unwritten((size_t)rows * row_numbers);
  const u32 first_mixed = long_rows.rows - 4;
  std::copy(attended.begin() + (ptrdiff_t)(first_mixed * row_numbers),
            attended.begin() + (ptrdiff_t)(behind_branches * row_numbers),
            of_branches.begin() + (ptrdiff_t)(first_mixed * row_numbers));
  const auto mixed = [&](u32 least, u32 least_shared) {
    std::vector<RowTile> of_several;
    for (u32 row = first_mixed; row < behind_branches; row += of_several.back().rows) {
      const u32 most = least + below(TILE_TOKENS<GROUP> - least + 1);
      of_several.push_back({row, std::min(most, behind_branches - row), least_shared + below(shared - least_shared + 1)});
    }
    return of_several;
  };
  same(name, "a tile of several branches", in_tiles(mixed(TILE_TOKENS<GROUP>, shared)), of_branches);
  same(name, "a tile of some rows of branches", in_tiles(mixed(1, shared)), of_branches);
  same(name, "a tile that shares less than it could", in_tiles(mixed(TILE_TOKENS<GROUP> / 2, 0)), of_branches);
  // Of one group, any number of parts may be said to be shared, even more than there are.
  for (RowTile &tile : tiles) tile.shared = below(parts + 2);
  same(name, "what a tile of one branch shares", in_tiles(tiles), attended);

  // Some rows of each text, and each by itself: around the ends of pages, of parts and of windows.
  std::vector<u32> chosen;
  for (const RowTile &text : texts.tiles)
    for (u32 at : {0u, 2u, 4u, 15u, 16u, 127u, 128u, 150u, 256u, 308u})
      if (at < text.rows && (at % 2 == 0 || text.first == texts.tiles[long_text].first)) chosen.push_back(text.first + at);
  tiles.clear();
  auto right = unwritten((size_t)rows * row_numbers);
  const auto numbers_of = [&](const auto &table, u32 row, size_t count) { return table.begin() + (ptrdiff_t)(row * count); };
  std::vector<bf16> of_chosen, their_queries;
  std::vector<u32> their_positions;
  std::vector<PageRange> their_ranges, cut_ranges;
  std::vector<SeenPage> cut;
  for (u32 row : chosen) {
    tiles.push_back({row, 1, 0});
    std::copy_n(numbers_of(attended, row, row_numbers), row_numbers, right.begin() + (ptrdiff_t)(row * row_numbers));
    of_chosen.insert(of_chosen.end(), numbers_of(attended, row, row_numbers), numbers_of(attended, row + 1, row_numbers));
    their_queries.insert(their_queries.end(), numbers_of(queries, row, row_numbers), numbers_of(queries, row + 1, row_numbers));
    their_positions.push_back(positions[row]);
    their_ranges.push_back(ranges[row]);
    // The list as it was when the row was the last of its text.
    const u32 begin = (u32)cut.size();
    for (u32 s = ranges[row].begin; s < ranges[row].end && seen[s].first <= positions[row]; s++)
      cut.push_back({seen[s].page, seen[s].first, std::min(seen[s].tokens, positions[row] + 1 - seen[s].first)});
    cut_ranges.push_back({begin, (u32)cut.size()});
  }
  same(name, "a tile of one row", in_tiles(tiles), right);

  const u32 count = (u32)chosen.size();
  const auto in_parts = [&](u32 blocks, const std::vector<PageRange> &of_rows, const std::vector<SeenPage> &list) {
    std::vector<float> out((size_t)count * heads * parts * DIM, UNWRITTEN);
    std::vector<PartSum> sums((size_t)count * heads * parts, PartSum{UNWRITTEN, UNWRITTEN});
    auto merged = unwritten((size_t)count * row_numbers);
    emulated::launch({count, kv_heads, blocks}, {PARTS_THREADS, 1, 1}, [&] {
      by_parts(out.data(), sums.data(), their_queries.data(), keys.data(), values.data(), their_positions.data(), of_rows.data(), list.data(), scale, window, parts, of);
    }, SHARED_BYTES<DIM, Kv>);
    emulated::launch({count, heads, 1}, {64, 1, 1}, [&] {
      attend_merge(merged.data(), out.data(), sums.data(), of_rows.data(), parts, of);
    });
    return merged;
  };
  same(name, "a block for each part", in_parts(parts, their_ranges, seen), of_chosen);
  same(name, "one block for all parts", in_parts(1, their_ranges, seen), of_chosen);
  same(name, "a list that ends with the row", in_parts(2, cut_ranges, cut), of_chosen);
}

// The numbers of a table in order, for the sums in double precision.
struct Reader {
  const float *at;
  const float *next(size_t count) {
    const float *from = at;
    at += count;
    return from;
  }
};

typedef std::vector<double> Row;

Row layer(const Row &row, const float *weights, const float *bias, u32 columns) {
  Row out(columns);
  for (u32 column = 0; column < columns; column++) {
    out[column] = bias ? bias[column] : 0;
    for (size_t k = 0; k < row.size(); k++) out[column] += row[k] * weights[k * columns + column];
  }
  return out;
}

Row relu(Row row) {
  for (double &value : row) value = std::max(value, 0.0);
  return row;
}

Row add(Row row, const Row &more) {
  for (size_t i = 0; i < row.size(); i++) row[i] += more[i];
  return row;
}

Row layer_norm(const Row &row, const float *scale, const float *shift) {
  double mean = 0, spread = 0;
  for (double value : row) mean += value / (double)row.size();
  for (double value : row) spread += (value - mean) * (value - mean) / (double)row.size();
  Row out(row.size());
  for (size_t i = 0; i < row.size(); i++) out[i] = (row[i] - mean) / std::sqrt(spread + NORM_EPSILON) * scale[i] + shift[i];
  return out;
}

Row softmax(Row row) {
  double total = 0;
  for (double &value : row) total += value = std::exp(value);
  for (double &value : row) value /= total;
  return row;
}

double dot(const Row &a, const Row &b, size_t from, size_t count) {
  double sum = 0;
  for (size_t i = from; i < from + count; i++) sum += a[i] * b[i];
  return sum;
}

size_t in_whole(size_t count) { return (count + 3) / 4 * 4; }

// Slates of a scorer: one with the longest history, one without history and pattern, and one with one event.
void slates(const char *name, const Network &of) {
  const u32 d = of.width, head_width = d / of.heads, item_row = d + of.columns + of.head_first + of.rechead;
  const u32 items = 7, cards = 5, patterns = 2, known = 3, inner = 3 * d + of.features;
  const std::vector<SlateEvents> slates = {{0, of.history, 1}, {of.history, 0, NO_PATTERN}, {of.history, 1, 0}};
  const std::vector<CandidateTile> tiles = {{2, 0, 1}, {0, 1, TILE}, {0, 1 + TILE, 3}, {1, 4 + TILE, 2}};
  const u32 candidates = 6 + TILE;
  const size_t of_layer = 4 * d + 3 * d * (d + 1) + d * (d + 1) + of.ffn * (d + 1) + d * (of.ffn + 1);
  auto history_weights = floats((of.ages + of.kinds) * d + of.layers * of_layer + (of.layers ? 2 * d : 0) + d * of.columns +
                                of.text * d + 2 * d + d * d + d + d * of.head_first + of.head_first, 0.3f);
  auto weights = floats(of.columns * d + of.columns * SECOND + 2 * SECOND + 1 + of.heads + 2 * of.head_first +
                        inner * of.head_first + of.head_first * of.head_second + 2 * of.head_second + 1, 0.3f);
  auto rows = floats(items * item_row), keys = floats(cards * of.reasons * 2 * d), texts = floats(patterns * of.text);
  auto features = floats(candidates * of.features), overlaps = floats(candidates * of.reasons), shoppers = floats(known * of.rechead);
  std::vector<SlateEvent> events;
  for (u32 e = 0; e <= of.history; e++) events.push_back({below(items), below(of.ages), below(of.kinds)});
  std::vector<CandidateSlots> asked;
  for (u32 c = 0; c < candidates; c++) asked.push_back({below(items), below(cards), c % (of.reasons + 1)});
  // The first of two reasons is left out.
  overlaps[2 * of.reasons] = -INFINITE;

  // Rows are copied from the upload to their slots.
  std::vector<float> table(items * item_row, UNWRITTEN), reversed;
  std::vector<u32> places;
  for (u32 item = items; item-- > 0;) {
    places.push_back(item);
    reversed.insert(reversed.end(), rows.begin() + item * item_row, rows.begin() + (item + 1) * item_row);
  }
  emulated::launch({items, 1, 1}, {64, 1, 1}, [&] { write_rows(table.data(), reversed.data(), places.data(), item_row); });
  hold((std::string(name) + ", write_rows").c_str(), table, Row(rows.begin(), rows.end()), 0);

  const size_t stride = in_whole(d), across = of.history * std::max<size_t>(3 * d | 1, in_whole(of.ffn));
  const size_t history_room = 2 * of.history * stride + std::max(of.history * stride, in_whole(of.text)) + in_whole(across) +
                              HISTORY_THREADS / WARP * of.history;
  const size_t lines = (size_t)(of.history | 1) * (d + of.columns), of_tile = in_whole(inner) + in_whole(of.head_first) + d + of.columns + of.history + of.heads * of.reasons + of.head_second;
  const size_t tile_room = of.columns * d + of.columns * SECOND + 2 * SECOND + TILE * of_tile + lines;
  std::vector<float> encoded(known * of.history * d, UNWRITTEN), terms(known * of.history * of.columns, UNWRITTEN), shares(known * (d + of.head_first), UNWRITTEN);
  std::vector<float> logits(candidates, UNWRITTEN), met = logits, attention(candidates * of.reasons, UNWRITTEN);
  emulated::launch({known, 1, 1}, {HISTORY_THREADS, 1, 1}, [&] {
    encode_histories(encoded.data(), terms.data(), shares.data(), history_weights.data(), table.data(), slates.data(), events.data(), texts.data(), of);
  }, history_room * sizeof(float));
  emulated::launch({(u32)tiles.size(), 1, 1}, {TILE_THREADS, 1, 1}, [&] {
    score_candidates(logits.data(), met.data(), attention.data(), weights.data(), table.data(), keys.data(), encoded.data(), terms.data(), shares.data(),
                     shoppers.data(), slates.data(), tiles.data(), asked.data(), features.data(), overlaps.data(), of);
  }, tile_room * sizeof(float));

  // The same in double precision, slate by slate and candidate by candidate.
  Row right_logits(candidates), right_met(candidates), right_attention(candidates * of.reasons), right_shares, right_encoded, right_terms;
  std::vector<float> found_encoded, found_terms;
  for (u32 s = 0; s < known; s++) {
    Reader read = {history_weights.data()};
    const float *ages = read.next(of.ages * d), *kinds = read.next(of.kinds * d);
    std::vector<Row> history;
    for (u32 e = 0; e < slates[s].events; e++) {
      const SlateEvent &event = events[slates[s].first_event + e];
      Row row(d);
      for (u32 i = 0; i < d; i++) row[i] = (double)rows[event.item * item_row + i] + ages[event.age * d + i] + kinds[event.kind * d + i];
      history.push_back(row);
    }
    for (u32 l = 0; l < of.layers; l++) {
      const float *norm = read.next(2 * d), *project = read.next(3 * d * d), *project_bias = read.next(3 * d), *join = read.next(d * d), *join_bias = read.next(d);
      const float *second_norm = read.next(2 * d), *up = read.next(d * of.ffn), *up_bias = read.next(of.ffn), *down = read.next(of.ffn * d), *down_bias = read.next(d);
      std::vector<Row> projected;
      for (Row &row : history) projected.push_back(layer(layer_norm(row, norm, norm + d), project, project_bias, 3 * d));
      for (size_t e = 0; e < history.size(); e++) {
        Row seen(d);
        for (u32 head = 0; head < of.heads; head++) {
          Row odds;
          for (Row &other : projected) {
            double score = 0;
            for (u32 i = head * head_width; i < (head + 1) * head_width; i++) score += projected[e][i] * other[d + i];
            odds.push_back(score);
          }
          odds = softmax(odds);
          for (size_t other = 0; other < odds.size(); other++)
            for (u32 i = head * head_width; i < (head + 1) * head_width; i++) seen[i] += odds[other] * projected[other][2 * d + i];
        }
        history[e] = add(history[e], layer(seen, join, join_bias, d));
      }
      for (Row &row : history) row = add(row, layer(relu(layer(layer_norm(row, second_norm, second_norm + d), up, up_bias, of.ffn)), down, down_bias, d));
    }
    if (of.layers) {
      const float *norm = read.next(2 * d);
      for (Row &row : history) row = layer_norm(row, norm, norm + d);
    }
    const float *term = read.next(d * of.columns), *of_pattern = read.next(of.text * d), *pattern_bias = read.next(d), *no_pattern = read.next(d);
    const float *query = read.next(d * d), *query_bias = read.next(d), *share = read.next(d * of.head_first), *share_bias = read.next(of.head_first);
    Row pattern(no_pattern, no_pattern + d);
    if (slates[s].pattern != NO_PATTERN) {
      const float *text = &texts[slates[s].pattern * of.text];
      pattern = layer(Row(text, text + of.text), of_pattern, pattern_bias, d);
    }
    const Row queries = layer(pattern, query, query_bias, d), head_share = layer(pattern, share, share_bias, of.head_first);
    right_shares.insert(right_shares.end(), queries.begin(), queries.end());
    right_shares.insert(right_shares.end(), head_share.begin(), head_share.end());
    for (size_t e = 0; e < history.size(); e++) {
      const Row its = layer(history[e], term, nullptr, of.columns);
      right_encoded.insert(right_encoded.end(), history[e].begin(), history[e].end());
      right_terms.insert(right_terms.end(), its.begin(), its.end());
      const size_t at = s * of.history + e;
      found_encoded.insert(found_encoded.end(), &encoded[at * d], &encoded[at * d] + d);
      found_terms.insert(found_terms.end(), &terms[at * of.columns], &terms[at * of.columns] + of.columns);
    }

    for (const CandidateTile &tile : tiles) {
      for (u32 c = tile.first; tile.slate == s && c < tile.first + tile.count; c++) {
        Reader read = {weights.data()};
        const float *pair = read.next(of.columns * d), *second = read.next(of.columns * SECOND), *bias = read.next(SECOND), *third = read.next(SECOND);
        const double third_bias = *read.next(1);
        const float *backed = read.next(of.heads), *some = read.next(of.head_first), *none = read.next(of.head_first);
        const float *head = read.next(inner * of.head_first), *head_second = read.next(of.head_first * of.head_second), *head_bias = read.next(of.head_second);
        const float *last = read.next(of.head_second), last_bias = *read.next(1);
        const float *item = &rows[asked[c].item * item_row];
        Row interest(d), inputs;
        for (const Row &event : history) {
          Row hidden = layer(event, term, nullptr, of.columns);
          for (u32 j = 0; j < of.columns; j++) {
            hidden[j] += item[d + j];
            for (u32 k = 0; k < d; k++) hidden[j] += event[k] * item[k] * pair[(j / FIRST * d + k) * FIRST + j % FIRST];
          }
          const Row odds = relu(layer(relu(hidden), second, bias, SECOND));
          const double pull = dot(odds, Row(third, third + SECOND), 0, SECOND) + third_bias;
          for (u32 i = 0; i < d; i++) interest[i] += pull * event[i] / std::sqrt((double)history.size());
        }
        inputs = interest;
        for (u32 i = 0; i < d; i++) inputs.push_back(interest[i] * item[i]);
        inputs.resize(inner);
        const float *card = &keys[asked[c].card * of.reasons * 2 * d];
        for (u32 h = 0; h < of.heads && asked[c].reasons; h++) {
          Row odds;
          for (u32 r = 0; r < asked[c].reasons; r++) {
            double score = (double)backed[h] * overlaps[c * of.reasons + r];
            for (u32 i = h * head_width; i < (h + 1) * head_width; i++) score += queries[i] * card[r * 2 * d + i];
            odds.push_back(overlaps[c * of.reasons + r] == -INFINITE ? -INFINITE : score);
          }
          odds = softmax(odds);
          for (u32 r = 0; r < odds.size(); r++) {
            right_attention[c * of.reasons + r] += odds[r] / of.heads;
            for (u32 i = h * head_width; i < (h + 1) * head_width; i++) inputs[2 * d + i] += odds[r] * card[(r * 2 + 1) * d + i];
          }
        }
        for (u32 i = 0; i < of.features; i++) inputs[3 * d + i] = features[c * of.features + i];
        Row first = add(layer(inputs, head, item + d + of.columns, of.head_first), head_share);
        first = relu(add(first, asked[c].reasons ? Row(some, some + of.head_first) : Row(none, none + of.head_first)));
        const Row hidden = relu(layer(first, head_second, head_bias, of.head_second));
        right_logits[c] = dot(hidden, Row(last, last + of.head_second), 0, of.head_second) + last_bias;
        for (u32 i = 0; i < of.rechead; i++) right_met[c] += (double)shoppers[s * of.rechead + i] * item[d + of.columns + of.head_first + i];
      }
    }
  }
  hold((std::string(name) + ", encoded").c_str(), found_encoded, right_encoded, EXACT);
  hold((std::string(name) + ", terms").c_str(), found_terms, right_terms, EXACT);
  hold((std::string(name) + ", shares").c_str(), shares, right_shares, EXACT);
  hold((std::string(name) + ", logits").c_str(), logits, right_logits, EXACT);
  hold((std::string(name) + ", met").c_str(), met, right_met, EXACT);
  hold((std::string(name) + ", attention").c_str(), attention, right_attention, EXACT);
}

#include "check_backprop.h"

}  // namespace

// Returns 1 if a kernel fails its check.
extern "C" int check_kernels() {
  norms();
  quantized();
  tables();
  gates();
  few();
  few_gates();
  draws();
  backprop();
#define ATTENTION(DIM, GROUP, WINDOW)                                                                            \
  attention<DIM, GROUP, bf16>("attend_" #DIM "_" #GROUP ", window of " #WINDOW, norm_rope_and_write, attend_rows_##DIM##_##GROUP, \
                              attend_parts_##DIM##_##GROUP, WINDOW)
#define ATTENTION_FLOAT8(DIM, GROUP, WINDOW)                                                                        \
  attention<DIM, GROUP, float8>("attend_float8_" #DIM "_" #GROUP ", window of " #WINDOW, norm_rope_and_write_float8,        \
                                attend_rows_float8_##DIM##_##GROUP, attend_parts_float8_##DIM##_##GROUP, WINDOW)
  ATTENTION(8, 1, 0);
  ATTENTION(8, 3, 40);
  ATTENTION(8, 4, 0);
  ATTENTION(16, 1, 150);
  ATTENTION(16, 8, 0);
  ATTENTION(32, 3, 0);
  ATTENTION(64, 2, 0);
  ATTENTION(64, 7, 150);
  ATTENTION(128, 1, 40);
  ATTENTION(128, 4, 0);
  ATTENTION(64, 8, 1);
  ATTENTION_FLOAT8(8, 3, 40);
  ATTENTION_FLOAT8(16, 8, 0);
  ATTENTION_FLOAT8(64, 2, 150);
  ATTENTION_FLOAT8(128, 4, 0);
  // (width, text, reasons, features, history, ages, kinds, heads, layers, ffn, columns, head_first, head_second, rechead)
  slates("scorer", {64, 64, 10, 30, 50, 24, 5, 4, 2, 128, 32, 128, 32, 64});
  slates("scorer, odd", {21, 130, 3, 5, 9, 4, 3, 3, 1, 13, 64, 11, 7, 9});
  slates("scorer, no Transformer", {24, 10, 2, 3, 13, 4, 3, 1, 0, 8, 32, 40, 3, 1});
  return failed ? 1 : 0;
}
