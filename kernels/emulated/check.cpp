// Each kernel, emulated, against the same sum in double precision. What kernels write to is filled with not-a-number
// before, so what they forget shows as well.
#define EMULATED
#include "../decoder.cu"

#include <cstdio>
#include <random>

namespace {

std::mt19937 chance(7);
bool failed = false;

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
                                                const u32 *, const Seen *, float, u32, Heads), u32 window) {
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
  emulated::launch({last, kv_heads, parts}, {BLOCK, 1, 1}, [&] {
    attend(out.data(), sums.data(), queries.data() + (size_t)first * heads * DIM, keys.data(), values.data(),
           positions.data() + first, ranges.data() + 2 * first, seen.data(), scale, window, of);
  });
  emulated::launch({last, heads, 1}, {64, 1, 1}, [&] { attend_merge(attended.data(), out.data(), sums.data(), parts, of); });
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

}  // namespace

int main() {
  norms();
  tables();
  gates();
  attention<16, 1>("attend_16_1", attend_16_1, 0);
  attention<32, 5>("attend_32_5, window of 40", attend_32_5, 40);
  attention<64, 2>("attend_64_2", attend_64_2, 0);
  attention<128, 4>("attend_128_4", attend_128_4, 0);
  return failed ? 1 : 0;
}
