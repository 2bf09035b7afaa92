// Dot products of one vector with the rows of a matrix, lane by lane and then a fixed tree: the same bits with
// registers of any width.
#pragma once

#include "ops/cpu/target.h"
#include "ops/cpu/vector.h"

namespace dmrec::cpu {

// In arithmetic of type Sum. The vector may be given in it, which saves to convert it for each row.
template <class Stored, class Sum, class Given = Stored>
struct Dots {
  static constexpr int lanes = 16;

  struct Part {
    const Given* vector;
    Rows<const Stored> rows;
    int64_t count;
    Sum* out;
  };

  int64_t width;

  void operator()(const Given* vector, Rows<const Stored> rows, int64_t count, Sum* out) const {
    in_widest_vectors(*this, Part{vector, rows, count, out});
  }

  template <int bytes>
  DMREC_FN void run(const Part& part) const {
    for (int64_t i = 0; i < part.count; ++i)
      part.out[i] = dot<bytes>(part.vector, part.rows.data + i * part.rows.stride);
  }

 private:
  template <int bytes>
  DMREC_FN Sum dot(const Given* a, const Stored* b) const {
    constexpr int vectors = lanes * sizeof(Sum) / bytes;
    typename VectorOf<Sum, bytes>::type sum[vectors];
    for (int v = 0; v < vectors; ++v) sum[v] = typename VectorOf<Sum, bytes>::type{};
    int64_t j = 0;
    for (; j + lanes <= width; j += lanes) add(a + j, b + j, sum);
    if (j < width) {
      Given rest_of_a[lanes] = {};
      Stored rest_of_b[lanes] = {};
      memcpy(rest_of_a, a + j, (width - j) * sizeof(Given));
      memcpy(rest_of_b, b + j, (width - j) * sizeof(Stored));
      add(rest_of_a, rest_of_b, sum);
    }
    for (int half = vectors / 2; half > 0; half /= 2) {
      for (int v = 0; v < half; ++v) sum[v] += sum[v + half];
    }
    return tree_sum<Sum, bytes>(sum[0]);
  }

  template <class Vector, int vectors>
  DMREC_FN static void add(const Given* a, const Stored* b, Vector (&sum)[vectors]) {
    Vector x[vectors], y[vectors];
    load_as<Sum>(a, x);
    load_as<Sum>(b, y);
    for (int v = 0; v < vectors; ++v) sum[v] += x[v] * y[v];
  }
};

}  // namespace dmrec::cpu
