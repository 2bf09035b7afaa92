// Stores that go past the caches: for outputs that do not fit them, they spare reading each line before it is written.
#pragma once

#include <cstdint>

#include "math/elementary.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace dmrec::cpu {

// Below this many bytes an output may still be in a cache when it is used.
constexpr int64_t streaming_threshold = 8 << 20;

#if defined(__SSE2__)

// Whole lines only: rows of a matrix at 64 bytes must all begin at 64 bytes.
template <class Stored>
bool worth_streaming(int64_t n_rows, int64_t width) {
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(Stored));
  return row_bytes % 64 == 0 && n_rows * row_bytes >= streaming_threshold;
}

inline bool streamable(const void* target) { return reinterpret_cast<uintptr_t>(target) % 64 == 0; }

// A block of a multiple of 16 bytes; both sides aligned to 16.
template <class Stored, int n>
DMREC_FN void stream(Stored* to, const Stored (&block)[n]) {
  constexpr int pieces = n * sizeof(Stored) / sizeof(__m128i);
  static_assert(pieces * sizeof(__m128i) == n * sizeof(Stored));
  for (int i = 0; i < pieces; ++i) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, _mm_load_si128(reinterpret_cast<const __m128i*>(block) + i));
  }
}

inline void finish_streaming() { _mm_sfence(); }

#else

template <class Stored>
bool worth_streaming(int64_t, int64_t) {
  return false;
}

inline bool streamable(const void*) { return false; }

template <class Stored, int n>
DMREC_FN void stream(Stored* to, const Stored (&block)[n]) {
  memcpy(to, block, sizeof(block));
}

inline void finish_streaming() {}

#endif

}  // namespace dmrec::cpu
