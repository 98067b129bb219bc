// Attention over pages of BLOCK positions: int8 keys, values, queries and weights, whole-number products.
//
// score = key scale * query scale * sum over k of key[k] * query[k], a scale for SCALED channels of each;
// out += unit * sum over positions of weight[position] * value[position], where a position's weight is its share
// times its value's scale, in eight bits of the largest of SPAN pages.
// A page holds, for one kv head, its keys as [K/4][BLOCK][4] bytes of k + 128 and their scales as [groups][BLOCK]
// floats, or its values as [BLOCK/4][K][4] bytes and their scales as [BLOCK] floats: what one instruction multiplies
// lies together. A row goes through the pages in order, SPAN after SPAN (online softmax, arXiv 1805.02867), so that
// its bits depend on its own sequence alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

#include "functions.hpp"

constexpr int BLOCK = 64;
constexpr int HEADS = 6;    // rows of one tile: query heads of a kv head, of one token or several
constexpr int SCALED = 32;  // channels of a key or a query with one scale
constexpr int SPAN = 2;     // pages of which a row goes through one step of its softmax
constexpr int HALF = 32;    // positions whose scores are computed together: two vectors
constexpr float UNSEEN = -1e30f;  // the score of a position that a row does not attend to: its share is 0

inline int scales_of(int K) { return (K + SCALED - 1) / SCALED; }

// Bytes of a page for each of its positions; the same for keys and for values.
inline size_t position_bytes(int K) { return K + sizeof(float) * scales_of(K); }

// A query of K channels: its bytes, its scales (the softmax's own among them), and -128 times each group's sum.
inline size_t query_bytes(int K) { return K + (sizeof(float) + sizeof(int32_t)) * scales_of(K); }

inline void write_query(uint8_t* to, int K, const float* query) {
  float* scale = (float*)(to + K);
  int32_t* start = (int32_t*)(scale + scales_of(K));
  for (int k = 0, g = 0; k < K; k += SCALED, g++) {
    const Span span = to_int8(query + k, std::min(SCALED, K - k), (int8_t*)to + k);
    scale[g] = span.scale * (LOG2_E / std::sqrt((float)K)), start[g] = -128 * span.sum;
  }
}

inline void write_key(uint8_t* page, int K, int position, const float* key) {
  alignas(64) int8_t q[SCALED];
  float* scale = (float*)(page + (size_t)K * BLOCK) + position;
  for (int k = 0; k < K; k += SCALED, scale += BLOCK) {
    const int count = std::min(SCALED, K - k);
    *scale = to_int8(key + k, count, q).scale;
    const __m256i shifted = _mm256_xor_si256(_mm256_load_si256((const __m256i*)q), _mm256_set1_epi8((char)0x80));
    _mm256_store_si256((__m256i*)q, shifted);
    for (int i = 0; i < count; i += 4) std::memcpy(page + ((size_t)(k + i) / 4 * BLOCK + position) * 4, q + i, 4);
  }
}

// `q`: room for K bytes.
inline void write_value(uint8_t* page, int K, int position, const float* value, int8_t* q) {
  ((float*)(page + (size_t)K * BLOCK))[position] = to_int8(value, K, q).scale;
  const int place = position % 4;
  const __mmask64 mine = 0x1111111111111111ull << place;  // of each four bytes, this position's
  for (int k = 0; k < K; k += 16) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(q + k)));
    const __m512i moved = _mm512_sll_epi32(wide, _mm_cvtsi32_si128(8 * place));
    _mm512_mask_storeu_epi8(page + ((size_t)(position / 4) * K + k) * 4, mine, moved);
  }
}

