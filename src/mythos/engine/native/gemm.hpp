// int8 products with AVX-512 VNNI.
//
// y[t][n] = scale[n] * sum over groups g of s[t][g] * sum over k in g of a[t][k] * w[n][k]
// a: activations, int8 with one scale s per row and GROUP input channels; w: int8 weights, a scale per output
// channel. The sum of a group is exact in int32, and groups are added in order by one fused multiply-add each:
// a row has the same bits whatever other rows, tiles or threads there are.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

#include "functions.hpp"
#include "memory.hpp"

constexpr int GROUP = 64;  // input channels with one activation scale
constexpr int PART = 16;   // of which so many go between two looks ahead; divides every K
constexpr int PANEL = 32;  // output channels computed together: two vectors of 16
constexpr int TILE = 6;    // rows computed together

inline int groups_of(int K) { return (K + GROUP - 1) / GROUP; }

// Weights as [panel][K/4][PANEL][4] bytes of w + 128, because the instruction multiplies unsigned by signed
// bytes; what that adds, 128 * sum(a), is taken off where a group's sum begins.
struct Matrix {
  int N = 0, K = 0, panels = 0;
  uint8_t* w = nullptr;
  Buffer<float> scale, bias;  // padded to whole panels; bias is empty when there is none

  const uint8_t* panel(int p) const { return w + (size_t)p * PANEL * K; }

  void allocate(int outputs, int inputs, Arena& arena) {
    N = outputs, K = inputs, panels = (N + PANEL - 1) / PANEL;
    const size_t bytes = (size_t)panels * PANEL * K;
    w = static_cast<uint8_t*>(arena.take(bytes));
    std::memset(w, 128, bytes);
    scale.resize(panels * PANEL);
    std::fill(scale.data(), scale.data() + scale.size(), 0.f);
  }

  // Row n of q (rows, K) and its scale go to output `first` + n when `every` is 1; else the panels of these rows
  // come every so many panels.
  static int output(int first, int every, int n) { return first + n / PANEL * PANEL * every + n % PANEL; }

  void fill(int first, int every, int rows, const int8_t* q, const float* scales) {
    for (int n = 0; n < rows; n++) {
      const int at = output(first, every, n);
      uint8_t* to = w + (size_t)(at / PANEL) * PANEL * K + (at % PANEL) * 4;
      const int8_t* from = q + (size_t)n * K;
      for (int k = 0; k < K; k += 4, to += PANEL * 4)
        for (int i = 0; i < 4; i++) to[i] = (uint8_t)(from[k + i] + 128);
      scale[at] = scales[n];
    }
  }

  // Row n in float32: the embedding of a token.
  void row(int n, float* out) const {
    const uint8_t* from = w + (size_t)(n / PANEL) * PANEL * K + (n % PANEL) * 4;
    for (int k = 0; k < K; k += 4, from += PANEL * 4)
      for (int i = 0; i < 4; i++) out[k + i] = ((int)from[i] - 128) * scale[n];
  }
};

// Rows of int8 activations with their group scales; how many channels a row has is the matrix's affair.
struct Rows {
  Buffer<int8_t> q;
  Buffer<float> s;
  Buffer<int32_t> start;  // -128 * sum(a) of each group

  void allocate(int rows, int inputs) {
    const size_t groups = (size_t)rows * groups_of(inputs);
    q.resize((size_t)rows * inputs), s.resize(groups), start.resize(groups);
  }

  // Row `to` as row `from` of `other`, K channels.
  void copy(int to, const Rows& other, int from, int K) {
    const size_t groups = groups_of(K);
    std::memcpy(q.data() + (size_t)to * K, other.q.data() + (size_t)from * K, K);
    std::memcpy(s.data() + to * groups, other.s.data() + from * groups, groups * sizeof(float));
    std::memcpy(start.data() + to * groups, other.start.data() + from * groups, groups * sizeof(int32_t));
  }
};

// `count` values, at most GROUP, into group g of row t.
inline void quantise_group(const float* x, int count, int K, Rows& rows, int t, int g) {
  const Span span = to_int8(x, count, rows.q.data() + (size_t)t * K + (size_t)g * GROUP);
  const size_t at = (size_t)t * groups_of(K) + g;
  rows.s[at] = span.scale, rows.start[at] = -128 * span.sum;
}

// One row of x (K) into row t.
inline void quantise(const float* x, int K, Rows& rows, int t) {
  for (int g = 0; g < groups_of(K); g++) quantise_group(x + g * GROUP, std::min(GROUP, K - g * GROUP), K, rows, t, g);
}

enum class Store { set, add };

// What will be read after this panel: so many lines of it are fetched beside each part of a group.
struct Ahead {
  const char* at;
  int lines;
};

