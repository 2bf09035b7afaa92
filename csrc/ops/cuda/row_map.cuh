// The loop of every row operator on CUDA: a functor maps the D elements of each row to one number.
//   forward:   out[b] = finish(sum_j term(x_1[b,j], ..))                     reads inputs x B x D elements, writes B
//   backward:  g_i[b,j] = coefficients(grad[b], saved[b]) * d terms / d x_i   reads the same, writes each gradient once
//   both:      the same in one launch, for a gradient that is the same for all rows. Exponentials are shared; where the
//              gradient waits for the row's value, its elements are read again, out of the cache
// Each element moves once; there is nothing to reuse, so memory is all that counts.
//
// Rows up to 1024 elements belong to a warp (8 rows a block), longer ones to a block of 256 threads: a row's sum then
// needs 5 shuffles, or these and one pass through shared memory, and short rows leave no lanes idle. A thread takes 16
// bytes of each input at a time, neighbouring threads neighbouring pieces: requests of 512 bytes. Where a row does not
// begin at a multiple of 16 bytes the same elements go to the same thread one by one (their sectors then come from the
// first-level cache), so that the bits do not depend on the layout; nor do they on the batch or on scheduling.
#pragma once

#include "math/row_functor.h"
#include "ops/cuda/element.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/row_launch.h"