// `count` <= HEADS rows of one sequence and kv head. q: a query each; last: the position of each row, to which it
// attends; V: vectors of a row taken together, K is a multiple of 16 V; keys, values: the pages of this kv head;
// table: the sequence's pages; out: rows of K floats.
template <int R, int V>
inline void attend_tile(const uint8_t* const* q, const int* last, const int32_t* table, const uint8_t* keys,
                        const uint8_t* values, int K, float* const* out) {
  const __m512 nothing = _mm512_set1_ps(UNSEEN);
  const size_t bytes = position_bytes(K) * BLOCK, scales = (size_t)K * BLOCK;
  const int groups = scales_of(K);
  alignas(64) float score[R][SPAN * BLOCK];
  alignas(64) uint8_t weight[R][SPAN * BLOCK];
  float most[R], shrink[R], unit[R];
  __m512 sum[R];
  int end = 0;
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) {
    most[r] = UNSEEN, sum[r] = _mm512_setzero_ps(), end = std::max(end, last[r] + 1);
    for (int k = 0; k < K; k += 16) _mm512_storeu_ps(out[r] + k, _mm512_setzero_ps());
  }
  for (int start = 0; start < end; start += SPAN * BLOCK) {
    const int32_t* pages = table + start / BLOCK;
    const int count = std::min(SPAN, (end - start + BLOCK - 1) / BLOCK);
    for (int from = 0; from < std::min(SPAN * BLOCK, end - start); from += HALF) {
      const int page = from / BLOCK, half = from % BLOCK;
      const uint8_t* key = keys + pages[page] * bytes;
      const char* ahead = (const char*)(values + pages[page] * bytes + half * bytes / BLOCK);  // what is read next
      __m512 found[R][2];
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) found[r][0] = found[r][1] = _mm512_setzero_ps();
      for (int g = 0; g < groups; g++) {
        __m512i whole[R][2];
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
          int32_t offset;
          std::memcpy(&offset, q[r] + K + (groups + g) * 4, 4);
          whole[r][0] = whole[r][1] = _mm512_set1_epi32(offset);
        }
        for (int k = g * SCALED; k < std::min(K, (g + 1) * SCALED); k += 4, ahead += 128) {
          _mm_prefetch(ahead, _MM_HINT_T0), _mm_prefetch(ahead + 64, _MM_HINT_T0);
          const uint8_t* at = key + ((size_t)k / 4 * BLOCK + half) * 4;
          const __m512i four0 = _mm512_loadu_si512(at), four1 = _mm512_loadu_si512(at + 64);
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) {
            int32_t four;
            std::memcpy(&four, q[r] + k, 4);
            const __m512i all = _mm512_set1_epi32(four);
            whole[r][0] = _mm512_dpbusd_epi32(whole[r][0], four0, all);
            whole[r][1] = _mm512_dpbusd_epi32(whole[r][1], four1, all);
          }
        }
        const float* scale = (const float*)(key + scales) + g * BLOCK + half;
        const __m512 scale0 = _mm512_loadu_ps(scale), scale1 = _mm512_loadu_ps(scale + 16);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
          float own;
          std::memcpy(&own, q[r] + K + g * 4, 4);
          const __m512 all = _mm512_set1_ps(own);
          found[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[r][0]), _mm512_mul_ps(scale0, all), found[r][0]);
          found[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[r][1]), _mm512_mul_ps(scale1, all), found[r][1]);
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
        _mm512_store_ps(score[r] + from, found[r][0]), _mm512_store_ps(score[r] + from + 16, found[r][1]);
    }
    const float* scale[SPAN];
    for (int page = 0; page < SPAN; page++)
      scale[page] = (const float*)(values + pages[std::min(page, count - 1)] * bytes + scales);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const int seen = last[r] + 1 - start;  // positions of these pages that the row sees
      __mmask16 open[4 * SPAN];
      __m512 share[4 * SPAN], top = nothing;
#pragma GCC unroll 8
      for (int v = 0; v < 4 * SPAN; v++) {
        const int n = seen - 16 * v;
        open[v] = n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
        share[v] = _mm512_mask_loadu_ps(nothing, open[v], score[r] + 16 * v);
        top = _mm512_max_ps(top, share[v]);
      }
      const float now = std::max(most[r], _mm512_reduce_max_ps(top));
      const __m512 shift = _mm512_set1_ps(now);
      __m512 total = _mm512_setzero_ps(), largest = _mm512_setzero_ps();
