// One pass of the served model in one call: int8 products, attention over pages, norms and rotations.
//
// Shape letters: T rows of a pass, D width, H query heads, G kv heads, K head width (K input channels in
// gemm.hpp), F inner width, E experts, A experts per token, V vocabulary, W rows whose logits are wanted.
#include <cstdio>
#include <limits>
#include <memory>
#include <string>

#include "attention.hpp"
#include "gemm.hpp"
#include "pool.hpp"

namespace {

constexpr int TURNS = 2 * GROUP / PANEL;  // panels of gate and up that make one group
constexpr int FEW = 4;  // up to so many rows every thread makes its inputs itself: cheaper than to meet
constexpr int MANY = 64;  // from so many rows for each thread on, weights are worth reading once for each

struct Sizes {  // mirrored field by field in build.py
  int32_t layers, width, heads, kv_heads, head_dim, ffn, vocab, tied, qk_norm, positions, rows, threads;
  int32_t experts, top_k, expert_width, shared_width, sigmoid, renormalise, selection_bias;
  float eps, routed_scale;
};

struct Inputs {  // quantised rows: one set that all threads fill, and one of each thread's own
  Rows shared;
  std::vector<Rows> own;
  void allocate(int rows, int inputs, int threads) {
    shared.allocate(rows, inputs);
    own.resize(threads);
    for (auto& each : own) each.allocate(FEW, inputs);
  }
};

// What a thread computes of the products of a pass: a share of the panels for all rows, or, where there are many
// rows, all panels for rows of its own, which nobody else touches and so nobody waits for.
struct Lot {
  bool own;
  int first, last;
};

struct Layer {
  Buffer<float> input_norm, post_norm, q_norm, k_norm;
  Matrix qkv, o, gate_up, down;  // gate_up and down: the MLP, or the shared experts
  bool routed = false;
  Buffer<float> router, selection;  // (E, D), (E)
  std::vector<Matrix> expert_gate_up, expert_down;
  uint8_t *keys = nullptr, *values = nullptr;  // (G, blocks) pages each; the caller's memory
};

// sum of squares in a fixed order, then x / rms * weight
void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  __m512 sum = _mm512_setzero_ps();
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  float total = _mm512_reduce_add_ps(sum);
  for (; i < n; i++) total += x[i] * x[i];
  const float scale = 1.f / std::sqrt(total / n + eps);
  for (i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

struct Pass {
  int T, W;
  const int32_t *tokens, *positions, *segments, *offsets, *tables, *wanted;
  float* logits;
  int state_count;
  const int32_t* state_layers;
  float* states;
};

class Model {
 public:
  explicit Model(const Sizes& sizes) : s(sizes), pool_(sizes.threads), layers(sizes.layers) {
    const int attention = s.heads * s.head_dim, T = s.rows, slots = T * std::max(1, s.top_k);
    x_.resize((size_t)T * s.width);
    const int inner = std::max(s.ffn, s.shared_width);
    qkv_width_ = (s.heads + 2 * s.kv_heads) * s.head_dim;
    y_.resize((size_t)T * qkv_width_);
    mixed_.resize((size_t)T * attention);
    queries_.resize((size_t)T * s.heads * query_bytes(s.head_dim));
    by_width_.allocate(T, s.width, s.threads);
    by_attention_.allocate(T, attention, s.threads);
    if (inner) by_inner_.allocate(T, inner);
    const int most = std::max(s.width, attention);
    if (s.experts) {
      by_expert_.allocate(slots, s.expert_width);
      by_slot_.allocate(slots, s.width);
      slot_out_.resize((size_t)slots * s.width);
      normed_.resize((size_t)T * s.width);
      chosen_.resize(slots), order_.resize(slots), weights_.resize(slots), bounds_.resize(s.experts + 1);
    }
    scratch_.resize(s.threads);
    for (auto& each : scratch_) each.resize(most + s.experts * 2 + 64);
    counters_ = std::make_unique<std::atomic<int>[]>(pool_.count() * phases_);
    cos_.resize((size_t)s.positions * s.head_dim / 2), sin_.resize(cos_.size());
  }

  Sizes s;
  Pool pool_;
  std::vector<Layer> layers;
  Arena weights;
  Matrix embed, head;
  Buffer<float> norm, cos_, sin_;
  int blocks = 0;

  void run(const Pass& p) {
    for (int i = 0; i < pool_.count() * phases_; i++) counters_[i].store(0, std::memory_order_relaxed);
    pool_.run([&](int t) { thread(p, t); });
  }

 private:
  // f(item, whether it is the last of a share) for items [0, count). A thread goes through a share of its own, one
  // behind the other as they lie in memory, and then helps the others. A counter is used for one phase only.
  template <class F>
  void each(int t, int counter, int count, const F& f) {
    for (int k = 0; k < pool_.count(); k++) {
      const int owner = (t + k) % pool_.count();
      const Share share(count, owner, pool_.count());
      for (;;) {
        const int at = share.first + counters_[owner * phases_ + counter].fetch_add(1, std::memory_order_relaxed);
        if (at >= share.last) break;
        f(at, at + 1 == share.last);
      }
    }
  }

  // f(piece, whether it is the last of a share) for what a thread computes of `count` pieces of a product.
  template <class F>
  void pieces(const Lot& lot, int t, int counter, int count, const F& f) {
    if (!lot.own) return each(t, counter, count, f);
    for (int at = 0; at < count; at++) f(at, at + 1 == count);
  }

  // What one thread has written of its rows is for others to read from here on.
  void meet(const Lot& lot) {
    if (!lot.own) pool_.barrier();
  }

  // Where thread t begins to read a matrix whose panels are given out `step` at a time.
  const uint8_t* begin(const Lot& lot, const Matrix& m, int t, int step = 1) const {
    return m.panel(lot.own ? 0 : Share((m.panels + step - 1) / step, t, pool_.count()).first * step);
  }

  // Quantised inputs of a product: row i is the K values that `make(i, scratch)` points at.
  template <class F>
  const Rows& inputs(const Lot& lot, Inputs& in, int count, int K, int t, const F& make) {
    const bool few = count <= FEW;
    Rows& rows = few ? in.own[t] : in.shared;
    const Share share(count, few ? 0 : t, few ? 1 : pool_.count());
    for (int i = share.first; i < share.last; i++) quantise(make(i, scratch_[t].data()), K, rows, i);
    if (!few) meet(lot);
    return rows;
  }

  void multiply(const Lot& lot, int t, int counter, const Matrix& m, const uint8_t* after, const Rows& a, Store store,
                float* y, size_t stride) {
    pieces(lot, t, counter, m.panels, [&](int p, bool last) {
      const uint8_t* next = last ? after : m.panel(p + 1);
      product(m, p, next, a, lot.first, lot.last - lot.first, store, y + lot.first * stride, stride);
    });
  }

  void thread(const Pass& p, int t) {
    const int T = p.T, D = s.width, K = s.head_dim, H = s.heads;
    const Share mine(T, t, pool_.count());
    const bool own = T >= MANY * pool_.count();
    const Lot lot{own, own ? mine.first : 0, own ? mine.last : T};
    for (int i = mine.first; i < mine.last; i++) embed.row(p.tokens[i], x_.data() + (size_t)i * D);
    meet(lot);
    const Matrix& to_vocabulary = s.tied ? embed : head;
    int state = 0;
    for (int l = 0; l < s.layers; l++) {
      Layer& layer = layers[l];
      const int counter = 8 * l;
      const auto normed = [&](const Buffer<float>& weight) {
        return [&](int i, float* scratch) {
          rms_norm(x_.data() + (size_t)i * D, weight.data(), D, s.eps, scratch);
          return scratch;
        };
      };
      {
        const Rows& a = inputs(lot, by_width_, T, D, t, normed(layer.input_norm));
        multiply(lot, t, counter, layer.qkv, begin(lot, layer.o, t), a, Store::set, y_.data(), qkv_width_);
      }
      meet(lot);
      for (int i = mine.first; i < mine.last; i++) place(p, layer, i, scratch_[t].data());
      pool_.barrier();
      attention(p, layer, t, counter + 1);
      pool_.barrier();
      {
        const auto mixed = [&](int i, float*) { return mixed_.data() + (size_t)i * H * K; };
        const Rows& a = inputs(lot, by_attention_, T, H * K, t, mixed);
        multiply(lot, t, counter + 2, layer.o, begin(lot, layer.gate_up, t, TURNS), a, Store::add, x_.data(), D);
      }
      meet(lot);
      const Rows& a = inputs(lot, by_width_, T, D, t, normed(layer.post_norm));
      if (layer.routed) experts(layer, a, T, t, counter + 3);
      if (layer.gate_up.N) {
        const int F = layer.down.K;
        pieces(lot, t, counter + 6, groups_of(F), [&](int g, bool last) {
          const uint8_t* next = last ? begin(lot, layer.down, t) : layer.gate_up.panel(TURNS * (g + 1));
          product_silu(layer.gate_up, g, next, a, lot.first, lot.last - lot.first, F, by_inner_, lot.first);
        });
        meet(lot);
        const uint8_t* after = begin(lot, l + 1 < s.layers ? layers[l + 1].qkv : to_vocabulary, t);
        multiply(lot, t, counter + 7, layer.down, after, by_inner_, Store::add, x_.data(), D);
      }
      meet(lot);
      if (state < p.state_count && p.state_layers[state] == l) {  // ascending, no layer twice
        float* to = p.states + (size_t)state++ * T * D;
        for (int i = mine.first; i < mine.last; i++)
          std::memcpy(to + (size_t)i * D, x_.data() + (size_t)i * D, D * sizeof(float));
        meet(lot);
      }
    }
    pool_.barrier();
    if (p.W == 0) return;
    for (int first = 0; first < p.W; first += HEAD_ROWS) {
      const int rows = std::min(HEAD_ROWS, p.W - first);
      const Rows& a = inputs(Lot{false, 0, rows}, by_width_, rows, D, t, [&](int i, float* scratch) {
        rms_norm(x_.data() + (size_t)p.wanted[first + i] * D, norm.data(), D, s.eps, scratch);
        return scratch;
      });
      const Share panels(to_vocabulary.panels, t, pool_.count());
      float* to = p.logits + (size_t)first * s.vocab;
      for (int n = panels.first; n < panels.last; n++)
        product(to_vocabulary, n, to_vocabulary.panel(n + 1), a, 0, rows, Store::set, to, s.vocab);
      pool_.barrier();
    }
  }

  // Norms and turns the heads of row i; queries to int8, key and value into the sequence's page.
  void place(const Pass& p, Layer& layer, int i, float* scratch) {
    const int K = s.head_dim, R = K / 2, position = p.positions[i];
    const int32_t* table = p.tables + p.offsets[p.segments[i]];
    const size_t bytes = position_bytes(K) * BLOCK, page = table[position / BLOCK] * bytes, head = blocks * bytes;
    const float *cos = cos_.data() + (size_t)position * R, *sin = sin_.data() + (size_t)position * R;
    float* row = y_.data() + (size_t)i * qkv_width_;
    for (int h = 0; h < s.heads + s.kv_heads; h++) {
      const bool query = h < s.heads;
      float* from = row + h * K;
      if (s.qk_norm) rms_norm(from, (query ? layer.q_norm : layer.k_norm).data(), K, s.eps, from);
      for (int r = 0; r < R; r += 8) {
        const __m256 a = _mm256_loadu_ps(from + r), b = _mm256_loadu_ps(from + r + R);
        const __m256 c = _mm256_loadu_ps(cos + r), d = _mm256_loadu_ps(sin + r);
        _mm256_storeu_ps(scratch + r, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, d)));
        _mm256_storeu_ps(scratch + r + R, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, d)));
      }
      if (query) {
        write_query(queries_.data() + ((size_t)i * s.heads + h) * query_bytes(K), K, scratch);
      } else {
        write_key(layer.keys + (h - s.heads) * head + page, K, position % BLOCK, scratch);
      }
    }
    for (int g = 0; g < s.kv_heads; g++) {
      const float* value = row + (s.heads + s.kv_heads + g) * K;
      write_value(layer.values + g * head + page, K, position % BLOCK, value, (int8_t*)scratch);
    }
  }

  void attention(const Pass& p, const Layer& layer, int t, int counter) {
    const int K = s.head_dim, H = s.heads, G = s.kv_heads, Q = H / G, T = p.T;
    const size_t head = position_bytes(K) * BLOCK * blocks;
    const int tokens = std::max(1, HEADS / Q), parts = (Q + HEADS - 1) / HEADS;  // of one tile; tiles of a group
    // Runs of rows of one sequence, at most `tokens` long; the last ones, which see most, are given out first.
    std::vector<int> runs;
    for (int i = 0; i < T;) {
      int n = 1;
      while (n < tokens && i + n < T && p.segments[i + n] == p.segments[i]) n++;
      runs.push_back(i), i += n;
    }
    runs.push_back(T);
    const int tiles = ((int)runs.size() - 1) * G * parts;
    each(t, counter, tiles, [&](int at, bool) {
      at = tiles - 1 - at;
      const int part = at % parts, g = at / parts % G, run = at / parts / G;
      const uint8_t* q[HEADS];
      float* out[HEADS];
      int last[HEADS], count = 0;
      const int first = part * HEADS, end = std::min(Q, first + HEADS);
      for (int i = runs[run]; i < runs[run + 1]; i++)
        for (int h = first; h < end; h++, count++) {
          const size_t row = (size_t)i * H + g * Q + h;
          q[count] = queries_.data() + row * query_bytes(K);
          out[count] = mixed_.data() + row * K, last[count] = p.positions[i];
        }
      const int32_t* table = p.tables + p.offsets[p.segments[runs[run]]];
      (K % 64 ? attend<1> : attend<4>)(count, q, last, table, layer.keys + g * head, layer.values + g * head, K, out);
    });
  }

  // x += the weighted sum of each row's chosen experts; `a` are the quantised normed rows.
  void experts(const Layer& layer, const Rows& a, int T, int t, int counter) {
    const int D = s.width, E = s.experts, A = s.top_k, F = s.expert_width, N = T * A;
    const Share mine(T, t, pool_.count());
    for (int i = mine.first; i < mine.last; i++) choose(layer, i, scratch_[t].data());
    pool_.barrier();
    if (t == 0) {  // slots sorted by expert, in their own order within one
      std::fill(bounds_.data(), bounds_.data() + E + 1, 0);
      for (int n = 0; n < N; n++) bounds_[chosen_[n] + 1]++;
      for (int e = 0; e < E; e++) bounds_[e + 1] += bounds_[e];
      std::vector<int> next(bounds_.data(), bounds_.data() + E);
      for (int n = 0; n < N; n++) order_[next[chosen_[n]]++] = n;
    }
    pool_.barrier();
    for (int n = t; n < N; n += pool_.count()) by_slot_.copy(n, a, order_[n] / A, D), where_[order_[n]] = n;
    pool_.barrier();
    // Work of all experts, in pieces of a group or a panel.
    const auto every = [&](int phase, int pieces, const auto& work) {
      each(t, phase, E * pieces, [&](int at, bool) {
        const int e = at / pieces, from = bounds_[e], count = bounds_[e + 1] - from;
        if (count) work(e, from, count, at % pieces);
      });
    };
    const auto &ups = layer.expert_gate_up, &downs = layer.expert_down;
    every(counter, groups_of(F), [&](int e, int from, int count, int g) {
      product_silu(ups[e], g, ups[e].panel(TURNS * (g + 1)), by_slot_, from, count, F, by_expert_, from);
    });
    pool_.barrier();
    every(counter + 1, downs[0].panels, [&](int e, int from, int count, int p) {
      const Matrix& m = downs[e];
      product(m, p, m.panel(p + 1), by_expert_, from, count, Store::set, slot_out_.data() + (size_t)from * D, D);
    });
    pool_.barrier();
    for (int i = mine.first; i < mine.last; i++)
      for (int d = 0; d < D; d++) {
        float sum = 0;
        for (int slot = 0; slot < A; slot++)
          sum += weights_[i * A + slot] * slot_out_[(size_t)where_[i * A + slot] * D + d];
        x_[(size_t)i * D + d] += sum;
      }
    pool_.barrier();
  }

  // Experts and weights of row i: scores in float32 over the normed row, the best A by score and selection bias,
  // the lower number on a tie.
  void choose(const Layer& layer, int i, float* scratch) {
    const int D = s.width, E = s.experts, A = s.top_k;
    float *row = normed_.data() + (size_t)i * D, *score = scratch, *key = scratch + E;
    rms_norm(x_.data() + (size_t)i * D, layer.post_norm.data(), D, s.eps, row);
    for (int e = 0; e < E; e++) {
      __m512 sum = _mm512_setzero_ps();
      const float* weight = layer.router.data() + (size_t)e * D;
      for (int d = 0; d < D; d += 16)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(row + d), _mm512_loadu_ps(weight + d), sum);
      score[e] = _mm512_reduce_add_ps(sum);
    }
    if (s.sigmoid) {
      for (int e = 0; e < E; e++) score[e] = 1.f / (1.f + std::exp(-score[e]));
    } else {
      const float top = *std::max_element(score, score + E);
      float sum = 0;
      for (int e = 0; e < E; e++) sum += score[e] = std::exp(score[e] - top);
      for (int e = 0; e < E; e++) score[e] /= sum;
    }
    for (int e = 0; e < E; e++) key[e] = score[e] + (s.selection_bias ? layer.selection[e] : 0.f);
    float total = 0;
    for (int slot = 0; slot < A; slot++) {
      const int best = (int)(std::max_element(key, key + E) - key);
      chosen_[i * A + slot] = best, weights_[i * A + slot] = score[best], total += score[best];
      key[best] = -std::numeric_limits<float>::infinity();
    }
    for (int slot = 0; slot < A; slot++)
      weights_[i * A + slot] *= (s.renormalise ? 1.f / (total + 1e-20f) : 1.f) * s.routed_scale;
  }

  static constexpr int HEAD_ROWS = 64;
  int qkv_width_;
  int phases_ = (8 * s.layers + 8 + 15) / 16 * 16;  // of one thread: its counters share no cache line with another's
  Buffer<float> x_, y_, mixed_, slot_out_, normed_, weights_;
  Buffer<uint8_t> queries_;
  Buffer<int> chosen_, order_, bounds_;
  std::vector<int> where_ = std::vector<int>(std::max(1, s.rows * std::max(1, s.top_k)));
  Inputs by_width_, by_attention_;
  Rows by_inner_, by_expert_, by_slot_;  // the last: what each slot's expert reads, sorted by expert
  std::vector<Buffer<float>> scratch_;
  std::unique_ptr<std::atomic<int>[]> counters_;
};

}  // namespace

