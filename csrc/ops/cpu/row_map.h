// The loop of every row operator on the CPU: a functor maps the D elements of each row to one number.
//   forward:   out[b] = finish(sum_j term(x_1[b,j], ..))                     reads inputs x B x D elements, writes B
//   backward:  g_i[b,j] = coefficients(grad[b], saved[b]) * d terms / d x_i   reads the same, writes each gradient once
//   both:      the same in one visit of the row, for a gradient that is known beforehand: exponentials are shared
// Rows are shared out to threads; one row is always summed by one thread in one order (block of lanes after block,
// then a fixed tree), so the bits do not depend on threads, batch or memory layout. Where a row is not a multiple of a
// block, the last block overlaps the one before it: summed without the overlap, written twice with the same bits.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "ops/cpu/element.h"
#include "ops/cpu/stream.h"
#include "ops/cpu/target.h"

namespace dmrec::cpu {

template <class Functor, class Stored>
class RowMap {
  static constexpr int inputs = Functor::inputs, sums = Functor::sums, factors = Functor::factors;
  using E = Element<Stored>;
  using T = typename E::Arithmetic;
  static constexpr int lanes = 64 / sizeof(T);  // a vector register of the widest kind

 public:
  using Input = Rows<const Stored>;

  struct Forward {
    Functor functor;
    Input in[inputs];
    Stored* out;  // of each row, or null
    T* values;    // the same in the arithmetic type, or null
    T* saved;     // of each row, for the backward; null where nothing is needed
    int64_t n_rows, width;
    void run() const { over_rows(*this); }
    void operator()(int64_t begin, int64_t end) const { forward_rows(*this, begin, end); }
  };

  struct Backward {
    Functor functor;
    Input in[inputs];
    Rows<const Stored> grad;
    const T* saved;       // of each row, contiguous; null where nothing is needed
    Stored* out[inputs];  // contiguous, or null where no gradient is wanted
    int64_t n_rows, width;
    bool streaming = false;

    void run() {
      streaming = streams(out, n_rows, width);
      over_rows(*this);
    }
    void operator()(int64_t begin, int64_t end) const { backward_rows(*this, begin, end); }
  };

  struct Both {
    Functor functor;
    Input in[inputs];
    T grad;               // the same for all rows
    T* values;            // of each row
    Stored* out[inputs];  // contiguous, or null where no gradient is wanted
    int64_t n_rows, width;
    bool streaming = false;

    void run() {
      streaming = streams(out, n_rows, width);
      over_rows(*this);
    }
    void operator()(int64_t begin, int64_t end) const { value_and_gradient_rows(*this, begin, end); }
  };

 private:
  static bool streams(Stored* const (&out)[inputs], int64_t n_rows, int64_t width) {
    return worth_streaming<Stored>(n_rows, width) && std::all_of(out, out + inputs, streamable);
  }

  template <class Job>
  static void over_rows(const Job& job) {
    constexpr int64_t elements_per_task = 8192;  // microseconds: below, a second thread costs more than it gives
    if (job.n_rows == 0) return;
    torch::stable::parallel_for(0, job.n_rows,
                                std::max<int64_t>(1, elements_per_task / std::max<int64_t>(1, job.width)), job);
  }

  // What value and gradient share, of each block of a row.
  struct Stateless {
    explicit Stateless(int64_t) {}
  };
  template <class F>
  struct StatesOf {
    using Block = T[F::states][lanes];
    std::vector<T> numbers;
    explicit StatesOf(int64_t width) : numbers(F::states * lanes * (width / lanes + 1)) {}
    DMREC_FN Block& of_block(int64_t i) { return *reinterpret_cast<Block*>(numbers.data() + i * (F::states * lanes)); }
  };
  using States = std::conditional_t<Functor::needs_saved, StatesOf<Functor>, Stateless>;

  // A row shorter than a block, copied to where a whole block can be read and written.
  struct Padded {
    Stored in[inputs][lanes] = {};
    Stored out[inputs][lanes];
  };

