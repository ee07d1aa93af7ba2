// Backward kernels: each is compared with the slopes of its forward operation, measured in double precision by finite
// differences.
#pragma once

typedef std::vector<double> Numbers;

// The partial derivatives of a function, by central differences.
Numbers slopes(Numbers at, const std::function<double(const Numbers &)> &of) {
  const double STEP = 1e-5;
  Numbers found;
  for (double &number : at) {
    const double here = number;
    number = here + STEP;
    const double above = of(at);
    number = here - STEP;
    found.push_back((above - of(at)) / (2 * STEP));
    number = here;
  }
  return found;
}

template <class T>
Numbers numbers(const std::vector<T> &of) {
  Numbers all;
  for (T value : of) all.push_back(number(value));
  return all;
}

double weighted_sum(const Numbers &weights, const Numbers &values) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); i++) sum += weights[i] * values[i];
  return sum;
}

// Queries, keys and values of projected heads, head by head, in the order of `index_of_head`.
Numbers rotated(const Numbers &qkv, const std::vector<float> &query_scale, const std::vector<float> &key_scale,
               const std::vector<float2> &rope, const std::vector<u32> &positions, double epsilon, const Sequences &of) {
  const u32 all = of.heads + 2 * of.kv_heads, half = of.dim / 2, rows = (u32)positions.size();
  Numbers parts[3] = {Numbers(rows * of.heads * of.dim), Numbers(rows * of.kv_heads * of.dim), Numbers(rows * of.kv_heads * of.dim)};
  for (u32 row = 0; row < rows; row++)
    for (u32 head = 0; head < all; head++) {
      const u32 kind = head < of.heads ? 0 : head < of.heads + of.kv_heads ? 1 : 2;
      const u32 index = kind == 0 ? head : (head - of.heads) % of.kv_heads, heads = kind == 0 ? of.heads : of.kv_heads;
      Numbers x(qkv.begin() + (row * all + head) * of.dim, qkv.begin() + (row * all + head + 1) * of.dim), y = x;
      const double factor = rms(x, epsilon);
      const std::vector<float> &scale = kind == 0 ? query_scale : key_scale;
      if (kind < 2 && !scale.empty())
        for (u32 i = 0; i < of.dim; i++) x[i] *= factor * scale[i];
      y = x;
      if (kind < 2)
        for (u32 i = 0; i < half; i++) {
          const float2 angle = rope[positions[row] * half + i];
          y[i] = x[i] * angle.x - x[half + i] * angle.y;
          y[half + i] = x[half + i] * angle.x + x[i] * angle.y;
        }
      const size_t place = (((size_t)(row / of.length) * heads + index) * of.length + row % of.length) * of.dim;
      std::copy(y.begin(), y.end(), parts[kind].begin() + place);
    }
  for (int kind = 1; kind < 3; kind++) parts[0].insert(parts[0].end(), parts[kind].begin(), parts[kind].end());
  return parts[0];
}

void rope_gradients(const char *name, bool norms) {
  const Sequences of = {4, 2, 8, 3};
  const u32 rows = 6, all = of.heads + 2 * of.kv_heads;
  const float epsilon = 1e-6f;
  Sums qkv(rows, all * of.dim);
  const auto query_scale = floats(norms ? of.dim : 0), key_scale = floats(norms ? of.dim : 0);
  const std::vector<u32> positions = {0, 1, 2, 4, 1, 3};
  std::vector<float2> rope;
  for (u32 i = 0; i < 5 * of.dim / 2; i++) rope.push_back({cosf(0.3f * i), sinf(0.3f * i)});
  const auto there = [&](const Numbers &qkv) { return rotated(qkv, query_scale, key_scale, rope, positions, epsilon, of); };
  const size_t queries = rows * of.heads * of.dim, keys = rows * of.kv_heads * of.dim;
  auto found = unwritten(queries + 2 * keys);
  const float *scales[2] = {norms ? query_scale.data() : nullptr, norms ? key_scale.data() : nullptr};
  emulated::launch({rows, 4, 1}, {64, 1, 1}, [&] {
    norm_and_rope(found.data(), found.data() + queries, found.data() + queries + keys, qkv.product(), scales[0], scales[1],
               rope.data(), epsilon, positions.data(), of);
  });
  hold(("norm_and_rope" + std::string(name)).c_str(), found, there(qkv.values), HALF);
  const auto back = floats(found.size());
  const Numbers weights = numbers(back);
  const Numbers right = slopes(qkv.values, [&](const Numbers &qkv) { return weighted_sum(weights, there(qkv)); });
  auto gradient = unwritten(rows * all * of.dim);
  emulated::launch({rows, 4, 1}, {64, 1, 1}, [&] {
    norm_and_rope_back(gradient.data(), back.data(), back.data() + queries, back.data() + queries + keys, qkv.product(), scales[0],
                    scales[1], rope.data(), epsilon, positions.data(), of);
  });
  hold(("norm_and_rope_back" + std::string(name)).c_str(), gradient, right, HALF);
}

