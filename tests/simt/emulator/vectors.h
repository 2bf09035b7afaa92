// CUDA's built-in vectors. In the checked build a copy of one from or to memory is a single access of its full width:
// that is what alignment and sectors are about.
#pragma once

#include <cstring>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {
// one access that reads `from`, one that writes `to`
__attribute__((no_sanitize("thread"), noinline)) void vector_copy(const void* from, void* to, int bytes);
}  // namespace simt

#if defined(__SANITIZE_THREAD__)
#define SIMT_VECTOR_COPIES(V)                                                                      \
  V() = default;                                                                                   \
  __attribute__((always_inline)) V(const V& other) { simt::vector_copy(&other, this, sizeof(V)); } \
  __attribute__((always_inline)) V& operator=(const V& other) {                                    \
    simt::vector_copy(&other, this, sizeof(V));                                                    \
    return *this;                                                                                  \
  }
#else
#define SIMT_VECTOR_COPIES(V)  \
  V() = default;               \
  V(const V& other) = default; \
  V& operator=(const V& other) = default;
#endif

#define SIMT_VECTORS(T, name)                                       \
  struct alignas(2 * sizeof(T)) name##2 {                           \
    T x, y;                                                         \
    SIMT_VECTOR_COPIES(name##2)                                     \
    name##2(T x_, T y_) : x(x_), y(y_) {}                           \
  };                                                                \
  struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) name##4 {      \
    T x, y, z, w;                                                   \
    SIMT_VECTOR_COPIES(name##4)                                     \
    name##4(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {} \
  };                                                                \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }        \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SIMT_VECTORS(float, float)
SIMT_VECTORS(double, double)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned, uint)
SIMT_VECTORS(short, short)
SIMT_VECTORS(unsigned short, ushort)
#undef SIMT_VECTORS
