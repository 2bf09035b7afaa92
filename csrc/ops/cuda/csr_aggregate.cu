// Launchers of csr_aggregate.cuh.
#include "ops/cuda/csr_aggregate.cuh"

namespace dmrec::cuda {

int launch_csr_sum(const CsrSumJob& job, Stream stream) {
  return with_stored_types(job.type, job.result, [&]<class Stored, class Result>() {
    const CsrSum<Stored, Result> typed{job.indices,
                                       static_cast<const Result*>(job.values),
                                       static_cast<const Stored*>(job.dense),
                                       job.dense_stride,
                                       static_cast<const Result*>(job.bias),
                                       job.bias_stride,
                                       static_cast<Result*>(job.out),
                                       job.width,
                                       job.aligned};
    constexpr int64_t most_panels = 65535;  // of a grid's second axis; beyond, blocks take several
    const int64_t panels = blocks_for(job.width, warp_size * piece<Stored>);
    const dim3 grid(grid_x(blocks_for(job.indices.n_rows, rows_per_block)),
                    grid_y(panels < most_panels ? panels : most_panels));
    return launch("csr_sum", csr_sum<Stored, Result>, grid, dim3(warp_size, rows_per_block), stream, typed);
  });
}

int launch_csr_dot(const CsrDotJob& job, Stream stream) {
  return with_stored_types(job.type, job.result, [&]<class Stored, class Result>() {
    const CsrDot<Stored, Result> typed{
        job.indices,      static_cast<const Result*>(job.rows), job.rows_stride, static_cast<const Stored*>(job.dense),
        job.dense_stride, static_cast<Result*>(job.out),        job.width,       job.aligned};
    const dim3 grid(grid_x(blocks_for(job.indices.nnz, rows_per_block)));
    return launch("csr_dot", csr_dot<Stored, Result>, grid, dim3(warp_size, rows_per_block), stream, typed);
  });
}

int launch_transposed(const CsrIndices& indices, const int64_t* sorted, const int64_t* entry, int64_t* t_crow,
                      int64_t* t_col, Stream stream) {
  constexpr unsigned threads = 256;
  const dim3 offsets(grid_x(blocks_for(indices.n_cols + 1, threads)));
  const int code = launch("transposed_offsets", transposed_offsets, offsets, threads, stream, sorted, indices.nnz,
                          indices.n_cols, t_crow);
  if (code != 0 || indices.nnz == 0) return code;
  const dim3 entries(grid_x(blocks_for(indices.nnz, threads)));
  return launch("transposed_rows", transposed_rows, entries, threads, stream, indices, entry, t_col);
}

}  // namespace dmrec::cuda