// The interface that backend.py speaks. Matrices: `q` (rows, inputs) with `scale` (rows) is a part of a matrix of
// `outputs` rows, which the first part makes; `first` and `every` place it (gemm.hpp). Gate and up projections
// are one matrix whose panels take turns.
extern "C" {

Model* mythos_new(const Sizes* sizes, const float* cos, const float* sin) try {
  auto* model = new Model(*sizes);
  std::memcpy(model->cos_.data(), cos, model->cos_.size() * sizeof(float));
  std::memcpy(model->sin_.data(), sin, model->sin_.size() * sizeof(float));
  return model;
} catch (...) {
  return nullptr;
}

void mythos_free(Model* model) { delete model; }

static Matrix* find(Model* m, const std::string& name, int layer, int expert) {
  if (name == "embed") return &m->embed;
  if (name == "head") return &m->head;
  Layer& l = m->layers[layer];
  if (name == "qkv") return &l.qkv;
  if (name == "o") return &l.o;
  if (name == "gate_up") return &l.gate_up;
  if (name == "down") return &l.down;
  auto& experts = name == "expert_down" ? l.expert_down : l.expert_gate_up;
  if (experts.empty()) experts = std::vector<Matrix>(m->s.experts);
  l.routed = true;
  return &experts[expert];
}

int mythos_matrix(Model* m, const char* name, int layer, int expert, int outputs, int inputs, int first, int every,
                  int rows, const int8_t* q, const float* scale, const float* bias) try {
  Matrix* to = find(m, name, layer, expert);
  if (to->N == 0) to->allocate(outputs, inputs, m->weights);
  to->fill(first, every, rows, q, scale);
  if (bias != nullptr) {
    if (to->bias.size() == 0) {
      to->bias.resize(to->scale.size());
      std::fill(to->bias.data(), to->bias.data() + to->bias.size(), 0.f);
    }
    for (int n = 0; n < rows; n++) to->bias[Matrix::output(first, every, n)] = bias[n];
  }
  return 0;
} catch (...) {
  return 1;
}

int mythos_vector(Model* m, const char* which, int layer, int count, const float* values) try {
  const std::string name = which;
  Layer* l = layer < 0 ? nullptr : &m->layers[layer];
  Buffer<float>* to = name == "norm"         ? &m->norm
                      : name == "input_norm" ? &l->input_norm
                      : name == "post_norm"  ? &l->post_norm
                      : name == "q_norm"     ? &l->q_norm
                      : name == "k_norm"     ? &l->k_norm
                      : name == "router"     ? &l->router
                                             : &l->selection;
  to->resize(count);
  std::memcpy(to->data(), values, count * sizeof(float));
  return 0;
} catch (...) {
  return 1;
}

int mythos_position_bytes(int head_dim) { return (int)position_bytes(head_dim); }

void mythos_cache(Model* m, int layer, int blocks, uint8_t* pages) {
  m->blocks = blocks;
  m->layers[layer].keys = pages;
  m->layers[layer].values = pages + position_bytes(m->s.head_dim) * BLOCK * blocks * m->s.kv_heads;
}

void mythos_run(Model* m, int T, const int32_t* tokens, const int32_t* positions, const int32_t* segments,
                const int32_t* offsets, const int32_t* tables, int W, const int32_t* wanted, float* logits,
                int state_count, const int32_t* state_layers, float* states) {
  m->run(Pass{T, W, tokens, positions, segments, offsets, tables, wanted, logits, state_count, state_layers, states});
}

}  // extern "C"