  // Adds the terms of the block at `offset`, but for its first `skip` and from `count` on.
  DMREC_FN static void add_block(const Functor& functor, const Stored* const (&in)[inputs], int64_t offset, int skip,
                                 int count, T (&sum)[sums][lanes]) {
#pragma omp simd
    for (int l = 0; l < lanes; ++l) {
      T x[inputs];
      for (int i = 0; i < inputs; ++i) x[i] = E::load(in[i] + offset + l);
      T term[sums];
      functor.terms(x, term);
      for (int k = 0; k < sums; ++k) sum[k][l] += ((l >= skip) & (l < count)) ? term[k] : T(0);
    }
  }

  DMREC_FN static void gradient_block(const Functor& functor, const Stored* const (&in)[inputs], int64_t offset,
                                      const T (&c)[factors], Stored* const (&out)[inputs]) {
#pragma omp simd
    for (int l = 0; l < lanes; ++l) {
      T x[inputs];
      T g[inputs];
      for (int i = 0; i < inputs; ++i) x[i] = E::load(in[i] + offset + l);
      functor.gradient(x, c, g);
      for (int i = 0; i < inputs; ++i) E::store(out[i] + l, g[i]);
    }
  }

  // add_block and gradient_block of one block: the compiler forms once what they share.
  DMREC_FN static void both_block(const Functor& functor, const Stored* const (&in)[inputs], int64_t offset, int skip,
                                  int count, const T (&c)[factors], T (&sum)[sums][lanes],
                                  Stored* const (&out)[inputs]) {
#pragma omp simd
    for (int l = 0; l < lanes; ++l) {
      T x[inputs];
      for (int i = 0; i < inputs; ++i) x[i] = E::load(in[i] + offset + l);
      T term[sums];
      functor.terms(x, term);
      for (int k = 0; k < sums; ++k) sum[k][l] += ((l >= skip) & (l < count)) ? term[k] : T(0);
      T g[inputs];
      functor.gradient(x, c, g);
      for (int i = 0; i < inputs; ++i) E::store(out[i] + l, g[i]);
    }
  }

  // add_block, where the gradient waits for the row's value: keeps what it shares with the value.
  template <int n>
  DMREC_FN static void state_block(const Functor& functor, const Stored* const (&in)[inputs], int64_t offset, int skip,
                                   int count, T (&sum)[sums][lanes], T (&states)[n][lanes]) {
    T terms[sums][lanes];  // added apart: next to the condition the compiler would branch
#pragma omp simd
    for (int l = 0; l < lanes; ++l) {
      T x[inputs];
      for (int i = 0; i < inputs; ++i) x[i] = E::load(in[i] + offset + l);
      T state[n];
      functor.state(x, state);
      for (int k = 0; k < n; ++k) states[k][l] = state[k];
      T term[sums];
      functor.terms_of(x, state, term);
      for (int k = 0; k < sums; ++k) terms[k][l] = term[k];
    }
    for (int k = 0; k < sums; ++k) {
#pragma omp simd
      for (int l = 0; l < lanes; ++l) sum[k][l] += ((l >= skip) & (l < count)) ? terms[k][l] : T(0);
    }
  }

  template <int n>
  DMREC_FN static void gradient_of_block(const Functor& functor, const Stored* const (&in)[inputs], int64_t offset,
                                         const T (&states)[n][lanes], const T (&c)[factors],
                                         Stored* const (&out)[inputs]) {
#pragma omp simd
    for (int l = 0; l < lanes; ++l) {
      T x[inputs];
      T state[n];
      T g[inputs];
      for (int i = 0; i < inputs; ++i) x[i] = E::load(in[i] + offset + l);
      for (int k = 0; k < n; ++k) state[k] = states[k][l];
      functor.gradient_of(x, state, c, g);
      for (int i = 0; i < inputs; ++i) E::store(out[i] + l, g[i]);
    }
  }

  DMREC_FN static void sum_lanes(T (&sum)[sums][lanes], T (&total)[sums]) {
    for (int k = 0; k < sums; ++k) {
      for (int half = lanes / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; ++l) sum[k][l] += sum[k][l + half];
      }
      total[k] = sum[k][0];
    }
  }

