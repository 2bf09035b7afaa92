// code_alignment on the CPU, in passes:
//   row_sums     largest logit and log of the sum above it, of target and prediction; a thread owns rows
//   columns      what the batch says of each code; a thread owns 64 codes of a level and takes the rows in order
//   gaps         delta and loss; a thread owns rows
// and for the gradients
//   of_columns   what comes back to each negative; a thread owns 64 codes of a level
//   of_rows      both gradients of a row, from two passes over it
// The first pass keeps probabilities where it is asked to; otherwise each pass forms its exponentials anew. A mean of
// probabilities is formed from these, and where they vanish from logarithms. Sums over codes run in lanes, then a fixed
// tree, sums over rows in runs of 64: bits do not depend on threads.
#include <algorithm>
#include <tuple>
#include <vector>

#include "ops/code_alignment.h"
#include "ops/cpu/dispatch.h"
#include "ops/cpu/target.h"
#include "ops/library.h"

namespace dmrec::cpu {
namespace {

#define DMREC_INLINE __attribute__((always_inline))  // of lambdas: only what is inlined is compiled as a clone

constexpr int64_t column_block = 64, run_of_rows = 64;
constexpr double vanishing_log = -46;  // of a mean of probabilities: below, what underflows in a row may count in it

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* fill(const Tensor& tensor) {
  return static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()));
}

// sum_j term(j) over [0, count), in 16 lanes and a fixed tree
template <class T, class Term>
DMREC_FN T sum_of(int64_t count, const Term& term) {
  constexpr int lanes = 16;
  T sum[lanes] = {};
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
#pragma omp simd
    for (int l = 0; l < lanes; ++l) sum[l] += term(j + l);
  }
  for (int64_t i = j; i < count; ++i) sum[i - j] += term(i);
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
  }
  return sum[0];
}

// The largest of a row, the log of the sum of exponentials above it and, where kept is not null, the probabilities.
template <class T>
DMREC_CLONES void largest_and_above(const T* row, int64_t count, T* largest, T* above, T* kept) {
  constexpr int lanes = 16;
  T most[lanes];
  for (int l = 0; l < lanes; ++l) most[l] = -Float<T>::largest;
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
#pragma omp simd
    for (int l = 0; l < lanes; ++l) most[l] = row[j + l] > most[l] ? row[j + l] : most[l];
  }
  for (int64_t i = j; i < count; ++i) most[i - j] = row[i] > most[i - j] ? row[i] : most[i - j];
  T max = most[0];
  for (int l = 1; l < lanes; ++l) max = most[l] > max ? most[l] : max;
  T sum;
  if (kept) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) kept[i] = bounded_exp(row[i] - max);
    sum = sum_of<T>(count, [&](int64_t i) DMREC_INLINE { return kept[i]; });
    const T factor = T(1) / sum;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) kept[i] *= factor;
  } else {
    sum = sum_of<T>(count, [&](int64_t i) DMREC_INLINE { return bounded_exp(row[i] - max); });
  }
  *largest = max;
  *above = keep_nan(sum, log_of(sum));
}

template <class T>
struct Alignment {               // functions copy it: a loop that stores must not read pointers anew
  const T *target, *prediction;  // (B, L, C)
  const T* weights;              // (L,), or null
  int64_t n_rows, levels, codes;
  T log_rows, slope;
  const T* row_sums;  // (4, B, L)
  const T* columns;   // (4, L, C)
  const T* kept;      // (2, B, L, C): probabilities of target and prediction, or null

  DMREC_FN const T* kept_row(int k, int64_t b, int64_t level) const {
    return kept + ((k * n_rows + b) * levels + level) * codes;
  }
  DMREC_FN int64_t plane() const { return levels * codes; }
  DMREC_FN T weight(int64_t level) const { return weights ? weights[level] : T(1); }
  DMREC_FN const T* sums(int k) const { return row_sums + k * n_rows * levels; }
  DMREC_FN AlignmentColumn<T> column(int64_t at) const {
    return {columns[at], columns[plane() + at], columns[2 * plane() + at], columns[3 * plane() + at]};
  }

  // Rows of one level, as functions of the code.
  struct Row {
    const T *y, *p;
    T max_y, above_y, max_p, above_p, b;
    DMREC_FN T log_y(int64_t j) const { return (y[j] - max_y) - above_y; }
    DMREC_FN T log_p(int64_t j) const { return (p[j] - max_p) - above_p; }
  };
  DMREC_FN Row row(int64_t b, int64_t level) const {
    const int64_t i = b * levels + level;
    return {target + i * codes, prediction + i * codes, sums(0)[i], sums(1)[i], sums(2)[i],
            sums(3)[i],         static_cast<T>(b)};
  }

