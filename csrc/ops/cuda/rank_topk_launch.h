// Launchers of rank_topk.
#pragma once

#include "ops/cuda/launch.h"

namespace dmrec::cuda {

struct RankVectors {
  const void* data;
  int64_t stride, width;
};

// What bounds the error of the products.
struct RankBound {
  const void* filter_bias;  // (N,), in the arithmetic type
  const double* maxima;     // (2, n_maxima)
  int n_maxima;
  double* margins;  // (B,): filled by launch_user_margins
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
// fills filter_bias and maxima (2, n_maxima)
int launch_item_norms(Type type, const RankVectors& items, const void* bias, int64_t n_items, void* filter_bias,
                      double* maxima, int n_maxima, Stream stream);
int launch_user_margins(Type type, const RankVectors& users, int64_t n_users, const RankBound& bound, bool rounded,
                        Stream stream);
// products: (B, count), of all users with the items from `first` on; tiles in order, the first one from item 0
int launch_select_tile(const RankJob& job, const void* products, int64_t first, int64_t count, bool aligned,
                       Stream stream);
int launch_finish_ranking(const RankJob& job, double* scores, int64_t* ids, Stream stream);

}  // namespace dmrec::cuda