  // Whether a sum must be formed again; squares vanish early, too, and a NaN stays what it is.
  DMREC_FN static bool left_the_range(const T (&total)[sums], bool& vanishes) {
    vanishes = false;
    if constexpr (Functor::in_units || (Functor::overflows_early && sizeof(T) < sizeof(double))) {
      vanishes = total[sums - 1] < Float<T>::vanishing;
      return vanishes || *std::max_element(total, total + sums) == std::numeric_limits<T>::infinity();
    }
    return false;
  }

  struct Row {
    T value, saved;
  };

  // A row of which a sum left the range, once more: of float in double, of double in another unit.
  template <class Job>
  static __attribute__((noinline)) Row row_again(const Job& job, int64_t b, bool vanishes) {
    double sum[sums] = {};
    const double unit = sizeof(T) < sizeof(double) ? 1
                        : vanishes                 ? Float<double>::large_unit
                                                   : Float<double>::small_unit;
    for (int64_t j = 0; j < job.width; ++j) {
      double x[inputs];
      double term[sums];
      for (int i = 0; i < inputs; ++i) x[i] = E::load(job.in[i].data + b * job.in[i].stride + j);
      if constexpr (Functor::in_units) {
        job.functor.terms(x, term, unit);
      } else {
        job.functor.terms(x, term);
      }
      for (int k = 0; k < sums; ++k) sum[k] += term[k];
    }
    if constexpr (Functor::in_units) {
      return {static_cast<T>(job.functor.finish(sum, unit)), static_cast<T>(job.functor.saved(sum, unit))};
    } else {
      return {static_cast<T>(job.functor.finish(sum)), static_cast<T>(job.functor.saved(sum))};
    }
  }

  template <class Job>
  DMREC_FN static Row row_of(const Job& job, int64_t b, T (&sum)[sums][lanes]) {
    T total[sums];
    sum_lanes(sum, total);
    bool vanishes;
    if (left_the_range(total, vanishes)) return row_again(job, b, vanishes);
    return {job.functor.finish(total), job.functor.saved(total)};
  }

  DMREC_CLONES static void forward_rows(const Forward& job, int64_t begin, int64_t end) {
    const int64_t whole = job.width / lanes * lanes;
    const int rest = static_cast<int>(job.width - whole);
    for (int64_t b = begin; b < end; ++b) {
      const Stored* in[inputs];
      for (int i = 0; i < inputs; ++i) in[i] = job.in[i].data + b * job.in[i].stride;
      T sum[sums][lanes] = {};
      for (int64_t j = 0; j < whole; j += lanes) add_block(job.functor, in, j, 0, lanes, sum);
      if (rest > 0 && whole > 0) {
        add_block(job.functor, in, job.width - lanes, lanes - rest, lanes, sum);
      } else if (rest > 0) {
        Padded row;
        for (int i = 0; i < inputs; ++i) {
          memcpy(row.in[i], in[i], rest * sizeof(Stored));
          in[i] = row.in[i];
        }
        add_block(job.functor, in, 0, 0, rest, sum);
      }
      const Row row = row_of(job, b, sum);
      if (job.out) E::store(job.out + b, row.value);
      if (job.values) job.values[b] = row.value;
      if (job.saved) job.saved[b] = row.saved;
    }
  }