// The second of two sequences has branches and padding. Only its last KV heads are checked.
void softmax_back(u32 window) {
  const Sequences of = {4, 2, 8, 37};
  const u32 length = of.length, group = 2, first = 2, count = 2, rows = count * group * length;
  std::vector<u32> positions, segments;
  for (u32 i = 0; i < 2 * length; i++) {
    const u32 at = i % length;
    const bool branches = i >= length && at >= 20;
    segments.push_back(!branches ? TRUNK : at < 26 ? 1 : at < 33 ? 2 : PADDING);
    positions.push_back(!branches ? at : at < 26 ? at : at < 33 ? at - 6 : at - 33);
  }
  const auto sees = [&](u32 row, u32 key) {
    const u32 a = length + row, b = length + key;
    if (row == key) return true;
    if (key > row || segments[a] == PADDING || (segments[b] != TRUNK && segments[b] != segments[a])) return false;
    return window == 0 || std::abs((int)positions[a] - (int)positions[b]) < (int)window;
  };
  const auto logits = floats(rows * length);
  const auto there = [&](const Numbers &logits) {
    Numbers shares(rows * length);
    for (u32 row = 0; row < rows; row++) {
      double sum = 0;
      for (u32 key = 0; key < length; key++)
        if (sees(row % length, key)) sum += shares[row * length + key] = std::exp(logits[row * length + key]);
      for (u32 key = 0; key < length; key++) shares[row * length + key] /= sum;
    }
    return shares;
  };
  auto shares = unwritten(rows * length);
  const unsigned blocks = (rows + 7) / 8;
  emulated::launch({blocks, 1, 1}, {256, 1, 1}, [&] {
    attention_softmax(shares.data(), logits.data(), positions.data(), segments.data(), first, count, window, of);
  });
  const std::string name = window ? ", window of " + std::to_string(window) : "";
  hold(("attention_softmax" + name).c_str(), shares, there(numbers(logits)), HALF);
  // Gradients with a large common part, which must cancel.
  auto back = floats(rows * length);
  for (float &value : back) value += 20.0f;
  const Numbers weights = numbers(back), all = numbers(logits);
  Numbers right(rows * length);
  const double STEP = 1e-5;
  for (u32 row = 0; row < rows; row++)
    for (u32 key = 0; key < length; key++) {
      Numbers at(all.begin() + row * length, all.begin() + (row + 1) * length);
      const auto of_row = [&](double more) {
        double sum = 0, value = 0;
        for (u32 k = 0; k < length; k++)
          if (sees(row % length, k)) {
            const double share = std::exp(at[k] + (k == key ? more : 0));
            sum += share;
            value += share * weights[row * length + k];
          }
        return value / sum;
      };
      right[row * length + key] = (of_row(STEP) - of_row(-STEP)) / (2 * STEP);
    }
  emulated::launch({blocks, 1, 1}, {256, 1, 1}, [&] { attention_softmax_back(shares.data(), back.data(), rows, length); });
  hold(("attention_softmax_back" + name).c_str(), shares, right, 3 * HALF);
}

void heads_back() {
  const Sequences of = {3, 1, 8, 5};
  const u32 rows = 10, width = of.heads * of.dim;
  const auto heads = halves(rows * width);
  Numbers right(rows * width);
  for (u32 row = 0; row < rows; row++)
    for (u32 i = 0; i < width; i++)
      right[row * width + i] = number(heads[((row / of.length * of.heads + i / of.dim) * of.length + row % of.length) * of.dim + i % of.dim]);
  auto joined = unwritten(rows * width), split = unwritten(rows * width);
  emulated::launch({rows, 1, 1}, {32, 1, 1}, [&] { join_heads(joined.data(), heads.data(), of); });
  hold("join_heads", joined, right, 0.0);
  std::vector<float> long_rows(right.begin(), right.end());
  emulated::launch({rows, 1, 1}, {32, 1, 1}, [&] { split_heads(split.data(), long_rows.data(), of); });
  hold("split_heads", split, numbers(heads), 0.0);
}