namespace dmrec::cuda {

constexpr int64_t widest_row_of_a_warp = 1024;

template <class Functor, class Stored>
struct RowInputs {
  const Stored* in[Functor::inputs];
  int64_t stride[Functor::inputs];
  int64_t n_rows, width;
  bool aligned;
};

// body(x, left) for the thread's pieces of the row: x holds `left` elements of each input
template <class Functor, class Stored, class Body>
__device__ __forceinline__ void over_row(const RowInputs<Functor, Stored>& rows, int64_t b, const Body& body) {
  constexpr int inputs = Functor::inputs, count = piece<Stored>;
  for (int64_t j = int64_t{threadIdx.x} * count; j < rows.width; j += int64_t{blockDim.x} * count) {
    ArithmeticOf<Stored> x[inputs][count];
    DMREC_UNROLL
    for (int i = 0; i < inputs; ++i) {
      load_piece(rows.in[i] + b * rows.stride[i] + j, rows.width - j, rows.aligned, x[i]);
    }
    body(j, x);
  }
}

template <class Functor, class Stored, class T>
__device__ __forceinline__ void row_sums(const Functor& functor, const RowInputs<Functor, Stored>& rows, int64_t b,
                                         T (&sum)[Functor::sums]) {
  constexpr int inputs = Functor::inputs, sums = Functor::sums, count = piece<Stored>;
  DMREC_UNROLL
  for (int k = 0; k < sums; ++k) sum[k] = T(0);
  over_row(rows, b, [&](int64_t j, const T(&x)[inputs][count]) {
    DMREC_UNROLL
    for (int e = 0; e < count; ++e) {
      T element[inputs], term[sums];
      DMREC_UNROLL
      for (int i = 0; i < inputs; ++i) element[i] = x[i][e];
      functor.terms(element, term);
      DMREC_UNROLL
      for (int k = 0; k < sums; ++k) sum[k] += j + e < rows.width ? term[k] : T(0);
    }
  });
  sum_over_row<sums>(sum);
}

// For a row of which a sum left the range, once more, element by element: of float in double, of double in a unit.
template <class Functor, class Stored>
__device__ __forceinline__ void row_sums_in_double(const Functor& functor, const RowInputs<Functor, Stored>& rows,
                                                   int64_t b, [[maybe_unused]] double unit,
                                                   double (&sum)[Functor::sums]) {
  constexpr int inputs = Functor::inputs, sums = Functor::sums;
  DMREC_UNROLL
  for (int k = 0; k < sums; ++k) sum[k] = 0;
  for (int64_t j = threadIdx.x; j < rows.width; j += blockDim.x) {
    double element[inputs], term[sums];
    DMREC_UNROLL
    for (int i = 0; i < inputs; ++i) {
      element[i] = static_cast<double>(Element<Stored>::value(rows.in[i][b * rows.stride[i] + j]));
    }
    if constexpr (Functor::in_units) {
      functor.terms(element, term, unit);
    } else {
      functor.terms(element, term);
    }
    DMREC_UNROLL
    for (int k = 0; k < sums; ++k) sum[k] += term[k];
  }
  sum_over_row<sums>(sum);
}

__device__ __forceinline__ int64_t row_of_thread() { return int64_t{blockIdx.x} * blockDim.y + threadIdx.y; }

template <class T>
struct RowResult {
  T value, saved;
};

// From a row's sums to its value; the same for all threads of the row.
template <class Functor, class Stored, class T>
__device__ __forceinline__ RowResult<T> row_result(const Functor& functor, const RowInputs<Functor, Stored>& rows,
                                                   int64_t b, const T (&sum)[Functor::sums]) {
  constexpr int sums = Functor::sums;
  RowResult<T> result{functor.finish(sum), functor.saved(sum)};
  if constexpr (Functor::in_units || (Functor::overflows_early && sizeof(T) < sizeof(double))) {
    const bool vanishes = sum[sums - 1] < Float<T>::vanishing;  // squares do early; a NaN stays what it is
    bool again = vanishes;
    DMREC_UNROLL
    for (int k = 0; k < sums; ++k) again = again || sum[k] > Float<T>::largest;
    if (again) {
      double exact[sums];
      const double unit = sizeof(T) < sizeof(double) ? 1
                          : vanishes                 ? Float<double>::large_unit
                                                     : Float<double>::small_unit;
      row_sums_in_double(functor, rows, b, unit, exact);
      if constexpr (Functor::in_units) {
        result = {static_cast<T>(functor.finish(exact, unit)), static_cast<T>(functor.saved(exact, unit))};
      } else {
        result = {static_cast<T>(functor.finish(exact)), static_cast<T>(functor.saved(exact))};
      }
    }
  }
  return result;
}

template <class Functor, class Stored>
__global__ void row_forward(Functor functor, RowInputs<Functor, Stored> rows, Stored* out, ArithmeticOf<Stored>* values,
                            ArithmeticOf<Stored>* saved) {
  using T = ArithmeticOf<Stored>;
  const int64_t b = row_of_thread();
  if (b >= rows.n_rows) return;  // whole warps; rows of whole blocks end with the grid
  T sum[Functor::sums];
  row_sums(functor, rows, b, sum);
  const RowResult<T> result = row_result(functor, rows, b, sum);
  if (threadIdx.x == 0) {
    if (out) out[b] = Element<Stored>::stored(result.value);
    if (values) values[b] = result.value;
    if (saved) saved[b] = result.saved;
  }
}

template <class Functor, class Stored>
struct RowGradients {
  const Stored* grad;
  int64_t grad_stride;
  const ArithmeticOf<Stored>* saved;
  Stored* out[Functor::inputs];
};

// Gradients of the thread's pieces of a row.
template <class Functor, class Stored, class T>
__device__ __forceinline__ void row_gradients(const Functor& functor, const RowInputs<Functor, Stored>& rows, int64_t b,
                                              const T (&c)[Functor::factors], Stored* const (&out)[Functor::inputs]) {
  constexpr int inputs = Functor::inputs, count = piece<Stored>;
  over_row(rows, b, [&](int64_t j, const T(&x)[inputs][count]) {
    T g[inputs][count];
    DMREC_UNROLL
    for (int e = 0; e < count; ++e) {
      T element[inputs], gradient[inputs];
      DMREC_UNROLL
      for (int i = 0; i < inputs; ++i) element[i] = x[i][e];
      functor.gradient(element, c, gradient);
      DMREC_UNROLL
      for (int i = 0; i < inputs; ++i) g[i][e] = gradient[i];
    }
    DMREC_UNROLL
    for (int i = 0; i < inputs; ++i) {
      if (out[i]) store_piece(out[i] + b * rows.width + j, rows.width - j, rows.aligned, g[i]);
    }
  });
}

template <class Functor, class Stored>
__global__ void row_backward(Functor functor, RowInputs<Functor, Stored> rows, RowGradients<Functor, Stored> to) {
  using T = ArithmeticOf<Stored>;
  const int64_t b = row_of_thread();
  if (b >= rows.n_rows) return;
  const T saved = Functor::needs_saved && to.saved ? to.saved[b] : T(0);
  T c[Functor::factors];
  functor.coefficients(Element<Stored>::value(to.grad[b * to.grad_stride]), saved, c);
  row_gradients(functor, rows, b, c, to.out);
}

template <class Functor, class Stored>
__global__ void row_both(Functor functor, RowInputs<Functor, Stored> rows, RowGradients<Functor, Stored> to,
                         ArithmeticOf<Stored> grad, ArithmeticOf<Stored>* values) {
  using T = ArithmeticOf<Stored>;
  constexpr int inputs = Functor::inputs, sums = Functor::sums, count = piece<Stored>;
  const int64_t b = row_of_thread();
  if (b >= rows.n_rows) return;
  T sum[sums], c[Functor::factors];
  RowResult<T> result;
  if constexpr (Functor::needs_saved) {
    row_sums(functor, rows, b, sum);
    result = row_result(functor, rows, b, sum);
    functor.coefficients(grad, result.saved, c);
    row_gradients(functor, rows, b, c, to.out);
  } else {
    functor.coefficients(grad, T(0), c);
    DMREC_UNROLL
    for (int k = 0; k < sums; ++k) sum[k] = T(0);
    over_row(rows, b, [&](int64_t j, const T(&x)[inputs][count]) {
      T g[inputs][count];
      DMREC_UNROLL
      for (int e = 0; e < count; ++e) {
        T element[inputs], term[sums], gradient[inputs];
        DMREC_UNROLL
        for (int i = 0; i < inputs; ++i) element[i] = x[i][e];
        functor.terms(element, term);
        DMREC_UNROLL
        for (int k = 0; k < sums; ++k) sum[k] += j + e < rows.width ? term[k] : T(0);
        functor.gradient(element, c, gradient);
        DMREC_UNROLL
        for (int i = 0; i < inputs; ++i) g[i][e] = gradient[i];
      }
      DMREC_UNROLL
      for (int i = 0; i < inputs; ++i) {
        if (to.out[i]) store_piece(to.out[i] + b * rows.width + j, rows.width - j, rows.aligned, g[i]);
      }
    });
    sum_over_row<sums>(sum);
    result = row_result(functor, rows, b, sum);
  }
  if (threadIdx.x == 0) values[b] = result.value;
}

template <class Functor, class Stored>
int launch_typed(const Functor& functor, const RowJob& job, Stream stream) {
  RowInputs<Functor, Stored> rows{{}, {}, job.n_rows, job.width, job.aligned};
  RowGradients<Functor, Stored> to{
      static_cast<const Stored*>(job.grad), job.grad_stride, static_cast<const ArithmeticOf<Stored>*>(job.saved), {}};
  for (int i = 0; i < Functor::inputs; ++i) {
    rows.in[i] = static_cast<const Stored*>(job.in[i]);
    rows.stride[i] = job.stride[i];
    to.out[i] = static_cast<Stored*>(job.gradients[i]);
  }
  const bool wide = job.width > widest_row_of_a_warp;
  const dim3 block = wide ? dim3(warp_size * warps_of_wide_row) : dim3(warp_size, 8);
  const dim3 grid(grid_x(blocks_for(job.n_rows, block.y)));
  auto* const values = static_cast<ArithmeticOf<Stored>*>(job.values);
  switch (job.pass) {
    case RowPass::forward:
      return launch("row_forward", row_forward<Functor, Stored>, grid, block, stream, functor, rows,
                    static_cast<Stored*>(job.out), values, static_cast<ArithmeticOf<Stored>*>(job.saved));
    case RowPass::backward:
      return launch("row_backward", row_backward<Functor, Stored>, grid, block, stream, functor, rows, to);
    default:
      return launch("row_both", row_both<Functor, Stored>, grid, block, stream, functor, rows, to,
                    static_cast<ArithmeticOf<Stored>>(job.grad_of_all), values);
  }
}

template <class Functor>
int launch_rows(const Functor& functor, const RowJob& job, Stream stream) {
  return with_stored_type(job.type,
                          [&]<class Stored>() { return launch_typed<Functor, Stored>(functor, job, stream); });
}

}  // namespace dmrec::cuda
