// Each kernel, emulated, against the same sum in double precision. What kernels write to is filled with not-a-number
// before, so what they forget shows as well.
#define EMULATED
#include "../decoder.cu"
#include "../scorer.cu"

#include <cstdio>
#include <random>

namespace {

std::mt19937 chance(7);
bool failed = false;

u32 below(u32 limit) { return (u32)chance() % limit; }

// What a bf16 can be off by, relative to what it stands for, and what sums of f32 can.
const double HALF = 1.0 / 512, EXACT = 1e-5;
const float NOTHING = NAN;

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

std::vector<bf16> unwritten(size_t count) { return std::vector<bf16>(count, __float2bfloat16(NOTHING)); }

double number(float value) { return value; }
double number(bf16 value) { return __bfloat162float(value); }

// The root mean square of what is off, over that of what is expected.
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

void norms() {
  const u32 rows = 3, width = 96;
  const float epsilon = 1e-6f;
  auto stream = floats(rows * width), delta = floats(rows * width), bias = floats(width), scale = floats(width);
  std::vector<double> sums(rows * width), normed(rows * width), picked;
  for (u32 row = 0; row < rows; row++) {
    std::vector<double> values(width);
    for (u32 i = 0; i < width; i++) values[i] = sums[row * width + i] = (double)stream[row * width + i] + delta[row * width + i] + bias[i];
    for (u32 i = 0; i < width; i++) normed[row * width + i] = values[i] * rms(values, epsilon) * scale[i];
  }
  std::vector<u32> wanted = {2, 0};
  for (u32 row : wanted) picked.insert(picked.end(), normed.begin() + row * width, normed.begin() + (row + 1) * width);
  auto halves_out = unwritten(2 * width);
  std::vector<float> exact(2 * width, NOTHING);
  emulated::launch({2, 1, 1}, {64, 1, 1}, [&] {
    pick(halves_out.data(), exact.data(), stream.data(), delta.data(), bias.data(), wanted.data(), scale.data(), epsilon, width);
  });
  hold("pick", halves_out, picked, HALF);
  hold("pick, exact", exact, picked, EXACT);
  auto out = unwritten(rows * width);
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] {
    add_norm(out.data(), stream.data(), delta.data(), bias.data(), scale.data(), epsilon, width);
  });
  hold("add_norm", out, normed, HALF);
  hold("add_norm, stream", stream, sums, EXACT);
}

void tables() {
  const u32 rows = 3, width = 80, tokens = 11;
  auto table = halves(tokens * width), row = halves(rows * width);
  std::vector<u32> of_rows = {4, 10, 0}, pairs = {2, 5, 0, 10, 1, 0};
  std::vector<double> embedded, logits;
  for (u32 token : of_rows)
    for (u32 i = 0; i < width; i++) embedded.push_back(number(table[token * width + i]));
  for (u32 pair = 0; pair < 3; pair++) {
    double sum = 0;
    for (u32 i = 0; i < width; i++) sum += number(row[pairs[2 * pair] * width + i]) * number(table[pairs[2 * pair + 1] * width + i]);
    logits.push_back(sum);
  }
  std::vector<float> stream(rows * width, NOTHING), found(3, NOTHING);
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] { embed(stream.data(), table.data(), of_rows.data(), width); });
  hold("embed", stream, embedded, 0);
  emulated::launch({1, 1, 1}, {128, 1, 1}, [&] { columns(found.data(), row.data(), table.data(), pairs.data(), 3, width); });
  hold("columns", found, logits, EXACT);
}

