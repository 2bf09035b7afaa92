// What reduced row operators need beside the loop over rows.
#include "ops/cuda/element.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/row_launch.h"

namespace dmrec::cuda {

// One block: a value of each row, read once, is little beside the rows.
template <class Stored>
__global__ void sum_of_rows(const ArithmeticOf<Stored>* values, int64_t n, double scale, Stored* out) {
  double sum[1] = {0};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum[0] += static_cast<double>(values[i]);
  sum_over_row<1>(sum);
  if (threadIdx.x == 0) *out = Element<Stored>::stored(static_cast<ArithmeticOf<Stored>>(scale * sum[0]));
}

// A thread owns a piece of a vector, blockIdx.y says of which. Nothing is read but the factor where it is 1.
template <class Stored>
__global__ void multiply_unless_one(Stored* first, Stored* second, Stored* third, Stored* fourth, int64_t n,
                                    bool aligned, const Stored* factor) {
  using T = ArithmeticOf<Stored>;
  constexpr int count = piece<Stored>;
  const T by = Element<Stored>::value(*factor);
  if (by == T(1)) return;
  // four parameters, for an array would be indexed in local memory
  Stored* const data = blockIdx.y < 2 ? (blockIdx.y == 0 ? first : second) : (blockIdx.y == 2 ? third : fourth);
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * count;
  if (i >= n) return;
  T x[count];
  load_piece(data + i, n - i, aligned, x);
  DMREC_UNROLL
  for (int e = 0; e < count; ++e) x[e] *= by;
  store_piece(data + i, n - i, aligned, x);
}

int launch_sum_of_rows(Type type, const void* values, int64_t n, double scale, void* out, Stream stream) {
  return with_stored_type(type, [&]<class Stored>() {
    return launch("sum_of_rows", sum_of_rows<Stored>, dim3(1), dim3(warp_size * warps_of_wide_row), stream,
                  static_cast<const ArithmeticOf<Stored>*>(values), n, scale, static_cast<Stored*>(out));
  });
}

int launch_multiply_unless_one(const MultiplyJob& job, Stream stream) {
  return with_stored_type(job.type, [&]<class Stored>() {
    Stored* vectors[RowJob::most_inputs];
    for (int i = 0; i < RowJob::most_inputs; ++i) vectors[i] = static_cast<Stored*>(job.vectors[i]);
    constexpr int threads = 256;
    const dim3 grid(grid_x(blocks_for(job.n, threads * piece<Stored>)), static_cast<unsigned>(job.n_vectors));
    return launch("multiply_unless_one", multiply_unless_one<Stored>, grid, dim3(threads), stream, vectors[0],
                  vectors[1], vectors[2], vectors[3], job.n, job.aligned, static_cast<const Stored*>(job.factor));
  });
}

}  // namespace dmrec::cuda
