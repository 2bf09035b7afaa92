// What the bindings (g++, torch's stable ABI) call of the launchers (nvcc, raw pointers): plain C++, neither torch nor
// CUDA. Every launcher returns CUDA's error code, 0 for success. All matrices are row-major; strides in elements.
#pragma once

#include <cstdint>

#include "math/composite_prior.h"
#include "math/matching_loss.h"

namespace dmrec::cuda {

using Stream = void*;  // cudaStream_t

enum class Type { float32, float64, float16, bfloat16 };

const char* error_text(int code);
int kernels_run();  // whether the current device and driver take what was compiled: an error code

// A row operator on (B, D) inputs: forward where `out` is set, else backward.
struct RowJob {
  static constexpr int most_inputs = 4;
  Type type;
  int64_t n_rows, width;
  const void* in[most_inputs];
  int64_t stride[most_inputs];
  bool aligned;  // all rows of inputs and gradients begin at multiples of 16 bytes
  void* out;     // (B,)
  void* kept;    // (B,): written by the forward where not null, read by the backward where the functor needs it
  const void* grad;
  int64_t grad_stride;
  void* gradients[most_inputs];  // contiguous; null where none is wanted
};

int launch_gaussian_kl(bool of_standard, const RowJob& job, Stream stream);
int launch_gaussian_w2(bool squared, double eps, const RowJob& job, Stream stream);
int launch_composite_prior(Interpolation interpolation, double alpha, const RowJob& job, Stream stream);
int launch_matching_loss(const MatchingOptions& options, const RowJob& job, Stream stream);

// A sparse (B, N) matrix; contiguous vectors of offsets and columns.
struct CsrIndices {
  const int64_t* crow;
  const int64_t* col;
  int64_t n_rows, nnz, n_cols;
};

struct CsrSumJob {
  Type type;
  CsrIndices indices;
  const void* values;  // (nnz,), or null for ones
  const void* dense;   // (N, E)
  int64_t dense_stride;
  const void* bias;  // (B, E), stride 0 for one row; null for none
  int64_t bias_stride;
  void* out;  // (B, E), contiguous
  int64_t width;
  bool aligned;
};
int launch_csr_sum(const CsrSumJob& job, Stream stream);

struct CsrDotJob {
  Type type;
  CsrIndices indices;
  const void* rows;  // (B, E)
  int64_t rows_stride;
  const void* dense;  // (N, E)
  int64_t dense_stride;
  void* out;  // (nnz,)
  int64_t width;
  bool aligned;
};
int launch_csr_dot(const CsrDotJob& job, Stream stream);

// sorted: the columns, ascending; entry: where each of them stood. Fills t_crow (N + 1) and t_col (nnz).
int launch_transposed(const CsrIndices& indices, const int64_t* sorted, const int64_t* entry, int64_t* t_crow,
                      int64_t* t_col, Stream stream);

struct RankVectors {
  const void* data;
  int64_t stride, width;
};

// What bounds the error of the products: filled by the first two launchers.
struct RankBound {
  void* filter_bias;  // (N,), in the arithmetic type
  double* maxima;     // (2, n_maxima)
  int n_maxima;
  double* margins;  // (B,)
};

constexpr int64_t most_ranked = 1024, rank_chunk = 1024;  // k at most; columns of a tile go by chunks

struct RankJob {
  Type type;
  RankVectors users, items;
  const void* bias;    // (N,), or null
  CsrIndices exclude;  // (B, N), columns rising; crow null for none
  RankBound bound;
  int64_t n_users, k;
  int parts;       // in which the items of a user are ranked
  double* scores;  // (parts, B, k)
  int64_t* ids;
};
int launch_item_norms(Type type, const RankVectors& items, const void* bias, int64_t n_items, const RankBound& bound,
                      Stream stream);
int launch_user_margins(Type type, const RankVectors& users, int64_t n_users, const RankBound& bound, bool rounded,
                        Stream stream);
// products: (B, count), of all users with the items from `first` on; tiles in order, the first one from item 0
int launch_select_tile(const RankJob& job, const void* products, int64_t first, int64_t count, bool aligned,
                       Stream stream);
int launch_finish_ranking(const RankJob& job, void* scores, int64_t* ids, Stream stream);

// multinomial_nll. `product`: the type of logits and their gradients, float32, float64 or bfloat16; everything else is
// in its arithmetic type (float32 for bfloat16), sums of targets in double.
constexpr int64_t nll_chunk = 4096;  // columns of a row that are summed together; tiles hold whole chunks

struct NllTile {
  const void* logits;  // (B, count), rows `stride` apart: products of items from `first` on, without the bias
  int64_t stride;
  const void* bias;  // (count,)
  int64_t first, count;
  bool aligned, bias_aligned;
};
struct NllTargets {
  CsrIndices indices;
  const void* values;  // (nnz,), or null for ones
};
struct NllSums {  // (chunks of the tile, B), or (1, B)
  void *max, *sum;
  double* of_targets;
};
struct NllGradient {
  const void* grad;  // (B,)
  int64_t grad_stride;
  const void* log_sums;  // (2, B)
  void* scales;          // (B,)
};
int launch_nll_sums(Type product, const NllTile& tile, const NllTargets& x, const NllSums& parts, const NllSums& state,
                    Stream stream);
int launch_nll_losses(Type product, const NllTargets& x, const NllSums& state, void* loss, void* log_sums,
                      Stream stream);
int launch_nll_scales(Type product, const NllTargets& x, const NllGradient& of, Stream stream);
int launch_nll_gradient(Type product, const NllTile& tile, const NllTargets& x, const NllGradient& of, void* out,
                        bool out_aligned, Stream stream);
int launch_nll_column_sums(Type product, const void* tile, int64_t n_rows, int64_t count, void* sums, Stream stream);
int launch_nll_add(Type type, void* sum, const void* part, int64_t count, Stream stream);  // float32 or float64

}  // namespace dmrec::cuda