void gates() {
  const u32 rows = 2, width = 70;
  auto both = floats(rows * 2 * width), bias = floats(2 * width);
  std::vector<double> expected;
  for (u32 row = 0; row < rows; row++)
    for (u32 i = 0; i < width; i++) {
      const double gate = (double)both[row * 2 * width + i] + bias[i], up = (double)both[(row * 2 + 1) * width + i] + bias[width + i];
      expected.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  auto out = unwritten(rows * width);
  emulated::launch({2, rows, 1}, {64, 1, 1}, [&] { silu_mul(out.data(), both.data(), bias.data(), width); });
  hold("silu_mul", out, expected, HALF);
}

// Heads are placed, and attend, over pages that lie anywhere: a text that is longer than one part, and another one
// that sees itself alone.
template <int DIM, int GROUP>
void attention(const char *name, void (*attend)(float *, Sum *, const bf16 *, const bf16 *, const bf16 *, const u32 *,
                                                const u32 *, const Seen *, float, u32, u32, Heads), u32 window) {
  const u32 kv_heads = 2, heads = kv_heads * GROUP, page_tokens = 16, long_text = 16 * 34 + 5, short_text = 3;
  const u32 rows = long_text + short_text, all = heads + 2 * kv_heads, pages = 40, parts = 2;
  const Heads of = {heads, kv_heads, DIM, page_tokens};
  const float epsilon = 1e-6f, turn_scale = 1.1f, scale = 1.0f / std::sqrt((float)DIM);
  auto qkv = floats((size_t)rows * all * DIM), bias = floats(all * DIM), query_scale = floats(DIM), key_scale = floats(DIM);
  std::vector<float> frequencies;
  for (int i = 0; i < DIM / 2; i++) frequencies.push_back(std::pow(10000.0f, -2.0f * (float)i / DIM));
  std::vector<u32> order(pages), positions, slots, ranges;
  for (u32 page = 0; page < pages; page++) order[page] = page;
  std::shuffle(order.begin(), order.end(), chance);
  std::vector<Seen> seen;
  for (u32 text = 0, first_page = 0; text < 2; text++) {
    const u32 length = text == 0 ? long_text : short_text, begin = (u32)seen.size();
    for (u32 at = 0; at < length; at += page_tokens) seen.push_back({order[first_page + at / page_tokens], at, std::min(page_tokens, length - at)});
    for (u32 at = 0; at < length; at++) {
      positions.push_back(at);
      slots.insert(slots.end(), {order[first_page + at / page_tokens], at % page_tokens});
      ranges.insert(ranges.end(), {begin, (u32)seen.size()});
    }
    first_page += (length + page_tokens - 1) / page_tokens;
  }
  auto queries = unwritten((size_t)rows * heads * DIM);
  auto keys = unwritten((size_t)pages * kv_heads * page_tokens * DIM), values = keys;
  emulated::launch({rows, all, 1}, {32, 1, 1}, [&] {
    place_heads(queries.data(), keys.data(), values.data(), qkv.data(), bias.data(), query_scale.data(), key_scale.data(),
                frequencies.data(), turn_scale, epsilon, positions.data(), slots.data(), of);
  });
  // What each head should be, as it is kept.
  std::vector<double> placed((size_t)rows * all * DIM), of_queries;
  for (u32 row = 0; row < rows; row++)
    for (u32 head = 0; head < all; head++) {
      std::vector<double> head_of(DIM);
      double *to = &placed[((size_t)row * all + head) * DIM];
      for (int i = 0; i < DIM; i++) head_of[i] = (double)qkv[((size_t)row * all + head) * DIM + i] + bias[head * DIM + i];
      const bool is_value = head >= heads + kv_heads;
      if (!is_value) {
        const double factor = rms(head_of, epsilon);
        for (int i = 0; i < DIM; i++) head_of[i] *= factor * (head < heads ? query_scale : key_scale)[i];
        for (int i = 0; i < DIM / 2; i++) {
          const double angle = (double)positions[row] * frequencies[i], a = head_of[i], b = head_of[i + DIM / 2];
          head_of[i] = (a * std::cos(angle) - b * std::sin(angle)) * turn_scale;
          head_of[i + DIM / 2] = (b * std::cos(angle) + a * std::sin(angle)) * turn_scale;
        }
      }
      std::copy(head_of.begin(), head_of.end(), to);
      if (head < heads) of_queries.insert(of_queries.end(), head_of.begin(), head_of.end());
    }
  hold((std::string(name) + ", queries").c_str(), queries, of_queries, HALF);

  // Attention of the last rows of the long text, as they are kept, and of the short one.
  const u32 first = long_text - 2, last = rows - first;
  std::vector<float> out((size_t)last * heads * parts * DIM, NOTHING);
  std::vector<Sum> sums((size_t)last * heads * parts, Sum{NOTHING, NOTHING});
  auto attended = unwritten((size_t)last * heads * DIM);
  // A block for each part of the long text, and one for all of them.
  for (u32 blocks : {parts, 1u}) {
    std::fill(out.begin(), out.end(), NOTHING);
    std::fill(sums.begin(), sums.end(), Sum{NOTHING, NOTHING});
    auto before = attended;
    emulated::launch({last, kv_heads, blocks}, {BLOCK, 1, 1}, [&] {
      attend(out.data(), sums.data(), queries.data() + (size_t)first * heads * DIM, keys.data(), values.data(),
             positions.data() + first, ranges.data() + 2 * first, seen.data(), scale, window, parts, of);
    });
    emulated::launch({last, heads, 1}, {64, 1, 1}, [&] {
      attend_merge(attended.data(), out.data(), sums.data(), ranges.data() + 2 * first, parts, of);
    });
    if (blocks == 1 && memcmp(attended.data(), before.data(), attended.size() * sizeof(bf16))) {
      printf("%s: the number of blocks changes what comes of it  FAILED\n", name);
      failed = true;
    }
  }
  std::vector<double> expected((size_t)last * heads * DIM);
  for (u32 row = first; row < rows; row++)
    for (u32 head = 0; head < heads; head++) {
      const u32 kv_head = head / GROUP;
      std::vector<double> weights;
      double total = 0;
      double *to = &expected[((size_t)(row - first) * heads + head) * DIM];
      for (u32 s = ranges[2 * row]; s < ranges[2 * row + 1]; s++)
        for (u32 token = 0; token < seen[s].tokens; token++) {
          const u32 at = seen[s].first + token;
          if (at > positions[row] || (window && at + window <= positions[row])) continue;
          const size_t place = (((size_t)seen[s].page * kv_heads + kv_head) * page_tokens + token) * DIM;
          double score = 0;
          for (int i = 0; i < DIM; i++) score += number(queries[((size_t)row * heads + head) * DIM + i]) * number(keys[place + i]);
          const double weight = std::exp(score * scale);
          total += weight;
          for (int i = 0; i < DIM; i++) to[i] += weight * number(values[place + i]);
        }
      for (int i = 0; i < DIM; i++) to[i] /= total;
    }
  hold(name, attended, expected, HALF);
}

// Numbers of a table in their order, for the sums in double precision.
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

// Slates of a scorer: one with the longest history, one without any and without a pattern, and one with one event.
void slates(const char *name, const Sizes &of) {
  const u32 d = of.width, head_width = d / of.heads, item_row = d + of.columns + of.head_first + of.meeting;
  const u32 items = 7, cards = 5, patterns = 2, known = 3, inner = 3 * d + of.features;
  const std::vector<Slate> slates = {{0, of.history, 1}, {of.history, 0, NO_PATTERN}, {of.history, 1, 0}};
  const std::vector<Tile> tiles = {{2, 0, 1}, {0, 1, TILE}, {0, 1 + TILE, 3}, {1, 4 + TILE, 2}};
  const u32 candidates = 6 + TILE;
  const size_t of_layer = 4 * d + 3 * d * (d + 1) + d * (d + 1) + of.ffn * (d + 1) + d * (of.ffn + 1);
  auto history_weights = floats((of.ages + of.kinds) * d + of.layers * of_layer + (of.layers ? 2 * d : 0) + d * of.columns +
                                of.text * d + 2 * d + d * d + d + d * of.head_first + of.head_first, 0.3f);
  auto weights = floats(of.columns * d + of.columns * SECOND + 2 * SECOND + 1 + of.heads + 2 * of.head_first +
                        inner * of.head_first + of.head_first * of.head_second + 2 * of.head_second + 1, 0.3f);
  auto rows = floats(items * item_row), keys = floats(cards * of.reasons * 2 * d), texts = floats(patterns * of.text);
  auto features = floats(candidates * of.features), overlaps = floats(candidates * of.reasons), shoppers = floats(known * of.meeting);
  std::vector<Event> events;
  for (u32 e = 0; e <= of.history; e++) events.push_back({below(items), below(of.ages), below(of.kinds)});
  std::vector<Candidate> asked;
  for (u32 c = 0; c < candidates; c++) asked.push_back({below(items), below(cards), c % (of.reasons + 1)});
  // Of two reasons, the first is left out.
  overlaps[2 * of.reasons] = -INFINITE;

  // Rows come from where they were uploaded.
  std::vector<float> table(items * item_row, NOTHING), reversed;
  std::vector<u32> places;
  for (u32 item = items; item-- > 0;) {
    places.push_back(item);
    reversed.insert(reversed.end(), rows.begin() + item * item_row, rows.begin() + (item + 1) * item_row);
  }
  emulated::launch({items, 1, 1}, {64, 1, 1}, [&] { place_rows(table.data(), reversed.data(), places.data(), item_row); });
  hold((std::string(name) + ", place_rows").c_str(), table, Row(rows.begin(), rows.end()), 0);

  const size_t stride = in_whole(d), across = of.history * std::max<size_t>(3 * d | 1, in_whole(of.ffn));
  const size_t history_room = 2 * of.history * stride + std::max(of.history * stride, in_whole(of.text)) + in_whole(across) +
                              HISTORY_THREADS / WARP * of.history;
  const size_t lines = (size_t)(of.history | 1) * (d + of.columns), of_tile = in_whole(inner) + in_whole(of.head_first) + d + of.columns + of.history + of.heads * of.reasons + of.head_second;
  const size_t tile_room = of.columns * d + of.columns * SECOND + 2 * SECOND + TILE * of_tile + lines;
  std::vector<float> encoded(known * of.history * d, NOTHING), terms(known * of.history * of.columns, NOTHING), shares(known * (d + of.head_first), NOTHING);
  std::vector<float> logits(candidates, NOTHING), met = logits, attention(candidates * of.reasons, NOTHING);
  emulated::launch({known, 1, 1}, {HISTORY_THREADS, 1, 1}, [&] {
    encode_histories(encoded.data(), terms.data(), shares.data(), history_weights.data(), table.data(), slates.data(), events.data(), texts.data(), of);
  }, history_room * sizeof(float));
  emulated::launch({(u32)tiles.size(), 1, 1}, {TILE_THREADS, 1, 1}, [&] {
    score_candidates(logits.data(), met.data(), attention.data(), weights.data(), table.data(), keys.data(), encoded.data(), terms.data(), shares.data(),
                     shoppers.data(), slates.data(), tiles.data(), asked.data(), features.data(), overlaps.data(), of);
  }, tile_room * sizeof(float));

  // The same slate by slate, and candidate by candidate.
  Row right_logits(candidates), right_met(candidates), right_attention(candidates * of.reasons), right_shares, right_encoded, right_terms;
  std::vector<float> found_encoded, found_terms;
  for (u32 s = 0; s < known; s++) {
    Reader read = {history_weights.data()};
    const float *ages = read.next(of.ages * d), *kinds = read.next(of.kinds * d);
    std::vector<Row> history;
    for (u32 e = 0; e < slates[s].events; e++) {
      const Event &event = events[slates[s].first_event + e];
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

    for (const Tile &tile : tiles) {
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
        for (u32 i = 0; i < of.meeting; i++) right_met[c] += (double)shoppers[s * of.meeting + i] * item[d + of.columns + of.head_first + i];
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

}  // namespace

int main() {
  norms();
  tables();
  gates();
  attention<16, 1>("attend_16_1", attend_16_1, 0);
  attention<32, 5>("attend_32_5, window of 40", attend_32_5, 40);
  attention<64, 2>("attend_64_2", attend_64_2, 0);
  attention<128, 4>("attend_128_4", attend_128_4, 0);
  // (width, text, reasons, features, history, ages, kinds, heads, layers, ffn, columns, head_first, head_second, meeting)
  slates("scorer", {64, 64, 10, 30, 50, 24, 5, 4, 2, 128, 32, 128, 32, 64});
  slates("scorer, odd", {21, 130, 3, 5, 9, 4, 3, 3, 1, 13, 64, 11, 7, 9});
  slates("scorer, no Transformer", {24, 10, 2, 3, 13, 4, 3, 1, 0, 8, 32, 40, 3, 1});
  return failed ? 1 : 0;
}
