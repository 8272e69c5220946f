// Stores that bypass the caches: the line they fill is not read from memory first.
#pragma once

#include "engine/abi.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastmap::FM_ISA {

// A cache line; `to` is where one begins.
inline void stream_line(void* to, const void* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX__)
  __m256i* const line = static_cast<__m256i*>(to);
  for (int i = 0; i < 2; ++i)
    _mm256_stream_si256(line + i, _mm256_loadu_si256(static_cast<const __m256i*>(from) + i));
#elif defined(__SSE2__)
  __m128i* const line = static_cast<__m128i*>(to);
  for (int i = 0; i < 4; ++i)
    _mm_stream_si128(line + i, _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
#else
  __builtin_memcpy(to, from, kLineBytes);
#endif
}

}  // namespace fastmap::FM_ISA
