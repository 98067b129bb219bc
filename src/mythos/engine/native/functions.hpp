// Functions of a vector, the same bits in every lane and place.
#pragma once
#include <cstdint>
#include <immintrin.h>

// 2^x for finite x <= 0: a polynomial on [-0.5, 0.5], relative error below 3e-6; 1 at 0, and 0 far below.
inline __m512 exp2_of(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(9.58285e-3f);
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.590642e-2f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4024099e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9312419e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(y, whole);
}

constexpr float LOG2_E = 1.44269504f;

// x * sigmoid(x)
inline __m512 silu_of(__m512 x) {
  const __m512 size = _mm512_abs_ps(x), one = _mm512_set1_ps(1.f);
  const __m512 e = exp2_of(_mm512_mul_ps(size, _mm512_set1_ps(-LOG2_E)));  // e^-|x|
  const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 top = _mm512_mask_blend_ps(negative, one, e);
  return _mm512_div_ps(_mm512_mul_ps(x, top), _mm512_add_ps(one, e));
}

// What was rounded to int8: a value is its byte times `scale`; `sum` of the bytes.
struct Span {
  float scale;
  int32_t sum;
};

// `count` values, a multiple of 16: symmetric, max|x|/127, rounded to nearest even.
inline Span to_int8(const float* x, int count, int8_t* q) {
  __m512 most = _mm512_setzero_ps();
  for (int k = 0; k < count; k += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + k)));
  const float top = _mm512_reduce_max_ps(most);
  const __m512 inverse = _mm512_set1_ps(top > 0 ? 127.f / top : 0.f);
  __m512i sum = _mm512_setzero_si512();
  for (int k = 0; k < count; k += 16) {
    const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), inverse));
    sum = _mm512_add_epi32(sum, v);
    _mm_storeu_si128((__m128i*)(q + k), _mm512_cvtsepi32_epi8(v));
  }
  return {top * (1.f / 127.f), _mm512_reduce_add_epi32(sum)};
}