void gates_back() {
  const u32 rows = 2, width = 148;
  const Sums gates_ups(rows, 2 * width);
  const auto back = floats(rows * width);
  const Numbers right = slopes(gates_ups.values, [&](const Numbers &values) {
    double sum = 0;
    for (u32 row = 0; row < rows; row++)
      for (u32 i = 0; i < width; i++) {
        const double gate = values[row * 2 * width + i], up = values[row * 2 * width + width + i];
        sum += back[row * width + i] * gate / (1 + std::exp(-gate)) * up;
      }
    return sum;
  });
  auto found = unwritten(rows * 2 * width);
  emulated::launch({rows, 1, 1}, {32, 1, 1}, [&] { silu_mul_back(found.data(), gates_ups.product(), back.data(), width); });
  hold("silu_mul_back", found, right, HALF);
}

void norms_back() {
  const u32 rows = 4, width = 652;
  const float epsilon = 1e-6f;
  const auto stream = floats(rows * width), scale = floats(width), from = floats(rows * width);
  const std::vector<u32> list = {3, 1};
  const auto back = floats(rows * width);
  const auto right = [&](const std::vector<u32> &normed) {
    Numbers all = numbers(stream);
    for (size_t nth = 0; nth < normed.size(); nth++) {
      const u32 row = normed[nth];
      const Numbers more = slopes(Numbers(from.begin() + row * width, from.begin() + (row + 1) * width), [&](const Numbers &x) {
        double sum = 0;
        for (u32 i = 0; i < width; i++) sum += back[nth * width + i] * x[i] * scale[i];
        return sum * rms(x, epsilon);
      });
      for (u32 i = 0; i < width; i++) all[row * width + i] += more[i];
    }
    return all;
  };
  auto found = stream;
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] {
    norm_back(found.data(), back.data(), from.data(), nullptr, scale.data(), epsilon, width);
  });
  hold("norm_back", found, right({0, 1, 2, 3}), EXACT);
  found = stream;
  emulated::launch({2, 1, 1}, {64, 1, 1}, [&] {
    norm_back(found.data(), back.data(), from.data(), list.data(), scale.data(), epsilon, width);
  });
  hold("norm_back, of a list", found, right(list), EXACT);
}

void additions_and_conversions() {
  const u32 rows = 3, width = 100;
  auto stream = floats(rows * width);
  const auto bias = floats(width);
  Numbers right = numbers(stream);
  for (size_t i = 0; i < right.size(); i++) right[i] += bias[i % width];
  emulated::launch({rows, 1, 1}, {32, 1, 1}, [&] { add_bias(stream.data(), bias.data(), width); });
  hold("add_bias", stream, right, EXACT);
  auto shortened = unwritten(rows * width);
  emulated::launch({2, 1, 1}, {32, 1, 1}, [&] { to_bf16(shortened.data(), stream.data(), rows * width / 4); });
  hold("to_bf16", shortened, numbers(stream), HALF);
}

// A dropout leaves out its share of inputs, and the same ones in the backward pass.
void dropouts() {
  const u32 count = 5000;
  const float dropout = 0.3f;
  const std::vector<bf16> ones(count, __float2bfloat16(1.0f));
  auto kept = unwritten(count);
  emulated::launch({3, 1, 1}, {64, 1, 1}, [&] { apply_dropout(kept.data(), ones.data(), count, 7, 9, dropout); });
  const Numbers factors = numbers(kept);
  double sum = 0;
  Numbers either;
  for (double factor : factors) {
    sum += factor / count;
    either.push_back(factor == 0 ? 0 : 1 / (1 - dropout));
  }
  hold("apply_dropout", kept, either, HALF);
  hold("apply_dropout, mean", std::vector<double>{sum}, {1.0}, 0.05);
  auto back = floats(count);
  const auto more = floats(count);
  Numbers right = numbers(back);
  for (u32 i = 0; i < count; i++) right[i] += more[i] * either[i];
  emulated::launch({2, 1, 1}, {64, 1, 1}, [&] { apply_dropout_back(back.data(), more.data(), count, 7, 9, dropout); });
  hold("apply_dropout_back", back, right, EXACT);
}

