// The loops of csr_aggregate on the CPU. For each row b of a sparse matrix, over its entries (b, col, value):
//   CsrSum   out[b] = bias[b] + sum value * dense[col]     reads nnz x E elements, writes B x E
//   CsrDot   out[entry] = <rows[b], dense[col]>            reads nnz x E elements, writes nnz
// All have one dtype, but where dense has 16 bits the rest may be float32 (Result): what is computed in anyway.
// Memory is all that costs here. The width is cut into panels of 512 bytes and a thread finishes a panel for all of its
// rows before the next: a panel of a catalogue stays in a cache where the whole matrix would not, so rows that several
// users share come from there; its sums fit the registers; and the rows of the next entries, wherever they lie, are
// prefetched, across the ends of rows. A matrix beyond all caches is read in wider panels instead, so that a page is
// looked up once and not once a panel, and prefetched to the second level, which holds more of what is under way.
// Threads share rows by their entries. An element of the result is summed by one thread in the order of the entries, in
// runs of fixed length: its bits depend on the row and the width alone.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "ops/cpu/csr_input.h"
#include "ops/cpu/element.h"
#include "ops/cpu/stream.h"
#include "ops/cpu/target.h"
#include "ops/cpu/vector.h"

namespace dmrec::cpu {

constexpr int64_t beyond_caches = 64 << 20;  // bytes of a matrix
constexpr int64_t entries_ahead = 24;        // 12 KiB of a panel under way: the latency of memory at its full rate
constexpr int64_t wide_entries_ahead = 12;
constexpr int64_t work_per_task = 16384;

// To the first level of the caches, or to the second.
template <bool to_second>
DMREC_FN void prefetch(const void* from, int bytes) {
  for (int line = 0; line < bytes; line += 64) {
    __builtin_prefetch(static_cast<const char*>(from) + line, 0, to_second ? 2 : 3);
  }
}

template <class Stored, class Result>
struct CsrSum {
  using E = Element<Result>;
  using T = typename Element<Stored>::Arithmetic;
  static constexpr int64_t panel = 512 / sizeof(Stored), wide_panel = 4096 / sizeof(Stored);  // columns
  static constexpr int64_t run_length = 256;  // a sum of n terms errs by (256 + n / 256) roundings, not by n

  CsrRows x;
  const Result* values;      // null: ones
  Rows<const Stored> dense;  // (N, E)
  Rows<const Result> bias;   // null: none
  Result* out;               // (B, E), contiguous
  int64_t width;
  bool beyond;  // dense is beyond all caches
  bool streaming = false;

  struct Part {
    int64_t first_row, last_row, column, end;
  };

  void run() {
    if (x.n_rows == 0 || width == 0) return;
    streaming = worth_streaming<Result>(x.n_rows, width) && streamable(out);
    const int64_t n_panels = std::max<int64_t>(1, width / panel);  // the last takes what is left over
    if (x.n_rows < 32 && n_panels > 1) {                           // too few rows to share
      const int64_t grain = std::max<int64_t>(1, work_per_task / (panel * x.work()));
      torch::stable::parallel_for(0, n_panels, grain, [this, n_panels](int64_t begin, int64_t end) {
        in_widest_vectors(*this, Part{0, x.n_rows, begin * panel, end == n_panels ? width : end * panel});
      });
    } else {
      const int64_t grain = std::max<int64_t>(1, work_per_task / width);
      torch::stable::parallel_for(0, x.work(), grain, [this](int64_t begin, int64_t end) {
        in_widest_vectors(*this, Part{x.row_from(begin), x.row_from(end), 0, width});
      });
    }
  }

  // Panels of equal width, in whole pieces; then what is left, as a last piece that overlaps the one before it: some
  // columns a second time, to the same bits.
  template <int bytes>
  DMREC_FN void run(const Part& part) const {
    beyond ? run_panels<bytes, true>(part) : run_panels<bytes, false>(part);
  }