#pragma GCC unroll 8
      for (int v = 0; v < 4 * SPAN; v++) {
        share[v] = exp2_of(_mm512_sub_ps(share[v], shift));
        total = _mm512_add_ps(total, share[v]);
        share[v] = _mm512_mul_ps(share[v], _mm512_maskz_loadu_ps(open[v], scale[v / 4] + 16 * (v % 4)));
        largest = _mm512_max_ps(largest, share[v]);
      }
      const float peak = _mm512_reduce_max_ps(largest);
      const __m512 inverse = _mm512_set1_ps(peak > 0 ? 255.f / peak : 0.f);
#pragma GCC unroll 8
      for (int v = 0; v < 4 * SPAN; v++) {
        const __m512i eighth = _mm512_cvtps_epi32(_mm512_mul_ps(share[v], inverse));
        _mm_store_si128((__m128i*)(weight[r] + 16 * v), _mm512_cvtusepi32_epi8(eighth));
      }
      unit[r] = peak / 255.f;
      shrink[r] = _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(most[r] - now)));
      sum[r] = _mm512_fmadd_ps(sum[r], _mm512_set1_ps(shrink[r]), total);
      most[r] = now;
    }
    for (int k = 0; k < K; k += 16 * V) {
      __m512i whole[R][V];
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) whole[r][v] = _mm512_setzero_si512();
      for (int page = 0; page < count; page++) {
        const int left = end - start - page * BLOCK;  // behind them, every weight is zero
        const int positions = std::min(BLOCK, (left + 3) / 4 * 4);
        const uint8_t* at = values + pages[page] * bytes + 4 * k;
        const int next = start + SPAN * BLOCK + page * BLOCK;
        const char* ahead = (const char*)(keys + table[next < end ? next / BLOCK : 0] * bytes);
        for (int n = 0; n < positions; n += 4, at += 4 * (size_t)K, ahead += 64 * (V + 1)) {
#pragma GCC unroll 5
          for (int line = 0; line <= V; line++) _mm_prefetch(ahead + 64 * line, _MM_HINT_T0);
          __m512i four[V];
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) four[v] = _mm512_loadu_si512(at + 64 * v);
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) {
            int32_t own;
            std::memcpy(&own, weight[r] + page * BLOCK + n, 4);
            const __m512i all = _mm512_set1_epi32(own);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) whole[r][v] = _mm512_dpbusd_epi32(whole[r][v], all, four[v]);
          }
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
          float* to = out[r] + k + 16 * v;
          const __m512 kept = _mm512_mul_ps(_mm512_loadu_ps(to), _mm512_set1_ps(shrink[r]));
          _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[r][v]), _mm512_set1_ps(unit[r]), kept));
        }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) {
    const __m512 all = _mm512_set1_ps(_mm512_reduce_add_ps(sum[r]));
    for (int k = 0; k < K; k += 16) _mm512_storeu_ps(out[r] + k, _mm512_div_ps(_mm512_loadu_ps(out[r] + k), all));
  }
}

template <int V>
inline void attend(int count, const uint8_t* const* q, const int* last, const int32_t* table, const uint8_t* keys,
                   const uint8_t* values, int K, float* const* out) {
  switch (count) {
    case 1: return attend_tile<1, V>(q, last, table, keys, values, K, out);
    case 2: return attend_tile<2, V>(q, last, table, keys, values, K, out);
    case 3: return attend_tile<3, V>(q, last, table, keys, values, K, out);
    case 4: return attend_tile<4, V>(q, last, table, keys, values, K, out);
    case 5: return attend_tile<5, V>(q, last, table, keys, values, K, out);
    default: return attend_tile<6, V>(q, last, table, keys, values, K, out);
  }
}