// Generated tokens within the bounds of the ratio, beyond one, and beyond one from which the gradient pulls back.
void cross_entropies(bool has_old_policy) {
  const u32 rows = 6, vocabulary = 301;
  const auto logits = floats(rows * vocabulary, 3.0f);
  const std::vector<u32> tokens = {300, 0, 17, 5, 5, 9};
  const std::vector<float> weights = {0.5f, 0.25f, 1.5f, has_old_policy ? -1.0f : 1.0f, has_old_policy ? -0.5f : 2.0f, 0.75f};
  const std::vector<double> since = {0.02, 0.5, -0.5, 0.1, -0.6, 0.3};
  const auto entropy_of = [&](const Numbers &logits, u32 row) {
    double sum = 0;
    for (u32 i = 0; i < vocabulary; i++) sum += std::exp(logits[row * vocabulary + i]);
    return std::log(sum) - logits[row * vocabulary + tokens[row]];
  };
  const Numbers all = numbers(logits);
  std::vector<OldPolicy> old_policies;
  for (u32 row = 0; row < rows; row++) old_policies.push_back({(float)(-entropy_of(all, row) - since[row]), 0.8f, 1.28f});
  const auto loss = [&](const Numbers &logits, u32 row) {
    if (!has_old_policy) return weights[row] * entropy_of(logits, row);
    const double ratio = std::exp(-entropy_of(logits, row) - old_policies[row].logprob);
    const double clipped = std::min(std::max(ratio, (double)old_policies[row].low), (double)old_policies[row].high);
    return -std::min(ratio * weights[row], clipped * weights[row]);
  };
  const auto losses_of = [&](const Numbers &logits) {
    Numbers losses;
    for (u32 row = 0; row < rows; row++) losses.push_back(loss(logits, row));
    return losses;
  };
  const Numbers ones(rows, 1.0);
  const Numbers right = slopes(all, [&](const Numbers &at) { return weighted_sum(ones, losses_of(at)); });
  auto found = unwritten(rows * vocabulary);
  std::vector<float> losses(rows, UNWRITTEN);
  emulated::launch({rows, 1, 1}, {64, 1, 1}, [&] {
    cross_entropy(found.data(), losses.data(), logits.data(), tokens.data(), weights.data(), has_old_policy ? old_policies.data() : nullptr,
             vocabulary);
  });
  const std::string name = has_old_policy ? "cross_entropy, old policy" : "cross_entropy";
  hold(name.c_str(), losses, losses_of(all), EXACT);
  hold((name + ", gradient").c_str(), found, right, 2 * HALF);
}

void choices() {
  const u32 rows = 5, width = 84;
  const float weight = 0.5f;
  const auto table = halves(9 * width);
  const auto picked = floats(rows * width);
  const std::vector<BranchChoice> of = {{0, 2, 7}, {2, 5, 3}};
  const auto score = [&](const Numbers &picked, u32 row, u32 token) {
    double sum = 0;
    for (u32 i = 0; i < width; i++) sum += picked[row * width + i] * number(table[token * width + i]);
    return sum;
  };
  const auto loss = [&](const Numbers &picked, u32 nth) {
    const u32 begin = of[nth].begin, end = of[nth].end, token = of[nth].token;
    double sum = 0;
    for (u32 row = begin; row < end; row++) sum += std::exp(score(picked, row, token) - score(picked, begin, token));
    return weight * std::log(sum);
  };
  const Numbers all = numbers(picked);
  std::vector<float> scores;
  for (u32 row = 0; row < rows; row++) scores.push_back((float)score(all, row, row < 2 ? 7 : 3));
  const Numbers right = slopes(all, [&](const Numbers &at) { return loss(at, 0) + loss(at, 1); });
  std::vector<float> found(rows * width, UNWRITTEN), losses(2, UNWRITTEN);
  emulated::launch({2, 1, 1}, {32, 1, 1}, [&] {
    choice_cross_entropy(found.data(), losses.data(), scores.data(), table.data(), of.data(), weight, width);
  });
  hold("choice_cross_entropy", losses, {loss(all, 0), loss(all, 1)}, 1e-4);
  hold("choice_cross_entropy, gradient", found, right, 1e-4);
}

void backprop() {
  rope_gradients("", true);
  rope_gradients(", without norms", false);
  softmax_back(0);
  softmax_back(9);
  heads_back();
  gates_back();
  norms_back();
  additions_and_conversions();
  dropouts();
  cross_entropies(false);
  cross_entropies(true);
  choices();
}