  DMREC_CLONES static void value_and_gradient_rows(const Both& job, int64_t begin, int64_t end) {
    alignas(64) Stored unwanted[inputs][lanes];
    alignas(64) Stored staged[inputs][lanes];
    [[maybe_unused]] States states(job.width);
    for (int64_t b = begin; b < end; ++b) {
      const Stored* in[inputs];
      Stored* out[inputs];
      for (int i = 0; i < inputs; ++i) in[i] = job.in[i].data + b * job.in[i].stride;
      const bool narrow_row = job.width < lanes;
      Padded row;
      if (narrow_row) {
        for (int i = 0; i < inputs; ++i) {
          memcpy(row.in[i], in[i], job.width * sizeof(Stored));
          in[i] = row.in[i];
        }
      }
      // body(offset, skip, count) over the blocks of the row
      const auto over_blocks = [&](const auto& body) __attribute__((always_inline)) {
        if (narrow_row) return body(0, 0, static_cast<int>(job.width));
        for (int64_t next = 0; next < job.width; next += lanes) {
          const int64_t j = std::min(next, job.width - lanes);
          body(j, static_cast<int>(next - j), lanes);
        }
      };
      const auto aim = [&](int64_t j) __attribute__((always_inline)) {
        for (int i = 0; i < inputs; ++i) {
          out[i] = unwanted[i];
          if (job.out[i]) out[i] = narrow_row ? row.out[i] : job.streaming ? staged[i] : job.out[i] + b * job.width + j;
        }
      };
      const auto send = [&](int64_t j) __attribute__((always_inline)) {
        if (!job.streaming) return;
        for (int i = 0; i < inputs; ++i) {
          if (job.out[i]) stream(job.out[i] + b * job.width + j, staged[i]);
        }
      };
      T sum[sums][lanes] = {};
      T c[factors];
      if constexpr (Functor::needs_saved) {
        over_blocks([&](int64_t j, int skip, int count) __attribute__((always_inline)) {
          state_block(job.functor, in, j, skip, count, sum, states.of_block((j + skip) / lanes));
        });
        const Row whole = row_of(job, b, sum);
        job.values[b] = whole.value;
        job.functor.coefficients(job.grad, whole.saved, c);
        over_blocks([&](int64_t j, int skip, int) __attribute__((always_inline)) {
          aim(j);
          gradient_of_block(job.functor, in, j, states.of_block((j + skip) / lanes), c, out);
          send(j);
        });
      } else {
        job.functor.coefficients(job.grad, T(0), c);
        over_blocks([&](int64_t j, int skip, int count) __attribute__((always_inline)) {
          aim(j);
          both_block(job.functor, in, j, skip, count, c, sum, out);
          send(j);
        });
        job.values[b] = row_of(job, b, sum).value;
      }
      if (narrow_row) {
        for (int i = 0; i < inputs; ++i) {
          if (job.out[i]) memcpy(job.out[i] + b * job.width, row.out[i], job.width * sizeof(Stored));
        }
      }
    }
    if (job.streaming) finish_streaming();
  }

  DMREC_CLONES static void backward_rows(const Backward& job, int64_t begin, int64_t end) {
    if (job.width == 0) return;
    alignas(64) Stored unwanted[inputs][lanes];  // where gradients go that are not wanted
    alignas(64) Stored staged[inputs][lanes];    // a block on its way to memory past the caches
    for (int64_t b = begin; b < end; ++b) {
      const Stored* in[inputs];
      Stored* out[inputs];
      for (int i = 0; i < inputs; ++i) in[i] = job.in[i].data + b * job.in[i].stride;
      const T saved = Functor::needs_saved && job.saved ? job.saved[b] : T(0);
      T c[factors];
      job.functor.coefficients(E::load(job.grad.data + b * job.grad.stride), saved, c);
      if (job.width < lanes) {
        Padded row;
        for (int i = 0; i < inputs; ++i) {
          memcpy(row.in[i], in[i], job.width * sizeof(Stored));
          in[i] = row.in[i];
          out[i] = row.out[i];
        }
        gradient_block(job.functor, in, 0, c, out);
        for (int i = 0; i < inputs; ++i) {
          if (job.out[i]) memcpy(job.out[i] + b * job.width, row.out[i], job.width * sizeof(Stored));
        }
        continue;
      }
      for (int64_t next = 0; next < job.width; next += lanes) {
        const int64_t j = std::min(next, job.width - lanes);
        for (int i = 0; i < inputs; ++i) {
          out[i] = unwanted[i];
          if (job.out[i]) out[i] = job.streaming ? staged[i] : job.out[i] + b * job.width + j;
        }
        gradient_block(job.functor, in, j, c, out);
        if (job.streaming) {
          for (int i = 0; i < inputs; ++i) {
            if (job.out[i]) stream(job.out[i] + b * job.width + j, staged[i]);
          }
        }
      }
    }
    if (job.streaming) finish_streaming();
  }
};

}  // namespace dmrec::cpu