 private:
  // What differs between the loops is known when they are compiled: few instructions an entry are what is left to save
  // where the matrix lies in a cache.
  template <int bytes, bool large>
  DMREC_FN void run_panels(const Part& part) const {
    constexpr int64_t elements = Piece<Stored, bytes>::elements;
    const int64_t most = (large ? wide_panel : panel) / elements;
    const int64_t width = part.end - part.column, pieces = width / elements, panels = (pieces + most - 1) / most;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t from = pieces * p / panels, to = pieces * (p + 1) / panels;
      sum_panel<bytes, large>(part, part.column + from * elements, static_cast<int>(to - from));
    }
    if (pieces == 0) {
      for (int64_t b = part.first_row; b < part.last_row; ++b) {
        sum_few<bytes>(b, part.column, static_cast<int>(width));
      }
    } else if (pieces * elements < width) {
      sum_blocks<bytes, large, 1>(part, part.end - elements, 1);
    }
    if (streaming) finish_streaming();
  }

  // In blocks of at most as many pieces as leave their sums in the registers
  template <int bytes, bool large>
  DMREC_FN void sum_panel(const Part& part, int64_t column, int pieces) const {
    constexpr int most = bytes == 64 || Piece<Stored, bytes>::vectors == 1 ? 8 : 4;
    const int blocks = (pieces + most - 1) / most;
    switch ((pieces + blocks - 1) / blocks) {
      case 1: return sum_blocks<bytes, large, 1>(part, column, pieces);
      case 2: return sum_blocks<bytes, large, 2>(part, column, pieces);
      case 3: return sum_blocks<bytes, large, 3>(part, column, pieces);
      case 4: return sum_blocks<bytes, large, 4>(part, column, pieces);
      case 5: return sum_blocks<bytes, large, 5>(part, column, pieces);
      case 6: return sum_blocks<bytes, large, 6>(part, column, pieces);
      case 7: return sum_blocks<bytes, large, 7>(part, column, pieces);
      default: return sum_blocks<bytes, large, 8>(part, column, pieces);
    }
  }

  // A row's blocks, the last one overlapping where it must; the first asks for what the others will read, too.
  template <int bytes, bool large, int n>
  DMREC_FN void sum_blocks(const Part& part, int64_t column, int pieces) const {
    for (int64_t b = part.first_row; b < part.last_row; ++b) {
      for (int done = 0; done < pieces; done += n) {
        const int from = std::min(done, pieces - n);
        sum_block<bytes, large, n>(b, column + from * Piece<Stored, bytes>::elements,
                                   done == 0 ? (pieces - n) * bytes : 0);
      }
    }
  }

  template <int bytes, bool large, int n>
  DMREC_FN void sum_block(int64_t b, int64_t column, int ahead) const {
    using P = Piece<Stored, bytes>;
    using Vector = typename P::Vector;
    const int64_t end = x.crow[b + 1];
    int64_t e = x.crow[b], stop = std::min(e + run_length, end);
    Vector sum[n][P::vectors] = {};
    if (bias.data) {
      for (int k = 0; k < n; ++k) {
        Vector part[P::vectors];
        P::load(bias.data + b * bias.stride + column + k * P::elements, part);
        for (int i = 0; i < P::vectors; ++i) sum[k][i] = part[i];
      }
    }
    add_run<bytes, large, n>(e, stop, column, ahead, sum);
    while (stop < end) {
      Vector run[n][P::vectors] = {};
      e = stop;
      stop = std::min(e + run_length, end);
      add_run<bytes, large, n>(e, stop, column, ahead, run);
      for (int k = 0; k < n; ++k) {
        for (int i = 0; i < P::vectors; ++i) sum[k][i] += run[k][i];
      }
    }
    Result* to = out + b * width + column;
    for (int k = 0; k < n; ++k) {
      Vector part[P::vectors];
      for (int i = 0; i < P::vectors; ++i) part[i] = sum[k][i];
      if (streaming) {
        alignas(64) Result piece[P::elements];
        P::store(part, piece);
        stream(to + k * P::elements, piece);
      } else {
        P::store(part, to + k * P::elements);
      }
    }
  }

  template <int bytes, bool large, int n>
  DMREC_FN void add_run(int64_t begin, int64_t end, int64_t column, int ahead,
                        typename Piece<Stored, bytes>::Vector (&sum)[n][Piece<Stored, bytes>::vectors]) const {
    values ? add_entries<bytes, large, true>(begin, end, column, ahead, sum)
           : add_entries<bytes, large, false>(begin, end, column, ahead, sum);
  }

