// Functions of a vector, the same bits in every lane and place.
#pragma once
#include <immintrin.h>

// 2^x for x <= 0: a polynomial of degree 5 on [-0.5, 0.5], relative error below 2.4e-6.
inline __m512 exp2_of(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-126.f));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(1.3333558e-3f);
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.6181291e-3f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5504109e-2f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022651e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314718e-1f));
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