// `columns` outputs of panel p for R rows from `first`, to y + r * stride.
template <int R>
inline void tile(const Matrix& m, int p, const Rows& a, int first, Store store, int columns, float* y,
                 size_t stride, Ahead ahead) {
  const int K = m.K, groups = groups_of(K);
  const int8_t* q = a.q.data() + (size_t)first * K;
  const float* s = a.s.data() + (size_t)first * groups;
  const int32_t* start = a.start.data() + (size_t)first * groups;
  const uint8_t* w = m.panel(p);
  __m512 total[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
  for (int g = 0, k0 = 0; k0 < K; g++, k0 += GROUP) {
    __m512i sum[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(start[r * groups + g]);
    const int end = std::min(K, k0 + GROUP);
    for (int part = k0; part < end; part += PART) {
      for (int line = 0; line < ahead.lines; line++, ahead.at += 64) _mm_prefetch(ahead.at, _MM_HINT_T1);
#pragma GCC unroll 4
      for (int k = part; k < part + PART; k += 4, w += PANEL * 4) {
        const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
          int32_t four;
          std::memcpy(&four, q + (size_t)r * K + k, 4);
          const __m512i v = _mm512_set1_epi32(four);
          sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], w0, v);
          sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], w1, v);
        }
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const __m512 scale = _mm512_set1_ps(s[r * groups + g]);
      total[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), scale, total[r][0]);
      total[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), scale, total[r][1]);
    }
  }
  for (int half = 0; half < 2; half++) {
    const int n = p * PANEL + half * 16, left = columns - half * 16;
    if (left <= 0) return;
    const __mmask16 mask = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
    const __m512 scale = _mm512_load_ps(m.scale.data() + n);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      __m512 out = _mm512_mul_ps(total[r][half], scale);
      if (m.bias.size()) out = _mm512_add_ps(out, _mm512_load_ps(m.bias.data() + n));
      float* to = y + r * stride + half * 16;
      if (store == Store::add) out = _mm512_add_ps(out, _mm512_maskz_loadu_ps(mask, to));
      _mm512_mask_storeu_ps(to, mask, out);
    }
  }
}

inline void tile_of(int rows, const Matrix& m, int p, const Rows& a, int first, Store store, int columns,
                    float* y, size_t stride, Ahead ahead) {
  switch (rows) {
    case 1: return tile<1>(m, p, a, first, store, columns, y, stride, ahead);
    case 2: return tile<2>(m, p, a, first, store, columns, y, stride, ahead);
    case 3: return tile<3>(m, p, a, first, store, columns, y, stride, ahead);
    case 4: return tile<4>(m, p, a, first, store, columns, y, stride, ahead);
    case 5: return tile<5>(m, p, a, first, store, columns, y, stride, ahead);
    default: return tile<6>(m, p, a, first, store, columns, y, stride, ahead);
  }
}

// f(first row, rows, what to fetch) for each tile of `count` rows, while the `bytes` at `next` come nearer. Rows of one
// tile read a panel once from end to end, which the processor foresees better than we do.
template <class F>
inline void tiles(int count, const uint8_t* next, size_t bytes, int groups, const F& f) {
  const int steps = (count + TILE - 1) / TILE, most = (count + steps - 1) / steps;  // as even as can be
  const int parts = groups * (GROUP / PART);  // of one tile
  const int lines = steps == 1 ? 0 : (int)(bytes / 64 + steps * parts - 1) / (steps * parts);
  for (int i = 0; i < count; i += most, next += (size_t)64 * lines * parts)
    f(i, std::min(most, count - i), Ahead{(const char*)next, lines});
}

// Panel p of y[i] (+)= a[from + i] w^T for `count` rows; rows of y lie `stride` floats apart. `next` is what will be
// read after it.
inline void product(const Matrix& m, int p, const uint8_t* next, const Rows& a, int from, int count, Store store,
                    float* y, size_t stride) {
  const size_t bytes = (size_t)PANEL * m.K;
  tiles(count, next, bytes, groups_of(m.K), [&](int i, int rows, Ahead ahead) {
    tile_of(rows, m, p, a, from + i, store, m.N - p * PANEL, y + stride * i + p * PANEL, stride, ahead);
  });
}

// Group g of the F columns of silu(gate) * up, whose panels take turns in `m`, as rows [to, to + count) of `out`: who
// has computed a group quantises it, so that only bytes go from one thread to another.
inline void product_silu(const Matrix& m, int g, const uint8_t* next, const Rows& a, int from, int count, int F,
                         Rows& out, int to) {
  constexpr int PAIRS = GROUP / PANEL;
  alignas(64) float gate[TILE][PANEL], up[TILE][PANEL], h[TILE][GROUP];
  const int pairs = std::min(PAIRS, m.panels / 2 - g * PAIRS), groups = groups_of(m.K);
  tiles(count, next, (size_t)2 * pairs * PANEL * m.K, 2 * pairs * groups, [&](int i, int rows, Ahead ahead) {
    for (int pair = 0; pair < pairs; pair++) {
      const int p = 2 * (g * PAIRS + pair);
      const size_t step = (size_t)64 * ahead.lines * groups * (GROUP / PART);
      tile_of(rows, m, p, a, from + i, Store::set, PANEL, gate[0], PANEL, ahead);
      ahead.at += step;
      tile_of(rows, m, p + 1, a, from + i, Store::set, PANEL, up[0], PANEL, ahead);
      ahead.at += step;
      for (int r = 0; r < rows; r++)
        for (int n = 0; n < PANEL; n += 16) {
          const __m512 silu = silu_of(_mm512_load_ps(gate[r] + n));
          _mm512_store_ps(h[r] + pair * PANEL + n, _mm512_mul_ps(silu, _mm512_load_ps(up[r] + n)));
        }
    }
    for (int r = 0; r < rows; r++) quantise_group(h[r], std::min(GROUP, F - g * GROUP), F, out, to + i + r, g);
  });
}