  // The same from probabilities, where no row is left out; false where some mean vanishes.
  template <bool has_kept>
  DMREC_CLONES static bool fill_columns_from_sums(const Alignment& given, int64_t level, int64_t begin, int64_t count,
                                                  T* out) {
    const Alignment job = given;
    T sum[column_block] = {};
    for (int64_t first = 0; first < job.n_rows; first += run_of_rows) {
      T run[column_block] = {};
      for (int64_t b = first; b < std::min(first + run_of_rows, job.n_rows); ++b) {
        if constexpr (has_kept) {
          const T* p = job.kept_row(1, b, level) + begin;
#pragma omp simd
          for (int64_t j = 0; j < count; ++j) run[j] += p[j];
        } else {
          const Row row = job.row(b, level);
#pragma omp simd
          for (int64_t j = 0; j < count; ++j) run[j] += bounded_exp(row.log_p(begin + j));
        }
      }
      for (int64_t j = 0; j < count; ++j) sum[j] += run[j];
    }
    const int64_t plane = job.plane(), at = level * job.codes + begin;
    bool vanishes = false;
    for (int64_t j = 0; j < count; ++j) {
      const T log_sum = keep_nan(sum[j], log_of(sum[j] > Float<T>::smallest ? sum[j] : Float<T>::smallest));
      out[at + j] = out[plane + at + j] = T(0);
      out[2 * plane + at + j] = sum[j];
      out[3 * plane + at + j] = log_sum;
      vanishes = vanishes || log_sum < T(vanishing_log);
    }
    return !vanishes;
  }