  template <int bytes, bool large, bool weighted, int n>
  DMREC_FN void add_entries(int64_t begin, int64_t end, int64_t column, int ahead,
                            typename Piece<Stored, bytes>::Vector (&sum)[n][Piece<Stored, bytes>::vectors]) const {
    using P = Piece<Stored, bytes>;
    constexpr int64_t distance = large ? wide_entries_ahead : entries_ahead;
    const Stored* from = dense.data + column;
    for (int64_t e = begin; e < end; ++e) {
      const Stored* later = from + x.col[std::min(e + distance, x.nnz - 1)] * dense.stride;
      prefetch<large>(later, n * bytes);
      if (ahead > 0) prefetch<large>(later + n * P::elements, ahead);
      const Stored* row = from + x.col[e] * dense.stride;
      const T value = weighted ? E::load(values + e) : T(1);
      for (int k = 0; k < n; ++k) {
        typename P::Vector part[P::vectors];
        P::load(row + k * P::elements, part);
        for (int i = 0; i < P::vectors; ++i) {
          if constexpr (weighted) part[i] *= value;
          sum[k][i] += part[i];
        }
      }
    }
  }

  // fewer columns than a piece has
  template <int bytes>
  DMREC_FN void sum_few(int64_t b, int64_t column, int count) const {
    constexpr int most = Piece<Stored, bytes>::elements;
    const int64_t end = x.crow[b + 1];
    T sum[most] = {};
    for (int l = 0; bias.data && l < count; ++l) sum[l] = E::load(bias.data + b * bias.stride + column + l);
    for (int64_t e = x.crow[b], stop = e; e < end;) {
      stop = std::min(stop + run_length, end);
      T run[most] = {};
      for (; e < stop; ++e) {
        const Stored* row = dense.data + column + x.col[e] * dense.stride;
        const T value = values ? E::load(values + e) : T(1);
        for (int l = 0; l < count; ++l) run[l] += value * Element<Stored>::load(row + l);
      }
      for (int l = 0; l < count; ++l) sum[l] += run[l];
    }
    for (int l = 0; l < count; ++l) E::store(out + b * width + column + l, sum[l]);
  }
};

template <class Stored, class Result>
struct CsrDot {
  using E = Element<Result>;
  using T = typename E::Arithmetic;
  static constexpr int lanes = 256 / sizeof(T);

  CsrRows x;
  Rows<const Result> rows;   // (B, E)
  Rows<const Stored> dense;  // (N, E)
  Result* out;               // (nnz,)
  int64_t width;

  void run() const {
    if (x.nnz == 0) return;
    const int64_t grain = std::max<int64_t>(1, work_per_task / std::max<int64_t>(1, width));
    torch::stable::parallel_for(0, x.nnz, grain,
                                [this](int64_t begin, int64_t end) { over_entries(*this, begin, end); });
  }

 private:
  DMREC_CLONES static void over_entries(const CsrDot& job, int64_t begin, int64_t end) {
    int64_t b = std::upper_bound(job.x.crow, job.x.crow + job.x.n_rows + 1, begin) - job.x.crow - 1;
    for (int64_t e = begin; e < end; ++e) {
      while (job.x.crow[b + 1] <= e) ++b;
      E::store(job.out + e,
               job.dot(job.rows.data + b * job.rows.stride, job.dense.data + job.x.col[e] * job.dense.stride));
    }
  }

  // Lanes over the width, then a fixed tree.
  DMREC_FN T dot(const Result* a, const Stored* b) const {
    alignas(64) T sum[lanes] = {};
    int64_t j = 0;
    for (; j + lanes <= width; j += lanes) {
#pragma omp simd
      for (int l = 0; l < lanes; ++l) sum[l] += E::load(a + j + l) * Element<Stored>::load(b + j + l);
    }
    for (int l = 0; l < width - j; ++l) sum[l] += E::load(a + j + l) * Element<Stored>::load(b + j + l);
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
    }
    return sum[0];
  }
};

}  // namespace dmrec::cpu
