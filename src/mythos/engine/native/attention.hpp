// Attention over pages of BLOCK positions, in bf16 with float32 sums.
//
// A page holds, for one kv head, its keys as [K/2][BLOCK][2] and its values as [BLOCK/2][K][2]: what one
// instruction multiplies lies together. A row goes through the pages in order, one after the other (online
// softmax, arXiv 1805.02867), so that its bits depend on its own sequence alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <limits>

#include "functions.hpp"

constexpr int BLOCK = 64;
constexpr int HEADS = 6;  // rows of one tile: query heads of a kv head, of one token or several

// 16 floats as bf16, to nearest, ties to even.
inline __m256i to_bf16(const float* x) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)); }

inline void write_query(uint16_t* to, int K, const float* query) {
  for (int k = 0; k < K; k += 16) _mm256_storeu_si256((__m256i*)(to + k), to_bf16(query + k));
}

inline void write_key(uint16_t* page, int K, int position, const float* key) {
  alignas(32) uint32_t pair[8];
  for (int k = 0; k < K; k += 16) {
    _mm256_store_si256((__m256i*)pair, to_bf16(key + k));
    for (int i = 0; i < 8; i++) std::memcpy(page + ((k / 2 + i) * BLOCK + position) * 2, pair + i, 4);
  }
}

inline void write_value(uint16_t* page, int K, int position, const float* value) {
  const __mmask32 mine = position % 2 ? 0xaaaaaaaa : 0x55555555;  // of each pair, this position's half
  for (int k = 0; k < K; k += 16) {
    const __m512i wide = _mm512_cvtepu16_epi32(to_bf16(value + k));
    const __m512i both = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
    _mm512_mask_storeu_epi16(page + ((position / 2) * K + k) * 2, mine, both);
  }
}

// `count` <= HEADS rows of one sequence and kv head. q: rows of K bf16; last: the position of each row, to which
// it attends; V: vectors of a row taken together, K is a multiple of 16 V; keys, values: the pages of this kv head;
// table: the sequence's pages; out: rows of K floats.
template <int R, int V>
inline void attend_tile(const uint16_t* const* q, const int* last, const int32_t* table, const uint16_t* keys,
                        const uint16_t* values, int K, float* const* out) {
  const float scale = LOG2_E / std::sqrt((float)K);
  float most[R], sum[R];
  alignas(64) uint16_t weight[R][BLOCK];
  int end = 0;
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) {
    most[r] = -std::numeric_limits<float>::infinity(), sum[r] = 0.f, end = std::max(end, last[r] + 1);
    for (int k = 0; k < K; k += 16) _mm512_storeu_ps(out[r] + k, _mm512_setzero_ps());
  }
  for (int start = 0; start < end; start += BLOCK) {
    const size_t page = (size_t)table[start / BLOCK] * BLOCK * K;
    __m512 score[R][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) score[r][v] = _mm512_setzero_ps();
    const uint16_t* key = keys + page;
    const char* ahead = (const char*)(values + page);  // what is read next comes nearer meanwhile
    for (int k = 0; k < K; k += 2, key += BLOCK * 2, ahead += 4 * BLOCK) {
#pragma GCC unroll 4
      for (int line = 0; line < 4; line++) _mm_prefetch(ahead + 64 * line, _MM_HINT_T0);
      __m512bh four[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) four[v] = (__m512bh)_mm512_loadu_si512(key + 32 * v);
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        int32_t pair;
        std::memcpy(&pair, q[r] + k, 4);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) score[r][v] = _mm512_dpbf16_ps(score[r][v], four[v], both);
      }
    }
    float shrink[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const int seen = last[r] + 1 - start;  // positions of this page that the row sees
      __m512 top = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const int n = seen - 16 * v;
        const __mmask16 open = n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
        score[r][v] = _mm512_mask_mul_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()), open,
                                         score[r][v], _mm512_set1_ps(scale));
        top = _mm512_max_ps(top, score[r][v]);
      }
      const float now = std::max(most[r], _mm512_reduce_max_ps(top));
      const __m512 shift = _mm512_set1_ps(now);
      __m512 total = _mm512_setzero_ps();
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const __mmask16 open = _mm512_cmp_ps_mask(
            score[r][v], _mm512_set1_ps(-std::numeric_limits<float>::infinity()), _CMP_GT_OQ);
        const __m512 p = _mm512_maskz_mov_ps(open, exp2_of(_mm512_sub_ps(score[r][v], shift)));
        total = _mm512_add_ps(total, p);
        _mm256_store_si256((__m256i*)(weight[r] + 16 * v), (__m256i)_mm512_cvtneps_pbh(p));
      }
      const float before = most[r] == now ? 1.f : _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(most[r] - now)));
      shrink[r] = most[r] == -std::numeric_limits<float>::infinity() ? 0.f : before;
      sum[r] = sum[r] * shrink[r] + _mm512_reduce_add_ps(total);
      most[r] = now;
    }
    const int more = start + BLOCK < end ? table[start / BLOCK + 1] : table[0];
    ahead = (const char*)(keys + (size_t)more * BLOCK * K);
    const int pairs = std::min(BLOCK, end - start + 1) / 2;  // beyond, every weight is zero
    for (int k = 0; k < K; k += 16 * V) {
      __m512 acc[R][V];
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
          acc[r][v] = _mm512_mul_ps(_mm512_loadu_ps(out[r] + k + 16 * v), _mm512_set1_ps(shrink[r]));
      const uint16_t* value = values + page + 2 * k;
      for (int n = 0; n < 2 * pairs; n += 2, value += K * 2, ahead += 64 * V) {
#pragma GCC unroll 4
        for (int line = 0; line < V; line++) _mm_prefetch(ahead + 64 * line, _MM_HINT_T0);
        __m512bh four[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) four[v] = (__m512bh)_mm512_loadu_si512(value + 32 * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
          int32_t pair;
          std::memcpy(&pair, weight[r] + n, 4);
          const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], four[v], both);
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) _mm512_storeu_ps(out[r] + k + 16 * v, acc[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k += 16)
      _mm512_storeu_ps(out[r] + k, _mm512_div_ps(_mm512_loadu_ps(out[r] + k), _mm512_set1_ps(sum[r])));
}

template <int V>
inline void attend(int count, const uint16_t* const* q, const int* last, const int32_t* table, const uint16_t* keys,
                   const uint16_t* values, int K, float* const* out) {
  switch (count) {
    case 1: return attend_tile<1, V>(q, last, table, keys, values, K, out);
    case 2: return attend_tile<2, V>(q, last, table, keys, values, K, out);
    case 3: return attend_tile<3, V>(q, last, table, keys, values, K, out);
    case 4: return attend_tile<4, V>(q, last, table, keys, values, K, out);
    case 5: return attend_tile<5, V>(q, last, table, keys, values, K, out);
    default: return attend_tile<6, V>(q, last, table, keys, values, K, out);
  }
}