  // Codes [begin, begin + count) of a level, into planes of `out`.
  template <class Kind>
  DMREC_CLONES static void fill_columns(const Alignment& given, int64_t level, int64_t begin, int64_t count, T* out) {
    const Alignment job = given;
    T largest[column_block], of_row[column_block], second[column_block], sum[column_block], rest[column_block];
    for (int64_t j = 0; j < count; ++j) {
      largest[j] = second[j] = -Float<T>::largest;
      of_row[j] = sum[j] = rest[j] = T(0);
    }
    for (int64_t b = 0; b < job.n_rows; ++b) {
      const Row row = job.row(b, level);
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) {
        const T x = row.log_p(begin + j);
        const bool is_larger = x > largest[j];
        const T other = is_larger ? largest[j] : x;
        second[j] = other > second[j] ? other : second[j];
        of_row[j] = is_larger ? row.b : of_row[j];
        largest[j] = is_larger ? x : largest[j];
      }
    }
    for (int64_t first = 0; first < job.n_rows; first += run_of_rows) {
      T run[column_block] = {}, run_of_rest[column_block] = {};
      for (int64_t b = first; b < std::min(first + run_of_rows, job.n_rows); ++b) {
        const Row row = job.row(b, level);
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) {
          const T x = row.log_p(begin + j);
          run[j] += bounded_exp(x - largest[j]);
          if constexpr (Kind::leave_one_out) {
            run_of_rest[j] += row.b == of_row[j] ? T(0) : bounded_exp(x - second[j]);
          }
        }
      }
      for (int64_t j = 0; j < count; ++j) {
        sum[j] += run[j];
        rest[j] += run_of_rest[j];
      }
    }
    const int64_t plane = job.plane(), at = level * job.codes + begin;
    for (int64_t j = 0; j < count; ++j) {
      const T of = Kind::leave_one_out ? rest[j] : sum[j], above = Kind::leave_one_out ? second[j] : largest[j];
      out[at + j] = largest[j];
      out[plane + at + j] = of_row[j];
      out[2 * plane + at + j] = sum[j];
      out[3 * plane + at + j] = above + keep_nan(of, log_of(of));
    }
  }

  // delta of a row
  template <class Kind>
  DMREC_CLONES static T delta_of(const Alignment& given, int64_t b) {
    const Alignment job = given;
    T delta = T(0);
    for (int64_t level = 0; level < job.levels; ++level) {
      const Row row = job.row(b, level);
      const int64_t at = level * job.codes;
      if constexpr (Kind::forward && !Kind::reverse && !Kind::leave_one_out) {
        if (job.kept) {
          const T *y = job.kept_row(0, b, level), *log_sum = job.columns + 3 * job.plane() + at;
          delta += job.weight(level) * sum_of<T>(job.codes, [&](int64_t j) DMREC_INLINE {
                     return y[j] * (row.log_p(j) - (log_sum[j] - job.log_rows));
                   });
          continue;
        }
      }
      delta += job.weight(level) * sum_of<T>(job.codes, [&](int64_t j) DMREC_INLINE {
                 const T log_p = row.log_p(j);
                 const T log_n = log_negative<Kind>(job.column(at + j), log_p, row.b, job.log_rows);
                 return alignment_gap<Kind>(row.log_y(j), log_p, log_n);
               });
    }
    return delta;
  }

  // of_delta: (B,); out: (2, L, C)
  template <class Kind>
  DMREC_CLONES static void gradient_of_columns(const Alignment& given, const T* of_delta, int64_t level, int64_t begin,
                                               int64_t count, T* out) {
    const Alignment job = given;
    const T weight = job.weight(level);
    const int64_t at = level * job.codes + begin;
    T sum[column_block] = {}, of_row[column_block] = {};
    AlignmentColumn<T> columns[column_block];
    T log_sums[column_block];
    for (int64_t j = 0; j < count; ++j) {
      columns[j] = job.column(at + j);
      log_sums[j] = columns[j].log_sum - job.log_rows;
    }
    for (int64_t first = 0; first < job.n_rows; first += run_of_rows) {
      T run[column_block] = {};
      for (int64_t b = first; b < std::min(first + run_of_rows, job.n_rows); ++b) {
        const Row row = job.row(b, level);
        const T scale = weight * of_delta[b];
        if constexpr (Kind::leave_one_out) {
          for (int64_t j = 0; j < count; ++j) {
            const T log_p = row.log_p(begin + j);
            const T log_n = log_negative<Kind>(columns[j], log_p, row.b, job.log_rows);
            const T of_log_n = scale * of_log_negative<Kind>(row.log_y(begin + j), log_n);
            const bool is_apart = row.b == columns[j].row;
            const T share = column_share<Kind>(columns[j], log_p, of_log_n);
            of_row[j] = is_apart ? of_log_n : of_row[j];
            run[j] += is_apart ? T(0) : share;
          }
        } else if (Kind::forward && !Kind::reverse && job.kept) {
          const T* y = job.kept_row(0, b, level) + begin;
#pragma omp simd
          for (int64_t j = 0; j < count; ++j) run[j] -= scale * y[j];
        } else {
#pragma omp simd
          for (int64_t j = 0; j < count; ++j) {
            run[j] += scale * of_log_negative<Kind>(row.log_y(begin + j), log_sums[j]);
          }
        }
      }
      for (int64_t j = 0; j < count; ++j) sum[j] += run[j];
    }
    for (int64_t j = 0; j < count; ++j) {
      out[at + j] = sum[j];
      // where no row is left out, of p instead of log p: what each row multiplies with its own
      out[job.plane() + at + j] = Kind::leave_one_out ? of_row[j] : sum[j] * bounded_exp(-columns[j].log_sum);
    }
  }

  // Whether means of probabilities can be divided by: no log is near where exponentials vanish.
  DMREC_CLONES static bool none_vanishes(const Alignment& given) {
    const T* log_sum = given.columns + 3 * given.plane();
    for (int64_t j = 0; j < given.plane(); ++j) {
      if (!(log_sum[j] >= T(vanishing_log))) return false;
    }
    return true;
  }

  // Both gradients of row b on a level; of_columns: (2, L, C), where gradients go through negatives. scratch: (5, C)
  template <class Kind, bool through, bool divides>
  DMREC_CLONES static void gradient_of_row(const Alignment& given, const T* of_delta, const T* of_columns, int64_t b,
                                           int64_t level, T* scratch, T* d_target, T* d_prediction) {
    const Alignment job = given;
    const Row row = job.row(b, level);
    const int64_t codes = job.codes, at = level * codes, plane = job.plane();
    const T scale = job.weight(level) * of_delta[b];
    T *formed_y = scratch, *formed_p = formed_y + codes, *log_n = formed_p + codes;
    T *of_y = log_n + codes, *of_p = of_y + codes;
    const T *y = formed_y, *p = formed_p;
    // loops of a few operations each: the compiler leaves one long loop scalar
    if (job.kept) {
      y = job.kept_row(0, b, level);
      p = job.kept_row(1, b, level);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < codes; ++j) formed_y[j] = bounded_exp(row.log_y(j));
#pragma omp simd
      for (int64_t j = 0; j < codes; ++j) formed_p[j] = bounded_exp(row.log_p(j));
    }
#pragma omp simd
    for (int64_t j = 0; j < codes; ++j) {
      log_n[j] = log_negative<Kind>(job.column(at + j), row.log_p(j), row.b, job.log_rows);
    }
#pragma omp simd
    for (int64_t j = 0; j < codes; ++j) {
      const T log_y = row.log_y(j), log_p = row.log_p(j);
      T to_y = T(0), to_p = T(0);
      if constexpr (Kind::forward) {
        to_y += y[j] * (log_p - log_n[j]);
        to_p += y[j];
      }
      if constexpr (Kind::reverse) {
        to_y += p[j] - bounded_exp(log_n[j]);
        to_p -= p[j] * (log_p - log_y);
      }
      of_y[j] = scale * to_y;
      of_p[j] = scale * to_p;
    }
    if constexpr (through && divides) {
      const T* of_column = of_columns + plane + at;
#pragma omp simd
      for (int64_t j = 0; j < codes; ++j) of_p[j] += p[j] * of_column[j];
    } else if constexpr (through) {
#pragma omp simd
      for (int64_t j = 0; j < codes; ++j) {
        const AlignmentColumn<T> column = job.column(at + j);
        const T log_p = row.log_p(j);
        T own = T(0);
        if constexpr (Kind::leave_one_out) {
          own = column_share<Kind>(column, log_p, scale * of_log_negative<Kind>(row.log_y(j), log_n[j]));
        }
        const AlignmentColumnGradient<T> gradient{of_columns[at + j], of_columns[plane + at + j]};
        of_p[j] += through_negatives<Kind>(column, gradient, log_p, row.b, own, log_n[j], job.log_rows);
      }
    }
    const T sum_y = sum_of<T>(codes, [&](int64_t j) DMREC_INLINE { return of_y[j]; });
    const T sum_p = sum_of<T>(codes, [&](int64_t j) DMREC_INLINE { return of_p[j]; });
    const int64_t place = (b * job.levels + level) * codes;
    if (d_target) {
#pragma omp simd
      for (int64_t j = 0; j < codes; ++j) d_target[place + j] = of_y[j] - y[j] * sum_y;
    }
    if (d_prediction) {
#pragma omp simd
      for (int64_t j = 0; j < codes; ++j) d_prediction[place + j] = of_p[j] - p[j] * sum_p;
    }
  }
};

template <class T>
Alignment<T> job_of(const AlignmentInput& input, const Tensor& row_sums, const Tensor& columns, const Tensor& kept) {
  return {data<T>(input.target),
          data<T>(input.prediction),
          input.level_weights ? data<T>(*input.level_weights) : nullptr,
          input.n_rows,
          input.levels,
          input.codes,
          static_cast<T>(input.log_rows()),
          static_cast<T>(input.slope),
          data<T>(row_sums),
          data<T>(columns),
          kept.size(0) > 0 ? data<T>(kept) : nullptr};
}

// body(b) for all rows, each of `each` numbers
template <class Body>
void over_rows(int64_t n_rows, int64_t each, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, each));
  torch::stable::parallel_for(0, n_rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) body(b);
  });
}

// body(level, first code, count)
template <class Body>
void over_column_blocks(const AlignmentInput& input, const Body& body) {
  const int64_t blocks = (input.codes + column_block - 1) / column_block;
  torch::stable::parallel_for(0, input.levels * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * column_block;
      body(i / blocks, first, std::min(column_block, input.codes - first));
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> code_alignment(Tensor target, Tensor prediction,
                                                                  std::string direction, std::string negative, bool,
                                                                  std::optional<Tensor> weights, double slope,
                                                                  bool keep) {
  const AlignmentInput input(target, prediction, direction, negative, weights, slope);
  const int64_t rows = input.n_rows * input.levels;
  Tensor loss = torch::stable::new_empty(input.target, {input.n_rows});
  Tensor row_sums = torch::stable::new_empty(input.target, {4, input.n_rows, input.levels});
  Tensor columns = torch::stable::new_empty(input.target, {4, input.levels, input.codes});
  Tensor delta = torch::stable::new_empty(input.target, {input.n_rows});
  Tensor kept = torch::stable::new_empty(input.target, {keep ? 2 : 0, input.n_rows, input.levels, input.codes});
  with_arithmetic_type(input.arithmetic, [&]<class T>() {
    const Alignment<T> job = job_of<T>(input, row_sums, columns, kept);
    T* sums = fill<T>(row_sums);
    over_rows(rows, 2 * input.codes, [&](int64_t i) {
      T *y = keep ? fill<T>(kept) + i * input.codes : nullptr, *p = keep ? y + rows * input.codes : nullptr;
      largest_and_above(job.target + i * input.codes, input.codes, sums + i, sums + rows + i, y);
      largest_and_above(job.prediction + i * input.codes, input.codes, sums + 2 * rows + i, sums + 3 * rows + i, p);
    });
    with_alignment_kind(input, [&]<class Kind>() {
      over_column_blocks(input, [&](int64_t level, int64_t begin, int64_t count) {
        T* out = fill<T>(columns);
        if constexpr (!Kind::leave_one_out) {
          if (keep ? Alignment<T>::template fill_columns_from_sums<true>(job, level, begin, count, out)
                   : Alignment<T>::template fill_columns_from_sums<false>(job, level, begin, count, out)) {
            return;
          }
        }
        Alignment<T>::template fill_columns<Kind>(job, level, begin, count, out);
      });
      over_rows(input.n_rows, 2 * input.levels * input.codes, [&](int64_t b) {
        const T of_row = Alignment<T>::template delta_of<Kind>(job, b);
        fill<T>(delta)[b] = of_row;
        fill<T>(loss)[b] = alignment_loss(of_row, job.slope);
      });
    });
  });
  return {std::move(loss), std::move(row_sums), std::move(columns), std::move(delta), std::move(kept)};
}

std::vector<Tensor> code_alignment_backward(Tensor grad, Tensor target, Tensor prediction, Tensor row_sums,
                                            Tensor columns, Tensor delta, Tensor kept, std::string direction,
                                            std::string negative, bool detached, std::optional<Tensor> weights,
                                            double slope, int64_t needed) {
  const AlignmentInput input(target, prediction, direction, negative, weights, slope);
  check_alignment_gradient(input, grad, row_sums, columns, delta, kept);
  grad = torch::stable::contiguous(grad);
  delta = torch::stable::contiguous(delta);
  const std::vector<int64_t> shape{input.n_rows, input.levels, input.codes}, none{0, input.levels, input.codes};
  Tensor d_target = torch::stable::new_empty(input.target, needed & 1 ? shape : none);
  Tensor d_prediction = torch::stable::new_empty(input.target, needed & 2 ? shape : none);
  with_arithmetic_type(input.arithmetic, [&]<class T>() {
    const Alignment<T> job = job_of<T>(input, row_sums, columns, kept);
    std::vector<T> of_delta(input.n_rows), of_columns(detached ? 0 : 2 * input.levels * input.codes);
    for (int64_t b = 0; b < input.n_rows; ++b) {
      of_delta[b] = data<T>(grad)[b] * of_alignment_loss(data<T>(delta)[b], job.slope);
    }
    with_alignment_kind(input, [&]<class Kind>() {
      if (!detached) {
        over_column_blocks(input, [&](int64_t level, int64_t begin, int64_t count) {
          Alignment<T>::template gradient_of_columns<Kind>(job, of_delta.data(), level, begin, count,
                                                           of_columns.data());
        });
      }
      bool divides = false;
      if constexpr (!Kind::leave_one_out) divides = !detached && Alignment<T>::none_vanishes(job);
      const auto of_row = detached  ? Alignment<T>::template gradient_of_row<Kind, false, false>
                          : divides ? Alignment<T>::template gradient_of_row<Kind, true, true>
                                    : Alignment<T>::template gradient_of_row<Kind, true, false>;
      const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, input.codes));
      torch::stable::parallel_for(0, input.n_rows * input.levels, grain, [&](int64_t begin, int64_t end) {
        std::vector<T> scratch(5 * input.codes);
        for (int64_t i = begin; i < end; ++i) {
          of_row(job, of_delta.data(), of_columns.data(), i / input.levels, i % input.levels, scratch.data(),
                 needed & 1 ? fill<T>(d_target) : nullptr, needed & 2 ? fill<T>(d_prediction) : nullptr);
        }
      });
    });
  });
  std::vector<Tensor> result;
  if (needed & 1) result.push_back(in_type(d_target, input.given));
  if (needed & 2) result.push_back(in_type(d_prediction, input.given));
  return result;
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("code_alignment", TORCH_BOX(&dmrec::cpu::code_alignment));
  m.impl("_code_alignment_backward", TORCH_BOX(&dmrec::cpu::code_alignment_backward));
}
